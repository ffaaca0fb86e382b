//! Whether what was written is there. SQLite calls a statement done of which a trigger of somebody else's has left out or
//! undone a part. Claims are counted each time, because nothing may be sent that is not on record. All else is looked for only
//! while there is something of somebody else's in the tables, which each transaction knows of.

use std::fmt::Write as _;

use super::{Transaction, errors::StoreError, rows::json, trust::not_done};
use crate::{
    model::{deletion::RequestId, hold::HoldChange},
    queue::{Claim, Settlement},
};

/// How many claims there are. Fails, and so ends its script before the COMMIT, unless the statement before has inserted as many:
/// outside of a trigger, SQL has no other way to fail on purpose.
pub(super) const COUNTED: &str = "SELECT 1 WHERE abs(CASE changes() WHEN ? THEN 0 ELSE -9223372036854775808 END) > 0";
/// First and last id; what [`on_record`] says of the claims. Fails unless the table says the same.
pub(super) const ON_RECORD: &str = "
SELECT 1 WHERE abs(CASE WHEN (
    SELECT group_concat(claim, '') FROM (
        SELECT concat_ws(' ', id, correlation_id, agent_id, kind, size, deletion_ids) || x'0a' AS claim FROM requests NOT INDEXED
        WHERE id BETWEEN ? AND ? AND answered_at IS NULL ORDER BY id)
) IS ? THEN 0 ELSE -9223372036854775808 END) > 0";
/// What SQLite says then.
const NOT_CLAIMED: &str = "integer overflow";

/// ?1 requests: [id, …]. Those that have no answer.
const UNANSWERED: &str = "
SELECT id FROM requests WHERE id IN (SELECT value FROM json_each(?1)) AND answered_at IS NULL";

/// ?1 rows: [[id, whether it has reached its end, request], …]; ?2 requests: [id, …]. How many of them are as they were before
/// they were settled. A row that somebody took out, or that has another state, is not meant.
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

/// Claims as [`ON_RECORD`] reads them.
pub(super) fn on_record(claims: &[Claim]) -> String {
    let mut text = String::new();
    for Claim { request, correlation_id, batch } in claims {
        let (agent, kind, size) = (batch.lane().agent.as_str(), batch.kind().as_str(), batch.len());
        // A String takes whatever is written.
        let _ = write!(text, "{} {correlation_id} {agent} {kind} {size} ", request.0);
        for (n, row) in batch.deletions().iter().enumerate() {
            let _ = write!(text, "{}{}", if n == 0 { '[' } else { ',' }, row.id.0);
        }
        text.push_str("]\n");
    }
    text
}

impl Transaction<'_> {
    /// Whether anything of somebody else's may have a say in what is written.
    pub(super) fn is_interfered_with(&self) -> bool {
        !self.foreign.is_empty()
    }

    /// Says that something was left out or undone, and by what that may have been.
    pub(super) fn not_done(&self, doing: &'static str, said: String) -> StoreError {
        self.error(doing, not_done(said, self.foreign))
    }

    /// That claims are not on record, if that is what ended their script.
    pub(super) fn claim_error(&self, claims: usize, error: StoreError) -> StoreError {
        let said = error.source.as_database_error().is_some_and(|said| said.message() == NOT_CLAIMED);
        if !said {
            return error;
        }
        self.not_done("claim", format!("of {claims} requests that were about to be sent, some are not on record"))
    }

    /// Those of these requests that wait for their answer.
    pub(super) async fn unanswered(
        &mut self,
        requests: impl Iterator<Item = RequestId>,
    ) -> Result<Vec<RequestId>, StoreError> {
        let ids: Vec<i64> = requests.map(|request| request.0).collect();
        let found = sqlx::query_scalar(UNANSWERED).bind(json(&ids)).fetch_all(&mut *self.conn).await;
        let found: Vec<i64> = found.map_err(|source| self.error("settle", source))?;
        Ok(found.into_iter().map(RequestId).collect())
    }

    /// Fails unless what became of these requests and of their rows is written, as far as they were `open`.
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
                let said =
                    format!("what became of {rows} rows and {requests} requests is not there after it was written");
                Err(self.not_done("settle", said))
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
