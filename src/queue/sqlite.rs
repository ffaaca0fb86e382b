//! All the SQL there is: the queue's file, opened, read and written.
//!
//! One [`Store`] owns the file: the OS locks on it and beside it say so, and the one connection that writes is in it. What is
//! written in one turn of the worker is one [`Transaction`]. Statements work on sets, handed over as JSON: a
//! statement per row would cost more than everything else together.

mod begin;
mod checks;
mod clocks;
mod connection;
mod counter;
mod descriptor;
mod doubt;
mod end;
mod errors;
mod file;
mod files;
mod holds;
mod listing;
mod lock;
mod log;
mod look;
mod place;
mod processes;
mod producer;
mod reader;
mod restored;
mod revive;
mod rows;
mod schema;
mod settle;
mod steps;
mod sweep;
mod trust;
mod tx;
mod upkeep;

use std::time::Duration;

use sqlx::SqliteConnection;

pub use counter::Counter;
pub use doubt::sure;
pub use errors::{Doubtful, OpenError, StoreError};
pub use file::{Opened, Options, Synchronous};
pub use lock::holder;
pub use place::PlaceError;
pub use producer::{Enqueued, Producer, Wish};
pub use reader::{
    AgentStanding, Daemon, DeadRows, Introduction, Lately, Neighbour, Reader, Standing, Story, Told, introduction_of,
    lifting,
};
pub use trust::{Foreign, How, list};
pub use tx::Transaction;
pub use upkeep::{PRUNE_ROWS, VACUUM_PAGES};

use crate::{
    model::{
        clock::Timestamp,
        deletion::{AgentId, DeletionId, Lane, RequestId},
        hold::HoldRow,
    },
    queue::{Orphan, Queue, Swept, Upkeep},
};
use connection::Connection;
use lock::{LOCK_SUFFIX, Lock};
use steps::{SOME_ROWS, Steps, whole_file};
use trust::{Schema, blame};
use tx::DATA_VERSION;

/// How long after another process's last write we leave gaps between our own.
const POLITE_FOR: Duration = Duration::from_secs(2);
/// The longest such gap.
const MAX_GAP: Duration = Duration::from_millis(50);

/// The queue, open for the one daemon that works on it.
#[derive(Debug)]
pub struct Store {
    conn: Connection,
    options: Options,
    lock: Lock,
    opened: Opened,
    next_request: i64,
    data_version: i64,
    /// The id after which pruning goes on.
    prune_after: i64,
    /// All was gone through for old rows, and free pages are given back.
    giving_back: bool,
    /// The id from which the sweep goes on.
    sweep_from: i64,
    /// A transaction may be open.
    writing: bool,
    steps: Steps,
    /// The tables are there, and are watched.
    is_migrated: bool,
    schema: Schema,
}

impl Store {
    /// Fails if the file was deleted or replaced, and what is written would go nowhere.
    ///
    /// # Errors
    /// Then.
    fn check_in_place(&self) -> Result<(), StoreError> {
        self.conn.files.check("look for changes", |path| {
            if path.to_string_lossy().ends_with(LOCK_SUFFIX) {
                "the lock file was deleted or replaced while in use, and others cannot tell any more who works on the \
                 database; leave that file alone, and start the daemon again"
            } else {
                "it was deleted or replaced while in use; stop the daemon before touching its files, and start it again \
                 to use what is there now"
            }
        })
    }

    /// Whether another connection has committed anything since this was asked the last time, and to the tables what.
    async fn look_for_changes(&mut self) -> Result<bool, StoreError> {
        self.check_in_place()?;
        let version = sqlx::query_scalar(DATA_VERSION).fetch_one(&mut *self.conn).await;
        let version: i64 = version.map_err(|source| self.error("look for changes", source))?;
        let changed = version != self.data_version;
        self.data_version = version;
        if changed {
            let followed = self.follow_the_schema().await;
            followed.map_err(|source| self.error("look at the tables", source))?;
        }
        Ok(changed)
    }

    /// Looks whether the tables were changed.
    async fn follow_the_schema(&mut self) -> Result<(), sqlx::Error> {
        let version = sqlx::query_scalar("PRAGMA schema_version").fetch_one(&mut *self.conn).await?;
        self.schema.follow(&mut self.conn, version).await
    }

    /// What about the tables is not as our migrations make it, if that was not asked since it was seen.
    pub fn news_of_the_tables(&mut self) -> Option<&[Foreign]> {
        self.schema.news()
    }

    /// Reads something in at most `steps` steps.
    async fn read<T>(
        &mut self,
        doing: &'static str,
        steps: u64,
        read: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        let _allowance = self.steps.allow(steps);
        read(&mut self.conn).await.map_err(|source| self.error(doing, source))
    }

    /// Undoes a transaction that was neither committed nor rolled back, if there is one.
    async fn abandon(&mut self) {
        if std::mem::take(&mut self.writing) {
            // Fails if SQLite has undone it already, which is as well.
            let _ = sqlx::raw_sql("ROLLBACK").execute(&mut *self.conn).await;
        }
    }

    fn error(&self, doing: &'static str, source: sqlx::Error) -> StoreError {
        StoreError::new(&self.options.path, doing, source)
    }
}

impl Queue for Store {
    type Error = StoreError;
    type Tx<'q> = Transaction<'q>;
    type Counter = Counter;

    fn check_owner(&self) -> Result<(), StoreError> {
        self.check_in_place()
    }

    async fn changed(&mut self) -> Result<bool, StoreError> {
        let changed = self.look_for_changes().await?;
        self.schema.news().into_iter().for_each(log::schema_modified);
        Ok(changed)
    }

    async fn lanes(&mut self) -> Result<Vec<(Lane, Timestamp)>, StoreError> {
        self.read("list the lanes", whole_file(&self.options.path), listing::lanes).await
    }

    async fn holds(&mut self) -> Result<Vec<HoldRow>, StoreError> {
        self.read("read the holds", SOME_ROWS, rows::holds).await
    }

    async fn orphans(&mut self) -> Result<Vec<Orphan>, StoreError> {
        self.read("find unanswered requests", whole_file(&self.options.path), listing::orphans).await
    }

    async fn sent_since(&mut self, since: Timestamp, most: u32, now: Timestamp) -> Result<Vec<Timestamp>, StoreError> {
        let sent = async |conn: &mut SqliteConnection| listing::sent_since(conn, since, most, now).await;
        self.read("look at the last requests", SOME_ROWS, sent).await
    }

    async fn last_rejected(&mut self, most: u32) -> Result<Vec<(AgentId, DeletionId)>, StoreError> {
        let rejected = async |conn: &mut SqliteConnection| listing::last_rejected(conn, most).await;
        self.read("look at the last requests", SOME_ROWS, rejected).await
    }

    async fn newest_time(&mut self) -> Result<Option<Timestamp>, StoreError> {
        self.read("look for the newest time", SOME_ROWS, clocks::newest_time).await
    }

    async fn put_clock_right(
        &mut self,
        before: RequestId,
        longest: Duration,
        now: Timestamp,
    ) -> Result<(Option<RequestId>, u64), StoreError> {
        self.put_due_times_right(before, longest, now).await
    }

    async fn is_empty(&mut self) -> Result<bool, StoreError> {
        self.read("look for open rows", whole_file(&self.options.path), listing::has_open_rows).await.map(|open| !open)
    }

    async fn begin(&mut self) -> Result<Transaction<'_>, StoreError> {
        self.begin_within(SOME_ROWS).await
    }

    async fn undo(&mut self) {
        self.abandon().await;
    }

    async fn can_write(&mut self) -> Result<(), StoreError> {
        let mut tx = self.begin_within(SOME_ROWS).await?;
        // A number in the file's head that nobody uses.
        tx.execute("write", sqlx::query("PRAGMA user_version = 0")).await?;
        tx.finish().await
    }

    async fn upkeep(&mut self, cutoff: Option<Timestamp>) -> Result<Upkeep, StoreError> {
        self.upkeep_step(cutoff).await
    }

    async fn sweep(&mut self, now: Timestamp) -> Result<Swept, StoreError> {
        self.sweep_on(now).await
    }

    async fn inspect(&mut self) -> Result<(), StoreError> {
        self.backlog().await?.iter().for_each(log::wal_growing);
        Ok(())
    }

    async fn reconnect(&mut self) -> Result<(), StoreError> {
        self.connect_again().await
    }

    async fn explain(&mut self, error: StoreError) -> StoreError {
        self.abandon().await;
        let error = blame(&mut self.conn, &self.steps, error).await;
        log::trigger_interference(&error);
        error
    }

    /// SQLite's busy handler retries only every 100 ms or less: without a gap after our commit, a waiting producer starves.
    fn gap(&self, wrote_for: Duration, others_wrote: Option<Duration>) -> Duration {
        if others_wrote.is_some_and(|ago| ago < POLITE_FOR) { wrote_for.min(MAX_GAP) } else { Duration::ZERO }
    }

    fn counter(&self) -> Counter {
        Counter::new(self.options.clone())
    }

    /// What is in the write-ahead log goes into the database, and the log is removed. If others use another log by now, nothing is
    /// touched.
    async fn close(self) -> Result<(), StoreError> {
        let Self { conn, options, lock, .. } = self;
        let closed = end::put_away(conn).await;
        drop(lock);
        closed.map_err(|source| StoreError::new(&options.path, "close", source))
    }
}

#[cfg(test)]
#[path = "sqlite/plan_tests.rs"]
mod plan_tests;

#[cfg(test)]
#[path = "sqlite/steps_tests.rs"]
mod steps_tests;

#[cfg(test)]
#[path = "sqlite/file_tests.rs"]
mod file_tests;

#[cfg(test)]
#[path = "sqlite/full_tests.rs"]
mod full_tests;
