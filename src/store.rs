//! All the SQL there is: the queue's file, opened, read and written.
//!
//! One [`Store`] owns the file: the OS locks on it and beside it say so, and the one connection that writes is in it. What is
//! written in one turn of the worker is one [`Write`] transaction. Statements work on sets, handed over as JSON: a
//! statement per row would cost more than everything else together.

mod clocks;
mod connection;
mod descriptor;
mod errors;
mod file;
mod files;
mod lock;
mod place;
mod processes;
mod producer;
mod reader;
mod revive;
mod rows;
mod schema;
mod upkeep;
mod write;

use sqlx::{Row as _, sqlite::SqliteRow};

pub use errors::{OpenError, StoreError};
pub use file::{Opened, Options, Synchronous};
pub use lock::holder;
pub use place::PlaceError;
pub use producer::{Enqueued, Producer, Wish};
pub use reader::{
    AgentStanding, Daemon, DeadRows, Introduction, Lately, Neighbour, Reader, Standing, Story, Told, lifting,
};
pub use rows::{Census, Claim, Counts, DueRow, Look, Orphan, Pruned, Settlement, Tally};
pub use schema::verify;
pub use upkeep::Backlog;
pub use write::Write;

use crate::{
    clock::Timestamp,
    deletion::{AgentId, DeletionId, Lane},
    pace::HoldRow,
};
use connection::Connection;
use file::connect;
use lock::{LOCK_SUFFIX, Lock};
use rows::{lane_row, orphan_row};
use write::{DATA_VERSION, row_json};

/// A skip-scan: from the head of each lane, one step of the index to the head of the next. The plus signs take the
/// columns' affinity away, without which SQLite would use only the first of them for the step; and since it takes the
/// `>` of a row value for a `>=` when it looks for the start, only a value after all others skips the lane's own rows: a
/// blob, because CHECKs can be switched off; and UNION, because a step that finds its own row again must be the last.
const LANES: &str = "
WITH RECURSIVE lane (id) AS (
    SELECT (SELECT id FROM deletions INDEXED BY deletions_due WHERE state = 'pending'
            ORDER BY priority, agent_id, batch_max, due_at LIMIT 1)
    UNION
    SELECT (SELECT next.id FROM deletions AS next INDEXED BY deletions_due
            WHERE next.state = 'pending'
              AND (next.priority, next.agent_id, next.batch_max, next.due_at)
                  > (+head.priority, +head.agent_id, +head.batch_max, x'ffffffffffffffff')
            ORDER BY next.priority, next.agent_id, next.batch_max, next.due_at LIMIT 1)
    FROM lane CROSS JOIN deletions AS head ON head.id = lane.id
    WHERE lane.id IS NOT NULL
)
SELECT head.priority, head.agent_id, head.batch_max,
    CASE typeof(head.due_at) WHEN 'real' THEN CAST(head.due_at AS INTEGER) ELSE head.due_at END,
    head.created_at, head.id
FROM lane CROSS JOIN deletions AS head ON head.id = lane.id";

/// A manifest of a row that is asked about alone has no other; only of such a one does it matter which lane it was in.
const ORPHANS: &str = concat!(
    "
SELECT requests.id, requests.agent_id,
    requests.kind = 'single' OR (SELECT batch_max = 0 FROM deletions WHERE id = iif(
        requests.size = 1 AND json_valid(requests.deletion_ids), requests.deletion_ids, '[]')->>0) IS TRUE,
    (SELECT ",
    row_json!(),
    " FROM deletions WHERE state = 'pending' AND id IN (
        SELECT value FROM json_each(iif(json_valid(requests.deletion_ids), requests.deletion_ids, '[]'))))
FROM requests INDEXED BY requests_unanswered
WHERE answered_at IS NULL ORDER BY requests.id"
);

/// ?1 since when; ?2 how many; ?3 now. A request leaves once its claim is committed, which may take a while, and before its
/// answer; one without an answer may have left a moment ago.
const SENT_LATELY: &str = "
SELECT left_by FROM (SELECT coalesce(answered_at, ?3) AS left_by FROM requests ORDER BY id DESC LIMIT ?2)
WHERE left_by > ?1 AND typeof(left_by) = 'integer' ORDER BY left_by";

/// ?1 how many. Only the newest requests are looked at: an outage of rejections has few others.
const LAST_REJECTED: &str = "
WITH newest AS MATERIALIZED (SELECT * FROM requests ORDER BY id DESC LIMIT 1000)
SELECT agent_id, CASE WHEN json_valid(deletion_ids) THEN deletion_ids->>0 END FROM newest
WHERE fault = 'rejected' AND size = 1 AND dead = 1
    AND id > coalesce((SELECT max(id) FROM newest WHERE deleted > 0 OR absent > 0), 0)
ORDER BY id DESC LIMIT ?1";

/// The queue, open for the one daemon that works on it.
#[derive(Debug)]
pub struct Store {
    conn: Connection,
    options: Options,
    lock: Lock,
    opened: Opened,
    next_request: i64,
    data_version: i64,
    prune_after: i64,
    /// A transaction may be open.
    writing: bool,
}

impl Store {
    /// Fails if the file was deleted or replaced, and what is written would go nowhere.
    ///
    /// # Errors
    /// Then.
    pub fn check_in_place(&self) -> Result<(), StoreError> {
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

    /// Whether another connection has committed anything since the last time this was asked.
    ///
    /// # Errors
    /// If SQLite fails, or the file was deleted or replaced.
    pub async fn changed(&mut self) -> Result<bool, StoreError> {
        self.check_in_place()?;
        let version: i64 = sqlx::query_scalar(DATA_VERSION)
            .fetch_one(&mut *self.conn)
            .await
            .map_err(|source| self.error("look for changes", source))?;
        let changed = version != self.data_version;
        self.data_version = version;
        Ok(changed)
    }

    /// Every lane with open rows, and when its first row is due. O(lanes): one step of the index each. In the order of their
    /// first rows in the table: rows of many agents that were inserted one after another share pages, and what is claimed
    /// together touches fewer of them.
    ///
    /// Of a lane that no request can be made of (its rows' CHECKs were switched off for the INSERT), the first row
    /// comes in the second list.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn lanes(&mut self) -> Result<(Vec<(Lane, Timestamp)>, Vec<DeletionId>), StoreError> {
        let rows = sqlx::query(LANES)
            .fetch_all(&mut *self.conn)
            .await
            .map_err(|source| self.error("list the lanes", source))?;
        let (mut lanes, mut unusable) = (Vec::with_capacity(rows.len()), Vec::new());
        for row in &rows {
            let (head, lane) = lane_row(row).map_err(|source| self.error("list the lanes", source))?;
            match lane {
                Some((lane, due_at)) => lanes.push((head, lane, due_at)),
                None => unusable.push(head),
            }
        }
        lanes.sort_unstable_by_key(|(head, ..)| *head);
        Ok((lanes.into_iter().map(|(_, lane, due_at)| (lane, due_at)).collect(), unusable))
    }

    /// The holds, whoever placed them.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn holds(&mut self) -> Result<Vec<HoldRow>, StoreError> {
        rows::holds(&mut self.conn).await.map_err(|source| self.error("read the holds", source))
    }

    /// The requests that a daemon before us claimed and did not live to see answered.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn orphans(&mut self) -> Result<Vec<Orphan>, StoreError> {
        let rows = sqlx::query(ORPHANS)
            .fetch_all(&mut *self.conn)
            .await
            .map_err(|source| self.error("find unanswered requests", source))?;
        rows.iter()
            .map(orphan_row)
            .collect::<Result<_, _>>()
            .map_err(|source| self.error("find unanswered requests", source))
    }

    /// When the last requests had left at the latest, oldest first: those since a time, `most` of them.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn sent_since(
        &mut self,
        since: Timestamp,
        most: u32,
        now: Timestamp,
    ) -> Result<Vec<Timestamp>, StoreError> {
        let sent =
            sqlx::query_scalar(SENT_LATELY).bind(since.0).bind(most).bind(now.0).fetch_all(&mut *self.conn).await;
        let sent: Vec<i64> = sent.map_err(|source| self.error("look at the last requests", source))?;
        Ok(sent.into_iter().map(Timestamp).collect())
    }

    /// Of the newest requests, those whose only row was rejected and given up, with nothing settled since: agent and row,
    /// oldest first, `most` of them.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn last_rejected(&mut self, most: u32) -> Result<Vec<(AgentId, DeletionId)>, StoreError> {
        let rows = sqlx::query(LAST_REJECTED).bind(most).fetch_all(&mut *self.conn).await;
        let rows = rows.map_err(|source| self.error("look at the last requests", source))?;
        let rejected = |row: &SqliteRow| {
            let agent = AgentId::parse(row.try_get(0).ok()?).ok()?;
            Some((agent, DeletionId(row.try_get(1).ok()?)))
        };
        Ok(rows.iter().rev().filter_map(rejected).collect())
    }

    /// Whether no row is open.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn is_empty(&mut self) -> Result<bool, StoreError> {
        let open: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM deletions WHERE state = 'pending')")
            .fetch_one(&mut *self.conn)
            .await
            .map_err(|source| self.error("look for open rows", source))?;
        Ok(!open)
    }

    /// Starts a transaction that writes; one that was left open is undone first.
    ///
    /// # Errors
    /// If SQLite fails, or another process writes for longer than the busy timeout.
    pub async fn write(&mut self) -> Result<Write<'_>, StoreError> {
        self.abandon().await;
        self.writing = true;
        // IMMEDIATE: a transaction that reads first and writes later fails at once when another wrote meanwhile.
        // A plain statement: SQLite ends a transaction by itself when the disk is full, and sqlx would still count it.
        if let Err(source) = sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut *self.conn).await {
            self.writing = false;
            return Err(self.error("begin to write", source));
        }
        // We may have waited for the lock. What is written by a log that others do not see would overwrite theirs.
        if let Err(replaced) = self.check_in_place() {
            self.abandon().await;
            return Err(replaced);
        }
        let (path, next_request) = (self.options.path.clone(), &mut self.next_request);
        let (writing, data_version) = (&mut self.writing, self.data_version);
        Ok(Write { conn: &mut self.conn, path, next_request, writing, data_version, version: None })
    }

    /// Writes, though nothing new: whether that can be done. A full disk shows only when something is written.
    ///
    /// # Errors
    /// If SQLite fails, or another process writes for longer than the busy timeout.
    pub async fn try_writing(&mut self) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        // A number in the file's head that nobody uses.
        write.execute("write", sqlx::query("PRAGMA user_version = 0")).await?;
        write.commit().await
    }

    /// Undoes a transaction that was neither committed nor rolled back, if there is one.
    pub async fn abandon(&mut self) {
        if std::mem::take(&mut self.writing) {
            // Fails if SQLite has undone it already, which is as well.
            let _ = sqlx::raw_sql("ROLLBACK").execute(&mut *self.conn).await;
        }
    }

    /// Closes the file in good order: what is in the log of commits goes into the database, and the log is removed. If others
    /// use another log by now, nothing is touched.
    ///
    /// # Errors
    /// If SQLite fails; nothing is lost by that.
    pub async fn close(self) -> Result<(), StoreError> {
        let Self { conn, options, lock, .. } = self;
        let closed = conn.close().await;
        drop(lock);
        closed.map_err(|source| StoreError { path: options.path, doing: "close", source })
    }

    /// What counts the rows, on a connection of its own: that takes longer than a turn may.
    #[must_use]
    pub fn counter(&self) -> Counter {
        Counter::new(self.options.clone())
    }

    fn error(&self, doing: &'static str, source: sqlx::Error) -> StoreError {
        StoreError { path: self.options.path.clone(), doing, source }
    }
}

/// Counts the rows of a queue, beside whoever works on it.
#[derive(Clone, Debug)]
pub struct Counter {
    options: Options,
}

impl Counter {
    /// Of the file that these options name, also if nobody works on it.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self { options }
    }

    /// The same with the holds.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn census(&self, now: Timestamp) -> Result<Census, StoreError> {
        let tally = self.tally(now).await?;
        let mut conn = connect(&self.options, true).await?;
        let holds = rows::holds(&mut conn).await;
        let holds = holds.map_err(|source| StoreError { path: self.options.path.clone(), doing: "count", source })?;
        Ok(Census { tally, holds: holds.iter().map(|hold| hold.cause).collect() })
    }

    /// Counts, along the indexes: O(open and dead rows).
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn tally(&self, now: Timestamp) -> Result<Tally, StoreError> {
        let error = |source| StoreError { path: self.options.path.clone(), doing: "count", source };
        let mut conn = connect(&self.options, true).await?;
        let (pending, due): (i64, i64) = sqlx::query_as(
            "SELECT count(*), coalesce(sum(due_at <= ?1), 0) FROM deletions INDEXED BY deletions_due
             WHERE state = 'pending'",
        )
        .bind(now.0)
        .fetch_one(&mut conn)
        .await
        .map_err(error)?;
        let dead: i64 = sqlx::query_scalar("SELECT count(*) FROM deletions WHERE state = 'dead'")
            .fetch_one(&mut conn)
            .await
            .map_err(error)?;
        let holds = rows::holds(&mut conn).await.map_err(error)?;
        let waiting = reader::waiting(&mut conn, &holds, now).await.map_err(error)?;
        let oldest_due = waiting.into_iter().map(|(_, age)| age).max().unwrap_or_default();
        let count = |n: i64| u64::try_from(n).unwrap_or(0);
        Ok(Tally { pending: count(pending), due: count(due), dead: count(dead), oldest_due })
    }
}

#[cfg(test)]
#[path = "store/plan_tests.rs"]
mod plan_tests;

#[cfg(test)]
#[path = "store/full_tests.rs"]
mod full_tests;
