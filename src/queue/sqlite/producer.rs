//! A connection of a command that writes. Enqueues rows, for commands, the demo and tests.

use std::io;

use sqlx::{Connection as _, SqliteConnection};

use super::{
    Store,
    acts::step,
    close::close_beside_daemon,
    connection::connect,
    errors::{OpenError, StoreError},
    interference::not_done,
    open::{Opened, Options},
    rows::json,
    schema::connect_known,
    schema_watch::SchemaWatch,
    second_look::twice_if_damaged,
    session::Session,
    step_limit::SOME_ROWS,
    watched_files::WatchedFiles,
};
use crate::{
    model::{clock::Timestamp, label::Label},
    queue::{Enqueued, Queue as _, Wish, doing::Doing},
};

/// ?1 rows: [[agent_id, entry_id, priority, due_at, label], …]. A trigger updates rows that exist already.
const ENQUEUE: &str = "
INSERT INTO deletions (agent_id, entry_id, priority, due_at, label)
SELECT value->>0, value->>1, value->>2, value->>3, value->>4 FROM json_each(?1)";

/// ?1 the same rows, after they were inserted. Counts those that are not in the table, or not open.
pub(super) const MISSING: &str = "
SELECT count(*) FROM json_each(?1)
WHERE NOT EXISTS (
    SELECT 1 FROM deletions WHERE agent_id = value->>0 AND entry_id = value->>1 AND state = 'pending')";

/// ?1 the same rows, before they are inserted. Counts those that will reopen a settled row, those that will make an open row due
/// earlier, and those whose due time is dropped because the open row keeps an earlier one. The trigger takes the rows one after the other: the first of several with the same entry reopens the row, and each
/// meets the earliest time of those before it.
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
            THEN wish.due < min(deletions.due_at, coalesce(wish.before, deletions.due_at)) END), 0),
    coalesce(sum(CASE
        WHEN deletions.state IS NULL OR deletions.state <> 'pending' THEN wish.due > wish.before
        WHEN deletions.request_id IS NULL AND deletions.attempts = 0 AND deletions.due_at <> deletions.created_at
            THEN wish.due > min(deletions.due_at, coalesce(wish.before, deletions.due_at))
        ELSE wish.due > deletions.due_at END), 0)
FROM wish LEFT JOIN deletions ON deletions.agent_id = wish.agent AND deletions.entry_id = wish.entry";

/// A connection that enqueues.
#[derive(Debug)]
pub struct Producer {
    pub(super) session: Session,
    /// The file has our application ID.
    is_marked: bool,
    schema: SchemaWatch,
    /// The act that this connection is doing.
    pub(super) doing: Option<Doing>,
}

impl Producer {
    /// The statement of [`Producer::insert`]. Any SQLite client can use it.
    pub const INSERT: &str = "INSERT INTO deletions (agent_id, entry_id, priority) VALUES (?, ?, ?)";

    /// Opens the file as any client would, without a check of its schema.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn open(options: &Options) -> Result<Self, StoreError> {
        let conn = connect(options, false).await?;
        let session = Session::new(conn, options).await?;
        Ok(Self { session, is_marked: true, schema: SchemaWatch::default(), doing: None })
    }

    /// Opens an up-to-date queue, beside a daemon or without one.
    ///
    /// # Errors
    /// If the file does not exist, is not ours or not up to date, or SQLite fails.
    pub async fn join(options: &Options) -> Result<Self, OpenError> {
        twice_if_damaged(async || {
            let (conn, is_marked) = connect_known(options, false).await?;
            let session = Session::new(conn, options).await?;
            let mut producer = Self { session, is_marked, schema: SchemaWatch::default(), doing: None };
            // Entry IDs are random to the index: with a small cache, each row would read and write a page of it.
            let set_up = sqlx::raw_sql("PRAGMA cache_size = -16384").execute(&mut *producer.session.conn).await;
            set_up.map_err(|source| producer.session.error("set up", source))?;
            // Now, and not under the write lock, because it takes some milliseconds.
            let updated = producer.schema.update(&mut producer.session.conn).await;
            updated.map_err(|source| producer.session.error("look at the schema", source))?;
            Ok(producer)
        })
        .await
    }

    /// The same. Makes the queue if it does not exist, and adopts a dump that was loaded. Returns what the file was before.
    ///
    /// # Errors
    /// If the file exists and is not ours or not up to date, or SQLite fails.
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

    /// Closes the file. Copies the WAL into the database, unless a daemon runs, which does that itself.
    ///
    /// # Errors
    /// If SQLite fails; nothing is lost by that.
    pub async fn close(self) -> Result<(), StoreError> {
        let Session { conn, options, .. } = self.session;
        let left = close_beside_daemon(conn, &options.path).await;
        left.map_err(|source| StoreError { path: options.path, doing: "close", source })
    }

    /// Enqueues all deletions in one transaction, as a part of the act that was begun, if any.
    ///
    /// # Errors
    /// If SQLite fails; then none is enqueued.
    pub async fn enqueue(&mut self, wishes: &[Wish], now: Timestamp) -> Result<Enqueued, StoreError> {
        let rows: Vec<_> = wishes
            .iter()
            .map(|wish| {
                let label = wish.label.as_ref().map(Label::as_str);
                (wish.agent.as_str(), wish.entry.as_str(), wish.priority, wish.due_at.0, label)
            })
            .collect();
        let (rows, count) = (json(&rows), wishes.len());
        let (schema, files, doing) = (&mut self.schema, self.session.conn.files.clone(), self.doing.clone());
        let doing = doing.map(|doing| doing.about(wishes.iter().map(|wish| &wish.agent)));
        let enqueue = async |conn: &mut SqliteConnection| {
            enqueue_rows(conn, schema, &rows, count, &files, doing.as_ref(), now).await
        };
        let done = self.session.twice_if_damaged("enqueue", SOME_ROWS, enqueue).await;
        match done {
            Ok((enqueued, doing)) => {
                self.doing = doing;
                self.session.check_in_place("enqueue")?;
                Ok(enqueued)
            }
            Err(error) => {
                self.session.check_in_place("enqueue")?;
                Err(self.session.blame(error).await)
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
        let path = self.session.options.path.clone();
        let error = |source| StoreError { path: path.clone(), doing: "insert", source };
        let mut tx = self.session.conn.begin_with("BEGIN IMMEDIATE").await.map_err(error)?;
        for (agent, entry, priority) in rows {
            sqlx::query(Self::INSERT).bind(agent).bind(entry).bind(priority).execute(&mut *tx).await.map_err(error)?;
        }
        tx.commit().await.map_err(error)?;
        self.session.check_in_place("insert")
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
        .fetch_all(&mut *self.session.conn)
        .await
        .map_err(|source| self.session.error("count", source))
    }
}

/// Enqueues rows in one transaction, with the act that they belong to. While foreign triggers can interfere, reads the rows back.
async fn enqueue_rows(
    conn: &mut SqliteConnection,
    schema: &mut SchemaWatch,
    rows: &str,
    count: usize,
    files: &WatchedFiles,
    doing: Option<&Doing>,
    now: Timestamp,
) -> Result<(Enqueued, Option<Doing>), sqlx::Error> {
    let mut tx = conn.begin_with("BEGIN IMMEDIATE").await?;
    schema.update(&mut tx).await?;
    let (reopened, earlier, dropped): (i64, i64, i64) = sqlx::query_as(REPEATS).bind(rows).fetch_one(&mut *tx).await?;
    let inserted = sqlx::query(ENQUEUE).bind(rows).execute(&mut *tx).await?.rows_affected();
    if schema.can_interfere() {
        let missing: i64 = sqlx::query_scalar(MISSING).bind(rows).fetch_one(&mut *tx).await?;
        if missing > 0 {
            let message = format!("{missing} of {count} rows are not pending after they were enqueued");
            return Err(not_done(message, schema.changes()));
        }
    }
    let doing = match doing {
        Some(doing) => Some(step(doing, &mut tx, count as u64, now).await?),
        None => None,
    };
    // A commit to a WAL that others do not see is lost. The caller's own check names the file.
    if files.replaced().is_some() {
        return Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::NotFound, "a file was replaced")));
    }
    tx.commit().await?;
    let [reopened, earlier, dropped] = [reopened, earlier, dropped].map(|count| u64::try_from(count).unwrap_or(0));
    let waiting = (count as u64).saturating_sub(inserted + reopened + earlier);
    Ok((Enqueued { accepted: 0, inserted, waiting, dropped, earlier, reopened }, doing))
}

/// Makes a queue, or brings its tables up to date, and closes it.
async fn make(options: &Options) -> Result<Opened, OpenError> {
    match twice_if_damaged(async || Store::make(options.clone()).await).await {
        Ok(store) => {
            let opened = store.opened();
            // Everything is committed. A WAL that could not be copied stays beside the file.
            let _ = store.close().await;
            Ok(opened)
        }
        // A daemon has just made it, and works on it.
        Err(OpenError::Taken { .. }) => Ok(Opened::Existing),
        Err(error) => Err(error),
    }
}
