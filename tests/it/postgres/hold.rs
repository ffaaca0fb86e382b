//! `sweeper hold` and `sweeper release` on a queue on a server.

use super::commands::scene;
use crate::suite::engine::{Engine as _, Request, Row};

#[tokio::test]
async fn a_hold_is_placed_replaced_and_lifted_and_says_what_it_concerns() {
    let Some(mut scene) = scene().await else { return };
    let rows: Vec<Row> = (1..=5).map(|id| Row::new(id, "a", &id.to_string())).collect();
    scene.engine.put(&rows, &[Request::new(6, "a", &[1, 2])]).await;
    assert_eq!(scene.run(&["enqueue", "--agent", "a", "new"]).0, 0);
    let (code, out, err) = scene.run(&["hold", "--agent", "a", "--why", "new voice", "--as", "ann"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let said = "held a until somebody releases it; 4 pending rows wait\n\
        requests with 2 rows are on their way, and are not stopped\n\
        lift it with: sweeper release --agent a\n";
    assert_eq!(out.replace("agent a until", "a until"), said);
    let (code, out, _) = scene.run(&["hold", "--agent", "a", "--for", "1h", "--as", "bob"]);
    assert!(code == 0 && out.contains("this takes the place of the hold of ") && out.contains(": new voice"), "{out}");
    let held = "SELECT concat_ws(' ', scope, cause, (until_at > since_at)::text, why) FROM holds";
    assert_eq!(scene.texts(held).await, "a operator true");
    let (code, out, err) = scene.run(&["release", "--agent", "a", "--as", "ann"]);
    assert!(code == 0 && out.contains("released ") && err.is_empty(), "{out}{err}");
    assert_eq!(scene.texts(held).await, "");
    assert_eq!(scene.acts().await, "ann hold a 1 true; bob hold a 1 true; ann release a 1 true");
    let (code, out, err) = scene.run(&["release", "--agent", "a"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.starts_with("nothing was released: no operator holds "), "{err}");
}

#[tokio::test]
async fn the_daemon_s_own_holds_are_lifted_by_their_cause_and_the_others_are_told() {
    let Some(mut scene) = scene().await else { return };
    let holds = "INSERT INTO holds (scope, cause, until_at) VALUES
        ('a', 'unknown_agent', 4000000000000), ('*', 'unauthorized', 4000000000000), ('b', 'operator', NULL)";
    scene.engine.execute(holds).await;
    let (code, out, _) = scene.run(&["release", "--agent", "a", "--cause", "unknown_agent"]);
    assert!(code == 0 && out.contains("(unknown_agent)") && out.contains("is still held (unauthorized)"), "{out}");
    let left = "SELECT scope || cause FROM holds ORDER BY 1";
    assert_eq!(scene.texts(left).await, "*unauthorized boperator");
    assert_eq!(scene.run(&["release", "--all", "--every-cause"]).0, 0);
    assert_eq!(scene.texts(left).await, "boperator");
}
