//! What belongs to a label is kept for `queue.evidence_retention`, on both engines; everything else goes after `queue.retention`.

use std::time::Duration;

use crate::{
    cluster::cluster,
    engines::{Tables, postgres::Postgres, sqlite::Sqlite},
    suite::bed::{Bed, Plan, START},
};

const HOUR: Duration = Duration::from_secs(3_600);

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
    let mut bed = with_evidence::<E>().await;
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
    assert_eq!(left(&mut bed).await, [texts(&["a1"]), texts(&["a"]), texts(&["T"])]);
    bed.clock.advance(6 * HOUR);
    prune(&mut bed).await;
    assert_eq!(left(&mut bed).await, [texts(&["a1"]), texts(&["a"]), texts(&["T"])], "after eight hours");
    bed.clock.advance(3 * HOUR);
    prune(&mut bed).await;
    assert_eq!(left(&mut bed).await, [texts(&[]), texts(&[]), texts(&[])]);
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

async fn with_evidence<E: Tables>() -> Bed<E> {
    let mut plan = Plan::default();
    (plan.settings.retention, plan.settings.evidence_retention) = (HOUR, 10 * HOUR);
    Bed::new(plan).await
}

async fn work_off<E: Tables>(bed: &mut Bed<E>) {
    for _ in 0..3 {
        bed.work().await;
        bed.clock.advance(Duration::from_secs(30));
    }
}

/// A row forgets a label that was fulfilled before the row was reopened, and one that was cancelled.
async fn forgotten<E: Tables>() {
    let mut bed = with_evidence::<E>().await;
    let later = START.plus(HOUR / 2);
    bed.sql(&format!(
        "INSERT INTO deletions (agent_id, entry_id, label, due_at) VALUES ('a', '1', 'T', 0), ('b', '1', 'T', {later}),
             ('b', '1', NULL, {later}), ('c', '1', NULL, 0)"
    ))
    .await;
    work_off(&mut bed).await;
    bed.sql(&format!(
        "UPDATE wishes SET state = 'cancelled', closed_at = {START} WHERE agent_id = 'b' AND label = 'T'"
    ))
    .await;
    bed.sql("INSERT INTO deletions (agent_id, entry_id) VALUES ('a', '1')").await;
    bed.clock.advance(HOUR);
    work_off(&mut bed).await;
    let rows = "SELECT agent_id || ' ' || state || ' ' || coalesce(label, '-') FROM deletions ORDER BY 1";
    assert_eq!(bed.texts(rows).await, ["a absent -", "b deleted -", "c deleted -"]);
    let of_labels: Vec<String> = left(&mut bed).await[1].iter().filter(|agent| *agent != "c").cloned().collect();
    assert!(of_labels.len() >= 3, "the first deletion of a, the second one, and that of b: {of_labels:?}");
    bed.clock.advance(2 * HOUR);
    prune(&mut bed).await;
    assert_eq!(left(&mut bed).await, [texts(&["a1", "b1"]), of_labels, texts(&["T", "T"])]);
    bed.clock.advance(9 * HOUR);
    prune(&mut bed).await;
    assert_eq!(left(&mut bed).await, [texts(&[]), texts(&[]), texts(&[])]);
}

/// Who enqueued under a label is on record as long as its wishes are, and that keeps no other act.
async fn askers<E: Tables>() {
    let mut bed = with_evidence::<E>().await;
    let later = START.plus(1_000 * HOUR);
    bed.sql(&format!("INSERT INTO deletions (agent_id, entry_id, label, due_at) VALUES ('a', '1', 'T', {later})"))
        .await;
    bed.work().await;
    let of_label = std::iter::repeat_n("'enqueue', 'from arguments, label: T'", 300);
    let others = ["'enqueue', 'from arguments, label: U'", "'enqueue', NULL", "'retry', 'dead rows, label: T'"];
    let acts: Vec<String> =
        of_label.chain(others).map(|act| format!("({START}, {act}, 'ann', 1, {START}, '1', '1')")).collect();
    bed.sql(&format!(
        "INSERT INTO acts (acted_at, act, detail, operator, rows, updated_at, ended, logged) VALUES {}",
        acts.join(", ")
    ))
    .await;
    let details =
        "SELECT act || ' ' || coalesce(detail, '-') || ' ' || count(*) FROM acts GROUP BY act, detail ORDER BY 1";
    bed.clock.advance(9 * HOUR);
    prune(&mut bed).await;
    assert_eq!(bed.texts(details).await.len(), 4, "after nine hours");
    bed.clock.advance(3 * HOUR);
    prune(&mut bed).await;
    assert_eq!(bed.texts(details).await, ["enqueue from arguments, label: T 300"]);
    let now = bed.clock.now();
    bed.sql(&format!("UPDATE wishes SET state = 'cancelled', closed_at = {now}")).await;
    bed.clock.advance(11 * HOUR);
    prune(&mut bed).await;
    prune(&mut bed).await;
    assert_eq!(bed.texts(details).await, [] as [String; 0]);
    assert_eq!(left(&mut bed).await, [texts(&[]), texts(&[]), texts(&[])]);
}

/// With a shorter time than `queue.retention`, that counts.
async fn never_shorter<E: Tables>() {
    let mut plan = Plan::default();
    (plan.settings.retention, plan.settings.evidence_retention) = (5 * HOUR, HOUR);
    let mut bed = Bed::<E>::new(plan).await;
    bed.sql("INSERT INTO deletions (agent_id, entry_id, label) VALUES ('a', '1', 'T')").await;
    work_off(&mut bed).await;
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
    forgotten::<Sqlite>().await;
    askers::<Sqlite>().await;
    never_shorter::<Sqlite>().await;
}

#[tokio::test]
async fn what_belongs_to_a_label_is_kept_longer_on_a_server() {
    if cluster().is_none() {
        return;
    }
    kept::<Postgres>().await;
    forgotten::<Postgres>().await;
    askers::<Postgres>().await;
    never_shorter::<Postgres>().await;
}
