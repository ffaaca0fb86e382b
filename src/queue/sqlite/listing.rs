//! What is in the queue: read before the first claim, and whenever somebody else wrote.

use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{
    look::row_json,
    rows::{lane_row, orphan_row},
};
use crate::{
    model::{
        clock::Timestamp,
        deletion::{AgentId, DeletionId, Lane},
    },
    queue::Orphan,
};

/// A skip-scan: from the head of each lane, one step of the index to the head of the next. The plus signs take the
/// columns' affinity away, without which SQLite would use only the first of them for the step; and since it takes the
/// `>` of a row value for a `>=` when it looks for the start, only a value after all others skips the lane's own rows: a
/// blob, because CHECKs can be switched off; and UNION, because a step that finds its own row again must be the last.
pub(super) const LANES: &str = "
WITH RECURSIVE lane (id) AS (
    SELECT (SELECT id FROM deletions INDEXED BY deletions_due WHERE state = 'pending'
            ORDER BY priority, agent_id, batch_max, due_at LIMIT 1)
    UNION
    SELECT (SELECT next.id FROM deletions AS next INDEXED BY deletions_due
            WHERE next.state = 'pending'
              AND (next.priority, next.agent_id, next.batch_max, next.due_at)
                  > (+head.priority, +head.agent_id, +head.batch_max, x'ffffffffffffffff')
            ORDER BY next.priority, next.agent_id, next.batch_max, next.due_at LIMIT 1)
    FROM lane CROSS JOIN deletions AS head ON head.id = lane.id
    WHERE lane.id IS NOT NULL
)
SELECT head.priority, head.agent_id, head.batch_max, head.due_at, head.created_at, head.id
FROM lane CROSS JOIN deletions AS head ON head.id = lane.id";

/// A manifest of a row that is asked about alone has no other; only of such a one does it matter which lane it was in.
pub(super) const ORPHANS: &str = concat!(
    "
SELECT requests.id, requests.agent_id,
    requests.kind = 'single' OR (SELECT batch_max = 0 FROM deletions WHERE id = iif(
        requests.size = 1 AND json_valid(requests.deletion_ids), requests.deletion_ids, '[]')->>0) IS TRUE,
    (SELECT ",
    row_json!(),
    " FROM deletions WHERE state = 'pending' AND id IN (
        SELECT value FROM json_each(iif(json_valid(requests.deletion_ids), requests.deletion_ids, '[]'))))
FROM requests INDEXED BY requests_unanswered
WHERE answered_at IS NULL ORDER BY requests.id"
);

/// ?1 since when; ?2 how many; ?3 now. A request leaves once its claim is committed, which may take a while, and before its
/// answer; one without an answer may have left a moment ago.
pub(super) const SENT_LATELY: &str = "
SELECT left_by FROM (SELECT coalesce(answered_at, ?3) AS left_by FROM requests ORDER BY id DESC LIMIT ?2)
WHERE left_by > ?1 AND typeof(left_by) = 'integer' ORDER BY left_by";

/// ?1 how many. Only the newest requests are looked at: an outage of rejections has few others.
pub(super) const LAST_REJECTED: &str = "
WITH newest AS MATERIALIZED (SELECT * FROM requests ORDER BY id DESC LIMIT 1000)
SELECT agent_id, CASE WHEN json_valid(deletion_ids) THEN deletion_ids->>0 END FROM newest
WHERE fault = 'rejected' AND size = 1 AND dead = 1
    AND id > coalesce((SELECT max(id) FROM newest WHERE deleted > 0 OR absent > 0), 0)
ORDER BY id DESC LIMIT ?1";

/// Every lane with open rows, and when its first row is due. In the order of their first rows in the table: rows of many agents
/// that were inserted one after another share pages, and what is claimed together touches fewer of them.
pub(super) async fn lanes(conn: &mut SqliteConnection) -> Result<Vec<(Lane, Timestamp)>, sqlx::Error> {
    let rows = sqlx::query(LANES).fetch_all(conn).await?;
    let mut lanes = rows.iter().map(lane_row).collect::<Result<Vec<_>, _>>()?;
    lanes.sort_unstable_by_key(|(head, ..)| *head);
    Ok(lanes.into_iter().map(|(_, lane, due_at)| (lane, due_at)).collect())
}

/// The requests without an answer.
pub(super) async fn orphans(conn: &mut SqliteConnection) -> Result<Vec<Orphan>, sqlx::Error> {
    sqlx::query(ORPHANS).fetch_all(conn).await?.iter().map(orphan_row).collect()
}

/// When the last requests had left at the latest, oldest first.
pub(super) async fn sent_since(
    conn: &mut SqliteConnection,
    since: Timestamp,
    most: u32,
    now: Timestamp,
) -> Result<Vec<Timestamp>, sqlx::Error> {
    let sent = sqlx::query_scalar(SENT_LATELY).bind(since.0).bind(most).bind(now.0);
    let sent: Vec<i64> = sent.fetch_all(conn).await?;
    Ok(sent.into_iter().map(Timestamp).collect())
}

/// Of the newest requests, those whose only row was rejected and made dead, with nothing settled since; oldest first.
pub(super) async fn last_rejected(
    conn: &mut SqliteConnection,
    most: u32,
) -> Result<Vec<(AgentId, DeletionId)>, sqlx::Error> {
    let rows = sqlx::query(LAST_REJECTED).bind(most).fetch_all(conn).await?;
    let rejected = |row: &SqliteRow| {
        let agent = AgentId::parse(row.try_get(0).ok()?).ok()?;
        Some((agent, DeletionId(row.try_get(1).ok()?)))
    };
    Ok(rows.iter().rev().filter_map(rejected).collect())
}

/// Whether a row is open.
pub(super) async fn has_open_rows(conn: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM deletions WHERE state = 'pending')").fetch_one(conn).await
}
