//! The rows and wishes of a label, for `sweeper retry --label` and `sweeper cancel --label`.

use sqlx::PgConnection;

use super::{
    errors::StoreError,
    inbox_wishes::{Chosen, Found},
    producer::Producer,
    revive::{deletions, in_flight, left},
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

/// $1 label; $2 agent or NULL; $3 cause or NULL
const DEAD: &str = "
SELECT coalesce(array_agg(known.id ORDER BY known.id), '{}') FROM wishes
JOIN deletions AS known ON known.agent_id = wishes.agent_id AND known.entry_id = wishes.entry_id AND known.state <> 'new'
WHERE wishes.label = $1 AND wishes.state = 'dead' AND coalesce(known.state, '') = 'dead'
    AND ($2::text IS NULL OR wishes.agent_id = $2) AND ($3::text IS NULL OR known.last_cause = $3)";

/// $1 label; $2 agent or NULL
const PENDING: &str = "
SELECT coalesce(array_agg(known.id ORDER BY known.id), '{}') FROM wishes
JOIN deletions AS known ON known.agent_id = wishes.agent_id AND known.entry_id = wishes.entry_id AND known.state <> 'new'
WHERE wishes.label = $1 AND wishes.state IS NULL AND known.settled_at IS NULL AND ($2::text IS NULL OR wishes.agent_id = $2)";
/// $1 label; $2 agent or NULL
const NEW: &str = "
SELECT id, agent_id, entry_id FROM deletions
WHERE state = 'new' AND label = $1 AND ($2::text IS NULL OR agent_id = $2) ORDER BY id";

/// $1 ids of wishes; $2 now; $3 operator; $4 label, or NULL for all labels. Takes them out of the inbox, and writes that they were
/// cancelled. Returns their number.
const CANCEL_NEW: &str = "
WITH gone AS (
    DELETE FROM deletions WHERE id = ANY ($1) AND state = 'new' AND label IS NOT NULL AND ($4::text IS NULL OR label = $4)
    RETURNING label, agent_id, entry_id, created_at
), written AS (
    INSERT INTO wishes (label, agent_id, entry_id, wished_at, state, closed_at, closed_by)
    SELECT DISTINCT ON (label, agent_id, entry_id) label, agent_id, entry_id, created_at, 'cancelled', $2, $3 FROM gone
    ORDER BY label, agent_id, entry_id, created_at
    ON CONFLICT (label, agent_id, entry_id) DO NOTHING
)
SELECT count(*) FROM gone";

/// $1 ids of rows. The same for open wishes that the leader has taken in. A trigger removes the rows that have no open wish left.
const CANCEL_OPEN: &str = "
UPDATE wishes SET state = 'cancelled', closed_at = $2, closed_by = $3
WHERE label <> '' AND ($4::text IS NULL OR label = $4) AND state IS NULL AND (agent_id, entry_id) IN (
    SELECT agent_id, entry_id FROM deletions WHERE id = ANY ($1) AND state <> 'new' AND settled_at IS NULL AND label IS NOT NULL)";

impl Producer {
    /// The dead rows that a dead wish with this label is for, in the order of their ids.
    ///
    /// # Errors
    /// If the server fails.
    pub async fn dead_of_label(
        &mut self,
        label: &Label,
        agent: Option<&AgentId>,
        cause: Option<Cause>,
    ) -> Result<Vec<DeletionId>, StoreError> {
        let query = sqlx::query_scalar(DEAD).bind(label.as_str()).bind(agent.map(AgentId::as_str));
        let query = query.bind(cause.map(Cause::as_str));
        let look = async |conn: &mut PgConnection| query.fetch_one(conn).await;
        Ok(deletions(self.look("look for the rows of a label", look).await?))
    }

    /// The pending rows that an open wish with this label is for, and its wishes in the inbox, the rows first.
    ///
    /// # Errors
    /// If the server fails.
    pub async fn pending_of_label(
        &mut self,
        label: &Label,
        agent: Option<&AgentId>,
    ) -> Result<Vec<DeletionId>, StoreError> {
        let (label, agent) = (label.as_str(), agent.map(AgentId::as_str));
        let look = async |conn: &mut PgConnection| {
            let new: Vec<Found> = sqlx::query_as(NEW).bind(label).bind(agent).fetch_all(&mut *conn).await?;
            Ok((new, sqlx::query_scalar(PENDING).bind(label).bind(agent).fetch_one(conn).await?))
        };
        let (new, known) = self.look("look for the rows of a label", look).await?;
        Ok(self.found(known, new))
    }

    /// Cancels the open wishes with this label for the pending ones of these rows, in one transaction, and removes the rows that have
    /// no open wish left.
    ///
    /// # Errors
    /// If the server fails; then nothing is changed.
    pub async fn cancel_wishes(
        &mut self,
        label: &Label,
        ids: &[DeletionId],
        now: Timestamp,
    ) -> Result<Cancelled, StoreError> {
        let (chosen, operator) = (self.wishes.among(ids), self.operator().map(str::to_owned));
        self.change("cancel", now, async |conn: &mut PgConnection| {
            let chosen = chosen.now(conn).await?;
            let in_flight = in_flight(conn, &chosen.rows).await?;
            let wishes = cancel(conn, &chosen, operator.as_deref(), Some(label), now).await?;
            let (kept, _) = left(conn, &chosen).await?;
            Ok((wishes, Cancelled { wishes, kept, in_flight }))
        })
        .await
    }
}

/// Cancels all wishes with labels for the pending ones of these rows. Before the rows are removed: the trigger that cancels their
/// wishes does not know who removes them.
pub(super) async fn cancel_all(
    conn: &mut PgConnection,
    chosen: &Chosen,
    operator: Option<&str>,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    cancel(conn, chosen, operator, None, now).await.map(drop)
}

async fn cancel(
    conn: &mut PgConnection,
    chosen: &Chosen,
    operator: Option<&str>,
    label: Option<&Label>,
    now: Timestamp,
) -> Result<u64, sqlx::Error> {
    let label = label.map(Label::as_str);
    let query = sqlx::query_scalar(CANCEL_NEW).bind(&chosen.wishes).bind(now.0).bind(operator).bind(label);
    let new: i64 = query.fetch_one(&mut *conn).await?;
    let query = sqlx::query(CANCEL_OPEN).bind(&chosen.rows).bind(now.0).bind(operator).bind(label);
    let open = query.execute(conn).await?.rows_affected();
    Ok(u64::try_from(new).unwrap_or(0) + open)
}
