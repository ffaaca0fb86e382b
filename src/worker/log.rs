//! The worker's log lines.

mod holds;
mod invalid_rows;

use std::{num::NonZeroU32, time::Duration};

use tracing::{debug, info, warn};

pub use holds::{HoldLog, probes};
pub use invalid_rows::InvalidRows;

use super::{Totals, calls::InFlight};
use crate::{
    event,
    model::{
        act::{Act, ActKind},
        outcome::{Cause, Verdict},
    },
    pace::{Changes, ConcurrencyChange, RateChange, rate::Why},
    queue::{Counts, InEffect, Settlement, Tally},
    watch::telemetry::dropped_lines,
};

/// Which requests are logged at info or warn. The others are logged at debug.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoggedRequests {
    /// Every request.
    #[default]
    All,
    /// Requests that failed: no row of theirs is deleted or absent, or they met a fault.
    Failed,
    /// None.
    None,
}

/// Logs a request, each of its rows at debug, and a warning if rows are dead or the API listed IDs that were not sent.
pub fn request(settlement: &Settlement, call: &InFlight, took: Duration, strays: usize, logged: LoggedRequests) {
    let Counts { deleted, absent, retried, released, dead } = settlement.counts();
    let agent = call.batch.lane().agent.as_str();
    let (request, correlation_id) = (settlement.request.0, call.correlation_id.to_string());
    let remote_id = settlement.remote_id.as_ref().filter(|remote_id| **remote_id != correlation_id);
    let has_failed = settlement.fault.is_some() || deleted + absent == 0;
    // A 200 that deletes nothing is no fault. Its rows have the reason.
    let cause = settlement.rows.first().filter(|_| has_failed && settlement.fault.is_none());
    let cause = cause.and_then(|row| row.verdict.cause()).map(Cause::as_str);
    macro_rules! say {
        ($level:ident, $text:literal) => {
            $level!(
                event = event::REQUEST,
                request,
                correlation_id,
                agent,
                kind = call.batch.kind().as_str(),
                size = call.batch.len(),
                status = settlement.status,
                fault = settlement.fault.map(|cause| cause.as_str()),
                cause,
                deleted,
                absent,
                retried,
                released,
                dead,
                took_ms = millis(took),
                remote_id,
                detail = settlement.detail,
                $text
            )
        };
    }
    match (has_failed, logged) {
        (false, LoggedRequests::All) => say!(info, "request answered"),
        (true, LoggedRequests::All | LoggedRequests::Failed) => say!(warn, "request failed"),
        (false, LoggedRequests::Failed | LoggedRequests::None) => say!(debug, "request answered"),
        (true, LoggedRequests::None) => say!(debug, "request failed"),
    }
    rows(settlement, call);
    if strays > 0 {
        warn!(
            event = event::UNEXPECTED_IDS,
            request,
            correlation_id,
            agent,
            ids = strays,
            "the API listed IDs that were not sent"
        );
    }
}

/// Logs each row of a request at debug, and those that are dead in one warning.
fn rows(settlement: &Settlement, call: &InFlight) {
    let agent = call.batch.lane().agent.as_str();
    let request = settlement.request.0;
    let mut dead = Vec::new();
    for (row, judged) in call.batch.deletions().iter().zip(&settlement.rows) {
        if let Verdict::Dead { cause } = judged.verdict {
            dead.push((row.entry.as_str(), cause.as_str(), judged.maybe_done));
        }
        debug!(
            event = event::DELETION,
            request,
            deletion = row.id.0,
            agent,
            entry = row.entry.as_str(),
            verdict = judged.verdict.as_str(),
            cause = judged.verdict.cause().map(|cause| cause.as_str()),
            due_at = judged.verdict.due_at().map(|at| at.0),
            "row judged"
        );
    }
    let Some((_, cause, _)) = dead.first() else { return };
    let entries: Vec<&str> = dead.iter().map(|(entry, _, _)| *entry).collect();
    let unconfirmed = dead.iter().filter(|(_, _, maybe_done)| *maybe_done).count();
    warn!(
        event = event::DEAD,
        request,
        agent,
        cause,
        rows = dead.len(),
        unconfirmed,
        entries = entries.join(","),
        "rows are dead"
    );
}

/// Logs that a single-entry DELETE was refused. Once per process, because the remedy is a configuration key.
pub fn ask_refused(settlement: &Settlement, call: &InFlight) {
    let agent = call.batch.lane().agent.as_str();
    let fault = settlement.fault.map(|cause| cause.as_str());
    warn!(
        event = event::SINGLE_DELETE_REFUSED,
        agent,
        status = settlement.status,
        fault,
        "a single-entry DELETE was refused; if bulk deletes are accepted, retry.ask_singly = false saves these requests"
    );
}

/// Logs that a proxy delivered the answer to another request.
pub fn mixed_up(call: &InFlight, remote_ids: &[String]) {
    let agent = call.batch.lane().agent.as_str();
    let (request, correlation_id, remote_id) = (call.request.0, call.correlation_id.to_string(), remote_ids.join(", "));
    warn!(
        event = event::RESPONSE_MISMATCH,
        request,
        correlation_id,
        remote_id,
        agent,
        "the answer has the correlation ID of another request; it is not believed, and its connection is not used again"
    );
}

/// Logs, once, that answers come with correlation IDs that were never sent: some gateways replace ours.
pub fn foreign_echo(call: &InFlight, remote_ids: &[String]) {
    let (request, correlation_id, remote_id) = (call.request.0, call.correlation_id.to_string(), remote_ids.join(", "));
    warn!(
        event = event::UNKNOWN_CORRELATION_ID,
        request,
        correlation_id,
        remote_id,
        "answers have correlation IDs that were never sent; they are accepted, and answers to other requests cannot be recognised"
    );
}

/// Logs an act of an operator.
pub fn act(act: &Act) {
    let Act { acted_at, kind, operator, scope, rows, detail, ended, .. } = act;
    let (acted_at, name) = (acted_at.0, kind.map_or("unknown", ActKind::as_str));
    let (scope, detail) = (scope.as_deref(), detail.as_deref());
    let on = match scope {
        Some("*") => "everything",
        Some(agent) => agent,
        None => "several agents",
    };
    let count = if *rows == 1 { "1 row".to_owned() } else { format!("{rows} rows") };
    let holds = if *rows == 1 { "1 hold".to_owned() } else { format!("{rows} holds") };
    let what = match kind {
        Some(ActKind::Hold) => format!("held {on}"),
        Some(ActKind::Release) if scope.is_none() => format!("released {holds}, wherever they were"),
        Some(ActKind::Release) => format!("released {on}"),
        Some(ActKind::Retry) => format!("retried {count} of {on}"),
        Some(ActKind::Cancel) => format!("cancelled {count} of {on}"),
        Some(ActKind::Enqueue) => format!("enqueued {count} of {on}"),
        Some(ActKind::Verify) => format!("verified {count} of {on}"),
        None => format!("changed {count} of {on}"),
    };
    let cut = if *ended { "" } else { "; the command has not ended: it waits for its input, or was killed" };
    info!(
        event = event::OPERATOR_ACT,
        act = name,
        acted_at,
        operator,
        scope,
        rows,
        detail,
        ended,
        "{operator} {what}{cut}"
    );
}

/// Logs changes of the limits. `burst`: the configured one. `is_restored`: an earlier daemon has learnt the limits.
pub fn limits(changes: &Changes, burst: NonZeroU32, is_restored: bool) {
    changes.rate.iter().for_each(rate);
    changes.concurrency.iter().for_each(concurrency);
    let Some(is_even) = changes.is_even else { return };
    let (one, burst) = (1, burst.get());
    let (from, to, why) = if is_even { (burst, one, Why::Throttled) } else { (one, burst, Why::Probing) };
    let why = if is_restored { Why::Learnt } else { why };
    if from != to {
        info!(event = event::BURST_CHANGED, from, to, why = why.as_str(), "the most requests at once changed");
    }
}

/// Logs a change of the rate.
pub fn rate(change: &RateChange) {
    let RateChange { from, to, why } = change;
    info!(event = event::RATE_CHANGED, from = rounded(*from), to = rounded(*to), why = why.as_str(), "rate changed");
}

/// Logs a change of the concurrency.
pub fn concurrency(change: &ConcurrencyChange) {
    let ConcurrencyChange { from, to, why } = change;
    info!(event = event::CONCURRENCY_CHANGED, from, to, why = why.as_str(), "the most requests in flight changed");
}

/// Rounds to three decimals for the log.
pub fn rounded(rate: f64) -> f64 {
    (rate * 1e3).round() / 1e3
}

/// Logs the summary.
pub fn summary(tally: &Tally, totals: &Totals, deleted_per_s: f64, in_flight: usize, holds: usize, limits: &InEffect) {
    info!(
        event = event::SUMMARY,
        pending = tally.pending,
        due = tally.due,
        in_flight,
        dead = tally.dead,
        oldest_due_s = tally.oldest_due.as_secs(),
        deleted_per_s,
        holds,
        requests_per_second = rounded(limits.requests_per_second),
        rate_ceiling = rounded(limits.rate_ceiling),
        rate_why = limits.rate_reason.as_str(),
        concurrency = limits.concurrency,
        concurrency_ceiling = limits.concurrency_ceiling,
        concurrency_why = limits.concurrency_reason.as_str(),
        requests_total = totals.requests,
        deleted_total = totals.deleted,
        absent_total = totals.absent,
        dead_total = totals.dead,
        longest_write_ms = millis(totals.longest_write),
        log_lines_dropped = dropped_lines(),
        "summary"
    );
}

/// Whole milliseconds.
pub fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
