//! The session of the leader: the one connection that writes, and that holds the lock.

use std::{future::Future, io, time::Duration};

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::time::timeout;

use super::{
    address::Address,
    codes::{Class, class_of},
};

/// The schema with our tables.
pub(super) const SCHEMA: &str = "sweeper";

/// How the leader's session plans and waits. The plans are those that the statements are written for, also while the tables are
/// empty or were never analysed. No statement waits for long, and no transaction stays open if this process is stopped.
const SETTINGS: &str = "
SET search_path = sweeper;
SET sweeper.leads = 'on';
SET enable_seqscan = off;
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SET enable_bitmapscan = off;
SET plan_cache_mode = force_generic_plan;
SET jit = off;
SET statement_timeout = '30s';
SET idle_in_transaction_session_timeout = '10s';";

/// The lock of whoever leads. Its first key is our schema's object ID, so the keys of other programs are unlikely to meet it.
const TRY_LOCK: &str = "SELECT pg_try_advisory_lock(to_regnamespace('sweeper')::oid::integer, 1), pg_backend_pid()";
/// The session that has the lock.
const HOLDER: &str = "
SELECT concat_ws(' ', 'user', activity.usename, 'from', coalesce(activity.client_addr::text, 'this machine'), 'session', activity.pid)
FROM pg_locks AS lock JOIN pg_stat_activity AS activity ON activity.pid = lock.pid
WHERE lock.locktype = 'advisory' AND lock.granted AND lock.objsubid = 2
    AND lock.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND lock.classid = to_regnamespace('sweeper')::oid AND lock.objid = 1";

/// A connection is there by then, or the server cannot be reached.
const CONNECTED_WITHIN: Duration = Duration::from_secs(10);
/// A statement has ended by then, also one that the server has given up, or the way to the server is cut.
const ENDED_WITHIN: Duration = Duration::from_secs(45);

/// A connection of the leader.
#[derive(Debug)]
pub(super) struct Session {
    /// `None` once it was abandoned.
    conn: Option<PgConnection>,
    /// The server's process for this connection, once it has the lock.
    backend: i32,
    /// A statement was begun and has not ended, or the connection failed in the middle of it: nobody knows what became of it.
    in_doubt: bool,
    /// A transaction is open.
    pub(super) is_open: bool,
}

impl Session {
    /// Connects, without the lock. A statement waits for the locks of others for `patience` at most.
    ///
    /// # Errors
    /// If the server cannot be reached, or refuses us.
    pub(super) async fn connect(address: &Address, patience: Duration) -> Result<Self, sqlx::Error> {
        let mut conn = within(CONNECTED_WITHIN, address.connect()).await?;
        // Zero would mean for ever.
        let patience = patience.as_millis().max(1);
        let settings = AssertSqlSafe(format!("{SETTINGS} SET lock_timeout = '{patience}ms'"));
        within(CONNECTED_WITHIN, sqlx::raw_sql(settings).execute(&mut conn)).await?;
        Ok(Self { conn: Some(conn), backend: 0, in_doubt: false, is_open: false })
    }

    /// Takes the lock, unless another session has it.
    ///
    /// # Errors
    /// If the server fails.
    pub(super) async fn try_lock(&mut self) -> Result<bool, sqlx::Error> {
        let lock = async |conn: &mut PgConnection| sqlx::query_as(TRY_LOCK).fetch_one(conn).await;
        let (locked, backend): (bool, i32) = self.run(lock).await?;
        self.backend = backend;
        Ok(locked)
    }

    /// The session that has the lock, in words.
    ///
    /// # Errors
    /// If the server fails.
    pub(super) async fn holder(&mut self) -> Result<Option<String>, sqlx::Error> {
        self.run(async |conn: &mut PgConnection| sqlx::query_scalar(HOLDER).fetch_optional(conn).await).await
    }

    /// The server's process for this connection. A statement that runs in another one is not under our lock.
    pub(super) fn backend(&self) -> i32 {
        self.backend
    }

    /// Whether nobody knows what became of the last statement. Then nothing may be done here any more.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.in_doubt
    }

    /// Does `work`. If its future is dropped, or the connection fails or stays silent, the session is in doubt.
    ///
    /// # Errors
    /// The error of `work`.
    pub(super) async fn run<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        self.in_doubt = true;
        let conn = self.conn.as_mut().ok_or_else(|| sqlx::Error::Io(io::ErrorKind::NotConnected.into()))?;
        let done = within(ENDED_WITHIN, work(conn)).await;
        self.in_doubt = done.as_ref().is_err_and(|error| class_of(error) == Class::Lost);
        done
    }

    /// Closes our side of the connection. The server ends the session, and gives its lock back, once its last statement has ended.
    pub(super) fn abandon(&mut self) {
        self.conn = None;
        self.in_doubt = true;
    }

    /// Closes the connection in good order, which gives the lock back.
    ///
    /// # Errors
    /// If the server fails.
    pub(super) async fn close(self) -> Result<(), sqlx::Error> {
        match self.conn {
            Some(conn) => conn.close().await,
            None => Ok(()),
        }
    }
}

/// An error if the server is silent for so long. What it was doing is dropped, and its connection cannot be used any more.
async fn within<T>(time: Duration, work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    let silent =
        io::Error::new(io::ErrorKind::TimedOut, format!("the server has not answered for {} s", time.as_secs()));
    timeout(time, work).await.unwrap_or(Err(sqlx::Error::Io(silent)))
}
