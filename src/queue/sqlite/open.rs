//! Opening the queue for a daemon or for `sweeper init`: lock, checks, settings, migrations.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::{AssertSqlSafe, migrate::MigrateError};

use super::{
    Store,
    connection::{Connection, connect, switch_to_wal},
    errors::{OpenError, REOPEN, StoreError},
    interference::blame_migration,
    location,
    lock::Lock,
    lock_holder::Purpose,
    schema::{APPLICATION_ID, identity, is_older, migrator, refuse_older, require_ours},
    schema_watch::SchemaWatch,
    step_limit::{SOME_ROWS, StepLimit, whole_file},
    upkeep::enable_incremental_vacuum,
    watched_files::{WatchedFiles, beside},
};
use crate::{
    permission::Need,
    printable::absolute,
    queue::{label_walk::LabelWalk, prune_walk::PruneWalk, schema_changes::log_modified},
};

/// The writing connection's page cache, in KiB. Rows of many agents lie far apart, and more memory makes them settle faster.
const CACHE_KIB: u32 = 16 * 1024;

/// The highest ID of a request so far, also of a pruned one, even if SQLite's own counter was changed.
const LAST_REQUEST: &str = "
SELECT max((SELECT coalesce(max(CAST(seq AS INTEGER)), 0) FROM sqlite_sequence WHERE name = 'requests'),
           (SELECT coalesce(max(id), 0) FROM requests))";

/// Which file is used, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The database file.
    pub path: PathBuf,
    /// How long a write waits for another process's transaction.
    pub busy_timeout: Duration,
    /// When a commit is durable.
    pub synchronous: Synchronous,
}

impl Options {
    /// The longest that a healthy engine waits for others, within one statement.
    #[must_use]
    pub fn longest_wait(&self) -> Duration {
        self.busy_timeout
    }
}

/// `PRAGMA synchronous`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Synchronous {
    /// Commits survive a power cut.
    Full,
    /// Commits survive the process. A power cut may lose the last ones; their requests are then repeated.
    Normal,
}

/// What the file was before it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// It did not exist, or was empty.
    Created,
    /// It was a queue. Now it is up to date.
    Existing,
    /// It was a dump of a queue, loaded into a new file. Now it has our application ID again.
    Adopted,
}

impl Store {
    /// Takes the lock, opens the file or makes it, and brings its tables up to date.
    ///
    /// # Errors
    /// If another daemon has the file, or if the file is not a database of ours, is of another version, or is not writable.
    pub async fn open(options: Options) -> Result<Self, OpenError> {
        let mut store = Self::open_for(Purpose::Work, options).await?;
        store.schema.news().into_iter().for_each(log_modified);
        Ok(store)
    }

    /// The same for a caller that closes it again at once. A daemon that starts meanwhile waits, and is not refused.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub async fn make(options: Options) -> Result<Self, OpenError> {
        Self::open_for(Purpose::Make, options).await
    }

    async fn open_for(purpose: Purpose, options: Options) -> Result<Self, OpenError> {
        let path = options.path.clone();
        Self::open_at_once(purpose, options).await.map_err(|error| error.explained(&path, Need::Write))
    }

    async fn open_at_once(purpose: Purpose, options: Options) -> Result<Self, OpenError> {
        location::refuse(&options.path)?;
        require_directory(&options.path)?;
        refuse_older(&options).await?;
        let lock = Lock::take(&options, purpose).await?;
        let mut conn = connect(&options, false).await?;
        lock.check_database(&options.path)?;
        let steps = StepLimit::of(&mut conn).await;
        let steps = steps.map_err(|source| StoreError::new(&options.path, "open", source))?;
        let mut store = Self {
            conn: Connection::new(conn, WatchedFiles::default()),
            options,
            lock,
            opened: Opened::Existing,
            next_request: 0,
            data_version: 0,
            pruning: PruneWalk::default(),
            is_at_labels: false,
            labels: LabelWalk::default(),
            is_vacuuming: false,
            sweep_from: i64::MIN,
            writing: false,
            steps,
            is_migrated: false,
            schema: SchemaWatch::default(),
        };
        store.check_ours().await?;
        store.set_up().await?;
        store.migrate().await?;
        store.is_migrated = true;
        store.mark().await?;
        store.skip_own_checks().await?;
        let last: Option<i64> = sqlx::query_scalar(LAST_REQUEST)
            .fetch_one(&mut *store.conn)
            .await
            .map_err(|source| store.error("read the last request", source))?;
        store.next_request = last.unwrap_or(0).saturating_add(1);
        store.watch_files()?;
        // The first reading of data_version: only later commits of others count as changes. It also looks at the schema.
        store.look_for_changes().await?;
        Ok(store)
    }

    /// Replaces the connection, whose memory may hold misread pages, and keeps the lock. An open transaction is rolled back.
    ///
    /// # Errors
    /// If SQLite fails; then the old connection stays.
    pub(super) async fn replace_connection(&mut self) -> Result<(), StoreError> {
        self.abandon().await;
        self.check_in_place()?;
        let fresh = connect(&self.options, false).await;
        let mut fresh = fresh.map_err(|error| StoreError { doing: REOPEN, ..error })?;
        let steps = StepLimit::of(&mut fresh).await.map_err(|source| self.error(REOPEN, source))?;
        let fresh = Connection::new(fresh, self.conn.files.clone());
        let old = std::mem::replace(&mut self.conn, fresh);
        let old_steps = std::mem::replace(&mut self.steps, steps);
        let done = async {
            self.set_up().await?;
            self.skip_own_checks().await?;
            self.look_for_changes().await
        };
        // SQLite opens the WAL at the first read. Whatever keeps it from that keeps the file from being opened again.
        let reopen =
            |error: StoreError| if error.is_replaced() { error } else { StoreError { doing: REOPEN, ..error } };
        let done = done.await.map(drop).map_err(reopen);
        // Close the unused connection only now: the last connection to close the file removes the WAL, and a missing WAL means to
        // us that somebody has touched the files.
        let unused = if done.is_ok() {
            old
        } else {
            self.steps = old_steps;
            std::mem::replace(&mut self.conn, old)
        };
        let _ = unused.close().await;
        done
    }

    /// Remembers which files SQLite has open.
    fn watch_files(&mut self) -> Result<(), OpenError> {
        let mut files = WatchedFiles::of(&self.options.path);
        if !files.has_wal() {
            let message = "it was deleted while the database was being opened; stop the program that touches the files, and \
                           start the daemon again";
            let source = sqlx::Error::Io(io::Error::new(io::ErrorKind::NotFound, message));
            return Err(StoreError { path: beside(&self.options.path, "-wal"), doing: "open", source }.into());
        }
        let (path, identity) = self.lock.identity()?;
        files.add(path, identity);
        self.conn.files = files;
        Ok(())
    }

    /// What the file was before it was opened.
    #[must_use]
    pub fn opened(&self) -> Opened {
        self.opened
    }

    async fn check_ours(&mut self) -> Result<(), OpenError> {
        let (id, objects) = identity(&mut self.conn).await.map_err(|source| self.error("open", source))?;
        if objects == 0 {
            self.opened = Opened::Created;
            return Ok(());
        }
        // `refuse_older` may have been unable to read the file. Nothing has been written yet.
        if is_older(&mut self.conn).await.map_err(|source| self.error("open", source))? {
            return Err(OpenError::Older(self.options.path.clone()));
        }
        require_ours(&mut self.conn, id, &self.options.path).await?;
        if id != APPLICATION_ID {
            self.opened = Opened::Adopted;
        }
        Ok(())
    }

    /// Gives an adopted file our application ID.
    async fn mark(&mut self) -> Result<(), StoreError> {
        if self.opened == Opened::Adopted {
            let mut write = self.begin_within(SOME_ROWS).await?;
            let pragma = format!("PRAGMA application_id = {APPLICATION_ID}");
            write.execute("mark the file", sqlx::query(AssertSqlSafe(pragma))).await?;
            write.finish().await?;
        }
        Ok(())
    }

    async fn set_up(&mut self) -> Result<(), StoreError> {
        let synchronous = match self.options.synchronous {
            Synchronous::Full => "FULL",
            Synchronous::Normal => "NORMAL",
        };
        let pragmas =
            format!("PRAGMA synchronous = {synchronous}; PRAGMA cache_size = -{CACHE_KIB}; PRAGMA temp_store = MEMORY");
        // This must come before the first write, which the switch to the WAL is.
        enable_incremental_vacuum(&mut self.conn).await.map_err(|source| self.error("set up", source))?;
        switch_to_wal(&mut self.conn).await.map_err(|source| self.error("switch to WAL", source))?;
        sqlx::raw_sql(AssertSqlSafe(pragmas))
            .execute(&mut *self.conn)
            .await
            .map_err(|source| self.error("set up", source))?;
        // Refuse a read-only file here, and not at the first claim.
        self.begin_within(SOME_ROWS).await?.rollback().await
    }

    /// Switches the CHECKs off for this connection: they are for other programs' writes. On our own they would cost a fifth of a
    /// deletion, and they would keep us from settling an invalid row (one that was inserted with the CHECKs switched off).
    async fn skip_own_checks(&mut self) -> Result<(), StoreError> {
        let pragma = sqlx::raw_sql("PRAGMA ignore_check_constraints = ON");
        pragma.execute(&mut *self.conn).await.map(drop).map_err(|source| self.error("set up", source))
    }

    async fn migrate(&mut self) -> Result<(), OpenError> {
        let budget = self.steps.allow(whole_file(&self.options.path));
        let migrated = migrator().run(&mut *self.conn).await;
        drop(budget);
        match migrated {
            Ok(()) => Ok(()),
            Err(MigrateError::VersionMissing(version)) => {
                Err(OpenError::Newer { path: self.options.path.clone(), version })
            }
            Err(source) => Err(blame_migration(&mut self.conn, &self.steps, &self.options.path, source).await),
        }
    }
}

/// Fails if the directory that the database is or will be in is missing. The lock file would be the first to fail, and would be
/// named in place of the directory.
///
/// # Errors
/// In that case.
fn require_directory(database: &Path) -> Result<(), OpenError> {
    let path = absolute(database);
    match path.parent() {
        Some(directory) if fs::metadata(directory).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) => {
            let directory = directory.to_owned();
            Err(OpenError::NoDirectory { path, directory, named: String::new() })
        }
        _ => Ok(()),
    }
}
