//! The store on real files: each transition beside rows that it must not touch.

use std::time::Duration;

use audio_cache_sweeper::{
    clock::Timestamp,
    deletion::{AgentId, Batch, DeletionId, Lane},
    outcome::{Cause, Judged, Verdict},
    store::{Claim, OpenError, Options, Producer, Settlement, Store, Synchronous},
};
use sqlx::{Connection, SqliteConnection};

const NOW: Timestamp = Timestamp(4_000_000_000_000);

fn options(dir: &tempfile::TempDir) -> Options {
    Options { path: dir.path().join("queue.db"), busy_timeout: Duration::from_secs(5), synchronous: Synchronous::Full }
}

type DeletionRow = (i64, String, String, i64, String, i64, i64, i64);

async fn table(options: &Options) -> Vec<DeletionRow> {
    let mut conn = SqliteConnection::connect(options.path.to_str().unwrap()).await.unwrap();
    sqlx::query_as(
        "SELECT id, agent_id, entry_id, priority, state, attempts, batch_max, maybe_done FROM deletions ORDER BY id",
    )
    .fetch_all(&mut conn)
    .await
    .unwrap()
}

fn lane(agent: &str) -> Lane {
    Lane { priority: 0, agent: AgentId::parse(agent).unwrap(), batch_max: 20 }
}

fn row(id: i64, agent: &str, entry: &str, state: &str, attempts: i64, batch_max: i64, maybe_done: i64) -> DeletionRow {
    (id, agent.into(), entry.into(), 0, state.into(), attempts, batch_max, maybe_done)
}

#[tokio::test]
async fn a_batch_is_claimed_and_settled_and_the_rows_beside_it_stay_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(&dir);
    let mut store = Store::open(options.clone()).await.unwrap();
    let mut producer = Producer::open(&options).await.unwrap();
    producer.insert([("a", "1", 0), ("a", "2", 0), ("a", "3", 0), ("a", "4", 0), ("b", "1", 0)]).await.unwrap();
    assert!(store.changed().await.unwrap() && !store.changed().await.unwrap());
    let (lanes, unusable) = store.lanes().await.unwrap();
    assert_eq!(lanes.iter().map(|(lane, _)| lane.clone()).collect::<Vec<_>>(), [lane("a"), lane("b")]);
    assert!(unusable.is_empty());

    let mut write = store.write().await.unwrap();
    let request = write.next_request_id();
    let looks = write.look(&[lane("a")], 20, &[DeletionId(4)], NOW).await.unwrap();
    let due: Vec<_> = looks[0].due.iter().map(|row| row.deletion.clone()).collect();
    assert_eq!(due.iter().map(|row| row.id.0).collect::<Vec<_>>(), [1, 2, 3], "4 is in flight");
    let batch = Batch::new(lane("a"), due).unwrap();
    let claims = [Claim { request, correlation_id: uuid::Uuid::nil(), batch }];
    write.claim(&claims, NOW).await.unwrap();
    write.commit().await.unwrap();
    let orphans = store.orphans().await.unwrap();
    assert_eq!(orphans[0].batch.as_ref().unwrap().deletions(), claims[0].batch.deletions());

    let judged = |id, verdict, batch_max, maybe_done| Judged { id: DeletionId(id), verdict, batch_max, maybe_done };
    let settlement = [Settlement {
        request,
        answered_at: NOW,
        status: Some(200),
        fault: None,
        detail: None,
        remote_id: None,
        rows: vec![
            judged(1, Verdict::Deleted, Some(20), false),
            judged(2, Verdict::Retry { due_at: NOW.plus(Duration::from_secs(9)), cause: Cause::Lost }, None, true),
            judged(3, Verdict::Dead { cause: Cause::Rejected }, Some(7), false),
        ],
    }];
    // Twice, as after a commit in doubt: the second time changes nothing.
    for _ in 0..2 {
        let mut write = store.write().await.unwrap();
        write.settle(settlement.iter()).await.unwrap();
        write.commit().await.unwrap();
    }
    let after = [
        row(1, "a", "1", "deleted", 1, 20, 0),
        row(2, "a", "2", "pending", 1, 20, 1),
        row(3, "a", "3", "dead", 1, 7, 0),
        row(4, "a", "4", "pending", 0, 20, 0),
        row(5, "b", "1", "pending", 0, 20, 0),
    ];
    assert_eq!(table(&options).await, after);
    assert!(store.orphans().await.unwrap().is_empty() && !store.is_empty().await.unwrap());
    let tally = store.counter().tally(NOW).await.unwrap();
    assert_eq!((tally.pending, tally.due, tally.dead), (3, 2, 1));
}

#[tokio::test]
async fn a_repeated_insert_is_harmless_and_a_settled_row_opens_again() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(&dir);
    let store = Store::open(options.clone()).await.unwrap();
    let mut producer = Producer::open(&options).await.unwrap();
    producer.insert([("a", "1", 0), ("a", "1", 0), ("a", "2", 0)]).await.unwrap();
    let mut conn = SqliteConnection::connect(options.path.to_str().unwrap()).await.unwrap();
    sqlx::query("UPDATE deletions SET state = 'dead', settled_at = 1, attempts = 5, batch_max = 1 WHERE id = 1")
        .execute(&mut conn)
        .await
        .unwrap();
    producer.insert([("a", "1", 0)]).await.unwrap();
    let after = [row(1, "a", "1", "pending", 0, 20, 0), row(2, "a", "2", "pending", 0, 20, 0)];
    assert_eq!(table(&options).await, after);
    drop(store);
}

#[tokio::test]
async fn a_second_daemon_is_refused_and_so_is_a_database_of_somebody_else() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(&dir);
    let store = Store::open(options.clone()).await.unwrap();
    let second = Store::open(options.clone()).await.unwrap_err();
    assert!(matches!(second, OpenError::Taken { pid: Some(pid), .. } if pid == std::process::id()), "{second}");
    drop(store);
    Store::open(options.clone()).await.unwrap();

    let foreign = Options { path: dir.path().join("foreign.db"), ..options };
    let mut conn = SqliteConnection::connect(&format!("sqlite://{}?mode=rwc", foreign.path.display())).await.unwrap();
    sqlx::query("CREATE TABLE theirs (id)").execute(&mut conn).await.unwrap();
    assert!(matches!(Store::open(foreign).await.unwrap_err(), OpenError::NotOurs(_)));
}
