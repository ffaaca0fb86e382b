//! How much work a statement may do, counted in steps of SQLite's virtual machine. Seconds would also count the waiting for a
//! lock or for the disk.
//!
//! A trigger that another program adds runs inside our statements. One that never ends would keep the write lock for ever, and
//! so every producer out. SQLite calls back after a number of steps; a statement that has used up its budget is interrupted and
//! rolled back.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use sqlx::SqliteConnection;

use super::watched_files::beside;

/// SQLite calls back after this number of steps, which take about a millisecond.
const STRIDE: u32 = 100_000;
/// The value of [`StepLimit::left`] without a limit. It is never counted down: a connection must not run dry after months.
const UNLIMITED: u64 = u64::MAX;

/// The budget of a transaction, or of a statement that reads a bounded number of rows, in steps. The largest turn (1,024 requests
/// of 20 rows, settled and claimed) takes four million.
pub(super) const SOME_ROWS: u64 = 400_000_000;
/// The budget of a step of upkeep, which changes some hundred rows or pages, in steps.
pub(super) const STEP_OF_UPKEEP: u64 = 100_000_000;
/// Statements and migrations whose work grows with the file get this number of steps more for each KiB of it. Listing the lanes
/// takes at most 60 steps per row, and a KiB holds nine rows.
const MORE_PER_KIB: u64 = 200_000;

/// Limits the steps of one connection.
#[derive(Debug)]
pub(super) struct StepLimit {
    /// Strides that are left, or [`UNLIMITED`].
    left: Arc<AtomicU64>,
    /// The last budget, in steps.
    most: AtomicU64,
}

/// A budget of steps, in force until this is dropped.
#[derive(Debug)]
pub(super) struct StepBudget {
    left: Arc<AtomicU64>,
}

impl StepLimit {
    /// Counts the steps of this connection from here on.
    pub(super) async fn of(conn: &mut SqliteConnection) -> Result<Self, sqlx::Error> {
        let left = Arc::new(AtomicU64::new(UNLIMITED));
        let counted = Arc::clone(&left);
        let go_on = move || {
            let spend = |left| if left == UNLIMITED { Some(left) } else { u64::checked_sub(left, 1) };
            counted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend).is_ok()
        };
        conn.lock_handle().await?.set_progress_handler(STRIDE.cast_signed(), go_on);
        Ok(Self { left, most: AtomicU64::new(UNLIMITED) })
    }

    /// Allows `most` steps, for all statements together until the budget is dropped.
    pub(super) fn allow(&self, most: u64) -> StepBudget {
        self.most.store(most, Ordering::Relaxed);
        self.left.store(most.div_ceil(STRIDE.into()), Ordering::Relaxed);
        StepBudget { left: Arc::clone(&self.left) }
    }

    /// The last budget, in steps.
    pub(super) fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }
}

impl Drop for StepBudget {
    fn drop(&mut self) {
        self.left.store(UNLIMITED, Ordering::Relaxed);
    }
}

/// The budget of a statement that may read or rewrite all of this database, in steps.
pub(super) fn whole_file(database: &Path) -> u64 {
    let kib = |path: &Path| fs::metadata(path).map_or(0, |found| found.len() / 1024);
    let kib = kib(database).saturating_add(kib(&beside(database, "-wal")));
    SOME_ROWS.saturating_add(kib.saturating_mul(MORE_PER_KIB))
}
