//! The limits in effect: why they are what they are.

/// Why the current rate is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RateReason {
    /// It is the configured rate.
    Ceiling,
    /// The API throttled a higher rate.
    Found,
    /// The API's headers tell this limit.
    Told,
}

impl RateReason {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ceiling, Self::Found, Self::Told];

    /// The string in the database, the logs and the metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ceiling => "ceiling",
            Self::Found => "found",
            Self::Told => "told",
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
