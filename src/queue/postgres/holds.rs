//! Writes the changes of holds.

use sqlx::PgConnection;

use super::verify::{hold_message, is_changed};

use crate::model::{
    clock::Timestamp,
    hold::HoldChange,
    outcome::{Cause, Scope},
};

/// A hold takes the place of the one with its scope and cause, whoever placed that.
const PLACE: &str = "
INSERT INTO holds (scope, cause, since_at, until_at, repeats, probed_at) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (scope, cause) DO UPDATE SET since_at = excluded.since_at, until_at = excluded.until_at, repeats = excluded.repeats,
    probed_at = excluded.probed_at, why = NULL";
/// Lifts only the hold that the daemon knows: an operator may have replaced it since.
const LIFT: &str = "DELETE FROM holds WHERE scope = $1 AND cause = $2 AND until_at IS NOT DISTINCT FROM $3";
/// $1 now; $2 the daemon's own causes; $3 scopes
const LIFT_OVER: &str = "DELETE FROM holds WHERE scope = ANY ($3) AND until_at <= $1 AND cause <> ALL ($2)";

/// As [`LIFT_OVER`]. Counts those that are still there.
const STILL_OVER: &str = "SELECT count(*) FROM holds WHERE scope = ANY ($3) AND until_at <= $1 AND cause <> ALL ($2)";

/// Changes of holds that are not written yet, in their order.
#[derive(Debug, Default)]
pub(super) struct HoldWrites {
    changes: Vec<HoldChange>,
    /// Scopes of which people's holds that are over by this time go.
    over: Vec<(Vec<Scope>, Timestamp)>,
}

impl HoldWrites {
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.over.is_empty()
    }

    pub(super) fn change(&mut self, changes: &[HoldChange]) {
        self.changes.extend_from_slice(changes);
    }

    /// Removes the holds on `scopes` that people placed and that are over. A hold that a person has since prolonged stays.
    pub(super) fn lift_over(&mut self, scopes: &[Scope], now: Timestamp) {
        self.over.push((scopes.to_vec(), now));
    }

    /// Writes them. Looks whether they are there if nothing was changed, or if there is a doubt: the message about one that is not.
    pub(super) async fn write(&self, conn: &mut PgConnection, doubts: bool) -> Result<Option<String>, sqlx::Error> {
        for change in &self.changes {
            let query = match change {
                HoldChange::Placed { row, .. } => sqlx::query(PLACE)
                    .bind(row.scope.as_str())
                    .bind(row.cause.as_str())
                    .bind(row.since_at.0)
                    .bind(row.until_at.map(|at| at.0))
                    .bind(i64::from(row.repeats))
                    .bind(row.probed_at.map(|at| at.0)),
                HoldChange::Lifted { scope, cause, until_at } => {
                    sqlx::query(LIFT).bind(scope.as_str()).bind(cause.as_str()).bind(until_at.map(|at| at.0))
                }
            };
            let changed = query.execute(&mut *conn).await?.rows_affected();
            // An operator may have lifted or changed the hold meanwhile.
            if (doubts || changed == 0) && !is_changed(conn, change).await? {
                return Ok(Some(hold_message(change)));
            }
        }
        let ours: Vec<&str> =
            Cause::ALL.into_iter().filter(|cause| !cause.is_of_a_command()).map(Cause::as_str).collect();
        for (scopes, now) in &self.over {
            let scopes: Vec<&str> = scopes.iter().map(Scope::as_str).collect();
            let lifted = sqlx::query(LIFT_OVER).bind(now.0).bind(&ours).bind(&scopes).execute(&mut *conn).await?;
            if doubts || lifted.rows_affected() < scopes.len() as u64 {
                let left = sqlx::query_scalar(STILL_OVER).bind(now.0).bind(&ours).bind(&scopes);
                let left: i64 = left.fetch_one(&mut *conn).await?;
                if left > 0 {
                    return Ok(Some(format!("{left} holds are still there after they were lifted")));
                }
            }
        }
        Ok(None)
    }
}
