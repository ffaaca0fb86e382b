//! What the size of the queue costs: listing the lanes, a claim, and memory, with a thousand agents.
//!
//! `cargo bench --bench scale`

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on should stop where it is")]
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use audio_cache_sweeper::{
    api::{self, Api},
    backoff::Backoff,
    clock::{Clock, Timestamp},
    deletion::{Batch, Lane},
    key::KeySource,
    outcome::Policy,
    pace::{Pace, RateLimit},
    sandbox::{self, Sandbox},
    store::{Claim, Options, Store, Synchronous},
    worker::{Settings, Worker},
};
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

const AGENTS: u32 = 1_000;
const ROUNDS: usize = 50;
const CLAIMS: usize = 8;
/// Most rows that the worker deletes at each size, to see what it holds in memory and how long it keeps others waiting.
const DELETED: u32 = 100_000;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    println!("machine: {}", machine());
    println!("{AGENTS} agents; each figure is the median of {ROUNDS} (and the highest)");
    println!(
        "{:>10}  {:>20}  {:>28}  {:>16}  {:>21}",
        "rows", "listing the lanes", "claim of 8 full requests", "memory, working", "longest write at work"
    );
    for rows in [10_000, 100_000, 1_000_000] {
        let dir = tempfile::tempdir().unwrap();
        let (listing, claim, memory, write) = runtime.block_on(measure(dir.path(), rows));
        println!("{rows:>10}  {listing:>20}  {claim:>28}  {memory:>16}  {write:>21}");
    }
}

async fn measure(dir: &Path, rows: u32) -> (String, String, String, String) {
    let clock = Clock::system();
    let options =
        Options { path: dir.join("queue.db"), busy_timeout: Duration::from_secs(5), synchronous: Synchronous::Full };
    drop(Store::open(options.clone()).await.unwrap());
    fill(&options, rows).await;

    let mut store = Store::open(options.clone()).await.unwrap();
    let mut listings = Vec::new();
    let mut lanes = Vec::new();
    for _ in 0..ROUNDS {
        let begun = clock.elapsed();
        lanes = store.lanes().await.unwrap().0;
        listings.push(clock.elapsed() - begun);
    }
    assert_eq!(lanes.len(), AGENTS as usize);
    let lanes: Vec<Lane> = lanes.into_iter().map(|(lane, _)| lane).collect();
    let mut claims = Vec::new();
    let mut in_flight = Vec::new();
    for round in 0..ROUNDS {
        let due = &lanes[round * CLAIMS % lanes.len()..][..CLAIMS];
        let begun = clock.elapsed();
        claim(&mut store, due, &in_flight, clock.now()).await;
        claims.push(clock.elapsed() - begun);
        // As many as are in flight at the default concurrency.
        in_flight = (1..=160).map(audio_cache_sweeper::deletion::DeletionId).collect();
    }
    drop(store);
    let (memory, write) = work(options, clock, rows.min(DELETED)).await;
    (times(listings), times(claims), memory, write)
}

async fn claim(
    store: &mut Store,
    lanes: &[Lane],
    in_flight: &[audio_cache_sweeper::deletion::DeletionId],
    now: Timestamp,
) {
    let mut write = store.write().await.unwrap();
    let looks = write.look(lanes, 20, in_flight, now).await.unwrap();
    let claims: Vec<Claim> = lanes
        .iter()
        .zip(looks)
        .filter_map(|(lane, look)| {
            let rows: Vec<_> = look.due.into_iter().map(|row| row.deletion).collect();
            let batch = Batch::new(lane.clone(), rows).ok()?;
            Some(Claim { request: write.next_request_id(), correlation_id: uuid::Uuid::nil(), batch })
        })
        .collect();
    write.claim(&claims, now).await.unwrap();
    write.commit().await.unwrap();
}

/// The real worker against a sandbox, at full speed for a while; returns the memory of this whole process, both of them
/// in it, and the longest that a transaction kept others from writing.
async fn work(options: Options, clock: Clock, rows: u32) -> (String, String) {
    let sandbox = Sandbox::start(SocketAddr::from(([127, 0, 0, 1], 0)), sandbox::Options::default()).await.unwrap();
    let api = Api::new(api::Options {
        base_url: sandbox.url().parse().unwrap(),
        key: KeySource::Given("k".into()),
        connect_timeout: Duration::from_secs(5),
        request_timeout: Duration::from_secs(30),
    })
    .unwrap();
    let growth = Backoff::new(Duration::from_secs(5), Duration::from_secs(600)).unwrap();
    let rate = RateLimit { requests_per_second: 100_000.0, burst: 100_000.try_into().unwrap() };
    let settings = Settings {
        batch_size: 20,
        concurrency: 64,
        linger: Duration::ZERO,
        policy: Policy {
            max_attempts: 8,
            ask_singly: true,
            retry: growth,
            min_retry_after: Duration::from_secs(5),
            max_retry_after: Duration::from_secs(3_600),
        },
        poll_interval: Duration::from_millis(100),
        retention: Duration::from_secs(86_400),
        grace: Duration::from_secs(8),
    };
    let store = Store::open(options).await.unwrap();
    let pace = Pace::new(rate, growth, 3);
    let mut worker = Worker::new(store, api, pace, settings, clock, fastrand::Rng::with_seed(1)).await.unwrap();
    while worker.totals().deleted < u64::from(rows) {
        worker.turn().await.unwrap();
        worker.wait_for_a_call().await;
    }
    (memory(), format!("{:.1} ms", worker.totals().longest_write.as_secs_f64() * 1e3))
}

/// Rows as a producer would leave them: agents interleaved, so that each agent's rows lie far apart.
async fn fill(options: &Options, rows: u32) {
    let mut conn = SqliteConnection::connect(options.path.to_str().unwrap()).await.unwrap();
    let sql = format!(
        "PRAGMA synchronous = OFF;
         WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {rows})
         INSERT INTO deletions (agent_id, entry_id) SELECT 'PROJECT-' || (i % {AGENTS}), 1000000 + i FROM n;
         PRAGMA wal_checkpoint(TRUNCATE);"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await.unwrap();
}

fn times(mut times: Vec<Duration>) -> String {
    times.sort();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    format!("{:.2} ms ({:.2})", ms(times[times.len() / 2]), ms(times[times.len() - 1]))
}

/// Resident memory; only Linux says it in this way.
fn memory() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<u32>().ok());
    kib.map_or_else(|| "unknown".to_owned(), |kib| format!("{:.1} MiB", f64::from(kib) / 1024.0))
}

fn machine() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{}, {cores} cores, {}", model.unwrap_or("unknown processor"), std::env::consts::OS)
}
