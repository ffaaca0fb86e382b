//! What the worker reads about the whole queue: at the start, and whenever another process has written.

use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{
    due_rows::row_json,
    rows::{lane_row, orphan_row},
};
use crate::{
    model::{
        clock::Timestamp,
        deletion::{AgentId, DeletionId, Lane},
    },
    queue::Orphan,
};

/// A skip-scan: from the first row of each lane, one step of the index to the first row of the next lane.
///
/// The plus signs take the columns' affinity away; with it, SQLite would use only the first column for the step. The last value of
/// the comparison must be greater than every `due_at`, because SQLite starts at `>=` and would otherwise return the lane's own
/// rows. It is a blob, which is greater than any text that an invalid row may have there. UNION ends the recursion if a step
/// finds its own row again.
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

/// The third column: whether the request was a single-entry DELETE, or its only row is to have one. Nothing else of the lane matters
/// for settling it.
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

/// ?1 since when; ?2 how many; ?3 now. A request leaves after its claim is committed and before its answer, so the answer's time is
/// the latest possible. A request without an answer may have left just now.
pub(super) const SENT_LATELY: &str = "
SELECT left_by FROM (SELECT coalesce(answered_at, ?3) AS left_by FROM requests ORDER BY id DESC LIMIT ?2)
WHERE left_by > ?1 AND typeof(left_by) = 'integer' ORDER BY left_by";

/// ?1 how many. The newest 1,000 requests are enough: during an outage of rejections there are few others.
pub(super) const LAST_REJECTED: &str = "
WITH newest AS MATERIALIZED (SELECT * FROM requests ORDER BY id DESC LIMIT 1000)
SELECT agent_id, CASE WHEN json_valid(deletion_ids) THEN deletion_ids->>0 END FROM newest
WHERE fault = 'rejected' AND size = 1 AND dead = 1
    AND id > coalesce((SELECT max(id) FROM newest WHERE deleted > 0 OR absent > 0), 0)
ORDER BY id DESC LIMIT ?1";

/// Every lane with open rows, and when its first row is due. Lanes come in the order of their first rows in the table: rows that
/// were inserted one after another share pages, so lanes that are claimed together then touch fewer pages.
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

/// The latest possible time at which each of the last requests left, oldest first.
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

/// The requests since the last one that settled a row, as far as their only row was rejected and made dead: agent and row, oldest
/// first.
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
