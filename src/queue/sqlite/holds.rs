//! Writes the changes of holds.

use super::{StoreError, rows::json, tx::Transaction};
use crate::model::{
    clock::Timestamp,
    hold::HoldChange,
    outcome::{Cause, Scope},
};

const PLACE_HOLD: &str = "
INSERT OR REPLACE INTO holds (scope, cause, since_at, until_at, repeats, probed_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
/// Lifts only the hold that the daemon knows: an operator may have replaced it since.
const LIFT_HOLD: &str = "DELETE FROM holds WHERE scope = ?1 AND cause = ?2 AND until_at IS ?3";

/// ?1 now; ?2 the daemon's own causes: [cause, …]; ?3 scopes: [scope, …]. An invalid cause counts as a person's.
macro_rules! over {
    ($before:literal) => {
        concat!(
            $before,
            " FROM holds
            WHERE scope IN (SELECT value FROM json_each(?3)) AND typeof(until_at) = 'integer' AND until_at <= ?1
                AND cause NOT IN (SELECT value FROM json_each(?2))"
        )
    };
}
const LIFT_OVER: &str = over!("DELETE");
const COUNT_OVER: &str = over!("SELECT count(*)");

const LIFTING: &str = "lift holds that are over";

impl Transaction<'_> {
    /// Writes changes of holds.
    pub(super) async fn write_holds(&mut self, changes: &[HoldChange]) -> Result<(), StoreError> {
        for change in changes {
            let query = match change {
                HoldChange::Placed { row, .. } => sqlx::query(PLACE_HOLD)
                    .bind(row.scope.as_str())
                    .bind(row.cause.as_str())
                    .bind(row.since_at.0)
                    .bind(row.until_at.map(|at| at.0))
                    .bind(row.repeats)
                    .bind(row.probed_at.map(|at| at.0)),
                HoldChange::Lifted { scope, cause, until_at } => {
                    sqlx::query(LIFT_HOLD).bind(scope.as_str()).bind(cause.as_str()).bind(until_at.map(|at| at.0))
                }
            };
            self.execute("change the holds", query).await?;
            if self.is_interfered_with() {
                self.assert_hold(change).await?;
            }
        }
        Ok(())
    }

    /// Removes the holds on `scopes` that people placed and that are over. A hold that a person has since prolonged stays.
    pub(super) async fn lift_those_over(&mut self, scopes: &[Scope], now: Timestamp) -> Result<(), StoreError> {
        let ours: Vec<&str> =
            Cause::ALL.into_iter().filter(|cause| !cause.is_of_a_command()).map(Cause::as_str).collect();
        let scopes: Vec<&str> = scopes.iter().map(Scope::as_str).collect();
        let (ours, scopes) = (json(&ours), json(&scopes));
        let query = sqlx::query(LIFT_OVER).bind(now.0).bind(&ours).bind(&scopes);
        self.execute(LIFTING, query).await?;
        if self.is_interfered_with() {
            let left = sqlx::query_scalar(COUNT_OVER).bind(now.0).bind(&ours).bind(&scopes).fetch_one(&mut *self.conn);
            let left: i64 = left.await.map_err(|source| self.error(LIFTING, source))?;
            if left > 0 {
                return Err(self.not_done(LIFTING, format!("{left} holds are still there after they were lifted")));
            }
        }
        Ok(())
    }
}
