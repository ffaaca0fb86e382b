//! Makes invalid rows dead: rows that somebody with the rights of the tables' owner has written past the checks of the inbox.
//!
//! No other code tolerates such a row. Reading one is an error, and that error starts this sweep. So an invalid row can neither stop
//! the daemon nor harm other rows.

use sqlx::{PgConnection, Row as _};

use super::{Store, errors::StoreError, rows::problem_of};
use crate::{
    model::{clock::Timestamp, deletion::DeletionId},
    queue::Swept,
};

/// The number of rows that a step goes through, pending or not. That takes some milliseconds.
const STRETCH: i64 = 5_000;
/// The most rows that a step names.
const MOST_NAMED: usize = 5;

/// $1 the first id; $2 the number of rows. Returns the last id and the number of rows that there are.
const END: &str = "
SELECT max(id), count(*) FROM (SELECT id FROM deletions_known WHERE id >= $1 ORDER BY id LIMIT $2) AS stretch";

/// $1, $2 the first and the last id. The columns are those of [`problem_of`].
const READ: &str = "
SELECT priority, agent_id, batch_max, id, entry_id, attempts, asks, maybe_done, due_at, created_at, last_cause, request_id,
    first_fault, evidence
FROM deletions_known WHERE id BETWEEN $1 AND $2 AND settled_at IS NULL ORDER BY id";

/// $1 ids; $2 now
const MAKE_DEAD: &str = "
UPDATE deletions_known SET state = 'dead', last_cause = 'rejected', settled_at = $2 WHERE id = ANY ($1) AND settled_at IS NULL";

const DOING: &str = "make invalid rows dead";

impl Store {
    /// One step through all rows: makes pending rows dead that cannot be read.
    pub(super) async fn sweep_step(&mut self, now: Timestamp) -> Result<Swept, StoreError> {
        let from = self.sweep_from;
        let read = async |conn: &mut PgConnection| invalid(conn, from).await;
        let (found, next) = self.run(DOING, read).await?;
        let mut dead = 0;
        if !found.ids.is_empty() {
            let ids = &found.ids;
            let bury = async |conn: &mut PgConnection| sqlx::query(MAKE_DEAD).bind(ids).bind(now.0).execute(conn).await;
            dead = self.run(DOING, bury).await?.rows_affected();
            if dead < ids.len() as u64 || self.watch.can_interfere() {
                self.assert_dead(DOING, ids).await?;
            }
        }
        self.sweep_from = next.unwrap_or(i64::MIN);
        let first = found.ids.iter().take(MOST_NAMED).map(|id| DeletionId(*id)).collect();
        Ok(Swept { dead, first, problem: found.problem, more: next.is_some() })
    }
}

/// Pending rows that cannot be read.
#[derive(Default)]
struct Invalid {
    ids: Vec<i64>,
    /// What is wrong with the first.
    problem: String,
}

/// Of the stretch that begins at this id, the pending rows that cannot be read; and the id at which the next stretch begins, if
/// there is one.
async fn invalid(conn: &mut PgConnection, from: i64) -> Result<(Invalid, Option<i64>), sqlx::Error> {
    let (last, rows): (Option<i64>, i64) = sqlx::query_as(END).bind(from).bind(STRETCH).fetch_one(&mut *conn).await?;
    let mut invalid = Invalid::default();
    let Some(last) = last else { return Ok((invalid, None)) };
    for row in sqlx::query(READ).bind(from).bind(last).fetch_all(conn).await? {
        if let Some(problem) = problem_of(&row) {
            if invalid.ids.is_empty() {
                invalid.problem = problem;
            }
            invalid.ids.push(row.try_get(3)?);
        }
    }
    Ok((invalid, last.checked_add(1).filter(|_| rows == STRETCH)))
}
