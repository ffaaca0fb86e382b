//! Both limits on the rate: that of the permits, and the one that the API's headers tell. The second counts only if the pace is
//! adaptive, because otherwise the rate is always the configured one.

use std::time::Duration;

use super::{
    Pace,
    rate::{RateChange, Why},
};
use crate::model::{
    limits::{ConcurrencyReason, RateReason},
    window::Window,
};

impl Pace {
    /// The current rate, in requests per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.capped(self.found())
    }

    /// This rate, or the one that the API's headers tell if it is lower.
    fn capped(&self, rate: f64) -> f64 {
        self.told.cap().map_or(rate, |cap| rate.min(cap))
    }

    /// Why the current rate is what it is.
    #[must_use]
    pub fn rate_reason(&self) -> RateReason {
        let found = self.found();
        if self.rate() < found {
            RateReason::Told
        } else if found >= self.permits.limit().requests_per_second {
            RateReason::Ceiling
        } else if self.memory.restored == Some(found) {
            RateReason::Learnt
        } else {
            RateReason::Found
        }
    }

    /// Why the limit of requests in flight is what it is, whose ceiling is `most`.
    #[must_use]
    pub fn concurrency_reason(&self, most: usize) -> ConcurrencyReason {
        let limit = self.concurrency(most);
        let allowed = self.adaptive.as_ref().and_then(|adaptive| adaptive.concurrency.allowed());
        if limit >= most {
            ConcurrencyReason::Ceiling
        } else if allowed.is_some_and(|allowed| allowed <= limit) {
            ConcurrencyReason::Throttled
        } else {
            ConcurrencyReason::Latency
        }
    }

    /// An upper bound of the permits at `elapsed`. Taking one may still fail.
    #[must_use]
    pub fn most(&self, elapsed: Duration) -> usize {
        if elapsed < self.next() { 0 } else { self.permits.most(elapsed) }
    }

    /// When the next permit is available, in elapsed time. It may be in the past. [`Duration::MAX`] if an answer must come first.
    #[must_use]
    pub fn next(&self) -> Duration {
        self.permits.next().max(self.told.next(self.taken, self.found()))
    }

    /// Takes a permit for a request that will leave soon, if one is available at `elapsed`. [`Pace::leave`] tells when the request
    /// leaves.
    pub fn take(&mut self, elapsed: Duration) -> bool {
        let is_taken = elapsed >= self.told.next(self.taken, self.found()) && self.permits.take(elapsed);
        self.taken += u32::from(is_taken);
        is_taken
    }

    /// Returns the permits that were taken: their requests do not leave.
    pub fn give_back(&mut self) {
        self.taken = 0;
        self.permits.give_back();
    }

    /// Takes in that a request has ended that left at `sent` and ended at `at`, in elapsed time, and what the headers of its
    /// answer told. `None`: no answer came.
    pub fn ended(&mut self, sent: Duration, at: Duration, windows: Option<&[Window]>) -> Option<RateChange> {
        let (from, is_adaptive) = (self.rate(), self.adaptive.is_some());
        self.told.ended(sent, at, windows.map(|told| if is_adaptive { told } else { &[] }));
        let to = self.rate();
        (from != to).then_some(RateChange { from, to, why: Why::Told })
    }

    /// This change, as far as it is below the rate that is told.
    pub(super) fn in_effect(&self, RateChange { from, to, why }: RateChange) -> Option<RateChange> {
        let (from, to) = (self.capped(from), self.capped(to));
        (from != to).then_some(RateChange { from, to, why })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{backoff::Backoff, clock::Timestamp, limits::Learnt},
        pace::RateLimit,
    };

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn each_limit_has_the_reason_that_makes_it_lowest() {
        let rate = RateLimit { requests_per_second: 100.0, burst: 5.try_into().unwrap() };
        let mut pace = Pace::new(rate, Backoff::new(SECOND, SECOND).unwrap()).adaptive(8, SECOND);
        assert_eq!((pace.rate_reason(), pace.concurrency_reason(8)), (RateReason::Ceiling, ConcurrencyReason::Ceiling));
        pace.timed(SECOND / 20, 8);
        for _ in 0..20 {
            pace.timed(2 * SECOND, 8);
        }
        assert!((5..8).contains(&pace.concurrency(8)));
        assert_eq!(pace.concurrency_reason(8), ConcurrencyReason::Latency);
        assert_eq!(pace.concurrency_reason(2), ConcurrencyReason::Ceiling, "of a lower ceiling");
        let learnt = Learnt { rate: Some(50.0), is_even: true, concurrency: Some(4), at: Timestamp::ZERO };
        pace.restore(&learnt, Timestamp::ZERO, SECOND);
        assert_eq!(pace.concurrency_reason(8), ConcurrencyReason::Throttled, "it is lower than the limit for latency");
        assert_eq!((pace.rate(), pace.rate_reason()), (50.0, RateReason::Learnt));
        let window = Window { limit: Some(10), remaining: Some(9), reset: Some(SECOND), length: Some(SECOND) };
        pace.ended(SECOND, SECOND, Some(&[window]));
        assert!(pace.rate() < 10.0 && pace.rate_reason() == RateReason::Told);
    }
}
