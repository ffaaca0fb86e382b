//! The rows and wishes of a label, for `sweeper retry --label` and `sweeper cancel --label`.

use sqlx::SqliteConnection;

use super::{
    errors::StoreError,
    interference::not_done,
    producer::Producer,
    revive::{LEFT, in_flight, list, parse_ids},
    schema_watch::schema_changes,
    step_limit::whole_file,
};
use crate::{
    model::{
        clock::Timestamp,
        deletion::{AgentId, DeletionId},
        label::Label,
        outcome::Cause,
    },
    queue::Cancelled,
};

/// ?1 label; ?2 agent or NULL; ?3 cause or NULL
macro_rules! rows_of_label {
    ($open:literal) => {
        concat!(
            "SELECT json_group_array(id) FROM (
            SELECT deletions.id FROM wishes CROSS JOIN deletions
                ON deletions.agent_id = wishes.agent_id AND deletions.entry_id = wishes.entry_id
            WHERE wishes.label = ?1 AND (?2 IS NULL OR wishes.agent_id = ?2) AND (?3 IS NULL OR last_cause = ?3) AND ",
            $open,
            " ORDER BY deletions.id)"
        )
    };
}
pub(super) const DEAD: &str = rows_of_label!("wishes.state = 'dead' AND deletions.state = 'dead'");
pub(super) const PENDING: &str = rows_of_label!("wishes.state IS NULL AND deletions.state = 'pending'");

/// ?1 ids: [id, …]; ?2 now; ?3 operator; ?4 label. A trigger removes the rows that have no open wish left.
pub(super) const CANCEL: &str = "
UPDATE wishes SET state = 'cancelled', closed_at = ?2, closed_by = ?3
WHERE label = ?4 AND state IS NULL AND (agent_id, entry_id) IN (
    SELECT agent_id, entry_id FROM deletions WHERE id IN (SELECT value FROM json_each(?1)) AND state = 'pending')";

/// ?1 ids: [id, …]; ?2 now; ?3 operator. Before the rows are removed: the trigger that cancels their wishes does not know who removes
/// them.
pub(super) const CANCEL_ALL: &str = "
UPDATE wishes SET state = 'cancelled', closed_at = ?2, closed_by = ?3
WHERE label <> '' AND state IS NULL AND (agent_id, entry_id) IN (
    SELECT agent_id, entry_id FROM deletions
    WHERE id IN (SELECT value FROM json_each(?1)) AND state = 'pending' AND label IS NOT NULL)";

/// ?1 ids: [id, …]; ?2 label
const OPEN: &str = "
SELECT count(*) FROM wishes WHERE label = ?2 AND state IS NULL AND (agent_id, entry_id) IN (
    SELECT agent_id, entry_id FROM deletions WHERE id IN (SELECT value FROM json_each(?1)))";

impl Producer {
    /// The dead rows that a dead wish with this label is for, in the order of their ids.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn dead_of_label(
        &mut self,
        label: &Label,
        agent: Option<&AgentId>,
        cause: Option<Cause>,
    ) -> Result<Vec<DeletionId>, StoreError> {
        self.rows_of_label(DEAD, label, agent, cause).await
    }

    /// The pending rows that an open wish with this label is for, in the order of their ids.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn pending_of_label(
        &mut self,
        label: &Label,
        agent: Option<&AgentId>,
    ) -> Result<Vec<DeletionId>, StoreError> {
        self.rows_of_label(PENDING, label, agent, None).await
    }

    async fn rows_of_label(
        &mut self,
        statement: &'static str,
        label: &Label,
        agent: Option<&AgentId>,
        cause: Option<Cause>,
    ) -> Result<Vec<DeletionId>, StoreError> {
        let look = async |conn: &mut SqliteConnection| {
            let query = sqlx::query_scalar(statement).bind(label.as_str()).bind(agent.map(AgentId::as_str));
            query.bind(cause.map(Cause::as_str)).fetch_one(conn).await.and_then(parse_ids)
        };
        self.session
            .twice_if_damaged("look for the rows of a label", whole_file(&self.session.options.path), look)
            .await
    }

    /// Cancels the open wishes with this label for the pending ones of these rows, in one transaction, and removes the rows that have
    /// no open wish left.
    ///
    /// # Errors
    /// If SQLite fails, or a foreign trigger undoes it; then nothing is changed.
    pub async fn cancel_wishes(
        &mut self,
        label: &Label,
        ids: &[DeletionId],
        now: Timestamp,
    ) -> Result<Cancelled, StoreError> {
        let operator = self.operator().map(str::to_owned);
        self.change("cancel", now, async |conn: &mut SqliteConnection| {
            let in_flight = in_flight(&mut *conn, &list(ids)).await?;
            let query = sqlx::query(CANCEL).bind(list(ids)).bind(now.0).bind(&operator).bind(label.as_str());
            let wishes = query.execute(&mut *conn).await?.rows_affected();
            let open: i64 = sqlx::query_scalar(OPEN).bind(list(ids)).bind(label.as_str()).fetch_one(&mut *conn).await?;
            if open > 0 {
                let message = format!("{open} wishes are still open after they were cancelled");
                return Err(not_done(message, &schema_changes(conn).await?));
            }
            let kept: i64 = sqlx::query_scalar(LEFT).bind(list(ids)).bind("pending").fetch_one(conn).await?;
            Ok((wishes, Cancelled { wishes, kept: u64::try_from(kept).unwrap_or(0), in_flight }))
        })
        .await
    }
}
