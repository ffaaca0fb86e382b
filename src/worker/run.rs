//! The run: turn after turn until the end, and what the loop waits for between.

use std::{
    future::Future,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::{sleep, timeout};
use tracing::info;

use super::{Ended, Until, Worker};
use crate::{
    api::Transport,
    event,
    queue::{Queue, QueueError as _, Remedy},
};

/// How long the loop waits before it tries a database again that could not be used.
const RETRY: Duration = Duration::from_secs(1);

impl<Q: Queue, T: Transport> Worker<Q, T> {
    /// Works until `shutdown` completes, or until there is nothing more to do.
    ///
    /// At the end no new claim is made, and calls in flight may finish within the grace period; what is left then is
    /// settled as lost.
    ///
    /// # Errors
    /// If the database fails in a way that waiting does not mend. Requests in flight are then left unanswered in it,
    /// and the next daemon settles them as lost.
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
        self.supervisor.ready();
        let ended = loop {
            self.come_round();
            let turned = {
                let mut turn = pin!(self.turn());
                tokio::select! {
                    biased;
                    () = &mut shutdown => {
                        // The turn may be waiting for a locked file, and goes on when that is free.
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
                        Err(error) => self.endure(error)?,
                    }
                    turn.wait
                }
                Err(error) => {
                    self.endure(error)?;
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
            tokio::select! {
                biased;
                () = &mut shutdown => break Ended::Told,
                () = self.wait_for_news(wait) => {}
            }
        };
        self.finish(ended).await?;
        Ok(ended)
    }

    /// Tells whoever watches that the loop comes round, and how it stands.
    fn come_round(&mut self) {
        self.supervisor.feed(self.clock.elapsed());
        self.ledger.metrics.turned(self.schedule.pace.permits.rate(), self.calls.len());
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
        let wait = wait.map_or(poll, |wait| wait.min(poll));
        if !self.calls.is_empty() {
            // Dropped before a call comes back, this forgets none.
            let _ = timeout(wait, self.calls.wait_for_one()).await;
        } else {
            sleep(wait).await;
        }
    }

    async fn ended(&mut self, until: Until) -> Result<Option<Ended>, Q::Error> {
        let Until::Empty { give_up_after } = until else { return Ok(None) };
        let idle = self.calls.is_empty() && self.ledger.unsettled.is_empty() && !self.outage.is_sweeping();
        if idle && self.schedule.lanes.next_look().is_none() && self.queue.is_empty().await? {
            return Ok(Some(Ended::Empty));
        }
        Ok(self.is_time_to_give_up(give_up_after).then_some(Ended::GaveUp))
    }

    fn is_time_to_give_up(&self, after: Option<Duration>) -> bool {
        let waited = self.clock.elapsed().saturating_sub(self.ledger.last_settled);
        after.is_some_and(|most| waited >= most)
    }

    /// Ends: no new claims, and what is in flight gets its time.
    async fn finish(&mut self, why: Ended) -> Result<(), Q::Error> {
        info!(event = event::STOPPING, why = why.as_str(), in_flight = self.calls.len(), "stopping");
        self.supervisor.stopping();
        let deadline = self.clock.elapsed() + self.settings.grace;
        while !self.calls.is_empty() {
            self.come_round();
            let left = deadline.saturating_sub(self.clock.elapsed());
            let pause = self.supervisor.at_most(left);
            if timeout(pause, self.wait_for_a_call()).await.is_err() {
                if pause == left {
                    break;
                }
                continue;
            }
            self.judge_returned();
            // Kept for the last try below if the database cannot take it now.
            if let Err(error) = self.settle_and_claim(false).await {
                self.endure(error)?;
            }
        }
        self.calls.cut_short().await;
        self.judge_returned();
        self.chores.counting.abort_all();
        while let Err(error) = self.settle_and_claim(false).await {
            // A doubt is no reason to wait for long, and there are few of them in a row.
            if self.clock.elapsed() >= deadline && !matches!(error.remedy(), Remedy::Reconnect(_)) {
                return Err(error);
            }
            self.endure(error)?;
            self.come_round();
            sleep(self.supervisor.at_most(self.settings.poll_interval.min(RETRY))).await;
        }
        self.confirm_recovery().await?;
        // There may have been nothing to write that would have shown it.
        self.queue.check_owner()
    }
}
