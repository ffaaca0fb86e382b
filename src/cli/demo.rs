//! `sweeper demo`: a sandbox, a new queue and the real worker on one machine, and what became of every deletion.

use std::{
    collections::HashMap,
    env, fs,
    future::{Future, pending},
    io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use clap::Args;
use tracing_subscriber::EnvFilter;

use super::{
    Failure, rng,
    run::{End, work},
    show::{ShowArgs, show},
    status::{StatusArgs, status},
    terminal::{say, say_in_colour, table},
};
use crate::{
    config::{Config, ConfigError},
    model::{
        clock::Clock,
        deletion::{AgentId, EntryId},
    },
    printable::{absolute, shell},
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

const EXAMPLES: &str = "\
Examples:
  sweeper demo
  sweeper demo --keep ./demo

Exit codes: 0 done, or interrupted by a signal, 1 runtime failure, 2 usage.";

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
        ("SHUTDOWN__GRACE", "1s".to_owned()),
    ];
    let environment: HashMap<String, String> =
        settings.into_iter().map(|(key, value)| (format!("SWEEPER__{key}"), value)).collect();
    Config::load(None, &environment)
}

/// Where the demo's files are, and whether they stay.
#[derive(Debug, Default, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DemoArgs {
    /// Keep the database, in DIR or in a new directory for temporary files, and print the commands to look at it. Without
    /// this option, all files are removed at the end.
    #[arg(long, value_name = "DIR", num_args = 0..=1)]
    keep: Option<Option<PathBuf>>,
}

/// The directory of the demo. Dropping it removes it, unless it is kept.
struct Place {
    /// Absolute.
    dir: PathBuf,
    is_kept: bool,
}

impl Place {
    /// Creates the directory.
    ///
    /// # Errors
    /// If it cannot be created, or has a database in it already.
    fn new(args: DemoArgs) -> Result<Self, Failure> {
        let is_kept = args.keep.is_some();
        let Some(named) = args.keep.flatten() else {
            let dir = absolute(&env::temp_dir().join(format!("sweeper-demo-{:08x}", rng().u32(..))));
            fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
            return Ok(Self { dir, is_kept });
        };
        let place = Self { dir: absolute(&named), is_kept };
        if place.database().symlink_metadata().is_ok() {
            let said = format!("{}: is there already; give --keep another directory", place.database().display());
            return Err(Failure::Usage(said));
        }
        fs::create_dir_all(&place.dir).with_context(|| format!("create {}", place.dir.display()))?;
        Ok(place)
    }

    fn database(&self) -> PathBuf {
        self.dir.join("sweeper.db")
    }

    /// What a person can do with the files, or how to keep them.
    fn remark(&self) -> String {
        if !self.is_kept {
            return "The database is removed now. `sweeper demo --keep` keeps it, and prints the commands to look at it."
                .to_owned();
        }
        let program = env::current_exe()
            .map_or_else(|_| "sweeper".to_owned(), |path| shell(&path.display().to_string()).into_owned());
        let (db, dir) = (self.database().display().to_string(), self.dir.display().to_string());
        let (db, dir) = (shell(&db), shell(&dir));
        let (agent, entry) = missing();
        format!(
            "Look for yourself:\n\
             \x20 SWEEPER__DATABASE__PATH={db} {program} status --config none\n\
             \x20 SWEEPER__DATABASE__PATH={db} {program} show {agent} {entry} --config none\n\
             \x20 sqlite3 {db} \"SELECT state, last_cause, attempts, count(*) FROM deletions GROUP BY 1, 2, 3\"\n\
             \x20 sqlite3 {db} \"SELECT id, agent_id, kind, size, status, deleted, absent, retried, dead, fault FROM requests\"\n\
             \x20 sqlite3 {db} \"SELECT * FROM outcomes WHERE deletion_id = 1\"\n\
             Remove it:\n\
             \x20 rm -r {dir}"
        )
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.is_kept {
            // Nothing is lost if it stays among the temporary files.
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// The agent and the ID of the first deletion for an entry that does not exist.
fn missing() -> (&'static str, u64) {
    let (agent, entries) = AGENTS[0];
    (agent, entries + 1)
}

/// Runs the demo. It ends early when `shutdown` completes.
///
/// # Errors
/// If no directory can be created, no port can be bound, or the database cannot be used.
pub(super) async fn demo(args: DemoArgs, shutdown: impl Future<Output = ()>) -> Result<ExitCode, Failure> {
    let place = Place::new(args)?;
    let sandbox = faulty_api().await.context("start the sandbox")?;
    let config = config(&place.database(), &sandbox)?;
    let log = telemetry::init(Format::Text, EnvFilter::new("info"), Width::Terminal).context("start the log")?;

    // Create the tables. Everything after that is what a producer does: plain INSERTs.
    Store::make(config.sqlite()?.clone()).await?.close().await?;
    let ids = deletions();
    let mut producer = Producer::open(config.sqlite()?).await?;
    producer.insert(ids.iter().map(|(agent, id)| (*agent, id.as_str(), 0))).await?;
    let total = ids.len();
    say(&format!("{total} deletions are queued in {}; the API is {}\n", place.database().display(), sandbox.url()))?;

    let end = End { until: Until::Empty { give_up_after: None }, max_requests: None };
    let metrics = Metrics::new(Clock::system().now());
    let (ended, done) = work(&config, end, &metrics, shutdown, Supervisor::default(), None).await?;
    log.flush();
    let totals = producer.totals().await?.into_iter();
    let totals = totals.map(|(agent, state, cause, rows)| [agent, rows.to_string(), state, cause.unwrap_or_default()]);
    let table = table(["agent", "rows", "state", "cause"], &[1], totals);
    producer.close().await?;
    let is_interrupted = ended == Ended::Told;
    let ended = if is_interrupted { "interrupted" } else { "done" };
    say(&format!("\n{ended}: {total} deletions took {} requests; {} retries.\n", done.requests, done.retried))?;
    say_in_colour(&table.join("\n"))?;
    if !is_interrupted {
        let gone = ids.iter().filter(|(agent, id)| sandbox.is_gone(agent, id)).count() as u64 - MISSING;
        explain(&config, gone).await?;
    }
    say(&format!("\n{}", place.remark()))?;
    Ok(ExitCode::SUCCESS)
}

/// Shows what `sweeper status` and `sweeper show` say of the queue. The API has `gone` entries less.
async fn explain(config: &Config, gone: u64) -> Result<(), Failure> {
    let attempts = config.worker.policy.max_attempts;
    say(&format!(
        "\nThe API has {gone} entries less. The {MISSING} absent rows ask for entries that do not exist. A bulk delete lists\n\
         such an ID as failed each time, without a reason. So the last of {attempts} attempts was a single-entry DELETE, and\n\
         the API answered that there is no such entry.\n\n\
         $ sweeper status"
    ))?;
    status(StatusArgs::default(), config, Clock::system(), pending()).await?;
    let (agent, entry) = missing();
    say(&format!("\n$ sweeper show {agent} {entry}"))?;
    let invalid = |error| anyhow!("the demo's own ID: {error}");
    let (agent, entry) =
        (AgentId::parse(agent).map_err(invalid)?, EntryId::parse(&entry.to_string()).map_err(invalid)?);
    show(ShowArgs::new(agent, entry), config, Clock::system()).await?;
    Ok(())
}

/// Every entry of every agent, and then those that do not exist.
fn deletions() -> Vec<(&'static str, String)> {
    let entries = AGENTS.iter().flat_map(|(agent, count)| (1..=*count).map(|id| (*agent, id.to_string())));
    let missing = (1..=MISSING).map(|n| (AGENTS[0].0, (AGENTS[0].1 + n).to_string()));
    entries.chain(missing).collect()
}
