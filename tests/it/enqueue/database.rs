//! `sweeper enqueue` beside others who use the database, and with one that cannot be used.

use std::fs;

use audio_cache_sweeper::sandbox::Options;
use sqlx::{Connection as _, SqliteConnection};

use super::{created, enqueue, fed, on_a_terminal, rows};
use crate::daemon::{Daemon, Locked, blocking, configured, finish, queue, sandbox, sql, sweeper};

#[tokio::test]
async fn it_works_while_a_daemon_does() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    let daemon = Daemon::start(configured(dir.path(), &sandbox)).until("started").await;
    let mut command = configured(dir.path(), &sandbox);
    command.args(["enqueue", "--agent", "a"]).args((1..=40).map(|id| id.to_string()));
    let (code, out, _) = finish(command).await;
    assert_eq!((code, out.as_str()), (0, "inserted 40, already waiting 0, now due earlier 0, reopened 0, refused 0\n"));
    sandbox.arrived(2).await;
    daemon.signal("TERM");
    assert_eq!(daemon.ended().await.0, 0);
    assert_eq!(sql(dir.path(), "SELECT 'gone' FROM deletions WHERE state = 'deleted'").await.len(), 40);
}

#[tokio::test]
async fn several_at_once_and_others_who_write_all_get_their_turn() {
    let dir = tempfile::tempdir().unwrap();
    queue(dir.path(), 1).await;
    let ids: String = (0..15_000).map(|id| format!("{id}\n")).collect();
    let bulk = ["b", "c"].map(|agent| {
        let (mut command, ids) = (sweeper(dir.path()), ids.clone());
        command.args(["enqueue", "--agent", agent]);
        tokio::task::spawn_blocking(move || fed(command, ids))
    });
    // Small ones meanwhile, as long as the others take.
    let mut small = 0;
    while !bulk.iter().all(tokio::task::JoinHandle::is_finished) {
        sql(dir.path(), &format!("INSERT INTO deletions (agent_id, entry_id) VALUES ('d', {small})")).await;
        small += 1;
    }
    for bulk in bulk {
        let (code, out, err) = bulk.await.unwrap();
        assert_eq!((code, err.as_str()), (0, ""));
        assert_eq!(out, "inserted 15000, already waiting 0, now due earlier 0, reopened 0, refused 0\n");
    }
    assert!(small > 2, "only {small} had their turn");
    assert_eq!(rows(dir.path()).await.len(), 30_001 + small);
}

#[tokio::test]
async fn a_database_that_cannot_be_used_ends_with_3_and_says_what_was_kept() {
    let dir = tempfile::tempdir().unwrap();
    queue(dir.path(), 1).await;
    let locked = Locked::new(dir.path()).await;
    let mut command = sweeper(dir.path());
    command.args(["enqueue", "--agent", "b"]).env("SWEEPER__DATABASE__BUSY_TIMEOUT", "10ms");
    let (code, _, err) = blocking(move || fed(command, "1\n")).await;
    assert_eq!(code, 3);
    assert!(err.contains("inserted 0") && err.contains("another process is writing"), "{err}");
    locked.release().await;
    fs::write(dir.path().join("text.db"), "no database\n".repeat(100)).unwrap();
    fs::create_dir(dir.path().join("folder")).unwrap();
    for (name, said) in [
        ("text.db", "not a database"),
        ("nowhere/sweeper.db", "nowhere"),
        ("folder", "/folder: open: it is a directory; give database.path the file in it"),
    ] {
        let mut command = sweeper(dir.path());
        command.args(["enqueue", "--agent", "b", "1"]).env("SWEEPER__DATABASE__PATH", name);
        let (code, _, err) = fed(command, "");
        assert_eq!(code, 3, "{err}");
        assert!(err.contains(said), "{err}");
    }
}

#[tokio::test]
async fn a_file_of_a_newer_version_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    queue(dir.path(), 1).await;
    sql(dir.path(), "INSERT INTO _sqlx_migrations VALUES (99, 'later', 0, 1, x'00', 0)").await;
    let commands: [&[&str]; 5] = [
        &["enqueue", "--agent", "a", "1"],
        &["status"],
        &["show", "a", "1"],
        &["retry", "--all", "--yes"],
        &["cancel", "--all", "--yes"],
    ];
    for arguments in commands {
        let mut command = sweeper(dir.path());
        command.args(arguments);
        let (code, _, err) = fed(command, "");
        assert_eq!(code, 3, "{arguments:?}");
        assert!(err.contains("sweeper.db") && err.contains("newer sweeper (schema 99)"), "{arguments:?}: {err}");
    }
}

#[tokio::test]
async fn a_file_without_tables_says_how_they_are_made() {
    let dir = tempfile::tempdir().unwrap();
    // As a start leaves it that ends after its first commit.
    queue(dir.path(), 1).await;
    fs::remove_file(dir.path().join("sweeper.db")).unwrap();
    let url = format!("sqlite://{}?mode=rwc", dir.path().join("sweeper.db").display());
    let mut conn = SqliteConnection::connect(&url).await.unwrap();
    let list = "CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL, installed_on TIMESTAMP
                    NOT NULL DEFAULT CURRENT_TIMESTAMP, success BOOLEAN NOT NULL, checksum BLOB NOT NULL, execution_time BIGINT
                    NOT NULL)";
    sqlx::raw_sql(list).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    for arguments in [&["status"][..], &["retry", "--all", "--yes"]] {
        let mut command = sweeper(dir.path());
        command.args(arguments);
        let (code, _, err) = fed(command, "");
        assert_eq!(code, 3, "{arguments:?}");
        assert!(err.contains("there are no tables in it yet; `sweeper init`"), "{arguments:?}: {err}");
    }
    let mut init = sweeper(dir.path());
    init.arg("init");
    let created = format!("{}: created\n", dir.path().join("sweeper.db").display());
    assert_eq!(fed(init, ""), (0, created, String::new()));
    assert_eq!(enqueue(dir.path(), &["--agent", "a", "1"], "").0, 0);
}

#[tokio::test]
async fn several_that_make_the_database_at_once_all_enqueue() {
    let dir = tempfile::tempdir().unwrap();
    let makers = (0..6).map(|n| {
        let mut command = sweeper(dir.path());
        command.args(["enqueue", "--create", "--agent", "a", &n.to_string()]);
        tokio::spawn(finish(command))
    });
    for maker in makers.collect::<Vec<_>>() {
        let (code, _, err) = maker.await.unwrap();
        assert_eq!(code, 0, "{err}");
    }
    assert_eq!(rows(dir.path()).await.len(), 6);
}

#[tokio::test]
async fn a_queue_is_made_only_where_somebody_asks_for_it_or_sees_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap().join("sweeper.db");
    let refused = format!(
        "sweeper: {}: there is no queue; this path is the default, in the working directory. Name the daemon's with --config or \
         SWEEPER__DATABASE__PATH, or give --create to make a new one\n",
        path.display()
    );
    for (arguments, input) in [(&["1"][..], ""), (&["-"], "1\n"), (&["--from-cache", "--yes"], "")] {
        let mut command = sweeper(dir.path());
        command.args(["enqueue", "--agent", "a"]).args(arguments);
        assert_eq!(fed(command, input), (2, String::new(), refused.clone()), "{arguments:?}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was made");
    let mut dry = sweeper(dir.path());
    dry.args(["enqueue", "--agent", "a", "--dry-run", "1"]);
    assert_eq!(fed(dry, "").0, 0, "nothing is made");
    let (code, out, err) = enqueue(dir.path(), &["--agent", "a", "1"], "");
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.starts_with(&(created(dir.path()) + "inserted 1")), "{out}");
    let mut command = sweeper(dir.path());
    command.args(["enqueue", "--agent", "a", "2"]);
    assert!(fed(command, "").1.starts_with("inserted 1, "), "a queue that is there is enough");

    let other = tempfile::tempdir().unwrap();
    let mut command = sweeper(other.path());
    command.args(["enqueue", "--agent", "a", "1"]);
    let Some((code, shown)) = on_a_terminal(command, "").await else { return };
    assert_eq!((code, shown.replace('\r', "").starts_with(&created(other.path()))), (0, true), "{shown}");
}
