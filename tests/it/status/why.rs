//! Why pending rows have not gone out: each reason is said, on the page and in the JSON.

use audio_cache_sweeper::sandbox::{Mood, Options};
use serde_json::{Value, json};

use super::{from_now, report, run};
use crate::{
    daemon::{Daemon, blocking, configured, queue, sandbox, sql, sweeper},
    enqueue::fed,
};

/// The rows that wait for each reason.
fn waits(report: &Value) -> Vec<(String, u64)> {
    let waits = report["waits"].as_array().unwrap().iter();
    waits.map(|wait| (wait["reason"].as_str().unwrap().to_owned(), wait["rows"].as_u64().unwrap())).collect()
}

fn expected(waits: &[(&str, u64)]) -> Vec<(String, u64)> {
    waits.iter().map(|(reason, rows)| ((*reason).to_owned(), *rows)).collect()
}

/// Rows of another agent.
async fn more(dir: &std::path::Path, agent: &str, rows: u64, due_at: i64) {
    let insert = format!(
        "INSERT INTO deletions (agent_id, entry_id, due_at)
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) SELECT '{agent}', i, {due_at} FROM n"
    );
    sql(dir, &insert).await;
}

/// The page, while the sandbox goes on answering.
pub async fn page(dir: &std::path::Path) -> String {
    let dir = dir.to_owned();
    blocking(move || run(&dir, &["status"])).await
}

#[tokio::test]
async fn there_is_no_estimate_while_what_is_left_waits_for_a_person() {
    let dir = tempfile::tempdir().unwrap();
    queue(dir.path(), 1_000).await;
    // A hold that ends by itself is none of these, and neither is one that is over.
    let over = from_now(-1);
    for (hold, said) in [
        ("('a', 'operator', NULL)".to_owned(), "not while a is held (1,000 of 1,000 rows)"),
        (format!("('a', 'forbidden', {})", from_now(60)), "not while a is held (1,000 of 1,000 rows)"),
        (format!("('a', 'unknown_agent', {over})"), "not while a is held (1,000 of 1,000 rows)"),
        ("('*', 'operator', NULL)".to_owned(), "not while everything is held (1,000 of 1,000 rows)"),
        (format!("('*', 'throttled', {})", from_now(60)), "not before a daemon runs"),
        (format!("('a', 'operator', {over})"), "not before a daemon runs"),
    ] {
        sql(dir.path(), "DELETE FROM holds").await;
        sql(dir.path(), &format!("INSERT INTO holds (scope, cause, until_at) VALUES {hold}")).await;
        let shown = page(dir.path()).await;
        assert!(shown.contains(&format!("\nempty      {said}\n")), "{hold}: {shown}");
        let told = report(dir.path(), &[]).await;
        let is_stopped = said.starts_with("not while");
        assert_eq!(told["empty_in_s"], Value::Null);
        assert_eq!(told["holds"][0]["needs_a_person"], is_stopped, "{told}");
        assert_eq!(told["rest_empty_in_s"], if is_stopped { json!(0) } else { Value::Null }, "{told}");
        if is_stopped {
            let scope = if hold.contains('*') { "everything" } else { "a" };
            let cause = told["holds"][0]["cause"].as_str().unwrap();
            assert!(shown.contains(&format!("  held   1,000  until a person acts: {scope}, {cause}\n")), "{shown}");
            assert_eq!(
                (waits(&told), &told["holds"][0]["rows"]),
                (expected(&[("needs_a_person", 1_000)]), &json!(1_000))
            );
        }
    }
}

#[tokio::test]
async fn of_a_part_that_waits_for_a_person_the_rest_is_estimated_and_the_part_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), 1).await;
    let mut command = configured(dir.path(), &sandbox);
    command.env("SWEEPER__DELIVERY__LINGER", "1h").env("SWEEPER__DELIVERY__BATCH_SIZE", "2");
    sql(dir.path(), "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', 2)").await;
    let _daemon = Daemon::start(command).until("request").await;
    while report(dir.path(), &[]).await["rows"]["deleted"] != 2 {}
    sql(dir.path(), "INSERT INTO holds (scope) VALUES ('b'), ('c')").await;
    sql(dir.path(), "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', 3)").await;
    more(dir.path(), "b", 300, 0).await;
    let shown = page(dir.path()).await;
    assert!(shown.contains("at the pace of the last minutes\n           but b is held (300 of 301 rows)\n"), "{shown}");
    more(dir.path(), "c", 10, 0).await;
    let shown = page(dir.path()).await;
    assert!(shown.contains("\n           but b and 1 other are held (310 of 311 rows)\n"), "{shown}");
    let told = report(dir.path(), &[]).await;
    assert_eq!(waits(&told), expected(&[("needs_a_person", 310), ("gathering", 1)]));
    assert!(told["rest_empty_in_s"].as_u64().is_some() && told["empty_in_s"].is_null(), "{told}");
    let first: Vec<&str> =
        told["agents"].as_array().unwrap().iter().map(|agent| agent["agent_id"].as_str().unwrap()).collect();
    assert_eq!(first, ["b", "c", "a"], "what needs a person comes first");
}

#[tokio::test]
async fn rows_that_share_a_request_wait_as_long_as_the_daemon_says_and_not_as_we_would() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), 3).await;
    let mut command = configured(dir.path(), &sandbox);
    command.env("SWEEPER__DELIVERY__LINGER", "2h").env("SWEEPER__DELIVERY__BATCH_SIZE", "7");
    let daemon = Daemon::start(command).until("started").await;
    let mut told = report(dir.path(), &[]).await;
    while told["daemon"]["linger_s"].is_null() {
        told = report(dir.path(), &[]).await;
    }
    assert_eq!((&told["daemon"]["linger_s"], &told["daemon"]["batch_size"]), (&json!(7_200.0), &json!(7)), "{told}");
    assert_eq!(waits(&told), expected(&[("gathering", 3)]));
    let until = told["waits"][0]["until_at"].as_i64().unwrap();
    assert!((from_now(7_100)..=from_now(7_200)).contains(&until), "{told}");
    assert_eq!((&told["agents"][0]["waits_for"], &told["agents"][0]["until_at"]), (&json!("gathering"), &json!(until)));
    let shown = page(dir.path()).await;
    assert!(shown.contains(" UTC to share a request\n") && shown.contains("others until "), "{shown}");
    // A part of a request that failed does not wait for others.
    sql(dir.path(), "UPDATE deletions SET batch_max = 2").await;
    let told = report(dir.path(), &[]).await;
    assert!(waits(&told).iter().all(|(reason, _)| reason != "gathering"), "{told}");
    drop(daemon);
    let told = report(dir.path(), &[]).await;
    assert!(waits(&told).iter().all(|(reason, _)| ["no_daemon", "in_flight"].contains(&reason.as_str())), "{told}");
}

#[tokio::test]
async fn rows_that_wait_for_the_rate_are_told_how_long_that_takes_at_least() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), 60).await;
    more(dir.path(), "later", 4, from_now(100_000)).await;
    let mut command = configured(dir.path(), &sandbox);
    command.env("SWEEPER__RATE_LIMIT__REQUESTS_PER_SECOND", "0.01").env("SWEEPER__RATE_LIMIT__BURST", "1");
    let _daemon = Daemon::start(command).until("request").await;
    let mut told = report(dir.path(), &[]).await;
    while told["rows"]["deleted"] != 20 {
        told = report(dir.path(), &[]).await;
    }
    assert_eq!(waits(&told), expected(&[("rate", 40), ("due_later", 4)]));
    let shown = page(dir.path()).await;
    assert!(shown.contains("for the rate: 2 requests in 3m 20s at least\n"), "{shown}");
    assert!(shown.contains("  next due 2"), "{shown}");
    assert_eq!(told["agents"][1]["waits_for"], "due_later");
    assert!(told["agents"][1]["next_due_at"].as_i64().unwrap() > from_now(90_000));
    sql(dir.path(), "DELETE FROM deletions WHERE agent_id = 'later'").await;
    let told = report(dir.path(), &[]).await;
    assert!(told["empty_in_s"].as_u64().unwrap() >= 200, "not faster than the rate: {told}");
}

#[tokio::test]
async fn rows_that_wait_for_a_call_to_end_are_told_how_many_may_be_in_flight() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    sandbox.script([Mood::Gate]);
    queue(dir.path(), 50).await;
    let mut command = configured(dir.path(), &sandbox);
    command.env("SWEEPER__DELIVERY__CONCURRENCY", "1");
    let daemon = Daemon::start(command).until("started").await;
    sandbox.arrived(1).await;
    let told = report(dir.path(), &[]).await;
    assert_eq!(waits(&told), expected(&[("concurrency", 30), ("in_flight", 20)]));
    let shown = page(dir.path()).await;
    assert!(
        shown.contains("in flight  1 request with 20 rows\n           at most 1 request (the ceiling)\n"),
        "{shown}"
    );
    assert!(shown.contains("for an answer: as many calls as may be are in flight, 1\n"), "{shown}");
    // Another agent waits for the same calls.
    more(dir.path(), "b", 2, 0).await;
    assert_eq!(waits(&report(dir.path(), &["--agent", "b"]).await), expected(&[("concurrency", 2)]));
    drop(daemon);
    let told = report(dir.path(), &[]).await;
    assert_eq!(waits(&told), expected(&[("no_daemon", 32), ("in_flight", 20)]), "until the next one settles them");
    assert!(page(dir.path()).await.contains("  no daemon runs\n"));
}

#[tokio::test]
async fn an_agent_without_a_row_is_said_to_have_none_and_the_nearest_are_named() {
    let dir = tempfile::tempdir().unwrap();
    sweeper(dir.path()).arg("init").output().unwrap();
    let asked = |arguments: &[&str]| {
        let mut command = sweeper(dir.path());
        command.arg("status").args(arguments);
        fed(command, "")
    };
    let place = dir.path().join("sweeper.db");
    let none = |agent: &str, rest: &str| {
        let said = format!("sweeper: there is no row of agent {agent} in {}; {rest}\n", place.display());
        (1, String::new(), said)
    };
    assert_eq!(asked(&["--agent", "NOPE"]), none("NOPE", "there is no row at all"));
    more(dir.path(), "PROJECT-58RP822I", 3, 0).await;
    more(dir.path(), "PROJECT-9", 1, 0).await;
    sql(dir.path(), "UPDATE deletions SET state = 'deleted', settled_at = 1 WHERE agent_id = 'PROJECT-9'").await;
    let others = "2 agents have rows, and none of a similar name: `sweeper status` lists them";
    for (agent, rest) in [
        ("NOPE", others),
        ("PROJECT-58RP8221", "did you mean PROJECT-58RP822I?"),
        ("project-58rp822i", "did you mean PROJECT-58RP822I?"),
        ("PROJECT-8", "did you mean PROJECT-9?"),
        ("PROJECT", "did you mean PROJECT-58RP822I or PROJECT-9?"),
    ] {
        for arguments in [&["--agent", agent][..], &["--agent", agent, "--json"], &["--agent", agent, "--watch=1h"]] {
            assert_eq!(asked(arguments), none(agent, rest), "{arguments:?}");
        }
    }
    let (code, out, _) = asked(&["--agent", "PROJECT-9"]);
    assert!(code == 0 && out.contains("\ndeleted     1\n"), "a settled row is a row: {out}");
}
