//! PostgreSQL for the suite: a database, a connection for producers and operators, and the worker's store.

mod daemon;
mod databases;
mod inbox;

use std::{fmt, process::Command, time::Duration};

use audio_cache_sweeper::{
    model::{
        act::{Act, ActKind},
        clock::Timestamp,
        deletion::{AgentId, Kind, State},
        outcome::{Cause, Scope},
    },
    queue::postgres::{Address, OpenError, Options, Store},
};
use sqlx::{
    AssertSqlSafe, FromRow, PgConnection, Row as _,
    postgres::{PgCopyIn, PgRow},
};
use uuid::Uuid;

use crate::{
    cluster::cluster,
    suite::engine::{Counts, Daemon, Engine, Hold, Outcome, Request, Row, Setup, Wish, Witness},
};
use databases::Database;

/// Rows in one INSERT statement.
const CHUNK: usize = 2_000;

/// A queue in a database of its own.
pub struct Postgres {
    pub database: Database,
    pub options: Options,
    conn: PgConnection,
    /// This producer writes past the checks.
    is_unchecked: bool,
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").field("database", &self.database).finish_non_exhaustive()
    }
}

impl Postgres {
    /// Executes statements in one transaction, or as part of the open one.
    pub async fn execute(&mut self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.conn).await.unwrap();
    }

    /// The same, if that is refused: the server's message.
    pub async fn try_to(&mut self, sql: &str) -> Result<(), String> {
        let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.conn).await;
        done.map(drop).map_err(|error| error.as_database_error().unwrap().message().to_owned())
    }

    /// Begins a COPY.
    pub async fn copy(&mut self, sql: &str) -> PgCopyIn<&mut PgConnection> {
        self.conn.copy_in_raw(sql).await.unwrap()
    }

    pub async fn query<T: for<'r> FromRow<'r, PgRow> + Send + Unpin>(&mut self, sql: &str) -> Vec<T> {
        sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&mut self.conn).await.unwrap()
    }

    async fn fetch<T>(&mut self, sql: &str, read: fn(&PgRow) -> T) -> Vec<T> {
        sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut self.conn).await.unwrap().iter().map(read).collect()
    }
}

/// Opens the queue. The server ends the session of a worker that was dropped a moment ago, and until then that session has the lock.
pub async fn open(options: &Options) -> Store {
    for _ in 0..10_000 {
        match Store::open(options.clone()).await {
            Err(OpenError::Taken { .. }) => tokio::time::sleep(Duration::from_millis(1)).await,
            opened => return opened.unwrap(),
        }
    }
    panic!("the lock is not given back: {options:?}");
}

impl Engine for Postgres {
    type Queue = Store;
    type Witness = Onlooker;

    fn is_here() -> bool {
        cluster().is_some()
    }

    fn runs(all: u64) -> u64 {
        all / 4
    }

    async fn create(setup: Setup) -> Self {
        let (database, conn) = databases::take().await;
        let address = Address::parse(&database.url()).unwrap();
        Self { options: Options { address, busy_timeout: setup.busy_timeout }, database, conn, is_unchecked: false }
    }

    async fn open(&self) -> Store {
        open(&self.options).await
    }

    fn configure(&self, command: &mut Command) {
        command.env("SWEEPER__DATABASE__URL", self.database.url());
    }

    fn address(&self) -> String {
        self.options.address.to_string()
    }

    async fn witness(&self) -> Onlooker {
        Onlooker(self.database.connect().await)
    }

    async fn enqueue(&mut self, wishes: &[Wish]) {
        let mut sql = String::new();
        for wishes in wishes.chunk_by(|one, other| one.created_at.is_some() == other.created_at.is_some()) {
            let is_dated = wishes[0].created_at.is_some();
            let past =
                if self.is_unchecked { ", 'pending', nextval(pg_get_serial_sequence('deletions', 'id'))" } else { "" };
            let values = wishes.iter().map(|wish| {
                let Wish { agent, entry, priority, due_at, created_at } = wish;
                let created_at = created_at.map(|at| format!(", {at}")).unwrap_or_default();
                format!("({}, {}, {priority}, {due_at}{created_at}{past})", text(agent), text(entry))
            });
            let created_at = if is_dated { ", created_at" } else { "" };
            let columns = format!("agent_id, entry_id, priority, due_at{created_at}");
            let into = match self.is_unchecked {
                true => format!("deletions_known ({columns}, state, id) OVERRIDING SYSTEM VALUE"),
                false => format!("deletions ({columns})"),
            };
            sql += &inserts(&into, values);
        }
        self.execute(&sql).await;
    }

    async fn rows(&mut self) -> Vec<Row> {
        let known = self.fetch(&format!("SELECT {ROW} FROM deletions_known ORDER BY id"), row).await;
        let wishes = self.fetch(&format!("SELECT {ROW} FROM deletions_new ORDER BY id"), row).await;
        inbox::taken_in(known, wishes)
    }

    async fn settled_by_the_newest(&mut self, requests: i64) -> Vec<Row> {
        let sql = format!(
            "SELECT {ROW} FROM deletions_known
             WHERE settled_at IS NOT NULL AND request_id > (SELECT max(id) FROM requests) - {requests} ORDER BY id"
        );
        self.fetch(&sql, row).await
    }

    async fn requests(&mut self) -> Vec<Request> {
        self.fetch(&format!("SELECT {REQUEST} FROM requests ORDER BY id"), request).await
    }

    async fn unanswered(&mut self) -> Vec<Request> {
        self.fetch(&format!("SELECT {REQUEST} FROM requests WHERE answered_at IS NULL ORDER BY id"), request).await
    }

    async fn outcomes(&mut self) -> Vec<Outcome> {
        let outcome = |row: &PgRow| Outcome {
            request: row.get(0),
            row: row.get(1),
            verdict: row.get(2),
            cause: cause_of(row.get(3)),
        };
        self.fetch("SELECT request_id, deletion_id, verdict, cause FROM outcomes ORDER BY 1, 2", outcome).await
    }

    async fn holds(&mut self) -> Vec<Hold> {
        self.fetch(&format!("SELECT {HOLD} FROM holds ORDER BY 1, 2"), hold).await
    }

    async fn holds_over(&mut self, agent: &str) -> Vec<Hold> {
        holds_over(&mut self.conn, agent).await
    }

    async fn daemon(&mut self) -> Option<Daemon> {
        daemon::daemon(&mut self.conn).await
    }

    async fn pending(&mut self) -> usize {
        let sql = "SELECT (SELECT count(*) FROM deletions_known WHERE state = 'pending') + (
            SELECT count(DISTINCT (agent_id, entry_id)) FROM deletions_new AS wish WHERE NOT EXISTS (
                SELECT 1 FROM deletions_known AS known
                WHERE known.agent_id = wish.agent_id AND known.entry_id = wish.entry_id AND known.state = 'pending'))";
        usize::try_from(self.query::<(i64,)>(sql).await[0].0).unwrap()
    }

    async fn place(&mut self, holds: &[Hold]) {
        let sql: String = holds.iter().map(place_hold).collect();
        self.execute(&sql).await;
    }

    async fn lift(&mut self, holds: &[Hold]) {
        let keys: Vec<String> =
            holds.iter().map(|hold| format!("({}, '{}')", text(hold.scope.as_str()), hold.cause.as_str())).collect();
        if !keys.is_empty() {
            self.execute(&format!("DELETE FROM holds WHERE (scope, cause) IN (VALUES {})", keys.join(", "))).await;
        }
    }

    async fn act(&mut self, act: &Act) {
        let Act { id, acted_at, kind, operator, scope, rows, detail, ended } = act;
        let [operator, scope, detail] =
            [Some(operator), scope.as_ref(), detail.as_ref()].map(|text| nullable(text.map(String::as_str)));
        let (id, kind) = (id.0, nullable(kind.map(ActKind::as_str)));
        let sql = format!(
            "INSERT INTO acts (id, acted_at, act, operator, scope, rows, detail, updated_at, ended)
             VALUES ({id}, {acted_at}, {kind}, {operator}, {scope}, {rows}, {detail}, {acted_at}, {ended})"
        );
        self.execute(&sql).await;
    }

    async fn edit(&mut self, rows: &[Row]) {
        let sets = SET.map(|column| format!("{column} = excluded.{column}")).join(", ");
        let edit = |row: &Row| {
            let insert = inserts(&known(), [row_values(row)].into_iter());
            let insert = insert.trim_end_matches(';');
            format!("{} {insert} ON CONFLICT (agent_id, entry_id) DO UPDATE SET {sets};", delete("deletions_new", row))
        };
        let sql: String = rows.iter().map(edit).collect();
        self.execute(&sql).await;
    }

    async fn remove(&mut self, rows: &[Row]) {
        let sql: String =
            rows.iter().map(|row| delete("deletions_new", row) + &delete("deletions_known", row)).collect();
        self.execute(&sql).await;
    }

    async fn put(&mut self, rows: &[Row], requests: &[Request]) {
        let mut sql = inserts(&known(), rows.iter().map(row_values));
        sql += &inserts(
            "requests (id, correlation_id, agent_id, kind, deletion_ids, size, claimed_at, answered_at, status, deleted,
             absent, retried, dead, fault, detail, remote_id)",
            requests.iter().map(request_values),
        );
        sql += "SELECT setval(pg_get_serial_sequence('deletions', 'id'), greatest(
            (SELECT max(id) FROM deletions), (SELECT last_value FROM deletions_id_seq)));";
        self.execute(&sql).await;
    }

    async fn forget(&mut self) {
        let sql = "DELETE FROM requests; DELETE FROM deletions; UPDATE daemon SET started_at = 0, updated_at = 0;";
        self.execute(sql).await;
    }

    async fn shut_out(&mut self) {
        self.execute(
            "BEGIN; LOCK TABLE deletions, requests, holds, acts, wishes, daemon, leadership IN EXCLUSIVE MODE",
        )
        .await;
    }

    async fn let_in(&mut self) {
        self.execute("COMMIT").await;
    }

    /// The owner of the tables can write to the rows of the leader, which have no checks on texts.
    async fn switch_checks_off(&mut self) -> bool {
        self.is_unchecked = true;
        true
    }

    async fn assert_sound(&mut self) {
        let sql = "SELECT count(*) FROM deletions_known";
        let mut counts = Vec::new();
        for settings in [
            "SET enable_seqscan = off; SET enable_indexonlyscan = on",
            "RESET enable_seqscan; SET enable_indexonlyscan = off",
        ] {
            self.execute(settings).await;
            counts.push(self.query::<(i64,)>(sql).await[0].0);
        }
        assert_eq!(counts[0], counts[1]);
    }
}

/// A connection that waits for no lock.
pub struct Onlooker(PgConnection);

impl fmt::Debug for Onlooker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Onlooker")
    }
}

impl Witness for Onlooker {
    async fn in_flight(&mut self, id: Uuid) -> Option<Request> {
        let sql = format!("SELECT {REQUEST} FROM requests WHERE correlation_id = $1 AND answered_at IS NULL");
        let found = sqlx::query(AssertSqlSafe(sql)).bind(id).fetch_optional(&mut self.0).await.unwrap();
        found.as_ref().map(request)
    }

    fn holds_over(&mut self, agent: &str) -> impl Future<Output = Vec<Hold>> + Send {
        holds_over(&mut self.0, agent)
    }

    /// A lock that goes together with reading, and with no write of another transaction.
    async fn kept_out_by(&mut self) -> Option<String> {
        let sql = "BEGIN; LOCK TABLE deletions, requests, holds IN SHARE ROW EXCLUSIVE MODE NOWAIT; ROLLBACK";
        let wrote = sqlx::raw_sql(sql).execute(&mut self.0).await;
        if wrote.is_err() {
            sqlx::raw_sql("ROLLBACK").execute(&mut self.0).await.unwrap();
        }
        wrote.err().map(|error| error.to_string())
    }
}

async fn holds_over(conn: &mut PgConnection, agent: &str) -> Vec<Hold> {
    let sql = format!("SELECT {HOLD} FROM holds WHERE scope IN ('*', $1) ORDER BY 1, 2");
    sqlx::query(AssertSqlSafe(sql)).bind(agent).fetch_all(conn).await.unwrap().iter().map(hold).collect()
}

fn text(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

fn nullable(value: Option<&str>) -> String {
    value.map_or_else(|| "NULL".to_owned(), text)
}

fn number<N: ToString>(value: Option<N>) -> String {
    value.map_or_else(|| "NULL".to_owned(), |value| value.to_string())
}

/// INSERT statements for these values.
fn inserts(into: &str, values: impl Iterator<Item = String>) -> String {
    let values: Vec<String> = values.collect();
    values.chunks(CHUNK).map(|values| format!("INSERT INTO {into} VALUES {};", values.join(", "))).collect()
}

/// Removes the row, and what is wished for it.
fn delete(from: &str, row: &Row) -> String {
    format!("DELETE FROM {from} WHERE agent_id = {} AND entry_id = {};", text(&row.agent), text(&row.entry))
}

fn place_hold(hold: &Hold) -> String {
    let Hold { scope, cause, since_at, until_at, probed_at, repeats } = hold;
    let [until_at, probed_at] = [until_at, probed_at].map(|at| number(at.map(|at| at.0)));
    format!(
        "INSERT INTO holds (scope, cause, since_at, until_at, probed_at, repeats)
         VALUES ({}, '{}', {since_at}, {until_at}, {probed_at}, {repeats})
         ON CONFLICT (scope, cause) DO UPDATE SET since_at = excluded.since_at, until_at = excluded.until_at,
             probed_at = excluded.probed_at, repeats = excluded.repeats;",
        text(scope.as_str()),
        cause.as_str()
    )
}

/// The columns of a row that may change.
const SET: [&str; 13] = [
    "priority",
    "state",
    "attempts",
    "due_at",
    "batch_max",
    "asks",
    "maybe_done",
    "request_id",
    "first_fault",
    "evidence",
    "last_cause",
    "created_at",
    "settled_at",
];

/// The table of rows that the leader knows, with its columns.
fn known() -> String {
    format!("deletions_known (id, agent_id, entry_id, {}) OVERRIDING SYSTEM VALUE", SET.join(", "))
}

fn row_values(row: &Row) -> String {
    let columns = [
        row.id.to_string(),
        text(&row.agent),
        text(&row.entry),
        row.priority.to_string(),
        text(row.state.as_str()),
        row.attempts.to_string(),
        row.due_at.to_string(),
        row.batch_max.to_string(),
        row.asks.to_string(),
        row.maybe_done.to_string(),
        number(row.request),
        number(row.first_fault),
        number(row.evidence),
        nullable(row.last_cause.map(Cause::as_str)),
        row.created_at.to_string(),
        number(row.settled_at),
    ];
    format!("({})", columns.join(", "))
}

fn request_values(request: &Request) -> String {
    let Request { id, correlation_id, agent, kind, rows, claimed_at, .. } = request;
    let count = |count: fn(&Counts) -> u32| number(request.counts.as_ref().map(count));
    let rows: Vec<String> = rows.iter().map(i64::to_string).collect();
    let columns = [
        id.to_string(),
        text(correlation_id),
        text(agent),
        text(kind.as_str()),
        format!("'{{{}}}'", rows.join(",")),
        rows.len().to_string(),
        claimed_at.to_string(),
        number(request.answered_at),
        number(request.status),
        count(|counts| counts.deleted),
        count(|counts| counts.absent),
        count(|counts| counts.retried),
        count(|counts| counts.dead),
        nullable(request.fault.map(Cause::as_str)),
        nullable(request.detail.as_deref()),
        nullable(request.remote_id.as_deref()),
    ];
    format!("({})", columns.join(", "))
}

fn at(row: &PgRow, column: usize) -> Option<Timestamp> {
    row.get::<Option<i64>, _>(column).map(Timestamp)
}

fn count(row: &PgRow, column: usize) -> u32 {
    u32::try_from(row.get::<i32, _>(column)).unwrap()
}

fn cause_of(text: Option<String>) -> Option<Cause> {
    text.map(|text| Cause::parse(&text).unwrap())
}

const ROW: &str = "id, agent_id, entry_id, priority, state, attempts, due_at, batch_max, asks, maybe_done, request_id,
    first_fault, evidence, last_cause, created_at, settled_at";

fn row(row: &PgRow) -> Row {
    let states = [State::Pending, State::Deleted, State::Absent, State::Dead];
    let state: &str = row.get(4);
    Row {
        id: row.get(0),
        agent: row.get(1),
        entry: row.get(2),
        priority: row.get(3),
        // What is not taken in yet is `new`.
        state: states.into_iter().find(|known| known.as_str() == state).unwrap_or(State::Pending),
        attempts: count(row, 5),
        due_at: Timestamp(row.get(6)),
        batch_max: u8::try_from(row.get::<i16, _>(7)).unwrap(),
        asks: count(row, 8),
        maybe_done: row.get(9),
        request: row.get(10),
        first_fault: row.get(11),
        evidence: row.get(12),
        last_cause: cause_of(row.get(13)),
        created_at: Timestamp(row.get(14)),
        settled_at: at(row, 15),
    }
}

const REQUEST: &str =
    "id, correlation_id, agent_id, kind, deletion_ids, size::integer, claimed_at, answered_at, status::integer,
    deleted::integer, absent::integer, retried::integer, dead::integer, fault, detail, remote_id";

fn request(row: &PgRow) -> Request {
    let rows: Vec<i64> = row.get(4);
    assert_eq!(count(row, 5) as usize, rows.len(), "the size is that of the manifest");
    let counts = |deleted| Counts {
        deleted: u32::try_from(deleted).unwrap(),
        absent: count(row, 10),
        retried: count(row, 11),
        dead: count(row, 12),
    };
    Request {
        id: row.get(0),
        correlation_id: row.get::<Uuid, _>(1).to_string(),
        agent: row.get(2),
        kind: if row.get::<&str, _>(3) == Kind::Single.as_str() { Kind::Single } else { Kind::Bulk },
        rows,
        claimed_at: Timestamp(row.get(6)),
        answered_at: at(row, 7),
        status: row.get::<Option<i32>, _>(8).map(|status| u16::try_from(status).unwrap()),
        counts: row.get::<Option<i32>, _>(9).map(counts),
        fault: cause_of(row.get(13)),
        detail: row.get(14),
        remote_id: row.get(15),
    }
}

const HOLD: &str = "scope, cause, since_at, until_at, probed_at, repeats";

fn hold(row: &PgRow) -> Hold {
    let scope = match row.get(0) {
        "*" => Scope::All,
        agent => Scope::Agent(AgentId::parse(agent).unwrap()),
    };
    Hold {
        scope,
        cause: cause_of(row.get(1)).unwrap(),
        since_at: Timestamp(row.get(2)),
        until_at: at(row, 3),
        probed_at: at(row, 4),
        repeats: u32::try_from(row.get::<i64, _>(5)).unwrap(),
    }
}
