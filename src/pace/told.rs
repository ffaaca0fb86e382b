//! The limit that the API's gateway tells in its headers. It is obeyed downwards only: it never raises a rate.
//!
//! Nobody tells when the gateway counts a request: somewhere between its sending and the arrival of its answer. So a request
//! counts here from its sending until a whole window after its answer. If in that time never more than the limit are counted, no
//! window of the gateway is overrun, whenever it begins and whatever the two clocks show.
//!
//! Others may use up the same limit, and so may an earlier process. Then the gateway tells fewer remaining requests than our own
//! requests explain. From there on until the reset, only the remaining requests go, minus those that may not be counted yet.
//!
//! Below these bounds, requests are spaced evenly over the window. Time comes in as a value.

use std::{collections::VecDeque, time::Duration};

use crate::model::window::Window;

/// The share of a told limit that is sent. Without a margin, each request that is counted a little earlier in its window than the
/// ones before would wait for the end of the window.
const MARGIN: f64 = 0.98;
/// How far requests may fall behind an even spacing and still catch up, because turns come a few milliseconds late.
const LATE: Duration = Duration::from_millis(50);
/// How much later than told a reset may be: whole seconds may be rounded down.
const ROUNDED: Duration = Duration::from_secs(1);
/// The share of the longest time to a reset that repeats it. No request may have been sent right after a window began.
const NEARLY: f64 = 0.9;
/// A higher limit is believed when the lower one was not told for this long. Routes may have different limits, and an answer may
/// be old news.
const REPEATED: Duration = Duration::from_secs(60);
/// A window is forgotten after this many answers in a row that do not tell it, and [`REPEATED`] since it was told. Some answers come
/// from a proxy that does not know the limit.
const SILENT: u32 = 20;
/// When nothing has been in flight for this long, one request asks again, whatever was told. So no header stops the daemon for
/// longer. A silent answer after this time without a word about the window makes the window forgotten.
const LONGEST: Duration = Duration::from_secs(3_600);
/// Limits below one request in this time are no limits that a gateway would have for this API.
const SLOWEST: Duration = Duration::from_secs(3_600);
/// The number of requests whose ends are remembered. For a limit above it, the even spacing and the remaining requests must do.
const REMEMBERED: usize = 4_096;
/// The most windows that are kept, and the most readings and unheard requests of each. More would need more requests in flight.
const MAX_WINDOWS: usize = 8;
const MAX_READINGS: usize = 64;
const MAX_UNHEARD: usize = 256;

/// Our own requests.
#[derive(Clone, Debug, Default)]
struct Own {
    /// The number of requests that have left and not ended.
    open: u32,
    /// When the last requests ended, oldest first, in elapsed time.
    ended: VecDeque<Duration>,
}

impl Own {
    /// When one more request may go, if `more` others are about to: no more than `limit` count then.
    fn next(&self, limit: u32, length: Duration, more: u32) -> Duration {
        let free = limit.saturating_sub(self.open.saturating_add(more)) as usize;
        if free == 0 {
            // An answer must come first.
            return Duration::MAX;
        }
        let last = self.ended.len().checked_sub(free).and_then(|at| self.ended.get(at));
        last.map_or(Duration::ZERO, |ended| *ended + length)
    }

    /// The most requests that the gateway may have counted after `from`.
    fn since(&self, from: Duration) -> usize {
        self.ended.len() - self.ended.partition_point(|ended| *ended <= from) + self.open as usize
    }
}

/// A number of remaining requests, as an answer told it.
#[derive(Clone, Copy, Debug)]
struct Reading {
    remaining: u32,
    /// When the answer's request was sent, and when the answer came.
    sent: Duration,
    heard: Duration,
    /// The latest time at which the window may end.
    until: Duration,
}

/// A window that was told.
#[derive(Clone, Debug)]
struct Known {
    length: Option<Duration>,
    limit: Option<u32>,
    /// When this limit was last told, and when anything about the window was.
    limit_at: Duration,
    told_at: Duration,
    /// The longest time to a reset, at most the length of the window, and when it or nearly as much was last told.
    longest_reset: Duration,
    longest_at: Duration,
    /// The longest that was told since.
    longest_since: Duration,
    /// The readings that the answer to a later request has not replaced.
    readings: Vec<Reading>,
    /// When requests ended that told nothing of the window, as far as the readings may not have counted them.
    unheard: Vec<Duration>,
    /// The number of answers since the window was told.
    silent: u32,
}

impl Known {
    fn new(length: Option<Duration>, at: Duration) -> Self {
        Self {
            length,
            limit: None,
            limit_at: at,
            told_at: at,
            longest_reset: Duration::ZERO,
            longest_at: at,
            longest_since: Duration::ZERO,
            readings: Vec::new(),
            unheard: Vec::new(),
            silent: 0,
        }
    }

    /// Takes in what an answer told of the window.
    fn hear(&mut self, window: &Window, sent: Duration, at: Duration, own: &Own) {
        self.silent = 0;
        self.told_at = self.told_at.max(at);
        self.hear_reset(window.reset.unwrap_or_default(), at);
        if let Some(limit) = window.limit
            && self.limit.is_none_or(|known| limit <= known || sent >= self.limit_at + REPEATED)
        {
            self.limit = Some(limit);
            self.limit_at = at;
        }
        if let Some(remaining) = window.remaining {
            self.read(remaining, window.reset, (sent, at), own);
        }
    }

    /// Takes in a time to a reset. In twice the longest one, a whole window passes. If none that is nearly as long is told in that
    /// time, the longest one was an error or a penalty, and would lower the rate for good.
    fn hear_reset(&mut self, reset: Duration, at: Duration) {
        self.longest_since = self.longest_since.max(reset);
        if self.longest_since >= self.longest_reset.mul_f64(NEARLY) {
            self.longest_reset = self.longest_reset.max(self.longest_since);
        } else if at.saturating_sub(self.longest_at) / 2 >= self.longest_reset {
            self.longest_reset = self.longest_since;
        } else {
            return;
        }
        self.longest_at = at;
        self.longest_since = Duration::ZERO;
    }

    fn read(&mut self, remaining: u32, reset: Option<Duration>, (sent, heard): (Duration, Duration), own: &Own) {
        self.readings.retain(|reading| reading.heard > sent);
        let oldest = self.readings.iter().map(|reading| reading.sent).fold(sent, Duration::min);
        self.unheard.retain(|ended| *ended > oldest);
        let by_reset = reset.map(|reset| heard + reset + ROUNDED);
        // Requests of an earlier process count in the window in which this one started, which ends at most its length later.
        let by_length = self.length.map(|length| if sent < length { length } else { heard + length });
        let Some(until) = by_reset.into_iter().chain(by_length).min() else { return };
        if self.is_explained(remaining, sent, own) {
            return;
        }
        self.readings.retain(|reading| reading.remaining < remaining || reading.until > until);
        if self.readings.len() < MAX_READINGS {
            self.readings.push(Reading { remaining, sent, heard, until });
        }
    }

    /// Whether our own requests are all that the gateway has counted. They are remembered since the start of the process.
    fn is_explained(&self, remaining: u32, sent: Duration, own: &Own) -> bool {
        let (Some((limit, length)), true) = (self.remembered(), self.length.is_some_and(|length| sent >= length))
        else {
            return false;
        };
        limit.saturating_sub(remaining) as usize <= own.since(sent - length)
    }

    /// Limit and length, if our own requests are remembered well enough for them.
    fn remembered(&self) -> Option<(u32, Duration)> {
        let limit = self.limit.filter(|limit| *limit as usize <= REMEMBERED)?;
        Some((limit, self.length?))
    }

    /// The number of requests that a reading may not have counted, if `more` are about to go.
    fn uncounted(&self, reading: &Reading, own: &Own, more: u32) -> u32 {
        let unheard = self.unheard.iter().filter(|ended| **ended > reading.sent).count();
        own.open.saturating_add(more).saturating_add(u32::try_from(unheard).unwrap_or(u32::MAX))
    }

    /// When one more request may go, if `more` others are about to. Where our own requests are remembered, a reading matters only
    /// until its window ends. Otherwise, the unheard ones may count in a later window.
    fn next(&self, own: &Own, more: u32) -> Duration {
        let is_idle = own.open == 0 && more == 0;
        let by_own = self.remembered().map_or(Duration::ZERO, |(limit, length)| own.next(limit, length, more));
        let by_readings = self.readings.iter().map(|reading| {
            let uncounted = self.uncounted(reading, own, more);
            if uncounted < reading.remaining {
                Duration::ZERO
            } else if self.remembered().is_some() || uncounted < self.limit.unwrap_or(1) {
                // The next window has begun by then.
                reading.until
            } else if is_idle {
                // No answer will come. One request asks when the unheard ones count no longer.
                let unheard = self.unheard.iter().max().copied().unwrap_or_default();
                reading.until.max(unheard + self.length.unwrap_or(self.longest_reset) + ROUNDED)
            } else {
                Duration::MAX
            }
        });
        let next = by_readings.fold(by_own, Duration::max);
        let longest = own.ended.back().filter(|_| is_idle).map_or(Duration::MAX, |last| *last + LONGEST);
        next.min(longest)
    }

    /// The rate that spreads the limit over the window, in requests per second. A window of unknown length is as long as the
    /// longest time to a reset.
    fn rate(&self) -> Option<f64> {
        let length = self.length.unwrap_or(self.longest_reset).as_secs_f64();
        self.limit.filter(|_| length > 0.0).map(|limit| f64::from(limit) / length * MARGIN)
    }

    /// The time between two requests, if the remaining ones are spread over the rest of the window.
    fn gap(&self, own: &Own, elapsed: Duration) -> Duration {
        let gaps = self.readings.iter().filter_map(|reading| {
            let left = reading.remaining.saturating_sub(self.uncounted(reading, own, 0));
            reading.until.saturating_sub(elapsed).checked_div(left)
        });
        let even = self.rate().map_or(Duration::ZERO, |rate| Duration::from_secs_f64(1.0 / rate));
        gaps.fold(even, Duration::max).min(LONGEST)
    }

    /// Takes in that a request has ended without a word about the window. Returns whether the window is to be kept.
    fn miss(&mut self, at: Duration, is_answer: bool) -> bool {
        if !self.readings.is_empty() {
            if self.unheard.len() == MAX_UNHEARD {
                self.unheard.remove(0);
            }
            self.unheard.push(at);
        }
        self.silent += u32::from(is_answer);
        let age = at.saturating_sub(self.told_at);
        !is_answer || !(age >= LONGEST || (age >= REPEATED && self.silent >= SILENT))
    }
}

/// What was told, and the requests that count.
#[derive(Clone, Debug, Default)]
pub struct Told {
    own: Own,
    windows: Vec<Known>,
    /// When the last request left, or should have left to be spaced evenly. `None` if none has.
    left: Option<Duration>,
    /// The time between two requests.
    gap: Duration,
}

impl Told {
    /// The highest rate that was told, in requests per second, with a margin. `None` if nothing was told.
    #[must_use]
    pub fn cap(&self) -> Option<f64> {
        self.windows.iter().filter_map(Known::rate).reduce(f64::min)
    }

    /// When one more request may go, in elapsed time, if `more` requests are about to go and the rate is `rate` otherwise. It may
    /// be in the past. [`Duration::MAX`] if an answer must come first.
    #[must_use]
    pub fn next(&self, more: u32, rate: f64) -> Duration {
        let next = self.windows.iter().map(|window| window.next(&self.own, more)).max().unwrap_or_default();
        let is_slower = self.gap.as_secs_f64() * rate > 1.0;
        let spaced = self
            .left
            .filter(|_| is_slower)
            .map_or(Duration::ZERO, |left| left.saturating_add(self.gap.saturating_mul(more.saturating_add(1))));
        next.max(spaced)
    }

    /// Takes in that `count` requests leave.
    pub fn leave(&mut self, count: u32, elapsed: Duration) {
        self.own.open = self.own.open.saturating_add(count);
        for _ in 0..count {
            let due = self.left.map_or(Duration::ZERO, |left| left + self.gap);
            self.left = Some(due.max(elapsed.saturating_sub(LATE)));
        }
        self.space(elapsed);
    }

    /// Takes in that a request has ended that was sent at `sent` and ended at `at`, and what its answer told. `None`: no answer
    /// came.
    pub fn ended(&mut self, sent: Duration, at: Duration, windows: Option<&[Window]>) {
        self.own.open = self.own.open.saturating_sub(1);
        if self.own.ended.len() == REMEMBERED {
            self.own.ended.pop_front();
        }
        let last = self.own.ended.back().copied().unwrap_or_default();
        self.own.ended.push_back(at.max(last));
        let told = windows.unwrap_or_default().iter().filter(|window| is_plausible(window));
        let told: Vec<&Window> = told.collect();
        self.windows.retain_mut(|known| {
            told.iter().any(|window| window.length == known.length) || known.miss(at, windows.is_some())
        });
        for window in told {
            let index = self.windows.iter().position(|known| known.length == window.length).unwrap_or_else(|| {
                self.windows.push(Known::new(window.length, at));
                self.windows.len() - 1
            });
            self.windows[index].hear(window, sent, at, &self.own);
        }
        self.windows.truncate(MAX_WINDOWS);
        self.space(at);
    }

    /// Forgets what was told. The requests still count.
    pub fn forget(&mut self) {
        self.windows.clear();
        self.gap = Duration::ZERO;
    }

    fn space(&mut self, elapsed: Duration) {
        let gaps = self.windows.iter().map(|window| window.gap(&self.own, elapsed));
        self.gap = gaps.max().unwrap_or_default();
    }
}

/// Whether a gateway may really have such a limit.
fn is_plausible(window: &Window) -> bool {
    let slowest = |(limit, length): (u32, Duration)| SLOWEST.saturating_mul(limit) >= length;
    window.limit.zip(window.length).is_none_or(slowest)
}

#[cfg(test)]
#[path = "told_tests.rs"]
mod tests;
