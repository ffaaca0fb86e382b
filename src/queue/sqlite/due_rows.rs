//! Looks for due rows of lanes.

use sqlx::SqliteConnection;

use super::rows::{json, look_row};
use crate::{
    model::{
        clock::Timestamp,
        deletion::{DeletionId, Lane},
    },
    queue::Look,
};

/// Rows in the form that [`super::rows::RawDeletion`] reads.
macro_rules! row_json {
    () => {
        "json_group_array(json_array(
        id, entry_id, attempts, asks, maybe_done, due_at, created_at, last_cause, request_id, first_fault, evidence))"
    };
}
pub(super) use row_json;

/// The rows of a lane. The index must be `deletions_due`: it has them in the order in which they go out.
macro_rules! rows_of_lane {
    ($columns:literal, $condition:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM deletions INDEXED BY deletions_due
        WHERE state = 'pending' AND priority = lane.value->>0 AND agent_id = lane.value->>1
          AND batch_max = lane.value->>2 AND ",
            $condition
        )
    };
}

/// ?1 lanes: [[priority, agent_id, batch_max], …]; ?2 now; ?3 rows per lane; ?4 ids in flight: [id, …]. `+?3`, because SQLite
/// uses the value of a plain `?3` in its plan, and would plan again for each value.
macro_rules! look {
    ($condition:literal, $next:expr) => {
        concat!(
            "SELECT lane.key, (SELECT ",
            row_json!(),
            " FROM (",
            rows_of_lane!(
                "id, entry_id, attempts, asks, maybe_done, due_at, created_at, last_cause, request_id, first_fault, evidence",
                $condition
            ),
            " LIMIT +?3)), ",
            $next,
            " FROM json_each(?1) AS lane ORDER BY lane.key"
        )
    };
}

/// When the lane's next row will be due.
macro_rules! next {
    ($condition:literal) => {
        concat!("(", rows_of_lane!("due_at", $condition), " LIMIT 1)")
    };
}

/// Rows with `due_at` 0, which are due whatever the clock says, in the order in which they were enqueued. The last column is the
/// first due time of the other rows. Only if that time has come, [`LOOK_LATER`] is needed as well.
pub(super) const LOOK: &str = look!(
    "due_at = 0 AND id NOT IN (SELECT value FROM json_each(?4)) AND ?2 IS NOT NULL ORDER BY id",
    next!("due_at > 0 ORDER BY due_at")
);

/// Rows whose due time has come, in the order of those times.
pub(super) const LOOK_LATER: &str = look!(
    "due_at > 0 AND due_at <= ?2 AND id NOT IN (SELECT value FROM json_each(?4)) ORDER BY due_at, id",
    next!("due_at > ?2 ORDER BY due_at")
);

/// The same as [`LOOK`], the newest rows first.
pub(super) const LOOK_NEWEST: &str = look!(
    "due_at = 0 AND id NOT IN (SELECT value FROM json_each(?4)) AND ?2 IS NOT NULL ORDER BY id DESC",
    next!("due_at > 0 ORDER BY due_at")
);

/// Up to `most` due rows of each lane, without those in flight: see [`crate::queue::Tx::look`].
pub(super) async fn look(
    conn: &mut SqliteConnection,
    lanes: &[Lane],
    most: usize,
    in_flight: &[DeletionId],
    newest_first: bool,
    now: Timestamp,
) -> Result<Vec<Look>, sqlx::Error> {
    let at_once = if newest_first { LOOK_NEWEST } else { LOOK };
    let mut looks = look_with(conn, at_once, lanes, most, in_flight, now).await?;
    let is_later = |look: &Look| look.next_due_at.is_some_and(|at| at <= now);
    let later: Vec<usize> = (0..looks.len()).filter(|at| is_later(&looks[*at])).collect();
    if later.is_empty() {
        return Ok(looks);
    }
    let some: Vec<Lane> = later.iter().map(|at| lanes[*at].clone()).collect();
    let found = look_with(conn, LOOK_LATER, &some, most, in_flight, now).await?;
    for (at, found) in later.into_iter().zip(found) {
        looks[at].merge(found, most, newest_first);
    }
    Ok(looks)
}

async fn look_with(
    conn: &mut SqliteConnection,
    statement: &'static str,
    lanes: &[Lane],
    most: usize,
    in_flight: &[DeletionId],
    now: Timestamp,
) -> Result<Vec<Look>, sqlx::Error> {
    let keys: Vec<_> = lanes.iter().map(|lane| (lane.priority, lane.agent.as_str(), lane.batch_max)).collect();
    let in_flight: Vec<i64> = in_flight.iter().map(|id| id.0).collect();
    let query = sqlx::query(statement).bind(json(&keys)).bind(now.0).bind(i64::try_from(most).unwrap_or(i64::MAX));
    let rows = query.bind(json(&in_flight)).fetch_all(conn).await?;
    rows.iter().map(|row| look_row(row, now)).collect()
}
