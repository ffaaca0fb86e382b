//! `sweeper demo`: what it shows, and what it leaves behind.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use assert_cmd::assert::OutputAssertExt as _;

use crate::{
    daemon::{blocking, clean, finish, skipped, sweeper},
    enqueue::on_a_terminal,
};

/// The demo, with its temporary files in `dir`.
fn demo(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = sweeper(dir);
    command.arg("demo").args(arguments).env("TMPDIR", dir);
    command
}

fn files(dir: &Path) -> Vec<String> {
    let mut files: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    files
}

#[tokio::test]
async fn it_ends_with_what_became_of_every_deletion_a_status_page_and_a_history_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (code, out, err) = finish(demo(dir.path(), &[])).await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let told = [
        "825 deletions are queued in ",
        "600  deleted\n",
        "2  absent\n",
        "205  deleted\n",
        "18  deleted\n",
        "823 entries less",
        "\n$ sweeper status\n",
        "daemon ",
        "not running",
        "nothing is pending",
        "\n$ sweeper show BAKERY 601\n",
        "BAKERY 601: absent",
        "single-entry DELETE",
        "\n`sweeper demo --keep`",
    ];
    let out = out.replace("The database is removed now. ", "\n");
    let mut rest = out.as_str();
    for part in told {
        rest = rest.split_once(part).unwrap_or_else(|| panic!("no {part:?} in its place in {out}")).1;
    }
    assert!(!out.contains("sqlite3"), "there is no file to look at");
    assert_eq!(files(dir.path()), [] as [&str; 0]);
}

#[tokio::test]
async fn what_is_kept_can_be_looked_at_with_the_commands_that_it_prints() {
    let dir = tempfile::tempdir().unwrap();
    let kept = dir.path().join("it's a demo");
    let (code, out, err) = finish(demo(dir.path(), &["--keep", "it's a demo"])).await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let (_, commands) = out.split_once("Look for yourself:\n").unwrap();
    let mut done = Vec::new();
    for line in commands.lines().filter(|line| *line != "Remove it:") {
        assert!(line.contains(dir.path().to_str().unwrap()), "{line}: absolute");
        if line.contains("sqlite3") && Command::new("sqlite3").arg("--version").output().is_err() {
            skipped("sqlite3 cannot be started");
            continue;
        }
        if line.trim_start().starts_with("rm ") {
            assert_eq!(files(&kept), ["sweeper.db", "sweeper.db.lock"]);
        }
        let mut shell = clean("sh", Path::new("/"));
        shell.args(["-c", line]);
        let (code, shown, err) = finish(shell).await;
        assert_eq!((code, err.as_str()), (0, ""), "{line}: {shown}");
        done.push(shown);
    }
    assert!(done[0].contains("nothing is pending") && done[1].starts_with("BAKERY 601: absent"), "{done:?}");
    assert_eq!(files(dir.path()), [] as [&str; 0], "its own last command removes it");

    let (code, out, _) = finish(demo(dir.path(), &["--keep"])).await;
    let [name] = &files(dir.path())[..] else { panic!("{out}") };
    assert!(code == 0 && out.contains(&format!("  rm -r {}\n", dir.path().join(name).display())), "{out}");
    let (code, _, err) = finish(demo(dir.path(), &["--keep", name])).await;
    let path = dir.path().join(name).join("sweeper.db");
    assert!(code == 2 && err.contains(&format!("{}: is there already; give --keep", path.display())), "{err}");
    assert!(path.exists());
}

#[tokio::test]
async fn however_it_ends_it_cleans_up() {
    for signal in ["INT", "TERM", "HUP"] {
        let dir = tempfile::tempdir().unwrap();
        let mut child = demo(dir.path(), &[]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let (id, line) = (
            child.id().to_string(),
            blocking(move || {
                let mut line = String::new();
                while !line.contains(" deleted") {
                    line.clear();
                    assert_ne!(out.read_line(&mut line).unwrap(), 0);
                }
                out
            }),
        );
        let mut out = line.await;
        assert_eq!(files(dir.path()).len(), 1);
        Command::new("kill").args(["-s", signal, &id]).assert().success();
        let (code, rest) = blocking(move || {
            let mut rest = String::new();
            std::io::Read::read_to_string(&mut out, &mut rest).unwrap();
            (child.wait().unwrap().code(), rest)
        })
        .await;
        assert!(code == Some(0) && rest.contains("\ninterrupted: 825 deletions took "), "{signal}: {code:?} {rest}");
        assert_eq!(files(dir.path()), [] as [&str; 0], "{signal}");
    }
    let dir = tempfile::tempdir().unwrap();
    let mut child = demo(dir.path(), &[]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    drop(child.stdout.take());
    blocking(move || child.wait().unwrap()).await;
    assert_eq!(files(dir.path()), [] as [&str; 0], "nobody reads");
}

#[tokio::test]
async fn on_a_terminal_it_shows_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let Some((code, shown)) = on_a_terminal(demo(dir.path(), &[]), "").await else { return };
    assert!(code == 0 && shown.contains("$ sweeper status") && shown.contains("BAKERY 601: "), "{shown}");
    assert_eq!(files(dir.path()), [] as [&str; 0]);
}
