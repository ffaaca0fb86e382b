//! The binary as the tests start it: configured by its environment, watched by its log.

use std::{
    io::{self, BufRead, BufReader, Write as _},
    net::SocketAddr,
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

use assert_cmd::assert::OutputAssertExt as _;
use audio_cache_sweeper::sandbox::{Mood, Options, Sandbox};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

pub const KEY: &str = "s3cret-key";

/// `program`, with nothing of the surrounding environment that the binary would take for configuration.
pub fn clean(program: &str, dir: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        // PostgreSQL's own variables fill in what a URL leaves out.
        let is_ours = name.starts_with("SWEEPER") || name.starts_with("PG");
        if is_ours || ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"].contains(&&*name) {
            command.env_remove(&*name);
        }
    }
    // The terminal of whoever runs the tests has no say in the width of a page.
    command.env_remove("COLUMNS").env_remove("LINES");
    // Nor has it a say in colours. CI is among the variables: where it is set, a dumb terminal counts as one that has colours.
    for name in ["CI", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
        command.env_remove(name);
    }
    command.env("TERM", "xterm");
    // A file in /etc is not the tests' either.
    command.env("SWEEPER_CONFIG", "");
    command.current_dir(dir).stdin(Stdio::null());
    command
}

pub const BINARY: &str = env!("CARGO_BIN_EXE_sweeper");

pub fn sweeper(dir: &Path) -> Command {
    clean(BINARY, dir)
}

pub fn configured(dir: &Path, sandbox: &Sandbox) -> Command {
    configure(sweeper(dir), sandbox)
}

/// Fast, and with its API.
pub fn configure(mut command: Command, sandbox: &Sandbox) -> Command {
    command
        .env("SWEEPER__API__BASE_URL", sandbox.url())
        .env("SWEEPER__API__KEY", KEY)
        .env("SWEEPER__DELIVERY__LINGER", "0s")
        .env("SWEEPER__RATE_LIMIT__REQUESTS_PER_SECOND", "1000")
        .env("SWEEPER__RATE_LIMIT__BURST", "1000")
        .env("SWEEPER__RETRY__BASE_DELAY", "10ms")
        .env("SWEEPER__QUEUE__POLL_INTERVAL", "10ms");
    command
}

pub async fn sandbox(options: Options) -> Sandbox {
    let options = Options { key: Some(KEY.to_owned()), record: true, ..options };
    Sandbox::start(SocketAddr::from(([127, 0, 0, 1], 0)), options).await.unwrap()
}

pub async fn open(path: &Path) -> SqliteConnection {
    SqliteConnection::connect(path.to_str().unwrap()).await.unwrap()
}

/// What a statement answers in its one column, on `sweeper.db`.
pub async fn sql(dir: &Path, sql: &str) -> Vec<(String,)> {
    let mut conn = open(&dir.join("sweeper.db")).await;
    let rows = sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    rows
}

/// A new queue with so many rows of one agent.
pub async fn queue(dir: &Path, rows: usize) {
    sweeper(dir).arg("init").assert().code(0);
    let insert = format!(
        "INSERT INTO deletions (agent_id, entry_id)
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) SELECT 'a', i FROM n"
    );
    sql(dir, &insert).await;
}

/// Another process's hand on the file: nobody else can write until it is dropped, or lets go.
pub struct Locked(SqliteConnection);

impl Locked {
    pub async fn new(dir: &Path) -> Self {
        let mut conn = open(&dir.join("sweeper.db")).await;
        sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut conn).await.unwrap();
        Self(conn)
    }

    pub async fn release(mut self) {
        sqlx::raw_sql("COMMIT").execute(&mut self.0).await.unwrap();
        self.0.close().await.unwrap();
    }
}

pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// Runs it to its end, while the sandbox goes on answering.
pub async fn finish(mut command: Command) -> (i32, String, String) {
    let output = blocking(move || command.output().unwrap()).await;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// Not by a macro, whose output a passing test would swallow.
pub fn skipped(why: &str) {
    let mut stderr = io::stderr();
    writeln!(stderr, "skipped: {why}").unwrap();
}

/// A running daemon, killed when it is dropped.
pub struct Daemon {
    child: Child,
    log: BufReader<ChildStdout>,
    seen: Vec<Value>,
    text: String,
}

impl Daemon {
    pub fn start(mut command: Command) -> Self {
        command.arg("run");
        Self::spawn(command)
    }

    /// A command that becomes the daemon.
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let log = BufReader::new(child.stdout.take().unwrap());
        Self { child, log, seen: Vec::new(), text: String::new() }
    }

    /// Starts it on a queue of one row, whose request the sandbox treats as `mood`; the request has come in.
    pub async fn start_calling(dir: &Path, sandbox: &Sandbox, mood: Mood, grace: &str) -> Self {
        sandbox.script([mood]);
        queue(dir, 1).await;
        let mut command = configured(dir, sandbox);
        command.env("SWEEPER__SHUTDOWN__GRACE", grace);
        let daemon = Self::start(command).until("started").await;
        sandbox.arrived(1).await;
        daemon
    }

    /// All that was read of its log, as it came.
    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Reads its log up to the next line of an event.
    pub async fn until(mut self, event: &'static str) -> Self {
        blocking(move || {
            while self.read_line() {
                if self.seen.last().unwrap()["event"] == event {
                    return self;
                }
            }
            panic!("the log ended without {event}: {:#?}", self.seen);
        })
        .await
    }

    fn read_line(&mut self) -> bool {
        let mut line = String::new();
        if self.log.read_line(&mut line).unwrap() == 0 {
            return false;
        }
        self.seen.push(serde_json::from_str(&line).unwrap());
        self.text.push_str(&line);
        true
    }

    pub fn signal(&self, name: &str) {
        Command::new("kill").args(["-s", name, &self.pid().to_string()]).assert().success();
    }

    /// Reads the rest of its log; its exit code (-1 for a signal), and all that it has logged.
    pub async fn ended(mut self) -> (i32, Log) {
        blocking(move || {
            while self.read_line() {}
            let code = self.child.wait().unwrap().code().unwrap_or(-1);
            (code, Log(std::mem::take(&mut self.seen)))
        })
        .await
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a daemon has logged.
#[derive(Debug)]
pub struct Log(Vec<Value>);

impl Log {
    /// All lines.
    pub fn lines(&self) -> &[Value] {
        &self.0
    }

    /// How often an event came at a level.
    pub fn count(&self, event: &str, level: &str) -> usize {
        self.0.iter().filter(|line| line["event"] == event && line["level"] == level).count()
    }

    /// A field of the last line of an event.
    pub fn last(&self, event: &str, field: &str) -> String {
        let line = self.0.iter().rfind(|line| line["event"] == event);
        let value = &line.unwrap_or_else(|| panic!("no {event} in {self:#?}"))[field];
        value.as_str().map_or_else(|| value.to_string(), str::to_owned)
    }
}
