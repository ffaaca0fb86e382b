//! The ledger: judged answers until they are written, evidence, and totals.

use std::time::Duration;

use tracing::info;

use super::{
    Settings, Totals,
    calls::{Back, End, InFlight, Over},
    log,
    schedule::Schedule,
};
use crate::{
    api::Reply,
    event,
    model::{
        act::ActId,
        clock::Timestamp,
        correlation::{Echo, Echoes},
        deletion::{Lane, RequestId},
        evidence::Evidence,
        hold::HoldChange,
        judge::{Heard, Sent, Standing, judge},
        outcome::{Fault, Judgement},
    },
    pace::{self, Outcome, is_too_much},
    queue::{Claim, Settlement, Tx},
    watch::metrics::Metrics,
};

/// A judged answer that is not written yet.
#[derive(Debug)]
pub(super) struct Unsettled {
    settlement: Settlement,
    lane: Lane,
    /// Elapsed time at which the request was sent.
    sent: Duration,
    /// A hold was lifted with it.
    lifts: bool,
}

/// The judged answers, and what they have shown.
#[derive(Debug)]
pub(super) struct Ledger {
    /// Judged answers. They stay until a transaction with them is committed.
    pub(super) unsettled: Vec<Unsettled>,
    /// Changes of holds that wait for a transaction, in the order in which they were made.
    pub(super) hold_changes: Vec<HoldChange>,
    /// Acts of operators that were logged, which waits for a transaction.
    pub(super) acts: Vec<ActId>,
    pub(super) evidence: Evidence,
    pub(super) totals: Totals,
    pub(super) metrics: Metrics,
    pub(super) rng: fastrand::Rng,
    /// The newest request that was sent.
    pub(super) newest: RequestId,
    /// Elapsed time at which a row last reached an end.
    pub(super) last_settled: Duration,
    /// `single_delete_refused` has been logged (once per process).
    pub(super) told_refused: bool,
    pub(super) echoes: Echoes,
    /// The newest request that had been sent when `key_changed` was last logged.
    told_key_changed: RequestId,
}

impl Ledger {
    pub(super) fn new(
        settings: &Settings,
        totals: Totals,
        metrics: Metrics,
        rng: fastrand::Rng,
        now: Duration,
    ) -> Self {
        Self {
            unsettled: Vec::new(),
            hold_changes: Vec::new(),
            acts: Vec::new(),
            evidence: Evidence::new(settings.after_faults, settings.longest_hold),
            totals,
            metrics,
            rng,
            newest: RequestId(0),
            last_settled: now,
            told_refused: false,
            echoes: Echoes::default(),
            told_key_changed: RequestId(0),
        }
    }

    /// Whether everything is written.
    pub(super) fn is_written(&self) -> bool {
        self.unsettled.is_empty() && self.hold_changes.is_empty() && self.acts.is_empty()
    }

    /// Notes a request that is about to be sent.
    pub(super) fn sent(&mut self, claim: &Claim) {
        self.newest = self.newest.max(claim.request);
        self.totals.requests += 1;
        self.echoes.sent(claim.correlation_id);
    }

    /// Writes the unsettled answers, the logged acts, and the oldest `most_changes` changes of holds. Returns the number of those changes.
    pub(super) async fn settle<X: Tx>(&self, tx: &mut X, most_changes: usize) -> Result<usize, X::Error> {
        let changes = self.hold_changes.len().min(most_changes);
        tx.change_holds(&self.hold_changes[..changes]).await?;
        if !self.acts.is_empty() {
            tx.acts_logged(&self.acts).await?;
        }
        tx.settle(self.unsettled.iter().map(|unsettled| &unsettled.settlement)).await?;
        Ok(changes)
    }

    /// Judges a call that has ended. True if its answer belongs to another request: then no open connection can be trusted.
    pub(super) fn judge(&mut self, over: Over, schedule: &mut Schedule, now: Timestamp) -> bool {
        let Over { call, end, together, has_company } = over;
        let elapsed = schedule.clock.elapsed();
        let heard = matches!(end, End::Back(_));
        // The API may still be at work on it.
        let not_before = match end {
            End::CutShort { follows: true } => {
                let since = elapsed.saturating_sub(call.departure.at);
                now.plus(schedule.settings.request_timeout.saturating_sub(since))
            }
            End::Back(_) | End::CutShort { follows: false } | End::Unsent => Timestamp::ZERO,
        };
        let unheard = |fault, detail| {
            let took = elapsed.saturating_sub(call.departure.at);
            Back { reply: Reply::unheard(fault, detail), took, together: 1 }
        };
        let Back { mut reply, took, together: at_departure } = match end {
            End::Back(back) => *back,
            End::CutShort { .. } => unheard(Fault::Lost, "cut short before the answer"),
            End::Unsent => unheard(Fault::Unreachable, "not sent: the daemon stood still, and another one may lead"),
        };
        let is_mixed_up = self.is_mixed_up(&call, &mut reply);
        let standing = self.standing(&call, has_company, schedule, elapsed);
        let correlation_id = call.correlation_id.to_string();
        let sent = Sent { request: call.request, batch: &call.batch, correlation_id: &correlation_id };
        let said = Heard { result: &reply.result, envelope: reply.envelope.as_ref() };
        let policy = &schedule.settings.policy;
        let mut judgement = judge(sent, said, &standing, policy, now, &mut self.rng);
        judgement.rows.iter_mut().for_each(|row| *row = row.not_before(not_before));
        if reply.key_changed {
            // The next request goes out with the new key, and may succeed.
            judgement.hold = None;
        }
        // Only the departure and the present are known. In between, the request left, and was counted and answered.
        let windows = reply.status.is_some().then_some(reply.windows.as_slice());
        schedule.pace.ended(call.departure.at, elapsed, windows).iter().for_each(log::rate);
        if heard {
            self.learn(&call, &reply, &judgement, at_departure, schedule);
            if reply.result.is_ok() {
                schedule.pace.timed(took, together.max(at_departure)).iter().for_each(log::concurrency);
            }
        }
        let holds = if heard {
            self.hold(&call, &judgement, standing.is_old_news, schedule, now)
        } else {
            schedule.pace.holds.forget(call.request, &call.batch.lane().agent);
            Vec::new()
        };
        self.keep(call, (reply, took), judgement, holds, schedule, now);
        is_mixed_up
    }

    /// Whether the correlation ID shows that the answer belongs to another request. Such an answer is replaced by `garbled`.
    fn is_mixed_up(&mut self, call: &InFlight, reply: &mut Reply) -> bool {
        match self.echoes.judge(call.correlation_id, &reply.remote_ids) {
            Echo::Ours | Echo::None | Echo::Foreign { first: false } => false,
            Echo::Foreign { first: true } => {
                log::foreign_echo(call, &reply.remote_ids);
                false
            }
            Echo::MixedUp => {
                log::mixed_up(call, &reply.remote_ids);
                reply.result = Err(Fault::Garbled);
                reply.envelope = None;
                reply.windows.clear();
                reply.detail = Some("the answer has the correlation ID of another request".to_owned());
                true
            }
        }
    }

    fn standing(&self, call: &InFlight, has_company: bool, schedule: &Schedule, elapsed: Duration) -> Standing {
        let agent = &call.batch.lane().agent;
        let is_only_work = !has_company && !schedule.lanes.has_due(agent, elapsed);
        let is_all_work = !has_company && !schedule.lanes.knows(agent);
        let standing = self.evidence.standing(&call.batch, is_only_work, is_all_work, elapsed);
        match schedule.pace.holds.by_streak(agent, call.request) {
            Some(is_old_news) => Standing { is_suspect: true, is_old_news, ..standing },
            None => standing,
        }
    }

    /// Learns from the answer which rate and which concurrency the API bears.
    fn learn(
        &mut self,
        call: &InFlight,
        reply: &Reply,
        judgement: &Judgement,
        in_flight: usize,
        schedule: &mut Schedule,
    ) {
        let fault = reply.result.as_ref().err();
        let cause = fault.filter(|_| !judgement.is_answer).map(Fault::cause);
        let too_much = is_too_much(cause, fault.is_some_and(Fault::is_too_much), judgement.has_settled);
        let Some(is_throttled) = too_much else { return };
        let (request, newest, departure) = (call.request, self.newest, call.departure);
        let heard = pace::Heard { request, newest, departure, in_flight, is_throttled };
        let changes = schedule.pace.heard(heard, schedule.clock.elapsed());
        schedule.pace.answered(schedule.clock.now());
        log::limits(&changes, schedule.pace.permits.limit().burst, false);
    }

    /// The changes of holds that follow from the answer.
    fn hold(
        &mut self,
        call: &InFlight,
        judgement: &Judgement,
        is_old_news: bool,
        schedule: &mut Schedule,
        now: Timestamp,
    ) -> Vec<HoldChange> {
        let elapsed = schedule.clock.elapsed();
        let reached = self.evidence.take_in(call.request, &call.batch, judgement, is_old_news, elapsed);
        let outcome = Outcome {
            request: call.request,
            agent: call.batch.lane().agent.clone(),
            hold: judgement.hold.clone(),
            reached,
            has_settled: judgement.has_settled,
            asks_first: judgement.asks_first,
            newest: self.newest,
        };
        let evidence = &self.evidence;
        schedule.pace.holds.answered(outcome, || evidence.involved(), now, &mut self.rng)
    }

    fn keep(
        &mut self,
        call: InFlight,
        (reply, took): (Reply, Duration),
        judgement: Judgement,
        holds: Vec<HoldChange>,
        schedule: &mut Schedule,
        now: Timestamp,
    ) {
        let fault = reply.result.as_ref().err().filter(|_| !judgement.is_answer).map(Fault::cause);
        let is_foreign = fault.is_some() && reply.status.is_some() && reply.envelope.is_none();
        let settlement = Settlement {
            request: call.request,
            answered_at: now,
            status: reply.status,
            fault,
            detail: reply.detail,
            remote_id: (!reply.remote_ids.is_empty()).then(|| reply.remote_ids.join(", ")),
            rows: judgement.rows,
            is_whole: true,
        };
        log::request(&settlement, &call, took, judgement.strays, schedule.settings.logged_requests);
        if judgement.is_refused && !std::mem::replace(&mut self.told_refused, true) {
            log::ask_refused(&settlement, &call);
        }
        self.metrics.request(settlement.status, call.batch.kind(), call.batch.len(), took);
        // Requests that were sent before this line tell of the same change.
        if reply.key_changed && call.request > self.told_key_changed {
            self.told_key_changed = self.newest;
            info!(event = event::KEY_CHANGED, "api.key_file has another key now; it is used from here on");
        }
        // A 200 that deletes nothing has no message of its own for the log.
        let nothing = format!("a 200 in which none of {} IDs is deleted", settlement.rows.len());
        let is_nothing = judgement.hold.is_some() && judgement.is_answer;
        let detail = settlement.detail.as_deref().or(is_nothing.then_some(nothing.as_str()));
        holds.iter().for_each(|change| schedule.hold_log.answered(change, detail, is_foreign));
        let lifts = holds.iter().any(|change| matches!(change, HoldChange::Lifted { .. }));
        self.hold_changes.extend(holds);
        self.unsettled.push(Unsettled { settlement, lane: call.batch.lane().clone(), sent: call.committed, lifts });
    }

    /// After a commit, forgets the settled answers, and notes the lanes of the rows that come back. True if the lanes must be
    /// listed again.
    pub(super) fn forget_settled(&mut self, schedule: &mut Schedule) -> bool {
        let (mut stale, now) = (false, schedule.clock.now());
        for Unsettled { settlement, lane, sent, lifts } in std::mem::take(&mut self.unsettled) {
            let before = self.totals.ended();
            self.totals.add_own(&settlement);
            self.metrics.settled(&settlement.counts());
            if self.totals.ended() > before {
                self.last_settled = schedule.clock.elapsed();
            }
            // Lanes under a lifted hold may be dropped until the next listing.
            stale |= lifts;
            stale |= schedule.pace.holds.take_answered();
            for row in &settlement.rows {
                if let Some(due_at) = row.verdict.due_at() {
                    // Somebody who wrote meanwhile may have moved the row to another lane.
                    stale |= schedule.others_wrote.is_some_and(|at| at >= sent);
                    let batch_max = row.batch_max.unwrap_or(lane.batch_max);
                    let at = schedule.at(due_at, now);
                    schedule.lanes.note(Lane { batch_max, ..lane.clone() }, at);
                }
            }
        }
        stale
    }
}
