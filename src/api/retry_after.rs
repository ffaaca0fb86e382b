//! `Retry-After` in the forms that servers and proxies really send.

use std::time::Duration;

use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};

use super::reply::text_headers;
use crate::model::{clock::Timestamp, outcome::RetryAfter};

/// The longest wait among all values of `Retry-After`. Values that cannot be read are skipped.
///
/// A date is turned into seconds with the response's own `Date`, so that a wrong clock on either side makes no difference.
/// Without a `Date`, the date stays a date. If the header has both such a date and seconds, the seconds are taken, because
/// comparing them would need a clock.
pub(super) fn parse(headers: &HeaderMap) -> Option<RetryAfter> {
    let sent_at = text_headers(headers, DATE.as_str()).find_map(date);
    let wishes = text_headers(headers, RETRY_AFTER.as_str()).flat_map(wishes).map(|wish| match (wish, sent_at) {
        (RetryAfter::At(at), Some(sent_at)) => RetryAfter::Seconds(whole_seconds(at.since(sent_at))),
        (wish, _) => wish,
    });
    wishes.reduce(|one, other| match (one, other) {
        (RetryAfter::Seconds(one), RetryAfter::Seconds(other)) => RetryAfter::Seconds(one.max(other)),
        (RetryAfter::At(one), RetryAfter::At(other)) => RetryAfter::At(one.max(other)),
        (seconds @ RetryAfter::Seconds(_), RetryAfter::At(_)) | (RetryAfter::At(_), seconds) => seconds,
    })
}

/// The most parts of a header line that are read.
const MAX_PARTS: usize = 16;

/// The values in one header line. Proxies join several values with commas, and HTTP dates have a comma of their own.
fn wishes(line: &str) -> Vec<RetryAfter> {
    let parts: Vec<&str> = line.split(',').take(MAX_PARTS).collect();
    let mut wishes = Vec::new();
    let mut at = 0;
    while let Some(part) = parts.get(at) {
        let joined = parts.get(at + 1).and_then(|next| date(&format!("{part},{next}")));
        at += if joined.is_some() { 2 } else { 1 };
        let wish = joined.or_else(|| date(part)).map(RetryAfter::At);
        wishes.extend(wish.or_else(|| seconds(part).map(RetryAfter::Seconds)));
    }
    wishes
}

/// `30`, `30.5`, `30s`: whole seconds, rounded up.
pub(super) fn seconds(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let number = ["seconds", "second", "secs", "sec", "s"].iter().find_map(|unit| text.strip_suffix(unit));
    let number = number.unwrap_or(&text).trim_end();
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let more = u64::from(fraction.bytes().any(|digit| digit != b'0'));
    // A number with too many digits is a long time, which the caller clamps.
    Some(whole.parse().unwrap_or(u64::MAX).saturating_add(more))
}

fn whole_seconds(span: Duration) -> u64 {
    span.as_secs().saturating_add(u64::from(span.subsec_nanos() > 0))
}

/// Reads a date in the forms of RFC 9110, also with `UTC` or an offset in place of `GMT`, and in those of RFC 3339.
pub(super) fn date(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    if let Ok(at) = httpdate::parse_http_date(text) {
        return Some(at.into());
    }
    if let Some(at) = text.strip_suffix("UTC").and_then(|date| httpdate::parse_http_date(&format!("{date}GMT")).ok()) {
        return Some(at.into());
    }
    let at: Option<jiff::Timestamp> = jiff::fmt::rfc2822::parse(text).ok().map(|at| at.timestamp());
    let at = at.or_else(|| text.parse().ok())?;
    Some(Timestamp(at.as_millisecond())).filter(|at| (Timestamp::ZERO..=Timestamp::MAX).contains(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1994-11-06T08:49:37Z.
    const THEN: Timestamp = Timestamp(784_111_777_000);
    const SENT: &str = "Sun, 06 Nov 1994 08:49:07 GMT";

    fn read(values: &[&str], date: Option<&str>) -> Option<RetryAfter> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(RETRY_AFTER, value.parse().unwrap());
        }
        if let Some(date) = date {
            headers.append(DATE, date.parse().unwrap());
        }
        parse(&headers)
    }

    #[test]
    fn every_form_that_is_really_sent_is_read_and_everything_else_is_none() {
        let seconds = |seconds| Some(RetryAfter::Seconds(seconds));
        let then = Some(RetryAfter::At(THEN));
        let cases: &[(&[&str], Option<RetryAfter>)] = &[
            (&["7"], seconds(7)),
            (&[" 7 "], seconds(7)),
            (&["0"], seconds(0)),
            (&["007"], seconds(7)),
            (&["2", "30"], seconds(30)),
            (&["30", "2"], seconds(30)),
            (&["2, 30"], seconds(30)),
            (&["30,2,soon"], seconds(30)),
            (&["30.0"], seconds(30)),
            (&["30.5"], seconds(31)),
            (&["30.000001"], seconds(31)),
            (&["30s"], seconds(30)),
            (&["30 s"], seconds(30)),
            (&["30.5 Seconds"], seconds(31)),
            (&["99999999999999999999999"], seconds(u64::MAX)),
            (&["18446744073709551615.5"], seconds(u64::MAX)),
            (&["Sun, 06 Nov 1994 08:49:37 GMT"], then),
            (&["Sunday, 06-Nov-94 08:49:37 GMT"], then),
            (&["Sun Nov  6 08:49:37 1994"], then),
            (&["Sun, 06 Nov 1994 08:49:37 UTC"], then),
            (&["Sun, 06 Nov 1994 08:49:37 +0000"], then),
            (&["Sun, 06 Nov 1994 10:49:37 +0200"], then),
            (&["1994-11-06T08:49:37Z"], then),
            (&["1994-11-06T09:49:37.000+01:00"], then),
            (&["1994-11-06 08:49:37+00:00"], then),
            (&["Sun, 06 Nov 1994 08:49:07 GMT, Sun, 06 Nov 1994 08:49:37 GMT"], then),
            (&["Sun, 06 Nov 1994 08:49:37 GMT", SENT], then),
            (&["Sun, 06 Nov 1994 08:49:37 GMT, 5"], seconds(5)),
            (&["5", "1994-11-06T08:49:37Z"], seconds(5)),
            (&[], None),
            (&[""], None),
            (&[","], None),
            (&["-1"], None),
            (&["+1"], None),
            (&["soon"], None),
            (&["NaN"], None),
            (&["inf"], None),
            (&["1e3"], None),
            (&["0x10"], None),
            (&["1."], None),
            (&[".5"], None),
            (&["1.2.3"], None),
            (&["s"], None),
            (&["30ms"], None),
            (&["5m"], None),
            (&["1994-11-06"], None),
            (&["1994-11-06T08:49:37"], None),
            (&["Sun, 06 Nov 1994"], None),
            (&["1899-12-31T00:00:00Z"], None),
        ];
        for (values, expected) in cases {
            assert_eq!(read(values, None), *expected, "{values:?}");
        }
    }

    #[test]
    fn a_date_is_read_against_the_answer_s_own_date() {
        for (wish, seconds) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", 30),
            ("Sun, 06 Nov 1994 08:49:37 UTC", 30),
            ("1994-11-06T08:49:37.001Z", 31),
            ("Sun, 06 Nov 1994 08:49:07 GMT", 0),
            ("Sun, 06 Nov 1994 08:00:00 GMT", 0),
            ("20, Sun, 06 Nov 1994 08:49:37 GMT", 30),
            ("40, Sun, 06 Nov 1994 08:49:37 GMT", 40),
            ("7", 7),
        ] {
            assert_eq!(read(&[wish], Some(SENT)), Some(RetryAfter::Seconds(seconds)), "{wish}");
        }
        assert_eq!(read(&["1994-11-06T08:49:37Z"], Some("today")), Some(RetryAfter::At(THEN)));
        assert_eq!(read(&["soon"], Some(SENT)), None);
    }
}
