//! The wishes of a label are removed together, when the last of them was closed longer ago than the retention.

use audio_cache_sweeper::{model::clock::Timestamp, queue::sqlite::Store};
use sqlx::{AssertSqlSafe, SqliteConnection};

use crate::store::{client, opened};

const OLD: i64 = 1_700_000_000_000;
const CUTOFF: Timestamp = Timestamp(OLD + 1);

/// `number` wishes with this label, closed at this time.
async fn closed(conn: &mut SqliteConnection, label: &str, number: u32, state: &str, at: i64) {
    let insert = format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {number})
         INSERT INTO wishes (label, agent_id, entry_id, wished_at, state, closed_at)
         SELECT '{label}', 'a' || i % 3, '{state}-' || i, 1, nullif('{state}', 'open'), nullif({at}, 0) FROM n"
    );
    sqlx::raw_sql(AssertSqlSafe(insert)).execute(conn).await.unwrap();
}

/// `label state number`
async fn left(conn: &mut SqliteConnection) -> Vec<String> {
    let all = "SELECT label || ' ' || coalesce(state, 'open') || ' ' || count(*) FROM wishes GROUP BY label, state ORDER BY 1";
    sqlx::query_scalar(all).fetch_all(conn).await.unwrap()
}

async fn prune(store: &mut Store) {
    while store.prune_labels(CUTOFF, 10).await.unwrap().more {}
}

#[tokio::test]
async fn a_label_with_an_open_or_a_young_wish_stays_whole_and_an_old_one_goes_whole() {
    let (_dir, options, mut store) = opened().await;
    let mut conn = client(&options).await;
    for label in ["A", "B", "C", "D"] {
        closed(&mut conn, label, 35, "deleted", OLD).await;
        closed(&mut conn, label, 2, "dead", OLD).await;
    }
    closed(&mut conn, "B", 1, "open", 0).await;
    closed(&mut conn, "C", 1, "cancelled", OLD + 1).await;
    closed(&mut conn, "one", 1, "absent", OLD).await;
    prune(&mut store).await;
    let rest = ["B dead 2", "B deleted 35", "B open 1", "C cancelled 1", "C dead 2", "C deleted 35"];
    assert_eq!(left(&mut conn).await, rest);
    sqlx::raw_sql(AssertSqlSafe(format!("UPDATE wishes SET state = 'absent', closed_at = {OLD}")))
        .execute(&mut conn)
        .await
        .unwrap();
    prune(&mut store).await;
    assert_eq!(left(&mut conn).await, [] as [String; 0]);
}

#[tokio::test]
async fn a_label_goes_in_steps_and_never_looks_better_than_it_was() {
    let (_dir, options, mut store) = opened().await;
    let mut conn = client(&options).await;
    closed(&mut conn, "T", 30, "deleted", OLD).await;
    closed(&mut conn, "T", 15, "dead", OLD).await;
    closed(&mut conn, "T", 15, "cancelled", OLD).await;
    let (mut steps, mut last) = (0, i64::MAX);
    loop {
        let step = store.prune_labels(CUTOFF, 10).await.unwrap();
        assert!(step.removed <= 10, "{step:?}");
        let counts = "SELECT count(*), sum(state = 'deleted'), sum(state IN ('dead', 'cancelled')) FROM wishes";
        let (all, fulfilled, lost): (i64, Option<i64>, Option<i64>) =
            sqlx::query_as(counts).fetch_one(&mut conn).await.unwrap();
        assert!(fulfilled.unwrap_or(0) == 0 || lost == Some(30), "{fulfilled:?} are left, and {lost:?}");
        assert!(all <= last);
        (steps, last) = (steps + 1, all);
        if !step.more {
            break;
        }
    }
    assert_eq!(last, 0);
    assert!(steps >= 7, "{steps}");
}

#[tokio::test]
async fn a_wish_that_comes_while_its_label_goes_stays() {
    let (_dir, options, mut store) = opened().await;
    let mut conn = client(&options).await;
    closed(&mut conn, "T", 30, "deleted", OLD).await;
    closed(&mut conn, "T", 3, "dead", OLD).await;
    while store.prune_labels(CUTOFF, 10).await.unwrap().removed == 0 {}
    sqlx::raw_sql("INSERT INTO deletions (agent_id, entry_id, label) VALUES ('a', 'new', 'T'), ('a1', 'dead-1', 'T')")
        .execute(&mut conn)
        .await
        .unwrap();
    prune(&mut store).await;
    assert_eq!(left(&mut conn).await, ["T open 2"]);
}

#[tokio::test]
async fn nothing_old_means_nothing_written_and_a_wish_without_a_label_goes_with_its_row() {
    let (_dir, options, mut store) = opened().await;
    let mut conn = client(&options).await;
    let rows =
        "INSERT INTO deletions (agent_id, entry_id, label) VALUES ('a', '1', 'T'), ('a', '1', NULL), ('a', '2', 'U');
                UPDATE deletions SET state = 'dead', settled_at = 1700000000000";
    sqlx::raw_sql(rows).execute(&mut conn).await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut conn).await.unwrap();
    while store.prune_labels(Timestamp(OLD), 10).await.unwrap().more {}
    sqlx::raw_sql("COMMIT").execute(&mut conn).await.unwrap();
    assert_eq!(left(&mut conn).await, [" dead 1", "T dead 1", "U dead 1"]);
    while store.prune(CUTOFF, 10).await.unwrap().more {}
    assert_eq!(left(&mut conn).await, ["T dead 1", "U dead 1"]);
    prune(&mut store).await;
    assert_eq!(left(&mut conn).await, [] as [String; 0]);
}
