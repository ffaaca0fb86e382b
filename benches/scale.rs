//! What the size of the queue costs: looking at it, by the number of agents; deleting, by the number of rows.
//!
//! `cargo bench --bench scale`; with five million settled rows and a million pending ones: `SCALE_FULL=1 cargo bench --bench
//! scale`. Memory is that of this whole process, the stand-in for the API in it, which remembers each ID that it deleted.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on should stop where it is")]
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

mod common;
#[path = "common/worker.rs"]
mod real;

use std::{env, net::SocketAddr, path::Path, time::Duration};

use audio_cache_sweeper::{
    model::{
        clock::{Clock, Timestamp},
        deletion::{Batch, DeletionId, Lane},
    },
    queue::{
        Claim, Queue as _, Tx as _,
        sqlite::{Options, Store},
    },
    sandbox::{self, Sandbox},
    worker::EVENT_INTERVAL,
};
use common::{fill, machine, memory_kib, options, settle_on_disk};
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};

const AGENTS: [u32; 3] = [10, 1_000, 100_000];
const ROUNDS: usize = 50;
const CLAIMS: usize = 8;
/// Rows that the worker deletes, whatever else there is.
const DELETED: u32 = 50_000;
/// How often that is done with each size, in turns.
const DRAINS: usize = 3;

fn main() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().event_interval(EVENT_INTERVAL).enable_all().build().unwrap();
    let (settled, pending) =
        if env::var_os("SCALE_FULL").is_some() { (5_000_000, 1_000_000) } else { (500_000, 200_000) };
    println!("machine: {}", machine());
    println!("{pending} pending rows; each figure is the median of {ROUNDS} (and the highest)");
    println!(
        "{:>10}  {:>22}  {:>10}  {:>26}  {:>24}",
        "agents", "listing the lanes", "for each", "a poll that finds nothing", "claim of 8 full requests"
    );
    for agents in AGENTS {
        let dir = tempfile::tempdir().unwrap();
        runtime.block_on(look(dir.path(), pending, agents));
    }
    println!("\n{DELETED} rows of 1,000 agents deleted at full speed, 64 requests at a time; medians of {DRAINS}");
    println!("{:>10}  {:>10}  {:>12}  {:>10}  {:>14}", "settled", "pending", "for each ID", "memory", "longest write");
    let sizes = [(0, DELETED), (settled, pending)];
    let mut drains = sizes.map(|_| Vec::new());
    for _ in 0..DRAINS {
        for ((settled, pending), drains) in sizes.into_iter().zip(&mut drains) {
            let dir = tempfile::tempdir().unwrap();
            drains.push(runtime.block_on(drain(dir.path(), settled, pending)));
        }
    }
    let mut medians = Vec::new();
    for ((settled, pending), mut drains) in sizes.into_iter().zip(drains) {
        drains.sort_by_key(|drain| drain.took);
        let Drain { took, memory_kib, longest_write } = drains[drains.len() / 2];
        let each = took.as_secs_f64() * 1e6 / f64::from(DELETED);
        let (memory, write) = (memory_kib as f64 / 1024.0, longest_write.as_secs_f64() * 1e3);
        println!("{settled:>10}  {pending:>10}  {each:>9.2} µs  {memory:>6.1} MiB  {write:>11.1} ms");
        medians.push(each);
    }
    println!("for each ID, the larger to the smaller: {:.2}; aim 1.3 at most", medians[1] / medians[0]);
}

/// Prints what it costs to look at so many rows of so many agents.
async fn look(dir: &Path, rows: u32, agents: u32) {
    let clock = Clock::system();
    let options = options(&dir.join("queue.db"));
    fill(&options.path, rows, agents).await;
    let mut store = Store::open(options).await.unwrap();
    let mut listings = Vec::new();
    let mut lanes = Vec::new();
    for _ in 0..ROUNDS {
        let begun = clock.elapsed();
        lanes = store.lanes().await.unwrap();
        listings.push(clock.elapsed() - begun);
    }
    assert_eq!(lanes.len(), agents as usize);
    let mut polls = Vec::new();
    for _ in 0..ROUNDS {
        let begun = clock.elapsed();
        assert!(!store.changed().await.unwrap());
        polls.push(clock.elapsed() - begun);
    }
    let lanes: Vec<Lane> = lanes.into_iter().map(|(lane, _)| lane).collect();
    let mut claims = Vec::new();
    let mut in_flight = Vec::new();
    for round in 0..ROUNDS {
        let due: Vec<Lane> = lanes.iter().cycle().skip(round * CLAIMS).take(CLAIMS).cloned().collect();
        let begun = clock.elapsed();
        claim(&mut store, &due, &in_flight, clock.now()).await;
        claims.push(clock.elapsed() - begun);
        // As many as are in flight at the default concurrency.
        in_flight = (1..=160).map(DeletionId).collect();
    }
    listings.sort();
    let each = listings[listings.len() / 2].as_secs_f64() * 1e6 / f64::from(agents);
    let (listing, poll, claim) = (times(listings), times(polls), times(claims));
    println!("{agents:>10}  {listing:>22}  {each:>7.2} µs  {poll:>26}  {claim:>24}");
}

async fn claim(store: &mut Store, lanes: &[Lane], in_flight: &[DeletionId], now: Timestamp) {
    let mut write = store.begin().await.unwrap();
    let looks = write.look(lanes, 20, in_flight, false, now).await.unwrap();
    let claims: Vec<Claim> = lanes
        .iter()
        .zip(looks)
        .filter_map(|(lane, look)| {
            let rows: Vec<_> = look.due.into_iter().map(|row| row.deletion).collect();
            let batch = Batch::new(lane.clone(), rows).ok()?;
            Some(Claim { request: write.next_request_id(), correlation_id: uuid::Uuid::nil(), batch })
        })
        .collect();
    write.commit(&claims, None, now).await.unwrap();
}

#[derive(Clone, Copy, Debug)]
struct Drain {
    took: Duration,
    memory_kib: u64,
    longest_write: Duration,
}

/// The real worker against a sandbox, until it has deleted so many rows that the queue is still at speed.
async fn drain(dir: &Path, settled: u32, pending: u32) -> Drain {
    let options: Options = options(&dir.join("queue.db"));
    fill(&options.path, pending, 1_000).await;
    fill_settled(&options.path, settled, 1_000).await;
    let sandbox = Sandbox::start(SocketAddr::from(([127, 0, 0, 1], 0)), sandbox::Options::default()).await.unwrap();
    let clock = Clock::system();
    let store = Store::open(options).await.unwrap();
    let mut worker = real::worker(store, &sandbox.url(), 64).await;
    let begun = clock.elapsed();
    while worker.totals().deleted < u64::from(DELETED) {
        worker.turn().await.unwrap();
        worker.wait_for_a_call().await;
    }
    let took = clock.elapsed() - begun;
    let memory_kib = memory_kib("self", "VmRSS").unwrap_or(0);
    Drain { took, memory_kib, longest_write: worker.totals().longest_write }
}

/// Rows that were deleted before, with their requests and their history, in a queue that is there.
async fn fill_settled(path: &Path, rows: u32, agents: u32) {
    let mut conn = SqliteConnection::connect(path.to_str().unwrap()).await.unwrap();
    // 20 rows of an agent share a request, as they do in what this is like.
    let sql = format!(
        "PRAGMA synchronous = OFF;
         CREATE TEMP TABLE n AS WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {rows})
            SELECT i FROM n WHERE {rows} > 0;
         BEGIN;
         INSERT INTO deletions (agent_id, entry_id, state, attempts, request_id, settled_at)
            SELECT 'PROJECT-' || (i / 20 % {agents}), 900000000 + i, 'deleted', 1, i / 20 + 1, 1700000000000 FROM n;
         INSERT INTO requests (id, correlation_id, agent_id, deletion_ids, size, claimed_at, answered_at, status, deleted, verdicts)
            SELECT request_id, '00000000-0000-4000-8000-000000000000', min(agent_id), json_group_array(id), count(*),
                1700000000000, 1700000000100, 200, 20, '[{{\"verdict\":\"deleted\"}}]'
            FROM deletions WHERE request_id NOT NULL GROUP BY request_id;
         COMMIT;
         PRAGMA wal_checkpoint(TRUNCATE);"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    settle_on_disk(path);
}

fn times(mut times: Vec<Duration>) -> String {
    times.sort();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    format!("{:.3} ms ({:.3})", ms(times[times.len() / 2]), ms(times[times.len() - 1]))
}
