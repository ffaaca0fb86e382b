//! What is easily given by mistake: each is named with what to do, and nothing is made of it that nobody meant.

use std::path::Path;

use super::{enqueue, fed};
use crate::daemon::sweeper;

/// Makes an empty queue.
fn init(dir: &Path) {
    let mut command = sweeper(dir);
    command.arg("init");
    assert_eq!(fed(command, "").0, 0);
}

#[tokio::test]
async fn the_due_time_that_was_taken_is_said() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path());
    let said = |zone: &str, due: &str| {
        let mut command = sweeper(dir.path());
        command.args(["enqueue", "--agent", "a", "--due", due, "1"]).env("TZ", zone);
        let (code, out, err) = fed(command, "");
        assert!(code == 0 && out.starts_with("inserted "), "{due}: {err}");
        err
    };
    let summer = "GMT0BST,M3.5.0/1,M10.5.0";
    let told = said(summer, "2100-07-01T02:30");
    assert!(told.starts_with("due 2100-07-01 02:30 UTC (03:30 here), in ") && told.ends_with(" days\n"), "{told}");
    let told = said("UTC0", "2100-07-01T23:30-03:00");
    assert!(told.starts_with("due 2100-07-02 02:30 UTC, in ") && told.ends_with(" days\n"), "{told}");
    assert!(said("UTC0", "90m").ends_with(" UTC, in 1h 30m\n"));
    assert_eq!(said(summer, "2020-01-01"), "due 2020-01-01 00:00 UTC, which is past: at once\n");
    assert_eq!(said(summer, "0"), "due at once\n");
}

#[test]
fn a_due_time_in_the_past_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (code, _, err) = enqueue(dir.path(), &["--agent", "a", "--due", "-1h", "1"], "");
    assert!(code == 2 && err.contains("'--due <TIME>': is in the past: leave it out"), "{err}");
}
