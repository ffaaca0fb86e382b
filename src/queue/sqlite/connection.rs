//! Connections: how each is set up, and one that writes and closes without harm after its files were taken away.

use std::{
    io, mem,
    ops::{Deref, DerefMut},
};

use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};

use super::{errors::StoreError, open::Options, upkeep::MAX_WAL, watched_files::WatchedFiles};

/// A connection that closes when it is dropped, unless other processes use another WAL by now. The last connection to close
/// copies its WAL into the database and removes the WAL. That would overwrite commits that it has not seen.
///
/// A connection that only reads cannot do that, and needs none of this.
#[derive(Debug)]
pub(super) struct Connection {
    /// `Some` until it is dropped.
    inner: Option<SqliteConnection>,
    pub(super) files: WatchedFiles,
}

impl Connection {
    pub(super) fn new(conn: SqliteConnection, files: WatchedFiles) -> Self {
        Self { inner: Some(conn), files }
    }

    /// Closes it, and waits until it is closed.
    ///
    /// # Errors
    /// If SQLite fails.
    pub(super) async fn close(mut self) -> Result<(), sqlx::Error> {
        match self.inner.take() {
            Some(conn) if self.files.may_be_closed() => conn.close().await,
            left => {
                mem::forget(left);
                Ok(())
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let conn = self.inner.take();
        if !self.files.may_be_closed() {
            // It stays open, and idle, until the process ends.
            mem::forget(conn);
        }
    }
}

impl Deref for Connection {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        self.inner.as_ref().unwrap_or_else(|| unreachable!("a connection is there until it is dropped"))
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        self.inner.as_mut().unwrap_or_else(|| unreachable!("a connection is there until it is dropped"))
    }
}

/// Opens the file, which must exist.
pub(super) async fn connect(options: &Options, read_only: bool) -> Result<SqliteConnection, StoreError> {
    connect_as(options, read_only, false).await
}

/// The same. With `immutable`, SQLite assumes that nobody writes while it reads, and needs no files beside the database.
pub(super) async fn connect_as(
    options: &Options,
    read_only: bool,
    immutable: bool,
) -> Result<SqliteConnection, StoreError> {
    if options.path.is_dir() {
        let message = "it is a directory; give database.path the file in it";
        let source = sqlx::Error::Io(io::Error::new(io::ErrorKind::IsADirectory, message));
        return Err(StoreError::new(&options.path, "open", source));
    }
    SqliteConnectOptions::new()
        .filename(&options.path)
        // `DatabaseFile` makes the file, with the right mode.
        .create_if_missing(false)
        .read_only(read_only)
        .immutable(immutable)
        .busy_timeout(options.busy_timeout)
        // Our tables have no foreign keys. Another program's table that refers to ours must not keep us from pruning.
        .foreign_keys(false)
        // Triggers and views that others add get no functions and virtual tables that reach beyond the database. A damaged page
        // is found before it is used.
        .pragma("trusted_schema", "OFF")
        .pragma("cell_size_check", "ON")
        // A long read lets the WAL grow. This shortens the file again afterwards.
        .pragma("journal_size_limit", MAX_WAL.to_string())
        .disable_statement_logging()
        .connect()
        .await
        .map_err(|source| StoreError::new(&options.path, "open", source))
}

/// Switches to the WAL, with which readers and a writer do not block each other. SQLite answers with the mode that is now in
/// effect, and does not call another mode an error.
pub(super) async fn switch_to_wal(conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode = WAL").fetch_one(conn).await?;
    if mode.eq_ignore_ascii_case("wal") {
        return Ok(());
    }
    let message = format!(
        "SQLite keeps the journal mode {mode}: the file system has no shared memory, or database.path names no file; give \
         database.path a file on a local disk"
    );
    Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::Unsupported, message)))
}
