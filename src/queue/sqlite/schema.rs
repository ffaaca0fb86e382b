//! What is in the file: whether it is a queue of ours, and of which version.

use std::{borrow::Cow, cmp::Ordering, fs, io, path::Path, time::Duration};

use rustix::fs::{Access, AtFlags, CWD, accessat};
use sqlx::{
    Connection as _, SqlSafeStr as _, SqliteConnection,
    migrate::{Migration, MigrationType, Migrator},
};
use tokio::time::sleep;

use super::{
    descriptor::Descriptor,
    errors::{OpenError, StoreError},
    file::{Options, connect_as},
    files::beside,
    lock::is_held,
    place,
    restored::{LOOKS_LIKE_OURS, Likeness, likeness},
};

/// How long after each other it is looked whether somebody else has made the tables.
const MAKING_PAUSE: Duration = Duration::from_millis(20);
/// Whoever makes the file makes it empty first, and then takes the lock.
const BEFORE_THE_LOCK: Duration = Duration::from_millis(60);

/// `PRAGMA application_id` of our files, as the first migration sets it.
pub(super) const APPLICATION_ID: i64 = 0x5343_5750;

/// ?1 the checksum of our first migration. Whether there is a list of migrations, and ours is not the first of it.
const IS_OLDER: &str = "
SELECT EXISTS (SELECT 1 FROM _sqlx_migrations)
   AND NOT EXISTS (SELECT 1 FROM _sqlx_migrations WHERE version = 1 AND checksum = ?1)";

/// Every migration, oldest first.
pub(super) fn migrator() -> Migrator {
    let migration = |version, description: &'static str, sql: &'static str| {
        Migration::new(version, Cow::Borrowed(description), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(vec![migration(1, "queue", include_str!("../../../migrations/sqlite/0001_queue.sql"))])
}

/// Passes a file with our application ID, and one that lacks any and is ours by its tables.
///
/// # Errors
/// If it is another one, or SQLite fails.
pub(super) async fn be_ours(conn: &mut SqliteConnection, id: i64, path: &Path) -> Result<(), OpenError> {
    let found = match id {
        APPLICATION_ID => Ok(Likeness::Same),
        0 => likeness(conn).await,
        _ => Ok(Likeness::Foreign),
    };
    match found.map_err(|source| StoreError { path: path.to_owned(), doing: "open", source })? {
        Likeness::Same => Ok(()),
        Likeness::Foreign => Err(OpenError::NotOurs(path.to_owned())),
        Likeness::Altered(wrong) => Err(OpenError::Altered { path: path.to_owned(), wrong }),
    }
}

/// A connection to a file of ours whose tables are those that we know, beside whoever works on it; and whether the file is
/// marked as ours. A sweeper that is just making the tables is waited for.
pub(super) async fn connect_known(options: &Options, read_only: bool) -> Result<(SqliteConnection, bool), OpenError> {
    let mut waited = Duration::ZERO;
    loop {
        // Asked first: whoever lets go of it meanwhile is done.
        let is_held = is_held(&options.path);
        let known = try_to_connect_known(options, read_only).await;
        let patience = match &known {
            Err(OpenError::Empty(_) | OpenError::Missing(_)) if is_held => options.busy_timeout,
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
    let path = || options.path.clone();
    if !options.path.exists() {
        return Err(OpenError::Missing(path()));
    }
    place::refuse(&options.path)?;
    // If it cannot be opened, SQLite says why.
    if let (false, Ok(database)) = (read_only, Descriptor::of(&options.path)) {
        place::refuse_strangers(&options.path, &database).await?;
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
    } else if is_older(&mut conn).await.map_err(error)? {
        return Err(OpenError::Older(path()));
    }
    be_ours(&mut conn, id, &options.path).await?;
    let version: i64 = sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM _sqlx_migrations")
        .fetch_one(&mut conn)
        .await
        .map_err(error)?;
    let known = migrator().iter().map(|migration| migration.version).max().unwrap_or(0);
    match version.cmp(&known) {
        Ordering::Less => Err(OpenError::Empty(path())),
        Ordering::Equal => Ok((conn, id == APPLICATION_ID)),
        Ordering::Greater => Err(OpenError::Newer { path: path(), version }),
    }
}

/// Refuses a file of a development version before anything opens it that could change it or leave files beside it: SQLite
/// makes a log to read a file, and our set-up writes to it.
pub(super) async fn refuse_older(options: &Options) -> Result<(), OpenError> {
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
        let error = |source| StoreError::new(&options.path, "open", source);
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

/// A connection, and what [`identity`] tells of the file.
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

/// Whether we may not write this file, and nobody else does: then all that was committed is in it.
fn lies_still(database: &Path) -> bool {
    let denied =
        |error: io::Error| matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem);
    // Not by opening it: when that is closed, SQLite's locks would go.
    accessat(CWD, database, Access::WRITE_OK, AtFlags::EACCESS).map_err(io::Error::from).is_err_and(denied)
        && matches!(fs::exists(beside(database, "-wal")), Ok(false))
        && !is_held(database)
}

/// The application's ID, and how many tables, indexes and triggers there are.
pub(super) async fn identity(conn: &mut SqliteConnection) -> Result<(i64, i64), sqlx::Error> {
    // The list of migrations is made before the first of them sets the ID: alone, it is what a crash between left.
    let objects = "SELECT count(*) FROM sqlite_master WHERE tbl_name <> '_sqlx_migrations'";
    // The objects first: the ID comes with them, and a file that somebody makes just now must not look like another's.
    let objects = sqlx::query_scalar(objects).fetch_one(&mut *conn).await?;
    Ok((sqlx::query_scalar("PRAGMA application_id").fetch_one(conn).await?, objects))
}
