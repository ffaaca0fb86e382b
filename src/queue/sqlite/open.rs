//! The file: how it is opened, and made if it is not there.

use std::{io, path::PathBuf, time::Duration};

use sqlx::{AssertSqlSafe, ConnectOptions as _, SqliteConnection, migrate::MigrateError, sqlite::SqliteConnectOptions};

use super::{
    Store,
    connection::Connection,
    errors::{OPEN_AGAIN, OpenError, StoreError},
    files::{Files, beside},
    lock::{Lock, Purpose},
    log, place,
    schema::{APPLICATION_ID, be_ours, identity, is_older, migrator, refuse_older},
    steps::{SOME_ROWS, Steps, whole_file},
    trust::{Schema, blame_migration},
    upkeep::{MAX_LOG, allow_giving_back},
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
    /// It was ours by its tables, and by nothing else: a dump was loaded into it. Now it is marked as ours.
    Adopted,
}

impl Store {
    /// Takes the lock, opens the file, creating it if need be, and brings its tables up to date.
    ///
    /// # Errors
    /// If another daemon has it, if it is no database or somebody else's, of another version, or not writable.
    pub async fn open(options: Options) -> Result<Self, OpenError> {
        let mut store = Self::open_for(Purpose::Work, options).await?;
        store.schema.news().into_iter().for_each(log::schema_modified);
        Ok(store)
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
        let mut conn = connect(&options, false).await?;
        lock.check_database(&options.path)?;
        let steps = Steps::of(&mut conn).await;
        let steps = steps.map_err(|source| StoreError::new(&options.path, "open", source))?;
        let mut store = Self {
            conn: Connection::new(conn, Files::default()),
            options,
            lock,
            opened: Opened::Existing,
            next_request: 0,
            data_version: 0,
            prune_after: 0,
            giving_back: false,
            sweep_from: i64::MIN,
            writing: false,
            steps,
            is_migrated: false,
            schema: Schema::default(),
        };
        store.check_ours().await?;
        store.set_up().await?;
        store.migrate().await?;
        store.is_migrated = true;
        store.mark().await?;
        store.trust_ourselves().await?;
        let last: Option<i64> = sqlx::query_scalar(LAST_REQUEST)
            .fetch_one(&mut *store.conn)
            .await
            .map_err(|source| store.error("read the last request", source))?;
        store.next_request = last.unwrap_or(0).saturating_add(1);
        store.watch_files()?;
        // A first reading of data_version, so that only later writes of others count as news; and of what others have done to
        // the tables.
        store.look_for_changes().await?;
        Ok(store)
    }

    /// Goes on with a fresh connection, and keeps the lock: what the old one has in memory may be misread. What it has left
    /// open is undone.
    ///
    /// # Errors
    /// If SQLite fails; then the old one stays.
    pub(super) async fn connect_again(&mut self) -> Result<(), StoreError> {
        self.abandon().await;
        self.check_in_place()?;
        let fresh = connect(&self.options, false).await;
        let mut fresh = fresh.map_err(|error| StoreError { doing: OPEN_AGAIN, ..error })?;
        let steps = Steps::of(&mut fresh).await.map_err(|source| self.error(OPEN_AGAIN, source))?;
        let fresh = Connection::new(fresh, self.conn.files.clone());
        let old = std::mem::replace(&mut self.conn, fresh);
        let old_steps = std::mem::replace(&mut self.steps, steps);
        let done = async {
            self.set_up().await?;
            self.trust_ourselves().await?;
            self.look_for_changes().await
        };
        let done = done.await.map(drop);
        // The other one only now: the last to close the file would remove its log, which is taken for a sign of trouble.
        let unused = if done.is_ok() {
            old
        } else {
            self.steps = old_steps;
            std::mem::replace(&mut self.conn, old)
        };
        let _ = unused.close().await;
        done
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
            return Ok(());
        }
        if is_older(&mut self.conn).await.map_err(|source| self.error("open", source))? {
            // What could not be looked into from outside shows here, which is still before anything is written.
            return Err(OpenError::Older(self.options.path.clone()));
        }
        be_ours(&mut self.conn, id, &self.options.path).await?;
        if id != APPLICATION_ID {
            self.opened = Opened::Adopted;
        }
        Ok(())
    }

    /// Gives a file that was adopted what it lacks.
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
        // Before anything is written, which the next statement does.
        allow_giving_back(&mut self.conn).await.map_err(|source| self.error("set up", source))?;
        switch_to_wal(&mut self.conn).await.map_err(|source| self.error("switch to WAL", source))?;
        sqlx::raw_sql(AssertSqlSafe(pragmas))
            .execute(&mut *self.conn)
            .await
            .map_err(|source| self.error("set up", source))?;
        // A file that can be read and not written is refused here and not at the first claim.
        self.begin_within(SOME_ROWS).await?.rollback().await
    }

    /// The CHECKs are for what others write. On ours they would be run at each change of a row, which is a fifth of what a
    /// deletion costs; and a row that was forced in past them could not be settled.
    async fn trust_ourselves(&mut self) -> Result<(), StoreError> {
        let pragma = sqlx::raw_sql("PRAGMA ignore_check_constraints = ON");
        pragma.execute(&mut *self.conn).await.map(drop).map_err(|source| self.error("set up", source))
    }

    async fn migrate(&mut self) -> Result<(), OpenError> {
        let allowance = self.steps.allow(whole_file(&self.options.path));
        let migrated = migrator().run(&mut *self.conn).await;
        drop(allowance);
        match migrated {
            Ok(()) => Ok(()),
            Err(MigrateError::VersionMissing(version)) => {
                Err(OpenError::Newer { path: self.options.path.clone(), version })
            }
            Err(source) => Err(blame_migration(&mut self.conn, &self.steps, &self.options.path, source).await),
        }
    }
}

/// Others must be able to write while we read, and the other way round. SQLite answers which mode it is in now, and calls it
/// no error if that is another one.
pub(super) async fn switch_to_wal(conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode = WAL").fetch_one(conn).await?;
    if mode.eq_ignore_ascii_case("wal") {
        return Ok(());
    }
    let said = format!(
        "SQLite keeps the journal mode {mode}: the file system has no shared memory, or database.path names no file; give \
         database.path a file on a local disk"
    );
    Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::Unsupported, said)))
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
        return Err(StoreError::new(&options.path, "open", source));
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
        // What others put into the tables gets no functions and no virtual tables that do more than compute; and a damaged page
        // is found before it is used.
        .pragma("trusted_schema", "OFF")
        .pragma("cell_size_check", "ON")
        // After somebody has read for long, the log of commits need not stay as long as it was then.
        .pragma("journal_size_limit", MAX_LOG.to_string())
        .disable_statement_logging()
        .connect()
        .await
        .map_err(|source| StoreError::new(&options.path, "open", source))
}
