//! The acts of operators, as commands write them.

use sqlx::PgConnection;

use super::{errors::StoreError, producer::Producer};
use crate::{
    model::{
        act::{ActKind, Draft},
        clock::Timestamp,
        outcome::Scope,
    },
    queue::doing::Doing,
};

/// Whether this role may write acts, the session, and the role. One that only enqueues may not.
pub(super) const MAY_WRITE_ACTS: &str = "
SELECT has_any_column_privilege('sweeper.acts', 'INSERT') AND has_any_column_privilege('sweeper.acts', 'UPDATE')
    AND has_table_privilege('sweeper.acts', 'SELECT'), pg_backend_pid(), current_user::text";

/// The time of a transaction. Of an act that enqueues, it is a time of the server's clock, as those of the rows are: see
/// [`crate::queue::report::Enqueuers`].
macro_rules! time {
    ($act:literal, $at:literal, $now:literal) => {
        concat!(
            "CASE ",
            $act,
            " WHEN 'enqueue' THEN floor(extract(epoch FROM ",
            $at,
            ") * 1000)::bigint ELSE ",
            $now,
            " END"
        )
    };
}

/// $1 act; $2 operator; $3 scope; $4 rows; $5 detail; $6 now; $7 whether it ends with this transaction
const BEGIN: &str = concat!(
    "INSERT INTO acts (acted_at, act, operator, scope, rows, detail, updated_at, ended) VALUES (",
    time!("$1::text", "transaction_timestamp()", "$6::bigint"),
    ", $1::text, $2, $3, $4, $5, ",
    time!("$1::text", "clock_timestamp()", "$6::bigint"),
    ", $7) RETURNING id"
);

/// $1 id; $2 more rows; $3 now; $4 scope
const GO_ON: &str = concat!(
    "UPDATE acts SET rows = rows + $2, updated_at = ",
    time!("act", "clock_timestamp()", "$3::bigint"),
    ", scope = $4 WHERE id = $1"
);

/// $1 id; $2 now. An act that was quiet for long was logged before its end, and is logged again with its final number of rows.
const END: &str = concat!(
    "UPDATE acts SET ended = true, logged = false, updated_at = ",
    time!("act", "clock_timestamp()", "$2::bigint"),
    " WHERE id = $1"
);

/// Writes that `rows` more rows were changed. Call this in the transaction that changes them, and keep the result only after its
/// commit.
pub(super) async fn step(
    act: &Doing,
    conn: &mut PgConnection,
    rows: u64,
    now: Timestamp,
) -> Result<Doing, sqlx::Error> {
    let scope = act.draft.scope.as_ref().map(Scope::as_str);
    if let Some(id) = act.id().filter(|_| rows > 0) {
        let query = sqlx::query(GO_ON).bind(id).bind(rows.cast_signed()).bind(now.0).bind(scope);
        if query.execute(&mut *conn).await?.rows_affected() > 0 {
            return Ok(act.clone());
        }
        // A command that was at work for longer than the history is kept begins another row.
    }
    let Some(all) = act.begins_with(rows) else { return Ok(act.unwritten(rows)) };
    let Draft { kind, operator, detail, .. } = &act.draft;
    let query = sqlx::query_scalar(BEGIN).bind(kind.as_str()).bind(operator).bind(scope);
    let query = query.bind(all.cast_signed()).bind(detail).bind(now.0).bind(act.is_one_step());
    Ok(act.written(query.fetch_one(conn).await?))
}

impl Producer {
    /// Begins an act: what this connection changes from here on belongs to it, and is written to `acts` with it, as soon as `least`
    /// rows are changed. A role that may only enqueue leaves no act.
    pub fn begin_act(&mut self, draft: Draft, least: u64) {
        let is_written = self.may_write_acts || draft.kind != ActKind::Enqueue;
        self.doing = is_written.then(|| Doing::new(draft, least));
    }

    /// Who does the act that was begun.
    pub(super) fn operator(&self) -> Option<&str> {
        self.doing.as_ref().map(|doing| doing.draft.operator.as_str())
    }

    /// Writes that the act is done. Without this call, `acts` says that it was cut short.
    ///
    /// # Errors
    /// If the server fails. What was changed is changed all the same.
    pub async fn end_act(&mut self, now: Timestamp) -> Result<(), StoreError> {
        let doing = self.doing.take().filter(|doing| !doing.is_one_step());
        let Some(id) = doing.and_then(|doing| doing.id()) else { return Ok(()) };
        let end = async |conn: &mut PgConnection| sqlx::query(END).bind(id).bind(now.0).execute(conn).await;
        self.look("end the act", end).await.map(drop)
    }
}
