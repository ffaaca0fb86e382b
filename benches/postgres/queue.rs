//! A queue to work on: how it is opened, filled and checked.

use std::time::Duration;

use audio_cache_sweeper::{
    model::clock::Clock,
    queue::{
        Queue as _,
        postgres::{Address, Options, Store},
    },
};
use sqlx::AssertSqlSafe;

use crate::server::{Server, connect};

/// Opens the queue as the daemon does, and leads.
pub async fn open(url: &str) -> Store {
    let address = Address::parse(&[url]).unwrap();
    let (busy_timeout, lease) = (Duration::from_secs(5), Duration::from_secs(5));
    Store::open(Options { address, busy_timeout, lease, request_timeout: Duration::from_secs(30) }, &Clock::system())
        .await
        .unwrap()
}

/// Inserts rows as producers do: agents interleaved, so that each agent's rows lie far apart.
pub async fn insert(url: &str, rows: u32, agents: u32) {
    let mut conn = connect(url).await;
    let sql = format!(
        "INSERT INTO sweeper.deletions (agent_id, entry_id)
         SELECT 'PROJECT-' || (i % {agents}), (1000000 + i)::text FROM generate_series(0, {rows} - 1) AS i"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await.unwrap();
}

/// Makes a database with a queue of this size, all of it taken in. Returns how many seconds the leader needed for that.
pub async fn fill(server: &Server, database: &str, rows: u32, agents: u32) -> f64 {
    server.make(database, "template1").await;
    let url = server.url(database);
    // A leader that says nothing for the time of its lease would lose its session.
    open(&url).await.close().await.unwrap();
    insert(&url, rows, agents).await;
    let (mut store, clock) = (open(&url).await, Clock::system());
    while store.changed().await.unwrap() {}
    let seconds = clock.elapsed().as_secs_f64();
    store.close().await.unwrap();
    // As autovacuum would sooner or later.
    sqlx::raw_sql("VACUUM ANALYZE sweeper.deletions").execute(&mut connect(&url).await).await.unwrap();
    seconds
}

/// Holds that all is deleted and written down. Returns the number of requests, and the fewest that could do.
pub async fn verify(url: &str) -> (u64, u64) {
    let mut conn = connect(url).await;
    let (rows, deleted, told): (i64, i64, i64) = sqlx::query_as(
        "SELECT count(*), count(*) FILTER (WHERE state = 'deleted'),
            (SELECT count(*) FROM sweeper.outcomes WHERE verdict = 'deleted')
         FROM sweeper.deletions",
    )
    .fetch_one(&mut conn)
    .await
    .unwrap();
    assert_eq!((rows, rows), (deleted, told), "rows, and those that are deleted, and so said");
    let (requests, answered, fewest): (i64, i64, i64) = sqlx::query_as(
        "SELECT count(*), count(answered_at), (SELECT sum((n + 19) / 20)::bigint
            FROM (SELECT count(*) AS n FROM sweeper.deletions GROUP BY agent_id) AS counts)
         FROM sweeper.requests",
    )
    .fetch_one(&mut conn)
    .await
    .unwrap();
    assert_eq!(requests, answered, "requests, and answers");
    (u64::try_from(requests).unwrap(), u64::try_from(fewest).unwrap())
}
