//! `sweeper demo`: a sandbox, a new queue and the real worker on one machine, and what became of every deletion.

use std::{
    collections::HashMap,
    env, fs,
    future::Future,
    io,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use super::{
    Failure, rng,
    run::work,
    terminal::{say, say_in_colour, table},
};
use crate::{
    config::{Config, ConfigError},
    model::clock::Clock,
    queue::{
        Queue as _,
        sqlite::{Producer, Store},
    },
    sandbox::{self, Sandbox},
    watch::{
        metrics::Metrics,
        supervisor::Supervisor,
        telemetry::{self, Format, Width},
    },
    worker::{Ended, Until},
};

pub(super) const EXAMPLES: &str = "\
Example:
  sweeper demo";

/// The agents, and the number of entries of each.
const AGENTS: [(&str, u64); 3] = [("BAKERY", 600), ("CINEMA", 205), ("DENTIST", 18)];
/// Number of deletions for entries that do not exist.
const MISSING: u64 = 2;
/// The API key: the sandbox is on loopback, so it protects nothing.
const KEY: &str = "demo";

/// A stand-in for the API that fails now and then.
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

/// A configuration with short delays, so that the demo takes seconds.
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

/// Runs the demo. It ends early when `shutdown` completes.
///
/// # Errors
/// If no directory can be created, no port can be bound, or the database cannot be used.
pub(super) async fn demo(shutdown: impl Future<Output = ()>) -> Result<ExitCode, Failure> {
    let dir = env::temp_dir().join(format!("sweeper-demo-{:08x}", rng().u32(..)));
    fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
    let database = dir.join("sweeper.db");
    let sandbox = faulty_api().await.context("start the sandbox")?;
    let config = config(&database, &sandbox)?;
    let log = telemetry::init(Format::Text, EnvFilter::new("info"), Width::Terminal).context("start the log")?;

    // Create the tables. Everything after that is what a producer does: plain INSERTs.
    Store::make(config.store.clone()).await?.close().await?;
    let ids = deletions();
    let mut producer = Producer::open(&config.store).await?;
    producer.insert(ids.iter().map(|(agent, id)| (*agent, id.as_str(), 0))).await?;
    let total = ids.len();
    say(&format!("{total} deletions are queued in {}; the API is {}\n", database.display(), sandbox.url()))?;

    let (until, metrics) = (Until::Empty { give_up_after: None }, Metrics::new(Clock::system().now()));
    let (ended, done) = work(&config, until, shutdown, Supervisor::default(), metrics, None).await?;
    log.flush();
    let totals = producer.totals().await?.into_iter();
    let totals = totals.map(|(agent, state, cause, rows)| [agent, rows.to_string(), state, cause.unwrap_or_default()]);
    let table = table(["agent", "rows", "state", "cause"], &[1], totals);
    producer.close().await?;
    let gone = ids.iter().filter(|(agent, id)| sandbox.is_gone(agent, id)).count() as u64 - MISSING;
    let ended = if ended == Ended::Told { "interrupted" } else { "done" };
    say(&format!("\n{ended}: {total} deletions took {} requests; {} retries.\n", done.requests, done.retried))?;
    say_in_colour(&table.join("\n"))?;
    say(&format!(
        "\nThe API has {gone} entries less. The {MISSING} absent rows ask for entries that do not exist. A bulk delete lists\n\
         such an ID as failed each time, without a reason. So the last of {} attempts was a single-entry DELETE, and\n\
         the API answered that there is no such entry.\n\n\
         Look for yourself:\n\
         \x20 sqlite3 {db} \"SELECT state, last_cause, attempts, count(*) FROM deletions GROUP BY 1, 2, 3\"\n\
         \x20 sqlite3 {db} \"SELECT id, agent_id, kind, size, status, deleted, absent, retried, dead, fault FROM requests\"\n\
         \x20 sqlite3 {db} \"SELECT * FROM outcomes WHERE deletion_id = 1\"",
        config.worker.policy.max_attempts,
        db = database.display(),
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Every entry of every agent, and then those that do not exist.
fn deletions() -> Vec<(&'static str, String)> {
    let entries = AGENTS.iter().flat_map(|(agent, count)| (1..=*count).map(|id| (*agent, id.to_string())));
    let missing = (1..=MISSING).map(|n| (AGENTS[0].0, (AGENTS[0].1 + n).to_string()));
    entries.chain(missing).collect()
}
