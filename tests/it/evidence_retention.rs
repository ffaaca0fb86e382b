//! What belongs to a label is kept for `queue.evidence_retention`, on both engines; everything else goes after `queue.retention`.

use std::time::Duration;

use crate::{
    cluster::cluster,
    engines::{postgres::Postgres, sqlite::Sqlite},
    suite::{
        bed::{Bed, Plan},
        engine::Engine,
    },
};

const HOUR: Duration = Duration::from_secs(3_600);

/// What the suite's engine has no words for.
trait Tables: Engine {
    async fn sql(&mut self, sql: &str);
    async fn texts(&mut self, sql: &str) -> Vec<String>;
}

impl Tables for Sqlite {
    async fn sql(&mut self, sql: &str) {
        self.execute(sql).await;
    }

    async fn texts(&mut self, sql: &str) -> Vec<String> {
        self.query::<(String,)>(sql).await.into_iter().map(|(text,)| text).collect()
    }
}

impl Tables for Postgres {
    async fn sql(&mut self, sql: &str) {
        self.execute(sql).await;
    }

    async fn texts(&mut self, sql: &str) -> Vec<String> {
        self.query::<(String,)>(sql).await.into_iter().map(|(text,)| text).collect()
    }
}

/// Lets the worker do its chores until the tables were gone through more than once.
async fn prune<E: Tables>(bed: &mut Bed<E>) {
    for _ in 0..200 {
        bed.worker.turn().await.unwrap();
        bed.worker.do_chores().await.unwrap();
        bed.clock.advance(Duration::from_secs(10));
    }
}

/// The rows, the requests by their agents, and the labels that are left.
async fn left<E: Tables>(bed: &mut Bed<E>) -> [Vec<String>; 3] {
    [
        bed.texts("SELECT agent_id || entry_id FROM deletions ORDER BY agent_id, entry_id").await,
        bed.texts("SELECT agent_id FROM requests ORDER BY agent_id").await,
        bed.texts("SELECT label FROM wishes ORDER BY label").await,
    ]
}

async fn kept<E: Tables>() {
    let mut plan = Plan::default();
    (plan.settings.retention, plan.settings.evidence_retention) = (HOUR, 10 * HOUR);
    let mut bed = Bed::<E>::new(plan).await;
    // The first request names a row with a label and one without. The others name none with a label.
    bed.sql(
        "INSERT INTO deletions (agent_id, entry_id, label) VALUES ('a', '1', 'T'), ('a', '2', NULL), ('b', '1', NULL)",
    )
    .await;
    let many: Vec<String> = (0..100).map(|agent| format!("('z{agent}', '1')")).collect();
    bed.sql(&format!("INSERT INTO deletions (agent_id, entry_id) VALUES {}", many.join(", "))).await;
    for _ in 0..5 {
        bed.work().await;
        bed.clock.advance(Duration::from_secs(30));
    }
    assert_eq!(bed.texts("SELECT state FROM deletions GROUP BY state").await, ["deleted"]);
    let before = left(&mut bed).await;
    assert_eq!((before[0].len(), before[1].len()), (103, 102));
    bed.clock.advance(2 * HOUR);
    prune(&mut bed).await;
    let texts = |texts: &[&str]| -> Vec<String> { texts.iter().map(|text| (*text).to_owned()).collect() };
    assert_eq!(left(&mut bed).await, [texts(&["a1"]), texts(&["a"]), texts(&["T"])]);
    bed.clock.advance(6 * HOUR);
    prune(&mut bed).await;
    assert_eq!(left(&mut bed).await, [texts(&["a1"]), texts(&["a"]), texts(&["T"])], "after eight hours");
    bed.clock.advance(3 * HOUR);
    prune(&mut bed).await;
    assert_eq!(left(&mut bed).await, [texts(&[]), texts(&[]), texts(&[])]);
}

/// With a shorter time than `queue.retention`, that counts.
async fn never_shorter<E: Tables>() {
    let mut plan = Plan::default();
    (plan.settings.retention, plan.settings.evidence_retention) = (5 * HOUR, HOUR);
    let mut bed = Bed::<E>::new(plan).await;
    bed.sql("INSERT INTO deletions (agent_id, entry_id, label) VALUES ('a', '1', 'T')").await;
    for _ in 0..3 {
        bed.work().await;
        bed.clock.advance(Duration::from_secs(30));
    }
    bed.clock.advance(3 * HOUR);
    prune(&mut bed).await;
    assert_eq!(left(&mut bed).await.map(|left| left.len()), [1, 1, 1]);
    bed.clock.advance(3 * HOUR);
    prune(&mut bed).await;
    assert_eq!(left(&mut bed).await.map(|left| left.len()), [0, 0, 0]);
}

#[tokio::test]
async fn what_belongs_to_a_label_is_kept_longer() {
    kept::<Sqlite>().await;
    never_shorter::<Sqlite>().await;
}

#[tokio::test]
async fn what_belongs_to_a_label_is_kept_longer_on_a_server() {
    if cluster().is_none() {
        return;
    }
    kept::<Postgres>().await;
    never_shorter::<Postgres>().await;
}
