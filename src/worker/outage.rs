//! Errors of the queue: wait, reconnect, sweep, or end.

use std::{sync::atomic::Ordering, time::Duration};

use tracing::{debug, info, warn};

use super::{Worker, log::InvalidRows};
use crate::{
    api::Transport,
    event,
    queue::{Counts, Queue, QueueError as _, Remedy, Swept},
};

/// How many times in a row apparent damage is checked on a fresh connection before it is believed.
const MOST_LOOKS: u32 = 2;
/// The most reasons of an outage that are logged as warnings: some may have a time or a number in them, and differ each time.
const MOST_REASONS: usize = 10;
/// Doubts further apart than this are unrelated.
const WINDOW: Duration = Duration::from_secs(600);

/// Counts how many times in a row the database has seemed to be damaged.
#[derive(Debug, Default)]
pub struct Doubts {
    times: u32,
    /// Elapsed time of the last doubt.
    last: Duration,
}

impl Doubts {
    /// Counts one more doubt. True if the database is to be looked at again, false if the damage is to be believed.
    pub fn may_look_again(&mut self, now: Duration) -> bool {
        if now.saturating_sub(self.last) > WINDOW {
            self.times = 0;
        }
        self.last = now;
        self.times += 1;
        self.times <= MOST_LOOKS
    }
}

/// Logs a doubt, without the remedy: the damage may turn out to be a single failed read.
pub fn tell_of_a_doubt(doubt: &str) {
    let error = doubt;
    warn!(
        event = event::DATABASE_UNAVAILABLE,
        error, "the database seems to be damaged, or one read failed; looking again on a fresh connection"
    );
}

/// The reasons of an outage that were logged as warnings. Others are logged for whoever wants to know each try.
#[derive(Debug, Default)]
pub struct Reasons(Vec<String>);

impl Reasons {
    /// Takes in why the database cannot be used. True if that is to be logged as a warning, because this outage has not had it before.
    pub fn is_news(&mut self, reason: &str) -> bool {
        let is_news = self.0.len() < MOST_REASONS && self.0.iter().all(|known| known != reason);
        if is_news {
            self.0.push(reason.to_owned());
        }
        is_news
    }

    /// Ends the outage. False if there was none.
    pub fn clear(&mut self) -> bool {
        !std::mem::take(&mut self.0).is_empty()
    }
}

/// What is wrong with the database at the moment.
#[derive(Debug, Default)]
pub(super) struct Outage {
    /// The database is unavailable, and that was logged.
    is_down: bool,
    reasons: Reasons,
    /// The database seems to be damaged: the next turn reconnects first.
    in_doubt: bool,
    doubts: Doubts,
    sweep: Sweep,
    invalid_rows: InvalidRows,
}

/// The state of the sweep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sweep {
    /// No sweep is running.
    #[default]
    None,
    /// A sweep is running. It has made this many rows dead.
    Going(u64),
    /// The last sweep found nothing. The unreadable value is not in a pending row, and another sweep would not help.
    InVain,
}

impl Outage {
    /// After a start that may have logged invalid rows.
    pub(super) fn after(invalid_rows: InvalidRows) -> Self {
        Self { invalid_rows, ..Self::default() }
    }

    pub(super) fn is_down(&self) -> bool {
        self.is_down
    }

    pub(super) fn is_sweeping(&self) -> bool {
        matches!(self.sweep, Sweep::Going(_))
    }

    /// Starts a sweep, unless one is running. False if the last one was in vain.
    pub(super) fn may_sweep(&mut self) -> bool {
        match self.sweep {
            Sweep::None => self.sweep = Sweep::Going(0),
            Sweep::Going(_) => {}
            Sweep::InVain => return false,
        }
        true
    }

    /// Notes that a turn succeeded.
    pub(super) fn passed(&mut self) {
        self.sweep = Sweep::None;
    }
}

impl<Q: Queue, T: Transport> Worker<Q, T> {
    /// Applies the remedy of an error, and logs an outage once for each of its reasons.
    ///
    /// # Errors
    /// The same error, if the loop must end.
    pub(super) async fn endure(&mut self, error: Q::Error) -> Result<(), Q::Error> {
        // A transaction that the error left open would keep others from writing.
        self.queue.undo().await;
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
                self.outage.is_down = true;
                if !self.outage.reasons.is_news(&error.to_string()) {
                    debug!(event = event::DATABASE_UNAVAILABLE, %error, "the database still cannot be used");
                } else if self.told.load(Ordering::Relaxed) {
                    warn!(event = event::DATABASE_UNAVAILABLE, %error, "the database cannot be used; trying again until shutdown.grace is over");
                } else {
                    warn!(event = event::DATABASE_UNAVAILABLE, %error, "the database cannot be used; trying again every second until it can");
                }
                Ok(())
            }
            Remedy::Sweep if self.outage.may_sweep() => Ok(()),
            Remedy::Reconnect(_) | Remedy::Sweep | Remedy::Lost | Remedy::End => Err(error),
        }
    }

    /// After a doubt, replaces the connection. The turn then does the same work again.
    ///
    /// # Errors
    /// If there is no new connection to be had.
    pub(super) async fn reconnect(&mut self) -> Result<(), Q::Error> {
        if self.outage.in_doubt {
            self.queue.reconnect().await?;
            self.outage.in_doubt = false;
            // A fresh connection does not report what others wrote before it was opened.
            self.others_have_written();
        }
        Ok(())
    }

    /// After a successful turn, ends an outage if the database can be written. The turn itself may have written nothing.
    pub(super) async fn confirm_recovery(&mut self) -> Result<(), Q::Error> {
        if self.outage.is_down {
            if let Err(error) = self.queue.can_write().await {
                return self.endure(error).await;
            }
            self.outage.is_down = false;
            self.outage.reasons.clear();
            self.supervisor.database(true);
            info!(event = event::DATABASE_AVAILABLE, "the database can be used again");
        }
        Ok(())
    }

    /// Does one step of the sweep.
    pub(super) async fn sweep(&mut self) -> Result<(), Q::Error> {
        let Sweep::Going(before) = self.outage.sweep else { return Ok(()) };
        self.reconnect().await?;
        let swept = self.queue.sweep(self.clock.now()).await?;
        let Swept { dead, more, .. } = swept;
        let total = before + dead;
        self.outage.sweep = match (more, total) {
            (true, _) => Sweep::Going(total),
            (false, 0) => Sweep::InVain,
            (false, _) => Sweep::None,
        };
        if dead > 0 {
            self.ledger.totals.dead += dead;
            self.ledger.metrics.settled(&Counts { dead, ..Counts::default() });
            self.ledger.last_settled = self.clock.elapsed();
            self.view.lanes_stale = true;
            self.outage.invalid_rows.tell(&swept);
        }
        Ok(())
    }
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
    fn each_reason_of_an_outage_is_news_once_and_there_is_an_end_to_news() {
        let mut reasons = Reasons::default();
        assert!(!reasons.clear());
        assert_eq!(["a", "a", "b", "a"].map(|reason| reasons.is_news(reason)), [true, false, true, false]);
        assert_eq!((0..100).filter(|n| reasons.is_news(&n.to_string())).count(), MOST_REASONS - 2);
        assert!(reasons.clear() && reasons.is_news("a"));
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
