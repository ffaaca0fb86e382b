//! Revives dead rows, makes waiting ones due, and cancels pending ones, for `sweeper retry` and `sweeper cancel`.

use sqlx::SqliteConnection;

use super::{
    errors::StoreError,
    interference::not_done,
    labels::CANCEL_ALL,
    producer::Producer,
    rows::json,
    schema_watch::schema_changes,
    step_limit::{SOME_ROWS, whole_file},
};
use crate::{
    model::{
        clock::Timestamp,
        deletion::{AgentId, DeletionId, EntryId},
        label::Label,
        outcome::Cause,
    },
    queue::{Change, Changed, SchemaChange, changes::due_now},
};

/// ?1 agent or NULL; ?2 cause or NULL
const DEAD: &str = "
SELECT json_group_array(id) FROM (
    SELECT id FROM deletions INDEXED BY deletions_dead
    WHERE state = 'dead' AND (?1 IS NULL OR agent_id = ?1) AND (?2 IS NULL OR last_cause = ?2) ORDER BY id)";

/// ?1 now; ?2 whether rows count that were never tried. A row that was tried has an attempt or the request that released it.
macro_rules! waits {
    () => {
        "state = 'pending' AND due_at > ?1 AND (?2 OR attempts > 0 OR request_id IS NOT NULL)"
    };
}

/// ?3 agent or NULL; ?4 cause or NULL. The ids, and how many of the rows were never tried.
const WAITING: &str = concat!(
    "SELECT json_group_array(id), coalesce(sum(untried), 0) FROM (
        SELECT id, attempts = 0 AND request_id IS NULL AS untried FROM deletions INDEXED BY deletions_due WHERE ",
    waits!(),
    " AND (?3 IS NULL OR agent_id = ?3) AND (?4 IS NULL OR last_cause = ?4) ORDER BY id)"
);

/// ?3 ids: [id, …]. With 0, the rows wait for nobody to share a request with. OR IGNORE: as in [`REVIVE`].
const HURRY: &str =
    concat!("UPDATE OR IGNORE deletions SET due_at = 0 WHERE id IN (SELECT value FROM json_each(?3)) AND ", waits!());

/// ?3 ids: [id, …]
const STILL_WAITING: &str =
    concat!("SELECT count(*) FROM deletions WHERE id IN (SELECT value FROM json_each(?3)) AND ", waits!());

/// ?1 ids: [id, …]; ?2 now. Those of the rows that a hold holds. One of the daemon's whose time is over lets a probe through.
const HELD: &str = "
SELECT count(*) FROM deletions
WHERE id IN (SELECT value FROM json_each(?1)) AND EXISTS (
    SELECT 1 FROM holds WHERE scope IN ('*', agent_id) AND (until_at IS NULL OR until_at > ?2))";

/// ?1 agent or NULL
const PENDING: &str = "
SELECT json_group_array(id) FROM (
    SELECT id FROM deletions INDEXED BY deletions_due
    WHERE state = 'pending' AND (?1 IS NULL OR agent_id = ?1) ORDER BY id)";

/// ?1 agent; ?2 entry; ?3 label or NULL
const PENDING_ROW: &str = "
SELECT id FROM deletions WHERE agent_id = ?1 AND entry_id = ?2 AND state = 'pending' AND (?3 IS NULL OR EXISTS (
    SELECT 1 FROM wishes WHERE label = ?3 AND agent_id = ?1 AND entry_id = ?2 AND state IS NULL))";

/// ?1 ids: [id, …]; ?2 now. A rejected row had better not go with others, so its `batch_max` stays. `maybe_done` stays because it is
/// still true. OR IGNORE: an invalid row stays dead, and keeps no other from being revived.
pub(super) const REVIVE: &str = "
UPDATE OR IGNORE deletions SET state = 'pending', settled_at = NULL, verified_at = NULL, attempts = 0, asks = 0, due_at = ?2,
    request_id = NULL, first_fault = NULL, evidence = NULL, batch_max = CASE last_cause WHEN 'rejected' THEN batch_max ELSE 20 END
WHERE id IN (SELECT value FROM json_each(?1)) AND state = 'dead'";

/// ?1 ids: [id, …]
const CANCEL: &str = "
DELETE FROM deletions WHERE id IN (SELECT value FROM json_each(?1)) AND state = 'pending'";

/// ?1 ids: [id, …]; ?2 state
pub(super) const LEFT: &str = "
SELECT count(*) FROM deletions WHERE id IN (SELECT value FROM json_each(?1)) AND state = ?2";

/// ?1 ids: [id, …]. Those of them that requests without an answer name.
pub(super) const IN_FLIGHT: &str = "
SELECT count(DISTINCT row.value) FROM requests INDEXED BY requests_unanswered
CROSS JOIN json_each(iif(json_valid(requests.deletion_ids), requests.deletion_ids, '[]')) AS row
WHERE answered_at IS NULL AND row.value IN (SELECT value FROM json_each(?1))";

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

    /// The row of this entry, if it is pending and, with a label, an open wish with this label is for it.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn pending_rows(
        &mut self,
        agent: &AgentId,
        entry: &EntryId,
        label: Option<&Label>,
    ) -> Result<Vec<DeletionId>, StoreError> {
        let look = async |conn: &mut SqliteConnection| {
            let query = sqlx::query_scalar(PENDING_ROW).bind(agent.as_str()).bind(entry.as_str());
            query.bind(label.map(Label::as_str)).fetch_optional(conn).await
        };
        let id: Option<i64> = self
            .session
            .twice_if_damaged("look for pending rows", whole_file(&self.session.options.path), look)
            .await?;
        Ok(id.map(DeletionId).into_iter().collect())
    }

    /// Makes the dead ones of these rows pending again, due now and with all their attempts, in one transaction.
    ///
    /// # Errors
    /// If SQLite fails; then no row is changed.
    pub async fn revive(&mut self, ids: &[DeletionId], now: Timestamp) -> Result<Changed, StoreError> {
        let (ids_json, due_at) = (list(ids), due_now(now));
        self.change_rows(
            "revive",
            ids.len(),
            "dead",
            now,
            async |conn| Ok(sqlx::query(REVIVE).bind(&ids_json).bind(due_at.0).execute(conn).await?.rows_affected()),
            async |conn| sqlx::query_scalar(LEFT).bind(&ids_json).bind("dead").fetch_one(conn).await,
        )
        .await
    }

    /// The pending rows that wait for their next attempt, of an agent, after a cause, or all of them; with `scheduled`, those as
    /// well that nobody has tried yet and that are due later. Returns them in the order of their ids, and how many were never tried.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn waiting(
        &mut self,
        agent: Option<&AgentId>,
        cause: Option<Cause>,
        scheduled: bool,
        now: Timestamp,
    ) -> Result<(Vec<DeletionId>, u64), StoreError> {
        let read = async |conn: &mut SqliteConnection| {
            let query = sqlx::query_as(WAITING).bind(now.0).bind(scheduled);
            let query = query.bind(agent.map(AgentId::as_str)).bind(cause.map(Cause::as_str));
            let (ids, untried): (String, i64) = query.fetch_one(conn).await?;
            Ok((parse_ids(ids)?, u64::try_from(untried).unwrap_or(0)))
        };
        self.look("look for rows that wait", read).await
    }

    /// Makes those of these rows due now that wait for their next attempt; with `scheduled`, those as well that nobody has tried
    /// yet. One transaction. Attempts and holds stay as they are.
    ///
    /// # Errors
    /// If SQLite fails; then no row is changed.
    pub async fn hurry(&mut self, ids: &[DeletionId], scheduled: bool, now: Timestamp) -> Result<Changed, StoreError> {
        let ids_json = list(ids);
        self.change_rows(
            "make rows due",
            ids.len(),
            "waiting",
            now,
            async |conn| {
                let hurry = sqlx::query(HURRY).bind(now.0).bind(scheduled).bind(&ids_json);
                Ok(hurry.execute(conn).await?.rows_affected())
            },
            async |conn| {
                sqlx::query_scalar(STILL_WAITING).bind(now.0).bind(scheduled).bind(&ids_json).fetch_one(conn).await
            },
        )
        .await
    }

    /// How many of these rows a hold holds.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn held(&mut self, ids: &[DeletionId], now: Timestamp) -> Result<u64, StoreError> {
        let ids = list(ids);
        let count = async |conn: &mut SqliteConnection| {
            sqlx::query_scalar::<_, i64>(HELD).bind(&ids).bind(now.0).fetch_one(conn).await
        };
        Ok(u64::try_from(self.look("look for held rows", count).await?).unwrap_or(0))
    }

    /// Removes the pending ones of these rows, in one transaction. All wishes for them are cancelled.
    ///
    /// # Errors
    /// If SQLite fails; then no row is removed.
    pub async fn cancel(&mut self, ids: &[DeletionId], now: Timestamp) -> Result<Changed, StoreError> {
        let (ids_json, operator) = (list(ids), self.operator().map(str::to_owned));
        let pending = async |conn: &mut SqliteConnection| {
            sqlx::query_scalar::<_, i64>(LEFT).bind(&ids_json).bind("pending").fetch_one(conn).await
        };
        let mut sent = 0;
        let changed = self.change_rows(
            "cancel",
            ids.len(),
            "pending",
            now,
            async |conn| {
                sent = in_flight(&mut *conn, &ids_json).await?;
                let before = pending(&mut *conn).await?;
                sqlx::query(CANCEL_ALL).bind(&ids_json).bind(now.0).bind(&operator).execute(&mut *conn).await?;
                sqlx::query(CANCEL).bind(&ids_json).execute(&mut *conn).await?;
                // A trigger has removed those of them that only had wishes with labels.
                Ok(u64::try_from(before - pending(conn).await?).unwrap_or(0))
            },
            pending,
        );
        let changed = changed.await?;
        Ok(Changed { in_flight: sent, ..changed })
    }

    /// Changes up to `most` rows in `state` with `change`. If there were fewer, `left` counts those that are still in it. Fails if
    /// there are any, and a foreign trigger may be the cause.
    async fn change_rows(
        &mut self,
        doing: &'static str,
        most: usize,
        state: &'static str,
        now: Timestamp,
        mut change: impl AsyncFnMut(&mut SqliteConnection) -> Result<u64, sqlx::Error>,
        left: impl AsyncFnMut(&mut SqliteConnection) -> Result<i64, sqlx::Error>,
    ) -> Result<Changed, StoreError> {
        let done = self
            .change(doing, now, async |conn: &mut SqliteConnection| {
                let done = change(conn).await?;
                Ok((done, done))
            })
            .await?;
        if done >= most as u64 {
            return Ok(Changed { done, ..Changed::default() });
        }
        let left = self.session.twice_if_damaged(doing, SOME_ROWS, left).await?;
        let foreign = schema_changes(&mut self.session.conn).await;
        let foreign = foreign.map_err(|source| self.session.error(doing, source))?;
        // A missing trigger of ours does not keep a row from being changed.
        let is_at_work = |object: &SchemaChange| object.can_interfere() && object.change != Change::Missing;
        if left > 0 && foreign.iter().any(is_at_work) {
            let message = format!("{left} of {most} rows are still {state}");
            return Err(self.session.error(doing, not_done(message, &foreign)));
        }
        Ok(Changed { done, stuck: u64::try_from(left).unwrap_or(0), ..Changed::default() })
    }
}

/// How many of these rows are in flight. Exact in a transaction that writes.
pub(super) async fn in_flight(conn: &mut SqliteConnection, ids: &str) -> Result<u64, sqlx::Error> {
    let count: i64 = sqlx::query_scalar(IN_FLIGHT).bind(ids).fetch_one(conn).await?;
    Ok(u64::try_from(count).unwrap_or(0))
}

pub(super) fn list(ids: &[DeletionId]) -> String {
    json(&ids.iter().map(|id| id.0).collect::<Vec<_>>())
}

/// The queries return one JSON text: a row for each ID would cost a hundred times as much.
pub(super) fn parse_ids(text: String) -> Result<Vec<DeletionId>, sqlx::Error> {
    let ids: Vec<i64> = serde_json::from_str(&text).map_err(|error| sqlx::Error::Decode(error.into()))?;
    Ok(ids.into_iter().map(DeletionId).collect())
}
