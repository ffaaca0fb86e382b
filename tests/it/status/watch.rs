//! `sweeper status --watch` on a terminal: it fits, follows the size, and leaves its last page.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use super::widest;
use crate::{
    daemon::{BINARY, blocking, clean, queue, skipped, sql, sweeper},
    enqueue::on_a_terminal,
};

/// Runs `status --watch` on a terminal of 24 lines and 80 columns, which becomes one of 40 and 130 after the second page; then
/// interrupts it. The exit code, and what was written; `None` if there is no Python.
async fn watched(dir: &Path, variables: &[(&str, &str)]) -> Option<(i32, String)> {
    let python = "import fcntl, os, pty, struct, sys, termios\n\
        def size(fd, lines, columns):\n\
        \x20   fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack('HHHH', lines, columns, 0, 0))\n\
        pid, fd = pty.fork()\n\
        if pid == 0:\n\
        \x20   size(0, 24, 80)\n\
        \x20   os.execv(sys.argv[1], sys.argv[1:])\n\
        seen, step = b'', 0\n\
        while True:\n\
        \x20   try: data = os.read(fd, 4096)\n\
        \x20   except OSError: break\n\
        \x20   if not data: break\n\
        \x20   seen += data\n\
        \x20   if step == 0 and seen.count(b'\\x1b[J') >= 2: size(fd, 40, 130); step = 1\n\
        \x20   if step == 1 and seen.count(b'\\x1b[2J') == 2 and seen.endswith(b'\\x1b[J'):\n\
        \x20       os.write(fd, b'\\x03'); step = 2\n\
        sys.stdout.buffer.write(seen)\n\
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n";
    let mut terminal = clean("python3", dir);
    terminal.args(["-c", python, BINARY, "status", "--watch=100ms"]).stdin(Stdio::null());
    terminal.env("TERM", "xterm").env_remove("NO_COLOR").envs(variables.iter().copied());
    match blocking(move || terminal.output()).await {
        Ok(output) => {
            Some((output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap().replace('\r', "")))
        }
        Err(error) => {
            skipped(&format!("python3 cannot be started: {error}"));
            None
        }
    }
}

/// Without the colours and the cursor's moves.
fn plain(text: &str) -> String {
    regex::Regex::new("\u{1b}\\[[0-9;]*[A-Za-z]").unwrap().replace_all(text, "").into_owned()
}

/// 300 agents with 40 rows each, of which one is held.
async fn crowd(dir: &Path) {
    queue(dir, 1).await;
    sql(
        dir,
        "INSERT INTO deletions (agent_id, entry_id)
         WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 11999)
         SELECT 'agent-' || (100 + i / 40), i FROM n",
    )
    .await;
    sql(dir, "INSERT INTO holds (scope) VALUES ('agent-399')").await;
}

#[tokio::test]
async fn three_hundred_agents_fit_on_the_terminal_and_the_rest_is_summed_up() {
    let dir = tempfile::tempdir().unwrap();
    crowd(dir.path()).await;
    let Some((code, shown)) = watched(dir.path(), &[]).await else { return };
    assert_eq!(code, 0, "{shown}");
    let pages: Vec<&str> = shown.split("\u{1b}[H").skip(1).collect();
    assert!(pages.len() >= 3 && pages[0].starts_with("\u{1b}[2J"), "{shown}");
    let first = plain(pages[0]);
    assert!(first.lines().count() <= 23 && widest(&first) <= 80, "{first}");
    assert!(!pages[1].contains("\u{1b}[2J"), "drawn over the last page, without a flicker");
    let held = pages[0].lines().find(|line| line.contains("agent-399 ")).unwrap();
    assert!(held.contains("\u{1b}[31m"), "what needs a person is red: {held:?}");
    let listed: Vec<&str> = first.lines().filter(|line| line.starts_with("agent-") || line.starts_with("a ")).collect();
    assert!(listed.len() >= 3, "{first}");
    let agents = first.lines().skip_while(|line| !line.starts_with("agent ")).skip(1);
    let agents: Vec<&str> = agents.take_while(|line| line.starts_with("agent-")).collect();
    assert!(agents[0].starts_with("agent-399 "), "and comes first: {first}");
    let rest = 12_001 - 40 * agents.len();
    let summed = format!(
        "… and {} more agents, {},{:03} pending; --json has all of them",
        301 - agents.len(),
        rest / 1_000,
        rest % 1_000
    );
    assert!(first.contains(&summed), "no {summed:?} in {first}");

    let anew = pages.iter().rposition(|page| page.starts_with("\u{1b}[2J")).unwrap();
    let wide = plain(pages[anew]);
    assert!(wide.lines().count() > 30 && wide.lines().count() <= 41, "{wide}");
    assert!(wide.contains("next due in"), "more columns where there is room: {wide}");
    let last = plain(pages.last().unwrap());
    assert!(last.contains("agent-399 ") && last.ends_with('\n'), "the last page stays: {last:?}");
    assert!(!shown.contains("\u{1b}[?1049h") && !shown.contains("\u{1b}[?25l"), "nothing that would have to be undone");
}

#[tokio::test]
async fn what_needs_a_person_comes_first_and_no_heading_stands_without_a_row() {
    let dir = tempfile::tempdir().unwrap();
    crowd(dir.path()).await;
    for statement in [
        "INSERT INTO holds (scope, cause, until_at) VALUES ('agent-101', 'throttled', 4000000000000)",
        "UPDATE deletions SET state = 'dead', settled_at = 1790000000000, last_cause = 'lost' WHERE agent_id = 'agent-102'",
        "INSERT INTO acts (acted_at, act, operator, rows, updated_at) VALUES (5, 'enqueue', 'ann', 2, 5)",
    ] {
        sql(dir.path(), statement).await;
    }
    let Some((_, shown)) = watched(dir.path(), &[]).await else { return };
    let page = plain(shown.split("\u{1b}[H").nth(1).unwrap());
    let lines: Vec<&str> = page.lines().collect();
    assert!(lines.len() <= 23 && widest(&page) <= 80, "{page}");
    let held = lines.iter().position(|line| line.starts_with("held  ")).unwrap();
    assert!(lines[held + 1].starts_with("agent-399 ") && lines[held + 2].starts_with("agent-101 "), "{page}");
    let agents = lines.iter().position(|line| line.starts_with("agent  ")).unwrap();
    assert!(lines[agents + 1].starts_with("agent-399 ") && lines[agents + 2].starts_with("agent-101 "), "{page}");
    assert!(page.contains(" 40 dead\n") && page.contains("… and 2"), "{page}");
    for heading in ["last acts", "dead because"] {
        let at = lines.iter().position(|line| line.starts_with(heading));
        assert!(at.is_none_or(|at| lines.get(at + 1).is_some_and(|row| !row.trim().is_empty())), "{page}");
    }
}

#[tokio::test]
async fn without_colours_it_is_still_drawn_in_its_place_and_on_a_dumb_terminal_it_is_not() {
    let dir = tempfile::tempdir().unwrap();
    crowd(dir.path()).await;
    let Some((code, shown)) = watched(dir.path(), &[("NO_COLOR", "1")]).await else { return };
    let colours = regex::Regex::new("\u{1b}\\[[0-9;]*m").unwrap();
    assert!(code == 0 && shown.matches("\u{1b}[H").count() >= 3 && !colours.is_match(&shown), "{shown:?}");
    let mut dumb = sweeper(dir.path());
    dumb.arg("status").env("TERM", "dumb").env_remove("NO_COLOR");
    let (code, shown) = on_a_terminal(dumb, "").await.unwrap();
    assert!(code == 0 && !shown.contains('\u{1b}'), "{shown:?}");
}

#[tokio::test]
async fn status_goes_on_until_it_is_interrupted() {
    let dir = tempfile::tempdir().unwrap();
    queue(dir.path(), 3).await;
    let text = "pending     3";
    let ways: [(&[&str], &str); 4] = [
        (&["--watch=10ms", "--json"], "{\"database\""),
        (&["--watch=10ms"], text),
        (&["--watch", "10ms"], text),
        (&["--watch"], text),
    ];
    for (arguments, line) in ways {
        let mut command = sweeper(dir.path());
        command.arg("status").args(arguments);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for _ in 0..3 {
            assert!(lines.by_ref().any(|read| read.unwrap().starts_with(line)), "no {line} any more");
        }
        Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status().unwrap();
        lines.for_each(drop);
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}
