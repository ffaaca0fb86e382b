//! Counts rows on a connection of its own, because that takes longer than a turn of the worker may.

use sqlx::{Connection as _, SqliteConnection};

use super::{
    Options, StoreError,
    connection::connect,
    reader, rows,
    second_look::seems_damaged,
    step_limit::{StepLimit, whole_file},
};
use crate::{
    model::clock::Timestamp,
    queue::{self, Census, Tally},
};

/// Counts the rows of a queue on a connection of its own.
#[derive(Clone, Debug)]
pub struct Counter {
    options: Options,
}

impl Counter {
    /// Counts in the file of these options. No daemon need work on it.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self { options }
    }

    async fn try_census(&self, now: Timestamp) -> Result<Census, StoreError> {
        let mut conn = connect(&self.options, true).await?;
        let counted = async {
            let steps = StepLimit::of(&mut conn).await?;
            let _budget = steps.allow(whole_file(&self.options.path));
            census(&mut conn, now).await
        };
        let counted = counted.await;
        // A dropped connection would close on sqlx's thread, perhaps as the last one that has the file open.
        let _ = conn.close().await;
        counted.map_err(|source| StoreError::new(&self.options.path, "count", source))
    }
}

impl queue::Counter for Counter {
    type Error = StoreError;

    /// Counts along the indexes.
    async fn census(&self, now: Timestamp) -> Result<Census, StoreError> {
        let first = self.try_census(now).await;
        if seems_damaged(&first).await { self.try_census(now).await } else { first }
    }
}

async fn census(conn: &mut SqliteConnection, now: Timestamp) -> Result<Census, sqlx::Error> {
    let (pending, due): (i64, i64) = sqlx::query_as(
        "SELECT count(*), coalesce(sum(due_at <= ?1), 0) FROM deletions INDEXED BY deletions_due
         WHERE state = 'pending'",
    )
    .bind(now.0)
    .fetch_one(&mut *conn)
    .await?;
    let dead = sqlx::query_scalar("SELECT count(*) FROM deletions WHERE state = 'dead'").fetch_one(&mut *conn).await?;
    let holds = rows::holds(conn).await?;
    let waiting = reader::waiting(conn, &holds, now).await?;
    let oldest_due = waiting.into_iter().map(|(_, age)| age).max().unwrap_or_default();
    let count = |n: i64| u64::try_from(n).unwrap_or(0);
    let tally = Tally { pending: count(pending), due: count(due), inbox: None, dead: count(dead), oldest_due };
    Ok(Census { tally, holds: holds.iter().map(|hold| hold.cause).collect() })
}
