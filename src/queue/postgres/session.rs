//! The session of the leader: the one connection that writes, and that holds the lock.

use std::{future::Future, io, time::Duration};

use sqlx::{AssertSqlSafe, Connection as _, PgConnection, postgres::types::Oid};
use tokio::time::timeout;

use super::{
    address::Address,
    blockers::watched,
    codes::{Class, class_of},
    open::Options,
};
use crate::queue::lease::Lease;

/// The schema with our tables.
pub(super) const SCHEMA: &str = "sweeper";

/// How the leader's session plans and waits. The plans are those that the statements are written for, also while the tables are
/// empty or were never analysed. No statement waits for long.
const SETTINGS: &str = "
SET client_min_messages = error;
SET search_path = sweeper;
SET default_transaction_isolation = 'read committed';
SET sweeper.leads = 'on';
SET enable_seqscan = off;
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SET enable_bitmapscan = off;
SET plan_cache_mode = force_generic_plan;
SET jit = off;
-- What is committed must survive a crash of the server: a request follows it. A stricter setting stays.
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';
SET statement_timeout = '15s';
SET tcp_keepalives_idle = 2;
SET tcp_keepalives_interval = 1;
SET tcp_keepalives_count = 3;";

/// Not every system can do that: it notices within a statement that the client is gone.
const NOTICE_LOST_CLIENT: &str = "SET client_connection_check_interval = '1s'";

/// The database, as far as it can be told from another one of the same name: a server that was promoted has the number of the one before.
const IDENTITY: &str = "
SELECT system_identifier, (SELECT oid FROM pg_database WHERE datname = current_database()) FROM pg_control_system()";

/// What a pooler in transaction mode gives to one statement: another session than to the next.
const BACKEND: &str = "SELECT pg_backend_pid()";

/// The lock of whoever leads. Its first key is our schema's object ID, so the keys of other programs are unlikely to meet it.
const TRY_LOCK: &str = "SELECT pg_try_advisory_lock(to_regnamespace('sweeper')::oid::integer, 1), pg_backend_pid()";
/// The session that has the lock.
const HOLDER: &str = "
SELECT concat_ws(' ', 'user', activity.usename, 'from', coalesce(host(activity.client_addr), 'this machine'), 'session', activity.pid)
FROM pg_locks AS lock JOIN pg_stat_activity AS activity ON activity.pid = lock.pid
WHERE lock.locktype = 'advisory' AND lock.granted AND lock.objsubid = 2
    AND lock.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND lock.classid = to_regnamespace('sweeper')::oid AND lock.objid = 1";

/// The longest that a statement waits for the locks of others.
const MOST_PATIENCE: Duration = Duration::from_secs(10);
/// A connection is there by then, or the server cannot be reached.
const CONNECTED_WITHIN: Duration = Duration::from_secs(10);
/// A statement has ended by then, also one that the server has given up, or the way to the server is cut.
const ENDED_WITHIN: Duration = Duration::from_secs(18);

/// The part of the lease for which a leader sends. The server's own count begins later than ours, and ends after this.
const SENDS_FOR: (u32, u32) = (3, 5);

/// The database behind a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    system: i64,
    database: i64,
}

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
    pub(super) identity: Identity,
    /// It has the lock.
    is_locked: bool,
    /// Each statement proves that this daemon leads.
    leads: bool,
    lease: Lease,
    /// The lease as the server counts it.
    whole_lease: Duration,
    /// Where to ask who keeps the session waiting.
    address: Address,
    /// How long a statement waits for a lock.
    patience: Duration,
}

/// For how long a leader may send after a statement, with this lease of its session.
pub(super) fn sends_for(lease: Duration) -> Duration {
    lease * SENDS_FOR.0 / SENDS_FOR.1
}

impl Session {
    /// Connects, without the lock. Once it has the lock, its statements prolong `lease`.
    ///
    /// # Errors
    /// If the server cannot be reached, or refuses us.
    pub(super) async fn connect(options: &Options, lease: &Lease) -> Result<Self, sqlx::Error> {
        // Zero would mean for ever. With more, a statement's own time would end before.
        let patience = options.busy_timeout.clamp(Duration::from_millis(1), MOST_PATIENCE);
        let connecting = async {
            let mut conn = options.address.connect().await?;
            let patience = patience.as_millis();
            let lease = options.lease.as_millis();
            // The server is the watchdog: it ends the session, and with it the lock, of a leader that stands still or was cut off.
            let settings = AssertSqlSafe(format!(
                "{SETTINGS} SET lock_timeout = '{patience}ms'; SET idle_session_timeout = '{lease}ms'; \
                 SET idle_in_transaction_session_timeout = '{lease}ms'; SET tcp_user_timeout = '{lease}ms'; \
                 SET application_name = 'sweeper standby'"
            ));
            sqlx::raw_sql(settings).execute(&mut conn).await?;
            // Without it, a server that lost its client within a statement ends that statement first.
            let _ = sqlx::raw_sql(NOTICE_LOST_CLIENT).execute(&mut conn).await;
            let (system, database) = sqlx::query_as::<_, (i64, Oid)>(IDENTITY).fetch_one(&mut conn).await?;
            Ok((conn, Identity { system, database: i64::from(database.0) }))
        };
        let (conn, identity) = within(CONNECTED_WITHIN, connecting).await?;
        let (backend, in_doubt, is_open, is_locked, leads) = (0, false, false, false, false);
        let (lease, whole_lease, address) = (lease.clone(), options.lease, options.address.clone());
        Ok(Self {
            conn: Some(conn),
            backend,
            in_doubt,
            is_open,
            identity,
            is_locked,
            leads,
            lease,
            whole_lease,
            address,
            patience,
        })
    }

    /// Whether there is a pooler between us and the server that gives each transaction another session. The lock would stay on one of
    /// them, and nothing would be under it.
    ///
    /// # Errors
    /// If the server fails.
    pub(super) async fn is_pooled(&mut self, address: &Address) -> Result<bool, sqlx::Error> {
        self.run(async |conn: &mut PgConnection| is_pooled(conn, address).await).await
    }

    /// Takes the lock, unless another session has it.
    ///
    /// # Errors
    /// If the server fails.
    pub(super) async fn try_lock(&mut self) -> Result<bool, sqlx::Error> {
        let lock = async |conn: &mut PgConnection| sqlx::query_as(TRY_LOCK).fetch_one(conn).await;
        let (locked, backend): (bool, i32) = self.run(lock).await?;
        if locked {
            self.backend = backend;
            let named = "SET application_name = 'sweeper leader'";
            self.run(async |conn: &mut PgConnection| sqlx::raw_sql(named).execute(conn).await).await?;
            self.is_locked = true;
        }
        Ok(locked)
    }

    /// From now on, each statement prolongs the lease: the lock is taken, and the epoch is ours.
    pub(super) fn lead(&mut self) {
        self.leads = true;
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
        let begun = self.lease.begin();
        let conn = self.conn.as_mut().ok_or_else(|| sqlx::Error::Io(io::ErrorKind::NotConnected.into()))?;
        // Whoever stands by asks for little. A server that is gone must not keep it for longer from the one that has been promoted.
        let most = if self.is_locked { ENDED_WITHIN } else { self.whole_lease.min(ENDED_WITHIN) };
        let done = within(most, watched(&self.address, self.backend, self.patience, work(conn))).await;
        self.in_doubt = done.as_ref().is_err_and(|error| class_of(error) == Class::Lost);
        if self.in_doubt {
            self.lease.end();
        } else if self.leads {
            self.lease.prolong(begun);
        }
        done
    }

    /// Closes our side of the connection. The server ends the session, and gives its lock back, once its last statement has ended.
    pub(super) fn abandon(&mut self) {
        self.lease.end();
        self.conn = None;
        self.in_doubt = true;
    }

    /// Closes the connection in good order, which gives the lock back.
    ///
    /// # Errors
    /// If the server fails.
    pub(super) async fn close(mut self) -> Result<(), sqlx::Error> {
        self.lease.end();
        match self.conn.take() {
            Some(conn) => conn.close().await,
            None => Ok(()),
        }
    }
}

impl Drop for Session {
    /// The lock goes with the connection.
    fn drop(&mut self) {
        if self.conn.is_some() && self.is_locked {
            self.lease.end();
        }
    }
}

/// As [`Session::is_pooled`].
pub(super) async fn is_pooled(conn: &mut PgConnection, address: &Address) -> Result<bool, sqlx::Error> {
    let backend = async |conn: &mut PgConnection| sqlx::query_scalar::<_, i32>(BACKEND).fetch_one(conn).await;
    let comparing = async {
        let first = backend(&mut *conn).await?;
        let mut other = address.connect().await?;
        // A transaction keeps the pooler from giving the other one's session to us.
        sqlx::raw_sql("BEGIN").execute(&mut other).await?;
        let of_other = backend(&mut other).await?;
        let second = backend(conn).await?;
        other.close().await?;
        Ok(first != second || first == of_other)
    };
    within(CONNECTED_WITHIN, comparing).await
}

/// An error if the server is silent for so long. What it was doing is dropped, and its connection cannot be used any more.
pub(super) async fn within<T>(
    time: Duration,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let silent =
        io::Error::new(io::ErrorKind::TimedOut, format!("the server has not answered for {} s", time.as_secs()));
    timeout(time, work).await.unwrap_or(Err(sqlx::Error::Io(silent)))
}
