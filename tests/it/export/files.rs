//! Where an export goes: a file that is whole or not there, a pipe that nobody reads, a disk that is full.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use super::{export, fill};
use crate::daemon::{BINARY, sql, sweeper};

const HEADER: &str = "agent_id,entry_id,label,state,asked_at,asked_by,priority,attempts,due_at,cause,maybe_done,sent_at,answered_at,\
    kind,status,verdict,correlation_id,remote_id,detail,ended_at,verified_at,cancelled_by\r\n";

/// The names of the files in the directory, without those of the queue.
fn files(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with("sweeper.db")).collect();
    names.sort_unstable();
    names
}

async fn many(dir: &Path) {
    sweeper(dir).arg("init").output().unwrap();
    let rows = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
        INSERT INTO deletions (agent_id, entry_id) SELECT 'a', i FROM n";
    sql(dir, rows).await;
}

#[tokio::test]
async fn a_file_is_the_same_text_and_is_not_replaced_unless_somebody_says_so() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path()).await;
    let (_, expected, _) = export(dir.path(), &[]);
    let (code, out, err) = export(dir.path(), &["--output", "all.csv"]);
    let path = dir.path().join("all.csv");
    assert_eq!((code, out, err.as_str()), (0, format!("{}: 8 records\n", path.display()), ""));
    assert_eq!(fs::read_to_string(&path).unwrap(), expected);
    fs::write(&path, "mine").unwrap();
    let (code, out, err) = export(dir.path(), &["--output", "all.csv"]);
    assert!(
        code == 2 && out.is_empty() && err.contains("all.csv: there is a file of this name") && err.contains("--force"),
        "{err}"
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    fs::hard_link(&path, dir.path().join("other.csv")).unwrap();
    assert_eq!(export(dir.path(), &["--output", "all.csv", "--force"]).0, 0);
    assert_eq!(fs::read_to_string(&path).unwrap(), expected);
    assert_eq!(fs::read_to_string(dir.path().join("other.csv")).unwrap(), "mine", "another file took the place");
    assert_eq!(files(dir.path()), ["all.csv", "other.csv"]);
    assert_eq!(export(dir.path(), &["--output", "-"]).1, expected, "standard output");
}

#[tokio::test]
async fn what_matches_nothing_has_a_header_and_what_is_unknown_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path()).await;
    let none = ["--agent", "b", "--state", "dead"];
    assert_eq!(export(dir.path(), &none), (0, HEADER.to_owned(), "nothing matches\n".to_owned()));
    assert_eq!(export(dir.path(), &[&none[..], &["--format", "jsonl"]].concat()).1, "");
    let (code, out, _) = export(dir.path(), &[&none[..], &["--output", "none.csv"]].concat());
    assert!(code == 0 && out.ends_with("none.csv: 0 records\n"), "{out}");
    assert_eq!(fs::read_to_string(dir.path().join("none.csv")).unwrap(), HEADER);
    for (arguments, said) in
        [(["--label", "T 2"], "did you mean 'T 1'?"), (["--agent", "c"], "there is no row of agent c")]
    {
        let (code, out, err) = export(dir.path(), &[&arguments[..], &["--output", "unknown.csv"]].concat());
        assert!(code == 1 && out.is_empty() && err.contains(said), "{out}{err}");
        assert_eq!(export(dir.path(), &arguments).1, "", "not even a header");
    }
    assert_eq!(files(dir.path()), ["none.csv"]);
}

#[tokio::test]
async fn a_wrong_argument_is_named_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path()).await;
    fs::create_dir(dir.path().join("folder")).unwrap();
    for (arguments, code, said) in [
        (&["--state", "gone"][..], 2, "possible values: pending, deleted, absent, dead, cancelled, new"),
        (&["--state", "new"], 2, "has no inbox"),
        (&["--since", "soon"], 2, "must be a time such as"),
        (&["--since", "1h", "--until", "2h"], 2, "--until is not after --since"),
        (&["--force"], 2, "--output"),
        (&["--format", "xlsx"], 2, "possible values: csv, jsonl"),
        (&["--output", "folder"], 2, "folder: is no file"),
        (&["--output", "/dev/null"], 2, "/dev/null: is no file"),
        (&["--output", "sweeper.db", "--force"], 2, "sweeper.db: is a file of the queue"),
        (&["--output", "nowhere/x.csv"], 1, "nowhere/x.csv: No such file or directory"),
    ] {
        let (found, out, err) = export(dir.path(), arguments);
        assert!(found == code && out.is_empty() && err.contains(said), "{arguments:?}: {found} {err}");
    }
    assert_eq!(files(dir.path()), ["folder"]);
}

#[tokio::test]
async fn it_ends_in_silence_when_nobody_reads_any_more() {
    let dir = tempfile::tempdir().unwrap();
    many(dir.path()).await;
    let mut command = sweeper(dir.path());
    let mut child = command.arg("export").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, HEADER);
    let ended = child.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), ended.stderr.len()), (Some(0), 0));
}

#[tokio::test]
async fn a_full_disk_is_a_failure_that_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    many(dir.path()).await;
    for (script, said) in [
        // In blocks of 512 or 1,024 bytes. The shared memory of SQLite is smaller.
        ("ulimit -f 100; exec \"$0\" export --output full.csv", "full.csv: File too large"),
        ("exec \"$0\" export > /dev/full", "write to standard output: No space left on device"),
    ] {
        let mut command = Command::new("sh");
        let of = sweeper(dir.path());
        command.args(["-c", script, BINARY]).current_dir(dir.path()).env_clear();
        of.get_envs().for_each(|(name, value)| {
            value.map(|value| command.env(name, value));
        });
        let output = command.output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && err.contains(said), "{script}: {:?} {err}", output.status);
    }
    assert_eq!(files(dir.path()), [] as [String; 0]);
}
