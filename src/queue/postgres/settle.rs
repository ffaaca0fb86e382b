//! Writes verdicts onto rows and answers onto requests, and claims: all that a turn changes.

use sqlx::{Postgres, postgres::PgArguments};

use super::schema_watch::triggers;

use crate::{
    model::outcome::Cause,
    queue::{
        Claim, Counts, Settlement,
        rows::{given, json},
    },
};

pub(super) type Query<'q> = sqlx::query::Query<'q, Postgres, PgArguments>;

/// $1 to $11 answers; $12 to $23 rows, each with its verdict.
///
/// Rows of a request that already has an answer were settled before, and stay as they are. `settled_at IS NULL` is what a pending row
/// has, and `coalesce(answered_at, -1) = -1` what a request without an answer has, in words from which the planner cannot prove that a
/// partial index would do: with `state = 'pending'`, a plan that was made while the table was empty goes through a whole index for
/// each row, for ever. `BETWEEN`, and not `=`, for a reason of that kind: with `=`, a plan that was made when an empty table had been
/// analysed goes through the whole table for each turn, and joins what it finds.
macro_rules! settled {
    ($returning:literal) => {
        concat!(
            "WITH answered AS (
    UPDATE requests SET
        answered_at = answer.answered_at, status = answer.status, deleted = answer.deleted, absent = answer.absent,
        retried = answer.retried, dead = answer.dead, fault = answer.fault, detail = answer.detail,
        remote_id = answer.remote_id, verdicts = answer.verdicts::jsonb
    FROM unnest($1::bigint[], $2::bigint[], $3::smallint[], $4::smallint[], $5::smallint[], $6::smallint[], $7::smallint[],
            $8::text[], $9::text[], $10::text[], $11::text[])
        AS answer (id, answered_at, status, deleted, absent, retried, dead, fault, detail, remote_id, verdicts)
    WHERE requests.id BETWEEN answer.id AND answer.id AND coalesce(requests.answered_at, -1) = -1
    RETURNING requests.id
),
settled AS (
    UPDATE deletions_known AS known SET
        state = judged.state,
        last_cause = judged.cause,
        attempts = known.attempts + judged.counted,
        due_at = coalesce(judged.due_at, known.due_at),
        batch_max = coalesce(judged.batch_max, known.batch_max),
        asks = judged.asks,
        maybe_done = known.maybe_done OR judged.maybe_done,
        settled_at = judged.settled_at,
        request_id = judged.request_id,
        first_fault = CASE WHEN judged.settled_at IS NULL THEN judged.first_fault ELSE known.first_fault END,
        evidence = CASE WHEN judged.settled_at IS NULL THEN judged.evidence ELSE known.evidence END
    FROM unnest($12::bigint[], $13::bigint[], $14::text[], $15::text[], $16::integer[], $17::bigint[], $18::smallint[],
            $19::integer[], $20::boolean[], $21::bigint[], $22::bigint[], $23::bigint[])
        AS judged (id, request_id, state, cause, counted, due_at, batch_max, asks, maybe_done, settled_at, first_fault, evidence)
    WHERE judged.request_id = ANY (ARRAY(SELECT id FROM answered)) AND known.id BETWEEN judged.id AND judged.id
        AND known.settled_at IS NULL
    RETURNING ",
            $returning,
            ")"
        )
    };
}

/// Only settles. $24 the triggers at the last look. Returns lane, due time and id of each row that has come back; and, in a row of its
/// own, the requests that were answered, the number of rows that were settled, and whether the triggers are those of the last look.
pub(super) const SETTLE: &str = concat!(
    settled!("known.priority, known.agent_id, known.batch_max, known.due_at, known.id, known.state"),
    " SELECT priority, agent_id, batch_max, due_at, id, NULL::bigint[], NULL::bigint, NULL::boolean FROM settled WHERE state = 'pending'
    UNION ALL SELECT NULL, NULL, NULL, NULL, NULL, ARRAY(SELECT id FROM answered), (SELECT count(*) FROM settled), ",
    triggers!(),
    " = $24"
);

/// Settles, and claims: $24 now; $25 the epoch; $26 the server's process of our session; $27 to $32 claims, each with its manifest as a
/// text; $33 whether there are new settings, $34 to $47 the settings; $48 the place in the inbox after which to look; $49 the triggers at
/// the last look; $50 whether nothing is to happen unless all of it happens. Returns whether this is our session, the number of claims,
/// whether others have written (in a busy queue, this is how the leader hears of it), the requests that were answered, the number of
/// rows that were settled, whether claims were refused, and whether the triggers are those of the last look.
///
/// With $50, the statement fails, and so undoes itself, if it has answered, settled or claimed less than it was to, or if there are other
/// triggers. A division by zero is how SQL fails on purpose. That may be in order, for example if an operator has removed a row: the
/// leader then looks closer ([`super::verify`]). A part of the claims is never taken for all of them.
///
/// There are no claims in another session than ours, and none if somebody has changed rows or holds since they were looked at: a row
/// may be gone. The server locks `requests` for this statement before it takes the statement's snapshot, and whoever changes rows
/// waits for that lock first (`between_turns()`). So a change is either seen here, or comes after the claim was committed.
pub(super) const TURN: &str = concat!(
    settled!("1"),
    ",
claimed AS (
    INSERT INTO requests (claimed_at, epoch, id, correlation_id, agent_id, deletion_ids, size, kind)
    SELECT $24, $25, claim.id, claim.correlation_id, claim.agent_id, claim.deletion_ids::bigint[], claim.size, claim.kind
    FROM unnest($27::bigint[], $28::uuid[], $29::text[], $30::text[], $31::smallint[], $32::text[])
        AS claim (id, correlation_id, agent_id, deletion_ids, size, kind)
    WHERE pg_backend_pid() = $26 AND NOT EXISTS (SELECT 1 FROM edits WHERE relation <> 'acts')
    RETURNING 1
),
told AS (
    UPDATE daemon SET updated_at = $24, requests_per_second = $34, rate_ceiling = $35, rate_why = $36, concurrency = $37,
        concurrency_ceiling = $38, concurrency_why = $39, batch_size = $40, linger_ms = $41, retry_base_ms = $42,
        retry_max_ms = $43, learnt_rate = $44, learnt_even = $45, learnt_concurrency = $46, learnt_at = $47
    WHERE $33
)
SELECT pg_backend_pid() = $26, claimed,
    EXISTS (SELECT 1 FROM deletions_new WHERE ctid > $48::text::tid) OR EXISTS (SELECT 1 FROM edits),
    answered, settled, is_refused, is_known,
    CASE WHEN $50 AND NOT (is_known AND cardinality(answered) = cardinality($1) AND settled = cardinality($12)
        AND (claimed = cardinality($27) OR (is_refused AND claimed = 0))) THEN 1 / (claimed * 0) END
FROM (SELECT (SELECT count(*) FROM claimed) AS claimed, (SELECT count(*) FROM settled) AS settled,
    ARRAY(SELECT id FROM answered) AS answered,
    pg_backend_pid() <> $26 OR EXISTS (SELECT 1 FROM edits WHERE relation <> 'acts') AS is_refused, ",
    triggers!(),
    " = $49 AS is_known) AS done"
);

/// What was to be settled, and how much of it a statement has changed.
#[derive(Debug, Default)]
pub(super) struct Answered {
    rows: Vec<i64>,
    requests_of_rows: Vec<i64>,
    ended: Vec<bool>,
    requests: Vec<i64>,
    /// The requests that it has answered, and the number of rows that it has settled.
    pub(super) answered: Vec<i64>,
    pub(super) settled: i64,
}

impl Answered {
    /// Whether all of it was changed.
    pub(super) fn is_whole(&self) -> bool {
        self.answered.len() == self.requests.len() && usize::try_from(self.settled) == Ok(self.rows.len())
    }

    /// Binds $1 to $5: the rows, their requests, whether they have reached their end, the answered requests, and all requests.
    pub(super) fn bind<'q>(&'q self, query: Query<'q>) -> Query<'q> {
        let query = query.bind(&self.rows).bind(&self.requests_of_rows).bind(&self.ended);
        query.bind(&self.answered).bind(&self.requests)
    }
}

/// What is to be settled, in columns.
#[derive(Debug, Default)]
pub(super) struct Judgements {
    requests: Vec<i64>,
    answered_at: Vec<i64>,
    status: Vec<Option<i16>>,
    counts: [Vec<i16>; 4],
    faults: Vec<Option<&'static str>>,
    details: Vec<Option<String>>,
    remote_ids: Vec<Option<String>>,
    verdicts: Vec<String>,
    rows: Vec<Judgement>,
}

/// A row with its verdict.
#[derive(Clone, Copy, Debug)]
struct Judgement {
    id: i64,
    request: i64,
    state: &'static str,
    cause: Option<&'static str>,
    counted: i32,
    due_at: Option<i64>,
    batch_max: Option<i16>,
    asks: i32,
    maybe_done: bool,
    settled_at: Option<i64>,
    first_fault: Option<i64>,
    evidence: Option<i64>,
}

/// A text of others, for the database. The server takes no text with a NUL in it.
fn text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

impl Judgements {
    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Whether rows come back.
    pub(super) fn has_returning(&self) -> bool {
        self.rows.iter().any(|row| row.settled_at.is_none())
    }

    /// The rows that reach their end.
    pub(super) fn ended(&self) -> impl Iterator<Item = i64> {
        self.rows.iter().filter(|row| row.settled_at.is_some()).map(|row| row.id)
    }

    /// What is to be settled, of which nothing is changed yet.
    pub(super) fn expected(&self) -> Answered {
        Answered {
            rows: self.rows.iter().map(|row| row.id).collect(),
            requests_of_rows: self.rows.iter().map(|row| row.request).collect(),
            ended: self.rows.iter().map(|row| row.settled_at.is_some()).collect(),
            requests: self.requests.clone(),
            ..Answered::default()
        }
    }

    pub(super) fn add(&mut self, settlement: &Settlement) {
        let Counts { deleted, absent, retried, dead, .. } = settlement.counts();
        self.requests.push(settlement.request.0);
        self.answered_at.push(settlement.answered_at.0);
        self.status.push(settlement.status.and_then(|status| i16::try_from(status).ok()));
        for (column, count) in self.counts.iter_mut().zip([deleted, absent, retried, dead]) {
            column.push(i16::try_from(count).unwrap_or(i16::MAX));
        }
        self.faults.push(settlement.fault.map(Cause::as_str));
        self.details.push(settlement.detail.as_deref().map(text));
        self.remote_ids.push(settlement.remote_id.as_deref().map(text));
        self.verdicts.push(json(&given(settlement)));
        self.rows.extend(settlement.rows.iter().map(|row| {
            let end = row.verdict.end();
            Judgement {
                id: row.id.0,
                request: settlement.request.0,
                state: end.map_or("pending", |state| state.as_str()),
                cause: row.verdict.cause().map(Cause::as_str),
                counted: i32::from(row.verdict.counted()),
                due_at: row.verdict.due_at().map(|at| at.0),
                batch_max: row.batch_max.map(i16::from),
                asks: i32::try_from(row.asks).unwrap_or(i32::MAX),
                maybe_done: row.maybe_done,
                settled_at: end.map(|_| settlement.answered_at.0),
                first_fault: row.first_fault.map(|request| request.0),
                evidence: row.evidence.map(|request| request.0),
            }
        }));
    }

    /// Binds $1 to $23.
    pub(super) fn bind<'q>(&'q mut self, query: Query<'q>) -> Query<'q> {
        // In one order: two statements that lock the same rows in two orders could wait for each other.
        self.rows.sort_unstable_by_key(|row| row.id);
        let rows = &self.rows;
        fn column<T>(rows: &[Judgement], value: impl Fn(&Judgement) -> T) -> Vec<T> {
            rows.iter().map(value).collect()
        }
        let [deleted, absent, retried, dead] = &self.counts;
        let query = query.bind(&self.requests).bind(&self.answered_at).bind(&self.status);
        let query = query.bind(deleted).bind(absent).bind(retried).bind(dead);
        let query = query.bind(&self.faults).bind(&self.details).bind(&self.remote_ids);
        query
            .bind(&self.verdicts)
            .bind(column(rows, |row| row.id))
            .bind(column(rows, |row| row.request))
            .bind(column(rows, |row| row.state))
            .bind(column(rows, |row| row.cause))
            .bind(column(rows, |row| row.counted))
            .bind(column(rows, |row| row.due_at))
            .bind(column(rows, |row| row.batch_max))
            .bind(column(rows, |row| row.asks))
            .bind(column(rows, |row| row.maybe_done))
            .bind(column(rows, |row| row.settled_at))
            .bind(column(rows, |row| row.first_fault))
            .bind(column(rows, |row| row.evidence))
    }
}

/// Binds six parameters: $27 to $32 of [`TURN`].
pub(super) fn bind_claims<'q>(query: Query<'q>, claims: &[Claim]) -> Query<'q> {
    fn column<T>(claims: &[Claim], value: impl Fn(&Claim) -> T) -> Vec<T> {
        claims.iter().map(value).collect()
    }
    let manifest = |claim: &Claim| {
        let ids: Vec<String> = claim.batch.deletions().iter().map(|row| row.id.0.to_string()).collect();
        format!("{{{}}}", ids.join(","))
    };
    query
        .bind(column(claims, |claim| claim.request.0))
        .bind(column(claims, |claim| claim.correlation_id))
        .bind(column(claims, |claim| claim.batch.lane().agent.as_str().to_owned()))
        .bind(column(claims, manifest))
        .bind(column(claims, |claim| i16::try_from(claim.batch.len()).unwrap_or(i16::MAX)))
        .bind(column(claims, |claim| claim.batch.kind().as_str()))
}
