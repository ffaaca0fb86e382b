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

use crate::model::outcome::Cause;

/// With each claim, the slowest one so far counts this share of before: about the last twenty decide.
const FORGOTTEN: f64 = 0.95;
/// The longest lead. A hold that is placed meanwhile does not stop the requests that were claimed.
const LONGEST_LEAD: Duration = Duration::from_millis(250);

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
#[derive(Clone, Debug)]
struct Taken {
    /// The earliest departure of each.
    from: Vec<Duration>,
    arrival: u64,
    spaced: Duration,
}

/// When a request leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departure {
    /// In elapsed time; at most the lead after [`Permits::leave`] was called.
    pub at: Duration,
    /// The least time since the departure before it: zero, unless departures are spaced evenly.
    pub gap: Duration,
}

/// The limiter, and the even spacing below its rate.
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
    /// How long before its departure a permit may be taken, and the least of that.
    lead: Duration,
    least_lead: Duration,
    /// What the slowest of the recent claims took.
    slow: Duration,
    /// The time between two departures, if they are to be spaced evenly.
    gap: Option<Duration>,
    /// In elapsed time: the next departure, if they are spaced evenly.
    spaced: Duration,
    /// The last departure.
    left: Option<Duration>,
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
            lead: Duration::ZERO,
            least_lead: Duration::ZERO,
            slow: Duration::ZERO,
            gap: None,
            spaced: Duration::ZERO,
            left: None,
            taken: None,
        }
    }

    /// Lets a permit be taken this long before its request departs, if departures are spaced evenly. The request is claimed
    /// meanwhile, so that a commit delays no departure. The caller must wait for the departure that [`Permits::leave`] returns.
    pub fn lead_by(&mut self, lead: Duration) {
        (self.least_lead, self.lead) = (lead, lead);
    }

    /// Takes in how long the last claim took, its commit included. Where claims take long, the lead is longer: departures that are
    /// spaced evenly do not catch up. Does nothing without a lead.
    pub fn claimed_in(&mut self, took: Duration) {
        if !self.least_lead.is_zero() {
            let slow = took.max(self.slow.mul_f64(FORGOTTEN));
            self.slow = slow;
            self.lead = self.least_lead.max(slow * 3 / 2).min(LONGEST_LEAD);
        }
    }

    /// Spaces departures evenly at `rate` requests per second, without catching up: the API's limit may have no burst. `None`:
    /// only the limit counts.
    pub fn space_evenly(&mut self, rate: Option<f64>) {
        self.gap = rate.map(|rate| Duration::from_secs_f64(1.0 / rate));
        self.spaced = self.left.zip(self.gap).map_or(Duration::ZERO, |(left, gap)| left + gap);
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

    /// An upper bound of the permits at `elapsed`. Taking one may still fail.
    #[must_use]
    pub fn most(&self, elapsed: Duration) -> usize {
        if elapsed < self.next() { 0 } else { self.limit.burst.get() as usize }
    }

    /// When the next permit can be taken, in elapsed time. It may be in the past.
    #[must_use]
    pub fn next(&self) -> Duration {
        self.next.max(self.spaced.saturating_sub(self.lead))
    }

    /// Takes a permit for a request that will leave soon, if one is available at `elapsed`. [`Permits::leave`] tells when the request
    /// leaves.
    pub fn take(&mut self, elapsed: Duration) -> bool {
        if elapsed + self.lead < self.spaced {
            return false;
        }
        // A request that is claimed ahead needs its permit when it departs.
        let from = elapsed.max(self.spaced);
        self.clock.advance(from.saturating_sub(self.clock_shows));
        self.clock_shows = self.clock_shows.max(from);
        let before = (self.arrival.get(), self.spaced);
        match self.limiter.check() {
            Ok(()) => {
                let (arrival, spaced) = before;
                let taken = self.taken.get_or_insert_with(|| Taken { from: Vec::new(), arrival, spaced });
                taken.from.push(self.clock_shows);
                self.space(from);
                true
            }
            Err(not_until) => {
                self.next = self.clock_shows + not_until.wait_time_from(self.clock.now());
                false
            }
        }
    }

    /// Moves the next departure, after one at `at`.
    fn space(&mut self, at: Duration) {
        self.spaced = self.gap.map_or(Duration::ZERO, |gap| at + gap);
    }

    /// Takes in that the requests leave for which permits were taken, and returns the departure of each. The permits count from
    /// then on. Permits that were refilled during the claim are taken back, so that never more than a burst leaves at once.
    pub fn leave(&mut self, elapsed: Duration) -> Vec<Departure> {
        let Some(Taken { from, arrival, spaced }) = self.taken.take() else { return Vec::new() };
        self.arrival.set(arrival);
        self.spaced = spaced;
        let period = nanos(self.limit.period());
        let depart = |from: Duration| {
            let at = elapsed.max(from).max(self.spaced);
            self.arrival.set(self.arrival.get().max(nanos(at)).saturating_add(period));
            self.space(at);
            self.left = Some(at);
            Departure { at, gap: self.gap.unwrap_or_default() }
        };
        from.into_iter().map(depart).collect()
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
