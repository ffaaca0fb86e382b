//! The headers in which gateways tell their rate limits, in the forms that are really sent:
//!
//! * `RateLimit-Policy: "default";q=100;w=60` and `RateLimit: "default";r=50;t=30`, as in the IETF's drafts from 08 on
//!   (draft-ietf-httpapi-ratelimit-headers);
//! * `RateLimit-Policy: 100;w=60` and `RateLimit: limit=100, remaining=50, reset=5`, as in draft 07;
//! * `RateLimit-Limit: 100, 100;w=60`, `RateLimit-Remaining` and `RateLimit-Reset`, as in earlier drafts; with `X-` before them,
//!   too;
//! * `X-RateLimit-Limit-Minute` and `X-RateLimit-Remaining-Minute`, as Kong sends them for each of its windows.
//!
//! A parser of structured fields would refuse a whole list for one wrong member, and the older forms are none. So this one
//! splits lines itself, and leaves out whatever it cannot read. A window with nonsense in it is left out as a whole.

use std::time::Duration;

use reqwest::header::{DATE, HeaderMap};

use super::{
    reply::text_headers,
    retry_after::{date, seconds},
};
use crate::model::{clock::Timestamp, window::Window};

/// The most lines of a header, the longest line in bytes, and the most members of a line that are read.
const MAX_LINES: usize = 8;
const MAX_LINE_BYTES: usize = 2_048;
const MAX_MEMBERS: usize = 16;

/// The most windows that are returned. Kong has six.
const MAX_WINDOWS: usize = 8;

/// The windows for which Kong has headers of their own, with their lengths in seconds.
const KONG: [(&str, u64); 4] = [("second", 1), ("minute", 60), ("hour", 3_600), ("day", 86_400)];

/// A reset above this many seconds is no time to wait.
const MAX_WAIT_S: u64 = 31 * 86_400;
/// A reset from here on is a Unix time in seconds (2001), and from the other on in milliseconds (1973).
const UNIX_S: u64 = 1_000_000_000;
const UNIX_MS: u64 = 100_000_000_000;

/// The windows that the headers tell: at most one of each length, and one of unknown length.
pub(super) fn parse(headers: &HeaderMap) -> Vec<Window> {
    let answered_at = text_headers(headers, DATE.as_str()).find_map(date);
    let mut told = Told { windows: kong(headers), answered_at };
    told.current(headers);
    for prefix in ["ratelimit", "x-ratelimit"] {
        let first = |name: &str| values(headers, &format!("{prefix}-{name}"));
        told.expiring([first("limit"), first("remaining"), first("reset")]);
    }
    let mut windows: Vec<Window> = Vec::new();
    for window in told.windows.into_iter().filter(|window| window.is_sensible() && window.says_something()) {
        match windows.iter_mut().find(|known| known.length == window.length) {
            Some(known) => *known = known.stricter(window),
            None => windows.push(window),
        }
    }
    windows.truncate(MAX_WINDOWS);
    windows
}

/// The windows so far.
struct Told {
    windows: Vec<Window>,
    /// The answer's `Date`, against which a reset that is a Unix time is read.
    answered_at: Option<Timestamp>,
}

impl Told {
    /// Reads `RateLimit` and `RateLimit-Policy`, and the policies in `RateLimit-Limit`.
    fn current(&mut self, headers: &HeaderMap) {
        let (policies, lines) = (lines(headers, "ratelimit-policy"), lines(headers, "ratelimit"));
        let policies = policies.iter().flat_map(|line| members(line));
        let mut policies: Vec<(&str, Option<Window>)> =
            policies.map(|policy| (policy.name(), policy.quota())).collect();
        let mut rest = Vec::new();
        for line in &lines {
            let members = members(line);
            // In draft 07, the line is a dictionary.
            if members.iter().any(|member| member.item.contains('=') && !member.item.starts_with('"')) {
                let of = |name: &str| {
                    let entries = members.iter().filter_map(|member| member.item.split_once('='));
                    entries.filter(|(key, _)| key.trim().eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
                };
                rest.push([of("limit"), of("remaining"), of("reset")]);
                continue;
            }
            for member in members {
                let known = policies.iter_mut().find(|(name, _)| *name == member.name());
                let base = known.as_ref().map_or_else(|| member.quota(), |(_, window)| *window);
                let window = base.and_then(|base| self.reading(base, member.get("r"), member.get("t")));
                match known {
                    Some((_, policy)) => *policy = window,
                    None => self.windows.extend(window),
                }
            }
        }
        self.windows.extend(policies.into_iter().filter_map(|(_, window)| window));
        let limits = [lines_of_policies(headers, "ratelimit-limit"), lines_of_policies(headers, "x-ratelimit-limit")];
        self.windows.extend(limits.into_iter().flatten());
        rest.into_iter().for_each(|told| self.expiring(told));
    }

    /// Adds what is left of the window to `base`; `None` if one of the two is nonsense.
    fn reading(&self, base: Window, remaining: Option<&str>, reset: Option<&str>) -> Option<Window> {
        let remaining = remaining.map(number);
        if remaining == Some(None) {
            return None;
        }
        let reset = match reset {
            Some(text) => self.reset(text)?,
            None => None,
        };
        Some(Window { remaining: remaining.flatten(), reset, ..base })
    }

    /// Reads limit, remaining and reset of the window that is used up first. Its length is that of a window with the same limit
    /// that is told elsewhere. Kong tells this window twice.
    fn expiring(&mut self, [limits, remaining, resets]: [Vec<&str>; 3]) {
        let limits: Vec<Option<u32>> = limits.first().into_iter().map(|first| number(first)).collect();
        let remaining: Option<Vec<u32>> = remaining.into_iter().map(number).collect();
        let resets: Option<Vec<Option<Duration>>> = resets.into_iter().map(|reset| self.reset(reset)).collect();
        let (Some(remaining), Some(resets)) = (remaining, resets) else { return };
        if limits.contains(&None) {
            return;
        }
        let told = Window {
            limit: limits.first().copied().flatten(),
            length: None,
            remaining: remaining.into_iter().min(),
            reset: resets.into_iter().flatten().max(),
        };
        let same = |window: &&mut Window| {
            let of_both = Window { length: window.length, ..told };
            let is_same_limit = told.limit.is_none_or(|limit| window.limit == Some(limit));
            let is_same_rest = window.remaining.is_none_or(|remaining| told.remaining == Some(remaining));
            window.length.is_some() && window.reset.is_none() && is_same_limit && is_same_rest && of_both.is_sensible()
        };
        match self.windows.iter_mut().filter(same).max_by_key(|window| window.length) {
            Some(window) => {
                let Window { remaining, reset, .. } = told;
                *window = Window { remaining: remaining.or(window.remaining), reset, ..*window };
            }
            None => self.windows.push(told),
        }
    }

    /// The time until a reset, rounded up to a second. `Some(None)` if it is not clear, and `None` if it is nonsense.
    fn reset(&self, text: &str) -> Option<Option<Duration>> {
        let told = seconds(text)?;
        if told <= MAX_WAIT_S {
            return Some(Some(Duration::from_secs(told)));
        }
        if told < UNIX_S {
            return Some(None);
        }
        let ms = if told < UNIX_MS { told.saturating_mul(1_000) } else { told };
        let at = Timestamp(i64::try_from(ms).ok()?);
        Some(self.answered_at.map(|answered_at| at.since(answered_at)))
    }
}

/// Kong's windows. The time of their reset is told for one of them only, and elsewhere.
fn kong(headers: &HeaderMap) -> Vec<Window> {
    let window = |(unit, length): (&str, u64)| {
        let told = |what: &str| {
            let values = values(headers, &format!("x-ratelimit-{what}-{unit}"));
            values.into_iter().map(number).collect::<Option<Vec<u32>>>()
        };
        let (limit, remaining) = (told("limit")?.into_iter().min()?, told("remaining")?.into_iter().min());
        Some(Window { limit: Some(limit), length: Some(Duration::from_secs(length)), remaining, reset: None })
    };
    KONG.into_iter().filter_map(window).collect()
}

/// The policies in a `RateLimit-Limit` such as `100, 100;w=60`.
fn lines_of_policies(headers: &HeaderMap, name: &str) -> Vec<Window> {
    let lines = lines(headers, name);
    let policies = lines.iter().flat_map(|line| members(line)).filter(|member| member.get("w").is_some());
    policies.filter_map(|policy| policy.quota()).collect()
}

/// A member of a list, such as `"default";q=100;w=60`.
struct Member<'h> {
    item: &'h str,
    parameters: Vec<(&'h str, &'h str)>,
}

impl<'h> Member<'h> {
    fn parse(text: &'h str) -> Self {
        let mut parts = split(text, ';').into_iter().map(str::trim);
        let item = parts.next().unwrap_or_default();
        let parameters = parts.map(|part| part.split_once('=').unwrap_or((part, "")));
        Self { item, parameters: parameters.map(|(key, value)| (key.trim_end(), unquoted(value.trim()))).collect() }
    }

    fn name(&self) -> &'h str {
        unquoted(self.item)
    }

    /// The value of a parameter: the last one, as in structured fields.
    fn get(&self, key: &str) -> Option<&'h str> {
        let mut found = self.parameters.iter().rev().filter(|(known, _)| known.eq_ignore_ascii_case(key));
        found.next().map(|(_, value)| *value)
    }

    /// The limit and the length of a policy; `None` if one of them is nonsense, or if it does not count requests.
    fn quota(&self) -> Option<Window> {
        if self.get("qu").is_some_and(|unit| !["request", "requests"].contains(&unit)) {
            return None;
        }
        let limit = match self.get("q") {
            Some(quota) => Some(number(quota)?),
            None if self.item.starts_with(|c: char| c.is_ascii_digit() || c == '-') => Some(number(self.item)?),
            None => None,
        };
        let length = match self.get("w") {
            Some(length) => Some(Duration::from_secs(number(length)?.into())),
            None => None,
        };
        Some(Window { limit, length, ..Window::default() })
    }
}

/// The lines of a header that are short enough.
fn lines<'h>(headers: &'h HeaderMap, name: &str) -> Vec<&'h str> {
    text_headers(headers, name).filter(|line| line.len() <= MAX_LINE_BYTES).take(MAX_LINES).collect()
}

fn members(line: &str) -> Vec<Member<'_>> {
    split(line, ',').into_iter().take(MAX_MEMBERS).map(Member::parse).collect()
}

/// The items of all members of a header, such as the numbers of `RateLimit-Remaining`. Parameters are left out.
fn values<'h>(headers: &'h HeaderMap, name: &str) -> Vec<&'h str> {
    let lines = lines(headers, name);
    lines.into_iter().flat_map(members).filter(|member| member.get("w").is_none()).map(|member| member.item).collect()
}

/// Splits at each separator outside of quotes.
fn split(text: &str, separator: char) -> Vec<&str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let separates = |c: char| {
        let is_text = is_quoted;
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            _ => {}
        }
        c == separator && !is_text
    };
    text.split(separates).collect()
}

fn unquoted(text: &str) -> &str {
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text)
}

/// A number of requests or seconds, without a sign.
fn number(text: &str) -> Option<u32> {
    let text = text.trim();
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
#[path = "rate_headers_tests.rs"]
mod tests;
