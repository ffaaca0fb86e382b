//! Times and numbers as people read them.

use crate::{model::clock::Timestamp, printable};

/// The time as `2026-11-24 10:00:00 UTC`.
pub(crate) fn show_time(at: Timestamp) -> String {
    at.civil().map_or_else(|| format!("{at} ms"), |at| at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
}

/// The time as `2026-11-24T10:00:00.000Z` (RFC 3339).
pub(crate) fn rfc3339(at: Timestamp) -> String {
    at.civil().map_or_else(|| at.to_string(), |at| at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
}

/// The time of day as `10:00:00 UTC`, or the whole time if it is not today.
pub(crate) fn show_clock(at: Timestamp, now: Timestamp) -> String {
    let civil = at.civil().filter(|civil| now.civil().is_some_and(|now| now.date() == civil.date()));
    civil.map_or_else(|| show_time(at), |civil| civil.strftime("%H:%M:%S UTC").to_string())
}

/// The number as `12,345`.
pub(crate) fn show_count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The number with its noun: `1 row`, `12,345 rows`.
pub(crate) fn plural(n: u64, one: &str, many: &str) -> String {
    format!("{} {}", show_count(n), if n == 1 { one } else { many })
}

/// Text from outside for a terminal: on one line, with harmful characters escaped, and cut to `most` characters.
pub(crate) fn show_text(text: &str, most: usize) -> String {
    let mut clean: String = printable::line(text).chars().take(most + 1).collect();
    if clean.chars().count() > most {
        clean = clean.chars().take(most.saturating_sub(1)).collect();
        clean.push('…');
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_short() {
        for (n, shown) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(show_count(n), shown);
        }
        assert_eq!(show_time(Timestamp(1_764_000_000_123)), "2025-11-24 16:00:00 UTC");
        assert_eq!(show_time(Timestamp::MAX), "9999-12-31 23:59:59 UTC");
        assert_eq!(rfc3339(Timestamp(1_764_000_000_023)), "2025-11-24T16:00:00.023Z");
        assert_eq!(rfc3339(Timestamp(1_764_000_000_000)), "2025-11-24T16:00:00.000Z");
        assert_eq!(show_text("a\u{1b}[31m\nb", 20), "a\\u{1b}[31m\\nb");
        assert_eq!(show_text("ääää", 4), "ääää");
        assert_eq!(show_text("äääää", 4), "äää…");
    }
}
