//! Chores between turns: the summary, upkeep, and the inspection of the queue.

use std::time::Duration;

use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::{Settings, Worker, log, schedule::in_effect};
use crate::{
    api::Transport,
    event,
    queue::{Counter as _, Cutoff, InEffect, Queue, QueueError as _, Remedy},
};

/// Upkeep may use at most 1/10 of wall time.
const UPKEEP_SHARE: u32 = 10;
/// Shortest pause between two steps of upkeep.
const UPKEEP_PAUSE: Duration = Duration::from_millis(20);
/// Pause after a complete pass over the table.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(600);
/// Interval of the summary.
pub(super) const SUMMARY_INTERVAL: Duration = Duration::from_secs(60);

/// The chores and their next times, as elapsed time.
#[derive(Debug)]
pub(super) struct Chores {
    pub(super) summary_at: Duration,
    /// `deleted` at the last summary.
    pub(super) deleted_before: u64,
    pub(super) counting: JoinSet<()>,
    pub(super) upkeep_at: Duration,
    /// The settings that were last written to the database.
    pub(super) told: InEffect,
}

impl Chores {
    pub(super) fn new(now: Duration, told: InEffect) -> Self {
        Self { summary_at: now + SUMMARY_INTERVAL, deleted_before: 0, counting: JoinSet::new(), upkeep_at: now, told }
    }
}

impl<Q: Queue, T: Transport> Worker<Q, T> {
    /// Does the chores that are due: the summary, and a step of upkeep.
    ///
    /// # Errors
    /// If the database fails in a way that waiting does not mend.
    pub async fn do_chores(&mut self) -> Result<(), Q::Error> {
        let now = self.clock.elapsed();
        if now >= self.chores.summary_at && self.summarise(now) {
            match self.queue.inspect().await {
                Ok(()) => {}
                // It is inspected again in a minute. A database that cannot be used shows in the turns.
                Err(error) if error.remedy() == Remedy::Wait => {
                    debug!(event = event::SUMMARY, %error, "the database could not be inspected now");
                }
                Err(error) => self.endure(error).await?,
            }
        }
        if now >= self.chores.upkeep_at && !self.outage.is_down() {
            match self.upkeep().await {
                Ok(more) => {
                    let ended = self.clock.elapsed();
                    let share = ended.saturating_sub(now) * UPKEEP_SHARE;
                    let pause = if more { UPKEEP_PAUSE.max(share) } else { UPKEEP_INTERVAL };
                    self.chores.upkeep_at = ended + pause;
                }
                Err(error) if error.remedy() == Remedy::Wait => {
                    self.queue.undo().await;
                    debug!(event = event::PRUNED, %error, "upkeep is put off");
                    self.chores.upkeep_at = now + UPKEEP_INTERVAL;
                }
                // Upkeep is tried again after the next successful turn.
                Err(error) => self.endure(error).await?,
            }
        }
        Ok(())
    }

    /// Does a step of upkeep. True if there is another one.
    async fn upkeep(&mut self) -> Result<bool, Q::Error> {
        let (now, elapsed) = (self.clock.now(), self.clock.elapsed());
        let Settings { retention, evidence_retention, .. } = self.settings;
        let settled = self.clocks.prune_before(retention, now, elapsed);
        let longer = evidence_retention.saturating_sub(retention);
        let cutoff = settled.map(|settled| Cutoff { settled, evidence: settled.minus(longer) });
        let step = self.queue.upkeep(cutoff).await?;
        if step.removed > 0 {
            debug!(event = event::PRUNED, rows = step.removed, "old rows removed");
        }
        Ok(step.more)
    }

    /// Starts to count the rows for the summary, in a task of its own: with millions of open rows, counting takes longer than a
    /// turn may. False if the last count is still running.
    fn summarise(&mut self, now: Duration) -> bool {
        while self.chores.counting.try_join_next().is_some() {}
        if !self.chores.counting.is_empty() {
            return false;
        }
        let since = now.saturating_sub(self.chores.summary_at) + SUMMARY_INTERVAL;
        self.chores.summary_at = now + SUMMARY_INTERVAL;
        let deleted = self.ledger.totals.deleted - self.chores.deleted_before;
        self.chores.deleted_before = self.ledger.totals.deleted;
        let per_s = (deleted as f64 / since.as_secs_f64() * 10.0).round() / 10.0;
        let (totals, in_flight, at) = (self.ledger.totals, self.calls.len(), self.clock.now());
        let holds = self.schedule.pace.holds.count();
        let limits = in_effect(&self.schedule.pace, &self.schedule.settings);
        let counter = self.queue.counter();
        self.chores.counting.spawn(async move {
            match counter.census(at).await {
                Ok(census) => log::summary(&census.tally, &totals, per_s, in_flight, holds, &limits),
                Err(error) => warn!(event = event::SUMMARY, %error, "the queue could not be counted"),
            }
        });
        true
    }
}
