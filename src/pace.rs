//! Whether a request may go out: the rate limit, the holds, and the number of requests in flight.
//!
//! Nothing here waits, reads or writes. Time comes in as a value, and changes go out as values. The configured rate is a
//! ceiling, below which the adaptive rate searches for the API's own limit, and obeys the limit that the API's headers tell.

pub mod adaptive;
pub mod burst;
pub mod concurrency;
pub mod deliveries;
pub mod holds;
mod learnt;
mod limits;
pub mod permits;
pub mod rate;
pub mod told;
pub mod tuning;

use std::time::Duration;

pub use adaptive::{Adaptive, Changes, Heard};
pub use concurrency::ConcurrencyChange;
pub use holds::{Admission, Holds, Outcome, Probe};
pub use permits::{Departure, Permits, RateLimit, is_too_much};
pub use rate::RateChange;
pub use tuning::Tuning;

use crate::model::backoff::Backoff;
use learnt::Memory;
use rate::AdaptiveRate;
use told::Told;

/// Probes take at most one permit in this many while other requests may go.
const PROBE_SHARE: u32 = 10;

/// The settings of a [`Pace`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// The configured rate limit.
    pub rate: RateLimit,
    /// Whether the rate and the requests in flight adapt to what the API bears.
    pub is_adaptive: bool,
    /// The most requests in flight.
    pub concurrency: usize,
    /// The lengths of a hold that grows.
    pub growth: Backoff,
}

/// The rate limit, the holds, and the limit of requests in flight.
#[derive(Debug)]
pub struct Pace {
    /// The rate limit.
    pub permits: Permits,
    /// The holds.
    pub holds: Holds,
    adaptive: Option<Adaptive>,
    /// The limit that the API's headers tell.
    told: Told,
    memory: Memory,
    /// The number of permits that were taken and whose requests have not left.
    taken: u32,
    /// The number of requests since the last probe, up to [`PROBE_SHARE`].
    since_probe: u32,
}

impl Pace {
    /// A pace with the rate limit `rate`, whose holds grow by `growth`.
    #[must_use]
    pub fn new(rate: RateLimit, growth: Backoff) -> Self {
        Self {
            permits: Permits::new(rate),
            holds: Holds::new(growth),
            adaptive: None,
            told: Told::default(),
            memory: Memory::default(),
            taken: 0,
            since_probe: PROBE_SHARE,
        }
    }

    /// Makes the pace adaptive: the configured rate and `concurrency` become ceilings, below which it searches for what the API
    /// bears.
    #[must_use]
    pub fn adaptive(self, concurrency: usize, elapsed: Duration) -> Self {
        self.tuned(concurrency, Tuning::DEFAULT, elapsed)
    }

    /// The same as [`Pace::adaptive`], with other numbers in the search.
    #[must_use]
    pub fn tuned(mut self, concurrency: usize, tuning: Tuning, elapsed: Duration) -> Self {
        let ceiling = self.permits.limit().requests_per_second;
        let mut adaptive = Adaptive::new(ceiling, concurrency, elapsed);
        adaptive.rate = AdaptiveRate::tuned(ceiling, tuning, elapsed);
        self.adaptive = Some(adaptive);
        self
    }

    /// Takes over new settings. `ago` is as for [`Permits::relimit`].
    pub fn retune(&mut self, settings: Settings, ago: Option<&[Duration]>, elapsed: Duration) {
        let Settings { rate, is_adaptive, concurrency, growth } = settings;
        if rate != self.permits.limit() {
            self.permits.relimit(rate, ago, elapsed);
        }
        self.holds.set_growth(growth);
        match (&mut self.adaptive, is_adaptive) {
            (Some(adaptive), true) => {
                adaptive.rate.set_ceiling(rate.requests_per_second);
                adaptive.concurrency.set_max(concurrency);
            }
            (adaptive, true) => *adaptive = Some(Adaptive::new(rate.requests_per_second, concurrency, elapsed)),
            (adaptive, false) => *adaptive = None,
        }
        if !is_adaptive {
            self.told.forget();
        }
        self.space();
    }

    /// The rate that was found, or the configured one, in requests per second.
    fn found(&self) -> f64 {
        self.adaptive.as_ref().map_or(self.permits.limit().requests_per_second, |adaptive| adaptive.rate.current())
    }

    /// The most requests in flight, up to `most`.
    #[must_use]
    pub fn concurrency(&self, most: usize) -> usize {
        self.adaptive.as_ref().map_or(most, |adaptive| adaptive.concurrency.limit().min(most))
    }

    /// Takes in that the requests leave for which permits were taken. Returns the departure of each.
    pub fn leave(&mut self, elapsed: Duration) -> Vec<Departure> {
        let departures = self.permits.leave(elapsed);
        self.taken = 0;
        departures.iter().for_each(|departure| self.told.leave(1, departure.at));
        if let Some(adaptive) = &mut self.adaptive {
            departures.iter().for_each(|departure| adaptive.sent(departure.at));
        }
        departures
    }

    /// Learns from an answer.
    pub fn heard(&mut self, heard: Heard, elapsed: Duration) -> Changes {
        let Some(adaptive) = &mut self.adaptive else { return Changes::default() };
        let changes = adaptive.heard(heard, elapsed);
        self.space();
        Changes { rate: changes.rate.and_then(|change| self.in_effect(change)), ..changes }
    }

    /// Learns from the time that an answer took, and from the number of requests that were in flight with it.
    pub fn timed(&mut self, took: Duration, in_flight: usize) -> Option<ConcurrencyChange> {
        self.adaptive.as_mut()?.concurrency.answered(took, in_flight)
    }

    fn space(&mut self) {
        self.permits.space_evenly(self.adaptive.as_ref().and_then(Adaptive::even_rate));
    }

    /// Whether a probe may take the next permit while other requests may go.
    #[must_use]
    pub fn is_probe_s_turn(&self) -> bool {
        self.since_probe >= PROBE_SHARE - 1
    }

    /// Takes in that a request took a permit.
    pub fn took(&mut self, is_probe: bool) {
        self.since_probe = if is_probe { 0 } else { self.since_probe.saturating_add(1).min(PROBE_SHARE) };
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    fn pace() -> Pace {
        let rate = RateLimit { requests_per_second: 100.0, burst: NonZeroU32::MIN };
        Pace::new(rate, Backoff::new(Duration::from_secs(4), Duration::from_secs(60)).unwrap())
    }

    #[test]
    fn probes_get_a_tenth_of_the_permits_while_anything_else_may_go() {
        let mut pace = pace();
        let took: Vec<bool> = (0..1_000)
            .map(|_| {
                let is_probe = pace.is_probe_s_turn();
                pace.took(is_probe);
                is_probe
            })
            .collect();
        assert!(took[0], "the first need not wait");
        assert!(took.chunks(10).all(|ten| ten.iter().filter(|is_probe| **is_probe).count() == 1));
        // A probe that goes because no other request may uses up its turn as well.
        pace.took(true);
        assert!(!pace.is_probe_s_turn());
    }

    #[test]
    fn turns_that_probes_did_not_need_are_not_saved_up() {
        let mut pace = pace();
        (0..1_000).for_each(|_| pace.took(false));
        let turns = (0..20).filter(|_| {
            let is_probe = pace.is_probe_s_turn();
            pace.took(is_probe);
            is_probe
        });
        assert_eq!(turns.count(), 2);
    }

    #[test]
    fn an_api_that_becomes_slow_gets_fewer_requests_at_a_time_if_that_is_wanted() {
        let timed = |mut pace: Pace| {
            pace.timed(Duration::from_millis(50), 8);
            for _ in 0..40 {
                pace.timed(Duration::from_secs(3), 8);
            }
            (pace.concurrency(8), pace.concurrency(2))
        };
        let (limit, least) = timed(pace().adaptive(8, Duration::ZERO));
        assert!(limit < 8 && least <= 2, "{limit} {least}");
        assert_eq!(timed(pace()), (8, 2));
    }
}
