//! The rate that the API bears, found out by sending: nobody publishes it.
//!
//! Multiplicative decrease and a slow way back, as in TCP's congestion control, from which the parts are taken:
//!
//! * **Down** to what got through. After a throttled answer the hold that it asks for lets nothing out but probes; when the
//!   first of them is answered, what was delivered since the last such time is a rate that the API has borne (TCP Westwood+:
//!   Casetti et al., "TCP Westwood: end-to-end congestion control", 2002). The new rate is that and a little, but never more
//!   than 95 % of the one that was too high. The time is what it took to send, and the refusal: with a limit per second that
//!   is next to nothing; with a limit per minute, spent in the first seconds, it is the rest of the minute, so that the next
//!   minute's requests are spread over all of it. What is no measure of the API does not count: the time in which there was
//!   nothing to send, a refusal that is too long for a limit per minute, and one that is short beside the sending.
//! * **Search**, if that is far below what was too high: the refusal may have been longer than it had to be. As in BIC (Xu,
//!   Harfoush and Rhee, "Binary increase congestion control for fast long-distance networks", 2004) it is between the two, in
//!   steps that grow, and get smaller again towards 95 % of what was too high.
//! * **Stay** below what was too high: throttled answers are to be rare. As in CUBIC (RFC 9438, section 4) there is a plateau;
//!   it is as long as 250 requests take for each answer that was throttled, and 15 times the refusal, within one and five
//!   minutes. So, but for low rates, at the most one answer in 250 is throttled in the long run.
//! * **Up** again after that, in steps that begin with a hundredth and grow up to doublings, so that a limit that was raised
//!   is found. Only time in which there was something to send counts: a rate that is not used is not known to be borne.
//!
//! Time comes in as a value, and every change goes out as one.

use std::time::Duration;

use crate::model::deletion::RequestId;

/// The most of the rate that was too high that is tried again.
const DECREASE: f64 = 0.95;
/// With fewer answers than this, what got through tells little, and the rate is halved at the most.
const CREDIBLE: u32 = 20;
/// How much more than what got through is tried next: some of it got through before the last steps up.
const GAIN: f64 = 1.03;
/// The rate that was too high and the one that is tried next are far apart if they differ by more than this factor.
const APART: f64 = 1.5;
/// Limits count over this at the most, or are taken to: when there was nothing to send for so long, it begins anew.
const WINDOW: Duration = Duration::from_secs(60);
/// The longest refusal that is the doing of a limit: holds that double find out late that it is over. One that takes longer
/// is an outage.
const MAX_REFUSAL: Duration = Duration::from_secs(90);
/// A refusal in which it was not asked in vain may have been longer than it had to be. It does not count if it is shorter
/// than the sending by more than this factor.
const SHORT: u32 = 5;
/// A plateau is as long as so many requests take, for each throttled answer before it, and so many times the refusal, but
/// within these.
const PLATEAU_REQUESTS: f64 = 250.0;
const PLATEAU_REFUSALS: u32 = 15;
const MIN_PLATEAU: Duration = Duration::from_secs(60);
const MAX_PLATEAU: Duration = Duration::from_secs(300);
/// The first step up after a plateau, and in a search; how much larger each next one is, and the largest.
const STEP: f64 = 0.01;
const SEARCHING_STEP: f64 = 0.03;
const STEP_GROWTH: f64 = 1.3;
const MAX_STEP: f64 = 1.0;
/// The most of the rest of its way, in powers, that a search goes in one step.
const SEARCHED_AT_ONCE: f64 = 0.2;
/// The least time from step to step is half of the refusal, within these: what is spent for long is noticed late, and what
/// was too much until then is paid with a long pause. With each excess that is over sooner it comes down by this factor.
const MIN_STEP_TIME: Duration = Duration::from_secs(1);
const MAX_STEP_TIME: Duration = Duration::from_secs(30);
const FORGOTTEN: f64 = 0.8;
/// How late a request may be though there was something to send: turns are.
const LATE: Duration = Duration::from_millis(50);
/// The rate never falls below this, or below the ceiling if that is lower: one request in fifty seconds.
const FLOOR: f64 = 0.02;

/// Why the rate changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// An answer was throttled.
    Throttled,
    /// The API answers again, and less than was thought got through.
    Delivered,
    /// All went well for long enough.
    Probing,
}

impl Why {
    /// The string in the logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Throttled => "throttled",
            Self::Delivered => "delivered",
            Self::Probing => "probing",
        }
    }
}

/// A change of the rate, in requests per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateChange {
    /// Before it.
    pub from: f64,
    /// After it.
    pub to: f64,
    /// What for.
    pub why: Why,
}

/// Too much was sent; until an answer to something that was sent later is there.
#[derive(Clone, Copy, Debug)]
struct Excess {
    /// The rate that was too high.
    at: f64,
    /// When it was noticed, in elapsed time.
    since: Duration,
    /// Answers that were throttled in it.
    throttled: u32,
    /// When a probe was throttled last.
    probed: Option<Duration>,
}

/// The current rate under a ceiling.
#[derive(Clone, Debug)]
pub struct AdaptiveRate {
    ceiling: f64,
    current: f64,
    /// Answers to requests up to this one say nothing new: they were sent before the last excess was noticed.
    noticed: RequestId,
    excess: Option<Excess>,
    /// Answers that were not throttled since the API answered again last, or since there was something to send again after
    /// a long time; and when that was, in elapsed time.
    delivered: u32,
    delivered_since: Duration,
    /// The time since then in which there was nothing to send, and when the next request is due if there is something.
    idle: Duration,
    due_at: Duration,
    /// How large the next step is, when it comes, and how long it is from one to the next.
    step: f64,
    step_at: Duration,
    step_time: Duration,
    /// While there is a search, the rate at which it ends; and how long the plateau is that comes then.
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

    /// Requests per second.
    #[must_use]
    pub fn current(&self) -> f64 {
        self.current
    }

    /// Whether the current rate is below the ceiling.
    #[must_use]
    pub fn is_lowered(&self) -> bool {
        self.current < self.ceiling
    }

    /// Takes in that a request was sent.
    pub fn sent(&mut self, elapsed: Duration) {
        let pause = elapsed.saturating_sub(LATE).saturating_sub(self.due_at);
        // A pause that a throttled answer asked for is not for want of work.
        if self.excess.is_none() {
            self.idle += pause;
            self.step_at += pause;
            if pause > WINDOW {
                self.measure_from(elapsed);
            }
        }
        self.due_at += pause + Duration::from_secs_f64(1.0 / self.current);
    }

    /// Takes in that `request` was throttled; `newest` is the newest one that was sent.
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

    /// Takes in that `request` was answered, and not throttled.
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

    /// The API answers again.
    fn recover(&mut self, excess: Excess, elapsed: Duration) -> Option<RateChange> {
        // If it was asked in vain, it would have answered some time since then: half of it, for all that is known.
        let until = excess.probed.map_or(elapsed, |probed| probed + elapsed.saturating_sub(probed) / 2);
        let refusal = until.saturating_sub(excess.since);
        // After an outage it is as if there had been none.
        let refusal = if refusal > MAX_REFUSAL { Duration::ZERO } else { refusal };
        let next = self.borne(&excess, refusal).min(excess.at * DECREASE);
        let change = self.change(next, Why::Delivered);
        self.measure_from(elapsed);
        self.step_time = (refusal / 2).max(self.step_time.mul_f64(FORGOTTEN)).clamp(MIN_STEP_TIME, MAX_STEP_TIME);
        let requests = f64::from(excess.throttled) * PLATEAU_REQUESTS;
        let plateau = Duration::from_secs_f64(requests / self.current).max(refusal * PLATEAU_REFUSALS);
        self.plateau = plateau.min(MAX_PLATEAU);
        if self.current <= FLOOR {
            // There is nothing to stay for, and nothing to be lost.
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

    /// Begins a plateau; on the way up after it, it is a tenth of it from step to step.
    fn stay(&mut self, elapsed: Duration) {
        self.step_time = self.step_time.max(self.plateau / 10);
        self.climb(None, STEP, elapsed);
        self.step_at = elapsed + self.plateau.max(MIN_PLATEAU);
    }

    /// What got through, with the gain.
    fn borne(&self, excess: &Excess, refusal: Duration) -> f64 {
        let sending = excess.since.saturating_sub(self.delivered_since).saturating_sub(self.idle);
        let is_short = excess.probed.is_none() && sending > refusal * SHORT;
        let over = if is_short { sending } else { sending + refusal };
        let borne = f64::from(self.delivered) / over.as_secs_f64().max(1e-3) * GAIN;
        // Most of the time there was nothing to send: so it may be with the refusal.
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
