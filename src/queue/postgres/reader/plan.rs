//! What would go out, as the tables have it.

use sqlx::{PgConnection, Row as _, postgres::PgRow};

use super::{
    super::{listing, rows::problem_of},
    at, count, daemon,
    standing::inbox,
    text, value,
};
use crate::{
    model::{clock::Timestamp, deletion::AgentId},
    queue::report::{LaneLoad, Load, Outlook, Remaining, agents, concerning},
};

/// $1 now; $2 agent or NULL; $3 ids that are left out. A row for each lane, in no order: the server would sort all rows for one.
const LANES_TO_SEND: &str = "
SELECT agent_id, priority, batch_max, count(*) FILTER (WHERE due_at <= $1), count(*) FILTER (WHERE due_at > $1),
    min(due_at) FILTER (WHERE due_at > $1), max(due_at) FILTER (WHERE due_at > $1), min(id)
FROM deletions_known
WHERE state = 'pending' AND ($2::text IS NULL OR agent_id = $2) AND id <> ALL ($3)
GROUP BY priority, agent_id, batch_max";

/// $1 agent or NULL
const IN_FLIGHT: &str = "
SELECT count(*), sum(size) FROM requests WHERE answered_at IS NULL AND ($1::text IS NULL OR agent_id = $1)";

/// Pending rows that may be invalid: they were written past the checks of the inbox. The columns are those of [`problem_of`].
const SUSPECTS: &str = r"
SELECT priority, agent_id, batch_max, id, entry_id, attempts, asks, maybe_done, due_at, created_at, last_cause, request_id,
    first_fault, evidence
FROM deletions_known
WHERE state = 'pending' AND (
    agent_id ~ '[^!-.0-[\]-~]' OR agent_id IN ('.', '..', '*') OR length(agent_id) NOT BETWEEN 1 AND 255
    OR entry_id ~ '[^!-~]' OR length(entry_id) NOT BETWEEN 1 AND 255
    OR batch_max NOT BETWEEN 0 AND 255 OR attempts < 0 OR asks < 0
    OR due_at NOT BETWEEN 0 AND 253402300799999 OR created_at NOT BETWEEN 0 AND 253402300799999)";

/// What is left to do.
pub(super) async fn remaining(conn: &mut PgConnection, now: Timestamp) -> Result<Remaining, sqlx::Error> {
    let lanes = sqlx::query(LANES_TO_SEND).bind(now.0).bind(None::<&str>).bind(Vec::<i64>::new());
    let lanes = lanes.fetch_all(&mut *conn).await?;
    let holds = listing::holds(&mut *conn).await?;
    let inbox = inbox(conn, None).await?.rows;
    Ok(Remaining { inbox, ..Remaining::of(&agents(lanes.iter().map(lane_load), 1), &holds, now) })
}

/// What would go out, or the part of one agent.
pub(super) async fn outlook(
    conn: &mut PgConnection,
    agent: Option<&AgentId>,
    batch_size: u8,
    now: Timestamp,
) -> Result<Outlook, sqlx::Error> {
    let name = agent.map(AgentId::as_str);
    let suspects = sqlx::query(SUSPECTS).fetch_all(&mut *conn).await?;
    let refused: Vec<&PgRow> = suspects.iter().filter(|row| problem_of(row).is_some()).collect();
    let ids = refused.iter().map(|row| row.try_get(3)).collect::<Result<Vec<i64>, _>>()?;
    let of_agent = refused.iter().filter(|row| name.is_none_or(|name| value(row, 1) == Some(name))).count();
    let lanes = sqlx::query(LANES_TO_SEND).bind(now.0).bind(name).bind(ids).fetch_all(&mut *conn).await?;
    let in_flight = sqlx::query(IN_FLIGHT).bind(name).fetch_one(&mut *conn).await?;
    let daemon = daemon(conn).await?;
    // Whoever asks may have another configuration than the daemon.
    let in_effect = daemon.introduction.as_ref().and_then(|said| said.in_effect);
    let batch_size = in_effect.map_or(batch_size, |settings| settings.batch_size);
    Ok(Outlook {
        agents: agents(lanes.iter().map(lane_load), batch_size),
        refused: of_agent as u64,
        in_flight: Load { requests: count(&in_flight, 0), rows: count(&in_flight, 1) },
        holds: concerning(listing::holds(conn).await?, agent),
        inbox: Some(inbox(conn, name).await?),
        daemon,
    })
}

/// A row of [`LANES_TO_SEND`].
fn lane_load(row: &PgRow) -> LaneLoad {
    LaneLoad {
        agent: text(row, 0).unwrap_or_default(),
        priority: value(row, 1).unwrap_or(0),
        batch_max: value::<i16, _>(row, 2).and_then(|most| u8::try_from(most).ok()),
        due: count(row, 3),
        later: count(row, 4),
        next_due_at: at(row, 5),
        last_due_at: at(row, 6),
        first_id: value(row, 7),
    }
}
