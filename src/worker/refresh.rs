//! The loop's view of the queue: the holds and the lanes, and when they are read again.

use std::time::Duration;

use super::{
    Worker, log,
    schedule::{MOST_LIFTED, Schedule},
};
use crate::{api::Transport, model::deletion::AgentId, queue::Queue};

/// Reading the holds and listing the lanes may each use at most 1/10 of wall time.
const LISTING_SHARE: u32 = 10;
/// The lanes are listed this often whatever happens: a net under every missed wake-up.
const MAX_LISTING_AGE: Duration = Duration::from_secs(60);

/// An act that has neither ended nor gone on for this long is logged as it is.
const QUIET: Duration = Duration::from_secs(60);
/// The most acts that are logged in one turn.
const MOST_ACTS: u32 = 100;

/// How fresh the holds and the lanes in memory are. Times are elapsed time.
#[derive(Debug)]
pub(super) struct View {
    /// The lanes must be listed again.
    pub(super) lanes_stale: bool,
    /// The holds must be read again, before anything more is claimed.
    pub(super) holds_stale: bool,
    /// There may be acts of operators that are not logged yet.
    acts_stale: bool,
    /// Earliest times of the next reading of the holds and of the lanes: reading must not become the main work.
    pub(super) next_reading: Duration,
    pub(super) next_listing: Duration,
    /// Earliest time of the next look for acts.
    next_acts: Duration,
    /// Time at which the lanes are listed whether or not they are stale.
    list_by: Duration,
}

impl Default for View {
    fn default() -> Self {
        let zero = Duration::ZERO;
        Self {
            lanes_stale: true,
            holds_stale: false,
            acts_stale: true,
            next_reading: zero,
            next_listing: zero,
            next_acts: zero,
            list_by: zero,
        }
    }
}

impl View {
    /// Somebody else has written: all of it must be read again.
    pub(super) fn others_have_written(&mut self) {
        self.lanes_stale = true;
        self.holds_stale = true;
        self.acts_stale = true;
    }

    /// Time until the next reading, if something is stale.
    pub(super) fn wait(&self, elapsed: Duration) -> Option<Duration> {
        let listing = self.lanes_stale.then(|| self.next_listing.saturating_sub(elapsed));
        let reading = self.holds_stale.then(|| self.next_reading.saturating_sub(elapsed));
        let acts = self.acts_stale.then(|| self.next_acts.saturating_sub(elapsed));
        [listing, reading, acts].into_iter().flatten().min()
    }
}

impl<Q: Queue, T: Transport> Worker<Q, T> {
    /// Reads the holds and the lanes again if somebody else has written.
    pub(super) async fn refresh(&mut self) -> Result<(), Q::Error> {
        // With answers to settle, `Tx::news` makes this check; skipping it here saves a round trip.
        if !self.calls.has_returned() || self.view.lanes_stale || self.view.holds_stale {
            if self.queue.changed().await? {
                self.others_have_written();
            }
        } else {
            self.queue.check_owner()?;
        }
        // Verdicts that are not written yet would be missing in a listing.
        if !self.ledger.is_written() {
            return Ok(());
        }
        if self.view.holds_stale && self.clock.elapsed() >= self.view.next_reading {
            self.read_holds().await?;
        }
        let begun = self.clock.elapsed();
        // An act whose command was killed is logged when it has been quiet for a while, and nobody writes then.
        self.view.acts_stale |= begun >= self.view.list_by;
        if (self.view.lanes_stale && begun >= self.view.next_listing) || begun >= self.view.list_by {
            self.list_lanes(begun).await?;
        }
        if self.view.acts_stale && begun >= self.view.next_acts {
            self.log_acts().await?;
        }
        Ok(())
    }

    /// Logs acts of operators. The next transaction writes that they are logged: after a crash before it, they are logged twice.
    async fn log_acts(&mut self) -> Result<(), Q::Error> {
        let begun = self.clock.elapsed();
        let acts = self.queue.acts(self.clock.now().minus(QUIET), MOST_ACTS).await?;
        acts.iter().for_each(log::act);
        self.view.acts_stale = acts.len() >= MOST_ACTS as usize;
        self.ledger.acts.extend(acts.into_iter().map(|act| act.id));
        let ended = self.clock.elapsed();
        self.view.next_acts = ended + ended.saturating_sub(begun) * LISTING_SHARE;
        Ok(())
    }

    pub(super) fn others_have_written(&mut self) {
        self.view.others_have_written();
        self.schedule.others_wrote = Some(self.clock.elapsed());
    }

    pub(super) async fn read_holds(&mut self) -> Result<(), Q::Error> {
        let begun = self.clock.elapsed();
        let rows = self.queue.holds().await?;
        let holds = &mut self.schedule.pace.holds;
        let changes = holds.load(rows);
        changes.iter().for_each(|change| self.schedule.hold_log.changed(change));
        // A lane under a hold without an end is dropped, and only a listing brings it back. After a change of the holds the lanes
        // are listed again: else a lifted hold would last for MAX_LISTING_AGE.
        self.view.lanes_stale |= !changes.is_empty();
        self.ledger.hold_changes.extend(holds.put_clock_right(self.clock.now()));
        self.view.holds_stale = false;
        let ended = self.clock.elapsed();
        self.view.next_reading = ended + ended.saturating_sub(begun) * LISTING_SHARE;
        Ok(())
    }

    async fn list_lanes(&mut self, begun: Duration) -> Result<(), Q::Error> {
        let lanes = self.queue.lanes().await?;
        let now = self.clock.now();
        let lanes = lanes.into_iter().map(|(lane, due_at)| (lane, self.schedule.at(due_at, now))).collect();
        self.schedule.lanes.list(lanes);
        self.view.lanes_stale = false;
        let ended = self.clock.elapsed();
        self.view.next_listing = ended + ended.saturating_sub(begun) * LISTING_SHARE;
        self.view.list_by = ended + MAX_LISTING_AGE;
        self.forget_idle_agents();
        Ok(())
    }

    /// Forgets agents without open rows: their evidence, and the holds that the daemon placed on them.
    fn forget_idle_agents(&mut self) {
        let flying = self.calls.agents();
        let Schedule { lanes, pace, .. } = &mut self.schedule;
        let is_open = |agent: &AgentId| lanes.knows(agent) || flying.contains(agent);
        self.ledger.evidence.retain(is_open);
        let lifted = pace.holds.lift_idle(is_open, MOST_LIFTED);
        lifted.iter().for_each(|change| self.schedule.hold_log.changed(change));
        self.ledger.hold_changes.extend(lifted);
    }
}
