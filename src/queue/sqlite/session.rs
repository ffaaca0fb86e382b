//! A second look at a file that seems to be damaged: on a fresh connection, with the same work. SQLite says "malformed" also
//! when the disk fails one read, and a connection may keep what it has misread.

use std::time::Duration;

use sqlx::SqliteConnection;
use tokio::time::sleep;

use super::{
    connection::Connection,
    errors::{Doubtful, StoreError},
    file::{Options, connect},
    files::Files,
    steps::Steps,
    trust::blame,
};

/// How long after the first look the second one begins: what ails a disk for a moment is over then.
const PAUSE: Duration = Duration::from_millis(100);

/// Does something that opens the file by itself; once more if the file then seems to be damaged.
///
/// # Errors
/// What it ends with, the second time if there was one.
pub async fn sure<T, E: Doubtful>(mut work: impl AsyncFnMut() -> Result<T, E>) -> Result<T, E> {
    let first = work().await;
    if is_in_doubt(&first).await { work().await } else { first }
}

/// Whether there is to be a second look, for which it is time then.
pub(super) async fn is_in_doubt<T, E: Doubtful>(first: &Result<T, E>) -> bool {
    let is_in_doubt = first.as_ref().is_err_and(|error| error.doubt().is_some());
    if is_in_doubt {
        sleep(PAUSE).await;
    }
    is_in_doubt
}

/// A connection that writes, and that can be had again.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) conn: Connection,
    pub(super) options: Options,
    pub(super) steps: Steps,
}

impl Link {
    pub(super) async fn new(mut conn: SqliteConnection, options: &Options) -> Result<Self, StoreError> {
        let error = |source| StoreError::new(&options.path, "open", source);
        let steps = Steps::of(&mut conn).await.map_err(error)?;
        let mut conn = Connection::new(conn, Files::default());
        // SQLite opens the log when it reads something.
        sqlx::query("SELECT 1 FROM sqlite_master").fetch_optional(&mut *conn).await.map_err(error)?;
        conn.files = Files::of(&options.path);
        Ok(Self { conn, options: options.clone(), steps })
    }

    pub(super) fn error(&self, doing: &'static str, source: sqlx::Error) -> StoreError {
        StoreError::new(&self.options.path, doing, source)
    }

    /// Fails if the files were taken away: what was written since then, others do not see, and may overwrite.
    ///
    /// # Errors
    /// Then.
    pub(super) fn check_in_place(&self, doing: &'static str) -> Result<(), StoreError> {
        let said = "it was deleted or replaced while in use, and what was written last may be lost; stop whoever uses the \
                    database before touching its files, and run this again";
        self.conn.files.check(doing, |_| said)
    }

    /// The error, with the names of what is somebody else's in the tables, if that may be its cause.
    pub(super) async fn blame(&mut self, error: StoreError) -> StoreError {
        blame(&mut self.conn, &self.steps, error).await
    }

    /// Does something of so many steps at the most; once more on a fresh connection if the file then seems to be damaged.
    ///
    /// # Errors
    /// What it ends with, the second time if there was one.
    pub(super) async fn surely<T>(
        &mut self,
        doing: &'static str,
        steps: u64,
        mut work: impl AsyncFnMut(&mut SqliteConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        let first = {
            let _allowance = self.steps.allow(steps);
            work(&mut *self.conn).await
        };
        let error = match first.map_err(|source| self.error(doing, source)) {
            Err(error) if error.doubt().is_some() => error,
            done => return done,
        };
        sleep(PAUSE).await;
        // What was looked for in one file must not be done to another one in its place.
        self.check_in_place(doing)?;
        // If there is no fresh one to be had, the first look has to do.
        let Ok(fresh) = connect(&self.options, false).await else { return Err(error) };
        let Ok(mut fresh) = Self::new(fresh, &self.options).await else { return Err(error) };
        fresh.conn.files = self.conn.files.clone();
        // After the fresh one is open, though it is not in use yet: nothing is lost if SQLite removes the log with this one.
        let old = std::mem::replace(self, fresh);
        let _ = old.conn.close().await;
        let _allowance = self.steps.allow(steps);
        work(&mut *self.conn).await.map_err(|source| self.error(doing, source))
    }
}
