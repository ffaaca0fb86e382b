//! The loop: settle what has come back, claim what may go out, send it.
//!
//! One task owns the queue, the lanes, the pace and the calls, so nothing here is locked or shared. Calls run on while the
//! database works: what came back during one commit is settled by the next.

mod calls;
mod chores;
mod clocks;
mod lanes;
mod ledger;
mod log;
mod outage;
mod plan;
mod recovery;
mod refresh;
mod reload;
mod run;
mod schedule;
mod totals;

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use tokio::sync::mpsc::UnboundedReceiver;

use crate::{
    api::{Api, Transport},
    model::{
        clock::{Clock, Timestamp},
        judge::Policy,
        outcome::Scope,
    },
    pace::{Departure, Pace},
    queue::{Committed, Queue, QueueError as _, Remedy, Tx as _, lease::Lease},
    watch::{metrics::Metrics, supervisor::Supervisor},
};
use calls::Calls;
use chores::Chores;
use clocks::Clocks;
use ledger::Ledger;
pub use log::LoggedRequests;
use outage::Outage;
pub use outage::{Doubts, Reasons, tell_of_a_doubt};
use refresh::View;
pub use reload::{Reload, Tunables};
use schedule::{Known, MOST_LIFTED, Plan, Schedule, in_effect};
pub use totals::{Ended, Totals, Turn, Until};

/// Task polls between two checks for I/O and for the database's reply. tokio's own 61 would send every call of a turn before its
/// next statement and leave the database idle: a drain then takes a sixth longer.
pub const EVENT_INTERVAL: u32 = 8;

/// The part of the configuration that the worker obeys.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Most IDs per request, 1 to 20.
    pub batch_size: u8,
    /// Most requests in flight.
    pub concurrency: usize,
    /// How long a request that is not full waits for more rows.
    pub linger: Duration,
    /// The limits and delays that the judge applies.
    pub policy: Policy,
    /// How many faults in a row hold an agent, or everything.
    pub after_faults: u32,
    /// The longest hold. As long, the API's reply to a single-entry DELETE counts as evidence for other rows of the same agent that
    /// get the same bulk answer.
    pub longest_hold: Duration,
    /// The interval at which the worker asks the database whether anybody else wrote.
    pub poll_interval: Duration,
    /// Settled rows are pruned after this time.
    pub retention: Duration,
    /// Rows with a label, and what belongs to them, are pruned after this time, or after `retention` if that is longer.
    pub evidence_retention: Duration,
    /// At a shutdown, calls in flight may take this long to finish.
    pub grace: Duration,
    /// The longest time that a call takes: `api.request_timeout`.
    pub request_timeout: Duration,
    /// Which requests are logged at info or warn.
    pub logged_requests: LoggedRequests,
}

/// The daemon: one queue, one API, one loop.
#[derive(Debug)]
pub struct Worker<Q, T = Api> {
    queue: Q,
    clock: Clock,
    settings: Settings,
    schedule: Schedule,
    calls: Calls<T>,
    ledger: Ledger,
    view: View,
    clocks: Clocks,
    chores: Chores,
    outage: Outage,
    supervisor: Supervisor,
    /// Duration of the last transaction.
    wrote_for: Duration,
    /// The shutdown has begun: nothing more is claimed, not even by a turn that is running.
    told: Arc<AtomicBool>,
    /// New settings for [`Worker::run`].
    reloads: Option<UnboundedReceiver<Reload>>,
}

impl<Q: Queue, T: Transport> Worker<Q, T> {
    /// Creates a worker on this queue. Requests that an earlier daemon left unanswered are settled as lost first.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn new(
        mut queue: Q,
        api: T,
        mut pace: Pace,
        settings: Settings,
        clock: Clock,
        mut rng: fastrand::Rng,
    ) -> Result<Self, Q::Error> {
        let begun = recovery::begin(&mut queue, &mut pace, &settings, &clock, &mut rng).await;
        let (clocks, totals, invalid_rows) = match begun {
            Ok(begun) => begun,
            Err(error) => return Err(queue.explain(error).await),
        };
        let (now, metrics, told) = (clock.elapsed(), Metrics::new(clock.now()), Arc::new(AtomicBool::default()));
        let hold_log = log::HoldLog::new(api.names());
        let calls = Calls::new(api, clock.clone(), queue.lease());
        let mut worker = Self {
            queue,
            clock: clock.clone(),
            settings,
            calls,
            ledger: Ledger::new(&settings, totals, metrics, rng.fork(), now),
            view: View::default(),
            clocks,
            chores: Chores::new(now, in_effect(&pace, &settings)),
            schedule: Schedule::new(pace, settings, hold_log, clock, rng, Arc::clone(&told)),
            outage: Outage::after(invalid_rows),
            supervisor: Supervisor::default(),
            wrote_for: Duration::ZERO,
            told,
            reloads: None,
        };
        if let Err(error) = worker.remember().await {
            return Err(worker.queue.explain(error).await);
        }
        clocks::tell(worker.clocks.put_right, worker.ledger.hold_changes.len());
        let soon = worker.schedule.pace.holds.probe_soon(worker.clock.now());
        worker.ledger.hold_changes.extend(soon);
        Ok(worker)
    }

    /// Restores from the database what the earlier daemon had learnt.
    async fn remember(&mut self) -> Result<(), Q::Error> {
        for (agent, row) in self.queue.last_rejected(self.settings.after_faults).await? {
            self.ledger.evidence.remember_rejected(agent, row);
        }
        self.read_holds().await?;
        self.schedule.hold_log.started();
        Ok(())
    }

    /// Sets the supervisor that the loop reports to.
    #[must_use]
    pub fn supervised_by(self, supervisor: Supervisor) -> Self {
        Self { supervisor, ..self }
    }

    /// Limits the number of requests that this worker ever sends. Probes and single-entry DELETEs count. Once they are settled,
    /// [`Worker::run`] ends. `None`: no limit.
    #[must_use]
    pub fn sending_at_most(mut self, requests: Option<usize>) -> Self {
        self.schedule.allowance = requests;
        self
    }

    /// Sets the metrics that the worker counts in, and adds the totals so far to them.
    #[must_use]
    pub fn measured_by(mut self, metrics: Metrics) -> Self {
        metrics.settled(&self.ledger.totals.counts());
        self.ledger.metrics = metrics;
        self
    }

    /// For how long this worker may send.
    #[must_use]
    pub fn lease(&self) -> Lease {
        self.queue.lease()
    }

    /// The totals since this worker was created.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.ledger.totals
    }

    /// Closes the queue cleanly.
    ///
    /// # Errors
    /// If the database fails; nothing is lost by that.
    pub async fn close(self) -> Result<(), Q::Error> {
        self.queue.close().await
    }

    /// One pass: settle what has come back, claim what may go out, send it.
    ///
    /// # Errors
    /// If the database fails. Nothing is lost then: a later turn settles the calls that have come back.
    pub async fn turn(&mut self) -> Result<Turn, Q::Error> {
        if self.outage.is_sweeping() {
            self.sweep().await?;
            // Settling reads no row.
            self.judge_returned();
            let settled = self.ledger.unsettled.len();
            self.settle_and_claim(false).await?;
            return Ok(self.turned(settled, 0, Some(Duration::ZERO)));
        }
        match self.pass().await {
            Ok((settled, sent)) => {
                self.outage.passed();
                Ok(self.turned(settled, sent, self.wait()))
            }
            // The next turn settles the answers of this one.
            Err(error) if error.remedy() == Remedy::Sweep && self.outage.may_sweep() => {
                Ok(self.turned(0, 0, Some(Duration::ZERO)))
            }
            Err(error) => Err(error),
        }
    }

    fn turned(&self, settled: usize, sent: usize, wait: Option<Duration>) -> Turn {
        Turn { settled, sent, in_flight: self.calls.len(), wait }
    }

    /// Returns how many requests were settled, and how many were sent.
    async fn pass(&mut self) -> Result<(usize, usize), Q::Error> {
        self.reconnect().await?;
        self.mind_the_clock().await?;
        self.refresh().await?;
        self.judge_returned();
        let settled = self.ledger.unsettled.len();
        let sent = self.settle_and_claim(true).await?;
        Ok((settled, sent))
    }

    fn judge_returned(&mut self) {
        let now = self.clock.now();
        for over in self.calls.take_returned() {
            if self.ledger.judge(over, &mut self.schedule, now) {
                self.calls.distrust_connections();
            }
        }
    }

    /// Writes everything of this turn in one transaction, then sends the claimed requests.
    async fn settle_and_claim(&mut self, may_claim: bool) -> Result<usize, Q::Error> {
        self.reconnect().await?;
        let now = self.clock.now();
        self.schedule.waits_for_full = self.queue.is_taking_in();
        let mut plan =
            if may_claim { self.schedule.plan(self.calls.len(), &self.ledger.evidence, now) } else { Plan::default() };
        let over = if self.view.holds_stale { Vec::new() } else { self.schedule.pace.holds.over(now, MOST_LIFTED) };
        if self.ledger.is_written() && plan.is_idle() && over.is_empty() && !self.is_set_anew() {
            return Ok(0);
        }
        let begun = self.clock.elapsed();
        let written = self.write(&mut plan, &over, now).await;
        if !matches!(written, Ok(Committed::Whole)) {
            self.schedule.pace.give_back();
            self.schedule.lanes.restore(std::mem::take(&mut plan.taken));
        }
        match written {
            Ok(Committed::Whole) => {}
            Ok(Committed::WithoutClaims) => {
                plan.claims.clear();
                self.others_have_written();
            }
            Err(error) => {
                self.queue.undo().await;
                return Err(error);
            }
        }
        if !over.is_empty() {
            let Schedule { pace, hold_log, .. } = &mut self.schedule;
            pace.holds.forget_over(now, MOST_LIFTED).iter().for_each(|over| hold_log.changed(over));
        }
        self.view.lanes_stale |= self.ledger.forget_settled(&mut self.schedule);
        let sent = plan.claims.len();
        if sent > 0 && !self.queue.lease().is_valid() {
            // The commit took long. If this fails, no request leaves, and the next turn shows why.
            let _ = self.queue.renew().await;
        }
        self.schedule.spend(sent);
        let elapsed = self.clock.elapsed();
        self.schedule.pace.permits.claimed_in(elapsed.saturating_sub(begun));
        // There is a permit for each claim. If one were missing, its claim would still have to go.
        let departures = self.schedule.pace.leave(elapsed).into_iter();
        let departures = departures.chain(std::iter::repeat(Departure { at: elapsed, gap: Duration::ZERO }));
        for (claim, departure) in plan.claims.into_iter().zip(departures) {
            let probed = self.schedule.pace.holds.sent(claim.request, &claim.batch.lane().agent, now);
            log::probes(claim.request, &probed);
            self.ledger.sent(&claim);
            self.calls.send(claim, departure);
        }
        Ok(sent)
    }

    /// Settles the judged answers, removes the holds that are `over`, and fills `plan` with claims.
    async fn write(&mut self, plan: &mut Plan, over: &[Scope], now: Timestamp) -> Result<Committed, Q::Error> {
        let mut tx = self.queue.begin().await?;
        let begun = self.clock.elapsed();
        let changes = self.ledger.settle(&mut tx, MOST_LIFTED).await?;
        if !over.is_empty() {
            tx.lift_over(over, now).await?;
        }
        // We may have waited for another transaction, and it may have placed a hold.
        let is_overtaken = tx.news().await?;
        if is_overtaken {
            self.view.others_have_written();
            self.schedule.others_wrote = Some(begun);
        }
        let known = Known { calls: self.calls.in_flight(), evidence: &self.ledger.evidence };
        self.schedule.claim(&mut tx, plan, known, is_overtaken || self.view.holds_stale, now).await?;
        let in_effect = in_effect(&self.schedule.pace, &self.schedule.settings);
        let news = Some(&in_effect).filter(|settings| **settings != self.chores.told);
        let committed = tx.commit(&plan.claims, news, now).await;
        self.wrote_for = self.clock.elapsed().saturating_sub(begun);
        self.ledger.totals.longest_write = self.ledger.totals.longest_write.max(self.wrote_for);
        let committed = committed?;
        self.ledger.hold_changes.drain(..changes);
        self.ledger.acts.clear();
        self.chores.told = in_effect;
        Ok(committed)
    }

    /// Whether somebody has changed settings since they were written. The limits change by themselves all the time, and are written with
    /// what is written anyway.
    fn is_set_anew(&self) -> bool {
        !in_effect(&self.schedule.pace, &self.schedule.settings).has_settings_of(&self.chores.told)
    }

    /// Time until a turn may have something to do, if no call comes back and nobody writes.
    fn wait(&self) -> Option<Duration> {
        let is_waiting = !self.ledger.hold_changes.is_empty() || !self.ledger.acts.is_empty();
        let writing = is_waiting.then_some(Duration::ZERO);
        let claim = self.schedule.wait(self.calls.len());
        [self.view.wait(self.clock.elapsed()), writing, claim].into_iter().flatten().min()
    }

    /// Waits until a call has come back. The next turn settles it. Returns at once if no call is in flight.
    pub async fn wait_for_a_call(&mut self) {
        self.calls.wait_for_one().await;
    }
}
