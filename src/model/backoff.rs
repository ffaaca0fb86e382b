//! Backoff schedules: the delay before each retry, and the length of each repeated hold.

use std::time::Duration;

/// The largest jitter, as a share of the delay.
const MAX_JITTER: f64 = 0.25;
/// The part of the jitter that is random where many rows are to come back together, as a share of the delay. It is small
/// because rows that are due at different times do not fill a request. During the rest of the jitter, rows wait for others.
const MAX_SPREAD: f64 = 1.0 / 16.0;

/// Delays that double from `base` up to `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    base: Duration,
    max: Duration,
}

/// Why two delays are no schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackoffError {
    /// The first delay is 0, and doubling it would never make it longer.
    #[error("must be longer than 0")]
    Zero,
    /// The first delay already exceeds the longest.
    #[error("must not be longer than max_delay")]
    BaseAboveMax,
}

/// One random draw. All rows of a batch share it, so that rows that failed together come back together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Jitter(f64);

impl Jitter {
    /// Draws a jitter from `rng`.
    pub fn draw(rng: &mut fastrand::Rng) -> Self {
        Self(rng.f64())
    }
}

impl Backoff {
    /// A schedule that doubles from `base` to `max`.
    ///
    /// # Errors
    /// If `base` is zero or above `max`.
    pub fn new(base: Duration, max: Duration) -> Result<Self, BackoffError> {
        if base.is_zero() {
            Err(BackoffError::Zero)
        } else if base > max {
            Err(BackoffError::BaseAboveMax)
        } else {
            Ok(Self { base, max })
        }
    }

    /// The first delay.
    #[must_use]
    pub fn base(&self) -> Duration {
        self.base
    }

    /// The longest delay with the largest jitter.
    #[must_use]
    pub fn max(&self) -> Duration {
        self.max.saturating_add(self.max.mul_f64(MAX_JITTER))
    }

    /// This schedule with `least` as its shortest delay, or its longest delay if that is shorter.
    #[must_use]
    pub fn with_floor(&self, least: Duration) -> Self {
        Self { base: self.base.max(least.min(self.max)), max: self.max }
    }

    /// Whether the delay after the `nth` failure is the longest one.
    #[must_use]
    pub fn is_longest(&self, nth: u32) -> bool {
        self.delay(nth) == self.max
    }

    /// The delay after the `nth` failure, counted from 1, before jitter: `min(max, base · 2^(nth − 1))`.
    #[must_use]
    pub fn delay(&self, nth: u32) -> Duration {
        1_u32
            .checked_shl(nth.saturating_sub(1))
            .and_then(|factor| self.base.checked_mul(factor))
            .map_or(self.max, |delay| delay.min(self.max))
    }

    /// The delay after the `nth` failure with its jitter: [`Backoff::delay`], or up to a quarter longer.
    #[must_use]
    pub fn jittered(&self, nth: u32, jitter: Jitter) -> Duration {
        let delay = self.delay(nth);
        delay.saturating_add(delay.mul_f64(MAX_JITTER * jitter.0))
    }

    /// The delay after the `nth` failure of a row that then waits for others: [`Backoff::delay`], or up to a sixteenth longer.
    #[must_use]
    pub fn spread(&self, nth: u32, jitter: Jitter) -> Duration {
        let delay = self.delay(nth);
        delay.saturating_add(delay.mul_f64(MAX_SPREAD * jitter.0))
    }

    /// How long a row may wait for others after [`Backoff::spread`], to fill a request together. The two add up to at most a
    /// quarter more than [`Backoff::delay`].
    #[must_use]
    pub fn gathering(&self, nth: u32) -> Duration {
        self.delay(nth).mul_f64(MAX_JITTER - MAX_SPREAD)
    }

    /// The delays between `attempts` attempts, without jitter, as `check` prints them.
    #[must_use]
    pub fn schedule(&self, attempts: u32) -> Vec<Duration> {
        (1..attempts).map(|nth| self.delay(nth)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds(base: u64, max: u64) -> Result<Backoff, BackoffError> {
        Backoff::new(Duration::from_secs(base), Duration::from_secs(max))
    }

    #[test]
    fn the_whole_schedule_doubles_and_then_stays() -> Result<(), BackoffError> {
        let schedule: Vec<u64> = seconds(10, 100)?.schedule(7).iter().map(Duration::as_secs).collect();
        assert_eq!(schedule, [10, 20, 40, 80, 100, 100]);
        assert_eq!(seconds(10, 100)?.base(), Duration::from_secs(10));
        Ok(())
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(seconds(0, 1), Err(BackoffError::Zero));
        assert_eq!(seconds(2, 1), Err(BackoffError::BaseAboveMax));
    }

    proptest! {
        #[test]
        fn a_delay_never_shrinks_and_stays_between_base_and_max(base in 1_u64..1_000_000, more in 0_u64..1_000_000_000, nth in 0_u32..) {
            let (base, max) = (Duration::from_millis(base), Duration::from_millis(base + more));
            let backoff = Backoff::new(base, max)?;
            let delay = backoff.delay(nth);
            prop_assert!(base <= delay && delay <= max);
            prop_assert!(delay <= backoff.delay(nth.saturating_add(1)));
        }

        #[test]
        fn jitter_is_only_ever_later_and_at_most_a_quarter(base in 1_u64..1_000_000, nth in 0_u32.., seed: u64) {
            let backoff = Backoff::new(Duration::from_millis(base), Duration::from_millis(base * 1_000))?;
            let jitter = Jitter::draw(&mut fastrand::Rng::with_seed(seed));
            let (jittered, spread, plain) = (backoff.jittered(nth, jitter), backoff.spread(nth, jitter), backoff.delay(nth));
            let latest = plain + plain / 4 + Duration::from_nanos(2);
            prop_assert!(plain <= jittered && jittered <= latest);
            prop_assert!(plain <= spread && spread + backoff.gathering(nth) <= latest);
        }
    }
}
