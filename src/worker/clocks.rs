//! The wall clock may be wrong. Due times that it gave are corrected, and it must not prune the history.
//!
//! Due times, holds and the age of rows are wall-clock times, because they outlive the process. The loop measures its waits in
//! elapsed time. If the two drift apart, somebody has set the wall clock.

use std::time::Duration;

use tracing::{info, warn};

use super::{Settings, Worker};
use crate::{
    api::Transport,
    event,
    model::{
        clock::{Clock, Timestamp},
        deletion::RequestId,
    },
    queue::Queue,
};

/// Drift between wall-clock and elapsed time from one turn to the next that is still slewing, not setting.
const SLEWED: Duration = Duration::from_secs(1);
/// A start with a suspect clock prunes nothing for this long.
const DOUBTFUL_FOR: Duration = Duration::from_secs(3_600);
/// The search for wrong due times may use at most 1/10 of wall time.
const SEARCH_SHARE: u32 = 10;

/// What the worker knows of the wall clock.
#[derive(Debug)]
pub(super) struct Clocks {
    /// The last reading of both clocks.
    read_at: (Timestamp, Duration),
    /// The wall-clock time for pruning, and the elapsed time at which it was valid. It starts with the wall clock and advances with
    /// elapsed time, so that setting the clock ahead prunes nothing.
    prune_from: (Timestamp, Duration),
    /// Elapsed time before which nothing is pruned.
    doubtful_until: Duration,
    /// The search goes on with requests before this one. `None`: no search.
    search: Option<RequestId>,
    /// Elapsed time of the next step of the search.
    search_at: Duration,
    /// Number of due times that the start has corrected.
    pub(super) put_right: u64,
}

/// Checks the clock before anything is written, and corrects the due times that an earlier clock gave.
pub(super) async fn start<Q: Queue>(queue: &mut Q, settings: &Settings, clock: &Clock) -> Result<Clocks, Q::Error> {
    let (now, elapsed) = (clock.now(), clock.elapsed());
    let newest = queue.newest_time().await?;
    let ahead = newest.map_or(Duration::ZERO, |newest| now.since(newest));
    let is_doubtful = ahead > settings.retention / 2;
    if is_doubtful {
        let (ahead_s, hours) = (ahead.as_secs(), DOUBTFUL_FOR.as_secs() / 3_600);
        warn!(
            event = event::CLOCK_SUSPECT,
            ahead_s,
            "the clock is far ahead of the newest time in the database; nothing is pruned for {hours} h: if the clock is \
             wrong, set it right"
        );
    }
    let doubtful_until = if is_doubtful { elapsed + DOUBTFUL_FOR } else { elapsed };
    let search = Some(RequestId(i64::MAX));
    let mut clocks = Clocks {
        read_at: (now, elapsed),
        prune_from: (now, elapsed),
        doubtful_until,
        search,
        search_at: elapsed,
        put_right: 0,
    };
    while clocks.search.is_some() {
        clocks.put_right += clocks.search_on(queue, settings, now).await?;
    }
    Ok(clocks)
}

/// Logs the due times and holds that the start has corrected: an earlier daemon had a clock that was ahead.
pub(super) fn tell(rows: u64, holds: usize) {
    if rows > 0 || holds > 0 {
        warn!(
            event = event::CLOCK_JUMPED,
            rows,
            holds,
            "due times and holds were in the future, because an earlier clock was ahead; they are corrected"
        );
    }
}

impl Clocks {
    /// By how many milliseconds the wall clock was set since the last call; positive: ahead.
    fn jumped(&mut self, now: Timestamp, elapsed: Duration) -> Option<i64> {
        let (wall, then) = std::mem::replace(&mut self.read_at, (now, elapsed));
        let expected = wall.plus(elapsed.saturating_sub(then));
        let by = now.0.saturating_sub(expected.0);
        (u128::from(by.unsigned_abs()) > SLEWED.as_millis()).then_some(by)
    }

    /// Rows settled before this time may be pruned. `None`: nothing may be pruned for now.
    pub(super) fn prune_before(&mut self, retention: Duration, now: Timestamp, elapsed: Duration) -> Option<Timestamp> {
        let (from, then) = self.prune_from;
        // If the clock was ahead at the start and has been set back, the earlier time counts.
        let today = from.plus(elapsed.saturating_sub(then)).min(now);
        self.prune_from = (today, elapsed);
        (elapsed >= self.doubtful_until).then(|| today.minus(retention))
    }

    /// Does one step of the search: corrects due times that a daemon gave while its clock was ahead.
    async fn search_on<Q: Queue>(
        &mut self,
        queue: &mut Q,
        settings: &Settings,
        now: Timestamp,
    ) -> Result<u64, Q::Error> {
        let Some(before) = self.search else { return Ok(0) };
        let (next, rows) = queue.put_clock_right(before, settings.policy.retry.max(), now).await?;
        self.search = next;
        Ok(rows)
    }
}

impl<Q: Queue, T: Transport> Worker<Q, T> {
    /// If the wall clock was set, reads the holds and the lanes again, and corrects due times and holds from a clock that was
    /// ahead, one step per call.
    pub(super) async fn mind_the_clock(&mut self) -> Result<(), Q::Error> {
        let (now, elapsed) = (self.clock.now(), self.clock.elapsed());
        if let Some(by_ms) = self.clocks.jumped(now, elapsed) {
            warn!(event = event::CLOCK_JUMPED, by_ms, "the clock was set; holds and lanes are read again");
            self.view.lanes_stale = true;
            (self.view.next_listing, self.view.next_reading) = (elapsed, elapsed);
            self.clocks.search = Some(RequestId(i64::MAX));
            self.clocks.search_at = elapsed;
            self.ledger.hold_changes.extend(self.schedule.pace.holds.put_clock_right(now));
        }
        if self.clocks.search.is_some() && elapsed >= self.clocks.search_at {
            let rows = self.clocks.search_on(&mut self.queue, &self.settings, now).await?;
            if rows > 0 {
                self.view.lanes_stale = true;
                info!(event = event::CLOCK_JUMPED, rows, "due times from a clock that was ahead are corrected");
            }
            let ended = self.clock.elapsed();
            if self.clocks.search.is_none() && !self.ledger.unsettled.is_empty() {
                // Unsettled verdicts still carry due times of the wrong clock: search again once they are written.
                self.clocks.search = Some(RequestId(i64::MAX));
            }
            self.clocks.search_at = ended + ended.saturating_sub(elapsed) * SEARCH_SHARE;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clocks(now: Timestamp) -> Clocks {
        let zero = Duration::ZERO;
        Clocks {
            read_at: (now, zero),
            prune_from: (now, zero),
            doubtful_until: zero,
            search: None,
            search_at: zero,
            put_right: 0,
        }
    }

    const DAY: Duration = Duration::from_secs(86_400);
    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    #[test]
    fn a_clock_that_is_slewed_is_not_set_and_one_that_is_set_tells_by_how_much() {
        let mut clocks = clocks(NOW);
        let second = Duration::from_secs(1);
        assert_eq!(clocks.jumped(NOW.plus(Duration::from_millis(1_900)), second), None, "0.9 s in a second");
        assert_eq!(clocks.jumped(NOW.plus(Duration::from_millis(2_900)), 2 * second), None, "counted from there");
        assert_eq!(clocks.jumped(NOW.plus(Duration::from_millis(5_000)), 3 * second), Some(1_100));
        assert_eq!(clocks.jumped(NOW.plus(Duration::from_millis(6_000)), 4 * second), None, "once");
        assert_eq!(clocks.jumped(NOW, 5 * second), Some(-7_000));
    }

    #[test]
    fn a_clock_that_is_set_ahead_prunes_nothing_and_one_that_is_put_right_counts_from_there() {
        let mut clocks = clocks(NOW);
        let hour = Duration::from_secs(3_600);
        assert_eq!(clocks.prune_before(30 * DAY, NOW.plus(60 * DAY), hour), Some(NOW.plus(hour).minus(30 * DAY)));
        assert_eq!(
            clocks.prune_before(30 * DAY, NOW.plus(2 * hour), 2 * hour),
            Some(NOW.plus(2 * hour).minus(30 * DAY))
        );
        // The clock was ahead at the start.
        let right = NOW.minus(60 * DAY);
        assert_eq!(clocks.prune_before(30 * DAY, right, 3 * hour), Some(right.minus(30 * DAY)));
        assert_eq!(
            clocks.prune_before(30 * DAY, right.plus(DAY), 3 * hour + DAY),
            Some(right.plus(DAY).minus(30 * DAY))
        );
        clocks.doubtful_until = 5 * DAY;
        assert_eq!(clocks.prune_before(30 * DAY, right.plus(DAY), 4 * DAY), None);
    }
}
