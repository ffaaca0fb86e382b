//! One daemon owns a file, and nobody else, whatever lies beside the file.

use std::{fs, os::unix::fs::PermissionsExt as _};

use assert_cmd::assert::OutputAssertExt as _;
use audio_cache_sweeper::sandbox::{Mood, Options};

use crate::{
    daemon::{Daemon, configure, configured, sandbox, sql, sweeper},
    storage::{assert_unusable, unprivileged},
};

#[tokio::test]
async fn one_daemon_a_file_and_init_beside_it_is_content() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    let daemon = Daemon::start(configured(dir.path(), &sandbox)).until("started").await;
    std::os::unix::fs::symlink(dir.path().join("sweeper.db"), dir.path().join("link.db")).unwrap();
    for path in ["sweeper.db", "./sweeper.db", "link.db"] {
        let mut second = configured(dir.path(), &sandbox);
        second.env("SWEEPER__DATABASE__PATH", path);
        let (code, log) = Daemon::start(second).ended().await;
        let first = format!("another sweeper (process {}) is working on it, and only one may", daemon.pid());
        assert_unusable(
            code,
            &log.last("stopped", "error"),
            &[&format!("/{}: ", path.trim_start_matches("./")), &first],
        );
        assert_eq!(log.count("database_unavailable", "WARN"), 0, "at once");
    }
    let path = dir.path().join("sweeper.db");
    let said = format!("{}: up to date, and in use by a sweeper (process {})\n", path.display(), daemon.pid());
    sweeper(dir.path()).arg("init").assert().code(0).stdout(said);
}

#[tokio::test]
async fn init_beside_an_older_daemon_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    let daemon = Daemon::start_calling(dir.path(), &sandbox, Mood::Gate, "0s").await;
    let path = dir.path().join("sweeper.db");
    for (version, older) in [("0.0.9", true), (env!("CARGO_PKG_VERSION"), false), ("99.0.0", false), ("odd", false)] {
        sql(dir.path(), &format!("UPDATE daemon SET version = '{version}'")).await;
        let said = if older {
            format!(
                "{}: up to date, and in use by sweeper 0.0.9 (process {}), which is older than this one, {}; to use this \
                 version, stop that one and start this\n",
                path.display(),
                daemon.pid(),
                env!("CARGO_PKG_VERSION")
            )
        } else {
            format!("{}: up to date, and in use by a sweeper (process {})\n", path.display(), daemon.pid())
        };
        sweeper(dir.path()).arg("init").assert().code(0).stdout(said);
    }
    drop(daemon);
}

#[tokio::test]
async fn a_stale_lock_file_never_blocks_whatever_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let lock = dir.path().join("sweeper.db.lock");
    let sandbox = sandbox(Options::default()).await;
    let daemon = Daemon::start(configured(dir.path(), &sandbox)).until("started").await;
    daemon.signal("KILL");
    assert_eq!(daemon.ended().await.0, -1);
    let killed = fs::read_to_string(&lock).unwrap();
    let alive = std::process::id().to_string();
    for content in [killed.as_bytes(), alive.as_bytes(), b"", b"\xff\0 garbage", &[b'9'; 5_000]] {
        fs::write(&lock, content).unwrap();
        let daemon = Daemon::start(configured(dir.path(), &sandbox)).until("started").await;
        assert_eq!(fs::read_to_string(&lock).unwrap().trim(), daemon.pid().to_string());
        daemon.signal("TERM");
        assert_eq!(daemon.ended().await.0, 0);
    }
}

#[tokio::test]
async fn a_lock_file_that_is_read_only_locks_all_the_same_and_its_number_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let lock = dir.path().join("sweeper.db.lock");
    let sandbox = sandbox(Options::default()).await;
    let commands = || Some((unprivileged(dir.path())?, unprivileged(dir.path())?));
    fs::write(&lock, "1\n").unwrap();
    fs::set_permissions(&lock, fs::Permissions::from_mode(0o444)).unwrap();
    let Some((first, second)) = commands() else { return };
    let daemon = Daemon::start(configure(first, &sandbox)).until("started").await;
    let (code, log) = Daemon::start(configure(second, &sandbox)).ended().await;
    assert_unusable(
        code,
        &log.last("stopped", "error"),
        &[&format!("another sweeper (process {}) is working on it", daemon.pid())],
    );
    daemon.signal("TERM");
    assert_eq!(daemon.ended().await.0, 0);
}
