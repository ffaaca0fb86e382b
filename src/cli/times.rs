//! Times and numbers as people write and read them.

use std::time::Duration;

use jiff::tz::TimeZone;

pub(super) use crate::watch::report::figures::{plural, rfc3339, show_count, show_text, show_time};
use crate::{durations, model::clock::Timestamp};

/// The longest duration that can be given: a hundred years.
const MAX_SPAN: Duration = Duration::from_secs(36_500 * 86_400);

/// A point in time as it was given: a time, or a duration from now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    At(Timestamp),
    Away(Duration),
}

impl Moment {
    /// Parses a time, a duration or Unix milliseconds.
    ///
    /// # Errors
    /// A message with examples.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let bad = || {
            "must be a time such as 2026-11-24, 2026-11-24T10:00 (in UTC) or 2026-11-24T10:00+01:00, a duration such as 30m \
             or 7d, or Unix milliseconds"
                .to_owned()
        };
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            let ms = text.parse().ok().filter(|ms| *ms <= Timestamp::MAX.0).ok_or_else(bad)?;
            if ms != 0 && ms < Timestamp::LEAST_DUE.0 {
                return Err("must be Unix milliseconds; this looks like seconds: multiply it by 1000".to_owned());
            }
            return Ok(Self::At(Timestamp(ms)));
        }
        if let Ok(span) = durations::parse(text, &(Duration::ZERO..=MAX_SPAN)) {
            return Ok(Self::Away(span));
        }
        Timestamp::parse(text).map(Self::At).ok_or_else(bad)
    }

    /// The same for a due time. Names a time in the past.
    ///
    /// # Errors
    /// A message with examples.
    pub(super) fn parse_due(text: &str) -> Result<Self, String> {
        let past = text.trim().strip_prefix('-').or_else(|| text.trim().strip_suffix("ago"));
        if past.is_some_and(|span| Self::parse(span).is_ok()) {
            return Err("is in the past: leave it out to delete at once".to_owned());
        }
        Self::parse(text)
    }

    /// The time, or `now` plus the duration.
    pub(super) fn after(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Away(span) => now.plus(span),
        }
    }

    /// The due time of a row. A date before 1973 means at once, because the table refuses such due times: they look like
    /// seconds.
    pub(super) fn due(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) if at < Timestamp::LEAST_DUE => Timestamp::ZERO,
            Self::At(_) | Self::Away(_) => self.after(now),
        }
    }

    /// The time, or `now` minus the duration.
    pub(super) fn before(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Away(span) => now.minus(span),
        }
    }
}

/// The time as `2026-11-24 10:00 UTC (11:00 here)`. `zone`: the reader's. Seconds are shown unless they are 0.
pub(super) fn show_both(at: Timestamp, zone: &TimeZone) -> String {
    let Some(utc) = at.civil() else { return format!("{at} ms") };
    let clock = if utc.second() == 0 { "%H:%M" } else { "%H:%M:%S" };
    let here = jiff::Timestamp::from_millisecond(at.0).ok().map(|at| zone.to_datetime(at)).filter(|here| *here != utc);
    let here = here.map_or_else(String::new, |here| {
        let date = if here.date() == utc.date() { "" } else { "%Y-%m-%d " };
        format!(" ({} here)", here.strftime(&format!("{date}{clock}")))
    });
    format!("{} UTC{here}", utc.strftime(&format!("%Y-%m-%d {clock}")))
}

/// A due time as `due 2027-03-28 02:30 UTC (03:30 here), in 122 days`. `zone`: the reader's.
pub(super) fn show_due(due: Timestamp, now: Timestamp, zone: &TimeZone) -> String {
    if due == Timestamp::ZERO {
        return "due at once".to_owned();
    }
    let left = due.since(now);
    let when = match left.as_secs() / 86_400 {
        0 | 1 if left.is_zero() => "which is past: at once".to_owned(),
        0 | 1 => format!("in {}", durations::show_roughly(left)),
        days => format!("in {} days", show_count(days)),
    };
    format!("due {}, {when}", show_both(due, zone))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_or_a_span_or_unix_milliseconds() {
        let at = |text: &str| Moment::parse(text).unwrap().after(Timestamp(1_000));
        assert_eq!(at("1970-01-02"), Timestamp(86_400_000));
        assert_eq!(at("1970-01-01T00:01"), Timestamp(60_000));
        assert_eq!(at("1970-01-01 01:00:00+01:00"), Timestamp(0));
        assert_eq!(at("1970-01-01T00:00:00.5Z"), Timestamp(500));
        assert_eq!(at("9999-12-31T23:59:59.999Z"), Timestamp::MAX);
        assert_eq!(at("9999-12-31"), Timestamp(Timestamp::MAX.0 - 86_399_999));
        assert_eq!(at("2026-11-24T10:00-02:30"), at("2026-11-24T12:30"));
        assert_eq!(at("1764000000000"), Timestamp(1_764_000_000_000));
        assert_eq!(at("0"), Timestamp(0));
        assert_eq!(at("2s"), Timestamp(3_000));
        assert_eq!(Moment::parse("2d").unwrap().before(Timestamp(86_400_000 * 3)), Timestamp(86_400_000));
        let due = |text: &str| Moment::parse(text).unwrap().due(Timestamp(1_000));
        assert_eq!(due("1970-01-02"), Timestamp::ZERO, "at once");
        assert_eq!(due("1973-03-03T09:46:40"), Timestamp::LEAST_DUE);
        assert_eq!(due("2s"), Timestamp(3_000), "refused by the table: the clock is wrong");
        for bad in [
            "",
            "soon",
            "20261124",
            "1764000000",
            "99999999999999999999",
            "-1",
            "1969-12-31",
            "2026-13-01",
            "-5m",
            "10000-01-01",
            "9999-12-31T23:00-01:00",
            "2026-11-24T10:00[Europe/Paris]",
        ] {
            assert!(Moment::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_due_time_in_the_past_is_named() {
        for past in ["-1h", " -30m ", "-1d 2h", "1h ago", "-2026-11-24"] {
            let said = Moment::parse_due(past).unwrap_err();
            assert_eq!(said, "is in the past: leave it out to delete at once", "{past}");
        }
        for bad in ["-", "--dry-run", "-soon", "ago", "-1"] {
            assert!(!Moment::parse_due(bad).unwrap_err().contains("past"), "{bad}");
        }
        assert_eq!(Moment::parse_due("1h"), Ok(Moment::Away(Duration::from_secs(3_600))));
    }

    #[test]
    fn a_due_time_is_shown_in_utc_and_here() {
        let zone = |text: &str| TimeZone::posix(text).unwrap();
        let now = Timestamp::parse("2026-11-26T02:30").unwrap();
        for (due, here, shown) in [
            ("2027-03-28T02:30", "UTC0", "due 2027-03-28 02:30 UTC, in 122 days"),
            ("2027-03-28T02:30", "GMT0BST,M3.5.0/1,M10.5.0", "due 2027-03-28 02:30 UTC (03:30 here), in 122 days"),
            ("2027-03-27T02:30", "GMT0BST,M3.5.0/1,M10.5.0", "due 2027-03-27 02:30 UTC, in 121 days"),
            ("2026-11-26T04:00", "EST5", "due 2026-11-26 04:00 UTC (2026-11-25 23:00 here), in 1h 30m"),
            ("2026-11-27T03:30", "UTC0", "due 2026-11-27 03:30 UTC, in 1d 1h"),
            ("2026-11-26T02:30", "UTC0", "due 2026-11-26 02:30 UTC, which is past: at once"),
            ("2020-01-01", "EST5", "due 2020-01-01 00:00 UTC (2019-12-31 19:00 here), which is past: at once"),
            ("9999-12-31", "EST5", "due 9999-12-31 00:00 UTC, in 2,912,112 days"),
        ] {
            let due = Timestamp::parse(due).unwrap();
            assert_eq!(show_due(due, now, &zone(here)), shown);
        }
        assert_eq!(show_due(Timestamp::ZERO, now, &zone("EST5")), "due at once");
    }
}
