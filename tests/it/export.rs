//! `sweeper export`: which records, in which form, and a file that is whole or not there.

mod engines;
mod files;

use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::Stdio,
};

use serde_json::{Value, json};

use crate::{
    daemon::{sql, sweeper},
    enqueue::fed,
};

const REQUESTS: &str = "INSERT INTO requests
    (id, correlation_id, agent_id, kind, deletion_ids, size, claimed_at, answered_at, status, detail, remote_id, verdicts) VALUES
    (7, '6f2c1f0e-4a55-4d4e-9a0e-0d6f3a1b2c3d', 'a', 'bulk', '[1, 2]', 2, 1700000001000, 1700000001250, 200, NULL, 'r-7',
        '[{\"verdict\":\"deleted\",\"deletion_ids\":[1]},{\"verdict\":\"dead\",\"cause\":\"api_failed\",\"deletion_ids\":[2]}]'),
    (8, '0b0e8a34-52a5-4c39-8a3f-6f1d5a7e9c10', 'b', 'single', '[3]', 1, 1700000002000, 1700000002250, 404, 'no such entry', NULL,
        '[{\"verdict\":\"absent\"}]')";

pub fn export(dir: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = sweeper(dir);
    command.arg("export").args(arguments);
    fed(command, "")
}

/// The records, as objects.
fn objects(dir: &Path, arguments: &[&str]) -> Vec<Value> {
    let (code, out, err) = export(dir, &[&["--format", "jsonl"], arguments].concat());
    assert_eq!(code, 0, "{arguments:?}: {out}{err}");
    assert_eq!(err == "nothing matches\n", out.is_empty(), "{err}");
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// `entry` or `entry label`, of each record.
fn entries(dir: &Path, arguments: &[&str]) -> Vec<String> {
    let name = |record: &Value| match record["label"].as_str() {
        Some(label) => format!("{} {label}", record["entry_id"].as_str().unwrap()),
        None => record["entry_id"].as_str().unwrap().to_owned(),
    };
    objects(dir, arguments).iter().map(name).collect()
}

/// All states, with and without labels; a row that was cancelled and one that is gone; a row of two labels.
async fn fill(dir: &Path) {
    sweeper(dir).arg("init").output().unwrap();
    for statement in [
        "INSERT INTO deletions (agent_id, entry_id, created_at, state, settled_at, last_cause, attempts, maybe_done, request_id) VALUES
            ('a', 'x1', 1700000000000, 'deleted', 1700000001250, NULL, 1, 0, 7),
            ('a', 'd2', 1700000000000, 'dead', 1700000001250, 'api_failed', 8, 1, 7),
            ('b', 'x3', 1700000000000, 'absent', 1700000002250, NULL, 1, 0, 8)",
        "INSERT INTO deletions (agent_id, entry_id, priority, created_at, due_at) VALUES
            ('a', 'p4', -5, 1800000000000, 1900000000000)",
        "INSERT INTO deletions (agent_id, entry_id, label, created_at) VALUES
            ('b', 't5', 'T 1', 1700000000000), ('a', 't6', 'T 1', 1700000000000), ('a', 't7', 'T 1', 1700000000000),
            ('a', 't6', 'U', 1800000000000)",
        "UPDATE deletions SET state = 'deleted', settled_at = 1700000003000 WHERE entry_id = 't7'",
        "UPDATE wishes SET state = 'cancelled', closed_at = 1700000004000, closed_by = 'bob' WHERE entry_id = 't5'",
        "DELETE FROM deletions WHERE entry_id = 't7'",
        REQUESTS,
    ] {
        sql(dir, statement).await;
    }
}

#[tokio::test]
async fn every_filter_chooses_and_rows_come_before_wishes() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path()).await;
    let cases: [(&[&str], &[&str]); 18] = [
        (&[], &["x1", "d2", "x3", "p4", "t6 T 1", "t7 T 1", "t5 T 1", "t6 U"]),
        (&["--state", "pending"], &["p4", "t6 T 1", "t6 U"]),
        (&["--state", "deleted,absent"], &["x1", "x3", "t7 T 1"]),
        (&["--state", "dead"], &["d2"]),
        (&["--state", "cancelled"], &["t5 T 1"]),
        (&["--agent", "a"], &["d2", "p4", "x1", "t6 T 1", "t6 U", "t7 T 1"]),
        (&["--agent", "b"], &["x3", "t5 T 1"]),
        (&["--agent", "b", "--state", "absent"], &["x3"]),
        (&["--label", "T 1"], &["t6 T 1", "t7 T 1", "t5 T 1"]),
        (&["--label", "T 1", "--agent", "b"], &["t5 T 1"]),
        (&["--label", "T 1", "--state", "deleted"], &["t7 T 1"]),
        (&["--since", "1800000000000"], &["p4", "t6 U"]),
        (&["--until", "1800000000000"], &["x1", "d2", "x3", "t6 T 1", "t7 T 1", "t5 T 1"]),
        (&["--since", "1700000000000", "--until", "1700000000001", "--agent", "b"], &["x3", "t5 T 1"]),
        (&["--by", "ended", "--since", "1700000001251"], &["x3", "t7 T 1", "t5 T 1"]),
        (&["--by", "ended", "--until", "1700000001251"], &["x1", "d2"]),
        (&["--by", "ended", "--since", "1700000002250", "--until", "1700000003001"], &["x3", "t7 T 1"]),
        (&["--since", "2023-11-14T22:13:20Z", "--until", "2023-11-14T22:13:21Z", "--label", "U"], &[]),
    ];
    for (arguments, expected) in cases {
        assert_eq!(entries(dir.path(), arguments), expected, "{arguments:?}");
    }
}

#[tokio::test]
async fn a_record_says_what_was_asked_sent_and_answered() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path()).await;
    sql(dir.path(), "UPDATE deletions SET verified_at = 1700000009000 WHERE entry_id = 'x1'").await;
    let of = |entry: &str| objects(dir.path(), &[]).into_iter().find(|record| record["entry_id"] == entry).unwrap();
    let deleted = json!({
        "agent_id": "a", "entry_id": "x1", "label": null, "state": "deleted", "asked_at": "2023-11-14T22:13:20.000Z",
        "asked_by": null, "priority": 0, "attempts": 1, "due_at": null, "cause": null, "maybe_done": false,
        "sent_at": "2023-11-14T22:13:21.000Z", "answered_at": "2023-11-14T22:13:21.250Z", "kind": "bulk", "status": 200,
        "verdict": "deleted", "correlation_id": "6f2c1f0e-4a55-4d4e-9a0e-0d6f3a1b2c3d", "remote_id": "r-7", "detail": null,
        "ended_at": "2023-11-14T22:13:21.250Z", "verified_at": "2023-11-14T22:13:29.000Z", "cancelled_by": null
    });
    assert_eq!(of("x1"), deleted);
    let dead = of("d2");
    assert_eq!(
        (&dead["verdict"], &dead["cause"], &dead["maybe_done"]),
        (&json!("dead"), &json!("api_failed"), &json!(true))
    );
    let absent = of("x3");
    assert_eq!(
        (&absent["verdict"], &absent["kind"], &absent["status"]),
        (&json!("absent"), &json!("single"), &json!(404))
    );
    let cancelled = of("t5");
    assert_eq!(
        (&cancelled["cancelled_by"], &cancelled["ended_at"]),
        (&json!("bob"), &json!("2023-11-14T22:13:24.000Z"))
    );
    for gone in ["priority", "attempts", "sent_at", "correlation_id"] {
        assert!(cancelled[gone].is_null() && of("t7")[gone].is_null(), "{gone}: the row is gone");
    }
    let (_, csv, _) = export(dir.path(), &["--agent", "a", "--state", "deleted,dead"]);
    let lines: Vec<&str> = csv.split("\r\n").collect();
    assert_eq!(lines.len(), 5, "a header, three records, and the end of the last line: {csv}");
    let names: Vec<&str> = lines[0].split(',').collect();
    assert_eq!((names[0], names[names.len() - 1], names.len()), ("agent_id", "cancelled_by", 22));
    assert_eq!(
        lines[2],
        "a,x1,,deleted,2023-11-14T22:13:20.000Z,,0,1,,,false,2023-11-14T22:13:21.000Z,2023-11-14T22:13:21.250Z,bulk,200,deleted,\
         6f2c1f0e-4a55-4d4e-9a0e-0d6f3a1b2c3d,r-7,,2023-11-14T22:13:21.250Z,2023-11-14T22:13:29.000Z,"
    );
}

#[tokio::test]
async fn hostile_texts_are_no_formulas_and_no_lines_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    sweeper(dir.path()).arg("init").output().unwrap();
    let label = r#"=HYPERLINK("http://evil","x"), 1"#;
    for entry in ["=1+1", "-2", "@x"] {
        sql(
            dir.path(),
            &format!("INSERT INTO deletions (agent_id, entry_id, label) VALUES ('+a', '{entry}', '{label}')"),
        )
        .await;
    }
    sql(
        dir.path(),
        "UPDATE wishes SET state = 'cancelled', closed_at = 1, closed_by = '=cmd|calc' WHERE entry_id = '-2'",
    )
    .await;
    sql(
        dir.path(),
        "INSERT INTO requests (id, correlation_id, agent_id, deletion_ids, size, claimed_at, answered_at, status, detail, remote_id)
         VALUES (1, 'c', '+a', '[1]', 1, 5, 6, 500, '@said \"no\",' || char(13, 10) || char(27) || '[2J', '-' || char(9) || 'r')",
    )
    .await;
    sql(dir.path(), "UPDATE deletions SET state = 'dead', settled_at = 9, request_id = 1 WHERE entry_id = '=1+1'")
        .await;
    let (code, csv, _) = export(dir.path(), &["--label", label]);
    assert_eq!(code, 0);
    assert!(!csv.contains('\u{1b}'), "{csv}");
    let lines: Vec<&str> = csv.trim_end().split("\r\n").collect();
    assert_eq!(lines.len(), 1 + 3, "{csv}");
    let quoted = r#""'=HYPERLINK(""http://evil"",""x""), 1""#;
    assert!(lines[1].starts_with(&format!("'+a,'-2,{quoted},cancelled,")), "{csv}");
    assert!(lines[1].ends_with(",1970-01-01T00:00:00.001Z,,'=cmd|calc"), "{csv}");
    assert!(lines[2].starts_with(&format!("'+a,'=1+1,{quoted},dead,")), "{csv}");
    assert!(lines[2].contains(r#",c,'-\tr,"'@said ""no"",\r\n\u{1b}[2J","#), "{csv}");
    let records = objects(dir.path(), &["--label", label]);
    assert_eq!(records[1]["detail"], "@said \"no\",\r\n\u{1b}[2J", "as it is");
    assert_eq!((&records[1]["entry_id"], &records[1]["label"]), (&json!("=1+1"), &json!(label)));
}

#[test]
fn who_asked_and_who_cancelled_is_known_from_the_commands() {
    let dir = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = sweeper(dir.path());
        command.args(arguments);
        let (code, out, err) = fed(command, "");
        assert_eq!(code, 0, "{out}{err}");
    };
    run(&["enqueue", "--create", "--agent", "a", "--label", "T", "--as", "Ann, @home", "1", "2"]);
    run(&["enqueue", "--agent", "a", "--label", "one", "--as", "ann", "3"]);
    run(&["enqueue", "--agent", "a", "--as", "ann", "4", "5"]);
    run(&["cancel", "--label", "T", "--yes", "--as", "=bob"]);
    let records = objects(dir.path(), &[]);
    let of = |entry: &str| records.iter().find(|record| record["entry_id"] == entry).unwrap();
    assert_eq!((&of("1")["asked_by"], &of("1")["cancelled_by"]), (&json!("Ann, @home"), &json!("=bob")));
    assert_eq!(of("3")["asked_by"], json!("ann"), "a single row with a label leaves an act, too");
    assert!(of("4")["asked_by"].is_null(), "an act without a label could be anybody's");
    let (_, csv, _) = export(dir.path(), &["--state", "cancelled"]);
    assert!(csv.contains(",\"Ann, @home\",") && csv.contains(",'=bob\r\n"), "{csv}");
}

#[tokio::test]
async fn what_came_after_a_wish_was_fulfilled_is_not_said_of_it() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path()).await;
    for statement in [
        "UPDATE deletions SET state = 'deleted', settled_at = 1850000000000, request_id = 7 WHERE entry_id = 't6'",
        "INSERT INTO deletions (agent_id, entry_id, label, created_at) VALUES ('a', 't6', 'V', 1860000000000)",
        "INSERT INTO deletions (agent_id, entry_id, created_at) VALUES ('a', 'x1', 1860000000000)",
    ] {
        sql(dir.path(), statement).await;
    }
    let records = objects(dir.path(), &["--agent", "a"]);
    let of = |entry: &str, label: Option<&str>| {
        let found = records.iter().filter(|record| record["entry_id"] == entry && record["label"].as_str() == label);
        let found: Vec<&Value> = found.collect();
        assert_eq!(found.len(), 1, "{entry} {label:?}");
        found[0].clone()
    };
    for label in ["T 1", "U"] {
        let fulfilled = of("t6", Some(label));
        assert_eq!(fulfilled["state"], "deleted");
        assert!(fulfilled["attempts"].is_null() && fulfilled["sent_at"].is_null(), "{fulfilled}");
    }
    assert_eq!(of("t6", Some("V"))["state"], "pending");
    let reopened = of("x1", None);
    assert_eq!((&reopened["state"], &reopened["asked_at"]), (&json!("pending"), &json!("2028-12-09T18:40:00.000Z")));
    assert!(reopened["ended_at"].is_null() && reopened["verdict"].is_null(), "{reopened}");
    sql(
        dir.path(),
        "UPDATE deletions SET state = 'deleted', settled_at = 1870000000000, request_id = 7 WHERE entry_id = 't6'",
    )
    .await;
    let records = objects(dir.path(), &["--agent", "a", "--label", "V"]);
    assert_eq!(records[0]["sent_at"], "2023-11-14T22:13:21.000Z", "the request is that of the last wish");
    assert!(objects(dir.path(), &["--label", "U"])[0]["sent_at"].is_null());
}

#[tokio::test]
async fn every_record_is_there_once_however_many_pages_there_are() {
    let dir = tempfile::tempdir().unwrap();
    sweeper(dir.path()).arg("init").output().unwrap();
    let rows = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 13000)
        INSERT INTO deletions (agent_id, entry_id, label) SELECT 'agent-' || (i % 3), i, iif(i % 2 = 0, 'T', NULL) FROM n";
    sql(dir.path(), rows).await;
    sql(dir.path(), "INSERT INTO deletions (agent_id, entry_id, label) SELECT agent_id, entry_id, 'U' FROM deletions WHERE id <= 5000")
        .await;
    let records = "SELECT agent_id, entry_id, label FROM wishes
        UNION ALL SELECT agent_id, entry_id, '' FROM deletions WHERE label IS NULL";
    for (arguments, condition) in [
        (&[][..], "1"),
        (&["--agent", "agent-1"], "agent_id = 'agent-1'"),
        (&["--label", "T"], "label = 'T'"),
        (&["--label", "U"], "label = 'U'"),
    ] {
        let all = format!("SELECT trim(entry_id || ' ' || label) FROM ({records}) WHERE {condition} ORDER BY 1");
        let all: Vec<String> = sql(dir.path(), &all).await.into_iter().map(|(entry,)| entry).collect();
        let mut exported = entries(dir.path(), arguments);
        exported.sort_unstable();
        assert!(
            exported.len() > 2_000 && exported.len() == all.len(),
            "{arguments:?}: {} {}",
            exported.len(),
            all.len()
        );
        assert_eq!(exported, all, "{arguments:?}");
    }
}

#[tokio::test]
async fn a_row_that_is_settled_between_two_pages_is_there_once_and_producers_wait_for_nobody() {
    let dir = tempfile::tempdir().unwrap();
    sweeper(dir.path()).arg("init").output().unwrap();
    let rows = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
        INSERT INTO deletions (agent_id, entry_id) SELECT 'a', i FROM n";
    sql(dir.path(), rows).await;
    let mut command = sweeper(dir.path());
    let mut child = command.args(["export", "--format", "jsonl"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    out.read_line(&mut first).unwrap();
    // The pipe is full by now, so the export waits for us, with most of the pages to come.
    sql(dir.path(), "UPDATE deletions SET state = 'deleted', settled_at = 1700000000000").await;
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert!(child.wait().unwrap().success());
    let records: Vec<Value> =
        first.lines().chain(rest.lines()).map(|line| serde_json::from_str(line).unwrap()).collect();
    let ids: Vec<i64> = records.iter().map(|record| record["entry_id"].as_str().unwrap().parse().unwrap()).collect();
    assert_eq!(ids, (1..=20_000).collect::<Vec<i64>>());
    assert_eq!((&records[0]["state"], &records[19_999]["state"]), (&json!("pending"), &json!("deleted")));
    let odd = records.iter().find(|record| (record["state"] == "pending") != record["ended_at"].is_null());
    assert_eq!(odd, None, "each record is of one moment");
}
