//! A file that this user may not use: whose it is, its mode, who asks, and what to do. It is never "no such file". And where the
//! path of a missing database comes from.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::Path,
    process::Command,
};

use crate::{
    daemon::{BINARY, clean, skipped, sweeper},
    enqueue::fed,
    storage::unprivileged,
};

/// The user as whom root runs a command.
const NOBODY: [&str; 5] = ["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--"];

/// The binary as another user than the owner of the tests' files; `None`, and said so, if that cannot be.
fn as_nobody(dir: &Path) -> Option<Command> {
    let mut probe = clean("setpriv", dir);
    if !probe.args(NOBODY).args([BINARY, "-V"]).output().is_ok_and(|output| output.status.success()) {
        skipped("only root can run the program as another user, by setpriv, and that user must be able to read it");
        return None;
    }
    let mut command = clean("setpriv", dir);
    command.args(NOBODY).arg(BINARY);
    Some(command)
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Every command that opens the database.
const COMMANDS: [&[&str]; 8] = [
    &["status"],
    &["status", "--json"],
    &["show", "a", "1"],
    &["retry", "--all", "--yes"],
    &["cancel", "--all", "--yes"],
    &["enqueue", "--agent", "a", "1"],
    &["init"],
    &["run"],
];

/// A queue in a folder of a directory that everybody may enter.
fn queue_in_a_folder(dir: &Path) -> std::path::PathBuf {
    set_mode(dir, 0o755);
    let folder = dir.join("folder");
    fs::create_dir(&folder).unwrap();
    let mut init = sweeper(dir);
    init.arg("init").env("SWEEPER__DATABASE__PATH", folder.join("queue.db"));
    assert_eq!(fed(init, "").0, 0);
    folder
}

/// The message about `what`, a file or directory of root's.
fn refused(what: &str, path: &Path, act: &str) -> String {
    let found = fs::metadata(path).unwrap();
    format!(
        "permission denied: the {what} {} belongs to root (uid 0) and the group root, has mode {:04o}, and this process, nobody \
         (uid 65534), may not {act}; run the command as that user (`sudo sweeper …`)",
        path.display(),
        found.mode() & 0o7777
    )
}

#[test]
fn what_another_user_has_closed_is_explained_by_every_command_that_opens_the_database() {
    let dir = tempfile::tempdir().unwrap();
    let folder = queue_in_a_folder(dir.path());
    let database = folder.join("queue.db");
    let ask = |arguments: &[&str]| {
        let mut command = as_nobody(dir.path())?;
        command.args(arguments).env("SWEEPER__DATABASE__PATH", &database).env("SWEEPER__API__KEY", "s3cret-key");
        Some(fed(command, ""))
    };
    let named = |said: String| format!("sweeper: database {}: {said}\n", database.display());
    set_mode(&folder, 0o700);
    for arguments in COMMANDS {
        let Some((code, out, err)) = ask(arguments) else { return };
        assert_eq!((code, err), (3, named(refused("directory", &folder, "enter it"))), "{arguments:?}: {out}");
    }
    set_mode(&folder, 0o755);
    set_mode(&database, 0o600);
    for arguments in COMMANDS {
        let (code, out, err) = ask(arguments).unwrap();
        assert_eq!((code, err), (3, named(refused("file", &database, "read it"))), "{arguments:?}: {out}");
    }
    set_mode(&database, 0o644);
    for arguments in COMMANDS {
        let (code, out, err) = ask(arguments).unwrap();
        if matches!(arguments[0], "status" | "show") {
            assert!(code == 0 || err.starts_with("a 1: there is no such row"), "{arguments:?}: {err}");
        } else {
            assert_eq!((code, err), (3, named(refused("file", &database, "write it"))), "{arguments:?}: {out}");
        }
    }
    fs::remove_file(&database).unwrap();
    for arguments in [&["init"][..], &["run"], &["enqueue", "--create", "--agent", "a", "1"]] {
        let (code, out, err) = ask(arguments).unwrap();
        assert_eq!((code, err), (3, named(refused("directory", &folder, "make files in it"))), "{arguments:?}: {out}");
    }
}

#[test]
fn who_could_do_it_as_a_member_of_the_group_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let folder = queue_in_a_folder(dir.path());
    let Some(mut command) = as_nobody(dir.path()) else { return };
    // The first group and user of a Debian system after root's.
    chown(&folder, Some(1), Some(1)).unwrap();
    set_mode(&folder, 0o750);
    command.arg("status").env("SWEEPER__DATABASE__PATH", folder.join("queue.db"));
    let (code, _, err) = fed(command, "");
    let said = "may not enter it; run the command as that user (`sudo -u daemon sweeper …`), or as a member of the group daemon\n";
    assert!(code == 3 && err.contains("belongs to daemon (uid 1) and the group daemon, has mode 0750"), "{err}");
    assert!(err.ends_with(said), "{err}");
}

#[test]
fn a_file_of_the_configuration_is_explained_likewise() {
    let dir = tempfile::tempdir().unwrap();
    set_mode(dir.path(), 0o755);
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    set_mode(&file, 0o600);
    let key = ("SWEEPER__API__KEY", "s3cret-key");
    let path = file.to_str().unwrap();
    for (variables, said) in [
        (vec![key, ("SWEEPER_CONFIG", path)], ", or read no file with --config none\n"),
        (vec![("SWEEPER__API__KEY_FILE", path)], "\n"),
        (vec![key, ("SWEEPER__API__CA_FILE", path)], "\n"),
    ] {
        let Some(mut command) = as_nobody(dir.path()) else { return };
        command.arg("check").envs(variables.clone());
        let (code, _, err) = fed(command, "");
        let expected = format!("{}{said}", refused("file", &file, "read it"));
        assert!(code == 2 && err.ends_with(&expected), "{variables:?}: {err}\n{expected}");
    }
}

#[test]
fn the_owner_is_told_the_mode_that_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let folder = queue_in_a_folder(dir.path());
    let database = folder.join("queue.db");
    for (path, mode, said) in [
        (&folder, 0o600, format!("may not enter it; its owner is this user: chmod u+x {}\n", folder.display())),
        (&database, 0o000, format!("may not read it; its owner is this user: chmod u+r {}\n", database.display())),
    ] {
        let Some(mut command) = unprivileged(dir.path()) else { return };
        let before = fs::metadata(path).unwrap().permissions();
        set_mode(path, mode);
        command.arg("status").env("SWEEPER__DATABASE__PATH", &database);
        let (code, _, err) = fed(command, "");
        fs::set_permissions(path, before).unwrap();
        assert!(code == 3 && err.contains(&format!("has mode {mode:04o}")) && err.ends_with(&said), "{err}");
    }
}

#[test]
fn a_missing_database_is_named_with_the_place_where_its_path_was_given() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sweeper.toml");
    fs::write(&file, "# where it is\n[database]\npath = 'in-the-file.db'\n").unwrap();
    let from_file = format!("set in {}, line 3", file.display());
    type Variables<'a> = &'a [(&'a str, &'a str)];
    let cases: [(&[&str], Variables<'_>, &str, &str); 4] = [
        (&[], &[], "sweeper.db", "the default, in the working directory"),
        (&["--config", "sweeper.toml"], &[], "in-the-file.db", &from_file),
        (&[], &[("SWEEPER_CONFIG", "sweeper.toml")], "in-the-file.db", &from_file),
        (
            &["--config", "sweeper.toml"],
            &[("SWEEPER__DATABASE__PATH", "v.db")],
            "v.db",
            "set by SWEEPER__DATABASE__PATH",
        ),
    ];
    for (arguments, variables, name, origin) in cases {
        for asked in [&["status"][..], &["show", "a", "1"], &["retry", "--all", "--yes"], &["cancel", "--all", "--yes"]]
        {
            let mut command = sweeper(dir.path());
            command.args(asked).args(arguments).envs(variables.iter().copied());
            let said = format!(
                "sweeper: database {}: there is no such file; this path is {origin}. A daemon's queue is named by the daemon's \
                 configuration: give its file with --config. If there is no queue yet, `sweeper init` makes one here\n",
                dir.path().join(name).display()
            );
            assert_eq!(fed(command, ""), (3, String::new(), said), "{asked:?} {arguments:?}");
        }
    }
    let mut command = sweeper(dir.path());
    command.arg("status").env("SWEEPER__DATABASE__PATH", "sweeper.toml/queue.db");
    let (code, _, err) = fed(command, "");
    assert!(code == 3 && err.contains("/sweeper.toml/queue.db: there is no such file; this path is set by"), "{err}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was made");
}
