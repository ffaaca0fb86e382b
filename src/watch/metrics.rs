//! Metrics for Prometheus and compatible systems.
//!
//! The worker counts where it judges and settles. Numbers from the database are counted when somebody scrapes. No label names an
//! agent, because there may be thousands; the database, the logs and the holds tell about one.

mod exposition;

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

use crate::{
    model::{
        clock::Timestamp,
        deletion::Kind,
        limits::{ConcurrencyReason, RateReason},
        outcome::Cause,
    },
    queue::{Census, Counts, InEffect, lease::Lease},
};
pub use exposition::Exposition;

/// Buckets in seconds. The API answers in tens of milliseconds, and `api.request_timeout` is 30 s by default.
const DURATIONS: [f64; 13] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Buckets in IDs. The last two tell full requests from others.
const SIZES: [f64; 7] = [1.0, 2.0, 5.0, 10.0, 15.0, 19.0, 20.0];

/// The verdicts as the view `outcomes` names them.
const VERDICTS: [&str; 5] = ["deleted", "absent", "retry", "release", "dead"];
/// The statuses that the decision table names, and the labels for all others.
const STATUSES: [&str; 20] = [
    "200", "400", "401", "403", "404", "405", "408", "410", "413", "415", "422", "429", "500", "501", "502", "503",
    "504", "2xx", "3xx", "4xx",
];
const OTHER_5XX: &str = "5xx";
/// The label of a request without an answer.
const NO_ANSWER: &str = "none";

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct VerdictLabel {
    verdict: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StatusLabel {
    status: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CauseLabel {
    cause: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabels {
    limit: &'static str,
    why: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
}

type Decimal = Gauge<f64, std::sync::atomic::AtomicU64>;

/// The metrics. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    deletions: Family<VerdictLabel, Counter>,
    requests: Family<StatusLabel, Counter>,
    durations: Histogram,
    sizes: Histogram,
    rate: Decimal,
    rate_ceiling: Decimal,
    concurrency_limit: Gauge,
    /// 1 for the reason of each limit, 0 for the others.
    reasons: Family<ReasonLabels, Gauge>,
    in_flight: Gauge,
    leader: Gauge,
    /// That of the worker which runs.
    lease: Mutex<Option<Lease>>,
    unsettled: AtomicUsize,
    /// Empty while the database cannot be read, because an old number would look current.
    depth: Family<StateLabel, Gauge>,
    oldest: Decimal,
    holds: Family<CauseLabel, Gauge>,
}

impl Metrics {
    /// The metrics of a process that began at `started`. All counters are zero.
    #[must_use]
    pub fn new(started: Timestamp) -> Self {
        let inner = Inner {
            registry: Registry::default(),
            deletions: Family::default(),
            requests: Family::default(),
            durations: Histogram::new(DURATIONS),
            sizes: Histogram::new(SIZES),
            rate: Decimal::default(),
            rate_ceiling: Decimal::default(),
            concurrency_limit: Gauge::default(),
            reasons: Family::default(),
            in_flight: Gauge::default(),
            leader: Gauge::default(),
            lease: Mutex::default(),
            unsettled: AtomicUsize::new(0),
            depth: Family::default(),
            oldest: Decimal::default(),
            holds: Family::default(),
        };
        // A counter that appears with its first increment would hide that increment from rate().
        for verdict in VERDICTS {
            drop(inner.deletions.get_or_create(&VerdictLabel { verdict }));
        }
        for status in STATUSES.into_iter().chain([OTHER_5XX, NO_ANSWER]) {
            drop(inner.requests.get_or_create(&StatusLabel { status }));
        }
        let metrics = Self(Arc::new(inner.registered(started)));
        metrics.counted(None);
        metrics
    }

    /// Counts a request and its answer. `status` is `None` without an answer.
    pub fn request(&self, status: Option<u16>, kind: Kind, size: usize, took: Duration) {
        self.0.requests.get_or_create(&StatusLabel { status: status_label(status) }).inc();
        self.0.durations.observe(took.as_secs_f64());
        // A single-entry DELETE always has size 1.
        if kind == Kind::Bulk {
            self.0.sizes.observe(size as f64);
        }
    }

    /// Counts verdicts that were written.
    pub fn settled(&self, counts: &Counts) {
        let Counts { deleted, absent, retried, released, dead } = *counts;
        let counts = [deleted, absent, retried - released, released, dead];
        for (verdict, count) in VERDICTS.into_iter().zip(counts).filter(|(_, count)| *count > 0) {
            self.0.deletions.get_or_create(&VerdictLabel { verdict }).inc_by(count);
        }
    }

    /// Rows that have reached an end.
    #[must_use]
    pub fn ended(&self) -> u64 {
        let ended = ["deleted", "absent", "dead"];
        ended.into_iter().map(|verdict| self.0.deletions.get_or_create(&VerdictLabel { verdict }).get()).sum()
    }

    /// Rows that were deleted.
    #[must_use]
    pub fn deleted(&self) -> u64 {
        self.0.deletions.get_or_create(&VerdictLabel { verdict: "deleted" }).get()
    }

    /// Takes in the limits and the requests after a turn: those in flight, and those that are in flight or not settled yet.
    pub fn turned(&self, limits: &InEffect, in_flight: usize, unsettled: usize) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.0.unsettled.store(unsettled, Ordering::Relaxed);
        self.0.rate.set(limits.requests_per_second);
        self.0.rate_ceiling.set(limits.rate_ceiling);
        self.0.concurrency_limit.set(number(limits.concurrency));
        self.0.in_flight.set(number(in_flight));
        let reasons = RateReason::ALL.map(|reason| ("rate", reason.as_str(), reason == limits.rate_reason));
        let of_concurrency =
            ConcurrencyReason::ALL.map(|reason| ("concurrency", reason.as_str(), reason == limits.concurrency_reason));
        for (limit, why, is_it) in reasons.into_iter().chain(of_concurrency) {
            self.0.reasons.get_or_create(&ReasonLabels { limit, why }).set(i64::from(is_it));
        }
    }

    /// Takes in that this daemon works on the queue under this lease; `None`: that it does not.
    pub fn leads(&self, lease: Option<Lease>) {
        let leads = lease.is_some();
        *self.0.lease.lock().unwrap_or_else(PoisonError::into_inner) = lease;
        if !leads {
            self.0.in_flight.set(0);
            self.0.unsettled.store(0, Ordering::Relaxed);
        }
    }

    /// The number of requests that are in flight or whose answers are not written: what a crash would leave to the next start.
    #[must_use]
    pub fn unsettled(&self) -> usize {
        self.0.unsettled.load(Ordering::Relaxed)
    }

    /// Takes in the numbers from the database. With `None`, because it cannot be read, they are left out.
    pub fn counted(&self, census: Option<&Census>) {
        let Some(Census { tally, holds }) = census else {
            self.0.depth.clear();
            self.0.oldest.set(f64::NAN);
            self.0.holds.clear();
            return;
        };
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let inbox = tally.inbox.map(|count| ("new", count));
        for (state, count) in
            [("pending", tally.pending), ("due", tally.due), ("dead", tally.dead)].into_iter().chain(inbox)
        {
            self.0.depth.get_or_create(&StateLabel { state }).set(number(count));
        }
        self.0.oldest.set(tally.oldest_due.as_secs_f64());
        for cause in Cause::ALL {
            let count = holds.iter().filter(|held| **held == cause).count();
            let label = CauseLabel { cause: cause.as_str() };
            self.0.holds.get_or_create(&label).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// All metrics as text.
    ///
    /// # Errors
    /// Never in practice: writing to a string does not fail.
    pub fn encode(&self, form: Exposition) -> Result<String, fmt::Error> {
        let leads = self.0.lease.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(Lease::is_valid);
        self.0.leader.set(i64::from(leads));
        let mut text = String::new();
        text::encode(&mut text, &self.0.registry)?;
        Ok(form.of(text))
    }
}

impl Inner {
    fn registered(mut self, started: Timestamp) -> Self {
        let build = Info::new(BuildLabels { version: env!("CARGO_PKG_VERSION") });
        let began = Decimal::default();
        began.set(started.0 as f64 / 1e3);
        let r = &mut self.registry;
        r.register("sweeper_build", "The program", build);
        r.register_with_unit("process_start_time", "When the process began, in Unix time", Unit::Seconds, began);
        r.register(
            "sweeper_deletions",
            "Verdicts on rows; a row counts each time it is judged",
            self.deletions.clone(),
        );
        r.register("sweeper_requests", "Requests by the HTTP status of the answer", self.requests.clone());
        let help = "Time from sending a request to the end of its answer, or to its failure";
        r.register_with_unit("sweeper_request_duration", help, Unit::Seconds, self.durations.clone());
        r.register("sweeper_batch_size", "IDs in each bulk request", self.sizes.clone());
        r.register("sweeper_in_flight", "Requests in flight", self.in_flight.clone());
        r.register("sweeper_leader", "1 if this daemon works on the queue, 0 if it stands by", self.leader.clone());
        let help = "The current rate limit: the configured rate, or the adaptive rate below it";
        r.register("sweeper_rate_requests_per_second", help, self.rate.clone());
        let help = "The configured rate limit, which the current one never exceeds";
        r.register("sweeper_rate_ceiling_requests_per_second", help, self.rate_ceiling.clone());
        let help = "The current limit of requests in flight: the configured one, or less if the API bears less";
        r.register("sweeper_concurrency_limit", help, self.concurrency_limit.clone());
        let help = "Why a limit is what it is: 1 for the reason, 0 for the others";
        r.register("sweeper_limit_reason", help, self.reasons.clone());
        let help = "Rows in the database; due rows count as pending, too, and so do new ones: wishes that are not taken in yet";
        r.register("sweeper_queue_depth", help, self.depth.clone());
        let help = "Time since the oldest due row was due, among the rows that are next in their lanes";
        r.register_with_unit("sweeper_oldest_due_age", help, Unit::Seconds, self.oldest.clone());
        r.register("sweeper_holds", "Holds on everything or on an agent", self.holds.clone());
        self
    }
}

/// The label of a status. There are few labels, so that unusual statuses do not become time series.
fn status_label(status: Option<u16>) -> &'static str {
    let Some(status) = status else { return NO_ANSWER };
    STATUSES.into_iter().find(|known| known.parse() == Ok(status)).unwrap_or(match status {
        ..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        500.. => OTHER_5XX,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::clock::Clock, queue::Tally};
    use std::collections::HashSet;

    #[test]
    fn whatever_the_status_there_are_few_labels() {
        let labels: HashSet<&str> = (0..=u16::MAX).map(|status| status_label(Some(status))).collect();
        assert_eq!(labels.len(), STATUSES.len() + 1);
        for (status, label) in
            [(Some(200), "200"), (Some(204), "2xx"), (Some(301), "3xx"), (Some(418), "4xx"), (None, "none")]
        {
            assert_eq!(status_label(status), label);
        }
        assert_eq!((status_label(Some(504)), status_label(Some(599))), ("504", "5xx"));
    }

    #[test]
    fn what_the_database_says_is_left_out_when_it_cannot_be_asked() {
        let metrics = Metrics::new(Timestamp(1_500));
        let has =
            |what: &str| metrics.encode(Exposition::OpenMetrics).unwrap().lines().any(|line| line.starts_with(what));
        assert!(has("process_start_time_seconds 1.5"));
        metrics.counted(Some(&Census { holds: vec![Cause::Operator; 2], ..Census::default() }));
        assert!(has(r#"sweeper_queue_depth{state="dead"} 0"#) && has(r#"sweeper_holds{cause="operator"} 2"#));
        assert!(has("sweeper_oldest_due_age_seconds 0"));
        assert!(!has(r#"sweeper_queue_depth{state="new"}"#), "a file has no inbox");
        let tally = Tally { inbox: Some(7), ..Tally::default() };
        metrics.counted(Some(&Census { tally, ..Census::default() }));
        assert!(has(r#"sweeper_queue_depth{state="new"} 7"#));
        metrics.counted(None);
        assert!(!has("sweeper_queue_depth") && !has("sweeper_holds") && has("sweeper_oldest_due_age_seconds NaN"));
    }

    #[test]
    fn whoever_does_not_know_any_more_whether_it_leads_does_not_count_as_the_leader() {
        let (metrics, clock) = (Metrics::new(Timestamp::ZERO), Clock::manual(Timestamp::ZERO));
        let lease = Lease::new(clock.clone(), Duration::from_secs(3));
        let is = |value: &str| {
            let text = metrics.encode(Exposition::OpenMetrics).unwrap();
            assert!(text.contains(&format!("\nsweeper_leader {value}\n")), "{value}: {text}");
        };
        is("0");
        lease.prolong(lease.begin());
        metrics.leads(Some(lease));
        is("1");
        clock.advance(Duration::from_secs(3));
        is("0");
        metrics.leads(Some(Lease::endless()));
        is("1");
        metrics.leads(None);
        is("0");
    }

    #[test]
    fn verdicts_are_told_apart_as_in_the_database() {
        let metrics = Metrics::new(Timestamp::ZERO);
        metrics.settled(&Counts { deleted: 1, absent: 2, retried: 7, released: 4, dead: 5 });
        assert_eq!(metrics.ended(), 8);
        let text = metrics.encode(Exposition::OpenMetrics).unwrap();
        for (verdict, count) in [("deleted", 1), ("absent", 2), ("retry", 3), ("release", 4), ("dead", 5)] {
            let line = format!("sweeper_deletions_total{{verdict=\"{verdict}\"}} {count}\n");
            assert!(text.contains(&line), "{line} in {text}");
        }
    }
}
