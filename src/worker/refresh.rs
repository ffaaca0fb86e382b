//! What the loop knows of the queue, and when it reads it again: the holds and the lanes.

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

/// How fresh what was read is. Times are elapsed time.
#[derive(Debug)]
pub(super) struct View {
    /// The lanes must be read again.
    pub(super) lanes_stale: bool,
    /// The holds must be read again, before anything more is claimed.
    pub(super) holds_stale: bool,
    /// Before these times neither is read, so that reading cannot become the main work.
    pub(super) next_reading: Duration,
    pub(super) next_listing: Duration,
    /// The lanes are listed then in any case.
    list_by: Duration,
}

impl Default for View {
    fn default() -> Self {
        let zero = Duration::ZERO;
        Self { lanes_stale: true, holds_stale: false, next_reading: zero, next_listing: zero, list_by: zero }
    }
}

impl View {
    /// Somebody else has written: whatever was read may be another now.
    pub(super) fn others_have_written(&mut self) {
        self.lanes_stale = true;
        self.holds_stale = true;
    }

    /// How long until something is to be read again.
    pub(super) fn wait(&self, elapsed: Duration) -> Option<Duration> {
        let listing = self.lanes_stale.then(|| self.next_listing.saturating_sub(elapsed));
        let reading = self.holds_stale.then(|| self.next_reading.saturating_sub(elapsed));
        listing.into_iter().chain(reading).min()
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
        // What is judged and not yet written would be missing in what is read.
        if !self.ledger.is_written() {
            return Ok(());
        }
        if self.view.holds_stale && self.clock.elapsed() >= self.view.next_reading {
            self.read_holds().await?;
        }
        let begun = self.clock.elapsed();
        if (self.view.lanes_stale && begun >= self.view.next_listing) || begun >= self.view.list_by {
            self.list_lanes(begun).await?;
        }
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
        changes.iter().for_each(log::hold);
        // A lane under a hold without an end is dropped, and only a listing brings it back. If the lanes were listed before the
        // holds were read, under the old ones, they are listed again: else a lifted hold would last for MAX_LISTING_AGE.
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

    /// Of an agent without open rows, neither its holds nor what its answers have shown is needed any more.
    fn forget_idle_agents(&mut self) {
        let flying = self.calls.agents();
        let Schedule { lanes, pace, .. } = &mut self.schedule;
        let is_open = |agent: &AgentId| lanes.knows(agent) || flying.contains(agent);
        self.ledger.evidence.retain(is_open);
        let lifted = pace.holds.lift_idle(is_open, MOST_LIFTED);
        lifted.iter().for_each(log::hold);
        self.ledger.hold_changes.extend(lifted);
    }
}
