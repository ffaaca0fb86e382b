//! The hold of `sweeper verify`, and what it writes of rows.

use std::collections::HashSet;

use sqlx::SqliteConnection;

use super::{
    errors::StoreError,
    interference::not_done,
    producer::Producer,
    rows::{hold_row, json},
    schema_watch::schema_changes,
};
use crate::{
    model::{clock::Timestamp, deletion::AgentId, hold::HoldRow},
    queue::{SettledRow, changes::due_now},
};

/// ?1 agent
const HELD: &str = "
SELECT scope, cause, since_at, until_at, repeats, probed_at, why FROM holds WHERE scope = ?1 AND cause = 'verify'";

/// ?1 agent; ?2 since; ?3 until; ?4 who. A trigger removes the hold of an earlier command that was killed.
const HOLD: &str = "INSERT INTO holds (scope, cause, since_at, until_at, why) VALUES (?1, 'verify', ?2, ?3, ?4)";

/// ?1 agent; ?2 since; ?3 who: the hold that this command has placed, and none that took its place.
macro_rules! own {
    () => {
        " WHERE scope = ?1 AND cause = 'verify' AND since_at = ?2 AND why IS ?3"
    };
}

/// ?4 until; ?5 now. A hold that is over may have let requests through.
const RENEW: &str = concat!("UPDATE holds SET until_at = ?4", own!(), " AND until_at > ?5");
const LIFT: &str = concat!("DELETE FROM holds", own!());

/// ?1 rows: [[id, state, settled_at], …]
macro_rules! unchanged {
    () => {
        "(SELECT value->>0 AS id, value->>1 AS state, value->>2 AS settled_at FROM json_each(?1)) AS read"
    };
}

/// ?2 when, or NULL
const MARK: &str = concat!(
    "UPDATE deletions SET verified_at = ?2 FROM ",
    unchanged!(),
    " WHERE deletions.id = read.id AND deletions.settled_at = read.settled_at AND deletions.state = read.state"
);

/// ?2 now. OR IGNORE: an invalid row stays as it is, and keeps no other from being reopened.
const REOPEN: &str = concat!(
    "UPDATE OR IGNORE deletions SET state = 'pending', settled_at = NULL, verified_at = NULL, attempts = 0, asks = 0, due_at = ?2,
        request_id = NULL, first_fault = NULL, evidence = NULL, batch_max = 20 FROM ",
    unchanged!(),
    " WHERE deletions.id = read.id AND deletions.settled_at = read.settled_at AND deletions.state = read.state
        AND deletions.state IN ('deleted', 'absent') RETURNING deletions.id"
);

/// The wishes that ended with these rows, which are reopened, were not fulfilled.
const REOPEN_WISHES: &str = concat!(
    "UPDATE wishes SET state = NULL, closed_at = NULL WHERE (label, agent_id, entry_id) IN (
        SELECT ended.label, ended.agent_id, ended.entry_id FROM ",
    unchanged!(),
    " CROSS JOIN deletions ON deletions.id = read.id
        CROSS JOIN wishes AS ended ON ended.agent_id = deletions.agent_id AND ended.entry_id = deletions.entry_id
        WHERE deletions.label IS NOT NULL AND ended.closed_at = read.settled_at AND ended.state IN ('deleted', 'absent'))"
);

/// The rows as the statements take them.
fn list<'r>(rows: impl IntoIterator<Item = &'r SettledRow>) -> String {
    json(&rows.into_iter().map(|row| (row.id.0, row.state.as_str(), row.settled_at.0)).collect::<Vec<_>>())
}

async fn held(conn: &mut SqliteConnection, agent: &AgentId) -> Result<Option<HoldRow>, sqlx::Error> {
    let row = sqlx::query(HELD).bind(agent.as_str()).fetch_optional(conn).await?;
    Ok(row.as_ref().and_then(hold_row))
}

impl Producer {
    /// Holds `agent` while its cache is listed, until `hold.until_at`. If another command holds it so already, returns that hold, and
    /// changes nothing.
    ///
    /// # Errors
    /// If SQLite fails, or a foreign trigger undoes it; then nothing is changed.
    pub async fn hold_to_verify(
        &mut self,
        agent: &AgentId,
        hold: &HoldRow,
        now: Timestamp,
    ) -> Result<Option<HoldRow>, StoreError> {
        self.change("hold the agent", now, async |conn: &mut SqliteConnection| {
            if let Some(other) = held(conn, agent).await?.filter(|other| !other.is_over(now)) {
                return Ok((0, Some(other)));
            }
            let query = sqlx::query(HOLD).bind(agent.as_str()).bind(hold.since_at.0);
            query.bind(hold.until_at.map(|at| at.0)).bind(&hold.why).execute(&mut *conn).await?;
            if held(conn, agent).await?.as_ref() != Some(hold) {
                let message = format!("the hold on {agent} is not there after it was placed");
                return Err(not_done(message, &schema_changes(conn).await?));
            }
            Ok((0, None))
        })
        .await
    }

    /// Prolongs that hold until `until`. False if it is over, or somebody has lifted it.
    ///
    /// # Errors
    /// If SQLite fails; then nothing is changed.
    pub async fn renew_hold(&mut self, hold: &HoldRow, until: Timestamp, now: Timestamp) -> Result<bool, StoreError> {
        self.change("prolong the hold", now, async |conn: &mut SqliteConnection| {
            let query = sqlx::query(RENEW).bind(hold.scope.as_str()).bind(hold.since_at.0).bind(&hold.why);
            Ok((0, query.bind(until.0).bind(now.0).execute(conn).await?.rows_affected() > 0))
        })
        .await
    }

    /// Lifts that hold, if it is still there.
    ///
    /// # Errors
    /// If SQLite fails; then nothing is changed.
    pub async fn lift_hold(&mut self, hold: &HoldRow, now: Timestamp) -> Result<(), StoreError> {
        self.change("lift the hold", now, async |conn: &mut SqliteConnection| {
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
    /// If SQLite fails; then no row is changed.
    pub async fn mark_verified(
        &mut self,
        rows: &[SettledRow],
        verified_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let rows = list(rows);
        self.change("write what was verified", now, async |conn: &mut SqliteConnection| {
            let query = sqlx::query(MARK).bind(&rows).bind(verified_at.map(|at| at.0));
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
    /// If SQLite fails; then no row is changed.
    pub async fn reopen(&mut self, rows: &[SettledRow], now: Timestamp) -> Result<u64, StoreError> {
        let due_at = due_now(now);
        self.change("reopen rows", now, async |conn: &mut SqliteConnection| {
            let reopen = sqlx::query_scalar(REOPEN).bind(list(rows)).bind(due_at.0);
            let reopened: HashSet<i64> = reopen.fetch_all(&mut *conn).await?.into_iter().collect();
            let pending = rows.iter().filter(|row| reopened.contains(&row.id.0));
            sqlx::query(REOPEN_WISHES).bind(list(pending)).execute(conn).await?;
            let done = reopened.len() as u64;
            Ok((done, done))
        })
        .await
    }
}
