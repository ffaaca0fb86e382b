//! Which rows go into which request, in what order, and when.

use std::time::Duration;

use audio_cache_sweeper::{
    pace::RateLimit,
    sandbox::{Mood, Options},
};

use crate::bed::{Bed, Plan, START};

/// How a row is inserted whose `created_at` is the test's own time.
fn fresh(agent: &str, entry: u32, priority: i64) -> String {
    format!(
        "INSERT INTO deletions (agent_id, entry_id, priority, created_at) VALUES ('{agent}', {entry}, {priority}, {START});"
    )
}

fn agents(bed: &Bed) -> Vec<String> {
    bed.sandbox.requests().iter().map(|request| request.uri.split('/').nth(3).unwrap().to_owned()).collect()
}

#[tokio::test]
async fn so_many_rows_take_no_more_requests_than_they_must() {
    for (rows, sizes) in
        [(0, vec![]), (1, vec![1]), (19, vec![19]), (20, vec![20]), (21, vec![20, 1]), (41, vec![20, 20, 1])]
    {
        let mut bed = Bed::new(Plan::default()).await;
        bed.insert_many("a", rows).await;
        bed.work().await;
        let mut sent = bed.sizes();
        sent.sort_by(|one, other| other.cmp(one));
        assert_eq!(sent, sizes, "{rows} rows");
        assert_eq!(bed.count("state = 'deleted' AND attempts = 1").await, i64::try_from(rows).unwrap());
        let mut ids: Vec<String> = bed.sent().concat();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), rows, "each ID once");
    }
}

#[tokio::test]
async fn a_thousand_rows_of_many_agents_are_all_deleted_in_full_requests() {
    let mut bed = Bed::new(Plan::default()).await;
    for agent in 0..10 {
        bed.insert_many(&format!("agent-{agent}"), 100).await;
    }
    bed.work().await;
    assert_eq!(bed.sizes(), [20; 50]);
    assert_eq!(bed.count("state = 'deleted'").await, 1_000);
    assert_eq!(bed.query::<(i64,)>("SELECT count(*) FROM outcomes WHERE verdict = 'deleted'").await, [(1_000,)]);
}

#[tokio::test]
async fn lanes_take_turns() {
    let mut plan = Plan::default();
    plan.settings.concurrency = 1;
    let mut bed = Bed::new(plan).await;
    for agent in ["a", "b", "c"] {
        bed.insert_many(agent, 40).await;
    }
    bed.work().await;
    assert_eq!(agents(&bed), ["a", "b", "c", "a", "b", "c"]);
}

#[tokio::test]
async fn a_rate_of_less_than_the_lanes_starves_none() {
    let rate = RateLimit { requests_per_second: 1.0, burst: 4.try_into().unwrap() };
    let mut bed = Bed::new(Plan { rate, ..Plan::default() }).await;
    for agent in ["a", "b", "c", "d"] {
        bed.insert_many(agent, 100).await;
    }
    for _ in 0..12 {
        bed.work().await;
        bed.clock.advance(Duration::from_secs(1));
    }
    let agents = agents(&bed);
    assert_eq!(agents.len(), 4 + 11, "the burst, and then one a second");
    for agent in ["a", "b", "c", "d"] {
        let turns = agents.iter().filter(|served| *served == agent).count();
        assert!((3..=4).contains(&turns), "{agent} {turns} times in {agents:?}");
    }
}

#[tokio::test]
async fn a_higher_priority_goes_first_and_takes_all_the_room_it_can_use() {
    let mut plan = Plan::default();
    plan.settings.concurrency = 2;
    let mut bed = Bed::new(plan).await;
    bed.insert_many("low", 60).await;
    bed.insert_many("high", 60).await;
    bed.insert_many("short", 3).await;
    bed.execute("UPDATE deletions SET priority = 5 WHERE agent_id IN ('high', 'short')").await;
    bed.work().await;
    let agents = agents(&bed);
    assert_eq!(agents.len(), 7);
    assert!(agents[..4].iter().all(|agent| agent != "low"), "{agents:?}");
}

#[tokio::test]
async fn a_request_that_is_not_full_waits_for_company_and_not_longer_than_linger() {
    let mut bed = Bed::new(Plan::default()).await;
    bed.execute(&fresh("a", 1, 0)).await;
    bed.work().await;
    bed.clock.advance(Duration::from_millis(600));
    bed.execute(&fresh("a", 2, 0)).await;
    bed.work().await;
    assert_eq!(bed.sizes(), [0; 0], "neither full nor old enough");
    let wait = bed.worker.turn().await.unwrap().wait;
    assert_eq!(wait, Some(Duration::from_millis(400)));
    bed.clock.advance(Duration::from_millis(400));
    bed.work().await;
    assert_eq!(bed.sent(), [["1", "2"]]);
}

#[tokio::test]
async fn a_full_request_does_not_linger() {
    let mut bed = Bed::new(Plan::default()).await;
    let rows: String = (1..=21).map(|id| fresh("a", id, 0)).collect();
    bed.execute(&rows).await;
    bed.work().await;
    assert_eq!(bed.sizes(), [20]);
}

#[tokio::test]
async fn a_repeated_insert_is_one_deletion_and_a_later_one_asks_again() {
    let mut bed = Bed::new(Plan::default()).await;
    bed.insert(&[("a", "1"), ("a", "1"), ("b", "1")]).await;
    bed.insert(&[("a", "1")]).await;
    bed.work().await;
    assert_eq!(bed.sizes(), [1, 1]);
    bed.insert(&[("a", "1")]).await;
    bed.work().await;
    assert_eq!(agents(&bed)[2..], ["a"], "settled, and asked for again");
    assert_eq!(bed.query::<(i64,)>("SELECT count(*) FROM outcomes WHERE deletion_id = 1").await, [(2,)]);
}

#[tokio::test]
async fn no_id_is_in_two_requests_at_the_same_time() {
    let mut bed = Bed::new(Plan::default()).await;
    bed.sandbox.script([Mood::Gate]);
    bed.insert(&[("a", "1")]).await;
    assert_eq!(bed.worker.turn().await.unwrap().sent, 1);
    // Again, in every way that there is, while it is on its way.
    bed.insert(&[("a", "1")]).await;
    assert_eq!(bed.worker.turn().await.unwrap().sent, 0);
    bed.execute("UPDATE deletions SET state = 'dead', settled_at = 1").await;
    bed.insert(&[("a", "1")]).await;
    assert_eq!(bed.worker.turn().await.unwrap().sent, 0);
    bed.execute("DELETE FROM deletions").await;
    bed.insert(&[("a", "1")]).await;
    assert_eq!(bed.worker.turn().await.unwrap().sent, 0);
    bed.sandbox.open_gate();
    bed.work().await;
    assert_eq!(
        (bed.sizes(), bed.count("state = 'pending'").await),
        (vec![1], 1),
        "the removed row's verdict is not its own"
    );
    bed.clock.advance(bed.plan.settings.poll_interval);
    bed.work().await;
    assert_eq!(bed.sizes(), [1, 1]);
}

#[tokio::test]
async fn no_more_calls_than_concurrency_are_in_flight() {
    let mut bed = Bed::new(Plan::default()).await;
    bed.sandbox.script(vec![Mood::Gate; 100]);
    bed.insert_many("a", 400).await;
    assert_eq!(bed.worker.turn().await.unwrap().sent, 8);
    let turn = bed.worker.turn().await.unwrap();
    assert_eq!((turn.sent, turn.in_flight, turn.wait), (0, 8, None));
    bed.sandbox.open_gate();
    bed.work().await;
    assert_eq!(bed.sizes(), [20; 20]);
}

#[tokio::test]
async fn never_more_requests_than_rate_and_burst_allow() {
    let rate = RateLimit { requests_per_second: 2.0, burst: 3.try_into().unwrap() };
    let mut bed = Bed::new(Plan { rate, ..Plan::default() }).await;
    bed.insert_many("a", 400).await;
    let expected: Vec<usize> = (0..30).map(|tenth| 3 + tenth / 5).collect();
    assert_eq!(bed.sent_by_tenths(30).await, expected);
    assert!(bed.sizes().iter().all(|size| *size == 20), "no batch is claimed before it may go, so all are full");
}

#[tokio::test]
async fn a_row_that_an_operator_takes_out_in_flight_stays_out() {
    let mut bed = Bed::new(Plan::default()).await;
    bed.sandbox.script([Mood::Gate]);
    bed.insert(&[("a", "1"), ("a", "2"), ("a", "3")]).await;
    bed.worker.turn().await.unwrap();
    bed.execute("DELETE FROM deletions WHERE entry_id = '1'").await;
    bed.execute("UPDATE deletions SET state = 'dead', settled_at = 5 WHERE entry_id = '2'").await;
    bed.sandbox.open_gate();
    bed.work().await;
    let rows: Vec<(String, String)> = bed.query("SELECT entry_id, state FROM deletions ORDER BY 1").await;
    assert_eq!(rows, [("2".to_owned(), "dead".to_owned()), ("3".to_owned(), "deleted".to_owned())]);
}

#[tokio::test]
async fn what_has_come_back_is_kept_until_it_can_be_written_and_nothing_is_sent_twice() {
    let mut bed = Bed::new(Plan { busy_timeout: Duration::from_millis(1), ..Plan::default() }).await;
    bed.insert_many("a", 25).await;
    assert_eq!(bed.worker.turn().await.unwrap().sent, 2);
    bed.execute("BEGIN IMMEDIATE; INSERT INTO deletions (agent_id, entry_id) VALUES ('b', 1)").await;
    for _ in 0..2 {
        bed.worker.wait_for_a_call().await;
        let error = bed.worker.turn().await.unwrap_err();
        assert!(error.is_temporary(), "{error}");
    }
    let error = bed.worker.turn().await.unwrap_err();
    assert!(error.is_temporary() && error.to_string().contains("queue.db"), "{error}");
    bed.execute("COMMIT").await;
    bed.work().await;
    assert_eq!((bed.count("state = 'deleted'").await, bed.sizes()), (26, vec![20, 5, 1]));
    assert_eq!(bed.worker.totals().deleted, 26);
}

#[tokio::test]
async fn a_row_that_changes_its_lane_in_flight_comes_back_in_the_new_one() {
    let sandbox = Options { failing: vec!["1".to_owned()], ..Plan::default().sandbox };
    let mut bed = Bed::new(Plan { sandbox, ..Plan::default() }).await;
    bed.sandbox.script([Mood::Gate]);
    bed.insert(&[("a", "1")]).await;
    bed.worker.turn().await.unwrap();
    bed.execute("INSERT INTO deletions (agent_id, entry_id, priority) VALUES ('a', '1', 5)").await;
    assert_eq!(bed.worker.turn().await.unwrap().sent, 0, "the new lane is looked at, and has nothing to send");
    bed.sandbox.open_gate();
    bed.work().await;
    bed.clock.advance(Duration::from_secs(60));
    bed.work().await;
    assert_eq!(bed.sizes(), [1, 1]);
}

#[tokio::test]
async fn rows_that_change_their_lane_in_flight_take_no_places_in_it() {
    let mut plan = Plan::default();
    plan.settings.concurrency = 2;
    let mut bed = Bed::new(plan).await;
    bed.sandbox.script([Mood::Gate, Mood::Plain]);
    bed.insert_many("a", 20).await;
    bed.worker.turn().await.unwrap();
    let later = bed.clock.now().plus(Duration::from_secs(60)).0;
    bed.execute(&format!(
        "INSERT INTO deletions (agent_id, entry_id, priority, due_at) VALUES ('a', 'more', 5, {later});
         INSERT INTO deletions (agent_id, entry_id) VALUES ('b', '1')"
    ))
    .await;
    assert_eq!(bed.worker.turn().await.unwrap().sent, 1);
    bed.worker.wait_for_a_call().await;
    bed.clock.advance(Duration::from_secs(61));
    // That somebody wrote shows only in the transaction of b's answer, which looks at that lane, too: for twenty rows.
    bed.execute("UPDATE deletions SET priority = 5 WHERE agent_id = 'a'").await;
    assert_eq!(bed.worker.turn().await.unwrap().sent, 1, "the row behind those in flight");
    bed.sandbox.open_gate();
    bed.work().await;
    assert_eq!(bed.sizes(), [20, 1, 1]);
}

#[tokio::test]
async fn no_more_requests_are_sent_than_must_be_whatever_goes_on_at_a_time() {
    for agents in [1, 7, 1_000] {
        for concurrency in [1, 8, 64] {
            let mut plan = Plan::default();
            plan.settings.concurrency = concurrency;
            let mut bed = Bed::new(plan).await;
            bed.execute(&format!(
                "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 1006)
                 INSERT INTO deletions (agent_id, entry_id) SELECT 'agent-' || (i % {agents}), i FROM n"
            ))
            .await;
            bed.work().await;
            let fewest = "SELECT sum((n + 19) / 20) FROM (SELECT count(*) AS n FROM deletions GROUP BY agent_id)";
            let fewest = bed.query::<(i64,)>(fewest).await[0].0;
            assert_eq!(i64::try_from(bed.sizes().len()).unwrap(), fewest, "{agents} agents, {concurrency} at a time");
            assert_eq!(bed.count("state = 'deleted'").await, 1_007);
        }
    }
}

#[tokio::test]
async fn lanes_whose_turn_could_not_be_written_keep_it() {
    let mut bed = Bed::new(Plan { busy_timeout: Duration::from_millis(1), ..Plan::default() }).await;
    bed.insert_many("a", 20).await;
    bed.execute("BEGIN IMMEDIATE").await;
    assert!(bed.worker.turn().await.unwrap_err().is_temporary());
    bed.execute("ROLLBACK").await; // which is no news: nobody wrote
    assert_eq!(bed.worker.turn().await.unwrap().sent, 1);
}

#[tokio::test]
async fn rows_in_flight_do_not_stand_in_the_way_of_those_behind_them() {
    let mut plan = Plan::default();
    plan.settings.concurrency = 2;
    let mut bed = Bed::new(plan).await;
    bed.sandbox.script([Mood::Gate]);
    bed.insert_many("a", 80).await;
    let mut sent = vec![bed.worker.turn().await.unwrap().sent];
    for _ in 0..2 {
        bed.worker.wait_for_a_call().await;
        sent.push(bed.worker.turn().await.unwrap().sent);
    }
    assert_eq!(sent, [2, 1, 1]);
}

#[tokio::test]
async fn a_lane_takes_the_room_that_others_leave_in_the_same_turn() {
    let mut bed = Bed::new(Plan::default()).await;
    bed.insert_many("long", 200).await;
    bed.insert_many("short", 1).await;
    assert_eq!(bed.worker.turn().await.unwrap().sent, 8);
}

#[tokio::test]
async fn the_configured_rate_is_used_while_there_is_work() {
    for (requests_per_second, adaptive) in [(0.5, false), (2.0, true), (7.0, true), (40.0, true)] {
        let rate = RateLimit { requests_per_second, burst: 1.try_into().unwrap() };
        let mut bed = Bed::new(Plan { rate, adaptive, ..Plan::default() }).await;
        bed.insert_many("a", 450 * 20).await;
        // Only at the times that the worker asks for.
        let until = bed.clock.elapsed() + Duration::from_secs(10);
        while bed.clock.elapsed() < until {
            let turn = bed.worker.turn().await.unwrap();
            if turn.in_flight > 0 {
                bed.worker.wait_for_a_call().await;
            } else {
                // The clock counts microseconds, the limiter nanoseconds.
                bed.clock.advance(turn.wait.unwrap() + Duration::from_micros(1));
            }
        }
        let (sent, most) = (bed.sizes().len() as f64, requests_per_second * 10.0);
        assert!(sent >= 0.98 * most && sent <= most + 1.0, "{sent} of {most}");
    }
}
