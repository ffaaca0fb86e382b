//! Whether a file is a queue of ours, and of which version.

use std::{borrow::Cow, cmp::Ordering, fs, path::Path, time::Duration};

use sqlx::{
    Connection as _, SqlSafeStr as _, SqliteConnection,
    migrate::{Migration, MigrationType, Migrator},
};
use tokio::time::sleep;

use super::{
    connection::connect_as,
    database_file::DatabaseFile,
    dump::{LOOKS_LIKE_OURS, Likeness, likeness},
    errors::{OpenError, StoreError},
    location,
    lock_holder::is_held,
    open::Options,
    schema_watch::{MIGRATIONS, made_by},
    watched_files::beside,
};
use crate::permission::Need;

/// The pause between two looks whether another sweeper has made the tables.
const MAKING_PAUSE: Duration = Duration::from_millis(20);
/// A sweeper that makes the file makes it empty, and takes the lock within this time.
const BEFORE_THE_LOCK: Duration = Duration::from_millis(60);

/// `PRAGMA application_id` of our files, as the first migration sets it.
pub(super) const APPLICATION_ID: i64 = 0x5343_5750;

/// ?1 the checksum of our first migration. Whether migrations are listed, and the first is not ours.
const IS_OLDER: &str = "
SELECT EXISTS (SELECT 1 FROM _sqlx_migrations)
   AND NOT EXISTS (SELECT 1 FROM _sqlx_migrations WHERE version = 1 AND checksum = ?1)";

/// All migrations, the oldest first.
pub(super) fn migrator() -> Migrator {
    let migration = |version, description: &'static str, sql: &'static str| {
        Migration::new(version, Cow::Borrowed(description), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(vec![migration(1, "queue", include_str!("../../../migrations/sqlite/0001_queue.sql"))])
}

/// Accepts a file with our application ID, and a file without any that has our tables.
///
/// # Errors
/// If it is another program's file, or a changed one of ours, or one without all of our tables, or SQLite fails.
pub(super) async fn require_ours(conn: &mut SqliteConnection, id: i64, path: &Path) -> Result<(), OpenError> {
    let found = match id {
        APPLICATION_ID => match missing_tables(conn).await {
            Ok(missing) if missing.is_empty() => Ok(Likeness::Same),
            Ok(missing) => return Err(OpenError::Incomplete { path: path.to_owned(), missing }),
            Err(error) => Err(error),
        },
        0 => likeness(conn).await,
        _ => Ok(Likeness::NotOurs),
    };
    match found.map_err(|source| StoreError { path: path.to_owned(), doing: "open", source })? {
        Likeness::Same => Ok(()),
        Likeness::NotOurs => Err(OpenError::NotOurs(path.to_owned())),
        Likeness::Altered(wrong) => Err(OpenError::Altered { path: path.to_owned(), wrong }),
    }
}

/// The tables of ours that somebody has dropped. The application ID and the tables are committed together, so a file with the ID
/// has had all of them.
async fn missing_tables(conn: &mut SqliteConnection) -> Result<Vec<String>, sqlx::Error> {
    let found: Vec<String> =
        sqlx::query_scalar("SELECT name FROM sqlite_master WHERE type = 'table'").fetch_all(&mut *conn).await?;
    let is_there = |name: &str| found.iter().any(|table| table.eq_ignore_ascii_case(name));
    if !is_there(MIGRATIONS) {
        return Ok(vec![MIGRATIONS.to_owned()]);
    }
    let version = sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM _sqlx_migrations").fetch_one(conn).await?;
    let ours = made_by(version).await?.into_iter().filter(|object| object.kind == "table").map(|table| table.name);
    Ok(ours.filter(|name| !is_there(name)).collect())
}

/// A connection to an up-to-date queue, beside whoever works on it; and whether the file has our application ID. Waits for a
/// sweeper that is just making the tables.
pub(super) async fn connect_known(options: &Options, read_only: bool) -> Result<(SqliteConnection, bool), OpenError> {
    let mut waited = Duration::ZERO;
    loop {
        // Ask this first: a sweeper that releases the lock in between has made the tables.
        let is_held = is_held(&options.path);
        let need = if read_only { Need::Read } else { Need::Write };
        let known = try_to_connect_known(options, read_only).await;
        let known = known.map_err(|error| error.explained(&options.path, need));
        let patience = match &known {
            Err(OpenError::Empty(_) | OpenError::Missing { .. }) if is_held => options.busy_timeout,
            Err(OpenError::Empty(_)) => BEFORE_THE_LOCK,
            _ => Duration::ZERO,
        };
        if waited >= patience {
            return known;
        }
        sleep(MAKING_PAUSE).await;
        waited += MAKING_PAUSE;
    }
}

async fn try_to_connect_known(options: &Options, read_only: bool) -> Result<(SqliteConnection, bool), OpenError> {
    if !options.path.exists() {
        return Err(OpenError::Missing { path: options.path.clone(), named: String::new() });
    }
    location::refuse(&options.path)?;
    // If it cannot be opened, SQLite reports why, below.
    if let (false, Ok(database)) = (read_only, DatabaseFile::open(&options.path)) {
        location::refuse_another_wal(&options.path, &database).await?;
    }
    refuse_older(options).await?;
    let (mut conn, (id, objects)) = match look_into(options, read_only, false).await {
        // Without a WAL, SQLite makes one even to read, and a user who may only read cannot.
        Err(refused)
            if read_only && refused.is_access() && has_no_journal(&options.path) && !is_held(&options.path) =>
        {
            look_into(options, true, true).await?
        }
        looked => looked?,
    };
    require_current(&mut conn, (id, objects), &options.path).await?;
    Ok((conn, id == APPLICATION_ID))
}

/// A connection to an up-to-date queue that only reads, and that neither creates nor changes a file.
///
/// To read a file in WAL mode, SQLite makes the WAL and its index if they are not there. If the index is there, somebody works on
/// the file, or died, and SQLite needs the WAL. Without an index, the file is read as if nobody could change it. A WAL that a copy
/// brought along without its index is then not read.
///
/// # Errors
/// If the file does not exist or may not be read, is not ours or not up to date, or SQLite fails.
pub(super) async fn connect_untouching(options: &Options) -> Result<SqliteConnection, OpenError> {
    let connected = try_to_connect_untouching(options).await;
    connected.map_err(|error| error.explained(&options.path, Need::Read))
}

async fn try_to_connect_untouching(options: &Options) -> Result<SqliteConnection, OpenError> {
    if !options.path.exists() {
        return Err(OpenError::Missing { path: options.path.clone(), named: String::new() });
    }
    location::refuse(&options.path)?;
    let immutable = matches!(fs::exists(beside(&options.path, "-shm")), Ok(false));
    let (mut conn, identity) = look_into(options, true, immutable).await?;
    require_current(&mut conn, identity, &options.path).await?;
    Ok(conn)
}

/// Accepts an up-to-date queue.
///
/// # Errors
/// If it is not ours or not up to date, or SQLite fails.
async fn require_current(conn: &mut SqliteConnection, (id, objects): (i64, i64), path: &Path) -> Result<(), OpenError> {
    let error = |source| StoreError { path: path.to_owned(), doing: "open", source };
    if objects == 0 {
        return Err(OpenError::Empty(path.to_owned()));
    } else if is_older(conn).await.map_err(error)? {
        return Err(OpenError::Older(path.to_owned()));
    }
    require_ours(conn, id, path).await?;
    let version: i64 = sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM _sqlx_migrations")
        .fetch_one(conn)
        .await
        .map_err(error)?;
    let known = migrator().iter().map(|migration| migration.version).max().unwrap_or(0);
    match version.cmp(&known) {
        Ordering::Less => Err(OpenError::Empty(path.to_owned())),
        Ordering::Equal => Ok(()),
        Ordering::Greater => Err(OpenError::Newer { path: path.to_owned(), version }),
    }
}

/// Refuses a file of a development version. This must come before anything that could change the file or leave files beside
/// it: SQLite makes a WAL to read a file, and our set-up writes.
pub(super) async fn refuse_older(options: &Options) -> Result<(), OpenError> {
    if !fs::metadata(&options.path).is_ok_and(|found| found.is_file() && found.len() > 0) {
        return Ok(());
    }
    // With a WAL or a journal, SQLite must read that, too. A connection that only reads leaves both as they are.
    let immutable = has_no_journal(&options.path);
    let look = async {
        let mut conn = connect_as(options, true, immutable).await?;
        let found = is_older(&mut conn).await;
        // A connection that is only dropped closes some time later.
        let closed = conn.close().await;
        let error = |source| StoreError::new(&options.path, "open", source);
        closed.map_err(error)?;
        found.map_err(error)
    };
    match look.await {
        Ok(true) => Err(OpenError::Older(options.path.clone())),
        Ok(false) => Ok(()),
        Err(error) if error.is_temporary() => Err(error.into()),
        // The file cannot be read, or another sweeper is just making it. The next step that opens it reports the error.
        Err(_) => Ok(()),
    }
}

/// Whether it is a queue that a development version made, with another first migration than ours.
pub(super) async fn is_older(conn: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    let listed = "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = '_sqlx_migrations')";
    if !sqlx::query_scalar::<_, bool>(listed).fetch_one(&mut *conn).await? {
        return Ok(false);
    }
    let is_ours = match sqlx::query_scalar("PRAGMA application_id").fetch_one(&mut *conn).await? {
        APPLICATION_ID => true,
        0 => sqlx::query_scalar(LOOKS_LIKE_OURS).fetch_one(&mut *conn).await?,
        _ => false,
    };
    if !is_ours {
        return Ok(false);
    }
    let migrator = migrator();
    let first = migrator.iter().next().map(|migration| migration.checksum.to_vec());
    sqlx::query_scalar(IS_OLDER).bind(first).fetch_one(conn).await
}

/// A connection, and the file's [`identity`].
async fn look_into(
    options: &Options,
    read_only: bool,
    immutable: bool,
) -> Result<(SqliteConnection, (i64, i64)), StoreError> {
    let mut conn = connect_as(options, read_only, immutable).await?;
    let error = |source| StoreError::new(&options.path, "open", source);
    let identity = identity(&mut conn).await.map_err(error)?;
    Ok((conn, identity))
}

/// Whether there is neither a WAL nor a rollback journal: then the file itself has every commit.
fn has_no_journal(database: &Path) -> bool {
    ["-wal", "-journal"].iter().all(|suffix| matches!(fs::exists(beside(database, suffix)), Ok(false)))
}

/// The file's application ID, and the number of its tables, indexes, triggers and views.
pub(super) async fn identity(conn: &mut SqliteConnection) -> Result<(i64, i64), sqlx::Error> {
    // sqlx makes its list of migrations before our first migration sets the ID. A file with the list alone was left by a crash in
    // between.
    let objects = "SELECT count(*) FROM sqlite_master WHERE tbl_name <> '_sqlx_migrations'";
    // Count the objects first. The ID is committed with them, so a file that is just being made must not look like another
    // program's.
    let objects = sqlx::query_scalar(objects).fetch_one(&mut *conn).await?;
    Ok((sqlx::query_scalar("PRAGMA application_id").fetch_one(conn).await?, objects))
}
