//! What every command says of itself, as it was last read by a person; `INSTA_UPDATE=always cargo test` takes it anew.

use crate::{
    daemon::{KEY, sweeper},
    enqueue::fed,
    status::stable,
};

#[test]
fn the_help_of_every_command_is_as_it_was_read_last_and_has_an_example() {
    let dir = tempfile::tempdir().unwrap();
    for name in [
        "",
        "run",
        "enqueue",
        "status",
        "list",
        "export",
        "report",
        "show",
        "plan",
        "hold",
        "release",
        "retry",
        "cancel",
        "verify",
        "init",
        "grant",
        "check",
        "demo",
        "sandbox",
        "healthcheck",
        "completions",
        "man",
    ] {
        let mut command = sweeper(dir.path());
        command.args(Some(name).filter(|name| !name.is_empty())).arg("--help").env_remove("COLUMNS");
        let (code, help, err) = fed(command, "");
        assert_eq!((code, err.as_str()), (0, ""));
        assert!(help.contains("\nExample:\n  ") || help.contains("\nExamples:\n  "), "{name} has no example");
        let widest = help.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(120), "{name}: {widest:?}");
        let name = if name.is_empty() { "sweeper" } else { name };
        insta::assert_snapshot!(format!("help_of_{name}"), help);
    }
}

#[test]
fn check_is_as_it_was_read_last() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = sweeper(dir.path());
    command.arg("check").env("SWEEPER__API__KEY", KEY);
    let (code, out, err) = fed(command, "");
    assert_eq!((code, err.as_str()), (0, ""));
    // What follows is about this machine: `crate::check` has that.
    let (out, _) = out.split_once("\ndatabase ").unwrap();
    insta::assert_snapshot!("check", stable(out));
    let mut command = sweeper(dir.path());
    command.arg("check").env("SWEEPER__RATE_LIMIT__BURST", "0").env("SWEEPER__API__REGION", "mars");
    let (code, _, err) = fed(command, "");
    assert_eq!(code, 2);
    insta::assert_snapshot!("check_of_what_is_wrong", err);
}
