//! The SQLite engine: all SQL of this program, and the queue's file.
//!
//! One [`Store`] owns the file: it holds the locks on the file and beside it, and the one connection of the daemon that writes. All
//! that a turn of the worker writes is one [`Transaction`]. Statements work on sets, which are passed as JSON: a statement per
//! row would cost more than everything else together.
//!
//! | files | concern |
//! | --- | --- |
//! | `open`, `close`, `connection`, `session`, `second_look` | connections: opening, settings, closing, a second look at a damaged file |
//! | `schema`, `dump`, `schema_watch`, `interference` | whether the tables are ours, and who changed them |
//! | `location`, `lock`, `lock_holder`, `database_file`, `watched_files`, `processes` | one daemon per file, and nobody with another write-ahead log (WAL) |
//! | `tx`, `write_lock`, `settle`, `due_rows`, `holds`, `verify` | a transaction of the worker |
//! | `listing`, `rows`, `counter`, `reader`, `inspection` | reading |
//! | `clocks`, `invalid_rows`, `upkeep`, `expired_requests`, `expired_labels` | repair and upkeep |
//! | `producer`, `revive`, `labels`, `operator`, `comparison`, `acts` | what commands write, and who did it |
//! | `errors`, `result_codes`, `log`, `step_limit` | errors, log events, and the limit of a statement's work |

mod acts;
mod clocks;
mod close;
mod comparison;
mod connection;
mod counter;
mod database_file;
mod due_rows;
mod dump;
mod errors;
mod expired_acts;
mod expired_labels;
mod expired_requests;
mod holds;
mod inspection;
mod interference;
mod invalid_rows;
mod labels;
mod listing;
mod location;
mod lock;
mod lock_holder;
mod log;
mod open;
mod operator;
mod processes;
mod producer;
mod reader;
mod result_codes;
mod revive;
mod rows;
mod schema;
mod schema_watch;
mod second_look;
mod session;
mod settle;
mod step_limit;
mod tx;
mod upkeep;
mod verify;
mod watched_files;
mod write_lock;

use std::time::Duration;

use sqlx::SqliteConnection;

pub use counter::Counter;
pub use errors::{Doubtful, OpenError, StoreError};
pub use inspection::{Inspection, Tables, inspect};
pub use location::LocationError;
pub use lock_holder::holder;
pub use open::{Opened, Options, Synchronous};
pub use producer::Producer;
pub use reader::{Reader, introduction_of};
pub use second_look::twice_if_damaged;
pub use tx::Transaction;
pub use upkeep::{PRUNE_ROWS, VACUUM_PAGES};

use crate::{
    model::{
        act::Act,
        clock::Timestamp,
        deletion::{AgentId, DeletionId, Lane, RequestId},
        hold::HoldRow,
        limits::Learnt,
    },
    queue::{
        Cutoff, Orphan, Queue, SchemaChange, Swept, Upkeep,
        label_walk::LabelWalk,
        prune_walk::PruneWalk,
        schema_changes::{log_interference, log_modified},
    },
};
use connection::Connection;
use interference::blame;
use lock::{LOCK_SUFFIX, Lock};
use schema_watch::SchemaWatch;
use step_limit::{SOME_ROWS, StepLimit, whole_file};
use tx::DATA_VERSION;

/// The version of the SQLite in this program.
#[must_use]
pub fn version() -> &'static str {
    libsqlite3_sys::SQLITE_VERSION.to_str().unwrap_or_default()
}

/// After another process's write, we leave gaps between our own transactions for this long.
const GAPS_FOR: Duration = Duration::from_secs(2);
/// The longest gap.
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
    /// Where pruning goes on.
    pruning: PruneWalk,
    /// Pruning has reached the end of the tables, and goes on with the labels.
    is_at_labels: bool,
    /// Where the removal of labels goes on.
    labels: LabelWalk,
    /// Pruning has reached its end, and free pages are being given back.
    is_vacuuming: bool,
    /// The id from which the sweep for invalid rows goes on.
    sweep_from: i64,
    /// A transaction may be open.
    writing: bool,
    steps: StepLimit,
    /// The tables exist, and are watched.
    is_migrated: bool,
    schema: SchemaWatch,
}

impl Store {
    /// Fails if a file was deleted or replaced: other processes would not see what we write.
    ///
    /// # Errors
    /// In that case, with [`crate::queue::Remedy::Lost`].
    fn check_in_place(&self) -> Result<(), StoreError> {
        self.conn.files.check("look for changes", |path| {
            if path.to_string_lossy().ends_with(LOCK_SUFFIX) {
                "the lock file was deleted or replaced while in use, so others cannot see any more who works on the database; \
                 leave that file alone, and start the daemon again"
            } else {
                "it was deleted or replaced while in use; stop the daemon before touching its files, and start it again to use \
                 the file that is there now"
            }
        })
    }

    /// Whether another connection has committed since the last call. If so, looks at the schema, too.
    async fn look_for_changes(&mut self) -> Result<bool, StoreError> {
        self.check_in_place()?;
        let version = sqlx::query_scalar(DATA_VERSION).fetch_one(&mut *self.conn).await;
        let version: i64 = version.map_err(|source| self.error("look for changes", source))?;
        let changed = version != self.data_version;
        if changed {
            let updated = self.schema.update(&mut self.conn).await;
            updated.map_err(|source| self.error("look at the schema", source))?;
        }
        // After an error it is still news.
        self.data_version = version;
        Ok(changed)
    }

    /// The differences between the tables and what our migrations make, if they have not been reported yet.
    pub fn schema_news(&mut self) -> Option<&[SchemaChange]> {
        self.schema.news()
    }

    /// Reads within a budget of `steps` steps.
    async fn read<T>(
        &mut self,
        doing: &'static str,
        steps: u64,
        read: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        let _budget = self.steps.allow(steps);
        read(&mut self.conn).await.map_err(|source| self.error(doing, source))
    }

    /// Rolls back a transaction that was neither committed nor rolled back, if there is one.
    async fn abandon(&mut self) {
        if std::mem::take(&mut self.writing) {
            // This fails if SQLite has already rolled it back.
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
        self.schema.news().into_iter().for_each(log_modified);
        Ok(changed)
    }

    async fn lanes(&mut self) -> Result<Vec<(Lane, Timestamp)>, StoreError> {
        self.read("list the lanes", whole_file(&self.options.path), listing::lanes).await
    }

    async fn holds(&mut self) -> Result<Vec<HoldRow>, StoreError> {
        self.read("read the holds", SOME_ROWS, rows::holds).await
    }

    async fn acts(&mut self, quiet_since: Timestamp, most: u32) -> Result<Vec<Act>, StoreError> {
        self.unlogged_acts(quiet_since, most).await
    }

    async fn orphans(&mut self) -> Result<Vec<Orphan>, StoreError> {
        self.read("find unanswered requests", whole_file(&self.options.path), listing::orphans).await
    }

    async fn sent_since(&mut self, since: Timestamp, most: u32, now: Timestamp) -> Result<Vec<Timestamp>, StoreError> {
        let sent = async |conn: &mut SqliteConnection| listing::sent_since(conn, since, most, now).await;
        self.read("read the last requests", SOME_ROWS, sent).await
    }

    async fn last_rejected(&mut self, most: u32) -> Result<Vec<(AgentId, DeletionId)>, StoreError> {
        let rejected = async |conn: &mut SqliteConnection| listing::last_rejected(conn, most).await;
        self.read("read the last rejections", SOME_ROWS, rejected).await
    }

    async fn learnt(&mut self) -> Result<Option<Learnt>, StoreError> {
        self.read("read what was learnt", SOME_ROWS, reader::learnt).await
    }

    async fn newest_time(&mut self) -> Result<Option<Timestamp>, StoreError> {
        self.read("read the newest time", SOME_ROWS, clocks::newest_time).await
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
        // A number in the file's header that nobody uses.
        tx.execute("write", sqlx::query("PRAGMA user_version = 0")).await?;
        tx.finish().await
    }

    async fn upkeep(&mut self, cutoff: Option<Cutoff>) -> Result<Upkeep, StoreError> {
        self.upkeep_step(cutoff).await
    }

    async fn sweep(&mut self, now: Timestamp) -> Result<Swept, StoreError> {
        self.sweep_step(now).await
    }

    async fn inspect(&mut self) -> Result<(), StoreError> {
        self.wal_backlog().await?.iter().for_each(log::wal_growing);
        Ok(())
    }

    async fn reconnect(&mut self) -> Result<(), StoreError> {
        self.replace_connection().await
    }

    async fn explain(&mut self, error: StoreError) -> StoreError {
        self.abandon().await;
        let error = blame(&mut self.conn, &self.steps, error).await;
        if let Some(foreign) = error.interference() {
            log_interference(foreign, &error);
        }
        error
    }

    /// SQLite's busy handler sleeps up to 100 ms between two tries: without a gap after our commit, a waiting producer starves.
    fn gap(&self, wrote_for: Duration, others_wrote: Option<Duration>) -> Duration {
        if others_wrote.is_some_and(|ago| ago < GAPS_FOR) { wrote_for.min(MAX_GAP) } else { Duration::ZERO }
    }

    fn counter(&self) -> Counter {
        Counter::new(self.options.clone())
    }

    /// Copies the WAL into the database, and removes the WAL. If other processes use another WAL by now, touches nothing.
    async fn close(self) -> Result<(), StoreError> {
        let Self { conn, options, lock, .. } = self;
        let closed = close::checkpoint_and_close(conn).await;
        drop(lock);
        closed.map_err(|source| StoreError::new(&options.path, "close", source))
    }
}

#[cfg(test)]
#[path = "sqlite/plan_tests.rs"]
mod plan_tests;

#[cfg(test)]
#[path = "sqlite/step_limit_tests.rs"]
mod step_limit_tests;

#[cfg(test)]
#[path = "sqlite/connection_tests.rs"]
mod connection_tests;

#[cfg(test)]
#[path = "sqlite/disk_full_tests.rs"]
mod disk_full_tests;
