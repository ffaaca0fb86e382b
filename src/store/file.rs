//! The file: whose it is, who works on it, and how it is opened.

use std::{
    borrow::Cow,
    cmp::Ordering,
    fmt,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{self, Path, PathBuf},
    thread,
    time::Duration,
};

use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection as _, SqlSafeStr, SqliteConnection,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
    sqlite::SqliteConnectOptions,
};

use super::{Store, upkeep::allow_giving_back};

/// `PRAGMA application_id` of our files, as the first migration sets it.
const APPLICATION_ID: i64 = 0x5343_5750;

/// The writing connection's page cache, in KiB. Rows of many agents lie far apart; more memory makes them settle faster.
const CACHE_KIB: u32 = 16 * 1024;

/// What the lock file's name has more than the database's.
pub(super) const LOCK_SUFFIX: &str = ".lock";

/// How often a lock is tried again that somebody only looks at, and how long after each time.
const PATIENCE_WITH_LOOKERS: u32 = 100;
const LOOKERS_PAUSE: Duration = Duration::from_millis(1);

/// The highest ID of a request so far, pruned ones included, and whatever became of SQLite's own count of them.
const LAST_REQUEST: &str = "
SELECT max((SELECT coalesce(max(CAST(seq AS INTEGER)), 0) FROM sqlite_sequence WHERE name = 'requests'),
           (SELECT coalesce(max(id), 0) FROM requests))";

/// ?1 the checksum of our first migration. Whether there is a list of migrations, and ours is not the first of it.
const IS_OLDER: &str = "
SELECT EXISTS (SELECT 1 FROM _sqlx_migrations)
   AND NOT EXISTS (SELECT 1 FROM _sqlx_migrations WHERE version = 1 AND checksum = ?1)";

/// Every migration, oldest first.
fn migrator() -> Migrator {
    let migration = |version, description: &'static str, sql: &'static str| {
        Migration::new(version, Cow::Borrowed(description), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(vec![migration(1, "queue", include_str!("../../migrations/sqlite/0001_queue.sql"))])
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
    /// Made by a development version from before the first release.
    #[error(
        "database {}: made by an older development version, whose files this version does not use; nothing in it was changed. To \
         take its pending rows over, give database.path another file, run `sweeper init`, and execute on the new file: {}",
        absolute(.0).display(),
        take_over(.0)
    )]
    Older(PathBuf),
    /// There is nothing in it yet.
    #[error("database {0}: there are no tables in it yet; `sweeper init` or the next start of the daemon makes them")]
    Empty(PathBuf),
    /// There is none.
    #[error("database {0}: there is no such file; `sweeper init` makes it, and database.path says where it is")]
    Missing(PathBuf),
    /// The lock file beside it cannot be used.
    #[error("lock file {path}: {source}; {}", lock_remedy(source))]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A migration failed.
    #[error("database {path}: migrate: {source}{}", migration_code(source).map_or("", remedy))]
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

impl OpenError {
    /// Whether waiting can help.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Sql(error) => error.is_temporary(),
            Self::Migrate { source, .. } => migration_code(source).is_some_and(passes),
            // That a full disk has no room for the number in the lock file is the first that is heard of it.
            Self::Lock { source, .. } => is_full(source),
            Self::Taken { .. }
            | Self::NotOurs(_)
            | Self::Newer { .. }
            | Self::Older(_)
            | Self::Empty(_)
            | Self::Missing(_) => false,
        }
    }
}

fn absolute(path: &Path) -> PathBuf {
    path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// What takes the pending rows of an older file over into the one in which it is run.
fn take_over(old: &Path) -> String {
    let old = absolute(old).display().to_string().replace('\'', "''");
    format!(
        "ATTACH '{old}' AS old; INSERT INTO deletions (agent_id, entry_id, priority, due_at, created_at) \
         SELECT agent_id, entry_id, priority, due_at, created_at FROM old.deletions WHERE state = 'pending' \
         ORDER BY id; DETACH old;"
    )
}

#[expect(clippy::wildcard_enum_match_arm, reason = "somebody else's enum: nothing else in it is SQLite's")]
fn migration_code(error: &MigrateError) -> Option<i32> {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => extended_code(error),
        _ => None,
    }
}

fn lock_remedy(error: &io::Error) -> &'static str {
    if is_full(error) { "make room on its disk" } else { "the directory of the database must exist and be writable" }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn pid_text(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

/// A statement that failed.
#[derive(Debug)]
pub struct StoreError {
    pub(super) path: PathBuf,
    pub(super) doing: &'static str,
    pub(super) source: sqlx::Error,
}

impl StoreError {
    /// SQLite's extended result code, if it is SQLite that failed.
    fn code(&self) -> Option<i32> {
        extended_code(&self.source)
    }

    /// Whether a file cannot be opened or made.
    fn is_access(&self) -> bool {
        self.code().is_some_and(|code| matches!(code & 0xff, 8 | 14))
    }

    /// Whether waiting can help: the file is busy or locked, or the disk is full or failing.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        self.code().is_some_and(passes)
    }
}

fn extended_code(error: &sqlx::Error) -> Option<i32> {
    error.as_database_error()?.code()?.parse().ok()
}

/// Whether what SQLite answered with this extended code may go well later, with nobody doing anything to the file.
fn passes(code: i32) -> bool {
    match code {
        // SQLITE_IOERR_SHORT_READ: the log of commits was cut short underneath. _CORRUPTFS: what SQLite makes of a read
        // that the disk fails (EIO). _DATA: a checksum is wrong. Waiting mends none of them.
        522 | 8458 | 8202 => false,
        _ => match code & 0xff {
            // SQLITE_BUSY, SQLITE_LOCKED: with all their kinds, since each try begins a new transaction (which is what
            // mends _BUSY_SNAPSHOT). SQLITE_NOMEM.
            5..=7 => true,
            // SQLITE_IOERR: a full disk is also reported so (_SHMSIZE, _WRITE, _FSYNC), and one that is away for a while.
            // SQLITE_FULL.
            10 | 13 => true,
            // SQLITE_PROTOCOL: the race for the locks of the log was lost too often. SQLITE_SCHEMA: somebody changed the
            // tables faster than the statement could be prepared again.
            15 | 17 => true,
            // SQLITE_READONLY: a person must act, also when the system made its disk read-only (_DBMOVED, too: the file
            // is another one). SQLITE_CANTOPEN happens only while opening; that the process has no file descriptors
            // left looks the same as that there is no such directory, and a new process mends the former.
            _ => false,
        },
    }
}

/// What a person can do about it: the end of a message.
fn remedy(code: i32) -> &'static str {
    match code {
        1032 => "; it was moved or deleted while in use: stop the daemon before touching its files",
        522 | 8202 => "; restore it from a backup, or rescue it with sqlite3's .recover",
        8458 => "; its disk or file system fails: look into the system's log and check them",
        _ => match code & 0xff {
            // As ours are in order, it is the tables that are not.
            1 | 17 => "; somebody else changed its tables: restore it from a backup",
            3 | 8 => "; make the file and its directory writable for this user",
            5 | 6 => "; another process is writing, and has been for longer than database.busy_timeout",
            7 => "; give the process more memory",
            10 => "; its disk is full or fails: the system's log says which",
            11 => "; restore it from a backup, or rescue it with sqlite3's .recover",
            13 => "; make room on its disk",
            14 => "; its directory must exist and be writable, and file descriptors must be left",
            15 => "; too many processes want its locks, or it is on a network file system: put it on a local disk",
            19 => "; somebody else changed its rows while in use: start the daemon again",
            26 => "; give database.path another file, or restore this one from a backup",
            _ => "",
        },
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "database {}: {}: ", self.path.display(), self.doing)?;
        match (&self.source, self.source.as_database_error()) {
            (_, Some(said)) => f.write_str(said.message()),
            (sqlx::Error::Io(said), None) => said.fmt(f),
            (other, None) => other.fmt(f),
        }?;
        f.write_str(self.code().map_or("", remedy))
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

impl Store {
    /// Takes the lock, opens the file, creating it if need be, and brings its tables up to date.
    ///
    /// # Errors
    /// If another daemon has it, if it is no database or somebody else's, of another version, or not writable.
    pub async fn open(options: Options) -> Result<Self, OpenError> {
        refuse_older(&options).await?;
        let (lock, lock_path) = lock(&options.path)?;
        let locked = lock.metadata().map_err(|source| OpenError::Lock { path: lock_path.clone(), source })?;
        let mut store = Self {
            conn: connect(&options, false).await?,
            options,
            _lock: lock,
            files: Vec::new(),
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
            .fetch_one(&mut store.conn)
            .await
            .map_err(|source| store.error("read the last request", source))?;
        store.next_request = last.unwrap_or(0).saturating_add(1);
        store.files = identities(&store.options.path);
        store.files.push((lock_path, (locked.dev(), locked.ino())));
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

    /// The CHECKs are for what others write. On ours they would be run at each change of a row, which is a fifth of what a
    /// deletion costs; and a row that was forced in past them could not be settled.
    async fn trust_ourselves(&mut self) -> Result<(), StoreError> {
        let pragma = sqlx::raw_sql("PRAGMA ignore_check_constraints = ON");
        pragma.execute(&mut self.conn).await.map(drop).map_err(|source| self.error("set up", source))
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
}

/// Whether `path` is a database of ours that can be read, whoever works on it.
///
/// # Errors
/// If it is not, or SQLite fails.
pub async fn verify(options: &Options) -> Result<(), OpenError> {
    refuse_older(options).await?;
    let mut conn = connect(options, true).await?;
    match identity(&mut conn).await {
        Ok((APPLICATION_ID, _)) => Ok(()),
        Ok(_) => Err(OpenError::NotOurs(options.path.clone())),
        Err(source) => Err(StoreError { path: options.path.clone(), doing: "open", source }.into()),
    }
}

/// A connection to a file of ours whose tables are those that we know, beside whoever works on it.
pub(super) async fn connect_known(options: &Options, read_only: bool) -> Result<SqliteConnection, OpenError> {
    let path = || options.path.clone();
    if !options.path.exists() {
        return Err(OpenError::Missing(path()));
    }
    refuse_older(options).await?;
    let error = |source| StoreError { path: path(), doing: "open", source };
    let (mut conn, (id, objects)) = match look_into(options, read_only, false).await {
        // Without its log, SQLite makes one even to read, which who may only read cannot.
        Err(refused) if read_only && refused.is_access() && lies_still(&options.path) => {
            look_into(options, true, true).await?
        }
        looked => looked?,
    };
    if objects == 0 {
        return Err(OpenError::Empty(path()));
    } else if id != APPLICATION_ID {
        return Err(OpenError::NotOurs(path()));
    } else if is_older(&mut conn).await.map_err(error)? {
        return Err(OpenError::Older(path()));
    }
    let version: i64 = sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM _sqlx_migrations")
        .fetch_one(&mut conn)
        .await
        .map_err(error)?;
    let known = migrator().iter().map(|migration| migration.version).max().unwrap_or(0);
    match version.cmp(&known) {
        Ordering::Less => Err(OpenError::Empty(path())),
        Ordering::Equal => Ok(conn),
        Ordering::Greater => Err(OpenError::Newer { path: path(), version }),
    }
}

/// Refuses a file of a development version before anything opens it that could change it or leave files beside it: SQLite
/// makes a log to read a file, and our set-up writes to it.
async fn refuse_older(options: &Options) -> Result<(), OpenError> {
    if !fs::metadata(&options.path).is_ok_and(|found| found.is_file() && found.len() > 0) {
        return Ok(());
    }
    // Without a log or a journal, all that was committed is in the file, and SQLite need not make one. With one, SQLite must
    // read that, too; a connection that only reads leaves both as they are.
    let immutable =
        ["-wal", "-journal"].iter().all(|suffix| matches!(fs::exists(beside(&options.path, suffix)), Ok(false)));
    let look = async {
        let mut conn = connect_as(options, true, immutable).await?;
        let found = is_older(&mut conn).await;
        // Dropping it would close it some time later.
        let closed = conn.close().await;
        let error = |source| StoreError { path: options.path.clone(), doing: "open", source };
        closed.map_err(error)?;
        found.map_err(error)
    };
    match look.await {
        Ok(true) => Err(OpenError::Older(options.path.clone())),
        Ok(false) => Ok(()),
        Err(error) if error.is_temporary() => Err(error.into()),
        // The file cannot be read so, or somebody is just making it. Whoever opens it next says what is wrong with it.
        Err(_) => Ok(()),
    }
}

/// Whether it is a queue that a development version made, from before the first migration was what it is.
async fn is_older(conn: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    let listed = "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = '_sqlx_migrations')";
    if !sqlx::query_scalar::<_, bool>(listed).fetch_one(&mut *conn).await?
        || sqlx::query_scalar::<_, i64>("PRAGMA application_id").fetch_one(&mut *conn).await? != APPLICATION_ID
    {
        return Ok(false);
    }
    let migrator = migrator();
    let first = migrator.iter().next().map(|migration| migration.checksum.to_vec());
    sqlx::query_scalar(IS_OLDER).bind(first).fetch_one(conn).await
}

/// A connection, and what [`identity`] tells of the file.
async fn look_into(
    options: &Options,
    read_only: bool,
    immutable: bool,
) -> Result<(SqliteConnection, (i64, i64)), StoreError> {
    let mut conn = connect_as(options, read_only, immutable).await?;
    let error = |source| StoreError { path: options.path.clone(), doing: "open", source };
    let identity = identity(&mut conn).await.map_err(error)?;
    Ok((conn, identity))
}

/// Whether we may not write this file, and nobody else does: then all that was committed is in it.
fn lies_still(database: &Path) -> bool {
    let denied =
        |error: io::Error| matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem);
    OpenOptions::new().write(true).open(database).is_err_and(denied)
        && matches!(fs::exists(beside(database, "-wal")), Ok(false))
        && !matches!(holder(database), Ok(Some(_)))
}

/// A file of SQLite's own beside the database: beside the file itself, not beside a link to it.
fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut path = fs::canonicalize(database).unwrap_or_else(|_| database.to_owned()).into_os_string();
    path.push(suffix);
    PathBuf::from(path)
}

/// The application's ID, and how many tables, indexes and triggers there are.
async fn identity(conn: &mut SqliteConnection) -> Result<(i64, i64), sqlx::Error> {
    // The list of migrations is made before the first of them sets the ID: alone, it is what a crash between left.
    let objects = "SELECT count(*) FROM sqlite_master WHERE tbl_name <> '_sqlx_migrations'";
    // The objects first: the ID comes with them, and a file that somebody makes just now must not look like another's.
    let objects = sqlx::query_scalar(objects).fetch_one(&mut *conn).await?;
    Ok((sqlx::query_scalar("PRAGMA application_id").fetch_one(conn).await?, objects))
}

/// What tells a file from another one in its place: device and inode.
pub(super) type FileIdentity = (u64, u64);

/// The database and its log of commits, with what tells each from another file.
fn identities(database: &Path) -> Vec<(PathBuf, FileIdentity)> {
    [database.to_owned(), beside(database, "-wal")]
        .into_iter()
        .filter_map(|path| {
            let found = fs::metadata(&path).ok()?;
            Some((path, (found.dev(), found.ino())))
        })
        .collect()
}

/// The first of `files` that is not there any more, or is another one. SQLite goes on with the old one and never
/// notices, while everybody else uses what is there now, or nothing.
pub(super) fn find_replaced(files: &[(PathBuf, FileIdentity)]) -> Option<&Path> {
    let replaced = files.iter().find(|(path, identity)| match fs::metadata(path) {
        Ok(found) => (found.dev(), found.ino()) != *identity,
        // Anything else says nothing about the file.
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    });
    replaced.map(|(path, _)| path.as_path())
}

pub(super) async fn connect(options: &Options, read_only: bool) -> Result<SqliteConnection, StoreError> {
    connect_as(options, read_only, false).await
}

/// `immutable`: SQLite takes it that nobody writes while it reads, and needs no files beside it.
async fn connect_as(options: &Options, read_only: bool, immutable: bool) -> Result<SqliteConnection, StoreError> {
    if options.path.is_dir() {
        let said = "it is a directory; give database.path the file in it";
        let source = sqlx::Error::Io(io::Error::new(io::ErrorKind::IsADirectory, said));
        return Err(StoreError { path: options.path.clone(), doing: "open", source });
    }
    SqliteConnectOptions::new()
        .filename(&options.path)
        .create_if_missing(!read_only)
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

/// The lock file beside a database, wherever the latter's path leads: two paths to one file (a link, `./x`) must meet in
/// one lock.
fn lock_path(database: &Path) -> PathBuf {
    let real = match (fs::canonicalize(database), database.parent(), database.file_name()) {
        (Ok(real), _, _) => real,
        (Err(_), Some(parent), Some(name)) => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            fs::canonicalize(parent).unwrap_or_else(|_| parent.to_owned()).join(name)
        }
        (Err(_), _, _) => database.to_owned(),
    };
    let mut path = real.into_os_string();
    path.push(LOCK_SUFFIX);
    PathBuf::from(path)
}

/// The lock file beside the database, locked. It is never removed: removing it would let two daemons lock two files.
/// What is in it never matters to the lock, which the operating system takes back from a process that ends.
fn lock(database: &Path) -> Result<(File, PathBuf), OpenError> {
    // A link to what is not there yet could not be followed below. An empty file is a new database, and nobody has it open
    // whose locks would go when it is closed here. If it cannot be made, SQLite says why.
    if !database.exists() {
        let _ = OpenOptions::new().create(true).append(true).open(database);
    }
    let path = lock_path(database);
    let error = |source| OpenError::Lock { path: path.clone(), source };
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let (mut file, writable) = match opened {
        Ok(file) => (file, true),
        // Somebody made it read-only: it can be locked all the same.
        Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
            (File::open(&path).map_err(|_| error(source))?, false)
        }
        Err(source) => return Err(error(source)),
    };
    match try_lock(&file) {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            // The number is a courtesy; that it is locked is the point. What could not be written is not ours.
            let pid = read_pid(&mut file).filter(|_| writable);
            return Err(OpenError::Taken { path: database.to_owned(), pid });
        }
        Err(TryLockError::Error(source)) => return Err(error(source)),
    }
    if writable {
        file.set_len(0).map_err(error)?;
        file.seek(SeekFrom::Start(0)).map_err(error)?;
        writeln!(file, "{}", std::process::id()).map_err(error)?;
    }
    Ok((file, path))
}

/// Takes the lock. Those who only ask who has it ([`holder`]) share it for a moment, and with each other: a daemon shares
/// it with nobody. So if it can be shared just now, no daemon has it, and it is tried again.
fn try_lock(file: &File) -> Result<(), TryLockError> {
    for _ in 0..PATIENCE_WITH_LOOKERS {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {}
            done => return done,
        }
        file.try_lock_shared()?;
        file.unlock().map_err(TryLockError::Error)?;
        thread::sleep(LOOKERS_PAUSE);
    }
    file.try_lock()
}

/// Whether a process has the lock of this database, and its number, if that can be read. Never in a daemon's way,
/// which waits for whoever only looks.
///
/// # Errors
/// If there is a lock file that cannot be opened or locked: then nobody knows.
pub fn holder(database: &Path) -> io::Result<Option<Option<u32>>> {
    let mut file = match File::open(lock_path(database)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(Some(read_pid(&mut file))),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut pid = String::new();
    file.read_to_string(&mut pid).ok()?;
    pid.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_looks_at_the_lock_sees_its_holder_and_keeps_nobody_from_taking_it() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("queue.db");
        assert_eq!(holder(&database).unwrap(), None, "no lock file");
        let (held, path) = lock(&database).unwrap();
        assert_eq!(holder(&database).unwrap(), Some(Some(std::process::id())));
        assert!(matches!(lock(&database), Err(OpenError::Taken { .. })));
        drop(held);
        // A look that takes its time: until it is over, the lock is waited for.
        let look = File::open(&path).unwrap();
        look.try_lock_shared().unwrap();
        assert!(matches!(File::open(&path).unwrap().try_lock(), Err(TryLockError::WouldBlock)));
        let (waits, gone) = std::sync::mpsc::channel();
        let waiting = thread::spawn(move || {
            waits.send(()).unwrap();
            lock(&database).map(|_| ())
        });
        gone.recv().unwrap();
        drop(look);
        waiting.join().unwrap().unwrap();
        // And many of them, all the time, in the way of many starts.
        let database = dir.path().join("queue.db");
        let stop = std::sync::atomic::AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        holder(&database).unwrap();
                    }
                });
            }
            let taken = (0..200).filter(|_| lock(&database).is_err()).count();
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(taken, 0);
        });
    }

    #[test]
    fn what_waiting_mends_is_waited_for_and_the_rest_says_what_to_do() {
        // Busy, recovery, snapshot, busy for long, locked, no memory, I/O, no room for the shared memory, full, locking
        // protocol, schema.
        for code in [5, 261, 517, 773, 6, 7, 10, 778, 4874, 13, 15, 17] {
            assert!(passes(code), "{code} is temporary");
        }
        // Any error, read-only, moved, corrupt, corrupt index, cannot open, is a directory, no database, and those kinds
        // of I/O errors that mean damage.
        for code in [1, 3, 8, 1032, 11, 779, 14, 526, 19, 26, 522, 8202, 8458] {
            assert!(!passes(code), "{code} is permanent");
        }
        for code in [1, 3, 5, 6, 7, 8, 10, 11, 13, 14, 15, 17, 19, 26, 522, 1032, 8202, 8458] {
            assert!(!remedy(code).is_empty(), "{code} has no remedy");
        }
    }
}
