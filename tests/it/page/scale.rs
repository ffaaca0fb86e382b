//! The time that the page takes with a million rows, beside producers.

use std::{env, path::Path, time::Duration};

use audio_cache_sweeper::{model::clock::Clock, sandbox::Options};
use sqlx::Connection as _;

use super::{Answer, get_known, scene, until};
use crate::daemon::{open, skipped};

/// `SWEEPER_SCALE=1000000` is what the documentation names.
fn rows() -> u32 {
    env::var("SWEEPER_SCALE").ok().and_then(|rows| rows.parse().ok()).unwrap_or(20_000)
}

async fn timed(address: std::net::SocketAddr) -> (Duration, Answer) {
    let clock = Clock::system();
    let page = get_known(address, "/").await;
    (clock.elapsed(), page)
}

/// How long each of some inserts takes.
async fn producer(dir: &Path, from: u32) -> Vec<Duration> {
    let mut conn = open(&dir.join("sweeper.db")).await;
    sqlx::raw_sql("PRAGMA busy_timeout = 10000").execute(&mut conn).await.unwrap();
    let clock = Clock::system();
    let mut waits = Vec::new();
    for number in 0..100_u32 {
        let begun = clock.elapsed();
        sqlx::query("INSERT INTO deletions (agent_id, entry_id, due_at) VALUES ('producer', ?1, 4000000000000)")
            .bind((from + number).to_string())
            .execute(&mut conn)
            .await
            .unwrap();
        waits.push(clock.elapsed() - begun);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    conn.close().await.unwrap();
    waits.sort_unstable();
    waits
}

#[tokio::test]
#[expect(clippy::print_stderr, reason = "the times are for whoever measures")]
async fn the_page_is_short_and_comes_whatever_the_number_of_rows() {
    let rows = rows();
    if rows < 1_000_000 {
        skipped("the page with a million rows: SWEEPER_SCALE=1000000 asks for it; it is tried with fewer");
    }
    // Ten thousand agents at most, of which half have settled rows, too.
    let insert = format!(
        "INSERT INTO deletions (agent_id, entry_id, due_at, state, settled_at)
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
         SELECT 'agent-' || (i % 10000), i, iif(i % 2, 4000000000000, 0), iif(i % 2, 'pending', 'deleted'), iif(i % 2, NULL, unixepoch() * 1000)
         FROM n"
    );
    let scene = scene(Options::default(), &insert, "started", |_| {}).await;
    let address = scene.address;
    let (cold, _) = timed(address).await;
    until(address, "more agents").await;
    let mut times = Vec::new();
    for _ in 0..50 {
        let (took, page) = timed(address).await;
        assert!(page.body.len() < 100_000, "{}", page.body.len());
        times.push(took);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    times.sort_unstable();
    let alone = producer(scene.dir.path(), 0).await;
    let viewers = async {
        loop {
            get_known(address, "/").await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let beside = tokio::select! {
        waits = producer(scene.dir.path(), 1_000) => waits,
        () = viewers => unreachable!("they look for ever"),
    };
    // The last request of theirs is answered before the daemon is gone.
    get_known(address, "/").await;
    let cores = std::thread::available_parallelism().unwrap();
    eprintln!(
        "{rows} rows on {cores} cores: first page {cold:?}; pages p50 {:?}, p99 {:?}; inserts alone p50 {:?}, p95 {:?}; beside viewers p50 {:?}, p95 {:?}",
        times[25], times[49], alone[50], alone[95], beside[50], beside[95]
    );
}
