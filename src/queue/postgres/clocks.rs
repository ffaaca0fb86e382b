//! Repairs the times that a wall clock wrote while it was ahead.

use std::time::Duration;

use sqlx::PgConnection;

use super::{Store, errors::StoreError};
use crate::model::{clock::Timestamp, deletion::RequestId};

/// One step reads this number of requests, to find one that was answered in the future.
const STRETCH: i64 = 20_000;
/// One step repairs the rows of this number of requests: at most 2,000 rows.
const STEP: i64 = 100;

/// $1 now; $2 the request before which to look; $3 how many requests to read. Returns the newest that was answered in the future.
const AHEAD: &str = "
SELECT max(id) FROM (SELECT id, answered_at FROM requests WHERE id < $2 ORDER BY id DESC LIMIT $3) AS newest WHERE answered_at > $1";

/// $1 now; $2, $3 the first and the last request; $4 the longest delay of a retry. A row that is due later than its request can have
/// made it has its due time from a person, and keeps it.
const PUT_RIGHT: &str = "
UPDATE deletions_known AS known SET due_at = $1 + due_at - ahead.answered_at
FROM (
    SELECT requests.id AS request_id, answered_at, named.id AS deletion_id
    FROM requests CROSS JOIN LATERAL unnest(deletion_ids) AS named (id)
    WHERE requests.id BETWEEN $2 AND $3 AND answered_at > $1
) AS ahead
WHERE known.id = ahead.deletion_id AND known.settled_at IS NULL AND known.request_id = ahead.request_id
    AND known.due_at > $1 AND known.due_at BETWEEN ahead.answered_at AND ahead.answered_at + $4";

/// The newest time that a daemon or a producer wrote.
const NEWEST: &str = "
SELECT greatest(
    (SELECT max(greatest(claimed_at, answered_at)) FROM (SELECT * FROM requests ORDER BY id DESC LIMIT 1000) AS newest),
    (SELECT created_at FROM deletions_known ORDER BY id DESC LIMIT 1),
    (SELECT created_at FROM deletions_new ORDER BY id DESC LIMIT 1),
    (SELECT greatest(started_at, updated_at) FROM daemon))";

impl Store {
    /// See [`crate::queue::Queue::put_clock_right`].
    pub(super) async fn put_due_times_right(
        &mut self,
        before: RequestId,
        longest: Duration,
        now: Timestamp,
    ) -> Result<(Option<RequestId>, u64), StoreError> {
        let look = async |conn: &mut PgConnection| {
            sqlx::query_scalar(AHEAD).bind(now.0).bind(before.0).bind(STRETCH).fetch_one(conn).await
        };
        let ahead: Option<i64> = self.run("look for wrong due times", look).await?;
        let Some(last) = ahead else { return Ok((None, 0)) };
        let first = last.saturating_sub(STEP - 1);
        let longest = i64::try_from(longest.as_millis()).unwrap_or(i64::MAX / 2);
        let repair = async |conn: &mut PgConnection| {
            sqlx::query(PUT_RIGHT).bind(now.0).bind(first).bind(last).bind(longest).execute(conn).await
        };
        let rows = self.run("repair due times", repair).await?.rows_affected();
        self.cursors.clear();
        Ok((Some(RequestId(first)), rows))
    }
}

/// The newest time in the queue, if there is any.
pub(super) async fn newest_time(conn: &mut PgConnection) -> Result<Option<Timestamp>, sqlx::Error> {
    let newest: Option<i64> = sqlx::query_scalar(NEWEST).fetch_one(conn).await?;
    Ok(newest.filter(|newest| *newest > 0).map(Timestamp))
}
