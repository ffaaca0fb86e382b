//! Durations as people write and read them: `250ms`, `30s`, `1h 30m`, `30d`. A day always has 24 hours.

use std::{ops::RangeInclusive, time::Duration};

use jiff::{RoundMode, Span, SpanRelativeTo, SpanRound, Unit};

/// The longest duration that is shown, in milliseconds; a longer one is shown as this. jiff's limit is a little higher.
const LONGEST_MS: i64 = 19_000 * 365 * 86_400_000;

/// Reads a duration that lies within `allowed`.
///
/// # Errors
/// A message with examples and the limits, if `text` is no duration or lies outside of them.
pub fn parse(text: &str, allowed: &RangeInclusive<Duration>) -> Result<Duration, String> {
    let span: Option<Span> = text.trim().parse().ok();
    span.and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()).ok())
        .and_then(|duration| Duration::try_from(duration).ok())
        .filter(|duration| allowed.contains(duration))
        .ok_or_else(|| {
            let (least, most) = (show(*allowed.start()), show(*allowed.end()));
            format!("must be a duration such as 250ms, 30s, 5m or 30d, from {least} to {most}")
        })
}

/// The duration to the millisecond, as the configuration takes it: `1h 30m`.
#[must_use]
pub fn show(duration: Duration) -> String {
    friendly(duration, Unit::Millisecond)
}

/// The two largest units of the duration, rounded down to whole seconds: `2h 3m`.
#[must_use]
pub fn show_roughly(duration: Duration) -> String {
    let smallest = match duration.as_secs() {
        86_400.. => Unit::Hour,
        3_600.. => Unit::Minute,
        _ => Unit::Second,
    };
    friendly(duration, smallest)
}

fn friendly(duration: Duration, smallest: Unit) -> String {
    let ms = i64::try_from(duration.as_millis()).unwrap_or(LONGEST_MS).min(LONGEST_MS);
    let span = Span::new().milliseconds(ms);
    let units = SpanRound::new().largest(Unit::Day).smallest(smallest).mode(RoundMode::Trunc).days_are_24_hours();
    format!("{:#}", span.round(units).unwrap_or(span))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_duration_is_shown_as_it_is_written() {
        let allowed = Duration::ZERO..=Duration::MAX;
        for (duration, written) in [
            (0, "0s"),
            (1, "1ms"),
            (1_500, "1s 500ms"),
            (90_000, "1m 30s"),
            (3_600_000, "1h"),
            (86_399_999, "23h 59m 59s 999ms"),
            (30 * 86_400_000, "30d"),
            (36_500 * 86_400_000, "36500d"),
        ] {
            assert_eq!(show(ms(duration)), written);
            assert_eq!(parse(written, &allowed), Ok(ms(duration)), "{written}");
        }
        assert_eq!(show(Duration::MAX), "6935000d");
        assert_eq!(show(Duration::from_nanos(2_999_999)), "2ms");
        for (written, duration) in [(" 5m ", 300_000), ("1h30m", 5_400_000), ("0.5s", 500), ("PT5M", 300_000)] {
            assert_eq!(parse(written, &allowed), Ok(ms(duration)), "{written}");
        }
    }

    #[test]
    fn a_rough_duration_has_two_units_at_the_most() {
        let spans =
            [(0, "0s"), (59, "59s"), (60, "1m"), (3_661, "1h 1m"), (86_400, "1d"), (90_000, "1d 1h"), (86_460, "1d")];
        for (seconds, shown) in spans {
            assert_eq!(show_roughly(Duration::from_secs(seconds)), shown);
        }
        assert_eq!(show_roughly(ms(999)), "0s");
        assert_eq!(show_roughly(ms(119_999)), "1m 59s");
    }

    #[test]
    fn a_bad_duration_is_refused_with_examples_and_the_limits() {
        let allowed = ms(1)..=Duration::from_secs(86_400);
        for bad in ["", "5", "soon", "-5m", "5s ago", "0s", "25h", "1mo", "1y"] {
            let said = parse(bad, &allowed).unwrap_err();
            assert_eq!(said, "must be a duration such as 250ms, 30s, 5m or 30d, from 1ms to 1d", "{bad}");
        }
    }
}
