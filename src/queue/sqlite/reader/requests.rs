//! The requests of one agent, and the correlation IDs of some.

use sqlx::sqlite::SqliteRow;

use super::{
    super::{lock_holder::holder, rows::json, step_limit::SOME_ROWS},
    Reader, StoreError, count, text, value,
};
use crate::{
    model::{clock::Timestamp, deletion::AgentId},
    queue::report::{Activity, Unanswered},
};

/// ?1 agent
const UNANSWERED: &str = "
SELECT id, size, claimed_at FROM requests INDEXED BY requests_unanswered WHERE answered_at IS NULL AND agent_id = ?1 ORDER BY id";

/// ?1 agent; ?2 the number after which to count
const SINCE: &str = "
SELECT (SELECT coalesce(max(id), 0) FROM requests), (SELECT count(*) FROM requests WHERE id > ?2 AND agent_id = ?1)";

/// ?1 ids: [id, …]
const CORRELATION_IDS: &str = "
SELECT requests.id, correlation_id FROM json_each(?1) AS given CROSS JOIN requests ON requests.id = given.value";

impl Reader {
    /// What the daemon does for `agent`: the requests without an answer, and those with a higher number than `after`.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn activity(&mut self, agent: &AgentId, after: i64) -> Result<Activity, StoreError> {
        let running = holder(&self.path).ok().map(|held| held.is_some());
        let read = async {
            // The requests that are claimed in between are in the second one.
            let unanswered = sqlx::query(UNANSWERED).bind(agent.as_str()).fetch_all(&mut self.conn).await?;
            let since = sqlx::query(SINCE).bind(agent.as_str()).bind(after).fetch_one(&mut self.conn).await?;
            Ok(Activity {
                running,
                unanswered: unanswered.iter().filter_map(unanswered_row).collect(),
                last: value(&since, 0).unwrap_or(0),
                since: count(&since, 1),
            })
        };
        read.await.map_err(|source| StoreError { path: self.path.clone(), doing: "look for requests", source })
    }

    /// The correlation IDs of those of these requests that are kept.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn correlation_ids(&mut self, requests: &[i64]) -> Result<Vec<(i64, String)>, StoreError> {
        let _budget = self.steps.allow(SOME_ROWS);
        let rows = sqlx::query(CORRELATION_IDS).bind(json(&requests)).fetch_all(&mut self.conn).await;
        let rows = rows.map_err(|source| StoreError { path: self.path.clone(), doing: "look for requests", source })?;
        Ok(rows.iter().filter_map(|row| Some((value(row, 0)?, text(row, 1)?))).collect())
    }
}

fn unanswered_row(row: &SqliteRow) -> Option<Unanswered> {
    Some(Unanswered { request: value(row, 0)?, rows: count(row, 1), claimed_at: Timestamp(value(row, 2)?) })
}
