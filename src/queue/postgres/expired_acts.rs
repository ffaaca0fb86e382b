//! Removes acts that are old enough: see [`crate::queue::prune_walk`].

use sqlx::PgConnection;

use crate::queue::Cutoff;

/// $1 the id after which to read; $2 the number of acts; $3 the cutoff of evidence. An old act stays until a leader has logged it, and
/// while there are wishes with the label under which it enqueued: a wish can be open for longer than evidence is kept, and the act says who
/// made it. With EXISTS, the server could read all wishes for each stretch. Returns the last one read, if there was an old one, and the
/// number of those removed.
///
/// Acts are done roughly in the order of their ids, so the walk ends at a stretch without an old one.
const PRUNE: &str = "
WITH stretch AS MATERIALIZED (SELECT id, act, detail, updated_at, logged FROM acts WHERE id > $1 ORDER BY id LIMIT $2),
pruned AS (
    DELETE FROM acts WHERE updated_at < $3 AND logged AND id IN (
        SELECT id FROM stretch WHERE updated_at < $3 AND logged AND (
            act <> 'enqueue' OR detail IS NULL OR position(', label: ' IN detail) = 0 OR (
                SELECT 1 FROM wishes
                WHERE wishes.label = substr(detail, position(', label: ' IN detail) + length(', label: ')) LIMIT 1) IS NULL))
    RETURNING id
)
SELECT (SELECT max(id) FROM stretch WHERE EXISTS (SELECT 1 FROM stretch WHERE updated_at < $3)), (SELECT count(*) FROM pruned)";

/// Removes those of the next acts that are old enough. Returns the act behind which the next step goes on, `None` if there are no more old
/// ones, and the number of those removed.
pub(super) async fn remove(
    conn: &mut PgConnection,
    after: i64,
    cutoff: Cutoff,
    few: i64,
) -> Result<(Option<i64>, u64), sqlx::Error> {
    let query = sqlx::query_as(PRUNE).bind(after).bind(few).bind(cutoff.evidence.0);
    let (last, removed): (Option<i64>, i64) = query.fetch_one(conn).await?;
    Ok((last, u64::try_from(removed).unwrap_or(0)))
}
