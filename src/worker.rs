//! The loop: settle what has come back, claim what may go out, send it.
//!
//! One task owns the connection that writes, the lanes, the pace and the calls, so nothing here is locked or shared.
//! Calls run on while the database works: what came back during one commit is settled by the next.

mod chores;
mod in_flight;
mod log;
mod plan;
mod recovery;
mod report;

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
use uuid::Uuid;

use crate::{
    api::{Api, Reply, Transport},
    clock::{Clock, Timestamp},
    deletion::{AgentId, DeletionId, Kind, Lane, RequestId},
    lanes::Lanes,
    metrics::Metrics,
    outcome::{Cause, Fault, Judgement, Policy, judge},
    pace::{Admission, HoldChange, Pace},
    store::{Claim, Counts, Settlement, Store, StoreError},
    supervisor::Supervisor,
    telemetry::event,
};
use chores::{Chores, SUMMARY_INTERVAL};
pub use chores::{PRUNE_ROWS, VACUUM_PAGES};
use in_flight::{InFlight, on_their_way};
use plan::{Next, Rules, batches};
use recovery::recover;
pub use report::{Ended, Totals, Turn, Until};

/// For the runtime that this runs on: after so many polls of calls, it looks whether SQLite has answered, and whether there
/// is something to read. With tokio's own 61, all calls of a turn are sent before its next statement is, and SQLite waits
/// for us meanwhile: emptying a queue takes a sixth more time.
pub const EVENT_INTERVAL: u32 = 8;

/// How long after another process's last write we leave gaps between our own.
const POLITE_FOR: Duration = Duration::from_secs(2);
/// The longest such gap.
const MAX_GAP: Duration = Duration::from_millis(50);
/// Listing the lanes may take one part in this many of the time.
const LISTING_SHARE: u32 = 10;
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
    /// How often the database is asked whether anybody wrote.
    pub poll_interval: Duration,
    /// How long settled rows are kept.
    pub retention: Duration,
    /// How long calls in flight may take to finish at a shutdown.
    pub grace: Duration,
}

/// A judged answer that the database does not know of yet.
#[derive(Debug)]
struct Unsettled {
    settlement: Settlement,
    lane: Lane,
    /// Elapsed time at which the request was sent.
    sent: Duration,
    holds: Vec<HoldChange>,
}

/// What a turn is about to send, and which lanes to bring back if it cannot.
#[derive(Debug, Default)]
struct Plan {
    claims: Vec<Claim>,
    taken: Vec<Lane>,
    /// How many rows turned out to be unusable.
    buried: u64,
}

/// With how long the call took: by the time that it is judged, we may have waited for something else.
type Returned = Result<(TaskId, (Reply, Duration)), JoinError>;

/// The daemon.
#[derive(Debug)]
pub struct Worker<T = Api> {
    store: Store,
    api: Arc<T>,
    pace: Pace,
    lanes: Lanes,
    clock: Clock,
    rng: fastrand::Rng,
    settings: Settings,
    calls: JoinSet<(Reply, Duration)>,
    in_flight: HashMap<TaskId, InFlight>,
    /// Came back while the loop was waiting; the next turn judges it.
    returned: Vec<Returned>,
    /// Judged; kept until a transaction with it has been committed.
    unsettled: Vec<Unsettled>,
    /// First rows of lanes that no request can be made of; the next transaction makes those rows dead.
    unusable: Vec<DeletionId>,
    /// Agents of open rows that a bulk delete has been answered for: a 404 about one entry of theirs can be believed.
    known: HashSet<AgentId>,
    /// It was logged that a request about one row was refused.
    told_refused: bool,
    /// The newest request that was sent.
    newest: RequestId,
    /// The lanes must be read again.
    stale: bool,
    /// The holds must be, too, and before anything more is claimed.
    holds_stale: bool,
    /// Elapsed time before which they are not, so that reading them cannot become the main work.
    next_listing: Duration,
    totals: Totals,
    /// Elapsed time at which another process was last seen to have written.
    others_wrote: Option<Duration>,
    /// How long the last transaction took.
    wrote_for: Duration,
    /// Elapsed time at which a row last reached an end.
    last_settled: Duration,
    chores: Chores,
    supervisor: Supervisor,
    metrics: Metrics,
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
        pace: Pace,
        settings: Settings,
        clock: Clock,
        mut rng: fastrand::Rng,
    ) -> Result<Self, StoreError> {
        let totals = recover(&mut store, &settings.policy, pace.rate(), clock.now(), &mut rng).await?;
        let (now, metrics, rate_told) = (clock.elapsed(), Metrics::new(clock.now()), pace.rate());
        Ok(Self {
            store,
            api: Arc::new(api),
            pace,
            lanes: Lanes::default(),
            clock,
            rng,
            settings,
            calls: JoinSet::new(),
            in_flight: HashMap::new(),
            returned: Vec::new(),
            unsettled: Vec::new(),
            unusable: Vec::new(),
            known: HashSet::new(),
            told_refused: false,
            newest: RequestId(0),
            stale: true,
            holds_stale: true,
            next_listing: Duration::ZERO,
            totals,
            others_wrote: None,
            wrote_for: Duration::ZERO,
            last_settled: now,
            chores: Chores {
                summary_at: now + SUMMARY_INTERVAL,
                deleted_before: 0,
                counting: JoinSet::new(),
                prune_at: now,
                giving_back: false,
                rate_told,
                store_down: false,
            },
            supervisor: Supervisor::default(),
            metrics,
            told: Arc::default(),
        })
    }

    /// Names who is to be told how the loop is.
    #[must_use]
    pub fn supervised_by(self, supervisor: Supervisor) -> Self {
        Self { supervisor, ..self }
    }

    /// Names where it is counted what is done; what was done so far comes along.
    #[must_use]
    pub fn measured_by(self, metrics: Metrics) -> Self {
        metrics.settled(&self.totals.counts());
        Self { metrics, ..self }
    }

    /// What was done so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
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
        self.metrics.turned(self.pace.rate(), self.in_flight.len());
    }

    /// Waits until a turn may have something to do.
    async fn wait_for_news(&mut self, wait: Option<Duration>) {
        // A gap between our transactions lets a producer in, whose own waiting is clumsier than ours.
        let now = self.clock.elapsed();
        if self.others_wrote.is_some_and(|at| now.saturating_sub(at) < POLITE_FOR) {
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
        let idle = self.in_flight.is_empty() && self.unsettled.is_empty();
        if idle && self.lanes.next_look().is_none() && self.store.is_empty().await? {
            return Ok(Some(Ended::Empty));
        }
        Ok(self.is_time_to_give_up(give_up_after).then_some(Ended::GaveUp))
    }

    fn is_time_to_give_up(&self, after: Option<Duration>) -> bool {
        let waited = self.clock.elapsed().saturating_sub(self.last_settled);
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
            if self.clock.elapsed() >= deadline {
                return Err(error);
            }
            self.store_is_down(error)?;
            self.come_round();
            sleep(self.supervisor.at_most(self.settings.poll_interval.min(STORE_RETRY))).await;
        }
        self.look_after_the_store().await
    }

    /// One pass: settle what has come back, claim what may go out, send it.
    ///
    /// # Errors
    /// If the database fails. Then nothing is forgotten: what has come back is settled by a later turn.
    pub async fn turn(&mut self) -> Result<Turn, StoreError> {
        self.notice().await?;
        self.judge_returned();
        let settled = self.unsettled.len();
        let sent = self.settle_and_claim(true).await?;
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
        // With answers to write, their transaction tells the same, and an answer less of SQLite's to wait for is time.
        if self.returned.is_empty() || self.stale || self.holds_stale {
            if self.store.changed().await? {
                self.stale = true;
                self.holds_stale = true;
                self.others_wrote = Some(self.clock.elapsed());
            }
        } else {
            self.store.check_in_place()?;
        }
        // What is judged and not yet written would be missing in what is read.
        if !self.unsettled.is_empty() {
            return Ok(());
        }
        if self.holds_stale {
            let holds = self.store.holds().await?;
            self.pace.load(holds).iter().for_each(log::hold);
            self.holds_stale = false;
        }
        let begun = self.clock.elapsed();
        if !self.stale || begun < self.next_listing {
            return Ok(());
        }
        let (lanes, unusable) = self.store.lanes().await?;
        self.unusable = unusable;
        let open: HashSet<&AgentId> = lanes.iter().map(|(lane, _)| &lane.agent).collect();
        self.known.retain(|agent| open.contains(agent));
        self.lanes.list(lanes);
        self.stale = false;
        let ended = self.clock.elapsed();
        self.next_listing = ended + ended.saturating_sub(begun) * LISTING_SHARE;
        Ok(())
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
                self.judge_one(call, reply, together, now);
            }
        }
    }

    /// `reply` is `None` if the call was cut short on our side: that says nothing about the API, so no hold follows.
    /// `together` is how many calls were on their way at its end, itself included.
    fn judge_one(&mut self, call: InFlight, reply: Option<(Reply, Duration)>, together: usize, now: Timestamp) {
        let heard = reply.is_some();
        let (reply, took) = reply.unwrap_or_else(|| {
            let so_far = self.clock.elapsed().saturating_sub(call.sent);
            (Reply::unheard(Fault::Lost, "cut short before the answer"), so_far)
        });
        let agent = &call.batch.lane().agent;
        if call.batch.kind() == Kind::Bulk && reply.result.is_ok() {
            self.known.insert(agent.clone());
        }
        let is_known = self.known.contains(agent);
        let Judgement { rows, hold, strays, is_answer } =
            judge(&call.batch, &reply.result, is_known, &self.settings.policy, now, &mut self.rng);
        // With the key that was found, the next request may well succeed.
        let hold = hold.filter(|_| !reply.key_changed);
        let fault = reply.result.as_ref().err().filter(|_| !is_answer).map(Fault::cause);
        if heard {
            let change = self.pace.learn(call.request, fault, self.newest, self.clock.elapsed());
            change.iter().for_each(log::rate);
        }
        if reply.result.is_ok() {
            self.pace.timed(took, together.max(call.together)).iter().for_each(log::concurrency);
        }
        let holds = if heard {
            self.pace.answered(call.request, hold, is_answer, self.newest, now, &mut self.rng)
        } else {
            self.pace.forget(call.request);
            Vec::new()
        };
        let settlement = Settlement {
            request: call.request,
            answered_at: now,
            status: reply.status,
            fault,
            detail: reply.detail,
            remote_id: (!reply.remote_ids.is_empty()).then(|| reply.remote_ids.join(", ")),
            rows,
            is_whole: true,
        };
        log::request(&settlement, &call, took, strays);
        let refused = fault.is_some_and(Cause::needs_a_person) && call.batch.kind() == Kind::Single;
        if refused && !std::mem::replace(&mut self.told_refused, true) {
            log::ask_refused(&settlement, &call);
        }
        self.metrics.request(settlement.status, call.batch.kind(), call.batch.len(), took);
        if reply.key_changed {
            info!(event = event::KEY_CHANGED, "api.key_file has another key now; it is used from here on");
        }
        holds.iter().for_each(log::hold);
        self.unsettled.push(Unsettled { settlement, lane: call.batch.lane().clone(), sent: call.sent, holds });
    }

    /// Everything that a turn writes, in one transaction; then what it claimed is sent.
    async fn settle_and_claim(&mut self, may_claim: bool) -> Result<usize, StoreError> {
        let now = self.clock.now();
        let room = if may_claim && !self.holds_stale { self.room(now) } else { 0 };
        let mut plan = Plan { taken: self.lanes.take(now, room), ..Plan::default() };
        let over = !self.holds_stale && self.pace.any_over(now);
        if self.unsettled.is_empty() && self.unusable.is_empty() && plan.taken.is_empty() && !over {
            return Ok(0);
        }
        if let Err(error) = self.write(&mut plan, room, over, now).await {
            self.store.abandon().await;
            self.lanes.restore(plan.taken);
            return Err(error);
        }
        if over {
            self.pace.forget_over(now).iter().for_each(log::hold);
        }
        self.unusable.clear();
        if plan.buried > 0 {
            self.totals.dead += plan.buried;
            self.metrics.settled(&Counts { dead: plan.buried, ..Counts::default() });
            // There may be more behind them.
            self.stale = true;
            error!(event = event::BAD_ROW, rows = plan.buried, "rows that no request can carry are dead now");
        }
        self.forget_settled();
        let sent = plan.claims.len();
        plan.claims.into_iter().for_each(|claim| self.send(claim));
        Ok(sent)
    }

    /// How many requests could be sent now, as far as that can be known without taking permits.
    fn room(&self, now: Timestamp) -> usize {
        let free = self.pace.concurrency(self.settings.concurrency).saturating_sub(self.in_flight.len());
        let free = free.min(self.pace.most_permits(self.clock.elapsed()));
        match self.pace.admit_any(now) {
            Admission::Free => free,
            Admission::Probe => free.min(1),
            Admission::Probing | Admission::Held(_) => 0,
        }
    }

    /// Writes what is unsettled, removes holds if some are `over`, and fills `plan` with claims of the lanes that it has
    /// taken. A permit is taken once there is a batch for it, and before that batch is claimed.
    async fn write(&mut self, plan: &mut Plan, mut room: usize, over: bool, now: Timestamp) -> Result<(), StoreError> {
        let rules = Rules {
            batch_size: self.settings.batch_size,
            linger: self.settings.linger,
            retry: self.settings.policy.retry,
            recheck: self.settings.poll_interval,
        };
        let mut busy = in_flight::busy(self.in_flight.values());
        let mut write = self.store.write().await?;
        let begun = self.clock.elapsed();
        write.settle(self.unsettled.iter().map(|unsettled| &unsettled.settlement)).await?;
        for unsettled in &self.unsettled {
            write.change_holds(&unsettled.holds).await?;
        }
        if over {
            write.lift_over(now).await?;
        }
        // This transaction may have waited for another one, which paused us, or mended what was to be buried.
        if write.is_overtaken().await? {
            self.stale = true;
            self.others_wrote = Some(begun);
            self.pace.load(write.holds().await?).iter().for_each(log::hold);
            self.unusable.clear();
            if self.pace.admit_any(now) == Admission::Probe {
                room = room.min(1);
            }
        }
        plan.buried += write.bury_lanes(&self.unusable, now).await?;
        // That the file could be written may have taken a while, and the end have come meanwhile.
        let held = matches!(self.pace.admit_any(now), Admission::Held(_) | Admission::Probing);
        if held || self.told.load(Ordering::Relaxed) {
            self.lanes.restore(std::mem::take(&mut plan.taken));
        }
        let mut lanes = plan.taken.clone();
        while !lanes.is_empty() {
            let share = (room - plan.claims.len()).div_ceil(lanes.len());
            let most_rows = share * usize::from(rules.batch_size);
            let ids = on_their_way(self.in_flight.values(), self.others_wrote, &plan.claims, &lanes);
            let looks = write.look(&lanes, most_rows, &ids, now).await?;
            let mut unserved = Vec::new();
            for (lane, look) in lanes.into_iter().zip(looks) {
                plan.buried += write.bury(&look.unusable, now).await?;
                let mut room = room - plan.claims.len();
                match self.pace.admit(&lane.agent, now) {
                    Admission::Free => {}
                    Admission::Probe if !plan.claims.iter().any(|claim| claim.batch.lane().agent == lane.agent) => {
                        room = room.min(1);
                    }
                    Admission::Probe | Admission::Probing => {
                        self.lanes.note(lane, now.plus(rules.recheck));
                        continue;
                    }
                    Admission::Held(until) => {
                        // Without an end, somebody will write when it is lifted.
                        if let Some(until) = until {
                            self.lanes.note(lane, until);
                        }
                        continue;
                    }
                }
                let (found, next) = batches(&lane, look, most_rows, room, &busy, &rules, now);
                let (wanted, before) = (found.len(), plan.claims.len());
                for batch in found {
                    if !self.pace.take_permit(self.clock.elapsed()) {
                        break;
                    }
                    // Until a bulk delete of this agent was answered, nothing could be made of a 404: it goes with one.
                    // So does a probe, which is to tell whether bulk deletes go.
                    let is_free = self.pace.admit(&lane.agent, now) == Admission::Free;
                    let ask = self.settings.policy.ask_singly && is_free && self.known.contains(&lane.agent);
                    let batch = if ask { batch.alone() } else { batch };
                    let request = write.next_request_id();
                    in_flight::add(&mut busy, &batch);
                    plan.claims.push(Claim { request, correlation_id: new_uuid(&mut self.rng), batch });
                }
                let served = plan.claims.len() - before;
                match next {
                    _ if served < wanted || next == Next::HasMore => {
                        if served == 0 {
                            unserved.push(lane);
                        } else {
                            self.lanes.put_back(lane);
                        }
                    }
                    Next::LookAt(at) => self.lanes.note(lane, at),
                    Next::HasMore | Next::Nothing => {}
                }
            }
            // A lane that got nothing, for want of room or of a permit, is the next one's turn.
            self.lanes.restore(unserved);
            let permits = self.pace.most_permits(self.clock.elapsed());
            let room = if permits == 0 { 0 } else { room - plan.claims.len() };
            lanes = self.lanes.take(now, room);
            plan.taken.extend(lanes.iter().cloned());
        }
        if self.pace.rate() != self.chores.rate_told {
            write.change_rate(self.pace.rate(), now).await?;
        }
        let committed = write.claim_and_commit(&plan.claims, now).await;
        self.wrote_for = self.clock.elapsed().saturating_sub(begun);
        self.totals.longest_write = self.totals.longest_write.max(self.wrote_for);
        committed?;
        self.chores.rate_told = self.pace.rate();
        Ok(())
    }

    fn forget_settled(&mut self) {
        for Unsettled { settlement, lane, sent, .. } in std::mem::take(&mut self.unsettled) {
            let before = self.totals.ended();
            self.totals.add(&settlement);
            self.metrics.settled(&settlement.counts());
            if self.totals.ended() > before {
                self.last_settled = self.clock.elapsed();
            }
            for row in &settlement.rows {
                if let Some(due_at) = row.verdict.due_at() {
                    // Whoever wrote meanwhile may have moved the row to another lane.
                    self.stale |= self.others_wrote.is_some_and(|at| at >= sent);
                    let batch_max = row.batch_max.unwrap_or(lane.batch_max);
                    self.lanes.note(Lane { batch_max, ..lane.clone() }, due_at);
                }
            }
        }
    }

    fn send(&mut self, claim: Claim) {
        let Claim { request, correlation_id, batch } = claim;
        for (scope, cause) in self.pace.sent(request, &batch.lane().agent, self.clock.now()) {
            let (scope, cause, request) = (scope.as_str(), cause.as_str(), request.0);
            info!(event = event::HOLD_PROBED, scope, cause, request, "the hold is over; one request probes");
        }
        self.newest = self.newest.max(request);
        self.totals.requests += 1;
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
        let (now, elapsed) = (self.clock.now(), self.clock.elapsed());
        let listing = if self.holds_stale {
            Some(Duration::ZERO)
        } else {
            self.stale.then(|| self.next_listing.saturating_sub(elapsed))
        };
        let claim = match self.pace.admit_any(now) {
            _ if self.in_flight.len() >= self.pace.concurrency(self.settings.concurrency) => None,
            Admission::Probing | Admission::Held(None) => None,
            Admission::Held(Some(until)) => Some(until.since(now)),
            Admission::Free | Admission::Probe => self.lanes.next_look().map(|look| {
                let permit = self.pace.next_permit().saturating_sub(elapsed);
                look.since(now).max(permit)
            }),
        };
        listing.into_iter().chain(claim).min()
    }
}

fn new_uuid(rng: &mut fastrand::Rng) -> Uuid {
    uuid::Builder::from_random_bytes(rng.u128(..).to_be_bytes()).into_uuid()
}
