//! The holds: who is paused, until when, and which request probes.
//!
//! What changes goes out as [`HoldChange`]s for the worker to write and to log. Every question about an agent is answered
//! from its own holds and those on everything, so it costs the same however many agents are held.

mod answered;

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    time::Duration,
};

pub use answered::Outcome;
use answered::is_by_streak;

use crate::model::{
    backoff::Backoff,
    clock::Timestamp,
    deletion::{AgentId, RequestId},
    hold::{HoldChange, HoldRow},
    outcome::{Cause, Scope},
};

/// A hold that needs a person lasts this long at least: no time alone mends a key or a permission, and a probe a second of
/// each such agent would take the permits of the others.
pub const LEAST_FOR_A_PERSON: Duration = Duration::from_secs(60);

/// Whether a request for an agent may go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Nothing stands against it.
    Free,
    /// A hold has ended; one request may go, and the rest waits for what becomes of it.
    Probe,
    /// That one request is on its way.
    Probing,
    /// Held until then; `None`: until somebody deletes the hold.
    Held(Option<Timestamp>),
}

#[derive(Clone, Debug)]
struct Held {
    row: HoldRow,
    /// The request that probes; set by [`Holds::sent`], unset when it has been answered.
    probe: Option<RequestId>,
    /// The newest request at the time the hold was placed: what older ones come back with is the same news again.
    newest: RequestId,
    /// It is not placed yet: one request about a row alone decides whether it is. Nobody is told, and nothing is written.
    is_question: bool,
    /// Of a hold on everything: those whose faults placed it. Others may probe before its time is over; `None`: nobody.
    involved: Option<BTreeSet<AgentId>>,
    /// From when on the next of those others may.
    early_from: Timestamp,
    /// Of a question: whose row is asked about. Others wait a while for it.
    asked: Option<AgentId>,
    /// Something in the request may be the reason: the probes carry parts of it.
    may_be_content: bool,
}

impl Held {
    fn new(row: HoldRow, newest: RequestId) -> Self {
        let early_from = row.since_at;
        // Of a hold that was read, only its cause is known.
        let may_be_content = matches!(row.cause, Cause::ServerError | Cause::Garbled | Cause::Lost | Cause::Contract);
        Self { row, probe: None, newest, is_question: false, involved: None, early_from, asked: None, may_be_content }
    }

    fn may_probe_early(&self, agent: Option<&AgentId>, now: Timestamp) -> bool {
        let is_other = |involved: &BTreeSet<AgentId>| agent.is_none_or(|agent| !involved.contains(agent));
        self.probe.is_none() && self.early_from <= now && self.involved.as_ref().is_some_and(is_other)
    }
}

type Causes = BTreeMap<Cause, Held>;

/// All holds.
#[derive(Debug)]
pub struct Holds {
    all: Causes,
    agents: BTreeMap<AgentId, Causes>,
    /// The ends of those that people placed, so that the first that is over is found at once.
    ends: BTreeSet<(Timestamp, Scope)>,
    count: usize,
    /// A question was answered, and what waited for it need not any more.
    answered: bool,
    growth: Backoff,
    growth_for_a_person: Backoff,
}

impl Holds {
    /// Holds that grow by `growth`.
    #[must_use]
    pub fn new(growth: Backoff) -> Self {
        Self {
            all: Causes::new(),
            agents: BTreeMap::new(),
            ends: BTreeSet::new(),
            count: 0,
            answered: false,
            growth,
            growth_for_a_person: growth.with_floor(LEAST_FOR_A_PERSON),
        }
    }

    fn growth(&self, cause: Cause) -> Backoff {
        if cause.needs_a_person() { self.growth_for_a_person } else { self.growth }
    }

    fn of(&self, scope: &Scope) -> Option<&Causes> {
        match scope {
            Scope::All => Some(&self.all),
            Scope::Agent(agent) => self.agents.get(agent),
        }
    }

    /// Those that concern `agent`: on everything, and its own.
    fn concerning(&self, agent: Option<&AgentId>) -> impl Iterator<Item = &Held> {
        self.all.values().chain(agent.and_then(|agent| self.agents.get(agent)).into_iter().flat_map(Causes::values))
    }

    fn concerning_mut(&mut self, agent: &AgentId) -> impl Iterator<Item = &mut Held> {
        self.all.values_mut().chain(self.agents.get_mut(agent).into_iter().flat_map(Causes::values_mut))
    }

    fn put(&mut self, held: Held) {
        let (scope, cause) = (held.row.scope.clone(), held.row.cause);
        self.remove(&scope, cause);
        if cause == Cause::Operator
            && let Some(until) = held.row.until_at
        {
            self.ends.insert((until, scope.clone()));
        }
        self.count += usize::from(!held.is_question);
        let causes = match scope {
            Scope::All => &mut self.all,
            Scope::Agent(agent) => self.agents.entry(agent).or_default(),
        };
        causes.insert(cause, held);
    }

    fn remove(&mut self, scope: &Scope, cause: Cause) -> Option<Held> {
        let held = match scope {
            Scope::All => self.all.remove(&cause),
            Scope::Agent(agent) => {
                let Entry::Occupied(mut causes) = self.agents.entry(agent.clone()) else { return None };
                let held = causes.get_mut().remove(&cause);
                if causes.get().is_empty() {
                    causes.remove();
                }
                held
            }
        }?;
        if cause == Cause::Operator
            && let Some(until) = held.row.until_at
        {
            self.ends.remove(&(until, scope.clone()));
        }
        self.count -= usize::from(!held.is_question);
        Some(held)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Takes in the rows of `holds`, whoever wrote them; what is known of the same hold is kept. Of several rows that are
    /// taken for the same hold, the one that lasts longest counts.
    ///
    /// What others placed, changed and lifted since the last time is returned: for the log only, it is written already.
    pub fn load(&mut self, rows: Vec<HoldRow>) -> Vec<HoldChange> {
        let scopes = self.agents.keys().cloned().map(Scope::Agent).chain([Scope::All]).collect();
        self.load_some(scopes, rows)
    }

    /// The same, where `rows` are all rows of these scopes; rows of other scopes are taken in as well.
    pub fn load_some(&mut self, scopes: BTreeSet<Scope>, rows: Vec<HoldRow>) -> Vec<HoldChange> {
        let mut read: BTreeMap<(Scope, Cause), HoldRow> = BTreeMap::new();
        for row in rows {
            match read.entry((row.scope.clone(), row.cause)) {
                Entry::Vacant(entry) => drop(entry.insert(row)),
                Entry::Occupied(mut entry) if row.outlasts(entry.get()) => drop(entry.insert(row)),
                Entry::Occupied(_) => {}
            }
        }
        let known = scopes.iter().filter_map(|scope| Some((scope, self.of(scope)?)));
        let gone = known.flat_map(|(scope, causes)| {
            let gone = causes
                .values()
                .filter(|held| !held.is_question && !read.contains_key(&(scope.clone(), held.row.cause)));
            gone.map(|held| (scope.clone(), held.row.cause, held.row.until_at))
        });
        let gone: Vec<_> = gone.collect();
        let mut changes = Vec::new();
        for (scope, cause, until_at) in gone {
            self.remove(&scope, cause);
            changes.push(HoldChange::Lifted { scope, cause, until_at });
        }
        for ((scope, cause), row) in read {
            let known = self.of(&scope).and_then(|causes| causes.get(&cause));
            if known.is_none_or(|held| held.is_question || held.row != row) {
                changes.push(HoldChange::Placed { row: row.clone(), is_longest: false });
                self.put(Held::new(row, RequestId(0)));
            }
        }
        changes
    }

    /// Puts right what was placed or renewed by a clock that was ahead: a hold of the daemon's own that was given its end in the
    /// future lasts no longer than it was to, from now on; a question, too. What changes is returned, to be written.
    pub fn put_clock_right(&mut self, now: Timestamp) -> Vec<HoldChange> {
        let is_ahead = |held: &&Held| held.row.cause != Cause::Operator && held.row.given_at() > now;
        let all = self.all.values().chain(self.agents.values().flat_map(Causes::values));
        let ahead: Vec<Held> = all.filter(is_ahead).cloned().collect();
        let mut changes = Vec::new();
        let soon = now.plus(self.growth.base());
        self.all.values_mut().for_each(|held| held.early_from = held.early_from.min(soon));
        for mut held in ahead {
            let given_at = held.row.given_at();
            held.row.until_at = held.row.until_at.map(|until| now.plus(until.since(given_at)));
            held.row.since_at = held.row.since_at.min(now);
            held.row.probed_at = held.row.probed_at.map(|at| at.min(now));
            held.early_from = held.early_from.min(now);
            if !held.is_question {
                changes.push(HoldChange::Placed { row: held.row.clone(), is_longest: false });
            }
            self.put(held);
        }
        changes
    }

    /// A start probes what needs a person at once, so that a mended key needs no waiting; but not within a minute of its last
    /// probe, or a daemon that is started again and again would ask all the time. What changes is returned, to be written.
    pub fn probe_soon(&mut self, now: Timestamp) -> Vec<HoldChange> {
        let all = self.all.values().chain(self.agents.values().flat_map(Causes::values));
        let waits: Vec<Held> = all.filter(|held| held.row.cause.needs_a_person()).cloned().collect();
        let mut changes = Vec::new();
        for mut held in waits {
            let met = held.row.probed_at.unwrap_or(held.row.since_at).min(now);
            let soon = now.max(met.plus(self.growth_for_a_person.delay(1).min(LEAST_FOR_A_PERSON)));
            if held.row.until_at.is_some_and(|until| until > soon) {
                held.row.until_at = Some(soon);
                changes.push(HoldChange::Placed { row: held.row.clone(), is_longest: false });
                self.put(held);
            }
        }
        changes
    }

    /// Lifts the holds that the daemon placed for agents that have no open rows, up to `most` of them: nothing will probe
    /// them. They are to be written.
    pub fn lift_idle(&mut self, is_open: impl Fn(&AgentId) -> bool, most: usize) -> Vec<HoldChange> {
        let idle = self.agents.iter().filter(|(agent, _)| !is_open(agent));
        let holds = idle.flat_map(|(agent, causes)| causes.values().map(move |held| (agent, held)));
        let ours = holds.filter(|(_, held)| held.row.cause != Cause::Operator && held.probe.is_none()).take(most);
        let ours: Vec<_> = ours.map(|(agent, held)| (Scope::Agent(agent.clone()), held.row.cause)).collect();
        ours.into_iter().filter_map(|(scope, cause)| lifted(self.remove(&scope, cause)?)).collect()
    }

    /// Whether a hold that a person placed is over, so that its row can go.
    #[must_use]
    pub fn any_over(&self, now: Timestamp) -> bool {
        self.ends.first().is_some_and(|(until, _)| *until <= now)
    }

    /// Forgets the holds that people placed and that are over, up to `most`; returned for the log, once their rows are gone.
    pub fn forget_over(&mut self, now: Timestamp, most: usize) -> Vec<HoldChange> {
        let over: Vec<Scope> = self
            .ends
            .iter()
            .take_while(|(until, _)| *until <= now)
            .take(most)
            .map(|(_, scope)| scope.clone())
            .collect();
        over.into_iter().filter_map(|scope| lifted(self.remove(&scope, Cause::Operator)?)).collect()
    }

    /// The scopes of the holds that people placed and that are over, up to `most`.
    #[must_use]
    pub fn over(&self, now: Timestamp, most: usize) -> Vec<Scope> {
        self.ends.iter().take_while(|(until, _)| *until <= now).take(most).map(|(_, scope)| scope.clone()).collect()
    }

    /// Whether anything at all may go out.
    #[must_use]
    pub fn admit_any(&self, now: Timestamp) -> Admission {
        self.admission(None, now)
    }

    /// Whether a request for `agent` may go out.
    #[must_use]
    pub fn admit(&self, agent: &AgentId, now: Timestamp) -> Admission {
        self.admission(Some(agent), now)
    }

    fn admission(&self, agent: Option<&AgentId>, now: Timestamp) -> Admission {
        let mut admission = Admission::Free;
        for held in self.concerning(agent).filter(|held| !held.row.is_over(now)) {
            let until = self.until(held, agent, now);
            admission = match (until, held.probe, admission) {
                (None, _, _) | (_, _, Admission::Held(None)) => Admission::Held(None),
                (Some(until), _, Admission::Held(Some(other))) => Admission::Held(Some(other.max(until))),
                (Some(until), _, _) if until > now => Admission::Held(Some(until)),
                (_, Some(_), _) | (_, _, Admission::Probing) => Admission::Probing,
                (_, None, Admission::Free | Admission::Probe) => Admission::Probe,
            };
        }
        admission
    }

    /// Until when a hold keeps `agent`, or everybody, from probing it.
    fn until(&self, held: &Held, agent: Option<&AgentId>, now: Timestamp) -> Option<Timestamp> {
        let until = held.row.until_at?;
        if until > now && held.may_probe_early(agent, now) {
            return Some(now);
        }
        let is_of_others = held.row.scope == Scope::All
            && agent.is_some_and(|agent| match &held.asked {
                Some(asked) => asked != agent,
                // Its own faults would be taken for everybody's.
                None => held.involved.is_some() && self.agents.contains_key(agent),
            });
        // For a while only: there may be nobody else with something to send.
        Some(if is_of_others { until.plus(self.growth.base() * 2) } else { until })
    }

    /// Whether `agent` has a hold of its own.
    #[must_use]
    pub fn is_held_itself(&self, agent: &AgentId) -> bool {
        self.agents.contains_key(agent)
    }

    /// When somebody who took no part in the faults may probe the hold on everything, if that is before its end.
    #[must_use]
    pub fn early_probe_at(&self) -> Option<Timestamp> {
        let held = self.all.values().filter(|held| held.involved.is_some() && held.probe.is_none());
        held.map(|held| held.early_from).max()
    }

    /// What the next probe for `agent` is for, and how it had better be made up.
    #[must_use]
    pub fn probe(&self, agent: &AgentId) -> Probe {
        let mut probe = Probe::default();
        for held in self.concerning(Some(agent)) {
            let cause = held.row.cause;
            if held.may_be_content {
                // One half, then the half that was left out, then quarters.
                probe.halved = probe.halved.max((held.row.repeats.saturating_add(2)).ilog2());
            }
            probe.asks |= cause.is_of_an_answer();
            probe.newest_first |= cause == Cause::Rejected;
        }
        probe
    }

    /// Whether a streak of faults holds `agent`, or everything; with whether `request` was sent before that.
    #[must_use]
    pub fn by_streak(&self, agent: &AgentId, request: RequestId) -> Option<bool> {
        let held = self.concerning(Some(agent)).filter(|held| is_by_streak(held.row.cause));
        held.map(|held| request <= held.newest).reduce(|one, other| one || other)
    }

    /// Remembers that `request` was sent for `agent`: it probes whatever hold on it has ended, and those are returned.
    pub fn sent(&mut self, request: RequestId, agent: &AgentId, now: Timestamp) -> Vec<(Scope, Cause)> {
        let base = self.growth.base();
        let mut probed = Vec::new();
        for held in self.concerning_mut(agent) {
            let has_ended = held.row.until_at.is_some_and(|until| until <= now);
            if held.row.is_over(now) || !(has_ended || held.may_probe_early(Some(agent), now)) {
                continue;
            }
            held.probe = Some(request);
            held.early_from = now.plus(base);
            if !held.is_question {
                probed.push((held.row.scope.clone(), held.row.cause));
            }
        }
        probed
    }

    /// Forgets that `request` was sent: nothing will be heard of it, and another one may probe.
    pub fn forget(&mut self, request: RequestId, agent: &AgentId) {
        for held in self.concerning_mut(agent).filter(|held| held.probe == Some(request)) {
            held.probe = None;
        }
    }
}

/// How a probe is best made up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probe {
    /// How often what it could carry is halved: something in it may be the reason.
    pub halved: u32,
    /// A request about one row alone tells more than a bulk delete.
    pub asks: bool,
    /// The rows that were enqueued last go first: those that were may all be rejected.
    pub newest_first: bool,
}

fn lifted(held: Held) -> Option<HoldChange> {
    let HoldRow { scope, cause, until_at, .. } = held.row;
    (!held.is_question).then_some(HoldChange::Lifted { scope, cause, until_at })
}

#[cfg(test)]
#[path = "holds_tests.rs"]
mod tests;
