//! Places and lifts holds, for `sweeper hold` and `sweeper release`.

use sqlx::{PgConnection, Row as _};

use super::{
    errors::StoreError,
    producer::Producer,
    rows::{hold_columns, hold_row},
};
use crate::{
    model::{
        clock::Timestamp,
        hold::HoldRow,
        outcome::{Cause, Scope},
    },
    queue::{Concerned, Place, Released},
};

/// $1 scope
const OPERATOR_S: &str =
    concat!("SELECT ", hold_columns!(), " FROM holds WHERE scope = $1 AND cause = 'operator' FOR UPDATE");

/// $1 scope; $2 since; $3 until; $4 why
const HOLD: &str = "
INSERT INTO holds (scope, since_at, until_at, why) VALUES ($1, $2, $3, $4)
ON CONFLICT (scope, cause) DO UPDATE SET
    since_at = excluded.since_at, until_at = excluded.until_at, why = excluded.why, repeats = 0, probed_at = NULL";

/// $1 scope or NULL; $2 causes
const RELEASE: &str = concat!(
    "DELETE FROM holds WHERE ($1::text IS NULL OR scope = $1) AND cause = ANY ($2) RETURNING ",
    hold_columns!()
);

const HOLDS: &str = concat!("SELECT ", hold_columns!(), " FROM holds");

/// $1 agent or NULL. Pending rows with the wishes in the inbox, and those of them in requests without an answer.
const CONCERNED: &str = "
SELECT (SELECT count(*) FROM deletions WHERE state = 'pending' AND ($1::text IS NULL OR agent_id = $1))
        + (SELECT count(*) FROM deletions WHERE state = 'new' AND ($1::text IS NULL OR agent_id = $1)),
    (SELECT coalesce(sum(size), 0) FROM requests WHERE answered_at IS NULL AND ($1::text IS NULL OR agent_id = $1))";

impl Producer {
    /// Places an operator's hold, in the place of one that is there, which is returned. Requests that are claimed after this keep to
    /// the hold.
    ///
    /// # Errors
    /// If the server fails; then nothing is changed.
    pub async fn hold(&mut self, place: &Place, now: Timestamp) -> Result<Option<HoldRow>, StoreError> {
        let scope = place.scope.as_str();
        self.change("place a hold", now, async |conn: &mut PgConnection| {
            let before = sqlx::query(OPERATOR_S).bind(scope).fetch_optional(&mut *conn).await?;
            // The table takes such a time for seconds.
            let since = if now < Timestamp::LEAST_DUE { Timestamp::ZERO } else { now };
            let query = sqlx::query(HOLD).bind(scope).bind(since.0).bind(place.until_at.map(|at| at.0));
            query.bind(&place.why).execute(conn).await?;
            Ok((1, before.as_ref().and_then(hold_row)))
        })
        .await
    }

    /// The rows that a hold on `scope` concerns.
    ///
    /// # Errors
    /// If the server fails.
    pub async fn concerned(&mut self, scope: &Scope) -> Result<Concerned, StoreError> {
        let agent = match scope {
            Scope::All => None,
            Scope::Agent(agent) => Some(agent.as_str()),
        };
        let query = sqlx::query(CONCERNED).bind(agent);
        let count = async |conn: &mut PgConnection| query.fetch_one(conn).await;
        let counts = self.look("count the rows that a hold concerns", count).await?;
        let number = |column: usize| u64::try_from(counts.try_get::<i64, _>(column).unwrap_or(0)).unwrap_or(0);
        Ok(Concerned { pending: number(0), in_flight: number(1) })
    }

    /// Lifts the holds with these causes, on `scope` or wherever they are.
    ///
    /// # Errors
    /// If the server fails; then nothing is changed.
    pub async fn release(
        &mut self,
        scope: Option<&Scope>,
        causes: &[Cause],
        now: Timestamp,
    ) -> Result<Released, StoreError> {
        let (scope, causes) = (scope.map(Scope::as_str), causes.iter().map(|cause| cause.as_str()).collect::<Vec<_>>());
        self.change("lift holds", now, async |conn: &mut PgConnection| {
            let lifted = sqlx::query(RELEASE).bind(scope).bind(&causes).fetch_all(&mut *conn).await?;
            let left = sqlx::query(HOLDS).fetch_all(conn).await?;
            let rows = |rows: &[sqlx::postgres::PgRow]| rows.iter().filter_map(hold_row).collect();
            Ok((lifted.len() as u64, Released { lifted: rows(&lifted), left: rows(&left) }))
        })
        .await
    }
}
