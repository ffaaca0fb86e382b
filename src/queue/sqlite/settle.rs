//! Writes verdicts onto rows and answers onto requests.

use serde::Serialize;
use sqlx::{AssertSqlSafe, Row as _};

use super::{
    StoreError,
    rows::{Ending, RowsOfRequests, answer, endings, json, returning},
    tx::{DATA_VERSION, Query, Transaction},
};
use crate::{model::outcome::Cause, queue::Settlement};

/// The values for rows that have reached their end (state, cause, counted, batch_max, asks, maybe_done, settled_at), and the rows:
/// {id: request_id, …}. Rows of a request that already has an answer were settled before, and stay as they are.
///
/// Nearly all rows of a queue pass through this statement, and it costs more than anything else of a turn. So the values that all
/// rows share are parameters, which SQLite need not take out of JSON.
pub(super) const SETTLE_ENDED: &str = "
UPDATE deletions NOT INDEXED SET
    state = ?,
    last_cause = ?,
    attempts = attempts + ?,
    batch_max = coalesce(?, batch_max),
    asks = ?,
    maybe_done = max(maybe_done, ?),
    settled_at = ?,
    request_id = ended.value
FROM json_each(?) AS ended
WHERE deletions.id = CAST(ended.key AS INTEGER) AND deletions.state = 'pending'
  AND EXISTS (SELECT 1 FROM requests WHERE requests.id = ended.value AND answered_at IS NULL)";

/// Groups of rows that come back: [[request_id, cause, counted, due_at, batch_max, asks, maybe_done,
/// [deletion id, …], first_fault, evidence], …]. A group whose request already has an answer was settled before.
///
/// MATERIALIZED, so that SQLite looks up each judged row by its id, and does not search the judgements for each row.
pub(super) const SETTLE_RETURNING: &str = "
WITH groups AS MATERIALIZED (
    SELECT value->>0 AS request_id, value->>1 AS cause, value->>2 AS counted, value->>3 AS due_at,
           value->>4 AS batch_max, value->>5 AS asks, value->>6 AS maybe_done, value->'$[7]' AS ids,
           value->>8 AS first_fault, value->>9 AS evidence
    FROM json_each(?)
    WHERE EXISTS (SELECT 1 FROM requests WHERE id = value->>0 AND answered_at IS NULL)
),
judged AS MATERIALIZED (
    SELECT request_id, cause, counted, due_at, batch_max, asks, maybe_done, first_fault, evidence, row.value AS deletion_id
    FROM groups CROSS JOIN json_each(groups.ids) AS row
)
UPDATE deletions NOT INDEXED SET
    last_cause = judged.cause,
    attempts = attempts + judged.counted,
    due_at = judged.due_at,
    batch_max = coalesce(judged.batch_max, deletions.batch_max),
    asks = judged.asks,
    maybe_done = max(deletions.maybe_done, judged.maybe_done),
    request_id = judged.request_id,
    first_fault = judged.first_fault,
    evidence = judged.evidence,
    settled_at = NULL
FROM judged
WHERE deletions.id = judged.deletion_id AND deletions.state = 'pending'";

/// Answers: [[id, answered_at, status, deleted, absent, retried, dead, fault, detail, remote_id, verdicts], …]
pub(super) const SETTLE_REQUESTS: &str = "
UPDATE requests SET
    answered_at = answer.value->>1, status = answer.value->>2, deleted = answer.value->>3,
    absent = answer.value->>4, retried = answer.value->>5, dead = answer.value->>6, fault = answer.value->>7,
    detail = answer.value->>8, remote_id = answer.value->>9, verdicts = answer.value->'$[10]'
FROM json_each(?) AS answer
WHERE requests.id = answer.value->>0 AND requests.answered_at IS NULL";

/// The most endings in one script. sqlx keeps a prepared script of each length, and each ending takes 16 KiB of it.
const ENDINGS_AT_ONCE: usize = 4;

/// Binds the parameters of one [`SETTLE_ENDED`] for each ending.
fn bind_endings<'q>(query: Query<'q>, endings: &[(Ending, RowsOfRequests)]) -> Query<'q> {
    endings.iter().fold(query, |query, (ending, rows)| {
        query
            .bind(ending.state.as_str())
            .bind(ending.cause.map(Cause::as_str))
            .bind(ending.counted)
            .bind(ending.batch_max)
            .bind(ending.asks)
            .bind(ending.maybe_done)
            .bind(ending.settled_at.0)
            .bind(json(rows))
    })
}

impl Transaction<'_> {
    /// See [`crate::queue::Tx::settle`]. Reads the outcome back if foreign triggers may have changed it.
    pub(super) async fn settle_checked<'s>(
        &mut self,
        settlements: impl Iterator<Item = &'s Settlement> + Clone,
    ) -> Result<(), StoreError> {
        let answers: Vec<_> = settlements.clone().map(answer).collect();
        if answers.is_empty() {
            return Ok(());
        }
        if !self.is_interfered_with() {
            return self.settle_all(settlements, answers).await;
        }
        let open = self.unanswered(settlements.clone().map(|settlement| settlement.request)).await?;
        self.settle_all(settlements.clone(), answers).await?;
        self.assert_settled(settlements, &open).await
    }

    pub(super) async fn settle_all<'s>(
        &mut self,
        settlements: impl Iterator<Item = &'s Settlement> + Clone,
        answers: Vec<impl Serialize>,
    ) -> Result<(), StoreError> {
        let (endings, returning) = (endings(settlements.clone()), settlements.flat_map(returning).collect::<Vec<_>>());
        let mut endings = endings.chunks(ENDINGS_AT_ONCE);
        let last = endings.next_back().unwrap_or_default();
        for some in endings {
            let script = AssertSqlSafe(vec![SETTLE_ENDED; some.len()].join(";"));
            self.execute("settle", bind_endings(sqlx::query(script), some)).await?;
        }
        // One script: SQLite runs on sqlx's thread, and each round trip to it costs as much as eighty rows.
        let mut statements = vec![SETTLE_ENDED; last.len()];
        statements.extend((!returning.is_empty()).then_some(SETTLE_RETURNING));
        // The requests must come after the rows: the statements above skip the rows of answered requests.
        statements.extend([SETTLE_REQUESTS, DATA_VERSION]);
        let mut query = bind_endings(sqlx::query(AssertSqlSafe(statements.join(";"))), last);
        if !returning.is_empty() {
            query = query.bind(json(&returning));
        }
        let version = query.bind(json(&answers)).fetch_one(&mut *self.conn).await;
        let version = version.and_then(|row| row.try_get(0));
        self.version = Some(version.map_err(|source| self.error("settle", source))?);
        Ok(())
    }
}
