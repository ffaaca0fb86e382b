//! Opening the queue for a daemon, and a fresh connection after a failure.

use std::time::Duration;

use sqlx::{PgConnection, migrate::MigrateError};
use tokio::time::sleep;

use super::{
    Store,
    address::Address,
    candidate::{Attempt, Candidate},
    codes::{Class, class_of},
    errors::{OpenError, StoreError},
    schema::migrator,
    session::Session,
};
use crate::model::clock::Clock;

const EPOCH: &str = "SELECT epoch FROM leadership";
/// $1 requests. Takes back claims that were never sent.
const TAKE_BACK: &str = "DELETE FROM requests WHERE id = ANY ($1) AND answered_at IS NULL";

/// The server ends a session that was cut off as soon as it notices, and only then gives its lock back. It is tried again this often,
/// with this pause.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(10);

pub(super) const OPEN: &str = "open";
pub(super) const REOPEN: &str = "reconnect";

/// Which database is used, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The database.
    pub address: Address,
    /// How long a write waits for the locks of others.
    pub busy_timeout: Duration,
    /// For how long a leader that is silent still leads. After that, the server gives its lock to another one.
    pub lease: Duration,
    /// The longest time that a call to the API takes. The ID of a request without an answer is left alone for that long, also if its row
    /// is dead and somebody wishes for it again.
    pub request_timeout: Duration,
}

impl Options {
    /// The longest that a healthy engine waits for others, within one statement.
    #[must_use]
    pub fn longest_wait(&self) -> Duration {
        self.busy_timeout
    }
}

impl Store {
    /// Takes the lock, brings the tables up to date or makes them, and leads from then on. `clock` measures the lease.
    ///
    /// # Errors
    /// If another daemon leads, if the server is too old or the tables are of a newer version, or if the server fails.
    pub async fn open(options: Options, clock: &Clock) -> Result<Self, OpenError> {
        match Candidate::connect(options, clock).await?.try_to_lead().await? {
            Attempt::Leads(store) => Ok(*store),
            Attempt::StandsBy(candidate) => Err(candidate.taken().await?),
        }
    }

    /// Whether there were no tables before.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// The requests without an answer at the beginning of the epoch.
    #[must_use]
    pub fn orphaned(&self) -> u64 {
        self.orphaned
    }

    /// Makes sure that what is done next is done under the lock, and in no old transaction: rolls back one that was left open, and
    /// replaces a session that is in doubt.
    pub(super) async fn ready(&mut self) -> Result<(), StoreError> {
        self.check_not_deposed()?;
        if self.session.is_in_doubt() {
            return self.replace_session().await;
        }
        if self.session.is_open {
            // What was read in the transaction may have been undone with it.
            self.cursors.clear();
            self.run("roll back", async |conn| sqlx::raw_sql("ROLLBACK").execute(conn).await).await?;
            self.session.is_open = false;
        }
        Ok(())
    }

    /// Undoes a transaction of the worker that was not committed.
    pub(super) async fn undo_writing(&mut self) -> Result<(), StoreError> {
        if std::mem::take(&mut self.is_writing) {
            // Rows that it was about to claim lie behind them.
            self.cursors.clear();
        }
        self.ready().await
    }

    /// Goes on with a fresh session. What the old one left open is undone.
    ///
    /// # Errors
    /// If there is none to be had. With [`crate::queue::Remedy::Lost`], if somebody else has led since.
    pub(super) async fn replace_session(&mut self) -> Result<(), StoreError> {
        let address = self.options.address.clone();
        let error = |source| StoreError::new(&address, REOPEN, source);
        let mut fresh = Session::connect(&self.options, &self.lease).await.map_err(error)?;
        if fresh.identity != self.session.identity {
            return Err(StoreError::another_database(&address, REOPEN));
        }
        self.session.abandon();
        // Without the row, nobody knows who leads. The next leader puts it back.
        let read = async |conn: &mut PgConnection| sqlx::query_scalar::<_, i64>(EPOCH).fetch_optional(conn).await;
        let mut tries = 0;
        loop {
            let has_lock = fresh.try_lock().await.map_err(error)?;
            // Under the lock, nobody else can begin an epoch. Without it, whoever leads now has begun one already.
            if fresh.run(read).await.map_err(error)? != Some(self.epoch) {
                // Dropped with its lock: whoever leads next need not wait for this process to end.
                self.is_deposed = true;
                fresh.abandon();
                return self.check_not_deposed();
            }
            if has_lock {
                break;
            }
            tries += 1;
            if tries == TRIES {
                return Err(StoreError::waiting(&address, REOPEN));
            }
            sleep(PAUSE).await;
        }
        if !self.doubtful.is_empty() {
            let doubtful = &self.doubtful;
            let take_back = async |conn: &mut PgConnection| sqlx::query(TAKE_BACK).bind(doubtful).execute(conn).await;
            fresh.run(take_back).await.map_err(error)?;
            self.doubtful.clear();
        }
        fresh.lead();
        self.session = fresh;
        // A commit in doubt may have changed any row.
        self.cursors.clear();
        self.news = true;
        Ok(())
    }

    pub(super) fn check_not_deposed(&self) -> Result<(), StoreError> {
        if self.is_deposed { Err(StoreError::deposed(&self.options.address, REOPEN)) } else { Ok(()) }
    }

    /// The epoch, which begins with each opening. Claims carry it.
    #[must_use]
    pub fn epoch(&self) -> i64 {
        self.epoch
    }
}

pub(super) async fn migrate(session: &mut Session, address: &Address) -> Result<(), OpenError> {
    let mut outcome = Ok(());
    let run = async |conn: &mut PgConnection| {
        outcome = migrator().run(conn).await;
        Ok(())
    };
    session.run(run).await.map_err(|source| StoreError::new(address, OPEN, source))?;
    match outcome {
        Ok(()) => Ok(()),
        Err(MigrateError::VersionMissing(version)) => Err(OpenError::Newer { address: address.clone(), version }),
        // The server has ended, or takes no writes now. That says nothing about the migrations.
        Err(MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _))
            if class_of(&source) != Class::Other =>
        {
            Err(StoreError::new(address, OPEN, source).into())
        }
        Err(source) => Err(OpenError::Migrate { address: address.clone(), source: Box::new(source) }),
    }
}
