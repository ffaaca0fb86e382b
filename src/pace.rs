//! Whether a request may go out: the rate limit, and the holds.
//!
//! Pure but for `governor`'s arithmetic: time comes in as a value, and what changes in the holds goes out as
//! [`HoldChange`]s for the worker to write and to log. The configured rate is a ceiling; below it, an [`AdaptiveRate`]
//! finds the one that the API bears.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    num::NonZeroU32,
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock as _, FakeRelativeClock},
    middleware::NoOpMiddleware,
    state::{InMemoryState, NotKeyed},
};

use crate::{
    backoff::{Backoff, Jitter},
    clock::Timestamp,
    concurrency::{AdaptiveConcurrency, ConcurrencyChange},
    deletion::{AgentId, RequestId},
    outcome::{Cause, Hold, HoldEnd, Scope},
    rate::{AdaptiveRate, RateChange},
};

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
}

/// A row of `holds`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldRow {
    /// On what.
    pub scope: Scope,
    /// Why.
    pub cause: Cause,
    /// Since when.
    pub since_at: Timestamp,
    /// Until when; `None` until somebody deletes the row. A time in the past: the next request probes, or, if a person
    /// placed it, it is over.
    pub until_at: Option<Timestamp>,
    /// How often it was placed again after a probe failed.
    pub repeats: u32,
}

impl HoldRow {
    /// Whether nothing of it is left. A person who paused until a time meant that time: there was no fault, so there is
    /// nothing to probe.
    fn is_over(&self, now: Timestamp) -> bool {
        self.cause == Cause::Operator && self.until_at.is_some_and(|until| until <= now)
    }

    /// Whether it lasts longer than `other`.
    fn outlasts(&self, other: &Self) -> bool {
        self.until_at.unwrap_or(Timestamp(i64::MAX)) > other.until_at.unwrap_or(Timestamp(i64::MAX))
    }
}

/// What is to be written to `holds`, and said in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HoldChange {
    /// Insert this row, or put it in the place of the one with its scope and cause.
    Placed(HoldRow),
    /// Delete the row.
    Lifted {
        /// On what it was.
        scope: Scope,
        /// Why it was.
        cause: Cause,
        /// How long it was to be: a row of its scope and cause that is to last otherwise is another one.
        until_at: Option<Timestamp>,
    },
}

/// Whether a request for an agent may go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Nothing stands against it.
    Free,
    /// A hold has ended; one request may go, and the rest waits for what becomes of it.
    Probe,
    /// That one request is on its way.
    Probing,
    /// Held until then; `None`: until somebody deletes the hold.
    Held(Option<Timestamp>),
}

#[derive(Clone, Debug)]
struct Held {
    row: HoldRow,
    /// The request that probes; set by [`Pace::sent`], unset when it has been answered.
    probe: Option<RequestId>,
    /// The newest request at the time the hold was placed: what older ones come back with is the same news again.
    newest: RequestId,
}

type Limiter = RateLimiter<NotKeyed, InMemoryState, FakeRelativeClock, NoOpMiddleware<governor::nanos::Nanos>>;

/// The limiter and the holds.
#[derive(Debug)]
pub struct Pace {
    limiter: Limiter,
    limiter_clock: FakeRelativeClock,
    /// What the limiter's clock shows; it knows only how to advance.
    limiter_elapsed: Duration,
    /// Elapsed time before which no permit can be had; asking earlier is pointless.
    next_permit: Duration,
    burst: u32,
    /// The rate below the configured one, unless that is switched off.
    adaptive: Option<AdaptiveRate>,
    /// The same for requests at a time.
    concurrency: Option<AdaptiveConcurrency>,
    /// Elapsed time of the next permit at an adaptive rate: those are spaced evenly.
    spaced: Duration,
    ceiling: f64,
    holds: BTreeMap<(Scope, Cause), Held>,
    growth: Backoff,
    after_faults: u32,
    /// Faults in a row, of those that count by streak.
    streak: u32,
}

impl Pace {
    /// A pace of `rate`, whose growing holds follow `growth` and whose streaks are `after_faults` long.
    #[must_use]
    pub fn new(rate: RateLimit, growth: Backoff, after_faults: u32) -> Self {
        let limiter_clock = FakeRelativeClock::default();
        let quota = Quota::with_period(rate.period())
            .unwrap_or_else(|| Quota::per_second(NonZeroU32::MIN))
            .allow_burst(rate.burst);
        Self {
            limiter: RateLimiter::direct_with_clock(quota, limiter_clock.clone()),
            limiter_clock,
            limiter_elapsed: Duration::ZERO,
            next_permit: Duration::ZERO,
            burst: rate.burst.get(),
            adaptive: None,
            concurrency: None,
            spaced: Duration::ZERO,
            ceiling: rate.requests_per_second,
            holds: BTreeMap::new(),
            growth,
            after_faults,
            streak: 0,
        }
    }

    /// This pace, which takes the configured rate and so many requests at a time for ceilings, and finds what the API bears.
    #[must_use]
    pub fn adaptive(self, concurrency: usize, elapsed: Duration) -> Self {
        let rate = AdaptiveRate::new(self.ceiling, elapsed);
        Self { adaptive: Some(rate), concurrency: Some(AdaptiveConcurrency::new(concurrency)), ..self }
    }

    /// The most requests at a time, of `most` that are configured.
    #[must_use]
    pub fn concurrency(&self, most: usize) -> usize {
        self.concurrency.as_ref().map_or(most, |limit| limit.limit().min(most))
    }

    /// Learns from how long an answer took, and how many requests were on their way with it.
    pub fn timed(&mut self, took: Duration, in_flight: usize) -> Option<ConcurrencyChange> {
        self.concurrency.as_mut()?.answered(took, in_flight)
    }

    /// The current rate, in requests per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.adaptive.as_ref().map_or(self.ceiling, AdaptiveRate::current)
    }

    /// Learns from an answer, or from there being none, what the API bears. `cause` is the fault's, if it was one.
    pub fn learn(
        &mut self,
        request: RequestId,
        cause: Option<Cause>,
        newest: RequestId,
        elapsed: Duration,
    ) -> Option<RateChange> {
        let rate = self.adaptive.as_mut()?;
        match cause {
            Some(Cause::Throttled) => rate.throttled(request, newest, elapsed),
            None | Some(Cause::Rejected) => rate.delivered(request, elapsed),
            // Says nothing about how much would be too much.
            Some(
                Cause::ApiFailed
                | Cause::ApiContradicted
                | Cause::ApiSilent
                | Cause::Garbled
                | Cause::Unauthorized
                | Cause::Forbidden
                | Cause::UnknownAgent
                | Cause::Contract
                | Cause::ServerError
                | Cause::Lost
                | Cause::Unreachable
                | Cause::Operator,
            ) => None,
        }
    }

    /// How many permits there can be at `elapsed` at the most; taking one may still be refused.
    #[must_use]
    pub fn most_permits(&self, elapsed: Duration) -> usize {
        if elapsed < self.next_permit() { 0 } else { self.burst as usize }
    }

    /// When the next permit can be had, in elapsed time; in the past if now.
    #[must_use]
    pub fn next_permit(&self) -> Duration {
        self.next_permit.max(self.spaced)
    }

    /// Takes one permit, if there is one at `elapsed`.
    pub fn take_permit(&mut self, elapsed: Duration) -> bool {
        if elapsed < self.spaced {
            return false;
        }
        self.limiter_clock.advance(elapsed.saturating_sub(self.limiter_elapsed));
        self.limiter_elapsed = self.limiter_elapsed.max(elapsed);
        match self.limiter.check() {
            Ok(()) => {
                if let Some(rate) = self.adaptive.as_mut() {
                    rate.sent(elapsed);
                    self.spaced = if rate.is_lowered() {
                        let from = self.spaced.max(elapsed.saturating_sub(MAX_CATCH_UP));
                        from + Duration::from_secs_f64(1.0 / rate.current())
                    } else {
                        Duration::ZERO
                    };
                }
                true
            }
            Err(not_until) => {
                self.next_permit = elapsed + not_until.wait_time_from(self.limiter_clock.now());
                false
            }
        }
    }

    /// Takes in the rows of `holds`, whoever wrote them; what is known of the same hold is kept. Of several rows that are
    /// taken for the same hold, the one that lasts longest counts.
    ///
    /// What others placed, changed and lifted since the last time is returned: for the log only, it is written already.
    pub fn load(&mut self, rows: Vec<HoldRow>) -> Vec<HoldChange> {
        let mut known = std::mem::take(&mut self.holds);
        let mut read: BTreeMap<(Scope, Cause), HoldRow> = BTreeMap::new();
        for row in rows {
            match read.entry((row.scope.clone(), row.cause)) {
                Entry::Vacant(entry) => {
                    entry.insert(row);
                }
                Entry::Occupied(mut entry) if row.outlasts(entry.get()) => {
                    entry.insert(row);
                }
                Entry::Occupied(_) => {}
            }
        }
        let mut placed = Vec::new();
        for (key, row) in read {
            let held = match known.remove(&key) {
                Some(held) if held.row == row => held,
                Some(_) | None => {
                    placed.push(HoldChange::Placed(row.clone()));
                    Held { row, probe: None, newest: RequestId(0) }
                }
            };
            self.holds.insert(key, held);
        }
        let lifted = known.into_iter().map(|((scope, cause), held)| {
            let until_at = held.row.until_at;
            HoldChange::Lifted { scope, cause, until_at }
        });
        lifted.chain(placed).collect()
    }

    /// Whether a hold that a person placed is over, so that its row can go.
    #[must_use]
    pub fn any_over(&self, now: Timestamp) -> bool {
        self.holds.values().any(|held| held.row.is_over(now))
    }

    /// Forgets the holds that people placed and that are over; returned for the log, once their rows are gone.
    pub fn forget_over(&mut self, now: Timestamp) -> Vec<HoldChange> {
        let mut lifted = Vec::new();
        self.holds.retain(|(scope, cause), held| {
            let over = held.row.is_over(now);
            if over {
                let until_at = held.row.until_at;
                lifted.push(HoldChange::Lifted { scope: scope.clone(), cause: *cause, until_at });
            }
            !over
        });
        lifted
    }

    /// Whether anything at all may go out.
    #[must_use]
    pub fn admit_any(&self, now: Timestamp) -> Admission {
        self.admission(None, now)
    }

    /// Whether a request for `agent` may go out.
    #[must_use]
    pub fn admit(&self, agent: &AgentId, now: Timestamp) -> Admission {
        self.admission(Some(agent), now)
    }

    fn admission(&self, agent: Option<&AgentId>, now: Timestamp) -> Admission {
        let mut admission = Admission::Free;
        for held in self.matching(agent).filter(|held| !held.row.is_over(now)) {
            admission = match (held.row.until_at, held.probe, admission) {
                (None, _, _) | (_, _, Admission::Held(None)) => Admission::Held(None),
                (Some(until), _, Admission::Held(Some(other))) => Admission::Held(Some(other.max(until))),
                (Some(until), _, _) if until > now => Admission::Held(Some(until)),
                (_, Some(_), _) | (_, _, Admission::Probing) => Admission::Probing,
                (_, None, Admission::Free | Admission::Probe) => Admission::Probe,
            };
        }
        admission
    }

    fn matching(&self, agent: Option<&AgentId>) -> impl Iterator<Item = &Held> {
        self.holds.values().filter(move |held| match agent {
            Some(agent) => held.row.scope.covers(agent),
            None => held.row.scope == Scope::All,
        })
    }

    /// Remembers that `request` was sent for `agent`: it probes whatever hold on it has ended, and those are returned.
    pub fn sent(&mut self, request: RequestId, agent: &AgentId, now: Timestamp) -> Vec<(Scope, Cause)> {
        let mut probed = Vec::new();
        for held in self.holds.values_mut() {
            let ended = held.row.until_at.is_some_and(|until| until <= now) && !held.row.is_over(now);
            if held.row.scope.covers(agent) && ended {
                held.probe = Some(request);
                probed.push((held.row.scope.clone(), held.row.cause));
            }
        }
        probed
    }

    /// Forgets that `request` was sent: nothing will be heard of it, and another one may probe.
    pub fn forget(&mut self, request: RequestId) {
        for held in self.holds.values_mut().filter(|held| held.probe == Some(request)) {
            held.probe = None;
        }
    }

    /// Takes in what `request` came to: the hold it asks for, if any, and whether it was a 200.
    ///
    /// `newest` is the newest request that was sent. What changes in the holds is returned, and to be written.
    pub fn answered(
        &mut self,
        request: RequestId,
        hold: Option<Hold>,
        was_200: bool,
        newest: RequestId,
        now: Timestamp,
        rng: &mut fastrand::Rng,
    ) -> Vec<HoldChange> {
        let probed: Vec<HoldRow> = self
            .holds
            .values_mut()
            .filter(|held| held.probe == Some(request))
            .map(|held| {
                held.probe = None;
                held.row.clone()
            })
            .collect();
        if was_200 {
            self.streak = 0;
        }
        let mut changes = Vec::new();
        // A probe that failed for everybody tells nothing about the one agent; any other outcome ends what it probed.
        let for_all = hold.as_ref().is_some_and(|hold| hold.scope == Scope::All);
        let ended: Vec<&HoldRow> = probed.iter().filter(|row| row.scope == Scope::All || !for_all).collect();
        let placed = hold.and_then(|hold| {
            let before = ended.iter().filter(|row| row.scope == hold.scope).map(|row| row.repeats).max();
            self.place(hold, request, before, newest, now, rng)
        });
        for HoldRow { scope, cause, until_at, .. } in ended {
            let replaced = placed.as_ref().is_some_and(|row| row.scope == *scope && row.cause == *cause);
            if !replaced {
                self.holds.remove(&(scope.clone(), *cause));
                changes.push(HoldChange::Lifted { scope: scope.clone(), cause: *cause, until_at: *until_at });
            }
        }
        changes.extend(placed.map(HoldChange::Placed));
        changes
    }

    /// Places a hold, unless it is old news or the streak is still short; `probed` is how often the hold that the
    /// request probed had been repeated, if it probed one of this scope.
    fn place(
        &mut self,
        hold: Hold,
        request: RequestId,
        probed: Option<u32>,
        newest: RequestId,
        now: Timestamp,
        rng: &mut fastrand::Rng,
    ) -> Option<HoldRow> {
        if hold.end == HoldEnd::ByStreak {
            self.streak = self.streak.saturating_add(1);
            let known = self.holds.values().any(|held| held.row.scope == hold.scope && request <= held.newest);
            if probed.is_none() && (known || self.streak < self.after_faults) {
                return None;
            }
        }
        let repeats = probed.map_or(0, |repeats| repeats.saturating_add(1));
        let grown = now.plus(self.growth.jittered(repeats.saturating_add(1), Jitter::draw(rng)));
        let until_at = match hold.end {
            HoldEnd::At(until) => until,
            HoldEnd::Growing | HoldEnd::ByStreak => grown,
        };
        let mut row =
            HoldRow { scope: hold.scope, cause: hold.cause, since_at: now, until_at: Some(until_at), repeats };
        match self.holds.entry((row.scope.clone(), row.cause)) {
            Entry::Occupied(mut entry) => {
                let held = entry.get_mut();
                // A pause that is renewed has been one all along.
                row.since_at = held.row.since_at;
                if probed.is_none() {
                    // Sent before the hold was placed: at the most it moves the end that the API asks for.
                    let later = matches!(hold.end, HoldEnd::At(_)) && held.row.until_at.is_some_and(|at| at < until_at);
                    if !later {
                        return None;
                    }
                    row.repeats = held.row.repeats;
                }
                held.row = row.clone();
                held.newest = held.newest.max(newest);
            }
            Entry::Vacant(entry) => {
                entry.insert(Held { row: row.clone(), probe: None, newest });
            }
        }
        Some(row)
    }

    /// How many holds there are.
    #[must_use]
    pub fn held(&self) -> usize {
        self.holds.len()
    }
}

#[cfg(test)]
#[path = "pace_tests.rs"]
mod tests;
