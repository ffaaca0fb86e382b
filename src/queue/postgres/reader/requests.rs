//! The requests of one agent, and the correlation IDs of some.

use sqlx::{PgConnection, postgres::PgRow};

use super::{count, daemon, text, value};
use crate::{
    model::{clock::Timestamp, deletion::AgentId},
    queue::report::{Activity, Unanswered},
};

/// $1 agent
const UNANSWERED: &str = "
SELECT id, size::bigint, claimed_at FROM requests WHERE answered_at IS NULL AND agent_id = $1 ORDER BY id";

/// $1 agent; $2 the number after which to count
const SINCE: &str = "
SELECT (SELECT coalesce(max(id), 0) FROM requests), (SELECT count(*) FROM requests WHERE id > $2 AND agent_id = $1)";

/// $1 ids
const CORRELATION_IDS: &str = "SELECT id, correlation_id::text FROM requests WHERE id = ANY ($1)";

/// What the leader does for an agent.
pub(super) async fn activity(conn: &mut PgConnection, agent: &AgentId, after: i64) -> Result<Activity, sqlx::Error> {
    let running = daemon(conn).await?.running;
    let unanswered = sqlx::query(UNANSWERED).bind(agent.as_str()).fetch_all(&mut *conn).await?;
    let since = sqlx::query(SINCE).bind(agent.as_str()).bind(after).fetch_one(conn).await?;
    Ok(Activity {
        running,
        unanswered: unanswered.iter().filter_map(unanswered_row).collect(),
        last: value(&since, 0).unwrap_or(0),
        since: count(&since, 1),
    })
}

/// The correlation IDs of those of these requests that are kept.
pub(super) async fn correlation_ids(
    conn: &mut PgConnection,
    requests: &[i64],
) -> Result<Vec<(i64, String)>, sqlx::Error> {
    let rows = sqlx::query(CORRELATION_IDS).bind(requests).fetch_all(conn).await?;
    Ok(rows.iter().filter_map(|row| Some((value(row, 0)?, text(row, 1)?))).collect())
}

fn unanswered_row(row: &PgRow) -> Option<Unanswered> {
    Some(Unanswered { request: value(row, 0)?, rows: count(row, 1), claimed_at: Timestamp(value(row, 2)?) })
}
