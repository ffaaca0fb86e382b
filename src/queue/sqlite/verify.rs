//! Reads back what a transaction has written, before its commit. A trigger that another program adds can leave out or undo a part
//! of a statement, and SQLite calls the statement done.
//!
//! Claims are counted each time, because an ID must not be sent before its claim is on record. Everything else is read back only
//! while there are foreign triggers or the like, which each transaction knows.

use std::fmt::Write as _;

use super::{Transaction, errors::StoreError, interference::not_done, rows::json};
use crate::{
    model::{deletion::RequestId, hold::HoldChange},
    queue::{Claim, Settlement},
};

/// ?1 the number of claims. Overflows, and so ends its script before the COMMIT, unless the statement before inserted that many
/// rows. Outside of a trigger, SQL has no other way to fail on purpose.
pub(super) const COUNTED: &str = "SELECT 1 WHERE abs(CASE changes() WHEN ? THEN 0 ELSE -9223372036854775808 END) > 0";
/// The first and the last request id; the text of [`on_record`]. Overflows unless the table has the same claims.
pub(super) const ON_RECORD: &str = "
SELECT 1 WHERE abs(CASE WHEN (
    SELECT group_concat(claim, '') FROM (
        SELECT concat_ws(' ', id, correlation_id, agent_id, kind, size, deletion_ids) || x'0a' AS claim FROM requests NOT INDEXED
        WHERE id BETWEEN ? AND ? AND answered_at IS NULL ORDER BY id)
) IS ? THEN 0 ELSE -9223372036854775808 END) > 0";
/// SQLite's message about the overflow.
const NOT_CLAIMED: &str = "integer overflow";

/// ?1 requests: [id, …]. Returns those without an answer.
const UNANSWERED: &str = "
SELECT id FROM requests WHERE id IN (SELECT value FROM json_each(?1)) AND answered_at IS NULL";

/// ?1 rows: [[id, whether it has reached its end, request], …]; ?2 requests: [id, …]. Counts the rows and the requests that are as
/// they were before they were settled. A row that was removed, or that has another state, does not count.
pub(super) const UNSETTLED: &str = "
SELECT
    (SELECT count(*) FROM json_each(?1) AS judged CROSS JOIN deletions ON deletions.id = judged.value->>0
     WHERE deletions.state = 'pending' AND (judged.value->>1 OR deletions.request_id IS NOT judged.value->>2)),
    (SELECT count(*) FROM json_each(?2) AS answered CROSS JOIN requests ON requests.id = answered.value
     WHERE requests.answered_at IS NULL)";

/// ?1 rows: [id, …]
const STILL_PENDING: &str = "
SELECT count(*) FROM deletions WHERE id IN (SELECT value FROM json_each(?1)) AND state = 'pending'";

/// ?1 scope; ?2 cause; ?3 whether its end does not matter; ?4 its end
const IS_HELD: &str = "SELECT EXISTS (SELECT 1 FROM holds WHERE scope = ?1 AND cause = ?2 AND (?3 OR until_at IS ?4))";

/// The claims in the form that [`ON_RECORD`] compares with.
pub(super) fn on_record(claims: &[Claim]) -> String {
    let mut text = String::new();
    for Claim { request, correlation_id, batch } in claims {
        let (agent, kind, size) = (batch.lane().agent.as_str(), batch.kind().as_str(), batch.len());
        // Writing to a String cannot fail.
        let _ = write!(text, "{} {correlation_id} {agent} {kind} {size} ", request.0);
        for (n, row) in batch.deletions().iter().enumerate() {
            let _ = write!(text, "{}{}", if n == 0 { '[' } else { ',' }, row.id.0);
        }
        text.push_str("]\n");
    }
    text
}

impl Transaction<'_> {
    /// Whether a foreign trigger or the like can change what this transaction writes.
    pub(super) fn is_interfered_with(&self) -> bool {
        !self.foreign.is_empty()
    }

    /// The error of a change that is not there after it was written, with the names of what may be the cause.
    pub(super) fn not_done(&self, doing: &'static str, message: String) -> StoreError {
        self.error(doing, not_done(message, self.foreign))
    }

    /// Turns the overflow of [`COUNTED`] or [`ON_RECORD`] into an error that says what is missing. Returns any other error as it is.
    pub(super) fn claim_error(&self, claims: usize, error: StoreError) -> StoreError {
        let is_missing = error.source.as_database_error().is_some_and(|cause| cause.message() == NOT_CLAIMED);
        if !is_missing {
            return error;
        }
        self.not_done("claim", format!("not all of {claims} requests that were about to be sent are on record"))
    }

    /// Those of these requests that have no answer yet.
    pub(super) async fn unanswered(
        &mut self,
        requests: impl Iterator<Item = RequestId>,
    ) -> Result<Vec<RequestId>, StoreError> {
        let ids: Vec<i64> = requests.map(|request| request.0).collect();
        let found = sqlx::query_scalar(UNANSWERED).bind(json(&ids)).fetch_all(&mut *self.conn).await;
        let found: Vec<i64> = found.map_err(|source| self.error("settle", source))?;
        Ok(found.into_iter().map(RequestId).collect())
    }

    /// Fails unless the verdicts on the rows of these requests, and their answers, are in the tables. Checks only requests that were
    /// `open` before.
    pub(super) async fn assert_settled<'s>(
        &mut self,
        settlements: impl Iterator<Item = &'s Settlement>,
        open: &[RequestId],
    ) -> Result<(), StoreError> {
        let (mut rows, mut requests) = (Vec::new(), Vec::new());
        for settlement in settlements.filter(|settlement| open.contains(&settlement.request)) {
            let request = settlement.request.0;
            requests.push(request);
            rows.extend(settlement.rows.iter().map(|row| (row.id.0, row.verdict.due_at().is_none(), request)));
        }
        let query = sqlx::query_as(UNSETTLED).bind(json(&rows)).bind(json(&requests));
        let wrong: (i64, i64) =
            query.fetch_one(&mut *self.conn).await.map_err(|source| self.error("settle", source))?;
        match wrong {
            (0, 0) => Ok(()),
            (rows, requests) => {
                let message =
                    format!("the outcome of {rows} rows and {requests} requests is not there after it was written");
                Err(self.not_done("settle", message))
            }
        }
    }

    /// Fails if one of these rows is still pending.
    pub(super) async fn assert_dead(&mut self, ids: &[i64]) -> Result<(), StoreError> {
        let pending = sqlx::query_scalar(STILL_PENDING).bind(json(&ids)).fetch_one(&mut *self.conn).await;
        let pending: i64 = pending.map_err(|source| self.error("make invalid rows dead", source))?;
        if pending == 0 {
            return Ok(());
        }
        Err(self.not_done("make invalid rows dead", format!("{pending} rows that were made dead are still pending")))
    }

    /// Fails unless this hold is there, or gone.
    pub(super) async fn assert_hold(&mut self, change: &HoldChange) -> Result<(), StoreError> {
        let (scope, cause, until_at, is_placed) = match change {
            HoldChange::Placed { row, .. } => (&row.scope, row.cause, row.until_at, true),
            HoldChange::Lifted { scope, cause, until_at } => (scope, *cause, *until_at, false),
        };
        let query = sqlx::query_scalar(IS_HELD).bind(scope.as_str()).bind(cause.as_str()).bind(is_placed);
        let found = query.bind(until_at.map(|at| at.0)).fetch_one(&mut *self.conn).await;
        let is_there: bool = found.map_err(|source| self.error("change the holds", source))?;
        if is_there == is_placed {
            return Ok(());
        }
        let (scope, cause) = (scope.as_str(), cause.as_str());
        let how = if is_placed { "not there after it was placed" } else { "still there after it was lifted" };
        Err(self.not_done("change the holds", format!("the hold on {scope} for {cause} is {how}")))
    }
}
