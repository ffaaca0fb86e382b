//! Files that are taken away while they are in use: it ends with 3 and names the file, what others wrote by other files stays,
//! and nothing is lost.

use audio_cache_sweeper::queue::Queue as _;
use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::Path,
    process::{Child, ChildStdout, Stdio},
    time::Duration,
};

use assert_cmd::assert::OutputAssertExt as _;
use audio_cache_sweeper::{
    model::clock::Clock,
    queue::sqlite::{self, Store, Synchronous},
    sandbox::{Mood, Options, Sandbox},
};

use crate::{
    bed::ids,
    daemon::{Daemon, Locked, Log, blocking, clean, configured, finish, open, queue, sandbox, skipped, sql, sweeper},
};

/// Another program, which has the database open by the files that are there now.
async fn insert(dir: &Path, entry: &str) {
    sql(dir, &format!("INSERT INTO deletions (agent_id, entry_id) VALUES ('b', '{entry}')")).await;
}

async fn states(dir: &Path) -> Vec<String> {
    let rows = sql(dir, "SELECT agent_id || entry_id || ' ' || state FROM deletions ORDER BY id").await;
    assert_eq!(sql(dir, "PRAGMA integrity_check").await, [("ok".to_owned(),)]);
    rows.into_iter().map(|(row,)| row).collect()
}

fn assert_told(code: i32, log: &Log, name: &str) {
    let error = log.last("stopped", "error");
    assert!(code == 3 && error.contains(name) && error.contains("deleted or replaced while in use"), "{code}: {error}");
}

/// How often each ID was sent.
fn times(sandbox: &Sandbox, id: &str) -> usize {
    sandbox.requests().iter().flat_map(ids).filter(|sent| sent == id).count()
}

/// Works on what is there until it is empty.
async fn work_it_off(dir: &Path, sandbox: &Sandbox) {
    let mut run = configured(dir, sandbox);
    run.args(["run", "--until-empty"]);
    let (code, out, _) = finish(run).await;
    assert_eq!(code, 0, "{out}");
}

/// A daemon that has nothing to do, and looks once in a while: it is told to stop before it looks.
async fn idle(dir: &Path, sandbox: &Sandbox, poll_interval: &str) -> Daemon {
    queue(dir, 1).await;
    let mut run = configured(dir, sandbox);
    run.env("SWEEPER__QUEUE__POLL_INTERVAL", poll_interval);
    let daemon = Daemon::start(run).until("request").await;
    let clock = Clock::system();
    while states(dir).await != ["a1 deleted"] {
        assert!(clock.elapsed() < Duration::from_secs(60), "its answer is not written");
    }
    daemon
}

#[tokio::test]
async fn what_others_write_after_the_index_was_taken_away_is_not_lost_when_it_is_noticed() {
    for suffix in [["-shm"].as_slice(), &["-wal", "-shm"]] {
        let dir = tempfile::tempdir().unwrap();
        let sandbox = sandbox(Options::default()).await;
        let daemon = idle(dir.path(), &sandbox, "10ms").await;
        // It must not end before the others have written.
        daemon.signal("STOP");
        for suffix in suffix {
            fs::remove_file(dir.path().join(format!("sweeper.db{suffix}"))).unwrap();
        }
        insert(dir.path(), "2").await;
        insert(dir.path(), "3").await;
        daemon.signal("CONT");
        let (code, log) = daemon.ended().await;
        assert_told(code, &log, suffix[0]);
        let left = states(dir.path()).await;
        assert_eq!(left[left.len() - 2..], ["b2 pending", "b3 pending"]);
        work_it_off(dir.path(), &sandbox).await;
        assert_eq!([times(&sandbox, "2"), times(&sandbox, "3")], [1, 1]);
        let left = states(dir.path()).await;
        if suffix == ["-shm"] {
            assert_eq!(left, ["a1 deleted", "b2 deleted", "b3 deleted"], "its own commits are there, too");
            assert_eq!(times(&sandbox, "1"), 1);
        } else {
            // What became of the first row went with the log.
            assert_eq!(left[1..], ["b2 deleted", "b3 deleted"]);
        }
    }
}

#[tokio::test]
async fn a_second_name_that_it_is_given_while_in_use_ends_it_before_others_write_by_that_name_for_long() {
    for name in ["sweeper.db", "sweeper.db.lock"] {
        let dir = tempfile::tempdir().unwrap();
        let sandbox = sandbox(Options::default()).await;
        let daemon = idle(dir.path(), &sandbox, "10ms").await;
        fs::hard_link(dir.path().join(name), dir.path().join("second")).unwrap();
        let (code, log) = daemon.ended().await;
        let error = log.last("stopped", "error");
        assert!(code == 3 && error.contains(name) && error.contains("another name (a hard link)"), "{code}: {error}");
        fs::remove_file(dir.path().join("second")).unwrap();
        insert(dir.path(), "2").await;
        work_it_off(dir.path(), &sandbox).await;
        assert_eq!(states(dir.path()).await, ["a1 deleted", "b2 deleted"]);
    }
}

#[tokio::test]
async fn so_it_is_if_it_is_told_to_stop_before_it_notices() {
    for signal in ["TERM", "INT"] {
        let dir = tempfile::tempdir().unwrap();
        let sandbox = sandbox(Options::default()).await;
        let daemon = idle(dir.path(), &sandbox, "60s").await;
        fs::remove_file(dir.path().join("sweeper.db-shm")).unwrap();
        insert(dir.path(), "2").await;
        daemon.signal(signal);
        let (code, log) = daemon.ended().await;
        assert_told(code, &log, "sweeper.db-shm");
        assert_eq!(states(dir.path()).await, ["a1 deleted", "b2 pending"]);
        work_it_off(dir.path(), &sandbox).await;
        assert_eq!(states(dir.path()).await, ["a1 deleted", "b2 deleted"]);
    }
}

#[tokio::test]
async fn files_that_others_have_made_since_stay_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    let daemon = idle(dir.path(), &sandbox, "60s").await;
    fs::remove_file(dir.path().join("sweeper.db-shm")).unwrap();
    let mut other = open(&dir.path().join("sweeper.db")).await;
    sqlx::raw_sql("INSERT INTO deletions (agent_id, entry_id) VALUES ('b', '2')").execute(&mut other).await.unwrap();
    let files = || {
        let files = ["sweeper.db", "sweeper.db-wal", "sweeper.db-shm"].map(|name| dir.path().join(name));
        files.map(|path| fs::read(path).unwrap())
    };
    let before = files();
    daemon.signal("TERM");
    let (code, log) = daemon.ended().await;
    assert_told(code, &log, "sweeper.db-shm");
    assert!(files() == before, "nothing of them was written");
    sqlx::raw_sql("INSERT INTO deletions (agent_id, entry_id) VALUES ('b', '3')").execute(&mut other).await.unwrap();
    sqlx::Connection::close(other).await.unwrap();
    assert_eq!(states(dir.path()).await, ["a1 deleted", "b2 pending", "b3 pending"]);
}

#[tokio::test]
async fn an_answer_that_can_be_written_nowhere_is_lost_and_its_row_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    let daemon = Daemon::start_calling(dir.path(), &sandbox, Mood::Gate, "30s").await;
    daemon.signal("STOP");
    fs::remove_file(dir.path().join("sweeper.db-shm")).unwrap();
    insert(dir.path(), "2").await;
    sandbox.open_gate();
    daemon.signal("CONT");
    let (code, log) = daemon.ended().await;
    assert_told(code, &log, "sweeper.db-shm");
    let mut run = configured(dir.path(), &sandbox);
    run.args(["run", "--until-empty"]);
    let (code, out, _) = finish(run).await;
    assert!(code == 0 && out.contains(r#""event":"recovered""#), "{out}");
    let left = states(dir.path()).await;
    // Asked about a second time, it is gone.
    assert!(["a1 deleted", "a1 absent"].contains(&&*left[0]) && left[1..] == ["b2 deleted"], "{left:?}");
}

#[tokio::test]
async fn what_was_in_a_log_that_was_taken_away_is_saved_if_nobody_has_made_another() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    let daemon = idle(dir.path(), &sandbox, "60s").await;
    insert(dir.path(), "2").await;
    fs::remove_file(dir.path().join("sweeper.db-wal")).unwrap();
    daemon.signal("TERM");
    let (code, log) = daemon.ended().await;
    assert_told(code, &log, "sweeper.db-wal");
    assert_eq!(states(dir.path()).await, ["a1 deleted", "b2 pending"]);
}

#[tokio::test]
async fn a_transaction_that_waited_while_the_index_was_taken_away_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sweeper.db");
    let options = sqlite::Options { path, busy_timeout: Duration::from_secs(60), synchronous: Synchronous::Full };
    let mut store = Store::open(options).await.unwrap();
    let locked = Locked::new(dir.path()).await;
    let taken_away = async {
        fs::remove_file(dir.path().join("sweeper.db-shm")).unwrap();
        locked.release().await;
    };
    // It is asked first, and waits.
    let (written, ()) = tokio::join!(store.begin(), taken_away);
    let error = written.map(drop).unwrap_err();
    assert!(!error.is_temporary() && error.to_string().contains("sweeper.db-shm"), "{error}");
}

/// `sweeper enqueue` with one row written, and more to come.
async fn enqueueing(dir: &Path) -> Child {
    let mut command = sweeper(dir);
    command.args(["enqueue", "--agent", "c"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    writeln!(child.stdin.as_mut().unwrap(), "1").unwrap();
    let clock = Clock::system();
    while !states(dir).await.contains(&"c1 pending".to_owned()) {
        assert!(clock.elapsed() < Duration::from_secs(60), "nothing is enqueued");
    }
    child
}

#[tokio::test]
async fn whoever_enqueues_says_that_rows_may_be_lost_and_does_no_harm_to_others() {
    let dir = tempfile::tempdir().unwrap();
    queue(dir.path(), 1).await;
    let mut child = enqueueing(dir.path()).await;
    fs::remove_file(dir.path().join("sweeper.db-shm")).unwrap();
    insert(dir.path(), "2").await;
    // The end of the input, too: it ends in any case.
    writeln!(child.stdin.take().unwrap(), "2").unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3), "{said}");
    for text in ["sweeper.db-shm", "deleted or replaced while in use", "run this again", "inserted 1,"] {
        assert!(said.contains(text), "{text:?} is missing in {said}");
    }
    assert_eq!(states(dir.path()).await, ["a1 pending", "c1 pending", "b2 pending"]);
}

/// A program that has the database open, and writes a row when it is told to.
struct Producer {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Producer {
    /// `None`, and said so, without Python.
    fn start(dir: &Path) -> Option<Self> {
        let script = "import sqlite3\nc = sqlite3.connect('sweeper.db')\n\
                      c.execute('SELECT count(*) FROM deletions').fetchall()\nprint('open', flush=True)\ninput()\n\
                      c.execute(\"INSERT INTO deletions (agent_id, entry_id) VALUES ('python', '1')\")\nc.commit()\nc.close()";
        let mut command = clean("python3", dir);
        command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                skipped(&format!("python3 cannot be started: {error}"));
                return None;
            }
        };
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert_eq!(line, "open\n");
        Some(Self { child, said })
    }

    /// Writes its row, and ends.
    async fn write(mut self) {
        writeln!(self.child.stdin.as_mut().unwrap()).unwrap();
        blocking(move || {
            self.said.read_to_string(&mut String::new()).unwrap();
            assert!(self.child.wait().unwrap().success());
        })
        .await;
    }
}

#[tokio::test]
async fn nobody_begins_to_write_beside_a_program_that_has_the_database_open_with_files_that_are_gone() {
    if !Path::new("/proc/locks").exists() {
        return skipped("only Linux tells who has which file open");
    }
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), 1).await;
    let Some(producer) = Producer::start(dir.path()) else { return };
    let pid = producer.child.id();
    // With the files in place, it is one of many.
    sweeper(dir.path()).args(["enqueue", "--agent", "c", "1"]).assert().code(0);
    sweeper(dir.path()).arg("init").assert().code(0);
    fs::remove_file(dir.path().join("sweeper.db-shm")).unwrap();
    for arguments in [
        ["run", "--until-empty"].as_slice(),
        &["init"],
        &["enqueue", "--agent", "c", "2"],
        &["cancel", "--all", "--yes"],
    ] {
        let mut command = configured(dir.path(), &sandbox);
        command.args(arguments);
        let (code, _, said) = finish(command).await;
        assert!(
            code == 3 && said.contains(&format!("process {pid} (python3")) && said.contains("end that process"),
            "{said}"
        );
    }
    // Whoever only looks does no harm.
    let mut status = sweeper(dir.path());
    status.arg("status");
    assert_eq!(finish(status).await.0, 0);
    fs::remove_file(dir.path().join("sweeper.db-shm")).unwrap();
    producer.write().await;
    work_it_off(dir.path(), &sandbox).await;
    assert_eq!(states(dir.path()).await, ["a1 deleted", "c1 deleted", "python1 deleted"]);
}

#[tokio::test]
async fn a_start_waits_for_a_daemon_whose_files_were_taken_away_to_end() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    let daemon = idle(dir.path(), &sandbox, "10ms").await;
    fs::remove_file(dir.path().join("sweeper.db-shm")).unwrap();
    let mut command = sweeper(dir.path());
    command.args(["enqueue", "--agent", "c", "1"]);
    assert_eq!(finish(command).await.0, 0);
    let (code, log) = daemon.ended().await;
    assert_told(code, &log, "sweeper.db-shm");
    assert_eq!(states(dir.path()).await, ["a1 deleted", "c1 pending"]);
}
