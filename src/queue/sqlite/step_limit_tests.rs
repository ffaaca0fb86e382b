//! How many steps statements take, and that endless ones are interrupted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sqlx::SqliteConnection;
use uuid::Uuid;

use super::{
    Options, Producer, Store, Synchronous,
    connection::connect,
    step_limit::{SOME_ROWS, STEP_OF_UPKEEP, StepLimit, whole_file},
};
use crate::{
    model::{
        clock::Timestamp,
        deletion::{AgentId, Batch, Deletion, Lane, RequestId},
        outcome::{Cause, Judged, Verdict},
    },
    queue::{Claim, Queue as _, Settlement, Tx as _},
};

const NOW: Timestamp = Timestamp(4_000_000_000_000);
/// A query that never ends.
const ENDLESS: &str = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";

fn options(dir: &tempfile::TempDir) -> Options {
    Options {
        path: dir.path().join("queue.db"),
        busy_timeout: Duration::from_secs(5),
        synchronous: Synchronous::Normal,
    }
}

/// Counts the steps of a connection, in hundreds. It takes the place of the limit.
struct Meter(Arc<AtomicU64>);

impl Meter {
    async fn of(conn: &mut SqliteConnection) -> Self {
        let steps = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&steps);
        let count = move || {
            counted.fetch_add(100, Ordering::Relaxed);
            true
        };
        conn.lock_handle().await.unwrap().set_progress_handler(100, count);
        Self(steps)
    }

    /// Asserts that the steps since the last call were counted, and are far below `most`.
    fn assert_far_below(&self, most: u64, what: &str) {
        let steps = self.0.swap(0, Ordering::Relaxed);
        assert!((1..=most / 90).contains(&steps), "{what}: {steps} of {most}");
    }
}

fn settled(claim: &Claim) -> Settlement {
    let judge = |row: &Deletion| Judged {
        id: row.id,
        verdict: match row.id.0 % 2 {
            0 => Verdict::Deleted,
            _ => Verdict::Retry { due_at: NOW, cause: Cause::Lost },
        },
        batch_max: None,
        asks: 0,
        maybe_done: false,
        first_fault: None,
        evidence: None,
    };
    Settlement {
        request: claim.request,
        answered_at: NOW,
        status: Some(200),
        fault: None,
        detail: None,
        remote_id: None,
        rows: claim.batch.deletions().iter().map(judge).collect(),
        is_whole: true,
    }
}

#[tokio::test]
async fn the_most_that_a_statement_does_is_far_below_what_it_may() {
    const REQUESTS: usize = 1_024; // as many as delivery.concurrency allows
    let (dir, agents) = (tempfile::tempdir().unwrap(), 20_000);
    let options = options(&dir);
    let mut store = Store::open(options.clone()).await.unwrap();
    let mut producer = Producer::open(&options).await.unwrap();
    let ids: Vec<String> = (0..agents).map(|id: i32| id.to_string()).collect();
    producer.insert(ids.iter().map(|id| (id.as_str(), "1", 0))).await.unwrap();
    let ids: Vec<String> = (0..REQUESTS * 20).map(|id| id.to_string()).collect();
    producer.insert(ids.iter().map(|id| ("one", id.as_str(), 0))).await.unwrap();

    let meter = Meter::of(&mut store.conn).await;
    let lanes = store.lanes().await.unwrap();
    assert_eq!(lanes.len(), ids.len().min(20_000) + 1);
    meter.assert_far_below(whole_file(&options.path), "listing the lanes");

    let lane = Lane { priority: 0, agent: AgentId::parse("one").unwrap(), batch_max: 20 };
    let mut write = store.begin().await.unwrap();
    let look = write.look(std::slice::from_ref(&lane), ids.len(), &[], false, NOW).await.unwrap().remove(0);
    let rows: Vec<Deletion> = look.due.into_iter().map(|row| row.deletion).collect();
    let claim = |rows: &[Deletion]| Claim {
        request: write.next_request_id(),
        correlation_id: Uuid::nil(),
        batch: Batch::new(lane.clone(), rows.to_vec()).unwrap(),
    };
    let claims: Vec<Claim> = rows.chunks(20).map(claim).collect();
    assert_eq!(claims.len(), REQUESTS);
    write.commit(&claims, None, NOW).await.unwrap();
    meter.assert_far_below(SOME_ROWS, "the largest claim");

    assert_eq!(store.orphans().await.unwrap().len(), REQUESTS);
    meter.assert_far_below(whole_file(&options.path), "finding what a crash left");

    let settlements: Vec<Settlement> = claims.iter().map(settled).collect();
    let mut write = store.begin().await.unwrap();
    write.settle(settlements.iter()).await.unwrap();
    write.commit(&[], None, NOW).await.unwrap();
    meter.assert_far_below(SOME_ROWS, "the largest settlement");

    store.put_clock_right(RequestId(i64::MAX), Duration::from_secs(1), Timestamp(1)).await.unwrap();
    meter.assert_far_below(SOME_ROWS, "putting due times right");

    assert_eq!(store.prune(NOW.plus(Duration::from_secs(1)), 200).await.unwrap().removed, 20, "requests");
    sqlx::raw_sql("DELETE FROM deletions WHERE agent_id = 'one'").execute(&mut *producer.session.conn).await.unwrap();
    assert!(store.give_back(100).await.unwrap());
    meter.assert_far_below(STEP_OF_UPKEEP, "a step of upkeep");
}

#[tokio::test]
async fn a_statement_that_has_no_end_is_interrupted_and_what_is_not_bounded_never_is() {
    let dir = tempfile::tempdir().unwrap();
    drop(Store::open(options(&dir)).await.unwrap());
    let mut conn = connect(&options(&dir), false).await.unwrap();
    let steps = StepLimit::of(&mut conn).await.unwrap();
    let some = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 100000) SELECT count(*) FROM n";
    for _ in 0..2 {
        let budget = steps.allow(1_000_000);
        let error = sqlx::query(ENDLESS).execute(&mut conn).await.unwrap_err();
        assert_eq!(error.as_database_error().unwrap().code().unwrap(), "9", "{error}");
        let error = sqlx::query(some).execute(&mut conn).await.unwrap_err();
        assert_eq!(error.as_database_error().unwrap().code().unwrap(), "9", "for all of them together: {error}");
        drop(budget);
        // It takes some million steps.
        sqlx::query(some).execute(&mut conn).await.unwrap();
    }
}

#[tokio::test]
async fn a_migration_that_a_trigger_keeps_from_ending_is_interrupted_and_the_trigger_named() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(&dir);
    let made = format!(
        "CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL,
             installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, success BOOLEAN NOT NULL, checksum BLOB NOT NULL,
             execution_time BIGINT NOT NULL);
         CREATE TRIGGER theirs BEFORE INSERT ON _sqlx_migrations BEGIN {ENDLESS}; END"
    );
    std::fs::File::create(&options.path).unwrap();
    let mut conn = connect(&options, false).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(made)).execute(&mut conn).await.unwrap();
    let error = Store::open(options.clone()).await.unwrap_err();
    let said = error.to_string();
    assert!(!error.is_temporary() && said.contains("queue.db: migrate: interrupted after 4"), "{said}");
    assert!(said.contains("trigger theirs on _sqlx_migrations; drop"), "{said}");
    sqlx::raw_sql("DROP TRIGGER theirs").execute(&mut conn).await.unwrap();
    Store::open(options).await.unwrap();
}
