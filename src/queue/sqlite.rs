//! All the SQL there is: the queue's file, opened, read and written.
//!
//! One [`Store`] owns the file: the OS locks on it and beside it say so, and the one connection that writes is in it. What is
//! written in one turn of the worker is one [`Write`] transaction. Statements work on sets, handed over as JSON: a
//! statement per row would cost more than everything else together.

mod begin;
mod checks;
mod clocks;
mod connection;
mod descriptor;
mod doubt;
mod end;
mod errors;
mod file;
mod files;
mod lock;
mod place;
mod processes;
mod producer;
mod reader;
mod restored;
mod revive;
mod rows;
mod schema;
mod steps;
mod trust;
mod upkeep;
mod write;

use sqlx::{Connection as _, Row as _, SqliteConnection, sqlite::SqliteRow};

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
pub use upkeep::Backlog;
pub use write::Write;

use crate::{
    model::{
        clock::Timestamp,
        deletion::{AgentId, DeletionId, Lane},
        hold::HoldRow,
    },
    queue::{Census, Orphan, Tally},
};
use connection::Connection;
use doubt::is_in_doubt;
use file::connect;
use lock::{LOCK_SUFFIX, Lock};
use rows::{lane_row, orphan_row};
use steps::{SOME_ROWS, Steps, whole_file};
use trust::{Schema, blame};
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

    /// The same error, with the names of what is somebody else's in the tables, if that may be its cause. What was open is
    /// undone.
    pub async fn blame(&mut self, error: StoreError) -> StoreError {
        self.abandon().await;
        blame(&mut self.conn, &self.steps, error).await
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
        let _allowance = self.steps.allow(whole_file(&self.options.path));
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
        let _allowance = self.steps.allow(SOME_ROWS);
        rows::holds(&mut self.conn).await.map_err(|source| self.error("read the holds", source))
    }

    /// The requests that a daemon before us claimed and did not live to see answered.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn orphans(&mut self) -> Result<Vec<Orphan>, StoreError> {
        let _allowance = self.steps.allow(whole_file(&self.options.path));
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
        let _allowance = self.steps.allow(SOME_ROWS);
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
        let _allowance = self.steps.allow(SOME_ROWS);
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
        let closed = end::put_away(conn).await;
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
        let first = self.try_census(now).await;
        if is_in_doubt(&first).await { self.try_census(now).await } else { first }
    }

    async fn try_census(&self, now: Timestamp) -> Result<Census, StoreError> {
        let mut conn = connect(&self.options, true).await?;
        let counted = async {
            let steps = Steps::of(&mut conn).await?;
            let _allowance = steps.allow(whole_file(&self.options.path));
            let tally = tally(&mut conn, now).await?;
            let holds = rows::holds(&mut conn).await?;
            Ok(Census { tally, holds: holds.iter().map(|hold| hold.cause).collect() })
        };
        let counted = counted.await;
        self.end(conn, counted).await
    }

    /// Counts, along the indexes: O(open and dead rows).
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn tally(&self, now: Timestamp) -> Result<Tally, StoreError> {
        let first = self.try_tally(now).await;
        if is_in_doubt(&first).await { self.try_tally(now).await } else { first }
    }

    async fn try_tally(&self, now: Timestamp) -> Result<Tally, StoreError> {
        let mut conn = connect(&self.options, true).await?;
        let counted = async {
            let steps = Steps::of(&mut conn).await?;
            let _allowance = steps.allow(whole_file(&self.options.path));
            tally(&mut conn, now).await
        };
        let counted = counted.await;
        self.end(conn, counted).await
    }

    /// Closes the connection: left to a thread of sqlx's, it could be the last one to have the file open.
    async fn end<T>(&self, conn: SqliteConnection, counted: Result<T, sqlx::Error>) -> Result<T, StoreError> {
        let _ = conn.close().await;
        counted.map_err(|source| StoreError { path: self.options.path.clone(), doing: "count", source })
    }
}

async fn tally(conn: &mut SqliteConnection, now: Timestamp) -> Result<Tally, sqlx::Error> {
    let (pending, due): (i64, i64) = sqlx::query_as(
        "SELECT count(*), coalesce(sum(due_at <= ?1), 0) FROM deletions INDEXED BY deletions_due
         WHERE state = 'pending'",
    )
    .bind(now.0)
    .fetch_one(&mut *conn)
    .await?;
    let dead = sqlx::query_scalar("SELECT count(*) FROM deletions WHERE state = 'dead'").fetch_one(&mut *conn).await?;
    let holds = rows::holds(conn).await?;
    let waiting = reader::waiting(conn, &holds, now).await?;
    let oldest_due = waiting.into_iter().map(|(_, age)| age).max().unwrap_or_default();
    let count = |n: i64| u64::try_from(n).unwrap_or(0);
    Ok(Tally { pending: count(pending), due: count(due), dead: count(dead), oldest_due })
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
