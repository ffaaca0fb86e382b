//! What is done beside the turns: the summary, and pruning.

use std::time::Duration;

use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::{Worker, log};
use crate::{api::Transport, store::StoreError, telemetry::event};

/// How many rows one step of pruning looks at.
const PRUNE_ROWS: u32 = 2_000;
/// How often the table is gone through for rows to prune.
const PRUNE_INTERVAL: Duration = Duration::from_secs(600);
/// How often the summary is logged.
pub(super) const SUMMARY_INTERVAL: Duration = Duration::from_secs(60);

/// What is done beside the turns, and when next; elapsed time.
#[derive(Debug)]
pub(super) struct Chores {
    pub(super) summary_at: Duration,
    /// `deleted` at the last summary.
    pub(super) deleted_before: u64,
    pub(super) counting: JoinSet<()>,
    pub(super) prune_at: Duration,
    /// The rate that the database tells those who look, in requests per second.
    pub(super) rate_told: f64,
    /// The database could not be used, and that was logged.
    pub(super) store_down: bool,
}

impl<T: Transport> Worker<T> {
    /// What is due beside the turns: the summary, and a step of pruning.
    ///
    /// # Errors
    /// If the database fails in a way that waiting does not mend.
    pub async fn do_chores(&mut self) -> Result<(), StoreError> {
        let now = self.clock.elapsed();
        if now >= self.chores.summary_at {
            self.summarise(now);
        }
        if now >= self.chores.prune_at && !self.chores.store_down {
            match self.store.prune(self.clock.now().minus(self.settings.retention), PRUNE_ROWS).await {
                Ok(step) => {
                    if step.removed > 0 {
                        debug!(event = event::PRUNED, rows = step.removed, "old rows removed");
                    }
                    let pause = if step.more { self.settings.poll_interval } else { PRUNE_INTERVAL };
                    self.chores.prune_at = now + pause;
                }
                Err(error) if error.is_temporary() => {
                    self.store.abandon().await;
                    debug!(event = event::PRUNED, %error, "not now");
                    self.chores.prune_at = now + PRUNE_INTERVAL;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Counts and logs, beside the loop: with millions of open rows, counting takes longer than a turn may.
    fn summarise(&mut self, now: Duration) {
        while self.chores.counting.try_join_next().is_some() {}
        if !self.chores.counting.is_empty() {
            return;
        }
        let since = now.saturating_sub(self.chores.summary_at) + SUMMARY_INTERVAL;
        self.chores.summary_at = now + SUMMARY_INTERVAL;
        let deleted = self.totals.deleted - self.chores.deleted_before;
        self.chores.deleted_before = self.totals.deleted;
        let per_s = (deleted as f64 / since.as_secs_f64() * 10.0).round() / 10.0;
        let (totals, in_flight, at) = (self.totals, self.in_flight.len(), self.clock.now());
        let (holds, rate) = (self.pace.held(), self.pace.rate());
        let counter = self.store.counter();
        self.chores.counting.spawn(async move {
            match counter.tally(at).await {
                Ok(tally) => log::summary(&tally, &totals, per_s, in_flight, holds, rate),
                Err(error) => warn!(event = event::SUMMARY, %error, "the queue could not be counted"),
            }
        });
    }
}
