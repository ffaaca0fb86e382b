//! The hold of `sweeper verify`, and what it writes of rows.
//!
//! The statements name `deletions`, on which an operator has rights. Why no `state` is compared with a constant: see `revive`.

use sqlx::{PgConnection, Postgres, postgres::PgArguments};

use super::{
    errors::StoreError,
    producer::Producer,
    rows::{hold_columns, hold_row},
};
use crate::{
    model::{clock::Timestamp, deletion::AgentId, hold::HoldRow},
    queue::{SettledRow, changes::due_now},
};

/// $1 agent
const HELD: &str = concat!("SELECT ", hold_columns!(), " FROM holds WHERE scope = $1 AND cause = 'verify' FOR UPDATE");

/// $1 agent; $2 since; $3 until; $4 who. Takes the place of the hold of an earlier command that was killed.
const HOLD: &str = "
INSERT INTO holds (scope, cause, since_at, until_at, why) VALUES ($1, 'verify', $2, $3, $4)
ON CONFLICT (scope, cause) DO UPDATE SET
    since_at = excluded.since_at, until_at = excluded.until_at, why = excluded.why, repeats = 0, probed_at = NULL";

/// $1 agent; $2 since; $3 who: the hold that this command has placed, and none that took its place.
macro_rules! own {
    () => {
        " WHERE scope = $1 AND cause = 'verify' AND since_at = $2 AND why IS NOT DISTINCT FROM $3"
    };
}

/// $4 until; $5 now. A hold that is over may have let requests through.
const RENEW: &str = concat!("UPDATE holds SET until_at = $4", own!(), " AND until_at > $5");
const LIFT: &str = concat!("DELETE FROM holds", own!());

/// $1 ids; $2 states; $3 when they ended: the rows, as far as they have not changed since they were read.
macro_rules! read {
    () => {
        "unnest($1::bigint[], $2::text[], $3::bigint[]) AS read (id, state, settled_at)"
    };
}
macro_rules! unchanged {
    () => {
        "deletions.id = read.id AND deletions.state <> 'new' AND deletions.settled_at = read.settled_at
        AND coalesce(deletions.state, '') = read.state"
    };
}

/// $4 when, or NULL
const MARK: &str = concat!("UPDATE deletions SET verified_at = $4 FROM ", read!(), " WHERE ", unchanged!());

/// The wishes that ended with these rows were not fulfilled.
const REOPEN_WISHES: &str = concat!(
    "UPDATE wishes SET state = NULL, closed_at = NULL FROM ",
    read!(),
    " CROSS JOIN deletions WHERE ",
    unchanged!(),
    " AND deletions.label IS NOT NULL AND wishes.agent_id = deletions.agent_id AND wishes.entry_id = deletions.entry_id
        AND wishes.closed_at = deletions.settled_at AND wishes.state IN ('deleted', 'absent')"
);

/// $4 now
const REOPEN: &str = concat!(
    "UPDATE deletions SET state = 'pending', settled_at = NULL, verified_at = NULL, attempts = 0, asks = 0, due_at = $4,
        request_id = NULL, first_fault = NULL, evidence = NULL, batch_max = 20 FROM ",
    read!(),
    " WHERE ",
    unchanged!(),
    " AND read.state IN ('deleted', 'absent')"
);

type Query<'q> = sqlx::query::Query<'q, Postgres, PgArguments>;

/// Binds $1 to $3. In one order: two transactions that lock the same rows in two orders could wait for each other.
fn bind<'q>(query: Query<'q>, rows: &[SettledRow]) -> Query<'q> {
    let mut rows = rows.to_vec();
    rows.sort_unstable_by_key(|row| row.id);
    let states: Vec<&'static str> = rows.iter().map(|row| row.state.as_str()).collect();
    let query = query.bind(rows.iter().map(|row| row.id.0).collect::<Vec<_>>()).bind(states);
    query.bind(rows.iter().map(|row| row.settled_at.0).collect::<Vec<_>>())
}

impl Producer {
    /// Holds `agent` while its cache is listed, until `hold.until_at`. If another command holds it so already, returns that hold, and
    /// changes nothing. Requests that are claimed after this keep to the hold.
    ///
    /// # Errors
    /// If the server fails; then nothing is changed.
    pub async fn hold_to_verify(
        &mut self,
        agent: &AgentId,
        hold: &HoldRow,
        now: Timestamp,
    ) -> Result<Option<HoldRow>, StoreError> {
        self.change("hold the agent", now, async |conn: &mut PgConnection| {
            let other = sqlx::query(HELD).bind(agent.as_str()).fetch_optional(&mut *conn).await?;
            if let Some(other) = other.as_ref().and_then(hold_row).filter(|other| !other.is_over(now)) {
                return Ok((0, Some(other)));
            }
            let query = sqlx::query(HOLD).bind(agent.as_str()).bind(hold.since_at.0);
            query.bind(hold.until_at.map(|at| at.0)).bind(&hold.why).execute(conn).await?;
            Ok((0, None))
        })
        .await
    }

    /// Prolongs that hold until `until`. False if it is over, or somebody has lifted it.
    ///
    /// # Errors
    /// If the server fails; then nothing is changed.
    pub async fn renew_hold(&mut self, hold: &HoldRow, until: Timestamp, now: Timestamp) -> Result<bool, StoreError> {
        self.change("prolong the hold", now, async |conn: &mut PgConnection| {
            let query = sqlx::query(RENEW).bind(hold.scope.as_str()).bind(hold.since_at.0).bind(&hold.why);
            Ok((0, query.bind(until.0).bind(now.0).execute(conn).await?.rows_affected() > 0))
        })
        .await
    }

    /// Lifts that hold, if it is still there.
    ///
    /// # Errors
    /// If the server fails; then nothing is changed.
    pub async fn lift_hold(&mut self, hold: &HoldRow, now: Timestamp) -> Result<(), StoreError> {
        self.change("lift the hold", now, async |conn: &mut PgConnection| {
            let query = sqlx::query(LIFT).bind(hold.scope.as_str()).bind(hold.since_at.0).bind(&hold.why);
            query.execute(conn).await?;
            Ok((0, ()))
        })
        .await
    }

    /// Writes that a whole listing did not have these rows' entries at `verified_at`; with `None`, that they are in the cache. Leaves
    /// out rows that have changed since they were read. Returns the number of the others.
    ///
    /// # Errors
    /// If the server fails; then no row is changed.
    pub async fn mark_verified(
        &mut self,
        rows: &[SettledRow],
        verified_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        self.change("write what was verified", now, async |conn: &mut PgConnection| {
            let query = bind(sqlx::query(MARK), rows).bind(verified_at.map(|at| at.0));
            let done = query.execute(conn).await?.rows_affected();
            // Only rows that are verified count for the act.
            Ok((if verified_at.is_some() { done } else { 0 }, done))
        })
        .await
    }

    /// Reopens these deleted and absent rows, due now and with all their attempts, with the wishes that ended with them. Leaves out rows
    /// that have changed since they were read. Returns the number of the others.
    ///
    /// # Errors
    /// If the server fails; then no row is changed.
    pub async fn reopen(&mut self, rows: &[SettledRow], now: Timestamp) -> Result<u64, StoreError> {
        let due_at = due_now(now);
        self.change("reopen rows", now, async |conn: &mut PgConnection| {
            bind(sqlx::query(REOPEN_WISHES), rows).execute(&mut *conn).await?;
            let done = bind(sqlx::query(REOPEN), rows).bind(due_at.0).execute(conn).await?.rows_affected();
            Ok((done, done))
        })
        .await
    }
}
