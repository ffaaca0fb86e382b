//! New settings for a worker that runs: they hold at once, and nothing is lost. (`crate::reload` has SIGHUP.)

use std::{future::pending, time::Duration};

use audio_cache_sweeper::{
    model::{backoff::Backoff, outcome::Cause, remedy::Names},
    pace::RateLimit,
    sandbox::{Mood, Options},
    worker::{Ended, Reload, Tunables, Until},
};
use tokio::sync::mpsc::unbounded_channel;

use super::{
    bed::{Bed, Plan},
    engine::Engine,
    tests,
};
use crate::logs::Log;

/// What a plan's worker runs with.
pub fn tunables(plan: &Plan) -> Tunables {
    Tunables {
        settings: plan.settings,
        rate: plan.rate,
        adaptive: plan.adaptive,
        hold_growth: plan.growth,
        names: Names::default(),
        filter: None,
        key: None,
        changes: Vec::new(),
    }
}

fn rate(requests_per_second: f64, burst: u32) -> RateLimit {
    RateLimit { requests_per_second, burst: burst.try_into().unwrap() }
}

pub async fn a_lower_rate_holds_at_once_and_what_was_sent_before_counts<E: Engine>() {
    let mut bed = Bed::<E>::new(Plan { rate: rate(10.0, 5), ..Plan::default() }).await;
    bed.insert_many("a", 4_000).await;
    assert_eq!(bed.sent_by_tenths(10).await.last(), Some(&14), "a burst, and then one each tenth of a second");
    let new = Tunables { rate: rate(1.0, 5), ..tunables(&bed.plan) };
    bed.worker.reload(new).await.unwrap();
    // In the last five seconds more were sent than the new limit allows, so its burst is used up.
    assert_eq!(bed.sent_by_tenths(9).await, [14; 9]);
    assert_eq!(bed.sent_by_tenths(30).await.last(), Some(&17));
}

pub async fn a_higher_rate_holds_at_once<E: Engine>() {
    let mut bed = Bed::<E>::new(Plan { rate: rate(0.01, 1), ..Plan::default() }).await;
    bed.insert_many("a", 4_000).await;
    assert_eq!(bed.sent_by_tenths(10).await, [1; 10]);
    let new = Tunables { rate: rate(10.0, 2), ..tunables(&bed.plan) };
    bed.worker.reload(new).await.unwrap();
    assert_eq!(bed.sent_by_tenths(3).await, [2, 3, 4], "one of the burst of two is used up");
}

pub async fn a_rate_that_was_learnt_is_kept_up_to_the_new_ceiling<E: Engine>() {
    let mut bed = Bed::<E>::new(Plan { rate: rate(40.0, 1), adaptive: true, ..Plan::default() }).await;
    bed.insert_many("a", 4_000).await;
    bed.sandbox.script([Mood::status(429)]);
    bed.work().await;
    for (ceiling, kept) in [(100.0, 39.2), (20.0, 20.0), (30.0, 30.0)] {
        bed.worker.reload(Tunables { rate: rate(ceiling, 1), ..tunables(&bed.plan) }).await.unwrap();
        assert_eq!(
            bed.daemon().await.unwrap().settings.requests_per_second,
            kept,
            "of 39.2 requests a second at most {ceiling}, and what nothing lowered rises"
        );
    }
}

pub async fn a_call_in_flight_is_not_lost_and_concurrency_and_linger_are_those_of_now<E: Engine>() {
    let mut bed = Bed::<E>::new(Plan::default()).await;
    bed.sandbox.script([Mood::Gate]);
    bed.insert_many("a", 20).await;
    bed.worker.turn().await.unwrap();
    bed.sandbox.arrived(1).await;
    let mut new = tunables(&bed.plan);
    new.settings.concurrency = 1;
    bed.worker.reload(new).await.unwrap();
    bed.insert_many("b", 40).await;
    bed.worker.turn().await.unwrap();
    assert_eq!(bed.sizes(), [20], "the one in flight is as many as may be");
    bed.sandbox.open_gate();
    bed.work().await;
    assert_eq!(bed.sizes(), [20; 3]);
    assert_eq!(bed.worker.totals().deleted, 60);

    let mut new = tunables(&bed.plan);
    new.settings.linger = Duration::from_secs(10_000_000_000);
    new.settings.batch_size = 10;
    bed.worker.reload(new).await.unwrap();
    bed.insert_many("c", 15).await;
    bed.work().await;
    assert_eq!(bed.sizes(), [20, 20, 20, 10], "five rows wait for others");
    bed.worker.reload(tunables(&bed.plan)).await.unwrap();
    bed.work().await;
    assert_eq!(bed.sizes(), [20, 20, 20, 10, 5]);
}

pub async fn retries_and_holds_are_those_of_now<E: Engine>() {
    let mut bed = Bed::<E>::new(Plan::default()).await;
    let mut new = tunables(&bed.plan);
    new.settings.after_faults = 1;
    new.hold_growth = Backoff::new(Duration::from_secs(50), Duration::from_secs(600)).unwrap();
    bed.worker.reload(new).await.unwrap();
    bed.sandbox.script([Mood::status(503)]);
    bed.insert_many("a", 1).await;
    bed.work().await;
    let [hold] = &bed.holds().await[..] else { panic!("one fault holds") };
    let length = hold.until_at.unwrap().since(hold.since_at);
    assert_eq!(hold.cause, Cause::ServerError);
    assert!((50..=63).contains(&length.as_secs()), "{length:?}");
}

pub async fn a_hold_that_waits_for_a_person_is_probed_as_after_a_restart<E: Engine>() {
    let sandbox = Options { forbidden: vec!["locked".to_owned()], ..Plan::default().sandbox };
    let mut bed = Bed::<E>::new(Plan { sandbox, ..Plan::default() }).await;
    bed.insert_many("locked", 1).await;
    for _ in 0..4 {
        bed.work().await;
        bed.clock.advance(Duration::from_secs(400));
    }
    let before = bed.sizes().len();
    bed.work().await;
    assert_eq!(bed.sizes().len(), before, "it is held for longer than 400 s by now");
    bed.worker.reload(tunables(&bed.plan)).await.unwrap();
    bed.work().await;
    assert_eq!(bed.sizes().len(), before + 1);
}

pub async fn a_message_for_the_run_is_taken_in_between_two_turns<E: Engine>() {
    let log = Log::awaiting("reloaded");
    let _guard = log.capture();
    let mut bed = Bed::<E>::new(Plan::default()).await;
    let (send, reloads) = unbounded_channel();
    bed.worker = bed.worker.reloaded_by(reloads);
    send.send(Reload::Refused).unwrap();
    let changes = vec!["delivery.linger: 1s -> 0s".to_owned()];
    send.send(Reload::Take(Box::new(Tunables { changes, ..tunables(&bed.plan) }))).unwrap();
    let told = log.came();
    let ended = bed.worker.run(async move { told.notified().await }, Until::Told).await.unwrap();
    assert_eq!(ended, Ended::Told);
    let [reloaded] = &log.events("reloaded")[..] else { panic!("one: {:?}", log.entries()) };
    assert_eq!((&reloaded["level"], &reloaded["changes"]), (&"INFO".into(), &"delivery.linger: 1s -> 0s".into()));
    drop(send);
    // Nobody can send any more: the run goes on all the same.
    let run = bed.worker.run(pending(), Until::Empty { give_up_after: None });
    assert_eq!(run.await.unwrap(), Ended::Empty);
}

tests!($ reload:
    a_lower_rate_holds_at_once_and_what_was_sent_before_counts,
    a_higher_rate_holds_at_once,
    a_rate_that_was_learnt_is_kept_up_to_the_new_ceiling,
    a_call_in_flight_is_not_lost_and_concurrency_and_linger_are_those_of_now,
    retries_and_holds_are_those_of_now,
    a_hold_that_waits_for_a_person_is_probed_as_after_a_restart,
    a_message_for_the_run_is_taken_in_between_two_turns,
);
