//! Holds are rows: the daemon and operators place and lift them, and the log says so.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    time::Duration,
};

use audio_cache_sweeper::{
    model::{
        clock::{Clock, Timestamp},
        deletion::State,
        outcome::Cause,
    },
    pace::RateLimit,
    sandbox::{Mood, Options},
    worker::{Ended, Until},
};

use super::{
    bed::{Bed, Plan, START},
    engine::{Engine, Hold, Wish},
    tests,
};
use crate::logs::Log;

/// Event, scope and cause of each log line about a hold.
fn said(log: &Log) -> Vec<(String, String, String)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    log.entries()
        .iter()
        .filter(|entry| ["hold_placed", "hold_probed", "hold_lifted"].iter().any(|event| entry["event"] == *event))
        .map(|entry| (text(&entry["event"]), text(&entry["scope"]), text(&entry["cause"])))
        .collect()
}

fn line(event: &str, scope: &str, cause: &str) -> (String, String, String) {
    (event.to_owned(), scope.to_owned(), cause.to_owned())
}

pub async fn an_insert_pauses_with_the_next_turn_and_a_delete_resumes_with_the_next<E: Engine>() {
    let mut plan = Plan::default();
    plan.settings.concurrency = 1;
    let mut bed = Bed::<E>::new(plan).await;
    bed.insert_many("a", 100).await;
    assert_eq!(bed.worker.turn().await.unwrap().sent, 1);
    for (scope, paused) in [("a", 0), ("*", 0), ("b", 1)] {
        bed.pause(scope).await;
        bed.worker.wait_for_a_call().await;
        assert_eq!(bed.sent_by_a_turn().await, paused, "{scope}");
        bed.lift_all().await;
        if paused == 0 {
            assert_eq!(bed.sent_by_a_turn().await, 1, "{scope}");
        }
    }
}

pub async fn the_loop_looks_for_holds_once_in_a_poll_interval_at_the_least<E: Engine>() {
    // Nothing wakes the worker: its poll must notice that the hold is lifted.
    let log = Log::awaiting("hold_placed");
    let _guard = log.capture();
    let mut bed = Bed::<E>::new(Plan::default()).await;
    bed.pause("a").await;
    bed.insert_many("a", 3).await;
    let came = log.came();
    let resume = async {
        came.notified().await;
        bed.engine.lift_all().await;
    };
    let until = Until::Empty { give_up_after: None };
    let (ended, ()) = tokio::join!(bed.worker.run(std::future::pending(), until), resume);
    assert_eq!(ended.unwrap(), Ended::Empty);
    assert_eq!(said(&log), [line("hold_placed", "a", "operator"), line("hold_lifted", "a", "operator")]);
}

/// Polls a future to its end. Each poll takes a millisecond of the test's clock.
async fn slowly<F: Future>(future: F, clock: &Clock) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|context| {
        clock.advance(Duration::from_millis(1));
        future.as_mut().poll(context)
    })
    .await
}

pub async fn a_lifted_hold_is_noticed_also_if_the_lanes_are_listed_before_the_holds_are_read_again<E: Engine>() {
    // On a busy machine, the engine may list the lane for longer than it reads the holds. That tests nothing.
    for _ in 0..10 {
        if a_lane_is_listed_before_its_hold_is_seen_to_be_lifted::<E>().await {
            return;
        }
    }
    panic!("the holds were read again at once, ten times");
}

/// False if the holds were read again at once.
async fn a_lane_is_listed_before_its_hold_is_seen_to_be_lifted<E: Engine>() -> bool {
    let mut bed = Bed::<E>::new(Plan::default()).await;
    // Some engines take longer for the first listing, and for the first reading.
    bed.work().await;
    bed.insert_many("a", 3).await;
    bed.pause("a").await;
    let others: Vec<Hold> = (1..=3_000).map(|n| Hold::on(&format!("b{n}"))).collect();
    bed.place(&others).await;
    let clock = bed.clock.clone();
    // Reading 3,000 holds takes longer than listing the one lane, so they are read again later than it is listed.
    assert_eq!(slowly(bed.worker.turn(), &clock).await.unwrap().sent, 0);
    bed.lift_all().await;
    for step in 0..200 {
        bed.clock.advance(Duration::from_millis(1));
        let sent = bed.worker.turn().await.unwrap().sent;
        if step == 0 && sent > 0 {
            return false;
        }
    }
    bed.clock.advance(Duration::from_secs(30));
    bed.work().await;
    assert_eq!(bed.count_in(State::Deleted).await, 3, "the lane was forgotten");
    true
}

pub async fn a_person_s_hold_ends_at_its_time_without_a_probe_and_its_row_goes<E: Engine>() {
    let log = Log::default();
    let _guard = log.capture();
    let mut bed = Bed::<E>::new(Plan::default()).await;
    bed.insert_many("a", 100).await;
    let until = START.plus(Duration::from_secs(60));
    bed.place(&[Hold::on("*").until(until), Hold::on("b").until(until)]).await;
    bed.work().await;
    bed.clock.advance(Duration::from_millis(59_999));
    bed.work().await;
    assert_eq!(bed.sizes(), [0; 0]);
    bed.clock.advance(Duration::from_millis(1));
    assert_eq!(bed.worker.turn().await.unwrap().sent, 5, "all at once: nothing was wrong, so nothing is probed");
    assert_eq!(bed.holds().await, []);
    let both = |event| [line(event, "*", "operator"), line(event, "b", "operator")];
    assert_eq!(said(&log), [both("hold_placed"), both("hold_lifted")].concat());
}

pub async fn a_hold_that_is_given_more_time_goes_on<E: Engine>() {
    let mut bed = Bed::<E>::new(Plan::default()).await;
    bed.insert_many("a", 1).await;
    bed.place(&[Hold::on("a").until(START.plus(Duration::from_secs(1)))]).await;
    bed.work().await;
    bed.place(&[Hold::on("a").until(START.plus(Duration::from_secs(9)))]).await;
    bed.clock.advance(Duration::from_secs(5));
    bed.work().await;
    assert_eq!((bed.sizes().len(), bed.holds().await.len()), (0, 1));
    bed.clock.advance(Duration::from_secs(4));
    bed.work().await;
    assert_eq!((bed.sizes().len(), bed.holds().await.len()), (1, 0));
}

pub async fn a_hold_of_the_daemon_is_said_to_be_placed_probed_and_lifted_and_outlives_it<E: Engine>() {
    let log = Log::default();
    let _guard = log.capture();
    let mut bed = Bed::<E>::new(Plan::default()).await;
    bed.sandbox.script([Mood::status(403)]);
    bed.insert_many("a", 1).await;
    bed.work().await;
    bed.pause("b").await;
    bed.insert_many("b", 1).await;
    bed.work().await;
    let mut bed = bed.restart().await;
    bed.work().await;
    assert_eq!(bed.sizes().len(), 1, "both hold");
    bed.clock.advance(Duration::from_secs(76));
    bed.work().await;
    assert_eq!(bed.sizes().len(), 2, "one is over");
    let expected = [
        line("hold_placed", "a", "forbidden"),
        line("hold_placed", "b", "operator"),
        line("hold_placed", "a", "forbidden"),
        line("hold_placed", "b", "operator"),
        line("hold_probed", "a", "forbidden"),
        line("hold_lifted", "a", "forbidden"),
    ];
    assert_eq!(said(&log), expected, "the second daemon says by what it finds itself held");
}

pub async fn while_one_agent_is_held_another_gets_every_permit<E: Engine>() {
    let rate = RateLimit { requests_per_second: 0.5, burst: 1.try_into().unwrap() };
    let sandbox = Options { forbidden: vec!["locked".to_owned()], ..Plan::default().sandbox };
    for by_hand in [false, true] {
        let mut plan = Plan { rate, sandbox: sandbox.clone(), ..Plan::default() };
        plan.settings.concurrency = 1;
        let mut bed = Bed::<E>::new(plan).await;
        bed.insert_many("locked", 400).await;
        if by_hand {
            bed.pause("locked").await;
        } else {
            bed.work().await;
            // Longer than this test.
            let until = START.plus(Duration::from_secs(3_600));
            bed.change_holds_where(|_| true, |hold| hold.until_at = Some(until)).await;
            bed.clock.advance(Duration::from_secs(2));
        }
        bed.insert_many("open", 400).await;
        let before = bed.sizes().len();
        for served in 1..=20 {
            // A new row makes the worker list the lanes again, the held one included.
            bed.insert(&[("locked", &format!("more-{served}"))]).await;
            bed.work().await;
            assert_eq!(bed.sizes().len(), before + served);
            bed.clock.advance(Duration::from_secs(2));
        }
        assert_eq!(bed.count_where(|row| row.is(State::Deleted) && row.agent == "open").await, 400);
    }
}

pub async fn a_hold_that_is_over_as_it_is_placed_is_probed_once_by_the_turn_that_learns_of_it<E: Engine>() {
    let mut bed = Bed::<E>::new(Plan::default()).await;
    bed.insert(&[("first", "1")]).await;
    let due_at = START.plus(Duration::from_secs(10));
    bed.enqueue(&["a", "b", "c"].map(|agent| Wish { due_at, ..Wish::of(agent, "1") })).await;
    bed.worker.turn().await.unwrap();
    bed.worker.wait_for_a_call().await;
    bed.clock.advance(Duration::from_secs(20));
    // The next transaction settles the first answer, and could claim for three agents.
    let over = Hold { cause: Cause::Throttled, ..Hold::on("*") }.until(Timestamp::ZERO);
    bed.place(&[over]).await;
    assert_eq!(bed.sent_by_a_turn().await, 1);
    bed.work().await;
    assert_eq!(bed.count_in(State::Deleted).await, 4);
}

tests!($ holds:
    an_insert_pauses_with_the_next_turn_and_a_delete_resumes_with_the_next,
    the_loop_looks_for_holds_once_in_a_poll_interval_at_the_least,
    a_lifted_hold_is_noticed_also_if_the_lanes_are_listed_before_the_holds_are_read_again,
    a_person_s_hold_ends_at_its_time_without_a_probe_and_its_row_goes,
    a_hold_that_is_given_more_time_goes_on,
    a_hold_of_the_daemon_is_said_to_be_placed_probed_and_lifted_and_outlives_it,
    while_one_agent_is_held_another_gets_every_permit,
    a_hold_that_is_over_as_it_is_placed_is_probed_once_by_the_turn_that_learns_of_it,
);
