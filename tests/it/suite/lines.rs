//! The log lines: the interface to whoever watches.

use std::time::Duration;

use audio_cache_sweeper::{
    pace::RateLimit,
    sandbox::{Mood, Options},
    worker::{Ended, Until},
};
use serde_json::Value;

use super::{
    bed::{Bed, KEY, Plan, listing},
    engine::Engine,
    tests,
};
use crate::logs::Log;

pub async fn once_a_minute_a_summary_tells_how_the_queue_stands<E: Engine>() {
    let log = Log::awaiting("summary");
    let _guard = log.capture();
    let sandbox = Options { failing: vec!["1".to_owned()], ..Plan::default().sandbox };
    let mut plan = Plan { sandbox, ..Plan::default() };
    plan.settings.policy.max_attempts = 1;
    let mut bed = Bed::<E>::new(plan).await;
    bed.insert_many("a", 21).await;
    bed.work().await;
    bed.pause("b").await;
    bed.insert_many("b", 3).await;
    bed.work().await;
    bed.clock.advance(Duration::from_secs(60));
    let told = log.came();
    let ended = bed.worker.run(async move { told.notified().await }, Until::Told).await.unwrap();
    assert_eq!(ended, Ended::Told);
    let [summary] = &log.events("summary")[..] else { panic!("one summary") };
    for (field, value) in [
        ("pending", 3),
        ("due", 3),
        ("in_flight", 0),
        ("dead", 1),
        ("holds", 1),
        ("deleted_total", 20),
        ("log_lines_dropped", 0),
    ] {
        assert_eq!(summary[field], value, "{field} in {summary}");
    }
    assert_eq!(summary["deleted_per_s"], 0.3);
    assert_eq!(summary["requests_per_second"], 10_000.0);
    assert!(summary["oldest_due_s"].as_u64().unwrap() >= 60, "{summary}");
}

pub async fn a_request_is_one_line_with_its_numbers_and_what_needs_a_person_is_said_once<E: Engine>() {
    let log = Log::default();
    let _guard = log.capture();
    let sandbox = Options { forbidden: vec!["locked".to_owned()], ..Plan::default().sandbox };
    let mut bed = Bed::<E>::new(Plan { sandbox, ..Plan::default() }).await;
    bed.sandbox.script([listing(&["1", "999"], &["2"])]);
    bed.insert(&[("a", "1"), ("a", "2")]).await;
    bed.work().await;
    let [request] = &log.events("request")[..] else { panic!("one request") };
    assert_eq!((&request["level"], &request["agent"], &request["status"]), (&"INFO".into(), &"a".into(), &200.into()));
    assert_eq!((&request["size"], &request["deleted"], &request["retried"]), (&2.into(), &1.into(), &1.into()));
    assert_eq!(log.events("unexpected_ids")[0]["ids"], 1);
    assert_eq!(log.events("deletion").len(), 2, "at debug");

    bed.insert_many("locked", 5).await;
    for _ in 0..3 {
        bed.work().await;
        bed.clock.advance(Duration::from_secs(1_000));
    }
    let levels: Vec<Value> = log.events("hold_placed").iter().map(|hold| hold["level"].clone()).collect();
    assert_eq!(levels, ["ERROR", "WARN", "WARN"]);
    assert!(!log.text().contains(KEY), "the key is in the log");
}

pub async fn a_throttled_answer_lowers_the_rate_what_gets_through_sets_it_and_each_change_is_told<E: Engine>() {
    let log = Log::default();
    let _guard = log.capture();
    let rate = RateLimit { requests_per_second: 40.0, burst: 1.try_into().unwrap() };
    let mut bed = Bed::<E>::new(Plan { rate, adaptive: true, ..Plan::default() }).await;
    bed.insert_many("a", 4_000).await;
    for _ in 0..40 {
        bed.work().await;
        bed.clock.advance(Duration::from_millis(25));
    }
    assert_eq!((bed.sizes().len(), log.events("rate_changed").len()), (40, 0), "the ceiling");
    bed.sandbox.script([Mood::status(429)]);
    bed.work().await;
    bed.clock.advance(Duration::from_millis(6_250));
    bed.work().await;
    assert_eq!(log.events("hold_placed")[0]["level"], "WARN", "nobody needs to come for that");
    let changes = log.events("rate_changed");
    let told = |at: usize| {
        let number = |field: &str| changes[at][field].as_f64().unwrap();
        (number("from"), number("to"), changes[at]["why"].as_str().unwrap())
    };
    assert_eq!((told(0), changes.len()), ((40.0, 39.2, "throttled"), 2), "{changes:#?}");
    // 41 answers within the first second and the hold.
    let (from, to, why) = told(1);
    assert!(from == 39.2 && (41.0 / 7.25 - to).abs() < 0.05 && why == "delivered", "{from} {to}");
    let sent = bed.sizes().len();
    for _ in 0..100 {
        bed.work().await;
        bed.clock.advance(Duration::from_millis(100));
    }
    // The rate makes a few small steps up meanwhile, because the API may accept more.
    let sent = (bed.sizes().len() - sent) as f64 / 10.0;
    assert!((0.8 * to..1.1 * to).contains(&sent), "{sent}/s at {to}/s");
}

pub async fn that_requests_about_one_row_are_refused_is_said_once<E: Engine>() {
    let log = Log::default();
    let _guard = log.capture();
    let mut plan = Plan::default();
    plan.settings.policy.max_attempts = 1;
    let mut bed = Bed::<E>::new(plan).await;
    bed.sandbox.script([listing(&[], &["1", "2"]), Mood::status(405), Mood::status(405)]);
    bed.insert_many("a", 2).await;
    bed.work().await;
    let [refused] = &log.events("single_delete_refused")[..] else { panic!("once: {:?}", log.entries()) };
    assert_eq!((&refused["level"], &refused["agent"], &refused["status"]), (&"WARN".into(), &"a".into(), &405.into()));
    assert_eq!(refused["fault"], "contract");
}

tests!($ lines:
    once_a_minute_a_summary_tells_how_the_queue_stands,
    a_request_is_one_line_with_its_numbers_and_what_needs_a_person_is_said_once,
    a_throttled_answer_lowers_the_rate_what_gets_through_sets_it_and_each_change_is_told,
    that_requests_about_one_row_are_refused_is_said_once,
);
