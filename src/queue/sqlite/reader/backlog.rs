//! The pending rows of each agent: how many are due, in flight, or gathering, and when the others are due.

use std::collections::BTreeMap;

use sqlx::{SqliteConnection, sqlite::SqliteRow};

use super::{count, text, value};
use crate::{
    model::{clock::Timestamp, deletion::AgentId, outcome::Cause},
    queue::{
        InEffect,
        report::{AgentStanding, Backlog, IdleRow, LaneCount},
        rows::json,
    },
};

/// ?1 now; ?2 agent or NULL. Grouped in the order of the index, so that nothing is sorted.
pub(in crate::queue::sqlite) const PENDING: &str = "
SELECT agent_id, priority, batch_max, count(*), sum(due_at <= ?1), min(CASE WHEN due_at > ?1 THEN due_at END), max(due_at)
FROM deletions INDEXED BY deletions_due
WHERE state = 'pending' AND (?2 IS NULL OR agent_id = ?2)
GROUP BY priority, agent_id, batch_max";

/// The ids of the rows in flight. A manifest that is no JSON names none.
macro_rules! in_flight {
    () => {
        "(SELECT given.value FROM requests INDEXED BY requests_unanswered
          CROSS JOIN json_each(CASE WHEN json_valid(requests.deletion_ids) THEN requests.deletion_ids END) AS given
          WHERE requests.answered_at IS NULL)"
    };
}

/// ?1 agent or NULL
pub(in crate::queue::sqlite) const PENDING_IN_FLIGHT: &str = concat!(
    "SELECT agent_id, priority, batch_max, count(*) FROM deletions
    WHERE id IN ",
    in_flight!(),
    " AND state = 'pending' AND (?1 IS NULL OR agent_id = ?1)
    GROUP BY agent_id, priority, batch_max"
);

/// ?1 lanes: [[priority, agent_id, batch_max], …]; ?2 now. The due rows of these lanes that are not in flight.
pub(in crate::queue::sqlite) const IDLE: &str = concat!(
    "SELECT lane.key, deletions.due_at, deletions.created_at, deletions.attempts, deletions.last_cause
    FROM json_each(?1) AS lane CROSS JOIN deletions INDEXED BY deletions_due
    WHERE deletions.state = 'pending' AND deletions.priority = lane.value->>0 AND deletions.agent_id = lane.value->>1
      AND deletions.batch_max = lane.value->>2 AND deletions.due_at <= ?2 AND deletions.id NOT IN ",
    in_flight!()
);

/// The agents with pending rows. `settings`: those of the daemon, if one runs.
pub(super) async fn backlog(
    conn: &mut SqliteConnection,
    agent: Option<&str>,
    settings: Option<InEffect>,
    now: Timestamp,
) -> Result<BTreeMap<String, AgentStanding>, sqlx::Error> {
    let lane = |row: &SqliteRow| (text(row, 0).unwrap_or_default(), value(row, 1), value(row, 2));
    let in_flight = sqlx::query(PENDING_IN_FLIGHT).bind(agent).fetch_all(&mut *conn).await?;
    let in_flight = in_flight.iter().map(|row| (lane(row), count(row, 3))).collect();
    let lanes = sqlx::query(PENDING).bind(now.0).bind(agent).fetch_all(&mut *conn).await?;
    let lanes = lanes.iter().map(|row| LaneCount {
        key: lane(row),
        pending: count(row, 3),
        due: count(row, 4),
        next_due_at: value(row, 5).map(Timestamp),
        last_due_at: value(row, 6).map(Timestamp),
    });
    let backlog = Backlog::new(lanes.collect(), &in_flight, settings);
    let asked = backlog.asked();
    if asked.is_empty() {
        return Ok(backlog.finish(&[], now));
    }
    let idle = sqlx::query(IDLE).bind(json(&asked)).bind(now.0).fetch_all(conn).await?;
    let idle: Vec<IdleRow> = idle.iter().filter_map(idle_row).collect();
    Ok(backlog.finish(&idle, now))
}

/// A row of [`IDLE`], unless a time in it is none.
fn idle_row(row: &SqliteRow) -> Option<IdleRow> {
    Some(IdleRow {
        lane: usize::try_from(value::<i64, _>(row, 0)?).ok()?,
        due_at: value(row, 1)?,
        created_at: value(row, 2)?,
        attempts: value::<i64, _>(row, 3).and_then(|attempts| u32::try_from(attempts).ok()).unwrap_or(0),
        cause: text(row, 4).and_then(|cause| Cause::parse(&cause)),
    })
}

/// Every agent that has a row, in the order of their IDs: a step of the index for each, whatever the number of rows.
const AGENTS: &str = "
WITH RECURSIVE agent (id) AS (
    SELECT min(agent_id) FROM deletions
    UNION
    SELECT (SELECT min(agent_id) FROM deletions WHERE agent_id > agent.id) FROM agent WHERE agent.id IS NOT NULL
)
SELECT id FROM agent WHERE id IS NOT NULL";

/// Every agent that has a row.
pub(super) async fn agents(conn: &mut SqliteConnection) -> Result<Vec<AgentId>, sqlx::Error> {
    let rows = sqlx::query(AGENTS).fetch_all(conn).await?;
    // What is no agent ID was inserted past the checks.
    Ok(rows.iter().filter_map(|row| AgentId::parse(&text(row, 0)?).ok()).collect())
}
