//! What the benchmarks share: where they run, and a queue to work on.

mod machine;

use std::{fs, path::Path, time::Duration};

use audio_cache_sweeper::queue::sqlite::{Options, Store, Synchronous};
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

pub use machine::machine;

/// The file as the daemon opens it if nothing else is configured.
pub fn options(path: &Path) -> Options {
    Options { path: path.to_owned(), busy_timeout: Duration::from_secs(5), synchronous: Synchronous::Full }
}

/// A new queue with rows as a producer would leave them: agents interleaved, so that each agent's rows lie far apart.
pub async fn fill(path: &Path, rows: u32, agents: u32) {
    drop(Store::open(options(path)).await.unwrap());
    let mut conn = SqliteConnection::connect(path.to_str().unwrap()).await.unwrap();
    let sql = format!(
        "PRAGMA synchronous = OFF;
         WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {rows})
         INSERT INTO deletions (agent_id, entry_id) SELECT 'PROJECT-' || (i % {agents}), 1000000 + i FROM n;
         PRAGMA wal_checkpoint(TRUNCATE);"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    settle_on_disk(path);
}

/// Waits until all of a file is on its disk, so that the commits that are measured next do not wait for it.
pub fn settle_on_disk(path: &Path) {
    fs::File::open(path).unwrap().sync_all().unwrap();
}

/// A number of KiB that Linux tells of a process: `VmRSS`, what it has in memory; `VmHWM`, the most it ever had. `None` if
/// there is no such process, or another system.
pub fn memory_kib(process: &str, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}
