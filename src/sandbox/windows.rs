//! Fixed windows, and the headers in which a gateway tells them.

use std::{
    num::NonZeroU32,
    str::FromStr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use axum::http::{HeaderName, HeaderValue};

use crate::{durations, model::clock::Clock};

/// The shortest and the longest window.
const LENGTHS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(31 * 86_400));

/// A limit: this many requests in each window of this length. The first window begins at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The number of requests.
    pub requests: NonZeroU32,
    /// The length of a window: whole seconds, at least one.
    pub length: Duration,
}

impl FromStr for Limit {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (requests, length) = text.split_once('/').ok_or("must be N/TIME, such as 600/60s")?;
        let requests = requests.parse().map_err(|_| "must be N/TIME, with a number above 0 for N")?;
        let length = durations::parse(length, &(LENGTHS.0..=LENGTHS.1)).ok();
        let length = length.filter(|length| length.subsec_nanos() == 0);
        Ok(Self { requests, length: length.ok_or("must be N/TIME, with whole seconds for TIME, such as 60s or 1m")? })
    }
}

/// The headers in which the limits are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateHeaders {
    /// `RateLimit-Policy` and `RateLimit`, as in the present draft of the IETF.
    Ietf,
    /// `RateLimit-Policy` and `RateLimit`, as in draft 07.
    Ietf07,
    /// `RateLimit-Limit`, `RateLimit-Remaining` and `RateLimit-Reset`, as in earlier drafts.
    RateLimit,
    /// `X-RateLimit-Limit`, `X-RateLimit-Remaining` and `X-RateLimit-Reset`, without the lengths.
    XRateLimit,
    /// `X-RateLimit-Limit-Minute` and the like, and the earlier drafts' headers without the lengths.
    Kong,
}

impl FromStr for RateHeaders {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "ietf" => Ok(Self::Ietf),
            "ietf-07" => Ok(Self::Ietf07),
            "ratelimit" => Ok(Self::RateLimit),
            "x-ratelimit" => Ok(Self::XRateLimit),
            "kong" => Ok(Self::Kong),
            _ => Err("must be ietf, ietf-07, ratelimit, x-ratelimit or kong"),
        }
    }
}

/// A window at one time.
#[derive(Clone, Copy, Debug)]
struct Standing {
    limit: u32,
    length: u64,
    remaining: u32,
    /// The seconds to the next window.
    left: Duration,
}

/// The limits, and how many requests the present windows have.
#[derive(Debug)]
pub(super) struct Windows {
    limits: Vec<Limit>,
    headers: Option<RateHeaders>,
    clock: Clock,
    /// For each limit, the number of the present window, and the requests in it.
    counts: Mutex<Vec<(u64, u32)>>,
}

impl Windows {
    pub(super) fn new(limits: Vec<Limit>, headers: Option<RateHeaders>) -> Self {
        let counts = Mutex::new(vec![(0, 0); limits.len()]);
        Self { limits, headers, clock: Clock::system(), counts }
    }

    /// Counts a request. Returns whether it is allowed, and the headers of its answer. A request that is not allowed does not count.
    pub(super) fn count(&self) -> (bool, Vec<(HeaderName, HeaderValue)>) {
        let elapsed = self.clock.elapsed();
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        for (limit, count) in self.limits.iter().zip(counts.iter_mut()) {
            let number = elapsed.as_secs() / limit.length.as_secs();
            if number != count.0 {
                *count = (number, 0);
            }
        }
        let is_allowed = self.limits.iter().zip(counts.iter()).all(|(limit, count)| count.1 < limit.requests.get());
        counts.iter_mut().for_each(|count| count.1 += u32::from(is_allowed));
        let standing = |(limit, count): (&Limit, &(u64, u32))| {
            let (requests, length) = (limit.requests.get(), limit.length.as_secs());
            let left = Duration::from_secs((count.0 + 1) * length).saturating_sub(elapsed);
            Standing { limit: requests, length, remaining: requests - count.1, left }
        };
        let standings: Vec<Standing> = self.limits.iter().zip(counts.iter()).map(standing).collect();
        let headers = self.headers.map(|headers| headers.tell(&standings)).unwrap_or_default();
        let valid = |(name, value): (String, String)| Some((name.parse().ok()?, value.parse().ok()?));
        (is_allowed, headers.into_iter().filter_map(valid).collect())
    }
}

impl RateHeaders {
    fn tell(self, standings: &[Standing]) -> Vec<(String, String)> {
        // The window that is used up first.
        let Some(first) = standings.iter().min_by_key(|standing| (standing.remaining, u64::MAX - standing.length))
        else {
            return Vec::new();
        };
        let Standing { limit, remaining, left, .. } = *first;
        let reset = left.as_secs();
        let policies = |policy: &dyn Fn(usize, &Standing) -> String| {
            standings.iter().enumerate().map(|(at, standing)| policy(at, standing)).collect::<Vec<_>>().join(", ")
        };
        let plain = policies(&|_, standing| format!("{};w={}", standing.limit, standing.length));
        let header = |name: &str, value: String| (name.to_owned(), value);
        let three = |prefix: &str, limit: String, reset: u64| {
            let values = [("Limit", limit), ("Remaining", remaining.to_string()), ("Reset", reset.to_string())];
            values.map(|(name, value)| (format!("{prefix}RateLimit-{name}"), value))
        };
        match self {
            Self::Ietf => {
                let quotas = policies(&|at, s| format!("\"window{at}\";q={};w={}", s.limit, s.length));
                let left = policies(&|at, s| format!("\"window{at}\";r={};t={}", s.remaining, s.left.as_secs()));
                vec![header("RateLimit-Policy", quotas), header("RateLimit", left)]
            }
            Self::Ietf07 => {
                let now = format!("limit={limit}, remaining={remaining}, reset={reset}");
                vec![header("RateLimit-Policy", plain), header("RateLimit", now)]
            }
            Self::RateLimit => three("", format!("{limit}, {plain}"), reset).into(),
            Self::XRateLimit => three("X-", limit.to_string(), reset).into(),
            Self::Kong => {
                // Kong rounds up, and never tells 0.
                let mut headers: Vec<_> = three("", limit.to_string(), reset + 1).into();
                for Standing { limit, length, remaining, .. } in standings {
                    let units = [("Second", 1), ("Minute", 60), ("Hour", 3_600), ("Day", 86_400)];
                    let Some((unit, _)) = units.iter().find(|(_, seconds)| seconds == length) else { continue };
                    headers.push((format!("X-RateLimit-Limit-{unit}"), limit.to_string()));
                    headers.push((format!("X-RateLimit-Remaining-{unit}"), remaining.to_string()));
                }
                headers
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_headers_are_written_as_the_help_says() {
        let limit = |requests: u32, length| Limit {
            requests: requests.try_into().unwrap(),
            length: Duration::from_secs(length),
        };
        assert_eq!("600/60s".parse(), Ok(limit(600, 60)));
        assert_eq!("5/1m".parse(), Ok(limit(5, 60)));
        for other in ["", "600", "600/", "/60s", "0/60s", "-1/60s", "5/0s", "5/500ms", "5/1.5s", "5/60"] {
            assert!(other.parse::<Limit>().is_err(), "{other}");
        }
        for (text, headers) in [
            ("ietf", RateHeaders::Ietf),
            ("ietf-07", RateHeaders::Ietf07),
            ("ratelimit", RateHeaders::RateLimit),
            ("x-ratelimit", RateHeaders::XRateLimit),
            ("kong", RateHeaders::Kong),
        ] {
            assert_eq!(text.parse(), Ok(headers));
        }
        assert!("Kong".parse::<RateHeaders>().is_err());
    }

    #[test]
    fn the_headers_tell_the_windows() {
        let standings = [
            Standing { limit: 5, length: 1, remaining: 4, left: Duration::from_millis(300) },
            Standing { limit: 60, length: 60, remaining: 3, left: Duration::from_millis(29_500) },
        ];
        let told = |headers: RateHeaders| {
            let lines = headers.tell(&standings).into_iter().map(|(name, value)| format!("{name}: {value}"));
            lines.collect::<Vec<_>>()
        };
        assert_eq!(
            told(RateHeaders::Ietf),
            [
                "RateLimit-Policy: \"window0\";q=5;w=1, \"window1\";q=60;w=60",
                "RateLimit: \"window0\";r=4;t=0, \"window1\";r=3;t=29",
            ]
        );
        assert_eq!(
            told(RateHeaders::Ietf07),
            ["RateLimit-Policy: 5;w=1, 60;w=60", "RateLimit: limit=60, remaining=3, reset=29",]
        );
        assert_eq!(
            told(RateHeaders::RateLimit),
            ["RateLimit-Limit: 60, 5;w=1, 60;w=60", "RateLimit-Remaining: 3", "RateLimit-Reset: 29",]
        );
        assert_eq!(
            told(RateHeaders::XRateLimit),
            ["X-RateLimit-Limit: 60", "X-RateLimit-Remaining: 3", "X-RateLimit-Reset: 29",]
        );
        assert_eq!(
            told(RateHeaders::Kong),
            [
                "RateLimit-Limit: 60",
                "RateLimit-Remaining: 3",
                "RateLimit-Reset: 30",
                "X-RateLimit-Limit-Second: 5",
                "X-RateLimit-Remaining-Second: 4",
                "X-RateLimit-Limit-Minute: 60",
                "X-RateLimit-Remaining-Minute: 3",
            ]
        );
    }
}
