//! The binary's commands in processes of their own.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use audio_cache_sweeper::model::clock::Clock;

use crate::common::memory_kib;

/// How often a process is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// A process that is killed when this is dropped.
#[derive(Debug)]
pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        end(&mut self.0);
    }
}

/// `sweeper sandbox`, which knows every entry. It ends when this is dropped.
#[derive(Debug)]
pub struct StandIn {
    _process: Killed,
    /// Where it answers.
    pub url: String,
}

impl StandIn {
    /// Starts it with more `arguments`, and waits until it answers.
    pub fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sweeper"));
        command.args(["sandbox", "--listen", "127.0.0.1:0"]).args(arguments).stdout(Stdio::piped());
        let mut process = Killed(command.spawn().unwrap());
        let mut said = String::new();
        BufReader::new(process.0.stdout.take().unwrap()).read_line(&mut said).unwrap();
        let url = said.trim().rsplit(' ').next().unwrap().to_owned();
        Self { _process: process, url }
    }
}

/// Ends a process, now.
pub fn end(child: &mut Child) {
    // It may have ended by itself.
    let _ = child.kill();
    let _ = child.wait();
}

/// `sweeper run` on `database`, with the defaults of everything but `settings`.
pub fn daemon(database: &Path, url: &str, settings: &[(&str, &str)]) -> Command {
    let always = [("DATABASE__PATH", database.to_str().unwrap()), ("API__BASE_URL", url), ("API__KEY", "k")];
    let settings = always.iter().chain(settings).map(|(key, value)| (format!("SWEEPER__{key}"), *value));
    let mut command = Command::new(env!("CARGO_BIN_EXE_sweeper"));
    command.arg("run").env_clear().envs(settings).env("SWEEPER_CONFIG", "");
    command
}

/// Starts [`daemon`] with the limiter out of the way; its log, a line per request, goes nowhere.
pub fn sweeper(database: &Path, url: &str, arguments: &[&str], settings: &[(&str, &str)]) -> Child {
    let fast = [
        ("RATE_LIMIT__REQUESTS_PER_SECOND", "100000"),
        ("RATE_LIMIT__BURST", "100000"),
        ("DELIVERY__CONCURRENCY", "64"),
        ("DELIVERY__LINGER", "0ms"),
    ];
    let settings: Vec<_> = fast.iter().chain(settings).copied().collect();
    daemon(database, url, &settings).args(arguments).stdout(Stdio::null()).spawn().unwrap()
}

/// What a drain took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Drained {
    /// Until the process had ended.
    pub took: Duration,
    /// The most memory that it had.
    pub peak_kib: u64,
    /// The largest size of the write-ahead log, in bytes.
    pub wal: u64,
}

/// Waits for a [`sweeper`] that was just started to end, and looks at it meanwhile.
pub fn watch(mut child: Child, database: &Path) -> Drained {
    let clock = Clock::system();
    let (process, wal) = (child.id().to_string(), database.with_extension("db-wal"));
    let mut seen = Drained::default();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        seen.peak_kib = seen.peak_kib.max(memory_kib(&process, "VmHWM").unwrap_or(0));
        seen.wal = seen.wal.max(fs::metadata(&wal).map_or(0, |found| found.len()));
        thread::sleep(LOOK);
    };
    seen.took = clock.elapsed();
    assert!(status.success(), "{status}");
    seen
}
