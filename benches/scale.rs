//! What the size of the queue costs: listing the lanes, a claim, and memory, with a thousand agents.
//!
//! `cargo bench --bench scale`

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on should stop where it is")]
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

mod common;
#[path = "common/worker.rs"]
mod real;

use std::{net::SocketAddr, path::Path, time::Duration};

use audio_cache_sweeper::{
    clock::{Clock, Timestamp},
    deletion::{Batch, DeletionId, Lane},
    sandbox::{self, Sandbox},
    store::{Claim, Options, Store},
};
use common::{fill, machine, memory_kib, options};

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
    let options = options(&dir.join("queue.db"));
    fill(&options.path, rows, AGENTS).await;

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
        in_flight = (1..=160).map(DeletionId).collect();
    }
    drop(store);
    let (memory, write) = work(options, rows.min(DELETED)).await;
    (times(listings), times(claims), memory, write)
}

async fn claim(store: &mut Store, lanes: &[Lane], in_flight: &[DeletionId], now: Timestamp) {
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
async fn work(options: Options, rows: u32) -> (String, String) {
    let sandbox = Sandbox::start(SocketAddr::from(([127, 0, 0, 1], 0)), sandbox::Options::default()).await.unwrap();
    let store = Store::open(options).await.unwrap();
    let mut worker = real::worker(store, &sandbox.url(), 64).await;
    while worker.totals().deleted < u64::from(rows) {
        worker.turn().await.unwrap();
        worker.wait_for_a_call().await;
    }
    (memory(), format!("{:.1} ms", worker.totals().longest_write.as_secs_f64() * 1e3))
}

fn times(mut times: Vec<Duration>) -> String {
    times.sort();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    format!("{:.2} ms ({:.2})", ms(times[times.len() / 2]), ms(times[times.len() - 1]))
}

fn memory() -> String {
    let kib = memory_kib("self", "VmRSS").and_then(|kib| u32::try_from(kib).ok());
    kib.map_or_else(|| "unknown".to_owned(), |kib| format!("{:.1} MiB", f64::from(kib) / 1024.0))
}
