//! Converts between the columns of statements and the types of the model.

use sqlx::{Column as _, Row as _, postgres::PgRow};

use crate::{
    model::{
        act::MAX_WHY,
        clock::Timestamp,
        deletion::{AgentId, Deletion, DeletionId, EntryId, Lane, RequestId},
        hold::HoldRow,
        outcome::{Cause, Scope},
    },
    queue::{
        DueRow,
        rows::{due_since, is_retry},
    },
};

/// How many characters of a problem with a value are kept.
const MAX_PROBLEM: usize = 300;

/// A value that no row of ours has.
pub(super) fn undecodable(error: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::Decode(error.into())
}

/// A lane: priority, agent_id, batch_max.
pub(super) fn lane_of(row: &PgRow) -> Result<Lane, sqlx::Error> {
    let agent = AgentId::parse(row.try_get(1)?).map_err(undecodable)?;
    let batch_max = u8::try_from(row.try_get::<i16, _>(2)?).map_err(undecodable)?;
    Ok(Lane { priority: row.try_get(0)?, agent, batch_max })
}

/// A time that no row of ours has: a row that is due later than that would never be due, and never end.
pub(super) fn time(row: &PgRow, column: usize) -> Result<Timestamp, sqlx::Error> {
    let at = Timestamp(row.try_get(column)?);
    if (Timestamp::ZERO..=Timestamp::MAX).contains(&at) {
        return Ok(at);
    }
    Err(sqlx::Error::Decode(format!("{} is not between 1970 and the year 9999", at.0).into()))
}

fn count(row: &PgRow, column: usize) -> Result<u32, sqlx::Error> {
    u32::try_from(row.try_get::<i32, _>(column)?).map_err(undecodable)
}

fn request(row: &PgRow, column: usize) -> Result<Option<RequestId>, sqlx::Error> {
    Ok(row.try_get::<Option<i64>, _>(column)?.map(RequestId))
}

/// A row, from this column on: id, entry_id, attempts, asks, maybe_done, due_at, created_at, last_cause, request_id, first_fault,
/// evidence. An invalid value is an error, which starts the sweep in [`super::invalid_rows`].
pub(super) fn due_row(row: &PgRow, from: usize, now: Timestamp) -> Result<DueRow, sqlx::Error> {
    let [due_at, created_at] = [time(row, from + 5)?.0, time(row, from + 6)?.0];
    let (attempts, cause) = (count(row, from + 2)?, row.try_get::<Option<&str>, _>(from + 7)?.and_then(Cause::parse));
    Ok(DueRow {
        deletion: Deletion {
            id: DeletionId(row.try_get(from)?),
            entry: EntryId::parse(row.try_get(from + 1)?).map_err(undecodable)?,
            attempts,
            asks: count(row, from + 3)?,
            maybe_done: row.try_get(from + 4)?,
            was_rejected: cause == Some(Cause::Rejected),
            last_request: request(row, from + 8)?,
            first_fault: request(row, from + 9)?,
            evidence: request(row, from + 10)?,
        },
        due_since: due_since(due_at, created_at, now),
        turn: Timestamp(if due_at == 0 { created_at } else { due_at }),
        is_retry: is_retry(due_at, attempts, cause),
    })
}

/// Why [`lane_of`] or [`due_row`] cannot read a pending row; `None` if they can. Columns: priority, agent_id, batch_max, and those of
/// [`due_row`].
pub(super) fn problem_of(row: &PgRow) -> Option<String> {
    let parsed = |column: usize| match column {
        1 => lane_of(row).map(drop),
        4 => row.try_get(4).and_then(|text| EntryId::parse(text).map(drop).map_err(undecodable)),
        5 | 6 => count(row, column).map(drop),
        8 | 9 => time(row, column).map(drop),
        _ => Ok(()),
    };
    let (column, error) = (0..row.len()).find_map(|column| Some((column, parsed(column).err()?)))?;
    let problem = if let sqlx::Error::Decode(problem) = error { problem.to_string() } else { error.to_string() };
    let problem: String = problem.chars().take(MAX_PROBLEM).collect();
    Some(format!("{}: {problem}", row.column(column).name()))
}

/// The columns of [`hold_row`].
macro_rules! hold_columns {
    () => {
        "scope, cause, since_at, until_at, repeats, probed_at, why"
    };
}
pub(super) use hold_columns;

/// `None` if the scope cannot be an agent. Any other invalid value is read as the one that holds longer, because a deletion cannot be
/// undone.
pub(super) fn hold_row(row: &PgRow) -> Option<HoldRow> {
    let scope = match row.try_get(0).ok()? {
        "*" => Scope::All,
        agent => Scope::Agent(AgentId::parse(agent).ok()?),
    };
    let cause = row.try_get(1).ok().and_then(Cause::parse).unwrap_or(Cause::Operator);
    let why: Option<&str> = row.try_get(6).ok().flatten().filter(|_| cause.is_of_a_command());
    let at = |column: usize| row.try_get::<Option<i64>, _>(column).ok().flatten().map(Timestamp);
    Some(HoldRow {
        scope,
        cause,
        since_at: at(2).unwrap_or(Timestamp::ZERO),
        until_at: at(3),
        repeats: row.try_get::<i64, _>(4).ok().and_then(|repeats| u32::try_from(repeats).ok()).unwrap_or(u32::MAX),
        probed_at: at(5),
        why: why.map(|why| why.chars().take(MAX_WHY).collect()),
    })
}
