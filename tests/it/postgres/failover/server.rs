//! A server that tests may stop, kill, start again, and copy to a physical standby. It ends with the test.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use sqlx::{AssertSqlSafe, Connection as _, PgConnection, postgres::PgConnectOptions};

use super::deadline::wait_until;
use crate::cluster::{OWNER, binaries, cluster, command, init, make_dir};

/// Stops the server and removes its directory as soon as standard input ends. `$1`: the binaries; `$2`: the directory.
const WATCHDOG: &str = r#"
trap '' INT TERM HUP
cat > /dev/null
"$1"/pg_ctl stop -s -m immediate -D "$2"/data > /dev/null 2>&1
until rm -rf "$2" 2> /dev/null; do sleep 0.1; done
"#;

/// The database that the servers here have.
pub const DATABASE: &str = "app";

/// What a commit was told of must be there after a crash of the server. A power cut is not among the tests, so nothing waits for a disk.
const SETTINGS: &str =
    "-c listen_addresses= -c fsync=off -c autovacuum=off -c max_connections=60 -c shared_buffers=32MB";

/// A server with its directory.
#[derive(Debug)]
pub struct Server {
    dir: PathBuf,
    binaries: PathBuf,
    /// The server ends when this is closed.
    lifeline: Option<ChildStdin>,
    watchdog: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.lifeline = None;
        let _ = self.watchdog.wait();
    }
}

impl Server {
    /// Makes a server with an empty database, and starts it; `None` without PostgreSQL, which was said then.
    pub async fn start() -> Option<Self> {
        cluster()?;
        let (dir, binaries) = (make_dir(), binaries().unwrap());
        init(&binaries, &dir);
        let server = Self::watched(dir, binaries);
        server.start_again();
        for sql in [&format!("CREATE ROLE {OWNER} LOGIN"), &format!("CREATE DATABASE {DATABASE} OWNER {OWNER}")] {
            server.execute(sql).await;
        }
        Some(server)
    }

    fn watched(dir: PathBuf, binaries: PathBuf) -> Self {
        let mut watchdog = command(Path::new("sh"), &dir);
        watchdog.args(["-c", WATCHDOG, "sh"]).arg(&binaries).arg(&dir);
        let mut watchdog = watchdog.stdin(Stdio::piped()).process_group(0).spawn().unwrap();
        Self { lifeline: watchdog.stdin.take(), dir, binaries, watchdog }
    }

    /// A physical standby of this server. From then on, a commit waits until the standby has it.
    pub async fn standby(&self) -> Self {
        let dir = make_dir();
        // A client's program, which packages put among other binaries than the server's.
        let program = self.binaries.join("pg_basebackup");
        let program = if program.is_file() { program } else { PathBuf::from("pg_basebackup") };
        let mut copy = command(&program, &dir);
        copy.args(["--no-sync", "-R", "-X", "stream", "-c", "fast", "-U", "postgres", "-h"]).arg(&self.dir);
        done(copy.arg("-D").arg(dir.join("data")));
        let standby = Self::watched(dir, self.binaries.clone());
        standby.start_again();
        self.execute("ALTER SYSTEM SET synchronous_standby_names = '*'").await;
        self.execute("SELECT pg_reload_conf()").await;
        standby
    }

    /// The directory with the server's socket.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Executes something as the server's superuser.
    async fn execute(&self, sql: &str) {
        let options =
            PgConnectOptions::new_without_pgpass().socket(&self.dir).username("postgres").database("postgres");
        let mut conn = PgConnection::connect_with(&options).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
    }

    fn pg_ctl(&self, args: &[&str]) -> Command {
        let mut control = command(&self.binaries.join("pg_ctl"), &self.dir);
        control.args(["-s", "-w", "-D"]).arg(self.dir.join("data")).args(args);
        control
    }

    fn starting(&self, how: &[&str]) -> Command {
        let mut start = self.pg_ctl(how);
        start.arg("-l").arg(self.dir.join("log")).arg("-o").arg(format!("-k {} {SETTINGS}", self.dir.display()));
        start
    }

    /// Starts the server, also one that was killed a moment ago: it does not start until the processes of before have ended.
    pub fn start_again(&self) {
        let is_up = || self.starting(&["start"]).output().unwrap().status.success();
        wait_until(Duration::from_secs(60), || "a start of the server".to_owned(), || is_up().then_some(()));
    }

    /// Ends all sessions in the middle of whatever they do, and starts again.
    pub fn restart(&self) {
        done(&mut self.starting(&["restart", "-m", "immediate"]));
    }

    /// Kills the server's first process. The others notice that, and end.
    pub fn kill(&self) {
        let pid = fs::read_to_string(self.dir.join("data/postmaster.pid")).unwrap();
        done(Command::new("kill").args(["-s", "KILL", pid.lines().next().unwrap()]));
    }

    /// Makes transactions read-only, as a switch to another server may begin; or lets them write again.
    pub async fn takes_writes(&self, writes: bool) {
        for sql in [&format!("ALTER SYSTEM SET default_transaction_read_only = {}", !writes), "SELECT pg_reload_conf()"]
        {
            self.execute(sql).await;
        }
    }

    /// Makes a standby the primary.
    pub fn promote(&self) {
        done(&mut self.pg_ctl(&["promote"]));
    }
}

fn done(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
