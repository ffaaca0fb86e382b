//! Finds the acts that are old enough to be removed: see [`crate::queue::prune_walk`].

/// ?1 the id after which to read; ?2 the number of acts; ?4 the cutoff of evidence; ?5 the most to remove. Returns the old ones, each with
/// whether it may go: an old act stays until a daemon has logged it, and while there are wishes with the label under which it enqueued. A
/// wish can be open for longer than evidence is kept, and the act says who made it.
///
/// Acts are done roughly in the order of their ids, so the walk ends at a stretch without an old one.
pub(super) const LOOK: &str = "
WITH stretch AS MATERIALIZED (SELECT id, act, detail, updated_at, logged FROM acts WHERE id > ?1 ORDER BY id LIMIT ?2),
old AS MATERIALIZED (
    SELECT id, logged = 1 AND NOT (act = 'enqueue' AND instr(detail, ', label: ') > 0 AND EXISTS (
        SELECT 1 FROM wishes WHERE label = substr(detail, instr(detail, ', label: ') + length(', label: ')))) AS may_go
    FROM stretch WHERE updated_at < ?4),
going AS MATERIALIZED (SELECT id FROM old WHERE may_go ORDER BY id LIMIT ?5)
SELECT id, (SELECT max(id) FROM stretch) FROM going
UNION ALL SELECT NULL, (SELECT max(id) FROM stretch) WHERE EXISTS (SELECT 1 FROM old)";

/// ?1 ids: [id, …]; ?2 the cutoff of evidence. A command may have gone on since the look.
pub(super) const DELETE: &str =
    "DELETE FROM acts WHERE id IN (SELECT value FROM json_each(?1)) AND updated_at < ?2 AND logged = 1";
