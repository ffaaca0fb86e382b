//! The holds: who is paused, until when, and which request probes.
//!
//! Changes are returned as [`HoldChange`]s, which the worker writes and logs. Any lookup for an agent reads only the agent's own
//! holds and those on everything, so its cost does not grow with the number of held agents.

mod admission;
mod answered;
mod length;

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    time::Duration,
};

pub use admission::{Admission, Probe};
pub use answered::Outcome;

use crate::model::{
    backoff::Backoff,
    clock::Timestamp,
    deletion::{AgentId, RequestId},
    hold::{HoldChange, HoldRow},
    outcome::{Cause, Scope},
};

/// The shortest hold that needs a person. Waiting does not mend a key or a permission, and a probe a second for each such agent
/// would take the permits of other agents.
pub const LEAST_FOR_A_PERSON: Duration = Duration::from_secs(60);

/// A hold with its state in memory.
#[derive(Clone, Debug)]
struct Held {
    row: HoldRow,
    /// The request that probes. [`Holds::sent`] sets it, and its answer clears it.
    probe: Option<RequestId>,
    /// The newest request when the hold was placed. Faults of requests up to this one belong to the same incident and do not
    /// extend the hold.
    newest: RequestId,
    /// This is a question, and not a hold yet: one single-entry DELETE decides whether the hold is placed. A question is neither
    /// written nor logged.
    is_question: bool,
    /// For a hold on everything: the agents whose faults placed it. Other agents may probe before its end. With `None`, no agent
    /// may.
    involved: Option<BTreeSet<AgentId>>,
    /// When the next of those other agents may probe.
    early_from: Timestamp,
    /// For a question: the agent whose row is asked about. Other agents wait a while for the answer.
    asked: Option<AgentId>,
    /// One ID in the request may be the reason, so the probes carry parts of a batch.
    may_be_content: bool,
}

impl Held {
    fn new(row: HoldRow, newest: RequestId) -> Self {
        let early_from = row.since_at;
        // A hold that was read from the database has only its cause to tell.
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
    /// The ends of the holds that commands placed, in order.
    ends: BTreeSet<(Timestamp, Scope, Cause)>,
    count: usize,
    /// A question was answered, and requests that waited for it may go.
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

    /// Lets holds grow by `growth` from now on. The ends that are set stay.
    pub fn set_growth(&mut self, growth: Backoff) {
        self.growth = growth;
        self.growth_for_a_person = growth.with_floor(LEAST_FOR_A_PERSON);
    }

    fn of(&self, scope: &Scope) -> Option<&Causes> {
        match scope {
            Scope::All => Some(&self.all),
            Scope::Agent(agent) => self.agents.get(agent),
        }
    }

    /// The holds that concern `agent`: those on everything, and its own.
    fn concerning(&self, agent: Option<&AgentId>) -> impl Iterator<Item = &Held> {
        self.all.values().chain(agent.and_then(|agent| self.agents.get(agent)).into_iter().flat_map(Causes::values))
    }

    fn concerning_mut(&mut self, agent: &AgentId) -> impl Iterator<Item = &mut Held> {
        self.all.values_mut().chain(self.agents.get_mut(agent).into_iter().flat_map(Causes::values_mut))
    }

    fn put(&mut self, held: Held) {
        let (scope, cause) = (held.row.scope.clone(), held.row.cause);
        self.remove(&scope, cause);
        if cause.is_of_a_command()
            && let Some(until) = held.row.until_at
        {
            self.ends.insert((until, scope.clone(), cause));
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
        if cause.is_of_a_command()
            && let Some(until) = held.row.until_at
        {
            self.ends.remove(&(until, scope.clone(), cause));
        }
        self.count -= usize::from(!held.is_question);
        Some(held)
    }

    /// The number of holds.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Takes in all rows of `holds`, whoever wrote them. A hold that is known and unchanged keeps its state. If several rows are
    /// the same hold, the one that lasts longest counts.
    ///
    /// Returns the changes that others have made since the last call. They are written already, and only logged.
    pub fn load(&mut self, rows: Vec<HoldRow>) -> Vec<HoldChange> {
        let scopes = self.agents.keys().cloned().map(Scope::Agent).chain([Scope::All]).collect();
        self.load_some(scopes, rows)
    }

    /// Takes in `rows`, which are all rows of `scopes` and perhaps rows of other scopes. Otherwise the same as [`Holds::load`].
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
                if known.is_none_or(|held| held.is_question || !held.row.is_repeated_by(&row)) {
                    changes.push(HoldChange::Placed { row: row.clone(), is_longest: false });
                }
                self.put(Held::new(row, RequestId(0)));
            }
        }
        changes
    }

    /// Corrects the daemon's holds that were placed or renewed while the clock was ahead: each lasts its own length from now on.
    /// Questions are corrected, too. Returns the changes, which are to be written.
    pub fn put_clock_right(&mut self, now: Timestamp) -> Vec<HoldChange> {
        let is_ahead = |held: &&Held| !held.row.cause.is_of_a_command() && held.row.given_at() > now;
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

    /// Lets a start probe the holds that need a person at once, so that nobody waits after mending a key. A hold whose last probe
    /// is less than a minute ago waits for that minute: a daemon that is restarted again and again must not probe each time.
    /// Returns the changes, which are to be written.
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

    /// Lifts up to `most` of the daemon's holds on agents without open rows, because nothing would probe them. Returns the
    /// changes, which are to be written.
    pub fn lift_idle(&mut self, is_open: impl Fn(&AgentId) -> bool, most: usize) -> Vec<HoldChange> {
        let idle = self.agents.iter().filter(|(agent, _)| !is_open(agent));
        let holds = idle.flat_map(|(agent, causes)| causes.values().map(move |held| (agent, held)));
        let ours = holds.filter(|(_, held)| !held.row.cause.is_of_a_command() && held.probe.is_none()).take(most);
        let ours: Vec<_> = ours.map(|(agent, held)| (Scope::Agent(agent.clone()), held.row.cause)).collect();
        ours.into_iter().filter_map(|(scope, cause)| lifted(self.remove(&scope, cause)?)).collect()
    }

    /// Whether a hold that a command placed is over, so that its row can be deleted.
    #[must_use]
    pub fn any_over(&self, now: Timestamp) -> bool {
        self.ends.first().is_some_and(|(until, ..)| *until <= now)
    }

    /// Forgets up to `most` holds that commands placed and that are over. Call this after their rows are deleted. Returns the
    /// changes for the log.
    pub fn forget_over(&mut self, now: Timestamp, most: usize) -> Vec<HoldChange> {
        let over: Vec<_> = self.ends.iter().take_while(|(until, ..)| *until <= now).take(most).cloned().collect();
        over.into_iter().filter_map(|(_, scope, cause)| lifted(self.remove(&scope, cause)?)).collect()
    }

    /// The scopes of up to `most` holds that commands placed and that are over.
    #[must_use]
    pub fn over(&self, now: Timestamp, most: usize) -> Vec<Scope> {
        self.ends.iter().take_while(|(until, ..)| *until <= now).take(most).map(|(_, scope, _)| scope.clone()).collect()
    }
}

fn lifted(held: Held) -> Option<HoldChange> {
    let HoldRow { scope, cause, until_at, .. } = held.row;
    (!held.is_question).then_some(HoldChange::Lifted { scope, cause, until_at })
}

#[cfg(test)]
#[path = "holds_tests.rs"]
mod tests;
