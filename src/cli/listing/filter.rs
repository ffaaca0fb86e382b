//! Which of the listed entries to delete.

use clap::Args;
use regex::Regex;

use crate::{api::Entry, cli::times::Moment, model::clock::Timestamp, printable};

/// Which entries of the remote cache to delete: those that match every filter.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "With --from-cache")]
pub(in crate::cli) struct Filter {
    /// Only entries cached before this time, or longer ago than this (such as 30d).
    #[arg(long, value_name = "TIME", value_parser = Moment::parse)]
    cached_before: Option<Moment>,
    /// Only entries that were used less often than this.
    #[arg(long, value_name = "N")]
    hit_count_below: Option<u64>,
    /// Only entries of this provider; upper and lower case are the same.
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Only entries with this voice: the provider's exact ID.
    #[arg(long, value_name = "ID")]
    voice: Option<String>,
    /// Only entries in this language, such as en-GB; upper and lower case are the same.
    #[arg(long, value_name = "CODE")]
    language: Option<String>,
    /// Only entries whose transcript contains a match of this regular expression. (?i) at its start ignores case.
    #[arg(long, value_name = "REGEX", value_parser = regex)]
    transcript_matches: Option<Regex>,
}

fn regex(text: &str) -> Result<Regex, String> {
    // The message has several lines, with a mark below the wrong character.
    Regex::new(text).map_err(|error| printable::lines(&error.to_string()).into_owned())
}

impl Filter {
    /// Whether any filter is given.
    pub(in crate::cli) fn is_given(&self) -> bool {
        let Self { cached_before, hit_count_below, provider, voice, language, transcript_matches } = self;
        let texts = [provider, voice, language];
        cached_before.is_some()
            || hit_count_below.is_some()
            || transcript_matches.is_some()
            || texts.into_iter().any(Option::is_some)
    }

    /// Whether an entry matches; `None` if the API did not return a value that a filter needs. Such an entry must stay,
    /// because a deletion cannot be undone.
    pub(super) fn takes(&self, entry: &Entry, now: Timestamp) -> Option<bool> {
        fn holds<W, V>(wanted: Option<W>, value: Option<V>, test: impl Fn(W, V) -> bool) -> Option<bool> {
            match (wanted, value) {
                (None, _) => Some(true),
                (Some(wanted), Some(value)) => Some(test(wanted, value)),
                (Some(_), None) => None,
            }
        }
        let before = self.cached_before.map(|moment| moment.before(now));
        let same = |wanted: &String, value: &String| wanted.eq_ignore_ascii_case(value);
        let tests = [
            holds(before, entry.cached_at, |before, at| at < before),
            holds(self.hit_count_below, entry.hit_count, |below, count| count < below),
            holds(self.provider.as_ref(), entry.provider.as_ref(), same),
            holds(self.voice.as_ref(), entry.voice.as_ref(), |wanted, voice| wanted == voice),
            holds(self.language.as_ref(), entry.language.as_ref(), same),
            holds(self.transcript_matches.as_ref(), entry.transcript.as_ref(), |regex, text| regex.is_match(text)),
        ];
        // One filter that does not match decides, even if other values are unknown.
        if tests.contains(&Some(false)) { Some(false) } else { tests.iter().all(Option::is_some).then_some(true) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::deletion::EntryId;

    #[test]
    fn an_entry_goes_only_if_every_filter_is_known_to_hold() {
        let text = |text: &str| Some(text.to_owned());
        let entry = Entry {
            id: EntryId::parse("1").unwrap(),
            transcript: text("Hello there"),
            cached_at: Some(Timestamp(1_000)),
            hit_count: Some(3),
            provider: text("ElevenLabs"),
            voice: text("Aa"),
            language: text("en-GB"),
        };
        let now = Timestamp(10_000);
        let none = Filter::default;
        let moment = |text| Moment::parse(text).ok();
        assert_eq!(none().takes(&entry, now), Some(true));
        let cases = [
            (Filter { cached_before: moment("8s"), ..none() }, true),
            (Filter { cached_before: moment("9s"), ..none() }, false),
            (Filter { hit_count_below: Some(4), ..none() }, true),
            (Filter { hit_count_below: Some(3), ..none() }, false),
            (Filter { provider: text("elevenlabs"), ..none() }, true),
            (Filter { provider: text("eleven"), ..none() }, false),
            (Filter { voice: text("Aa"), ..none() }, true),
            (Filter { voice: text("aa"), ..none() }, false),
            (Filter { language: text("EN-gb"), ..none() }, true),
            (Filter { language: text("en"), ..none() }, false),
            (Filter { transcript_matches: Regex::new("lo t").ok(), ..none() }, true),
            (Filter { transcript_matches: Regex::new("^there").ok(), ..none() }, false),
            (Filter { hit_count_below: Some(4), voice: text("b"), ..none() }, false),
        ];
        for (filter, goes) in cases {
            assert_eq!(filter.takes(&entry, now), Some(goes), "{filter:?}");
        }
        let unknown = Entry { hit_count: None, ..entry };
        assert_eq!(Filter { hit_count_below: Some(4), ..none() }.takes(&unknown, now), None);
        assert_eq!(Filter { hit_count_below: Some(4), voice: text("b"), ..none() }.takes(&unknown, now), Some(false));
    }
}
