//! The whole thing at work on one machine: a sandbox, a new queue, the real worker, and what became of every deletion.

use std::{
    collections::HashMap,
    env, fs,
    future::Future,
    io,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use super::{Failure, rng, say, work};
use crate::{
    config::{Config, ConfigError},
    queue::{
        Queue as _,
        sqlite::{Producer, Store},
    },
    sandbox::{self, Sandbox},
    watch::{
        supervisor::Supervisor,
        telemetry::{self, Format},
    },
    worker::{Ended, Until},
};

/// The agents, and how many entries each has.
const AGENTS: [(&str, u64); 3] = [("BAKERY", 600), ("CINEMA", 205), ("DENTIST", 18)];
/// How many deletions ask for entries that there are not.
const MISSING: u64 = 2;
/// What the sandbox wants, and the daemon gives; nobody else ever sees either.
const KEY: &str = "demo";

/// An API that fails now and then.
async fn faulty_api() -> io::Result<Sandbox> {
    let options = sandbox::Options {
        key: Some(KEY.to_owned()),
        latency: Duration::from_millis(60),
        agents: AGENTS.map(|(agent, count)| (agent.to_owned(), count)).into(),
        fail_ratio: 0.08,
        error_ratio: 0.04,
        seed: 1,
        ..sandbox::Options::default()
    };
    Sandbox::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), options).await
}

/// Short delays, so that all of it takes seconds.
fn config(database: &Path, sandbox: &Sandbox) -> Result<Config, ConfigError> {
    let settings = [
        ("DATABASE__PATH", database.display().to_string()),
        ("API__BASE_URL", sandbox.url()),
        ("API__KEY", KEY.to_owned()),
        ("RATE_LIMIT__REQUESTS_PER_SECOND", "25".to_owned()),
        ("RATE_LIMIT__BURST", "5".to_owned()),
        ("DELIVERY__LINGER", "100ms".to_owned()),
        ("RETRY__MAX_ATTEMPTS", "5".to_owned()),
        ("RETRY__BASE_DELAY", "200ms".to_owned()),
        ("HOLD__BASE_DELAY", "200ms".to_owned()),
    ];
    let environment: HashMap<String, String> =
        settings.into_iter().map(|(key, value)| (format!("SWEEPER__{key}"), value)).collect();
    Config::load(None, &environment)
}

/// Runs it; ends early when `shutdown` completes.
///
/// # Errors
/// If no directory or port can be had, or the database cannot be used.
pub async fn demo(shutdown: impl Future<Output = ()>) -> Result<(), Failure> {
    let dir = env::temp_dir().join(format!("sweeper-demo-{:08x}", rng().u32(..)));
    fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
    let database = dir.join("sweeper.db");
    let sandbox = faulty_api().await.context("start the sandbox")?;
    let config = config(&database, &sandbox)?;
    let log = telemetry::init(Format::Text, EnvFilter::new("info")).context("start the log")?;

    // The tables first; then what a producer does, which is nothing but INSERTs.
    Store::make(config.store.clone()).await?.close().await?;
    let ids: Vec<(&str, String)> = AGENTS
        .iter()
        .flat_map(|(agent, count)| (1..=*count).map(|id| (*agent, id.to_string())))
        .chain((1..=MISSING).map(|n| (AGENTS[0].0, (AGENTS[0].1 + n).to_string())))
        .collect();
    let mut producer = Producer::open(&config.store).await?;
    producer.insert(ids.iter().map(|(agent, id)| (*agent, id.as_str(), 0))).await?;
    let total = ids.len();
    say(&format!("{total} deletions are queued in {}; the API is {}\n", database.display(), sandbox.url()))?;

    let (ended, done) = work(&config, Until::Empty { give_up_after: None }, shutdown, Supervisor::default()).await?;
    log.flush();
    let mut report = String::new();
    for (agent, state, cause, rows) in producer.totals().await? {
        let cause = cause.map_or_else(String::new, |cause| format!(" ({cause})"));
        report.push_str(&format!("{agent:>8}  {rows:>4} {state}{cause}\n"));
    }
    let gone = ids.iter().filter(|(agent, id)| sandbox.is_gone(agent, id)).count() as u64 - MISSING;
    producer.close().await?;
    let ended = if ended == Ended::Told { "interrupted" } else { "done" };
    say(&format!(
        "\n{ended}: {total} deletions took {} requests; {} came back to be tried again.\n\n{report}\n\
         The API itself has {gone} entries less. The {MISSING} absent ones ask for entries that do not exist: the API\n\
         answers such an ID as failed, each time, without a reason. Instead of the last of {} attempts, it was asked\n\
         about each of them alone, and answered that it knows no such entry.\n\n\
         Look for yourself:\n\
         \x20 sqlite3 {db} \"SELECT state, last_cause, attempts, count(*) FROM deletions GROUP BY 1, 2, 3\"\n\
         \x20 sqlite3 {db} \"SELECT id, agent_id, kind, size, status, deleted, absent, retried, dead, fault FROM requests\"\n\
         \x20 sqlite3 {db} \"SELECT * FROM outcomes WHERE deletion_id = 1\"",
        done.requests,
        done.retried,
        config.worker.policy.max_attempts,
        db = database.display(),
    ))
}
