//! Opening the queue for a daemon: connect, take the lock, migrate, and begin an epoch. And a fresh connection after a failure.

use std::time::Duration;

use sqlx::{PgConnection, migrate::MigrateError};
use tokio::time::sleep;

use super::{
    Store,
    address::Address,
    cursors::Cursors,
    errors::{OpenError, StoreError},
    inbox::Inbox,
    schema::{OLDEST_SERVER, make_schema, migrator, server_version},
    session::Session,
};
use crate::queue::label_walk::LabelWalk;

/// Begins an epoch. Returns its number, and the highest ID of a request so far, also of a pruned one.
const BEGIN_EPOCH: &str = "
UPDATE leadership SET epoch = epoch + 1
RETURNING epoch, greatest(last_request, coalesce((SELECT max(id) FROM requests), 0))";
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
}

impl Options {
    /// The longest that a healthy engine waits for others, within one statement.
    #[must_use]
    pub fn longest_wait(&self) -> Duration {
        self.busy_timeout
    }
}

impl Store {
    /// Takes the lock, brings the tables up to date or makes them, and leads from then on.
    ///
    /// # Errors
    /// If another daemon leads, if the server is too old or the tables are of a newer version, or if the server fails.
    pub async fn open(options: Options) -> Result<Self, OpenError> {
        let address = options.address.clone();
        let error = |source| OpenError::from(StoreError::new(&address, OPEN, source));
        let mut session = Session::connect(&address, options.busy_timeout).await.map_err(error)?;
        let version = session.run(server_version).await.map_err(error)?;
        if version < OLDEST_SERVER {
            return Err(OpenError::OldServer { address, version });
        }
        session.run(make_schema).await.map_err(error)?;
        if !session.try_lock().await.map_err(error)? {
            let holder = session.holder().await.map_err(error)?;
            return Err(OpenError::Taken { address, holder });
        }
        migrate(&mut session, &address).await?;
        let begin = async |conn: &mut PgConnection| sqlx::query_as(BEGIN_EPOCH).fetch_one(conn).await;
        let (epoch, last_request): (i64, i64) = session.run(begin).await.map_err(error)?;
        Ok(Self {
            session,
            options,
            epoch,
            next_request: last_request.saturating_add(1),
            news: false,
            inbox: Inbox::default(),
            cursors: Cursors::default(),
            is_writing: false,
            doubtful: Vec::new(),
            is_deposed: false,
            prune_after: 0,
            is_at_labels: false,
            labels: LabelWalk::default(),
            sweep_from: i64::MIN,
        })
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
        let mut fresh = Session::connect(&address, self.options.busy_timeout).await.map_err(error)?;
        self.session.abandon();
        let mut tries = 0;
        while !fresh.try_lock().await.map_err(error)? {
            tries += 1;
            if tries == TRIES {
                return Err(StoreError::waiting(&address, REOPEN));
            }
            sleep(PAUSE).await;
        }
        // Under the lock, nobody else can begin an epoch.
        let read = async |conn: &mut PgConnection| sqlx::query_scalar(EPOCH).fetch_one(conn).await;
        let epoch: i64 = fresh.run(read).await.map_err(error)?;
        if epoch != self.epoch {
            // Dropped with its lock: whoever leads next need not wait for this process to end.
            self.is_deposed = true;
            return self.check_not_deposed();
        }
        if !self.doubtful.is_empty() {
            let doubtful = &self.doubtful;
            let take_back = async |conn: &mut PgConnection| sqlx::query(TAKE_BACK).bind(doubtful).execute(conn).await;
            fresh.run(take_back).await.map_err(error)?;
            self.doubtful.clear();
        }
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

async fn migrate(session: &mut Session, address: &Address) -> Result<(), OpenError> {
    let mut outcome = Ok(());
    let run = async |conn: &mut PgConnection| {
        outcome = migrator().run(conn).await;
        Ok(())
    };
    session.run(run).await.map_err(|source| StoreError::new(address, OPEN, source))?;
    match outcome {
        Ok(()) => Ok(()),
        Err(MigrateError::VersionMissing(version)) => Err(OpenError::Newer { address: address.clone(), version }),
        Err(source) => Err(OpenError::Migrate { address: address.clone(), source: Box::new(source) }),
    }
}
