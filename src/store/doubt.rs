//! A second look at a file that seems to be damaged: on a fresh connection, with the same work. SQLite says "malformed" also
//! when the disk fails one read, and a connection may keep what it has misread.

use std::time::Duration;

use sqlx::{Connection as _, SqliteConnection};
use tokio::time::sleep;

use super::{
    errors::{Doubtful, StoreError},
    file::{Options, connect},
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

/// A connection that can be had again.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) conn: SqliteConnection,
    pub(super) options: Options,
    pub(super) read_only: bool,
    pub(super) steps: Steps,
}

impl Link {
    pub(super) async fn new(
        mut conn: SqliteConnection,
        options: &Options,
        read_only: bool,
    ) -> Result<Self, StoreError> {
        match Steps::of(&mut conn).await {
            Ok(steps) => Ok(Self { conn, options: options.clone(), read_only, steps }),
            Err(source) => Err(StoreError { path: options.path.clone(), doing: "open", source }),
        }
    }

    pub(super) fn error(&self, doing: &'static str, source: sqlx::Error) -> StoreError {
        StoreError { path: self.options.path.clone(), doing, source }
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
            work(&mut self.conn).await
        };
        let error = match first.map_err(|source| self.error(doing, source)) {
            Err(error) if error.doubt().is_some() => error,
            done => return done,
        };
        sleep(PAUSE).await;
        // Who may only read a file that lies still cannot open it so: then the first look has to do.
        let Ok(fresh) = connect(&self.options, self.read_only).await else { return Err(error) };
        let fresh = Self::new(fresh, &self.options, self.read_only).await?;
        // After the fresh one is open, though it is not in use yet: nothing is lost if SQLite removes the log with this one.
        let old = std::mem::replace(self, fresh);
        let _ = old.conn.close().await;
        let _allowance = self.steps.allow(steps);
        work(&mut self.conn).await.map_err(|source| self.error(doing, source))
    }
}
