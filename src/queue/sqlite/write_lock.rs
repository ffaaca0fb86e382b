//! The start of a transaction that writes: taking the write lock beside other writers, and checking what they did to the tables.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Row as _};
use tokio::time::sleep;

use super::{Store, StoreError, Transaction};
use crate::model::clock::Clock;

/// SQLite's own busy handler sleeps up to 100 ms between two tries. A program that commits one row after the other leaves the
/// lock free for microseconds, so the handler hardly ever finds it free. We try this many times in a row,
const TRIES: u32 = 4;
/// pause for this long, and start over.
const PAUSE: Duration = Duration::from_millis(1);

impl Store {
    /// Starts a transaction whose statements may take `steps` steps together. One that was left open is rolled back first.
    pub(super) async fn begin_within(&mut self, steps: u64) -> Result<Transaction<'_>, StoreError> {
        self.abandon().await;
        self.writing = true;
        let budget = self.steps.allow(steps);
        if let Err(source) = self.take_lock_and_check_schema().await {
            // Without the lock no transaction is open, and the ROLLBACK does no harm.
            self.abandon().await;
            return Err(self.error("begin to write", source));
        }
        // The files may have been replaced while we waited for the lock. A commit to a WAL that others do not see would overwrite
        // theirs.
        if let Err(replaced) = self.check_in_place() {
            self.abandon().await;
            return Err(replaced);
        }
        let (path, next_request) = (self.options.path.clone(), &mut self.next_request);
        let (writing, data_version) = (&mut self.writing, self.data_version);
        let foreign = if self.schema.can_interfere() { self.schema.changes() } else { &[] };
        let conn = &mut *self.conn;
        Ok(Transaction { conn, path, next_request, writing, data_version, version: None, foreign, _budget: budget })
    }

    async fn take_lock_and_check_schema(&mut self) -> Result<(), sqlx::Error> {
        let version = self.take_lock().await?;
        if self.is_migrated {
            self.schema.update_to(&mut self.conn, version).await?;
        }
        Ok(())
    }

    /// Takes the write lock. Returns `PRAGMA schema_version`.
    async fn take_lock(&mut self) -> Result<i64, sqlx::Error> {
        let (clock, patience) = (Clock::system(), self.options.busy_timeout);
        // IMMEDIATE: a transaction that reads first and writes later fails at once if another one wrote in between.
        // SQLite's own waiting is off only here. All other statements use it.
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

/// Whether this is SQLITE_BUSY, of any kind.
fn is_busy(error: &sqlx::Error) -> bool {
    super::errors::extended_code(error).is_some_and(|code| code & 0xff == 5)
}
