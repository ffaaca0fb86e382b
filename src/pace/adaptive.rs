//! What is learnt from answers: the rate, the burst and the requests in flight that the API bears.
//!
//! A throttled answer begins an excess, which ends when a later request is answered and not throttled. An excess is blamed on the
//! requests in flight if only requests with more in flight were throttled. Otherwise it is blamed on the rate. In that case,
//! requests are spaced evenly from then on, because the limit may have no burst.

use std::time::Duration;

use super::{
    burst::AdaptiveBurst,
    concurrency::{AdaptiveConcurrency, ConcurrencyChange},
    permits::Departure,
    rate::{AdaptiveRate, Excess, RateChange},
};
use crate::model::deletion::RequestId;

/// A rate that changed by more than this share is another rate: as many requests as before are not in flight with it.
const ANOTHER_RATE: f64 = 0.05;

/// An answer, as far as something can be learnt from it.
#[derive(Clone, Copy, Debug)]
pub struct Heard {
    /// The request.
    pub request: RequestId,
    /// The newest request that was sent.
    pub newest: RequestId,
    /// When the request left.
    pub departure: Departure,
    /// The number of requests in flight when it left, its own included.
    pub in_flight: usize,
    /// Whether it was throttled.
    pub is_throttled: bool,
}

/// The changes that follow from an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Changes {
    /// Of the rate.
    pub rate: Option<RateChange>,
    /// Of the requests in flight.
    pub concurrency: Option<ConcurrencyChange>,
    /// Of the burst: whether requests are spaced evenly from now on.
    pub is_even: Option<bool>,
}

/// What an excess is blamed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blame {
    Rate,
    Concurrency,
}

/// The limits below the configured ones.
#[derive(Clone, Debug)]
pub struct Adaptive {
    /// The rate.
    pub rate: AdaptiveRate,
    /// The burst.
    pub burst: AdaptiveBurst,
    /// The requests in flight.
    pub concurrency: AdaptiveConcurrency,
    /// Requests up to this one were sent before the last excess was noticed, so their answers are about that excess.
    noticed: RequestId,
    excess: Option<(Excess, Blame)>,
    /// The rate at which the requests in flight are counted.
    counted_at: f64,
}

impl Adaptive {
    /// Starts at the ceilings: `rate` in requests per second, and `concurrency` requests in flight.
    #[must_use]
    pub fn new(rate: f64, concurrency: usize, elapsed: Duration) -> Self {
        Self {
            rate: AdaptiveRate::new(rate, elapsed),
            burst: AdaptiveBurst::default(),
            concurrency: AdaptiveConcurrency::new(concurrency),
            noticed: RequestId(0),
            excess: None,
            counted_at: rate,
        }
    }

    /// The rate at which requests are to be spaced evenly, in requests per second. `None`: a burst may go.
    #[must_use]
    pub fn even_rate(&self) -> Option<f64> {
        (self.burst.is_even() || self.rate.is_lowered()).then(|| self.rate.current())
    }

    /// Takes in that a request leaves at `at`.
    pub fn sent(&mut self, at: Duration) {
        self.rate.sent(at, self.excess.is_some());
    }

    /// Learns from an answer.
    pub fn heard(&mut self, heard: Heard, elapsed: Duration) -> Changes {
        let was_even = self.burst.is_even();
        let mut changes =
            if heard.is_throttled { self.throttled(heard, elapsed) } else { self.delivered(heard, elapsed) };
        if (self.rate.current() / self.counted_at - 1.0).abs() > ANOTHER_RATE {
            self.counted_at = self.rate.current();
            self.concurrency.rate_changed();
        }
        changes.is_even = Some(self.burst.is_even()).filter(|is_even| *is_even != was_even);
        changes
    }

    fn throttled(&mut self, heard: Heard, elapsed: Duration) -> Changes {
        let Heard { request, newest, departure, in_flight, .. } = heard;
        if let Some((excess, _)) = &mut self.excess {
            excess.throttled = excess.throttled.saturating_add(1);
            if request > self.noticed {
                excess.probed = Some(elapsed);
            }
            return Changes::default();
        }
        if request <= self.noticed {
            return Changes::default();
        }
        self.noticed = newest.max(request);
        let excess = Excess { at: self.rate.current(), left: departure.at, since: elapsed, throttled: 1, probed: None };
        let mut changes = Changes::default();
        let concurrency = self.concurrency.throttled(in_flight, self.rate.is_new(), elapsed);
        let blame = if concurrency.is_some() {
            changes.concurrency = concurrency.filter(|change| change.from != change.to);
            Blame::Concurrency
        } else {
            changes.rate = self.rate.exceeded();
            self.burst.throttled(elapsed);
            Blame::Rate
        };
        self.excess = Some((excess, blame));
        changes
    }

    fn delivered(&mut self, heard: Heard, elapsed: Duration) -> Changes {
        let mut changes = Changes::default();
        self.rate.delivered(heard.departure.at);
        if heard.request <= self.noticed {
            return changes;
        }
        match self.excess.take() {
            Some((excess, blame)) => self.recovered(&excess, blame, elapsed, &mut changes),
            None => changes.rate = self.rate.climb(elapsed),
        }
        changes.concurrency = changes.concurrency.or_else(|| self.concurrency.delivered(heard.in_flight, elapsed));
        if !self.rate.is_lowered() {
            self.burst.delivered(elapsed);
        }
        changes
    }

    fn recovered(&mut self, excess: &Excess, blame: Blame, elapsed: Duration, changes: &mut Changes) {
        if blame == Blame::Concurrency {
            // A limit on the requests in flight lets a request through that goes alone, and soon.
            if !self.rate.is_refused_for_long(excess, elapsed) {
                return;
            }
            changes.concurrency = self.concurrency.acquit();
            self.burst.throttled(elapsed);
        }
        changes.rate = self.rate.recover(excess, elapsed);
    }
}

#[cfg(test)]
#[path = "adaptive_tests.rs"]
mod tests;
