//! First starts at the same time, where there is no database yet: they wait for each other, and only a second daemon is refused.

use std::{
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use audio_cache_sweeper::{
    model::clock::Clock,
    sandbox::{Options, Sandbox},
};
use tokio::time::sleep;

use crate::daemon::{Daemon, blocking, configured, sandbox, sql, sweeper};

fn command(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = sweeper(dir);
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

const INIT: &[&str] = &["init"];
const ENQUEUE: &[&str] = &["enqueue", "--create", "--agent", "a", "1"];
const STATUS: &[&str] = &["status"];

/// What they said, each started as soon as the one before it was.
async fn together(dir: &Path, commands: &[&[&str]]) -> Vec<(i32, String)> {
    let started: Vec<Child> = commands.iter().map(|arguments| command(dir, arguments).spawn().unwrap()).collect();
    let outputs = move || started.into_iter().map(|child| child.wait_with_output().unwrap()).collect::<Vec<Output>>();
    let said = |output: Output| (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap());
    blocking(outputs).await.into_iter().map(said).collect()
}

async fn rows(dir: &Path) -> String {
    sql(dir, "SELECT CAST(count(*) AS TEXT) FROM deletions").await[0].0.clone()
}

#[tokio::test]
async fn those_that_make_the_file_at_the_same_time_all_end_well() {
    for (commands, rounds) in [
        ([INIT, INIT].as_slice(), 40),
        (&[ENQUEUE, ENQUEUE], 20),
        (&[INIT, ENQUEUE], 20),
        (&[INIT, ENQUEUE, INIT, ENQUEUE, INIT, ENQUEUE], 5),
    ] {
        for round in 0..rounds {
            let dir = tempfile::tempdir().unwrap();
            let ended = together(dir.path(), commands).await;
            assert!(ended.iter().all(|(code, _)| *code == 0), "{commands:?}, round {round}: {ended:?}");
            assert_eq!(rows(dir.path()).await, if commands.contains(&ENQUEUE) { "1" } else { "0" });
        }
    }
}

/// A daemon that starts beside each of the other commands, before it or after it.
async fn daemon_beside(dir: &Path, sandbox: &Sandbox, arguments: &[&str], daemon_first: bool) -> (i32, String) {
    let run = || {
        let mut run = configured(dir, sandbox);
        run.env("SWEEPER__QUEUE__POLL_INTERVAL", "100ms");
        Daemon::start(run)
    };
    let first = daemon_first.then(run);
    let child = command(dir, arguments).spawn().unwrap();
    let daemon = first.unwrap_or_else(run).until("started").await;
    let output = blocking(move || child.wait_with_output().unwrap()).await;
    daemon.signal("TERM");
    assert_eq!(daemon.ended().await.0, 0);
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[tokio::test]
async fn a_daemon_starts_beside_those_that_make_the_file() {
    let sandbox = sandbox(Options::default()).await;
    for arguments in [ENQUEUE, INIT] {
        for round in 0..20 {
            let dir = tempfile::tempdir().unwrap();
            let (code, said) = daemon_beside(dir.path(), &sandbox, arguments, round % 2 == 0).await;
            assert_eq!(code, 0, "{arguments:?}, round {round}: {said}");
        }
    }
}

#[tokio::test]
async fn whoever_looks_while_the_file_is_made_sees_no_half_of_it() {
    let sandbox = sandbox(Options::default()).await;
    for round in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let (code, said) = if round % 2 == 0 {
            daemon_beside(dir.path(), &sandbox, STATUS, round % 4 == 0).await
        } else {
            together(dir.path(), &[INIT, STATUS]).await.remove(1)
        };
        // It may have looked before there was anything.
        assert!(code == 0 || (code == 3 && said.contains("there is no such file")), "round {round}: {said}");
    }
}

#[tokio::test]
async fn of_two_daemons_one_starts_and_the_other_is_refused() {
    let sandbox = sandbox(Options::default()).await;
    for _ in 0..10 {
        let dir = tempfile::tempdir().unwrap();
        let mut runs = [(); 2].map(|()| {
            let mut run = configured(dir.path(), &sandbox);
            run.arg("run").env("SWEEPER__DATABASE__BUSY_TIMEOUT", "60s").stdout(Stdio::null()).stderr(Stdio::piped());
            run.spawn().unwrap()
        });
        // Long before the minute for which whoever makes the file is waited for.
        let clock = Clock::system();
        let refused = loop {
            if let Some(ended) = runs.iter_mut().position(|run| run.try_wait().unwrap().is_some()) {
                break ended;
            }
            assert!(clock.elapsed() < Duration::from_secs(30), "neither is refused");
            sleep(Duration::from_millis(10)).await;
        };
        let [first, second] = runs;
        let (refused, daemon) = if refused == 0 { (first, second) } else { (second, first) };
        let output = blocking(move || refused.wait_with_output().unwrap()).await;
        let said = String::from_utf8(output.stderr).unwrap();
        let daemon_pid = format!("another sweeper (process {}) is working on it", daemon.id());
        assert!(output.status.code() == Some(3) && said.contains(&daemon_pid), "{said}");
        let status = Command::new("kill").args(["-s", "TERM", &daemon.id().to_string()]).status().unwrap();
        assert!(status.success());
        assert_eq!(blocking(move || daemon.wait_with_output().unwrap()).await.status.code(), Some(0));
    }
}
