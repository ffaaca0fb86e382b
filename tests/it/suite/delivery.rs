//! Which rows go into which request, in what order, and when.

use std::time::Duration;

use audio_cache_sweeper::{
    model::{clock::Timestamp, deletion::State},
    pace::RateLimit,
    queue::{QueueError as _, Remedy},
    sandbox::{Mood, Options},
};

use super::{
    bed::{Bed, Plan, START},
    engine::{Engine, Wish},
    tests,
};

/// A wish that is created at [`START`]: its row lingers.
fn fresh(agent: &str, entry: u32) -> Wish {
    Wish { created_at: Some(START), ..Wish::of(agent, &entry.to_string()) }
}

pub async fn so_many_rows_take_no_more_requests_than_they_must<E: Engine>() {
    for (rows, sizes) in
        [(0, vec![]), (1, vec![1]), (19, vec![19]), (20, vec![20]), (21, vec![20, 1]), (41, vec![20, 20, 1])]
    {
        let mut bed = Bed::<E>::new(Plan::default()).await;
        bed.insert_many("a", rows).await;
        bed.work().await;
        let mut sent = bed.sizes();
        sent.sort_by(|one, other| other.cmp(one));
        assert_eq!(sent, sizes, "{rows} rows");
        assert_eq!(bed.count_where(|row| row.is(State::Deleted) && row.attempts == 1).await, rows);
        let mut ids: Vec<String> = bed.sent().concat();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), rows, "each ID once");
    }
}

pub async fn a_thousand_rows_of_many_agents_are_all_deleted_in_full_requests<E: Engine>() {
    let mut bed = Bed::<E>::new(Plan::default()).await;
    for agent in 0..10 {
        bed.insert_many(&format!("agent-{agent}"), 100).await;
    }
    bed.work().await;
    assert_eq!(bed.sizes(), [20; 50]);
    assert_eq!(bed.count_in(State::Deleted).await, 1_000);
    let outcomes = bed.outcomes().await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.verdict == "deleted").count(), 1_000);
}

pub async fn lanes_take_turns<E: Engine>() {
    let mut plan = Plan::default();
    plan.settings.concurrency = 1;
    let mut bed = Bed::<E>::new(plan).await;
    for agent in ["a", "b", "c"] {
        bed.insert_many(agent, 40).await;
    }
    bed.work().await;
    assert_eq!(bed.agents(), ["a", "b", "c", "a", "b", "c"]);
}

pub async fn a_rate_of_less_than_the_lanes_starves_none<E: Engine>() {
    let rate = RateLimit { requests_per_second: 1.0, burst: 4.try_into().unwrap() };
    let mut bed = Bed::<E>::new(Plan { rate, ..Plan::default() }).await;
    for agent in ["a", "b", "c", "d"] {
        bed.insert_many(agent, 100).await;
    }
    for _ in 0..12 {
        bed.work().await;
        bed.clock.advance(Duration::from_secs(1));
    }
    let agents = bed.agents();
    assert_eq!(agents.len(), 4 + 11, "the burst, and then one a second");
    for agent in ["a", "b", "c", "d"] {
        let turns = agents.iter().filter(|served| *served == agent).count();
        assert!((3..=4).contains(&turns), "{agent} {turns} times in {agents:?}");
    }
}

pub async fn a_higher_priority_goes_first_and_takes_all_the_room_it_can_use<E: Engine>() {
    let mut plan = Plan::default();
    plan.settings.concurrency = 2;
    let mut bed = Bed::<E>::new(plan).await;
    bed.insert_many("low", 60).await;
    bed.insert_many("high", 60).await;
    bed.insert_many("short", 3).await;
    bed.edit_where(|row| row.agent != "low", |row| row.priority = 5).await;
    bed.work().await;
    let agents = bed.agents();
    assert_eq!(agents.len(), 7);
    assert!(agents[..4].iter().all(|agent| agent != "low"), "{agents:?}");
}

pub async fn a_request_that_is_not_full_waits_for_company_and_not_longer_than_linger<E: Engine>() {
    let mut bed = Bed::<E>::new(Plan::default()).await;
    bed.enqueue(&[fresh("a", 1)]).await;
    bed.work().await;
    bed.clock.advance(Duration::from_millis(600));
    bed.enqueue(&[fresh("a", 2)]).await;
    bed.work().await;
    assert_eq!(bed.sizes(), [0; 0], "neither full nor old enough");
    let wait = bed.worker.turn().await.unwrap().wait;
    assert_eq!(wait, Some(Duration::from_millis(400)));
    bed.clock.advance(Duration::from_millis(400));
    bed.work().await;
    assert_eq!(bed.sent(), [["1", "2"]]);
}

pub async fn a_full_request_does_not_linger<E: Engine>() {
    let mut bed = Bed::<E>::new(Plan::default()).await;
    let wishes: Vec<Wish> = (1..=21).map(|id| fresh("a", id)).collect();
    bed.enqueue(&wishes).await;
    bed.work().await;
    assert_eq!(bed.sizes(), [20]);
}

pub async fn a_repeated_insert_is_one_deletion_and_a_later_one_asks_again<E: Engine>() {
    let mut bed = Bed::<E>::new(Plan::default()).await;
    bed.insert(&[("a", "1"), ("a", "1"), ("b", "1")]).await;
    bed.insert(&[("a", "1")]).await;
    bed.work().await;
    assert_eq!(bed.sizes(), [1, 1]);
    bed.insert(&[("a", "1")]).await;
    bed.work().await;
    assert_eq!(bed.agents()[2..], ["a"], "settled, and asked for again");
    let id = bed.rows_where(|row| row.agent == "a").await[0].id;
    assert_eq!(bed.outcomes().await.iter().filter(|outcome| outcome.row == id).count(), 2);
}

pub async fn no_id_is_in_two_requests_at_the_same_time<E: Engine>() {
    let mut bed = Bed::<E>::new(Plan::default()).await;
    bed.sandbox.script([Mood::Gate]);
    bed.insert(&[("a", "1")]).await;
    assert_eq!(bed.worker.turn().await.unwrap().sent, 1);
    // While it is in flight, it is enqueued again in every way that there is.
    bed.insert(&[("a", "1")]).await;
    assert_eq!(bed.worker.turn().await.unwrap().sent, 0);
    bed.edit_where(|_| true, |row| row.give_up(Timestamp(1))).await;
    bed.insert(&[("a", "1")]).await;
    assert_eq!(bed.worker.turn().await.unwrap().sent, 0);
    bed.remove_where(|_| true).await;
    bed.insert(&[("a", "1")]).await;
    assert_eq!(bed.worker.turn().await.unwrap().sent, 0);
    bed.sandbox.open_gate();
    bed.work().await;
    assert_eq!(
        (bed.sizes(), bed.count_in(State::Pending).await),
        (vec![1], 1),
        "the removed row's verdict is not its own"
    );
    bed.clock.advance(bed.plan.settings.poll_interval);
    bed.work().await;
    assert_eq!(bed.sizes(), [1, 1]);
}

pub async fn no_more_calls_than_concurrency_are_in_flight<E: Engine>() {
    let mut bed = Bed::<E>::new(Plan::default()).await;
    bed.sandbox.script(vec![Mood::Gate; 100]);
    bed.insert_many("a", 400).await;
    assert_eq!(bed.worker.turn().await.unwrap().sent, 8);
    let turn = bed.worker.turn().await.unwrap();
    assert_eq!((turn.sent, turn.in_flight, turn.wait), (0, 8, None));
    bed.sandbox.open_gate();
    bed.work().await;
    assert_eq!(bed.sizes(), [20; 20]);
}

pub async fn never_more_requests_than_rate_and_burst_allow<E: Engine>() {
    let rate = RateLimit { requests_per_second: 2.0, burst: 3.try_into().unwrap() };
    let mut bed = Bed::<E>::new(Plan { rate, ..Plan::default() }).await;
    bed.insert_many("a", 400).await;
    let expected: Vec<usize> = (0..30).map(|tenth| 3 + tenth / 5).collect();
    assert_eq!(bed.sent_by_tenths(30).await, expected);
    assert!(bed.sizes().iter().all(|size| *size == 20), "no batch is claimed before it may go, so all are full");
}

pub async fn a_row_that_an_operator_takes_out_in_flight_stays_out<E: Engine>() {
    let mut bed = Bed::<E>::new(Plan::default()).await;
    bed.sandbox.script([Mood::Gate]);
    bed.insert(&[("a", "1"), ("a", "2"), ("a", "3")]).await;
    bed.worker.turn().await.unwrap();
    bed.remove_where(|row| row.entry == "1").await;
    bed.edit_where(|row| row.entry == "2", |row| row.give_up(Timestamp(5))).await;
    bed.sandbox.open_gate();
    bed.work().await;
    let rows: Vec<(String, State)> = bed.rows().await.into_iter().map(|row| (row.entry, row.state)).collect();
    assert_eq!(rows, [("2".to_owned(), State::Dead), ("3".to_owned(), State::Deleted)]);
}

pub async fn what_has_come_back_is_kept_until_it_can_be_written_and_nothing_is_sent_twice<E: Engine>() {
    let mut bed = Bed::<E>::new(Plan { busy_timeout: Duration::from_millis(1), ..Plan::default() }).await;
    bed.insert_many("a", 25).await;
    assert_eq!(bed.worker.turn().await.unwrap().sent, 2);
    bed.shut_out().await;
    bed.insert(&[("b", "1")]).await;
    for _ in 0..2 {
        bed.worker.wait_for_a_call().await;
        let error = bed.worker.turn().await.unwrap_err();
        assert_eq!(error.remedy(), Remedy::Wait, "{error}");
    }
    let error = bed.worker.turn().await.unwrap_err();
    assert!(error.remedy() == Remedy::Wait && error.to_string().contains(&bed.address()), "{error}");
    bed.let_in().await;
    bed.work().await;
    assert_eq!((bed.count_in(State::Deleted).await, bed.sizes()), (26, vec![20, 5, 1]));
    assert_eq!(bed.worker.totals().deleted, 26);
}

pub async fn a_row_that_changes_its_lane_in_flight_comes_back_in_the_new_one<E: Engine>() {
    let sandbox = Options { failing: vec!["1".to_owned()], ..Plan::default().sandbox };
    let mut bed = Bed::<E>::new(Plan { sandbox, ..Plan::default() }).await;
    bed.sandbox.script([Mood::Gate]);
    bed.insert(&[("a", "1")]).await;
    bed.worker.turn().await.unwrap();
    bed.enqueue(&[Wish { priority: 5, ..Wish::of("a", "1") }]).await;
    assert_eq!(bed.worker.turn().await.unwrap().sent, 0, "the new lane is looked at, and has nothing to send");
    bed.sandbox.open_gate();
    bed.work().await;
    bed.clock.advance(Duration::from_secs(60));
    bed.work().await;
    assert_eq!(bed.sizes(), [1, 1]);
}

pub async fn rows_that_change_their_lane_in_flight_take_no_places_in_it<E: Engine>() {
    let mut plan = Plan::default();
    plan.settings.concurrency = 2;
    let mut bed = Bed::<E>::new(plan).await;
    bed.sandbox.script([Mood::Gate, Mood::Plain]);
    bed.insert_many("a", 20).await;
    bed.worker.turn().await.unwrap();
    let due_at = bed.clock.now().plus(Duration::from_secs(60));
    bed.enqueue(&[Wish { priority: 5, due_at, ..Wish::of("a", "more") }, Wish::of("b", "1")]).await;
    assert_eq!(bed.worker.turn().await.unwrap().sent, 1);
    bed.worker.wait_for_a_call().await;
    bed.clock.advance(Duration::from_secs(61));
    // The worker notices this write only in the transaction that settles b's answer. That one looks at the changed lane, too.
    bed.edit_where(|row| row.agent == "a", |row| row.priority = 5).await;
    assert_eq!(bed.sent_by_a_turn().await, 1, "the row behind those in flight");
    bed.sandbox.open_gate();
    bed.work().await;
    assert_eq!(bed.sizes(), [20, 1, 1]);
}

pub async fn no_more_requests_are_sent_than_must_be_whatever_goes_on_at_a_time<E: Engine>() {
    for agents in [1, 7, 1_000] {
        for concurrency in [1, 8, 64] {
            let mut plan = Plan::default();
            plan.settings.concurrency = concurrency;
            let mut bed = Bed::<E>::new(plan).await;
            let wish = |n: usize| Wish::of(&format!("agent-{}", n % agents), &n.to_string());
            bed.enqueue(&(0..1_007).map(wish).collect::<Vec<_>>()).await;
            bed.work().await;
            let fewest: usize = (0..agents).map(|agent| (agent..1_007).step_by(agents).len().div_ceil(20)).sum();
            assert_eq!(bed.sizes().len(), fewest, "{agents} agents, {concurrency} at a time");
            assert_eq!(bed.count_in(State::Deleted).await, 1_007);
        }
    }
}

pub async fn lanes_whose_turn_could_not_be_written_keep_it<E: Engine>() {
    let mut bed = Bed::<E>::new(Plan { busy_timeout: Duration::from_millis(1), ..Plan::default() }).await;
    bed.insert_many("a", 20).await;
    bed.shut_out().await;
    assert_eq!(bed.worker.turn().await.unwrap_err().remedy(), Remedy::Wait);
    bed.let_in().await; // Nobody wrote, so the queue reports no change.
    assert_eq!(bed.worker.turn().await.unwrap().sent, 1);
}

pub async fn rows_in_flight_do_not_stand_in_the_way_of_those_behind_them<E: Engine>() {
    let mut plan = Plan::default();
    plan.settings.concurrency = 2;
    let mut bed = Bed::<E>::new(plan).await;
    bed.sandbox.script([Mood::Gate]);
    bed.insert_many("a", 80).await;
    let mut sent = vec![bed.worker.turn().await.unwrap().sent];
    for _ in 0..2 {
        bed.worker.wait_for_a_call().await;
        sent.push(bed.worker.turn().await.unwrap().sent);
    }
    assert_eq!(sent, [2, 1, 1]);
}

pub async fn a_lane_takes_the_room_that_others_leave_in_the_same_turn<E: Engine>() {
    let mut bed = Bed::<E>::new(Plan::default()).await;
    bed.insert_many("long", 200).await;
    bed.insert_many("short", 1).await;
    assert_eq!(bed.worker.turn().await.unwrap().sent, 8);
}

pub async fn the_configured_rate_is_used_while_there_is_work<E: Engine>() {
    for (requests_per_second, adaptive) in [(0.5, false), (2.0, true), (7.0, true), (40.0, true)] {
        let rate = RateLimit { requests_per_second, burst: 1.try_into().unwrap() };
        let mut bed = Bed::<E>::new(Plan { rate, adaptive, ..Plan::default() }).await;
        bed.insert_many("a", 450 * 20).await;
        // The clock moves only to the times that the worker asks for.
        let until = bed.clock.elapsed() + Duration::from_secs(10);
        while bed.clock.elapsed() < until {
            let turn = bed.worker.turn().await.unwrap();
            if turn.in_flight > 0 {
                bed.worker.wait_for_a_call().await;
            } else {
                // The clock has a resolution of a microsecond, and the limiter of a nanosecond.
                bed.clock.advance(turn.wait.unwrap() + Duration::from_micros(1));
            }
        }
        let (sent, most) = (bed.sizes().len() as f64, requests_per_second * 10.0);
        assert!(sent >= 0.98 * most && sent <= most + 1.0, "{sent} of {most}");
    }
}

tests!($ delivery:
    so_many_rows_take_no_more_requests_than_they_must,
    a_thousand_rows_of_many_agents_are_all_deleted_in_full_requests,
    lanes_take_turns,
    a_rate_of_less_than_the_lanes_starves_none,
    a_higher_priority_goes_first_and_takes_all_the_room_it_can_use,
    a_request_that_is_not_full_waits_for_company_and_not_longer_than_linger,
    a_full_request_does_not_linger,
    a_repeated_insert_is_one_deletion_and_a_later_one_asks_again,
    no_id_is_in_two_requests_at_the_same_time,
    no_more_calls_than_concurrency_are_in_flight,
    never_more_requests_than_rate_and_burst_allow,
    a_row_that_an_operator_takes_out_in_flight_stays_out,
    what_has_come_back_is_kept_until_it_can_be_written_and_nothing_is_sent_twice,
    a_row_that_changes_its_lane_in_flight_comes_back_in_the_new_one,
    rows_that_change_their_lane_in_flight_take_no_places_in_it,
    no_more_requests_are_sent_than_must_be_whatever_goes_on_at_a_time,
    lanes_whose_turn_could_not_be_written_keep_it,
    rows_in_flight_do_not_stand_in_the_way_of_those_behind_them,
    a_lane_takes_the_room_that_others_leave_in_the_same_turn,
    the_configured_rate_is_used_while_there_is_work,
);
