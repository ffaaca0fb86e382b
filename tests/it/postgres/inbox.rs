//! The inbox: many producers, many wishes, and transactions that stay open.

use std::{collections::BTreeMap, time::Duration};

use audio_cache_sweeper::{
    model::{
        clock::Timestamp,
        deletion::{AgentId, EntryId, State},
        outcome::Cause,
    },
    queue::{
        self, Queue as _,
        postgres::{Options, Producer},
    },
};
use sqlx::AssertSqlSafe;
use tokio::task::LocalSet;

use super::scene;
use crate::{
    cluster::cluster,
    engines::postgres::{Postgres, open},
    suite::{
        bed::{Bed, Plan},
        engine::{Engine as _, Row, Setup, Wish},
        seam::{NOW, Seam},
    },
};

async fn take_in(seam: &mut Seam<Postgres>) -> usize {
    let mut times = 0;
    while seam.queue.changed().await.unwrap() {
        times += 1;
    }
    times
}

const PRODUCERS: u64 = 8;
const TRANSACTIONS: u64 = 60;

/// Each inserts overlapping keys in an order of its own, which makes rivals of a UNIQUE constraint wait for each other in a circle.
#[tokio::test]
async fn producers_of_the_same_entries_stand_in_nobody_s_way_and_none_of_their_wishes_is_lost() {
    let Some(mut seam) = scene().await else { return };
    let mut highest: BTreeMap<u64, i64> = BTreeMap::new();
    let mut producers = tokio::task::JoinSet::new();
    for producer in 0..PRODUCERS {
        let mut rng = fastrand::Rng::with_seed(producer);
        let mut transactions = Vec::new();
        for _ in 0..TRANSACTIONS {
            let mut wishes: Vec<(u64, i64)> = (0..30).map(|_| (rng.u64(..200), rng.i64(..4))).collect();
            rng.shuffle(&mut wishes);
            for (entry, priority) in &wishes {
                highest.entry(*entry).and_modify(|known| *known = (*known).max(*priority)).or_insert(*priority);
            }
            let values: Vec<String> =
                wishes.iter().map(|(entry, priority)| format!("('a', '{entry}', {priority})")).collect();
            transactions
                .push(format!("INSERT INTO deletions (agent_id, entry_id, priority) VALUES {}", values.join(", ")));
        }
        let mut conn = seam.engine.database.connect().await;
        producers.spawn(async move {
            for sql in transactions {
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
    }
    let mut times = 0;
    while !producers.is_empty() {
        times += take_in(&mut seam).await;
        while let Some(ended) = producers.try_join_next() {
            ended.unwrap();
        }
        tokio::task::yield_now().await;
    }
    take_in(&mut seam).await;
    assert!(times > 1, "the leader was at it meanwhile: {times}");
    let rows: Vec<(String, i64, String)> = seam.engine.query("SELECT entry_id, priority, state FROM deletions").await;
    let rows: BTreeMap<u64, i64> = rows
        .into_iter()
        .map(|(entry, priority, state)| {
            assert_eq!(state, "pending");
            (entry.parse().unwrap(), priority)
        })
        .collect();
    assert_eq!(rows, highest);
}

#[tokio::test]
async fn a_great_many_wishes_are_taken_in_in_steps_and_their_room_is_free_then() {
    let Some(mut seam) = scene().await else { return };
    let many =
        "INSERT INTO deletions (agent_id, entry_id) SELECT 'a' || n % 7, n::text FROM generate_series(1, 60000) AS n";
    seam.engine.execute(many).await;
    let steps = take_in(&mut seam).await;
    assert!((4..=10).contains(&steps), "{steps}");
    let counts =
        "SELECT count(*) FILTER (WHERE state = 'pending'), count(*) FILTER (WHERE state = 'new') FROM deletions";
    assert_eq!(seam.engine.query::<(i64, i64)>(counts).await, [(60_000, 0)]);
    let size = "SELECT pg_relation_size('deletions_new')";
    assert_eq!(seam.engine.query::<(i64,)>(size).await, [(0,)]);
    assert_eq!(seam.queue.lanes().await.unwrap().len(), 7);
}

/// Its wishes lie before others that were taken in long ago.
#[tokio::test]
async fn the_wishes_of_a_transaction_that_was_open_for_long_are_taken_in_when_it_commits() {
    let Some(mut seam) = scene().await else { return };
    let mut slow = seam.engine.database.connect().await;
    let first = "BEGIN; INSERT INTO deletions (agent_id, entry_id) VALUES ('slow', '1')";
    sqlx::raw_sql(first).execute(&mut slow).await.unwrap();
    for from in [1, 30_001] {
        let to = from + 29_999;
        let sql = format!(
            "INSERT INTO deletions (agent_id, entry_id) SELECT 'quick', n::text FROM generate_series({from}, {to}) AS n"
        );
        seam.engine.execute(&sql).await;
        take_in(&mut seam).await;
    }
    assert_eq!(seam.queue.lanes().await.unwrap().len(), 1);
    sqlx::raw_sql("COMMIT").execute(&mut slow).await.unwrap();
    assert!(take_in(&mut seam).await > 0);
    assert_eq!(seam.queue.lanes().await.unwrap().len(), 2);
    // And of one that is open while more are taken in than are cleaned up at a time.
    sqlx::raw_sql("BEGIN; INSERT INTO deletions (agent_id, entry_id) VALUES ('slow', '2')")
        .execute(&mut slow)
        .await
        .unwrap();
    let many = "INSERT INTO deletions (agent_id, entry_id) SELECT 'many', n::text FROM generate_series(1, 70000) AS n";
    seam.engine.execute(many).await;
    for _ in 0..8 {
        assert!(seam.queue.changed().await.unwrap());
    }
    sqlx::raw_sql("COMMIT").execute(&mut slow).await.unwrap();
    // Behind the last place there is always more; within some polls, the leader looks from the start.
    let mut polls = 0;
    while seam.engine.query::<(i64,)>("SELECT count(*) FROM deletions_new WHERE agent_id = 'slow'").await[0].0 > 0 {
        let more = format!("INSERT INTO deletions (agent_id, entry_id) VALUES ('more', '{polls}')");
        seam.engine.execute(&more).await;
        seam.queue.changed().await.unwrap();
        polls += 1;
        assert!(polls <= 40, "it is not found");
    }
}

/// Each as the leader must notice it, and nothing that the leader itself writes.
#[tokio::test]
async fn whatever_somebody_changes_by_hand_is_news_to_the_leader() {
    let Some(mut seam) = scene().await else { return };
    seam.engine.execute("INSERT INTO deletions (agent_id, entry_id) VALUES ('a', '1'), ('a', '2'), ('a', '3')").await;
    take_in(&mut seam).await;
    for sql in [
        "UPDATE deletions SET priority = 4 WHERE entry_id = '1'",
        "UPDATE deletions_known SET priority = 5 WHERE entry_id = '1'",
        "DELETE FROM deletions WHERE entry_id = '1'",
        "INSERT INTO deletions_known (id, agent_id, entry_id, state) OVERRIDING SYSTEM VALUE VALUES (99, 'a', '9', 'pending')",
        "INSERT INTO holds (scope) VALUES ('*')",
        "UPDATE holds SET until_at = 1900000000000",
        "DELETE FROM holds",
        "INSERT INTO acts (acted_at, act, operator, rows, updated_at) VALUES (0, 'hold', 'ann', 1, 0)",
        "TRUNCATE holds",
        "TRUNCATE deletions",
    ] {
        seam.engine.execute(sql).await;
        assert_eq!(take_in(&mut seam).await, 1, "{sql}");
    }
    assert_eq!(seam.queue.lanes().await.unwrap(), []);
    let left: Vec<(i64,)> = seam.engine.query("SELECT count(*) FROM edits").await;
    assert_eq!(left, [(0,)]);
}

#[tokio::test]
async fn a_full_inbox_takes_no_more_requests_than_it_must() {
    if cluster().is_none() {
        return;
    }
    let engine = Postgres::create(Setup { busy_timeout: Duration::from_secs(5), in_memory: true }).await;
    let mut bed = Bed::on(engine, Plan::default()).await;
    // More than one turn takes in, and of each agent no more than a part at first. All of it has waited for longer than the linger.
    let sql = "INSERT INTO deletions (agent_id, entry_id, created_at)
               SELECT 'agent-' || n % 600, n::text, 100000000000 FROM generate_series(1, 12000) AS n";
    bed.engine.execute(sql).await;
    bed.work().await;
    let sizes = bed.sizes();
    assert_eq!((sizes.len(), sizes.iter().filter(|size| **size < 20).count()), (600, 0));
    // What fills no request goes out all the same.
    bed.insert(&[("alone", "1")]).await;
    bed.clock.advance(Duration::from_secs(2));
    bed.work().await;
    assert_eq!(bed.sizes().last(), Some(&1));
}

#[tokio::test]
async fn whoever_takes_wishes_out_of_the_inbox_all_the_time_ends_nobodys_work() {
    LocalSet::new().run_until(take_out_all_the_time()).await;
}

async fn take_out_all_the_time() {
    const CANCELLING: u32 = 3;
    let Some(mut seam) = scene().await else { return };
    let mut commands = tokio::task::JoinSet::new();
    for n in 0..CANCELLING {
        let options = seam.engine.options.clone();
        commands.spawn_local(async move {
            let mut producer = Producer::join(&options).await.unwrap();
            let agent = AgentId::parse(&format!("agent-{n}")).unwrap();
            for round in 0..20_u32 {
                let wish = |entry: u32| queue::Wish {
                    agent: agent.clone(),
                    entry: EntryId::parse(&(round * 100 + entry).to_string()).unwrap(),
                    priority: 0,
                    due_at: Timestamp::ZERO,
                    label: None,
                };
                producer.enqueue(&(0..20).map(wish).collect::<Vec<_>>(), NOW).await.unwrap();
                let ids = producer.pending(Some(&agent)).await.unwrap();
                // Who waits for too long tries again.
                while producer.cancel(&ids, NOW).await.is_err_and(|error| {
                    assert!(error.is_temporary(), "{error}");
                    true
                }) {}
            }
        });
    }
    while !commands.is_empty() {
        seam.queue.changed().await.map_or_else(|error| assert!(error.is_temporary(), "{error}"), drop);
        while let Some(ended) = commands.try_join_next() {
            ended.unwrap();
        }
    }
}

/// As after a restore that does not know where ids end, or behind a server that took over by logical replication.
#[tokio::test]
async fn an_id_that_is_given_out_twice_stops_nobody() {
    let Some(mut seam) = scene().await else { return };
    seam.enqueue(&[Wish::of("a", "1"), Wish::of("a", "2")]).await;
    take_in(&mut seam).await;
    seam.engine.execute("ALTER TABLE deletions ALTER id RESTART WITH 1").await;
    seam.enqueue(&[Wish::of("b", "1"), Wish::of("a", "1"), Wish::of("c", "1")]).await;
    for _ in 0..3 {
        seam.queue.changed().await.unwrap();
    }
    let rows: Vec<(i64, String, String)> =
        seam.engine.query("SELECT id, agent_id, entry_id FROM deletions_known ORDER BY agent_id, entry_id").await;
    let keys: Vec<(&str, &str)> = rows.iter().map(|(_, agent, entry)| (agent.as_str(), entry.as_str())).collect();
    assert_eq!(keys, [("a", "1"), ("a", "2"), ("b", "1"), ("c", "1")]);
    // A leader puts it right as it begins.
    seam.engine.execute("ALTER TABLE deletions ALTER id RESTART WITH 1").await;
    seam.queue.close().await.unwrap();
    seam.queue = open(&seam.engine.options).await;
    seam.enqueue(&[Wish::of("d", "1")]).await;
    seam.queue.changed().await.unwrap();
    let highest: Vec<(i64,)> = seam.engine.query("SELECT id FROM deletions_known WHERE agent_id = 'd'").await;
    assert!(rows.iter().all(|(id, ..)| *id < highest[0].0), "{rows:?} {highest:?}");
}

#[tokio::test]
async fn only_wishes_whose_ids_are_taken_get_new_ones() {
    let Some(mut seam) = scene().await else { return };
    seam.enqueue(&[Wish::of("a", "1")]).await;
    take_in(&mut seam).await;
    let wishes = "INSERT INTO deletions (id, agent_id, entry_id, priority, label) OVERRIDING SYSTEM VALUE
                  VALUES (1, 'b', '1', 7, 'T-1'), (70, 'c', '1', 0, NULL), (70, 'c', '2', 0, NULL), (80, 'd', '1', 0, NULL)";
    seam.engine.execute(wishes).await;
    for _ in 0..3 {
        seam.queue.changed().await.unwrap();
    }
    let rows: Vec<(i64, String, String, i64, Option<String>)> = seam
        .engine
        .query("SELECT id, agent_id, entry_id, priority, label FROM deletions_known ORDER BY agent_id, entry_id")
        .await;
    let kept: Vec<&str> = rows.iter().filter(|row| [1, 80].contains(&row.0)).map(|row| row.1.as_str()).collect();
    assert_eq!((rows.len(), kept), (5, vec!["a", "d"]), "{rows:?}");
    assert_eq!((rows[1].3, rows[1].4.as_deref()), (7, Some("T-1")));
    let wishes: Vec<(String, String)> = seam.engine.query("SELECT label, agent_id FROM wishes").await;
    assert_eq!(wishes, [("T-1".to_owned(), "b".to_owned())]);
}

#[tokio::test]
async fn an_entry_whose_last_request_may_still_be_out_waits_also_if_its_row_is_dead_and_wished_for_again() {
    if cluster().is_none() {
        return;
    }
    let dead = |id, entry: &str, cause| Row {
        state: State::Dead,
        attempts: 3,
        last_cause: Some(cause),
        settled_at: Some(NOW),
        ..Row::new(id, "a", entry)
    };
    let rows = [dead(1, "lost", Cause::Lost), dead(2, "rejected", Cause::Rejected)];
    let mut seam = Seam::<Postgres>::with(&rows, &[]).await;
    seam.queue.close().await.unwrap();
    let request_timeout = Duration::from_secs(30);
    seam.queue = open(&Options { request_timeout, ..seam.engine.options.clone() }).await;
    seam.enqueue(&[Wish::of("a", "lost"), Wish::of("a", "rejected")]).await;
    take_in(&mut seam).await;
    let due: Vec<(String, i64, String)> =
        seam.engine.query("SELECT entry_id, due_at, state FROM deletions_known ORDER BY id").await;
    assert!(due.iter().all(|(.., state)| state == "pending"), "{due:?}");
    assert!(due[0].1 >= NOW.plus(request_timeout).0, "{due:?}");
    assert!(due[1].1 < NOW.0, "it was answered: {due:?}");
}
