//! Wishes with labels, and the labels that the queue knows.

use sqlx::{PgConnection, postgres::PgRow};

use super::{at, count, text};
use crate::{
    model::{
        clock::Timestamp,
        deletion::{AgentId, EntryId},
        label::Label,
    },
    queue::report::{LabelStanding, WishStanding},
};

/// $1 label; $2 agent or NULL. Reads the label's part of the table. A wish in the inbox is open, and opens the one that is there.
const OF_LABEL: &str = "
WITH waiting AS MATERIALIZED (
    SELECT agent_id, entry_id, min(created_at) AS wished_at FROM deletions_new
    WHERE label = $1 AND ($2::text IS NULL OR agent_id = $2) GROUP BY agent_id, entry_id
),
wish AS (
    SELECT CASE WHEN waiting.wished_at IS NULL THEN known.state END AS state,
        least(known.wished_at, waiting.wished_at) AS wished_at,
        CASE WHEN waiting.wished_at IS NULL THEN known.closed_at END AS closed_at
    FROM (SELECT * FROM wishes WHERE label = $1 AND ($2::text IS NULL OR agent_id = $2)) AS known
    FULL JOIN waiting ON waiting.agent_id = known.agent_id AND waiting.entry_id = known.entry_id
)
SELECT count(*), count(*) FILTER (WHERE state IS NULL), count(*) FILTER (WHERE state = 'deleted'),
    count(*) FILTER (WHERE state = 'absent'), count(*) FILTER (WHERE state = 'dead'),
    count(*) FILTER (WHERE state = 'cancelled'), min(wished_at), max(closed_at)
FROM wish";

/// $1 agent; $2 entry
const OF_ENTRY: &str = "
SELECT label, state, wished_at, closed_at, closed_by FROM wishes WHERE agent_id = $1 AND entry_id = $2 ORDER BY label";

/// $1 the most labels. Skips from label to label.
const LABELS: &str = "
WITH RECURSIVE known (label) AS (
    (SELECT label FROM wishes WHERE label > '' ORDER BY label LIMIT 1)
    UNION ALL
    SELECT (SELECT label FROM wishes WHERE label > known.label ORDER BY label LIMIT 1)
    FROM known WHERE known.label IS NOT NULL
)
SELECT label FROM (SELECT label FROM known WHERE label IS NOT NULL LIMIT $1) AS first
UNION SELECT label FROM deletions_new WHERE label IS NOT NULL ORDER BY 1 LIMIT $1";

/// $1 label
const KNOWS_LABEL: &str = "
SELECT EXISTS (SELECT 1 FROM wishes WHERE label = $1) OR EXISTS (SELECT 1 FROM deletions_new WHERE label = $1)";

/// How the wishes with this label stand; `None` if there is none.
pub(super) async fn standing(
    conn: &mut PgConnection,
    label: &Label,
    agent: Option<&AgentId>,
) -> Result<Option<LabelStanding>, sqlx::Error> {
    let row = sqlx::query(OF_LABEL).bind(label.as_str()).bind(agent.map(AgentId::as_str)).fetch_one(conn).await?;
    Ok((count(&row, 0) > 0).then(|| LabelStanding {
        pending: count(&row, 1),
        deleted: count(&row, 2),
        absent: count(&row, 3),
        dead: count(&row, 4),
        cancelled: count(&row, 5),
        wished_at: at(&row, 6).unwrap_or(Timestamp::ZERO),
        closed_at: at(&row, 7),
    }))
}

/// The wishes for an entry that the leader knows.
pub(super) async fn of_entry(
    conn: &mut PgConnection,
    agent: &AgentId,
    entry: &EntryId,
) -> Result<Vec<WishStanding>, sqlx::Error> {
    let rows = sqlx::query(OF_ENTRY).bind(agent.as_str()).bind(entry.as_str()).fetch_all(conn).await?;
    let wish = |row: &PgRow| WishStanding {
        label: text(row, 0).unwrap_or_default(),
        state: text(row, 1),
        wished_at: at(row, 2).unwrap_or(Timestamp::ZERO),
        closed_at: at(row, 3),
        closed_by: text(row, 4),
    };
    Ok(rows.iter().map(wish).collect())
}

/// Whether there is a wish with this label.
pub(super) async fn is_known(conn: &mut PgConnection, label: &Label) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(KNOWS_LABEL).bind(label.as_str()).fetch_one(conn).await
}

/// All labels, in their order, up to `most`.
pub(super) async fn labels(conn: &mut PgConnection, most: u32) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(LABELS).bind(i64::from(most)).fetch_all(conn).await
}
