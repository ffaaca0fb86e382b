//! Lists the remote cache of an agent.

mod filter;
mod whole;

use std::{collections::HashSet, time::Duration};

use anyhow::anyhow;
use indicatif::ProgressBar;
use tokio::time::sleep;

use super::{
    Failure,
    terminal::warn_person,
    times::{plural, show_count, show_time},
};
use crate::{
    api::{Api, Entry, Order, PAGE_SIZE, Page, Reply},
    config::Config,
    durations,
    model::{
        backoff::{Backoff, Jitter},
        clock::{Clock, Timestamp},
        correlation::new_uuid,
        deletion::{AgentId, EntryId},
        hold::HoldRow,
        outcome::{Cause, Fault, RetryAfter, Scope},
    },
    pace::Permits,
    queue::{
        either::{self, OpenError, Reader},
        report::SharedLimits,
        sqlite::twice_if_damaged,
    },
};
pub(super) use filter::Filter;
pub(super) use whole::{Whole, WholeLister};

/// Requests for one page before giving up.
const MAX_TRIES: u32 = 6;
/// Full pages in a row without a new entry before the API is taken to repeat itself.
const MAX_IDLE_PAGES: u32 = 3;
/// The longest wait for a hold or a Retry-After.
const PATIENCE: Duration = Duration::from_secs(60);
/// Requests of a running daemon for each request of the listing.
const SHARE: f64 = 2.0;
/// Matching entries that are kept to be shown.
const SAMPLE: usize = 10;

/// The result of a listing.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The entries that match.
    pub(super) ids: Vec<EntryId>,
    /// The first few of them.
    pub(super) sample: Vec<Entry>,
    /// Number of different entries that were listed.
    pub(super) listed: u64,
    /// Number of entries that stay because the API did not return a value that a filter needs.
    pub(super) unknown: u64,
    /// Number of entries whose IDs cannot be enqueued.
    pub(super) unusable: u64,
    /// Reasons why entries of the cache may be missing.
    pub(super) doubts: Vec<String>,
    /// Why the listing ends before the cache does.
    pub(super) cut_short: Option<anyhow::Error>,
}

/// What the pages of one listing add up to.
struct Totals {
    /// The lowest and highest total that a page named. It changes while entries come and go.
    lowest: u64,
    highest: u64,
    /// Number of entries that were listed again.
    repeats: u64,
}

impl Found {
    /// Adds an entry that was not listed before.
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

    /// Adds the reasons why entries may be missing.
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
    /// The wait would be long. The pages before it can be used.
    Later(anyhow::Error),
    /// The API rejects a request that asks for an order, or ignores the order. Without it, the listing may succeed.
    Unsorted(anyhow::Error),
    Failed(Failure),
}

impl Halt {
    /// The failure, if there is nothing else to try.
    fn failure(self) -> Failure {
        match self {
            Self::Later(error) | Self::Unsorted(error) => error.into(),
            Self::Failed(failure) => failure,
        }
    }
}

impl<E: Into<Failure>> From<E> for Halt {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Asks for page after page, at a rate that leaves enough for a running daemon.
pub(super) struct Lister {
    api: Api,
    agent: AgentId,
    permits: Permits,
    backoff: Backoff,
    max_retry_after: Duration,
    clock: Clock,
    rng: fastrand::Rng,
    queue: either::Options,
    /// The shortest time between two requests beside a daemon.
    gap: Duration,
    /// Elapsed time at which the gap after the last request ends.
    spaced: Duration,
    /// A hold that a command placed on the agent itself pauses deletions, and does not keep it from being listed.
    lists_held: bool,
}

impl Lister {
    /// # Errors
    /// If there is no API key, or TLS cannot be set up.
    pub(super) fn new(config: &Config, agent: AgentId, clock: Clock, rng: fastrand::Rng) -> Result<Self, Failure> {
        let api = Api::new(config.api()?)?;
        // This limiter is all there is when no daemon runs.
        let permits = Permits::new(config.rate);
        let max_retry_after = config.worker.policy.max_retry_after;
        let (queue, backoff) = (config.store.clone(), config.hold_growth);
        let (gap, spaced) = (Duration::ZERO, Duration::ZERO);
        let lists_held = false;
        Ok(Self { api, agent, permits, backoff, max_retry_after, clock, rng, queue, gap, spaced, lists_held })
    }

    /// Lists the cache to its end.
    ///
    /// # Errors
    /// If the API does not return a page. Faults that may pass are retried first.
    pub(super) async fn list(&mut self, filter: &Filter, progress: &ProgressBar) -> Result<Found, Failure> {
        let now = self.clock.now();
        let (mut found, mut seen) = (Found::default(), HashSet::new());
        let mut totals = Totals { lowest: u64::MAX, highest: 0, repeats: 0 };
        let (mut offset, mut idle) = (0, 0_u32);
        loop {
            let page = match self.page(offset, None, progress).await {
                Ok(page) => page,
                Err(Halt::Later(error)) if !seen.is_empty() => {
                    found.cut_short = Some(error);
                    break;
                }
                Err(halt) => return Err(halt.failure()),
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
            progress.set_position(offset);
            progress.set_message(format!("{} of {} entries listed", show_count(offset), show_count(total)));
            // The total may be outdated: only a page that is not full is the end.
            if length == 0 || (offset >= total && length < PAGE_SIZE) {
                break;
            }
            idle = if seen.len() > known { 0 } else { idle + 1 };
            if idle == MAX_IDLE_PAGES {
                found
                    .doubts
                    .push(format!("the API returned nothing new on {idle} pages in a row, and was not asked for more"));
                break;
            }
        }
        found.listed = seen.len() as u64;
        found.doubt(&totals);
        Ok(found)
    }

    /// Asks for one page, several times if necessary.
    async fn page(&mut self, offset: u64, order: Option<Order>, progress: &ProgressBar) -> Result<Page, Halt> {
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
            let reply = self.api.list(&self.agent, offset, order, correlation_id).await;
            let fault = match reply.result {
                Ok(page) => return Ok(page),
                Err(fault) => fault,
            };
            tries += 1;
            let said = describe(&reply, fault);
            let agent = &self.agent;
            if tries >= MAX_TRIES || !(reply.key_changed || may_pass(fault.cause())) {
                let remedy = remedy(fault.cause());
                let error =
                    anyhow!("list the audio cache of {agent}: {said} (correlation ID {correlation_id}){remedy}");
                let is_unsorted = order.is_some() && fault.cause() == Cause::Rejected;
                return Err(if is_unsorted { Halt::Unsorted(error) } else { error.into() });
            }
            let delay = match self.asked_for(fault) {
                Some(asked) if asked > PATIENCE => {
                    let (span, at) = (durations::show_roughly(asked), show_time(self.clock.now().plus(asked)));
                    return Err(Halt::Later(anyhow!(
                        "list the audio cache of {agent}: {said} with a Retry-After of {span}: run it again after {at}"
                    )));
                }
                Some(asked) => asked,
                None => self.backoff.jittered(tries, Jitter::draw(&mut self.rng)),
            };
            progress.suspend(|| warn_person(&format!("{said}; trying again in {}", durations::show(delay))));
            sleep(delay).await;
        }
    }

    /// Waits for holds that end soon, and sets the gap that a running daemon needs.
    async fn make_way(&mut self, progress: &ProgressBar) -> Result<(), Halt> {
        loop {
            let found = twice_if_damaged(async || self.shared_limits().await).await?;
            let Some(SharedLimits { holds, requests_per_second }) = found else { return Ok(()) };
            let gap = requests_per_second.and_then(|rate| Duration::try_from_secs_f64(SHARE / rate).ok());
            self.gap = gap.unwrap_or_default();
            let now = self.clock.now();
            let is_passed =
                |hold: &HoldRow| self.lists_held && hold.scope != Scope::All && hold.cause.is_of_a_command();
            let held = |hold: &HoldRow| hold.until_at.is_none_or(|until| until > now) && !is_passed(hold);
            let end = |hold: &HoldRow| hold.until_at.unwrap_or(Timestamp(i64::MAX));
            let Some(hold) = holds.into_iter().filter(held).max_by_key(end) else { return Ok(()) };
            let cause = hold.cause.as_str();
            let on = if hold.scope == Scope::All { "everything" } else { hold.scope.as_str() };
            match hold.until_at.map(|until| until.since(now)) {
                Some(left) if left <= PATIENCE => {
                    let text = format!("{on} is held ({cause}); going on in {}", durations::show(left));
                    progress.suspend(|| warn_person(&text));
                    sleep(left).await;
                }
                left => {
                    let end = left.map_or_else(
                        || "until somebody lifts the hold".to_owned(),
                        |left| {
                            format!(
                                "for another {}; run it again then, or lift the hold",
                                durations::show_roughly(left)
                            )
                        },
                    );
                    return Err(Halt::Later(anyhow!(
                        "list the audio cache of {}: {on} is held ({cause}) {end} with `{}`",
                        self.agent,
                        HoldRow::command_to_lift(&hold.scope, hold.cause)
                    )));
                }
            }
        }
    }

    /// The holds and the daemon's rate, if there is a queue.
    async fn shared_limits(&self) -> Result<Option<SharedLimits>, OpenError> {
        match Reader::open(&self.queue).await {
            Ok(mut reader) => Ok(Some(reader.shared_limits(&self.agent).await?)),
            // Enqueueing creates it, or another process is just creating it.
            Err(error) if error.is_without_tables() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The Retry-After of an answer, clamped to the configured limits.
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

/// Whether another try may help.
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
        | Cause::Operator
        | Cause::Verify => false,
    }
}

/// What a person can do about a cause, as the end of a message.
fn remedy(cause: Cause) -> &'static str {
    match cause {
        Cause::Unauthorized => "; the API key is wrong, has expired, or belongs to another region than api.region",
        Cause::Forbidden => "; the API key needs `read` on the audio cache of this agent",
        Cause::UnknownAgent => "; check the agent's ID and api.region",
        Cause::Throttled => "; lower rate_limit.requests_per_second, or try again later",
        Cause::ServerError | Cause::Lost | Cause::Unreachable => "; try again later",
        Cause::Untrusted => "; put the issuer of a private certificate into api.ca_file, and check api.proxy",
        Cause::Garbled | Cause::Contract => "; check api.base_url",
        Cause::ApiFailed
        | Cause::ApiContradicted
        | Cause::ApiSilent
        | Cause::Rejected
        | Cause::Operator
        | Cause::Verify => "",
    }
}
