//! `sweeper enqueue`, from outside: every way in, and everything that is none.

use std::{
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use audio_cache_sweeper::{
    model::clock::Clock,
    sandbox::{Mood, Options},
};
use serde_json::{Value, json};
use sqlx::{Connection as _, SqliteConnection};

use crate::{
    bed::status_with,
    daemon::{BINARY, Daemon, KEY, Locked, blocking, clean, configured, finish, queue, sandbox, skipped, sql, sweeper},
};

/// Runs it on this standard input: exit code, standard output, standard error.
pub fn fed(command: Command, input: impl Into<Vec<u8>>) -> (i32, String, String) {
    let output = assert_cmd::Command::from_std(command).write_stdin(input).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn enqueue(dir: &Path, arguments: &[&str], input: impl Into<Vec<u8>>) -> (i32, String, String) {
    let mut command = sweeper(dir);
    command.arg("enqueue").args(arguments);
    fed(command, input)
}

/// `agent entry priority due_at` of every row, in the order of their ids.
async fn rows(dir: &Path) -> Vec<String> {
    let all = "SELECT agent_id || ' ' || entry_id || ' ' || priority || ' ' || due_at FROM deletions ORDER BY id";
    sql(dir, all).await.into_iter().map(|(row,)| row).collect()
}

const CREATED: &str = "sweeper.db: created\n";

#[tokio::test]
async fn every_way_in_leads_to_the_same_rows() {
    let csv = "priority,agent_id,\"entry_id\"\r\n0,a,1\r\n,a,\"2\"\r\n";
    let objects = "{\"entry_id\":1}\n\n{\"agent_id\":\"a\",\"entry_id\":\"2\",\"due_at\":null}\n";
    let ways: [(&[&str], &str); 9] = [
        (&["--agent", "a", "1", "2"], ""),
        (&["--agent", "a"], "1\n2\n"),
        (&["--agent", "a", "-"], "\u{feff} 1 \r\n\r\n2"),
        (&["--agent", "a", "--file", "-"], "1\n2\n"),
        (&["--agent", "a", "--format", "lines"], "1\n2\n"),
        (&[], csv),
        (&["--format", "csv", "--agent", "b"], csv),
        (&["--agent", "a"], objects),
        (&["--agent", "a", "--format", "jsonl"], objects),
    ];
    for (arguments, input) in ways {
        let dir = tempfile::tempdir().unwrap();
        let (code, out, err) = enqueue(dir.path(), arguments, input);
        let said = format!("{CREATED}inserted 2, already waiting 0, now due earlier 0, reopened 0, refused 0\n");
        assert_eq!((code, out, err.as_str()), (0, said, ""), "{arguments:?}");
        assert_eq!(rows(dir.path()).await, ["a 1 0 0", "a 2 0 0"], "{arguments:?}");
        if !input.is_empty() && !arguments.contains(&"-") {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("input"), input).unwrap();
            let arguments = [arguments, &["--file", "input"]].concat();
            assert_eq!(enqueue(dir.path(), &arguments, "").0, 0);
            assert_eq!(rows(dir.path()).await.len(), 2, "{arguments:?}");
        }
    }
}

#[tokio::test]
async fn what_the_input_says_of_a_row_goes_before_what_the_arguments_say() {
    let dir = tempfile::tempdir().unwrap();
    let csv = "agent_id,entry_id,priority,due_at\n,1,,\nb,2,-7,2100-01-01\n,3,,4102444800000\n";
    let arguments = ["--agent", "a", "--priority", "-5", "--due", "2100-01-01T01:00+01:00"];
    assert_eq!(enqueue(dir.path(), &arguments, csv).0, 0);
    let at = 4_102_444_800_000_i64;
    assert_eq!(rows(dir.path()).await, [format!("a 1 -5 {at}"), format!("b 2 -7 {at}"), format!("a 3 -5 {at}")]);
    assert_eq!(enqueue(dir.path(), &["--agent", "a", "--due", "2h", "4"], "").0, 0);
    let in_two_hours = "SELECT 'yes' FROM deletions WHERE entry_id = '4'
                        AND due_at - created_at BETWEEN 7200000 - 60000 AND 7200000 + 60000";
    assert_eq!(sql(dir.path(), in_two_hours).await.len(), 1);
}

#[tokio::test]
async fn it_tells_new_rows_from_waiting_and_settled_ones() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(
        enqueue(dir.path(), &["--agent", "a", "1", "2", "3", "4", "4"], "").1.lines().last(),
        Some("inserted 4, already waiting 1, now due earlier 0, reopened 0, refused 0")
    );
    sql(dir.path(), "UPDATE deletions SET state = 'deleted', settled_at = 1 WHERE entry_id = '1'").await;
    sql(dir.path(), "UPDATE deletions SET state = 'dead', settled_at = 1 WHERE entry_id = '2'").await;
    let (code, out, _) = enqueue(dir.path(), &["--agent", "a", "--priority", "9"], "1\n1\n2\n3\n5\n5\na b\n");
    assert_eq!((code, out.as_str()), (1, "inserted 1, already waiting 3, now due earlier 0, reopened 2, refused 1\n"));
    let rows = rows(dir.path()).await;
    // What was reopened goes by the time of its INSERT.
    let reopened = "SELECT 'a ' || entry_id || ' 9 ' || created_at FROM deletions
                    WHERE entry_id IN ('1', '2') ORDER BY entry_id";
    let reopened = sql(dir.path(), reopened).await;
    assert_eq!(
        rows,
        [reopened[0].0.as_str(), reopened[1].0.as_str(), "a 3 9 0", "a 4 0 0", "a 5 9 0"],
        "a higher priority is taken over"
    );
    assert_eq!(sql(dir.path(), "SELECT 'open' FROM deletions WHERE state = 'pending'").await.len(), 5);
}

#[tokio::test]
async fn it_tells_which_waiting_rows_are_due_earlier_now() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(enqueue(dir.path(), &["--agent", "a", "--due", "2100-01-01", "1", "2", "3"], "").0, 0);
    sql(dir.path(), "UPDATE deletions SET attempts = 1, request_id = 7 WHERE entry_id = '2'").await;
    let (code, out, _) = enqueue(dir.path(), &["--agent", "a"], "1\n1\n2\n4\n");
    let said = "inserted 1, already waiting 2, now due earlier 1, reopened 0, refused 0\n";
    assert_eq!((code, out.as_str()), (0, said));
    let at = 4_102_444_800_000_i64;
    let expected = ["a 1 0 0".to_owned(), format!("a 2 0 {at}"), format!("a 3 0 {at}"), "a 4 0 0".to_owned()];
    assert_eq!(rows(dir.path()).await, expected);
    // A later time, or the same one, is no news.
    let (_, out, _) = enqueue(dir.path(), &["--agent", "a", "--due", "2100-01-02", "1", "3"], "");
    assert_eq!(out, "inserted 0, already waiting 2, now due earlier 0, reopened 0, refused 0\n");
    assert_eq!(rows(dir.path()).await, expected);
}

/// Reads what a test writes to it, and has not heard of an end.
pub fn listening(dir: &Path, arguments: &[&str]) -> Child {
    let mut command = sweeper(dir);
    command.args(["enqueue", "--agent", "a"]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Its exit code, and what it has said, while its standard input stays open.
pub fn signalled(mut child: Child, name: &str) -> (Option<i32>, String) {
    let stdin = child.stdin.take();
    Command::new("kill").args(["-s", name, &child.id().to_string()]).status().unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    let code = child.wait().unwrap().code();
    drop(stdin);
    (code, said)
}

#[tokio::test]
async fn what_a_slow_pipe_brings_is_in_the_queue_soon_and_a_signal_does_not_wait_for_more() {
    let dir = tempfile::tempdir().unwrap();
    queue(dir.path(), 1).await;
    let mut child = listening(dir.path(), &[]);
    let clock = Clock::system();
    for rows_before in 1..4 {
        writeln!(child.stdin.as_mut().unwrap(), "slow-{rows_before}").unwrap();
        while rows(dir.path()).await.len() == rows_before {
            assert!(clock.elapsed() < Duration::from_secs(60), "{rows_before} rows, and no more");
        }
    }
    let (code, said) = signalled(child, "INT");
    assert!(code == Some(130) && said.contains("inserted 3") && said.contains("after line 3"), "{said}");
}

#[tokio::test]
async fn a_signal_keeps_what_was_read_and_says_how_to_go_on() {
    // More than a pipe holds: once it is written, some of it has been read. And less than a chunk.
    let lines: String = (0..4_000).fold(String::new(), |mut text, n| {
        writeln!(text, "{n:0>30}").unwrap();
        text
    });
    for (name, code) in [("INT", 130), ("TERM", 143)] {
        let dir = tempfile::tempdir().unwrap();
        let mut child = listening(dir.path(), &[]);
        child.stdin.as_mut().unwrap().write_all(lines.as_bytes()).unwrap();
        let (ended, said) = signalled(child, name);
        assert_eq!(ended, Some(code), "{said}");
        let kept = rows(dir.path()).await.len();
        assert!(kept > 0, "{said}");
        assert!(said.contains(&format!("inserted {kept}, already waiting 0")), "{kept}: {said}");
        let how =
            format!("stopped by SIG{name} after line {kept} of standard input: unless that was its end, run it again");
        assert!(said.contains(&how), "{kept}: {said}");
    }
    let dir = tempfile::tempdir().unwrap();
    let mut child = listening(dir.path(), &["--dry-run"]);
    child.stdin.as_mut().unwrap().write_all(lines.as_bytes()).unwrap();
    let (ended, said) = signalled(child, "INT");
    assert!(ended == Some(130) && said.contains("nothing was written"), "{said}");
}

#[tokio::test]
async fn half_a_line_is_no_id_when_ctrl_c_ends_the_program_at_the_other_end_too() {
    let dir = tempfile::tempdir().unwrap();
    queue(dir.path(), 1).await;
    let mut child = listening(dir.path(), &[]);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"4711\n4712\n47").unwrap();
    let clock = Clock::system();
    while rows(dir.path()).await.len() < 3 {
        assert!(clock.elapsed() < Duration::from_secs(60), "two rows in a second");
    }
    Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status().unwrap();
    drop(stdin);
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.code() == Some(130) && said.contains("after line 2 of standard input"), "{said}");
    assert_eq!(rows(dir.path()).await.len(), 3, "{said}");
    // Without a signal it is a line like others.
    let mut command = sweeper(dir.path());
    command.args(["enqueue", "--agent", "a"]);
    assert_eq!(fed(command, "4713\n47").0, 0);
    assert_eq!(rows(dir.path()).await.len(), 5);
}

#[tokio::test]
async fn a_signal_while_a_cache_is_listed_or_a_question_waits_enqueues_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options { agents: vec![("a".to_owned(), 450)], ..Options::default() }).await;
    sandbox.script([Mood::Plain, Mood::Gate]);
    let mut command = cached(dir.path(), &sandbox, &["--yes"]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    sandbox.arrived(2).await;
    let (code, said) = blocking(move || signalled(child, "TERM")).await;
    assert_eq!(code, Some(143), "{said}");
    assert!(said.contains("stopped by SIGTERM before the cache was listed to its end; nothing was enqueued"), "{said}");
    sandbox.open_gate();
    // On a terminal, this character is Ctrl-C.
    let Some((code, shown)) = on_a_terminal(cached(dir.path(), &sandbox, &[]), "\u{3}").await else { return };
    assert_eq!(code, 130, "{shown}");
    assert!(shown.contains("stopped by SIGINT before there was an answer; nothing was enqueued"), "{shown}");
    assert!(!dir.path().join("sweeper.db").exists());
}

#[test]
fn what_cannot_be_meant_ends_with_2_says_why_and_enqueues_nothing() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("folder")).unwrap();
    let cases: [(&[&str], &str, &str); 24] = [
        (&["1"], "", "give --agent"),
        (&[], "1\n", "standard input, line 1: the input does not say whose entries these are: give --agent"),
        (&["--agent", "a/b", "1"], "", "one URL path segment"),
        (&["--agent", "a", "1", "b c"], "", "\"b c\" is not an ID: it must be 1 to 255 printable ASCII characters"),
        (&["--agent", "a", "1", ""], "", "\"\" is not an ID"),
        (&["--agent", "a", "1", "-", "2"], "3\n", "- stands for standard input, and goes with no other IDs"),
        (&["--agent", "a"], "a,1\n", "names no column entry_id"),
        (&["--agent", "a"], "entry_id,prio\n", "column \"prio\" is none of agent_id, entry_id, priority, due_at"),
        (&["--agent", "a", "--format", "csv"], "1\n2\n", "column \"1\""),
        (&[], "entry_id\n1\n", "no column agent_id"),
        (&["--agent", "a", "--file", "nowhere"], "", "--file nowhere: No such file"),
        (&["--agent", "a", "--file", "x", "1"], "", "cannot be used with"),
        (&["--agent", "a", "--format", "xml"], "", "[possible values: auto, lines, csv, jsonl]"),
        (&["--agent", "a", "--priority", "high", "1"], "", "invalid value 'high' for '--priority <N>'"),
        (&["--agent", "a", "--due", "soon", "1"], "", "must be a time such as 2026-11-24"),
        (&["--agent", "a", "--due", "1764000000", "1"], "", "looks like seconds, which are to be multiplied by 1000"),
        (&["--agent", "a", "--voice", "v", "1"], "", "--from-cache"),
        (&["--agent", "a", "--yes", "1"], "", "--from-cache"),
        (&["--from-cache"], "", "--agent <AGENT>"),
        (&["--agent", "a", "--from-cache", "1"], "", "cannot be used with"),
        (&["--agent", "a", "--from-cache"], "", "standard input is no terminal: give --yes"),
        (&["--agent", "a", "--from-cache", "--yes"], "", "no API key"),
        (&["--agent", "a", "--from-cache", "--transcript-matches", "(a"], "", "unclosed group"),
        (&["--agnet", "a"], "", "a similar argument exists: '--agent'"),
    ];
    for (arguments, input, said) in cases {
        let (code, out, err) = enqueue(dir.path(), arguments, input);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {err}");
        assert!(err.contains(said), "{arguments:?}: {said:?} is missing in {err}");
    }
    assert!(!dir.path().join("sweeper.db").exists(), "nothing was made");
    let (code, _, err) = enqueue(dir.path(), &["--agent", "a", "--file", "folder"], "");
    assert_eq!(code, 1);
    assert!(err.contains("read folder, line 1: Is a directory"), "{err}");
}

#[tokio::test]
async fn bad_lines_are_numbered_and_counted_and_keep_no_others_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut input = b"1\n\xff\xfe\n".to_vec();
    input.extend(b"x".repeat(100_000));
    input.extend(b"\n");
    input.extend(b"x".repeat(300));
    input.extend("\n2\n".as_bytes());
    let (code, out, err) = enqueue(dir.path(), &["--agent", "a"], input);
    assert_eq!(
        (code, out.lines().last()),
        (1, Some("inserted 2, already waiting 0, now due earlier 0, reopened 0, refused 3"))
    );
    let lines: Vec<&str> = err.lines().collect();
    assert_eq!(lines.len(), 3);
    for (line, said) in lines.iter().zip(["line 2: is not UTF-8", "line 3: is longer than", "line 4: \"xxx"]) {
        assert!(line.starts_with(&format!("standard input, {said}")) && line.len() < 500, "{line}");
    }
    assert_eq!(rows(dir.path()).await, ["a 1 0 0", "a 2 0 0"]);

    let many: String = (0..1_000).map(|_| "a b\n").collect();
    let (code, out, err) = enqueue(dir.path(), &["--agent", "a"], many);
    assert_eq!(
        (code, out.as_str()),
        (1, "inserted 0, already waiting 0, now due earlier 0, reopened 0, refused 1000\n")
    );
    assert_eq!((err.lines().count(), err.lines().last()), (21, Some("… and 980 more lines were refused")));
}

#[tokio::test]
async fn strict_stops_at_the_first_bad_line_with_nothing_of_its_chunk_kept() {
    let dir = tempfile::tempdir().unwrap();
    let lines = |n: std::ops::RangeInclusive<u32>| {
        n.fold(String::new(), |mut text, n| {
            writeln!(text, "{n}").unwrap();
            text
        })
    };
    let (code, _, err) = enqueue(dir.path(), &["--agent", "a", "--strict"], lines(1..=10) + "a b\n11\n");
    assert_eq!(code, 1);
    assert!(err.contains("line 11: \"a b\"") && err.contains("stopped at line 11"), "{err}");
    assert!(err.contains("nothing was enqueued") && !dir.path().join("sweeper.db").exists(), "{err}");
    let (code, _, err) = enqueue(dir.path(), &["--agent", "a", "--strict"], lines(1..=6_000) + "a b\n6001\n");
    assert_eq!(code, 1);
    assert!(err.contains("inserted 5000") && err.contains("lines 1 to 5000 were enqueued"), "{err}");
    assert_eq!(rows(dir.path()).await.len(), 5_000);
}

#[tokio::test]
async fn what_is_done_has_not_failed_because_nobody_hears_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let full = || Stdio::from(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    for (arguments, said) in [
        (&["enqueue", "--agent", "a", "1", "2"][..], "sweeper.db: created\ninserted 2"),
        (&["retry", "--all", "--yes"], "revived 1\n"),
        (&["cancel", "--all", "--yes"], "cancelled 2\n"),
    ] {
        let mut command = sweeper(dir.path());
        command.args(arguments).stdout(full());
        let (code, _, err) = finish(command).await;
        assert_eq!(code, 0, "{arguments:?}: {err}");
        assert!(err.starts_with(said), "{arguments:?}: {err}");
        if arguments[0] == "enqueue" {
            sql(dir.path(), "UPDATE deletions SET state = 'dead', settled_at = 1 WHERE entry_id = '1'").await;
        }
    }
    assert!(rows(dir.path()).await.is_empty());
}

#[test]
fn a_dry_run_checks_everything_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (code, out, err) = enqueue(dir.path(), &["--agent", "a", "--dry-run"], "1\na b\n2\n");
    assert_eq!((code, out.as_str()), (1, "dry run: 2 can be enqueued, 1 refused; nothing was written\n"));
    assert!(err.contains("line 2"), "{err}");
    assert_eq!(enqueue(dir.path(), &["--agent", "a", "--dry-run", "1"], "").0, 0);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

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
    assert_eq!(fed(init, ""), (0, CREATED.to_owned(), String::new()));
    assert_eq!(enqueue(dir.path(), &["--agent", "a", "1"], "").0, 0);
}

/// From the cache of `a` on this sandbox; every request tried again soon.
fn cached(dir: &Path, sandbox: &audio_cache_sweeper::sandbox::Sandbox, arguments: &[&str]) -> Command {
    let mut command = configured(dir, sandbox);
    command.args(["enqueue", "--agent", "a", "--from-cache"]).args(arguments).env("SWEEPER__HOLD__BASE_DELAY", "1ms");
    command.env("SWEEPER__HOLD__MAX_DELAY", "2ms").env("SWEEPER__HOLD__MAX_RETRY_AFTER", "5ms");
    command
}

fn page(total: u64, entries: impl IntoIterator<Item = Value>) -> Mood {
    Mood::Garble(json!({ "totalCount": total, "entries": entries.into_iter().collect::<Vec<_>>() }).to_string())
}

fn entry(id: u64) -> Value {
    json!({ "id": id.to_string() })
}

#[tokio::test]
async fn a_cache_is_listed_to_its_end_before_anything_is_enqueued() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options { agents: vec![("a".to_owned(), 450)], ..Options::default() }).await;
    let (code, out, err) = finish(cached(dir.path(), &sandbox, &["--yes", "--priority", "3"])).await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.starts_with("450 of 450 entries in the cache of a\n  1  cached 2025-"), "{out}");
    assert!(
        out.contains("  … and 440 more\n")
            && out.ends_with("inserted 450, already waiting 0, now due earlier 0, reopened 0, refused 0\n")
    );
    let uris: Vec<String> =
        sandbox.requests().into_iter().map(|request| format!("{} {}", request.method, request.uri)).collect();
    let expected = [0, 200, 400].map(|offset| format!("GET /v1/agents/a/audio-cache?limit=200&offset={offset}"));
    assert_eq!(uris, expected);
    for request in sandbox.requests() {
        assert_eq!(request.headers["x-api-key"], KEY);
        assert!(request.headers.contains_key("x-polyai-correlation-id"));
    }
    assert_eq!(rows(dir.path()).await.len(), 450);
    assert_eq!(rows(dir.path()).await[0], "a 1 3 0");
    assert_eq!(finish(cached(dir.path(), &sandbox, &["--dry-run"])).await.0, 0, "a dry run need not ask");
}

#[tokio::test]
async fn filters_take_what_is_known_to_match_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    let entries = || {
        [
            json!({ "id": "1", "transcript": "Hello Ärger", "cachedAt": "2026-01-01T00:00:00Z", "hitCount": 1,
                    "provider": "p", "providerVoiceId": "v", "languageCode": "en" }),
            json!({ "id": "2", "transcript": "Bye", "cachedAt": "2026-01-03T00:00:00", "hitCount": 9, "provider": "q",
                    "providerVoiceId": "w", "languageCode": "de" }),
            json!({ "id": "3" }),
            json!({ "id": "not an id" }),
        ]
    };
    let cases: [(&[&str], &str, &str); 8] = [
        (&["--cached-before", "2026-01-02"], "1", "1 entry stays: the API does not say"),
        (&["--hit-count-below", "9"], "1", "1 entry stays: the API does not say"),
        (&["--provider", "Q"], "2", "1 entry stays: no ID"),
        (&["--voice", "w"], "2", ""),
        (&["--language", "DE"], "2", ""),
        (&["--transcript-matches", "(?i)^hello ä"], "1", ""),
        (&["--language", "de", "--voice", "v"], "", ""),
        (&[], "1 2 3", ""),
    ];
    for (filter, taken, said) in cases {
        fs::read_dir(dir.path()).unwrap().for_each(|file| fs::remove_file(file.unwrap().path()).unwrap());
        sandbox.script([page(4, entries())]);
        let (code, out, err) = finish(cached(dir.path(), &sandbox, &[&["--yes"], filter].concat())).await;
        assert_eq!(code, 0, "{err}");
        assert!(err.contains(said), "{filter:?}: {err}");
        let ids = if taken.is_empty() { Vec::new() } else { sql(dir.path(), "SELECT entry_id FROM deletions").await };
        let ids: Vec<String> = ids.into_iter().map(|(id,)| id).collect();
        assert_eq!(ids.join(" "), taken, "{filter:?}: {out}");
    }
}

#[tokio::test]
async fn a_cache_that_changes_meanwhile_is_told_of_and_what_comes_twice_counts_once() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    sandbox.script([page(5, (1..=3).map(entry)), page(4, (3..=4).map(entry))]);
    let (code, out, err) = finish(cached(dir.path(), &sandbox, &["--yes"])).await;
    assert_eq!(code, 0);
    assert!(out.ends_with("inserted 4, already waiting 0, now due earlier 0, reopened 0, refused 0\n"), "{out}");
    assert!(err.contains("the cache had 4 to 5 entries while it was listed; 1 entry was listed twice"), "{err}");
    sandbox.script([page(5, (1..=3).map(entry)), page(5, [])]);
    let (_, _, err) = finish(cached(dir.path(), &sandbox, &["--yes"])).await;
    assert!(err.contains("the API says that there are 5 entries, and listed 3"), "{err}");
    sandbox.script([page(0, [])]);
    let (code, out, err) = finish(cached(dir.path(), &sandbox, &["--yes"])).await;
    assert_eq!((code, out.as_str(), err.as_str()), (0, "0 of 0 entries in the cache of a\n", ""));
}

#[tokio::test]
async fn what_the_api_says_of_its_number_is_not_taken_for_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    sandbox.script([
        page(300, (1..=200).map(entry)),
        page(300, (201..=400).map(entry)),
        page(300, (401..=450).map(entry)),
    ]);
    let (code, out, err) = finish(cached(dir.path(), &sandbox, &["--yes"])).await;
    assert_eq!((code, rows(dir.path()).await.len()), (0, 450), "{out}");
    assert!(err.contains("the API says that there are 300 entries, and listed 450"), "{err}");
    // And one that goes round in circles comes to an end.
    sandbox.script((0..9).map(|_| page(1_000_000, (1..=200).map(entry))));
    let before = sandbox.requests().len();
    let (code, _, err) = finish(cached(dir.path(), &sandbox, &["--yes"])).await;
    assert_eq!((code, sandbox.requests().len() - before), (0, 4), "{err}");
    assert!(err.contains("nothing new on 3 pages in a row"), "{err}");
}

#[tokio::test]
async fn several_that_make_the_database_at_once_all_enqueue() {
    let dir = tempfile::tempdir().unwrap();
    let makers = (0..6).map(|n| {
        let mut command = sweeper(dir.path());
        command.args(["enqueue", "--agent", "a", &n.to_string()]);
        tokio::spawn(finish(command))
    });
    for maker in makers.collect::<Vec<_>>() {
        let (code, _, err) = maker.await.unwrap();
        assert_eq!(code, 0, "{err}");
    }
    assert_eq!(rows(dir.path()).await.len(), 6);
}

#[tokio::test]
async fn a_page_is_asked_for_again_if_that_may_help_and_not_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options { agents: vec![("a".to_owned(), 3)], ..Options::default() }).await;
    let passing = || {
        [
            status_with(429, "retry-after", "3600"),
            Mood::status(500),
            Mood::Reset { done: false },
            Mood::Garble("<html>".to_owned()),
            Mood::status(503),
        ]
    };
    sandbox.script(passing());
    let (code, out, err) = finish(cached(dir.path(), &sandbox, &["--yes"])).await;
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("inserted 3") && err.matches("trying again in").count() == 5, "{err}");
    assert!(err.contains("the API answered 429; trying again in 5ms"), "clamped: {err}");
    sandbox.script(passing());
    sandbox.script([Mood::status(500)]);
    let (code, _, err) = finish(cached(dir.path(), &sandbox, &["--yes"])).await;
    assert_eq!(code, 1);
    assert!(err.contains("list the audio cache of a: the API answered 500: as ordered (correlation ID "), "{err}");
    for (status, said) in
        [(401, "the API key is wrong"), (403, "needs `read`"), (404, "check the agent's ID"), (301, "base_url")]
    {
        let before = sandbox.requests().len();
        sandbox.script([Mood::status(status)]);
        let (code, _, err) = finish(cached(dir.path(), &sandbox, &["--yes"])).await;
        assert_eq!((code, sandbox.requests().len() - before), (1, 1), "{status}: {err}");
        assert!(err.contains(&format!("answered {status}")) && err.contains(said), "{err}");
    }
    sandbox.script([
        status_with(403, "x-none", ""),
        Mood::Say { status: 403, headers: vec![], body: format!("no {KEY}") },
    ]);
    for _ in 0..2 {
        let (_, out, err) = finish(cached(dir.path(), &sandbox, &["--yes"])).await;
        assert!(!out.contains(KEY) && !err.contains(KEY), "{err}");
    }
}

#[tokio::test]
async fn listing_keeps_to_the_configured_rate() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        agents: vec![("a".to_owned(), 1_600)],
        rate_limit: Some(5.try_into().unwrap()),
        ..Options::default()
    };
    let sandbox = sandbox(options).await;
    let mut command = cached(dir.path(), &sandbox, &["--dry-run"]);
    command.env("SWEEPER__RATE_LIMIT__REQUESTS_PER_SECOND", "5").env("SWEEPER__RATE_LIMIT__BURST", "3");
    assert_eq!(finish(command).await.0, 0);
    let statuses: Vec<u16> = sandbox.requests().iter().map(|request| request.status).collect();
    assert_eq!(statuses, [200; 9], "never throttled, and asked once more after the last full page");
}

#[tokio::test]
async fn a_hold_keeps_a_cache_from_being_listed_unless_it_ends_soon() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options { agents: vec![("a".to_owned(), 3)], ..Options::default() }).await;
    queue(dir.path(), 1).await;
    let now = Clock::system().now().0;
    let lift = "DELETE FROM holds WHERE scope =";
    for (hold, said) in [
        (
            "('*', 'operator', 0, NULL, 0)".to_owned(),
            format!("everything is held (operator) until somebody lifts the hold with `{lift} '*'"),
        ),
        (format!("('a', 'forbidden', 0, {}, 1)", now + 7_300_000), "a is held (forbidden) for another 2h".to_owned()),
    ] {
        sql(dir.path(), &format!("INSERT INTO holds (scope, cause, since_at, until_at, repeats) VALUES {hold}")).await;
        let (code, out, err) = finish(cached(dir.path(), &sandbox, &["--yes"])).await;
        assert_eq!((code, out.as_str()), (1, ""));
        assert!(err.contains(&said) && err.contains(lift), "{err}");
        assert_eq!(sandbox.requests().len(), 0);
        sql(dir.path(), "DELETE FROM holds").await;
    }
    let soon = Clock::system().now().0 + 1_500;
    sql(
        dir.path(),
        "INSERT INTO holds (scope, cause, since_at, until_at, repeats)
         VALUES ('b', 'operator', 0, NULL, 0), ('*', 'throttled', 0, 100000000000, 1)",
    )
    .await;
    sql(dir.path(), &format!("INSERT INTO holds (scope, until_at) VALUES ('a', {soon})")).await;
    let (code, out, err) = finish(cached(dir.path(), &sandbox, &["--yes"])).await;
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("inserted 2, already waiting 1"), "{out}");
    assert!(err.starts_with("a is held (operator); going on in ") && Clock::system().now().0 >= soon, "{err}");
}

#[tokio::test]
async fn beside_a_daemon_a_cache_is_listed_at_half_of_its_rate() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options { agents: vec![("a".to_owned(), 900)], ..Options::default() }).await;
    let mut command = configured(dir.path(), &sandbox);
    command.env("SWEEPER__RATE_LIMIT__REQUESTS_PER_SECOND", "20");
    let _daemon = Daemon::start(command).until("started").await;
    while sql(dir.path(), "SELECT 'said' FROM daemon WHERE requests_per_second = 20").await.is_empty() {}
    // As if it had been throttled: far below what is configured, which the listing alone would keep to.
    sql(dir.path(), "UPDATE daemon SET requests_per_second = 4").await;
    let clock = Clock::system();
    let (code, out, err) = finish(cached(dir.path(), &sandbox, &["--dry-run"])).await;
    let took = clock.elapsed();
    assert_eq!((code, sandbox.requests().len()), (0, 5), "{out}{err}");
    assert!(took >= Duration::from_secs(2), "four gaps of half a second in {took:?}");
}

#[tokio::test]
async fn a_long_retry_after_ends_the_listing_and_what_was_listed_is_enqueued() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options { agents: vec![("a".to_owned(), 300)], ..Options::default() }).await;
    let list = || {
        let mut command = cached(dir.path(), &sandbox, &["--yes"]);
        command.env("SWEEPER__HOLD__MAX_RETRY_AFTER", "2h");
        finish(command)
    };
    let said = "the API answered 429 with a Retry-After of 1h: run it again after 20";
    sandbox.script([status_with(429, "retry-after", "3600")]);
    let (code, out, err) = list().await;
    assert_eq!((code, out.as_str(), sandbox.requests().len()), (1, "", 1));
    assert!(err.contains(said), "{err}");
    sandbox.script([Mood::Plain, status_with(429, "retry-after", "3600")]);
    let (code, out, err) = list().await;
    assert_eq!((code, sandbox.requests().len()), (1, 3), "{err}");
    assert!(out.contains("inserted 200") && err.contains("not listed to its end") && err.contains(said), "{out}{err}");
    assert!(!err.contains("the API says that there are"), "{err}");
    assert_eq!(rows(dir.path()).await.len(), 200);
    sandbox.script([status_with(429, "retry-after", "1")]);
    let (code, _, err) = list().await;
    assert!(code == 0 && err.contains("the API answered 429; trying again in 1s"), "{err}");
}

/// Answers the first question that a command asks on a terminal; its exit code, and what the terminal showed.
pub async fn on_a_terminal(mut command: Command, answer: &'static str) -> Option<(i32, String)> {
    // NOFLSH: else the terminal drops what is written in the moment of a Ctrl-C, which may be what the program says to it.
    let python = "import os, pty, sys, termios\n\
        answer = sys.argv[1].encode()\n\
        if answer != b'\\x03': answer += b'\\n'\n\
        pid, fd = pty.fork()\n\
        if pid == 0: os.execv(sys.argv[2], sys.argv[2:])\n\
        mode = termios.tcgetattr(fd)\n\
        mode[3] |= termios.NOFLSH\n\
        termios.tcsetattr(fd, termios.TCSANOW, mode)\n\
        seen = b''\n\
        while True:\n\
        \x20   try: data = os.read(fd, 4096)\n\
        \x20   except OSError: break\n\
        \x20   if not data: break\n\
        \x20   seen += data\n\
        \x20   if answer and b'[y/N]' in seen: os.write(fd, answer); answer = b''\n\
        sys.stdout.buffer.write(seen)\n\
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n";
    let mut terminal = clean("python3", command.get_current_dir().unwrap());
    terminal.args(["-c", python, answer, BINARY]).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => terminal.env(name, value),
            None => terminal.env_remove(name),
        };
    }
    command.stdin(Stdio::null());
    let output = blocking(move || terminal.output()).await;
    match output {
        Ok(output) => Some((output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned())),
        Err(error) => {
            skipped(&format!("python3 cannot be started: {error}"));
            None
        }
    }
}

#[tokio::test]
async fn on_a_terminal_it_tells_how_far_it_is_and_takes_that_away_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let ids: String = (10_000..22_000).map(|id| format!("{id}\n")).collect();
    fs::write(dir.path().join("ids"), ids).unwrap();
    let mut command = sweeper(dir.path());
    command.args(["enqueue", "--agent", "a", "--file", "ids"]);
    let Some((code, shown)) = on_a_terminal(command, "").await else { return };
    assert_eq!(code, 0, "{shown}");
    let told = [" 42 %  5,000 lines, ", "\r\u{1b}[2K", " 83 %  10,000 lines, ", "\r\u{1b}[2Kinserted 12000, "];
    let mut rest = shown.as_str();
    for part in told {
        rest = rest.split_once(part).unwrap_or_else(|| panic!("no {part:?} in its place in {shown:?}")).1;
    }
}

#[tokio::test]
async fn on_a_terminal_it_asks_before_it_enqueues_what_it_found() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options { agents: vec![("a".to_owned(), 12)], ..Options::default() }).await;
    let Some((code, shown)) = on_a_terminal(cached(dir.path(), &sandbox, &[]), "n").await else { return };
    assert_eq!(code, 1, "{shown}");
    assert!(shown.contains("12 of 12 entries") && shown.contains("nothing was enqueued"), "{shown}");
    assert!(!dir.path().join("sweeper.db").exists());
    let (code, shown) = on_a_terminal(cached(dir.path(), &sandbox, &[]), "y").await.unwrap();
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("Enqueue these 12 deletions? They cannot be undone. [y/N]"), "{shown}");
    assert_eq!(rows(dir.path()).await.len(), 12);
    let mut command = sweeper(dir.path());
    command.args(["enqueue", "--agent", "a"]);
    let (code, shown) = on_a_terminal(command, "").await.unwrap();
    assert_eq!(code, 2);
    assert!(shown.contains("nothing to enqueue: give entry IDs"), "{shown}");
}
