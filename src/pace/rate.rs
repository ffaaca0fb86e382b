//! The adaptive rate. PolyAI publishes no limit, so the daemon searches for it by sending.
//!
//! The rate falls quickly and climbs slowly, as in TCP's congestion control, from which the parts are taken:
//!
//! * **Down** to the rate that got through. After a throttled answer, a hold lets only probes out. The first probe that is
//!   answered ends the excess. The requests delivered since the last excess, divided by the time, are a rate that the API has
//!   borne (TCP Westwood+: Casetti et al., "TCP Westwood: end-to-end congestion control", 2002). The new rate is a little more
//!   than that, but at most 95 % of the rate that was too high. The time is the time of sending plus the refusal. With a limit
//!   per second, the refusal is short. With a limit per minute that is spent in the first seconds, the refusal is the rest of
//!   the minute, so the next minute's requests are spread over all of it. Three times are left out because they do not measure
//!   the API: idle time, a refusal too long for a limit per minute, and a refusal that is short compared with the sending.
//! * **Search**, if the new rate is far below the one that was too high, because the refusal may have been longer than
//!   necessary. As in BIC (Xu, Harfoush and Rhee, "Binary increase congestion control for fast long-distance networks", 2004),
//!   the limit is between the two rates. The steps grow at first, and get smaller again towards 95 % of the higher rate.
//! * **Stay** on a plateau below the rate that was too high, as in CUBIC (RFC 9438, section 4), so that few answers are
//!   throttled. The plateau lasts as long as 250 requests for each throttled answer, or 15 times the refusal if that is longer,
//!   within one and five minutes. So, except at low rates, at most one answer in 250 is throttled in the long run.
//! * **Up** after the plateau, in steps that start at 1 % and grow up to doublings, so that a raised limit is found. Idle time
//!   does not count, because an unused rate is not known to be borne.
//!
//! Time comes in as a value, and every change goes out as one.

use std::time::Duration;

use crate::model::deletion::RequestId;

/// The highest rate that is tried after an excess, as a share of the rate that was too high.
const DECREASE: f64 = 0.95;
/// With fewer answers than this, the measured rate is not reliable, and the rate is at most halved.
const CREDIBLE: u32 = 20;
/// The factor from the measured rate to the one that is tried next: some requests were sent before the last steps up.
const GAIN: f64 = 1.03;
/// A search begins if the rate that was too high exceeds the next one by more than this factor.
const APART: f64 = 1.5;
/// The longest window that we assume a limit has. After an idle time this long, measuring restarts.
const WINDOW: Duration = Duration::from_secs(60);
/// The longest refusal that a limit explains, with the delay of holds that double. A longer one is an outage.
const MAX_REFUSAL: Duration = Duration::from_secs(90);
/// A refusal without a refused probe may have been longer than necessary. It is left out if the sending took more than this many
/// times as long.
const SHORT: u32 = 5;
/// A plateau lasts as long as this many requests for each throttled answer before it, or this many times the refusal, whichever
/// is longer, within the two limits.
const PLATEAU_REQUESTS: f64 = 250.0;
const PLATEAU_REFUSALS: u32 = 15;
const MIN_PLATEAU: Duration = Duration::from_secs(60);
const MAX_PLATEAU: Duration = Duration::from_secs(300);
/// The first step up after a plateau, and in a search, as shares of the rate; the factor from each step to the next; and the
/// largest step.
const STEP: f64 = 0.01;
const SEARCHING_STEP: f64 = 0.03;
const STEP_GROWTH: f64 = 1.3;
const MAX_STEP: f64 = 1.0;
/// One step of a search multiplies the rate by at most (end / current) to this power.
const SEARCHED_AT_ONCE: f64 = 0.2;
/// The shortest time between steps is half of the refusal, within the two limits. A limit with a long window refuses late, and
/// then for long. Each excess with a shorter refusal reduces the time to this share.
const MIN_STEP_TIME: Duration = Duration::from_secs(1);
const MAX_STEP_TIME: Duration = Duration::from_secs(30);
const FORGOTTEN: f64 = 0.8;
/// How late a request may leave without idle time, because turns come late.
const LATE: Duration = Duration::from_millis(50);
/// The lowest rate, in requests per second, unless the ceiling is lower: one request in fifty seconds.
const FLOOR: f64 = 0.02;

/// Why the rate changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// An answer was throttled.
    Throttled,
    /// The API answers again, and the measured rate differs from the present one.
    Delivered,
    /// No answer was throttled for long enough, so the rate takes a step up.
    Probing,
    /// The API's headers tell a lower limit, or another one, or none any more.
    Told,
}

impl Why {
    /// The string in the logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Throttled => "throttled",
            Self::Delivered => "delivered",
            Self::Probing => "probing",
            Self::Told => "told",
        }
    }
}

/// A change of the rate, in requests per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateChange {
    /// The rate before the change.
    pub from: f64,
    /// The rate after the change.
    pub to: f64,
    /// The reason.
    pub why: Why,
}

/// An excess: from a throttled answer until a later request is answered and not throttled.
#[derive(Clone, Copy, Debug)]
struct Excess {
    /// The rate that was too high.
    at: f64,
    /// When the first answer was throttled, in elapsed time.
    since: Duration,
    /// The number of throttled answers.
    throttled: u32,
    /// When the last probe was throttled, in elapsed time.
    probed: Option<Duration>,
}

/// The current rate, below its ceiling.
#[derive(Clone, Debug)]
pub struct AdaptiveRate {
    ceiling: f64,
    current: f64,
    /// Requests up to this one were sent before the last excess was noticed, so their answers are about that excess.
    noticed: RequestId,
    excess: Option<Excess>,
    /// The number of answers that were not throttled since the last excess ended, or since a long idle time; and the elapsed time
    /// when that was.
    delivered: u32,
    delivered_since: Duration,
    /// The idle time since then, and when the next request is due if there is one.
    idle: Duration,
    due_at: Duration,
    /// The size of the next step, its elapsed time, and the time between steps.
    step: f64,
    step_at: Duration,
    step_time: Duration,
    /// During a search, the rate at which it ends; and the length of the plateau after it.
    searched: Option<f64>,
    plateau: Duration,
}

impl AdaptiveRate {
    /// Starts at the ceiling, in requests per second.
    #[must_use]
    pub fn new(ceiling: f64, elapsed: Duration) -> Self {
        Self {
            ceiling,
            current: ceiling,
            noticed: RequestId(0),
            excess: None,
            delivered: 0,
            delivered_since: elapsed,
            idle: Duration::ZERO,
            due_at: elapsed,
            step: STEP,
            step_at: elapsed,
            step_time: MIN_STEP_TIME,
            searched: None,
            plateau: Duration::ZERO,
        }
    }

    /// The current rate in requests per second.
    #[must_use]
    pub fn current(&self) -> f64 {
        self.current
    }

    /// Whether the current rate is below the ceiling.
    #[must_use]
    pub fn is_lowered(&self) -> bool {
        self.current < self.ceiling
    }

    /// Replaces the ceiling, in requests per second. A rate that was learnt is kept, if it is not above the new ceiling.
    pub fn set_ceiling(&mut self, ceiling: f64) {
        self.current = if self.is_lowered() { self.current.min(ceiling) } else { ceiling };
        self.ceiling = ceiling;
    }

    /// Takes in that a request was sent.
    pub fn sent(&mut self, elapsed: Duration) {
        let pause = elapsed.saturating_sub(LATE).saturating_sub(self.due_at);
        // A pause because of a throttled answer is not idle time.
        if self.excess.is_none() {
            self.idle += pause;
            self.step_at += pause;
            if pause > WINDOW {
                self.measure_from(elapsed);
            }
        }
        self.due_at += pause + Duration::from_secs_f64(1.0 / self.current);
    }

    /// Takes in that `request` was throttled. `newest` is the newest request that was sent.
    pub fn throttled(&mut self, request: RequestId, newest: RequestId, elapsed: Duration) -> Option<RateChange> {
        if let Some(excess) = &mut self.excess {
            excess.throttled = excess.throttled.saturating_add(1);
            if request > self.noticed {
                excess.probed = Some(elapsed);
            }
            return None;
        }
        if request <= self.noticed {
            return None;
        }
        self.noticed = newest.max(request);
        self.excess = Some(Excess { at: self.current, since: elapsed, throttled: 1, probed: None });
        self.change(self.current * DECREASE, Why::Throttled)
    }

    /// Takes in that `request` was answered and not throttled.
    pub fn delivered(&mut self, request: RequestId, elapsed: Duration) -> Option<RateChange> {
        self.delivered = self.delivered.saturating_add(1);
        if request <= self.noticed {
            return None;
        }
        if let Some(excess) = self.excess.take() {
            return self.recover(excess, elapsed);
        }
        if !self.is_lowered() || elapsed < self.step_at {
            return None;
        }
        let step = 1.0 + self.step;
        self.step = (self.step * STEP_GROWTH).min(MAX_STEP);
        self.step_at = elapsed + self.step_time;
        let to = match self.searched {
            None => self.current * step,
            Some(end) => {
                let most = (end / self.current).powf(SEARCHED_AT_ONCE).max(1.0 + STEP);
                let to = end.min(self.current * step.min(most));
                if to == end {
                    self.stay(elapsed);
                }
                to
            }
        };
        self.change(to, Why::Probing)
    }

    /// Ends an excess: the API answers again.
    fn recover(&mut self, excess: Excess, elapsed: Duration) -> Option<RateChange> {
        // The limit reopened between the last refused probe and this answer. The midpoint is assumed.
        let until = excess.probed.map_or(elapsed, |probed| probed + elapsed.saturating_sub(probed) / 2);
        let refusal = until.saturating_sub(excess.since);
        // A long refusal is an outage and does not count.
        let refusal = if refusal > MAX_REFUSAL { Duration::ZERO } else { refusal };
        let next = self.borne(&excess, refusal).min(excess.at * DECREASE);
        let change = self.change(next, Why::Delivered);
        self.measure_from(elapsed);
        self.step_time = (refusal / 2).max(self.step_time.mul_f64(FORGOTTEN)).clamp(MIN_STEP_TIME, MAX_STEP_TIME);
        let requests = f64::from(excess.throttled) * PLATEAU_REQUESTS;
        let plateau = Duration::from_secs_f64(requests / self.current).max(refusal * PLATEAU_REFUSALS);
        self.plateau = plateau.min(MAX_PLATEAU);
        if self.current <= FLOOR {
            // At the lowest rate, a plateau would only delay the way back.
            self.climb(None, MAX_STEP, elapsed);
        } else if excess.at > APART * next {
            self.climb(Some(excess.at * DECREASE), SEARCHING_STEP, elapsed);
        } else {
            self.stay(elapsed);
        }
        change
    }

    fn climb(&mut self, searched: Option<f64>, step: f64, elapsed: Duration) {
        (self.searched, self.step, self.step_at) = (searched, step, elapsed + self.step_time);
    }

    /// Begins a plateau. After it, the time between steps is a tenth of its length.
    fn stay(&mut self, elapsed: Duration) {
        self.step_time = self.step_time.max(self.plateau / 10);
        self.climb(None, STEP, elapsed);
        self.step_at = elapsed + self.plateau.max(MIN_PLATEAU);
    }

    /// The rate that got through, with the gain.
    fn borne(&self, excess: &Excess, refusal: Duration) -> f64 {
        let sending = excess.since.saturating_sub(self.delivered_since).saturating_sub(self.idle);
        let is_short = excess.probed.is_none() && sending > refusal * SHORT;
        let over = if is_short { sending } else { sending + refusal };
        let borne = f64::from(self.delivered) / over.as_secs_f64().max(1e-3) * GAIN;
        // If most of the time was idle, the refusal may have been idle time, too.
        let is_credible = self.delivered >= CREDIBLE && self.idle <= sending;
        if is_credible { borne } else { borne.max(excess.at / 2.0) }
    }

    fn measure_from(&mut self, elapsed: Duration) {
        self.delivered = 0;
        self.delivered_since = elapsed;
        self.idle = Duration::ZERO;
    }

    fn change(&mut self, to: f64, why: Why) -> Option<RateChange> {
        let from = std::mem::replace(&mut self.current, to.clamp(FLOOR.min(self.ceiling), self.ceiling));
        (from != self.current).then_some(RateChange { from, to: self.current, why })
    }
}

#[cfg(test)]
#[path = "rate_tests.rs"]
mod tests;
