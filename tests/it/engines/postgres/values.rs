//! The columns of the tables: as the statements have them, and as the suite does.

use audio_cache_sweeper::model::{
    clock::Timestamp,
    deletion::{AgentId, Kind, State},
    outcome::{Cause, Scope},
};
use sqlx::{Row as _, postgres::PgRow};
use uuid::Uuid;

use crate::suite::engine::{Counts, Hold, Request, Row};

/// Rows in one INSERT statement.
const CHUNK: usize = 2_000;

pub(super) fn text(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

pub(super) fn nullable(value: Option<&str>) -> String {
    value.map_or_else(|| "NULL".to_owned(), text)
}

pub(super) fn number<N: ToString>(value: Option<N>) -> String {
    value.map_or_else(|| "NULL".to_owned(), |value| value.to_string())
}

/// INSERT statements for these values.
pub(super) fn inserts(into: &str, values: impl Iterator<Item = String>) -> String {
    let values: Vec<String> = values.collect();
    values.chunks(CHUNK).map(|values| format!("INSERT INTO {into} VALUES {};", values.join(", "))).collect()
}

/// Removes the row, and what is wished for it.
pub(super) fn delete(from: &str, row: &Row) -> String {
    format!("DELETE FROM {from} WHERE agent_id = {} AND entry_id = {};", text(&row.agent), text(&row.entry))
}

/// Each takes the place of the one with its scope and cause.
pub(super) fn place_holds(holds: &[Hold]) -> String {
    let values = |hold: &Hold| {
        let Hold { scope, cause, since_at, until_at, probed_at, repeats } = hold;
        let [until_at, probed_at] = [until_at, probed_at].map(|at| number(at.map(|at| at.0)));
        format!("({}, '{}', {since_at}, {until_at}, {probed_at}, {repeats})", text(scope.as_str()), cause.as_str())
    };
    let place = |holds: &[Hold]| {
        let values: Vec<String> = holds.iter().map(values).collect();
        format!(
            "INSERT INTO holds (scope, cause, since_at, until_at, probed_at, repeats) VALUES {}
             ON CONFLICT (scope, cause) DO UPDATE SET since_at = excluded.since_at, until_at = excluded.until_at,
                 probed_at = excluded.probed_at, repeats = excluded.repeats;",
            values.join(", ")
        )
    };
    holds.chunks(CHUNK).map(place).collect()
}

/// The columns of a row that may change.
pub(super) const SET: [&str; 13] = [
    "priority",
    "state",
    "attempts",
    "due_at",
    "batch_max",
    "asks",
    "maybe_done",
    "request_id",
    "first_fault",
    "evidence",
    "last_cause",
    "created_at",
    "settled_at",
];

/// The table of rows that the leader knows, with its columns.
pub(super) fn known() -> String {
    format!("deletions_known (id, agent_id, entry_id, {}) OVERRIDING SYSTEM VALUE", SET.join(", "))
}

pub(super) fn row_values(row: &Row) -> String {
    let columns = [
        row.id.to_string(),
        text(&row.agent),
        text(&row.entry),
        row.priority.to_string(),
        text(row.state.as_str()),
        row.attempts.to_string(),
        row.due_at.to_string(),
        row.batch_max.to_string(),
        row.asks.to_string(),
        row.maybe_done.to_string(),
        number(row.request),
        number(row.first_fault),
        number(row.evidence),
        nullable(row.last_cause.map(Cause::as_str)),
        row.created_at.to_string(),
        number(row.settled_at),
    ];
    format!("({})", columns.join(", "))
}

pub(super) fn request_values(request: &Request) -> String {
    let Request { id, correlation_id, agent, kind, rows, claimed_at, .. } = request;
    let count = |count: fn(&Counts) -> u32| number(request.counts.as_ref().map(count));
    let rows: Vec<String> = rows.iter().map(i64::to_string).collect();
    let columns = [
        id.to_string(),
        text(correlation_id),
        text(agent),
        text(kind.as_str()),
        format!("'{{{}}}'", rows.join(",")),
        rows.len().to_string(),
        claimed_at.to_string(),
        number(request.answered_at),
        number(request.status),
        count(|counts| counts.deleted),
        count(|counts| counts.absent),
        count(|counts| counts.retried),
        count(|counts| counts.dead),
        nullable(request.fault.map(Cause::as_str)),
        nullable(request.detail.as_deref()),
        nullable(request.remote_id.as_deref()),
    ];
    format!("({})", columns.join(", "))
}

pub(super) fn at(row: &PgRow, column: usize) -> Option<Timestamp> {
    row.get::<Option<i64>, _>(column).map(Timestamp)
}

pub(super) fn count(row: &PgRow, column: usize) -> u32 {
    u32::try_from(row.get::<i32, _>(column)).unwrap()
}

pub(super) fn cause_of(text: Option<String>) -> Option<Cause> {
    text.map(|text| Cause::parse(&text).unwrap())
}

pub(super) const ROW: &str =
    "id, agent_id, entry_id, priority, state, attempts, due_at, batch_max, asks, maybe_done, request_id,
    first_fault, evidence, last_cause, created_at, settled_at";

pub(super) fn row(row: &PgRow) -> Row {
    let states = [State::Pending, State::Deleted, State::Absent, State::Dead];
    let state: &str = row.get(4);
    Row {
        id: row.get(0),
        agent: row.get(1),
        entry: row.get(2),
        priority: row.get(3),
        // What is not taken in yet is `new`.
        state: states.into_iter().find(|known| known.as_str() == state).unwrap_or(State::Pending),
        attempts: count(row, 5),
        due_at: Timestamp(row.get(6)),
        batch_max: u8::try_from(row.get::<i16, _>(7)).unwrap(),
        asks: count(row, 8),
        maybe_done: row.get(9),
        request: row.get(10),
        first_fault: row.get(11),
        evidence: row.get(12),
        last_cause: cause_of(row.get(13)),
        created_at: Timestamp(row.get(14)),
        settled_at: at(row, 15),
    }
}

pub(super) const REQUEST: &str =
    "id, correlation_id, agent_id, kind, deletion_ids, size::integer, claimed_at, answered_at, status::integer,
    deleted::integer, absent::integer, retried::integer, dead::integer, fault, detail, remote_id";

pub(super) fn request(row: &PgRow) -> Request {
    let rows: Vec<i64> = row.get(4);
    assert_eq!(count(row, 5) as usize, rows.len(), "the size is that of the manifest");
    let counts = |deleted| Counts {
        deleted: u32::try_from(deleted).unwrap(),
        absent: count(row, 10),
        retried: count(row, 11),
        dead: count(row, 12),
    };
    Request {
        id: row.get(0),
        correlation_id: row.get::<Uuid, _>(1).to_string(),
        agent: row.get(2),
        kind: if row.get::<&str, _>(3) == Kind::Single.as_str() { Kind::Single } else { Kind::Bulk },
        rows,
        claimed_at: Timestamp(row.get(6)),
        answered_at: at(row, 7),
        status: row.get::<Option<i32>, _>(8).map(|status| u16::try_from(status).unwrap()),
        counts: row.get::<Option<i32>, _>(9).map(counts),
        fault: cause_of(row.get(13)),
        detail: row.get(14),
        remote_id: row.get(15),
    }
}

pub(super) const HOLD: &str = "scope, cause, since_at, until_at, probed_at, repeats";

pub(super) fn hold(row: &PgRow) -> Hold {
    let scope = match row.get(0) {
        "*" => Scope::All,
        agent => Scope::Agent(AgentId::parse(agent).unwrap()),
    };
    Hold {
        scope,
        cause: cause_of(row.get(1)).unwrap(),
        since_at: Timestamp(row.get(2)),
        until_at: at(row, 3),
        probed_at: at(row, 4),
        repeats: u32::try_from(row.get::<i64, _>(5)).unwrap(),
    }
}
