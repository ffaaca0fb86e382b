//! What an export costs: `sweeper export` and `sweeper report` of a queue of a million settled rows, half of them with a label, as
//! processes of their own.
//!
//! `cargo bench --bench export`; of another number of rows: `EXPORT_ROWS=100000 cargo bench --bench export`. Memory is the most that the
//! process ever had.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on should stop where it is")]
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

#[path = "common/machine.rs"]
mod machine;

use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use audio_cache_sweeper::{
    model::clock::Clock,
    queue::sqlite::{Options, Store, Synchronous},
};
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};

/// A request for each 20 rows, of 1,000 agents. Every second agent's rows have a label.
const HISTORY: &str = "
PRAGMA synchronous = OFF;
WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ROWS)
INSERT INTO deletions (agent_id, entry_id, label) SELECT 'PROJECT-' || (i / 20 % 1000), 1000000 + i, iif(i / 20 % 2, 'TICKET-17', NULL) FROM n;
UPDATE deletions SET state = 'deleted', attempts = 1, settled_at = created_at + 1000, request_id = (id - 1) / 20 + 1;
INSERT INTO requests (correlation_id, remote_id, agent_id, deletion_ids, size, claimed_at, answered_at, status, deleted, verdicts)
SELECT 'f47ac10b-58cc-4372-a567-0e02b2c3d479', 'f47ac10b-58cc-4372-a567-0e02b2c3d479', agent_id, json_group_array(id), count(*),
    1700000000000, 1700000000250, 200, count(*), '[{\"verdict\":\"deleted\"}]' FROM deletions GROUP BY request_id;
PRAGMA wal_checkpoint(TRUNCATE);";

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let rows: u32 = env::var("EXPORT_ROWS").ok().and_then(|rows| rows.parse().ok()).unwrap_or(1_000_000);
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        path: dir.path().join("queue.db"),
        busy_timeout: Duration::from_secs(5),
        synchronous: Synchronous::Full,
    };
    drop(Store::open(options.clone()).await.unwrap());
    let mut conn = SqliteConnection::connect(options.path.to_str().unwrap()).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(HISTORY.replace("ROWS", &rows.to_string()))).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    println!("machine: {}", machine::machine());
    println!("{rows} settled rows of 1,000 agents, half of them with a label, in {}", mib(&options.path));
    println!("{:<48}  {:>8}  {:>10}  {:>10}", "command", "time", "memory", "result");
    for arguments in [
        &["export", "--format", "csv"][..],
        &["export", "--format", "jsonl"],
        &["export", "--format", "csv", "--label", "TICKET-17"],
        &["report", "--label", "TICKET-17"],
    ] {
        measure(dir.path(), arguments);
    }
}

/// Runs the command, and prints what it took.
fn measure(dir: &Path, arguments: &[&str]) {
    let (clock, output) = (Clock::system(), dir.join("result"));
    let begun = clock.elapsed();
    let mut child = Command::new(env!("CARGO_BIN_EXE_sweeper"))
        .args(arguments)
        .args(["--force", "--output"])
        .arg(&output)
        .envs([("SWEEPER_CONFIG", "none"), ("SWEEPER__DATABASE__PATH", dir.join("queue.db").to_str().unwrap())])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut most = 0;
    let status = loop {
        most = most.max(most_memory_kib(child.id()).unwrap_or(0));
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None => thread::sleep(Duration::from_millis(5)),
        }
    };
    let took = clock.elapsed() - begun;
    assert!(status.success(), "{arguments:?}");
    let (command, memory) = (arguments.join(" "), most as f64 / 1024.0);
    println!("{command:<48}  {:>6.2} s  {memory:>6.1} MiB  {:>10}", took.as_secs_f64(), mib(&output));
}

/// The most memory that the process has had, in KiB; `None` if it is gone.
fn most_memory_kib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn mib(path: &Path) -> String {
    format!("{:.1} MiB", fs::metadata(path).unwrap().len() as f64 / f64::from(1 << 20))
}
