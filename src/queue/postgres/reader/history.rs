//! The story of one ID: its row, each request that it was in, and what waits for it in the inbox.

use sqlx::{PgConnection, postgres::PgRow};

use super::{super::listing, at, text, value, wishes};
use crate::{
    model::{
        clock::Timestamp,
        deletion::{AgentId, EntryId},
    },
    queue::report::{INBOX, NewestRequest, SentRequest, Story, concerning},
};

/// $1 agent; $2 entry
const ROW: &str = "
SELECT id, state, priority, attempts::bigint, maybe_done, last_cause, due_at, created_at, settled_at, verified_at
FROM deletions_known WHERE agent_id = $1 AND entry_id = $2";

/// $1 agent; $2 entry. What the leader will make of the wishes for an entry that it does not know yet.
const WISHES: &str = "
SELECT count(*), max(priority), min(due_at), min(created_at) FROM deletions_new WHERE agent_id = $1 AND entry_id = $2";

/// $1 the row's id. Requests have no index by row, because every claim would pay for that, so the whole table is read.
const HISTORY: &str = "
SELECT requests.id, kind, size::bigint, claimed_at, answered_at, status::bigint, detail, correlation_id::text, remote_id,
    given.verdict, given.cause
FROM requests LEFT JOIN LATERAL (
    SELECT given->>'verdict' AS verdict, given->>'cause' AS cause FROM jsonb_array_elements(requests.verdicts) AS given
    WHERE NOT given ? 'deletion_ids' OR given->'deletion_ids' @> to_jsonb($1::bigint)
) AS given ON true
WHERE $1 = ANY (requests.deletion_ids) AND (answered_at IS NULL OR given.verdict IS NOT NULL)
ORDER BY requests.id";

/// $1 the most requests
const NEWEST: &str = "
SELECT id, agent_id, kind, size::bigint, claimed_at, answered_at, status::bigint, detail, correlation_id::text,
    deleted::bigint, absent::bigint, retried::bigint, dead::bigint
FROM requests ORDER BY id DESC LIMIT $1";

/// The newest requests, the newest first.
pub(super) async fn newest(conn: &mut PgConnection, most: u32) -> Result<Vec<NewestRequest>, sqlx::Error> {
    let rows = sqlx::query(NEWEST).bind(i64::from(most)).fetch_all(conn).await?;
    Ok(rows.iter().map(NewestRequest::of).collect())
}

/// Everything about one ID; `None` if there is neither a row nor a wish.
pub(super) async fn story(
    conn: &mut PgConnection,
    agent: &AgentId,
    entry: &EntryId,
) -> Result<Option<Story>, sqlx::Error> {
    let row = sqlx::query(ROW).bind(agent.as_str()).bind(entry.as_str()).fetch_optional(&mut *conn).await?;
    let waiting = sqlx::query(WISHES).bind(agent.as_str()).bind(entry.as_str()).fetch_one(&mut *conn).await?;
    let requests = match row.as_ref().and_then(|row| value::<i64, _>(row, 0)) {
        Some(id) => sqlx::query(HISTORY).bind(id).fetch_all(&mut *conn).await?,
        None => Vec::new(),
    };
    let in_inbox_since = at(&waiting, 3);
    if row.is_none() && in_inbox_since.is_none() {
        return Ok(None);
    }
    let empty = Story {
        state: INBOX.to_owned(),
        priority: value(&waiting, 1).unwrap_or(0),
        attempts: 0,
        maybe_done: false,
        last_cause: None,
        due_at: time(&waiting, 2),
        created_at: time(&waiting, 3),
        settled_at: None,
        verified_at: None,
        requests: requests.iter().map(SentRequest::of).collect(),
        wishes: wishes::of_entry(conn, agent, entry).await?,
        holds: concerning(listing::holds(conn).await?, Some(agent)),
        in_inbox_since,
    };
    Ok(Some(match row {
        Some(row) => of_row(&row, empty),
        None => empty,
    }))
}

/// The story of a row that the leader knows.
fn of_row(row: &PgRow, story: Story) -> Story {
    Story {
        state: text(row, 1).unwrap_or_default(),
        priority: value(row, 2).unwrap_or(0),
        attempts: value(row, 3).unwrap_or(0),
        maybe_done: value(row, 4).unwrap_or(false),
        last_cause: text(row, 5),
        due_at: time(row, 6),
        created_at: time(row, 7),
        settled_at: at(row, 8),
        verified_at: at(row, 9),
        ..story
    }
}

fn time(row: &PgRow, column: usize) -> Timestamp {
    at(row, column).unwrap_or(Timestamp::ZERO)
}
