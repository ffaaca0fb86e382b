//! The evidence of this process about each agent: what was settled last, and the present streak of faults.
//!
//! A long streak of one agent is a reason to hold that agent. A long streak of at least two agents is a reason to hold
//! everything.
//!
//! Memory grows with the agents that have open rows. A restart begins without evidence.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Duration,
};

use crate::model::{
    deletion::{AgentId, Batch, DeletionId, Kind, RequestId},
    judge::{MAX_ASKS, Standing},
    outcome::{Cause, HoldEnd, Judged, Judgement, Scope, Verdict},
};

/// After this many times `hold.after_faults`, faults in a row are a streak even if their requests have rows in common. Otherwise
/// rows that come back together with new ones each time would never make a streak.
const WHATEVER_THE_ROWS: u32 = 2;
/// After refusals, no single-entry DELETE is sent for this many times the longest hold. A probe goes out once in the longest
/// hold, and most probes must not be such a request.
const REFUSAL_LASTS: u32 = 10;

/// One agent's streak, and its newest successes.
#[derive(Debug, Default)]
struct Agent {
    /// The faults in a row that count towards the streak.
    faults: u32,
    /// All faults in a row.
    run: u32,
    /// The number of rows in the largest request of them.
    largest: usize,
    /// The rows of the faults that count.
    rows: HashSet<DeletionId>,
    settled: Option<RequestId>,
    answered: Option<RequestId>,
    singles_answered: bool,
    /// In elapsed time: until then, an answer that deletes nothing is about its rows.
    vouched_until: Option<Duration>,
    /// How many single-entry DELETEs in a row were refused, and the elapsed time until which none is sent.
    refusals: u32,
    refused_until: Duration,
}

/// The streak of all agents together.
#[derive(Debug, Default)]
struct Together {
    faults: u32,
    agents: BTreeSet<AgentId>,
    /// The agents that got a status outside of the contract.
    contract: BTreeSet<AgentId>,
    settled: Option<RequestId>,
    vouched_until: Option<Duration>,
}

/// The evidence about all agents.
#[derive(Debug)]
pub struct Evidence {
    after_faults: u32,
    vouch_lasts: Duration,
    agents: HashMap<AgentId, Agent>,
    together: Together,
}

/// How one more fault would change the streaks.
struct Weighed {
    counts: bool,
    reaches: Option<Scope>,
}

impl Evidence {
    /// Starts without evidence. A streak is long after `after_faults` faults. After the API has said that a row is gone, answers
    /// that delete nothing are about their rows for `vouch_lasts`.
    #[must_use]
    pub fn new(after_faults: u32, vouch_lasts: Duration) -> Self {
        Self { after_faults, vouch_lasts, agents: HashMap::new(), together: Together::default() }
    }

    /// Replaces the limits that [`Evidence::new`] was given. The streaks go on.
    pub fn set_limits(&mut self, after_faults: u32, vouch_lasts: Duration) {
        (self.after_faults, self.vouch_lasts) = (after_faults, vouch_lasts);
    }

    /// The evidence that verdicts about `batch` depend on. `is_only_work`: the agent has no other due rows. `is_all_work`: the
    /// agent has no other rows at all. The caller sets `is_old_news` and `is_orphan`.
    #[must_use]
    pub fn standing(&self, batch: &Batch, is_only_work: bool, is_all_work: bool, elapsed: Duration) -> Standing {
        let none = Agent::default();
        let agent = self.agents.get(&batch.lane().agent).unwrap_or(&none);
        let is_together = self.together.faults >= self.after_faults && self.together.agents.len() > 1;
        Standing {
            settled: agent.settled,
            settled_by_anybody: self.together.settled,
            is_all_work,
            answered: agent.answered,
            singles_answered: agent.singles_answered,
            is_only_work,
            is_vouched: agent.vouched_until.is_some_and(|until| elapsed < until),
            is_suspect: agent.is_streak(self.after_faults) || is_together,
            completes_streak: self.weigh(batch, None, elapsed).reaches.is_some(),
            is_old_news: false,
            asks_refused: agent.refuses(elapsed),
            is_orphan: false,
        }
    }

    /// The number of rows in the agent's largest request that failed since something was settled.
    #[must_use]
    pub fn largest(&self, agent: &AgentId) -> usize {
        self.agents.get(agent).map_or(0, |agent| agent.largest)
    }

    /// Whether a bulk delete of this agent was answered with a 200.
    #[must_use]
    pub fn is_known(&self, agent: &AgentId) -> bool {
        self.agents.get(agent).is_some_and(|agent| agent.answered.is_some())
    }

    /// Whether single-entry DELETEs of this agent are refused.
    #[must_use]
    pub fn refuses_asks(&self, agent: &AgentId, elapsed: Duration) -> bool {
        self.agents.get(agent).is_some_and(|agent| agent.refuses(elapsed))
    }

    /// The agents whose faults are the reason for a hold on everything.
    #[must_use]
    pub fn involved(&self) -> BTreeSet<AgentId> {
        self.together.agents.union(&self.together.contract).cloned().collect()
    }

    /// Takes in the judgement of `request`. Returns the scope to hold if a streak is now long enough.
    ///
    /// `is_old_news`: the request was sent before the present hold was placed, so its fault does not count.
    pub fn take_in(
        &mut self,
        request: RequestId,
        batch: &Batch,
        judgement: &Judgement,
        is_old_news: bool,
        elapsed: Duration,
    ) -> Option<Scope> {
        self.note_answer(request, batch, judgement, elapsed);
        let hold = judgement.hold.as_ref().filter(|_| !judgement.has_settled && !is_old_news)?;
        let by_streak = hold.end == HoldEnd::ByStreak;
        let agent = self.agents.entry(batch.lane().agent.clone()).or_default();
        agent.largest = agent.largest.max(batch.len());
        if hold.cause == Cause::Contract && hold.scope != Scope::All && !by_streak {
            self.together.contract.insert(batch.lane().agent.clone());
            return (self.together.contract.len() > 1).then_some(Scope::All);
        }
        if !by_streak {
            return None;
        }
        let Weighed { counts, reaches } = self.weigh(batch, Some(hold.cause), elapsed);
        if hold.cause == Cause::Unreachable {
            self.together.faults = self.together.faults.saturating_add(1);
            return reaches;
        }
        let agent = self.agents.entry(batch.lane().agent.clone()).or_default();
        agent.run = agent.run.saturating_add(1);
        if counts {
            agent.faults = agent.faults.saturating_add(1);
            // The rows of a long streak are not needed: memory stays bounded.
            if agent.faults <= self.after_faults {
                agent.rows.extend(batch.deletions().iter().map(|row| row.id));
            }
            self.together.faults = self.together.faults.saturating_add(1);
            self.together.agents.insert(batch.lane().agent.clone());
        }
        reaches
    }

    /// Takes in a row of this agent that an earlier process made dead because the row was rejected alone, with nothing settled
    /// since. A restart must continue this streak: in an outage of rejections, a daemon that cron starts again and again would
    /// otherwise make every row dead.
    pub fn remember_rejected(&mut self, name: AgentId, row: DeletionId) {
        let agent = self.agents.entry(name.clone()).or_default();
        (agent.faults, agent.run) = (agent.faults.saturating_add(1), agent.run.saturating_add(1));
        agent.rows.insert(row);
        self.together.faults = self.together.faults.saturating_add(1);
        self.together.agents.insert(name);
    }

    fn note_answer(&mut self, request: RequestId, batch: &Batch, judgement: &Judgement, elapsed: Duration) {
        let is_single = batch.kind() == Kind::Single;
        let agent = self.agents.entry(batch.lane().agent.clone()).or_default();
        if judgement.is_answer {
            if is_single {
                let was_200 = |cause: Option<Cause>| cause.is_none_or(Cause::is_of_an_answer);
                let was_200 = |row: &Judged| row.verdict != Verdict::Absent && was_200(row.verdict.cause());
                agent.singles_answered |= judgement.rows.iter().all(was_200);
                agent.refusals = 0;
            } else {
                agent.answered = agent.answered.max(Some(request));
            }
        }
        if judgement.is_refused {
            agent.refusals = agent.refusals.saturating_add(1);
            agent.refused_until = elapsed + self.vouch_lasts * REFUSAL_LASTS;
        }
        if judgement.has_settled {
            agent.settled = agent.settled.max(Some(request));
            (agent.faults, agent.run, agent.largest) = (0, 0, 0);
            agent.rows.clear();
            let settled = self.together.settled.max(Some(request));
            // If a single-entry DELETE shows that its row is gone, answers that delete nothing are about their rows. A bulk
            // delete that deletes something makes that evidence obsolete.
            let is_gone = |row: &Judged| matches!(row.verdict, Verdict::Deleted | Verdict::Absent);
            let vouches = is_single && judgement.rows.iter().all(is_gone);
            let vouched_until = vouches.then(|| elapsed + self.vouch_lasts);
            agent.vouched_until = vouched_until;
            self.together = Together { settled, vouched_until, ..Together::default() };
        }
    }

    /// How one more fault of `batch` would change the streaks. `cause` is `None` before the request is sent.
    fn weigh(&self, batch: &Batch, cause: Option<Cause>, elapsed: Duration) -> Weighed {
        let together = self.together.faults.saturating_add(1) >= self.after_faults;
        if cause == Some(Cause::Unreachable) {
            return Weighed { counts: true, reaches: together.then_some(Scope::All) };
        }
        let name = &batch.lane().agent;
        let agent = self.agents.get(name);
        let known = |id: &DeletionId| agent.is_some_and(|agent| agent.rows.contains(id));
        let common = batch.deletions().iter().filter(|row| known(&row.id)).count();
        let (faults, run) = agent.map_or((0, 0), |agent| (agent.faults, agent.run));
        // If all rows of the batch are in the streak already, the agent had nothing else that was due.
        let counts =
            common == 0 || common == batch.len() || run.saturating_add(1) >= self.after_faults * WHATEVER_THE_ROWS;
        let faults = faults.saturating_add(u32::from(counts));
        let is_long = faults >= self.after_faults;
        let others = self.together.agents.iter().any(|other| other != name);
        let is_vouched = cause.is_none_or(Cause::is_of_an_answer)
            && self.together.vouched_until.is_some_and(|until| elapsed < until);
        let reaches = match () {
            () if counts && together && others && !is_vouched => Some(Scope::All),
            () if is_long => Some(Scope::Agent(name.clone())),
            () => None,
        };
        Weighed { counts, reaches }
    }

    /// Forgets the agents without open rows.
    pub fn retain(&mut self, is_open: impl Fn(&AgentId) -> bool) {
        self.agents.retain(|agent, _| is_open(agent));
    }
}

impl Agent {
    fn refuses(&self, elapsed: Duration) -> bool {
        self.refusals >= MAX_ASKS && elapsed < self.refused_until
    }

    fn is_streak(&self, after_faults: u32) -> bool {
        self.faults >= after_faults
    }
}

#[cfg(test)]
#[path = "evidence_tests.rs"]
mod tests;
