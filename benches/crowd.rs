//! What a producer waits for beside a daemon with a crowd of agents that may not send: held ones, and ones that linger.
//!
//! `cargo bench --bench crowd`: some four minutes; with more samples: `CROWD_SECONDS=120`, for each line.
//!
//! The producer is a process of its own and inserts one row per transaction, 5 ms apart. It waits for locks as SQLite's own
//! busy handler does, for up to 5 s, as most clients do by default. The daemon is the `sweeper` binary in its own process, at
//! the default rate. The API knows none of the held agents: it answers 403.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on should stop where it is")]
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

mod common;
#[path = "common/process.rs"]
#[expect(dead_code, reason = "nothing is drained here, and the stand-in has to know who is held")]
mod process;

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use audio_cache_sweeper::{
    model::clock::Clock,
    queue::sqlite::Store,
    sandbox::{self, Outage, Sandbox},
};
use common::{fill, machine, memory_kib, options, settle_on_disk};
use process::{end, sweeper};
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

/// What separates the producer's transactions.
const GAP: Duration = Duration::from_millis(5);
/// Time for a daemon to start, and to take in what there is.
const SETTLED: Duration = Duration::from_secs(3);
/// How the producer is started.
const PRODUCE: &str = "produce";

/// What there is beside the producer.
#[derive(Clone, Copy, Debug)]
enum Crowd {
    /// No daemon.
    Nothing,
    /// A daemon with nothing else to do.
    Idle,
    /// So many agents with a row each that a hold keeps, which was placed a moment ago.
    Held(u32),
    /// The same, but the last daemon ended long ago: the start probes each of them.
    HeldForLong(u32),
    /// So many agents with a row each that waits for company.
    Lingering(u32),
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [word, database, seconds] = arguments.as_slice()
        && word == PRODUCE
    {
        return runtime.block_on(produce(database, Duration::from_secs(seconds.parse().unwrap())));
    }
    let seconds = env::var("CROWD_SECONDS").map_or(20, |text| text.parse().unwrap());
    println!("machine: {}", machine());
    println!("one row per transaction, every {} ms, for {seconds} s each; milliseconds", GAP.as_millis());
    println!(
        "{:>24}  {:>7}  {:>7}  {:>8}  {:>7}  {:>6}  {:>8}  {:>7}  {:>9}",
        "beside", "INSERTs", "p50", "p99", "highest", "locked", "requests", "CPU", "memory"
    );
    for crowd in [
        Crowd::Nothing,
        Crowd::Idle,
        Crowd::Held(10_000),
        Crowd::Held(30_000),
        Crowd::HeldForLong(30_000),
        Crowd::Lingering(100_000),
    ] {
        let dir = tempfile::tempdir().unwrap();
        runtime.block_on(beside(&dir.path().join("queue.db"), crowd, seconds));
    }
    println!("aims beside a daemon: p99 at most 50 ms, never locked");
}

/// Prints what the producer waited for beside this.
async fn beside(database: &Path, crowd: Crowd, seconds: u32) {
    let sandbox = Sandbox::start(SocketAddr::from(([127, 0, 0, 1], 0)), sandbox::Options::default()).await.unwrap();
    let (name, linger) = match crowd {
        Crowd::Nothing => ("nothing".to_owned(), "0ms"),
        Crowd::Idle => ("a daemon".to_owned(), "0ms"),
        Crowd::Held(agents) => (format!("{agents} held"), "0ms"),
        Crowd::HeldForLong(agents) => (format!("{agents} held, probed"), "0ms"),
        Crowd::Lingering(agents) => (format!("{agents} lingering"), "1h"),
    };
    match crowd {
        Crowd::Nothing | Crowd::Idle => drop(Store::open(options(database)).await.unwrap()),
        Crowd::Held(agents) => hold(database, agents, Duration::ZERO, &sandbox).await,
        Crowd::HeldForLong(agents) => hold(database, agents, Duration::from_secs(3_600), &sandbox).await,
        Crowd::Lingering(agents) => fill(database, agents, agents).await,
    }
    let settings = [
        ("RATE_LIMIT__REQUESTS_PER_SECOND", "5"),
        ("RATE_LIMIT__BURST", "5"),
        ("DELIVERY__CONCURRENCY", "8"),
        ("DELIVERY__LINGER", linger),
    ];
    let mut daemon = (!matches!(crowd, Crowd::Nothing)).then(|| sweeper(database, &sandbox.url(), &[], &settings));
    tokio::time::sleep(SETTLED).await;
    let process = daemon.as_ref().map(|daemon| daemon.id().to_string());
    let before = process.as_deref().map_or(0.0, cpu);
    let (locked, mut took) = produced(database.to_owned(), seconds).await;
    let busy = 100.0 * (process.as_deref().map_or(0.0, cpu) - before) / f64::from(seconds);
    let memory = process.as_deref().and_then(|process| memory_kib(process, "VmRSS")).unwrap_or(0) as f64 / 1024.0;
    if let Some(daemon) = daemon.as_mut() {
        assert!(daemon.try_wait().unwrap().is_none(), "the daemon has ended");
        end(daemon);
    }
    took.sort_by(f64::total_cmp);
    let at = |percent: usize| took[(took.len() * percent).div_ceil(100) - 1];
    let missed = if daemon.is_some() && (at(99) > 50.0 || locked > 0) { "  MISSED" } else { "" };
    println!(
        "{name:>24}  {:>7}  {:>7.2}  {:>8.2}  {:>7.1}  {locked:>6}  {:>8}  {busy:>5.1} %  {memory:>5.1} MiB{missed}",
        took.len(),
        at(50),
        at(99),
        took[took.len() - 1],
        requests(database).await,
    );
}

/// A new queue with a hold on each of so many agents, which was probed so long ago, and a row of each.
async fn hold(database: &Path, agents: u32, probed: Duration, sandbox: &Sandbox) {
    fill(database, agents, agents).await;
    let now = Clock::system().now();
    // As if they had been held for two hours, and were to be for two more.
    let (since, until, probed) = (now.minus(2 * HOUR), now.plus(2 * HOUR), now.minus(probed));
    let mut conn = SqliteConnection::connect(database.to_str().unwrap()).await.unwrap();
    let sql = format!(
        "INSERT INTO holds (scope, cause, since_at, until_at, repeats, probed_at)
            SELECT agent_id, 'forbidden', {since}, {until}, 9, {probed} FROM deletions;
         PRAGMA wal_checkpoint(TRUNCATE);"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    settle_on_disk(database);
    (0..agents).for_each(|n| sandbox.set_agent_outage(&format!("PROJECT-{n}"), Some(Outage::Status(403))));
}

const HOUR: Duration = Duration::from_secs(3_600);

/// What the other process tells: how often it heard that the database is locked, and what each INSERT took.
async fn produced(database: PathBuf, seconds: u32) -> (u64, Vec<f64>) {
    let told = tokio::task::spawn_blocking(move || {
        let mut command = Command::new(env::current_exe().unwrap());
        command.arg(PRODUCE).arg(database).arg(seconds.to_string()).stderr(Stdio::inherit()).output().unwrap()
    });
    let told = told.await.unwrap();
    assert!(told.status.success(), "{}", told.status);
    serde_json::from_slice(&told.stdout).unwrap()
}

/// The other process.
async fn produce(database: &str, length: Duration) {
    let mut conn = SqliteConnection::connect(database).await.unwrap();
    let (clock, mut took, mut locked) = (Clock::system(), Vec::new(), 0_u64);
    while clock.elapsed() < length {
        let row = format!("INSERT INTO deletions (agent_id, entry_id) VALUES ('NEIGHBOUR', 'NEW-{}')", took.len());
        let begun = clock.elapsed();
        while let Err(error) = sqlx::raw_sql(AssertSqlSafe(row.as_str())).execute(&mut conn).await {
            assert!(error.to_string().contains("locked"), "{error}");
            locked += 1;
        }
        took.push((clock.elapsed() - begun).as_secs_f64() * 1e3);
        tokio::time::sleep(GAP).await;
    }
    println!("{}", serde_json::to_string(&(locked, took)).unwrap());
}

/// How many requests were sent.
async fn requests(database: &Path) -> i64 {
    let mut conn = SqliteConnection::connect(database.to_str().unwrap()).await.unwrap();
    sqlx::query_scalar("SELECT count(*) FROM requests").fetch_one(&mut conn).await.unwrap()
}

/// The seconds of CPU that a process has had, as Linux tells it: in ticks of 10 ms.
fn cpu(process: &str) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // Its name, in parentheses, may have spaces in it.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u32 = fields[11..=12].iter().map(|ticks| ticks.parse::<u32>().unwrap()).sum();
    f64::from(ticks) / 100.0
}
