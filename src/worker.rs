//! The loop: settle what has come back, claim what may go out, send it.
//!
//! One task owns the connection that writes, the lanes, the pace and the calls, so nothing here is locked or shared.
//! Calls run on while the database works: what came back during one commit is settled by the next.

mod chores;
mod clocks;
mod doubts;
mod in_flight;
mod lanes;
mod ledger;
mod log;
mod plan;
mod recovery;
mod report;
mod schedule;

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::{Id as TaskId, JoinError, JoinSet},
    time::{sleep, timeout},
};
use tracing::{error, info};

use crate::{
    api::{Api, Reply, Transport},
    model::{
        clock::{Clock, Timestamp},
        deletion::{AgentId, DeletionId, Kind, RequestId},
        echo::Echoes,
        evidence::Evidence,
        hold::HoldChange,
        judge::Policy,
        outcome::Scope,
    },
    pace::Pace,
    queue::{
        Claim, Counts,
        sqlite::{Doubtful as _, Store, StoreError},
    },
    watch::{metrics::Metrics, supervisor::Supervisor, telemetry::event},
};
use chores::Chores;
pub use chores::{PRUNE_ROWS, VACUUM_PAGES};
use clocks::Clocks;
pub use doubts::{Doubts, tell_of_a_doubt};
use in_flight::InFlight;
use lanes::Lanes;
use ledger::{Ledger, Over};
use recovery::recover;
pub use report::{Ended, Totals, Turn, Until};
use schedule::{Calls, Known, MOST_LIFTED, Plan, Schedule};

/// Task polls between two checks for I/O and for SQLite's reply. tokio's own 61 would send every call of a turn before its
/// next statement and leave SQLite idle: a drain then takes a sixth longer.
pub const EVENT_INTERVAL: u32 = 8;

/// How long after another process's last write we leave gaps between our own.
const POLITE_FOR: Duration = Duration::from_secs(2);
/// The longest such gap.
const MAX_GAP: Duration = Duration::from_millis(50);
/// Reading the holds and listing the lanes may take one part in this many of the time.
const LISTING_SHARE: u32 = 10;
/// The lanes are listed this often whatever happens: a net under every missed wake-up.
const MAX_LISTING_AGE: Duration = Duration::from_secs(60);
/// How long the loop waits before it tries a database again that could not be used.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// What the worker goes by.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Most IDs per request, 1 to 20.
    pub batch_size: u8,
    /// Most requests at a time.
    pub concurrency: usize,
    /// How long a request that is not full waits for more rows.
    pub linger: Duration,
    /// How verdicts are reached.
    pub policy: Policy,
    /// How many faults in a row hold an agent, or everything.
    pub after_faults: u32,
    /// How long the word of the API about one row stands for others of its agent that are answered likewise; and the longest
    /// hold.
    pub longest_hold: Duration,
    /// How often the database is asked whether anybody wrote.
    pub poll_interval: Duration,
    /// How long settled rows are kept.
    pub retention: Duration,
    /// How long calls in flight may take to finish at a shutdown.
    pub grace: Duration,
}

/// A finished call with its duration, measured in its own task because judging may come later.
type Returned = Result<(TaskId, (Reply, Duration)), JoinError>;

/// The daemon.
#[derive(Debug)]
pub struct Worker<T = Api> {
    store: Store,
    api: Arc<T>,
    clock: Clock,
    settings: Settings,
    schedule: Schedule,
    ledger: Ledger,
    clocks: Clocks,
    calls: JoinSet<(Reply, Duration)>,
    in_flight: Calls,
    /// Came back while the loop was waiting; the next turn judges it.
    returned: Vec<Returned>,
    /// First rows of lanes that no request can be made of; the next transaction makes those rows dead.
    unusable: Vec<DeletionId>,
    /// Changes of holds that wait for a transaction.
    holds_to_write: Vec<HoldChange>,
    /// The lanes must be read again.
    stale: bool,
    /// The holds must be, too, and before anything more is claimed.
    holds_stale: bool,
    /// Elapsed time before which neither is read, so that reading cannot become the main work; and at which the lanes are
    /// listed in any case.
    next_reading: Duration,
    next_listing: Duration,
    list_by: Duration,
    /// How long the last transaction took.
    wrote_for: Duration,
    chores: Chores,
    supervisor: Supervisor,
    /// Told to end: nothing more is claimed, not even by a turn that has begun.
    told: Arc<AtomicBool>,
}

impl<T: Transport> Worker<T> {
    /// A worker on this queue. What a daemon before it left unanswered is settled as lost first.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn new(
        mut store: Store,
        api: T,
        mut pace: Pace,
        settings: Settings,
        clock: Clock,
        mut rng: fastrand::Rng,
    ) -> Result<Self, StoreError> {
        store.news_of_the_tables().into_iter().for_each(log::foreign);
        let begun = begin(&mut store, &mut pace, &settings, &clock, &mut rng).await;
        let (clocks, totals) = match begun {
            Ok(begun) => begun,
            Err(error) => return Err(blamed(&mut store, error).await),
        };
        let (now, metrics, told) = (clock.elapsed(), Metrics::new(clock.now()), Arc::new(AtomicBool::default()));
        let chores = Chores::new(now, pace.permits.rate());
        let mut worker = Self {
            store,
            api: Arc::new(api),
            clock: clock.clone(),
            settings,
            ledger: Ledger {
                unsettled: Vec::new(),
                evidence: Evidence::new(settings.after_faults, settings.longest_hold),
                totals,
                metrics,
                rng: rng.fork(),
                newest: RequestId(0),
                last_settled: now,
                told_refused: false,
                echoes: Echoes::default(),
            },
            schedule: Schedule {
                lanes: Lanes::default(),
                pace,
                settings,
                clock,
                rng,
                others_wrote: None,
                told: Arc::clone(&told),
            },
            clocks,
            calls: JoinSet::new(),
            in_flight: HashMap::new(),
            returned: Vec::new(),
            unusable: Vec::new(),
            holds_to_write: Vec::new(),
            stale: true,
            holds_stale: false,
            next_reading: Duration::ZERO,
            next_listing: Duration::ZERO,
            list_by: Duration::ZERO,
            wrote_for: Duration::ZERO,
            chores,
            supervisor: Supervisor::default(),
            told,
        };
        if let Err(error) = worker.remember().await {
            return Err(blamed(&mut worker.store, error).await);
        }
        clocks::tell(worker.clocks.put_right, worker.holds_to_write.len());
        let soon = worker.schedule.pace.holds.probe_soon(worker.clock.now());
        worker.holds_to_write.extend(soon);
        Ok(worker)
    }

    /// Takes over from the database what the daemon before knew.
    async fn remember(&mut self) -> Result<(), StoreError> {
        for (agent, row) in self.store.last_rejected(self.settings.after_faults).await? {
            self.ledger.evidence.remember_rejected(agent, row);
        }
        self.read_holds().await
    }

    /// Names who is to be told how the loop is.
    #[must_use]
    pub fn supervised_by(self, supervisor: Supervisor) -> Self {
        Self { supervisor, ..self }
    }

    /// Names where it is counted what is done; what was done so far comes along.
    #[must_use]
    pub fn measured_by(mut self, metrics: Metrics) -> Self {
        metrics.settled(&self.ledger.totals.counts());
        self.ledger.metrics = metrics;
        self
    }

    /// What was done so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.ledger.totals
    }

    /// Closes the database in good order: it is one file again, if nobody else has it open.
    ///
    /// # Errors
    /// If the database fails; nothing is lost by that.
    pub async fn close(self) -> Result<(), StoreError> {
        self.store.close().await
    }

    /// Works until `shutdown` completes, or until there is nothing more to do.
    ///
    /// At the end no new claim is made, and calls in flight may finish within the grace period; what is left then is
    /// settled as lost.
    ///
    /// # Errors
    /// If the database fails in a way that waiting does not mend. Requests in flight are then left unanswered in it,
    /// and the next daemon settles them as lost.
    pub async fn run(&mut self, shutdown: impl Future<Output = ()>, until: Until) -> Result<Ended, StoreError> {
        match self.work(shutdown, until).await {
            Ok(ended) => Ok(ended),
            Err(error) => Err(blamed(&mut self.store, error).await),
        }
    }

    async fn work(&mut self, shutdown: impl Future<Output = ()>, until: Until) -> Result<Ended, StoreError> {
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
                    self.look_after_the_store().await?;
                    match self.ended(until).await {
                        Ok(Some(ended)) => break ended,
                        Ok(None) => {}
                        Err(error) => self.store_is_down(error)?,
                    }
                    turn.wait
                }
                Err(error) => {
                    self.store_is_down(error)?;
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
        self.ledger.metrics.turned(self.schedule.pace.permits.rate(), self.in_flight.len());
    }

    /// Waits until a turn may have something to do.
    async fn wait_for_news(&mut self, wait: Option<Duration>) {
        // SQLite's busy handler retries only every 100 ms or less: without a gap after our commit, a waiting producer starves.
        let now = self.clock.elapsed();
        if self.schedule.others_wrote.is_some_and(|at| now.saturating_sub(at) < POLITE_FOR) {
            sleep(self.wrote_for.min(MAX_GAP)).await;
        }
        if self.chores.store_down {
            return sleep(self.supervisor.at_most(STORE_RETRY)).await;
        }
        let upkeep = self.chores.prune_at.saturating_sub(now);
        let poll = self.supervisor.at_most(self.settings.poll_interval).min(upkeep);
        tokio::select! {
            Some(returned) = self.calls.join_next_with_id() => self.returned.push(returned),
            () = sleep(wait.map_or(poll, |wait| wait.min(poll))) => {}
        }
    }

    async fn ended(&mut self, until: Until) -> Result<Option<Ended>, StoreError> {
        let Until::Empty { give_up_after } = until else { return Ok(None) };
        let idle = self.in_flight.is_empty() && self.ledger.unsettled.is_empty();
        if idle && self.schedule.lanes.next_look().is_none() && self.store.is_empty().await? {
            return Ok(Some(Ended::Empty));
        }
        Ok(self.is_time_to_give_up(give_up_after).then_some(Ended::GaveUp))
    }

    fn is_time_to_give_up(&self, after: Option<Duration>) -> bool {
        let waited = self.clock.elapsed().saturating_sub(self.ledger.last_settled);
        after.is_some_and(|most| waited >= most)
    }

    /// Ends: no new claims, and what is in flight gets its time.
    async fn finish(&mut self, why: Ended) -> Result<(), StoreError> {
        info!(event = event::STOPPING, why = why.as_str(), in_flight = self.in_flight.len(), "stopping");
        self.supervisor.stopping();
        let deadline = self.clock.elapsed() + self.settings.grace;
        while !self.in_flight.is_empty() {
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
                self.store_is_down(error)?;
            }
        }
        self.calls.abort_all();
        while !self.in_flight.is_empty() && !self.calls.is_empty() {
            self.wait_for_a_call().await;
        }
        self.judge_returned();
        self.chores.counting.abort_all();
        while let Err(error) = self.settle_and_claim(false).await {
            // A doubt is no reason to wait for long, and there are few of them in a row.
            if self.clock.elapsed() >= deadline && error.doubt().is_none() {
                return Err(error);
            }
            self.store_is_down(error)?;
            self.come_round();
            sleep(self.supervisor.at_most(self.settings.poll_interval.min(STORE_RETRY))).await;
        }
        self.look_after_the_store().await?;
        // There may have been nothing to write that would have shown it.
        self.store.check_in_place()
    }

    /// One pass: settle what has come back, claim what may go out, send it.
    ///
    /// # Errors
    /// If the database fails. Then nothing is forgotten: what has come back is settled by a later turn.
    pub async fn turn(&mut self) -> Result<Turn, StoreError> {
        self.go_on_afresh().await?;
        self.mind_the_clock().await?;
        self.notice().await?;
        self.judge_returned();
        let settled = self.ledger.unsettled.len();
        let sent = self.settle_and_claim(true).await?;
        self.store.news_of_the_tables().into_iter().for_each(log::foreign);
        Ok(Turn { settled, sent, in_flight: self.in_flight.len(), wait: self.wait() })
    }

    /// Waits until a call has come back; the next turn settles it. Returns at once if none is in flight.
    pub async fn wait_for_a_call(&mut self) {
        if let Some(returned) = self.calls.join_next_with_id().await {
            self.returned.push(returned);
        }
    }

    /// Reads the holds and the lanes again if somebody else has written.
    async fn notice(&mut self) -> Result<(), StoreError> {
        // With answers to settle, `Write::is_overtaken` makes this check; skipping it here saves a round trip.
        if self.returned.is_empty() || self.stale || self.holds_stale {
            if self.store.changed().await? {
                self.others_have_written(self.clock.elapsed());
            }
        } else {
            self.store.check_in_place()?;
        }
        // What is judged and not yet written would be missing in what is read.
        if !self.ledger.unsettled.is_empty() || !self.holds_to_write.is_empty() {
            return Ok(());
        }
        if self.holds_stale && self.clock.elapsed() >= self.next_reading {
            self.read_holds().await?;
        }
        let begun = self.clock.elapsed();
        if (self.stale && begun >= self.next_listing) || begun >= self.list_by {
            self.list_lanes(begun).await?;
        }
        Ok(())
    }

    fn others_have_written(&mut self, elapsed: Duration) {
        self.stale = true;
        self.holds_stale = true;
        self.schedule.others_wrote = Some(elapsed);
    }

    async fn read_holds(&mut self) -> Result<(), StoreError> {
        let begun = self.clock.elapsed();
        let rows = self.store.holds().await?;
        let holds = &mut self.schedule.pace.holds;
        let changes = holds.load(rows);
        changes.iter().for_each(log::hold);
        // A lane under a hold without an end is dropped, and only a listing brings it back. If the lanes were listed before the
        // holds were read, under the old ones, they are listed again: else a lifted hold would last for MAX_LISTING_AGE.
        self.stale |= !changes.is_empty();
        self.holds_to_write.extend(holds.put_clock_right(self.clock.now()));
        self.holds_stale = false;
        let ended = self.clock.elapsed();
        self.next_reading = ended + ended.saturating_sub(begun) * LISTING_SHARE;
        Ok(())
    }

    async fn list_lanes(&mut self, begun: Duration) -> Result<(), StoreError> {
        let (lanes, unusable) = self.store.lanes().await?;
        self.unusable = unusable;
        let now = self.clock.now();
        let lanes = lanes.into_iter().map(|(lane, due_at)| (lane, self.schedule.at(due_at, now))).collect();
        self.schedule.lanes.list(lanes);
        self.stale = false;
        let ended = self.clock.elapsed();
        self.next_listing = ended + ended.saturating_sub(begun) * LISTING_SHARE;
        self.list_by = ended + MAX_LISTING_AGE;
        self.forget_idle_agents();
        Ok(())
    }

    /// Of an agent without open rows, neither its holds nor what its answers have shown is needed any more.
    fn forget_idle_agents(&mut self) {
        let flying: HashSet<AgentId> = self.in_flight.values().map(|call| call.batch.lane().agent.clone()).collect();
        let Schedule { lanes, pace, .. } = &mut self.schedule;
        let is_open = |agent: &AgentId| lanes.knows(agent) || flying.contains(agent);
        self.ledger.evidence.retain(is_open);
        let lifted = pace.holds.lift_idle(is_open, MOST_LIFTED);
        lifted.iter().for_each(log::hold);
        self.holds_to_write.extend(lifted);
    }

    fn judge_returned(&mut self) {
        let mut returned = std::mem::take(&mut self.returned);
        returned.extend(std::iter::from_fn(|| self.calls.try_join_next_with_id()));
        let (together, now) = (self.in_flight.len(), self.clock.now());
        for returned in returned {
            let (task, reply) = match returned {
                Ok((task, reply)) => (task, Some(reply)),
                // Cut short by us at a shutdown, or by a panic, which must not take its rows with it.
                Err(error) => (error.id(), None),
            };
            if let Some(call) = self.in_flight.remove(&task) {
                let agent = &call.batch.lane().agent;
                let has_company = self.in_flight.values().any(|other| other.batch.lane().agent == *agent);
                let over = Over { call, reply, together, has_company };
                if self.ledger.judge(over, &mut self.schedule, now) {
                    self.api.reconnect();
                }
            }
        }
    }

    /// Everything that a turn writes, in one transaction; then what it claimed is sent.
    async fn settle_and_claim(&mut self, may_claim: bool) -> Result<usize, StoreError> {
        self.go_on_afresh().await?;
        let now = self.clock.now();
        let mut plan = if may_claim {
            self.schedule.plan(self.in_flight.len(), &self.ledger.evidence, now)
        } else {
            Plan::default()
        };
        let over = if self.holds_stale { Vec::new() } else { self.schedule.pace.holds.over(now, MOST_LIFTED) };
        let nothing = self.ledger.unsettled.is_empty() && self.unusable.is_empty() && self.holds_to_write.is_empty();
        if nothing && plan.is_idle() && over.is_empty() {
            return Ok(0);
        }
        if let Err(error) = self.write(&mut plan, &over, now).await {
            self.store.abandon().await;
            self.schedule.pace.permits.give_back();
            self.schedule.lanes.restore(plan.taken);
            return Err(error);
        }
        if !over.is_empty() {
            self.schedule.pace.holds.forget_over(now, MOST_LIFTED).iter().for_each(log::hold);
        }
        self.unusable.clear();
        if plan.buried > 0 {
            self.ledger.totals.dead += plan.buried;
            self.ledger.metrics.settled(&Counts { dead: plan.buried, ..Counts::default() });
            // There may be more behind them.
            self.stale = true;
            error!(event = event::INVALID_ROWS, rows = plan.buried, "rows that no request can carry are dead now");
        }
        self.stale |= self.ledger.forget_settled(&mut self.schedule);
        let sent = plan.claims.len();
        self.schedule.pace.permits.leave(self.clock.elapsed());
        plan.claims.into_iter().for_each(|claim| self.send(claim));
        Ok(sent)
    }

    /// Writes what is unsettled, removes the holds that are `over`, and fills `plan` with claims.
    async fn write(&mut self, plan: &mut Plan, over: &[Scope], now: Timestamp) -> Result<(), StoreError> {
        let mut write = self.store.write().await?;
        let begun = self.clock.elapsed();
        let changes = self.holds_to_write.len().min(MOST_LIFTED);
        write.change_holds(&self.holds_to_write[..changes]).await?;
        write.settle(self.ledger.unsettled.iter().map(|unsettled| &unsettled.settlement)).await?;
        for unsettled in &self.ledger.unsettled {
            write.change_holds(&unsettled.holds).await?;
        }
        if !over.is_empty() {
            write.lift_over(over, now).await?;
        }
        // This transaction may have waited for another one, which paused us, or mended what was to be buried.
        let is_overtaken = write.is_overtaken().await?;
        if is_overtaken {
            self.stale = true;
            self.holds_stale = true;
            self.schedule.others_wrote = Some(begun);
            self.unusable.clear();
        }
        plan.buried += write.bury_lanes(&self.unusable, now).await?;
        let known = Known { calls: &self.in_flight, evidence: &self.ledger.evidence };
        self.schedule.claim(&mut write, plan, known, is_overtaken || self.holds_stale, now).await?;
        let rate = self.schedule.pace.permits.rate();
        if rate != self.chores.rate_told {
            write.change_rate(rate, now).await?;
        }
        let committed = write.claim_and_commit(&plan.claims, now).await;
        self.wrote_for = self.clock.elapsed().saturating_sub(begun);
        self.ledger.totals.longest_write = self.ledger.totals.longest_write.max(self.wrote_for);
        committed?;
        self.holds_to_write.drain(..changes);
        self.chores.rate_told = rate;
        Ok(())
    }

    fn send(&mut self, claim: Claim) {
        let Claim { request, correlation_id, batch } = claim;
        let probed = self.schedule.pace.holds.sent(request, &batch.lane().agent, self.clock.now());
        for (scope, cause) in probed {
            let (scope, cause, request) = (scope.as_str(), cause.as_str(), request.0);
            info!(event = event::HOLD_PROBED, scope, cause, request, "the hold is over; one request probes");
        }
        self.ledger.newest = self.ledger.newest.max(request);
        self.ledger.totals.requests += 1;
        self.ledger.echoes.sent(correlation_id);
        let sent = self.clock.elapsed();
        let (api, clock, sending) = (Arc::clone(&self.api), self.clock.clone(), batch.clone());
        let task = self.calls.spawn(async move {
            let reply = match sending.kind() {
                Kind::Bulk => api.bulk_delete(&sending, correlation_id).await,
                Kind::Single => api.delete_one(&sending, correlation_id).await,
            };
            (reply, clock.elapsed().saturating_sub(sent))
        });
        let together = self.in_flight.len() + 1;
        let call = InFlight { request, correlation_id, batch, sent, together };
        self.in_flight.insert(task.id(), call);
    }

    /// How long until a turn may have something to do, if nothing comes back and nobody writes.
    fn wait(&self) -> Option<Duration> {
        let elapsed = self.clock.elapsed();
        let listing = self.stale.then(|| self.next_listing.saturating_sub(elapsed));
        let reading = self.holds_stale.then(|| self.next_reading.saturating_sub(elapsed));
        let writing = (!self.holds_to_write.is_empty()).then_some(Duration::ZERO);
        let claim = self.schedule.wait(self.in_flight.len());
        [listing, reading, writing, claim].into_iter().flatten().min()
    }
}

/// What a start does before its first turn: looks at the clock, at what was sent before, and at what a crash left.
async fn begin(
    store: &mut Store,
    pace: &mut Pace,
    settings: &Settings,
    clock: &Clock,
    rng: &mut fastrand::Rng,
) -> Result<(Clocks, Totals), StoreError> {
    let clocks = clocks::start(store, settings, clock).await?;
    recovery::remember_what_was_sent(store, pace, clock).await?;
    let totals = recover(store, &settings.policy, pace.permits.rate(), clock.now(), rng).await?;
    Ok((clocks, totals))
}

/// An error that ends the work; said, with names, if something of somebody else's is its cause.
async fn blamed(store: &mut Store, error: StoreError) -> StoreError {
    let error = store.blame(error).await;
    log::interfered(&error);
    error
}
