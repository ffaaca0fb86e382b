//! What goes out in a turn: which lanes may send, what is looked at, and what is claimed.
//!
//! Whose turn it is, and whether a hold stands against it, is decided in memory and before a transaction is open; inside
//! one, a bounded number of lanes is looked at, and only lanes that may send.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use uuid::Uuid;

use super::{
    Settings,
    calls::{self, Flights, on_their_way},
    lanes::Lanes,
    log,
    plan::{Busy, Next, Rules, batches, probe},
};
use crate::{
    model::{
        clock::{Clock, Timestamp},
        deletion::{ALONE, AgentId, Batch, Lane, MAX_BATCH_SIZE},
        evidence::Evidence,
        outcome::Scope,
    },
    pace::{Admission, Pace, Probe},
    queue::{Claim, Look, Tx},
};

/// How many lanes are considered in a row without one that may send: some thousand take a millisecond.
const MOST_CONSIDERED: usize = 2_000;
/// How many lanes are looked at in one transaction beyond those that there is room for.
const MOST_LOOKS: usize = 64;
/// For a probe that takes the rows that were tried least, this many times the rows of a request are looked at.
const LEAST_TRIED_OF: usize = 10;
/// How long until it is looked again whether somebody may probe a hold on everything.
const PROBE_RECHECK: Duration = Duration::from_millis(20);
/// How many holds that are over are lifted in one transaction.
pub(super) const MOST_LIFTED: usize = 500;

/// What a turn is about to send, and which lanes to bring back if it cannot.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) claims: Vec<Claim>,
    pub(super) taken: Vec<Lane>,
    /// How many requests may still be claimed.
    room: usize,
    /// How many lanes may still be looked at.
    looks: usize,
    /// The lanes whose turn it is.
    picked: Picked,
}

/// Lanes whose turn it is.
#[derive(Debug, Default)]
struct Picked {
    free: Vec<Lane>,
    /// An agent whose hold one request probes, and its lanes, the best one first.
    probe: Option<(Lane, Probe)>,
}

impl Picked {
    fn is_empty(&self) -> bool {
        self.free.is_empty() && self.probe.is_none()
    }

    fn agents(&self) -> impl Iterator<Item = &AgentId> {
        self.free.iter().map(|lane| &lane.agent).chain(self.probe.iter().map(|(lane, _)| &lane.agent))
    }
}

/// What a turn knows while it claims.
#[derive(Clone, Copy)]
pub(super) struct Known<'k> {
    pub(super) calls: &'k Flights,
    pub(super) evidence: &'k Evidence,
}

/// What a turn shares among its claims.
struct Claiming<'k> {
    known: Known<'k>,
    busy: Busy,
    rules: Rules,
    now: Timestamp,
}

impl Claiming<'_> {
    fn rules_for(&self, lane: &Lane, elapsed: Duration) -> Rules {
        let asks_refused = lane.batch_max == ALONE && self.known.evidence.refuses_asks(&lane.agent, elapsed);
        Rules { asks_refused, ..self.rules }
    }
}

impl Plan {
    /// Whether there is nothing to look at.
    pub(super) fn is_idle(&self) -> bool {
        self.picked.is_empty()
    }

    fn has(&self, agent: &AgentId) -> bool {
        self.claims.iter().any(|claim| claim.batch.lane().agent == *agent)
    }
}

/// Whose turn it is, and what stands against it.
#[derive(Debug)]
pub(super) struct Schedule {
    pub(super) lanes: Lanes,
    pub(super) pace: Pace,
    pub(super) settings: Settings,
    pub(super) clock: Clock,
    pub(super) rng: fastrand::Rng,
    /// Elapsed time at which another process was last seen to have written.
    pub(super) others_wrote: Option<Duration>,
    /// Told to end: nothing more is claimed, not even by a turn that has begun.
    pub(super) told: Arc<AtomicBool>,
}

impl Schedule {
    pub(super) fn new(pace: Pace, settings: Settings, clock: Clock, rng: fastrand::Rng, told: Arc<AtomicBool>) -> Self {
        Self { lanes: Lanes::default(), pace, settings, clock, rng, others_wrote: None, told }
    }

    /// What may go out now, as far as that can be known without the database.
    pub(super) fn plan(&mut self, in_flight: usize, evidence: &Evidence, now: Timestamp) -> Plan {
        let room = self.room(in_flight, now);
        let mut plan = Plan { room, looks: room + MOST_LOOKS, ..Plan::default() };
        self.pick(&mut plan, evidence, now);
        plan
    }

    /// How many requests could be sent now, as far as that can be known without taking permits.
    fn room(&self, in_flight: usize, now: Timestamp) -> usize {
        let free = self.pace.concurrency(self.settings.concurrency).saturating_sub(in_flight);
        let free = free.min(self.pace.permits.most(self.clock.elapsed()));
        match self.pace.holds.admit_any(now) {
            Admission::Free => free,
            Admission::Probe => free.min(1),
            Admission::Probing | Admission::Held(_) => 0,
        }
    }

    /// Takes the lanes out whose turn it is: as many as there is room for.
    fn pick(&mut self, plan: &mut Plan, evidence: &Evidence, now: Timestamp) {
        plan.picked = Picked::default();
        let room = (plan.room - plan.claims.len()).min(plan.looks);
        if room == 0 {
            return;
        }
        match self.pace.holds.admit_any(now) {
            Admission::Free => {}
            Admission::Probe => return self.pick_for_all(plan, evidence, now),
            Admission::Probing | Admission::Held(_) => return,
        }
        if self.pace.is_probe_s_turn() {
            self.pick_probe(plan, evidence, now);
        }
        let mut considered = 0;
        let reserved = usize::from(plan.picked.probe.is_some());
        let mut priority = None;
        while plan.picked.free.len() + reserved < room && considered < MOST_CONSIDERED {
            let Some(lane) = self.lanes.next(self.clock.elapsed()) else { break };
            considered += 1;
            if priority.is_some_and(|priority| priority != lane.priority) {
                self.lanes.restore(vec![lane]);
                break;
            }
            if let Some(lane) = self.admitted(lane, now) {
                priority = Some(lane.priority);
                plan.taken.push(lane.clone());
                plan.picked.free.push(lane);
            }
        }
        if plan.picked.is_empty() {
            // Nothing else may go.
            self.pick_probe(plan, evidence, now);
        }
    }

    /// The lane, if nothing stands against it; else it waits where it belongs.
    fn admitted(&mut self, lane: Lane, now: Timestamp) -> Option<Lane> {
        match self.pace.holds.admit(&lane.agent, now) {
            Admission::Free => return Some(lane),
            Admission::Probe => self.lanes.set_aside(&lane),
            Admission::Probing => self.lanes.hold(lane, self.clock.elapsed() + self.settings.poll_interval),
            // Without an end, somebody will write when it is lifted.
            Admission::Held(None) => {}
            Admission::Held(Some(until)) => self.lanes.hold(lane, self.clock.elapsed() + until.since(now)),
        }
        None
    }

    /// A hold on everything may be probed: by the first agent in turn of which an answer tells about all.
    fn pick_for_all(&mut self, plan: &mut Plan, evidence: &Evidence, now: Timestamp) {
        // One request probes; it is not sent yet.
        if !plan.claims.is_empty() {
            return;
        }
        // Whoever is ready goes before those that have been set aside for a hold of their own: agents take turns, so that one
        // that is broken does not keep the others waiting.
        for _ in 0..MOST_CONSIDERED {
            if !plan.picked.is_empty() {
                return;
            }
            let Some(lane) = self.lanes.next(self.clock.elapsed()) else {
                return self.pick_probe(plan, evidence, now);
            };
            if self.pace.holds.admit(&lane.agent, now) == Admission::Probe {
                self.choose(plan, vec![lane], evidence);
            } else if let Some(lane) = self.admitted(lane, now) {
                self.lanes.put_back(lane);
            }
        }
    }

    /// Takes the next agent out whose hold may be probed.
    fn pick_probe(&mut self, plan: &mut Plan, evidence: &Evidence, now: Timestamp) {
        for _ in 0..MOST_CONSIDERED {
            let Some((agent, lanes)) = self.lanes.next_probing() else { return };
            if plan.has(&agent) {
                let recheck = self.clock.elapsed() + self.settings.poll_interval;
                lanes.into_iter().for_each(|lane| self.lanes.hold(lane, recheck));
                continue;
            }
            if self.pace.holds.admit(&agent, now) == Admission::Probe {
                return self.choose(plan, lanes, evidence);
            }
            for lane in lanes {
                if let Some(lane) = self.admitted(lane, now) {
                    self.lanes.put_back(lane);
                }
            }
        }
    }

    /// Of an agent's lanes, the one whose request tells most; the others are set aside again.
    fn choose(&mut self, plan: &mut Plan, mut lanes: Vec<Lane>, evidence: &Evidence) {
        let Some(first) = lanes.first() else { return };
        let probe = self.pace.holds.probe(&first.agent);
        // One row alone is asked about if there is any and the API's word about it would tell. Else large requests tell of many
        // rows; but of those that were rejected together, the small ones do.
        let refuses = evidence.refuses_asks(&first.agent, self.clock.elapsed());
        let asks_first = (probe.asks || probe.newest_first) && !refuses;
        if asks_first {
            // It may have come just now, and not have had its turn.
            lanes.extend(self.lanes.take_alone(&first.agent.clone(), self.clock.elapsed()));
        }
        lanes.sort_by_key(|lane| {
            let (is_alone, is_full) = (lane.batch_max == ALONE, lane.batch_max == MAX_BATCH_SIZE);
            let is_rejected = probe.newest_first && !is_full;
            let size = if is_rejected { i16::from(lane.batch_max) } else { -i16::from(lane.batch_max) };
            (is_alone != asks_first, is_rejected, size)
        });
        let chosen = lanes.remove(0);
        lanes.into_iter().for_each(|lane| self.return_to_turn(lane));
        plan.taken.push(chosen.clone());
        plan.picked.probe = Some((chosen, probe));
    }

    /// A lane that may probe waits for the next time that it may: aside, if it is its agent that is held; behind the others, if
    /// everything is.
    fn return_to_turn(&mut self, lane: Lane) {
        if self.pace.holds.is_held_itself(&lane.agent) {
            self.lanes.set_aside(&lane);
        } else {
            self.lanes.put_back(lane);
        }
    }

    /// Fills `plan` with claims of the lanes whose turn it is. A permit is taken once there is a batch for it, and before
    /// that batch is claimed.
    pub(super) async fn claim<X: Tx>(
        &mut self,
        tx: &mut X,
        plan: &mut Plan,
        known: Known<'_>,
        is_overtaken: bool,
        now: Timestamp,
    ) -> Result<(), X::Error> {
        let mut turn = Claiming { known, busy: calls::busy(known.calls), rules: self.rules(), now };
        while !plan.picked.is_empty() {
            let mut picked = std::mem::take(&mut plan.picked);
            if is_overtaken {
                self.admit_again(tx, &mut picked, now).await?;
            }
            // We may have waited for the write lock: a hold or the shutdown may have arrived since.
            if self.told.load(Ordering::Relaxed) {
                self.lanes.restore(std::mem::take(&mut plan.taken));
                return Ok(());
            }
            if let Some((lane, how)) = picked.probe {
                self.claim_probe(tx, plan, lane, how, &mut turn).await?;
            }
            self.claim_free(tx, plan, picked.free, &mut turn).await?;
            if self.pace.permits.most(self.clock.elapsed()) == 0 {
                break;
            }
            self.pick(plan, known.evidence, now);
        }
        Ok(())
    }

    fn rules(&self) -> Rules {
        Rules {
            batch_size: self.settings.batch_size,
            linger: self.settings.linger,
            retry: self.settings.policy.retry,
            recheck: self.settings.poll_interval,
            asks_refused: false,
        }
    }

    /// Somebody else wrote before this transaction began, and may have placed or lifted a hold: those that matter to what
    /// is about to be claimed are read again. All others are read outside of a transaction.
    async fn admit_again<X: Tx>(&mut self, tx: &mut X, picked: &mut Picked, now: Timestamp) -> Result<(), X::Error> {
        let scopes: BTreeSet<Scope> = picked.agents().cloned().map(Scope::Agent).chain([Scope::All]).collect();
        let rows = tx.holds_of(&scopes).await?;
        self.pace.holds.load_some(scopes, rows).iter().for_each(log::hold);
        let free = std::mem::take(&mut picked.free);
        if self.pace.holds.admit_any(now) != Admission::Free {
            self.lanes.restore(free);
        } else {
            picked.free = free.into_iter().filter_map(|lane| self.admitted(lane, now)).collect();
        }
        if let Some((lane, how)) = picked.probe.take() {
            match self.pace.holds.admit(&lane.agent, now) {
                Admission::Probe | Admission::Free => picked.probe = Some((lane, how)),
                Admission::Probing | Admission::Held(_) => self.lanes.restore(vec![lane]),
            }
        }
        Ok(())
    }

    async fn claim_probe<X: Tx>(
        &mut self,
        tx: &mut X,
        plan: &mut Plan,
        lane: Lane,
        how: Probe,
        turn: &mut Claiming<'_>,
    ) -> Result<(), X::Error> {
        let (evidence, now) = (turn.known.evidence, turn.now);
        let rules = turn.rules_for(&lane, self.clock.elapsed());
        let ids = on_their_way(turn.known.calls, self.others_wrote, &plan.claims, std::slice::from_ref(&lane));
        // Of more rows than go, those that were tried least.
        let most = usize::from(rules.batch_size) * if how.asks || how.newest_first { LEAST_TRIED_OF } else { 1 };
        let looks = tx.look(std::slice::from_ref(&lane), most, &ids, how.newest_first, now).await?;
        plan.looks = plan.looks.saturating_sub(1);
        let Some(mut look) = looks.into_iter().next() else { return Ok(()) };
        if how.asks || how.newest_first {
            look.due.sort_by_key(|row| row.deletion.attempts);
        }
        let (found, next) = (look.due.len(), look.next_due_at);
        let largest = evidence.largest(&lane.agent);
        let Some(batch) = probe(&lane, look, how.halved, largest, &turn.busy, &rules) else {
            // Its rows wait for those in flight, or for their time; if it has none, the next listing does not have it any more.
            let recheck = (found > 0).then(|| now.plus(rules.recheck));
            if let Some(at) = [recheck, next].into_iter().flatten().min() {
                self.lanes.note(lane, self.at(at, now));
            }
            return Ok(());
        };
        if !self.pace.permits.take(self.clock.elapsed()) {
            self.return_to_turn(lane);
            return Ok(());
        }
        self.pace.took(true);
        // What was rejected can be asked about though no bulk delete was answered: it is a 400 that would tell, and no 404.
        let may_ask = self.may_ask(&lane.agent, evidence)
            || (self.settings.policy.ask_singly && how.newest_first && !rules.asks_refused);
        let asks = may_ask && (how.asks || how.newest_first);
        let batch = if asks { batch.alone() } else { batch };
        let has_more = found > batch.len() || found >= most;
        self.add(tx, plan, turn, batch);
        if has_more {
            self.return_to_turn(lane);
        } else if let Some(at) = next {
            self.lanes.note(lane, self.at(at, now));
        }
        Ok(())
    }

    async fn claim_free<X: Tx>(
        &mut self,
        tx: &mut X,
        plan: &mut Plan,
        lanes: Vec<Lane>,
        turn: &mut Claiming<'_>,
    ) -> Result<(), X::Error> {
        if lanes.is_empty() {
            return Ok(());
        }
        let share = plan.room.saturating_sub(plan.claims.len()).div_ceil(lanes.len());
        let most = share * usize::from(turn.rules.batch_size);
        let ids = on_their_way(turn.known.calls, self.others_wrote, &plan.claims, &lanes);
        let looks = tx.look(&lanes, most, &ids, false, turn.now).await?;
        plan.looks = plan.looks.saturating_sub(lanes.len());
        let mut unserved = Vec::new();
        for (lane, look) in lanes.into_iter().zip(looks) {
            if !self.serve(tx, plan, &lane, look, most, turn) {
                unserved.push(lane);
            }
        }
        // A lane that got nothing, for want of room or of a permit, is the next one's turn.
        self.lanes.restore(unserved);
        Ok(())
    }

    /// Claims what of a lane may go. False if it has something to send, and got nothing.
    fn serve<X: Tx>(
        &mut self,
        tx: &mut X,
        plan: &mut Plan,
        lane: &Lane,
        look: Look,
        asked: usize,
        turn: &mut Claiming<'_>,
    ) -> bool {
        let now = turn.now;
        let room = plan.room.saturating_sub(plan.claims.len());
        let (found, next) =
            batches(lane, look, asked, room, &turn.busy, &turn.rules_for(lane, self.clock.elapsed()), now);
        let (wanted, mut served) = (found.len(), 0);
        for batch in found {
            if !self.pace.permits.take(self.clock.elapsed()) {
                break;
            }
            self.pace.took(false);
            let batch = if self.may_ask(&lane.agent, turn.known.evidence) { batch.alone() } else { batch };
            self.add(tx, plan, turn, batch);
            served += 1;
        }
        match next {
            _ if served < wanted || next == Next::HasMore => {
                if served == 0 {
                    return false;
                }
                self.lanes.put_back(lane.clone());
            }
            Next::LookAt(at) => self.lanes.note(lane.clone(), self.at(at, now)),
            Next::HasMore | Next::Nothing => {}
        }
        true
    }

    /// Ask singly only after a bulk delete of this agent was answered: before that, a 404 proves nothing.
    fn may_ask(&self, agent: &AgentId, evidence: &Evidence) -> bool {
        self.settings.policy.ask_singly
            && evidence.is_known(agent)
            && !evidence.refuses_asks(agent, self.clock.elapsed())
    }

    fn add(&mut self, tx: &mut impl Tx, plan: &mut Plan, turn: &mut Claiming<'_>, batch: Batch) {
        calls::add(&mut turn.busy, &batch);
        plan.claims.push(Claim { request: tx.next_request_id(), correlation_id: new_uuid(&mut self.rng), batch });
    }

    /// How long until something may be claimed, if nothing comes back and nobody writes.
    pub(super) fn wait(&self, in_flight: usize) -> Option<Duration> {
        let (now, elapsed) = (self.clock.now(), self.clock.elapsed());
        if in_flight >= self.pace.concurrency(self.settings.concurrency) {
            return None;
        }
        let look = || {
            let permit = self.pace.permits.next().saturating_sub(elapsed);
            Some(self.lanes.next_look()?.saturating_sub(elapsed).max(permit))
        };
        match self.pace.holds.admit_any(now) {
            Admission::Probing | Admission::Held(None) => None,
            Admission::Held(Some(until)) => {
                let early = self.pace.holds.early_probe_at().filter(|early| *early > now);
                Some(early.map_or(until, |early| until.min(early)).since(now))
            }
            Admission::Free => look(),
            // If nobody in turn may probe, a moment later somebody may.
            Admission::Probe => look().map(|wait| wait.max(self.settings.poll_interval.min(PROBE_RECHECK))),
        }
    }

    /// When it will be `at` by the wall clock, in elapsed time.
    pub(super) fn at(&self, at: Timestamp, now: Timestamp) -> Duration {
        self.clock.elapsed() + at.since(now)
    }
}

fn new_uuid(rng: &mut fastrand::Rng) -> Uuid {
    uuid::Builder::from_random_bytes(rng.u128(..).to_be_bytes()).into_uuid()
}
