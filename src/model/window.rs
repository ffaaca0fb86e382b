//! A window of a rate limit, as the gateway tells it in the headers of an answer.

use std::time::Duration;

/// The longest window that is believed. Gateways have limits per month, and none that is longer.
const LONGEST: Duration = Duration::from_secs(31 * 86_400);
/// How far away the reset of a window of unknown length may be. Nothing else could tell that such a time is wrong.
const LATEST_RESET: Duration = Duration::from_secs(3_600);
/// How much later than the window's length a reset may be told: whole seconds are often rounded up.
const ROUNDED: Duration = Duration::from_secs(1);

/// A number of requests that the gateway allows in a time, as far as it is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// The number of requests that are allowed in each window.
    pub limit: Option<u32>,
    /// The length of the window.
    pub length: Option<Duration>,
    /// The number of requests that are still allowed in the present window.
    pub remaining: Option<u32>,
    /// The time from the answer to the end of the present window. It may be rounded to a whole second, up or down.
    pub reset: Option<Duration>,
}

impl Window {
    /// Whether the parts agree, and are more than nothing and less than absurd.
    #[must_use]
    pub fn is_sensible(&self) -> bool {
        let Self { limit, length, remaining, reset } = *self;
        let latest = length.map_or(LATEST_RESET, |length| length + ROUNDED);
        limit != Some(0)
            && length.is_none_or(|length| !length.is_zero() && length <= LONGEST)
            && limit.is_none_or(|limit| remaining.is_none_or(|remaining| remaining <= limit))
            && reset.is_none_or(|reset| reset <= latest)
    }

    /// Whether something follows from the window: a rate, or a number of requests until a time.
    #[must_use]
    pub fn says_something(&self) -> bool {
        let has_time = self.reset.is_some() || self.length.is_some();
        (self.limit.is_some() && self.length.is_some()) || (self.remaining.is_some() && has_time)
    }

    /// The window that obeys both of two windows of the same length.
    #[must_use]
    pub fn stricter(self, other: Self) -> Self {
        let least = |one: Option<u32>, other: Option<u32>| one.into_iter().chain(other).min();
        Self {
            limit: least(self.limit, other.limit),
            length: self.length,
            remaining: least(self.remaining, other.remaining),
            reset: self.reset.max(other.reset),
        }
    }
}
