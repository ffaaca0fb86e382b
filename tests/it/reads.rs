//! Reads that the disk fails (EIO): SQLite calls a whole file malformed for one of them, and we look again before we do.

use std::{
    fs::{self, File},
    io::{Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

use audio_cache_sweeper::sandbox::Options;

use crate::{
    daemon::{Daemon, clean, configured, finish, sandbox, skipped, sql, sweeper},
    enqueue::fed,
    health,
};

/// What is loaded into a process so that its reads fail; `None`, and said so, where it cannot be compiled.
pub fn library(dir: &Path) -> Option<PathBuf> {
    let source = dir.join("failing_reads.c");
    let library = dir.join("failing_reads.so");
    fs::write(&source, include_str!("fixtures/failing_reads.c")).unwrap();
    let compiled = clean("gcc", dir).args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl").output();
    match compiled {
        Ok(done) if done.status.success() => Some(library),
        Ok(done) => {
            skipped(&format!("gcc: {}", String::from_utf8_lossy(&done.stderr)));
            None
        }
        Err(error) => {
            skipped(&format!("gcc cannot be started: {error}"));
            None
        }
    }
}

/// `most` reads of this file fail, from the one of this number on.
pub fn failing<'c>(command: &'c mut Command, library: &Path, of: &str, from: u32, most: u32) -> &'c mut Command {
    command
        .env("LD_PRELOAD", library)
        .env("FAIL_READS_OF", of)
        .env("FAIL_READS_FROM", from.to_string())
        .env("FAIL_READS", most.to_string())
}

fn init(dir: &Path) -> Command {
    let mut init = sweeper(dir);
    init.arg("init");
    init
}

/// Enough rows that not all is read in one go, and of which nothing is due.
async fn long_queue(dir: &Path) {
    fed(init(dir), "");
    let rows = "INSERT INTO deletions (agent_id, entry_id, state, settled_at)
                WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
                SELECT 'old', i, 'deleted', CAST(strftime('%s', 'now') AS INTEGER) * 1000 FROM n";
    sql(dir, rows).await;
}

const NUMBERS: [u32; 20] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 22, 30, 50];

#[tokio::test]
async fn one_read_that_fails_keeps_no_command_from_its_work() {
    let dir = tempfile::tempdir().unwrap();
    let Some(library) = library(dir.path()) else { return };
    long_queue(dir.path()).await;
    sql(dir.path(), "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', 'first')").await;
    for number in NUMBERS {
        let id = format!("4700{number}");
        for (arguments, said) in [
            (&["init"][..], "sweeper.db: up to date\n"),
            (&["status"], "deleted  3,000"),
            (&["show", "a", "first"], "a first: pending"),
            (&["enqueue", "--agent", "a", &id], "inserted 1, "),
            (&["retry", "--all", "--dry-run"], "dry run: 0 dead rows"),
            (&["cancel", "--agent", "a", &id, "--yes"], "cancelled 1\n"),
        ] {
            let mut command = sweeper(dir.path());
            command.args(arguments);
            failing(&mut command, &library, "sweeper.db", number, 1);
            let (code, out, err) = fed(command, "");
            assert_eq!((code, err.as_str()), (0, ""), "{arguments:?}, read {number}: {out}");
            assert!(out.contains(said), "{arguments:?}, read {number}: {out}");
        }
    }
    // The reads did fail: without an end to it, each of them says so, once it was looked at again.
    for arguments in [&["status"][..], &["show", "a", "first"], &["enqueue", "--agent", "a", "2"], &["init"]] {
        let mut command = sweeper(dir.path());
        command.args(arguments);
        failing(&mut command, &library, "sweeper.db", 1, 1_000_000);
        let (code, _, err) = fed(command, "");
        assert_eq!(code, 3, "{arguments:?}: {err}");
        assert!(err.contains("its disk cannot read it (then the system's log says so)"), "{arguments:?}: {err}");
    }
    let count = sql(dir.path(), "SELECT CAST(count(*) AS TEXT) FROM deletions").await;
    assert_eq!(count[0].0, "3001");
}

#[tokio::test]
async fn one_read_that_fails_at_the_start_of_a_daemon_only_delays_it() {
    for number in [1, 5, 9, 10, 12, 16, 24] {
        let dir = tempfile::tempdir().unwrap();
        let Some(library) = library(dir.path()) else { return };
        let sandbox = sandbox(Options::default()).await;
        long_queue(dir.path()).await;
        sql(dir.path(), "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', '1'), ('b', '1')").await;
        let mut command = configured(dir.path(), &sandbox);
        command.args(["run", "--until-empty"]);
        failing(&mut command, &library, "sweeper.db", number, 1);
        let (code, out, _) = finish(command).await;
        assert_eq!(code, 0, "read {number}: {out}");
        assert!(!out.contains("backup") && !out.contains(".dump"), "read {number}: {out}");
        let left = sql(dir.path(), "SELECT CAST(count(*) AS TEXT) FROM deletions WHERE state = 'pending'").await;
        assert_eq!((left[0].0.as_str(), sandbox.requests().len()), ("0", 2), "read {number}");
    }
}

/// A daemon that has done all there was to do, and whose reads of this file fail from now on when there is a file `bad`.
async fn idle(
    dir: &Path,
    library: &Path,
    of: &str,
    most: u32,
    sandbox: &audio_cache_sweeper::sandbox::Sandbox,
) -> Daemon {
    long_queue(dir).await;
    sql(dir, "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', '1')").await;
    let mut command = configured(dir, sandbox);
    failing(&mut command, library, of, 1, most).env("FAIL_READS_WHEN", dir.join("bad"));
    Daemon::start(command).until("request").await
}

#[tokio::test]
async fn one_read_that_fails_under_a_running_daemon_is_looked_at_again_and_gone_on_from() {
    for of in ["sweeper.db", "sweeper.db-wal"] {
        let dir = tempfile::tempdir().unwrap();
        let Some(library) = library(dir.path()) else { return };
        let sandbox = sandbox(Options::default()).await;
        let daemon = idle(dir.path(), &library, of, 1, &sandbox).await;
        File::create(dir.path().join("bad")).unwrap();
        sql(dir.path(), "INSERT INTO deletions (agent_id, entry_id) VALUES ('b', '1')").await;
        let daemon = daemon.until("database_unavailable").await.until("database_available").await;
        sql(dir.path(), "INSERT INTO deletions (agent_id, entry_id) VALUES ('c', '1')").await;
        sandbox.arrived(3).await;
        daemon.signal("TERM");
        let (code, log) = daemon.ended().await;
        assert_eq!(
            (code, log.count("database_unavailable", "WARN"), log.count("database_available", "INFO")),
            (0, 1, 1),
            "{log:#?}"
        );
        let said = log.last("database_unavailable", "error");
        assert!(said.contains("sweeper.db: ") && said.contains("a read failed, or the file is damaged ("), "{said}");
        assert!(!said.contains("backup"), "not before it was looked at again: {said}");
        let states =
            sql(dir.path(), "SELECT group_concat(agent_id || state) FROM deletions WHERE agent_id <> 'old'").await;
        assert_eq!(states[0].0, "adeleted,bdeleted,cdeleted");
        assert_eq!(sandbox.requests().len(), 3, "nothing was sent twice");
        let check = sql(dir.path(), "PRAGMA integrity_check").await;
        assert_eq!(check[0].0, "ok");
    }
}

#[tokio::test]
async fn one_read_that_fails_leaves_no_gap_in_the_metrics() {
    let dir = tempfile::tempdir().unwrap();
    let Some(library) = library(dir.path()) else { return };
    let sandbox = sandbox(Options::default()).await;
    long_queue(dir.path()).await;
    let mut command = health::listening(configured(dir.path(), &sandbox));
    failing(&mut command, &library, "sweeper.db", 3, 1).env("FAIL_READS_WHEN", dir.path().join("bad"));
    let daemon = Daemon::start(command).until("started").await;
    File::create(dir.path().join("bad")).unwrap();
    let metrics = health::scrape(health::address(&daemon)).await;
    assert_eq!(health::value(&metrics, "sweeper_queue_depth{state=\"pending\"}"), 0.0);
    daemon.signal("TERM");
    let (code, log) = daemon.ended().await;
    assert_eq!((code, log.count("count_failed", "WARN")), (0, 0), "{log:#?}");
}

#[tokio::test]
async fn a_disk_that_fails_every_read_ends_the_daemon_after_two_more_looks_and_the_file_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let Some(library) = library(dir.path()) else { return };
    let sandbox = sandbox(Options::default()).await;
    let daemon = idle(dir.path(), &library, "sweeper.db", 1_000_000, &sandbox).await;
    File::create(dir.path().join("bad")).unwrap();
    sql(dir.path(), "INSERT INTO deletions (agent_id, entry_id) VALUES ('b', '1')").await;
    let (code, log) = daemon.ended().await;
    assert_eq!((code, log.count("database_unavailable", "WARN")), (3, 2), "{log:#?}");
    let said = log.last("stopped", "error");
    assert!(said.contains("its disk cannot read it (then the system's log says so)"), "{said}");
    let mut command = configured(dir.path(), &sandbox);
    command.args(["run", "--until-empty"]);
    assert_eq!(finish(command).await.0, 0);
    assert_eq!(sql(dir.path(), "PRAGMA integrity_check").await[0].0, "ok");
}

#[tokio::test]
async fn damage_that_only_pruning_meets_ends_the_daemon_too() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    fed(init(dir.path()), "");
    let rows = "INSERT INTO deletions (agent_id, entry_id, state, settled_at, created_at)
                WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9000)
                SELECT 'old', i, 'deleted', 1, 1 FROM n";
    sql(dir.path(), rows).await;
    sql(
        dir.path(),
        "INSERT INTO requests (correlation_id, agent_id, deletion_ids, size, claimed_at, answered_at)
                     VALUES ('x', 'a', '[]', 1, 1, CAST(strftime('%s', 'now') AS INTEGER) * 1000)",
    )
    .await;
    let leaf = "SELECT CAST(pageno AS TEXT) FROM dbstat WHERE name = 'deletions' AND pagetype = 'leaf' ORDER BY path LIMIT 1 OFFSET 30";
    let Some(page) = shell(dir.path(), leaf) else { return };
    let mut file = File::options().write(true).open(dir.path().join("sweeper.db")).unwrap();
    file.seek(SeekFrom::Start((page.trim().parse::<u64>().unwrap() - 1) * 4096)).unwrap();
    file.write_all(&[0xa5; 4096]).unwrap();
    drop(file);
    let (code, log) = Daemon::start(configured(dir.path(), &sandbox)).ended().await;
    assert_eq!((code, log.count("database_unavailable", "WARN"), log.count("started", "INFO")), (3, 2, 1), "{log:#?}");
    let said = log.last("stopped", "error");
    assert!(said.contains("prune: database disk image is malformed; it is damaged"), "{said}");
}

/// What sqlite3 answers, which has a table that ours has not; `None`, and said so, without it.
pub fn shell(dir: &Path, sql: &str) -> Option<String> {
    let Ok(output) = clean("sqlite3", dir).args(["sweeper.db", sql]).output() else {
        skipped("there is no sqlite3");
        return None;
    };
    if !output.status.success() {
        skipped(&format!("sqlite3: {}", String::from_utf8_lossy(&output.stderr)));
        return None;
    }
    Some(String::from_utf8(output.stdout).unwrap())
}
