//! Removes requests that are old enough: see [`crate::queue::prune_walk`].

use sqlx::PgConnection;

use crate::queue::Cutoff;

/// $1 the id after which to read; $2 the number of requests; $3 cutoff; $4 the cutoff of evidence. An old request stays while it
/// names a row for which there is a wish with a label. With EXISTS, the server could read all wishes for each stretch. Returns the last one
/// read, if there was an old one, and the number of those removed. Remembers the highest id, which must not be given out again.
///
/// Requests are answered roughly in the order of their ids, so the walk ends at a stretch without an old one.
const PRUNE: &str = "
WITH stretch AS MATERIALIZED (SELECT id, answered_at, deletion_ids FROM requests WHERE id > $1 ORDER BY id LIMIT $2),
pruned AS (
    DELETE FROM requests WHERE id IN (
        SELECT id FROM stretch WHERE answered_at < $3 AND (answered_at < $4 OR (
            SELECT 1 FROM deletions_known AS named WHERE named.id = ANY (stretch.deletion_ids) AND (named.label IS NOT NULL OR (
                SELECT 1 FROM wishes WHERE wishes.agent_id = named.agent_id AND wishes.entry_id = named.entry_id AND wishes.label <> ''
                LIMIT 1) IS NOT NULL)
            LIMIT 1) IS NULL))
    RETURNING id
),
highest AS (
    UPDATE leadership SET last_request = (SELECT max(id) FROM pruned) WHERE last_request < (SELECT max(id) FROM pruned)
)
SELECT (SELECT max(id) FROM stretch WHERE EXISTS (SELECT 1 FROM stretch WHERE answered_at < $3)), (SELECT count(*) FROM pruned)";

/// Removes those of the next requests that are old enough. Returns the request behind which the next step goes on, `None` if there are no
/// more old ones, and the number of those removed.
pub(super) async fn remove(
    conn: &mut PgConnection,
    after: i64,
    cutoff: Cutoff,
    few: i64,
) -> Result<(Option<i64>, u64), sqlx::Error> {
    let query = sqlx::query_as(PRUNE).bind(after).bind(few).bind(cutoff.settled.0).bind(cutoff.evidence.0);
    let (last, removed): (Option<i64>, i64) = query.fetch_one(conn).await?;
    Ok((last, u64::try_from(removed).unwrap_or(0)))
}
