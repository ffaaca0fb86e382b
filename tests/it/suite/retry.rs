//! How failed rows come back: on their schedule, in halves, after a hold, after a restart.

use std::time::Duration;

use audio_cache_sweeper::{
    model::{
        deletion::State,
        outcome::{Cause, Scope},
    },
    pace::RateLimit,
    queue::{QueueError as _, Remedy},
    sandbox::{Mood, Options},
};

use super::{
    bed::{Bed, Plan},
    engine::{Counts, Engine, Hold, Request, Row},
    tests,
};

pub async fn rows_that_failed_together_come_back_together_on_the_schedule_and_die_at_its_end<E: Engine>() {
    let sandbox = Options { failing: (1..=5).map(|id| id.to_string()).collect(), ..Plan::default().sandbox };
    let mut plan = Plan { sandbox, ..Plan::default() };
    plan.settings.policy.ask_singly = false;
    let mut bed = Bed::<E>::new(plan).await;
    bed.insert_many("a", 20).await;
    bed.work().await;
    assert_eq!(bed.sizes(), [20]);
    for (sizes, delay) in [(vec![20, 5], 10), (vec![20, 5, 5], 20)] {
        bed.clock.advance(Duration::from_secs(delay) - Duration::from_millis(1));
        bed.work().await;
        assert_eq!(bed.sizes().len(), sizes.len() - 1, "not before {delay} s");
        // The jitter, and then linger, because five rows are not a full request.
        bed.clock.advance(Duration::from_millis(1 + delay * 250 + 1_000));
        bed.work().await;
        assert_eq!(bed.sizes(), sizes);
    }
    let failed = |row: &Row| row.is(State::Dead) && row.attempts == 3 && row.last_cause == Some(Cause::ApiFailed);
    assert_eq!(bed.count_where(failed).await, 5);
    assert_eq!(bed.count_where(|row| row.is(State::Deleted) && row.attempts == 1).await, 15);
    bed.clock.advance(Duration::from_secs(100_000));
    bed.work().await;
    assert_eq!(bed.sizes().len(), 3, "dead is dead");
}

pub async fn halving_finds_the_one_bad_id_among_twenty_and_saves_the_others<E: Engine>() {
    for bad in [0, 7, 19] {
        let sandbox = Options { numeric_ids: true, ..Plan::default().sandbox };
        let mut bed = Bed::<E>::new(Plan { sandbox, ..Plan::default() }).await;
        let mut ids: Vec<String> = (1..=20).map(|id| id.to_string()).collect();
        ids[bad] = "not-a-number".to_owned();
        let rows: Vec<(&str, &str)> = ids.iter().map(|id| ("a", id.as_str())).collect();
        bed.insert(&rows).await;
        bed.work().await;
        assert!(bed.sizes().len() <= 11, "{:?}", bed.sizes());
        assert_eq!(bed.count_where(|row| row.is(State::Deleted) && row.attempts == 1).await, 19);
        assert_eq!(bed.count_where(|row| row.is(State::Dead) && row.entry == "not-a-number").await, 1);
    }
}

pub async fn an_outage_costs_a_handful_of_attempts_and_not_the_backlog_s<E: Engine>() {
    let mut plan = Plan::default();
    plan.settings.concurrency = 4;
    let mut bed = Bed::<E>::new(plan).await;
    bed.sandbox.script(vec![Mood::status(500); 10]);
    bed.insert_many("a", 2_000).await;
    let mut hours = 0;
    while bed.pending().await > 0 && hours < 3_600 {
        bed.work().await;
        bed.clock.advance(Duration::from_secs(1));
        hours += 1;
    }
    assert_eq!(bed.count_in(State::Deleted).await, 2_000);
    let wasted = bed.rows().await.iter().map(|row| row.attempts).sum::<u32>() - 2_000;
    assert!(wasted <= 10 * 20, "{wasted} attempts were wasted");
}

pub async fn one_probe_goes_out_when_a_hold_ends_and_a_failed_one_doubles_it<E: Engine>() {
    let mut bed = Bed::<E>::new(Plan::default()).await;
    bed.sandbox.script([Mood::status(401), Mood::status(401)]);
    bed.insert_many("a", 1).await;
    bed.work().await;
    bed.insert_many("b", 200).await;
    bed.clock.advance(Duration::from_secs(59));
    bed.work().await;
    assert_eq!(bed.sizes().len(), 1, "what needs a person lasts a minute at least");
    bed.clock.advance(Duration::from_secs(16));
    bed.work().await;
    assert_eq!(bed.sizes().len(), 2, "one probe");
    let [hold] = &bed.holds().await[..] else { panic!("one hold") };
    let (now, seconds) = (bed.clock.now(), Duration::from_secs);
    let left = hold.until_at.unwrap().since(now);
    assert!(hold.repeats == 1 && (seconds(120)..=seconds(150)).contains(&left), "{left:?}");
    assert_eq!(now.since(hold.since_at), seconds(75), "it has been one pause all along");
    bed.clock.advance(Duration::from_secs(150));
    bed.work().await;
    assert_eq!(bed.count_in(State::Deleted).await, 201, "the probe was answered, and the rest went");
}

pub async fn one_agent_s_hold_does_not_slow_another<E: Engine>() {
    let sandbox = Options { forbidden: vec!["locked".to_owned()], ..Plan::default().sandbox };
    let mut bed = Bed::<E>::new(Plan { sandbox, ..Plan::default() }).await;
    bed.insert_many("locked", 100).await;
    bed.insert_many("open", 100).await;
    bed.work().await;
    assert_eq!(bed.count_where(|row| row.is(State::Deleted) && row.agent == "open").await, 100);
    let untried = |row: &Row| row.is(State::Pending) && row.agent == "locked" && row.attempts == 0;
    assert_eq!(bed.count_where(untried).await, 100);
    let before = bed.sizes().len();
    bed.clock.advance(Duration::from_secs(75));
    bed.work().await;
    assert_eq!(bed.sizes().len(), before + 1, "one probe of the agent");
}

pub async fn an_operator_pauses_and_resumes<E: Engine>() {
    let mut bed = Bed::<E>::new(Plan::default()).await;
    bed.pause("a").await;
    bed.insert_many("a", 20).await;
    bed.insert_many("b", 20).await;
    bed.work().await;
    assert_eq!(bed.count_in(State::Deleted).await, 20);
    bed.pause("*").await;
    bed.lift_where(|hold| hold.scope != Scope::All).await;
    bed.insert_many("c", 20).await;
    bed.work().await;
    assert_eq!(bed.sizes().len(), 1);
    bed.lift_all().await;
    bed.work().await;
    assert_eq!(bed.count_in(State::Deleted).await, 60);
}

pub async fn holds_outlive_a_restart_and_orphans_are_settled_as_lost<E: Engine>() {
    let rate = RateLimit { requests_per_second: 1_000.0, burst: 1_000.try_into().unwrap() };
    let mut bed = Bed::<E>::new(Plan { rate, ..Plan::default() }).await;
    bed.sandbox.script([Mood::status(401), Mood::Hang]);
    bed.insert_many("a", 1).await;
    bed.work().await;
    let mut bed = bed.restart().await;
    bed.insert_many("b", 20).await;
    bed.work().await;
    assert_eq!(bed.sizes().len(), 1, "still held");
    bed.clock.advance(Duration::from_secs(76));
    assert_eq!(bed.worker.turn().await.unwrap().sent, 1, "the probe, which hangs");
    bed.sandbox.arrived(2).await;
    let [claimed] = &bed.unanswered().await[..] else { panic!("one request") };
    let restarted_at = bed.clock.now();
    let mut bed = bed.restart().await;
    let after: Vec<Request> = bed.requests().await.into_iter().filter(|request| request.id == claimed.id).collect();
    let rows = claimed.rows.len();
    let counts = Counts { retried: u32::try_from(rows).unwrap(), ..Counts::default() };
    let (answered_at, fault) = (Some(restarted_at), Some(Cause::Lost));
    let detail = after[0].detail.clone();
    assert_eq!(after, [Request { answered_at, counts: Some(counts), fault, detail, ..claimed.clone() }]);
    let lost = |row: &Row| row.maybe_done && row.attempts == 1 && row.last_cause == Some(Cause::Lost);
    assert_eq!(bed.count_where(lost).await, rows);
    bed.clock.advance(Duration::from_secs(100));
    bed.work().await;
    assert_eq!(bed.count_in(State::Deleted).await, 21);
}

pub async fn a_pause_that_a_turn_had_to_wait_for_is_kept_by_that_turn<E: Engine>() {
    let mut bed = Bed::<E>::new(Plan::default()).await;
    bed.insert_many("a", 100).await;
    bed.shut_out().await;
    bed.pause("*").await;
    let let_in = async {
        // This sleep waits for nothing: the turn must meet a lock that lasts.
        tokio::time::sleep(Duration::from_millis(50)).await;
        bed.engine.let_in().await;
    };
    let (turn, ()) = tokio::join!(bed.worker.turn(), let_in);
    assert_eq!(turn.unwrap().sent, 0);
    bed.lift_all().await;
    bed.work().await;
    assert_eq!(bed.count_in(State::Deleted).await, 100);
}

pub async fn a_pause_in_the_place_of_one_that_is_over_is_not_lifted_with_it<E: Engine>() {
    let mut bed = Bed::<E>::new(Plan { busy_timeout: Duration::from_millis(1), ..Plan::default() }).await;
    bed.sandbox.script([Mood::status(401)]);
    bed.insert(&[("a", "1")]).await;
    bed.work().await;
    bed.clock.advance(Duration::from_secs(76));
    assert_eq!(bed.worker.turn().await.unwrap().sent, 1, "the probe");
    bed.worker.wait_for_a_call().await;
    // The probe is judged but not written. Meanwhile an operator places a hold with the same scope and cause.
    bed.shut_out().await;
    assert_eq!(bed.worker.turn().await.unwrap_err().remedy(), Remedy::Wait);
    bed.place(&[Hold { cause: Cause::Unauthorized, ..Hold::on("*") }]).await;
    bed.let_in().await;
    bed.insert_many("b", 40).await;
    bed.work().await;
    assert_eq!(bed.held().await, [("*".to_owned(), Cause::Unauthorized)]);
    assert_eq!(bed.sizes().len(), 2, "and nothing goes");
}

tests!($ retry:
    rows_that_failed_together_come_back_together_on_the_schedule_and_die_at_its_end,
    halving_finds_the_one_bad_id_among_twenty_and_saves_the_others,
    an_outage_costs_a_handful_of_attempts_and_not_the_backlog_s,
    one_probe_goes_out_when_a_hold_ends_and_a_failed_one_doubles_it,
    one_agent_s_hold_does_not_slow_another,
    an_operator_pauses_and_resumes,
    holds_outlive_a_restart_and_orphans_are_settled_as_lost,
    a_pause_that_a_turn_had_to_wait_for_is_kept_by_that_turn,
    a_pause_in_the_place_of_one_that_is_over_is_not_lifted_with_it,
);
