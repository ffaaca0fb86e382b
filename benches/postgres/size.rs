//! How large a queue is after its rows were settled.

use audio_cache_sweeper::{model::clock::Clock, queue::Queue as _};

use crate::{
    number, queue,
    server::{Server, connect},
    turns,
};

const AGENTS: u32 = 1_000;
const CONCURRENCY: usize = 64;

/// The tables and their indexes, and the large values of tables if there are any.
const SIZES: &str = "
SELECT coalesce(index_of.relname || ': ', '') || class.relname, pg_relation_size(class.oid),
    (class.relkind = 'r')::int * coalesce(pg_stat_get_dead_tuples(class.oid), 0),
    (class.relkind = 'r')::int * coalesce(pg_stat_get_autovacuum_count(class.oid), 0)
FROM pg_class AS class
LEFT JOIN pg_index AS index ON index.indexrelid = class.oid
LEFT JOIN pg_class AS index_of ON index_of.oid = index.indrelid
WHERE class.relnamespace = 'sweeper'::regnamespace AND class.relkind IN ('r', 'i') AND pg_relation_size(class.oid) > 1000000
ORDER BY 1";

pub async fn run(server: &Server) {
    let rows = number("POSTGRES_SIZE_ROWS", 500_000);
    let seconds = queue::fill(server, "work", rows, AGENTS).await;
    let mut conn = connect(&server.url("work")).await;
    println!(
        "\nsize: {rows} rows of {AGENTS} agents, settled without a pause (POSTGRES_SIZE_ROWS=5000000 for the long one)"
    );
    println!("  the leader has taken in {:.0} rows/s", f64::from(rows) / seconds);
    let (mut store, clock) = (queue::open(&server.url("work")).await, Clock::system());
    while store.changed().await.unwrap() {}
    turns::drain(&mut store, CONCURRENCY, CONCURRENCY).await;
    println!("  {:.0} IDs/s to the end", f64::from(rows) / clock.elapsed().as_secs_f64());
    store.close().await.unwrap();
    let sizes: Vec<(String, i64, i64, i64)> = sqlx::query_as(SIZES).fetch_all(&mut conn).await.unwrap();
    for (name, bytes, dead, vacuumed) in sizes {
        let vacuum = if name.contains(':') {
            String::new()
        } else {
            format!(", {dead} dead rows, autovacuum ran {vacuumed} times")
        };
        let (mib, each) = (bytes as f64 / f64::from(1 << 20), bytes as f64 / f64::from(rows));
        println!("  {name:<55} {mib:>8.1} MiB, {each:>5.0} bytes a deletion{vacuum}");
    }
}
