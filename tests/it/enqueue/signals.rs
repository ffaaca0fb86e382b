//! `sweeper enqueue` at a slow pipe, and when a signal stops it.

use std::{fmt::Write as _, io::Write as _, process::Command, time::Duration};

use audio_cache_sweeper::model::clock::Clock;

use super::{fed, listening, rows, signalled};
use crate::daemon::{queue, sweeper};

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
