//! The run: turn after turn until the end, the waits between turns, and the shutdown.

use std::{
    future::Future,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::{sleep, timeout};
use tracing::info;

use super::{Ended, Until, Worker, reload, schedule::in_effect};
use crate::{
    api::Transport,
    event,
    queue::{Queue, QueueError as _, Remedy},
};

/// Pause before the next attempt to use a database that is unavailable.
const RETRY: Duration = Duration::from_secs(1);

impl<Q: Queue, T: Transport> Worker<Q, T> {
    /// Works until `shutdown` completes, or until `until` is reached.
    ///
    /// Once the end has begun, nothing more is claimed. Calls in flight may finish within the grace period; after that they are
    /// cut short and settled as lost.
    ///
    /// # Errors
    /// If the database fails in a way that waiting does not mend. Requests in flight then stay unanswered in the database, and
    /// the next daemon settles them as lost.
    pub async fn run(&mut self, shutdown: impl Future<Output = ()>, until: Until) -> Result<Ended, Q::Error> {
        match self.work(shutdown, until).await {
            Ok(ended) => Ok(ended),
            Err(error) => Err(self.queue.explain(error).await),
        }
    }

    async fn work(&mut self, shutdown: impl Future<Output = ()>, until: Until) -> Result<Ended, Q::Error> {
        let mut shutdown = pin!(shutdown);
        let told = Arc::clone(&self.told);
        told.store(false, Ordering::Relaxed);
        let mut reloads = self.reloads.take();
        self.supervisor.ready();
        let ended = loop {
            self.come_round();
            let turned = {
                let mut turn = pin!(self.turn());
                tokio::select! {
                    biased;
                    () = &mut shutdown => {
                        // The turn may be waiting for a write lock. It must end by itself: a commit in doubt would cost attempts.
                        told.store(true, Ordering::Relaxed);
                        turn.await
                    }
                    turned = &mut turn => turned,
                }
            };
            let wait = match turned {
                Ok(_) if told.load(Ordering::Relaxed) => break Ended::Told,
                Ok(turn) => {
                    self.confirm_recovery().await?;
                    match self.ended(until).await {
                        Ok(Some(ended)) => break ended,
                        Ok(None) => {}
                        Err(error) => self.endure(error).await?,
                    }
                    turn.wait
                }
                Err(error) => {
                    self.endure(error).await?;
                    if told.load(Ordering::Relaxed) {
                        break Ended::Told;
                    }
                    if let Until::Empty { give_up_after } = until
                        && self.is_time_to_give_up(give_up_after)
                    {
                        break Ended::GaveUp;
                    }
                    None
                }
            };
            self.come_round();
            self.do_chores().await?;
            let reload = tokio::select! {
                biased;
                () = &mut shutdown => break Ended::Told,
                reload = reload::next(&mut reloads) => reload,
                () = self.wait_for_news(wait) => continue,
            };
            if let Err(error) = self.take(reload).await {
                self.endure(error).await?;
            }
        };
        self.finish(ended).await?;
        Ok(ended)
    }

    /// Feeds the watchdog and updates the gauges, once per turn of the loop.
    fn come_round(&mut self) {
        self.supervisor.feed(self.clock.elapsed());
        let calls = self.calls.len();
        let limits = in_effect(&self.schedule.pace, &self.schedule.settings);
        self.ledger.metrics.turned(&limits, calls, calls + self.ledger.unsettled.len());
    }

    /// Waits until a turn may have something to do.
    async fn wait_for_news(&mut self, wait: Option<Duration>) {
        let now = self.clock.elapsed();
        let others_wrote = self.schedule.others_wrote.map(|at| now.saturating_sub(at));
        let gap = self.queue.gap(self.wrote_for, others_wrote);
        if !gap.is_zero() {
            sleep(gap).await;
        }
        if self.outage.is_down() {
            return sleep(self.supervisor.at_most(RETRY)).await;
        }
        let upkeep = self.chores.upkeep_at.saturating_sub(now);
        let poll = self.supervisor.at_most(self.settings.poll_interval).min(upkeep);
        let poll = self.queue.lease().use_every().map_or(poll, |every| poll.min(every));
        let wait = wait.map_or(poll, |wait| wait.min(poll));
        if !self.calls.is_empty() {
            // Cancel-safe: a call that comes back later is still in the set.
            let _ = timeout(wait, self.calls.wait_for_one()).await;
        } else {
            sleep(wait).await;
        }
    }

    async fn ended(&mut self, until: Until) -> Result<Option<Ended>, Q::Error> {
        let idle = self.calls.is_empty() && self.ledger.unsettled.is_empty() && !self.outage.is_sweeping();
        let may_be_empty = idle && until != Until::Told && self.schedule.lanes.next_look().is_none();
        if may_be_empty && self.queue.is_empty().await? {
            return Ok(Some(Ended::Empty));
        }
        if idle && self.schedule.is_spent() {
            return Ok(Some(Ended::MaxRequests));
        }
        let Until::Empty { give_up_after } = until else { return Ok(None) };
        Ok(self.is_time_to_give_up(give_up_after).then_some(Ended::GaveUp))
    }

    fn is_time_to_give_up(&self, after: Option<Duration>) -> bool {
        let waited = self.clock.elapsed().saturating_sub(self.ledger.last_settled);
        after.is_some_and(|most| waited >= most)
    }

    /// Ends the run: claims nothing, and gives calls in flight their grace period.
    async fn finish(&mut self, why: Ended) -> Result<(), Q::Error> {
        info!(event = event::STOPPING, why = why.as_str(), in_flight = self.calls.len(), "stopping");
        self.supervisor.stopping();
        self.told.store(true, Ordering::Relaxed);
        let deadline = self.clock.elapsed() + self.settings.grace;
        while !self.calls.is_empty() {
            self.come_round();
            let left = deadline.saturating_sub(self.clock.elapsed());
            let pause = self.supervisor.at_most(left);
            let pause = self.queue.lease().use_every().map_or(pause, |every| pause.min(every));
            if timeout(pause, self.wait_for_a_call()).await.is_err() {
                if pause == left {
                    break;
                }
                // Until the answers are written, the queue must stay our own.
                if let Err(error) = self.queue.renew().await {
                    self.endure(error).await?;
                }
                continue;
            }
            self.judge_returned();
            // If this fails, the answers stay in the ledger for the last attempt below.
            if let Err(error) = self.settle_and_claim(false).await {
                self.endure(error).await?;
            }
        }
        self.calls.cut_short().await;
        self.judge_returned();
        self.chores.counting.abort_all();
        while let Err(error) = self.settle_and_claim(false).await {
            // A second look takes no long wait, and there are at most a few in a row: the deadline does not count for it.
            if self.clock.elapsed() >= deadline && !matches!(error.remedy(), Remedy::Reconnect(_)) {
                return Err(error);
            }
            self.endure(error).await?;
            self.come_round();
            sleep(self.supervisor.at_most(self.settings.poll_interval.min(RETRY))).await;
        }
        self.confirm_recovery().await?;
        // With nothing to write, nothing else would have shown that the queue is not ours any more.
        self.queue.check_owner()
    }
}
