//! Makes invalid rows dead: rows that were inserted with the CHECKs switched off, which whoever can write the file can do.
//!
//! No other code tolerates such a row. Reading one is an error, and that error starts this sweep. So an invalid row can neither stop
//! the daemon nor harm other rows.

use sqlx::{Row as _, SqliteConnection};

use super::{
    Store, StoreError,
    rows::{is_readable, json},
    step_limit::SOME_ROWS,
};
use crate::{model::clock::Timestamp, queue::Swept};

/// The number of rows that a step goes through, pending or not. That takes some milliseconds.
const STRETCH: i64 = 5_000;

/// ?1 the first id; ?2 the number of rows. Returns the last id and the number of rows that there are.
pub(super) const END: &str =
    "SELECT max(id), count(*) FROM (SELECT id FROM deletions WHERE id >= ?1 ORDER BY id LIMIT ?2)";

/// ?1, ?2 the first and the last id. The columns are those of [`is_readable`]. Settled rows stay inside of SQLite.
pub(super) const READ: &str = "
SELECT id, priority, agent_id, batch_max, due_at, created_at, entry_id, attempts, asks, maybe_done, last_cause, request_id,
    first_fault, evidence
FROM deletions NOT INDEXED WHERE id BETWEEN ?1 AND ?2 AND state = 'pending'";

/// ?1 ids: [id, …]; ?2 now
pub(super) const MAKE_DEAD: &str = "
UPDATE deletions SET state = 'dead', last_cause = 'rejected', settled_at = ?2
WHERE id IN (SELECT value FROM json_each(?1)) AND state = 'pending'";

const DOING: &str = "make invalid rows dead";

impl Store {
    /// One step through all rows: makes pending rows dead that cannot be read.
    ///
    /// # Errors
    /// If SQLite fails.
    pub(super) async fn sweep_step(&mut self, now: Timestamp) -> Result<Swept, StoreError> {
        // After an error, the last step may have left its transaction open.
        self.abandon().await;
        let from = self.sweep_from;
        let found = invalid(&mut self.conn, from).await;
        let (mut invalid_rows, next) = found.map_err(|source| self.error(DOING, source))?;
        let mut dead = 0;
        if !invalid_rows.is_empty() {
            let mut write = self.begin_within(SOME_ROWS).await?;
            // Another process may have changed rows before we had the lock.
            let found = invalid(write.conn, from).await;
            (invalid_rows, _) = found.map_err(|source| write.error(DOING, source))?;
            dead = write.execute(DOING, sqlx::query(MAKE_DEAD).bind(json(&invalid_rows)).bind(now.0)).await?;
            if write.is_interfered_with() {
                write.assert_dead(&invalid_rows).await?;
            }
            write.finish().await?;
        }
        self.sweep_from = next.unwrap_or(i64::MIN);
        Ok(Swept { dead, more: next.is_some() })
    }
}

/// Of the stretch that begins at this id, the pending rows that cannot be read; and the id at which the next stretch begins, if
/// there is one.
pub(super) async fn invalid(conn: &mut SqliteConnection, from: i64) -> Result<(Vec<i64>, Option<i64>), sqlx::Error> {
    let (last, rows): (Option<i64>, i64) = sqlx::query_as(END).bind(from).bind(STRETCH).fetch_one(&mut *conn).await?;
    let Some(last) = last else { return Ok((Vec::new(), None)) };
    let mut invalid = Vec::new();
    for row in sqlx::query(READ).bind(from).bind(last).fetch_all(conn).await? {
        if !is_readable(&row) {
            invalid.push(row.try_get(0)?);
        }
    }
    Ok((invalid, last.checked_add(1).filter(|_| rows == STRETCH)))
}
