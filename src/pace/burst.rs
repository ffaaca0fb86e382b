//! The adaptive burst. A limit may allow no burst at all, whatever the rate.
//!
//! The simplest configuration of a gateway allows a request only if the one before it is long enough ago. So once a limit was met,
//! requests are spaced evenly. Bursts are tried again after a long calm at the ceiling.

use std::time::Duration;

/// The time without a throttled answer after which bursts are tried again, and its longest length. It doubles with each time that
/// bursts end again, so that a limit without a burst costs one throttled burst an hour in the long run.
const CALM: Duration = Duration::from_secs(600);
const LONGEST_CALM: Duration = Duration::from_secs(3_600);

/// Whether requests may leave in a burst.
#[derive(Clone, Debug)]
pub struct AdaptiveBurst {
    /// When a burst may be tried again, in elapsed time. `None`: bursts are allowed.
    retry_at: Option<Duration>,
    /// The calm after the present excess, and after bursts were throttled once more.
    calm: Duration,
    next_calm: Duration,
}

impl Default for AdaptiveBurst {
    /// Starts with the configured burst.
    fn default() -> Self {
        Self { retry_at: None, calm: CALM, next_calm: CALM }
    }
}

impl AdaptiveBurst {
    /// Whether requests must be spaced evenly.
    #[must_use]
    pub fn is_even(&self) -> bool {
        self.retry_at.is_some()
    }

    /// Spaces requests evenly from now on, because a limit was met.
    pub fn throttled(&mut self, elapsed: Duration) {
        if !self.is_even() {
            self.calm = self.next_calm;
            self.next_calm = (self.calm * 2).min(LONGEST_CALM);
        }
        self.retry_at = Some(elapsed + self.calm);
    }

    /// Spaces requests evenly from now on, because an earlier process did. Bursts are tried again after the calm.
    pub fn restore(&mut self, elapsed: Duration) {
        self.retry_at = Some(elapsed + self.calm);
    }

    /// Takes in that the rate is at its ceiling and a request was delivered. Allows bursts again after the calm.
    pub fn delivered(&mut self, elapsed: Duration) {
        self.retry_at = self.retry_at.filter(|at| elapsed < *at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calm_doubles_with_each_time_that_bursts_end_and_not_with_each_throttled_answer() {
        let (mut burst, mut now) = (AdaptiveBurst::default(), Duration::ZERO);
        for calm in [600, 1_200, 2_400, 3_600, 3_600].map(Duration::from_secs) {
            (0..3).for_each(|_| burst.throttled(now));
            burst.delivered(now + calm - Duration::from_secs(1));
            assert!(burst.is_even(), "{calm:?}");
            now += calm;
            burst.delivered(now);
            assert!(!burst.is_even(), "{calm:?}");
        }
    }
}
