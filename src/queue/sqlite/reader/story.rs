//! The story of one ID: its row, and each request that it was in.

use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{super::rows::holds, text, value, wishes::wishes};
use crate::{
    model::{
        clock::Timestamp,
        deletion::{AgentId, EntryId},
    },
    queue::report::{NewestRequest, SentRequest, Story, concerning},
};

/// ?1 agent; ?2 entry
const ROW: &str = "
SELECT id, state, priority, attempts, maybe_done, last_cause, due_at, created_at, settled_at, verified_at FROM deletions
WHERE agent_id = ?1 AND entry_id = ?2";

/// ?1 the row's id. Requests have no index by row, because every claim would pay for that, so the whole table is read. Only a request
/// with the id's digits in it is parsed as JSON.
const HISTORY: &str = "
SELECT requests.id, kind, size, claimed_at, answered_at, status, detail, correlation_id, remote_id, verdict, cause
FROM requests CROSS JOIN outcomes ON outcomes.request_id = requests.id
WHERE (instr(requests.deletion_ids, ?1) OR instr(requests.verdicts, ?1)) AND outcomes.deletion_id = ?1
UNION ALL
SELECT requests.id, kind, size, claimed_at, NULL, NULL, NULL, correlation_id, NULL, NULL, NULL
FROM requests INDEXED BY requests_unanswered
WHERE answered_at IS NULL AND ?1 IN (
    SELECT value FROM json_each(iif(json_valid(requests.deletion_ids), requests.deletion_ids, '[]')))
ORDER BY 1";

/// ?1 the most requests
const NEWEST: &str = "
SELECT id, agent_id, kind, size, claimed_at, answered_at, status, detail, correlation_id, deleted, absent, retried, dead
FROM requests ORDER BY id DESC LIMIT ?1";

/// The newest requests, the newest first.
pub(super) async fn newest(conn: &mut SqliteConnection, most: u32) -> Result<Vec<NewestRequest>, sqlx::Error> {
    let rows = sqlx::query(NEWEST).bind(most).fetch_all(conn).await?;
    Ok(rows.iter().map(NewestRequest::of).collect())
}

/// Everything about one ID; `None` if there is no such row.
pub(super) async fn story(
    conn: &mut SqliteConnection,
    agent: &AgentId,
    entry: &EntryId,
) -> Result<Option<Story>, sqlx::Error> {
    let found = sqlx::query(ROW).bind(agent.as_str()).bind(entry.as_str()).fetch_optional(&mut *conn).await?;
    let Some(row) = found else { return Ok(None) };
    let id: i64 = row.try_get(0)?;
    let history = sqlx::query(HISTORY).bind(id).fetch_all(&mut *conn).await?;
    let time = |row: &SqliteRow, column| Timestamp(value(row, column).unwrap_or(0));
    Ok(Some(Story {
        state: text(&row, 1).unwrap_or_default(),
        priority: value(&row, 2).unwrap_or(0),
        attempts: value(&row, 3).unwrap_or(0),
        maybe_done: value::<i64, _>(&row, 4) == Some(1),
        last_cause: text(&row, 5),
        due_at: time(&row, 6),
        created_at: time(&row, 7),
        settled_at: value(&row, 8).map(Timestamp),
        verified_at: value(&row, 9).map(Timestamp),
        requests: history.iter().map(SentRequest::of).collect(),
        wishes: wishes(conn, agent, entry).await?,
        holds: concerning(holds(conn).await?, Some(agent)),
        in_inbox_since: None,
    }))
}
