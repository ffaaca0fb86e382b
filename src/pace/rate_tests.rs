use proptest::prelude::*;

use super::*;

const fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// A rate of 10 whose API has answered `answers` requests, has throttled four, and answers again at the end of `time`.
fn after_an_excess(answers: i64, time: Duration) -> AdaptiveRate {
    let mut rate = AdaptiveRate::new(10.0, Duration::ZERO);
    for request in 1..answers {
        assert_eq!(rate.delivered(RequestId(request), Duration::ZERO), None, "at the ceiling there is no way up");
    }
    let down = rate.throttled(RequestId(answers), RequestId(answers + 3), time).unwrap();
    assert_eq!(down, RateChange { from: 10.0, to: 9.5, why: Why::Throttled });
    for request in answers + 1..answers + 4 {
        assert_eq!(rate.throttled(RequestId(request), RequestId(answers + 3), time), None, "the same news again");
    }
    let change = rate.delivered(RequestId(answers + 4), time);
    assert!(change.is_none_or(|change| change.why == Why::Delivered && change.to < change.from), "{change:?}");
    rate
}

/// Sends in virtual time as fast as the rate allows, and pauses as long as a throttled answer asks for.
struct Sender {
    rate: AdaptiveRate,
    now: Duration,
    newest: i64,
    answered: u32,
    throttled: u32,
}

impl Sender {
    const LATENCY: Duration = Duration::from_millis(50);

    fn new(ceiling: f64) -> Self {
        let rate = AdaptiveRate::new(ceiling, Duration::ZERO);
        Self { rate, now: Duration::ZERO, newest: 0, answered: 0, throttled: 0 }
    }

    /// Sends at most one request in the time `every`. `refuses` returns for how long a request is refused when it arrives.
    fn run(&mut self, length: Duration, every: Duration, mut refuses: impl FnMut(Duration) -> Option<Duration>) {
        let end = self.now + length;
        while self.now < end {
            self.newest += 1;
            let request = RequestId(self.newest);
            self.rate.sent(self.now);
            let answered = self.now + Self::LATENCY;
            if let Some(hold) = refuses(self.now) {
                self.throttled += 1;
                self.rate.throttled(request, request, answered);
                self.now = answered + hold;
            } else {
                self.answered += 1;
                self.rate.delivered(request, answered);
            }
            self.now += every.max(Duration::from_secs_f64(1.0 / self.rate.current()));
        }
    }

    /// The current rate as a share of the ceiling.
    fn share(&self) -> f64 {
        self.rate.current / self.rate.ceiling
    }
}

const ALWAYS: Duration = Duration::ZERO;

/// A limit: a token bucket with one second's worth, or a number of requests in each window.
struct Limit {
    rate: f64,
    length: Option<f64>,
    begins: f64,
    told: Option<Duration>,
    left: f64,
    before: f64,
}

impl Limit {
    /// `told`: the `Retry-After` of a throttled answer, if it is not the right one.
    fn new(rate: f64, length: Option<f64>, told: Option<Duration>) -> Self {
        Self { rate, length, begins: 0.0, told, left: rate, before: f64::NEG_INFINITY }
    }

    fn refuses(&mut self, now: Duration) -> Option<Duration> {
        let now = now.as_secs_f64() + self.begins;
        match self.length {
            None => self.left = (self.left + (now - self.before) * self.rate).min(self.rate),
            Some(length) if (now / length).floor() > (self.before / length).floor() => {
                self.left = (self.rate * length).round();
            }
            Some(_) => {}
        }
        self.before = now;
        if self.left >= 1.0 {
            self.left -= 1.0;
            return None;
        }
        let right = self.length.map_or(1.0, |length| length - now % length);
        Some(self.told.unwrap_or(Duration::from_secs_f64(right)))
    }

    /// The share of the allowed requests that were sent, and the share of throttled answers.
    fn settled(&mut self, ceiling: f64, after: Duration) -> (f64, f64) {
        let mut sender = Sender::new(ceiling);
        sender.run(after, ALWAYS, |now| self.refuses(now));
        self.measured(&mut sender)
    }

    fn measured(&mut self, sender: &mut Sender) -> (f64, f64) {
        (sender.answered, sender.throttled) = (0, 0);
        sender.run(seconds(1_200), ALWAYS, |now| self.refuses(now));
        let answered = f64::from(sender.answered);
        (answered / (self.rate * 1_200.0), f64::from(sender.throttled) / answered)
    }
}

#[test]
fn the_rate_falls_to_what_got_through_and_a_little() {
    let rate = after_an_excess(100, seconds(50));
    assert!((rate.current() - 2.0 * GAIN).abs() < 1e-9, "100 in 50 s: {}", rate.current());
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

/// The rate after an excess. A rate of 10 sent 100 requests in 10 s, was refused, and probed in vain until `probed`.
fn after_a_refusal(probed: Option<Duration>, length: Duration) -> f64 {
    let mut rate = AdaptiveRate::new(10.0, Duration::ZERO);
    (0..100).for_each(|request| rate.sent(Duration::from_millis(100 * request)));
    (1..100).for_each(|request| assert_eq!(rate.delivered(RequestId(request), seconds(10)), None));
    rate.throttled(RequestId(100), RequestId(100), seconds(10));
    if let Some(probed) = probed {
        rate.throttled(RequestId(101), RequestId(101), seconds(10) + probed);
    }
    rate.delivered(RequestId(102), seconds(10) + length);
    rate.current()
}

#[test]
fn a_refusal_is_counted_in_up_to_when_it_was_over_for_all_that_is_known() {
    let borne = |seconds: f64| 100.0 / seconds * GAIN;
    for (probed, length, seconds_of_it) in [
        (None, seconds(3), 13.0),
        (None, seconds(8), 18.0),
        (None, seconds(60), 70.0),
        (Some(seconds(50)), seconds(70), 70.0),
    ] {
        let current = after_a_refusal(probed, length);
        assert!((current - borne(seconds_of_it)).abs() < 1e-9, "{probed:?} {length:?} {current}");
    }
    assert!((after_a_refusal(None, seconds(1)) - 9.5).abs() < 1e-9, "short beside the sending");
    assert!((after_a_refusal(None, seconds(91)) - 9.5).abs() < 1e-9, "no limit per minute takes so long");
}

/// The length of the plateau after this number of throttled answers and this refusal.
fn plateau(throttled: i64, refusal: Duration) -> Duration {
    let mut rate = AdaptiveRate::new(10.0, Duration::ZERO);
    for request in 1..1_000 {
        assert_eq!(rate.delivered(RequestId(request), seconds(100)), None);
    }
    for request in 0..throttled {
        rate.throttled(RequestId(1_000 + request), RequestId(1_000 + throttled), seconds(100));
    }
    let start = seconds(100) + refusal;
    rate.delivered(RequestId(2_000), start);
    let before = rate.current();
    let mut now = start;
    while rate.delivered(RequestId(2_000), now).is_none() {
        now += Duration::from_millis(100);
    }
    assert!((rate.current() / before - 1.01).abs() < 1e-9);
    now - start
}

#[test]
fn a_plateau_is_as_long_as_250_requests_for_each_throttled_one_or_15_refusals_take() {
    for (throttled, refusal, expected) in [(4, 0, 1_000.0 / 9.5), (1, 0, 60.0), (1, 10, 150.0), (100, 0, 300.0)] {
        let plateau = plateau(throttled, seconds(refusal)).as_secs_f64();
        assert!((plateau - expected).abs() <= 0.2, "{throttled} {refusal}: {plateau} {expected}");
    }
}

#[test]
fn the_rate_does_not_rise_while_it_is_not_used() {
    let mut sender = Sender::new(10.0);
    sender.run(seconds(100), ALWAYS, |_| None);
    let mut refused = Some(seconds(1));
    sender.run(seconds(1), ALWAYS, |_| refused.take());
    let lowered = sender.rate.current();
    sender.run(seconds(3_600), seconds(10), |_| None);
    assert!(lowered < 10.0 && sender.rate.current() == lowered, "{lowered} {}", sender.rate.current());
    // The 360 requests of the hour took 36 s.
    sender.run(seconds(40), ALWAYS, |_| None);
    assert!(sender.rate.current() > lowered);
}

#[test]
fn a_trickle_is_not_taken_for_what_the_api_bears() {
    // Each case is a rate, and the time between requests.
    for (ceiling, every) in [(5.0, 2_000), (5.0, 900), (100.0, 900), (100.0, 30), (5.0, 50_000)] {
        let every = Duration::from_millis(every);
        let mut sender = Sender::new(ceiling);
        sender.run(every * 300, every, |_| None);
        let mut spurious = Some(seconds(1));
        sender.run(every * 5, every, |_| spurious.take());
        assert!(sender.throttled == 1 && sender.share() >= 0.5, "{ceiling} {every:?}: {}", sender.share());
    }
}

#[test]
fn after_an_outage_the_rate_is_soon_what_it_was() {
    // The number of requests before does not matter: the outage may have begun soon after the start.
    for before in [2, 10, 600] {
        let mut sender = Sender::new(5.0);
        sender.run(seconds(before), ALWAYS, |_| None);
        let mut outage = Some(seconds(1_800));
        sender.run(seconds(10), ALWAYS, |_| outage.take());
        sender.run(seconds(180), ALWAYS, |_| None);
        assert!(sender.rate.current() >= 4.5, "{before} s: {}", sender.rate.current());
        // The same time in pieces of a minute.
        let over = sender.now + seconds(1_800);
        sender.run(seconds(1_810), ALWAYS, |now| (now < over).then_some(seconds(60)));
        sender.run(seconds(300), ALWAYS, |_| None);
        assert!(sender.rate.current() >= 4.5, "{before} s, in pieces: {}", sender.rate.current());
    }
}

#[test]
fn the_way_up_from_the_floor_takes_minutes() {
    for hold in [seconds(1), seconds(50)] {
        let mut sender = Sender::new(5.0);
        let mut refused = false;
        sender.run(seconds(3_600), ALWAYS, |_| {
            refused = !refused;
            refused.then_some(hold)
        });
        assert!(sender.rate.current() < 3.0 * FLOOR, "{}", sender.rate.current());
        sender.run(seconds(600), ALWAYS, |_| None);
        assert!(sender.share() >= 0.9, "{hold:?}: {}", sender.share());
    }
}

#[test]
fn throttling_that_starts_with_the_fifth_request_at_a_time_is_met_with_a_lower_rate() {
    let (mut rng, mut in_flight) = (fastrand::Rng::with_seed(1), Vec::new());
    let mut refuses = |now: Duration| {
        in_flight.retain(|end| *end > now);
        if in_flight.len() >= 4 {
            return Some(seconds(1));
        }
        in_flight.push(now + Duration::from_secs_f64(0.05 + 0.3 * rng.f64()));
        None
    };
    let mut sender = Sender::new(100.0);
    sender.run(seconds(120), ALWAYS, &mut refuses);
    (sender.answered, sender.throttled) = (0, 0);
    sender.run(seconds(1_200), ALWAYS, &mut refuses);
    // Four requests in flight that take 200 ms each are 20/s. With even spacing and random latencies, less is possible.
    assert!(f64::from(sender.answered) > 0.4 * 20.0 * 1_200.0, "{}", sender.answered);
    assert!(f64::from(sender.throttled) < 0.01 * f64::from(sender.answered), "{}", sender.throttled);
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
    let mut sender = Sender::new(10.0);
    sender.run(seconds(10), ALWAYS, |_| None);
    // An hour later, there is work again. After 5 s the limit is reached, and the next minute begins 55 s later.
    sender.now += seconds(3_600);
    sender.run(seconds(5), ALWAYS, |_| None);
    let mut refused = Some(seconds(55));
    sender.run(seconds(60), ALWAYS, |_| refused.take());
    // That is fifty requests in a minute.
    assert!((sender.rate.current() / (50.0 / 60.0 * GAIN) - 1.0).abs() < 0.05, "{}", sender.rate.current());
}

#[test]
fn what_was_sent_before_the_excess_was_noticed_is_no_sign_of_its_end() {
    let mut rate = AdaptiveRate::new(10.0, Duration::ZERO);
    rate.throttled(RequestId(5), RequestId(9), seconds(1));
    assert_eq!(rate.delivered(RequestId(9), seconds(1)), None);
    assert_eq!(rate.throttled(RequestId(10), RequestId(10), seconds(2)), None, "a probe that failed");
    assert_eq!(rate.delivered(RequestId(11), seconds(9)).map(|change| change.why), Some(Why::Delivered));
    assert_eq!(rate.throttled(RequestId(8), RequestId(11), seconds(9)), None, "sent before: old news");
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
                1 => rate.throttled(request, RequestId(newest), now),
                _ => rate.delivered(RequestId(newest), now),
            };
            prop_assert!(rate.current().is_finite() && rate.current() > 0.0 && rate.current() <= ceiling);
            prop_assert!(rate.current() >= FLOOR.min(ceiling));
            // Every change is reported with the rates before and after it.
            prop_assert_eq!(change.map_or((before, before), |change| (change.from, change.to)), (before, rate.current()));
            // Only an answer that was not throttled raises the rate. Only a throttled one, or the end of an excess, lowers it.
            prop_assert!(what != 1 || rate.current() <= before);
            prop_assert!(what != 0 || rate.current() == before);
        }
    }

    #[test]
    fn one_throttled_answer_in_a_trickle_halves_the_rate_at_the_most(
        ceiling in 0.1_f64..500.0,
        times_slower in 2.5_f64..1_000.0,
        before in 0_u32..500,
    ) {
        let every = Duration::from_secs_f64(times_slower / ceiling);
        // A delay shorter than a late turn is not idle time.
        prop_assume!(every > 3 * LATE);
        let mut sender = Sender::new(ceiling);
        sender.run(every * before, every, |_| None);
        let mut spurious = Some(seconds(1));
        sender.run(every * 3, every, |_| spurious.take());
        prop_assert!(sender.throttled == 1 && sender.share() >= 0.5, "{}", sender.share());
    }

    #[test]
    fn it_settles_just_under_a_limit_that_nobody_told_it(
        rate in 2.0_f64..50.0,
        above in 1.0_f64..20.0,
        length in prop::sample::select(vec![None, Some(10.0), Some(20.0), Some(30.0), Some(60.0)]),
        begins in 0.0_f64..60.0,
    ) {
        let mut limit = Limit::new(rate, length, None);
        limit.begins = begins;
        let (goodput, throttled) = limit.settled(rate * above, seconds(600));
        prop_assert!(goodput > 0.9 && throttled < 0.01, "{goodput} {throttled}");
    }

    #[test]
    fn it_settles_under_a_bucket_whose_refusals_are_longer_than_they_had_to_be(
        rate in 2.0_f64..50.0,
        above in 1.0_f64..20.0,
        (told, least) in prop::sample::select(vec![(3, 0.85), (10, 0.7)]),
    ) {
        let (goodput, throttled) = Limit::new(rate, None, Some(seconds(told))).settled(rate * above, seconds(600));
        prop_assert!(goodput > least && throttled < 0.01, "{told}: {goodput} {throttled}");
    }

    #[test]
    fn a_limit_that_changes_is_found_again(
        rate in 4.0_f64..50.0,
        factor in prop::sample::select(vec![0.5, 2.0]),
        length in prop::sample::select(vec![None, Some(60.0)]),
    ) {
        let mut limit = Limit::new(rate, length, None);
        let mut sender = Sender::new(rate * 10.0);
        sender.run(seconds(1_200), ALWAYS, |now| limit.refuses(now));
        limit.rate *= factor;
        sender.run(seconds(900), ALWAYS, |now| limit.refuses(now));
        let (goodput, throttled) = limit.measured(&mut sender);
        prop_assert!(goodput > 0.9 && throttled < 0.012, "{goodput} {throttled}");
    }
}
