use proptest::prelude::*;

use super::*;

const fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// A rate of 10 whose API has answered `answers` requests in `time`, throttled one, and answers again now.
fn after_an_excess(answers: i64, time: Duration) -> AdaptiveRate {
    let mut rate = AdaptiveRate::new(10.0, Duration::ZERO);
    for request in 1..answers {
        assert_eq!(rate.delivered(RequestId(request), Duration::ZERO), None, "at the ceiling there is no way up");
    }
    let down = rate.throttled(RequestId(answers), RequestId(answers + 3)).unwrap();
    assert_eq!(down, RateChange { from: 10.0, to: 9.5, why: Why::Throttled });
    for request in answers + 1..answers + 4 {
        assert_eq!(rate.throttled(RequestId(request), RequestId(answers + 3)), None, "the same news again");
    }
    let change = rate.delivered(RequestId(answers + 4), time);
    assert!(change.is_none_or(|change| change.why == Why::Delivered && change.to < change.from), "{change:?}");
    rate
}

#[test]
fn the_rate_falls_to_what_got_through_and_a_tenth() {
    let rate = after_an_excess(100, seconds(50));
    assert!((rate.current() - 2.2).abs() < 1e-9, "100 in 50 s: {}", rate.current());
}

#[test]
fn what_little_got_through_halves_the_rate_and_no_more() {
    let rate = after_an_excess(3, seconds(600));
    assert!((rate.current() - 5.0).abs() < 1e-9, "{}", rate.current());
}

#[test]
fn the_rate_never_stays_where_it_was_too_high() {
    let rate = after_an_excess(1_000, seconds(10));
    assert!((rate.current() - 9.5).abs() < 1e-9, "{}", rate.current());
}

#[test]
fn a_plateau_is_150_answers_for_each_throttled_one_and_some_time() {
    let mut rate = after_an_excess(1_000, seconds(100));
    let before = rate.current();
    let mut answers = 0;
    while rate.delivered(RequestId(2_000), seconds(1_000)).is_none() {
        answers += 1;
    }
    assert_eq!(answers + 1, 4 * 150, "one throttled answer, and three that were on their way");
    assert!((rate.current() / before - 1.01).abs() < 1e-9);

    let mut rate = after_an_excess(1_000, seconds(100));
    for _ in 0..10_000 {
        assert_eq!(rate.delivered(RequestId(2_000), seconds(119)), None, "not before 20 s");
    }
    assert!(rate.delivered(RequestId(2_000), seconds(120)).is_some());
}

#[test]
fn the_way_up_begins_slowly_grows_and_ends_at_the_ceiling() {
    let mut rate = after_an_excess(1_000, seconds(100));
    let mut now = seconds(100);
    let mut steps = Vec::new();
    while rate.is_lowered() {
        now += Duration::from_millis(100);
        if let Some(change) = rate.delivered(RequestId(2_000), now) {
            assert_eq!(change.why, Why::Probing);
            steps.push(change.to / change.from);
        }
    }
    assert!(steps.len() > 2 && steps[..steps.len() - 1].is_sorted(), "{steps:?}");
    assert!((rate.current() - 10.0).abs() < 1e-9);
}

#[test]
fn a_pause_for_want_of_work_is_not_held_against_the_api() {
    let mut rate = AdaptiveRate::new(10.0, Duration::ZERO);
    rate.sent(Duration::ZERO);
    (1..100).for_each(|request| assert_eq!(rate.delivered(RequestId(request), Duration::ZERO), None));
    // An hour later, there is something to do again: 40 answers in 10 s, one of them after the pause.
    rate.sent(seconds(3_600));
    (100..139).for_each(|request| assert_eq!(rate.delivered(RequestId(request), seconds(3_600)), None));
    rate.throttled(RequestId(139), RequestId(139));
    rate.sent(seconds(3_609));
    rate.delivered(RequestId(140), seconds(3_610));
    assert!((rate.current() - 4.4).abs() < 1e-9, "{}", rate.current());
}

#[test]
fn what_was_sent_before_the_excess_was_noticed_is_no_sign_of_its_end() {
    let mut rate = AdaptiveRate::new(10.0, Duration::ZERO);
    rate.throttled(RequestId(5), RequestId(9));
    assert_eq!(rate.delivered(RequestId(9), seconds(1)), None);
    assert_eq!(rate.throttled(RequestId(10), RequestId(10)), None, "a probe that failed");
    assert_eq!(rate.delivered(RequestId(11), seconds(9)).map(|change| change.why), Some(Why::Delivered));
    assert_eq!(rate.throttled(RequestId(8), RequestId(11)), None, "sent before: old news");
}

proptest! {
    #[test]
    fn the_rate_stays_above_nothing_and_below_the_ceiling(
        ceiling in 0.001_f64..1_000.0,
        events in prop::collection::vec((0_u8..3, 0_i64..40, 0_u64..100_000), 1..400),
    ) {
        let mut rate = AdaptiveRate::new(ceiling, Duration::ZERO);
        let (mut now, mut newest) = (Duration::ZERO, 0);
        for (what, back, ms) in events {
            now += Duration::from_millis(ms);
            let before = rate.current();
            let request = RequestId((newest - back).max(0));
            let change = match what {
                0 => {
                    newest += 1;
                    rate.sent(now);
                    None
                }
                1 => rate.throttled(request, RequestId(newest)),
                _ => rate.delivered(RequestId(newest), now),
            };
            prop_assert!(rate.current().is_finite() && rate.current() > 0.0 && rate.current() <= ceiling);
            prop_assert!(rate.current() >= FLOOR.min(ceiling));
            // Every change is told, with what it was before and what it is now.
            prop_assert_eq!(change.map_or((before, before), |change| (change.from, change.to)), (before, rate.current()));
            // Only an answer that was not throttled raises it; only one that was, or the end of an excess, lowers it.
            prop_assert!(what != 1 || rate.current() <= before);
            prop_assert!(what != 0 || rate.current() == before);
        }
    }
}
