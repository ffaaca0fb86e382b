//! SQLite for the suite: a file, a connection for producers and operators, and the worker's store.

mod daemon;

use std::{cell::RefCell, future::Future, path::Path, process::Command, time::Duration};

use audio_cache_sweeper::{
    model::{
        act::{Act, ActKind},
        clock::Timestamp,
        deletion::{AgentId, Kind, State},
        outcome::{Cause, Scope},
    },
    queue::sqlite::{OpenError, Options, Store, Synchronous},
};
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, FromRow, Row as _, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteRow},
};
use tempfile::TempDir;
use uuid::Uuid;

use crate::bed::UNCHECKED;
use crate::suite::engine::{Counts, Daemon, Engine, Hold, Outcome, Request, Row, Setup, Wish, Witness};

/// Rows in one INSERT statement. SQLite refuses statements of more than a million bytes.
const CHUNK: usize = 2_000;

/// A queue in a file in a directory of its own.
#[derive(Debug)]
pub struct Sqlite {
    pub dir: TempDir,
    pub options: Options,
    conn: SqliteConnection,
    /// The store that made the file, for the first worker. Closing it would empty the write-ahead log, which tests look at.
    made: RefCell<Option<Store>>,
}

impl Sqlite {
    /// The queue in this directory. It is made if there is none.
    pub async fn on(dir: TempDir, setup: Setup) -> Self {
        let options = Options {
            path: dir.path().join("queue.db"),
            busy_timeout: setup.busy_timeout,
            synchronous: if setup.in_memory { Synchronous::Normal } else { Synchronous::Full },
        };
        let made = RefCell::new(Some(open(&options).await));
        let conn = connect(&options.path, Duration::from_secs(5)).await;
        Self { dir, options, conn, made }
    }

    pub async fn execute(&mut self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.conn).await.unwrap();
    }

    pub async fn query<T: for<'r> FromRow<'r, SqliteRow> + Send + Unpin>(&mut self, sql: &str) -> Vec<T> {
        sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&mut self.conn).await.unwrap()
    }

    /// Executes statements in one transaction, or as part of the open one.
    async fn execute_all(&mut self, sql: &str) {
        self.execute(&format!("SAVEPOINT all_of_it; {sql} RELEASE all_of_it")).await;
    }
}

/// Opens the queue. This process may have released the lock a moment ago, and a child process that another test has just forked
/// keeps it until its exec: then it is tried again.
pub async fn open(options: &Options) -> Store {
    loop {
        match Store::open(options.clone()).await {
            Err(OpenError::Taken { pid, .. }) if pid == Some(std::process::id()) => tokio::task::yield_now().await,
            opened => return opened.unwrap(),
        }
    }
}

async fn connect(path: &Path, busy_timeout: Duration) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(path).busy_timeout(busy_timeout);
    options.disable_statement_logging().connect().await.unwrap()
}

impl Engine for Sqlite {
    type Queue = Store;
    type Witness = Onlooker;

    async fn create(setup: Setup) -> Self {
        // A file system in memory, if there is one: then nothing waits for a disk.
        let in_memory = setup.in_memory.then(|| tempfile::tempdir_in("/dev/shm").ok()).flatten();
        Self::on(in_memory.unwrap_or_else(|| tempfile::tempdir().unwrap()), setup).await
    }

    async fn open(&self) -> Store {
        let made = self.made.take();
        if let Some(made) = made { made } else { open(&self.options).await }
    }

    fn configure(&self, command: &mut Command) {
        command.env("SWEEPER__DATABASE__PATH", &self.options.path);
    }

    fn address(&self) -> String {
        self.options.path.display().to_string()
    }

    async fn witness(&self) -> Onlooker {
        Onlooker(connect(&self.options.path, Duration::ZERO).await)
    }

    async fn enqueue(&mut self, wishes: &[Wish]) {
        let mut sql = String::new();
        for wishes in wishes.chunk_by(|one, other| one.created_at.is_some() == other.created_at.is_some()) {
            let is_dated = wishes[0].created_at.is_some();
            let values = wishes.iter().map(|wish| {
                let Wish { agent, entry, priority, due_at, created_at } = wish;
                let created_at = created_at.map(|at| format!(", {at}")).unwrap_or_default();
                format!("({}, {}, {priority}, {due_at}{created_at})", text(agent), text(entry))
            });
            let columns = if is_dated { ", created_at" } else { "" };
            sql += &inserts(&format!("deletions (agent_id, entry_id, priority, due_at{columns})"), values);
        }
        self.execute_all(&sql).await;
    }

    async fn rows(&mut self) -> Vec<Row> {
        let sql = format!("SELECT {ROW} FROM deletions ORDER BY id");
        sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut self.conn).await.unwrap().iter().map(row).collect()
    }

    async fn settled_by_the_newest(&mut self, requests: i64) -> Vec<Row> {
        let sql = format!(
            "SELECT {ROW} FROM deletions
             WHERE settled_at IS NOT NULL AND request_id > (SELECT max(id) FROM requests) - ?1 ORDER BY id"
        );
        let found = sqlx::query(AssertSqlSafe(sql)).bind(requests).fetch_all(&mut self.conn).await;
        found.unwrap().iter().map(row).collect()
    }

    async fn requests(&mut self) -> Vec<Request> {
        let sql = format!("SELECT {REQUEST} FROM requests ORDER BY id");
        sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut self.conn).await.unwrap().iter().map(request).collect()
    }

    async fn unanswered(&mut self) -> Vec<Request> {
        let sql = format!("SELECT {REQUEST} FROM requests WHERE answered_at IS NULL ORDER BY id");
        sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut self.conn).await.unwrap().iter().map(request).collect()
    }

    async fn outcomes(&mut self) -> Vec<Outcome> {
        let sql = "SELECT request_id, deletion_id, verdict, cause FROM outcomes ORDER BY 1, 2";
        let all: Vec<(i64, i64, String, Option<String>)> = self.query(sql).await;
        let outcome = |(request, row, verdict, cause): (_, _, _, Option<String>)| Outcome {
            request,
            row,
            verdict,
            cause: cause_of(cause),
        };
        all.into_iter().map(outcome).collect()
    }

    async fn holds(&mut self) -> Vec<Hold> {
        let sql = format!("SELECT {HOLD} FROM holds ORDER BY 1, 2");
        sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut self.conn).await.unwrap().iter().map(hold).collect()
    }

    async fn holds_over(&mut self, agent: &str) -> Vec<Hold> {
        holds_over(&mut self.conn, agent).await
    }

    async fn daemon(&mut self) -> Option<Daemon> {
        daemon::daemon(&mut self.conn).await
    }

    async fn pending(&mut self) -> usize {
        let sql = "SELECT count(*) FROM deletions INDEXED BY deletions_due WHERE state = 'pending'";
        usize::try_from(self.query::<(i64,)>(sql).await[0].0).unwrap()
    }

    async fn place(&mut self, holds: &[Hold]) {
        let values = holds.iter().map(|hold| {
            let Hold { scope, cause, since_at, until_at, probed_at, repeats } = hold;
            let [until_at, probed_at] = [until_at, probed_at].map(|at| number(at.map(|at| at.0)));
            format!("({}, '{}', {since_at}, {until_at}, {probed_at}, {repeats})", text(scope.as_str()), cause.as_str())
        });
        let sql = inserts("holds (scope, cause, since_at, until_at, probed_at, repeats)", values);
        self.execute_all(&sql).await;
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
        let (id, ended, kind) = (id.0, u8::from(*ended), nullable(kind.map(ActKind::as_str)));
        let sql = format!(
            "INSERT INTO acts (id, acted_at, act, operator, scope, rows, detail, updated_at, ended)
             VALUES ({id}, {acted_at}, {kind}, {operator}, {scope}, {rows}, {detail}, {acted_at}, {ended})"
        );
        self.execute(&sql).await;
    }

    async fn edit(&mut self, rows: &[Row]) {
        let update = |row: &Row| {
            let set = values(row).map(|(column, value)| format!("{column} = {value}")).join(", ");
            format!("UPDATE deletions SET {set} WHERE id = {};", row.id)
        };
        let sql: String = rows.iter().map(update).collect();
        self.execute_all(&sql).await;
    }

    async fn remove(&mut self, rows: &[Row]) {
        let ids: Vec<String> = rows.iter().map(|row| row.id.to_string()).collect();
        self.execute(&format!("DELETE FROM deletions WHERE id IN ({})", ids.join(", "))).await;
    }

    async fn put(&mut self, rows: &[Row], requests: &[Request]) {
        let row = |row: &Row| {
            let Row { id, agent, entry, .. } = row;
            format!("({id}, {}, {}, {})", text(agent), text(entry), values(row).map(|(_, value)| value).join(", "))
        };
        let columns = rows.first().map(|row| values(row).map(|(column, _)| column).join(", ")).unwrap_or_default();
        let mut sql = inserts(&format!("deletions (id, agent_id, entry_id, {columns})"), rows.iter().map(row));
        sql += &inserts(
            "requests (id, correlation_id, agent_id, kind, deletion_ids, size, claimed_at, answered_at, status, deleted,
             absent, retried, dead, fault, detail, remote_id)",
            requests.iter().map(request_values),
        );
        self.execute_all(&sql).await;
    }

    async fn forget(&mut self) {
        let sql = "DELETE FROM requests; DELETE FROM deletions; UPDATE daemon SET started_at = 0, updated_at = 0;";
        self.execute_all(sql).await;
    }

    async fn shut_out(&mut self) {
        self.execute("BEGIN IMMEDIATE").await;
    }

    async fn let_in(&mut self) {
        self.execute("COMMIT").await;
    }

    async fn switch_checks_off(&mut self) -> bool {
        self.execute(UNCHECKED).await;
        true
    }

    async fn assert_sound(&mut self) {
        assert_eq!(self.query::<(String,)>("PRAGMA integrity_check").await, [("ok".to_owned(),)]);
    }
}

/// A connection that waits for no lock.
#[derive(Debug)]
pub struct Onlooker(SqliteConnection);

impl Witness for Onlooker {
    async fn in_flight(&mut self, id: Uuid) -> Option<Request> {
        let sql = format!("SELECT {REQUEST} FROM requests WHERE correlation_id = ?1 AND answered_at IS NULL");
        let found = sqlx::query(AssertSqlSafe(sql)).bind(id.to_string()).fetch_optional(&mut self.0).await.unwrap();
        found.as_ref().map(request)
    }

    fn holds_over(&mut self, agent: &str) -> impl Future<Output = Vec<Hold>> + Send {
        holds_over(&mut self.0, agent)
    }

    async fn kept_out_by(&mut self) -> Option<String> {
        let wrote = sqlx::raw_sql("BEGIN IMMEDIATE; ROLLBACK").execute(&mut self.0).await;
        wrote.err().map(|error| error.to_string())
    }
}

async fn holds_over(conn: &mut SqliteConnection, agent: &str) -> Vec<Hold> {
    let sql = format!("SELECT {HOLD} FROM holds WHERE scope IN ('*', ?1) ORDER BY 1, 2");
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

/// The columns of a row that may change, each with its value.
fn values(row: &Row) -> [(&'static str, String); 13] {
    [
        ("priority", row.priority.to_string()),
        ("state", text(row.state.as_str())),
        ("attempts", row.attempts.to_string()),
        ("due_at", row.due_at.to_string()),
        ("batch_max", row.batch_max.to_string()),
        ("asks", row.asks.to_string()),
        ("maybe_done", u8::from(row.maybe_done).to_string()),
        ("request_id", number(row.request)),
        ("first_fault", number(row.first_fault)),
        ("evidence", number(row.evidence)),
        ("last_cause", nullable(row.last_cause.map(Cause::as_str))),
        ("created_at", row.created_at.to_string()),
        ("settled_at", number(row.settled_at)),
    ]
}

fn request_values(request: &Request) -> String {
    let Request { id, correlation_id, agent, kind, rows, claimed_at, .. } = request;
    let count = |count: fn(&Counts) -> u32| number(request.counts.as_ref().map(count));
    let columns = [
        id.to_string(),
        text(correlation_id),
        text(agent),
        text(kind.as_str()),
        text(&serde_json::to_string(rows).unwrap()),
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

fn at(row: &SqliteRow, column: usize) -> Option<Timestamp> {
    row.get::<Option<i64>, _>(column).map(Timestamp)
}

fn cause_of(text: Option<String>) -> Option<Cause> {
    text.map(|text| Cause::parse(&text).unwrap())
}

const ROW: &str = "id, agent_id, entry_id, priority, state, attempts, due_at, batch_max, asks, maybe_done, request_id,
    first_fault, evidence, last_cause, created_at, settled_at";

fn row(row: &SqliteRow) -> Row {
    let states = [State::Pending, State::Deleted, State::Absent, State::Dead];
    let state: &str = row.get(4);
    Row {
        id: row.get(0),
        agent: row.get(1),
        entry: row.get(2),
        priority: row.get(3),
        state: states.into_iter().find(|known| known.as_str() == state).unwrap(),
        attempts: row.get(5),
        due_at: Timestamp(row.get(6)),
        batch_max: row.get(7),
        asks: row.get(8),
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
    "id, correlation_id, agent_id, kind, deletion_ids, size, claimed_at, answered_at, status, deleted,
    absent, retried, dead, fault, detail, remote_id";

fn request(row: &SqliteRow) -> Request {
    let rows: Vec<i64> = serde_json::from_str(row.get(4)).unwrap();
    assert_eq!(row.get::<u32, _>(5) as usize, rows.len(), "the size is that of the manifest");
    let counts = |deleted| Counts { deleted, absent: row.get(10), retried: row.get(11), dead: row.get(12) };
    Request {
        id: row.get(0),
        correlation_id: row.get(1),
        agent: row.get(2),
        kind: if row.get::<&str, _>(3) == Kind::Single.as_str() { Kind::Single } else { Kind::Bulk },
        rows,
        claimed_at: Timestamp(row.get(6)),
        answered_at: at(row, 7),
        status: row.get(8),
        counts: row.get::<Option<u32>, _>(9).map(counts),
        fault: cause_of(row.get(13)),
        detail: row.get(14),
        remote_id: row.get(15),
    }
}

const HOLD: &str = "scope, cause, since_at, until_at, probed_at, repeats";

fn hold(row: &SqliteRow) -> Hold {
    let scope: &str = row.get(0);
    Hold {
        scope: if scope == "*" { Scope::All } else { Scope::Agent(AgentId::parse(scope).unwrap()) },
        cause: Cause::parse(row.get(1)).unwrap(),
        since_at: Timestamp(row.get(2)),
        until_at: at(row, 3),
        probed_at: at(row, 4),
        repeats: row.get(5),
    }
}
