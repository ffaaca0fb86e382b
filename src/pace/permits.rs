//! The rate limit: whether one more request may leave.
//!
//! Time comes in as a value. `governor` does the arithmetic; its state is kept here, because a permit is taken before the
//! request is claimed and counts from when the request leaves, and because a restart goes on from what was sent last.

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

/// How far behind an even spacing requests may fall and catch up: turns are a few milliseconds late.
const MAX_CATCH_UP: Duration = Duration::from_millis(50);

/// The configured rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateLimit {
    /// Requests per second, sustained; above 0, and may be below 1.
    pub requests_per_second: f64,
    /// How many requests may go out at once after a pause.
    pub burst: NonZeroU32,
}

impl RateLimit {
    /// The time in which one more request is allowed.
    #[must_use]
    pub fn period(&self) -> Duration {
        // Rounded up to the nanosecond that the limiter counts in: never faster than configured.
        Duration::from_nanos((1e9 / self.requests_per_second).ceil().max(1.0) as u64)
    }

    /// How long ago a request must have left to say nothing about the next one.
    #[must_use]
    pub fn memory(&self) -> Duration {
        self.period().saturating_mul(self.burst.get())
    }
}

/// When the next request would be due if all were spaced evenly, in nanoseconds of elapsed time (the theoretical arrival
/// time of the generic cell rate algorithm); 0 if none was sent.
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

    /// One thread has it, so nothing happens between the reading and the writing.
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

/// The state from before the permits were taken that have not left yet.
#[derive(Clone, Copy, Debug)]
struct Taken {
    count: u32,
    arrival: u64,
    spaced: Duration,
}

/// The limiter, and below its rate the one that the API was found to bear.
#[derive(Debug)]
pub struct Permits {
    limiter: Limiter,
    arrival: Arrival,
    clock: FakeRelativeClock,
    /// What the limiter's clock shows; it knows only how to advance.
    clock_shows: Duration,
    /// Elapsed time before which no permit can be had; asking earlier is pointless.
    next: Duration,
    limit: RateLimit,
    adaptive: Option<AdaptiveRate>,
    /// Elapsed time of the next permit at an adaptive rate: those are spaced evenly.
    spaced: Duration,
    taken: Option<Taken>,
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Permits {
    /// With a full burst.
    #[must_use]
    pub fn new(limit: RateLimit) -> Self {
        let clock = FakeRelativeClock::default();
        let quota = Quota::with_period(limit.period())
            .unwrap_or_else(|| Quota::per_second(NonZeroU32::MIN))
            .allow_burst(limit.burst);
        let arrival = Arrival::default();
        Self {
            limiter: RateLimiter::new(quota, arrival.clone(), clock.clone()),
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

    /// Takes the configured rate for a ceiling, and finds what the API bears.
    pub fn adapt(&mut self, elapsed: Duration) {
        self.adaptive = Some(AdaptiveRate::new(self.limit.requests_per_second, elapsed));
    }

    /// How far back [`Permits::sent_before`] must know what was sent. Twice the limiter's memory: of what was sent earlier it
    /// is not known how much it had used up, so everything is taken to be used up by then, and has to be forgotten by now.
    #[must_use]
    pub fn looks_back(&self) -> (Duration, u32) {
        // In twice the memory, a burst and twice as many more were allowed at the most.
        (self.limit.memory().saturating_mul(2), self.limit.burst.get().saturating_mul(3))
    }

    /// Takes in how long ago requests were sent before this life, in the order in which they were: those count, too.
    pub fn sent_before(&mut self, ago: &[Duration], elapsed: Duration) {
        // Counted down from now: elapsed time has no place for what was before its start. `owed` is how long after now the
        // next request would be due.
        let (period, memory) = (self.limit.period(), self.limit.memory());
        let (mut owed, mut last) = (memory, self.looks_back().0);
        for &ago in ago {
            owed = (owed.saturating_sub(last.saturating_sub(ago)) + period).min(memory);
            last = ago;
        }
        owed = owed.saturating_sub(last);
        if !owed.is_zero() {
            self.arrival.set(nanos(elapsed + owed));
        }
    }

    /// The current rate, in requests per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.adaptive.as_ref().map_or(self.limit.requests_per_second, AdaptiveRate::current)
    }

    /// Learns from an answer, or from there being none, what the API bears. `is_too_much`: it was throttled; `None`: what
    /// came says nothing about that.
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

    /// How many permits there can be at `elapsed` at the most; taking one may still be refused.
    #[must_use]
    pub fn most(&self, elapsed: Duration) -> usize {
        if elapsed < self.next() { 0 } else { self.limit.burst.get() as usize }
    }

    /// When the next permit can be had, in elapsed time; in the past if now.
    #[must_use]
    pub fn next(&self) -> Duration {
        self.next.max(self.spaced)
    }

    /// Takes one permit, if there is one at `elapsed`, for a request that will leave soon: [`Permits::leave`] says when.
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

    /// The next permit at an adaptive rate is so much later.
    fn space(&mut self, elapsed: Duration) {
        self.spaced = match &self.adaptive {
            Some(rate) if rate.is_lowered() => {
                self.spaced.max(elapsed.saturating_sub(MAX_CATCH_UP)) + Duration::from_secs_f64(1.0 / rate.current())
            }
            Some(_) | None => Duration::ZERO,
        };
    }

    /// The requests leave for which permits were taken. They count from now: what was refilled while they were being claimed
    /// is taken back, so that no more leave at once than may.
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

    /// Nothing leaves for which permits were taken.
    pub fn give_back(&mut self) {
        if let Some(Taken { arrival, spaced, .. }) = self.taken.take() {
            self.arrival.set(arrival);
            self.spaced = spaced;
            // It was said of one more than these.
            self.next = Duration::ZERO;
        }
    }
}

/// What a request came to says about the rate: `Some(true)` that it is too high, `Some(false)` that it is borne, `None`
/// nothing. `cause` is the fault's, if it was one; `has_settled`: an answer that deleted something.
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
