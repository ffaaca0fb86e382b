//! Labels from outside: what `enqueue`, `status`, `show`, `retry` and `cancel` do with `--label`.

use std::path::Path;

use serde_json::Value;

use crate::{
    daemon::{sql, sweeper},
    enqueue::fed,
    status::stable,
};

/// Exit code, standard output, standard error.
fn run(dir: &Path, arguments: &[&str], input: &str) -> (i32, String, String) {
    let mut command = sweeper(dir);
    command.args(arguments);
    let (code, out, err) = fed(command, input);
    (code, out, stable(&err))
}

/// A queue with these rows, from the command line.
fn enqueue(dir: &Path, arguments: &[&str], input: &str) -> String {
    let (code, out, err) = run(dir, &[&["enqueue", "--create"], arguments].concat(), input);
    assert_eq!(code, 0, "{out}{err}");
    out
}

/// `label agent entry state` of every wish.
async fn wishes(dir: &Path) -> Vec<String> {
    let all =
        "SELECT label || ' ' || agent_id || ' ' || entry_id || ' ' || coalesce(state, 'open') FROM wishes ORDER BY 1";
    sql(dir, all).await.into_iter().map(|(wish,)| wish).collect()
}

async fn settle(dir: &Path, state: &str, entries: &str) {
    let settle = format!(
        "UPDATE deletions SET state = '{state}', settled_at = 1900000000000, last_cause = 'api_failed' WHERE entry_id IN ({entries})"
    );
    sql(dir, &settle).await;
}

fn json(dir: &Path, label: &str) -> (i32, Value) {
    let (code, out, err) = run(dir, &["status", "--label", label, "--json"], "");
    assert_eq!((err.as_str(), out.lines().count()), ("", 1), "{out}");
    (code, serde_json::from_str(&out).unwrap())
}

#[tokio::test]
async fn enqueue_labels_every_row_and_the_input_can_say_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    enqueue(dir.path(), &["--agent", "a", "--label", "T", "1", "2"], "");
    enqueue(dir.path(), &["--agent", "a", "--label", "T"], "3\n");
    enqueue(dir.path(), &["--label", "T"], "agent_id,entry_id,label\na,4,\na,5,erasure 17\n");
    enqueue(
        dir.path(),
        &[],
        "{\"agent_id\":\"a\",\"entry_id\":6,\"label\":\"U\"}\n{\"agent_id\":\"a\",\"entry_id\":7,\"label\":4711}\n",
    );
    let expected =
        ["4711 a 7 open", "T a 1 open", "T a 2 open", "T a 3 open", "T a 4 open", "U a 6 open", "erasure 17 a 5 open"];
    assert_eq!(wishes(dir.path()).await, expected);
}

#[test]
fn a_wrong_label_is_named_with_what_a_label_is() {
    let dir = tempfile::tempdir().unwrap();
    let long = "x".repeat(256);
    for command in [&["enqueue", "--agent", "a", "1"][..], &["status"], &["cancel", "--yes"], &["retry", "--yes"]] {
        for label in ["", " ", " T", "T ", "ä", "T\u{7}", &long] {
            let (code, _, err) = run(dir.path(), &[command, &["--label", label]].concat(), "");
            assert!(code == 2 && err.contains("--label"), "{command:?} {label:?}: {code} {err}");
            assert!(err.contains("1 to 255 printable ASCII characters, with spaces only inside"), "{err}");
        }
    }
    let csv = "agent_id,entry_id,label\na,1,ä\n";
    let (code, _, err) = run(dir.path(), &["enqueue", "--create"], csv);
    assert!(code == 1 && err.contains("line 2: \"ä\" is not a label"), "{err}");
    let (code, _, err) = run(dir.path(), &["enqueue", "--create"], "agent_id,entry_id,Label\na,1,T\n");
    assert!(code == 2 && err.contains("did you mean label?"), "{err}");
    let (code, _, err) =
        run(dir.path(), &["enqueue", "--create"], "{\"agent_id\":\"a\",\"entry_id\":1,\"labels\":\"T\"}\n");
    assert!(code == 2 || err.contains("did you mean label?"), "{err}");
}

#[tokio::test]
async fn status_of_a_label_counts_its_wishes_and_ends_with_what_they_came_to() {
    let dir = tempfile::tempdir().unwrap();
    enqueue(dir.path(), &["--agent", "a", "--label", "T", "1", "2", "3", "4", "5"], "");
    enqueue(dir.path(), &["--agent", "b", "--label", "T", "6"], "");
    enqueue(dir.path(), &["--agent", "a", "7"], "");
    assert_eq!(json(dir.path(), "T").0, 1, "all are open");
    settle(dir.path(), "deleted", "'1', '2', '3'").await;
    settle(dir.path(), "absent", "'4', '6'").await;
    let (code, report) = json(dir.path(), "T");
    let counts = serde_json::json!({"pending": 1, "deleted": 3, "absent": 2, "dead": 0, "cancelled": 0});
    assert_eq!((code, &report["wishes"]), (1, &counts));
    assert_eq!((report["label"].as_str(), report["closed_at"].as_i64()), (Some("T"), Some(1_900_000_000_000)));
    let (code, out, _) = run(dir.path(), &["status", "--label", "T"], "");
    assert!(code == 1 && out.contains("1 wish is open"), "{out}");
    settle(dir.path(), "deleted", "'5'").await;
    sql(dir.path(), "DELETE FROM deletions WHERE agent_id = 'a'").await;
    let (code, out, _) = run(dir.path(), &["status", "--label", "T"], "");
    assert_eq!(code, 0, "though their rows are gone");
    insta::assert_snapshot!("label_fulfilled", stable(&out));
    assert_eq!(run(dir.path(), &["status", "--label", "T", "--agent", "b"], "").0, 0);
    enqueue(dir.path(), &["--agent", "a", "--label", "T", "8", "9"], "");
    settle(dir.path(), "dead", "'8'").await;
    let (code, out, _) = run(dir.path(), &["status", "--label", "T"], "");
    assert_eq!(code, 4, "a wish that needs a person goes before one that is open");
    let (_, report) = json(dir.path(), "T");
    assert_eq!(report["database"], dir.path().join("sweeper.db").display().to_string(), "absolute, as everywhere");
    insta::assert_snapshot!("label_unfulfilled", stable(&out));
    assert_eq!(run(dir.path(), &["status", "--label", "T", "--agent", "b"], "").0, 0, "those of the agent");
}

#[test]
fn a_label_that_no_wish_has_is_unknown_to_every_command_and_the_nearest_is_named() {
    let dir = tempfile::tempdir().unwrap();
    enqueue(dir.path(), &["--agent", "a", "--label", "ERASURE-17", "1"], "");
    enqueue(dir.path(), &["--agent", "a", "--label", "erasure of 18", "2"], "");
    for (label, meant) in
        [("ERASURE-71", "did you mean ERASURE-17?"), ("erasure of 81", "did you mean 'erasure of 18'?")]
    {
        for command in [
            &["status"][..],
            &["status", "--json"],
            &["cancel", "--yes"],
            &["cancel", "--dry-run"],
            &["retry", "--yes"],
        ] {
            let (code, out, err) = run(dir.path(), &[command, &["--label", label]].concat(), "");
            assert_eq!((code, out.as_str()), (1, ""), "{command:?}");
            assert!(err.contains(label) && err.contains(meant) && err.contains("sweeper.db"), "{err}");
        }
    }
    let (code, _, err) = run(dir.path(), &["status", "--label", "other"], "");
    assert!(code == 1 && !err.contains("did you mean"), "{err}");
    let (code, _, err) = run(dir.path(), &["status", "--label", "ERASURE-17", "--agent", "b"], "");
    assert!(code == 1 && err.contains("there is no wish with the label ERASURE-17 for agent b"), "{err}");
}

#[tokio::test]
async fn cancel_takes_back_the_wishes_of_one_label_and_keeps_the_rows_of_others() {
    let dir = tempfile::tempdir().unwrap();
    enqueue(dir.path(), &["--agent", "a", "--label", "T", "1", "2", "3"], "");
    enqueue(dir.path(), &["--agent", "b", "--label", "T", "4"], "");
    enqueue(dir.path(), &["--agent", "a", "--label", "U", "2"], "");
    enqueue(dir.path(), &["--agent", "a", "3"], "");
    let cancel =
        |arguments: &[&str]| run(dir.path(), &[&["cancel", "--label", "T", "--as", "ann"], arguments].concat(), "");
    let (code, out, err) = cancel(&["--dry-run"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(out, "dry run: 4 open wishes with the label T would be cancelled; nothing was written\n");
    assert_eq!(cancel(&[]).0, 2, "it asks");
    assert_eq!(cancel(&["--agent", "a", "1", "9", "--yes"]).0, 1, "a named entry that is not wished for");
    assert_eq!(cancel(&["1", "--yes"]).0, 2, "whose entries?");
    assert_eq!(cancel(&["--all", "--yes"]).0, 2);
    let (code, out, err) = cancel(&["--agent", "a", "--yes"]);
    assert_eq!((code, out.as_str(), err.as_str()), (0, "cancelled 2; 2 rows stay pending, wished for by others\n", ""));
    let rows =
        sql(dir.path(), "SELECT group_concat(entry_id || coalesce(label, '-')) FROM deletions ORDER BY id").await;
    assert_eq!(rows[0].0, "2U,3-,4T");
    let all = ["T a 1 cancelled", "T a 2 cancelled", "T a 3 cancelled", "T b 4 open", "U a 2 open"];
    assert_eq!(wishes(dir.path()).await, all);
    assert_eq!(cancel(&["--yes"]).1, "cancelled 1\n");
    assert_eq!(cancel(&["--yes"]).1, "no open wish matches; nothing was written\n");
    let told = sql(dir.path(), "SELECT DISTINCT closed_by FROM wishes WHERE state = 'cancelled'").await;
    assert_eq!(told, [("ann".to_owned(),)]);
    let acts =
        sql(dir.path(), "SELECT operator || ' ' || rows || ' ' || detail FROM acts WHERE act = 'cancel' ORDER BY id")
            .await;
    let acts: Vec<&str> = acts.iter().map(|(act,)| act.as_str()).collect();
    assert_eq!(acts, ["ann 1 named entries, label: T", "ann 2 pending rows, label: T", "ann 1 pending rows, label: T"]);
    assert_eq!(run(dir.path(), &["status", "--label", "T"], "").0, 4);
}

#[tokio::test]
async fn whoever_cancels_rows_is_named_in_the_wishes_for_them() {
    let dir = tempfile::tempdir().unwrap();
    enqueue(dir.path(), &["--agent", "a", "--label", "T", "1", "2"], "");
    enqueue(dir.path(), &["--agent", "a", "--label", "U", "2"], "");
    enqueue(dir.path(), &["--agent", "a", "2", "3"], "");
    let (code, out, err) = run(dir.path(), &["cancel", "--agent", "a", "--as", "ann", "--yes"], "");
    assert_eq!((code, out.as_str(), err.as_str()), (0, "cancelled 3\n", ""), "rows, labelled or not");
    assert_eq!(wishes(dir.path()).await, ["T a 1 cancelled", "T a 2 cancelled", "U a 2 cancelled"]);
    let told = sql(dir.path(), "SELECT DISTINCT closed_by FROM wishes").await;
    assert_eq!(told, [("ann".to_owned(),)]);
    assert_eq!(sql(dir.path(), "SELECT entry_id FROM deletions").await, []);
}

#[tokio::test]
async fn retry_brings_back_the_dead_rows_of_a_label_alone() {
    let dir = tempfile::tempdir().unwrap();
    enqueue(dir.path(), &["--agent", "a", "--label", "T", "1", "2"], "");
    enqueue(dir.path(), &["--agent", "b", "--label", "T", "3"], "");
    enqueue(dir.path(), &["--agent", "a", "--label", "U", "2", "4"], "");
    enqueue(dir.path(), &["--agent", "a", "5"], "");
    settle(dir.path(), "dead", "'1', '2', '3', '4', '5'").await;
    let retry = |arguments: &[&str]| run(dir.path(), &[&["retry", "--label", "T"], arguments].concat(), "");
    assert_eq!(retry(&["--dry-run"]).1, "dry run: 3 dead rows would be retried; nothing was written\n");
    assert_eq!(retry(&["--cause", "lost", "--yes"]).1, "no dead row matches; nothing was written\n");
    assert_eq!(retry(&["--agent", "a", "--yes"]).1, "retried 2\n");
    let all = ["T a 1 open", "T a 2 open", "T b 3 dead", "U a 2 open", "U a 4 dead"];
    assert_eq!(wishes(dir.path()).await, all, "of all labels of a row");
    assert_eq!(retry(&["--yes"]).1, "retried 1\n");
    assert_eq!(retry(&["--all", "--yes"]).0, 2);
    sql(dir.path(), "UPDATE deletions SET due_at = 4100000000000, attempts = iif(entry_id = '3', 0, 1)").await;
    let dry = retry(&["--now", "--scheduled", "--dry-run"]).1;
    assert_eq!(
        dry,
        "dry run: 3 waiting rows, of which 1 was enqueued for a later time would become due now; nothing was written\n"
    );
    assert_eq!(retry(&["--now"]).1, "due now 2\n", "those that were tried");
}

#[tokio::test]
async fn show_names_the_labels_of_an_entry_and_still_does_when_its_row_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    enqueue(dir.path(), &["--agent", "a", "--label", "T", "1"], "");
    enqueue(dir.path(), &["--agent", "a", "1", "2"], "");
    enqueue(dir.path(), &["--agent", "a", "--label", "erasure 17", "1"], "");
    run(dir.path(), &["cancel", "--label", "T", "--as", "ann", "--yes"], "");
    let (code, out, _) = run(dir.path(), &["show", "a", "1"], "");
    assert_eq!(code, 0);
    insta::assert_snapshot!("show_labels", stable(&out));
    assert!(!run(dir.path(), &["show", "a", "2"], "").1.contains("wish"));
    settle(dir.path(), "deleted", "'1'").await;
    sql(dir.path(), "DELETE FROM deletions").await;
    let (code, out, err) = run(dir.path(), &["show", "a", "1"], "");
    assert!(code == 1 && err.contains("there is no such row"), "{err}");
    insta::assert_snapshot!("show_labels_of_a_gone_row", stable(&out));
}
