//! How a transaction that writes begins: how long it waits for others who write, and what they may have done to the tables.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Row as _};
use tokio::time::sleep;

use super::{Store, StoreError, Transaction};
use crate::model::clock::Clock;

/// SQLite's own waiting for the write lock has pauses of up to 100 ms. Against a program that commits one row after the other,
/// and leaves the lock free for some microseconds between, that hardly ever meets such a moment. So it is tried this often in
/// a row,
const TRIES: u32 = 4;
/// and then again after this pause.
const PAUSE: Duration = Duration::from_millis(1);

impl Store {
    /// Starts a transaction whose statements may take `steps` steps together; one that was left open is undone first.
    pub(super) async fn begin_within(&mut self, steps: u64) -> Result<Transaction<'_>, StoreError> {
        self.abandon().await;
        self.writing = true;
        let allowance = self.steps.allow(steps);
        if let Err(source) = self.take_lock_and_look().await {
            // Nothing is open if there was no lock to be had, and to undo that does no harm.
            self.abandon().await;
            return Err(self.error("begin to write", source));
        }
        // We may have waited for the lock. What is written by a log that others do not see would overwrite theirs.
        if let Err(replaced) = self.check_in_place() {
            self.abandon().await;
            return Err(replaced);
        }
        let (path, next_request) = (self.options.path.clone(), &mut self.next_request);
        let (writing, data_version) = (&mut self.writing, self.data_version);
        let foreign = if self.schema.is_interfered_with() { self.schema.foreign.as_slice() } else { &[] };
        let conn = &mut *self.conn;
        Ok(Transaction {
            conn,
            path,
            next_request,
            writing,
            data_version,
            version: None,
            foreign,
            _allowance: allowance,
        })
    }

    async fn take_lock_and_look(&mut self) -> Result<(), sqlx::Error> {
        let version = self.take_lock().await?;
        if self.is_migrated {
            self.schema.follow(&mut self.conn, version).await?;
        }
        Ok(())
    }

    /// Takes the write lock, and tells the version of the tables.
    async fn take_lock(&mut self) -> Result<i64, sqlx::Error> {
        let (clock, patience) = (Clock::system(), self.options.busy_timeout);
        // IMMEDIATE: a transaction that reads first and writes later fails at once when another wrote meanwhile.
        // SQLite's own waiting is for all other statements.
        let begin = format!(
            "PRAGMA busy_timeout = 0; BEGIN IMMEDIATE; PRAGMA busy_timeout = {}; PRAGMA schema_version",
            patience.as_millis()
        );
        let mut tries = 0;
        loop {
            match sqlx::query(AssertSqlSafe(begin.as_str())).fetch_all(&mut *self.conn).await {
                Ok(rows) => return rows.last().map_or(Ok(0), |row| row.try_get(0)),
                Err(error) if is_busy(&error) && clock.elapsed() < patience => {
                    tries += 1;
                    if tries % TRIES == 0 {
                        sleep(PAUSE).await;
                    }
                }
                Err(error) => {
                    let waiting = format!("PRAGMA busy_timeout = {}", patience.as_millis());
                    sqlx::raw_sql(AssertSqlSafe(waiting)).execute(&mut *self.conn).await?;
                    return Err(error);
                }
            }
        }
    }
}

/// Whether it is SQLITE_BUSY, of whatever kind.
fn is_busy(error: &sqlx::Error) -> bool {
    super::errors::extended_code(error).is_some_and(|code| code & 0xff == 5)
}
