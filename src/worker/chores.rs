//! What is done beside the turns: the summary, and pruning.

use std::time::Duration;

use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use super::{Doubts, Worker, log, tell_of_a_doubt};
use crate::{
    api::Transport,
    queue::sqlite::{Doubtful as _, StoreError},
    watch::telemetry::event,
};

/// How many rows one step of pruning removes: those of many agents lie far apart, and each is some pages to write.
pub const PRUNE_ROWS: u32 = 200;
/// How many free pages one step gives back.
pub const VACUUM_PAGES: u32 = 100;
/// Both may take one part in this many of the time,
const UPKEEP_SHARE: u32 = 10;
/// and pause for this long at least.
const UPKEEP_PAUSE: Duration = Duration::from_millis(20);
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
    /// All was gone through, and free pages are given back.
    pub(super) giving_back: bool,
    /// The rate that the database tells those who look, in requests per second.
    pub(super) rate_told: f64,
    /// The database could not be used, and that was logged.
    pub(super) store_down: bool,
    /// The file has seemed to be damaged, and the connection is to be another one.
    pub(super) in_doubt: bool,
    pub(super) doubts: Doubts,
}

impl Chores {
    pub(super) fn new(now: Duration, rate_told: f64) -> Self {
        Self {
            summary_at: now + SUMMARY_INTERVAL,
            deleted_before: 0,
            counting: JoinSet::new(),
            prune_at: now,
            giving_back: false,
            rate_told,
            store_down: false,
            in_doubt: false,
            doubts: Doubts::default(),
        }
    }
}

impl<T: Transport> Worker<T> {
    /// What is due beside the turns: the summary, and a step of pruning.
    ///
    /// # Errors
    /// If the database fails in a way that waiting does not mend.
    pub async fn do_chores(&mut self) -> Result<(), StoreError> {
        let now = self.clock.elapsed();
        if now >= self.chores.summary_at && self.summarise(now) {
            match self.store.backlog().await {
                Ok(backlog) => backlog.iter().for_each(log::backlog),
                // Whatever it is, the next turn meets it, too.
                Err(error) if error.is_temporary() => debug!(event = event::WAL_GROWING, %error, "not now"),
                Err(error) => self.store_is_down(error)?,
            }
        }
        if now >= self.chores.prune_at && !self.chores.store_down {
            match self.upkeep().await {
                Ok(more) => {
                    let ended = self.clock.elapsed();
                    let share = ended.saturating_sub(now) * UPKEEP_SHARE;
                    let pause = if more { UPKEEP_PAUSE.max(share) } else { PRUNE_INTERVAL };
                    self.chores.prune_at = ended + pause;
                }
                Err(error) if error.is_temporary() => {
                    self.store.abandon().await;
                    debug!(event = event::PRUNED, %error, "not now");
                    self.chores.prune_at = now + PRUNE_INTERVAL;
                }
                // If that goes on, the same is tried again as soon as a turn went well.
                Err(error) => self.store_is_down(error)?,
            }
        }
        Ok(())
    }

    /// A step of pruning, or, when all was gone through, of giving back what became free; whether there is another one.
    async fn upkeep(&mut self) -> Result<bool, StoreError> {
        if self.chores.giving_back {
            self.chores.giving_back = self.store.give_back(VACUUM_PAGES).await?;
            return Ok(self.chores.giving_back);
        }
        let (now, elapsed) = (self.clock.now(), self.clock.elapsed());
        let Some(cutoff) = self.clocks.prune_before(self.settings.retention, now, elapsed) else { return Ok(false) };
        let step = self.store.prune(cutoff, PRUNE_ROWS).await?;
        if step.removed > 0 {
            debug!(event = event::PRUNED, rows = step.removed, "old rows removed");
        }
        self.chores.giving_back = !step.more;
        Ok(true)
    }

    /// Counts and logs, beside the loop: with millions of open rows, counting takes longer than a turn may.
    /// False if the last count has not come to its end.
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
        let (totals, in_flight, at) = (self.ledger.totals, self.in_flight.len(), self.clock.now());
        let (holds, rate) = (self.schedule.pace.holds.count(), self.schedule.pace.permits.rate());
        let counter = self.store.counter();
        self.chores.counting.spawn(async move {
            match counter.tally(at).await {
                Ok(tally) => log::summary(&tally, &totals, per_s, in_flight, holds, rate),
                Err(error) => warn!(event = event::SUMMARY, %error, "the queue could not be counted"),
            }
        });
        true
    }

    /// Says so once; an error that neither waiting nor another look mends goes on.
    pub(super) fn store_is_down(&mut self, error: StoreError) -> Result<(), StoreError> {
        // A disk that fails a read may fail to open the file as well.
        let is_unopened = self.chores.in_doubt && error.is_access();
        if let Some(doubt) = error.doubt().or_else(|| is_unopened.then(|| error.to_string())) {
            if !self.chores.doubts.may_look_again(self.clock.elapsed()) {
                return Err(error);
            }
            self.chores.in_doubt = true;
            self.supervisor.database(false);
            self.chores.store_down = true;
            tell_of_a_doubt(&doubt);
            return Ok(());
        }
        if !error.is_temporary() {
            return Err(error);
        }
        self.supervisor.database(false);
        if std::mem::replace(&mut self.chores.store_down, true) {
            debug!(event = event::DATABASE_UNAVAILABLE, %error, "the database still cannot be used");
        } else {
            warn!(event = event::DATABASE_UNAVAILABLE, %error, "the database cannot be used; trying again until it can");
        }
        Ok(())
    }

    /// After a turn that went well, which need not have written anything.
    pub(super) async fn look_after_the_store(&mut self) -> Result<(), StoreError> {
        if self.chores.store_down {
            if let Err(error) = self.store.try_writing().await {
                self.store.abandon().await;
                return self.store_is_down(error);
            }
            self.chores.store_down = false;
            self.supervisor.database(true);
            info!(event = event::DATABASE_AVAILABLE, "the database can be used again");
        }
        Ok(())
    }
}
