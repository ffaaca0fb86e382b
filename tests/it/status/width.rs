//! The width of the page: that of the terminal or of `COLUMNS`, and without both as wide as its text.

use super::{busy, run, run_in};
use crate::daemon::sql;

#[tokio::test]
async fn without_a_terminal_nothing_is_left_out_and_a_width_is_used() {
    let dir = tempfile::tempdir().unwrap();
    busy(dir.path()).await;
    let (why, detail) = ("reason ".repeat(16), "detail ".repeat(16));
    let (why, detail) = (why.trim(), detail.trim());
    sql(dir.path(), &format!("UPDATE holds SET why = '{why}' WHERE cause = 'operator'")).await;
    let act = "INSERT INTO acts (acted_at, act, operator, rows, updated_at, scope, detail) VALUES (5, 'hold', 'ann', 0, 5, 'a',";
    sql(dir.path(), &format!("{act} '{detail}')")).await;
    let piped = run(dir.path(), &["status"]);
    assert!(!piped.contains('…') && piped.contains("\nagent-120 "), "{piped}");
    for shown in [piped, run_in(Some(400), dir.path(), &["status"])] {
        assert!(shown.contains(&format!("operator: {why}  ")) && shown.contains(&format!(", {detail}\n")), "{shown}");
    }
}
