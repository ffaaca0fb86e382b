//! A database that cannot be used: waited for, looked at again, swept, or the end.

use std::time::Duration;

use tracing::{debug, error, info, warn};

use super::Worker;
use crate::{
    api::Transport,
    event,
    queue::{Counts, Queue, QueueError as _, Remedy, Swept},
};

/// How often it is looked at again, each time on a fresh connection.
const MOST_LOOKS: u32 = 2;
/// Doubts that are further apart have nothing to do with each other.
const WINDOW: Duration = Duration::from_secs(600);

/// How often the file has seemed to be damaged, each time soon after the time before.
#[derive(Debug, Default)]
pub struct Doubts {
    times: u32,
    /// Elapsed time.
    last: Duration,
}

impl Doubts {
    /// Counts one more; whether it is to be looked at again, or to be believed.
    pub fn may_look_again(&mut self, now: Duration) -> bool {
        if now.saturating_sub(self.last) > WINDOW {
            self.times = 0;
        }
        self.last = now;
        self.times += 1;
        self.times <= MOST_LOOKS
    }
}

/// Logs it, without what a person would do if it were so.
pub fn tell_of_a_doubt(doubt: &str) {
    let error = doubt;
    warn!(
        event = event::DATABASE_UNAVAILABLE,
        error, "the database seems to be damaged, as it does if one read fails; looking again on a fresh connection"
    );
}

/// What is wrong with the database just now.
#[derive(Debug, Default)]
pub(super) struct Outage {
    /// It cannot be used, and that was logged.
    is_down: bool,
    /// It has seemed to be damaged, and the connection is to be another one.
    in_doubt: bool,
    doubts: Doubts,
    sweep: Sweep,
}

/// How far a sweep has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sweep {
    /// None is going on.
    #[default]
    None,
    /// It goes on, and has made so many rows dead.
    Going(u64),
    /// The last one has found nothing: what could not be read is something else, and another one would not help.
    InVain,
}

impl Outage {
    pub(super) fn is_down(&self) -> bool {
        self.is_down
    }

    pub(super) fn is_sweeping(&self) -> bool {
        matches!(self.sweep, Sweep::Going(_))
    }

    /// Begins a sweep; false if the last one was in vain.
    pub(super) fn may_sweep(&mut self) -> bool {
        if self.sweep == Sweep::InVain {
            return false;
        }
        self.sweep = Sweep::Going(0);
        true
    }

    /// A turn went well.
    pub(super) fn passed(&mut self) {
        self.sweep = Sweep::None;
    }
}

impl<Q: Queue, T: Transport> Worker<Q, T> {
    /// After an error: whether the loop goes on. Says so once; an error that nothing mends goes on to the caller.
    pub(super) fn endure(&mut self, error: Q::Error) -> Result<(), Q::Error> {
        match error.remedy() {
            Remedy::Reconnect(doubt) if self.outage.doubts.may_look_again(self.clock.elapsed()) => {
                self.outage.in_doubt = true;
                self.outage.is_down = true;
                self.supervisor.database(false);
                tell_of_a_doubt(&doubt);
                Ok(())
            }
            Remedy::Wait => {
                self.supervisor.database(false);
                if std::mem::replace(&mut self.outage.is_down, true) {
                    debug!(event = event::DATABASE_UNAVAILABLE, %error, "the database still cannot be used");
                } else {
                    warn!(event = event::DATABASE_UNAVAILABLE, %error, "the database cannot be used; trying again until it can");
                }
                Ok(())
            }
            Remedy::Sweep if self.outage.may_sweep() => Ok(()),
            Remedy::Reconnect(_) | Remedy::Sweep | Remedy::Lost | Remedy::End => Err(error),
        }
    }

    /// After a doubt, goes on with a fresh connection: the same work is done again on that.
    ///
    /// # Errors
    /// If there is none to be had.
    pub(super) async fn reconnect(&mut self) -> Result<(), Q::Error> {
        if self.outage.in_doubt {
            self.queue.reconnect().await?;
            self.outage.in_doubt = false;
            // What others wrote meanwhile, the fresh connection takes for old.
            self.others_have_written();
        }
        Ok(())
    }

    /// After a turn that went well, which need not have written anything: whether the database can be used again.
    pub(super) async fn confirm_recovery(&mut self) -> Result<(), Q::Error> {
        if self.outage.is_down {
            if let Err(error) = self.queue.can_write().await {
                self.queue.undo().await;
                return self.endure(error);
            }
            self.outage.is_down = false;
            self.supervisor.database(true);
            info!(event = event::DATABASE_AVAILABLE, "the database can be used again");
        }
        Ok(())
    }

    /// One step of a sweep.
    pub(super) async fn sweep(&mut self) -> Result<(), Q::Error> {
        let Sweep::Going(before) = self.outage.sweep else { return Ok(()) };
        let Swept { dead, more } = self.queue.sweep(self.clock.now()).await?;
        let total = before + dead;
        self.outage.sweep = match (more, total) {
            (true, _) => Sweep::Going(total),
            (false, 0) => Sweep::InVain,
            (false, _) => Sweep::None,
        };
        if dead > 0 {
            self.ledger.totals.dead += dead;
            self.ledger.metrics.settled(&Counts { dead, ..Counts::default() });
            self.view.lanes_stale = true;
            tell_of_invalid_rows(dead);
        }
        Ok(())
    }
}

/// Logs that rows were made dead which no request can carry.
pub(super) fn tell_of_invalid_rows(rows: u64) {
    error!(
        event = event::INVALID_ROWS,
        rows,
        "rows with values that the schema does not allow are dead now; whoever wrote them has switched its CHECKs off"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_third_doubt_soon_after_the_others_is_believed_and_one_long_after_is_the_first() {
        let mut doubts = Doubts::default();
        let looks = |doubts: &mut Doubts, seconds| doubts.may_look_again(Duration::from_secs(seconds));
        assert_eq!([0, 1, 2].map(|second| looks(&mut doubts, second)), [true, true, false]);
        assert_eq!([602, 603, 1203].map(|second| looks(&mut doubts, second)), [false, false, false]);
        assert_eq!([1804, 2404, 3004].map(|second| looks(&mut doubts, second)), [true, true, false]);
    }

    #[test]
    fn after_a_sweep_in_vain_there_is_no_other_one_until_a_turn_went_well() {
        let mut outage = Outage::default();
        assert!(outage.may_sweep() && outage.is_sweeping());
        outage.sweep = Sweep::InVain;
        assert!(!outage.may_sweep() && !outage.is_sweeping());
        outage.passed();
        assert!(outage.may_sweep());
    }
}
