//! Time as a value: [`Timestamp`] and [`Clock`]. No other file reads a clock.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// A point in wall-clock time, in milliseconds since the Unix epoch, as the database stores it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

const CIVIL_EPOCH: jiff::civil::DateTime = jiff::civil::datetime(1970, 1, 1, 0, 0, 0, 0);

impl Timestamp {
    /// The epoch. As a due time, it means "at once".
    pub const ZERO: Self = Self(0);
    /// The earliest due time beside [`Self::ZERO`] that the database accepts, in 1973. An earlier one looks like seconds.
    pub const LEAST_DUE: Self = Self(100_000_000_000);
    /// The last millisecond of the year 9999, the latest time that the database accepts.
    pub const MAX: Self = Self(253_402_300_799_999);

    /// Parses a date, or a date with a time of day, in ISO 8601's form. Without an offset, the time is in UTC.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        // `jiff::Timestamp` cannot be used: its range ends a day before the end of the year 9999.
        let pieces = jiff::fmt::temporal::Pieces::parse(text).ok()?;
        let offset = pieces.to_numeric_offset();
        // A time zone's name alone gives no offset, and must not be read as UTC.
        if offset.is_none() && pieces.time_zone_annotation().is_some() {
            return None;
        }
        let civil = pieces.date().to_datetime(pieces.time().unwrap_or_default());
        let ms = civil.duration_since(CIVIL_EPOCH).as_millis();
        let ms = i64::try_from(ms).ok()? - offset.map_or(0, |offset| i64::from(offset.seconds()) * 1_000);
        Some(Self(ms)).filter(|at| (Self::ZERO..=Self::MAX).contains(at))
    }

    /// The date and the time of day in UTC; `None` outside of the years with four digits.
    #[must_use]
    pub fn civil(self) -> Option<jiff::civil::DateTime> {
        CIVIL_EPOCH.checked_add(jiff::SignedDuration::from_millis(self.0)).ok()
    }

    /// This time moved later by `by`, to [`Timestamp::MAX`] at most.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        let by = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(by)).min(Self::MAX)
    }

    /// This time moved earlier by `by`, to the epoch at most.
    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        let by = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(by)).max(Self::ZERO)
    }

    /// The time from `earlier` to this time; zero if this is not later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        time.duration_since(UNIX_EPOCH).map_or(Self::ZERO, |since_epoch| Self::ZERO.plus(since_epoch))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The source of time: the system, or a test.
///
/// It has two readings. Due times and holds are stored in wall-clock time, which may jump. The rate limit and every duration are
/// measured in elapsed time, which only grows.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System { start: Duration },
    Manual(Arc<Hands>),
}

#[derive(Debug)]
struct Hands {
    wall_ms: AtomicI64,
    elapsed_us: AtomicU64,
}

impl Clock {
    /// The system's clocks.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System { start: since_boot() })
    }

    /// A clock that stands still until [`Clock::advance`] or [`Clock::jump_to`] moves it. Clones move together.
    #[must_use]
    pub fn manual(at: Timestamp) -> Self {
        Self(Source::Manual(Arc::new(Hands { wall_ms: AtomicI64::new(at.0), elapsed_us: AtomicU64::new(0) })))
    }

    /// The wall-clock time.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place where a clock is read")]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System { .. } => SystemTime::now().into(),
            Source::Manual(hands) => Timestamp(hands.wall_ms.load(Ordering::SeqCst)),
        }
    }

    /// The time that has passed since the clock was made.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        match &self.0 {
            Source::System { start } => since_boot().saturating_sub(*start),
            Source::Manual(hands) => Duration::from_micros(hands.elapsed_us.load(Ordering::SeqCst)),
        }
    }

    /// Moves a manual clock forward. Does nothing to the system's clock.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(hands) = &self.0 {
            hands.wall_ms.fetch_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX), Ordering::SeqCst);
            hands.elapsed_us.fetch_add(u64::try_from(by.as_micros()).unwrap_or(u64::MAX), Ordering::SeqCst);
        }
    }

    /// Sets the wall-clock time of a manual clock, as a time server or an operator would. Elapsed time stays.
    pub fn jump_to(&self, at: Timestamp) {
        if let Source::Manual(hands) = &self.0 {
            hands.wall_ms.store(at.0, Ordering::SeqCst);
        }
    }
}

/// The time since the machine was booted. It includes time in suspend, because that time has passed for the API, too.
#[cfg(target_os = "linux")]
fn since_boot() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0));
    seconds + Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// The time since the first call, on a clock that only grows.
#[cfg(not(target_os = "linux"))]
#[expect(clippy::disallowed_methods, reason = "the one place where a clock is read")]
fn since_boot() -> Duration {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_saturate_at_both_ends_instead_of_wrapping() {
        assert_eq!(Timestamp::MAX.plus(Duration::MAX), Timestamp::MAX);
        assert_eq!(Timestamp(5).minus(Duration::MAX), Timestamp::ZERO);
        assert_eq!(Timestamp(5).since(Timestamp(9)), Duration::ZERO);
        assert_eq!(Timestamp(i64::MAX).since(Timestamp(i64::MIN)), Duration::from_millis(i64::MAX as u64));
    }

    #[test]
    fn a_wall_clock_jump_does_not_move_elapsed_time() {
        let clock = Clock::manual(Timestamp(1_000));
        clock.advance(Duration::from_secs(1));
        clock.jump_to(Timestamp(10));
        assert_eq!((clock.now(), clock.elapsed()), (Timestamp(10), Duration::from_secs(1)));
    }
}
