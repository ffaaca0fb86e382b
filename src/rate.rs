//! The rate that the API bears, found out by sending: nobody publishes it.
//!
//! Multiplicative decrease and a slow way back, as in TCP's congestion control, from which the parts are taken:
//!
//! * **Down** to what got through. After a throttled answer the hold that it asks for lets nothing out but probes; when the
//!   first of them is answered, what was delivered since the last such time, pauses included, is a rate that the API has
//!   borne (TCP Westwood+: Casetti et al., "TCP Westwood: end-to-end congestion control", 2002). The new rate is that and a
//!   tenth, but never more than 95 % of the one that was too high. With a limit per second that is just under it at once;
//!   with a limit per minute, spent in the first seconds, the pause until the minute is over is counted in, so that the next
//!   minute's requests are spread over all of it.
//! * **Stay** there: throttled answers are to be rare. As in CUBIC (RFC 9438, section 4) there is a plateau below the rate that
//!   was too high; its length is 150 requests for each answer that was throttled, and some time, longer each time that the
//!   limit was where it was thought to be. So at the most one answer in 150 is throttled in the long run.
//! * **Up** again after that, in steps that begin with a hundredth and grow, so that a limit that was raised is found.
//!   While what got through and what was too high are far apart, there is no plateau: it goes up until they are not.
//!
//! Time comes in as a value, and every change goes out as one.

use std::time::Duration;

use crate::deletion::RequestId;

/// The most of the rate that was too high that is tried again.
const DECREASE: f64 = 0.95;
/// With fewer answers than this, what got through tells little, and the rate is halved at the most.
const CREDIBLE: u32 = 20;
/// So long without anything to send, and what got through before tells nothing of what could have.
const IDLE: Duration = Duration::from_secs(1);
/// How much more than what got through is tried next: that was measured with a pause in it.
const GAIN: f64 = 1.1;
/// The rate that was too high and the one that is tried next are far apart if they differ by more than this factor.
const APART: f64 = 1.5;
/// Requests on a plateau, for each throttled answer before it.
const PLATEAU_REQUESTS: u32 = 150;
/// The shortest plateau, and the longest.
const PLATEAU: Duration = Duration::from_secs(20);
const MAX_PLATEAU: Duration = Duration::from_secs(120);
/// How much longer it is if the first probe was throttled, too: then the limit counts over some time, and as long it takes
/// until a rate that is too high is noticed.
const LONG_WINDOW: f64 = 2.5;
/// How much longer a plateau is than the one before it, if the limit is still where it was.
const PLATEAU_GROWTH: f64 = 1.5;
/// The first step up from a plateau, how much larger each next one is, and the largest.
const STEP: f64 = 0.01;
const STEP_GROWTH: f64 = 1.5;
const MAX_STEP: f64 = 0.25;
/// The largest where what is too much is noticed late.
const MAX_CAREFUL_STEP: f64 = 0.1;
/// The steps while nothing is known, and how long each takes: large ones if the first probe was answered (a limit that is
/// over soon), small ones and slow if it took several: what is spent for long is noticed late, and what was too much
/// until then is paid with a long pause.
const QUICK: (f64, Duration) = (0.10, Duration::from_secs(1));
const CAREFUL: (f64, Duration) = (0.05, Duration::from_secs(30));
/// The fewest requests between two steps.
const STEP_REQUESTS: u32 = 5;
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

/// How the way up goes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ascent {
    /// Where the limit is, is not known well: steps of this size.
    Searching(f64),
    /// The plateau, and then steps that grow: the size of the next one, and the largest.
    Settled(f64, f64),
}

/// Too much was sent; until an answer to something that was sent later is there.
#[derive(Clone, Copy, Debug)]
struct Excess {
    /// The rate that was too high.
    at: f64,
    /// Answers that were throttled in it.
    throttled: u32,
    /// Probes among those.
    probes: u32,
}

/// The current rate under a ceiling.
#[derive(Clone, Debug)]
pub struct AdaptiveRate {
    ceiling: f64,
    current: f64,
    /// Answers to requests up to this one say nothing new: they were sent before the last excess was noticed.
    noticed: RequestId,
    excess: Option<Excess>,
    /// Answers that were not throttled since the API answered again last, or since there was something to do again after
    /// a pause; and when that was, in elapsed time.
    delivered: u32,
    delivered_since: Duration,
    /// When a request was sent last, in elapsed time.
    sent_at: Duration,
    ascent: Ascent,
    /// The next step: not before so many more answers, and not before this elapsed time.
    answers_left: u32,
    step_at: Duration,
    /// Between two steps.
    step_answers: u32,
    step_time: Duration,
    plateau: Duration,
    /// The last excess was where it was expected.
    confirmed: bool,
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
            sent_at: elapsed,
            ascent: Ascent::Settled(STEP, MAX_STEP),
            answers_left: 0,
            step_at: elapsed,
            step_answers: STEP_REQUESTS,
            step_time: PLATEAU,
            plateau: PLATEAU,
            confirmed: false,
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
        let pause = elapsed.saturating_sub(self.sent_at);
        // A pause that the rate asked for is none, and neither is one that a throttled answer asked for.
        if self.excess.is_none() && pause > IDLE.max(Duration::from_secs_f64(3.0 / self.current)) {
            self.delivered = 0;
            self.delivered_since = elapsed;
        }
        self.sent_at = elapsed;
    }

    /// Takes in that `request` was throttled; `newest` is the newest one that was sent.
    pub fn throttled(&mut self, request: RequestId, newest: RequestId) -> Option<RateChange> {
        if let Some(excess) = &mut self.excess {
            excess.throttled = excess.throttled.saturating_add(1);
            excess.probes = excess.probes.saturating_add(u32::from(request > self.noticed));
            return None;
        }
        if request <= self.noticed {
            return None;
        }
        self.noticed = newest.max(request);
        self.excess = Some(Excess { at: self.current, throttled: 1, probes: 0 });
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
        self.answers_left = self.answers_left.saturating_sub(1);
        if !self.is_lowered() || self.answers_left > 0 || elapsed < self.step_at {
            return None;
        }
        let step = match self.ascent {
            Ascent::Searching(step) => step,
            Ascent::Settled(step, largest) => {
                self.ascent = Ascent::Settled((step * STEP_GROWTH).min(largest), largest);
                step
            }
        };
        self.answers_left = self.step_answers;
        self.step_at = elapsed + self.step_time;
        self.change(self.current * (1.0 + step), Why::Probing)
    }

    /// The API answers again.
    fn recover(&mut self, excess: Excess, elapsed: Duration) -> Option<RateChange> {
        let over = elapsed.saturating_sub(self.delivered_since).as_secs_f64().max(1e-3);
        let borne = f64::from(self.delivered) / over * GAIN;
        let least = if self.delivered < CREDIBLE { excess.at / 2.0 } else { 0.0 };
        let next = borne.max(least).min(excess.at * DECREASE);
        self.delivered = 0;
        self.delivered_since = elapsed;
        let searching = excess.at > APART * next;
        if searching {
            let (step, time) = if excess.probes == 0 { QUICK } else { CAREFUL };
            self.ascent = Ascent::Searching(step);
            self.plateau = PLATEAU;
            (self.step_answers, self.step_time) = (STEP_REQUESTS, time);
            (self.answers_left, self.step_at) = (STEP_REQUESTS, elapsed + time);
        } else {
            self.plateau = if self.confirmed { self.plateau.mul_f64(PLATEAU_GROWTH).min(MAX_PLATEAU) } else { PLATEAU };
            self.answers_left = excess.throttled.saturating_mul(PLATEAU_REQUESTS);
            // On the way up, a tenth of the plateau from step to step.
            self.step_answers = (self.answers_left / 10).max(STEP_REQUESTS);
            if excess.probes == 0 {
                self.ascent = Ascent::Settled(STEP, MAX_STEP);
                self.step_at = elapsed + self.plateau;
                self.step_time = self.plateau / 10;
            } else {
                self.ascent = Ascent::Settled(STEP, MAX_CAREFUL_STEP);
                self.step_at = elapsed + self.plateau.mul_f64(LONG_WINDOW);
                self.step_time = CAREFUL.1;
            }
        }
        self.confirmed = !searching;
        self.change(next, Why::Delivered)
    }

    fn change(&mut self, to: f64, why: Why) -> Option<RateChange> {
        let from = std::mem::replace(&mut self.current, to.clamp(FLOOR.min(self.ceiling), self.ceiling));
        (from != self.current).then_some(RateChange { from, to: self.current, why })
    }
}

#[cfg(test)]
#[path = "rate_tests.rs"]
mod tests;
