//! A `.dump` that was loaded into a new file: it has no application ID, and is a queue all the same.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    path::Path,
    process::Stdio,
};

use audio_cache_sweeper::sandbox::Options;

use crate::{
    daemon::{Daemon, clean, configured, finish, open, queue, sandbox, skipped, sql, sweeper},
    enqueue::fed,
    older::{COMMANDS, VERSION_5, contents},
};

/// Loads the dump of `from` into `to`, as everybody does; false, and said so, without a shell that could.
pub fn reload(from: &Path, to: &Path) -> bool {
    let dump = clean("sqlite3", Path::new(".")).arg(from).arg(".dump").output();
    let Ok(dump) = dump else {
        skipped("there is no sqlite3");
        return false;
    };
    let (code, _, err) = fed(
        {
            let mut shell = clean("sqlite3", Path::new("."));
            shell.arg("-bail").arg(to);
            shell
        },
        dump.stdout,
    );
    assert_eq!((code, err.as_str()), (0, ""));
    true
}

/// A queue with a past in this directory, out of a dump.
async fn reloaded(dir: &Path) -> bool {
    let old = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    queue(old.path(), 2).await;
    let mut command = configured(old.path(), &sandbox);
    command.args(["run", "--until-empty"]);
    assert_eq!(finish(command).await.0, 0);
    let more = "INSERT INTO deletions (agent_id, entry_id, attempts) VALUES ('a', '3', 2);
                UPDATE sqlite_sequence SET seq = 70 WHERE name = 'deletions'";
    sql(old.path(), more).await;
    reload(&old.path().join("sweeper.db"), &dir.join("sweeper.db"))
}

async fn id(dir: &Path) -> i64 {
    let mut conn = open(&dir.join("sweeper.db")).await;
    sqlx::query_scalar("PRAGMA application_id").fetch_one(&mut conn).await.unwrap()
}

const ADOPTED: &str = "sweeper.db: up to date; its tables show that it is a queue of sweeper that was loaded from a dump, and it is \
                       marked as one again\n";

#[tokio::test]
async fn init_and_enqueue_mark_it_and_say_so() {
    for (arguments, then) in [
        (&["init"][..], "sweeper.db: up to date\n"),
        (
            &["enqueue", "--agent", "a", "4"],
            "inserted 0, already waiting 1, now due earlier 0, reopened 0, refused 0\n",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        if !reloaded(dir.path()).await {
            return;
        }
        assert_eq!(id(dir.path()).await, 0);
        let run = || {
            let mut command = sweeper(dir.path());
            command.args(arguments);
            fed(command, "")
        };
        let (code, out, err) = run();
        assert!(code == 0 && out.contains(ADOPTED), "{out}{err}");
        assert_eq!(id(dir.path()).await, 0x5343_5750);
        let (code, out, err) = run();
        assert!((code, err.as_str()) == (0, "") && out.ends_with(then) && !out.contains(ADOPTED), "once: {out}{err}");
        let states = sql(dir.path(), "SELECT entry_id || ' ' || state || ' ' || attempts FROM deletions").await;
        let states: Vec<String> = states.into_iter().map(|(row,)| row).collect();
        assert_eq!(states[..3], ["1 deleted 1", "2 deleted 1", "3 pending 2"]);
        let history = sql(dir.path(), "SELECT verdict FROM outcomes").await;
        assert_eq!(history.len(), 2, "its past came along");
    }
}

#[tokio::test]
async fn the_daemon_goes_on_with_it_and_logs_so() {
    let dir = tempfile::tempdir().unwrap();
    if !reloaded(dir.path()).await {
        return;
    }
    let sandbox = sandbox(Options::default()).await;
    for adopted in ["true", "false"] {
        let daemon = Daemon::start(configured(dir.path(), &sandbox)).until("started").await;
        daemon.signal("TERM");
        let (code, log) = daemon.ended().await;
        assert_eq!(
            (code, log.last("started", "adopted").as_str(), log.last("started", "created").as_str()),
            (0, adopted, "false")
        );
    }
    let mut command = configured(dir.path(), &sandbox);
    command.args(["run", "--until-empty"]);
    assert_eq!(finish(command).await.0, 0);
    sql(dir.path(), "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', 'new')").await;
    let ids = sql(dir.path(), "SELECT group_concat(id || ' ' || state) FROM deletions").await;
    assert_eq!(ids[0].0, "1 deleted,2 deleted,3 deleted,71 pending", "no id is given out twice");
    let requests = sql(dir.path(), "SELECT group_concat(id) FROM requests").await;
    assert_eq!(requests[0].0, "1,2");
}

#[tokio::test]
async fn whoever_only_looks_or_takes_rows_out_needs_no_mark() {
    let dir = tempfile::tempdir().unwrap();
    if !reloaded(dir.path()).await {
        return;
    }
    for (arguments, said) in [
        (&["status"][..], "pending     1 "),
        (&["show", "a", "1"], "a 1: deleted"),
        (&["retry", "--all", "--yes"], "no dead row matches"),
        (&["cancel", "--agent", "a", "3", "--yes"], "cancelled 1"),
    ] {
        let mut command = sweeper(dir.path());
        command.args(arguments);
        let (code, out, err) = fed(command, "");
        assert!(code == 0 && out.contains(said), "{arguments:?}: {out}{err}");
        assert_eq!(id(dir.path()).await, 0);
    }
}

/// What every command says to the file in this directory, which none of them changes.
fn refusals(dir: &Path, said: &[&str]) {
    let before = contents(dir);
    refused(dir, said);
    let mut after = contents(dir);
    after.remove("sweeper.db.lock");
    assert!(after == before, "something was changed");
}

/// What every command says to the file in this directory.
fn refused(dir: &Path, said: &[&str]) {
    for arguments in COMMANDS {
        let mut command = sweeper(dir);
        command.args(arguments).env("SWEEPER__API__KEY", "k").env("SWEEPER__API__BASE_URL", "http://127.0.0.1:1");
        let (code, _, err) = fed(command, "");
        assert_eq!(code, 3, "{arguments:?}: {err}");
        for said in said {
            assert!(err.contains(said), "{arguments:?}: {said:?} is missing: {err}");
        }
    }
}

/// A queue whose application ID is gone, and on which something else was done.
async fn altered(dir: &Path, also: &str) {
    queue(dir, 2).await;
    let mut conn = open(&dir.join("sweeper.db")).await;
    let all = format!("PRAGMA application_id = 0; PRAGMA journal_mode = DELETE; {also}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(all)).execute(&mut conn).await.unwrap();
    sqlx::Connection::close(conn).await.unwrap();
    std::fs::remove_file(dir.join("sweeper.db.lock")).unwrap();
}

#[tokio::test]
async fn what_is_missing_or_other_than_it_was_is_named_and_the_pending_rows_can_be_taken_over() {
    for (also, said) in [
        ("DROP INDEX deletions_due", "the index deletions_due is missing"),
        ("DROP TRIGGER deletions_repeat", "the trigger deletions_repeat is missing"),
        ("DROP VIEW outcomes", "the view outcomes is missing"),
        ("DROP TABLE holds", "the table holds is missing"),
        ("ALTER TABLE holds ADD COLUMN reason", "the table holds is another one"),
        (
            "DROP INDEX deletions_dead; CREATE INDEX deletions_dead ON deletions (state)",
            "the index deletions_dead is another one",
        ),
        ("DELETE FROM _sqlx_migrations", "the row of this version in _sqlx_migrations is missing"),
        ("DROP TABLE _sqlx_migrations", "the row of this version in _sqlx_migrations is missing"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        altered(dir.path(), also).await;
        let file = dir.path().join("sweeper.db").display().to_string();
        refusals(dir.path(), &[&file, "loaded from a dump", said, "Load the dump into a new file again"]);
        let mut init = sweeper(dir.path());
        init.arg("init");
        let (_, _, err) = fed(init, "");
        let statement = err.split_once("execute on the new file: ").unwrap().1;
        let new = tempfile::tempdir().unwrap();
        let mut init = sweeper(new.path());
        init.arg("init");
        assert_eq!(fed(init, "").0, 0);
        sql(new.path(), statement.trim_end()).await;
        let rows = sql(new.path(), "SELECT group_concat(entry_id) FROM deletions").await;
        assert_eq!(rows[0].0, "1,2", "{also}");
    }
}

#[tokio::test]
async fn what_somebody_has_added_is_no_reason_to_refuse_it() {
    let dir = tempfile::tempdir().unwrap();
    altered(dir.path(), "CREATE TABLE notes (text); CREATE INDEX notes_text ON notes (text)").await;
    let mut init = sweeper(dir.path());
    init.arg("init");
    let (code, out, err) = fed(init, "");
    assert!((code, err.as_str()) == (0, "") && out.ends_with(ADOPTED), "{out}{err}");
}

#[tokio::test]
async fn another_s_file_without_an_id_is_still_not_ours_whatever_its_migrations() {
    for sql in [
        "CREATE TABLE deletions (id)",
        "CREATE TABLE _sqlx_migrations (version, checksum); INSERT INTO _sqlx_migrations VALUES (1, x'00'); CREATE TABLE a (b)",
        "CREATE TABLE _sqlx_migrations (a); CREATE TABLE a (b)",
    ] {
        let dir = tempfile::tempdir().unwrap();
        File::create(dir.path().join("sweeper.db")).unwrap();
        let mut conn = open(&dir.path().join("sweeper.db")).await;
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut conn).await.unwrap();
        sqlx::Connection::close(conn).await.unwrap();
        refusals(dir.path(), &["not one of sweeper's"]);
    }
}

#[tokio::test]
async fn a_dump_of_an_older_development_version_is_refused_as_its_file_is() {
    let dir = tempfile::tempdir().unwrap();
    let dump = VERSION_5.split_once("PRAGMA foreign_keys=OFF;").unwrap().1;
    File::create(dir.path().join("sweeper.db")).unwrap();
    let mut conn = open(&dir.path().join("sweeper.db")).await;
    sqlx::raw_sql(sqlx::AssertSqlSafe(dump)).execute(&mut conn).await.unwrap();
    sqlx::Connection::close(conn).await.unwrap();
    refusals(dir.path(), &["made by an older development version", "execute on the new file: ATTACH"]);
    assert!(!dir.path().join("sweeper.db.lock").exists());
}

#[tokio::test]
async fn a_file_that_a_program_is_still_loading_is_busy_and_nothing_worse() {
    let dir = tempfile::tempdir().unwrap();
    let script = "import sqlite3, sys\nc = sqlite3.connect('sweeper.db', isolation_level=None)\nc.execute('BEGIN IMMEDIATE')\n\
                  c.execute('CREATE TABLE half (loaded)')\nprint('loading', flush=True)\nsys.stdin.read()\nc.rollback()";
    let mut command = clean("python3", dir.path());
    command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let Ok(mut loading) = command.spawn() else { return skipped("python3 cannot be started") };
    let mut line = String::new();
    BufReader::new(loading.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "loading\n");
    // Until the file has a write-ahead log, a reader without an index of one is no reason to refuse it.
    let mut init = sweeper(dir.path());
    init.arg("init").env("SWEEPER__DATABASE__BUSY_TIMEOUT", "10ms");
    let (code, _, err) = finish(init).await;
    assert!(code == 3 && err.contains("another process is writing"), "{err}");
    drop(loading.stdin.take());
    loading.wait().unwrap();
    let mut init = sweeper(dir.path());
    init.arg("init");
    assert_eq!(finish(init).await.0, 0);
}

#[tokio::test]
async fn a_queue_without_one_of_its_tables_is_refused_by_every_command_and_named() {
    for table in ["deletions", "requests", "holds", "daemon", "repeated", "_sqlx_migrations"] {
        let dir = tempfile::tempdir().unwrap();
        queue(dir.path(), 2).await;
        sql(dir.path(), &format!("DROP TABLE {table}")).await;
        let file = dir.path().join("sweeper.db").display().to_string();
        refused(dir.path(), &[&file, "somebody has dropped 1 of the queue's tables", table, "Put a backup"]);
    }
}
