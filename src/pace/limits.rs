//! Both limits on the rate: that of the permits, and the one that the API's headers tell. The second counts only if the pace is
//! adaptive, because otherwise the rate is always the configured one.

use std::time::Duration;

use super::{
    Pace,
    rate::{RateChange, Why},
};
use crate::model::{deletion::RequestId, window::Window};

impl Pace {
    /// The current rate, in requests per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.capped(self.permits.rate())
    }

    /// This rate, or the one that the API's headers tell if it is lower.
    fn capped(&self, rate: f64) -> f64 {
        self.told.cap().map_or(rate, |cap| rate.min(cap))
    }

    /// An upper bound of the permits at `elapsed`. Taking one may still fail.
    #[must_use]
    pub fn most(&self, elapsed: Duration) -> usize {
        if elapsed < self.next() { 0 } else { self.permits.most(elapsed) }
    }

    /// When the next permit is available, in elapsed time. It may be in the past. [`Duration::MAX`] if an answer must come first.
    #[must_use]
    pub fn next(&self) -> Duration {
        self.permits.next().max(self.told.next(self.taken, self.permits.rate()))
    }

    /// Takes a permit for a request that will leave soon, if one is available at `elapsed`. [`Pace::leave`] tells when the request
    /// leaves.
    pub fn take(&mut self, elapsed: Duration) -> bool {
        let is_taken = elapsed >= self.told.next(self.taken, self.permits.rate()) && self.permits.take(elapsed);
        self.taken += u32::from(is_taken);
        is_taken
    }

    /// Takes in that the requests leave for which permits were taken.
    pub fn leave(&mut self, elapsed: Duration) {
        self.told.leave(std::mem::take(&mut self.taken), elapsed);
        self.permits.leave(elapsed);
    }

    /// Returns the permits that were taken: their requests do not leave.
    pub fn give_back(&mut self) {
        self.taken = 0;
        self.permits.give_back();
    }

    /// Takes in that a request has ended that left at `sent` and ended at `at`, in elapsed time, and what the headers of its
    /// answer told. `None`: no answer came.
    pub fn ended(&mut self, sent: Duration, at: Duration, windows: Option<&[Window]>) -> Option<RateChange> {
        let (from, is_adaptive) = (self.rate(), self.is_adaptive());
        self.told.ended(sent, at, windows.map(|told| if is_adaptive { told } else { &[] }));
        let to = self.rate();
        (from != to).then_some(RateChange { from, to, why: Why::Told })
    }

    /// Learns from the outcome of a request. `is_too_much` is from [`is_too_much`](super::is_too_much).
    pub fn learn(
        &mut self,
        request: RequestId,
        is_too_much: Option<bool>,
        newest: RequestId,
        elapsed: Duration,
    ) -> Option<RateChange> {
        let RateChange { from, to, why } = self.permits.learn(request, is_too_much, newest, elapsed)?;
        // A rate above the one that is told is not in effect.
        let (from, to) = (self.capped(from), self.capped(to));
        (from != to).then_some(RateChange { from, to, why })
    }
}
