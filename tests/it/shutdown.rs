//! Told to stop, whatever it is doing: no new claim, what is on its way may come back, and it ends with 0.

use std::path::Path;

use audio_cache_sweeper::sandbox::{Mood, Options, Sandbox};

use crate::daemon::{Daemon, Locked, Log, configured, queue, sandbox, sql};

async fn states(dir: &Path) -> Vec<String> {
    let states = "SELECT state || attempts || coalesce(last_cause, '') || maybe_done FROM deletions ORDER BY id";
    sql(dir, states).await.into_iter().map(|(state,)| state).collect()
}

async fn stopped(daemon: Daemon) -> Log {
    let (code, log) = daemon.ended().await;
    assert_eq!(code, 0, "{log:#?}");
    assert_eq!((log.count("stopping", "INFO"), log.last("stopping", "why").as_str()), (1, "told"));
    assert_eq!(log.last("stopped", "exit_code"), "0");
    log
}

#[tokio::test]
async fn idle_it_ends_at_once_however_seldom_it_polls() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), 1).await;
    let mut command = configured(dir.path(), &sandbox);
    command.env("SWEEPER__QUEUE__POLL_INTERVAL", "10m").env("SWEEPER__LOG__FILTER", "debug");
    // Once its one request is settled there is nothing to do for ten minutes.
    let daemon = Daemon::start(command).until("request").await;
    while states(dir.path()).await != ["deleted10"] {
        tokio::task::yield_now().await;
    }
    daemon.signal("TERM");
    stopped(daemon).await;
    assert_eq!(states(dir.path()).await, ["deleted10"]);
}

#[tokio::test]
async fn waiting_for_a_permit_it_claims_nothing_more() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), 40).await;
    let mut command = configured(dir.path(), &sandbox);
    command.env("SWEEPER__RATE_LIMIT__REQUESTS_PER_SECOND", "0.01").env("SWEEPER__RATE_LIMIT__BURST", "1");
    let daemon = Daemon::start(command).until("request").await;
    daemon.signal("TERM");
    stopped(daemon).await;
    assert_eq!(sandbox.requests().len(), 1);
    let counts = "SELECT state || count(*) || '/' || sum(attempts) FROM deletions GROUP BY state";
    assert_eq!(sql(dir.path(), counts).await, [("deleted20/20".to_owned(),), ("pending20/0".to_owned(),)]);
    assert_eq!(sql(dir.path(), "SELECT '' || count(*) FROM requests").await, [("1".to_owned(),)]);
}

#[tokio::test]
async fn calling_it_lets_the_call_finish_and_claims_nothing_more() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    let daemon = Daemon::start_calling(dir.path(), &sandbox, Mood::Gate, "10s").await;
    daemon.signal("TERM");
    let daemon = daemon.until("stopping").await;
    sql(dir.path(), "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', 2)").await;
    sandbox.open_gate();
    stopped(daemon).await;
    assert_eq!(states(dir.path()).await, ["deleted10", "pending00"]);
}

#[tokio::test]
async fn what_does_not_finish_within_the_grace_period_is_settled_as_lost() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    let daemon = Daemon::start_calling(dir.path(), &sandbox, Mood::Hang, "50ms").await;
    daemon.signal("INT");
    stopped(daemon).await;
    assert_eq!(states(dir.path()).await, ["pending0lost1"]);
    let request = "SELECT fault || retried FROM requests WHERE answered_at IS NOT NULL";
    assert_eq!(sql(dir.path(), request).await, [("lost1".to_owned(),)]);
    assert_eq!(sql(dir.path(), "SELECT cause FROM holds").await, [], "our own haste says nothing about the API");
}

#[tokio::test]
async fn settling_it_writes_what_came_back_and_claims_nothing_in_the_same_transaction() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    sandbox.script([Mood::Plain, Mood::Gate]);
    queue(dir.path(), 60).await;
    let mut command = configured(dir.path(), &sandbox);
    // One at a time: when the second has come back, the third is claimed by the transaction that settles it. By then
    // the pruning that a start begins with is done, and with so rare polls it is not gone on with.
    command
        .env("SWEEPER__DELIVERY__CONCURRENCY", "1")
        .env("SWEEPER__QUEUE__POLL_INTERVAL", "10m")
        .env("SWEEPER__DATABASE__BUSY_TIMEOUT", "1m");
    let daemon = Daemon::start(command).until("request").await;
    sandbox.arrived(2).await;
    let locked = Locked::new(dir.path()).await;
    sandbox.open_gate();
    // The line comes when the answer is judged; what it does next is to wait for the lock.
    let daemon = daemon.until("request").await;
    daemon.signal("TERM");
    // The signal has reached it when no more are waiting.
    let status = format!("/proc/{}/status", daemon.pid());
    let reached = || std::fs::read_to_string(&status).unwrap().lines().any(|line| line == "ShdPnd:\t0000000000000000");
    while !reached() {
        tokio::task::yield_now().await;
    }
    locked.release().await;
    let log = stopped(daemon).await;
    assert_eq!(log.count("database_waiting", "WARN"), 0, "it waited inside of SQLite");
    assert_eq!(sandbox.requests().len(), 2);
    let counts = "SELECT state || count(*) || '/' || sum(attempts) FROM deletions GROUP BY state";
    assert_eq!(sql(dir.path(), counts).await, [("deleted40/40".to_owned(),), ("pending20/0".to_owned(),)]);
    assert_eq!(sql(dir.path(), "SELECT '' || count(*) FROM requests").await, [("2".to_owned(),)]);
}

#[tokio::test]
async fn held_it_ends_at_once_and_the_hold_stays() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options { forbidden: vec!["a".to_owned()], ..Options::default() }).await;
    queue(dir.path(), 1).await;
    let daemon = Daemon::start(configured(dir.path(), &sandbox)).until("hold_placed").await;
    daemon.signal("TERM");
    stopped(daemon).await;
    assert_eq!(states(dir.path()).await, ["pending0forbidden0"]);
    assert_eq!(sql(dir.path(), "SELECT scope || cause FROM holds").await, [("aforbidden".to_owned(),)]);
}

/// Told to end while an answer cannot be written, because somebody else has the file.
async fn told_while_locked(dir: &Path, sandbox: &Sandbox, grace: &str) -> (Daemon, Locked) {
    sandbox.script([Mood::Gate]);
    queue(dir, 1).await;
    let mut command = configured(dir, sandbox);
    command.env("SWEEPER__DATABASE__BUSY_TIMEOUT", "10ms").env("SWEEPER__SHUTDOWN__GRACE", grace);
    let daemon = Daemon::start(command).until("started").await;
    sandbox.arrived(1).await;
    let locked = Locked::new(dir).await;
    sandbox.open_gate();
    let daemon = daemon.until("database_waiting").await;
    daemon.signal("TERM");
    (daemon, locked)
}

#[tokio::test]
async fn waiting_for_a_locked_database_it_writes_what_it_knows_if_that_is_free_within_the_grace_period() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    let (daemon, locked) = told_while_locked(dir.path(), &sandbox, "1m").await;
    let daemon = daemon.until("stopping").await;
    locked.release().await;
    let log = stopped(daemon).await;
    assert_eq!((log.count("database_waiting", "WARN"), log.count("database_back", "INFO")), (1, 1));
    assert_eq!(states(dir.path()).await, ["deleted10"]);
}

#[tokio::test]
async fn an_answer_that_cannot_be_written_within_the_grace_period_ends_with_3_and_the_next_start_settles_it_as_lost() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    let (daemon, locked) = told_while_locked(dir.path(), &sandbox, "50ms").await;
    let (code, log) = daemon.ended().await;
    assert_eq!(code, 3, "{log:#?}");
    assert!(log.last("stopped", "error").contains("busy_timeout"), "{log:#?}");
    locked.release().await;
    let mut again = configured(dir.path(), &sandbox);
    again.env("SWEEPER__RETRY__BASE_DELAY", "1h");
    let daemon = Daemon::start(again).until("recovered").await;
    daemon.signal("TERM");
    stopped(daemon).await;
    assert_eq!(states(dir.path()).await, ["pending1lost1"]);
}
