//! `sweeper plan`, from outside: what would go out, in which order, and that nothing does.

use std::{fs, path::Path};

use audio_cache_sweeper::sandbox::{Mood, Options};
use regex::Regex;
use serde_json::Value;

use crate::{
    bed::UNCHECKED,
    daemon::{Daemon, configured, finish, queue, sandbox, sql, sweeper},
};

async fn plan(dir: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = sweeper(dir);
    command.arg("plan").args(arguments);
    finish(command).await
}

async fn page(dir: &Path) -> String {
    let (code, out, err) = plan(dir, &[]).await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    // Time goes on.
    Regex::new(r"(\d+[dhm]) \d+[hms]").unwrap().replace_all(&out, "$1").into_owned()
}

async fn report(dir: &Path, arguments: &[&str]) -> Value {
    let (code, out, err) = plan(dir, &[&["--json"], arguments].concat()).await;
    assert_eq!((code, err.as_str(), out.lines().count()), (0, "", 1), "{out}");
    serde_json::from_str(&out).unwrap()
}

/// Rows of every kind: split ones, rows with a priority, rows for later, and holds.
async fn busy(dir: &Path) {
    queue(dir, 1_001).await;
    let later = |hours: u32| format!("(CAST(strftime('%s', 'now') AS INTEGER) + {hours} * 3600 + 60) * 1000");
    for statement in [
        format!("INSERT INTO deletions (agent_id, entry_id, due_at) VALUES ('later', 1, {0}), ('later', 2, {0})", later(2)),
        format!("INSERT INTO deletions (agent_id, entry_id, due_at) VALUES ('even-later', 1, {})", later(49)),
        "INSERT INTO deletions (agent_id, entry_id, batch_max)
         VALUES ('split', 1, 20), ('split', 2, 1), ('split', 3, 1), ('split', 4, 0), ('split', 5, 5)"
            .to_owned(),
        "INSERT INTO deletions (agent_id, entry_id, priority) VALUES ('urgent', 1, 10), ('a', 'now', 10)".to_owned(),
        format!("INSERT INTO deletions (agent_id, entry_id) VALUES ('{}', 1)", "long-".repeat(51)),
        "INSERT INTO deletions (agent_id, entry_id) VALUES ('held', 1), ('held', 2), ('refused', 1), ('probed', 1)".to_owned(),
        format!(
            "INSERT INTO holds (scope, cause, until_at) VALUES ('held', 'operator', NULL), ('held', 'server_error', {0}),
                 ('refused', 'forbidden', {0}), ('probed', 'lost', 100000000000), ('nobody', 'operator', NULL),
                 ('split', 'operator', 100000000000)",
            later(1)
        ),
    ] {
        sql(dir, &statement).await;
    }
}

#[tokio::test]
async fn it_shows_who_goes_in_which_order_and_what_is_held() {
    let dir = tempfile::tempdir().unwrap();
    sweeper(dir.path()).arg("init").output().unwrap();
    insta::assert_snapshot!("nothing", page(dir.path()).await);
    busy(dir.path()).await;
    let shown = page(dir.path()).await;
    assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
    insta::assert_snapshot!("of_everything", shown);
    let statement = "INSERT INTO deletions (agent_id, entry_id)
        WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300) SELECT 'agent-' || i, 1 FROM n";
    sql(dir.path(), statement).await;
    let shown = page(dir.path()).await;
    assert!(shown.lines().count() <= 32 && shown.ends_with("… and 290 more; --json has all of them\n"), "{shown}");
    assert_eq!(report(dir.path(), &[]).await["agents"].as_array().unwrap().len(), 310);
}

#[tokio::test]
async fn it_counts_the_fewest_requests_that_the_daemon_then_needs() {
    let dir = tempfile::tempdir().unwrap();
    busy(dir.path()).await;
    let sandbox = sandbox(Options::default()).await;
    sql(dir.path(), "DELETE FROM holds").await;
    sql(dir.path(), "DELETE FROM deletions WHERE due_at > 0").await;
    let planned = report(dir.path(), &[]).await;
    assert_eq!((&planned["now"], &planned["held"]["rows"]), (&planned["total"], &0.into()), "{planned}");
    assert_eq!(planned["now_takes_s"], planned["now"]["requests"].as_f64().unwrap() / 5.0);
    let mut command = configured(dir.path(), &sandbox);
    command.args(["run", "--until-empty"]).env("SWEEPER__DELIVERY__LINGER", "50ms");
    assert_eq!(finish(command).await.0, 0);
    assert_eq!(planned["now"]["requests"], sandbox.requests().len());
    let first: Vec<String> = sandbox.requests().iter().take(2).map(|request| request.uri.clone()).collect();
    let mut planned: Vec<String> = planned["agents"]
        .as_array()
        .unwrap()
        .iter()
        .take(2)
        .map(|agent| format!("/v1/agents/{}/audio-cache/bulk-delete", agent["agent_id"].as_str().unwrap()))
        .collect();
    planned.sort();
    assert!(first.iter().all(|uri| planned.contains(uri)), "{first:?} {planned:?}: the highest priority goes first");
}

#[tokio::test]
async fn it_takes_the_rate_of_the_daemon_that_runs_and_tells_what_is_in_flight() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    let daemon = Daemon::start_calling(dir.path(), &sandbox, Mood::Gate, "8s").await;
    let told = report(dir.path(), &[]).await;
    let (rate, pid) = (&told["requests_per_second"], &told["daemon"]);
    assert_eq!((rate, pid), (&1_000.0.into(), &daemon.pid().into()), "{told}");
    assert_eq!(told["in_flight"], serde_json::json!({"rows": 1, "requests": 1}));
    let shown = page(dir.path()).await;
    assert!(
        shown.contains("the rate of the daemon (process ") && shown.contains("1 row in 1 request of the total\n"),
        "{shown}"
    );
    daemon.signal("KILL");
    daemon.ended().await;
    let shown = page(dir.path()).await;
    assert!(
        shown.contains("5.00 requests/s, configured; no daemon runs") && shown.contains("the next daemon settles"),
        "{shown}"
    );
}

#[tokio::test]
async fn a_row_that_no_request_can_carry_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    queue(dir.path(), 3).await;
    for statement in
        [UNCHECKED, "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', '1 2'), ('b', 'x'), ('c c', '1')"]
    {
        let mut conn = crate::daemon::open(&dir.path().join("sweeper.db")).await;
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("{UNCHECKED}; {statement}"))).execute(&mut conn).await.unwrap();
        sqlx::Connection::close(conn).await.unwrap();
    }
    assert_eq!(report(dir.path(), &[]).await["refused"], 2);
    assert_eq!(report(dir.path(), &["--agent", "a"]).await["refused"], 1);
    assert_eq!(report(dir.path(), &["--agent", "b"]).await["refused"], 0);
    let shown = page(dir.path()).await;
    assert!(shown.contains("\nrefused    2 more rows have values that no request can carry"), "{shown}");
}

#[tokio::test]
async fn rows_that_no_request_can_carry_are_in_no_sum() {
    let dir = tempfile::tempdir().unwrap();
    queue(dir.path(), 3).await;
    let statement = "INSERT INTO deletions (agent_id, entry_id, due_at)
        VALUES ('a', '1 2', 0), ('c c', '1', 0), ('a', 'never', 1e300), ('d', 'late', 9e18), ('d', 'soon', 'soon')";
    sql(dir.path(), &format!("{UNCHECKED}; {statement}")).await;
    let told = report(dir.path(), &[]).await;
    let carried = serde_json::json!({"rows": 3, "requests": 1});
    assert_eq!((&told["now"], &told["total"], &told["later"]["rows"]), (&carried, &carried, &0.into()), "{told}");
    assert_eq!((&told["refused"], told["agents"].as_array().unwrap().len()), (&5.into(), 1), "{told}");
    let shown = page(dir.path()).await;
    assert!(shown.contains("\nnow        3 rows in 1 request: ") && !shown.contains("\nlater "), "{shown}");
    // An agent that has only such rows has rows.
    let (code, out, err) = plan(dir.path(), &["--agent", "d"]).await;
    assert!(code == 0 && err.is_empty() && out.contains("\nrefused    2 more rows have values "), "{out}{err}");
}

#[tokio::test]
async fn the_time_that_a_hold_lasts_has_two_units_as_in_status() {
    let dir = tempfile::tempdir().unwrap();
    let now = "CAST(strftime('%s', 'now') AS INTEGER)";
    for (agent, cause, seconds) in [("PROJECT-58RP822I", "unknown_agent", 5_399), ("b", "server_error", 604_790)] {
        sweeper(dir.path()).arg("init").output().unwrap();
        sql(dir.path(), &format!("INSERT INTO deletions (agent_id, entry_id) VALUES ('{agent}', 1)")).await;
        let until = format!("({now} + {seconds}) * 1000");
        sql(dir.path(), &format!("INSERT INTO holds (scope, cause, until_at) VALUES ('{agent}', '{cause}', {until})"))
            .await;
    }
    sql(
        dir.path(),
        &format!("INSERT INTO deletions (agent_id, entry_id, due_at) VALUES ('c', 1, ({now} + 7199) * 1000)"),
    )
    .await;
    let (code, out, _) = plan(dir.path(), &[]).await;
    assert_eq!(code, 0);
    for goes in ["held 1h 29m: unknown_agent\n", "held 6d 23h: server_error\n", "  in 1h 59m\n"] {
        assert!(out.contains(goes), "no {goes:?} in {out}");
    }
    let mut narrow = sweeper(dir.path());
    narrow.arg("plan").env("COLUMNS", "80");
    let (_, narrow, _) = finish(narrow).await;
    assert!(narrow.contains("held 6d 23h: server_error\n"), "{narrow}");
}

#[tokio::test]
async fn an_agent_without_pending_rows_is_said_to_have_none() {
    let dir = tempfile::tempdir().unwrap();
    queue(dir.path(), 3).await;
    let (code, out, err) = plan(dir.path(), &["--agent", "NOPE"]).await;
    assert_eq!((code, out.as_str()), (1, ""));
    let path = dir.path().join("sweeper.db");
    assert!(err.starts_with(&format!("there is no row of agent NOPE in {}", path.display())), "{err}");
    sql(dir.path(), "UPDATE deletions SET state = 'deleted', settled_at = 1790000000000").await;
    let (code, out, err) = plan(dir.path(), &["--agent", "a"]).await;
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.starts_with(&format!("a: no row of this agent is pending in {}", path.display())), "{err}");
    sql(dir.path(), "UPDATE deletions SET state = 'pending', settled_at = NULL").await;
    let (code, out, _) = plan(dir.path(), &["--agent", "a"]).await;
    assert!(code == 0 && out.contains("3 rows in 1 request"), "{out}");
}

#[tokio::test]
async fn it_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    busy(dir.path()).await;
    let path = dir.path().join("sweeper.db");
    let before = fs::read(&path).unwrap();
    page(dir.path()).await;
    report(dir.path(), &["--agent", "a"]).await;
    assert!(before == fs::read(&path).unwrap());
    let nowhere = tempfile::tempdir().unwrap();
    let (code, _, err) = plan(nowhere.path(), &[]).await;
    assert!(code == 3 && err.contains("there is no such file"), "{err}");
    assert_eq!(fs::read_dir(nowhere.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn who_looks_for_a_dry_run_is_shown_the_way_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let tip = "tip: 'sweeper plan' shows what would go out, and sends nothing";
    for (arguments, is_told) in [
        (&["run", "--dry-run"][..], true),
        (&["run", "--dryrun"], true),
        (&["run", "--until-empty", "--simulate"], true),
        (&["--dry-run"], true),
        (&["demo", "--dry-run"], true),
        (&["run", "--no-such"], false),
        (&["status", "--dry-run"], false),
    ] {
        let mut command = sweeper(dir.path());
        command.args(arguments);
        let (code, _, err) = finish(command).await;
        assert_eq!((code, err.contains(tip)), (2, is_told), "{arguments:?}: {err}");
    }
}
