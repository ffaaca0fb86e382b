//! A connection of a command that writes, beside whoever leads.

use sqlx::{Connection as _, PgConnection};

use super::{
    acts::MAY_WRITE_ACTS,
    blockers::watched,
    codes::is_worth_another_try,
    command::connect_known,
    errors::{OpenError, StoreError},
    grants::Grant,
    inbox_wishes::Wishes,
    open::{OPEN, Options},
    rights::explained,
};
use crate::{
    model::{act::ActKind, clock::Timestamp},
    queue::{SchemaChange, doing::Doing},
};

/// The plans that the statements are written for, also on tables that were never analysed: rows are found by their ids or their
/// entries, one by one. The plans are custom ones: only if the server knows the ids as it plans does it hash them, where it must go
/// through the inbox. Each statement sees what was committed before it, whatever the database's default is.
const SETTINGS: &str = "
SET default_transaction_isolation = 'read committed';
SET enable_seqscan = off;
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SET enable_bitmapscan = off;
SET jit = off;
SET plan_cache_mode = force_custom_plan";

/// Begins a transaction that changes rows. See `between_turns()` in the migration: nothing may be locked before it.
const BETWEEN_TURNS: &str = "BEGIN; SELECT sweeper.between_turns()";

/// A transaction that stood in another one's way is tried this often.
const TRIES: u32 = 3;

/// A connection that enqueues, and changes rows and holds.
#[derive(Debug)]
pub struct Producer {
    pub(super) conn: PgConnection,
    options: Options,
    /// The act that this connection is doing.
    pub(super) doing: Option<Doing>,
    /// This role may write to `acts`.
    pub(super) may_write_acts: bool,
    /// The wishes that this connection has found in the inbox.
    pub(super) wishes: Wishes,
    /// The server's process for this connection.
    backend: i32,
    /// As whom it is connected.
    role: String,
}

impl Producer {
    /// Connects to tables that are there and up to date, beside a daemon or without one.
    ///
    /// # Errors
    /// If they are not, if this role may not see them, or if the server fails.
    pub async fn join(options: &Options) -> Result<Self, OpenError> {
        let mut conn = connect_known(options).await?;
        let error = |source| OpenError::from(StoreError::new(&options.address, OPEN, source));
        sqlx::raw_sql(SETTINGS).execute(&mut conn).await.map_err(error)?;
        let about_us = sqlx::query_as(MAY_WRITE_ACTS).fetch_one(&mut conn).await.map_err(error)?;
        let (may_write_acts, backend, role) = about_us;
        Ok(Self {
            conn,
            options: options.clone(),
            doing: None,
            may_write_acts,
            wishes: Wishes::default(),
            backend,
            role,
        })
    }

    /// Closes the connection.
    ///
    /// # Errors
    /// If the server fails; nothing is lost by that.
    pub async fn close(self) -> Result<(), StoreError> {
        let address = self.options.address;
        self.conn.close().await.map_err(|source| StoreError::new(&address, "close", source))
    }

    pub(super) fn error(&self, doing: &'static str, source: sqlx::Error) -> StoreError {
        StoreError::new(&self.options.address, doing, source)
    }

    /// Refuses the act that was begun to a role which may only enqueue, before it has found out that there is nothing to change.
    fn check_rights(&self, doing: &'static str) -> Result<(), StoreError> {
        let changes = self.doing.as_ref().is_some_and(|doing| doing.draft.kind != ActKind::Enqueue);
        match changes && !self.may_write_acts {
            true => Err(StoreError::without_right(&self.options.address, doing, self.role.clone())),
            false => Ok(()),
        }
    }

    /// The error of a change that is not there after it was written, with the names of what may be the cause.
    pub(super) fn not_done(&self, doing: &'static str, message: String, changes: &[SchemaChange]) -> StoreError {
        StoreError::not_done(&self.options.address, doing, message, changes)
    }

    /// Reads.
    pub(super) async fn look<T>(
        &mut self,
        doing: &'static str,
        read: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        self.check_rights(doing)?;
        let Options { address, busy_timeout, .. } = &self.options;
        let done = watched(address, self.backend, *busy_timeout, read(&mut self.conn)).await;
        match done {
            Ok(found) => Ok(found),
            Err(source) => {
                Err(StoreError::new(address, doing, explained(&mut self.conn, source, Grant::Operator).await))
            }
        }
    }

    /// Does `work` in one transaction between two turns of the leader, as a part of the act that was begun. `work` returns the number of
    /// rows that it changed, and its result.
    ///
    /// # Errors
    /// If the server fails; then nothing is changed, unless the connection was lost.
    pub(super) async fn change<T>(
        &mut self,
        doing: &'static str,
        now: Timestamp,
        mut work: impl AsyncFnMut(&mut PgConnection) -> Result<(u64, T), sqlx::Error>,
    ) -> Result<T, StoreError> {
        self.transact(doing, BETWEEN_TURNS, now, &mut work).await
    }

    /// The same in a transaction that is begun with `begin`.
    pub(super) async fn transact<T>(
        &mut self,
        doing: &'static str,
        begin: &'static str,
        now: Timestamp,
        work: &mut impl AsyncFnMut(&mut PgConnection) -> Result<(u64, T), sqlx::Error>,
    ) -> Result<T, StoreError> {
        self.check_rights(doing)?;
        let act = self.doing.clone();
        for tries in 1.. {
            let Options { address, busy_timeout, .. } = &self.options;
            let work = whole(&mut self.conn, begin, act.as_ref(), now, &mut *work);
            let done = watched(address, self.backend, *busy_timeout, work).await;
            match done {
                Ok((result, act)) => {
                    self.doing = act;
                    return Ok(result);
                }
                Err(error) => {
                    // If the connection is lost, the server rolls back.
                    let _ = sqlx::raw_sql("ROLLBACK").execute(&mut self.conn).await;
                    if tries >= TRIES || !is_worth_another_try(&error) {
                        // Whoever only enqueues needs no place between two turns.
                        let needed = if begin == BETWEEN_TURNS { Grant::Operator } else { Grant::Producer };
                        let error = explained(&mut self.conn, error, needed).await;
                        return Err(self.error(doing, error));
                    }
                }
            }
        }
        Err(self.error(doing, sqlx::Error::WorkerCrashed))
    }
}

/// One transaction.
async fn whole<T>(
    conn: &mut PgConnection,
    begin: &'static str,
    act: Option<&Doing>,
    now: Timestamp,
    work: &mut impl AsyncFnMut(&mut PgConnection) -> Result<(u64, T), sqlx::Error>,
) -> Result<(T, Option<Doing>), sqlx::Error> {
    sqlx::raw_sql(begin).execute(&mut *conn).await?;
    let (rows, result) = work(conn).await?;
    let act = match act {
        Some(act) => Some(super::acts::step(act, conn, rows, now).await?),
        None => None,
    };
    sqlx::raw_sql("COMMIT").execute(conn).await?;
    Ok((result, act))
}
