//! What was learnt about the API's limits, so that it survives a restart.

use std::time::Duration;

use super::{
    Changes, Pace,
    rate::{RateChange, Why},
};
use crate::model::{clock::Timestamp, limits::Learnt};

/// The time of the last answer is kept to this precision. It is written to the database each time it changes.
const PRECISION: Duration = Duration::from_secs(60);

/// What the pace remembers for a restart, and of one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Memory {
    /// When an answer last came, up to [`PRECISION`].
    answered_at: Option<Timestamp>,
    /// The rate that the start has restored, in requests per second.
    pub(super) restored: Option<f64>,
}

impl Pace {
    /// Takes in that an answer has come that tells about limits, at the wall-clock time `now`.
    pub fn answered(&mut self, now: Timestamp) {
        // Measured both ways, because the clock may have been set back.
        let is_near = |at: Timestamp| now.since(at).max(at.since(now)) < PRECISION;
        if !self.memory.answered_at.is_some_and(is_near) {
            self.memory.answered_at = Some(now);
        }
    }

    /// What was learnt and is in effect, if there is anything.
    #[must_use]
    pub fn learnt(&self) -> Option<Learnt> {
        let adaptive = self.adaptive.as_ref()?;
        let learnt = Learnt {
            rate: Some(adaptive.rate.current()).filter(|_| adaptive.rate.is_lowered()),
            is_even: adaptive.burst.is_even(),
            concurrency: adaptive.concurrency.allowed(),
            at: self.memory.answered_at?,
        };
        let is_anything = learnt.rate.is_some() || learnt.is_even || learnt.concurrency.is_some();
        is_anything.then_some(learnt)
    }

    /// Goes on from what an earlier process has learnt, unless it is too old. The ceilings stay, and nonsense is ignored.
    pub fn restore(&mut self, learnt: &Learnt, now: Timestamp, elapsed: Duration) -> Changes {
        let Some(adaptive) = self.adaptive.as_mut().filter(|_| learnt.is_fresh(now)) else {
            return Changes::default();
        };
        let mut changes = Changes::default();
        let ceiling = adaptive.rate.ceiling();
        if let Some(rate) = learnt.rate.filter(|rate| *rate > 0.0 && *rate < ceiling) {
            adaptive.rate.resume(rate, elapsed);
            let to = adaptive.rate.current();
            self.memory.restored = Some(to);
            changes.rate = Some(RateChange { from: ceiling, to, why: Why::Learnt }).filter(|_| to < ceiling);
        }
        if learnt.is_even {
            adaptive.burst.restore(elapsed);
            changes.is_even = Some(true);
        }
        if let Some(concurrency) = learnt.concurrency.filter(|concurrency| *concurrency > 0) {
            changes.concurrency = adaptive.concurrency.restore(concurrency, elapsed);
        }
        if changes != Changes::default() {
            self.memory.answered_at = Some(learnt.at);
        }
        self.space();
        changes
    }
}
