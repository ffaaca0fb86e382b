//! The wishes of a label are removed together, when the last of them was closed longer ago than the retention.

use audio_cache_sweeper::{model::clock::Timestamp, queue::Queue as _};

use super::scene;
use crate::{engines::postgres::Postgres, suite::seam::Seam};

const OLD: i64 = 1_700_000_000_000;
const CUTOFF: Timestamp = Timestamp(OLD + 1);

/// `number` wishes with this label, closed at this time.
async fn closed(engine: &mut Postgres, label: &str, number: u32, state: &str, at: i64) {
    let insert = format!(
        "INSERT INTO wishes (label, agent_id, entry_id, wished_at, state, closed_at)
         SELECT '{label}', 'a' || i % 3, '{state}-' || i, 1, nullif('{state}', 'open'), nullif({at}, 0)
         FROM generate_series(1, {number}) AS n (i)"
    );
    engine.execute(&insert).await;
}

/// `label state number`
async fn left(engine: &mut Postgres) -> Vec<String> {
    let all =
        "SELECT concat_ws(' ', label, coalesce(state, 'open'), count(*)) FROM wishes GROUP BY label, state ORDER BY 1";
    engine.query::<(String,)>(all).await.into_iter().map(|(line,)| line).collect()
}

/// Returns the number of steps that removed something.
async fn prune(seam: &mut Seam<Postgres>) -> usize {
    let mut steps = 0;
    loop {
        let step = seam.queue.upkeep(Some(CUTOFF.into())).await.unwrap();
        assert!(step.removed <= 1_000, "{step:?}");
        steps += usize::from(step.removed > 0);
        let counts =
            "SELECT count(*), count(*) FILTER (WHERE state = 'deleted'), count(*) FILTER (WHERE state = 'dead')
                      FROM wishes WHERE label = 'large'";
        let (_, fulfilled, dead): (i64, i64, i64) = seam.engine.query(counts).await[0];
        assert!(fulfilled == 0 || dead == 10, "it looks better than it was: {fulfilled} are left, and {dead}");
        if !step.more {
            return steps;
        }
    }
}

#[tokio::test]
async fn a_label_with_an_open_or_a_young_wish_stays_whole_and_an_old_one_goes_whole() {
    let Some(mut seam) = scene().await else { return };
    for label in ["A", "B", "C", "D"] {
        closed(&mut seam.engine, label, 35, "deleted", OLD).await;
        closed(&mut seam.engine, label, 2, "dead", OLD).await;
    }
    closed(&mut seam.engine, "B", 1, "open", 0).await;
    closed(&mut seam.engine, "C", 1, "cancelled", OLD + 1).await;
    closed(&mut seam.engine, "one", 1, "absent", OLD).await;
    closed(&mut seam.engine, "large", 2_500, "deleted", OLD).await;
    closed(&mut seam.engine, "large", 10, "dead", OLD).await;
    assert!(prune(&mut seam).await >= 3 + 2, "a large label goes in steps");
    let rest = ["B dead 2", "B deleted 35", "B open 1", "C cancelled 1", "C dead 2", "C deleted 35"];
    assert_eq!(left(&mut seam.engine).await, rest);
    seam.engine.execute(&format!("UPDATE wishes SET state = 'absent', closed_at = {OLD}")).await;
    prune(&mut seam).await;
    assert_eq!(left(&mut seam.engine).await, [] as [String; 0]);
}

#[tokio::test]
async fn a_wish_without_a_label_goes_with_its_row_and_the_others_after_it() {
    let Some(mut seam) = scene().await else { return };
    let wishes =
        "INSERT INTO deletions (agent_id, entry_id, label) VALUES ('a', '1', 'T'), ('a', '1', NULL), ('a', '2', 'U')";
    seam.engine.execute(wishes).await;
    seam.queue.changed().await.unwrap();
    seam.engine.execute("UPDATE deletions SET state = 'dead', settled_at = 1700000000000").await;
    assert_eq!(left(&mut seam.engine).await, [" dead 1", "T dead 1", "U dead 1"]);
    let step = seam.queue.upkeep(Some(CUTOFF.into())).await.unwrap();
    assert_eq!(step.removed, 2, "the rows");
    assert_eq!(left(&mut seam.engine).await, ["T dead 1", "U dead 1"]);
    prune(&mut seam).await;
    assert_eq!(left(&mut seam.engine).await, [] as [String; 0]);
}
