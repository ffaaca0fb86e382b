//! The story of one ID: its row, and each request that it was in.

use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{super::rows::holds, WishStanding, concerning, text, value, wishes::wishes};
use crate::model::{
    clock::Timestamp,
    deletion::{AgentId, EntryId},
    hold::HoldRow,
};

/// ?1 agent; ?2 entry
const ROW: &str = "
SELECT id, state, priority, attempts, maybe_done, last_cause, due_at, created_at, settled_at FROM deletions
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

/// Everything about one ID.
#[derive(Clone, Debug)]
pub struct Story {
    /// `pending`, `deleted`, `absent` or `dead`.
    pub state: String,
    /// Higher goes first.
    pub priority: i64,
    /// The counted attempts.
    pub attempts: i64,
    /// An attempt may have succeeded unseen.
    pub maybe_done: bool,
    /// The cause of the last request that did not end it.
    pub last_cause: Option<String>,
    /// It must not be sent before this time.
    pub due_at: Timestamp,
    /// When it was enqueued. If it was reopened, the last time.
    pub created_at: Timestamp,
    /// When it reached its end.
    pub settled_at: Option<Timestamp>,
    /// The requests that had it, as far as they are kept, oldest first.
    pub requests: Vec<SentRequest>,
    /// The holds that it waits for.
    pub holds: Vec<HoldRow>,
    /// The wishes for it, if any of them has a label.
    pub wishes: Vec<WishStanding>,
}

/// A request, with its verdict on one row.
#[derive(Clone, Debug)]
pub struct SentRequest {
    /// `requests.id`.
    pub request: i64,
    /// `bulk` or `single`.
    pub kind: String,
    /// The number of its IDs.
    pub size: i64,
    /// When it was about to be sent.
    pub claimed_at: Timestamp,
    /// When its answer was judged; `None`: it is in flight, or its daemon died.
    pub answered_at: Option<Timestamp>,
    /// The HTTP status, if there was one.
    pub status: Option<i64>,
    /// The API's message or the network's error.
    pub detail: Option<String>,
    /// The correlation ID that we sent.
    pub correlation_id: String,
    /// The one that came back.
    pub remote_id: Option<String>,
    /// Its verdict on the row.
    pub verdict: Option<String>,
    /// The cause of the verdict.
    pub cause: Option<String>,
}

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
    let requests = history.iter().map(|row| SentRequest {
        request: value(row, 0).unwrap_or(0),
        kind: text(row, 1).unwrap_or_default(),
        size: value(row, 2).unwrap_or(0),
        claimed_at: time(row, 3),
        answered_at: value(row, 4).map(Timestamp),
        status: value(row, 5),
        detail: text(row, 6),
        correlation_id: text(row, 7).unwrap_or_default(),
        remote_id: text(row, 8),
        verdict: text(row, 9),
        cause: text(row, 10),
    });
    Ok(Some(Story {
        state: text(&row, 1).unwrap_or_default(),
        priority: value(&row, 2).unwrap_or(0),
        attempts: value(&row, 3).unwrap_or(0),
        maybe_done: value::<i64, _>(&row, 4) == Some(1),
        last_cause: text(&row, 5),
        due_at: time(&row, 6),
        created_at: time(&row, 7),
        settled_at: value(&row, 8).map(Timestamp),
        requests: requests.collect(),
        wishes: wishes(conn, agent, entry).await?,
        holds: concerning(holds(conn).await?, Some(agent)),
    }))
}
