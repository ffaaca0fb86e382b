//! Finds the requests that are old enough to be removed: see [`crate::queue::prune_walk`].

/// ?1 the id after which to read; ?2 the number of requests; ?3 cutoff; ?4 the cutoff of evidence; ?5 the most to remove. Returns the
/// old ones, each with whether it may go: an old request stays while it names a row for which there is a wish with a label.
///
/// Requests are answered roughly in the order of their ids, so the walk ends at a stretch without an old one.
pub(super) const LOOK: &str = "
WITH stretch AS MATERIALIZED (SELECT id, answered_at, deletion_ids FROM requests WHERE id > ?1 ORDER BY id LIMIT ?2),
old AS MATERIALIZED (
    SELECT id, answered_at < ?4 OR NOT EXISTS (
        SELECT 1 FROM json_each(iif(json_valid(deletion_ids), deletion_ids, '[]')) AS named
        CROSS JOIN deletions ON deletions.id = named.value
        WHERE deletions.label IS NOT NULL OR EXISTS (
            SELECT 1 FROM wishes WHERE wishes.label <> '' AND wishes.agent_id = deletions.agent_id
                AND wishes.entry_id = deletions.entry_id)) AS may_go
    FROM stretch WHERE answered_at < ?3),
going AS MATERIALIZED (SELECT id FROM old WHERE may_go ORDER BY id LIMIT ?5)
SELECT id, (SELECT max(id) FROM stretch) FROM going
UNION ALL SELECT NULL, (SELECT max(id) FROM stretch) WHERE EXISTS (SELECT 1 FROM old)";

/// ?1 ids: [id, …]
pub(super) const DELETE: &str = "DELETE FROM requests WHERE id IN (SELECT value FROM json_each(?1))";
