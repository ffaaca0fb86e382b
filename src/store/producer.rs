//! The other side of the queue, for those parts of this program that enqueue.

use std::path::PathBuf;

use sqlx::{Connection as _, SqliteConnection};

use super::{
    Store,
    connection::Connection,
    errors::{OpenError, StoreError},
    file::{Opened, Options, connect},
    files::Files,
    rows::json,
    schema::connect_known,
};
use crate::{
    clock::Timestamp,
    deletion::{AgentId, EntryId},
};

/// ?1 rows: [[agent_id, entry_id, priority, due_at], …]. The trigger does what is to be done for those that there are.
const ENQUEUE: &str = "
INSERT INTO deletions (agent_id, entry_id, priority, due_at)
SELECT value->>0, value->>1, value->>2, value->>3 FROM json_each(?1)";

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
    pub(super) conn: Connection,
    pub(super) path: PathBuf,
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
        Self::with(connect(options, false).await?, options).await
    }

    /// Opens a queue that is there and up to date, whoever works on it.
    ///
    /// # Errors
    /// If it is not, or SQLite fails.
    pub async fn join(options: &Options) -> Result<Self, OpenError> {
        let mut producer = Self::with(connect_known(options, false).await?, options).await?;
        // Entry IDs are random to the index: with little memory, each row would read and write a page of it.
        sqlx::raw_sql("PRAGMA cache_size = -16384")
            .execute(&mut *producer.conn)
            .await
            .map_err(|source| producer.error("set up", source))?;
        Ok(producer)
    }

    async fn with(conn: SqliteConnection, options: &Options) -> Result<Self, StoreError> {
        let path = options.path.clone();
        let mut producer = Self { conn: Connection::new(conn, Files::default()), path };
        // SQLite opens the log when it reads something.
        sqlx::query("SELECT 1 FROM sqlite_master")
            .fetch_optional(&mut *producer.conn)
            .await
            .map_err(|source| producer.error("open", source))?;
        producer.conn.files = Files::of(&producer.path);
        Ok(producer)
    }

    /// Fails if the files were taken away: what was written since then, others do not see, and may overwrite.
    pub(super) fn check_in_place(&self, doing: &'static str) -> Result<(), StoreError> {
        check_in_place(&self.conn.files, doing)
    }

    /// The same, of a queue that is made first if it is not there. It tells which it was.
    ///
    /// # Errors
    /// If it is there and not up to date, or SQLite fails.
    pub async fn join_or_create(options: &Options) -> Result<(Self, Opened), OpenError> {
        let is_there = std::fs::metadata(&options.path).is_ok_and(|found| found.len() > 0);
        let opened = if is_there { Opened::Existing } else { Self::create(options).await? };
        Ok((Self::join(options).await?, opened))
    }

    async fn create(options: &Options) -> Result<Opened, OpenError> {
        match Store::make(options.clone()).await {
            Ok(store) => {
                let opened = store.opened();
                store.close().await?;
                Ok(opened)
            }
            // A daemon makes it, and works on it.
            Err(OpenError::Taken { .. }) => Ok(Opened::Existing),
            Err(error) => Err(error),
        }
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
        let (path, files, rows) = (&self.path, self.conn.files.clone(), json(&rows));
        let error = |source| StoreError { path: path.clone(), doing: "enqueue", source };
        let mut tx = self.conn.begin_with("BEGIN IMMEDIATE").await.map_err(error)?;
        let repeats = sqlx::query_as(REPEATS).bind(&rows).fetch_one(&mut *tx).await;
        let (reopened, earlier): (i64, i64) = repeats.map_err(error)?;
        let inserted = sqlx::query(ENQUEUE).bind(&rows).execute(&mut *tx).await.map_err(error)?.rows_affected();
        check_in_place(&files, "enqueue")?;
        tx.commit().await.map_err(error)?;
        check_in_place(&files, "enqueue")?;
        let [reopened, earlier] = [reopened, earlier].map(|count| u64::try_from(count).unwrap_or(0));
        let waiting = (wishes.len() as u64).saturating_sub(inserted + reopened + earlier);
        Ok(Enqueued { inserted, waiting, earlier, reopened })
    }

    /// Inserts (agent, entry, priority) rows in one transaction.
    ///
    /// # Errors
    /// If SQLite fails or refuses a row; then none is inserted.
    pub async fn insert<'r>(
        &mut self,
        rows: impl IntoIterator<Item = (&'r str, &'r str, i64)>,
    ) -> Result<(), StoreError> {
        let path = self.path.clone();
        let error = |source| StoreError { path: path.clone(), doing: "insert", source };
        let mut tx = self.conn.begin_with("BEGIN IMMEDIATE").await.map_err(error)?;
        for (agent, entry, priority) in rows {
            sqlx::query(Self::INSERT).bind(agent).bind(entry).bind(priority).execute(&mut *tx).await.map_err(error)?;
        }
        tx.commit().await.map_err(error)?;
        self.check_in_place("insert")
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
        .fetch_all(&mut *self.conn)
        .await
        .map_err(|source| self.error("count", source))
    }

    pub(super) fn error(&self, doing: &'static str, source: sqlx::Error) -> StoreError {
        StoreError { path: self.path.clone(), doing, source }
    }
}

fn check_in_place(files: &Files, doing: &'static str) -> Result<(), StoreError> {
    let said = "it was deleted or replaced while in use, and what was written last may be lost; stop whoever uses the database \
                before touching its files, and run this again";
    files.check(doing, |_| said)
}
