//! Counts rows on a connection of its own, because that takes longer than a turn of the worker may.

use std::time::Duration;

use sqlx::{Connection as _, PgConnection, Row as _, postgres::PgRow};

use super::{Options, errors::StoreError, listing, listing::with_lanes, session::within};
use crate::{
    model::{
        clock::Timestamp,
        hold::{HoldRow, HoldsByScope},
        outcome::Cause,
    },
    queue::{self, Census, Tally, rows::waited},
};

/// $1 now. A wish that is not taken in yet counts as the row that it will most likely be.
const COUNTS: &str = "
SELECT sum(pending)::bigint, sum(due)::bigint, (SELECT count(*) FROM deletions_known WHERE state = 'dead'), sum(inbox)::bigint FROM (
    SELECT count(*) AS pending, count(*) FILTER (WHERE due_at <= $1) AS due, 0 AS inbox
    FROM deletions_known WHERE state = 'pending'
    UNION ALL SELECT count(*), count(*) FILTER (WHERE due_at <= $1), count(*) FROM deletions_new
) AS counts";

/// Two rows of each lane: the one that goes next, and the first with a due time. A release gives a row a new due time, and rows that
/// were enqueued since, which are due since 0, go before it. O(lanes).
const FIRST_ROWS: &str = with_lanes!(
    "SELECT agent_id, due_at, created_at, last_cause FROM lane
UNION ALL
SELECT lane.agent_id, next.due_at, next.created_at, next.last_cause FROM lane CROSS JOIN LATERAL (
    SELECT due_at, created_at, last_cause FROM deletions_known AS known
    WHERE state = 'pending' AND known.priority = lane.priority AND known.agent_id = lane.agent_id
        AND known.batch_max = lane.batch_max AND known.due_at > 0
    ORDER BY due_at, id LIMIT 1) AS next"
);

/// A count has ended by then, also if the server is silent.
const COUNTED_WITHIN: Duration = Duration::from_secs(70);

/// Counts the rows of a queue on a connection of its own.
#[derive(Clone, Debug)]
pub struct Counter {
    options: Options,
}

impl Counter {
    /// Counts in this database. No daemon need lead.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self { options }
    }
}

impl queue::Counter for Counter {
    type Error = StoreError;

    async fn census(&self, now: Timestamp) -> Result<Census, StoreError> {
        let counted = async {
            let mut conn = self.options.address.connect().await?;
            sqlx::raw_sql("SET search_path = sweeper; SET statement_timeout = '60s'").execute(&mut conn).await?;
            let counted = census(&mut conn, now).await;
            // Whatever became of it: what was counted is counted.
            let _ = conn.close().await;
            counted
        };
        within(COUNTED_WITHIN, counted).await.map_err(|source| StoreError::new(&self.options.address, "count", source))
    }
}

async fn census(conn: &mut PgConnection, now: Timestamp) -> Result<Census, sqlx::Error> {
    let counts = sqlx::query_as(COUNTS).bind(now.0).fetch_one(&mut *conn).await?;
    let (pending, due, dead, inbox): (i64, i64, i64, i64) = counts;
    let holds = listing::holds(conn).await?;
    let waiting = waiting(conn, &holds, now).await?;
    let count = |n: i64| u64::try_from(n).unwrap_or(0);
    let oldest_due = waiting.into_iter().map(|(_, age)| age).max().unwrap_or_default();
    let inbox = Some(count(inbox));
    let tally = Tally { pending: count(pending), due: count(due), inbox, dead: count(dead), oldest_due };
    Ok(Census { tally, holds: holds.iter().map(|hold| hold.cause).collect() })
}

/// For how long the oldest rows have been due, with their agents: up to two rows for each lane.
pub(super) async fn waiting(
    conn: &mut PgConnection,
    holds: &[HoldRow],
    now: Timestamp,
) -> Result<Vec<(String, Duration)>, sqlx::Error> {
    let holds = HoldsByScope::new(holds);
    let age = |row: &PgRow| {
        let (agent, cause): (String, Option<&str>) = (row.try_get(0)?, row.try_get(3)?);
        let age = waited(&agent, (row.try_get(1)?, row.try_get(2)?), cause.and_then(Cause::parse), &holds, now);
        Ok((agent, age))
    };
    sqlx::query(FIRST_ROWS).fetch_all(conn).await?.iter().map(age).collect()
}
