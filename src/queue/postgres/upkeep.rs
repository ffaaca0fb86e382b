//! Keeps the tables from growing for ever: removes old rows, a step at a time. The room that becomes free is used again; the server's
//! autovacuum sees to that, with the settings of our tables.

use sqlx::PgConnection;

use super::{Store, errors::StoreError, expired_acts, expired_requests};
use crate::queue::{Cutoff, Upkeep, prune_walk::PruneWalk};

/// One step of pruning goes through this number of rows.
pub(super) const STRETCH: i64 = 2_000;
/// A step removes up to this number each of requests and of acts.
const FEW: i64 = 200;

/// $1 the id after which to go on; $2 the number of rows. Returns the last of their ids.
const END: &str = "SELECT max(id) FROM (SELECT id FROM deletions_known WHERE id > $1 ORDER BY id LIMIT $2) AS stretch";
/// $1, $2 the ids after which and up to which to remove; $3 cutoff; $4 the cutoff of rows for which there is a wish with a label. A row
/// forgets a label that is cancelled, or that was fulfilled before the row was reopened. With EXISTS, the server could read all wishes for
/// each step.
const PRUNE: &str = "
DELETE FROM deletions_known AS row
WHERE id > $1 AND id <= $2 AND state <> 'pending' AND settled_at < $3 AND (settled_at < $4 OR (label IS NULL AND (
    SELECT 1 FROM wishes WHERE wishes.agent_id = row.agent_id AND wishes.entry_id = row.entry_id AND wishes.label <> ''
    LIMIT 1) IS NULL))";

const PRUNING: &str = "prune";

impl Store {
    /// See [`crate::queue::Queue::upkeep`].
    pub(super) async fn upkeep_step(&mut self, cutoff: Option<Cutoff>) -> Result<Upkeep, StoreError> {
        let Some(cutoff) = cutoff else { return Ok(Upkeep { removed: 0, more: false }) };
        if self.is_at_labels {
            let step = self.prune_labels(cutoff.evidence).await?;
            self.is_at_labels = step.more;
            return Ok(step);
        }
        let step = self.prune(cutoff).await?;
        self.is_at_labels = !step.more;
        Ok(Upkeep { more: true, ..step })
    }

    /// Goes through the next rows, requests and acts, and removes those that are old enough.
    async fn prune(&mut self, cutoff: Cutoff) -> Result<Upkeep, StoreError> {
        let walk = self.pruning;
        let rows: Option<i64> = match walk.rows {
            Some(after) => {
                let end = async |conn: &mut PgConnection| {
                    sqlx::query_scalar(END).bind(after).bind(STRETCH).fetch_one(conn).await
                };
                self.run(PRUNING, end).await?
            }
            None => None,
        };
        let step = async |conn: &mut PgConnection| {
            let (mut removed, mut requests, mut acts) = (0, None, None);
            if let (Some(after), Some(last)) = (walk.rows, rows) {
                let query = sqlx::query(PRUNE).bind(after).bind(last).bind(cutoff.settled.0).bind(cutoff.evidence.0);
                removed += query.execute(&mut *conn).await?.rows_affected();
            }
            if let Some(after) = walk.requests {
                let (last, count) = expired_requests::remove(conn, after, cutoff, FEW).await?;
                (requests, removed) = (last, removed + count);
            }
            if let Some(after) = walk.acts {
                let (last, count) = expired_acts::remove(conn, after, cutoff, FEW).await?;
                (acts, removed) = (last, removed + count);
            }
            Ok((requests, acts, removed))
        };
        let (requests, acts, removed) = self.run(PRUNING, step).await?;
        let walk = PruneWalk { rows, requests, acts };
        // At the end of all tables, start again.
        self.pruning = if walk.is_over() { PruneWalk::default() } else { walk };
        Ok(Upkeep { removed, more: !walk.is_over() || removed > 0 })
    }
}
