//! The name of the database: a slip is refused with its reason, and any other name is the very file.

use std::{collections::BTreeSet, ffi::OsStr, fs, os::unix::ffi::OsStrExt as _, path::Path};

use audio_cache_sweeper::sandbox::Options;
use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::{
    daemon::{configured, finish, sandbox, sweeper},
    enqueue::fed,
    older,
};

fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

const COMMANDS: [&[&str]; 7] = [
    &["init"],
    &["run"],
    &["enqueue", "--agent", "a", "1"],
    &["status"],
    &["show", "a", "1"],
    &["retry", "--all", "--yes"],
    &["check"],
];

#[test]
fn a_slip_in_the_name_of_the_database_ends_with_2_says_what_it_is_and_makes_no_file() {
    let slips: [(&[u8], &str); 14] = [
        (b"", r#"database.path = "": must name a file"#),
        (b"sweeper.db\r", r#"database.path = "sweeper.db\r": has a carriage return"#),
        (b"sweeper.db\n", r#"database.path = "sweeper.db\n": has a line break"#),
        (b"sweeper.db ", r#"database.path = "sweeper.db ": ends with white space"#),
        (b"\"sweeper.db\"", r#"database.path = "\"sweeper.db\"": has a quotation mark"#),
        (b"file:sweeper.db", r#"database.path = "file:sweeper.db": is a URI"#),
        (b":memory:", r#"database.path = ":memory:": is a database in memory to SQLite"#),
        (b" ", r#"database.path = " ": must name a file"#),
        (b"folder/", r#"database.path = "folder/": names a directory"#),
        (b"sweeper.db-wal", r#"database.path = "sweeper.db-wal": ends with -wal"#),
        (b"~/sweeper.db", r#"database.path = "~/sweeper.db": begins with ~"#),
        (b"$HOME/sweeper.db", r#"database.path = "$HOME/sweeper.db": has a variable"#),
        (b"sweeper.db?mode=rwc", r#"database.path = "sweeper.db?mode=rwc": ends like a URI"#),
        (b"sweeper\xff.db", "is not UTF-8"),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (name, said) in slips {
        for arguments in COMMANDS {
            let mut command = sweeper(dir.path());
            command.args(arguments).env("SWEEPER__API__KEY", "s3cret-key");
            command.env("SWEEPER__DATABASE__PATH", OsStr::from_bytes(name));
            let (code, _, err) = fed(command, "");
            assert_eq!(code, 2, "{said} {arguments:?}: {err}");
            assert!(err.contains(said), "{said:?} is missing: {err}");
            assert_eq!(names(dir.path()), BTreeSet::new(), "{said} {arguments:?}");
        }
    }
}

#[test]
fn a_slip_in_the_name_of_another_file_is_said_in_the_same_way() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("key"), "s3cret-key").unwrap();
    for (variable, key) in [("SWEEPER__API__KEY_FILE", "api.key_file"), ("SWEEPER__API__CA_FILE", "api.ca_file")] {
        for (name, said) in
            [("key\r", r#""key\r": has a carriage return"#), ("'key'", r#""'key'": has a quotation mark"#)]
        {
            let mut command = sweeper(dir.path());
            command.arg("check").env(variable, name);
            let (code, out, err) = fed(command, "");
            assert_eq!(code, 2, "{err}");
            assert!(err.contains(&format!("{key} = {said}")), "{err}");
            assert_eq!(out.lines().filter(|line| line.starts_with(key)).count(), 1, "a line stays a line: {out}");
        }
    }
}

#[tokio::test]
async fn a_carriage_return_behind_the_filter_does_not_silence_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    let mut command = configured(dir.path(), &sandbox);
    command.args(["run", "--until-empty"]).env("SWEEPER__LOG__FILTER", "info\r");
    let (code, out, _) = finish(command).await;
    assert_eq!(code, 0);
    assert!(out.contains("\"started\""), "{out}");
}

/// None of these is anything but a name to us, though a URI would read it otherwise.
const ODD: [&str; 4] = ["a?b#c%20.db", "x?y=z&a.db", "%2e%2e", "5$ é.db"];

#[tokio::test]
async fn any_other_name_is_the_very_file_for_all_that_open_it() {
    for name in ODD {
        let dir = tempfile::tempdir().unwrap();
        let sandbox = sandbox(Options::default()).await;
        for arguments in [
            &["init"][..],
            &["enqueue", "--agent", "a", "1", "2"],
            &["cancel", "--agent", "a", "2", "--yes"],
            &["status"],
            &["run", "--until-empty"],
            &["show", "a", "1"],
        ] {
            let mut command = configured(dir.path(), &sandbox);
            command.args(arguments).env("SWEEPER__DATABASE__PATH", name);
            let (code, out, err) = finish(command).await;
            assert_eq!(code, 0, "{name} {arguments:?}: {err}{out}");
            let beside = ["", ".lock", "-wal", "-shm"].map(|suffix| format!("{name}{suffix}"));
            assert!(names(dir.path()).iter().all(|found| beside.contains(found)), "{:?}", names(dir.path()));
        }
        let options = SqliteConnectOptions::new().filename(dir.path().join(name));
        let mut conn = SqliteConnection::connect_with(&options).await.unwrap();
        let state: Vec<(String, String)> =
            sqlx::query_as("SELECT entry_id, state FROM deletions").fetch_all(&mut conn).await.unwrap();
        assert_eq!(state, [("1".to_owned(), "deleted".to_owned())]);
        conn.close().await.unwrap();
    }
}

#[tokio::test]
async fn so_it_is_for_the_look_that_leaves_an_older_file_as_it_is() {
    for name in ODD {
        let dir = tempfile::tempdir().unwrap();
        older::make(&dir.path().join("old.db")).await.close().await.unwrap();
        fs::rename(dir.path().join("old.db"), dir.path().join(name)).unwrap();
        let mut command = sweeper(dir.path());
        command.args(["enqueue", "--agent", "a", "1"]).env("SWEEPER__DATABASE__PATH", name);
        let (code, _, err) = fed(command, "");
        assert!(code == 3 && err.contains("made by an older development version"), "{name}: {err}");
        assert_eq!(names(dir.path()), BTreeSet::from([name.to_owned()]));
    }
}
