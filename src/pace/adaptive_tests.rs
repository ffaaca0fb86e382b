use proptest::prelude::*;

use super::*;
use crate::pace::{Tuning, rate::Why};

const fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// Sends in virtual time as fast as the rate allows, and pauses as long as a throttled answer asks for.
struct Sender {
    adaptive: Adaptive,
    now: Duration,
    newest: i64,
    answered: u32,
    throttled: u32,
}

impl Sender {
    const LATENCY: Duration = Duration::from_millis(50);

    fn new(ceiling: f64) -> Self {
        let adaptive = Adaptive::new(ceiling, 16, Duration::ZERO);
        Self { adaptive, now: Duration::ZERO, newest: 0, answered: 0, throttled: 0 }
    }

    /// Sends at most one request in the time `every`. `refuses` returns for how long a request is refused when it arrives.
    fn run(&mut self, length: Duration, every: Duration, mut refuses: impl FnMut(Duration) -> Option<Duration>) {
        let end = self.now + length;
        while self.now < end {
            self.newest += 1;
            let request = RequestId(self.newest);
            self.adaptive.sent(self.now);
            let answered = self.now + Self::LATENCY;
            let hold = refuses(self.now);
            let departure = Departure { at: self.now, gap: Duration::ZERO };
            let heard = Heard { request, newest: request, departure, in_flight: 1, is_throttled: hold.is_some() };
            self.adaptive.heard(heard, answered);
            match hold {
                Some(hold) => {
                    self.throttled += 1;
                    self.now = answered + hold;
                }
                None => self.answered += 1,
            }
            self.now += every.max(Duration::from_secs_f64(1.0 / self.rate()));
        }
    }

    fn rate(&self) -> f64 {
        self.adaptive.rate.current()
    }

    /// The current rate as a share of the ceiling.
    fn share(&self) -> f64 {
        self.rate() / self.adaptive.rate.ceiling()
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
fn the_rate_does_not_rise_while_it_is_not_used() {
    let mut sender = Sender::new(10.0);
    sender.run(seconds(100), ALWAYS, |_| None);
    let mut refused = Some(seconds(1));
    sender.run(seconds(1), ALWAYS, |_| refused.take());
    let lowered = sender.rate();
    sender.run(seconds(3_600), seconds(10), |_| None);
    assert!(lowered < 10.0 && sender.rate() == lowered, "{lowered} {}", sender.rate());
    // The 360 requests of the hour took 36 s of the plateau.
    sender.run(seconds(70), ALWAYS, |_| None);
    assert!(sender.rate() > lowered);
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
        assert!(sender.rate() >= 4.5, "{before} s: {}", sender.rate());
        // The same time in pieces of a minute.
        let over = sender.now + seconds(1_800);
        sender.run(seconds(1_810), ALWAYS, |now| (now < over).then_some(seconds(60)));
        sender.run(seconds(300), ALWAYS, |_| None);
        assert!(sender.rate() >= 4.5, "{before} s, in pieces: {}", sender.rate());
    }
}

#[test]
fn the_way_up_from_the_floor_takes_minutes() {
    let deep = Tuning { floor: 1e-6, ..Tuning::DEFAULT };
    for (hold, tuning) in [(1, Tuning::DEFAULT), (50, Tuning::DEFAULT), (1, deep)] {
        let hold = seconds(hold);
        let mut sender = Sender::new(5.0);
        sender.adaptive.rate = AdaptiveRate::tuned(5.0, tuning, Duration::ZERO);
        let mut refused = false;
        sender.run(seconds(3_600), ALWAYS, |_| {
            refused = !refused;
            refused.then_some(hold)
        });
        assert!(sender.rate() < 3.0 * Tuning::DEFAULT.floor, "{}", sender.rate());
        sender.run(seconds(600), ALWAYS, |_| None);
        // Without the floor, the next request is far away.
        assert_eq!(sender.share() >= 0.9, tuning.floor > 0.01, "{hold:?}: {}", sender.share());
    }
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
    assert!((sender.rate() / (50.0 / 60.0) - 1.0).abs() < 0.05, "{}", sender.rate());
}

/// An answer to a request that left a moment ago.
fn heard(request: i64, newest: i64, is_throttled: bool, at: Duration) -> Heard {
    let departure = Departure { at: at.saturating_sub(Sender::LATENCY), gap: Duration::ZERO };
    Heard { request: RequestId(request), newest: RequestId(newest), departure, in_flight: 1, is_throttled }
}

#[test]
fn what_was_sent_before_the_excess_was_noticed_is_no_sign_of_its_end() {
    let mut adaptive = Adaptive::new(10.0, 16, Duration::ZERO);
    let mut hear = |request, newest, is_throttled, at| {
        let changes = adaptive.heard(heard(request, newest, is_throttled, seconds(at)), seconds(at));
        changes.rate.map(|change| change.why)
    };
    assert_eq!(hear(5, 9, true, 1), Some(Why::Throttled));
    assert_eq!(hear(9, 9, false, 1), None);
    assert_eq!(hear(10, 10, true, 2), None, "a probe that failed");
    assert_eq!(hear(11, 11, false, 9), Some(Why::Delivered));
    assert_eq!(hear(8, 11, true, 9), None, "sent before: old news");
}

#[test]
fn the_first_limit_that_is_met_ends_bursts_and_a_long_calm_at_the_ceiling_brings_them_back() {
    let mut sender = Sender::new(10.0);
    sender.run(seconds(10), ALWAYS, |_| None);
    assert_eq!(sender.adaptive.even_rate(), None);
    let mut spurious = Some(seconds(1));
    sender.run(seconds(2), ALWAYS, |_| spurious.take());
    assert_eq!(sender.adaptive.even_rate(), Some(sender.rate()));
    sender.run(seconds(500), ALWAYS, |_| None);
    assert_eq!((sender.share(), sender.adaptive.even_rate()), (1.0, Some(10.0)), "evenly at the ceiling");
    sender.run(seconds(200), ALWAYS, |_| None);
    assert_eq!(sender.adaptive.even_rate(), None);
}

proptest! {
    #[test]
    fn the_rate_stays_above_nothing_and_below_the_ceiling(
        ceiling in 0.001_f64..1_000.0,
        events in prop::collection::vec((0_u8..3, 0_i64..40, 0_u64..100_000), 1..400),
    ) {
        let mut adaptive = Adaptive::new(ceiling, 16, Duration::ZERO);
        let (mut now, mut newest) = (Duration::ZERO, 0);
        for (what, back, ms) in events {
            now += Duration::from_millis(ms);
            let before = adaptive.rate.current();
            let request = (newest - back).max(0);
            let change = match what {
                0 => {
                    newest += 1;
                    adaptive.sent(now);
                    None
                }
                1 => adaptive.heard(heard(request, newest, true, now), now).rate,
                _ => adaptive.heard(heard(newest, newest, false, now), now).rate,
            };
            let rate = adaptive.rate.current();
            prop_assert!(rate.is_finite() && rate > 0.0 && rate <= ceiling);
            prop_assert!(rate >= Tuning::DEFAULT.floor.min(ceiling));
            // Every change is reported with the rates before and after it.
            prop_assert_eq!(change.map_or((before, before), |change| (change.from, change.to)), (before, rate));
            // Only an answer that was not throttled raises the rate. Only a throttled one, or the end of an excess, lowers it.
            prop_assert!(what != 1 || rate <= before);
            prop_assert!(what != 0 || rate == before);
        }
    }

    #[test]
    fn one_throttled_answer_in_a_trickle_quarters_the_rate_at_the_most(
        ceiling in 0.1_f64..500.0,
        times_slower in 2.5_f64..1_000.0,
        before in 0_u32..500,
    ) {
        let every = Duration::from_secs_f64(times_slower / ceiling);
        // A delay shorter than a late turn is not idle time.
        prop_assume!(every > 3 * Tuning::DEFAULT.late);
        let mut sender = Sender::new(ceiling);
        sender.run(every * before, every, |_| None);
        let mut spurious = Some(seconds(1));
        sender.run(every * 3, every, |_| spurious.take());
        prop_assert!(sender.throttled == 1 && sender.share() >= 0.25 - 1e-9, "{}", sender.share());
    }
}

proptest! {
    // A case is more than ten minutes of virtual time. PROPTEST_CASES asks for more cases.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.div_ceil(4), ..ProptestConfig::default() })]

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
