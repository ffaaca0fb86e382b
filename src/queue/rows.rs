//! What every engine knows about rows: when they could go out, and how verdicts are written.

use std::time::Duration;

use serde::Serialize;

use super::Settlement;
use crate::model::{clock::Timestamp, hold::HoldsByScope, outcome::Cause};

/// Since when a row could have been sent: `due_at`, but not before it was enqueued. A `created_at` in the future, from a producer's
/// clock that is ahead of ours, does not count.
pub(super) fn due_since(due_at: i64, created_at: i64, now: Timestamp) -> Timestamp {
    Timestamp(if created_at <= now.0 { due_at.max(created_at) } else { due_at })
}

/// Whether a due row may wait for the rows that failed at the same time in other requests. A `due_at` of 0 is somebody's word that it
/// goes at once.
pub(super) fn is_retry(due_at: i64, attempts: u32, cause: Option<Cause>) -> bool {
    due_at != 0 && attempts > 0 && cause.is_some_and(Cause::gathers)
}

/// For how long a row of this agent has been due, by its `due_at`, `created_at` and last cause.
///
/// A release overwrites a row's due time. A released row counts as waiting since its hold began.
pub(super) fn waited(
    agent: &str,
    (due_at, created_at): (i64, i64),
    cause: Option<Cause>,
    holds: &HoldsByScope<'_>,
    now: Timestamp,
) -> Duration {
    let due_since = due_since(due_at, created_at, now);
    let of = |cause| holds.on(agent).filter(move |hold| hold.cause == cause).map(|hold| hold.since_at).min();
    let held = cause.and_then(of);
    if due_since > now && held.is_none() {
        return Duration::ZERO;
    }
    now.since(held.map_or(due_since, |held| due_since.min(held.max(Timestamp(created_at)))))
}

/// Groups values by key, in the order in which the keys first come. Looks through all groups each time, because keys are few.
pub(super) fn grouped<K: PartialEq, V>(pairs: impl Iterator<Item = (K, V)>) -> Vec<(K, Vec<V>)> {
    let mut groups: Vec<(K, Vec<V>)> = Vec::new();
    for (key, value) in pairs {
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, values)) => values.push(value),
            None => groups.push((key, vec![value])),
        }
    }
    groups
}

/// A request's verdict on some of its rows, as the view `outcomes` reads it in `requests.verdicts`.
#[derive(Serialize)]
pub(super) struct Given {
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'static str>,
    /// Left out if these are all rows of the manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    deletion_ids: Option<Vec<i64>>,
}

/// The verdicts of a request.
pub(super) fn given(settlement: &Settlement) -> Vec<Given> {
    let rows = settlement.rows.iter();
    let groups = grouped(rows.map(|row| ((row.verdict.as_str(), row.verdict.cause().map(Cause::as_str)), row.id.0)));
    let is_all = settlement.is_whole && groups.len() == 1;
    let given = |((verdict, cause), ids)| Given { verdict, cause, deletion_ids: (!is_all).then_some(ids) };
    groups.into_iter().map(given).collect()
}

/// A value as JSON.
pub(super) fn json(value: &impl Serialize) -> String {
    // Numbers and strings, in lists and maps, always have a JSON form.
    serde_json::to_string(value).unwrap_or_default()
}
