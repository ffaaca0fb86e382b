//! An agent's remote cache, listed to its end and sifted.

use std::{collections::HashSet, time::Duration};

use anyhow::anyhow;
use clap::Args;
use regex::Regex;
use tokio::time::sleep;

use super::{
    Failure, Progress, new_uuid,
    times::{Moment, plural, show_time},
    warn_person,
};
use crate::{
    api::{Api, Entry, PAGE_SIZE, Page, Reply},
    config::Config,
    durations,
    model::{
        backoff::{Backoff, Jitter},
        clock::{Clock, Timestamp},
        deletion::{AgentId, EntryId},
        hold::HoldRow,
        outcome::{Cause, Fault, RetryAfter, Scope},
    },
    pace::Permits,
    printable,
    queue::sqlite::{self, Neighbour, OpenError, Reader, sure},
};

/// How often a page is asked for until that is given up.
const MAX_TRIES: u32 = 6;
/// After so many full pages without an entry that is new, an API goes round in circles.
const MAX_IDLE_PAGES: u32 = 3;
/// What takes longer than this is not waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Beside a daemon, a request goes out for every so many of its own.
const SHARE: f64 = 2.0;
/// How many of the entries are kept to be shown.
const SAMPLE: usize = 10;

/// Which entries of the remote cache go: those that all of these hold for.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "With --from-cache")]
pub(super) struct Filter {
    /// Only entries cached before this time, or so long ago (30d, say).
    #[arg(long, value_name = "TIME", value_parser = Moment::parse)]
    cached_before: Option<Moment>,
    /// Only entries that were used less often.
    #[arg(long, value_name = "N")]
    hit_count_below: Option<u64>,
    /// Only entries that this provider synthesized, in upper or lower case.
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Only entries with this voice: the provider's ID of it, exactly.
    #[arg(long, value_name = "ID")]
    voice: Option<String>,
    /// Only entries in this language, such as en-GB, in upper or lower case.
    #[arg(long, value_name = "CODE")]
    language: Option<String>,
    /// Only entries in whose transcript this regular expression matches somewhere ((?i) at its start ignores case).
    #[arg(long, value_name = "REGEX", value_parser = regex)]
    transcript_matches: Option<Regex>,
}

fn regex(text: &str) -> Result<Regex, String> {
    // A syntax error comes in several lines, with a mark below where it is wrong.
    Regex::new(text).map_err(|error| printable::lines(&error.to_string()).into_owned())
}

impl Filter {
    /// Whether there is any.
    pub(super) fn is_given(&self) -> bool {
        let Self { cached_before, hit_count_below, provider, voice, language, transcript_matches } = self;
        let texts = [provider, voice, language];
        cached_before.is_some()
            || hit_count_below.is_some()
            || transcript_matches.is_some()
            || texts.into_iter().any(Option::is_some)
    }

    /// Whether an entry goes; `None` if the API did not say of it what that depends on. Such an entry stays: a deletion
    /// cannot be undone.
    fn takes(&self, entry: &Entry, now: Timestamp) -> Option<bool> {
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
        // One that fails is enough, whatever is unknown.
        if tests.contains(&Some(false)) { Some(false) } else { tests.iter().all(Option::is_some).then_some(true) }
    }
}

/// What a listing found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// What goes.
    pub(super) ids: Vec<EntryId>,
    /// The first few of it.
    pub(super) sample: Vec<Entry>,
    /// How many different entries were listed.
    pub(super) listed: u64,
    /// How many stay because the API does not say of them what a filter asks for.
    pub(super) unknown: u64,
    /// How many have IDs that cannot be enqueued.
    pub(super) unusable: u64,
    /// What speaks against this being all of the cache.
    pub(super) doubts: Vec<String>,
    /// Why it ends before the cache does.
    pub(super) cut_short: Option<anyhow::Error>,
}

/// What the pages of a listing say of the whole cache.
struct Totals {
    /// The number of entries that the pages name, which changes while entries come and go.
    lowest: u64,
    highest: u64,
    /// Entries that were listed again.
    repeats: u64,
}

impl Found {
    /// Takes in an entry that was not listed before.
    fn take(&mut self, entry: Entry, filter: &Filter, now: Timestamp) {
        match filter.takes(&entry, now) {
            Some(true) => {
                self.ids.push(entry.id.clone());
                if self.sample.len() < SAMPLE {
                    self.sample.push(entry);
                }
            }
            Some(false) => {}
            None => self.unknown += 1,
        }
    }

    /// Says what may be missing.
    fn doubt(&mut self, totals: &Totals) {
        let Totals { lowest, highest, repeats } = *totals;
        if lowest != highest {
            self.doubts.push(format!("the cache had {lowest} to {highest} entries while it was listed"));
        }
        if repeats > 0 {
            let entries = plural(repeats, "entry was", "entries were");
            self.doubts.push(format!("{entries} listed twice, and counted once"));
        }
        let listed = self.listed + self.unusable;
        if listed != highest && lowest == highest && self.cut_short.is_none() {
            self.doubts.push(format!("the API says that there are {highest} entries, and listed {listed}"));
        }
    }
}

/// Why there is no page.
enum Halt {
    /// It would take long to get it, and nothing is wrong with those before it.
    Later(anyhow::Error),
    Failed(Failure),
}

impl<E: Into<Failure>> From<E> for Halt {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Where to list, and how patiently.
pub(super) struct Lister {
    api: Api,
    agent: AgentId,
    permits: Permits,
    backoff: Backoff,
    max_retry_after: Duration,
    clock: Clock,
    rng: fastrand::Rng,
    queue: sqlite::Options,
    /// The shortest time between two requests, so that a daemon gets its share of the rate.
    gap: Duration,
    /// Elapsed time from which the next request may go out by that.
    spaced: Duration,
}

impl Lister {
    /// # Errors
    /// If there is no key, or TLS cannot be set up.
    pub(super) fn new(config: &Config, agent: AgentId, clock: Clock, rng: fastrand::Rng) -> Result<Self, Failure> {
        let api = Api::new(config.api()?)?;
        // Its own limiter, for when there is no daemon.
        let permits = Permits::new(config.rate);
        let max_retry_after = config.worker.policy.max_retry_after;
        let (queue, backoff) = (config.store.clone(), config.hold_growth);
        let (gap, spaced) = (Duration::ZERO, Duration::ZERO);
        Ok(Self { api, agent, permits, backoff, max_retry_after, clock, rng, queue, gap, spaced })
    }

    /// Lists the cache to its end.
    ///
    /// # Errors
    /// If the API does not answer a page as promised, after it was asked for several times if that could help.
    pub(super) async fn list(&mut self, filter: &Filter, progress: &mut Progress) -> Result<Found, Failure> {
        let now = self.clock.now();
        let (mut found, mut seen) = (Found::default(), HashSet::new());
        let mut totals = Totals { lowest: u64::MAX, highest: 0, repeats: 0 };
        let (mut offset, mut idle) = (0, 0_u32);
        loop {
            let page = match self.page(offset, progress).await {
                Ok(page) => page,
                Err(Halt::Later(error)) if !seen.is_empty() => {
                    found.cut_short = Some(error);
                    break;
                }
                Err(Halt::Later(error)) => return Err(error.into()),
                Err(Halt::Failed(failure)) => return Err(failure),
            };
            let known = seen.len();
            let length = page.entries.len() as u64 + page.unusable;
            let total = page.total;
            (totals.lowest, totals.highest) = (totals.lowest.min(total), totals.highest.max(total));
            found.unusable += page.unusable;
            for entry in page.entries {
                if seen.insert(entry.id.clone()) {
                    found.take(entry, filter, now);
                } else {
                    totals.repeats += 1;
                }
            }
            offset += length;
            progress.show(|| format!("{offset} of {total} entries listed"));
            // What the API says of its number is not the end: a page that is not full is.
            if length == 0 || (offset >= total && length < PAGE_SIZE) {
                break;
            }
            idle = if seen.len() > known { 0 } else { idle + 1 };
            if idle == MAX_IDLE_PAGES {
                found
                    .doubts
                    .push(format!("the API told of nothing new on {idle} pages in a row, and was not asked for more"));
                break;
            }
        }
        found.listed = seen.len() as u64;
        found.doubt(&totals);
        Ok(found)
    }

    async fn page(&mut self, offset: u64, progress: &mut Progress) -> Result<Page, Halt> {
        let mut tries = 0;
        loop {
            self.make_way(progress).await?;
            while !self.permits.take(self.clock.elapsed()) {
                sleep(self.permits.next().saturating_sub(self.clock.elapsed())).await;
            }
            sleep(self.spaced.saturating_sub(self.clock.elapsed())).await;
            self.permits.leave(self.clock.elapsed());
            self.spaced = self.clock.elapsed() + self.gap;
            let correlation_id = new_uuid(&mut self.rng);
            let reply = self.api.list(&self.agent, offset, correlation_id).await;
            let fault = match reply.result {
                Ok(page) => return Ok(page),
                Err(fault) => fault,
            };
            tries += 1;
            let said = describe(&reply, fault);
            let agent = &self.agent;
            if tries >= MAX_TRIES || !(reply.key_changed || may_pass(fault.cause())) {
                let remedy = remedy(fault.cause());
                return Err(anyhow!(
                    "list the audio cache of {agent}: {said} (correlation ID {correlation_id}){remedy}"
                )
                .into());
            }
            let delay = match self.asked_for(fault) {
                Some(asked) if asked > PATIENCE => {
                    let (span, at) = (durations::show_roughly(asked), show_time(self.clock.now().plus(asked)));
                    return Err(Halt::Later(anyhow!(
                        "list the audio cache of {agent}: {said}, and asks to be left alone for {span}: run it again after {at}"
                    )));
                }
                Some(asked) => asked,
                None => self.backoff.jittered(tries, Jitter::draw(&mut self.rng)),
            };
            progress.clear();
            warn_person(&format!("{said}; trying again in {}", durations::show(delay)));
            sleep(delay).await;
        }
    }

    /// Waits for holds that end soon, and takes a daemon's rate into account.
    async fn make_way(&mut self, progress: &mut Progress) -> Result<(), Halt> {
        loop {
            let found = sure(async || self.neighbour().await).await?;
            let Some(Neighbour { holds, requests_per_second }) = found else { return Ok(()) };
            let gap = requests_per_second.and_then(|rate| Duration::try_from_secs_f64(SHARE / rate).ok());
            self.gap = gap.unwrap_or_default();
            let now = self.clock.now();
            let held = |hold: &HoldRow| hold.until_at.is_none_or(|until| until > now);
            let end = |hold: &HoldRow| hold.until_at.unwrap_or(Timestamp(i64::MAX));
            let Some(hold) = holds.into_iter().filter(held).max_by_key(end) else { return Ok(()) };
            let cause = hold.cause.as_str();
            let on = if hold.scope == Scope::All { "everything" } else { hold.scope.as_str() };
            match hold.until_at.map(|until| until.since(now)) {
                Some(left) if left <= PATIENCE => {
                    progress.clear();
                    warn_person(&format!("{on} is held ({cause}); going on in {}", durations::show(left)));
                    sleep(left).await;
                }
                left => {
                    let end = left.map_or_else(
                        || "until somebody lifts it; that".to_owned(),
                        |left| {
                            format!(
                                "for another {}; run it again then, or lift it before, which",
                                durations::show_roughly(left)
                            )
                        },
                    );
                    return Err(Halt::Later(anyhow!(
                        "list the audio cache of {}: {on} is held ({cause}) {end} is done by `{}`",
                        self.agent,
                        sqlite::lifting(&hold)
                    )));
                }
            }
        }
    }

    /// What the queue tells, if there is one.
    async fn neighbour(&self) -> Result<Option<Neighbour>, OpenError> {
        match Reader::open(&self.queue).await {
            Ok(mut reader) => Ok(Some(reader.neighbour(&self.agent).await?)),
            // It is made when something is enqueued, or somebody is just making it.
            Err(OpenError::Missing(_) | OpenError::Empty(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What the API asks to be left alone for, as far as it is believed.
    fn asked_for(&self, fault: Fault) -> Option<Duration> {
        let asked = match fault {
            Fault::Status { retry_after: Some(RetryAfter::Seconds(seconds)), .. } => Duration::from_secs(seconds),
            Fault::Status { retry_after: Some(RetryAfter::At(at)), .. } => at.since(self.clock.now()),
            Fault::Status { retry_after: None, .. }
            | Fault::Garbled
            | Fault::Lost
            | Fault::Unreachable
            | Fault::Untrusted => return None,
        };
        Some(asked.min(self.max_retry_after).max(self.backoff.base()))
    }
}

fn describe(reply: &Reply<Page>, fault: Fault) -> String {
    let detail = reply.detail.as_ref().map_or_else(String::new, |detail| format!(": {detail}"));
    match reply.status {
        Some(status) => format!("the API answered {status}{detail}"),
        None => format!("no answer ({}){detail}", fault.cause().as_str()),
    }
}

/// Whether asking again may help.
fn may_pass(cause: Cause) -> bool {
    match cause {
        Cause::Throttled | Cause::ServerError | Cause::Lost | Cause::Unreachable | Cause::Garbled => true,
        Cause::ApiFailed
        | Cause::ApiContradicted
        | Cause::ApiSilent
        | Cause::Rejected
        | Cause::Unauthorized
        | Cause::Forbidden
        | Cause::UnknownAgent
        | Cause::Contract
        | Cause::Untrusted
        | Cause::Operator => false,
    }
}

/// What a person can do about it: the end of a message.
fn remedy(cause: Cause) -> &'static str {
    match cause {
        Cause::Unauthorized => "; the API key is wrong, has expired, or is for another region than api.region",
        Cause::Forbidden => "; the API key needs `read` on the audio cache of this agent",
        Cause::UnknownAgent => "; is the agent's ID right, and api.region?",
        Cause::Throttled => "; lower rate_limit.requests_per_second, or try again later",
        Cause::ServerError | Cause::Lost | Cause::Unreachable => "; try again later",
        Cause::Untrusted => "; the issuer of a private certificate goes into api.ca_file, and the proxy is api.proxy",
        Cause::Garbled | Cause::Contract => "; is api.base_url right?",
        Cause::ApiFailed | Cause::ApiContradicted | Cause::ApiSilent | Cause::Rejected | Cause::Operator => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
