//! Keeps the tables from growing for ever: removes old rows, a step at a time. The room that becomes free is used again; the server's
//! autovacuum sees to that, with the settings of our tables.

use sqlx::{PgConnection, Row as _};

use super::{Store, errors::StoreError};
use crate::{model::clock::Timestamp, queue::Upkeep};

/// One step of pruning goes through this number of rows.
pub(super) const STRETCH: i64 = 2_000;
/// A step removes up to this number each of requests and of acts.
const FEW: i64 = 200;

/// $1 the id after which to go on; $2 the number of rows. Returns the last of their ids.
const END: &str = "SELECT max(id) FROM (SELECT id FROM deletions_known WHERE id > $1 ORDER BY id LIMIT $2) AS stretch";
/// $1, $2 the ids after which and up to which to remove; $3 cutoff
const PRUNE: &str = "DELETE FROM deletions_known WHERE id > $1 AND id <= $2 AND settled_at < $3 AND state <> 'pending'";
/// $1 how many; $2 cutoff. Requests are answered roughly in the order of their ids, so the first ones are enough. Remembers the
/// highest id, which must not be given out again.
const PRUNE_REQUESTS: &str = "
WITH pruned AS (
    DELETE FROM requests WHERE id IN (
        SELECT id FROM (SELECT id, answered_at FROM requests ORDER BY id LIMIT $1) AS first WHERE answered_at < $2)
    RETURNING id
),
highest AS (
    UPDATE leadership SET last_request = (SELECT max(id) FROM pruned) WHERE last_request < (SELECT max(id) FROM pruned)
)
SELECT count(*) FROM pruned";
/// $1 how many; $2 cutoff. An act that no daemon has logged stays until one has.
const PRUNE_ACTS: &str = "
DELETE FROM acts WHERE id IN (
    SELECT id FROM (SELECT id, updated_at, logged FROM acts ORDER BY id LIMIT $1) AS first WHERE updated_at < $2 AND logged)";

const PRUNING: &str = "prune";

impl Store {
    /// See [`crate::queue::Queue::upkeep`].
    pub(super) async fn upkeep_step(&mut self, cutoff: Option<Timestamp>) -> Result<Upkeep, StoreError> {
        let Some(cutoff) = cutoff else { return Ok(Upkeep { removed: 0, more: false }) };
        if self.is_at_labels {
            let step = self.prune_labels(cutoff).await?;
            self.is_at_labels = step.more;
            return Ok(step);
        }
        let step = self.prune(cutoff).await?;
        self.is_at_labels = !step.more;
        Ok(Upkeep { more: true, ..step })
    }

    /// Goes through the next rows, and removes those that were settled before `cutoff`; and some of the requests and acts that are as old.
    async fn prune(&mut self, cutoff: Timestamp) -> Result<Upkeep, StoreError> {
        let after = self.prune_after;
        let end =
            async |conn: &mut PgConnection| sqlx::query_scalar(END).bind(after).bind(STRETCH).fetch_one(conn).await;
        let last: Option<i64> = self.run(PRUNING, end).await?;
        let step = async |conn: &mut PgConnection| {
            let mut removed = 0;
            if let Some(last) = last {
                let rows = sqlx::query(PRUNE).bind(after).bind(last).bind(cutoff.0).execute(&mut *conn).await?;
                removed += rows.rows_affected();
            }
            let requests = sqlx::query(PRUNE_REQUESTS).bind(FEW).bind(cutoff.0).fetch_one(&mut *conn).await?;
            removed += u64::try_from(requests.try_get::<i64, _>(0)?).unwrap_or(0);
            removed += sqlx::query(PRUNE_ACTS).bind(FEW).bind(cutoff.0).execute(conn).await?.rows_affected();
            Ok(removed)
        };
        let removed = self.run(PRUNING, step).await?;
        // At the end of the table, start again.
        self.prune_after = last.unwrap_or(0);
        Ok(Upkeep { removed, more: last.is_some() || removed > 0 })
    }
}
