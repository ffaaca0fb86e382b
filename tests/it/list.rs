//! `sweeper list`: which rows, in which form, and that it reads no more than it must.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::Stdio,
};

use serde_json::Value;

use crate::{
    daemon::{sql, sweeper},
    enqueue::{fed, on_a_terminal},
    status::stable,
};

fn list(dir: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = sweeper(dir);
    command.arg("list").args(arguments);
    fed(command, "")
}

/// The entries that are listed, in order.
fn entries(dir: &Path, arguments: &[&str]) -> Vec<String> {
    let (code, out, err) = list(dir, arguments);
    assert_eq!(code, 0, "{arguments:?}: {out}{err}");
    assert_eq!(err == "nothing matches\n", out.is_empty(), "{err}");
    out.lines().map(|line| line.split('\t').nth(1).unwrap().to_owned()).collect()
}

/// Two agents, all states, two causes, and a label of which one wish was cancelled.
async fn fill(dir: &Path) {
    sweeper(dir).arg("init").output().unwrap();
    for statement in [
        "INSERT INTO deletions (agent_id, entry_id, priority, created_at, due_at) VALUES
            ('a', 'p1', 0, 1700000000000, 0), ('b', 'p2', 5, 1700000000000, 4100000000000), ('a', 'p3', 0, 1700000000000, 0)",
        "INSERT INTO deletions (agent_id, entry_id, created_at, state, settled_at, last_cause, attempts) VALUES
            ('a', 'x1', 1700000000000, 'deleted', 1700000001000, NULL, 1), ('b', 'x2', 1700000000000, 'absent', 1700000001000, NULL, 1),
            ('a', 'd1', 1700000000000, 'dead', 1700000001000, 'rejected', 1), ('b', 'd2', 1700000000000, 'dead', 1700000001000, 'lost', 5),
            ('a', 'd3', 1700000000000, 'dead', 1700000001000, 'lost', 5), ('a', 'd4', 1700000000000, 'dead', 1700000001000, NULL, 5)",
        "INSERT INTO deletions (agent_id, entry_id, label, created_at) VALUES
            ('b', 't1', 'T 1', 1700000000000), ('a', 't2', 'T 1', 1700000000000), ('a', 't3', 'T 1', 1700000000000)",
        "UPDATE deletions SET state = 'deleted', settled_at = 1700000002000 WHERE entry_id = 't2'",
        "DELETE FROM deletions WHERE entry_id IN ('t2', 't3')",
    ] {
        sql(dir, statement).await;
    }
}

#[tokio::test]
async fn the_rows_of_a_choice_are_listed_in_a_known_order() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path()).await;
    let cases: [(&[&str], &[&str]); 17] = [
        (&[], &["p1", "p2", "p3", "x1", "x2", "d1", "d2", "d3", "d4", "t1"]),
        (&["--state", "pending"], &["p1", "p3", "t1", "p2"]),
        (&["--state", "dead"], &["d4", "d2", "d3", "d1"]),
        (&["--state", "dead,pending"], &["p1", "p3", "t1", "p2", "d4", "d2", "d3", "d1"]),
        (&["--state", "dead", "--state", "absent"], &["x2", "d1", "d2", "d3", "d4"]),
        (&["--state", "deleted"], &["x1"]),
        (&["--agent", "b"], &["d2", "p2", "t1", "x2"]),
        (&["--agent", "b", "--state", "dead,absent"], &["d2", "x2"]),
        (&["--agent", "a", "--cause", "lost"], &["d3"]),
        (&["--cause", "lost"], &["d2", "d3"]),
        (&["--cause", "lost", "--state", "dead"], &["d2", "d3"]),
        (&["--cause", "lost", "--state", "pending"], &[]),
        (&["--label", "T 1"], &["t2", "t3", "t1"]),
        (&["--label", "T 1", "--state", "cancelled"], &["t3"]),
        (&["--label", "T 1", "--state", "deleted,pending"], &["t2", "t1"]),
        (&["--label", "T 1", "--agent", "a"], &["t2", "t3"]),
        (&["--limit", "3"], &["p1", "p2", "p3"]),
    ];
    for (arguments, expected) in cases {
        assert_eq!(entries(dir.path(), arguments), expected, "{arguments:?}");
    }
}

#[tokio::test]
async fn in_a_pipe_it_has_columns_between_tabs_or_objects_and_on_a_terminal_a_table() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path()).await;
    let (_, out, _) = list(dir.path(), &["--agent", "b"]);
    let lines = [
        "b\td2\tdead\tlost\t5\t2023-11-14T22:13:20Z\t-\t2023-11-14T22:13:21Z\t-",
        "b\tp2\tpending\t-\t0\t2023-11-14T22:13:20Z\t2099-12-03T16:53:20Z\t-\t-",
        "b\tt1\tpending\t-\t0\t2023-11-14T22:13:20Z\t-\t-\tT 1",
        "b\tx2\tabsent\t-\t1\t2023-11-14T22:13:20Z\t-\t2023-11-14T22:13:21Z\t-",
    ];
    assert_eq!(out.lines().collect::<Vec<_>>(), lines);
    let (_, out, _) = list(dir.path(), &["--agent", "b", "--state", "dead", "--json"]);
    let row: Value = serde_json::from_str(&out).unwrap();
    let expected = serde_json::json!({
        "id": 7, "agent_id": "b", "entry_id": "d2", "state": "dead", "last_cause": "lost", "attempts": 5, "priority": 0,
        "due_at": 0, "created_at": 1_700_000_000_000_i64, "settled_at": 1_700_000_001_000_i64, "label": null,
        "verified_at": null, "wished_at": null, "closed_by": null
    });
    assert_eq!(row, expected);
    let (_, out, _) = list(dir.path(), &["--label", "T 1", "--state", "cancelled", "--json"]);
    let row: Value = serde_json::from_str(&out).unwrap();
    assert!(row["id"].is_null() && row["state"] == "cancelled" && row["label"] == "T 1", "{row}");
    assert_eq!(row["wished_at"], 1_700_000_000_000_i64);
    let mut command = sweeper(dir.path());
    command.args(["list", "--agent", "a"]).env("NO_COLOR", "1");
    let Some((code, shown)) = on_a_terminal(command, "").await else { return };
    assert_eq!(code, 0);
    insta::assert_snapshot!("on_a_terminal", stable(&shown.replace("\r\n", "\n")));
}

#[tokio::test]
async fn what_is_unknown_is_said_with_the_nearest_and_what_is_only_empty_is_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path()).await;
    sql(dir.path(), "INSERT INTO deletions (agent_id, entry_id) VALUES ('PROJECT-58RP822I', '1')").await;
    for (arguments, said) in [
        (&["--agent", "PROJECT-58RP82I"][..], "there is no row of agent PROJECT-58RP82I in"),
        (&["--agent", "PROJECT-58RP82I"], "did you mean PROJECT-58RP822I?"),
        (&["--label", "T 2"], "did you mean 'T 1'?"),
        (&["--label", "other"], "no wish has the label other"),
    ] {
        let (code, out, err) = list(dir.path(), arguments);
        assert!(code == 1 && out.is_empty() && err.contains(said), "{arguments:?}: {err}");
    }
    for arguments in [
        &["--agent", "b", "--cause", "rejected"][..],
        &["--label", "T 1", "--state", "dead"],
        &["--state", "absent", "--cause", "lost"],
    ] {
        assert_eq!(list(dir.path(), arguments), (0, String::new(), "nothing matches\n".to_owned()), "{arguments:?}");
    }
    for (arguments, said) in [
        (&["--state", "cancelled"][..], "--state cancelled goes with --label"),
        (&["--state", "gone"], "possible values: pending, deleted, absent, dead, cancelled"),
        (&["--cause", "bad luck"], "bad luck"),
        (&["--limit", "x"], "--limit"),
    ] {
        let (code, _, err) = list(dir.path(), arguments);
        assert!(code == 2 && err.contains(said), "{arguments:?}: {err}");
    }
}

#[tokio::test]
async fn every_row_is_listed_once_however_many_pages_there_are() {
    let dir = tempfile::tempdir().unwrap();
    sweeper(dir.path()).arg("init").output().unwrap();
    let rows = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 13000)
        INSERT INTO deletions (agent_id, entry_id, priority, due_at, label)
        SELECT 'agent-' || (i % 3), i, i % 2, iif(i % 5 = 0, 4100000000000 + i % 4, 0), iif(i % 2 = 0, 'T', NULL) FROM n";
    sql(dir.path(), rows).await;
    let dead = "UPDATE deletions SET state = 'dead', settled_at = 1700000000000,
        last_cause = iif(id % 4 = 0, 'lost', iif(id % 4 = 1, 'rejected', NULL)) WHERE id % 3 = 0";
    sql(dir.path(), dead).await;
    for (arguments, condition) in [
        (&[][..], "1"),
        (&["--state", "pending"], "state = 'pending'"),
        (&["--state", "dead"], "state = 'dead'"),
        (&["--state", "dead,pending", "--cause", "lost"], "last_cause = 'lost'"),
        (&["--agent", "agent-1"], "agent_id = 'agent-1'"),
        (&["--label", "T"], "label = 'T'"),
        (&["--label", "T", "--state", "dead"], "label = 'T' AND state = 'dead'"),
    ] {
        let all = format!("SELECT entry_id FROM deletions WHERE {condition} ORDER BY entry_id");
        let all: Vec<String> = sql(dir.path(), &all).await.into_iter().map(|(entry,)| entry).collect();
        let mut listed = entries(dir.path(), arguments);
        listed.sort_unstable();
        assert_eq!(listed.len(), all.len(), "{arguments:?}");
        assert_eq!(listed, all, "{arguments:?}");
    }
    let limited = entries(dir.path(), &["--limit", "4500"]);
    assert_eq!((limited.len(), limited.last().map(String::as_str)), (4_500, Some("4500")));
}

#[tokio::test]
async fn it_ends_in_silence_when_nobody_reads_any_more() {
    let dir = tempfile::tempdir().unwrap();
    sweeper(dir.path()).arg("init").output().unwrap();
    let rows = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
        INSERT INTO deletions (agent_id, entry_id) SELECT 'a', i FROM n";
    sql(dir.path(), rows).await;
    let mut command = sweeper(dir.path());
    let mut child = command.args(["list"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("a\t1\t"));
    let ended = child.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), ended.stderr.len()), (Some(0), 0));
}
