//! Looks for due rows of lanes.

use sqlx::{PgConnection, Row as _, postgres::PgRow};

use super::{
    cursors::{Cursor, Cursors},
    rows::{due_row, time},
};
use crate::{
    model::{
        clock::Timestamp,
        deletion::{DeletionId, Lane},
    },
    queue::{DueRow, Look},
};

/// The rows of a lane.
macro_rules! of_lane {
    ($condition:literal) => {
        concat!(
            "FROM deletions_known AS d
            WHERE d.state = 'pending' AND d.priority = lane.priority AND d.agent_id = lane.agent_id
                AND d.batch_max = lane.batch_max AND ",
            $condition
        )
    };
}

/// Rows in the form that [`due_row`] reads, that are not in flight.
macro_rules! due {
    ($part:literal, $condition:literal) => {
        concat!(
            "SELECT lane.n, ",
            $part,
            ", due.* FROM lane CROSS JOIN LATERAL (
            SELECT d.id, d.entry_id, d.attempts, d.asks, d.maybe_done, d.due_at, d.created_at, d.last_cause, d.request_id,
                d.first_fault, d.evidence ",
            of_lane!("d.id NOT IN (SELECT unnest($8::bigint[])) AND "),
            $condition,
            " LIMIT $9) AS due"
        )
    };
}

/// $1 to $3 the lanes: priorities, agents, `batch_max`; $4 to $6 their cursors: id of those due at once, due time and id of the others;
/// $7 now; $8 ids in flight; $9 rows per lane.
///
/// The plan must be a scan of the index `deletions_due` for each lane. `NOT IN (SELECT …)` makes a hash of the ids; `<> ALL ($8)` would
/// go through them for each row. Three parts for each lane: rows that are due at once, whatever the clock says; rows whose due time has
/// come; and when the next row is due.
macro_rules! look {
    ($at_once:literal) => {
        concat!(
            "WITH lane AS MATERIALIZED (
                SELECT * FROM unnest($1::bigint[], $2::text[], $3::smallint[], $4::bigint[], $5::bigint[], $6::bigint[])
                    WITH ORDINALITY AS lane (priority, agent_id, batch_max, after_id, after_due_at, after_due_id, n)
            ) ",
            due!("0::smallint", $at_once),
            " UNION ALL ",
            due!(
                "1::smallint",
                "d.due_at > 0 AND d.due_at <= $7 AND (d.due_at, d.id) > (lane.after_due_at, lane.after_due_id)
                ORDER BY d.due_at, d.id"
            ),
            " UNION ALL
            SELECT lane.n, 2::smallint, NULL, NULL, NULL, NULL, NULL, next.due_at, NULL, NULL, NULL, NULL, NULL
            FROM lane CROSS JOIN LATERAL (SELECT d.due_at ",
            of_lane!("d.due_at > $7 AND d.due_at > 0 ORDER BY d.due_at, d.id LIMIT 1"),
            ") AS next"
        )
    };
}

/// Of the rows that are due at once, the oldest come first.
pub(super) const LOOK: &str = look!("d.due_at = 0 AND d.id > lane.after_id ORDER BY d.due_at, d.id");
/// The same, the newest first.
pub(super) const LOOK_NEWEST: &str = look!("d.due_at = 0 ORDER BY d.due_at DESC, d.id DESC");

/// What was found in a lane.
#[derive(Default)]
struct Found {
    at_once: Vec<DueRow>,
    later: Vec<(i64, DueRow)>,
    next_due_at: Option<Timestamp>,
}

/// Up to `most` due rows of each lane, without those in flight: see [`crate::queue::Tx::look`].
pub(super) async fn look(
    conn: &mut PgConnection,
    cursors: &mut Cursors,
    lanes: &[Lane],
    most: usize,
    in_flight: &[DeletionId],
    newest_first: bool,
    now: Timestamp,
) -> Result<Vec<Look>, sqlx::Error> {
    let from: Vec<Cursor> = lanes.iter().map(|lane| cursors.of(lane)).collect();
    let rows = sqlx::query(if newest_first { LOOK_NEWEST } else { LOOK })
        .bind(lanes.iter().map(|lane| lane.priority).collect::<Vec<i64>>())
        .bind(lanes.iter().map(|lane| lane.agent.as_str()).collect::<Vec<&str>>())
        .bind(lanes.iter().map(|lane| i16::from(lane.batch_max)).collect::<Vec<i16>>())
        .bind(from.iter().map(|cursor| cursor.at_once).collect::<Vec<i64>>())
        .bind(from.iter().map(|cursor| cursor.later.0).collect::<Vec<i64>>())
        .bind(from.iter().map(|cursor| cursor.later.1).collect::<Vec<i64>>())
        .bind(now.0)
        .bind(in_flight.iter().map(|id| id.0).collect::<Vec<i64>>())
        .bind(i64::try_from(most).unwrap_or(i64::MAX))
        .fetch_all(conn)
        .await?;
    let mut found: Vec<Found> = lanes.iter().map(|_| Found::default()).collect();
    for row in &rows {
        take(&mut found, row, now)?;
    }
    Ok(lanes.iter().zip(found).map(|(lane, found)| finish(cursors, lane, found, most, newest_first, now)).collect())
}

/// Takes in a row of the statement's result.
fn take(found: &mut [Found], row: &PgRow, now: Timestamp) -> Result<(), sqlx::Error> {
    let lane = usize::try_from(row.try_get::<i64, _>(0)? - 1).ok().and_then(|n| found.get_mut(n));
    let Some(lane) = lane else { return Ok(()) };
    match row.try_get::<i16, _>(1)? {
        0 => lane.at_once.push(due_row(row, 2, now)?),
        1 => lane.later.push((time(row, 7)?.0, due_row(row, 2, now)?)),
        _ => lane.next_due_at = Some(time(row, 7)?),
    }
    Ok(())
}

/// Moves the lane's cursor to what was found, and puts that into order.
fn finish(cursors: &mut Cursors, lane: &Lane, found: Found, most: usize, newest_first: bool, now: Timestamp) -> Look {
    let Found { at_once, later, next_due_at } = found;
    let first = (!newest_first).then(|| at_once.first().map(|row| row.deletion.id.0));
    cursors.advance(lane, first, later.first().map(|(due_at, row)| (*due_at, row.deletion.id.0)), now);
    let mut look = Look { due: at_once, next_due_at };
    if !later.is_empty() {
        let later = later.into_iter().map(|(_, row)| row).collect();
        look.merge(Look { due: later, next_due_at }, most, newest_first);
    }
    look
}
