//! The worker ends when it is told to, or when the queue is empty: it claims nothing more, and writes the answers that it has.
//! (`crate::shutdown` has signals and exit codes.)

use std::{future::pending, time::Duration};

use audio_cache_sweeper::{
    model::{deletion::State, outcome::Cause},
    sandbox::Mood,
    worker::{Ended, Until},
};

use super::{
    bed::{Bed, Plan},
    engine::{Engine, Request, Wish},
    tests,
};
use crate::logs::Log;

pub async fn a_call_in_flight_may_finish_and_nothing_more_is_claimed<E: Engine>() {
    let mut bed = Bed::<E>::new(Plan::default()).await;
    bed.sandbox.script([Mood::Gate]);
    bed.insert(&[("a", "1")]).await;
    let told = async {
        bed.sandbox.arrived(1).await;
        bed.engine.enqueue(&[Wish::of("a", "2")]).await;
        bed.sandbox.open_gate();
    };
    assert_eq!(bed.worker.run(told, Until::Told).await.unwrap(), Ended::Told);
    let rows: Vec<(State, u32)> = bed.rows().await.iter().map(|row| (row.state, row.attempts)).collect();
    assert_eq!(rows, [(State::Deleted, 1), (State::Pending, 0)]);
    assert_eq!(bed.sizes(), [1]);
}

pub async fn a_call_that_does_not_finish_within_the_grace_period_is_settled_as_lost<E: Engine>() {
    let mut plan = Plan::default();
    plan.settings.grace = Duration::ZERO;
    let mut bed = Bed::<E>::new(plan).await;
    bed.sandbox.script([Mood::Hang]);
    bed.insert(&[("a", "1")]).await;
    let told = bed.sandbox.arrived(1);
    assert_eq!(bed.worker.run(told, Until::Told).await.unwrap(), Ended::Told);
    let [row] = &bed.rows().await[..] else { panic!("one row") };
    let written = (row.state, row.attempts, row.last_cause, row.maybe_done);
    assert_eq!(written, (State::Pending, 0, Some(Cause::Lost), true), "our own haste is no attempt of the row's");
    let [Request { answered_at: Some(_), status: None, fault: Some(Cause::Lost), .. }] = &bed.requests().await[..]
    else {
        panic!("one request, settled as lost")
    };
    assert_eq!(bed.holds().await, [], "our own haste says nothing about the API");
}

pub async fn what_is_told_before_the_first_turn_claims_nothing<E: Engine>() {
    let mut bed = Bed::<E>::new(Plan::default()).await;
    bed.insert_many("a", 40).await;
    assert_eq!(bed.worker.run(async {}, Until::Told).await.unwrap(), Ended::Told);
    assert_eq!((bed.sizes(), bed.count_in(State::Pending).await), (vec![], 40));
}

pub async fn until_empty_it_ends_when_no_row_is_open_and_gives_up_on_those_that_wait_too_long<E: Engine>() {
    let log = Log::awaiting("hold_placed");
    let _guard = log.capture();
    let mut bed = Bed::<E>::new(Plan::default()).await;
    bed.insert_many("a", 45).await;
    let until = Until::Empty { give_up_after: None };
    assert_eq!(bed.worker.run(pending(), until).await.unwrap(), Ended::Empty);
    assert_eq!(bed.count_in(State::Deleted).await, 45);
    bed.pause("b").await;
    bed.insert_many("b", 1).await;
    let (minute, clock, came) = (Duration::from_secs(60), bed.clock.clone(), log.came());
    let run = async {
        let ended = bed.worker.run(pending(), Until::Empty { give_up_after: Some(minute) }).await.unwrap();
        (ended, clock.elapsed())
    };
    let wait = async {
        came.notified().await;
        clock.advance(minute);
    };
    assert_eq!(tokio::join!(run, wait).0, (Ended::GaveUp, minute));
    assert_eq!(bed.count_in(State::Pending).await, 1);
}

pub async fn a_queue_that_others_keep_to_themselves_gets_what_came_back_once_it_can<E: Engine>() {
    let log = Log::awaiting("database_unavailable");
    let _guard = log.capture();
    let mut bed = Bed::<E>::new(Plan { busy_timeout: Duration::from_millis(1), ..Plan::default() }).await;
    bed.sandbox.script([Mood::Gate]);
    bed.insert(&[("a", "1")]).await;
    bed.worker.turn().await.unwrap();
    bed.shut_out().await;
    bed.sandbox.open_gate();
    // Let in only after the second try has failed, too.
    let came = log.came();
    let let_in = async {
        came.notified().await;
        came.notified().await;
        bed.engine.let_in().await;
    };
    let (ended, ()) = tokio::select! {
        both = async { tokio::join!(bed.worker.run(async {}, Until::Told), let_in) } => both,
        () = tokio::time::sleep(Duration::from_secs(30)) => panic!("there was no second try"),
    };
    assert_eq!(ended.unwrap(), Ended::Told);
    assert_eq!(bed.count_where(|row| row.is(State::Deleted) && row.attempts == 1).await, 1);
}

tests!($ shutdown:
    a_call_in_flight_may_finish_and_nothing_more_is_claimed,
    a_call_that_does_not_finish_within_the_grace_period_is_settled_as_lost,
    what_is_told_before_the_first_turn_claims_nothing,
    until_empty_it_ends_when_no_row_is_open_and_gives_up_on_those_that_wait_too_long,
    a_queue_that_others_keep_to_themselves_gets_what_came_back_once_it_can,
);
