//! One daemon a file.

use std::os::unix::fs::symlink;

use assert_cmd::assert::OutputAssertExt as _;

use crate::daemon::sweeper;

#[test]
fn the_database_is_no_file_to_enqueue() {
    let dir = tempfile::tempdir().unwrap();
    sweeper(dir.path()).arg("init").assert().code(0);
    symlink("sweeper.db", dir.path().join("ids.txt")).unwrap();
    for file in ["sweeper.db", "ids.txt"] {
        let enqueue = sweeper(dir.path()).args(["enqueue", "--agent", "a", "--file", file]).assert().code(2);
        let said = String::from_utf8_lossy(&enqueue.get_output().stderr).into_owned();
        assert!(said.contains(file) && said.contains("the database itself"), "{said}");
    }
}
