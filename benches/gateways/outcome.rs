//! What comes of a run, from the answers of the gateway.

use std::time::Duration;

use super::{
    cases::{AFTER_CHANGE, Case},
    gateway::Answer,
};

/// Answers count from here on.
pub const SETTLED: Duration = Duration::from_secs(60);
/// From here to [`SETTLED`], the progress tells of the goodput, too.
const EARLY: Duration = Duration::from_secs(20);
const MINUTE: f64 = 60.0;

#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Deleting requests per second from [`SETTLED`] on.
    pub goodput: f64,
    /// The same from [`EARLY`] to [`SETTLED`].
    pub early: f64,
    /// The answers with 429 from [`SETTLED`] on, and their share among all.
    pub throttled: (usize, f64),
    /// The answers with any other status before the limit changed or the daemon ended. There should be none.
    pub odd: usize,
    /// Seconds from the change of the limit until a minute begins in which the daemon has taken it in. Infinite, if none does.
    pub taken_in: f64,
    /// Whether the daemon's log says that the limit is one on concurrency.
    pub named: bool,
}

impl Outcome {
    /// `length`: how long it was measured before the limit changed, which it did at `changed`, in Unix milliseconds.
    pub fn of(case: &Case, answers: &[Answer], length: Duration, changed: Option<i64>, named: bool) -> Self {
        let seconds = |at: i64, since: i64| (at - since) as f64 / 1e3;
        let begun = answers.first().unwrap().at;
        let count = |since: i64, from: f64, to: f64, status: u16| {
            let within = |answer: &&Answer| (from..to).contains(&seconds(answer.at, since)) && answer.status == status;
            answers.iter().filter(within).count()
        };
        let (from, to) = (SETTLED.as_secs_f64(), length.as_secs_f64());
        // The daemon's end cuts requests off, which nginx logs as 499; that is later than `length`.
        let is_odd = |answer: &&Answer| seconds(answer.at, begun) < to && ![200, 429].contains(&answer.status);
        let (delivered, throttled) = (count(begun, from, to, 200), count(begun, from, to, 429));
        let taken_in = changed.zip(case.change.as_ref()).map_or(0.0, |(at, (_, allowed))| {
            let is_taken_in = |second: &u32| {
                let minute = |status| count(at, f64::from(*second), f64::from(*second) + MINUTE, status) as f64;
                let (delivered, throttled) = (minute(200), minute(429));
                if *allowed < case.allowed {
                    throttled <= 0.01 * (throttled + delivered)
                } else {
                    delivered >= 0.9 * allowed * MINUTE
                }
            };
            let last = (AFTER_CHANGE.as_secs_f64() - MINUTE) as u32;
            (0..=last).find(is_taken_in).map_or(f64::INFINITY, f64::from)
        });
        let early = EARLY.as_secs_f64();
        Self {
            goodput: delivered as f64 / (to - from),
            early: count(begun, early, from, 200) as f64 / (from - early),
            throttled: (throttled, throttled as f64 / (throttled + delivered).max(1) as f64),
            odd: answers.iter().filter(is_odd).count(),
            taken_in,
            named,
        }
    }

    /// The worse of both, in each respect.
    pub fn or_worse(self, other: Self) -> Self {
        Self {
            goodput: self.goodput.min(other.goodput),
            early: self.early.min(other.early),
            throttled: if self.throttled.1 < other.throttled.1 { other.throttled } else { self.throttled },
            odd: self.odd.max(other.odd),
            taken_in: self.taken_in.max(other.taken_in),
            named: self.named && other.named,
        }
    }
}
