//! `sweeper enqueue`, run as a user would: every form of input, and every input that is refused.

mod cache;
mod database;
mod mistakes;
mod signals;

use std::{
    fmt::Write as _,
    fs,
    io::Read as _,
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::daemon::{BINARY, blocking, clean, finish, skipped, sql, sweeper};

/// Runs it on this standard input: exit code, standard output, standard error.
pub fn fed(command: Command, input: impl Into<Vec<u8>>) -> (i32, String, String) {
    let output = assert_cmd::Command::from_std(command).write_stdin(input).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn enqueue(dir: &Path, arguments: &[&str], input: impl Into<Vec<u8>>) -> (i32, String, String) {
    let mut command = sweeper(dir);
    command.args(["enqueue", "--create"]).args(arguments);
    fed(command, input)
}

/// `agent entry priority due_at` of every row, in the order of their ids.
async fn rows(dir: &Path) -> Vec<String> {
    let all = "SELECT agent_id || ' ' || entry_id || ' ' || priority || ' ' || due_at FROM deletions ORDER BY id";
    sql(dir, all).await.into_iter().map(|(row,)| row).collect()
}

/// The message about a queue that was made in this directory.
fn created(dir: &Path) -> String {
    let path = dir.canonicalize().unwrap().join("sweeper.db");
    let alone = "no daemon works on it: start one with `sweeper run`, with the same database.path";
    format!("{}: created; {alone}\n", path.display())
}

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
        let said =
            format!("{}inserted 2, already waiting 0, now due earlier 0, reopened 0, refused 0\n", created(dir.path()));
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
    let kept = "already waiting 2 (of these, 2 keep their earlier due time), now";
    assert_eq!(out, format!("inserted 0, {kept} due earlier 0, reopened 0, refused 0\n"));
    let csv = "entry_id,due_at\n1,2100-01-02\n5,2100-01-02\n4,\n";
    let (_, out, _) = enqueue(dir.path(), &["--agent", "a"], csv);
    let kept = "already waiting 2 (of these, 1 keeps its earlier due time), now";
    assert_eq!(out, format!("inserted 1, {kept} due earlier 0, reopened 0, refused 0\n"));
    assert_eq!(rows(dir.path()).await[..4], expected);
}

/// Reads what a test writes to it, and has not heard of an end.
pub fn listening(dir: &Path, arguments: &[&str]) -> Child {
    let mut command = sweeper(dir);
    command.args(["enqueue", "--create", "--agent", "a"]).args(arguments);
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
        (&["--agent", "a"], "entry_id,voice\n", "column \"voice\" is none of agent_id, entry_id, priority, due_at"),
        (&["--agent", "a", "--format", "csv"], "1\n2\n", "column \"1\""),
        (&[], "entry_id\n1\n", "no column agent_id"),
        (&["--agent", "a", "--file", "nowhere"], "", "/nowhere: No such file"),
        (&["--agent", "a", "--file", "x", "1"], "", "cannot be used with"),
        (&["--agent", "a", "--format", "xml"], "", "[possible values: auto, lines, csv, jsonl]"),
        (&["--agent", "a", "--priority", "high", "1"], "", "invalid value 'high' for '--priority <N>'"),
        (&["--agent", "a", "--due", "soon", "1"], "", "must be a time such as 2026-11-24"),
        (&["--agent", "a", "--due", "1764000000", "1"], "", "looks like seconds: multiply it by 1000"),
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
    let folder = dir.path().join("folder");
    assert!(code == 2 && err.contains(&format!("--file {}: is a directory", folder.display())), "{err}");
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
    let made = created(dir.path()) + "inserted 2";
    for (arguments, said) in [
        (&["enqueue", "--create", "--agent", "a", "1", "2"][..], made.as_str()),
        (&["retry", "--all", "--yes"], "retried 1\n"),
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
async fn on_a_terminal_without_input_it_says_what_to_give() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = sweeper(dir.path());
    command.args(["enqueue", "--agent", "a"]);
    let Some((code, shown)) = on_a_terminal(command, "").await else { return };
    assert_eq!(code, 2);
    assert!(shown.contains("nothing to enqueue: give entry IDs"), "{shown}");
}
