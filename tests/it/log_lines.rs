//! What the log says of requests and holds, and how loudly: through the binary.

use std::{fs, path::Path, process::Command, thread, time::Duration};

use audio_cache_sweeper::sandbox::{Mood, Options};

use crate::{
    daemon::{Daemon, KEY, blocking, configured, finish, open, queue, sandbox, sql, sweeper},
    suite::bed::listing,
};

/// The level and the counts of each `request` line of a run until the queue is empty.
async fn logged(requests: &str) -> (Vec<String>, String) {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), 20).await;
    sandbox.script([Mood::status(503), listing(&[], &["1"]), Mood::Plain]);
    let mut command = configured(dir.path(), &sandbox);
    command.args(["run", "--until-empty"]).env("SWEEPER__LOG__REQUESTS", requests);
    command.env("SWEEPER__DELIVERY__CONCURRENCY", "1").env("SWEEPER__LOG__FILTER", "info");
    let (code, log, _) = finish(command).await;
    assert_eq!(code, 0, "{log}");
    let lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let lines = lines.filter(|line| line["event"] == "request");
    (lines.map(|line| format!("{} {}", line["level"], line["deleted"])).collect(), log)
}

#[tokio::test]
async fn a_request_that_failed_is_a_warning_and_log_requests_says_which_are_logged() {
    // A fault, a 200 that deletes nothing, and one that deletes all.
    let [fault, nothing, done] = [r#""WARN" 0"#, r#""WARN" 0"#, r#""INFO" 20"#];
    assert_eq!(logged("all").await.0, [fault, nothing, done]);
    assert_eq!(logged("failed").await.0, [fault, nothing]);
    let (none, log) = logged("none").await;
    assert!(none.is_empty() && log.contains(r#""event":"stopped""#), "{log}");
}

#[tokio::test]
async fn dead_rows_and_holds_are_logged_whatever_log_requests_says() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options { forbidden: vec!["locked".to_owned()], ..Options::default() }).await;
    sandbox.script([Mood::status(400)]);
    queue(dir.path(), 1).await;
    let mut command = configured(dir.path(), &sandbox);
    command.env("SWEEPER__LOG__REQUESTS", "none");
    let daemon = Daemon::start(command).until("dead").await;
    sql(dir.path(), "INSERT INTO deletions (agent_id, entry_id) VALUES ('locked', 1)").await;
    let daemon = daemon.until("hold_placed").await;
    daemon.signal("TERM");
    let (code, log) = daemon.ended().await;
    assert_eq!((code, log.count("dead", "WARN"), log.count("hold_placed", "ERROR")), (0, 1, 1), "{log:#?}");
    assert_eq!(log.count("request", "INFO") + log.count("request", "WARN"), 0);
}

#[test]
fn a_word_for_log_requests_that_is_none_of_the_three_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = sweeper(dir.path());
    let output = command.arg("check").env("SWEEPER__LOG__REQUESTS", "some").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    let wrong = "log.requests = \"some\": must be one of all, failed, none";
    assert!(said.contains(wrong) && said.contains("SWEEPER__LOG__REQUESTS"), "{said}");
}

/// Moves the last probe of all holds into the past, so that a start may probe at once.
async fn long_ago(dir: &Path) {
    let mut conn = open(&dir.join("sweeper.db")).await;
    let past = "UPDATE holds SET since_at = since_at - 3600000, probed_at = probed_at - 3600000,
        until_at = until_at - 3600000";
    sqlx::raw_sql(past).execute(&mut conn).await.unwrap();
    sqlx::Connection::close(conn).await.unwrap();
}

/// A daemon that runs until it has logged this many holds.
async fn until_holds(command: Command, count: usize) -> (crate::daemon::Log, i32) {
    let mut daemon = Daemon::start(command);
    for _ in 0..count {
        daemon = daemon.until("hold_placed").await;
    }
    daemon.signal("TERM");
    let (code, log) = daemon.ended().await;
    (log, code)
}

#[tokio::test]
async fn a_key_that_is_still_wrong_after_a_restart_is_an_error_again_once() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), 1).await;
    let key = dir.path().join("key");
    fs::write(&key, "another-key").unwrap();
    let command = || {
        let mut command = configured(dir.path(), &sandbox);
        command.env_remove("SWEEPER__API__KEY").env("SWEEPER__API__KEY_FILE", "key");
        command.env("SWEEPER__HOLD__MAX_DELAY", "1s");
        command
    };
    // Its probes, of which one comes each second, are no errors.
    let (log, code) = until_holds(command(), 3).await;
    assert_eq!((code, log.count("hold_placed", "ERROR")), (0, 1), "{log:#?}");
    long_ago(dir.path()).await;
    let (log, code) = until_holds(command(), 4).await;
    assert_eq!((code, log.count("hold_placed", "ERROR")), (0, 1), "{log:#?}");
    assert!(log.count("hold_placed", "WARN") >= 3, "one for what the start finds, then the probes: {log:#?}");
    let remedy = log.last("hold_placed", "remedy");
    let file = format!("the key from api.key_file {} may be wrong, expired or another region's", key.display());
    assert!(remedy.contains(&file) && remedy.contains("api.base_url = http://127.0.0.1:"), "{remedy}");
    assert_eq!(log.last("hold_placed", "reason"), "the API does not accept the key");
    assert!(!log.last("hold_placed", "detail").is_empty(), "what the API said");
}

#[tokio::test]
async fn a_hold_for_an_answer_of_a_gateway_s_says_that_a_gateway_may_have_answered() {
    let page = |status| Mood::Say { status, headers: Vec::new(), body: "<html>no".to_owned() };
    let may = "he answer is not in the API's form: a gateway may have answered";
    for (mood, is_foreign) in [
        (page(401), true),
        (page(403), true),
        (page(404), true),
        (Mood::status(401), false),
        (Mood::status(403), false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let sandbox = sandbox(Options::default()).await;
        queue(dir.path(), 1).await;
        sandbox.script([mood.clone()]);
        let (log, _) = until_holds(configured(dir.path(), &sandbox), 1).await;
        let remedy = log.last("hold_placed", "remedy");
        assert_eq!(remedy.contains(may), is_foreign, "{mood:?}: {remedy}");
    }
}

#[tokio::test]
async fn a_request_says_why_nothing_is_deleted_and_which_rows_come_back_without_a_counted_attempt() {
    let (_, log) = logged("failed").await;
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |name: &str| {
        let lines = lines.iter().filter(|line| line["event"] == "request");
        lines.map(|line| line[name].clone()).collect::<Vec<_>>()
    };
    assert_eq!(of("fault"), ["server_error".into(), serde_json::Value::Null]);
    assert_eq!(of("cause"), [serde_json::Value::Null, "api_failed".into()]);
    assert_eq!(of("retried"), [20, 20]);
    assert_eq!(of("released"), [20, 0]);
    let stopped = lines.iter().find(|line| line["event"] == "stopped").unwrap();
    assert_eq!((&stopped["retried"], &stopped["released"]), (&40.into(), &20.into()));
}

#[tokio::test]
async fn another_key_is_logged_once_for_all_requests_that_were_sent_with_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options { latency: Duration::from_millis(200), ..Options::default() }).await;
    queue(dir.path(), 0).await;
    fs::write(dir.path().join("key"), "an-old-key").unwrap();
    let mut command = configured(dir.path(), &sandbox);
    command.env_remove("SWEEPER__API__KEY").env("SWEEPER__API__KEY_FILE", "key");
    let daemon = Daemon::start(command).until("started").await;
    fs::write(dir.path().join("key"), KEY).unwrap();
    let rows = "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', 1), ('b', 1), ('c', 1), ('d', 1)";
    sql(dir.path(), rows).await;
    while !sql(dir.path(), "SELECT state FROM deletions WHERE state = 'pending'").await.is_empty() {
        blocking(|| thread::sleep(Duration::from_millis(20))).await;
    }
    daemon.signal("TERM");
    let (code, log) = daemon.ended().await;
    let requests = sandbox.requests();
    let refused = requests.iter().filter(|request| request.headers["x-api-key"] == "an-old-key").count();
    assert!(code == 0 && refused > 1, "several were in flight: {refused} {log:#?}");
    assert_eq!(log.count("key_changed", "INFO"), 1, "{log:#?}");
}

#[tokio::test]
async fn a_start_names_the_holds_that_it_finds_and_their_remedies() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options { forbidden: vec!["a".to_owned()], ..Options::default() }).await;
    queue(dir.path(), 1).await;
    let (log, _) = until_holds(configured(dir.path(), &sandbox), 1).await;
    assert_eq!(log.count("hold_placed", "ERROR"), 1);
    // Its probe comes in a minute, because the last one was just now.
    let (log, _) = until_holds(configured(dir.path(), &sandbox), 1).await;
    assert_eq!((log.count("hold_placed", "WARN"), log.count("hold_placed", "ERROR")), (1, 0), "{log:#?}");
    let said = ["scope", "cause", "reason"].map(|field| log.last("hold_placed", field));
    assert_eq!(said, ["a", "forbidden", "the API says that the key lacks a permission"]);
    let remedy = log.last("hold_placed", "remedy");
    assert!(remedy.contains("api.key (set by SWEEPER__API__KEY)") && remedy.contains("`write`"), "{remedy}");
    // Then it is an error again.
    long_ago(dir.path()).await;
    let (log, _) = until_holds(configured(dir.path(), &sandbox), 2).await;
    assert_eq!((log.count("hold_placed", "WARN"), log.count("hold_placed", "ERROR")), (1, 1), "{log:#?}");
}
