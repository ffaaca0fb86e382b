//! The schedule of a turn: which of the lanes in turn may send now, as holds, rate and concurrency allow.
//!
//! That is decided here, in memory, before a transaction is open. Inside the transaction, [`claims`] looks at a bounded number of
//! lanes, and only at lanes that may send.

mod claims;

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use super::{Settings, calls::Flights, lanes::Lanes, log::HoldLog};
use crate::{
    model::{
        clock::{Clock, Timestamp},
        deletion::{ALONE, AgentId, Lane, MAX_BATCH_SIZE},
        evidence::Evidence,
    },
    pace::{Admission, Pace, Probe},
    queue::{Claim, InEffect},
};

/// Most lanes considered in a row without one that may send. Some thousand take a millisecond.
const MOST_CONSIDERED: usize = 2_000;
/// Most lanes looked at in one transaction beyond those that there is room for.
const MOST_LOOKS: usize = 64;
/// Time until the next search for a lane that may probe a hold on everything.
const PROBE_RECHECK: Duration = Duration::from_millis(20);
/// Most holds written or lifted in one transaction.
pub(super) const MOST_LIFTED: usize = 500;

/// What a turn is about to send, and the lanes to restore if it cannot.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) claims: Vec<Claim>,
    pub(super) taken: Vec<Lane>,
    /// Number of requests that may be claimed in this turn.
    room: usize,
    /// Number of lanes that may still be looked at.
    looks: usize,
    /// The lanes whose turn it is.
    picked: Picked,
}

/// Lanes whose turn it is.
#[derive(Debug, Default)]
struct Picked {
    free: Vec<Lane>,
    /// The lane whose request probes a hold.
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
    pub(super) hold_log: HoldLog,
    pub(super) settings: Settings,
    pub(super) clock: Clock,
    pub(super) rng: fastrand::Rng,
    /// Elapsed time at which somebody else was last seen to have written.
    pub(super) others_wrote: Option<Duration>,
    /// The shutdown has begun: nothing more is claimed, not even by a turn that is running.
    pub(super) told: Arc<AtomicBool>,
    /// The number of requests that may still be sent. `None`: no limit.
    pub(super) allowance: Option<usize>,
    /// Rows that would fill a request may not be taken in yet.
    pub(super) waits_for_full: bool,
}

/// The settings in effect, for those who look at the queue. Whatever changes one of them, this is what is written.
pub(super) fn in_effect(pace: &Pace, settings: &Settings) -> InEffect {
    InEffect {
        requests_per_second: pace.rate(),
        rate_ceiling: pace.permits.limit().requests_per_second,
        rate_reason: pace.rate_reason(),
        concurrency: pace.concurrency(settings.concurrency),
        concurrency_ceiling: settings.concurrency,
        concurrency_reason: pace.concurrency_reason(settings.concurrency),
        batch_size: settings.batch_size,
        linger: settings.linger,
        retry: settings.policy.retry,
        learnt: pace.learnt(),
    }
}

impl Schedule {
    pub(super) fn new(
        pace: Pace,
        settings: Settings,
        hold_log: HoldLog,
        clock: Clock,
        rng: fastrand::Rng,
        told: Arc<AtomicBool>,
    ) -> Self {
        Self {
            lanes: Lanes::default(),
            pace,
            hold_log,
            settings,
            clock,
            rng,
            others_wrote: None,
            told,
            allowance: None,
            waits_for_full: false,
        }
    }

    /// Plans what may go out now, without the database.
    pub(super) fn plan(&mut self, in_flight: usize, evidence: &Evidence, now: Timestamp) -> Plan {
        let room = self.room(in_flight, now);
        let mut plan = Plan { room, looks: room + MOST_LOOKS, ..Plan::default() };
        self.pick(&mut plan, evidence, now);
        plan
    }

    /// The number of requests that could be sent now. Takes no permits.
    fn room(&self, in_flight: usize, now: Timestamp) -> usize {
        let free = self.pace.concurrency(self.settings.concurrency).saturating_sub(in_flight);
        let free = free.min(self.pace.most(self.clock.elapsed())).min(self.allowance.unwrap_or(usize::MAX));
        match self.pace.holds.admit_any(now) {
            Admission::Free => free,
            Admission::Probe => free.min(1),
            Admission::Probing | Admission::Held(_) => 0,
        }
    }

    /// Takes sent requests off the allowance.
    pub(super) fn spend(&mut self, sent: usize) {
        self.allowance = self.allowance.map(|left| left.saturating_sub(sent));
    }

    /// Whether nothing more may ever be sent.
    pub(super) fn is_spent(&self) -> bool {
        self.allowance == Some(0)
    }

    /// Takes the lanes whose turn it is: as many as there is room for.
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
            // No free lane may send.
            self.pick_probe(plan, evidence, now);
        }
    }

    /// Returns the lane if no hold stands against it. Else puts it where it waits for the end of the hold.
    fn admitted(&mut self, lane: Lane, now: Timestamp) -> Option<Lane> {
        match self.pace.holds.admit(&lane.agent, now) {
            Admission::Free => return Some(lane),
            Admission::Probe => self.lanes.set_aside(&lane),
            Admission::Probing => self.lanes.hold(lane, self.clock.elapsed() + self.settings.poll_interval),
            // A hold without an end: whoever lifts it writes, and the lanes are listed again.
            Admission::Held(None) => {}
            Admission::Held(Some(until)) => self.lanes.hold(lane, self.clock.elapsed() + until.since(now)),
        }
        None
    }

    /// Picks the lane that probes a hold on everything: that of the first agent in turn whose answer would tell about all.
    fn pick_for_all(&mut self, plan: &mut Plan, evidence: &Evidence, now: Timestamp) {
        // Only one request probes, and this turn has claimed it already.
        if !plan.claims.is_empty() {
            return;
        }
        // Ready lanes go before agents that were set aside for a hold of their own: one broken agent must not keep the others
        // waiting.
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

    /// Picks the next agent whose hold may be probed.
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

    /// Chooses the lane of an agent whose answer tells most, and sets the others aside again.
    fn choose(&mut self, plan: &mut Plan, mut lanes: Vec<Lane>, evidence: &Evidence) {
        let Some(first) = lanes.first() else { return };
        let probe = self.pace.holds.probe(&first.agent);
        // A single-entry DELETE tells most where its answer would be evidence. Else a large request tells of many rows; after a
        // rejection, a small one does.
        let refuses = evidence.refuses_asks(&first.agent, self.clock.elapsed());
        let asks_first = (probe.asks || probe.newest_first) && !refuses;
        if asks_first {
            // Such a lane may have come just now and not have had its turn.
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

    /// Puts a lane that may probe back: aside if its agent is held, behind the others if everything is.
    fn return_to_turn(&mut self, lane: Lane) {
        if self.pace.holds.is_held_itself(&lane.agent) {
            self.lanes.set_aside(&lane);
        } else {
            self.lanes.put_back(lane);
        }
    }

    /// Time until something may be claimed, if no call comes back and nobody writes.
    pub(super) fn wait(&self, in_flight: usize) -> Option<Duration> {
        let (now, elapsed) = (self.clock.now(), self.clock.elapsed());
        if in_flight >= self.pace.concurrency(self.settings.concurrency) || self.is_spent() {
            return None;
        }
        let look = || {
            let permit = self.pace.next().saturating_sub(elapsed);
            Some(self.lanes.next_look()?.saturating_sub(elapsed).max(permit))
        };
        match self.pace.holds.admit_any(now) {
            Admission::Probing | Admission::Held(None) => None,
            Admission::Held(Some(until)) => {
                let early = self.pace.holds.early_probe_at().filter(|early| *early > now);
                Some(early.map_or(until, |early| until.min(early)).since(now))
            }
            Admission::Free => look(),
            // If no lane in turn may probe now, one may in a moment.
            Admission::Probe => look().map(|wait| wait.max(self.settings.poll_interval.min(PROBE_RECHECK))),
        }
    }

    /// The elapsed time at which the wall clock will show `at`.
    pub(super) fn at(&self, at: Timestamp, now: Timestamp) -> Duration {
        self.clock.elapsed() + at.since(now)
    }
}
