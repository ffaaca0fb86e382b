//! `status` gives a time only where there is one: not while what is left is held, and not without a pace.

use audio_cache_sweeper::sandbox::{Mood, Options};
use serde_json::{Value, json};

use super::{from_now, report, run, why::page};
use crate::daemon::{Daemon, configured, queue, sandbox, sql};

/// The lines that tell when the queue will be empty.
fn empty(page: &str) -> String {
    let lines = page.lines().skip_while(|line| !line.starts_with("empty ")).take_while(|line| !line.is_empty());
    lines.map(|line| line[11..].to_owned()).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn in_a_total_outage_there_is_no_time_and_the_hold_is_named() {
    for (status, cause) in [(500, "server_error"), (429, "throttled")] {
        let dir = tempfile::tempdir().unwrap();
        let headers = vec![("retry-after", "600".to_owned())];
        let sandbox = sandbox(Options { error_ratio: 1.0, ..Options::default() }).await;
        let refused = || Mood::Say { status, headers: headers.clone(), body: String::new() };
        sandbox.script((0..50).map(|_| refused()));
        queue(dir.path(), 60).await;
        let _daemon = Daemon::start(configured(dir.path(), &sandbox)).until("hold_placed").await;
        let mut told = report(dir.path(), &[]).await;
        // The log has it before the database.
        while told["holds"] == json!([]) {
            told = report(dir.path(), &[]).await;
        }
        assert_eq!((&told["ended_per_minute"], &told["empty_in_s"]), (&json!(0.0), &Value::Null), "{told}");
        let said = empty(&page(dir.path()).await);
        let is_named =
            said.starts_with("not before a probe gets through:") && said.ends_with(&format!("held ({cause})"));
        assert!(is_named, "{said}");
    }
}

#[tokio::test]
async fn what_no_hold_stops_has_no_time_without_a_pace_either() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), 0).await;
    sql(dir.path(), "DELETE FROM deletions").await;
    let due = from_now(600);
    sql(dir.path(), &format!("INSERT INTO deletions (agent_id, entry_id, due_at) VALUES ('a', 1, {due})")).await;
    let _daemon = Daemon::start(configured(dir.path(), &sandbox)).until("started").await;
    let told = report(dir.path(), &[]).await;
    assert_eq!((&told["empty_in_s"], &told["rest_empty_in_s"]), (&Value::Null, &Value::Null), "{told}");
    assert_eq!(empty(&page(dir.path()).await), "cannot be estimated: no row reached an end lately");
}

#[tokio::test]
async fn where_only_held_rows_are_left_only_they_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), 4).await;
    let _daemon = Daemon::start(configured(dir.path(), &sandbox)).until("request").await;
    while report(dir.path(), &[]).await["rows"]["deleted"] != 4 {}
    let soon = from_now(600);
    // The daemon lifts its own hold on an agent without rows.
    sql(dir.path(), &format!("INSERT INTO deletions (agent_id, entry_id, due_at) VALUES ('b', 1, {soon})")).await;
    let holds = format!("('LOCKED', 'operator', NULL), ('c', 'operator', NULL), ('b', 'server_error', {soon})");
    sql(dir.path(), &format!("INSERT INTO holds (scope, cause, until_at) VALUES {holds}")).await;
    let rows = "('LOCKED', 1), ('LOCKED', 2), ('LOCKED', 3), ('c', 1)";
    sql(dir.path(), &format!("INSERT INTO deletions (agent_id, entry_id) VALUES {rows}")).await;
    let told = report(dir.path(), &[]).await;
    assert!(told["empty_in_s"].is_null() && told["ended_per_minute"].as_f64().unwrap() > 0.0, "{told}");
    let stopped = "not while LOCKED and 1 other are held (4 of 5 rows)\n";
    let said = empty(&page(dir.path()).await);
    assert_eq!(said, format!("{stopped}not before a probe gets through:\nb is held (server_error)"));
    // Something else goes on, and is estimated.
    let rows = format!("INSERT INTO deletions (agent_id, entry_id, due_at) VALUES ('d', 1, {soon})");
    sql(dir.path(), &rows).await;
    let said = empty(&page(dir.path()).await);
    let (first, rest) = said.split_once('\n').unwrap();
    assert!(first.starts_with("in about 9m ") && first.ends_with(", when the last row is due"), "{said}");
    let held = "but LOCKED and 1 other are held (4 of 6 rows)\nbut b is held until a probe gets through (server_error)";
    assert_eq!(rest, held);
}

#[tokio::test]
async fn a_hold_that_needs_a_person_is_said_to_be_probed_by_a_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), 3).await;
    let until = from_now(600);
    let hold = format!("INSERT INTO holds (scope, cause, until_at) VALUES ('a', 'unknown_agent', {until})");
    sql(dir.path(), &hold).await;
    assert!(!run(dir.path(), &["status"]).contains("one request probes"), "no daemon runs");
    let _daemon = Daemon::start(configured(dir.path(), &sandbox)).until("started").await;
    // In one transaction: without the hold, the rows would go.
    sql(dir.path(), &format!("BEGIN IMMEDIATE; DELETE FROM holds; {hold}; COMMIT")).await;
    let shown = page(dir.path()).await;
    let line = shown.split("until a person acts: a, unknown_agent").nth(1).unwrap().lines().nth(1).unwrap();
    let told = regex::Regex::new(r"^ +or until (20\d\d-\d\d-\d\d )?\d\d:\d\d:\d\d UTC: one request probes$").unwrap();
    assert!(told.is_match(line), "{shown}");
}
