//! Revives dead rows, makes waiting ones due, and cancels pending ones, for `sweeper retry` and `sweeper cancel`.
//!
//! The command changes the rows itself, between two turns of the leader, and also if nobody leads. So wishes that are still in the
//! inbox count as pending rows here. One that is taken in before its turn has come is followed to its row: see [`Wishes`].
//!
//! Wishes are looked for before rows: one that is taken in between the two looks is found twice, and not missed.
//!
//! The statements name `deletions`, on which an operator has rights. Rows are found by their ids with `settled_at` and not with
//! `state`: from `state = 'pending'`, the planner could conclude that the index of the due rows will do, and would go through all of
//! it. A `state` is compared with a constant only where it tells one partition from the other.

use sqlx::PgConnection;

use super::{
    errors::StoreError,
    inbox_wishes::{Chosen, Found},
    producer::Producer,
};
use crate::{
    model::{
        clock::Timestamp,
        deletion::{AgentId, DeletionId, EntryId},
        label::Label,
        outcome::Cause,
    },
    queue::{Changed, changes::due_now},
};

/// $1 agent or NULL; $2 cause or NULL
const DEAD: &str = "
SELECT coalesce(array_agg(id ORDER BY id), '{}') FROM deletions
WHERE state = 'dead' AND ($1::text IS NULL OR agent_id = $1) AND ($2::text IS NULL OR last_cause = $2)";

/// $1 agent or NULL
const PENDING: &str = "
SELECT coalesce(array_agg(id ORDER BY id), '{}') FROM deletions
WHERE state = 'pending' AND ($1::text IS NULL OR agent_id = $1)";
/// $1 agent or NULL
const NEW: &str = "
SELECT id, agent_id, entry_id FROM deletions WHERE state = 'new' AND ($1::text IS NULL OR agent_id = $1) ORDER BY id";

/// $1 agent; $2 entry; $3 label or NULL
const PENDING_ROWS: &str = "
SELECT coalesce(array_agg(id ORDER BY id), '{}') FROM deletions
WHERE agent_id = $1 AND entry_id = $2 AND state <> 'new' AND settled_at IS NULL AND ($3::text IS NULL OR EXISTS (
    SELECT 1 FROM wishes WHERE label = $3 AND agent_id = $1 AND entry_id = $2 AND state IS NULL))";
/// $1 agent; $2 entry; $3 label or NULL
const NEW_ROWS: &str = "
SELECT id, agent_id, entry_id FROM deletions
WHERE agent_id = $1 AND entry_id = $2 AND state = 'new' AND ($3::text IS NULL OR label = $3) ORDER BY id";

/// $1 now; $2 whether rows count that were never tried. A row that was tried has an attempt or the request that released it.
macro_rules! waits {
    () => {
        "due_at > $1 AND ($2 OR attempts > 0 OR request_id IS NOT NULL)"
    };
}

/// $3 agent or NULL; $4 cause or NULL. The ids, and how many of the rows were never tried.
const WAITING: &str = concat!(
    "SELECT coalesce(array_agg(id ORDER BY id), '{}'), count(*) FILTER (WHERE attempts = 0 AND request_id IS NULL) FROM deletions
    WHERE state = 'pending' AND ",
    waits!(),
    " AND ($3::text IS NULL OR agent_id = $3) AND ($4::text IS NULL OR last_cause = $4)"
);
/// The same for wishes, of which none was tried.
const NEW_WAITING: &str = concat!(
    "SELECT id, agent_id, entry_id FROM deletions WHERE state = 'new' AND ",
    waits!(),
    " AND ($3::text IS NULL OR agent_id = $3) AND ($4::text IS NULL OR last_cause = $4) ORDER BY id"
);

/// $3 ids of rows. With 0, the rows wait for nobody to share a request with.
const HURRY: &str = concat!(
    "UPDATE deletions SET due_at = 0 WHERE id = ANY ($3) AND state <> 'new' AND settled_at IS NULL AND ",
    waits!()
);
/// The same for wishes.
const HURRY_NEW: &str = concat!("UPDATE deletions SET due_at = 0 WHERE id = ANY ($3) AND state = 'new' AND ", waits!());

/// $1 ids of rows; $2 ids of wishes; $3 now. Those that a hold holds. One of the daemon's whose time is over lets a probe through.
const HELD: &str = "
SELECT count(*) FROM (
    SELECT agent_id FROM deletions WHERE id = ANY ($1) AND state <> 'new'
    UNION ALL SELECT agent_id FROM deletions WHERE id = ANY ($2) AND state = 'new') AS chosen
WHERE EXISTS (SELECT 1 FROM holds WHERE scope IN ('*', agent_id) AND (until_at IS NULL OR until_at > $3))";

/// $1 ids; $2 now. A rejected row had better not go with others, so its `batch_max` stays. `maybe_done` stays because it is still true.
const REVIVE: &str = "
UPDATE deletions SET state = 'pending', settled_at = NULL, verified_at = NULL, attempts = 0, asks = 0, due_at = $2,
    request_id = NULL, first_fault = NULL, evidence = NULL, batch_max = CASE last_cause WHEN 'rejected' THEN batch_max ELSE 20 END
WHERE id = ANY ($1) AND state <> 'new' AND settled_at IS NOT NULL AND coalesce(state, '') = 'dead'";

/// $1 ids of rows; $2 ids of wishes. Those that are there and pending, and whether one of them has a label.
const LEFT: &str = "
SELECT count(*), coalesce(bool_or(label IS NOT NULL), false) FROM (
    SELECT label FROM deletions WHERE id = ANY ($1) AND state <> 'new' AND settled_at IS NULL
    UNION ALL SELECT label FROM deletions WHERE id = ANY ($2) AND state = 'new') AS chosen";

/// $1 ids of rows
const CANCEL: &str = "DELETE FROM deletions WHERE id = ANY ($1) AND state <> 'new' AND settled_at IS NULL";
/// $1 ids of wishes
const CANCEL_NEW: &str = "DELETE FROM deletions WHERE id = ANY ($1) AND state = 'new'";

/// $1 ids. Those of them that requests without an answer name.
const IN_FLIGHT: &str = "
SELECT count(DISTINCT named.id) FROM requests CROSS JOIN LATERAL unnest(deletion_ids) AS named (id)
WHERE answered_at IS NULL AND named.id = ANY ($1)";

impl Producer {
    /// The ids of rows and of wishes.
    pub(super) fn found(&mut self, known: Vec<i64>, new: Vec<Found>) -> Vec<DeletionId> {
        let mut ids = deletions(known);
        ids.extend(self.wishes.remember(new));
        ids
    }

    /// The dead rows of an agent, of a cause, or all of them, in the order of their ids.
    ///
    /// # Errors
    /// If the server fails.
    pub async fn dead(&mut self, agent: Option<&AgentId>, cause: Option<Cause>) -> Result<Vec<DeletionId>, StoreError> {
        let query = sqlx::query_scalar(DEAD).bind(agent.map(AgentId::as_str)).bind(cause.map(Cause::as_str));
        let ids = self.look("look for dead rows", async |conn: &mut PgConnection| query.fetch_one(conn).await).await?;
        Ok(deletions(ids))
    }

    /// The pending rows of an agent, or all of them, the rows first.
    ///
    /// # Errors
    /// If the server fails.
    pub async fn pending(&mut self, agent: Option<&AgentId>) -> Result<Vec<DeletionId>, StoreError> {
        let agent = agent.map(AgentId::as_str);
        let look = async |conn: &mut PgConnection| {
            let new: Vec<Found> = sqlx::query_as(NEW).bind(agent).fetch_all(&mut *conn).await?;
            Ok((new, sqlx::query_scalar(PENDING).bind(agent).fetch_one(conn).await?))
        };
        let (new, known) = self.look("look for pending rows", look).await?;
        Ok(self.found(known, new))
    }

    /// The pending rows of this entry, and its wishes in the inbox. With a label, those that an open wish with this label is for.
    ///
    /// # Errors
    /// If the server fails.
    pub async fn pending_rows(
        &mut self,
        agent: &AgentId,
        entry: &EntryId,
        label: Option<&Label>,
    ) -> Result<Vec<DeletionId>, StoreError> {
        let label = label.map(Label::as_str);
        let look = async |conn: &mut PgConnection| {
            let new = sqlx::query_as(NEW_ROWS).bind(agent.as_str()).bind(entry.as_str()).bind(label);
            let new: Vec<Found> = new.fetch_all(&mut *conn).await?;
            let known = sqlx::query_scalar(PENDING_ROWS).bind(agent.as_str()).bind(entry.as_str()).bind(label);
            Ok((new, known.fetch_one(conn).await?))
        };
        let (new, known) = self.look("look for pending rows", look).await?;
        Ok(self.found(known, new))
    }

    /// The pending rows that wait for their next attempt, of an agent, after a cause, or all of them; with `scheduled`, those as
    /// well that nobody has tried yet and that are due later. Returns them, the rows first, and how many were never tried.
    ///
    /// # Errors
    /// If the server fails.
    pub async fn waiting(
        &mut self,
        agent: Option<&AgentId>,
        cause: Option<Cause>,
        scheduled: bool,
        now: Timestamp,
    ) -> Result<(Vec<DeletionId>, u64), StoreError> {
        let (agent, cause) = (agent.map(AgentId::as_str), cause.map(Cause::as_str));
        let look = async |conn: &mut PgConnection| {
            let new = sqlx::query_as(NEW_WAITING).bind(now.0).bind(scheduled).bind(agent).bind(cause);
            let new: Vec<Found> = new.fetch_all(&mut *conn).await?;
            let known = sqlx::query_as(WAITING).bind(now.0).bind(scheduled).bind(agent).bind(cause);
            Ok((new, known.fetch_one(conn).await?))
        };
        let (new, (known, untried)): (_, (Vec<i64>, i64)) = self.look("look for rows that wait", look).await?;
        let untried = u64::try_from(untried).unwrap_or(0) + new.len() as u64;
        Ok((self.found(known, new), untried))
    }

    /// Makes the dead ones of these rows pending again, due now and with all their attempts, in one transaction.
    ///
    /// # Errors
    /// If the server fails; then no row is changed.
    pub async fn revive(&mut self, ids: &[DeletionId], now: Timestamp) -> Result<Changed, StoreError> {
        let (ids, due_at) = (numbers(ids), due_now(now));
        self.change("revive", now, async |conn: &mut PgConnection| {
            let done = sqlx::query(REVIVE).bind(&ids).bind(due_at.0).execute(conn).await?.rows_affected();
            Ok((done, Changed { done, ..Changed::default() }))
        })
        .await
    }

    /// Makes those of these rows due now that wait for their next attempt; with `scheduled`, those as well that nobody has tried
    /// yet. One transaction. Attempts and holds stay as they are.
    ///
    /// # Errors
    /// If the server fails; then no row is changed.
    pub async fn hurry(&mut self, ids: &[DeletionId], scheduled: bool, now: Timestamp) -> Result<Changed, StoreError> {
        let chosen = self.wishes.among(ids);
        self.change("make rows due", now, async |conn: &mut PgConnection| {
            let chosen = chosen.now(conn).await?;
            let mut done = 0;
            for (hurry, ids) in [(HURRY, chosen.rows), (HURRY_NEW, chosen.wishes)] {
                let query = sqlx::query(hurry).bind(now.0).bind(scheduled).bind(ids);
                done += query.execute(&mut *conn).await?.rows_affected();
            }
            Ok((done, Changed { done, ..Changed::default() }))
        })
        .await
    }

    /// How many of these rows a hold holds.
    ///
    /// # Errors
    /// If the server fails.
    pub async fn held(&mut self, ids: &[DeletionId], now: Timestamp) -> Result<u64, StoreError> {
        let Chosen { rows, wishes, .. } = self.wishes.among(ids);
        let query = sqlx::query_scalar(HELD).bind(rows).bind(wishes).bind(now.0);
        let count: i64 =
            self.look("look for held rows", async |conn: &mut PgConnection| query.fetch_one(conn).await).await?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// Removes the pending ones of these rows, in one transaction. All wishes for them are cancelled.
    ///
    /// # Errors
    /// If the server fails; then no row is removed.
    pub async fn cancel(&mut self, ids: &[DeletionId], now: Timestamp) -> Result<Changed, StoreError> {
        let (chosen, operator) = (self.wishes.among(ids), self.operator().map(str::to_owned));
        self.change("cancel", now, async |conn: &mut PgConnection| {
            let chosen = chosen.now(conn).await?;
            let in_flight = in_flight(conn, &chosen.rows).await?;
            let (before, has_labels) = left(conn, &chosen).await?;
            if has_labels {
                super::labels::cancel_all(conn, &chosen, operator.as_deref(), now).await?;
            }
            sqlx::query(CANCEL).bind(&chosen.rows).execute(&mut *conn).await?;
            sqlx::query(CANCEL_NEW).bind(&chosen.wishes).execute(&mut *conn).await?;
            // Triggers have removed those that only had wishes with labels.
            let done = before.saturating_sub(left(conn, &chosen).await?.0);
            Ok((done, Changed { done, in_flight, ..Changed::default() }))
        })
        .await
    }
}

/// How many of these are there and pending, and whether one of them has a label.
pub(super) async fn left(conn: &mut PgConnection, chosen: &Chosen) -> Result<(u64, bool), sqlx::Error> {
    let query = sqlx::query_as(LEFT).bind(&chosen.rows).bind(&chosen.wishes);
    let (count, has_labels): (i64, bool) = query.fetch_one(conn).await?;
    Ok((u64::try_from(count).unwrap_or(0), has_labels))
}

/// How many of these rows are in flight. Exact between two turns of the leader.
pub(super) async fn in_flight(conn: &mut PgConnection, ids: &[i64]) -> Result<u64, sqlx::Error> {
    let count: i64 = sqlx::query_scalar(IN_FLIGHT).bind(ids).fetch_one(conn).await?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// In order: two transactions that lock the same rows in two orders could wait for each other.
pub(super) fn numbers(ids: &[DeletionId]) -> Vec<i64> {
    let mut ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
    ids.sort_unstable();
    ids
}

pub(super) fn deletions(ids: Vec<i64>) -> Vec<DeletionId> {
    ids.into_iter().map(DeletionId).collect()
}
