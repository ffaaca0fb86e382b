//! All the SQL there is: the queue's file, opened, read and written.
//!
//! One [`Store`] owns the file: the OS lock beside it says so, and the one connection that writes is in it. What is
//! written in one turn of the worker is one [`Write`] transaction. Statements work on sets, handed over as JSON: a
//! statement per row would cost more than everything else together.

use std::{
    borrow::Cow,
    fmt,
    fs::{self, File, OpenOptions, TryLockError},
    io::{Read, Seek, SeekFrom, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Row, SqlSafeStr, Sqlite, SqliteConnection, Transaction,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
    sqlite::{SqliteConnectOptions, SqliteRow},
};

use crate::{
    clock::Timestamp,
    deletion::{AgentId, Batch, Deletion, DeletionId, EntryId, IdError, Lane, MAX_BATCH_SIZE, RequestId, State},
    outcome::{Cause, Judged, Scope, Verdict},
    pace::{HoldChange, HoldRow},
};

/// `PRAGMA application_id` of our files, as the first migration sets it.
const APPLICATION_ID: i64 = 0x5343_5750;

/// The writing connection's page cache, in KiB. Rows of many agents lie far apart; more memory makes them settle faster.
const CACHE_KIB: u32 = 16 * 1024;

/// Every migration, oldest first.
fn migrator() -> Migrator {
    let migration = |version, description: &'static str, sql: &'static str| {
        Migration::new(version, Cow::Borrowed(description), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(vec![migration(1, "queue", include_str!("../migrations/0001_queue.sql"))])
}

/// How the file is used.
#[derive(Clone, Debug)]
pub struct Options {
    /// The database file.
    pub path: PathBuf,
    /// How long a write waits for another process's transaction.
    pub busy_timeout: Duration,
    /// What a commit waits for.
    pub synchronous: Synchronous,
}

/// `PRAGMA synchronous`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Synchronous {
    /// Commits survive a power cut.
    Full,
    /// Commits survive the process; the last ones before a power cut may be lost, and their requests repeated.
    Normal,
}

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another daemon has it.
    #[error("database {path}: another sweeper{} is working on it; one daemon per file", pid_text(*.pid))]
    Taken {
        /// The file.
        path: PathBuf,
        /// The other daemon's process, if it could be read.
        pid: Option<u32>,
    },
    /// Made by somebody else.
    #[error("database {0}: it is a SQLite database, but not one of sweeper's; give database.path a file of its own")]
    NotOurs(PathBuf),
    /// Made by a newer sweeper.
    #[error("database {path}: made by a newer sweeper (schema {version}); use that version or a newer one")]
    Newer {
        /// The file.
        path: PathBuf,
        /// The first migration that we do not know.
        version: i64,
    },
    /// The lock file beside it cannot be used.
    #[error("lock file {path}: {source}; the directory of the database must exist and be writable")]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A migration failed.
    #[error("database {path}: migrate: {source}")]
    Migrate {
        /// The file.
        path: PathBuf,
        /// What the migration says.
        source: Box<MigrateError>,
    },
    /// SQLite refuses it.
    #[error(transparent)]
    Sql(#[from] StoreError),
}

fn pid_text(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

/// A statement that failed.
#[derive(Debug)]
pub struct StoreError {
    path: PathBuf,
    doing: &'static str,
    source: sqlx::Error,
}

impl StoreError {
    /// SQLite's primary result code, if it is SQLite that failed.
    fn code(&self) -> Option<i32> {
        let code: i32 = self.source.as_database_error()?.code()?.parse().ok()?;
        Some(code & 0xff)
    }

    /// Whether waiting can help: the file is busy or locked, or the disk is full or failing.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        // SQLITE_BUSY, SQLITE_LOCKED, SQLITE_NOMEM, SQLITE_IOERR, SQLITE_FULL
        matches!(self.code(), Some(5 | 6 | 7 | 10 | 13))
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "database {}: {}: ", self.path.display(), self.doing)?;
        match self.source.as_database_error() {
            Some(said) => f.write_str(said.message()),
            None => self.source.fmt(f),
        }?;
        match self.code() {
            Some(8) => f.write_str("; make the file and its directory writable for this user"),
            Some(11) => f.write_str("; restore it from a backup, or rescue it with sqlite3's .recover"),
            Some(13) => f.write_str("; make room on its disk"),
            Some(14) => f.write_str("; its directory must exist and be writable"),
            Some(26) => f.write_str("; give database.path another file"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// What a migrated file was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// It did not exist, or was empty.
    Created,
    /// It was ours, and is up to date.
    Existing,
}

/// The queue, open for the one daemon that works on it.
#[derive(Debug)]
pub struct Store {
    conn: SqliteConnection,
    options: Options,
    /// Held until the store is dropped, and by the operating system's hand if we die.
    _lock: File,
    opened: Opened,
    next_request: i64,
    data_version: i64,
    prune_after: i64,
}

/// A request that was claimed and never answered: its daemon died.
#[derive(Debug, PartialEq, Eq)]
pub struct Orphan {
    /// The request.
    pub request: RequestId,
    /// What of its manifest is still pending; none if an operator took all of it out.
    pub batch: Option<Batch>,
}

/// What a look at a lane found.
#[derive(Debug, PartialEq, Eq)]
pub struct Look {
    /// Due rows, in the order in which they go out.
    pub due: Vec<DueRow>,
    /// Rows whose entry ID no request could carry; their CHECK was switched off for the INSERT.
    pub unusable: Vec<DeletionId>,
    /// When the first row that is not due yet will be.
    pub next_due_at: Option<Timestamp>,
}

/// A row that may be claimed.
#[derive(Debug, PartialEq, Eq)]
pub struct DueRow {
    /// The row.
    pub deletion: Deletion,
    /// Since when it could have been sent.
    pub due_since: Timestamp,
}

/// A batch about to be sent.
#[derive(Debug)]
pub struct Claim {
    /// From [`Write::next_request_id`].
    pub request: RequestId,
    /// The UUID that goes with it.
    pub correlation_id: uuid::Uuid,
    /// Its content.
    pub batch: Batch,
}

/// An answered request, judged.
#[derive(Debug)]
pub struct Settlement {
    /// The request.
    pub request: RequestId,
    /// When its answer was judged.
    pub answered_at: Timestamp,
    /// The HTTP status, if there was one.
    pub status: Option<u16>,
    /// The cause, unless it was an answer.
    pub fault: Option<Cause>,
    /// What was said with it.
    pub detail: Option<String>,
    /// The correlation ID that came back.
    pub remote_id: Option<String>,
    /// What becomes of its rows.
    pub rows: Vec<Judged>,
}

impl Settlement {
    /// How many rows got each kind of verdict: deleted, to come back, dead.
    #[must_use]
    pub fn counts(&self) -> (usize, usize, usize) {
        self.rows.iter().fold((0, 0, 0), |(deleted, retried, dead), row| match row.verdict {
            Verdict::Deleted => (deleted + 1, retried, dead),
            Verdict::Retry { .. } | Verdict::Release { .. } => (deleted, retried + 1, dead),
            Verdict::Dead { .. } => (deleted, retried, dead + 1),
        })
    }
}

/// What one step of pruning did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pruned {
    /// Rows removed, of all tables.
    pub removed: u64,
    /// The end of the tables is not reached yet.
    pub more: bool,
}

/// How the queue stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Open rows.
    pub pending: u64,
    /// Of them, those whose time has come, sent or not.
    pub due: u64,
    /// Dead rows that are still kept.
    pub dead: u64,
    /// How long the oldest due row has been due.
    pub oldest_due: Duration,
}

const LANES: &str = "
WITH RECURSIVE lane (id) AS (
    SELECT (SELECT id FROM deletions INDEXED BY deletions_due WHERE state = 'pending'
            ORDER BY priority, agent_id, batch_max, due_at LIMIT 1)
    UNION ALL
    SELECT (SELECT next.id FROM deletions AS next INDEXED BY deletions_due
            WHERE next.state = 'pending'
              AND (next.priority, next.agent_id, next.batch_max) > (head.priority, head.agent_id, head.batch_max)
            ORDER BY next.priority, next.agent_id, next.batch_max, next.due_at LIMIT 1)
    FROM lane CROSS JOIN deletions AS head ON head.id = lane.id
    WHERE lane.id IS NOT NULL
)
SELECT head.priority, head.agent_id, head.batch_max, head.due_at, head.created_at
FROM lane CROSS JOIN deletions AS head ON head.id = lane.id";

/// ?1 lanes: [[priority, agent_id, batch_max], …]; ?2 now; ?3 rows per lane; ?4 ids in flight: [id, …]
const LOOK: &str = "
SELECT
    lane.key,
    (SELECT json_group_array(json_array(id, entry_id, attempts, maybe_done, due_at, created_at)) FROM (
        SELECT id, entry_id, attempts, maybe_done, due_at, created_at
        FROM deletions INDEXED BY deletions_due
        WHERE state = 'pending' AND priority = lane.value->>0 AND agent_id = lane.value->>1
          AND batch_max = lane.value->>2 AND due_at <= ?2
          AND id NOT IN (SELECT value FROM json_each(?4))
        ORDER BY due_at, id LIMIT ?3)),
    (SELECT due_at FROM deletions INDEXED BY deletions_due
     WHERE state = 'pending' AND priority = lane.value->>0 AND agent_id = lane.value->>1
       AND batch_max = lane.value->>2 AND due_at > ?2
     ORDER BY due_at LIMIT 1)
FROM json_each(?1) AS lane
ORDER BY lane.key";

/// ?1 claims: [[id, correlation_id, agent_id, [deletion id, …], size], …]; ?2 now
const CLAIM: &str = "
INSERT INTO requests (id, correlation_id, agent_id, deletion_ids, size, claimed_at)
SELECT value->>0, value->>1, value->>2, value->'$[3]', value->>4, ?2 FROM json_each(?1)";

/// ?1 groups of rows with one verdict: [[request_id, verdict, cause, state, counted, due_at, batch_max, maybe_done,
/// settled_at, [deletion id, …]], …]. A group whose request has its answer already was settled before.
macro_rules! with_groups {
    ($statement:literal) => {
        concat!(
            "WITH groups AS MATERIALIZED (
                SELECT value->>0 AS request_id, value->>1 AS verdict, value->>2 AS cause, value->>3 AS state,
                       value->>4 AS counted, value->>5 AS due_at, value->>6 AS batch_max, value->>7 AS maybe_done,
                       value->>8 AS settled_at, value->'$[9]' AS ids
                FROM json_each(?1)
                WHERE EXISTS (SELECT 1 FROM requests WHERE id = value->>0 AND answered_at IS NULL)
            ) ",
            $statement
        )
    };
}

const SETTLE_DELETIONS: &str = with_groups!(
    "UPDATE deletions SET
        state = judged.state,
        attempts = attempts + judged.counted,
        due_at = coalesce(judged.due_at, deletions.due_at),
        batch_max = coalesce(judged.batch_max, deletions.batch_max),
        maybe_done = max(deletions.maybe_done, judged.maybe_done),
        request_id = judged.request_id,
        last_cause = judged.cause,
        settled_at = judged.settled_at
    FROM (SELECT groups.*, row.value AS id FROM groups CROSS JOIN json_each(groups.ids) AS row) AS judged
    WHERE deletions.id = judged.id AND deletions.state = 'pending'"
);

const SETTLE_OUTCOMES: &str = with_groups!(
    "INSERT INTO outcomes (request_id, deletion_id, verdict, cause)
    SELECT request_id, row.value, verdict, cause FROM groups CROSS JOIN json_each(groups.ids) AS row"
);

/// ?1 answers: [[id, answered_at, status, deleted, retried, dead, fault, detail, remote_id], …]
const SETTLE_REQUESTS: &str = "
UPDATE requests SET
    answered_at = answer.value->>1, status = answer.value->>2, deleted = answer.value->>3,
    retried = answer.value->>4, dead = answer.value->>5, fault = answer.value->>6, detail = answer.value->>7,
    remote_id = answer.value->>8
FROM json_each(?1) AS answer
WHERE requests.id = answer.value->>0 AND requests.answered_at IS NULL";

/// ?1 ids: [id, …]; ?2 now
const BURY: &str = "
UPDATE deletions SET state = 'dead', last_cause = 'rejected', settled_at = ?2
WHERE id IN (SELECT value FROM json_each(?1)) AND state = 'pending'";

const ORPHANS: &str = "
SELECT requests.id, requests.agent_id,
    (SELECT json_group_array(json_array(id, entry_id, attempts, maybe_done, due_at, created_at)) FROM deletions
     WHERE id IN (SELECT value FROM json_each(requests.deletion_ids)) AND state = 'pending')
FROM requests INDEXED BY requests_unanswered
WHERE answered_at IS NULL ORDER BY requests.id";

const PLACE_HOLD: &str =
    "INSERT OR REPLACE INTO holds (scope, cause, since_at, until_at, repeats) VALUES (?1, ?2, ?3, ?4, ?5)";
const LIFT_HOLD: &str = "DELETE FROM holds WHERE scope = ?1 AND cause = ?2";

impl Store {
    /// Takes the lock, opens the file, creating it if need be, and brings its tables up to date.
    ///
    /// # Errors
    /// If another daemon has it, if it is no database or somebody else's, newer than this program, or not writable.
    pub async fn open(options: Options) -> Result<Self, OpenError> {
        let lock = lock(&options.path)?;
        let mut store = Self {
            conn: connect(&options, false).await?,
            options,
            _lock: lock,
            opened: Opened::Existing,
            next_request: 0,
            data_version: 0,
            prune_after: 0,
        };
        store.check_ours().await?;
        store.set_up().await?;
        store.migrate().await?;
        let last: Option<i64> = sqlx::query_scalar("SELECT seq FROM sqlite_sequence WHERE name = 'requests'")
            .fetch_optional(&mut store.conn)
            .await
            .map_err(|source| store.error("read the last request", source))?;
        store.next_request = last.unwrap_or(0) + 1;
        // A first reading of data_version, so that only later writes of others count as news.
        store.changed().await?;
        Ok(store)
    }

    /// Whether the file was made by this opening.
    #[must_use]
    pub fn opened(&self) -> Opened {
        self.opened
    }

    async fn check_ours(&mut self) -> Result<(), OpenError> {
        let (id, objects) = identity(&mut self.conn).await.map_err(|source| self.error("open", source))?;
        if objects == 0 {
            self.opened = Opened::Created;
            Ok(())
        } else if id == APPLICATION_ID {
            Ok(())
        } else {
            Err(OpenError::NotOurs(self.options.path.clone()))
        }
    }

    async fn set_up(&mut self) -> Result<(), StoreError> {
        let synchronous = match self.options.synchronous {
            Synchronous::Full => "FULL",
            Synchronous::Normal => "NORMAL",
        };
        let pragmas =
            format!("PRAGMA synchronous = {synchronous}; PRAGMA cache_size = -{CACHE_KIB}; PRAGMA temp_store = MEMORY");
        sqlx::raw_sql("PRAGMA journal_mode = WAL")
            .execute(&mut self.conn)
            .await
            .map_err(|source| self.error("switch to WAL", source))?;
        sqlx::raw_sql(AssertSqlSafe(pragmas))
            .execute(&mut self.conn)
            .await
            .map_err(|source| self.error("set up", source))?;
        // A file that can be read and not written is refused here and not at the first claim.
        self.write().await?.rollback().await
    }

    async fn migrate(&mut self) -> Result<(), OpenError> {
        match migrator().run(&mut self.conn).await {
            Ok(()) => Ok(()),
            Err(MigrateError::VersionMissing(version)) => {
                Err(OpenError::Newer { path: self.options.path.clone(), version })
            }
            Err(source) => Err(OpenError::Migrate { path: self.options.path.clone(), source: Box::new(source) }),
        }
    }

    fn error(&self, doing: &'static str, source: sqlx::Error) -> StoreError {
        StoreError { path: self.options.path.clone(), doing, source }
    }

    /// Whether another connection has committed anything since the last time this was asked.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn changed(&mut self) -> Result<bool, StoreError> {
        let version: i64 = sqlx::query_scalar("PRAGMA data_version")
            .fetch_one(&mut self.conn)
            .await
            .map_err(|source| self.error("look for changes", source))?;
        let changed = version != self.data_version;
        self.data_version = version;
        Ok(changed)
    }

    /// Every lane with open rows, and when its first row is due. O(lanes): one step of the index each.
    ///
    /// A lane whose agent ID no request could carry (its CHECK was switched off for the INSERT) comes in the second
    /// list.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn lanes(&mut self) -> Result<(Vec<(Lane, Timestamp)>, Vec<IdError>), StoreError> {
        let rows = sqlx::query(LANES)
            .fetch_all(&mut self.conn)
            .await
            .map_err(|source| self.error("list the lanes", source))?;
        let (mut lanes, mut unusable) = (Vec::with_capacity(rows.len()), Vec::new());
        for row in &rows {
            match lane_row(row).map_err(|source| self.error("list the lanes", source))? {
                Ok(lane) => lanes.push(lane),
                Err(error) => unusable.push(error),
            }
        }
        Ok((lanes, unusable))
    }

    /// The holds, whoever placed them.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn holds(&mut self) -> Result<Vec<HoldRow>, StoreError> {
        let rows = sqlx::query("SELECT scope, cause, since_at, until_at, repeats FROM holds")
            .fetch_all(&mut self.conn)
            .await
            .map_err(|source| self.error("read the holds", source))?;
        rows.iter()
            .filter_map(|row| hold_row(row).transpose())
            .collect::<Result<_, _>>()
            .map_err(|source| self.error("read the holds", source))
    }

    /// The requests that a daemon before us claimed and did not live to see answered.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn orphans(&mut self) -> Result<Vec<Orphan>, StoreError> {
        let rows = sqlx::query(ORPHANS)
            .fetch_all(&mut self.conn)
            .await
            .map_err(|source| self.error("find unanswered requests", source))?;
        rows.iter()
            .map(orphan_row)
            .collect::<Result<_, _>>()
            .map_err(|source| self.error("find unanswered requests", source))
    }

    /// Whether no row is open.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn is_empty(&mut self) -> Result<bool, StoreError> {
        let open: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM deletions WHERE state = 'pending')")
            .fetch_one(&mut self.conn)
            .await
            .map_err(|source| self.error("look for open rows", source))?;
        Ok(!open)
    }

    /// Starts a transaction that writes.
    ///
    /// # Errors
    /// If SQLite fails, or another process writes for longer than the busy timeout.
    pub async fn write(&mut self) -> Result<Write<'_>, StoreError> {
        // IMMEDIATE: a transaction that reads first and writes later fails at once when another wrote meanwhile.
        let path = self.options.path.clone();
        match self.conn.begin_with("BEGIN IMMEDIATE").await {
            Ok(tx) => Ok(Write { tx, path, next_request: &mut self.next_request }),
            Err(source) => Err(StoreError { path, doing: "begin to write", source }),
        }
    }

    /// Removes up to `most` settled rows, and up to a tenth as many answered requests with their outcomes, that are older than
    /// `cutoff`. Goes through the table a stretch at a time, so a call costs the same however long the table is.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn prune(&mut self, cutoff: Timestamp, most: u32) -> Result<Pruned, StoreError> {
        let after = self.prune_after;
        let last: Option<i64> =
            sqlx::query_scalar("SELECT max(id) FROM (SELECT id FROM deletions WHERE id > ?1 ORDER BY id LIMIT ?2)")
                .bind(after)
                .bind(most)
                .fetch_one(&mut self.conn)
                .await
                .map_err(|source| self.error("prune", source))?;
        // At the end of the table: from the start again.
        self.prune_after = last.unwrap_or(0);
        let mut write = self.write().await?;
        let mut pruned = 0;
        if let Some(last) = last {
            pruned += write
                .execute(
                    "prune",
                    sqlx::query("DELETE FROM deletions WHERE id > ?1 AND id <= ?2 AND settled_at < ?3")
                        .bind(after)
                        .bind(last)
                        .bind(cutoff.0),
                )
                .await?;
        }
        // Requests are answered about in the order of their ids: looking at the first ones is enough.
        let old = "SELECT id FROM (SELECT id, answered_at FROM requests ORDER BY id LIMIT ?1) WHERE answered_at < ?2";
        let outcomes = format!("DELETE FROM outcomes WHERE request_id IN ({old})");
        let requests = format!("DELETE FROM requests WHERE id IN ({old})");
        for statement in [outcomes, requests] {
            pruned +=
                write.execute("prune", sqlx::query(AssertSqlSafe(statement)).bind(most / 10).bind(cutoff.0)).await?;
        }
        let more = last.is_some() || pruned > 0;
        if pruned > 0 { write.commit().await } else { write.rollback().await }?;
        Ok(Pruned { removed: pruned, more })
    }

    /// What counts the rows, on a connection of its own: that takes longer than a turn may.
    #[must_use]
    pub fn counter(&self) -> Counter {
        Counter { options: self.options.clone() }
    }
}

/// A transaction that writes; dropped without [`Write::commit`], nothing of it happened.
#[derive(Debug)]
pub struct Write<'a> {
    tx: Transaction<'a, Sqlite>,
    path: PathBuf,
    next_request: &'a mut i64,
}

type Query<'q> = sqlx::query::Query<'q, Sqlite, sqlx::sqlite::SqliteArguments>;

impl Write<'_> {
    fn error(&self, doing: &'static str, source: sqlx::Error) -> StoreError {
        StoreError { path: self.path.clone(), doing, source }
    }

    async fn execute(&mut self, doing: &'static str, query: Query<'_>) -> Result<u64, StoreError> {
        match query.execute(&mut *self.tx).await {
            Ok(done) => Ok(done.rows_affected()),
            Err(source) => Err(self.error(doing, source)),
        }
    }

    /// Writes what became of answered requests: onto their rows, if those are still pending, into `outcomes`, and
    /// onto the requests themselves. A request that has its answer already is left as it is, so settling again after
    /// a commit that failed in doubt does no harm.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn settle<'s>(
        &mut self,
        settlements: impl Iterator<Item = &'s Settlement> + Clone,
    ) -> Result<(), StoreError> {
        let answers: Vec<_> = settlements.clone().map(answer).collect();
        if answers.is_empty() {
            return Ok(());
        }
        let (groups, answers) = (json(&settlements.flat_map(groups).collect::<Vec<_>>()), json(&answers));
        self.execute("settle", sqlx::query(SETTLE_DELETIONS).bind(&groups)).await?;
        self.execute("record the outcomes", sqlx::query(SETTLE_OUTCOMES).bind(&groups)).await?;
        self.execute("record the answers", sqlx::query(SETTLE_REQUESTS).bind(&answers)).await?;
        Ok(())
    }

    /// Makes rows dead that no request can carry.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn bury(&mut self, ids: &[DeletionId], now: Timestamp) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
        self.execute("bury unusable rows", sqlx::query(BURY).bind(json(&ids)).bind(now.0)).await?;
        Ok(())
    }

    /// Writes what changed in the holds.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn change_holds(&mut self, changes: &[HoldChange]) -> Result<(), StoreError> {
        for change in changes {
            let query = match change {
                HoldChange::Placed(row) => sqlx::query(PLACE_HOLD)
                    .bind(row.scope.as_str())
                    .bind(row.cause.as_str())
                    .bind(row.since_at.0)
                    .bind(row.until_at.map(|at| at.0))
                    .bind(row.repeats),
                HoldChange::Lifted { scope, cause } => sqlx::query(LIFT_HOLD).bind(scope.as_str()).bind(cause.as_str()),
            };
            self.execute("change the holds", query).await?;
        }
        Ok(())
    }

    /// Looks for due rows of `lanes`: up to `most` of each, leaving out those `in_flight`. One [`Look`] per lane, in
    /// their order.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn look(
        &mut self,
        lanes: &[Lane],
        most: usize,
        in_flight: &[DeletionId],
        now: Timestamp,
    ) -> Result<Vec<Look>, StoreError> {
        let keys: Vec<_> = lanes.iter().map(|lane| (lane.priority, lane.agent.as_str(), lane.batch_max)).collect();
        let in_flight: Vec<i64> = in_flight.iter().map(|id| id.0).collect();
        let rows = sqlx::query(LOOK)
            .bind(json(&keys))
            .bind(now.0)
            .bind(i64::try_from(most).unwrap_or(i64::MAX))
            .bind(json(&in_flight))
            .fetch_all(&mut *self.tx)
            .await
            .map_err(|source| self.error("look for due rows", source))?;
        rows.iter()
            .map(|row| look_row(row, now))
            .collect::<Result<_, _>>()
            .map_err(|source| self.error("look for due rows", source))
    }

    /// The ID for the next request. It is given out once, even if no request is then written with it.
    pub fn next_request_id(&mut self) -> RequestId {
        let id = *self.next_request;
        *self.next_request += 1;
        RequestId(id)
    }

    /// Writes the requests about to be sent, each with its manifest.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn claim(&mut self, claims: &[Claim], now: Timestamp) -> Result<(), StoreError> {
        let manifests: Vec<_> = claims
            .iter()
            .map(|claim| {
                let ids: Vec<i64> = claim.batch.deletions().iter().map(|row| row.id.0).collect();
                let agent = claim.batch.lane().agent.as_str();
                (claim.request.0, claim.correlation_id.to_string(), agent, ids, claim.batch.len())
            })
            .collect();
        self.execute("claim", sqlx::query(CLAIM).bind(json(&manifests)).bind(now.0)).await?;
        Ok(())
    }

    /// Undoes it.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn rollback(self) -> Result<(), StoreError> {
        let path = self.path;
        self.tx.rollback().await.map_err(|source| StoreError { path, doing: "roll back", source })
    }

    /// Makes it so.
    ///
    /// # Errors
    /// If SQLite fails; whether it happened is then settled by what the file says when it is read next.
    pub async fn commit(self) -> Result<(), StoreError> {
        let path = self.path;
        self.tx.commit().await.map_err(|source| StoreError { path, doing: "commit", source })
    }
}

/// Counts the rows of a queue, beside whoever works on it.
#[derive(Clone, Debug)]
pub struct Counter {
    options: Options,
}

impl Counter {
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
        let heads = sqlx::query(LANES).fetch_all(&mut conn).await.map_err(error)?;
        let mut oldest_due = Duration::ZERO;
        for head in &heads {
            let since = due_since(head.try_get(3).map_err(error)?, head.try_get(4).map_err(error)?, now);
            oldest_due = oldest_due.max(now.since(since));
        }
        let count = |n: i64| u64::try_from(n).unwrap_or(0);
        Ok(Tally { pending: count(pending), due: count(due), dead: count(dead), oldest_due })
    }
}

/// A producer's connection, for those parts of this program that enqueue.
#[derive(Debug)]
pub struct Producer {
    conn: SqliteConnection,
    path: PathBuf,
}

impl Producer {
    /// The statement that it inserts with; anybody can.
    pub const INSERT: &str = "INSERT INTO deletions (agent_id, entry_id, priority) VALUES (?, ?, ?)";

    /// Opens the file as any client would.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn open(options: &Options) -> Result<Self, StoreError> {
        Ok(Self { conn: connect(options, false).await?, path: options.path.clone() })
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
        tx.commit().await.map_err(error)
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
        .fetch_all(&mut self.conn)
        .await
        .map_err(|source| StoreError { path: self.path.clone(), doing: "count", source })
    }
}

/// Whether `path` is a database of ours that can be read, whoever works on it.
///
/// # Errors
/// If it is not, or SQLite fails.
pub async fn verify(options: &Options) -> Result<(), OpenError> {
    let mut conn = connect(options, true).await?;
    match identity(&mut conn).await {
        Ok((APPLICATION_ID, _)) => Ok(()),
        Ok(_) => Err(OpenError::NotOurs(options.path.clone())),
        Err(source) => Err(StoreError { path: options.path.clone(), doing: "open", source }.into()),
    }
}

/// The application's ID, and how many tables, indexes and triggers there are.
async fn identity(conn: &mut SqliteConnection) -> Result<(i64, i64), sqlx::Error> {
    let id = sqlx::query_scalar("PRAGMA application_id").fetch_one(&mut *conn).await?;
    let objects = sqlx::query_scalar("SELECT count(*) FROM sqlite_master").fetch_one(&mut *conn).await?;
    Ok((id, objects))
}

async fn connect(options: &Options, read_only: bool) -> Result<SqliteConnection, StoreError> {
    SqliteConnectOptions::new()
        .filename(&options.path)
        .create_if_missing(!read_only)
        .read_only(read_only)
        .busy_timeout(options.busy_timeout)
        .disable_statement_logging()
        .connect()
        .await
        .map_err(|source| StoreError { path: options.path.clone(), doing: "open", source })
}

/// The lock file beside the database. It is never removed: removing it would let two daemons lock two files.
fn lock(database: &Path) -> Result<File, OpenError> {
    // Two paths to one file (a link, `./x`) must meet in one lock.
    let real = match (fs::canonicalize(database), database.parent(), database.file_name()) {
        (Ok(real), _, _) => real,
        (Err(_), Some(parent), Some(name)) => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            fs::canonicalize(parent).unwrap_or_else(|_| parent.to_owned()).join(name)
        }
        (Err(_), _, _) => database.to_owned(),
    };
    let mut path = real.into_os_string();
    path.push(".lock");
    let path = PathBuf::from(path);
    let error = |source| OpenError::Lock { path: path.clone(), source };
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(error)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // The number is a courtesy; that it is locked is the point.
            let pid = file.read_to_string(&mut pid).ok().and_then(|_| pid.trim().parse().ok());
            return Err(OpenError::Taken { path: database.to_owned(), pid });
        }
        Err(TryLockError::Error(source)) => return Err(error(source)),
    }
    file.set_len(0).map_err(error)?;
    file.seek(SeekFrom::Start(0)).map_err(error)?;
    writeln!(file, "{}", std::process::id()).map_err(error)?;
    Ok(file)
}

fn lane_row(row: &SqliteRow) -> Result<Result<(Lane, Timestamp), IdError>, sqlx::Error> {
    let (priority, agent, batch_max, due_at): (i64, &[u8], u8, i64) =
        (row.try_get(0)?, row.try_get_unchecked(1)?, row.try_get(2)?, row.try_get(3)?);
    Ok(AgentId::parse(&String::from_utf8_lossy(agent))
        .map(|agent| (Lane { priority, agent, batch_max }, Timestamp(due_at))))
}

fn hold_row(row: &SqliteRow) -> Result<Option<HoldRow>, sqlx::Error> {
    let scope = match row.try_get(0)? {
        "*" => Scope::All,
        agent => match AgentId::parse(agent) {
            Ok(agent) => Scope::Agent(agent),
            // A hold on something that is no agent holds nothing.
            Err(_) => return Ok(None),
        },
    };
    Ok(Some(HoldRow {
        scope,
        cause: Cause::parse(row.try_get(1)?).unwrap_or(Cause::Operator),
        since_at: Timestamp(row.try_get(2)?),
        until_at: row.try_get::<Option<i64>, _>(3)?.map(Timestamp),
        repeats: u32::try_from(row.try_get::<i64, _>(4)?).unwrap_or(u32::MAX),
    }))
}

/// [id, entry_id, attempts, maybe_done, due_at, created_at]
#[derive(Deserialize)]
struct RawDeletion(i64, String, i64, i64, i64, i64);

impl RawDeletion {
    fn parse(self) -> Result<(Deletion, i64, i64), DeletionId> {
        let Self(id, entry, attempts, maybe_done, due_at, created_at) = self;
        let id = DeletionId(id);
        let entry = EntryId::parse(&entry).map_err(|_| id)?;
        let attempts = u32::try_from(attempts.max(0)).unwrap_or(u32::MAX);
        Ok((Deletion { id, entry, attempts, maybe_done: maybe_done != 0 }, due_at, created_at))
    }
}

fn raw_deletions(row: &SqliteRow, column: usize) -> Result<Vec<RawDeletion>, sqlx::Error> {
    let text: &[u8] = row.try_get_unchecked(column)?;
    serde_json::from_slice(text).map_err(|error| sqlx::Error::Decode(error.into()))
}

fn orphan_row(row: &SqliteRow) -> Result<Orphan, sqlx::Error> {
    let request = RequestId(row.try_get(0)?);
    let rows: Vec<Deletion> =
        raw_deletions(row, 2)?.into_iter().filter_map(|raw| raw.parse().ok()).map(|(row, _, _)| row).collect();
    // Rows are settled by their ids; of the lane, nothing matters any more. No agent or no rows: nothing to judge.
    let batch = AgentId::parse(row.try_get(1)?)
        .ok()
        .map(|agent| Lane { priority: 0, agent, batch_max: MAX_BATCH_SIZE })
        .and_then(|lane| Batch::new(lane, rows).ok());
    Ok(Orphan { request, batch })
}

fn look_row(row: &SqliteRow, now: Timestamp) -> Result<Look, sqlx::Error> {
    let (mut due, mut unusable) = (Vec::new(), Vec::new());
    for raw in raw_deletions(row, 1)? {
        match raw.parse() {
            Ok((deletion, due_at, created_at)) => {
                due.push(DueRow { deletion, due_since: due_since(due_at, created_at, now) });
            }
            Err(id) => unusable.push(id),
        }
    }
    Ok(Look { due, unusable, next_due_at: row.try_get::<Option<i64>, _>(2)?.map(Timestamp) })
}

/// Since when a row could have been sent: `due_at`, but not before it existed. A producer's clock that is ahead of
/// ours does not count.
fn due_since(due_at: i64, created_at: i64, now: Timestamp) -> Timestamp {
    Timestamp(if created_at <= now.0 { due_at.max(created_at) } else { due_at })
}

/// A group as [`with_groups!`] reads it.
type Group =
    (i64, &'static str, Option<&'static str>, &'static str, u8, Option<i64>, Option<u8>, u8, Option<i64>, Vec<i64>);

/// The rows of a request, together with those that share everything that is written onto them.
fn groups(settlement: &Settlement) -> Vec<Group> {
    let mut groups: Vec<(&Judged, Vec<i64>)> = Vec::new();
    for row in &settlement.rows {
        let alike = |first: &Judged| {
            (first.verdict, first.batch_max, first.maybe_done) == (row.verdict, row.batch_max, row.maybe_done)
        };
        match groups.iter_mut().find(|(first, _)| alike(first)) {
            Some((_, ids)) => ids.push(row.id.0),
            None => groups.push((row, vec![row.id.0])),
        }
    }
    groups
        .into_iter()
        .map(|(row, ids)| {
            let (state, settled_at) = match row.verdict {
                Verdict::Deleted => (State::Deleted, Some(settlement.answered_at.0)),
                Verdict::Dead { .. } => (State::Dead, Some(settlement.answered_at.0)),
                Verdict::Retry { .. } | Verdict::Release { .. } => (State::Pending, None),
            };
            (
                settlement.request.0,
                row.verdict.as_str(),
                row.verdict.cause().map(Cause::as_str),
                state.as_str(),
                u8::from(row.verdict.counted()),
                row.verdict.due_at().map(|at| at.0),
                row.batch_max,
                u8::from(row.maybe_done),
                settled_at,
                ids,
            )
        })
        .collect()
}

/// An answer as [`SETTLE_REQUESTS`] reads it.
fn answer(settlement: &Settlement) -> impl Serialize + use<'_> {
    let (deleted, retried, dead) = settlement.counts();
    (
        settlement.request.0,
        settlement.answered_at.0,
        settlement.status,
        deleted,
        retried,
        dead,
        settlement.fault.map(Cause::as_str),
        settlement.detail.as_deref(),
        settlement.remote_id.as_deref(),
    )
}

fn json(value: &impl Serialize) -> String {
    // Numbers, strings, tuples and vectors: there is nothing in them that JSON cannot write.
    serde_json::to_string(value).unwrap_or_default()
}
