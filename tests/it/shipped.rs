//! After a clean end the file alone has everything: it can be copied without what SQLite keeps beside it.

use std::{fs, io::Write as _, path::Path, process::Command, time::Duration};

use audio_cache_sweeper::{model::clock::Clock, sandbox::Options};
use sqlx::{Connection, SqliteConnection};

use crate::{
    daemon::{Daemon, configured, finish, open, queue, sandbox, sql, sweeper},
    enqueue::{fed, listening, signalled},
};

/// Entries and their states in a copy of the file and nothing else.
async fn shipped(dir: &Path) -> String {
    let there = tempfile::tempdir().unwrap();
    // Another process's copy: who closes a file that SQLite has open drops SQLite's locks on it.
    let copied = Command::new("cp").arg(dir.join("sweeper.db")).arg(there.path()).status().unwrap();
    assert!(copied.success());
    let all = "SELECT group_concat(entry_id || ' ' || state, ', ') FROM (SELECT * FROM deletions ORDER BY id)";
    let mut conn = open(&there.path().join("sweeper.db")).await;
    let rows: Option<String> = sqlx::query_scalar(all).fetch_one(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    rows.unwrap_or_default()
}

fn log_of(dir: &Path) -> u64 {
    fs::metadata(dir.join("sweeper.db-wal")).map_or(0, |found| found.len())
}

fn run(dir: &Path, arguments: &[&str], input: &str) {
    let mut command = sweeper(dir);
    command.args(arguments);
    let (code, _, err) = fed(command, input);
    assert_eq!(code, 0, "{arguments:?}: {err}");
}

#[tokio::test]
async fn whatever_ends_well_leaves_everything_in_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    let dead = "UPDATE deletions SET state = 'dead', settled_at = 1, last_cause = 'lost' WHERE entry_id = '3'";
    for (arguments, input, left) in [
        (&["init"][..], "", ""),
        (&["enqueue", "--agent", "a", "1"], "", "1 pending"),
        (&["enqueue", "--agent", "a"], "2\n3\n", "1 pending, 2 pending, 3 pending"),
        (&["cancel", "--agent", "a", "2", "--yes"], "", "1 pending, 3 pending"),
        (&["retry", "--all", "--yes"], "", "1 pending, 3 pending"),
    ] {
        if arguments[0] == "retry" {
            sql(dir.path(), dead).await;
        }
        run(dir.path(), arguments, input);
        assert!(!dir.path().join("sweeper.db-wal").exists(), "{arguments:?}");
        assert_eq!(shipped(dir.path()).await, left, "{arguments:?}");
    }
    let mut command = configured(dir.path(), &sandbox);
    command.args(["run", "--until-empty"]);
    assert_eq!(finish(command).await.0, 0);
    assert!(!dir.path().join("sweeper.db-wal").exists());
    assert_eq!(shipped(dir.path()).await, "1 deleted, 3 deleted");
}

#[tokio::test]
async fn enqueue_alone_makes_a_file_that_can_be_shipped_also_if_a_signal_ends_it() {
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let dir = tempfile::tempdir().unwrap();
        let mut child = listening(dir.path(), &[]);
        writeln!(child.stdin.as_mut().unwrap(), "1\n2").unwrap();
        let clock = Clock::system();
        while fs::metadata(dir.path().join("sweeper.db.lock")).is_err() {
            assert!(clock.elapsed() < Duration::from_secs(60), "nothing was written");
            tokio::task::yield_now().await;
        }
        let (ended, said) = signalled(child, signal);
        assert_eq!(ended, Some(code), "{said}");
        assert!(!dir.path().join("sweeper.db-wal").exists(), "{signal}");
        assert_eq!(shipped(dir.path()).await, "1 pending, 2 pending");
    }
}

#[tokio::test]
async fn so_it_is_while_somebody_has_the_file_open_and_does_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), 1).await;
    let mut idle = open(&dir.path().join("sweeper.db")).await;
    sqlx::query("SELECT * FROM deletions").fetch_all(&mut idle).await.unwrap();
    run(dir.path(), &["init"], "");
    run(dir.path(), &["enqueue", "--agent", "a", "2"], "");
    assert_eq!(log_of(dir.path()), 0);
    assert_eq!(shipped(dir.path()).await, "1 pending, 2 pending");
    let daemon = Daemon::start(configured(dir.path(), &sandbox)).until("request").await;
    daemon.signal("TERM");
    assert_eq!(daemon.ended().await.0, 0);
    assert_eq!(log_of(dir.path()), 0);
    assert_eq!(shipped(dir.path()).await, "1 deleted, 2 deleted");
    idle.close().await.unwrap();
}

#[tokio::test]
async fn who_reads_for_long_keeps_the_log_and_lets_everybody_end_well() {
    let dir = tempfile::tempdir().unwrap();
    queue(dir.path(), 1).await;
    let mut reader: SqliteConnection = open(&dir.path().join("sweeper.db")).await;
    sqlx::raw_sql("BEGIN").execute(&mut reader).await.unwrap();
    sqlx::query("SELECT * FROM deletions").fetch_all(&mut reader).await.unwrap();
    run(dir.path(), &["enqueue", "--agent", "a", "2"], "");
    run(dir.path(), &["init"], "");
    assert!(log_of(dir.path()) > 0);
    assert_eq!(shipped(dir.path()).await, "1 pending", "its own moment is what it keeps");
    sqlx::raw_sql("ROLLBACK").execute(&mut reader).await.unwrap();
    reader.close().await.unwrap();
    run(dir.path(), &["init"], "");
    assert_eq!(shipped(dir.path()).await, "1 pending, 2 pending");
}
