//! Reads back what a transaction has written, before its commit. A trigger that somebody adds can leave out or undo a part of a
//! statement, and the server calls the statement done.
//!
//! A turn counts what it has changed. It is one statement that undoes itself if it changed less than it was told, or if there are other
//! triggers than at the last look ([`super::settle::TURN`]). Then the tables are looked at, and the turn is done again in a transaction
//! in which the rows are read back. So it is in every transaction while there are foreign triggers or the like.

use sqlx::{PgConnection, Row as _};

use super::{
    Store,
    errors::StoreError,
    settle::{Answered, bind_claims},
    tx::Transaction,
};
use crate::{model::hold::HoldChange, queue::Claim};

/// Foreign triggers that would run at the commit run now.
pub(super) const AT_ONCE: &str = "SET CONSTRAINTS ALL IMMEDIATE";

/// $1 to $6 claims. Counts those that are on record.
const ON_RECORD: &str = "
SELECT count(*) FROM unnest($1::bigint[], $2::uuid[], $3::text[], $4::text[], $5::smallint[], $6::text[])
    AS claim (id, correlation_id, agent_id, deletion_ids, size, kind)
JOIN requests ON requests.id = claim.id AND requests.correlation_id = claim.correlation_id AND requests.agent_id = claim.agent_id
    AND requests.deletion_ids = claim.deletion_ids::bigint[] AND requests.size = claim.size AND requests.kind = claim.kind
    AND requests.answered_at IS NULL";

/// $1, $2, $3 rows: id, request, and whether it has reached its end; $4 the requests that the statement has answered; $5 all that it
/// was to answer. Counts the rows and the requests that are as they were before. A row that was removed, or has another state, does not
/// count; nor does a row of a request that had its answer already.
const UNSETTLED: &str = "
SELECT (
    SELECT count(*) FROM unnest($1::bigint[], $2::bigint[], $3::boolean[]) AS judged (id, request_id, is_ended)
    JOIN deletions_known AS known ON known.id BETWEEN judged.id AND judged.id
    WHERE judged.request_id = ANY ($4) AND known.settled_at IS NULL
        AND (judged.is_ended OR known.request_id IS DISTINCT FROM judged.request_id)
), (SELECT count(*) FROM requests WHERE id = ANY ($5) AND answered_at IS NULL)";

/// $1 scope; $2 cause; $3 whether its end does not matter; $4 its end
const IS_HELD: &str = "
SELECT EXISTS (SELECT 1 FROM holds WHERE scope = $1 AND cause = $2 AND ($3 OR until_at IS NOT DISTINCT FROM $4))";

/// $1 rows
const STILL_PENDING: &str = "SELECT count(*) FROM deletions_known WHERE id = ANY ($1) AND settled_at IS NULL";

/// $1 acts. Counts those that are not marked.
const UNMARKED: &str = "SELECT count(*) FROM acts WHERE id = ANY ($1) AND NOT logged";

/// The error of a hold that is not as it was written.
pub(super) fn hold_message(change: &HoldChange) -> String {
    let (scope, cause, how) = match change {
        HoldChange::Placed { row, .. } => (&row.scope, row.cause, "not there after it was placed"),
        HoldChange::Lifted { scope, cause, .. } => (scope, *cause, "still there after it was lifted"),
    };
    format!("the hold on {} for {} is {how}", scope.as_str(), cause.as_str())
}

/// Whether a hold is as this change has written it.
pub(super) async fn is_changed(conn: &mut PgConnection, change: &HoldChange) -> Result<bool, sqlx::Error> {
    let (scope, cause, until_at, is_placed) = match change {
        HoldChange::Placed { row, .. } => (&row.scope, row.cause, row.until_at, true),
        HoldChange::Lifted { scope, cause, until_at } => (scope, *cause, *until_at, false),
    };
    let query = sqlx::query_scalar(IS_HELD).bind(scope.as_str()).bind(cause.as_str());
    let is_there: bool = query.bind(is_placed).bind(until_at.map(|at| at.0)).fetch_one(conn).await?;
    Ok(is_there == is_placed)
}

impl Store {
    /// The error of a change that is not there after it was written, with the names of what may be the cause.
    pub(super) fn not_done(&self, doing: &'static str, message: String) -> StoreError {
        StoreError::not_done(&self.options.address, doing, message, self.watch.changes())
    }

    /// Fails if one of these rows is still pending.
    pub(super) async fn assert_dead(&mut self, doing: &'static str, rows: &[i64]) -> Result<(), StoreError> {
        let count = async |conn: &mut PgConnection| sqlx::query_scalar(STILL_PENDING).bind(rows).fetch_one(conn).await;
        match self.run::<i64>(doing, count).await? {
            0 => Ok(()),
            rows => Err(self.not_done(doing, format!("{rows} rows that were made dead are still pending"))),
        }
    }
}

impl Transaction<'_> {
    /// Fails unless the rows and the requests of [`Answered`] are settled. Looks only if fewer were changed than were to be, or if
    /// foreign triggers may have changed them.
    pub(super) async fn assert_settled(&mut self, answered: &Answered) -> Result<(), StoreError> {
        if answered.is_whole() && !self.is_interfered_with() {
            return Ok(());
        }
        let count = async |conn: &mut PgConnection| {
            sqlx::raw_sql(AT_ONCE).execute(&mut *conn).await?;
            let row = answered.bind(sqlx::query(UNSETTLED)).fetch_one(conn).await?;
            Ok((row.try_get::<i64, _>(0)?, row.try_get::<i64, _>(1)?))
        };
        match self.store().run("settle", count).await? {
            (0, 0) => Ok(()),
            (rows, requests) => {
                let message =
                    format!("the outcome of {rows} rows and {requests} requests is not there after it was written");
                Err(self.not_done("settle", message))
            }
        }
    }

    /// Fails unless these claims are on record. Looks only if fewer were made than were to be, or if foreign triggers may have changed
    /// them.
    pub(super) async fn assert_claimed(&mut self, claims: &[Claim], claimed: usize) -> Result<(), StoreError> {
        let mut on_record = claimed;
        if self.is_interfered_with() && !claims.is_empty() {
            let count = async |conn: &mut PgConnection| {
                sqlx::raw_sql(AT_ONCE).execute(&mut *conn).await?;
                bind_claims(sqlx::query(ON_RECORD), claims).fetch_one(conn).await?.try_get(0)
            };
            on_record = usize::try_from(self.store().run::<i64>("claim", count).await?).unwrap_or(0);
        }
        if on_record == claims.len() {
            return Ok(());
        }
        let claims = claims.len();
        Err(self.not_done("claim", format!("not all of {claims} requests that were about to be sent are on record")))
    }

    /// Fails if one of these acts is not marked as logged.
    pub(super) async fn assert_marked(&mut self, acts: &[i64]) -> Result<(), StoreError> {
        let count = async |conn: &mut PgConnection| sqlx::query_scalar(UNMARKED).bind(acts).fetch_one(conn).await;
        match self.store().run::<i64>("mark the acts as logged", count).await? {
            0 => Ok(()),
            acts => {
                Err(self
                    .not_done("mark the acts as logged", format!("{acts} acts are not marked after they were written")))
            }
        }
    }
}
