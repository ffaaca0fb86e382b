//! Places and lifts holds, for `sweeper hold` and `sweeper release`.

use sqlx::{Row as _, SqliteConnection};

use super::{
    errors::StoreError,
    interference::not_done,
    producer::Producer,
    rows::{hold_row, holds, json},
    schema_watch::schema_changes,
    step_limit::whole_file,
};
use crate::{
    model::{
        clock::Timestamp,
        hold::HoldRow,
        outcome::{Cause, Scope},
    },
    queue::{Concerned, Place, Released},
};

/// ?1 scope; ?2 since; ?3 until; ?4 why. A trigger removes the hold that is there.
const HOLD: &str = "INSERT INTO holds (scope, since_at, until_at, why) VALUES (?1, ?2, ?3, ?4)";

/// ?1 scope
const OPERATOR_S: &str = "
SELECT scope, cause, since_at, until_at, repeats, probed_at, why FROM holds WHERE scope = ?1 AND cause = 'operator'";

/// ?1 scope or NULL; ?2 causes: [cause, …]; ?3 all known causes: [cause, …]. An invalid cause counts as an operator's.
macro_rules! chosen {
    ($before:literal) => {
        concat!(
            $before,
            " FROM holds WHERE (?1 IS NULL OR scope = ?1) AND (cause IN (SELECT value FROM json_each(?2))
                OR ('operator' IN (SELECT value FROM json_each(?2)) AND cause NOT IN (SELECT value FROM json_each(?3))))"
        )
    };
}
const CHOSEN: &str = chosen!("SELECT scope, cause, since_at, until_at, repeats, probed_at, why");
const RELEASE: &str = chosen!("DELETE");

/// ?1 agent or NULL. Pending rows, and those of them in requests without an answer.
const CONCERNED: &str = "
SELECT (SELECT count(*) FROM deletions INDEXED BY deletions_due
        WHERE state = 'pending' AND (?1 IS NULL OR agent_id = ?1)),
    (SELECT coalesce(sum(size), 0) FROM requests INDEXED BY requests_unanswered
        WHERE answered_at IS NULL AND (?1 IS NULL OR agent_id = ?1))";

impl Producer {
    /// Places an operator's hold, in the place of one that is there, which is returned.
    ///
    /// # Errors
    /// If SQLite fails, or a foreign trigger undoes it; then nothing is changed.
    pub async fn hold(&mut self, place: &Place, now: Timestamp) -> Result<Option<HoldRow>, StoreError> {
        let scope = place.scope.as_str();
        self.change("place a hold", now, async |conn: &mut SqliteConnection| {
            let before = operator_s(conn, scope).await?;
            // The table takes such a time for seconds.
            let since = if now < Timestamp::LEAST_DUE { Timestamp::ZERO } else { now };
            let query = sqlx::query(HOLD).bind(scope).bind(since.0).bind(place.until_at.map(|at| at.0));
            query.bind(&place.why).execute(&mut *conn).await?;
            // A hold that is not there stops nothing, and whoever places one goes away believing that it does.
            if operator_s(conn, scope).await?.is_none_or(|held| held.until_at != place.until_at) {
                let message = format!("the hold on {scope} is not there after it was placed");
                return Err(not_done(message, &schema_changes(conn).await?));
            }
            Ok((1, before))
        })
        .await
    }

    /// The rows that a hold on `scope` concerns.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn concerned(&mut self, scope: &Scope) -> Result<Concerned, StoreError> {
        let agent = match scope {
            Scope::All => None,
            Scope::Agent(agent) => Some(agent.as_str()),
        };
        let count = async |conn: &mut SqliteConnection| sqlx::query(CONCERNED).bind(agent).fetch_one(conn).await;
        let counts = self.look("count the rows that a hold concerns", count).await?;
        let number = |column: usize| u64::try_from(counts.try_get::<i64, _>(column).unwrap_or(0)).unwrap_or(0);
        Ok(Concerned { pending: number(0), in_flight: number(1) })
    }

    /// Lifts the holds with these causes, on `scope` or wherever they are.
    ///
    /// # Errors
    /// If SQLite fails, or a foreign trigger undoes it; then nothing is changed.
    pub async fn release(
        &mut self,
        scope: Option<&Scope>,
        causes: &[Cause],
        now: Timestamp,
    ) -> Result<Released, StoreError> {
        let names = |causes: &[Cause]| json(&causes.iter().map(|cause| cause.as_str()).collect::<Vec<_>>());
        let (scope, causes, known) = (scope.map(Scope::as_str), names(causes), names(&Cause::ALL));
        self.change("lift holds", now, async |conn: &mut SqliteConnection| {
            let chosen = sqlx::query(CHOSEN).bind(scope).bind(&causes).bind(&known).fetch_all(&mut *conn).await?;
            let lifted: Vec<HoldRow> = chosen.iter().filter_map(hold_row).collect();
            sqlx::query(RELEASE).bind(scope).bind(&causes).bind(&known).execute(&mut *conn).await?;
            let still = sqlx::query(CHOSEN).bind(scope).bind(&causes).bind(&known).fetch_all(&mut *conn).await?.len();
            if still > 0 {
                let message = format!("{still} holds are still there after they were lifted");
                return Err(not_done(message, &schema_changes(conn).await?));
            }
            Ok((chosen.len() as u64, Released { lifted, left: holds(conn).await? }))
        })
        .await
    }

    /// All holds, whoever placed them.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn holds(&mut self) -> Result<Vec<HoldRow>, StoreError> {
        self.look("read the holds", holds).await
    }

    /// Reads what may be the whole file.
    pub(super) async fn look<T>(
        &mut self,
        doing: &'static str,
        read: impl AsyncFnMut(&mut SqliteConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        let steps = whole_file(&self.session.options.path);
        self.session.twice_if_damaged(doing, steps, read).await
    }
}

/// The hold that an operator has placed on `scope`.
async fn operator_s(conn: &mut SqliteConnection, scope: &str) -> Result<Option<HoldRow>, sqlx::Error> {
    let row = sqlx::query(OPERATOR_S).bind(scope).fetch_optional(conn).await?;
    Ok(row.as_ref().and_then(hold_row))
}
