//! What else the same deletions could be done with, made ready: scripts beside this file, and a small program.
//!
//! They are given a table of their own, `deletions (id, agent_id, entry_id, done)`, or make one (apalis-sqlite); they check
//! that all is done, and print a line of JSON: `seconds`, `requests`, and if they know it `peak_kib`.

mod install;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

pub use install::text;

use install::python;

/// The programs that could be made ready; for the others, why not.
#[derive(Debug)]
pub struct Peers {
    /// The Python that has aiohttp and requests.
    pub python: Result<PathBuf, String>,
    /// The program that uses apalis-sqlite.
    pub apalis: Result<PathBuf, String>,
}

impl Peers {
    /// Makes them ready under `target/peers`; the first time, that takes the network and some minutes.
    pub fn ready() -> Self {
        let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers");
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("peers");
        let python = python(&target.join("venv"), &beside.join("requirements.txt"));
        Self { python, apalis: apalis(&beside, &target) }
    }

    /// Which versions they are.
    pub fn versions(&self) -> Vec<String> {
        let mut versions = Vec::new();
        if let Ok(python) = &self.python {
            let script = "import sys, sqlite3, aiohttp, requests; print(f'Python {sys.version.split()[0]}, its SQLite \
                          {sqlite3.sqlite_version}, aiohttp {aiohttp.__version__}, requests {requests.__version__}')";
            versions.push(text(Command::new(python).args(["-c", script])).unwrap());
        }
        if self.apalis.is_ok() {
            let lock = include_str!("apalis/Cargo.lock");
            let version =
                lock.split("name = \"apalis-sqlite\"\nversion = \"").nth(1).and_then(|rest| rest.split('"').next());
            versions.push(format!("apalis-sqlite {}", version.unwrap()));
        }
        versions
    }
}

fn apalis(beside: &Path, target: &Path) -> Result<PathBuf, String> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--release", "--quiet", "--locked", "--manifest-path"]).arg(beside.join("apalis/Cargo.toml"));
    text(cargo.arg("--target-dir").arg(target))?;
    Ok(target.join("release/apalis-drain"))
}
