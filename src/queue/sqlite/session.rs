//! A command's connection that writes: it checks its files, limits its steps, and takes a second look at a file that seems to be
//! damaged.

use sqlx::SqliteConnection;

use super::{
    connection::{Connection, connect},
    errors::StoreError,
    interference::blame,
    open::Options,
    second_look::seems_damaged,
    step_limit::StepLimit,
    watched_files::WatchedFiles,
};

/// A connection that writes, beside whoever works on the queue.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) conn: Connection,
    pub(super) options: Options,
    pub(super) steps: StepLimit,
}

impl Session {
    pub(super) async fn new(mut conn: SqliteConnection, options: &Options) -> Result<Self, StoreError> {
        let error = |source| StoreError::new(&options.path, "open", source);
        let steps = StepLimit::of(&mut conn).await.map_err(error)?;
        let mut conn = Connection::new(conn, WatchedFiles::default());
        // SQLite opens the WAL at the first read, and only then there is a WAL to watch.
        sqlx::query("SELECT 1 FROM sqlite_master").fetch_optional(&mut *conn).await.map_err(error)?;
        conn.files = WatchedFiles::of(&options.path);
        Ok(Self { conn, options: options.clone(), steps })
    }

    pub(super) fn error(&self, doing: &'static str, source: sqlx::Error) -> StoreError {
        StoreError::new(&self.options.path, doing, source)
    }

    /// Fails if a file was deleted or replaced: other processes do not see our commits since then, and may overwrite them.
    pub(super) fn check_in_place(&self, doing: &'static str) -> Result<(), StoreError> {
        let message = "it was deleted or replaced while in use, and what was written last may be lost; stop every program that \
                       uses the database before touching its files, then run this again";
        self.conn.files.check(doing, |_| message)
    }

    /// The same error, with the names of foreign triggers that may be its cause.
    pub(super) async fn blame(&mut self, error: StoreError) -> StoreError {
        blame(&mut self.conn, &self.steps, error).await
    }

    /// Does `work` in at most `steps` steps. If the file then seems to be damaged, does it once more on a fresh connection.
    ///
    /// # Errors
    /// The error of `work`; of the second time, if there was one.
    pub(super) async fn twice_if_damaged<T>(
        &mut self,
        doing: &'static str,
        steps: u64,
        mut work: impl AsyncFnMut(&mut SqliteConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        let first = {
            let _budget = self.steps.allow(steps);
            work(&mut *self.conn).await.map_err(|source| self.error(doing, source))
        };
        if !seems_damaged(&first).await {
            return first;
        }
        // Work that was prepared in one file must not be done in another one that took its place.
        self.check_in_place(doing)?;
        // Without a fresh connection, the first result stands.
        let Ok(fresh) = connect(&self.options, false).await else { return first };
        let Ok(mut fresh) = Self::new(fresh, &self.options).await else { return first };
        fresh.conn.files = self.conn.files.clone();
        // Close the old connection only now that the fresh one is open: the last connection to close removes the WAL.
        let old = std::mem::replace(self, fresh);
        let _ = old.conn.close().await;
        let _budget = self.steps.allow(steps);
        work(&mut *self.conn).await.map_err(|source| self.error(doing, source))
    }
}
