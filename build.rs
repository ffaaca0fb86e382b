//! Tells the compiler the commit and the target, for `sweeper --version`.

use std::{env, path::Path, process::Command};

/// The commit, for a build without git: from a source archive, or in a container.
const COMMIT: &str = "SWEEPER_BUILD_COMMIT";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed={COMMIT}");
    println!("cargo:rustc-env=SWEEPER_TARGET={}", env::var("TARGET").unwrap_or_default());
    // With the commit in a debug build, each commit would compile everything anew.
    let from_git = if env::var("PROFILE").is_ok_and(|profile| profile == "release") { commit() } else { None };
    let given = || env::var(COMMIT).ok().map(|commit| commit.trim().to_owned());
    let commit = from_git.or_else(given).unwrap_or_default();
    println!("cargo:rustc-env=SWEEPER_COMMIT={commit}");
}

/// The short hash of the commit in this directory; `None` if git cannot tell.
fn commit() -> Option<String> {
    // With a prefix, the repository is another one: that of a package into which our sources were unpacked.
    if !git(&["rev-parse", "--show-prefix"])?.is_empty() {
        return None;
    }
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    for name in ["HEAD", "logs/HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        // Cargo would run a script with a missing file each time.
        if let Some(path) = git(&["rev-parse", "--git-path", name]).filter(|path| Path::new(path).exists()) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "--short", "HEAD"]).filter(|commit| !commit.is_empty())
}

/// What git prints, on one line; `None` if it fails, or is not there.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
