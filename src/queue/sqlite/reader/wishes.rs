//! Wishes with labels, and the names that the queue knows.

use sqlx::{SqliteConnection, sqlite::SqliteRow};

use super::{super::step_limit::whole_file, Reader, StoreError, count, text, value};
use crate::{
    model::{
        clock::Timestamp,
        deletion::{AgentId, EntryId},
        label::Label,
    },
    queue::report::{LabelStanding, WishStanding},
};

/// ?1 label; ?2 agent or NULL. Reads the label's part of the table.
pub(in crate::queue::sqlite) const OF_LABEL: &str = "
SELECT count(*), sum(state IS NULL), sum(state = 'deleted'), sum(state = 'absent'), sum(state = 'dead'),
    sum(state = 'cancelled'), min(wished_at), max(closed_at)
FROM wishes WHERE label = ?1 AND (?2 IS NULL OR agent_id = ?2)";

/// ?1 agent; ?2 entry
pub(in crate::queue::sqlite) const OF_ENTRY: &str = "
SELECT label, state, wished_at, closed_at, closed_by FROM wishes WHERE agent_id = ?1 AND entry_id = ?2 ORDER BY label";

/// ?1 the most labels. Skips from label to label.
pub(in crate::queue::sqlite) const LABELS: &str = "
WITH RECURSIVE known (label) AS (
    SELECT (SELECT min(label) FROM wishes WHERE label > '')
    UNION ALL
    SELECT (SELECT min(label) FROM wishes WHERE label > known.label) FROM known WHERE known.label IS NOT NULL
)
SELECT label FROM known WHERE label IS NOT NULL LIMIT ?1";

/// ?1 label
const KNOWS_LABEL: &str = "SELECT EXISTS (SELECT 1 FROM wishes WHERE label = ?1)";

impl Reader {
    /// How the wishes with this label stand, or those of them for one agent; `None` if there is none. Reads all of them.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn label(&mut self, label: &Label, agent: Option<&AgentId>) -> Result<Option<LabelStanding>, StoreError> {
        let query = sqlx::query(OF_LABEL).bind(label.as_str()).bind(agent.map(AgentId::as_str));
        let found = {
            let _budget = self.steps.allow(whole_file(&self.path));
            query.fetch_one(&mut self.conn).await
        };
        match found {
            Ok(row) => Ok((count(&row, 0) > 0).then(|| standing(&row))),
            Err(source) => Err(self.blame("count the wishes of a label", source).await),
        }
    }

    /// The wishes for an entry, if any of them has a label, or had one. They outlive the row.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn wishes(&mut self, agent: &AgentId, entry: &EntryId) -> Result<Vec<WishStanding>, StoreError> {
        match wishes(&mut self.conn, agent, entry).await {
            Ok(wishes) => Ok(wishes),
            Err(source) => Err(self.blame("look for wishes", source).await),
        }
    }

    /// Whether there is a wish with this label.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn knows_label(&mut self, label: &Label) -> Result<bool, StoreError> {
        let found = sqlx::query_scalar(KNOWS_LABEL).bind(label.as_str()).fetch_one(&mut self.conn).await;
        found.map_err(|source| StoreError { path: self.path.clone(), doing: "look for the label", source })
    }

    /// All labels, in their order, up to `most`.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn labels(&mut self, most: u32) -> Result<Vec<String>, StoreError> {
        match sqlx::query(LABELS).bind(most).fetch_all(&mut self.conn).await {
            Ok(rows) => Ok(rows.iter().filter_map(|row| text(row, 0)).collect()),
            Err(source) => Err(self.blame("list the labels", source).await),
        }
    }
}

fn standing(row: &SqliteRow) -> LabelStanding {
    LabelStanding {
        pending: count(row, 1),
        deleted: count(row, 2),
        absent: count(row, 3),
        dead: count(row, 4),
        cancelled: count(row, 5),
        wished_at: Timestamp(value(row, 6).unwrap_or(0)),
        closed_at: value(row, 7).map(Timestamp),
    }
}

/// The wishes for an entry.
pub(super) async fn wishes(
    conn: &mut SqliteConnection,
    agent: &AgentId,
    entry: &EntryId,
) -> Result<Vec<WishStanding>, sqlx::Error> {
    let rows = sqlx::query(OF_ENTRY).bind(agent.as_str()).bind(entry.as_str()).fetch_all(conn).await?;
    let wish = |row: &SqliteRow| WishStanding {
        label: text(row, 0).unwrap_or_default(),
        state: text(row, 1),
        wished_at: Timestamp(value(row, 2).unwrap_or(0)),
        closed_at: value(row, 3).map(Timestamp),
        closed_by: text(row, 4),
    };
    Ok(rows.iter().map(wish).collect())
}
