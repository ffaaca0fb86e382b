//! A transaction that writes: everything that one turn of the worker changes.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use sqlx::{AssertSqlSafe, Sqlite, SqliteConnection};

use super::{
    due_rows,
    errors::StoreError,
    rows::{holds_of, json},
    step_limit::StepBudget,
    verify::{COUNTED, ON_RECORD, on_record},
};
use crate::{
    model::{
        act::ActId,
        clock::Timestamp,
        deletion::{DeletionId, Lane, RequestId},
        hold::{HoldChange, HoldRow},
        outcome::Scope,
    },
    queue::{Claim, Committed, InEffect, Look, SchemaChange, Settlement, Tx},
};

/// Now; claims: [[id, correlation_id, agent_id, [deletion id, …], size, kind], …]. Runs in the same script as the COMMIT.
const CLAIM: &str = "
INSERT INTO requests (claimed_at, id, correlation_id, agent_id, deletion_ids, size, kind)
SELECT ?, value->>0, value->>1, value->>2, value->'$[3]', value->>4, value->>5 FROM json_each(?)";

/// ?1 now; ?2 to ?15 the settings; ?16 process; ?17 version
const WRITE_DAEMON: &str = "
INSERT OR REPLACE INTO daemon (id, pid, version, started_at, updated_at, requests_per_second, rate_ceiling, rate_why,
    concurrency, concurrency_ceiling, concurrency_why, batch_size, linger_ms, retry_base_ms, retry_max_ms,
    learnt_rate, learnt_even, learnt_concurrency, learnt_at)
VALUES (1, ?16, ?17, ?1, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)";
/// ?1 now; ?2 to ?15 the settings
const WRITE_SETTINGS: &str = "
UPDATE daemon SET updated_at = ?1, requests_per_second = ?2, rate_ceiling = ?3, rate_why = ?4, concurrency = ?5,
    concurrency_ceiling = ?6, concurrency_why = ?7, batch_size = ?8, linger_ms = ?9, retry_base_ms = ?10,
    retry_max_ms = ?11, learnt_rate = ?12, learnt_even = ?13, learnt_concurrency = ?14, learnt_at = ?15";

/// Changes with each commit of another connection.
pub(super) const DATA_VERSION: &str = "PRAGMA data_version";
const COMMIT: &str = "COMMIT";

pub(super) type Query<'q> = sqlx::query::Query<'q, Sqlite, sqlx::sqlite::SqliteArguments>;

/// Binds ?1 to ?15 of [`WRITE_DAEMON`] and [`WRITE_SETTINGS`].
fn bind_settings<'q>(query: Query<'q>, settings: &InEffect, now: Timestamp) -> Query<'q> {
    let ms = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    let number = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    let InEffect { requests_per_second, rate_ceiling, rate_reason, batch_size, linger, retry, .. } = settings;
    let InEffect { concurrency, concurrency_ceiling, concurrency_reason, learnt, .. } = settings;
    let query = query.bind(now.0).bind(*requests_per_second).bind(*rate_ceiling).bind(rate_reason.as_str());
    let query = query.bind(number(*concurrency)).bind(number(*concurrency_ceiling)).bind(concurrency_reason.as_str());
    let query = query.bind(*batch_size).bind(ms(*linger)).bind(ms(retry.base())).bind(ms(retry.delay(u32::MAX)));
    let query = query.bind(learnt.and_then(|learnt| learnt.rate)).bind(learnt.map(|learnt| learnt.is_even));
    query.bind(learnt.and_then(|learnt| learnt.concurrency).map(number)).bind(learnt.map(|learnt| learnt.at.0))
}

/// A transaction that writes. Without [`Tx::commit`] it has no effect: the [`super::Store`] rolls it back.
#[derive(Debug)]
pub struct Transaction<'a> {
    pub(super) conn: &'a mut SqliteConnection,
    pub(super) path: PathBuf,
    pub(super) next_request: &'a mut i64,
    pub(super) writing: &'a mut bool,
    /// The last data version that the [`super::Store`] has read.
    pub(super) data_version: i64,
    /// The data version in this transaction, if it has been read.
    pub(super) version: Option<i64>,
    /// Changes of the schema, if one of them can change what this transaction writes; else empty.
    pub(super) foreign: &'a [SchemaChange],
    /// The budget of all statements of this transaction together.
    pub(super) _budget: StepBudget,
}

impl Transaction<'_> {
    pub(super) fn error(&self, doing: &'static str, source: sqlx::Error) -> StoreError {
        StoreError::new(&self.path, doing, source)
    }

    pub(super) async fn execute(&mut self, doing: &'static str, query: Query<'_>) -> Result<u64, StoreError> {
        match query.execute(&mut *self.conn).await {
            Ok(done) => Ok(done.rows_affected()),
            Err(source) => Err(self.error(doing, source)),
        }
    }

    /// Rolls back.
    pub(super) async fn rollback(mut self) -> Result<(), StoreError> {
        self.execute("roll back", sqlx::query("ROLLBACK")).await?;
        *self.writing = false;
        Ok(())
    }

    /// Commits without claims.
    pub(super) async fn finish(mut self) -> Result<(), StoreError> {
        self.execute("commit", sqlx::query(COMMIT)).await?;
        *self.writing = false;
        Ok(())
    }

    /// Writes the claims and commits, in one script.
    async fn claim(mut self, claims: &[Claim], now: Timestamp) -> Result<(), StoreError> {
        let (Some(first), Some(last)) = (claims.first(), claims.last()) else { return self.finish().await };
        let rows: Vec<_> = claims.iter().map(row).collect();
        let is_checked = self.is_interfered_with();
        let script =
            if is_checked { [CLAIM, COUNTED, ON_RECORD, COMMIT].join(";") } else { [CLAIM, COUNTED, COMMIT].join(";") };
        let query = sqlx::query(AssertSqlSafe(script)).bind(now.0).bind(json(&rows)).bind(rows.len() as i64);
        let query =
            if is_checked { query.bind(first.request.0).bind(last.request.0).bind(on_record(claims)) } else { query };
        if let Err(error) = self.execute("claim and commit", query).await {
            return Err(self.claim_error(claims.len(), error));
        }
        *self.writing = false;
        Ok(())
    }
}

/// A claim in the form that [`CLAIM`] reads.
fn row(claim: &Claim) -> impl serde::Serialize + use<'_> {
    let Claim { request, correlation_id, batch } = claim;
    let ids: Vec<i64> = batch.deletions().iter().map(|row| row.id.0).collect();
    (request.0, correlation_id.to_string(), batch.lane().agent.as_str(), ids, batch.len(), batch.kind().as_str())
}

impl Tx for Transaction<'_> {
    type Error = StoreError;

    async fn settle<'s>(
        &mut self,
        settlements: impl Iterator<Item = &'s Settlement> + Clone,
    ) -> Result<(), StoreError> {
        self.settle_checked(settlements).await
    }

    async fn change_holds(&mut self, changes: &[HoldChange]) -> Result<(), StoreError> {
        self.write_holds(changes).await
    }

    async fn lift_over(&mut self, scopes: &[Scope], now: Timestamp) -> Result<(), StoreError> {
        self.lift_those_over(scopes, now).await
    }

    async fn acts_logged(&mut self, acts: &[ActId]) -> Result<(), StoreError> {
        self.mark_acts(acts).await
    }

    async fn news(&mut self) -> Result<bool, StoreError> {
        let version = match self.version {
            Some(version) => version,
            None => {
                let version = sqlx::query_scalar(DATA_VERSION).fetch_one(&mut *self.conn).await;
                version.map_err(|source| self.error("look for changes", source))?
            }
        };
        Ok(version != self.data_version)
    }

    async fn holds_of(&mut self, scopes: &BTreeSet<Scope>) -> Result<Vec<HoldRow>, StoreError> {
        let scopes: Vec<&str> = scopes.iter().map(Scope::as_str).collect();
        holds_of(self.conn, &json(&scopes)).await.map_err(|source| self.error("read the holds", source))
    }

    async fn look(
        &mut self,
        lanes: &[Lane],
        most: usize,
        in_flight: &[DeletionId],
        newest_first: bool,
        now: Timestamp,
    ) -> Result<Vec<Look>, StoreError> {
        let looks = due_rows::look(self.conn, lanes, most, in_flight, newest_first, now).await;
        looks.map_err(|source| self.error("look for due rows", source))
    }

    fn next_request_id(&mut self) -> RequestId {
        let id = *self.next_request;
        *self.next_request = id.saturating_add(1);
        RequestId(id)
    }

    async fn introduce(&mut self, settings: &InEffect, now: Timestamp) -> Result<(), StoreError> {
        let query = bind_settings(sqlx::query(WRITE_DAEMON), settings, now);
        let query = query.bind(std::process::id()).bind(env!("CARGO_PKG_VERSION"));
        self.execute("write the daemon's row", query).await?;
        Ok(())
    }

    /// Nobody else writes during our transaction, so the claims are always made.
    async fn commit(
        mut self,
        claims: &[Claim],
        settings: Option<&InEffect>,
        now: Timestamp,
    ) -> Result<Committed, StoreError> {
        if let Some(settings) = settings {
            let query = bind_settings(sqlx::query(WRITE_SETTINGS), settings, now);
            self.execute("write the settings", query).await?;
        }
        self.claim(claims, now).await.map(|()| Committed::Whole)
    }
}
