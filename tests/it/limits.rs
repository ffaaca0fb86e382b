//! The limits of the binary: what it says of them, and that a restart goes on from what was learnt.

use std::{path::Path, process::Command};

use audio_cache_sweeper::sandbox::{Mood, Options, RateHeaders, Sandbox};
use serde_json::Value;

use crate::{
    daemon::{Daemon, configured, finish, queue, sandbox, sql, sweeper},
    health::{address, listening, scrape, value},
};

/// With a ceiling of 100 requests a second, and a hold that outlasts the test.
fn daemon(dir: &Path, sandbox: &Sandbox) -> Command {
    let mut command = configured(dir, sandbox);
    command.env("SWEEPER__RATE_LIMIT__REQUESTS_PER_SECOND", "100").env("SWEEPER__RATE_LIMIT__BURST", "5");
    command.env("SWEEPER__HOLD__BASE_DELAY", "1h").env("SWEEPER__HOLD__MAX_DELAY", "1h");
    command
}

async fn status(dir: &Path, arguments: &[&str]) -> String {
    let mut command = sweeper(dir);
    command.arg("status").args(arguments);
    let (code, out, err) = finish(command).await;
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.starts_with('{') || out.lines().all(|line| line.chars().count() <= 80), "{out}");
    out
}

/// What the JSON says of the daemon, once it says `value` for `name`.
async fn told(dir: &Path, name: &str, value: &str) -> Value {
    loop {
        let report: Value = serde_json::from_str(&status(dir, &["--json"]).await).unwrap();
        if report["daemon"][name] == value {
            return report["daemon"].clone();
        }
    }
}

/// The limits in the log as event, from, to and why.
async fn changes(daemon: Daemon) -> Vec<(String, f64, f64, String)> {
    daemon.signal("TERM");
    let log = daemon.ended().await.1;
    let limits = log.lines().iter().filter(|line| line["from"].is_number());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    limits
        .map(|line| {
            let [from, to] = ["from", "to"].map(|name| line[name].as_f64().unwrap());
            (text(&line["event"]), from, to, text(&line["why"]))
        })
        .collect()
}

/// A queue whose daemon was throttled once, and ended. Returns the rate that it had then.
async fn throttled(dir: &Path, sandbox: &Sandbox) -> f64 {
    sandbox.script([Mood::status(429)]);
    queue(dir, 1).await;
    let daemon = Daemon::start(listening(daemon(dir, sandbox))).until("burst_changed").await;
    let told = told(dir, "rate_why", "found").await;
    let rate = told["requests_per_second"].as_f64().unwrap();
    assert!((90.0..100.0).contains(&rate) && told["rate_ceiling"] == 100.0, "{told}");
    let shown = status(dir, &[]).await;
    let line = format!("rate       at most {rate:.2} of 100 requests/s (found: the API throttled more)\n");
    assert!(shown.contains(&line), "{shown}");
    let families = scrape(address(&daemon)).await;
    let is = |sample: &str, expected: f64| assert_eq!(value(&families, sample), expected, "{sample}");
    is("sweeper_rate_requests_per_second", rate);
    is("sweeper_rate_ceiling_requests_per_second", 100.0);
    is("sweeper_limit_reason{limit=\"rate\",why=\"found\"}", 1.0);
    is("sweeper_limit_reason{limit=\"rate\",why=\"ceiling\"}", 0.0);
    is("sweeper_limit_reason{limit=\"concurrency\",why=\"ceiling\"}", 1.0);
    let expected = [("rate_changed", 100.0, rate), ("burst_changed", 5.0, 1.0)];
    let expected = expected.map(|(event, from, to)| (event.to_owned(), from, to, "throttled".to_owned()));
    assert_eq!(changes(daemon).await, expected);
    rate
}

#[tokio::test]
async fn a_restart_goes_on_from_what_was_learnt_and_status_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    let rate = throttled(dir.path(), &sandbox).await;
    // As if it had learnt a limit on requests in flight as well.
    sql(dir.path(), "UPDATE daemon SET learnt_concurrency = 4").await;
    let daemon = Daemon::start(daemon(dir.path(), &sandbox)).until("burst_changed").await;
    let told = told(dir.path(), "rate_why", "learnt").await;
    assert_eq!((&told["concurrency"], &told["concurrency_ceiling"]), (&4.into(), &8.into()), "{told}");
    assert_eq!(told["concurrency_why"], "throttled");
    let shown = status(dir.path(), &[]).await;
    let line = format!("rate       at most {rate:.2} of 100 requests/s (found before the restart)\n");
    assert!(shown.contains(&line), "{shown}");
    assert!(shown.contains("at most 4 of 8 requests (the API throttles more)\n"), "{shown}");
    let expected = [("rate_changed", 100.0, rate), ("concurrency_changed", 8.0, 4.0), ("burst_changed", 5.0, 1.0)];
    let expected = expected.map(|(event, from, to)| (event.to_owned(), from, to, "learnt".to_owned()));
    assert_eq!(changes(daemon).await[..3], expected);
}

#[tokio::test]
async fn what_is_too_old_or_nonsense_is_ignored_and_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    throttled(dir.path(), &sandbox).await;
    sql(dir.path(), "DELETE FROM deletions").await;
    sql(dir.path(), "DELETE FROM holds").await;
    sql(dir.path(), "CREATE TABLE kept AS SELECT * FROM daemon").await;
    for change in [
        "learnt_at = learnt_at - 3600000 - 600000",
        "learnt_at = learnt_at + 3600000",
        "learnt_at = 'yesterday'",
        "learnt_at = NULL",
        "learnt_at = 9e999",
        "learnt_at = x'00'",
        "learnt_rate = 'fast', learnt_even = 'yes', learnt_concurrency = 'many'",
        "learnt_rate = -1, learnt_even = -1, learnt_concurrency = -1",
        "learnt_rate = 0, learnt_even = 2, learnt_concurrency = 0",
        "learnt_rate = 9e999, learnt_even = 9e999, learnt_concurrency = 9223372036854775807",
        "learnt_rate = x'00', learnt_even = x'00', learnt_concurrency = 0.5",
    ] {
        sql(dir.path(), "INSERT OR REPLACE INTO daemon SELECT * FROM kept").await;
        sql(dir.path(), &format!("UPDATE daemon SET {change}")).await;
        let mut command = daemon(dir.path(), &sandbox);
        command.args(["run", "--until-empty"]);
        let (code, out, err) = finish(command).await;
        assert_eq!((code, err.as_str()), (0, ""), "{change}: {out}");
        assert!(!out.contains("learnt") && out.contains(r#""event":"started""#), "{change}: {out}");
        let left = sql(dir.path(), "SELECT rate_why || coalesce(learnt_at, '') FROM daemon").await;
        assert_eq!(left, [("ceiling".to_owned(),)], "{change}");
    }
}

#[tokio::test]
async fn a_rate_that_the_headers_tell_is_told_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let limits = vec!["600/60s".parse().unwrap()];
    let sandbox = sandbox(Options { limits, rate_headers: Some(RateHeaders::Ietf), ..Options::default() }).await;
    queue(dir.path(), 1).await;
    let _daemon = Daemon::start(daemon(dir.path(), &sandbox)).until("rate_changed").await;
    told(dir.path(), "rate_why", "told").await;
    let shown = status(dir.path(), &[]).await;
    assert!(shown.contains("rate       at most 9.80 of 100 requests/s (told by the API's headers)\n"), "{shown}");
    assert!(shown.contains("in flight  at most 8 requests (the ceiling)\n"), "{shown}");
}
