//! Revives dead rows and cancels pending ones, for `sweeper retry` and `sweeper cancel`.

use sqlx::{SqliteConnection, sqlite::SqliteQueryResult};

use super::{
    errors::StoreError,
    interference::not_done,
    producer::Producer,
    rows::json,
    schema_watch::{Change, SchemaChange, schema_changes},
    step_limit::{SOME_ROWS, whole_file},
};
use crate::model::{
    clock::Timestamp,
    deletion::{AgentId, DeletionId, EntryId},
    outcome::Cause,
};

/// ?1 agent or NULL; ?2 cause or NULL
const DEAD: &str = "
SELECT json_group_array(id) FROM (
    SELECT id FROM deletions INDEXED BY deletions_dead
    WHERE state = 'dead' AND (?1 IS NULL OR agent_id = ?1) AND (?2 IS NULL OR last_cause = ?2) ORDER BY id)";

/// ?1 agent or NULL
const PENDING: &str = "
SELECT json_group_array(id) FROM (
    SELECT id FROM deletions INDEXED BY deletions_due
    WHERE state = 'pending' AND (?1 IS NULL OR agent_id = ?1) ORDER BY id)";

/// ?1 agent; ?2 entry
const PENDING_ROW: &str = "SELECT id FROM deletions WHERE agent_id = ?1 AND entry_id = ?2 AND state = 'pending'";

/// ?1 ids: [id, …]; ?2 now. A rejected row had better not go with others, so its `batch_max` stays. `maybe_done` stays because it is
/// still true. OR IGNORE: an invalid row stays dead, and keeps no other from being revived.
pub(super) const REVIVE: &str = "
UPDATE OR IGNORE deletions SET state = 'pending', settled_at = NULL, attempts = 0, asks = 0, due_at = ?2,
    request_id = NULL, first_fault = NULL, evidence = NULL, batch_max = CASE last_cause WHEN 'rejected' THEN batch_max ELSE 20 END
WHERE id IN (SELECT value FROM json_each(?1)) AND state = 'dead'";

/// ?1 ids: [id, …]
const CANCEL: &str = "
DELETE FROM deletions WHERE id IN (SELECT value FROM json_each(?1)) AND state = 'pending'";

/// ?1 ids: [id, …]; ?2 state
const LEFT: &str = "
SELECT count(*) FROM deletions WHERE id IN (SELECT value FROM json_each(?1)) AND state = ?2";

const IN_FLIGHT: &str = "
SELECT json_group_array(row.value) FROM requests INDEXED BY requests_unanswered
CROSS JOIN json_each(iif(json_valid(requests.deletion_ids), requests.deletion_ids, '[]')) AS row
WHERE answered_at IS NULL AND typeof(row.value) = 'integer'";

impl Producer {
    /// The dead rows of an agent, of a cause, or all of them, in the order of their ids.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn dead(&mut self, agent: Option<&AgentId>, cause: Option<Cause>) -> Result<Vec<DeletionId>, StoreError> {
        let look = async |conn: &mut SqliteConnection| {
            let query = sqlx::query_scalar(DEAD).bind(agent.map(AgentId::as_str)).bind(cause.map(Cause::as_str));
            query.fetch_one(conn).await.and_then(parse_ids)
        };
        self.session.twice_if_damaged("look for dead rows", whole_file(&self.session.options.path), look).await
    }

    /// The pending rows of an agent, or all of them, in the order of their ids.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn pending(&mut self, agent: Option<&AgentId>) -> Result<Vec<DeletionId>, StoreError> {
        let look = async |conn: &mut SqliteConnection| {
            let query = sqlx::query_scalar(PENDING).bind(agent.map(AgentId::as_str));
            query.fetch_one(conn).await.and_then(parse_ids)
        };
        self.session.twice_if_damaged("look for pending rows", whole_file(&self.session.options.path), look).await
    }

    /// The ID of this row, if it is pending.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn pending_row(&mut self, agent: &AgentId, entry: &EntryId) -> Result<Option<DeletionId>, StoreError> {
        let look = async |conn: &mut SqliteConnection| {
            let query = sqlx::query_scalar(PENDING_ROW).bind(agent.as_str()).bind(entry.as_str());
            query.fetch_optional(conn).await
        };
        let id: Option<i64> = self
            .session
            .twice_if_damaged("look for pending rows", whole_file(&self.session.options.path), look)
            .await?;
        Ok(id.map(DeletionId))
    }

    /// The rows of requests without an answer.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn in_flight(&mut self) -> Result<Vec<DeletionId>, StoreError> {
        let look =
            async |conn: &mut SqliteConnection| sqlx::query_scalar(IN_FLIGHT).fetch_one(conn).await.and_then(parse_ids);
        self.session.twice_if_damaged("look for rows in flight", whole_file(&self.session.options.path), look).await
    }

    /// Makes the dead ones of these rows pending again, due now and with all their attempts, in one transaction.
    ///
    /// # Errors
    /// If SQLite fails; then no row is changed.
    pub async fn revive(&mut self, ids: &[DeletionId], now: Timestamp) -> Result<Changed, StoreError> {
        let due_at = due_now(now);
        self.change_rows("revive", ids, "dead", now, async |conn| {
            sqlx::query(REVIVE).bind(list(ids)).bind(due_at.0).execute(conn).await
        })
        .await
    }

    /// Removes the pending ones of these rows, in one transaction.
    ///
    /// # Errors
    /// If SQLite fails; then no row is removed.
    pub async fn cancel(&mut self, ids: &[DeletionId], now: Timestamp) -> Result<Changed, StoreError> {
        self.change_rows("cancel", ids, "pending", now, async |conn| {
            sqlx::query(CANCEL).bind(list(ids)).execute(conn).await
        })
        .await
    }

    /// Changes rows that are in `state` so that they leave it. Fails if some stay, and a foreign trigger may be the cause.
    async fn change_rows(
        &mut self,
        doing: &'static str,
        ids: &[DeletionId],
        state: &'static str,
        now: Timestamp,
        mut change: impl AsyncFnMut(&mut SqliteConnection) -> Result<SqliteQueryResult, sqlx::Error>,
    ) -> Result<Changed, StoreError> {
        let done = self
            .change(doing, now, async |conn: &mut SqliteConnection| {
                let done = change(conn).await?.rows_affected();
                Ok((done, done))
            })
            .await?;
        if done >= ids.len() as u64 {
            return Ok(Changed { done, stuck: 0 });
        }
        let left = async |conn: &mut SqliteConnection| {
            sqlx::query_scalar::<_, i64>(LEFT).bind(list(ids)).bind(state).fetch_one(conn).await
        };
        let left = self.session.twice_if_damaged(doing, SOME_ROWS, left).await?;
        let foreign = schema_changes(&mut self.session.conn).await;
        let foreign = foreign.map_err(|source| self.session.error(doing, source))?;
        // A missing trigger of ours does not keep a row from being changed.
        let is_at_work = |object: &SchemaChange| object.can_interfere() && object.change != Change::Missing;
        if left > 0 && foreign.iter().any(is_at_work) {
            let message = format!("{left} of {} rows are still {state}", ids.len());
            return Err(self.session.error(doing, not_done(message, &foreign)));
        }
        Ok(Changed { done, stuck: u64::try_from(left).unwrap_or(0) })
    }
}

/// How many rows a step changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Rows that were changed.
    pub done: u64,
    /// Rows that could not be changed, because they have values that the schema does not allow.
    pub stuck: u64,
}

/// The due time of rows that are to be due now. The table refuses due times before 1973. With a clock that begins in 1970, the rows
/// are due at once.
fn due_now(now: Timestamp) -> Timestamp {
    if now < Timestamp::LEAST_DUE { Timestamp::ZERO } else { now }
}

fn list(ids: &[DeletionId]) -> String {
    json(&ids.iter().map(|id| id.0).collect::<Vec<_>>())
}

/// The queries return one JSON text: a row for each ID would cost a hundred times as much.
fn parse_ids(text: String) -> Result<Vec<DeletionId>, sqlx::Error> {
    let ids: Vec<i64> = serde_json::from_str(&text).map_err(|error| sqlx::Error::Decode(error.into()))?;
    Ok(ids.into_iter().map(DeletionId).collect())
}
