//! Many rows changed in several transactions, with gaps that let other writers in.

use std::time::Duration;

use indicatif::ProgressBar;
use tokio::time::sleep;

use super::{terminal::progress, times::show_count};
use crate::{model::clock::Clock, queue::either::Producer};

/// Rows of one transaction.
const CHUNK: usize = 2_000;
/// The longest gap between two transactions. SQLite's busy handler retries a lock at least every 100 ms, so another writer
/// meets every second gap. On PostgreSQL, the daemon claims nothing while rows are changed, and needs the gaps as well.
pub(super) const MAX_GAP: Duration = Duration::from_millis(50);

/// A walk over rows, one transaction a step.
pub(super) struct Steps<'p> {
    pub(super) producer: &'p mut Producer,
    pub(super) clock: Clock,
    /// Rows changed. The caller counts them.
    pub(super) done: u64,
    progress: Option<ProgressBar>,
    /// Rows passed.
    at: usize,
    /// Elapsed time at which the last step began.
    begun: Option<Duration>,
}

impl<'p> Steps<'p> {
    pub(super) fn new(producer: &'p mut Producer, clock: Clock) -> Self {
        Self { producer, clock, done: 0, progress: None, at: 0, begun: None }
    }

    /// The rows of the next step, after a gap as long as the last step took; `None` at the end.
    pub(super) async fn next<'i, T>(&mut self, ids: &'i [T]) -> Option<&'i [T]> {
        if let Some(begun) = self.begun {
            sleep(self.clock.elapsed().saturating_sub(begun).min(MAX_GAP)).await;
        }
        let Some(chunk) = ids[self.at..].chunks(CHUNK).next() else {
            self.progress = None;
            return None;
        };
        let (at, total) = (self.at as u64, ids.len() as u64);
        let progress = self.progress.get_or_insert_with(|| progress(Some(total)));
        progress.set_position(at);
        progress.set_message(format!("{} of {} rows", show_count(at), show_count(total)));
        self.at += chunk.len();
        self.begun = Some(self.clock.elapsed());
        Some(chunk)
    }
}
