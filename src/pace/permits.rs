//! The rate limit: whether one more request may leave.
//!
//! Time comes in as a value. `governor` does the arithmetic. Its state is kept here for two reasons: a permit is taken before
//! the claim but counts from when the request leaves, and a restart continues from the requests of the process before.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock as _, FakeRelativeClock},
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{NotKeyed, StateStore},
};

use super::rate::{AdaptiveRate, RateChange};
use crate::model::{deletion::RequestId, outcome::Cause};

/// How far requests may fall behind an even spacing and still catch up, because turns come a few milliseconds late.
const MAX_CATCH_UP: Duration = Duration::from_millis(50);

/// The configured rate limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateLimit {
    /// The sustained rate in requests per second; above 0, and may be below 1.
    pub requests_per_second: f64,
    /// How many requests may go out at once after an idle time.
    pub burst: NonZeroU32,
}

impl RateLimit {
    /// The time after which one more request is allowed.
    #[must_use]
    pub fn period(&self) -> Duration {
        // Rounded up to a nanosecond, the limiter's unit, so that the rate is never higher than configured.
        Duration::from_nanos((1e9 / self.requests_per_second).ceil().max(1.0) as u64)
    }

    /// How long after leaving a request still delays others.
    #[must_use]
    pub fn memory(&self) -> Duration {
        self.period().saturating_mul(self.burst.get())
    }

    /// How far back, and how many, requests must be passed to [`Permits::sent_before`]. The time is twice the limiter's memory: a
    /// full burst is assumed to be used up at its beginning, and that must be forgotten by now.
    #[must_use]
    pub fn looks_back(&self) -> (Duration, u32) {
        // In twice the memory, at most a burst and twice as many more were allowed.
        (self.memory().saturating_mul(2), self.burst.get().saturating_mul(3))
    }

    fn limiter(&self, arrival: &Arrival, clock: &FakeRelativeClock) -> Limiter {
        let quota = Quota::with_period(self.period()).unwrap_or_else(|| Quota::per_second(NonZeroU32::MIN));
        RateLimiter::new(quota.allow_burst(self.burst), arrival.clone(), clock.clone())
    }
}

/// When the next request would be due if all were spaced evenly: the theoretical arrival time of the generic cell rate
/// algorithm, in nanoseconds of elapsed time. It is 0 if no request was sent.
#[derive(Clone, Debug, Default)]
struct Arrival(Arc<AtomicU64>);

impl Arrival {
    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, nanos: u64) {
        self.0.store(nanos, Ordering::Relaxed);
    }
}

impl StateStore for Arrival {
    type Key = NotKeyed;

    /// Only one thread uses the state, so nothing can change it between the read and the write.
    fn measure_and_replace<T, F, E>(&self, _: &NotKeyed, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let known = Some(self.get()).filter(|nanos| *nanos > 0).map(Nanos::new);
        let (outcome, next) = decide(known)?;
        self.set(next.as_u64());
        Ok(outcome)
    }
}

type Limiter = RateLimiter<NotKeyed, Arrival, FakeRelativeClock, NoOpMiddleware<Nanos>>;

/// The permits whose requests have not left yet, and the state before they were taken.
#[derive(Clone, Copy, Debug)]
struct Taken {
    count: u32,
    arrival: u64,
    spaced: Duration,
}

/// The limiter, and the adaptive rate below its rate.
#[derive(Debug)]
pub struct Permits {
    limiter: Limiter,
    arrival: Arrival,
    clock: FakeRelativeClock,
    /// The time on the limiter's clock, which can only be advanced.
    clock_shows: Duration,
    /// In elapsed time: the limiter has no permit before this.
    next: Duration,
    limit: RateLimit,
    adaptive: Option<AdaptiveRate>,
    /// In elapsed time: the next permit at a lowered rate. Such permits are spaced evenly.
    spaced: Duration,
    taken: Option<Taken>,
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Permits {
    /// Starts with a full burst.
    #[must_use]
    pub fn new(limit: RateLimit) -> Self {
        let (arrival, clock) = (Arrival::default(), FakeRelativeClock::default());
        Self {
            limiter: limit.limiter(&arrival, &clock),
            arrival,
            clock,
            clock_shows: Duration::ZERO,
            next: Duration::ZERO,
            limit,
            adaptive: None,
            spaced: Duration::ZERO,
            taken: None,
        }
    }

    /// Makes the configured rate a ceiling, below which the rate adapts to the API's limit.
    pub fn adapt(&mut self, elapsed: Duration) {
        self.adaptive = Some(AdaptiveRate::new(self.limit.requests_per_second, elapsed));
    }

    /// Replaces the limit. `ago`: how long ago requests were sent, oldest first, as far as [`RateLimit::looks_back`] of the new
    /// limit. Without it, a full burst counts as just sent. Permits must not be taken and not used.
    ///
    /// From now on, no window has more requests than the new limit allows, the requests before the change included, except that
    /// more than a full burst of these cannot delay others.
    pub fn relimit(&mut self, limit: RateLimit, ago: Option<&[Duration]>, elapsed: Duration) {
        self.give_back();
        // What the old limiter knows is exact: when requests left, and not when they were claimed. Each of its permits that are
        // not refilled yet is at most one that the new limit has not refilled.
        let owed = Duration::from_nanos(self.arrival.get()).saturating_sub(elapsed);
        let used = owed.as_nanos().div_ceil(self.limit.period().as_nanos());
        let used = u32::try_from(used).unwrap_or(u32::MAX);
        let known = owed.min(limit.period().saturating_mul(used)).min(limit.memory());
        self.limit = limit;
        self.clock = FakeRelativeClock::default();
        self.clock_shows = Duration::ZERO;
        self.limiter = limit.limiter(&self.arrival, &self.clock);
        self.arrival.set(0);
        match ago {
            Some(ago) => self.sent_before(ago, elapsed),
            None => self.arrival.set(nanos(elapsed + limit.memory())),
        }
        self.arrival.set(self.arrival.get().max(nanos(elapsed + known)));
        self.next = Duration::ZERO;
        if let Some(rate) = &mut self.adaptive {
            rate.set_ceiling(limit.requests_per_second);
        }
        self.spaced = self.spaced.min(elapsed + Duration::from_secs_f64(1.0 / self.rate()));
    }

    /// Makes the rate adapt to the API's limit, or not. A rate that was learnt is kept.
    pub fn set_adaptive(&mut self, is_adaptive: bool, elapsed: Duration) {
        if !is_adaptive {
            self.adaptive = None;
            self.spaced = Duration::ZERO;
        } else if self.adaptive.is_none() {
            self.adapt(elapsed);
        }
    }

    /// Takes in how long ago earlier processes sent requests, oldest first. These requests count, too.
    pub fn sent_before(&mut self, ago: &[Duration], elapsed: Duration) {
        // The times are relative to now, because elapsed time cannot express times before the process began. `owed` is how long
        // after each request the next one would be due.
        let (period, memory) = (self.limit.period(), self.limit.memory());
        let (mut owed, mut last) = (memory, self.limit.looks_back().0);
        for &ago in ago {
            owed = (owed.saturating_sub(last.saturating_sub(ago)) + period).min(memory);
            last = ago;
        }
        owed = owed.saturating_sub(last);
        if !owed.is_zero() {
            self.arrival.set(nanos(elapsed + owed));
        }
    }

    /// The configured limit.
    #[must_use]
    pub fn limit(&self) -> RateLimit {
        self.limit
    }

    /// The current rate, in requests per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.adaptive.as_ref().map_or(self.limit.requests_per_second, AdaptiveRate::current)
    }

    /// Learns from the outcome of a request. `is_too_much` is from [`is_too_much`].
    pub fn learn(
        &mut self,
        request: RequestId,
        is_too_much: Option<bool>,
        newest: RequestId,
        elapsed: Duration,
    ) -> Option<RateChange> {
        let rate = self.adaptive.as_mut()?;
        match is_too_much? {
            true => rate.throttled(request, newest, elapsed),
            false => rate.delivered(request, elapsed),
        }
    }

    /// An upper bound of the permits at `elapsed`. Taking one may still fail.
    #[must_use]
    pub fn most(&self, elapsed: Duration) -> usize {
        if elapsed < self.next() { 0 } else { self.limit.burst.get() as usize }
    }

    /// When the next permit is available, in elapsed time. It may be in the past.
    #[must_use]
    pub fn next(&self) -> Duration {
        self.next.max(self.spaced)
    }

    /// Takes a permit for a request that will leave soon, if one is available at `elapsed`. [`Permits::leave`] tells when the request
    /// leaves.
    pub fn take(&mut self, elapsed: Duration) -> bool {
        if elapsed < self.spaced {
            return false;
        }
        self.clock.advance(elapsed.saturating_sub(self.clock_shows));
        self.clock_shows = self.clock_shows.max(elapsed);
        let before = Taken { count: 0, arrival: self.arrival.get(), spaced: self.spaced };
        match self.limiter.check() {
            Ok(()) => {
                self.taken.get_or_insert(before).count += 1;
                self.space(elapsed);
                true
            }
            Err(not_until) => {
                self.next = elapsed + not_until.wait_time_from(self.clock.now());
                false
            }
        }
    }

    /// Moves the next permit later, if the rate is lowered.
    fn space(&mut self, elapsed: Duration) {
        self.spaced = match &self.adaptive {
            Some(rate) if rate.is_lowered() => {
                self.spaced.max(elapsed.saturating_sub(MAX_CATCH_UP)) + Duration::from_secs_f64(1.0 / rate.current())
            }
            Some(_) | None => Duration::ZERO,
        };
    }

    /// Takes in that the requests leave for which permits were taken. The permits count from now. Permits that were refilled during
    /// the claim are taken back, so that never more than a burst leaves at once.
    pub fn leave(&mut self, elapsed: Duration) {
        let Some(Taken { count, arrival, spaced }) = self.taken.take() else { return };
        let period = nanos(self.limit.period());
        self.arrival.set(arrival.max(nanos(elapsed)).saturating_add(period.saturating_mul(count.into())));
        self.spaced = spaced;
        for _ in 0..count {
            self.space(elapsed);
            if let Some(rate) = self.adaptive.as_mut() {
                rate.sent(elapsed);
            }
        }
    }

    /// Returns the permits that were taken: their requests do not leave.
    pub fn give_back(&mut self) {
        if let Some(Taken { arrival, spaced, .. }) = self.taken.take() {
            self.arrival.set(arrival);
            self.spaced = spaced;
            // `next` was computed with these permits taken.
            self.next = Duration::ZERO;
        }
    }
}

/// Whether the outcome of a request shows that the rate is too high (`Some(true)`) or not (`Some(false)`). `None` if it shows
/// neither. `cause` is that of the fault, if there was one. `has_settled`: the answer deleted something.
#[must_use]
pub fn is_too_much(cause: Option<Cause>, is_429: bool, has_settled: bool) -> Option<bool> {
    match cause {
        Some(Cause::Throttled) if is_429 => Some(true),
        None if has_settled => Some(false),
        Some(Cause::Rejected) => Some(false),
        _ => None,
    }
}

#[cfg(test)]
#[path = "permits_tests.rs"]
mod tests;
