//! `sweeper --version`: the version with the commit, SQLite's version and the target.

use std::sync::LazyLock;

use crate::queue::sqlite;

/// The version alone, as `-V` prints it.
pub(super) const SHORT: &str = env!("CARGO_PKG_VERSION");

/// The lines of `--version`. The build script tells commit and target. A build without git and a debug build have no commit.
static LONG: LazyLock<String> = LazyLock::new(|| {
    let commit = Some(env!("SWEEPER_COMMIT")).filter(|commit| !commit.is_empty());
    let commit = commit.map(|commit| format!("\ncommit {commit}")).unwrap_or_default();
    format!("{SHORT}{commit}\nSQLite {}\ntarget {}", sqlite::version(), env!("SWEEPER_TARGET"))
});

pub(super) fn long() -> &'static str {
    &LONG
}
