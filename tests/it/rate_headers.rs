//! The limit that the API's headers tell, obeyed by the binary.

use std::path::Path;

use audio_cache_sweeper::sandbox::{Options, RateHeaders, Sandbox};
use serde_json::Value;

use crate::daemon::{configured, finish, queue, sandbox, sql};

/// Sends this many requests of one row each: the statuses that the sandbox gave, and the log.
async fn send(dir: &Path, sandbox: &Sandbox, requests: usize, environment: &[(&str, &str)]) -> (Vec<u16>, Vec<Value>) {
    queue(dir, requests).await;
    let mut command = configured(dir, sandbox);
    command.args(["run", "--until-empty"]).env("SWEEPER__DELIVERY__BATCH_SIZE", "1");
    command.env("SWEEPER__DELIVERY__CONCURRENCY", "8").env("SWEEPER__HOLD__BASE_DELAY", "1s");
    command.envs(environment.iter().copied());
    let (code, out, err) = finish(command).await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let statuses = sandbox.requests().iter().map(|request| request.status).collect();
    (statuses, out.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

/// From, to and why of each change of the rate.
fn changes(log: &[Value]) -> Vec<(f64, f64, String)> {
    let lines = log.iter().filter(|line| line["event"] == "rate_changed");
    let number = |line: &Value, name: &str| line[name].as_f64().unwrap();
    lines.map(|line| (number(line, "from"), number(line, "to"), line["why"].as_str().unwrap().to_owned())).collect()
}

fn header(name: &'static str, value: &str) -> (axum::http::HeaderName, axum::http::HeaderValue) {
    (axum::http::HeaderName::from_static(name), value.parse().unwrap())
}

async fn keeps_to(headers: RateHeaders, is_capped_at: Option<f64>) {
    let dir = tempfile::tempdir().unwrap();
    let limits = vec!["10/1s".parse().unwrap(), "1000/1m".parse().unwrap()];
    let options = Options { limits, rate_headers: Some(headers), ..Options::default() };
    let sandbox = sandbox(options).await;
    let (statuses, log) = send(dir.path(), &sandbox, 30, &[]).await;
    assert_eq!(statuses, [200; 30], "{headers:?}");
    let changes = changes(&log);
    assert!(changes.iter().all(|(_, _, why)| why == "told"), "{headers:?}: {changes:?}");
    if let Some(cap) = is_capped_at {
        assert_eq!(changes, [(1_000.0, cap, "told".to_owned())], "{headers:?}");
    }
}

#[tokio::test]
async fn each_family_of_headers_keeps_the_daemon_below_the_limit() {
    tokio::join!(
        keeps_to(RateHeaders::Ietf, Some(9.8)),
        keeps_to(RateHeaders::Ietf07, Some(9.8)),
        keeps_to(RateHeaders::RateLimit, Some(9.8)),
        keeps_to(RateHeaders::Kong, Some(9.8)),
        // The length of the window is not told.
        keeps_to(RateHeaders::XRateLimit, None),
    );
}

#[tokio::test]
async fn without_headers_or_without_adapting_the_same_limit_is_overrun() {
    let limits = || vec!["10/1s".parse().unwrap()];
    for (rate_headers, adaptive) in [(None, "true"), (Some(RateHeaders::Ietf), "false")] {
        let dir = tempfile::tempdir().unwrap();
        let sandbox = sandbox(Options { limits: limits(), rate_headers, ..Options::default() }).await;
        let environment = [("SWEEPER__RATE_LIMIT__ADAPTIVE", adaptive)];
        let (statuses, log) = send(dir.path(), &sandbox, 30, &environment).await;
        assert!(statuses.contains(&429), "{adaptive}: {statuses:?}");
        assert!(changes(&log).iter().all(|(_, _, why)| why != "told"));
    }
}

#[tokio::test]
async fn nonsense_and_limits_above_the_ceiling_change_nothing() {
    let nonsense = vec![
        header("ratelimit-policy", "\"a\";q=-5;w=60, \"b\";q=1;w=0, \"c\";q=0;w=60, ;;,=\""),
        header("ratelimit", "\"a\";r=0;t=-1, \"b\";r=99999999999999999999;t=60, \"c\";r=NaN"),
        header("ratelimit-limit", "ten"),
        header("ratelimit-remaining", "0"),
        header("ratelimit-reset", "never"),
        header("x-ratelimit-limit-minute", "5"),
        header("x-ratelimit-remaining-minute", "6"),
        header("x-ratelimit-remaining", "0"),
        header("x-ratelimit-reset", "999999999"),
        header("ratelimit-policy", &format!("1;w=60;{}", "x".repeat(100_000))),
    ];
    let more = vec![
        header("ratelimit-policy", "\"a\";q=6000000;w=60"),
        header("ratelimit", "\"a\";r=5999999;t=60"),
        header("x-ratelimit-limit-day", "1000000000"),
    ];
    for headers in [nonsense, more] {
        let dir = tempfile::tempdir().unwrap();
        let sandbox = sandbox(Options { headers: headers.clone(), ..Options::default() }).await;
        let (statuses, log) = send(dir.path(), &sandbox, 200, &[]).await;
        assert_eq!((statuses.len(), changes(&log)), (200, vec![]), "{headers:?}");
        let [stopped] = &log.iter().filter(|line| line["event"] == "stopped").collect::<Vec<_>>()[..] else {
            panic!("{log:?}")
        };
        assert_eq!(stopped["deleted"], 200);
    }
}

#[tokio::test]
async fn the_rate_that_is_told_is_in_the_database_for_the_commands() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        limits: vec!["600/60s".parse().unwrap()],
        rate_headers: Some(RateHeaders::Ietf),
        ..Options::default()
    };
    let sandbox = sandbox(options).await;
    send(dir.path(), &sandbox, 20, &[]).await;
    let said = sql(dir.path(), "SELECT CAST(requests_per_second AS TEXT) FROM daemon").await;
    assert_eq!(said, [("9.8".to_owned(),)]);
}
