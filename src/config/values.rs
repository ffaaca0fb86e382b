//! Checks of single values. All problems are collected, so that one run of `check` reports all of them.

use std::{fmt::Display, ops::RangeInclusive, path::PathBuf, str::FromStr, time::Duration};

use super::{origin::Origins, paths, shown::HIDDEN};
use crate::{api::key::looks_like_a_key, durations, model::backoff::Backoff};

/// The problems found so far, one line each.
pub(super) struct Problems {
    pub(super) found: Vec<String>,
    /// Where each value was set. A value that is missing here is a default.
    pub(super) origins: Origins,
}

impl Problems {
    /// Adds a problem of a key, without its value.
    pub(super) fn add(&mut self, key: &str, problem: &str) {
        let origin = self.origin(key);
        self.found.push(format!("{key}: {problem}{origin}"));
    }

    /// Adds a problem of a key, with its value, unless that may be the API key in the wrong place.
    pub(super) fn add_shown(&mut self, key: &str, written: &str, problem: &str) {
        let written = if looks_like_a_key(written) { HIDDEN.to_owned() } else { format!("{written:?}") };
        let origin = self.origin(key);
        self.found.push(format!("{key} = {written}: {problem}{origin}"));
    }

    /// Where this key was set, in parentheses; nothing if the value is the default.
    pub(super) fn origin(&self, key: &str) -> String {
        self.origins.get(key).map(|origin| format!(" (set {origin})")).unwrap_or_default()
    }

    /// Returns the parsed value. If there is none, adds the problem and returns `stand_in`, which nobody sees because a
    /// configuration with problems is refused.
    pub(super) fn take<T>(&mut self, key: &str, written: &str, parsed: Result<T, String>, stand_in: T) -> T {
        parsed.unwrap_or_else(|problem| {
            self.add_shown(key, written, &problem);
            stand_in
        })
    }

    pub(super) fn file(&mut self, key: &str, written: &str) -> PathBuf {
        self.take(key, written, paths::file(written), PathBuf::new())
    }

    pub(super) fn duration(&mut self, key: &str, written: &str, allowed: RangeInclusive<Duration>) -> Duration {
        let stand_in = *allowed.end();
        self.take(key, written, durations::parse(written, &allowed), stand_in)
    }

    pub(super) fn number<T: FromStr + PartialOrd + Display + Copy>(
        &mut self,
        key: &str,
        written: &str,
        allowed: RangeInclusive<T>,
    ) -> T {
        let parsed = written
            .trim()
            .parse()
            .ok()
            .filter(|number| allowed.contains(number))
            .ok_or_else(|| format!("must be a number from {} to {}", allowed.start(), allowed.end()));
        let stand_in = *allowed.start();
        self.take(key, written, parsed, stand_in)
    }

    /// One of a few words, whatever its case.
    pub(super) fn word<T: Copy>(&mut self, key: &str, written: &str, allowed: &[(&str, T)], stand_in: T) -> T {
        let words: Vec<&str> = allowed.iter().map(|(word, _)| *word).collect();
        let parsed = allowed
            .iter()
            .find(|(word, _)| word.eq_ignore_ascii_case(written.trim()))
            .map(|(_, meant)| *meant)
            .ok_or_else(|| format!("must be one of {}", words.join(", ")));
        self.take(key, written, parsed, stand_in)
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, key: &str, written: &str) -> bool {
        self.word(key, written, &[("true", true), ("false", false)], true)
    }

    /// The two delays of a section.
    pub(super) fn backoff(&mut self, section: &str, base: &str, max: &str) -> Option<Backoff> {
        let limits = ms(1)..=days(30);
        let base_delay = self.duration(&format!("{section}.base_delay"), base, limits.clone());
        let max_delay = self.duration(&format!("{section}.max_delay"), max, limits);
        Backoff::new(base_delay, max_delay)
            .map_err(|problem| {
                self.add_shown(&format!("{section}.base_delay"), base, &format!("{problem} ({max:?})"));
            })
            .ok()
    }
}

pub(super) const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(super) const fn days(n: u64) -> Duration {
    Duration::from_secs(n * 24 * 60 * 60)
}
