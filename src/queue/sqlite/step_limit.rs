//! How much a statement may do: counted in the steps of SQLite's own machine, and not in seconds, so that waiting for a lock
//! or for the disk never counts.
//!
//! A trigger of somebody else's runs inside our statements. One that never ends would keep the write lock for ever, and with
//! it every producer out. SQLite calls back every so many steps, and a statement that has used up what it may is interrupted
//! and undone.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use sqlx::SqliteConnection;

use super::files::beside;

/// SQLite calls back after this many steps of a statement, which take it about a millisecond.
const STRIDE: u32 = 100_000;
/// What is left while nothing is bounded. A connection that nobody bounds must not run dry after months.
const UNBOUNDED: u64 = u64::MAX;

/// The steps of a transaction, or of a statement that reads a bounded number of rows. The largest turn (1,024 requests of 20
/// rows, settled and claimed) takes four million.
pub(super) const SOME_ROWS: u64 = 400_000_000;
/// Those of a step of upkeep, which is some hundred rows or pages.
pub(super) const STEP_OF_UPKEEP: u64 = 100_000_000;
/// Those of a statement or a migration whose work grows with the file have so many more for each KiB of it. Listing the lanes
/// takes 60 for each row at the most, of which nine fit into one.
const MORE_FOR_A_KIB: u64 = 200_000;

/// Counts the steps of one connection.
#[derive(Debug)]
pub(super) struct Steps {
    /// Strides that are left.
    left: Arc<AtomicU64>,
    /// The last bound.
    most: AtomicU64,
}

/// A bound that holds until this is dropped.
#[derive(Debug)]
pub(super) struct Allowance {
    left: Arc<AtomicU64>,
}

impl Steps {
    /// Counts what this connection does from here on.
    pub(super) async fn of(conn: &mut SqliteConnection) -> Result<Self, sqlx::Error> {
        let left = Arc::new(AtomicU64::new(UNBOUNDED));
        let counted = Arc::clone(&left);
        let go_on = move || {
            let spend = |left| if left == UNBOUNDED { Some(left) } else { u64::checked_sub(left, 1) };
            counted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend).is_ok()
        };
        conn.lock_handle().await?.set_progress_handler(STRIDE.cast_signed(), go_on);
        Ok(Self { left, most: AtomicU64::new(UNBOUNDED) })
    }

    /// Lets what follows do `most` steps in all.
    pub(super) fn allow(&self, most: u64) -> Allowance {
        self.most.store(most, Ordering::Relaxed);
        self.left.store(most.div_ceil(STRIDE.into()), Ordering::Relaxed);
        Allowance { left: Arc::clone(&self.left) }
    }

    /// The bound that was set last.
    pub(super) fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }
}

impl Drop for Allowance {
    fn drop(&mut self) {
        self.left.store(UNBOUNDED, Ordering::Relaxed);
    }
}

/// The steps of a statement that may read or rewrite all of this database.
pub(super) fn whole_file(database: &Path) -> u64 {
    let kib = |path: &Path| fs::metadata(path).map_or(0, |found| found.len() / 1024);
    let kib = kib(database).saturating_add(kib(&beside(database, "-wal")));
    SOME_ROWS.saturating_add(kib.saturating_mul(MORE_FOR_A_KIB))
}
