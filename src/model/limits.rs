//! The limits in effect: why they are what they are, and what was learnt about the API's own limits.

use std::time::Duration;

use super::clock::Timestamp;

/// What was learnt is forgotten after this time, because the API's limits may be others by then.
const LIFETIME: Duration = Duration::from_secs(3_600);

/// Why the current rate is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RateReason {
    /// It is the configured rate.
    Ceiling,
    /// The API throttled a higher rate.
    Found,
    /// The API's headers tell this limit.
    Told,
    /// An earlier process has found it, and nothing has changed it since the start.
    Learnt,
}

impl RateReason {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ceiling, Self::Found, Self::Told, Self::Learnt];

    /// The string in the database, the logs and the metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ceiling => "ceiling",
            Self::Found => "found",
            Self::Told => "told",
            Self::Learnt => "learnt",
        }
    }

    /// The reason with this string.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}

/// Why the current limit of requests in flight is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConcurrencyReason {
    /// It is the configured limit.
    Ceiling,
    /// The API throttles more, whatever the rate.
    Throttled,
    /// Answers are slow.
    Latency,
}

impl ConcurrencyReason {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ceiling, Self::Throttled, Self::Latency];

    /// The string in the database, the logs and the metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ceiling => "ceiling",
            Self::Throttled => "throttled",
            Self::Latency => "latency",
        }
    }

    /// The reason with this string.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}

/// What was learnt about the API's limits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Learnt {
    /// The rate that the API bears, in requests per second. `None`: the configured one, as far as we know.
    pub rate: Option<f64>,
    /// Whether requests are spaced evenly, because the API throttled a burst.
    pub is_even: bool,
    /// The most requests in flight that the API allows. `None`: the configured number, as far as we know.
    pub concurrency: Option<usize>,
    /// The time at which this was last in effect while the API answered.
    pub at: Timestamp,
}

impl Learnt {
    /// Whether a daemon that starts at `now` may rely on it. A time in the future is that of a clock that was wrong, so the real age is
    /// unknown.
    #[must_use]
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        self.at <= now && now.since(self.at) <= LIFETIME
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learnt_is_relied_on_for_an_hour_and_never_if_its_time_is_to_come() {
        let now = Timestamp(1_700_000_000_000);
        let learnt = |at| Learnt { rate: Some(1.0), is_even: true, concurrency: None, at };
        for (at, is_fresh) in [
            (now, true),
            (now.minus(LIFETIME), true),
            (Timestamp(now.minus(LIFETIME).0 - 1), false),
            (Timestamp(now.0 + 1), false),
            (Timestamp(0), false),
            (Timestamp(i64::MIN), false),
            (Timestamp(i64::MAX), false),
        ] {
            assert_eq!(learnt(at).is_fresh(now), is_fresh, "{at:?}");
        }
    }
}
