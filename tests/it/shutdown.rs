//! Told to stop, whatever it is doing: no new claim, what is on its way may come back, and it ends with 0.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use assert_cmd::assert::OutputAssertExt as _;
use audio_cache_sweeper::{
    model::clock::Clock,
    sandbox::{Mood, Options, Sandbox},
};

use crate::daemon::{
    BINARY, Daemon, Locked, Log, blocking, clean, configure, configured, finish, queue, sandbox, skipped, sql,
};

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
    assert_eq!(log.count("database_unavailable", "WARN"), 0, "it waited inside of SQLite");
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
    let daemon = daemon.until("database_unavailable").await;
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
    assert_eq!((log.count("database_unavailable", "WARN"), log.count("database_available", "INFO")), (1, 1));
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

#[tokio::test]
async fn a_second_signal_ends_it_at_once_if_it_comes_a_second_later() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    let daemon = Daemon::start_calling(dir.path(), &sandbox, Mood::Gate, "1h").await;
    daemon.signal("TERM");
    let daemon = daemon.until("stopping").await;
    daemon.signal("TERM");
    daemon.signal("INT");
    sandbox.open_gate();
    stopped(daemon).await;
    assert_eq!(states(dir.path()).await, ["deleted10"], "two within a second are one");

    sandbox.script([Mood::Hang]);
    sql(dir.path(), "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', 2)").await;
    let mut command = configured(dir.path(), &sandbox);
    command.env("SWEEPER__SHUTDOWN__GRACE", "1h");
    let daemon = Daemon::start(command).until("started").await;
    sandbox.arrived(2).await;
    daemon.signal("TERM");
    let daemon = daemon.until("stopping").await;
    blocking(|| thread::sleep(Duration::from_millis(1_100))).await;
    daemon.signal("TERM");
    let (code, log) = daemon.ended().await;
    assert_eq!((code, log.count("stopped_at_once", "WARN")), (1, 1), "{log:#?}");
    let said = ["signal", "requests"].map(|field| log.last("stopped_at_once", field));
    assert_eq!(said, ["SIGTERM", "1"], "one request has no answer");
    assert_eq!(sql(dir.path(), "SELECT 'open' FROM requests WHERE answered_at IS NULL").await.len(), 1);
}

#[tokio::test]
async fn the_two_signals_of_timeout_are_one_wish() {
    if Command::new("timeout").arg("--version").output().is_err() {
        return skipped("there is no timeout(1)");
    }
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    for _ in 0..5 {
        let mut command = configure(clean("timeout", dir.path()), &sandbox);
        command.args(["--preserve-status", "0.5", BINARY, "run"]);
        let (code, stdout, _) = finish(command).await;
        assert_eq!(code, 0, "{stdout}");
        assert!(stdout.contains(r#""event":"stopped""#), "{stdout}");
    }
}

#[tokio::test]
async fn under_nohup_a_terminal_that_is_closed_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    if !cfg!(target_os = "linux") {
        return skipped("only Linux tells whether a signal is ignored");
    }
    let mut command = configure(clean("sh", dir.path()), &sandbox);
    command.args(["-c", "trap '' HUP; exec \"$0\" run", BINARY]);
    let daemon = Daemon::spawn(command).until("started").await;
    daemon.signal("HUP");
    sql(dir.path(), "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', 1)").await;
    let daemon = daemon.until("request").await;
    daemon.signal("TERM");
    let log = stopped(daemon).await;
    assert_eq!(log.count("reloaded", "INFO"), 0, "nor is anything read again");
}

#[tokio::test]
async fn a_log_that_nobody_reads_stops_neither_the_work_nor_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), 4_000).await;
    let mut command = configured(dir.path(), &sandbox);
    // Some lines for each row: many times what a pipe holds.
    command.arg("run").env("SWEEPER__LOG__FILTER", "trace").stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    while !sql(dir.path(), "SELECT 'open' FROM deletions WHERE state = 'pending' LIMIT 1").await.is_empty() {}
    let clock = Clock::system();
    Command::new("kill").args(["-s", "TERM", &child.id().to_string()]).assert().success();
    let (code, child) = blocking(move || (child.wait().unwrap().code(), child)).await;
    assert_eq!(code, Some(0));
    assert!(clock.elapsed() < Duration::from_secs(5), "{:?}", clock.elapsed());
    drop(child);
    assert_eq!(sql(dir.path(), "SELECT '' || count(*) FROM deletions WHERE state = 'deleted'").await[0].0, "4000");
}

#[tokio::test]
async fn a_file_that_may_not_grow_is_waited_for_like_a_full_disk() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), 2_000).await;
    let mut command = configure(clean("sh", dir.path()), &sandbox);
    command.args(["-c", "ulimit -f 100; exec \"$0\" run", BINARY]).env("SWEEPER__SHUTDOWN__GRACE", "50ms");
    let daemon = Daemon::spawn(command).until("database_unavailable").await;
    daemon.signal("TERM");
    let (code, log) = daemon.ended().await;
    let error = log.last("database_unavailable", "error");
    let limit = "a file has reached the 50 KiB that this process may write (raise ulimit -f";
    assert!(error.contains(limit) || error.contains(&limit.replace("50", "100")), "{error}");
    assert!([0, 3].contains(&code), "{code}: {log:#?}");
    assert_eq!(log.count("stopped", if code == 0 { "INFO" } else { "ERROR" }), 1, "{log:#?}");
}

/// Makes a library that takes the place of a function of the C library; `None` if that cannot be done here.
fn instead(dir: &Path, code: &str) -> Option<PathBuf> {
    fs::write(dir.join("instead.c"), code).unwrap();
    let mut gcc = Command::new("gcc");
    gcc.args(["-shared", "-fPIC", "-o", "instead.so", "instead.c"]).current_dir(dir);
    let is_made = cfg!(target_os = "linux") && gcc.status().is_ok_and(|status| status.success());
    is_made.then(|| dir.join("instead.so"))
}

/// Resolves no name within half a minute.
const SLOW_RESOLVER: &str = "#include <unistd.h>
int getaddrinfo(const char *node, const char *service, const void *hints, void **found) { sleep(30); return -2; }";

#[tokio::test]
async fn a_resolver_that_hangs_does_not_keep_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    let Some(library) = instead(dir.path(), SLOW_RESOLVER) else { return skipped("there is no gcc, or no LD_PRELOAD") };
    queue(dir.path(), 1).await;
    let mut command = configured(dir.path(), &sandbox);
    command
        .env("SWEEPER__API__BASE_URL", "https://api.example.org")
        .env("SWEEPER__SHUTDOWN__GRACE", "200ms")
        .env("LD_PRELOAD", library);
    let daemon = Daemon::start(command).until("started").await;
    // Claimed, and on its way to a name.
    while sql(dir.path(), "SELECT 'open' FROM requests").await.is_empty() {}
    let clock = Clock::system();
    daemon.signal("TERM");
    let (code, log) = daemon.ended().await;
    assert_eq!((code, log.count("stopped", "INFO")), (0, 1), "{log:#?}");
    assert!(clock.elapsed() < Duration::from_millis(1_200), "{:?}", clock.elapsed());
}

/// Never comes back from sending a datagram, also if a signal is handled meanwhile: only the service manager gets any.
const SLOW_DATAGRAMS: &str = "#include <unistd.h>
long sendto(int fd, const void *data, unsigned long length, int flags, const void *to, unsigned size) {
    for (;;) sleep(600);
}";

#[tokio::test]
async fn signals_are_heard_while_the_loop_hangs() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    let Some(library) = instead(dir.path(), SLOW_DATAGRAMS) else {
        return skipped("there is no gcc, or no LD_PRELOAD");
    };
    let mut command = configured(dir.path(), &sandbox);
    command.env("LD_PRELOAD", library).env("NOTIFY_SOCKET", dir.path().join("notify"));
    let daemon = Daemon::start(command).until("started").await;
    daemon.signal("TERM");
    blocking(|| thread::sleep(Duration::from_millis(1_100))).await;
    daemon.signal("TERM");
    let clock = Clock::system();
    let (code, log) = daemon.ended().await;
    assert_eq!((code, log.count("stopped", "INFO")), (1, 0), "{log:#?}");
    assert!(clock.elapsed() < Duration::from_secs(5), "{:?}", clock.elapsed());
}
