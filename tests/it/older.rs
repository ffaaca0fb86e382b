//! A file of an older development version: every command refuses it, leaves it as it is, and says how its rows come along.

use std::{collections::BTreeMap, path::Path, process::Command, time::Duration};

use audio_cache_sweeper::queue::sqlite::{OpenError, Options, Producer, Reader, Store, Synchronous};
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use crate::{
    daemon::{KEY, clean, open, sql, sweeper},
    enqueue::fed,
};

pub const VERSION_5: &str = include_str!("fixtures/version_5.sql");

/// The old file, and who has it open: without a checkpoint, so that its rows are in its log.
pub async fn make(path: &Path) -> SqliteConnection {
    let url = format!("sqlite://{}?mode=rwc", path.display());
    let mut conn = SqliteConnection::connect(&url).await.unwrap();
    let sql = format!("PRAGMA page_size = 4096; PRAGMA wal_autocheckpoint = 0; {VERSION_5}");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await.unwrap();
    conn
}

/// Another process's copy: who closes a file that SQLite has open drops SQLite's locks on it.
fn copy(from: &Path, to: &Path, names: &[&str]) {
    let files = names.iter().map(|name| from.join(name));
    assert!(Command::new("cp").arg("-p").args(files).arg(to).status().unwrap().success());
}

/// What is in a directory, byte by byte.
pub fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let copied = tempfile::tempdir().unwrap();
    assert!(Command::new("cp").arg("-r").arg(dir.join(".")).arg(copied.path()).status().unwrap().success());
    let files = std::fs::read_dir(copied.path()).unwrap().map(|entry| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())
    });
    files.collect()
}

pub const COMMANDS: [&[&str]; 15] = [
    &["run"],
    &["run", "--until-empty"],
    &["init"],
    &["enqueue", "--agent", "bakery", "1"],
    &["enqueue", "--agent", "bakery", "--from-cache", "--yes"],
    &["status"],
    &["status", "--json"],
    &["show", "bakery", "1"],
    &["hold", "--all"],
    &["release", "--all"],
    &["retry", "--now", "--all"],
    &["retry", "--all", "--yes"],
    &["retry", "--all", "--dry-run"],
    &["cancel", "--all", "--yes"],
    &["cancel", "--agent", "bakery", "1", "--yes"],
];

fn refusal(dir: &Path, arguments: &[&str]) -> String {
    let mut command = sweeper(dir);
    command.args(arguments).env("SWEEPER__API__KEY", KEY).env("SWEEPER__API__BASE_URL", "http://127.0.0.1:1");
    let (code, _, err) = fed(command, "");
    assert_eq!(code, 3, "{arguments:?}: {err}");
    let said = format!("database {}: made by an older development version", dir.join("sweeper.db").display());
    assert!(err.contains(&said), "{arguments:?}: {err}");
    err
}

async fn opened_by_the_library(dir: &Path) {
    let path = dir.join("sweeper.db");
    let options = Options { path, busy_timeout: Duration::from_secs(1), synchronous: Synchronous::Full };
    let refused = [
        Store::open(options.clone()).await.err(),
        Reader::open(&options).await.err(),
        Producer::join(&options).await.err(),
        Producer::join_or_create(&options).await.err(),
    ];
    for error in refused {
        let error = error.unwrap();
        assert!(matches!(error, OpenError::Older(_)) && !error.is_temporary(), "{error}");
    }
}

#[tokio::test]
async fn every_command_refuses_it_and_leaves_it_and_its_directory_as_they_are() {
    for also in ["", "DELETE FROM _sqlx_migrations WHERE version > 1", "DELETE FROM _sqlx_migrations WHERE version = 1"]
    {
        let dir = tempfile::tempdir().unwrap();
        let mut conn = make(&dir.path().join("sweeper.db")).await;
        sqlx::raw_sql(AssertSqlSafe(also)).execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        let before = contents(dir.path());
        assert_eq!(before.keys().collect::<Vec<_>>(), ["sweeper.db"]);
        for arguments in COMMANDS {
            refusal(dir.path(), arguments);
            assert!(contents(dir.path()) == before, "{arguments:?} changed something");
        }
        opened_by_the_library(dir.path()).await;
        assert!(contents(dir.path()) == before, "opening it changed something");
    }
}

#[tokio::test]
async fn so_they_do_while_an_old_daemon_has_it_open_and_after_one_that_crashed() {
    let names = ["sweeper.db", "sweeper.db-wal", "sweeper.db-shm"];
    let in_use = tempfile::tempdir().unwrap();
    let conn = make(&in_use.path().join("sweeper.db")).await;
    let (crashed, without_index) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    copy(in_use.path(), crashed.path(), &names);
    copy(in_use.path(), without_index.path(), &names[..2]);
    for dir in [in_use.path(), crashed.path(), without_index.path()] {
        // SQLite's index of the log is made anew by whoever reads it, and says nothing that is not in the log.
        let lasting = || {
            let mut found = contents(dir);
            found.remove(names[2]);
            found
        };
        let before = lasting();
        assert_eq!(before.keys().collect::<Vec<_>>(), names[..2]);
        assert!(before[names[1]].len() > 50_000, "its rows are in the log");
        for arguments in COMMANDS {
            refusal(dir, arguments);
            assert!(lasting() == before, "{arguments:?} changed something");
        }
        opened_by_the_library(dir).await;
        assert!(lasting() == before, "opening it changed something");
    }
    conn.close().await.unwrap();
}

/// Every column of every row.
async fn table(dir: &Path) -> Vec<String> {
    let all =
        "SELECT json_array(id, agent_id, entry_id, priority, state, attempts, due_at, batch_max, asks, maybe_done,
                   request_id, first_fault, last_cause, created_at, settled_at) FROM deletions ORDER BY id";
    sql(dir, all).await.into_iter().map(|(row,)| row).collect()
}

/// The pending rows of the old file, as new ones.
const TAKEN_OVER: [&str; 5] = [
    r#"[1,"bakery","1",0,"pending",0,0,20,0,0,null,null,null,1750000000000,null]"#,
    r#"[2,"bakery","2",7,"pending",0,4102444800000,20,0,0,null,null,null,1750000000001,null]"#,
    r#"[3,"bakery","3",0,"pending",0,1750000100000,20,0,0,null,null,null,1750000000002,null]"#,
    r#"[4,"dairy","1",-1,"pending",0,0,20,0,0,null,null,null,1750000000003,null]"#,
    r#"[5,"dairy","2",-1,"pending",0,0,20,0,0,null,null,null,1750000000003,null]"#,
];

#[tokio::test]
async fn what_the_refusal_says_takes_the_pending_rows_over() {
    let dir = tempfile::tempdir().unwrap();
    // A name that SQL must quote.
    let old = dir.path().join("somebody's");
    std::fs::create_dir(&old).unwrap();
    make(&old.join("sweeper.db")).await.close().await.unwrap();
    let before = contents(&old);
    let said = refusal(&old, &["init"]);
    let statement = said.split_once("and execute on the new file: ").unwrap().1;
    let new = tempfile::tempdir().unwrap();
    assert!(sweeper(new.path()).arg("init").status().unwrap().success());
    let mut conn = open(&new.path().join("sweeper.db")).await;
    // Twice: who is not sure whether it was done does it again.
    for _ in 0..2 {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut conn).await.unwrap();
    }
    conn.close().await.unwrap();
    assert_eq!(table(new.path()).await, TAKEN_OVER);
    assert!(contents(&old) == before, "the old file stays as it is");
}

#[tokio::test]
async fn so_does_what_docs_operating_says() {
    let dir = tempfile::tempdir().unwrap();
    make(&dir.path().join("old.db")).await.close().await.unwrap();
    assert!(sweeper(dir.path()).arg("init").status().unwrap().success());
    let page = include_str!("../../docs/operating.md");
    let start = page.find("ATTACH 'old.db' AS old;").unwrap();
    let statement = page[start..].split("```").next().unwrap();
    let mut conn = open(&dir.path().join("sweeper.db")).await;
    let path = dir.path().join("old.db");
    let quoted = statement.replace("old.db", path.to_str().unwrap());
    sqlx::raw_sql(AssertSqlSafe(quoted)).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    assert_eq!(table(dir.path()).await, TAKEN_OVER);
    // From the shell, as it stands there.
    if clean("sqlite3", dir.path()).arg("--version").output().is_ok() {
        sql(dir.path(), "DELETE FROM deletions; DELETE FROM sqlite_sequence").await;
        let mut shell = clean("sqlite3", dir.path());
        let (code, _, err) = fed(
            {
                shell.args(["-bail", "sweeper.db"]);
                shell
            },
            statement,
        );
        assert_eq!((code, err.as_str()), (0, ""));
        assert_eq!(table(dir.path()).await, TAKEN_OVER);
    }
}

#[tokio::test]
async fn a_file_of_somebody_else_with_migrations_of_its_own_is_still_not_ours() {
    let dir = tempfile::tempdir().unwrap();
    let mut conn = make(&dir.path().join("sweeper.db")).await;
    sqlx::raw_sql("PRAGMA application_id = 7").execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    let (code, _, err) = fed(
        {
            let mut init = sweeper(dir.path());
            init.arg("init");
            init
        },
        "",
    );
    assert_eq!(code, 3);
    assert!(err.contains("not one of sweeper's"), "{err}");
}
