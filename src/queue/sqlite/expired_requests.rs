//! Finds the requests that are old enough to be removed: see [`crate::queue::prune_walk`].

use super::{Store, StoreError, upkeep::STRETCH};
use crate::queue::Cutoff;

/// ?1 the id after which to read; ?2 the number of requests; ?3 cutoff; ?4 the cutoff of evidence; ?5 the most to remove. Returns the
/// old ones, each with whether it may go: an old request stays while a row with a label that it names is there.
///
/// Requests are answered roughly in the order of their ids, so the walk ends at a stretch without an old one.
pub(super) const LOOK: &str = "
WITH stretch AS MATERIALIZED (SELECT id, answered_at, deletion_ids FROM requests WHERE id > ?1 ORDER BY id LIMIT ?2),
old AS MATERIALIZED (
    SELECT id, answered_at < ?4 OR NOT EXISTS (
        SELECT 1 FROM json_each(iif(json_valid(deletion_ids), deletion_ids, '[]')) AS named
        CROSS JOIN deletions ON deletions.id = named.value AND deletions.label IS NOT NULL) AS may_go
    FROM stretch WHERE answered_at < ?3),
going AS MATERIALIZED (SELECT id FROM old WHERE may_go ORDER BY id LIMIT ?5)
SELECT id, (SELECT max(id) FROM stretch) FROM going
UNION ALL SELECT NULL, (SELECT max(id) FROM stretch) WHERE EXISTS (SELECT 1 FROM old)";

/// ?1 ids: [id, …]
pub(super) const DELETE: &str = "DELETE FROM requests WHERE id IN (SELECT value FROM json_each(?1))";

impl Store {
    /// Looks for up to `most` requests to remove. Returns the request behind which the next look goes on, `None` if there are no more old
    /// ones, and the ids.
    pub(super) async fn old_requests(
        &mut self,
        after: i64,
        cutoff: Cutoff,
        most: u32,
    ) -> Result<(Option<i64>, Vec<i64>), StoreError> {
        let found: Vec<(Option<i64>, i64)> = sqlx::query_as(LOOK)
            .bind(after)
            .bind(most.saturating_mul(STRETCH))
            .bind(cutoff.settled.0)
            .bind(cutoff.evidence.0)
            .bind(most)
            .fetch_all(&mut *self.conn)
            .await
            .map_err(|source| self.error("prune", source))?;
        let ids: Vec<i64> = found.iter().filter_map(|(id, _)| *id).collect();
        // If this look finds `most`, the next one goes on behind the last of them.
        let is_full = ids.len() >= usize::try_from(most).unwrap_or(usize::MAX);
        let last = if is_full { ids.last().copied() } else { found.first().map(|(_, last)| *last) };
        Ok((last, ids))
    }
}
