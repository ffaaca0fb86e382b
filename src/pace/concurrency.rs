//! The adaptive limit of requests in flight. It follows the API's latency, and a limit on concurrency that the API may have.
//!
//! * **Latency.** An overloaded API may become slow instead of saying so, and more requests in flight then only make it slower. As
//!   in TCP Vegas (Brakmo and Peterson, 1995) and Vector's adaptive request concurrency, the recent latency is compared with the
//!   usual one. When answers are slow, the limit falls by a tenth, at most once in each round of answers. It rises by one for each
//!   round in which the whole limit was used and answers were not slow.
//! * **Throttled answers.** A gateway may allow a number of requests in flight, however fast they come. Then requests are delivered
//!   up to a number in flight, and throttled from the next number on. A limit on the rate throttles at any number in flight.

use std::time::Duration;

/// Answers are slow if the recent latency exceeds this many times the usual one, plus [`TOLERANCE`].
const SLOW: f64 = 2.0;
/// In seconds. Recorded latencies of the API scatter between 60 ms and 320 ms without overload.
const TOLERANCE: f64 = 0.25;
/// The factor by which the limit falls when answers are slow.
const DECREASE: f64 = 0.9;
/// The weight of an answer in the recent latency, which about the last twenty answers decide.
const RECENT: f64 = 0.1;
/// In seconds of sending one request at a time. After this time, most of a slow latency counts as usual, because our requests
/// cannot be its cause. With more requests in flight, the usual latency never rises. So if an API stays slow whatever it gets,
/// the limit falls to one, and then rises again.
const USUAL_ALONE: f64 = 20.0;
/// As many requests must have been delivered with a number in flight before a throttled answer with more is blamed on the number.
/// If the number were not the reason, one in as many throttled answers would look as if it were.
const EVIDENCE: u32 = 20;
/// Of the requests with too many in flight, at most one was delivered for this many with fewer: a gateway may have answered a
/// request that counts as in flight here.
const SELDOM: u32 = 20;
/// After a step up, the new rate may be the reason as well. It is not if this many excesses in a row look like a number in flight.
const SUSPICIONS: u32 = 2;
/// The calm after which one request more in flight is tried. A doubled limit is then used within three minutes, and one answer in
/// two minutes is throttled.
const CALM: Duration = Duration::from_secs(110);

/// Why the limit changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConcurrencyWhy {
    /// Answers became slow, or are no longer slow.
    Latency,
    /// Requests were throttled when more were in flight.
    Throttled,
    /// No answer was throttled for long enough, so one request more is tried.
    Probing,
    /// The number was not the reason after all: a request that went alone was throttled, too, or the API refused for long.
    Acquitted,
    /// An earlier process has learnt it.
    Learnt,
}

impl ConcurrencyWhy {
    /// The string in the logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Throttled => "throttled",
            Self::Probing => "probing",
            Self::Acquitted => "acquitted",
            Self::Learnt => "learnt",
        }
    }
}

/// The limit, below its maximum.
#[derive(Clone, Debug)]
pub struct AdaptiveConcurrency {
    max: usize,
    current: f64,
    /// The usual latency in seconds; `None` before the first answer.
    usual: Option<f64>,
    /// The recent latency in seconds.
    recent: f64,
    /// The number of answers until the limit may fall again.
    round: usize,
    /// The most requests in flight that the API was found to allow.
    allowed: Option<Allowed>,
    /// The number of deliveries at the present rate, for each number in flight.
    delivered: Vec<u32>,
    /// The number of excesses in a row that a number in flight would explain.
    suspicions: u32,
}

/// A limit that throttled answers have shown.
#[derive(Clone, Copy, Debug)]
struct Allowed {
    requests: usize,
    /// When one request more is tried, in elapsed time.
    raise_at: Duration,
}

/// A change to be logged: every fall, each raise that is tried, and the return to the maximum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConcurrencyChange {
    /// The limit before the change.
    pub from: usize,
    /// The limit after the change.
    pub to: usize,
    /// The reason.
    pub why: ConcurrencyWhy,
}

impl AdaptiveConcurrency {
    /// Starts at the maximum.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            max,
            current: max.max(1) as f64,
            usual: None,
            recent: 0.0,
            round: 0,
            allowed: None,
            delivered: Vec::new(),
            suspicions: 0,
        }
    }

    /// Replaces the maximum. A limit that was learnt is kept, if it is not above the new maximum.
    pub fn set_max(&mut self, max: usize) {
        let most = max.max(1) as f64;
        self.current = if (self.current as usize) < self.max { self.current.min(most) } else { most };
        self.max = max;
        self.allowed = self.allowed.filter(|allowed| allowed.requests < max);
    }

    /// The most requests in flight: 1 to the maximum.
    #[must_use]
    pub fn limit(&self) -> usize {
        let allowed = self.allowed.map_or(usize::MAX, |allowed| allowed.requests);
        (self.current as usize).min(allowed).clamp(1, self.max.max(1))
    }

    /// The limit that throttled answers have shown.
    #[must_use]
    pub fn allowed(&self) -> Option<usize> {
        self.allowed.map(|allowed| allowed.requests)
    }

    /// Takes in that a request was delivered that left with `in_flight` in flight, its own included.
    pub fn delivered(&mut self, in_flight: usize, elapsed: Duration) -> Option<ConcurrencyChange> {
        let in_flight = in_flight.min(self.max);
        if self.delivered.len() <= in_flight {
            self.delivered.resize(in_flight + 1, 0);
        }
        self.delivered[in_flight] = self.delivered[in_flight].saturating_add(1);
        let from = self.limit();
        // The limit must be used, and borne as often as is evidence.
        let is_borne = |allowed: &&mut Allowed| {
            elapsed >= allowed.raise_at && in_flight >= allowed.requests && self.delivered[in_flight] >= EVIDENCE
        };
        let allowed = self.allowed.as_mut().filter(is_borne)?;
        allowed.requests += 1;
        if allowed.requests >= self.max {
            self.allowed = None;
        }
        self.changed(from, ConcurrencyWhy::Probing)
    }

    /// Takes in that a request was throttled that left with `in_flight` in flight, its own included. Returns a change, perhaps to the
    /// same limit, if the number is the reason. `is_new_rate`: the rate has just been raised.
    pub fn throttled(&mut self, in_flight: usize, is_new_rate: bool, elapsed: Duration) -> Option<ConcurrencyChange> {
        let from = self.limit();
        let (below, reached) = self.delivered.split_at(in_flight.min(self.delivered.len()));
        let highest = below.iter().rposition(|delivered| *delivered > 0);
        let (below, reached): (u32, u32) = (below.iter().sum(), reached.iter().sum());
        let allows = highest.filter(|_| below >= EVIDENCE && reached <= below / SELDOM);
        self.suspicions = if allows.is_some() { self.suspicions.saturating_add(1) } else { 0 };
        let is_clear = !is_new_rate || self.suspicions >= SUSPICIONS;
        let requests = allows.filter(|_| is_clear)?;
        self.allowed = Some(Allowed { requests, raise_at: elapsed + CALM });
        self.changed(from, ConcurrencyWhy::Throttled)
    }

    /// Goes on from a limit that throttled answers have shown to an earlier process. Returns a change, unless the maximum is not above
    /// the limit.
    pub fn restore(&mut self, allowed: usize, elapsed: Duration) -> Option<ConcurrencyChange> {
        let from = self.limit();
        self.allowed = Some(Allowed { requests: allowed, raise_at: elapsed + CALM }).filter(|_| allowed < self.max);
        self.changed(from, ConcurrencyWhy::Learnt).filter(|change| change.from != change.to)
    }

    /// Takes the last limit back: a request that went alone was throttled as well.
    pub fn acquit(&mut self) -> Option<ConcurrencyChange> {
        let from = self.limit();
        self.allowed = None;
        self.changed(from, ConcurrencyWhy::Acquitted).filter(|change| change.from != change.to)
    }

    /// Forgets what was delivered, because it was delivered at another rate.
    pub fn rate_changed(&mut self) {
        self.delivered.clear();
    }

    fn changed(&self, from: usize, why: ConcurrencyWhy) -> Option<ConcurrencyChange> {
        Some(ConcurrencyChange { from, to: self.limit(), why })
    }

    /// Takes in the time that an answer took, and the number of requests in flight, its own included.
    pub fn answered(&mut self, took: Duration, in_flight: usize) -> Option<ConcurrencyChange> {
        let took = took.as_secs_f64();
        let usual = match self.usual {
            None => {
                self.recent = took;
                took
            }
            Some(usual) => {
                self.recent += (took - self.recent) * RECENT;
                let weight = if in_flight <= 1 { (took / USUAL_ALONE).min(1.0) } else { 0.0 };
                self.recent.min(usual + (self.recent - usual).max(0.0) * weight)
            }
        };
        self.usual = Some(usual);
        self.round = self.round.saturating_sub(1);
        let from = self.limit();
        if self.recent > usual * SLOW + TOLERANCE {
            if self.round == 0 {
                self.current = (self.current * DECREASE).max(1.0);
                // The requests in flight were sent under the old limit, and say nothing about the new one.
                self.round = in_flight.max(1);
            }
        } else if in_flight >= from {
            self.current = (self.current + 1.0 / self.current).min(self.max as f64);
        }
        let to = self.limit();
        (to < from || (to > from && to == self.max)).then_some(ConcurrencyChange {
            from,
            to,
            why: ConcurrencyWhy::Latency,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Duration = Duration::from_secs(1_000);

    /// A limit of 16, of which `counts` were delivered with one, two and more in flight.
    fn after(counts: &[u32]) -> AdaptiveConcurrency {
        let mut limit = AdaptiveConcurrency::new(16);
        for (in_flight, count) in (1..).zip(counts) {
            (0..*count).for_each(|_| assert_eq!(limit.delivered(in_flight, NOW), None));
        }
        limit
    }

    #[test]
    fn a_number_in_flight_is_the_reason_if_only_more_were_throttled() {
        for (counts, throttled, allowed) in [
            (&[0, 1, 4, 15][..], 5, Some(4)),
            (&[0, 1, 4, 15], 7, Some(4)),
            (&[20], 2, Some(1)),
            (&[0, 100, 100, 100, 10], 5, Some(4)),
            // Too little was delivered to tell, or as much was with as many in flight, or the request went alone.
            (&[0, 1, 4, 14], 5, None),
            (&[0, 100, 100, 100, 20], 5, None),
            (&[0, 1, 4, 15], 4, None),
            (&[50], 1, None),
            (&[], 5, None),
        ] {
            let mut limit = after(counts);
            let change = limit.throttled(throttled, false, NOW);
            let expected = allowed.map(|to| ConcurrencyChange { from: 16, to, why: ConcurrencyWhy::Throttled });
            assert_eq!((change, limit.allowed()), (expected, allowed), "{counts:?} {throttled}");
        }
    }

    #[test]
    fn a_rate_that_was_raised_may_be_the_reason_as_well_but_not_twice_in_a_row() {
        let mut limit = after(&[0, 0, 0, 40]);
        assert_eq!(limit.throttled(5, true, NOW), None);
        assert_eq!(limit.throttled(5, true, NOW).map(|change| change.to), Some(4));
        let mut limit = after(&[0, 0, 0, 40]);
        assert_eq!(limit.throttled(5, true, NOW), None);
        assert_eq!(limit.throttled(3, true, NOW), None, "a smaller number was throttled");
        assert_eq!(limit.throttled(5, true, NOW), None);
    }

    #[test]
    fn deliveries_at_another_rate_are_no_evidence() {
        let mut limit = after(&[0, 0, 0, 40]);
        limit.rate_changed();
        assert_eq!(limit.throttled(5, false, NOW), None);
    }

    #[test]
    fn after_a_calm_one_more_is_tried_if_the_limit_is_used() {
        let mut limit = after(&[0, 0, 0, 40]);
        limit.throttled(5, false, NOW);
        let mut deliver = |count: u32, in_flight, at| (0..count).find_map(|_| limit.delivered(in_flight, at));
        assert_eq!(deliver(100, 4, NOW + CALM - Duration::from_secs(1)), None, "too early");
        assert_eq!(deliver(100, 3, NOW + CALM), None, "less is used than allowed, and 4 was counted before");
        let up = |to| Some(ConcurrencyChange { from: to - 1, to, why: ConcurrencyWhy::Probing });
        assert_eq!(deliver(1, 4, NOW + CALM), up(5));
        assert_eq!(deliver(19, 5, NOW + CALM), None);
        assert_eq!(deliver(1, 5, NOW + CALM), up(6), "it is borne, so the next follows at once");
        for to in 7..=16 {
            assert_eq!(deliver(20, to - 1, NOW + CALM), up(to));
        }
        assert_eq!((limit.allowed(), limit.limit()), (None, 16), "back at the maximum");
    }

    #[test]
    fn a_limit_is_taken_back_if_a_request_alone_was_throttled_too() {
        let mut limit = after(&[0, 0, 0, 40]);
        limit.throttled(5, false, NOW);
        assert_eq!(limit.acquit().map(|change| (change.from, change.to)), Some((4, 16)));
        assert_eq!(limit.acquit(), None);
    }

    /// Sends rounds to an API that answers up to `bears` requests in flight in 100 ms. With more, its latency grows in proportion.
    fn rounds(limit: &mut AdaptiveConcurrency, bears: usize, rounds: usize) {
        for _ in 0..rounds {
            let sent = limit.limit();
            let took = Duration::from_millis(100).mul_f64((sent as f64 / bears as f64).max(1.0));
            for _ in 0..sent {
                limit.answered(took, sent);
            }
        }
    }

    #[test]
    fn an_api_that_is_slower_the_more_it_gets_is_given_less_and_one_that_is_not_gets_all() {
        let mut limit = AdaptiveConcurrency::new(64);
        rounds(&mut limit, 64, 50);
        assert_eq!(limit.limit(), 64);
        rounds(&mut limit, 4, 100);
        // Four in flight take 100 ms. Answers are slow above 450 ms, which is 18 in flight.
        assert!((10..=20).contains(&limit.limit()), "{}", limit.limit());
        rounds(&mut limit, 4, 10_000);
        assert!((10..=20).contains(&limit.limit()), "however long it goes on: {}", limit.limit());
        rounds(&mut limit, 64, 400);
        assert_eq!(limit.limit(), 64, "it has recovered");
    }

    #[test]
    fn one_slow_answer_is_no_slow_api() {
        let mut limit = AdaptiveConcurrency::new(8);
        for n in 0..1_000 {
            let took = if n % 20 == 0 { 1_000 } else { 60 };
            assert_eq!(limit.answered(Duration::from_millis(took), 8), None);
        }
    }

    #[test]
    fn what_is_slow_for_good_becomes_usual_and_every_fall_is_told() {
        let mut limit = AdaptiveConcurrency::new(16);
        limit.answered(Duration::from_millis(50), 16);
        let mut lowest = 16;
        for _ in 0..20_000 {
            let before = limit.limit();
            let change = limit.answered(Duration::from_secs(2), before);
            assert_eq!(change.is_some_and(|change| change.to < change.from), limit.limit() < before);
            lowest = lowest.min(limit.limit());
        }
        assert!(lowest < 8 && limit.limit() == 16, "{lowest}, {}", limit.limit());
    }

    proptest! {
        #[test]
        fn the_limit_stays_between_one_and_the_maximum(
            max in 1_usize..200,
            answers in prop::collection::vec((0_u64..100_000, 0_usize..300), 0..500),
        ) {
            let mut limit = AdaptiveConcurrency::new(max);
            for (ms, in_flight) in answers {
                limit.answered(Duration::from_millis(ms), in_flight);
                prop_assert!((1..=max).contains(&limit.limit()));
            }
        }
    }
}
