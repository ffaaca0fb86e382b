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

/// The number of rows that a step reads, pending or not. That takes some milliseconds.
const STRETCH: usize = 5_000;

/// ?1 the first id; ?2 the number of rows. The columns are those of [`is_readable`].
pub(super) const READ: &str = "
SELECT id, state, priority, agent_id, batch_max, due_at, created_at, entry_id, attempts, asks, maybe_done, last_cause, request_id,
    first_fault, evidence
FROM deletions WHERE id >= ?1 ORDER BY id LIMIT ?2";

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

/// The pending rows from this id on that cannot be read, and the id at which the next step begins, if there is one.
async fn invalid(conn: &mut SqliteConnection, from: i64) -> Result<(Vec<i64>, Option<i64>), sqlx::Error> {
    let rows = sqlx::query(READ).bind(from).bind(STRETCH as i64).fetch_all(conn).await?;
    let (mut last, mut invalid) = (None, Vec::new());
    for row in &rows {
        let id: i64 = row.try_get(0)?;
        last = Some(id);
        if row.try_get(1).is_ok_and(|state: &str| state == "pending") && !is_readable(row) {
            invalid.push(id);
        }
    }
    Ok((invalid, last.filter(|_| rows.len() == STRETCH).and_then(|last| last.checked_add(1))))
}
