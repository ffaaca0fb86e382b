//! The names of files: a slip in the database's is refused with its reason, and any other name is the very file. The
//! configuration file is found where it was named, or in /etc.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::Path,
};

use audio_cache_sweeper::sandbox::Options;
use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::{
    daemon::{BINARY, configured, finish, sandbox, sweeper},
    enqueue::fed,
    lock::mounting,
    older,
    storage::unprivileged,
};

fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

const COMMANDS: [&[&str]; 8] = [
    &["init"],
    &["run"],
    &["enqueue", "--agent", "a", "1"],
    &["status"],
    &["show", "a", "1"],
    &["hold", "--all"],
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

#[test]
fn a_configuration_file_that_cannot_be_read_ends_with_2_and_names_its_absolute_path() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("folder")).unwrap();
    fs::write(dir.path().join("latin1.toml"), b"[log]\nfilter = 'inf\xf6'\n").unwrap();
    let cases = [
        ("nowhere.toml", "/nowhere.toml: there is no such file"),
        ("folder", "/folder: is a directory, and must be a regular file"),
        ("/dev/null", "/dev/null: is a device, and must be a regular file"),
        ("latin1.toml", "/latin1.toml: is not UTF-8"),
    ];
    for (name, said) in cases {
        for arguments in COMMANDS {
            let mut command = sweeper(dir.path());
            command.args(arguments).args(["--config", name]).env("SWEEPER__API__KEY", "s3cret-key");
            let (code, _, err) = fed(command, "");
            assert_eq!(code, 2, "{name} {arguments:?}: {err}");
            assert!(err.contains("configuration: /") && err.contains(said), "{name}: {err}");
        }
        let mut command = sweeper(dir.path());
        command.arg("status").env("SWEEPER_CONFIG", name);
        let (code, _, err) = fed(command, "");
        assert!(code == 2 && err.contains(said), "{err}");
    }
    assert!(!dir.path().join("sweeper.db").exists());
}

#[test]
fn a_configuration_file_without_permission_is_an_error_and_never_the_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut command) = unprivileged(dir.path()) else { return };
    let file = dir.path().join("sweeper.toml");
    fs::write(&file, "[database]\npath = 'other.db'\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
    command.args(["init", "--config", "sweeper.toml"]);
    let (code, _, err) = fed(command, "");
    assert_eq!(code, 2, "{err}");
    let said = "may not read it; its owner is this user: chmod u+r ";
    assert!(err.contains("/sweeper.toml: permission denied: the file ") && err.contains("has mode 0000"), "{err}");
    assert!(err.ends_with("/sweeper.toml, or read no file with --config none\n"), "{err}");
    assert!(err.contains(said), "{err}");
    assert!(!dir.path().join("sweeper.db").exists());
}

#[tokio::test]
async fn the_file_in_etc_is_read_if_no_other_is_named_but_never_by_the_demo_and_the_sandbox() {
    const READ: &str = "the configuration file is /etc/sweeper/sweeper.toml";
    let cases = [
        ("check", 0, READ),
        ("check", 0, "database.path = here.db"),
        ("init", 0, "here.db: created"),
        ("check --config none", 0, "no configuration file is read"),
        ("check --config none", 0, "database.path = sweeper.db"),
    ];
    let prepare = "mount -t tmpfs none /etc && mkdir /etc/sweeper && unset SWEEPER_CONFIG &&
                   export SWEEPER__API__BASE_URL=http://127.0.0.1:1 &&
                   printf '[database]\\npath = \"here.db\"\\n' > /etc/sweeper/sweeper.toml";
    for (arguments, code, said) in cases {
        let dir = tempfile::tempdir().unwrap();
        let script = format!("{prepare} && exec {BINARY} {arguments}");
        let Some((ended, out, err)) = mounting(dir.path(), &script).await else { return };
        assert_eq!(ended, code, "{arguments}: {out}{err}");
        assert!(out.contains(said), "{arguments}: {out}");
    }
    let dir = tempfile::tempdir().unwrap();
    let script = format!("{prepare} && SWEEPER_CONFIG= exec {BINARY} check");
    let (_, out, _) = mounting(dir.path(), &script).await.unwrap();
    assert!(out.contains("no configuration file is read"), "{out}");

    let broken = format!("{prepare} && echo '[colour]' >> /etc/sweeper/sweeper.toml");
    for arguments in ["status", "run", "check"] {
        let (code, _, err) = mounting(dir.path(), &format!("{broken} && exec {BINARY} {arguments}")).await.unwrap();
        let said = "/etc/sweeper/sweeper.toml, line 3: there is no section colour";
        assert!(code == 2 && err.contains(said), "{arguments}: {err}");
    }
    for (arguments, said) in
        [("demo", "825 deletions are queued"), ("sandbox --listen 127.0.0.1:0", "the sandbox answers")]
    {
        let script = format!("{broken} && export TMPDIR=. && exec timeout --preserve-status 1 {BINARY} {arguments}");
        let (code, out, err) = mounting(dir.path(), &script).await.unwrap();
        assert!(code == 0 && out.contains(said), "{arguments}: {code} {out}{err}");
    }
    // A link to nowhere is a file that cannot be read, and not a missing one.
    let script = format!("{prepare} && ln -sf nowhere /etc/sweeper/sweeper.toml && exec {BINARY} init");
    let (code, _, err) = mounting(dir.path(), &script).await.unwrap();
    assert!(code == 2 && err.contains("/etc/sweeper/sweeper.toml: there is no such file"), "{err}");
    let script =
        format!("mount -t tmpfs none /etc && touch /etc/sweeper && unset SWEEPER_CONFIG && exec {BINARY} init");
    let (code, _, err) = mounting(dir.path(), &script).await.unwrap();
    let said = "/etc/sweeper/sweeper.toml: /etc/sweeper is a file, and must be a directory";
    assert!(code == 2 && err.contains(said), "{err}");
    assert!(!dir.path().join("sweeper.db").exists(), "no queue of the defaults");
}
