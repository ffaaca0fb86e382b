//! A PostgreSQL server of this test process's own: in a temporary directory, reached by its socket alone, and gone with the process.
//!
//! One server is started when the first test needs it. Every test gets a database to itself, which the next test uses again once it
//! is empty. Nothing that the tests write has to survive a power cut, so nothing waits for a disk.

use std::{
    env, fs,
    io::Write as _,
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread::sleep,
    time::Duration,
};

use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, postgres::PgConnectOptions};
use tempfile::TempDir;

use crate::daemon::skipped;

/// Where packages put the binaries of each version.
const PACKAGED: &str = "/usr/lib/postgresql";

/// The server refuses to run as root. Then it runs as this user.
const UNPRIVILEGED: &str = "nobody";

/// The role that makes the tables and owns them. It is no superuser.
pub const OWNER: &str = "sweeper";

/// Runs the server until standard input ends, which is when the test process ends, however it does. Then stops the server at once,
/// and removes its directory. `$1`: the binaries; `$2`: the directory.
const WATCHDOG: &str = r#"
trap '' INT TERM HUP
"$1"/postgres -D "$2"/data -k "$2" -c listen_addresses= -c fsync=off -c full_page_writes=off -c synchronous_commit=off \
    -c autovacuum=off -c log_line_prefix='%d %a ' -c max_connections=200 -c shared_buffers=64MB -c max_wal_size=4GB >> "$2"/log 2>&1 &
cat > /dev/null
kill -QUIT $!
wait
rm -rf "$2"
"#;

/// A running server.
#[derive(Debug)]
pub struct Cluster {
    dir: PathBuf,
    /// The server ends when this is closed.
    _lifeline: ChildStdin,
    watchdog: Child,
    databases: AtomicU32,
}

/// The server of this process; `None` if there are no binaries, which is said aloud, and which fails a build server's test.
pub fn cluster() -> Option<&'static Cluster> {
    static CLUSTER: OnceLock<Option<Cluster>> = OnceLock::new();
    let started = CLUSTER.get_or_init(|| match binaries() {
        Some(binaries) => Some(Cluster::start(&binaries)),
        None => {
            let why = format!("PostgreSQL's tests: there is no initdb on PATH or in {PACKAGED}/*/bin");
            assert!(env::var("CI").map_or(true, |ci| ci != "true"), "{why}");
            skipped(&why);
            None
        }
    });
    started.as_ref()
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

/// The user that the server must run as, if this process is root.
fn user() -> Option<nix::unistd::User> {
    nix::unistd::geteuid().is_root().then(|| nix::unistd::User::from_name(UNPRIVILEGED).unwrap().unwrap())
}

/// A directory that belongs to the server's user.
pub fn make_dir() -> PathBuf {
    let dir = TempDir::with_prefix("sweeper-pg-").unwrap().keep();
    if let Some(user) = user() {
        chown(&dir, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
    }
    dir
}

/// A program, run in `dir` as the server's user.
pub fn command(program: &Path, dir: &Path) -> Command {
    let mut command = Command::new(program);
    if user().is_some() {
        command = Command::new("setpriv");
        let switch = ["--reuid", UNPRIVILEGED, "--regid", "nogroup", "--clear-groups", "--"];
        command.args(switch).arg(program);
    }
    command.current_dir(dir);
    command
}

/// Makes the files of a server, in `dir/data`.
pub fn init(binaries: &Path, dir: &Path) {
    let mut make = command(&binaries.join("initdb"), dir);
    make.args(["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "-D"]);
    let made = make.arg(dir.join("data")).output().unwrap();
    assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
}

impl Cluster {
    /// Makes a server and starts it.
    pub fn start(binaries: &Path) -> Self {
        let dir = make_dir();
        init(binaries, &dir);
        let mut watchdog = command(Path::new("sh"), &dir);
        watchdog.args(["-c", WATCHDOG, "sh"]).arg(binaries).arg(&dir);
        // A group of its own: Ctrl-C in a terminal reaches the tests, and not their server.
        let mut watchdog = watchdog.stdin(Stdio::piped()).process_group(0).spawn().unwrap();
        let lifeline = watchdog.stdin.take().unwrap();
        let cluster = Self { dir, _lifeline: lifeline, watchdog, databases: AtomicU32::new(0) };
        cluster.wait_until_ready();
        // The test that waits for this runs on a runtime already.
        std::thread::scope(|scope| scope.spawn(|| cluster.make_owner()).join().unwrap());
        cluster
    }

    #[tokio::main(flavor = "current_thread")]
    async fn make_owner(&self) {
        let mut conn = self.connect("postgres", "postgres").await;
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE ROLE {OWNER} LOGIN"))).execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
    }

    fn wait_until_ready(&self) {
        for _ in 0..3_000 {
            let state = fs::read_to_string(self.dir.join("data/postmaster.pid")).unwrap_or_default();
            if state.lines().last().is_some_and(|line| line.trim() == "ready") {
                return;
            }
            sleep(Duration::from_millis(10));
        }
        panic!("the server does not start: {}", fs::read_to_string(self.log()).unwrap_or_default());
    }

    /// The directory with the server's socket.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The server's log. Each line begins with the database and the application.
    pub fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Connects.
    pub async fn connect(&self, role: &str, database: &str) -> PgConnection {
        let options = PgConnectOptions::new_without_pgpass().socket(&self.dir).username(role).database(database);
        options.disable_statement_logging().connect().await.unwrap()
    }

    /// The URL of a database.
    pub fn url(&self, role: &str, database: &str) -> String {
        format!("postgres://{role}@localhost/{database}?host={}", self.dir.display())
    }

    /// Makes a database that belongs to [`OWNER`], and returns its name.
    pub async fn make_database(&self, template: &str) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut conn = self.connect("postgres", "postgres").await;
        let sql = format!("CREATE DATABASE {name} OWNER {OWNER} TEMPLATE {template}");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        name
    }
}

#[tokio::test]
async fn a_server_ends_with_the_process_that_started_it_and_leaves_nothing_behind() {
    if cluster().is_none() {
        return;
    }
    let Cluster { dir, _lifeline: mut lifeline, mut watchdog, .. } = Cluster::start(&binaries().unwrap());
    let server = fs::read_to_string(dir.join("data/postmaster.pid")).unwrap();
    let server = PathBuf::from("/proc").join(server.lines().next().unwrap());
    // What is written does not matter, and neither do the signals that a terminal sends.
    lifeline.write_all(b"still here\n").unwrap();
    let signal = format!("kill -INT {0}; kill -TERM {0}", watchdog.id());
    assert!(Command::new("sh").args(["-c", &signal]).status().unwrap().success());
    sleep(Duration::from_millis(50));
    assert!(server.exists() && watchdog.try_wait().unwrap().is_none());
    // The end of a process closes its files, as this does.
    drop(lifeline);
    watchdog.wait().unwrap();
    assert!(!server.exists() && !dir.exists());
}

#[tokio::test]
async fn every_test_has_a_database_to_itself() {
    let Some(cluster) = cluster() else { return };
    let (one, other) = (cluster.make_database("template1").await, cluster.make_database("template1").await);
    let mut conn = cluster.connect("postgres", &one).await;
    sqlx::raw_sql("CREATE TABLE mine ()").execute(&mut conn).await.unwrap();
    let mut other = cluster.connect("postgres", &other).await;
    let theirs: Option<String> =
        sqlx::query_scalar("SELECT to_regclass('mine')::text").fetch_one(&mut other).await.unwrap();
    assert_eq!(theirs, None);
}
