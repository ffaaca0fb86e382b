//! What the answers of this life have shown of each agent: whose requests get through, and who has only failed of late.
//!
//! A streak is made of faults in a row about different rows, with nothing settled in between. One agent's streak is a reason
//! to hold that agent; faults in a row that come from at least two agents are a reason to hold everything.
//!
//! Memory is in proportion to the agents that have open rows; a restart begins with none of it.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Duration,
};

use crate::model::{
    deletion::{AgentId, Batch, DeletionId, Kind, RequestId},
    judge::{MAX_ASKS, Standing},
    outcome::{Cause, HoldEnd, Judged, Judgement, Scope, Verdict},
};

/// After this many times the faults of a streak, it is one even if the requests have rows in common: rows that come back
/// together with new ones each time would otherwise never make one.
const WHATEVER_THE_ROWS: u32 = 2;
/// Requests about one row are taken to be refused for this many times the longest hold: a probe comes once in that, and most
/// of them must not be such a request.
const REFUSAL_LASTS: u32 = 10;

/// One agent's streak, and what got through for it.
#[derive(Debug, Default)]
struct Agent {
    /// Faults in a row about different rows.
    faults: u32,
    /// All faults in a row.
    run: u32,
    /// How many rows the largest of them had.
    largest: usize,
    /// The rows of those that count.
    rows: HashSet<DeletionId>,
    settled: Option<RequestId>,
    answered: Option<RequestId>,
    singles_answered: bool,
    /// Elapsed time until which answers that delete nothing are taken to be about their rows.
    vouched_until: Option<Duration>,
    /// Requests about one row that were refused in a row; and the elapsed time until which they are taken to be.
    refusals: u32,
    refused_until: Duration,
}

/// Faults in a row, whoever they are of.
#[derive(Debug, Default)]
struct Together {
    faults: u32,
    agents: BTreeSet<AgentId>,
    /// Those of them that got a status that the contract has no room for.
    contract: BTreeSet<AgentId>,
    settled: Option<RequestId>,
    vouched_until: Option<Duration>,
}

/// What is known of all agents.
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
    /// Streaks of `after_faults`; what an answer about one row says of the others' stands for `vouch_lasts`.
    #[must_use]
    pub fn new(after_faults: u32, vouch_lasts: Duration) -> Self {
        Self { after_faults, vouch_lasts, agents: HashMap::new(), together: Together::default() }
    }

    /// What bears on the verdicts about `batch`. `is_only_work`: nothing else of the agent is due; `is_all_work`: there is
    /// nothing else of it at all. The rest of [`Standing`] is what the worker and its holds know.
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

    /// How many rows the largest request of this agent had that failed since something was settled.
    #[must_use]
    pub fn largest(&self, agent: &AgentId) -> usize {
        self.agents.get(agent).map_or(0, |agent| agent.largest)
    }

    /// Whether a bulk delete of this agent was answered with a 200.
    #[must_use]
    pub fn is_known(&self, agent: &AgentId) -> bool {
        self.agents.get(agent).is_some_and(|agent| agent.answered.is_some())
    }

    /// Whether requests about one row of this agent are refused.
    #[must_use]
    pub fn refuses_asks(&self, agent: &AgentId, elapsed: Duration) -> bool {
        self.agents.get(agent).is_some_and(|agent| agent.refuses(elapsed))
    }

    /// The agents whose faults a hold on everything is for.
    #[must_use]
    pub fn involved(&self) -> BTreeSet<AgentId> {
        self.together.agents.union(&self.together.contract).cloned().collect()
    }

    /// Takes in what `request` came to. What a streak has reached that is now long enough is returned: the agent, or all.
    ///
    /// `is_old_news`: the request was sent before a hold that is on was placed, so a fault of it says nothing more.
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
            // A streak that is long enough needs no more rows to tell the next from.
            if agent.faults <= self.after_faults {
                agent.rows.extend(batch.deletions().iter().map(|row| row.id));
            }
            self.together.faults = self.together.faults.saturating_add(1);
            self.together.agents.insert(batch.lane().agent.clone());
        }
        reaches
    }

    /// Takes in a row of this agent that a daemon before us has given up because it was rejected alone, with nothing settled
    /// since: a restart must not begin a streak anew, or cron would condemn everything in an outage of rejections.
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
            // Said of a row alone, it shows what the answers that delete nothing are about; a bulk delete that deletes
            // shows that it is not needed any more.
            let is_gone = |row: &Judged| matches!(row.verdict, Verdict::Deleted | Verdict::Absent);
            let vouches = is_single && judgement.rows.iter().all(is_gone);
            let vouched_until = vouches.then(|| elapsed + self.vouch_lasts);
            agent.vouched_until = vouched_until;
            self.together = Together { settled, vouched_until, ..Together::default() };
        }
    }

    /// What one more fault by streak would come to; with its cause, if that is known already.
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
        // With all of its rows in the streak already, nothing else of the agent was due.
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

    /// Forgets the agents that have no open rows.
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
