//! The PostgreSQL engine: producers on any machine append, and one daemon leads.
//!
//! One [`Store`] leads: its session has the advisory lock, and is the only one that writes. Producers append to the inbox, a partition
//! of the table that they name. The leader takes the wishes in, to the partition with one row for each entry. All that a turn of the
//! worker writes is one [`Transaction`], which is one statement if it can be.
//!
//! | files | concern |
//! | --- | --- |
//! | `url`, `address`, `credentials`, `no_connection`, `candidate`, `open`, `leadership`, `schema`, `session`, `command`, `grants` | connecting, the lock, the epoch, migrations, rights |
//! | `schema_watch`, `verify` | whether the tables are as we make them, and what others make of our writes |
//! | `inbox` | what producers and operators wrote |
//! | `tx`, `settle`, `daemon`, `due_rows`, `cursors`, `holds` | a transaction of the worker |
//! | `listing`, `rows`, `counter` | reading, for the worker |
//! | `reader`, `rights`, `checkup` | looks, beside whoever leads |
//! | `clocks`, `invalid_rows`, `upkeep`, `inspection`, `expired_requests`, `expired_labels` | repair and upkeep |
//! | `producer`, `bulk`, `revive`, `inbox_wishes`, `labels`, `operator`, `comparison`, `acts` | what commands write, and who did it |
//! | `errors`, `codes`, `blockers` | errors |

mod acts;
mod address;
mod blockers;
mod bulk;
mod candidate;
mod checkup;
mod clocks;
mod codes;
mod command;
mod comparison;
mod counter;
mod credentials;
mod cursors;
mod daemon;
mod due_rows;
mod errors;
mod expired_acts;
mod expired_labels;
mod expired_requests;
mod grants;
mod holds;
mod inbox;
mod inbox_wishes;
mod inspection;
mod invalid_rows;
mod labels;
mod leadership;
mod listing;
mod no_connection;
mod open;
mod operator;
mod producer;
mod reader;
mod revive;
mod rights;
mod rows;
mod schema;
mod schema_watch;
mod session;
mod settle;
mod tx;
mod upkeep;
mod url;
mod verify;

use std::time::Duration;

use sqlx::PgConnection;

pub use address::{Address, AddressError};
pub use candidate::{Attempt, Candidate, Made};
pub use checkup::{Checkup, Rights, Seen, Server, Tables};
pub use counter::Counter;
pub use errors::{OpenError, StoreError};
pub use grants::{Grant, GrantError, quoted};
pub use open::Options;
pub use producer::Producer;
pub use reader::Reader;
pub use schema_watch::{changed_tables, described_tables};
pub use tx::Transaction;
pub use url::{UrlError, split as split_urls, without_password};

use crate::{
    model::{
        act::Act,
        clock::{Clock, Timestamp},
        deletion::{AgentId, DeletionId, Lane, RequestId},
        hold::HoldRow,
        limits::Learnt,
    },
    queue::{
        Cutoff, Orphan, Queue, Swept, Upkeep, label_walk::LabelWalk, lease::Lease, prune_walk::PruneWalk,
        schema_changes::log_interference,
    },
};
use cursors::Cursors;
use inbox::Inbox;
use schema_watch::SchemaWatch;
use session::Session;

/// Begins a transaction that may write to any table. Who changes rows locks `requests` first, and rows after that. In another order
/// than that, the two could wait for each other.
const BEGIN: &str = "BEGIN; LOCK TABLE requests IN ROW EXCLUSIVE MODE";

/// After this number of commits in a row that made no claim, others are kept out while rows are looked at.
const MOST_REFUSALS: u32 = 3;

/// The queue, open for the one daemon that leads.
#[derive(Debug)]
pub struct Store {
    session: Session,
    options: Options,
    lease: Lease,
    clock: Clock,
    watch: SchemaWatch,
    /// The number of our leadership.
    epoch: i64,
    /// Its tables were made as it began.
    is_new: bool,
    /// Requests without an answer at its beginning.
    orphaned: u64,
    next_request: i64,
    /// Somebody else has written, and the worker was not told so yet.
    news: bool,
    /// There was something to take in when a turn was last committed.
    has_news: bool,
    inbox: Inbox,
    cursors: Cursors,
    /// A transaction of the worker was begun, and not committed.
    is_writing: bool,
    /// Commits in a row that made no claim, because others have changed rows.
    refusals: u32,
    /// Requests of commits of which nobody knows whether they happened. As these commits ended in errors, none of them was sent.
    doubtful: Vec<i64>,
    /// Somebody else has led since.
    is_deposed: bool,
    /// Where pruning goes on.
    pruning: PruneWalk,
    /// Pruning has reached the end of the rows, and goes on with the labels.
    is_at_labels: bool,
    /// Where the removal of labels goes on.
    labels: LabelWalk,
    /// The id from which the sweep for invalid rows goes on.
    sweep_from: i64,
}

impl Store {
    /// Does `work` in our session.
    async fn run<T>(
        &mut self,
        doing: &'static str,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        self.session.run(work).await.map_err(|source| StoreError::new(&self.options.address, doing, source))
    }

    /// The same outside of a transaction: one that was left open is undone first.
    async fn run_alone<T>(
        &mut self,
        doing: &'static str,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        self.ready().await?;
        self.run(doing, work).await
    }

    /// Begins a transaction of the server, unless one is open.
    async fn begin_transaction(&mut self) -> Result<(), StoreError> {
        if !self.session.is_open {
            // Before the statement: if it is cut short, the transaction may be open.
            self.session.is_open = true;
            self.run("begin", async |conn: &mut PgConnection| sqlx::raw_sql(BEGIN).execute(conn).await).await?;
        }
        Ok(())
    }

    /// Keeps those out who change rows, until the commit, and reads what they have changed. If they change rows all the time, the
    /// worker still makes claims this way.
    async fn shut_out(&mut self) -> Result<(), StoreError> {
        self.begin_transaction().await?;
        self.take_in_edits().await
    }

    /// Commits the transaction of the server, if one is open.
    async fn commit_transaction(&mut self) -> Result<(), StoreError> {
        if self.session.is_open {
            self.run("commit", async |conn: &mut PgConnection| sqlx::raw_sql("COMMIT").execute(conn).await).await?;
            self.session.is_open = false;
        }
        Ok(())
    }
}

impl Queue for Store {
    type Error = StoreError;
    type Tx<'q> = Transaction<'q>;
    type Counter = Counter;

    /// The lock and the session end together, so the server itself refuses what a former leader would write. Here, only what is known
    /// already counts.
    fn check_owner(&self) -> Result<(), StoreError> {
        self.check_not_deposed()
    }

    fn lease(&self) -> Lease {
        self.lease.clone()
    }

    async fn renew(&mut self) -> Result<(), StoreError> {
        self.run_alone("make sure that this daemon leads", async |conn: &mut PgConnection| {
            sqlx::raw_sql("SELECT").execute(conn).await.map(drop)
        })
        .await
    }

    /// Another machine may have led until now, and may not know yet that it does not. Before the first leader there was none.
    fn was_shared(&self) -> bool {
        self.epoch > 1
    }

    fn is_taking_in(&self) -> bool {
        self.is_behind()
    }

    async fn changed(&mut self) -> Result<bool, StoreError> {
        self.ready().await?;
        self.take_in_news().await
    }

    async fn lanes(&mut self) -> Result<Vec<(Lane, Timestamp)>, StoreError> {
        // Rows that others have changed by hand may lie behind a cursor.
        self.cursors.clear();
        self.run_alone("list the lanes", listing::lanes).await
    }

    async fn holds(&mut self) -> Result<Vec<HoldRow>, StoreError> {
        self.run_alone("read the holds", listing::holds).await
    }

    async fn acts(&mut self, quiet_since: Timestamp, most: u32) -> Result<Vec<Act>, StoreError> {
        let read = async |conn: &mut PgConnection| listing::acts(conn, quiet_since, most).await;
        self.run_alone("read the acts", read).await
    }

    async fn orphans(&mut self) -> Result<Vec<Orphan>, StoreError> {
        self.run_alone("find unanswered requests", listing::orphans).await
    }

    async fn sent_since(&mut self, since: Timestamp, most: u32, now: Timestamp) -> Result<Vec<Timestamp>, StoreError> {
        let read = async |conn: &mut PgConnection| listing::sent_since(conn, since, most, now).await;
        self.run_alone("read the last requests", read).await
    }

    async fn last_rejected(&mut self, most: u32) -> Result<Vec<(AgentId, DeletionId)>, StoreError> {
        let read = async |conn: &mut PgConnection| listing::last_rejected(conn, most).await;
        self.run_alone("read the last rejections", read).await
    }

    async fn learnt(&mut self) -> Result<Option<Learnt>, StoreError> {
        self.run_alone("read what was learnt", daemon::learnt).await
    }

    async fn newest_time(&mut self) -> Result<Option<Timestamp>, StoreError> {
        self.run_alone("read the newest time", clocks::newest_time).await
    }

    async fn put_clock_right(
        &mut self,
        before: RequestId,
        longest: Duration,
        now: Timestamp,
    ) -> Result<(Option<RequestId>, u64), StoreError> {
        self.ready().await?;
        self.put_due_times_right(before, longest, now).await
    }

    async fn is_empty(&mut self) -> Result<bool, StoreError> {
        self.run_alone("look for open rows", listing::has_open_rows).await.map(|open| !open)
    }

    async fn begin(&mut self) -> Result<Transaction<'_>, StoreError> {
        self.undo_writing().await?;
        self.is_writing = true;
        if self.refusals >= MOST_REFUSALS {
            self.shut_out().await?;
        }
        Ok(Transaction::new(self))
    }

    async fn undo(&mut self) {
        // If that fails, the next use of the session tries again.
        let _ = self.undo_writing().await;
    }

    async fn can_write(&mut self) -> Result<(), StoreError> {
        // One script is one transaction. The lock is the one that every write takes.
        let write =
            "LOCK TABLE deletions_known, requests, holds IN ROW EXCLUSIVE MODE; UPDATE leadership SET epoch = epoch";
        let write = async |conn: &mut PgConnection| sqlx::raw_sql(write).execute(conn).await;
        self.run_alone("write", write).await.map(drop)
    }

    async fn upkeep(&mut self, cutoff: Option<Cutoff>) -> Result<Upkeep, StoreError> {
        self.ready().await?;
        self.upkeep_step(cutoff).await
    }

    async fn sweep(&mut self, now: Timestamp) -> Result<Swept, StoreError> {
        self.ready().await?;
        self.sweep_step(now).await
    }

    async fn inspect(&mut self) -> Result<(), StoreError> {
        self.inspect_server().await
    }

    async fn reconnect(&mut self) -> Result<(), StoreError> {
        self.check_not_deposed()?;
        self.replace_session().await
    }

    async fn explain(&mut self, error: StoreError) -> StoreError {
        self.undo().await;
        if !self.session.is_in_doubt() {
            // What was seen before counts if that fails.
            let _ = self.watch_tables().await;
        }
        let error = error.blamed(self.watch.changes());
        if let Some(foreign) = error.interference() {
            log_interference(foreign, &error);
        }
        error
    }

    /// Nobody waits for us: producers write to a partition of their own.
    fn gap(&self, _wrote_for: Duration, _others_wrote: Option<Duration>) -> Duration {
        Duration::ZERO
    }

    fn counter(&self) -> Counter {
        Counter::new(self.options.clone())
    }

    async fn close(self) -> Result<(), StoreError> {
        let Self { session, options, .. } = self;
        session.close().await.map_err(|source| StoreError::new(&options.address, "close", source))
    }
}
