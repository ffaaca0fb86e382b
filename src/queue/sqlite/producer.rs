//! The other side of the queue, for those parts of this program that enqueue.

use std::io;

use sqlx::{Connection as _, SqliteConnection};

use super::{
    Store,
    doubt::{Link, sure},
    end::leave,
    errors::{OpenError, StoreError},
    file::{Opened, Options, connect},
    files::Files,
    rows::json,
    schema::connect_known,
    steps::SOME_ROWS,
    trust::{Schema, not_done},
};
use crate::{
    model::{
        clock::Timestamp,
        deletion::{AgentId, EntryId},
    },
    queue::Queue as _,
};

/// ?1 rows: [[agent_id, entry_id, priority, due_at], …]. The trigger does what is to be done for those that there are.
const ENQUEUE: &str = "
INSERT INTO deletions (agent_id, entry_id, priority, due_at)
SELECT value->>0, value->>1, value->>2, value->>3 FROM json_each(?1)";

/// ?1 the same rows, after they were inserted: how many of them are not there, or not open.
pub(super) const MISSING: &str = "
SELECT count(*) FROM json_each(?1)
WHERE NOT EXISTS (
    SELECT 1 FROM deletions WHERE agent_id = value->>0 AND entry_id = value->>1 AND state = 'pending')";

/// ?1 the same rows, before they are inserted: how many of them will reopen a settled row, and how many will make an open row
/// due earlier. As the trigger does it, one after the other: the first of several with the same entry reopens the row, and
/// each one meets the earliest time of those before it.
pub(super) const REPEATS: &str = "
WITH wish AS (
    SELECT value->>0 AS agent, value->>1 AS entry, value->>3 AS due,
        min(value->>3) OVER (
            PARTITION BY value->>0, value->>1 ORDER BY key ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
    FROM json_each(?1)
)
SELECT
    coalesce(sum(deletions.state <> 'pending' AND wish.before IS NULL), 0),
    coalesce(sum(CASE
        WHEN deletions.state IS NULL OR deletions.state <> 'pending' THEN wish.due < wish.before
        WHEN deletions.request_id IS NULL AND deletions.attempts = 0 AND deletions.due_at <> deletions.created_at
            THEN wish.due < min(deletions.due_at, coalesce(wish.before, deletions.due_at)) END), 0)
FROM wish LEFT JOIN deletions ON deletions.agent_id = wish.agent AND deletions.entry_id = wish.entry";

/// A producer's connection, for those parts of this program that enqueue.
#[derive(Debug)]
pub struct Producer {
    pub(super) link: Link,
    /// The file is marked as ours.
    is_marked: bool,
    schema: Schema,
}

/// A row to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Whose cache it is in.
    pub agent: AgentId,
    /// What is to go.
    pub entry: EntryId,
    /// Higher goes first.
    pub priority: i64,
    /// Not before.
    pub due_at: Timestamp,
}

/// What became of wishes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Enqueued {
    /// New rows.
    pub inserted: u64,
    /// Open rows already, whose time stays; a higher priority was taken over.
    pub waiting: u64,
    /// Open rows that had not been tried yet, and are due earlier now.
    pub earlier: u64,
    /// Settled before, and open again now.
    pub reopened: u64,
}

impl Producer {
    /// The statement that it inserts with; anybody can.
    pub const INSERT: &str = "INSERT INTO deletions (agent_id, entry_id, priority) VALUES (?, ?, ?)";

    /// Opens the file as any client would.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn open(options: &Options) -> Result<Self, StoreError> {
        let conn = connect(options, false).await?;
        let link = Link::new(conn, options).await?;
        Ok(Self { link, is_marked: true, schema: Schema::default() })
    }

    /// Opens a queue that is there and up to date, whoever works on it.
    ///
    /// # Errors
    /// If it is not, or SQLite fails.
    pub async fn join(options: &Options) -> Result<Self, OpenError> {
        sure(async || {
            let (conn, is_marked) = connect_known(options, false).await?;
            let link = Link::new(conn, options).await?;
            let mut producer = Self { link, is_marked, schema: Schema::default() };
            // Entry IDs are random to the index: with little memory, each row would read and write a page of it.
            let set_up = sqlx::raw_sql("PRAGMA cache_size = -16384").execute(&mut *producer.link.conn).await;
            set_up.map_err(|source| producer.link.error("set up", source))?;
            // Here, because it takes some milliseconds, for which nobody needs to be kept from writing.
            let followed = producer.follow_the_schema().await;
            followed.map_err(|source| producer.link.error("look at the tables", source))?;
            Ok(producer)
        })
        .await
    }

    async fn follow_the_schema(&mut self) -> Result<(), sqlx::Error> {
        let conn = &mut *self.link.conn;
        let version = sqlx::query_scalar("PRAGMA schema_version").fetch_one(&mut *conn).await?;
        self.schema.follow(conn, version).await
    }

    /// The same, of a queue that is made first if it is not there, and marked as ours if it is a dump that was loaded. It tells
    /// which it was.
    ///
    /// # Errors
    /// If it is there and not up to date, or SQLite fails.
    pub async fn join_or_create(options: &Options) -> Result<(Self, Opened), OpenError> {
        let is_there = std::fs::metadata(&options.path).is_ok_and(|found| found.len() > 0);
        if is_there {
            let producer = Self::join(options).await?;
            if producer.is_marked {
                return Ok((producer, Opened::Existing));
            }
            let _ = producer.close().await;
        }
        let opened = make(options).await?;
        Ok((Self::join(options).await?, opened))
    }

    /// Closes the file in good order: what is in the log of commits goes into the database, unless a daemon sees to that.
    ///
    /// # Errors
    /// If SQLite fails; nothing is lost by that.
    pub async fn close(self) -> Result<(), StoreError> {
        let Link { conn, options, .. } = self.link;
        let left = leave(conn, &options.path).await;
        left.map_err(|source| StoreError { path: options.path, doing: "close", source })
    }

    /// Enqueues all of them in one transaction.
    ///
    /// # Errors
    /// If SQLite fails; then none is enqueued.
    pub async fn enqueue(&mut self, wishes: &[Wish]) -> Result<Enqueued, StoreError> {
        let rows: Vec<_> = wishes
            .iter()
            .map(|wish| (wish.agent.as_str(), wish.entry.as_str(), wish.priority, wish.due_at.0))
            .collect();
        let (rows, count) = (json(&rows), wishes.len());
        let (schema, files) = (&mut self.schema, self.link.conn.files.clone());
        let enqueue = async |conn: &mut SqliteConnection| enqueue_rows(conn, schema, &rows, count, &files).await;
        let done = self.link.surely("enqueue", SOME_ROWS, enqueue).await;
        match done {
            Ok(enqueued) => {
                self.link.check_in_place("enqueue")?;
                Ok(enqueued)
            }
            Err(error) => {
                self.link.check_in_place("enqueue")?;
                Err(self.link.blame(error).await)
            }
        }
    }

    /// Inserts (agent, entry, priority) rows in one transaction.
    ///
    /// # Errors
    /// If SQLite fails or refuses a row; then none is inserted.
    pub async fn insert<'r>(
        &mut self,
        rows: impl IntoIterator<Item = (&'r str, &'r str, i64)>,
    ) -> Result<(), StoreError> {
        let path = self.link.options.path.clone();
        let error = |source| StoreError { path: path.clone(), doing: "insert", source };
        let mut tx = self.link.conn.begin_with("BEGIN IMMEDIATE").await.map_err(error)?;
        for (agent, entry, priority) in rows {
            sqlx::query(Self::INSERT).bind(agent).bind(entry).bind(priority).execute(&mut *tx).await.map_err(error)?;
        }
        tx.commit().await.map_err(error)?;
        self.link.check_in_place("insert")
    }

    /// How many rows of each agent are in each state, and why the dead ones are dead. Reads the whole table.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn totals(&mut self) -> Result<Vec<(String, String, Option<String>, i64)>, StoreError> {
        sqlx::query_as(
            "SELECT agent_id, state, CASE state WHEN 'dead' THEN last_cause END AS cause, count(*) FROM deletions
             GROUP BY 1, 2, 3 ORDER BY 1, 2 DESC, 3",
        )
        .fetch_all(&mut *self.link.conn)
        .await
        .map_err(|source| self.link.error("count", source))
    }
}

/// Enqueues rows in one transaction, and looks whether they are there if something of somebody else's is in the tables.
async fn enqueue_rows(
    conn: &mut SqliteConnection,
    schema: &mut Schema,
    rows: &str,
    count: usize,
    files: &Files,
) -> Result<Enqueued, sqlx::Error> {
    let mut tx = conn.begin_with("BEGIN IMMEDIATE").await?;
    let version = sqlx::query_scalar("PRAGMA schema_version").fetch_one(&mut *tx).await?;
    schema.follow(&mut tx, version).await?;
    let (reopened, earlier): (i64, i64) = sqlx::query_as(REPEATS).bind(rows).fetch_one(&mut *tx).await?;
    let inserted = sqlx::query(ENQUEUE).bind(rows).execute(&mut *tx).await?.rows_affected();
    if schema.is_interfered_with() {
        let missing: i64 = sqlx::query_scalar(MISSING).bind(rows).fetch_one(&mut *tx).await?;
        if missing > 0 {
            let said = format!("{missing} of {count} rows are not pending after they were enqueued");
            return Err(not_done(said, &schema.foreign));
        }
    }
    // What is committed to a log that others do not see is lost, and the caller says which file it was.
    if files.replaced().is_some() {
        return Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::NotFound, "a file was replaced")));
    }
    tx.commit().await?;
    let [reopened, earlier] = [reopened, earlier].map(|count| u64::try_from(count).unwrap_or(0));
    let waiting = (count as u64).saturating_sub(inserted + reopened + earlier);
    Ok(Enqueued { inserted, waiting, earlier, reopened })
}

/// Makes a queue, or brings its tables up to date, and leaves it.
async fn make(options: &Options) -> Result<Opened, OpenError> {
    match sure(async || Store::make(options.clone()).await).await {
        Ok(store) => {
            let opened = store.opened();
            // All is committed; a log that could not be copied stays beside the file.
            let _ = store.close().await;
            Ok(opened)
        }
        // A daemon makes it, and works on it.
        Err(OpenError::Taken { .. }) => Ok(Opened::Existing),
        Err(error) => Err(error),
    }
}
