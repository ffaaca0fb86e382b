//! What the worker reads about the whole queue: at the start, and whenever somebody else has written.

use sqlx::{PgConnection, Row as _, postgres::PgRow};

use super::rows::{due_row, hold_columns, hold_row, lane_of, time};
use crate::{
    model::{
        act::{Act, ActId, ActKind},
        clock::Timestamp,
        deletion::{ALONE, AgentId, Batch, Deletion, DeletionId, Lane, MAX_BATCH_SIZE, RequestId},
        hold::HoldRow,
    },
    queue::Orphan,
};

/// A skip-scan: from the first row of each lane, one step of the index to the first row of the next lane.
macro_rules! with_lanes {
    ($then:literal) => {
        concat!(
            "WITH RECURSIVE lane AS (
    (SELECT priority, agent_id, batch_max, due_at, id, created_at, last_cause FROM deletions_known WHERE state = 'pending'
     ORDER BY priority, agent_id, batch_max, due_at, id LIMIT 1)
    UNION ALL
    SELECT next.* FROM lane CROSS JOIN LATERAL (
        SELECT priority, agent_id, batch_max, due_at, id, created_at, last_cause FROM deletions_known
        WHERE state = 'pending' AND (priority, agent_id, batch_max) > (lane.priority, lane.agent_id, lane.batch_max)
        ORDER BY priority, agent_id, batch_max, due_at, id LIMIT 1) AS next
)
",
            $then
        )
    };
}
pub(super) use with_lanes;

pub(super) const LANES: &str = with_lanes!("SELECT priority, agent_id, batch_max, due_at, id FROM lane");

const HOLDS: &str = concat!("SELECT ", hold_columns!(), " FROM holds");

/// $1 since when an act must have been quiet to be returned before its end; $2 the most acts
const UNLOGGED: &str = "
SELECT id, acted_at, act, operator, scope, rows, detail, ended FROM acts
WHERE NOT logged AND (ended OR updated_at <= $1) ORDER BY id LIMIT $2";

/// The third column: whether the request was a single-entry DELETE, or its only row is to have one. Nothing else of the lane matters
/// for settling it. Requests of which no row is open have one row of NULLs.
const ORPHANS: &str = "
SELECT requests.id, requests.agent_id, requests.kind = 'single' OR (requests.size = 1 AND known.batch_max IS NOT DISTINCT FROM 0),
    known.id, known.entry_id, known.attempts, known.asks, known.maybe_done, known.due_at, known.created_at, known.last_cause,
    known.request_id, known.first_fault, known.evidence
FROM requests CROSS JOIN LATERAL unnest(requests.deletion_ids) AS named (id)
LEFT JOIN deletions_known AS known ON known.id = named.id AND known.settled_at IS NULL
WHERE requests.answered_at IS NULL ORDER BY requests.id, named.id";

/// $1 since when; $2 how many; $3 now. A request leaves after its claim is committed and before its answer, so the answer's time is
/// the latest possible. A request without an answer may have left just now.
const SENT_LATELY: &str = "
SELECT left_by FROM (SELECT coalesce(answered_at, $3) AS left_by FROM requests ORDER BY id DESC LIMIT $2) AS newest
WHERE left_by > $1 ORDER BY left_by";

/// $1 how many. The newest 1,000 requests are enough: during an outage of rejections there are few others.
const LAST_REJECTED: &str = "
WITH newest AS MATERIALIZED (SELECT * FROM requests ORDER BY id DESC LIMIT 1000)
SELECT agent_id, deletion_ids[1] FROM newest
WHERE fault = 'rejected' AND size = 1 AND dead = 1
    AND id > coalesce((SELECT max(id) FROM newest WHERE deleted > 0 OR absent > 0), 0)
ORDER BY id DESC LIMIT $1";

/// Every lane with open rows, and when its first row is due. Lanes come in the order of their first rows in the table: rows that were
/// inserted one after another share pages, so lanes that are claimed together then touch fewer pages.
pub(super) async fn lanes(conn: &mut PgConnection) -> Result<Vec<(Lane, Timestamp)>, sqlx::Error> {
    let rows = sqlx::query(LANES).fetch_all(conn).await?;
    let lane = |row: &PgRow| Ok((row.try_get::<i64, _>(4)?, lane_of(row)?, time(row, 3)?));
    let mut lanes = rows.iter().map(lane).collect::<Result<Vec<_>, sqlx::Error>>()?;
    lanes.sort_unstable_by_key(|(head, ..)| *head);
    Ok(lanes.into_iter().map(|(_, lane, due_at)| (lane, due_at)).collect())
}

/// All holds whose scope is valid.
pub(super) async fn holds(conn: &mut PgConnection) -> Result<Vec<HoldRow>, sqlx::Error> {
    Ok(sqlx::query(HOLDS).fetch_all(conn).await?.iter().filter_map(hold_row).collect())
}

/// See [`crate::queue::Queue::acts`].
pub(super) async fn acts(conn: &mut PgConnection, quiet_since: Timestamp, most: u32) -> Result<Vec<Act>, sqlx::Error> {
    let rows = sqlx::query(UNLOGGED).bind(quiet_since.0).bind(i64::from(most)).fetch_all(conn).await?;
    rows.iter().map(act_row).collect()
}

/// An act: id, acted_at, act, operator, scope, rows, detail, ended.
pub(super) fn act_row(row: &PgRow) -> Result<Act, sqlx::Error> {
    Ok(Act {
        id: ActId(row.try_get(0)?),
        acted_at: Timestamp(row.try_get(1)?),
        kind: ActKind::parse(row.try_get(2)?),
        operator: row.try_get(3)?,
        scope: row.try_get(4)?,
        rows: u64::try_from(row.try_get::<i64, _>(5)?).unwrap_or(0),
        detail: row.try_get(6)?,
        ended: row.try_get(7)?,
    })
}

/// The requests without an answer.
pub(super) async fn orphans(conn: &mut PgConnection) -> Result<Vec<Orphan>, sqlx::Error> {
    let rows = sqlx::query(ORPHANS).fetch_all(conn).await?;
    let request = |row: &PgRow| row.try_get::<i64, _>(0);
    let mut orphans = Vec::new();
    for of_request in
        rows.chunk_by(|one, other| request(one).is_ok_and(|id| request(other).is_ok_and(|next| next == id)))
    {
        let open = of_request.iter().filter(|row| row.try_get::<Option<i64>, _>(3).is_ok_and(|id| id.is_some()));
        let open =
            open.map(|row| Ok(due_row(row, 3, Timestamp::ZERO)?.deletion)).collect::<Result<Vec<_>, sqlx::Error>>();
        let (head, open) = (&of_request[0], open?);
        orphans.push(Orphan { request: RequestId(request(head)?), batch: batch_of(head, open)? });
    }
    Ok(orphans)
}

/// Rows are settled by their ids. Of their lane, it only matters whether the request was a single-entry DELETE. Without an agent or
/// rows, there is nothing to judge.
fn batch_of(head: &PgRow, rows: Vec<Deletion>) -> Result<Option<Batch>, sqlx::Error> {
    let batch_max = if head.try_get(2)? { ALONE } else { MAX_BATCH_SIZE };
    let Ok(agent) = AgentId::parse(head.try_get(1)?) else { return Ok(None) };
    Ok(Batch::new(Lane { priority: 0, agent, batch_max }, rows).ok().map(Batch::alone))
}

/// The latest possible time at which each of the last requests left, oldest first.
pub(super) async fn sent_since(
    conn: &mut PgConnection,
    since: Timestamp,
    most: u32,
    now: Timestamp,
) -> Result<Vec<Timestamp>, sqlx::Error> {
    let sent = sqlx::query_scalar(SENT_LATELY).bind(since.0).bind(i64::from(most)).bind(now.0);
    let sent: Vec<i64> = sent.fetch_all(conn).await?;
    Ok(sent.into_iter().map(Timestamp).collect())
}

/// The requests since the last one that settled a row, as far as their only row was rejected and made dead: agent and row, oldest
/// first.
pub(super) async fn last_rejected(
    conn: &mut PgConnection,
    most: u32,
) -> Result<Vec<(AgentId, DeletionId)>, sqlx::Error> {
    let rows: Vec<(String, i64)> = sqlx::query_as(LAST_REJECTED).bind(i64::from(most)).fetch_all(conn).await?;
    let rejected = |(agent, id): &(String, i64)| Some((AgentId::parse(agent).ok()?, DeletionId(*id)));
    Ok(rows.iter().rev().filter_map(rejected).collect())
}

/// Whether a row is open, or a wish is not taken in yet.
pub(super) async fn has_open_rows(conn: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let query =
        "SELECT EXISTS (SELECT 1 FROM deletions_known WHERE state = 'pending') OR EXISTS (SELECT 1 FROM deletions_new)";
    sqlx::query_scalar(query).fetch_one(conn).await
}
