//! The acts of operators: commands write them, the daemon logs them.

use sqlx::{Connection as _, Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{
    Store, StoreError, interference::not_done, producer::Producer, rows::json, schema_watch::schema_changes,
    step_limit::SOME_ROWS, tx::Transaction,
};
use crate::{
    model::{
        act::{Act, ActId, ActKind, Draft, MAX_DETAIL, MAX_OPERATOR},
        clock::Timestamp,
        outcome::Scope,
    },
    queue::doing::Doing,
};

/// The time of a transaction. `now` is read before the transaction, which may have waited for the lock since. Of an act that enqueues, it
/// is the time after the rows were inserted, on the same clock: see [`crate::queue::report::Enqueuers`].
macro_rules! updated_at {
    ($act:literal, $now:literal) => {
        concat!(
            "CASE ",
            $act,
            " WHEN 'enqueue' THEN max(",
            $now,
            ", CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)) ELSE ",
            $now,
            " END"
        )
    };
}

/// ?1 act; ?2 operator; ?3 scope; ?4 rows; ?5 detail; ?6 now; ?7 whether it ends with this transaction
const BEGIN: &str = concat!(
    "INSERT INTO acts (acted_at, act, operator, scope, rows, detail, updated_at, ended) VALUES (?6, ?1, ?2, ?3, ?4, ?5, ",
    updated_at!("?1", "?6"),
    ", ?7)"
);

/// ?1 id; ?2 more rows; ?3 now; ?4 scope
const GO_ON: &str =
    concat!("UPDATE acts SET rows = rows + ?2, updated_at = ", updated_at!("act", "?3"), ", scope = ?4 WHERE id = ?1");

/// ?1 id; ?2 now. An act that was quiet for long was logged before its end, and is logged again with its final number of rows.
const END: &str = "UPDATE acts SET ended = 1, logged = 0, updated_at = ?2 WHERE id = ?1";

/// ?1 since when an act must have been quiet to be logged before its end; ?2 the most acts
const UNLOGGED: &str = "
SELECT id, acted_at, act, operator, scope, rows, detail, ended FROM acts INDEXED BY acts_unlogged
WHERE logged = 0 AND (ended = 1 OR updated_at <= ?1) ORDER BY id LIMIT ?2";

/// ?1 ids: [id, …]
const MARK_LOGGED: &str = "UPDATE acts SET logged = 1 WHERE id IN (SELECT value FROM json_each(?1))";

/// ?1 ids: [id, …]
const STILL_UNLOGGED: &str = "SELECT count(*) FROM acts WHERE id IN (SELECT value FROM json_each(?1)) AND logged = 0";

/// Writes that `rows` more rows were changed. Call this in the transaction that changes them, and keep the result only after its
/// commit.
pub(super) async fn step(
    act: &Doing,
    conn: &mut SqliteConnection,
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
    let query = sqlx::query(BEGIN).bind(kind.as_str()).bind(operator).bind(scope);
    let query = query.bind(all.cast_signed()).bind(detail).bind(now.0).bind(act.is_one_step());
    let done = query.execute(&mut *conn).await?;
    if done.rows_affected() != 1 {
        return Err(not_done("the act is not in the table acts".to_owned(), &schema_changes(conn).await?));
    }
    Ok(act.written(done.last_insert_rowid()))
}

impl Producer {
    /// Begins an act: what this connection changes from here on belongs to it, and is written to `acts` with it, as soon as `least`
    /// rows are changed.
    pub fn begin_act(&mut self, draft: Draft, least: u64) {
        self.doing = Some(Doing::new(draft, least));
    }

    /// Who does the act that was begun.
    pub(super) fn operator(&self) -> Option<&str> {
        self.doing.as_ref().map(|doing| doing.draft.operator.as_str())
    }

    /// Does `work` in one transaction, as a part of the act that was begun. `work` returns the number of rows that it changed, and
    /// its result.
    ///
    /// # Errors
    /// If SQLite fails; then nothing is changed.
    pub(super) async fn change<T>(
        &mut self,
        doing: &'static str,
        now: Timestamp,
        mut work: impl AsyncFnMut(&mut SqliteConnection) -> Result<(u64, T), sqlx::Error>,
    ) -> Result<T, StoreError> {
        self.session.check_in_place(doing)?;
        let act = self.doing.clone();
        let whole = async |conn: &mut SqliteConnection| {
            let mut tx = conn.begin_with("BEGIN IMMEDIATE").await?;
            let (rows, result) = work(&mut tx).await?;
            let act = match &act {
                Some(act) => Some(step(act, &mut tx, rows, now).await?),
                None => None,
            };
            tx.commit().await?;
            Ok((result, act))
        };
        match self.session.twice_if_damaged(doing, SOME_ROWS, whole).await {
            Ok((result, act)) => {
                self.doing = act;
                self.session.check_in_place(doing)?;
                Ok(result)
            }
            Err(error) => Err(self.session.blame(error).await),
        }
    }

    /// Writes that the act is done. Without this call, `acts` says that it was cut short.
    ///
    /// # Errors
    /// If SQLite fails. What was changed is changed all the same.
    pub async fn end_act(&mut self, now: Timestamp) -> Result<(), StoreError> {
        let doing = self.doing.take().filter(|doing| !doing.is_one_step());
        let Some(id) = doing.and_then(|doing| doing.id()) else { return Ok(()) };
        let end = async |conn: &mut SqliteConnection| sqlx::query(END).bind(id).bind(now.0).execute(conn).await;
        self.session.check_in_place("end the act")?;
        self.session.twice_if_damaged("end the act", SOME_ROWS, end).await.map(drop)
    }
}

impl Store {
    /// See [`crate::queue::Queue::acts`].
    pub(super) async fn unlogged_acts(&mut self, quiet_since: Timestamp, most: u32) -> Result<Vec<Act>, StoreError> {
        let read = async |conn: &mut SqliteConnection| {
            let rows = sqlx::query(UNLOGGED).bind(quiet_since.0).bind(most).fetch_all(conn).await?;
            Ok(rows.iter().map(act_row).collect())
        };
        self.read("read the acts", SOME_ROWS, read).await
    }
}

impl Transaction<'_> {
    /// See [`crate::queue::Tx::acts_logged`].
    pub(super) async fn mark_acts(&mut self, acts: &[ActId]) -> Result<(), StoreError> {
        let ids: Vec<i64> = acts.iter().map(|act| act.0).collect();
        let (doing, ids) = ("mark the acts as logged", json(&ids));
        self.execute(doing, sqlx::query(MARK_LOGGED).bind(&ids)).await?;
        if self.is_interfered_with() {
            let left: Result<i64, _> = sqlx::query_scalar(STILL_UNLOGGED).bind(&ids).fetch_one(&mut *self.conn).await;
            let left = left.map_err(|source| self.error(doing, source))?;
            if left > 0 {
                return Err(self.not_done(doing, format!("{left} acts are not marked as logged after they were")));
            }
        }
        Ok(())
    }
}

/// An act: id, acted_at, act, operator, scope, rows, detail, ended.
///
/// An invalid value counts as missing, and a text that is too long is cut: a row that was forced in must keep nobody from reading
/// the others.
pub(super) fn act_row(row: &SqliteRow) -> Act {
    let number = |column: usize| row.try_get::<i64, _>(column).unwrap_or(0);
    let text = |column: usize, most: usize| {
        let bytes: Option<&[u8]> = row.try_get_unchecked(column).ok()?;
        bytes.map(|bytes| String::from_utf8_lossy(bytes).chars().take(most).collect::<String>())
    };
    Act {
        id: ActId(number(0)),
        acted_at: Timestamp(number(1)),
        kind: text(2, MAX_OPERATOR).and_then(|kind| ActKind::parse(&kind)),
        operator: text(3, MAX_OPERATOR).unwrap_or_default(),
        scope: text(4, MAX_DETAIL),
        rows: u64::try_from(number(5)).unwrap_or(0),
        detail: text(6, MAX_DETAIL),
        ended: number(7) == 1,
    }
}
