//! `sweeper run --until-empty` on a terminal: one line that shows how far it is, and above it what is wrong.

use std::path::Path;

use audio_cache_sweeper::sandbox::{Mood, Options, Sandbox};

use crate::{
    bed::status_with,
    daemon::{configured, finish, queue, sandbox, sql},
    enqueue::on_a_terminal,
};

/// The output on a terminal, and the exit code; `None` without python3.
async fn on_terminal(
    dir: &Path,
    sandbox: &Sandbox,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> Option<(i32, String)> {
    let mut command = configured(dir, sandbox);
    command.arg("run").args(arguments).env("TERM", "xterm").envs(environment.iter().copied());
    on_a_terminal(command, "").await
}

#[tokio::test]
async fn on_a_terminal_one_line_stands_for_the_log_lines_and_is_gone_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), 6_000).await;
    let Some((code, shown)) = on_terminal(dir.path(), &sandbox, &["--until-empty"], &[]).await else { return };
    assert_eq!(code, 0, "{shown}");
    assert!(!shown.contains("request answered") && !shown.contains("stopped"), "{shown}");
    assert!(shown.contains(" of 6,000 rows, ") && shown.contains("\u{1b}[2K"), "{shown}");
    let last = shown.trim_end().lines().last().unwrap();
    let said = "the queue is empty: 6,000 deleted, 0 absent, 0 dead in 300 requests, ";
    assert!(last.trim_end_matches('\r').contains(said), "{last:?}");
    let (_, after) = shown.rsplit_once(said).unwrap();
    assert!(!after.contains('%'), "nothing of the line is left: {after:?}");
}

#[tokio::test]
async fn warnings_and_errors_are_shown_above_the_line_and_no_end_is_named_while_rows_are_held() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options { forbidden: vec!["locked".to_owned()], ..Options::default() }).await;
    queue(dir.path(), 100).await;
    sql(dir.path(), "INSERT INTO deletions (agent_id, entry_id) VALUES ('locked', 1)").await;
    sandbox.script([status_with(429, "retry-after", "1")]);
    let arguments = ["--until-empty", "--give-up-after", "3s"];
    let hold = [("SWEEPER__HOLD__BASE_DELAY", "1s")];
    let Some((code, shown)) = on_terminal(dir.path(), &sandbox, &arguments, &hold).await else { return };
    assert_eq!(code, 5, "{shown}");
    for part in
        ["throttled", "ERROR", "forbidden", "100 of 101 rows, ", "; the rest is held (forbidden)", "gave up, because"]
    {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(!shown.contains("request answered"), "{shown}");
    let held: Vec<&str> = shown.split('\r').filter(|frame| frame.contains("held (")).collect();
    assert!(held.iter().all(|frame| !frame.contains(" left\u{1b}") && !frame.contains("about")), "{held:?}");
}

#[tokio::test]
async fn who_asks_for_more_lines_or_has_no_terminal_for_it_gets_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), 20).await;
    let cases = [
        (&["--until-empty"][..], &[("SWEEPER__LOG__FILTER", "debug")][..]),
        (&["--until-empty"], &[("SWEEPER__LOG__FILTER", "info,audio_cache_sweeper=debug")]),
        (&["--until-empty"], &[("SWEEPER__LOG__FORMAT", "json")]),
        (&["--until-empty"], &[("TERM", "dumb")]),
        (&["--max-requests", "1"], &[]),
    ];
    for (n, (arguments, environment)) in cases.into_iter().enumerate() {
        sql(dir.path(), "DELETE FROM deletions").await;
        sql(dir.path(), &format!("INSERT INTO deletions (agent_id, entry_id) VALUES ('a', {n})")).await;
        let Some((code, shown)) = on_terminal(dir.path(), &sandbox, arguments, environment).await else { return };
        let is_logged = shown.contains("request answered") || shown.contains(" 1 deleted  ");
        assert!(code == 0 && is_logged, "{environment:?}: {shown}");
        assert!(!shown.contains("of 1 rows") && !shown.contains("the queue is empty:"), "{environment:?}: {shown}");
    }
    sql(dir.path(), "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', 99)").await;
    let mut command = configured(dir.path(), &sandbox);
    command.args(["run", "--until-empty"]).env("TERM", "xterm");
    let (code, out, err) = finish(command).await;
    assert_eq!((code, err.as_str(), out.lines().count()), (0, "", 4), "{out}");
    assert!(out.lines().all(|line| line.starts_with('{')), "{out}");
}

#[tokio::test]
async fn rows_that_are_dead_are_named_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options { failing: vec!["3".to_owned()], ..Options::default() }).await;
    queue(dir.path(), 20).await;
    sandbox.script([Mood::Plain]);
    let attempts = [("SWEEPER__RETRY__MAX_ATTEMPTS", "2")];
    let Some((code, shown)) = on_terminal(dir.path(), &sandbox, &["--until-empty"], &attempts).await else { return };
    assert!(code == 4 && shown.contains("rows are dead"), "{shown}");
    assert!(
        shown.contains("19 deleted, 0 absent, 1 dead") && shown.contains("`sweeper status` says why rows are dead")
    );
}
