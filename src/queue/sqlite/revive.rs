//! Bringing dead rows back, and taking pending ones out: for those parts of this program that do so for a person.

use sqlx::{SqliteConnection, sqlite::SqliteQueryResult};

use super::{
    errors::StoreError,
    producer::Producer,
    rows::json,
    steps::{SOME_ROWS, whole_file},
    trust::{self, Foreign, How, not_done},
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

/// ?1 ids: [id, …]; ?2 now. Of a rejected row it is known that it had better not go with others: its `batch_max` stays.
/// So does `maybe_done`, which is still so. OR IGNORE: a row that got past its CHECKs stays dead, and keeps no other.
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
        self.link.surely("look for dead rows", whole_file(&self.link.options.path), look).await
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
        self.link.surely("look for pending rows", whole_file(&self.link.options.path), look).await
    }

    /// This row, if it is pending.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn pending_row(&mut self, agent: &AgentId, entry: &EntryId) -> Result<Option<DeletionId>, StoreError> {
        let look = async |conn: &mut SqliteConnection| {
            let query = sqlx::query_scalar(PENDING_ROW).bind(agent.as_str()).bind(entry.as_str());
            query.fetch_optional(conn).await
        };
        let id: Option<i64> =
            self.link.surely("look for pending rows", whole_file(&self.link.options.path), look).await?;
        Ok(id.map(DeletionId))
    }

    /// The rows that requests without an answer have.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn in_flight(&mut self) -> Result<Vec<DeletionId>, StoreError> {
        let look =
            async |conn: &mut SqliteConnection| sqlx::query_scalar(IN_FLIGHT).fetch_one(conn).await.and_then(parse_ids);
        self.link.surely("look for rows on their way", whole_file(&self.link.options.path), look).await
    }

    /// Makes those of these rows that are dead pending again, due now and with all their attempts before them; tells how
    /// many. One transaction.
    ///
    /// # Errors
    /// If SQLite fails; then none is.
    pub async fn revive(&mut self, ids: &[DeletionId], now: Timestamp) -> Result<u64, StoreError> {
        // The table takes no time before 1973 for one: with a clock that begins in 1970, the rows are due at once.
        let due_at = if now < Timestamp::LEAST_DUE { Timestamp::ZERO } else { now };
        let revive =
            async |conn: &mut SqliteConnection| sqlx::query(REVIVE).bind(list(ids)).bind(due_at.0).execute(conn).await;
        self.link.check_in_place("revive")?;
        let done = self.link.surely("revive", SOME_ROWS, revive).await;
        self.changed("revive", ids, "dead", done).await
    }

    /// Takes those of these rows out that are pending; tells how many. One transaction.
    ///
    /// # Errors
    /// If SQLite fails; then none is.
    pub async fn cancel(&mut self, ids: &[DeletionId]) -> Result<u64, StoreError> {
        let cancel = async |conn: &mut SqliteConnection| sqlx::query(CANCEL).bind(list(ids)).execute(conn).await;
        self.link.check_in_place("cancel")?;
        let done = self.link.surely("cancel", SOME_ROWS, cancel).await;
        self.changed("cancel", ids, "pending", done).await
    }

    /// How many rows were changed. Fails if some still have their `state` while something of somebody else's is in the tables,
    /// which may have left them out.
    async fn changed(
        &mut self,
        doing: &'static str,
        ids: &[DeletionId],
        state: &'static str,
        done: Result<SqliteQueryResult, StoreError>,
    ) -> Result<u64, StoreError> {
        let done = match done {
            Ok(done) => done.rows_affected(),
            Err(error) => return Err(self.link.blame(error).await),
        };
        self.link.check_in_place(doing)?;
        let left = async |conn: &mut SqliteConnection| {
            sqlx::query_scalar::<_, i64>(LEFT).bind(list(ids)).bind(state).fetch_one(conn).await
        };
        if done < ids.len() as u64 {
            let left = self.link.surely(doing, SOME_ROWS, left).await?;
            let foreign = trust::foreign(&mut self.link.conn).await;
            let foreign = foreign.map_err(|source| self.link.error(doing, source))?;
            // What is missing leaves nothing out.
            let is_at_work = |object: &Foreign| object.can_interfere() && object.how != How::Missing;
            if left > 0 && foreign.iter().any(is_at_work) {
                let said = format!("{left} of {} rows are still {state}", ids.len());
                return Err(self.link.error(doing, not_done(said, &foreign)));
            }
        }
        Ok(done)
    }
}

fn list(ids: &[DeletionId]) -> String {
    json(&ids.iter().map(|id| id.0).collect::<Vec<_>>())
}

/// One text instead of a row for each: those cost a hundred times as much.
fn parse_ids(text: String) -> Result<Vec<DeletionId>, sqlx::Error> {
    let ids: Vec<i64> = serde_json::from_str(&text).map_err(|error| sqlx::Error::Decode(error.into()))?;
    Ok(ids.into_iter().map(DeletionId).collect())
}
