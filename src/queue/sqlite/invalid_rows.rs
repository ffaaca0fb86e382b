//! Makes invalid rows dead: rows that were inserted with the CHECKs switched off, which whoever can write the file can do.
//!
//! No other code tolerates such a row. Reading one is an error, and that error starts this sweep. So an invalid row can neither stop
//! the daemon nor harm other rows.

use sqlx::{Row as _, SqliteConnection};

use super::{
    Store, StoreError,
    rows::{json, problem_of},
    step_limit::SOME_ROWS,
};
use crate::{
    model::{clock::Timestamp, deletion::DeletionId},
    queue::Swept,
};

/// The number of rows that a step goes through, pending or not. That takes some milliseconds.
const STRETCH: i64 = 5_000;
/// The most rows that a step names.
const MOST_NAMED: usize = 5;

/// ?1 the first id; ?2 the number of rows. Returns the last id and the number of rows that there are.
pub(super) const END: &str =
    "SELECT max(id), count(*) FROM (SELECT id FROM deletions WHERE id >= ?1 ORDER BY id LIMIT ?2)";

/// ?1, ?2 the first and the last id. The columns are those of [`problem_of`]. Settled rows stay inside of SQLite.
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
        let (mut found, next) = found.map_err(|source| self.error(DOING, source))?;
        let mut dead = 0;
        if !found.ids.is_empty() {
            let mut write = self.begin_within(SOME_ROWS).await?;
            // Another process may have changed rows before we had the lock.
            let again = invalid(write.conn, from).await;
            (found, _) = again.map_err(|source| write.error(DOING, source))?;
            dead = write.execute(DOING, sqlx::query(MAKE_DEAD).bind(json(&found.ids)).bind(now.0)).await?;
            if write.is_interfered_with() {
                write.assert_dead(&found.ids).await?;
            }
            write.finish().await?;
        }
        self.sweep_from = next.unwrap_or(i64::MIN);
        let first = found.ids.iter().take(MOST_NAMED).map(|id| DeletionId(*id)).collect();
        Ok(Swept { dead, first, problem: found.problem, more: next.is_some() })
    }
}

/// Pending rows that cannot be read.
#[derive(Default)]
pub(super) struct Invalid {
    pub(super) ids: Vec<i64>,
    /// What is wrong with the first.
    problem: String,
}

/// Of the stretch that begins at this id, the pending rows that cannot be read; and the id at which the next stretch begins, if
/// there is one.
pub(super) async fn invalid(conn: &mut SqliteConnection, from: i64) -> Result<(Invalid, Option<i64>), sqlx::Error> {
    let (last, rows): (Option<i64>, i64) = sqlx::query_as(END).bind(from).bind(STRETCH).fetch_one(&mut *conn).await?;
    let mut invalid = Invalid::default();
    let Some(last) = last else { return Ok((invalid, None)) };
    for row in sqlx::query(READ).bind(from).bind(last).fetch_all(conn).await? {
        if let Some(problem) = problem_of(&row) {
            if invalid.ids.is_empty() {
                invalid.problem = problem;
            }
            invalid.ids.push(row.try_get(0)?);
        }
    }
    Ok((invalid, last.checked_add(1).filter(|_| rows == STRETCH)))
}
