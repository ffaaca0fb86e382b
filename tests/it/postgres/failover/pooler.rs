//! A pooler in between: in transaction mode, the lock would be on a session that is not the daemon's.

use std::{
    env, fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Stdio},
    time::Duration,
};

use crate::{
    cluster::{OWNER, cluster, command, make_dir},
    daemon::{Daemon, finish, skipped, sweeper},
    engines::postgres::Postgres,
    suite::engine::{Engine as _, Setup},
};

/// Ends the pooler with standard input. `$1`: the binary; `$2`: the directory.
const WATCHDOG: &str = r#"
trap '' INT TERM HUP
"$1" -q "$2"/ini > /dev/null 2>&1 &
cat > /dev/null
kill -KILL $!
rm -rf "$2"
"#;

/// A running pgbouncer.
struct Pooler {
    dir: PathBuf,
    lifeline: Option<ChildStdin>,
    watchdog: Child,
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.lifeline = None;
        let _ = self.watchdog.wait();
    }
}

impl Pooler {
    fn start(binary: &Path, server: &Path, mode: &str) -> Self {
        let dir = make_dir();
        let (place, server) = (dir.display(), server.display());
        let ini = format!(
            "[databases]\n* = host={server}\n[pgbouncer]\nlisten_addr =\nlisten_port = 5432\nunix_socket_dir = {place}\n\
             auth_type = trust\nauth_file = {place}/users\npool_mode = {mode}\nignore_startup_parameters = extra_float_digits\n"
        );
        fs::write(dir.join("ini"), ini).unwrap();
        fs::write(dir.join("users"), format!("\"{OWNER}\" \"\"\n")).unwrap();
        let mut watchdog = command(Path::new("sh"), &dir);
        watchdog.args(["-c", WATCHDOG, "sh"]).arg(binary).arg(&dir);
        let mut watchdog = watchdog.stdin(Stdio::piped()).process_group(0).spawn().unwrap();
        let lifeline = watchdog.stdin.take();
        let socket = dir.join(".s.PGSQL.5432");
        super::deadline::wait_until(
            Duration::from_secs(30),
            || "the pooler".to_owned(),
            || socket.exists().then_some(()),
        );
        Self { dir, lifeline, watchdog }
    }
}

/// Debian puts it where only root looks.
fn binary() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let found = dirs.map(|dir| dir.join("pgbouncer")).find(|binary| binary.is_file());
    if found.is_none() {
        skipped("the tests with a pooler: there is no pgbouncer on PATH or in /usr/sbin");
    }
    found
}

#[tokio::test]
async fn a_pooler_in_transaction_mode_is_refused_and_one_in_session_mode_is_as_good_as_none() {
    let Some(server) = cluster() else { return };
    let Some(binary) = binary() else { return };
    let engine = Postgres::create(Setup { busy_timeout: Duration::ZERO, in_memory: false }).await;
    let (dir, name) = (tempfile::tempdir().unwrap(), engine.database.name());
    for mode in ["transaction", "session"] {
        let pooler = Pooler::start(&binary, server.dir(), mode);
        let mut run = sweeper(dir.path());
        let url = format!("postgres://{OWNER}@localhost/{name}?host={}", pooler.dir.display());
        let mut check = sweeper(dir.path());
        check.arg("check").env("SWEEPER__DATABASE__URL", &url).env("SWEEPER__API__KEY", "k");
        let (code, out, _) = finish(check).await;
        // A line is broken at spaces.
        let out = out.split_whitespace().collect::<Vec<_>>().join(" ");
        let is_told = out.contains("a pooler gives each transaction another session");
        assert_eq!((code == 1, is_told), (mode == "transaction", mode == "transaction"), "{out}");
        run.env("SWEEPER__DATABASE__URL", url).env("SWEEPER__API__KEY", "k").env("SWEEPER__LOG__FORMAT", "json");
        if mode == "session" {
            let daemon = Daemon::start(run).until("leading").await;
            daemon.signal("TERM");
            assert_eq!(daemon.ended().await.0, 0);
            continue;
        }
        run.arg("run");
        let (code, _, said) = finish(run).await;
        let why = "a pooler gives each transaction another session, and the daemon needs one to itself: connect past the pooler, or \
                   through it in session mode";
        assert!(code == 3 && said.contains(why), "{code} {said}");
    }
}
