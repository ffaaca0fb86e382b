//! The pending rows of each agent, as the tables have them.

use std::collections::BTreeMap;

use sqlx::{PgConnection, postgres::PgRow};

use super::{at, count, text, value};
use crate::{
    model::{clock::Timestamp, deletion::AgentId, outcome::Cause},
    queue::{
        InEffect,
        report::{AgentStanding, Backlog, IdleRow, LaneCount, LaneKey},
    },
};

/// $1 now; $2 agent or NULL
const PENDING: &str = "
SELECT agent_id, priority, batch_max, count(*), count(*) FILTER (WHERE due_at <= $1), min(due_at) FILTER (WHERE due_at > $1), max(due_at)
FROM deletions_known WHERE state = 'pending' AND ($2::text IS NULL OR agent_id = $2)
GROUP BY priority, agent_id, batch_max";

/// The ids of the rows in flight, as an array: so that the server looks for each of them, instead of reading the whole table.
macro_rules! in_flight {
    () => {
        "ARRAY(SELECT unnest(deletion_ids) FROM requests WHERE answered_at IS NULL)"
    };
}

/// $1 agent or NULL
const PENDING_IN_FLIGHT: &str = concat!(
    "SELECT agent_id, priority, batch_max, count(*) FROM deletions_known
    WHERE id = ANY (",
    in_flight!(),
    ") AND state = 'pending' AND ($1::text IS NULL OR agent_id = $1)
    GROUP BY agent_id, priority, batch_max"
);

/// $1, $2, $3 lanes: priority, agent_id, batch_max; $4 now. The due rows of these lanes that are not in flight.
const IDLE: &str = "
SELECT lane.number, known.due_at, known.created_at, known.attempts, known.last_cause
FROM unnest($1::bigint[], $2::text[], $3::smallint[]) WITH ORDINALITY AS lane (priority, agent_id, batch_max, number)
JOIN deletions_known AS known ON known.state = 'pending' AND known.priority = lane.priority
    AND known.agent_id = lane.agent_id AND known.batch_max = lane.batch_max AND known.due_at <= $4
WHERE known.id NOT IN (SELECT unnest(deletion_ids) FROM requests WHERE answered_at IS NULL)";

/// Every agent that has a row, in the order of their IDs: a step of the index for each, whatever the number of rows. And those that have
/// wishes in the inbox alone.
const AGENTS: &str = "
WITH RECURSIVE agent (id) AS (
    (SELECT agent_id FROM deletions_known ORDER BY agent_id LIMIT 1)
    UNION ALL
    SELECT (SELECT agent_id FROM deletions_known WHERE agent_id > agent.id ORDER BY agent_id LIMIT 1)
    FROM agent WHERE agent.id IS NOT NULL
)
SELECT id FROM agent WHERE id IS NOT NULL UNION SELECT agent_id FROM deletions_new ORDER BY 1";

fn lane(row: &PgRow) -> LaneKey {
    (text(row, 0).unwrap_or_default(), value(row, 1), value::<i16, _>(row, 2).map(i64::from))
}

/// The agents with pending rows. `settings`: those of the leader, if there is one.
pub(super) async fn backlog(
    conn: &mut PgConnection,
    agent: Option<&str>,
    settings: Option<InEffect>,
    now: Timestamp,
) -> Result<BTreeMap<String, AgentStanding>, sqlx::Error> {
    let in_flight = sqlx::query(PENDING_IN_FLIGHT).bind(agent).fetch_all(&mut *conn).await?;
    let in_flight = in_flight.iter().map(|row| (lane(row), count(row, 3))).collect();
    let lanes = sqlx::query(PENDING).bind(now.0).bind(agent).fetch_all(&mut *conn).await?;
    let lanes = lanes.iter().map(|row| LaneCount {
        key: lane(row),
        pending: count(row, 3),
        due: count(row, 4),
        next_due_at: at(row, 5),
        last_due_at: at(row, 6),
    });
    let backlog = Backlog::new(lanes.collect(), &in_flight, settings);
    let asked = backlog.asked();
    if asked.is_empty() {
        return Ok(backlog.finish(&[], now));
    }
    let priorities: Vec<Option<i64>> = asked.iter().map(|(priority, ..)| *priority).collect();
    let agents: Vec<&str> = asked.iter().map(|(_, agent, _)| *agent).collect();
    let batch_maxes: Vec<i16> = asked.iter().map(|(.., most)| i16::from(*most)).collect();
    let idle = sqlx::query(IDLE).bind(priorities).bind(agents).bind(batch_maxes).bind(now.0);
    let idle: Vec<IdleRow> = idle.fetch_all(conn).await?.iter().filter_map(idle_row).collect();
    Ok(backlog.finish(&idle, now))
}

/// A row of [`IDLE`].
fn idle_row(row: &PgRow) -> Option<IdleRow> {
    Some(IdleRow {
        lane: usize::try_from(value::<i64, _>(row, 0)? - 1).ok()?,
        due_at: value(row, 1)?,
        created_at: value(row, 2)?,
        attempts: value::<i32, _>(row, 3).and_then(|attempts| u32::try_from(attempts).ok()).unwrap_or(0),
        cause: value(row, 4).and_then(Cause::parse),
    })
}

/// Every agent that has a row, or a wish in the inbox.
pub(super) async fn agents(conn: &mut PgConnection) -> Result<Vec<AgentId>, sqlx::Error> {
    let agents: Vec<String> = sqlx::query_scalar(AGENTS).fetch_all(conn).await?;
    // What is no agent ID was inserted past the checks.
    Ok(agents.iter().filter_map(|agent| AgentId::parse(agent).ok()).collect())
}
