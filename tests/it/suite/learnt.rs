//! What was learnt about the API's limits survives a restart, for an hour.

use std::time::Duration;

use audio_cache_sweeper::{
    model::{
        backoff::Backoff,
        clock::Timestamp,
        limits::{ConcurrencyReason, Learnt, RateReason},
    },
    pace::RateLimit,
    queue::{InEffect, Queue as _, Tx as _},
    sandbox::Mood,
    worker::{Ended, Tunables, Until},
};

use super::{
    bed::{Bed, Plan, START},
    engine::{Engine, Setup},
    reload::tunables,
    tests,
};
use crate::logs::Log;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

/// A ceiling of so many requests a second, of which five may go at once.
fn adaptive(requests_per_second: f64) -> Plan {
    let rate = RateLimit { requests_per_second, burst: 5.try_into().unwrap() };
    Plan { rate, adaptive: true, ..Plan::default() }
}

fn learnt(rate: f64, concurrency: usize) -> Learnt {
    Learnt { rate: Some(rate), is_even: true, concurrency: Some(concurrency), at: START.minus(MINUTE) }
}

/// A daemon on a queue whose last daemon has learnt this.
async fn after<E: Engine>(learnt: Learnt, plan: Plan) -> Bed<E> {
    let engine = E::create(Setup { busy_timeout: plan.busy_timeout, in_memory: false }).await;
    let mut queue = engine.open().await;
    let settings = InEffect {
        requests_per_second: 1.0,
        rate_ceiling: 100.0,
        rate_reason: RateReason::Found,
        concurrency: 1,
        concurrency_ceiling: 100,
        concurrency_reason: ConcurrencyReason::Throttled,
        batch_size: 20,
        linger: Duration::ZERO,
        retry: Backoff::new(MINUTE, HOUR).unwrap(),
        learnt: Some(learnt),
    };
    let mut tx = queue.begin().await.unwrap();
    tx.introduce(&settings, learnt.at.min(START)).await.unwrap();
    tx.commit(&[], None, learnt.at.min(START)).await.unwrap();
    queue.close().await.unwrap();
    Bed::on(engine, plan).await
}

async fn settings<E: Engine>(bed: &mut Bed<E>) -> InEffect {
    bed.daemon().await.unwrap().settings
}

/// The current rate and limit of requests in flight, and the reason of each.
async fn limits<E: Engine>(bed: &mut Bed<E>) -> (f64, RateReason, usize, ConcurrencyReason) {
    let InEffect { requests_per_second, rate_reason, concurrency, concurrency_reason, .. } = settings(bed).await;
    (requests_per_second, rate_reason, concurrency, concurrency_reason)
}

/// The changes of a limit in the log: from, to, why.
fn changes(log: &Log, event: &str) -> Vec<(f64, f64, String)> {
    let number = |line: &serde_json::Value, name: &str| line[name].as_f64().unwrap();
    let change =
        |line: &serde_json::Value| (number(line, "from"), number(line, "to"), line["why"].as_str().unwrap().to_owned());
    log.events(event).iter().map(change).collect()
}

pub async fn a_restart_goes_on_from_what_was_learnt_and_says_so_once<E: Engine>() {
    let log = Log::default();
    let _guard = log.capture();
    let mut bed = Bed::<E>::new(adaptive(40.0)).await;
    assert_eq!(settings(&mut bed).await.learnt, None);
    bed.insert_many("a", 4_000).await;
    bed.sandbox.script([Mood::status(429)]);
    bed.work().await;
    let lowered = settings(&mut bed).await;
    let rate = lowered.requests_per_second;
    assert!(rate < 40.0 && (lowered.rate_ceiling, lowered.rate_reason) == (40.0, RateReason::Found), "{lowered:?}");
    let learnt = Learnt { rate: Some(rate), is_even: true, concurrency: None, at: START };
    assert_eq!(lowered.learnt, Some(learnt));
    assert_eq!(changes(&log, "burst_changed"), [(5.0, 1.0, "throttled".to_owned())]);
    for _ in 0..2 {
        let log = Log::default();
        let _guard = log.capture();
        bed.clock.advance(MINUTE);
        bed = bed.restart().await;
        let restored = settings(&mut bed).await;
        assert_eq!((restored.requests_per_second, restored.rate_reason), (rate, RateReason::Learnt));
        assert_eq!(restored.learnt, Some(learnt), "the time stays until there is an answer");
        let rounded = (rate * 1e3).round() / 1e3;
        assert_eq!(changes(&log, "rate_changed"), [(40.0, rounded, "learnt".to_owned())]);
        assert_eq!(changes(&log, "burst_changed"), [(5.0, 1.0, "learnt".to_owned())]);
        assert_eq!(log.events("concurrency_changed").len(), 0);
    }
    let before = bed.sizes().len();
    let sent: Vec<usize> = bed.sent_by_tenths(3).await.iter().map(|sent| sent - before).collect();
    assert_eq!(sent[0], 1, "no burst: {sent:?}");
    let confirmed = settings(&mut bed).await.learnt.unwrap();
    let at = if E::takes_over() { confirmed.at.minus(2 * Duration::from_millis(125)) } else { confirmed.at };
    assert_eq!(at, START.plus(2 * MINUTE), "an answer has come");
}

pub async fn it_is_forgotten_after_an_hour_and_if_its_time_is_to_come<E: Engine>() {
    let second = Duration::from_secs(1);
    for (at, is_known) in [
        (START, true),
        (START.minus(HOUR), true),
        (START.minus(HOUR + second), false),
        (START.plus(second), false),
        (START.plus(100 * HOUR), false),
        (Timestamp::MAX, false),
        (Timestamp::ZERO, false),
    ] {
        let mut bed = after::<E>(Learnt { at, ..learnt(10.0, 3) }, adaptive(40.0)).await;
        let expected = if is_known {
            (10.0, RateReason::Learnt, 3, ConcurrencyReason::Throttled)
        } else {
            (40.0, RateReason::Ceiling, 8, ConcurrencyReason::Ceiling)
        };
        assert_eq!(limits(&mut bed).await, expected, "{at:?}");
        assert_eq!(settings(&mut bed).await.learnt.is_some(), is_known);
    }
}

pub async fn the_hour_begins_when_it_was_last_in_use<E: Engine>() {
    let mut bed = after::<E>(learnt(10.0, 3), adaptive(40.0)).await;
    for n in 0..16 {
        bed.insert(&[("a", &n.to_string())]).await;
        bed.clock.advance(10 * MINUTE);
        bed.work().await;
    }
    let known = settings(&mut bed).await.learnt.unwrap();
    assert_eq!((known.rate, known.concurrency), (Some(10.0), Some(3)), "unused limits are not raised");
    assert_eq!(known.at, bed.clock.now());
    bed.clock.advance(HOUR);
    let mut bed = bed.restart().await;
    assert_eq!(limits(&mut bed).await.0, 10.0);
    bed.clock.advance(MINUTE);
    let mut bed = bed.restart().await;
    assert_eq!(limits(&mut bed).await.0, 40.0, "restarts do not make it younger");
}

pub async fn a_clock_that_was_ahead_for_a_while_does_not_make_it_last<E: Engine>() {
    let mut bed = after::<E>(learnt(10.0, 3), adaptive(40.0)).await;
    bed.clock.jump_to(START.plus(48 * HOUR));
    bed.insert(&[("a", "1")]).await;
    bed.clock.advance(MINUTE);
    bed.work().await;
    assert_eq!(settings(&mut bed).await.learnt.unwrap().at, START.plus(48 * HOUR + MINUTE));
    bed.clock.jump_to(START);
    bed.insert(&[("a", "2")]).await;
    bed.clock.advance(MINUTE);
    bed.work().await;
    assert_eq!(settings(&mut bed).await.learnt.unwrap().at, START.plus(MINUTE), "an answer puts the time right");
    let mut bed = bed.restart().await;
    assert_eq!(limits(&mut bed).await.0, 10.0);
    // Without an answer, the time stays in the future.
    bed.clock.jump_to(START);
    let mut bed = bed.restart().await;
    assert_eq!(limits(&mut bed).await.0, 40.0);
}

pub async fn a_new_ceiling_cuts_it_and_a_limit_at_the_ceiling_is_nothing_learnt<E: Engine>() {
    let at_ceiling = |rate| (rate, RateReason::Ceiling, 8, ConcurrencyReason::Ceiling);
    for (rate, concurrency, ceiling, expected) in [
        (10.0, 3, 11.0, (10.0, RateReason::Learnt, 3, ConcurrencyReason::Throttled)),
        (10.0, 8, 10.0, at_ceiling(10.0)),
        (10.0, 9, 9.0, at_ceiling(9.0)),
        (0.001, 9, 0.01, at_ceiling(0.01)),
    ] {
        let mut bed = after::<E>(learnt(rate, concurrency), adaptive(ceiling)).await;
        assert_eq!(limits(&mut bed).await, expected);
        let known = settings(&mut bed).await.learnt.unwrap();
        let is_lowered = expected.1 == RateReason::Learnt;
        assert_eq!((known.rate, known.concurrency), (is_lowered.then_some(rate), is_lowered.then_some(concurrency)));
        assert!(known.is_even);
    }
}

pub async fn a_rate_that_does_not_adapt_ignores_and_forgets_it<E: Engine>() {
    let mut bed = after::<E>(learnt(10.0, 3), Plan { adaptive: false, ..adaptive(40.0) }).await;
    assert_eq!(limits(&mut bed).await, (40.0, RateReason::Ceiling, 8, ConcurrencyReason::Ceiling));
    bed.plan.adaptive = true;
    let mut bed = bed.restart().await;
    assert_eq!(limits(&mut bed).await.0, 40.0);
    // A reload does the same.
    let mut bed = after::<E>(learnt(10.0, 3), adaptive(40.0)).await;
    for adaptive in [false, true] {
        bed.worker.reload(Tunables { adaptive, ..tunables(&bed.plan) }).await.unwrap();
        assert_eq!(limits(&mut bed).await, (40.0, RateReason::Ceiling, 8, ConcurrencyReason::Ceiling));
        assert_eq!(settings(&mut bed).await.learnt, None);
    }
}

pub async fn nonsense_is_ignored<E: Engine>() {
    let log = Log::default();
    let _guard = log.capture();
    for rate in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 0.0, -0.0, f64::MAX] {
        let nonsense = Learnt { is_even: false, ..learnt(rate, 0) };
        let mut bed = after::<E>(nonsense, adaptive(40.0)).await;
        assert_eq!(limits(&mut bed).await, (40.0, RateReason::Ceiling, 8, ConcurrencyReason::Ceiling), "{rate}");
        assert_eq!(settings(&mut bed).await.learnt, None);
    }
    let mut bed = after::<E>(learnt(f64::MIN_POSITIVE, usize::MAX), adaptive(40.0)).await;
    let (rate, _, concurrency, _) = limits(&mut bed).await;
    assert_eq!((rate, concurrency), (0.02, 8), "the lowest rate that is ever tried");
    assert_eq!(log.events("concurrency_changed").len(), 0);
}

pub async fn more_is_tried_after_the_usual_calm<E: Engine>() {
    let log = Log::default();
    let _guard = log.capture();
    let mut bed = after::<E>(learnt(10.0, 3), adaptive(40.0)).await;
    assert_eq!(changes(&log, "concurrency_changed"), [(8.0, 3.0, "learnt".to_owned())]);
    bed.insert_many("a", 40_000).await;
    let mut calm = Duration::ZERO;
    while settings(&mut bed).await.rate_reason == RateReason::Learnt && calm < 10 * MINUTE {
        bed.sent_by_tenths(10).await;
        calm += Duration::from_secs(1);
    }
    assert!((90..=120).contains(&calm.as_secs()), "{calm:?}");
    let (rate, why, ..) = limits(&mut bed).await;
    assert!(rate > 10.0 && rate < 11.0 && why == RateReason::Found, "{rate}");
    assert_eq!(changes(&log, "rate_changed").last().unwrap().2, "probing");
}

pub async fn the_summary_tells_the_limits_their_ceilings_and_the_reasons<E: Engine>() {
    let log = Log::awaiting("summary");
    let _guard = log.capture();
    let mut bed = after::<E>(learnt(10.0, 3), adaptive(40.0)).await;
    bed.clock.advance(MINUTE);
    let told = log.came();
    let ended = bed.worker.run(async move { told.notified().await }, Until::Told).await.unwrap();
    assert_eq!(ended, Ended::Told);
    let [summary] = &log.events("summary")[..] else { panic!("one summary") };
    for (field, value) in [("requests_per_second", 10.0), ("rate_ceiling", 40.0)] {
        assert_eq!(summary[field], value, "{field} in {summary}");
    }
    for (field, value) in [("concurrency", 3), ("concurrency_ceiling", 8)] {
        assert_eq!(summary[field], value, "{field} in {summary}");
    }
    assert_eq!((&summary["rate_why"], &summary["concurrency_why"]), (&"learnt".into(), &"throttled".into()));
}

tests!($ learnt:
    a_restart_goes_on_from_what_was_learnt_and_says_so_once,
    it_is_forgotten_after_an_hour_and_if_its_time_is_to_come,
    the_hour_begins_when_it_was_last_in_use,
    a_clock_that_was_ahead_for_a_while_does_not_make_it_last,
    a_new_ceiling_cuts_it_and_a_limit_at_the_ceiling_is_nothing_learnt,
    a_rate_that_does_not_adapt_ignores_and_forgets_it,
    nonsense_is_ignored,
    more_is_tried_after_the_usual_calm,
    the_summary_tells_the_limits_their_ceilings_and_the_reasons,
);
