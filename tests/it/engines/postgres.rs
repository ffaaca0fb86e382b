//! PostgreSQL for the suite: a database, a connection for producers and operators, and the worker's store.

mod daemon;
mod databases;
mod inbox;
mod values;

use std::{fmt, process::Command, time::Duration};

use audio_cache_sweeper::{
    model::{
        act::{Act, ActKind},
        clock::Clock,
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
    suite::engine::{Daemon, Engine, Hold, Outcome, Request, Row, Setup, Wish, Witness},
};
use databases::Database;
use values::{
    HOLD, REQUEST, ROW, SET, cause_of, delete, hold, inserts, known, nullable, place_holds, request, request_values,
    row, row_values, text,
};

/// The lease of the tests' leaders: none of them stands still for so long.
pub const LEASE: Duration = Duration::from_secs(60);

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
        match Store::open(options.clone(), &Clock::system()).await {
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
        all / 8
    }

    fn takes_over() -> bool {
        true
    }

    fn learns_late() -> bool {
        true
    }

    async fn create(setup: Setup) -> Self {
        let (database, conn) = databases::take().await;
        let address = Address::parse(&[&database.url()]).unwrap();
        Self {
            options: Options {
                address,
                busy_timeout: setup.busy_timeout,
                lease: LEASE,
                request_timeout: Duration::ZERO,
            },
            database,
            conn,
            is_unchecked: false,
        }
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
        self.execute(&place_holds(holds)).await;
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
