//! What upkeep and watching cost: a step of pruning, a step of giving pages back, and a scrape of the metrics.
//!
//! `cargo bench --bench upkeep`

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on should stop where it is")]
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

#[path = "common/machine.rs"]
mod machine;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use audio_cache_sweeper::{
    model::{
        clock::{Clock, Timestamp},
        remedy::Names,
    },
    queue::{
        either,
        sqlite::{Counter, Options, PRUNE_ROWS, Store, Synchronous, VACUUM_PAGES},
    },
    watch::{
        health::Health,
        http::{Endpoint, Sources},
        metrics::Metrics,
        page,
    },
};
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

const SETTLED: u32 = 400_000;
/// How long the loop pauses after a step, in times that the step took.
const PAUSE: u32 = 9;
const OPEN: u32 = 1_000_000;

/// Agents interleaved, as they are when many producers write; a quarter is old.
const HISTORY: &str = "
BEGIN;
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ROWS)
INSERT INTO deletions (agent_id, entry_id, state, attempts, settled_at, request_id)
SELECT 'agent-' || (i % 1000), i, 'deleted', 1, i, i / 20 FROM n;
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ROWS / 20)
INSERT INTO requests (correlation_id, agent_id, deletion_ids, size, claimed_at, answered_at, status, deleted, verdicts)
SELECT 'f47ac10b-58cc-4372-a567-0e02b2c3d479', 'agent-' || (i % 1000),
    '[1000001,1000002,1000003,1000004,1000005,1000006,1000007,1000008,1000009,1000010,1000011,1000012,1000013]', 20,
    i * 20, i * 20, 200, 20, '[{\"verdict\":\"deleted\"}]' FROM n;
COMMIT;";

const QUEUE: &str = "
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ROWS)
INSERT INTO deletions (agent_id, entry_id) SELECT 'queue-' || (i % 1000), i FROM n";

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::too_many_lines, reason = "the steps of the benchmark, one after the other")]
async fn main() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::system();
    let path = dir.path().join("queue.db");
    let options = Options { path, busy_timeout: Duration::from_secs(5), synchronous: Synchronous::Full };
    let mut store = Store::open(options.clone()).await.unwrap();
    let mut conn = SqliteConnection::connect(options.path.to_str().unwrap()).await.unwrap();
    let run = |sql: &str, rows: u32| AssertSqlSafe(sql.replace("ROWS", &rows.to_string()));
    sqlx::raw_sql(run(HISTORY, SETTLED)).execute(&mut conn).await.unwrap();
    println!("machine: {}", machine::machine());
    println!("{SETTLED} settled rows with their requests, a quarter of them old; median, p99, highest");

    let cutoff = Timestamp(i64::from(SETTLED) / 4);
    let alone = producer(&options, &clock);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut alone = alone.ended();
    let (mut pruning, mut looking) = (Vec::new(), Vec::new());
    let (mut removed, mut passes) = (0, 0);
    let beside = producer(&options, &clock);
    while passes < 2 {
        let begun = clock.elapsed();
        let step = store.prune(cutoff, PRUNE_ROWS).await.unwrap();
        let took = clock.elapsed() - begun;
        if step.removed > 0 { &mut pruning } else { &mut looking }.push(took);
        removed += step.removed;
        passes += u32::from(!step.more);
        if step.removed > 0 {
            tokio::time::sleep(took * PAUSE).await;
        }
    }
    let mut beside = beside.ended();
    println!(
        "a step of pruning that removes:      {}   ({} steps, {removed} rows)",
        times(&mut pruning),
        pruning.len()
    );
    println!("one that finds nothing, and no lock: {}   ({} steps)", times(&mut looking), looking.len());

    println!("a producer's INSERT, alone:          {}   ({} of them)", times(&mut alone), alone.len());
    println!("one beside the pruning:              {}   ({} of them)", times(&mut beside), beside.len());

    let before = size(&mut conn, &options).await;
    let mut giving = Vec::new();
    let beside = producer(&options, &clock);
    loop {
        let begun = clock.elapsed();
        let more = store.give_back(VACUUM_PAGES).await.unwrap();
        let took = clock.elapsed() - begun;
        giving.push(took);
        if !more {
            break;
        }
        tokio::time::sleep(took * PAUSE).await;
    }
    let mut beside = beside.ended();
    let after = size(&mut conn, &options).await;
    println!("a step of giving {VACUUM_PAGES} pages back:     {}   ({} steps)", times(&mut giving), giving.len());
    println!("a producer's INSERT beside it:       {}   ({} of them)", times(&mut beside), beside.len());
    println!("the file before and after:           {before} MiB, {after} MiB");

    sqlx::raw_sql(run(QUEUE, OPEN)).execute(&mut conn).await.unwrap();
    let sources = Sources {
        metrics: Metrics::new(clock.now()),
        health: Health::new(options.busy_timeout),
        counter: Counter::new(options.clone()),
        clock: clock.clone(),
    };
    let page = page::Settings {
        queue: either::Options::Sqlite(options),
        hosts: page::Hosts::default(),
        token: None,
        names: Names::default(),
        version: env!("CARGO_PKG_VERSION"),
    };
    let endpoint = Endpoint::start(SocketAddr::from(([127, 0, 0, 1], 0)), sources, page).unwrap();
    let mut scrapes: Vec<Duration> = (0..100)
        .map(|_| {
            let begun = clock.elapsed();
            scrape(endpoint.address());
            clock.elapsed() - begun
        })
        .collect();
    println!("a scrape that counts {OPEN} open rows: {:.1} ms", ms(scrapes.remove(0)));
    println!("one within five seconds after it:    {}", times(&mut scrapes));
}

/// Somebody who inserts a row at a time, in another thread, with a pause between.
struct Producing {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Duration>>,
}

fn producer(options: &Options, clock: &Clock) -> Producing {
    let stop = Arc::new(AtomicBool::new(false));
    let (path, clock, stopped) = (options.path.clone(), clock.clone(), Arc::clone(&stop));
    let thread = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut conn = SqliteConnection::connect(path.to_str().unwrap()).await.unwrap();
            let mut took = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let insert = "INSERT INTO deletions (agent_id, entry_id) VALUES ('producer', hex(randomblob(9)))";
                let begun = clock.elapsed();
                sqlx::query(insert).execute(&mut conn).await.unwrap();
                took.push(clock.elapsed() - begun);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            took
        })
    });
    Producing { stop, thread }
}

impl Producing {
    fn ended(self) -> Vec<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn scrape(address: SocketAddr) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: sweeper\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.ends_with("# EOF\n"), "{text}");
}

/// MiB, once all is in the file itself.
async fn size(conn: &mut SqliteConnection, options: &Options) -> u64 {
    sqlx::raw_sql("PRAGMA wal_checkpoint(TRUNCATE)").execute(conn).await.unwrap();
    fs::metadata(&options.path).unwrap().len() >> 20
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn times(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |share: usize| ms(times[(times.len() - 1) * share / 100]);
    format!("{:.2} ms, {:.2} ms, {:.2} ms", at(50), at(99), at(100))
}
