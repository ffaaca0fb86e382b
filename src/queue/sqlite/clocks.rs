//! Repairs the times that a wall clock wrote while it was ahead.

use std::time::Duration;

use sqlx::SqliteConnection;

use super::{Store, StoreError, step_limit::SOME_ROWS};
use crate::model::{clock::Timestamp, deletion::RequestId};

/// One step reads this number of requests, to find one that was answered in the future.
const STRETCH: u32 = 20_000;
/// One step repairs the rows of this number of requests: at most 2,000 rows, which takes some milliseconds.
const STEP: i64 = 100;

/// ?1 now; ?2 the request before which to look; ?3 how many requests to read. Returns the newest that was answered in the future.
const AHEAD: &str = "
SELECT max(id) FROM (SELECT id, answered_at FROM requests WHERE id < ?2 ORDER BY id DESC LIMIT ?3)
WHERE answered_at > ?1 AND typeof(answered_at) = 'integer'";

/// ?1 now; ?2, ?3 the first and the last request; ?4 the longest delay of a retry. A row that is due later than its request can
/// have made it has its due time from a person, and keeps it.
const PUT_RIGHT: &str = "
UPDATE deletions SET due_at = ?1 + due_at - ahead.answered_at
FROM (
    SELECT requests.id AS request_id, answered_at, row.value AS deletion_id
    FROM requests CROSS JOIN json_each(iif(json_valid(deletion_ids), deletion_ids, '[]')) AS row
    WHERE requests.id BETWEEN ?2 AND ?3 AND answered_at > ?1 AND typeof(answered_at) = 'integer'
) AS ahead
WHERE deletions.id = ahead.deletion_id AND deletions.state = 'pending' AND deletions.request_id = ahead.request_id
    AND deletions.due_at > ?1 AND deletions.due_at BETWEEN ahead.answered_at AND ahead.answered_at + ?4";

/// The newest time that the daemon or a producer wrote, or 0.
const NEWEST: &str = "
SELECT max(
    coalesce((SELECT max(max(CAST(claimed_at AS INTEGER), coalesce(CAST(answered_at AS INTEGER), 0)))
        FROM (SELECT claimed_at, answered_at FROM requests ORDER BY id DESC LIMIT 1000)), 0),
    coalesce((SELECT CAST(created_at AS INTEGER) FROM deletions ORDER BY id DESC LIMIT 1), 0),
    coalesce((SELECT max(CAST(started_at AS INTEGER), CAST(updated_at AS INTEGER)) FROM daemon), 0))";

impl Store {
    /// See [`crate::queue::Queue::put_clock_right`].
    pub(super) async fn put_due_times_right(
        &mut self,
        before: RequestId,
        longest: Duration,
        now: Timestamp,
    ) -> Result<(Option<RequestId>, u64), StoreError> {
        let ahead = sqlx::query_scalar(AHEAD).bind(now.0).bind(before.0).bind(STRETCH);
        let ahead: Option<i64> =
            ahead.fetch_one(&mut *self.conn).await.map_err(|source| self.error("look for wrong due times", source))?;
        let Some(last) = ahead else { return Ok((None, 0)) };
        let first = last.saturating_sub(STEP - 1);
        let longest = i64::try_from(longest.as_millis()).unwrap_or(i64::MAX / 2);
        let mut write = self.begin_within(SOME_ROWS).await?;
        let query = sqlx::query(PUT_RIGHT).bind(now.0).bind(first).bind(last).bind(longest);
        let rows = write.execute("repair due times", query).await?;
        write.finish().await?;
        Ok((Some(RequestId(first)), rows))
    }
}

/// The newest time in the file, if there is any.
pub(super) async fn newest_time(conn: &mut SqliteConnection) -> Result<Option<Timestamp>, sqlx::Error> {
    let newest: i64 = sqlx::query_scalar(NEWEST).fetch_one(conn).await?;
    Ok((newest > 0).then_some(Timestamp(newest)))
}
