//! A PostgreSQL server for one run, set up as an operator would: what is committed is on the disk.

use std::{
    env, fs,
    io::Read as _,
    net::TcpListener,
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, postgres::PgConnectOptions};
use tempfile::TempDir;

use crate::process::{children, cpu, cpu_of_ended};

/// Where packages put the binaries of each version.
const PACKAGED: &str = "/usr/lib/postgresql";

/// The server refuses to run as root. Then it runs as this user.
const UNPRIVILEGED: &str = "nobody";

/// What differs from the server's defaults. All else, such as `fsync`, `synchronous_commit` and `autovacuum`, is as it comes.
pub const SETTINGS: [&str; 4] =
    ["shared_buffers=256MB", "max_wal_size=4GB", "max_connections=200", "track_wal_io_timing=on"];

/// Runs the server until standard input ends, which is when this process ends, however it does. Then stops the server, and removes its
/// directory. `$1`: the server's program; `$2`: the directory; then the server's arguments.
const WATCHDOG: &str = r#"
trap '' INT TERM HUP
server=$1 dir=$2
shift 2
"$server" -D "$dir"/data -k "$dir" "$@" >> "$dir"/log 2>&1 &
cat > /dev/null
kill -QUIT $!
wait
rm -rf "$dir"
"#;

/// A running server. It ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    dir: PathBuf,
    /// Where it listens, on loopback.
    pub port: u16,
    lifeline: Option<ChildStdin>,
    watchdog: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.lifeline = None;
        // The watchdog ends by itself.
        let _ = self.watchdog.wait();
    }
}

/// The directory of the server's binaries: one on PATH, or of the newest version that a package has installed.
pub fn binaries() -> Option<PathBuf> {
    let is_whole = |dir: &PathBuf| ["initdb", "postgres"].iter().all(|name| dir.join(name).is_file());
    let path = env::var_os("PATH").unwrap_or_default();
    if let Some(dir) = env::split_paths(&path).find(is_whole) {
        return Some(dir);
    }
    let versions = fs::read_dir(PACKAGED).into_iter().flatten().flatten();
    let version = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions.map(|entry| entry.path()).max_by_key(version)?;
    Some(newest.join("bin")).filter(is_whole)
}

impl Server {
    /// Makes a server and starts it.
    pub fn start(binaries: &Path) -> Self {
        let dir = TempDir::with_prefix("sweeper-bench-pg-").unwrap().keep();
        let is_root = nix::unistd::geteuid().is_root();
        if is_root {
            let user = nix::unistd::User::from_name(UNPRIVILEGED).unwrap().unwrap();
            chown(&dir, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        }
        let command = |program: &Path| {
            let mut command = Command::new(program);
            if is_root {
                command = Command::new("setpriv");
                let switch = ["--reuid", UNPRIVILEGED, "--regid", "nogroup", "--clear-groups", "--"];
                command.args(switch).arg(program);
            }
            command.current_dir(&dir);
            command
        };
        let mut make = command(&binaries.join("initdb"));
        make.args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "-D"]).arg(dir.join("data"));
        let made = make.output().unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        // Free a moment ago, and likely still.
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let mut watchdog = command(Path::new("sh"));
        watchdog.args(["-c", WATCHDOG, "sh"]).arg(binaries.join("postgres")).arg(&dir);
        watchdog.args(["-c", "listen_addresses=127.0.0.1", "-p", &port.to_string()]);
        for setting in SETTINGS {
            watchdog.args(["-c", setting]);
        }
        // A group of its own: Ctrl-C in a terminal ends this process, and that ends the server.
        let mut watchdog = watchdog.stdin(Stdio::piped()).process_group(0).spawn().unwrap();
        let lifeline = watchdog.stdin.take();
        let server = Self { dir, port, lifeline, watchdog };
        server.wait_until_ready();
        server
    }

    fn wait_until_ready(&self) {
        for _ in 0..3_000 {
            let state = fs::read_to_string(self.dir.join("data/postmaster.pid")).unwrap_or_default();
            if state.lines().last().is_some_and(|line| line.trim() == "ready") {
                return;
            }
            sleep(Duration::from_millis(10));
        }
        let mut log = String::new();
        fs::File::open(self.dir.join("log")).unwrap().read_to_string(&mut log).unwrap();
        panic!("the server does not start: {log}");
    }

    /// The URL of a database, by the server's port or another one that leads there.
    pub fn url_by(port: u16, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{port}/{database}?sslmode=disable")
    }

    /// The URL of a database.
    pub fn url(&self, database: &str) -> String {
        Self::url_by(self.port, database)
    }

    /// Connects.
    pub async fn connect(&self, database: &str) -> PgConnection {
        connect(&self.url(database)).await
    }

    /// Runs statements that return nothing, in the database `postgres`.
    pub async fn administer(&self, statements: &[&str]) {
        let mut conn = self.connect("postgres").await;
        for statement in statements {
            sqlx::raw_sql(AssertSqlSafe(*statement)).execute(&mut conn).await.unwrap();
        }
        conn.close().await.unwrap();
    }

    /// A new database, empty or a copy. One with its name is dropped.
    pub async fn make(&self, database: &str, template: &str) {
        self.administer(&[
            &format!("DROP DATABASE IF EXISTS {database} WITH (FORCE)"),
            &format!("CREATE DATABASE {database} TEMPLATE {template}"),
        ])
        .await;
    }

    /// Drops a database, if there is one.
    pub async fn drop_database(&self, database: &str) {
        self.administer(&[&format!("DROP DATABASE IF EXISTS {database} WITH (FORCE)")]).await;
    }

    /// The server's process for the connection of the one who leads, on the database of `conn`.
    pub async fn leader(&self, conn: &mut PgConnection) -> String {
        let pid = "SELECT pid::text FROM pg_locks WHERE locktype = 'advisory' AND granted AND database =
            (SELECT oid FROM pg_database WHERE datname = current_database())";
        sqlx::query_scalar(pid).fetch_one(conn).await.unwrap()
    }

    /// The seconds of CPU that the server's processes have had, also those that have ended.
    pub fn cpu(&self) -> f64 {
        let running: f64 = children(self.pid()).iter().map(|process| cpu(process)).sum();
        running + cpu_of_ended(&self.pid().to_string())
    }

    /// The server's first process.
    fn pid(&self) -> u32 {
        let said = fs::read_to_string(self.dir.join("data/postmaster.pid")).unwrap();
        said.lines().next().unwrap().parse().unwrap()
    }
}

/// Connects to a URL.
pub async fn connect(url: &str) -> PgConnection {
    let options: PgConnectOptions = url.parse().unwrap();
    options.disable_statement_logging().connect().await.unwrap()
}
