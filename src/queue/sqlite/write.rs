//! A transaction that writes: everything that one turn of the worker changes.

use std::{collections::BTreeSet, path::PathBuf};

use serde::Serialize;
use sqlx::{AssertSqlSafe, Row, Sqlite, SqliteConnection};

use super::{
    checks::{COUNTED, ON_RECORD, on_record},
    errors::StoreError,
    rows::{Ending, RowsOfRequests, answer, endings, holds_of, json, look_row, returning},
    steps::Allowance,
    trust::Foreign,
};
use crate::{
    model::{
        clock::Timestamp,
        deletion::{DeletionId, Lane, RequestId},
        hold::{HoldChange, HoldRow},
        outcome::{Cause, Scope},
    },
    queue::{Claim, Look, Settlement},
};

/// A row as [`super::rows::RawDeletion`] reads it. The casts, because CHECKs can be switched off: a value of another type
/// must not end the daemon.
macro_rules! row_json {
    () => {
        "json_group_array(json_array(
        id, CASE typeof(entry_id) WHEN 'text' THEN entry_id END, CAST(attempts AS INTEGER),
        CAST(asks AS INTEGER), CAST(maybe_done AS INTEGER), CAST(due_at AS INTEGER), CAST(created_at AS INTEGER),
        CAST(last_cause AS TEXT), CAST(request_id AS INTEGER), CAST(first_fault AS INTEGER), CAST(evidence AS INTEGER)))"
    };
}
pub(super) use row_json;

/// The rows of a lane, out of the one index that has them in the order in which they go.
macro_rules! rows_of_lane {
    ($columns:literal, $condition:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM deletions INDEXED BY deletions_due
        WHERE state = 'pending' AND priority = lane.value->>0 AND agent_id = lane.value->>1
          AND batch_max = lane.value->>2 AND ",
            $condition
        )
    };
}

/// ?1 lanes: [[priority, agent_id, batch_max], …]; ?2 now; ?3 rows per lane; ?4 ids in flight: [id, …]. `+?3`, because
/// SQLite looks into a plain limit when it plans, and would plan anew for each value.
macro_rules! look {
    ($condition:literal, $next:expr) => {
        concat!(
            "SELECT lane.key, (SELECT ",
            row_json!(),
            " FROM (",
            rows_of_lane!(
                "id, entry_id, attempts, asks, maybe_done, due_at, created_at, last_cause, request_id, first_fault, evidence",
                $condition
            ),
            " LIMIT +?3)), ",
            $next,
            " FROM json_each(?1) AS lane ORDER BY lane.key"
        )
    };
}

/// The first row of those that are not due at once: [id, due_at or null if it is no number].
macro_rules! next {
    ($condition:literal) => {
        concat!(
            "(",
            rows_of_lane!(
                "json_array(id, CASE WHEN typeof(due_at) IN ('integer', 'real') THEN CAST(due_at AS INTEGER) END)",
                $condition
            ),
            " LIMIT 1)"
        )
    };
}

/// Rows that are due at once, in the order in which they were enqueued, whatever the clock says now. Behind them the first
/// row that has a time; only if that has come, [`LOOK_LATER`] is asked as well. A time before the epoch is none.
pub(super) const LOOK: &str = look!(
    "due_at = 0 AND id NOT IN (SELECT value FROM json_each(?4)) AND ?2 IS NOT NULL ORDER BY id",
    concat!("coalesce(", next!("due_at < 0 ORDER BY due_at"), ", ", next!("due_at > 0 ORDER BY due_at"), ")")
);

/// Rows whose time has come, in the order of those times.
pub(super) const LOOK_LATER: &str = look!(
    "due_at > 0 AND due_at <= ?2 AND id NOT IN (SELECT value FROM json_each(?4)) ORDER BY due_at, id",
    next!("due_at > ?2 ORDER BY due_at")
);

/// The same as [`LOOK`] with the newest first.
pub(super) const LOOK_NEWEST: &str = look!(
    "due_at = 0 AND id NOT IN (SELECT value FROM json_each(?4)) AND ?2 IS NOT NULL ORDER BY id DESC",
    next!("due_at > 0 ORDER BY due_at")
);

/// Now; claims: [[id, correlation_id, agent_id, [deletion id, …], size, kind], …]. Goes with the commit.
const CLAIM: &str = "
INSERT INTO requests (claimed_at, id, correlation_id, agent_id, deletion_ids, size, kind)
SELECT ?, value->>0, value->>1, value->>2, value->'$[3]', value->>4, value->>5 FROM json_each(?)";

/// What is written onto rows that have reached their end (state, cause, counted, batch_max, asks, maybe_done, settled_at), and
/// the rows: {id: request_id, …}. Those of a request that has its answer already were settled before.
///
/// Nearly all rows of a queue come through here, and nothing else of a turn costs as much: what is the same for all is a
/// parameter, so that SQLite takes it out of no JSON.
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
/// [deletion id, …], first_fault, evidence], …]. A group whose request has its answer already was settled before.
///
/// MATERIALIZED, so that the rows are looked up by what is judged and not the other way round.
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

/// ?1 ids: [id, …]; ?2 now
pub(super) const BURY: &str = "
UPDATE deletions SET state = 'dead', last_cause = 'rejected', settled_at = ?2
WHERE id IN (SELECT value FROM json_each(?1)) AND state = 'pending'";

/// ?1 first rows of lanes: [id, …]; ?2 now; ?3 most rows
pub(super) const BURY_LANES: &str = "
UPDATE deletions SET state = 'dead', last_cause = 'rejected', settled_at = ?2
WHERE id IN (
    SELECT buried.id FROM json_each(?1) AS named
    CROSS JOIN deletions AS first ON first.id = named.value
    CROSS JOIN deletions AS buried INDEXED BY deletions_due
        ON buried.state = 'pending' AND buried.priority = first.priority AND buried.agent_id = first.agent_id
        AND buried.batch_max = first.batch_max
    LIMIT ?3)";

/// How many rows of unusable lanes are buried at a time: so many that it takes a few milliseconds.
const BURY_ROWS: u32 = 2_000;

/// ?1 process; ?2 version; ?3 rate; ?4 now
const WRITE_DAEMON: &str = "
INSERT OR REPLACE INTO daemon (id, pid, version, started_at, requests_per_second, updated_at)
VALUES (1, ?1, ?2, ?4, ?3, ?4)";

/// Changes with each commit of somebody else's.
pub(super) const DATA_VERSION: &str = "PRAGMA data_version";
const COMMIT: &str = "COMMIT";

const PLACE_HOLD: &str = "
INSERT OR REPLACE INTO holds (scope, cause, since_at, until_at, repeats, probed_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
/// Only the one that was known: an operator may have put another in its place meanwhile.
const LIFT_HOLD: &str = "DELETE FROM holds WHERE scope = ?1 AND cause = ?2 AND until_at IS ?3";

/// ?1 now; ?2 the causes that are not a person's: [cause, …]; ?3 scopes: [scope, …]. What of another cause got past the
/// CHECKs is taken for a person's, too.
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

/// A transaction that writes; without [`Write::commit`], nothing of it happened, and [`super::Store::abandon`] ends it.
#[derive(Debug)]
pub struct Write<'a> {
    pub(super) conn: &'a mut SqliteConnection,
    pub(super) path: PathBuf,
    pub(super) next_request: &'a mut i64,
    pub(super) writing: &'a mut bool,
    /// What [`super::Store::changed`] has seen last.
    pub(super) data_version: i64,
    /// What the file said in this transaction, if it was asked.
    pub(super) version: Option<i64>,
    /// What is somebody else's in the tables, if that can have a say in what is written.
    pub(super) foreign: &'a [Foreign],
    /// For all statements of this transaction together.
    pub(super) _allowance: Allowance,
}

type Query<'q> = sqlx::query::Query<'q, Sqlite, sqlx::sqlite::SqliteArguments>;

/// Most endings in one script: a prepared one takes 16 KiB, and scripts of each length are kept prepared.
const ENDINGS_AT_ONCE: usize = 4;

/// The parameters of as many [`SETTLE_ENDED`].
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

impl Write<'_> {
    pub(super) fn error(&self, doing: &'static str, source: sqlx::Error) -> StoreError {
        StoreError { path: self.path.clone(), doing, source }
    }

    pub(super) async fn execute(&mut self, doing: &'static str, query: Query<'_>) -> Result<u64, StoreError> {
        match query.execute(&mut *self.conn).await {
            Ok(done) => Ok(done.rows_affected()),
            Err(source) => Err(self.error(doing, source)),
        }
    }

    /// Writes what became of answered requests: onto their rows, if those are still pending, and onto the requests
    /// themselves. A request that has its answer already is left as it is, so settling again after a commit that failed in
    /// doubt does no harm.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn settle<'s>(
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

    async fn settle_all<'s>(
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
        // In one go: SQLite has a thread of its own, and each time that we wait for it costs as much as eighty rows.
        let mut statements = vec![SETTLE_ENDED; last.len()];
        statements.extend((!returning.is_empty()).then_some(SETTLE_RETURNING));
        // Behind the rows: what is settled is told by it.
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

    /// Makes rows dead that no request can carry; returns how many.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn bury(&mut self, ids: &[DeletionId], now: Timestamp) -> Result<u64, StoreError> {
        if ids.is_empty() {
            return Ok(0);
        }
        let list: Vec<i64> = ids.iter().map(|id| id.0).collect();
        let buried = self.execute("bury unusable rows", sqlx::query(BURY).bind(json(&list)).bind(now.0)).await?;
        if self.is_interfered_with() {
            self.assert_buried(ids).await?;
        }
        Ok(buried)
    }

    /// Makes rows dead whose lanes no request can be made of: those with these first rows. Not all at once, if there
    /// are many; returns how many.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn bury_lanes(&mut self, heads: &[DeletionId], now: Timestamp) -> Result<u64, StoreError> {
        let Some(first) = heads.first() else { return Ok(0) };
        let list: Vec<i64> = heads.iter().map(|id| id.0).collect();
        let query = sqlx::query(BURY_LANES).bind(json(&list)).bind(now.0).bind(BURY_ROWS);
        let buried = self.execute("bury unusable rows", query).await?;
        if self.is_interfered_with() && buried == 0 {
            self.assert_buried(&[*first]).await?;
        }
        Ok(buried)
    }

    /// Writes for those who look that this process works on the queue from now on, with its version and its rate in
    /// requests per second.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn introduce(&mut self, rate: f64, now: Timestamp) -> Result<(), StoreError> {
        let query = sqlx::query(WRITE_DAEMON).bind(std::process::id()).bind(env!("CARGO_PKG_VERSION"));
        self.execute("write who works on it", query.bind(rate).bind(now.0)).await?;
        Ok(())
    }

    /// Writes for those who look that the rate is another one now, in requests per second.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn change_rate(&mut self, rate: f64, now: Timestamp) -> Result<(), StoreError> {
        let query = sqlx::query("UPDATE daemon SET requests_per_second = ?1, updated_at = ?2");
        self.execute("write the rate", query.bind(rate).bind(now.0)).await?;
        Ok(())
    }

    /// Whether another connection has committed anything since [`super::Store::changed`] looked: this transaction may have
    /// waited for it. What it wrote can be read in here, and nothing more comes until this one is over.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn is_overtaken(&mut self) -> Result<bool, StoreError> {
        let version = match self.version {
            Some(version) => version,
            None => {
                let version = sqlx::query_scalar(DATA_VERSION).fetch_one(&mut *self.conn).await;
                version.map_err(|source| self.error("look for changes", source))?
            }
        };
        Ok(version != self.data_version)
    }

    /// The holds of these scopes, whoever placed them, with those that this transaction has changed.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn holds_of(&mut self, scopes: &BTreeSet<Scope>) -> Result<Vec<HoldRow>, StoreError> {
        let scopes: Vec<&str> = scopes.iter().map(Scope::as_str).collect();
        holds_of(self.conn, &json(&scopes)).await.map_err(|source| self.error("read the holds", source))
    }

    /// Writes what changed in the holds.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn change_holds(&mut self, changes: &[HoldChange]) -> Result<(), StoreError> {
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

    /// Removes the holds on `scopes` that people placed until a time that has come; what was given more time meanwhile
    /// stays.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn lift_over(&mut self, scopes: &[Scope], now: Timestamp) -> Result<(), StoreError> {
        let ours: Vec<&str> =
            Cause::ALL.into_iter().filter(|cause| *cause != Cause::Operator).map(Cause::as_str).collect();
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

    /// Looks for due rows of `lanes`: up to `most` of each, leaving out those `in_flight`. One [`Look`] per lane, in
    /// their order. The row that could have gone first comes first; with `newest_first`, of those that are due at once the
    /// one that was enqueued last.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn look(
        &mut self,
        lanes: &[Lane],
        most: usize,
        in_flight: &[DeletionId],
        newest_first: bool,
        now: Timestamp,
    ) -> Result<Vec<Look>, StoreError> {
        let at_once = if newest_first { LOOK_NEWEST } else { LOOK };
        let mut looks = self.look_with(at_once, lanes, most, in_flight, now).await?;
        let is_later = |look: &Look| look.next_due_at.is_some_and(|at| at <= now);
        let later: Vec<usize> = (0..looks.len()).filter(|at| is_later(&looks[*at])).collect();
        if later.is_empty() {
            return Ok(looks);
        }
        let some: Vec<Lane> = later.iter().map(|at| lanes[*at].clone()).collect();
        let found = self.look_with(LOOK_LATER, &some, most, in_flight, now).await?;
        for (at, found) in later.into_iter().zip(found) {
            looks[at].merge(found, most, newest_first);
        }
        Ok(looks)
    }

    async fn look_with(
        &mut self,
        statement: &'static str,
        lanes: &[Lane],
        most: usize,
        in_flight: &[DeletionId],
        now: Timestamp,
    ) -> Result<Vec<Look>, StoreError> {
        let keys: Vec<_> = lanes.iter().map(|lane| (lane.priority, lane.agent.as_str(), lane.batch_max)).collect();
        let in_flight: Vec<i64> = in_flight.iter().map(|id| id.0).collect();
        let rows = sqlx::query(statement)
            .bind(json(&keys))
            .bind(now.0)
            .bind(i64::try_from(most).unwrap_or(i64::MAX))
            .bind(json(&in_flight))
            .fetch_all(&mut *self.conn)
            .await
            .map_err(|source| self.error("look for due rows", source))?;
        rows.iter()
            .map(|row| look_row(row, now))
            .collect::<Result<_, _>>()
            .map_err(|source| self.error("look for due rows", source))
    }

    /// The ID for the next request. It is given out once, even if no request is then written with it.
    pub fn next_request_id(&mut self) -> RequestId {
        let id = *self.next_request;
        *self.next_request = id.saturating_add(1);
        RequestId(id)
    }

    /// Undoes it.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn rollback(mut self) -> Result<(), StoreError> {
        self.execute("roll back", sqlx::query("ROLLBACK")).await?;
        *self.writing = false;
        Ok(())
    }

    /// Makes it so, and with it writes the requests about to be sent, each with its manifest.
    ///
    /// # Errors
    /// As [`Write::commit`].
    pub async fn claim_and_commit(mut self, claims: &[Claim], now: Timestamp) -> Result<(), StoreError> {
        let (Some(first), Some(last)) = (claims.first(), claims.last()) else { return self.commit().await };
        let rows: Vec<_> = claims
            .iter()
            .map(|claim| {
                let ids: Vec<i64> = claim.batch.deletions().iter().map(|row| row.id.0).collect();
                let agent = claim.batch.lane().agent.as_str();
                (
                    claim.request.0,
                    claim.correlation_id.to_string(),
                    agent,
                    ids,
                    claim.batch.len(),
                    claim.batch.kind().as_str(),
                )
            })
            .collect();
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

    /// Makes it so.
    ///
    /// # Errors
    /// If SQLite fails; whether it happened is then settled by what the file says when it is read next.
    pub async fn commit(mut self) -> Result<(), StoreError> {
        self.execute("commit", sqlx::query(COMMIT)).await?;
        *self.writing = false;
        Ok(())
    }
}
