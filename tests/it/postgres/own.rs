//! A database that a test may change as it likes: nobody uses it after the test.

use std::process::Command;

use audio_cache_sweeper::sandbox::Sandbox;
use sqlx::AssertSqlSafe;
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::{
    cluster::{OWNER, cluster},
    daemon::{Daemon, Log, configure, finish, sweeper},
};

/// The database that the others are copies of, made by `sweeper init`.
static FRESH: OnceCell<String> = OnceCell::const_new();

/// A queue that no daemon has worked on, in a database of its own.
pub struct Own {
    pub name: String,
    dir: TempDir,
}

impl Own {
    /// `None` without a server, which was said then.
    pub async fn new() -> Option<Self> {
        let server = cluster()?;
        let fresh = FRESH.get_or_init(async || {
            let own = Self { name: server.make_database("template1").await, dir: tempfile::tempdir().unwrap() };
            let (code, _, stderr) = own.run(&["init"]).await;
            assert_eq!((code, stderr), (0, String::new()));
            own.name
        });
        Some(Self { name: server.make_database(fresh.await).await, dir: tempfile::tempdir().unwrap() })
    }

    pub fn url(&self) -> String {
        cluster().unwrap().url(OWNER, &self.name)
    }

    /// The binary on this queue, as the owner of the tables.
    pub fn command(&self) -> Command {
        let mut command = sweeper(self.dir.path());
        command.env("SWEEPER__DATABASE__URL", self.url()).env("SWEEPER__API__KEY", "a-key-that-is-long-enough");
        command
    }

    /// Exit code, standard output and standard error.
    pub async fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let mut command = self.command();
        command.args(arguments);
        finish(command).await
    }

    /// What `check` says, without the breaks of its lines.
    pub async fn check(&self) -> (i32, String) {
        let (code, out, _) = self.run(&["check"]).await;
        (code, out.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    /// Executes statements as a superuser.
    pub async fn execute(&self, sql: &str) {
        let mut conn = cluster().unwrap().connect("postgres", &self.name).await;
        let done = sqlx::raw_sql(AssertSqlSafe(format!("SET search_path = sweeper; {sql}"))).execute(&mut conn).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// The result of a query with one number a row.
    pub async fn numbers(&self, sql: &str) -> Vec<i64> {
        let mut conn = cluster().unwrap().connect("postgres", &self.name).await;
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut conn).await.unwrap()
    }

    /// Makes a trigger that is not ours: `trigger` is what stands between its name and EXECUTE, and `body` is in PL/pgSQL.
    pub async fn interfere(&self, trigger: &str, body: &str) {
        let constraint = if trigger.contains("DEFERRABLE") { "CONSTRAINT " } else { "" };
        self.execute(&format!(
            "CREATE FUNCTION public.theirs() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$;
             CREATE {constraint}TRIGGER theirs {trigger} EXECUTE FUNCTION public.theirs()"
        ))
        .await;
    }

    /// Rows of one agent.
    pub async fn insert(&self, rows: usize) {
        let insert = "INSERT INTO deletions (agent_id, entry_id) SELECT 'a', n::text FROM generate_series(1,";
        self.execute(&format!("{insert} {rows}) AS n")).await;
    }

    /// A daemon that works on this queue until it ends: its exit code and its log.
    pub async fn work(&self, sandbox: &Sandbox, arguments: &[&str]) -> (i32, Log) {
        let mut command = configure(self.command(), sandbox);
        command.arg("run").args(arguments);
        Daemon::spawn(command).ended().await
    }
}
