//! Converts between the values of statements and the types of the model.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use sqlx::{Column as _, Row, SqliteConnection, sqlite::SqliteRow};

pub(super) use crate::queue::rows::json;
use crate::{
    model::{
        act::MAX_WHY,
        clock::Timestamp,
        deletion::{ALONE, AgentId, Batch, Deletion, DeletionId, EntryId, Lane, MAX_BATCH_SIZE, RequestId, State},
        hold::HoldRow,
        outcome::{Cause, Scope, Verdict},
    },
    queue::{
        Counts, DueRow, Look, Orphan, Settlement,
        rows::{due_since, given, grouped, is_retry},
    },
};

/// The id of a lane's first row, the lane, and the due time of that row.
pub(super) fn lane_row(row: &SqliteRow) -> Result<(DeletionId, Lane, Timestamp), sqlx::Error> {
    let agent = AgentId::parse(row.try_get(1)?).map_err(undecodable)?;
    let lane = Lane { priority: row.try_get(0)?, agent, batch_max: row.try_get(2)? };
    Ok((DeletionId(row.try_get(5)?), lane, time(row, 3)?))
}

/// All holds whose scope is valid.
pub(super) async fn holds(conn: &mut SqliteConnection) -> Result<Vec<HoldRow>, sqlx::Error> {
    let rows = sqlx::query("SELECT scope, cause, since_at, until_at, repeats, probed_at, why FROM holds");
    Ok(rows.fetch_all(conn).await?.iter().filter_map(hold_row).collect())
}

/// The holds on these scopes: [scope, …].
pub(super) async fn holds_of(conn: &mut SqliteConnection, scopes: &str) -> Result<Vec<HoldRow>, sqlx::Error> {
    let query = "SELECT scope, cause, since_at, until_at, repeats, probed_at, why FROM holds
        WHERE scope IN (SELECT value FROM json_each(?1))";
    Ok(sqlx::query(query).bind(scopes).fetch_all(conn).await?.iter().filter_map(hold_row).collect())
}

/// `None` if the scope cannot be an agent. Any other invalid value is read as the one that holds longer, because a deletion cannot be
/// undone.
pub(super) fn hold_row(row: &SqliteRow) -> Option<HoldRow> {
    let scope = match row.try_get(0).ok()? {
        "*" => Scope::All,
        agent => Scope::Agent(AgentId::parse(agent).ok()?),
    };
    let cause = row.try_get(1).ok().and_then(Cause::parse).unwrap_or(Cause::Operator);
    let why: Option<&str> = row.try_get(6).ok().flatten().filter(|_| cause.is_of_a_command());
    Some(HoldRow {
        scope,
        cause,
        since_at: Timestamp(row.try_get(2).unwrap_or(0)),
        until_at: row.try_get::<Option<i64>, _>(3).ok().flatten().map(Timestamp),
        repeats: row.try_get::<i64, _>(4).ok().and_then(|repeats| u32::try_from(repeats).ok()).unwrap_or(u32::MAX),
        probed_at: row.try_get::<Option<i64>, _>(5).ok().flatten().map(Timestamp),
        why: why.map(|why| why.chars().take(MAX_WHY).collect()),
    })
}

/// A row in the JSON of [`super::due_rows`]: [id, entry_id, attempts, asks, maybe_done, due_at, created_at, last_cause, request_id,
/// first_fault, evidence].
///
/// An invalid value is an error, which starts the sweep in [`super::invalid_rows`].
#[derive(Deserialize)]
struct RawDeletion<'j>(
    i64,
    #[serde(borrow)] Cow<'j, str>,
    u32,
    u32,
    u8,
    i64,
    i64,
    #[serde(borrow)] Option<Cow<'j, str>>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
);

impl RawDeletion<'_> {
    fn parse(self, now: Timestamp) -> Result<DueRow, sqlx::Error> {
        let Self(id, entry, attempts, asks, maybe_done, due_at, created_at, last_cause, request, first_fault, evidence) =
            self;
        let cause = last_cause.and_then(|cause| Cause::parse(&cause));
        Ok(DueRow {
            deletion: Deletion {
                id: DeletionId(id),
                entry: EntryId::parse(&entry).map_err(undecodable)?,
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
            is_retry: is_retry(due_at, attempts, cause),
        })
    }
}

/// How many characters of a problem with a value are kept.
const MAX_PROBLEM: usize = 300;

/// A value that the schema does not allow.
fn undecodable(error: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::Decode(error.into())
}

fn due_rows(row: &SqliteRow, column: usize, now: Timestamp) -> Result<Vec<DueRow>, sqlx::Error> {
    let text: &str = row.try_get(column)?;
    let rows: Vec<RawDeletion> = serde_json::from_str(text).map_err(undecodable)?;
    rows.into_iter().map(|row| row.parse(now)).collect()
}

pub(super) fn orphan_row(row: &SqliteRow) -> Result<Orphan, sqlx::Error> {
    let request = RequestId(row.try_get(0)?);
    let batch_max = if row.try_get(2)? { ALONE } else { MAX_BATCH_SIZE };
    let rows: Vec<Deletion> = due_rows(row, 3, Timestamp::ZERO)?.into_iter().map(|row| row.deletion).collect();
    // Rows are settled by their ids. Of their lane, it only matters whether the request was a single-entry DELETE. Without an agent
    // or rows, there is nothing to judge.
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
    let next_due_at: Option<i64> = row.try_get(2)?;
    let next_due_at = next_due_at.map(|at| valid(Timestamp(at))).transpose()?;
    Ok(Look { due: due_rows(row, 1, now)?, next_due_at })
}

/// Why [`lane_row`], [`look_row`] and [`orphan_row`] cannot read a pending row; `None` if they can. Columns: id, priority,
/// agent_id, batch_max, due_at, created_at, entry_id, attempts, asks, maybe_done, last_cause, request_id, first_fault, evidence.
pub(super) fn problem_of(row: &SqliteRow) -> Option<String> {
    let text = |column| row.try_get::<&str, _>(column);
    let columns = [
        row.try_get::<i64, _>(1).map(drop),
        text(2).and_then(|text| AgentId::parse(text).map(drop).map_err(undecodable)),
        row.try_get::<u8, _>(3).map(drop),
        time(row, 4).map(drop),
        time(row, 5).map(drop),
        text(6).and_then(|text| EntryId::parse(text).map(drop).map_err(undecodable)),
        row.try_get::<u32, _>(7).map(drop),
        row.try_get::<u32, _>(8).map(drop),
        row.try_get::<u8, _>(9).map(drop),
        row.try_get::<Option<&str>, _>(10).map(drop),
        row.try_get::<Option<i64>, _>(11).map(drop),
        row.try_get::<Option<i64>, _>(12).map(drop),
        row.try_get::<Option<i64>, _>(13).map(drop),
    ];
    let (at, error) = columns.into_iter().enumerate().find_map(|(at, read)| Some((at + 1, read.err()?)))?;
    let problem = if let sqlx::Error::Decode(problem) = error {
        problem.to_string().chars().take(MAX_PROBLEM).collect()
    } else {
        "a value of another type, or out of range".to_owned()
    };
    Some(format!("{}: {problem}", row.column(at).name()))
}

fn time(row: &SqliteRow, column: usize) -> Result<Timestamp, sqlx::Error> {
    valid(Timestamp(row.try_get(column)?))
}

/// A time that the schema allows. A row that is due later than that would never be due, and never end.
fn valid(at: Timestamp) -> Result<Timestamp, sqlx::Error> {
    if (Timestamp::ZERO..=Timestamp::MAX).contains(&at) {
        return Ok(at);
    }
    Err(sqlx::Error::Decode(format!("{} is not between 1970 and the year 9999", at.0).into()))
}

/// The values that are written onto rows that have reached their end, the same for many rows.
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

/// The rows that have reached their end, grouped by the values that are written onto them.
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

/// A group of rows in the form that [`super::settle::SETTLE_RETURNING`] reads.
pub(super) type Group = (i64, Option<&'static str>, u8, i64, Option<u8>, u32, u8, Vec<i64>, Option<i64>, Option<i64>);

/// The rows of a request that come back, grouped by the values that are written onto them.
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

/// An answer in the form that [`super::settle::SETTLE_REQUESTS`] reads.
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
