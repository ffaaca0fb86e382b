//! The file: how it is opened, and made if it is not there.

use std::{io, path::PathBuf, time::Duration};

use sqlx::{AssertSqlSafe, ConnectOptions as _, SqliteConnection, migrate::MigrateError, sqlite::SqliteConnectOptions};

use super::{
    Store,
    connection::Connection,
    errors::{OpenError, StoreError},
    files::{Files, beside},
    lock::{Lock, Purpose},
    place,
    schema::{APPLICATION_ID, identity, is_older, migrator, refuse_older},
    upkeep::allow_giving_back,
};

/// The writing connection's page cache, in KiB. Rows of many agents lie far apart; more memory makes them settle faster.
const CACHE_KIB: u32 = 16 * 1024;

/// The highest ID of a request so far, pruned ones included, and whatever became of SQLite's own count of them.
const LAST_REQUEST: &str = "
SELECT max((SELECT coalesce(max(CAST(seq AS INTEGER)), 0) FROM sqlite_sequence WHERE name = 'requests'),
           (SELECT coalesce(max(id), 0) FROM requests))";

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

/// What a migrated file was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// It did not exist, or was empty.
    Created,
    /// It was ours, and is up to date.
    Existing,
}

impl Store {
    /// Takes the lock, opens the file, creating it if need be, and brings its tables up to date.
    ///
    /// # Errors
    /// If another daemon has it, if it is no database or somebody else's, of another version, or not writable.
    pub async fn open(options: Options) -> Result<Self, OpenError> {
        Self::open_for(Purpose::Work, options).await
    }

    /// The same, to close it again at once: a daemon that starts meanwhile waits for that, and is not refused.
    ///
    /// # Errors
    /// If a daemon has it, and as [`Store::open`].
    pub async fn make(options: Options) -> Result<Self, OpenError> {
        Self::open_for(Purpose::Make, options).await
    }

    async fn open_for(purpose: Purpose, options: Options) -> Result<Self, OpenError> {
        place::refuse(&options.path)?;
        refuse_older(&options).await?;
        let lock = Lock::take(&options, purpose).await?;
        let conn = connect(&options, false).await?;
        lock.check_database(&options.path)?;
        let mut store = Self {
            conn: Connection::new(conn, Files::default()),
            options,
            lock,
            opened: Opened::Existing,
            next_request: 0,
            data_version: 0,
            prune_after: 0,
            writing: false,
        };
        store.check_ours().await?;
        store.set_up().await?;
        store.migrate().await?;
        store.trust_ourselves().await?;
        let last: Option<i64> = sqlx::query_scalar(LAST_REQUEST)
            .fetch_one(&mut *store.conn)
            .await
            .map_err(|source| store.error("read the last request", source))?;
        store.next_request = last.unwrap_or(0).saturating_add(1);
        store.watch_files()?;
        // A first reading of data_version, so that only later writes of others count as news.
        store.changed().await?;
        Ok(store)
    }

    /// Remembers the files as they are now that SQLite has them open.
    fn watch_files(&mut self) -> Result<(), OpenError> {
        let mut files = Files::of(&self.options.path);
        if !files.has_log() {
            let said = "it was deleted while it was opened; stop whoever touches the files, and start it again";
            let source = sqlx::Error::Io(io::Error::new(io::ErrorKind::NotFound, said));
            return Err(StoreError { path: beside(&self.options.path, "-wal"), doing: "open", source }.into());
        }
        let (path, identity) = self.lock.identity()?;
        files.watch(path, identity);
        self.conn.files = files;
        Ok(())
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
        } else if id != APPLICATION_ID {
            Err(OpenError::NotOurs(self.options.path.clone()))
        } else if is_older(&mut self.conn).await.map_err(|source| self.error("open", source))? {
            // What could not be looked into from outside shows here, which is still before anything is written.
            Err(OpenError::Older(self.options.path.clone()))
        } else {
            Ok(())
        }
    }

    async fn set_up(&mut self) -> Result<(), StoreError> {
        let synchronous = match self.options.synchronous {
            Synchronous::Full => "FULL",
            Synchronous::Normal => "NORMAL",
        };
        let pragmas =
            format!("PRAGMA synchronous = {synchronous}; PRAGMA cache_size = -{CACHE_KIB}; PRAGMA temp_store = MEMORY");
        // Before anything is written, which the next statement does.
        allow_giving_back(&mut self.conn).await.map_err(|source| self.error("set up", source))?;
        sqlx::raw_sql("PRAGMA journal_mode = WAL")
            .execute(&mut *self.conn)
            .await
            .map_err(|source| self.error("switch to WAL", source))?;
        sqlx::raw_sql(AssertSqlSafe(pragmas))
            .execute(&mut *self.conn)
            .await
            .map_err(|source| self.error("set up", source))?;
        // A file that can be read and not written is refused here and not at the first claim.
        self.write().await?.rollback().await
    }

    /// The CHECKs are for what others write. On ours they would be run at each change of a row, which is a fifth of what a
    /// deletion costs; and a row that was forced in past them could not be settled.
    async fn trust_ourselves(&mut self) -> Result<(), StoreError> {
        let pragma = sqlx::raw_sql("PRAGMA ignore_check_constraints = ON");
        pragma.execute(&mut *self.conn).await.map(drop).map_err(|source| self.error("set up", source))
    }

    async fn migrate(&mut self) -> Result<(), OpenError> {
        match migrator().run(&mut *self.conn).await {
            Ok(()) => Ok(()),
            Err(MigrateError::VersionMissing(version)) => {
                Err(OpenError::Newer { path: self.options.path.clone(), version })
            }
            Err(source) => Err(OpenError::Migrate { path: self.options.path.clone(), source: Box::new(source) }),
        }
    }
}

pub(super) async fn connect(options: &Options, read_only: bool) -> Result<SqliteConnection, StoreError> {
    connect_as(options, read_only, false).await
}

/// `immutable`: SQLite takes it that nobody writes while it reads, and needs no files beside it.
pub(super) async fn connect_as(
    options: &Options,
    read_only: bool,
    immutable: bool,
) -> Result<SqliteConnection, StoreError> {
    if options.path.is_dir() {
        let said = "it is a directory; give database.path the file in it";
        let source = sqlx::Error::Io(io::Error::new(io::ErrorKind::IsADirectory, said));
        return Err(StoreError { path: options.path.clone(), doing: "open", source });
    }
    SqliteConnectOptions::new()
        .filename(&options.path)
        // We make it ourselves, with a mode that is right.
        .create_if_missing(false)
        .read_only(read_only)
        .immutable(immutable)
        .busy_timeout(options.busy_timeout)
        // Our tables have none. A table of somebody else's that refers to ours must not keep us from pruning.
        .foreign_keys(false)
        .disable_statement_logging()
        .connect()
        .await
        .map_err(|source| StoreError { path: options.path.clone(), doing: "open", source })
}
