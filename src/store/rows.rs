//! What goes into the statements and comes out of them.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use crate::{
    clock::Timestamp,
    deletion::{ALONE, AgentId, Batch, Deletion, DeletionId, EntryId, Lane, MAX_BATCH_SIZE, RequestId, State},
    hold::HoldRow,
    outcome::{Cause, Judged, Scope, Verdict},
};

/// A request that was claimed and never answered: its daemon died.
#[derive(Debug, PartialEq, Eq)]
pub struct Orphan {
    /// The request.
    pub request: RequestId,
    /// What of its manifest is still pending; none if an operator took all of it out.
    pub batch: Option<Batch>,
}

/// What a look at a lane found.
#[derive(Debug, PartialEq, Eq)]
pub struct Look {
    /// Due rows, in the order in which they go out.
    pub due: Vec<DueRow>,
    /// Rows that no request can carry, or that are never due: their CHECKs were switched off for the INSERT.
    pub unusable: Vec<DeletionId>,
    /// When the first row that is not due yet will be.
    pub next_due_at: Option<Timestamp>,
}

impl Look {
    /// Takes in what a second look at the same lane found, whose time has come: the row that could have gone first comes
    /// first; with `as_they_are`, those that were found first.
    pub(super) fn merge(&mut self, later: Self, most: usize, as_they_are: bool) {
        self.due.extend(later.due);
        if !as_they_are {
            // Both are in this order, and the sort finds that out.
            self.due.sort_by_key(|row| (row.turn, row.deletion.id));
        }
        self.due.truncate(most);
        self.unusable.extend(later.unusable);
        self.next_due_at = later.next_due_at;
    }
}

/// A row that may be claimed.
#[derive(Debug, PartialEq, Eq)]
pub struct DueRow {
    /// The row.
    pub deletion: Deletion,
    /// Since when it could have been sent.
    pub due_since: Timestamp,
    /// What its turn goes by: its time, or, if it is due at once, when it was enqueued.
    pub turn: Timestamp,
    /// It comes back from an attempt that failed, and counted.
    pub is_retry: bool,
}

/// A batch about to be sent.
#[derive(Debug)]
pub struct Claim {
    /// From [`super::Write::next_request_id`].
    pub request: RequestId,
    /// The UUID that goes with it.
    pub correlation_id: uuid::Uuid,
    /// Its content.
    pub batch: Batch,
}

/// An answered request, judged.
#[derive(Debug)]
pub struct Settlement {
    /// The request.
    pub request: RequestId,
    /// When its answer was judged.
    pub answered_at: Timestamp,
    /// The HTTP status, if there was one.
    pub status: Option<u16>,
    /// The cause, unless it was an answer.
    pub fault: Option<Cause>,
    /// What was said with it.
    pub detail: Option<String>,
    /// The correlation ID that came back.
    pub remote_id: Option<String>,
    /// What becomes of its rows.
    pub rows: Vec<Judged>,
    /// Those are all that it was sent with; of one that a crash left unanswered, some may be gone.
    pub is_whole: bool,
}

/// How many rows got each kind of verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Deleted.
    pub deleted: u64,
    /// Not there.
    pub absent: u64,
    /// To come back.
    pub retried: u64,
    /// Of them, those whose attempt does not count.
    pub released: u64,
    /// Given up.
    pub dead: u64,
}

impl Settlement {
    /// How many rows got each kind of verdict.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for row in &self.rows {
            let count = match row.verdict {
                Verdict::Deleted => &mut counts.deleted,
                Verdict::Absent => &mut counts.absent,
                Verdict::Retry { .. } => &mut counts.retried,
                Verdict::Release { .. } => {
                    counts.released += 1;
                    &mut counts.retried
                }
                Verdict::Dead { .. } => &mut counts.dead,
            };
            *count += 1;
        }
        counts
    }
}

/// What one step of pruning did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pruned {
    /// Rows removed, of all tables.
    pub removed: u64,
    /// The end of the tables is not reached yet.
    pub more: bool,
}

/// How the queue stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Open rows.
    pub pending: u64,
    /// Of them, those whose time has come, sent or not.
    pub due: u64,
    /// Dead rows that are still kept.
    pub dead: u64,
    /// How long the oldest due row has been due.
    pub oldest_due: Duration,
}

/// How the queue stands, and what holds it up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// The rows.
    pub tally: Tally,
    /// The cause of each hold.
    pub holds: Vec<Cause>,
}

/// The first row's id, the lane, and when that row is due; no lane if a value of it is none that the lane's column has.
pub(super) fn lane_row(row: &SqliteRow) -> Result<(DeletionId, Option<(Lane, Timestamp)>), sqlx::Error> {
    let head = DeletionId(row.try_get(5)?);
    let lane = || {
        let agent = AgentId::parse(row.try_get(1).ok()?).ok()?;
        let lane = Lane { priority: row.try_get(0).ok()?, agent, batch_max: row.try_get(2).ok()? };
        Some((lane, Timestamp(row.try_get(3).ok()?)))
    };
    Ok((head, lane()))
}

/// The holds, as far as they are on anything.
pub(super) async fn holds(conn: &mut SqliteConnection) -> Result<Vec<HoldRow>, sqlx::Error> {
    let rows = sqlx::query("SELECT scope, cause, since_at, until_at, repeats, probed_at FROM holds").fetch_all(conn);
    Ok(rows.await?.iter().filter_map(hold_row).collect())
}

/// The same of these scopes: [scope, …].
pub(super) async fn holds_of(conn: &mut SqliteConnection, scopes: &str) -> Result<Vec<HoldRow>, sqlx::Error> {
    let query = "SELECT scope, cause, since_at, until_at, repeats, probed_at FROM holds
        WHERE scope IN (SELECT value FROM json_each(?1))";
    Ok(sqlx::query(query).bind(scopes).fetch_all(conn).await?.iter().filter_map(hold_row).collect())
}

/// `None` if it is on nothing that is or could be an agent. What else of it makes no sense is taken for what holds
/// longer: a deletion cannot be undone.
fn hold_row(row: &SqliteRow) -> Option<HoldRow> {
    let scope = match row.try_get(0).ok()? {
        "*" => Scope::All,
        agent => Scope::Agent(AgentId::parse(agent).ok()?),
    };
    Some(HoldRow {
        scope,
        cause: row.try_get(1).ok().and_then(Cause::parse).unwrap_or(Cause::Operator),
        since_at: Timestamp(row.try_get(2).unwrap_or(0)),
        until_at: row.try_get::<Option<i64>, _>(3).ok().flatten().map(Timestamp),
        repeats: row.try_get::<i64, _>(4).ok().and_then(|repeats| u32::try_from(repeats).ok()).unwrap_or(u32::MAX),
        probed_at: row.try_get::<Option<i64>, _>(5).ok().flatten().map(Timestamp),
    })
}

/// [id, entry_id or null if it is no text, attempts, asks, maybe_done, due_at, created_at, last_cause, request_id,
/// first_fault, evidence]
#[derive(Deserialize)]
struct RawDeletion(
    i64,
    Option<RawText>,
    i64,
    i64,
    i64,
    i64,
    i64,
    Option<RawText>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
);

/// A text of SQLite's, which need not be UTF-8.
struct RawText(Vec<u8>);

impl RawText {
    fn as_str(&self) -> Option<&str> {
        str::from_utf8(&self.0).ok()
    }
}

impl<'de> Deserialize<'de> for RawText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl serde::de::Visitor<'_> for Bytes {
            type Value = RawText;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<RawText, E> {
                Ok(RawText(bytes.to_vec()))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

impl RawDeletion {
    fn parse(self, now: Timestamp) -> Result<DueRow, DeletionId> {
        let Self(id, entry, attempts, asks, maybe_done, due_at, created_at, last_cause, request, first_fault, evidence) =
            self;
        let id = DeletionId(id);
        let entry = entry.ok_or(id)?;
        let entry = entry.as_str().and_then(|entry| EntryId::parse(entry).ok()).ok_or(id)?;
        let [attempts, asks] = [attempts, asks].map(|count| u32::try_from(count.max(0)).unwrap_or(u32::MAX));
        let cause = last_cause.and_then(|cause| Cause::parse(cause.as_str()?));
        Ok(DueRow {
            deletion: Deletion {
                id,
                entry,
                attempts,
                asks,
                maybe_done: maybe_done != 0,
                was_rejected: cause == Some(Cause::Rejected),
                last_request: request.map(RequestId),
                first_fault: first_fault.map(RequestId),
                evidence: evidence.map(RequestId),
            },
            due_since: due_since(due_at, created_at, now),
            turn: Timestamp(if due_at == 0 { created_at } else { due_at }),
            is_retry: attempts > 0 && cause.is_some_and(Cause::gathers),
        })
    }
}

fn raw_deletions(row: &SqliteRow, column: usize) -> Result<Vec<RawDeletion>, sqlx::Error> {
    let text: &[u8] = row.try_get_unchecked(column)?;
    serde_json::from_slice(text).map_err(|error| sqlx::Error::Decode(error.into()))
}

pub(super) fn orphan_row(row: &SqliteRow) -> Result<Orphan, sqlx::Error> {
    let request = RequestId(row.try_get(0)?);
    let batch_max = if row.try_get(2)? { ALONE } else { MAX_BATCH_SIZE };
    let due = raw_deletions(row, 3)?.into_iter().filter_map(|raw| raw.parse(Timestamp::ZERO).ok());
    let rows: Vec<Deletion> = due.map(|row| row.deletion).collect();
    // Rows are settled by their ids; of the lane, only whether they were asked about alone still matters. No agent or no
    // rows: nothing to judge.
    let batch = row
        .try_get(1)
        .ok()
        .and_then(|agent| AgentId::parse(agent).ok())
        .map(|agent| Lane { priority: 0, agent, batch_max })
        .and_then(|lane| Batch::new(lane, rows).ok())
        .map(Batch::alone);
    Ok(Orphan { request, batch })
}

pub(super) fn look_row(row: &SqliteRow, now: Timestamp) -> Result<Look, sqlx::Error> {
    let (mut due, mut unusable) = (Vec::new(), Vec::new());
    for raw in raw_deletions(row, 1)? {
        match raw.parse(now) {
            Ok(row) => due.push(row),
            Err(id) => unusable.push(id),
        }
    }
    // [id, due_at or null if it is no number] of the first row that is not due.
    let next: Option<&str> = row.try_get(2)?;
    let next: Option<(i64, Option<i64>)> =
        next.map(serde_json::from_str).transpose().map_err(|error| sqlx::Error::Decode(error.into()))?;
    let mut next_due_at = None;
    match next {
        Some((_, Some(due_at @ 0..))) => next_due_at = Some(Timestamp(due_at)),
        Some((id, Some(_) | None)) => unusable.push(DeletionId(id)),
        None => {}
    }
    Ok(Look { due, unusable, next_due_at })
}

/// Since when a row could have been sent: `due_at`, but not before it existed. A producer's clock that is ahead of
/// ours does not count.
pub(super) fn due_since(due_at: i64, created_at: i64, now: Timestamp) -> Timestamp {
    Timestamp(if created_at <= now.0 { due_at.max(created_at) } else { due_at })
}

/// What is written onto rows that have reached their end, the same for all of them but for the request.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Ending {
    pub state: State,
    pub cause: Option<Cause>,
    pub counted: bool,
    pub batch_max: Option<u8>,
    pub asks: u32,
    pub maybe_done: bool,
    pub settled_at: Timestamp,
}

/// Rows, each with its request: `{"id": request, …}`.
pub(super) struct RowsOfRequests(Vec<(i64, i64)>);

impl Serialize for RowsOfRequests {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

/// What has the same key together, in the order in which the keys come: they are few.
fn grouped<K: PartialEq, V>(pairs: impl Iterator<Item = (K, V)>) -> Vec<(K, Vec<V>)> {
    let mut groups: Vec<(K, Vec<V>)> = Vec::new();
    for (key, value) in pairs {
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, values)) => values.push(value),
            None => groups.push((key, vec![value])),
        }
    }
    groups
}

/// The rows that have reached their end, by what is written onto them: few kinds, and most often one.
pub(super) fn endings<'s>(settlements: impl Iterator<Item = &'s Settlement>) -> Vec<(Ending, RowsOfRequests)> {
    let ended = settlements.flat_map(|settlement| {
        settlement.rows.iter().filter_map(move |row| {
            let ending = Ending {
                state: row.verdict.end()?,
                cause: row.verdict.cause(),
                counted: row.verdict.counted(),
                batch_max: row.batch_max,
                asks: row.asks,
                maybe_done: row.maybe_done,
                settled_at: settlement.answered_at,
            };
            Some((ending, (row.id.0, settlement.request.0)))
        })
    });
    grouped(ended).into_iter().map(|(ending, rows)| (ending, RowsOfRequests(rows))).collect()
}

/// A group as [`super::write::SETTLE_RETURNING`] reads it.
pub(super) type Group = (i64, Option<&'static str>, u8, i64, Option<u8>, u32, u8, Vec<i64>, Option<i64>, Option<i64>);

/// The rows of a request that come back, together with those that share everything that is written onto them.
pub(super) fn returning(settlement: &Settlement) -> Vec<Group> {
    let rows = settlement.rows.iter().filter_map(|row| {
        let due_at = row.verdict.due_at()?;
        Some(((row.verdict, due_at, row.batch_max, row.asks, row.maybe_done, row.first_fault, row.evidence), row.id.0))
    });
    type Key = (Verdict, Timestamp, Option<u8>, u32, bool, Option<RequestId>, Option<RequestId>);
    let group = |((verdict, due_at, batch_max, asks, maybe_done, first_fault, evidence), ids): (Key, _)| {
        let (cause, counted) = (verdict.cause().map(Cause::as_str), u8::from(verdict.counted()));
        let number = |request: Option<RequestId>| request.map(|request| request.0);
        let (maybe_done, first_fault, evidence) = (u8::from(maybe_done), number(first_fault), number(evidence));
        (settlement.request.0, cause, counted, due_at.0, batch_max, asks, maybe_done, ids, first_fault, evidence)
    };
    grouped(rows).into_iter().map(group).collect()
}

/// What a request did to some of its rows, as the view `outcomes` reads it in `requests.verdicts`.
#[derive(Serialize)]
struct Given {
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'static str>,
    /// Left out if it is all of the manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    deletion_ids: Option<Vec<i64>>,
}

fn given(settlement: &Settlement) -> Vec<Given> {
    let rows = settlement.rows.iter();
    let groups = grouped(rows.map(|row| ((row.verdict.as_str(), row.verdict.cause().map(Cause::as_str)), row.id.0)));
    let is_all = settlement.is_whole && groups.len() == 1;
    let given = |((verdict, cause), ids)| Given { verdict, cause, deletion_ids: (!is_all).then_some(ids) };
    groups.into_iter().map(given).collect()
}

/// An answer as [`super::write::SETTLE_REQUESTS`] reads it.
pub(super) fn answer(settlement: &Settlement) -> impl Serialize + use<'_> {
    let Counts { deleted, absent, retried, dead, .. } = settlement.counts();
    (
        settlement.request.0,
        settlement.answered_at.0,
        settlement.status,
        deleted,
        absent,
        retried,
        dead,
        settlement.fault.map(Cause::as_str),
        settlement.detail.as_deref(),
        settlement.remote_id.as_deref(),
        given(settlement),
    )
}

pub(super) fn json(value: &impl Serialize) -> String {
    // Numbers, strings, and lists and maps of them: there is nothing in them that JSON cannot write.
    serde_json::to_string(value).unwrap_or_default()
}
