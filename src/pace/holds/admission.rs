//! Whether a request may go out while there are holds, and which request probes.

use super::{Held, Holds, answered::is_by_streak};
use crate::model::{
    clock::Timestamp,
    deletion::{AgentId, RequestId},
    outcome::{Cause, Scope},
};

/// Whether a request for an agent may go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The request may go.
    Free,
    /// A hold has ended. One request may go as its probe, and the rest waits for the answer.
    Probe,
    /// The probe is in flight.
    Probing,
    /// The agent is held until this time; `None` until somebody deletes the hold.
    Held(Option<Timestamp>),
}

/// The best content for a probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probe {
    /// How often the batch is halved, because one ID in it may be the reason for the hold.
    pub halved: u32,
    /// A single-entry DELETE tells more than a bulk delete.
    pub asks: bool,
    /// The rows that were enqueued last go first, because the older rows may all be rejected.
    pub newest_first: bool,
}

impl Holds {
    /// Whether any request may go out.
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

    /// When `agent` may probe the hold; without an agent, when anybody may.
    fn until(&self, held: &Held, agent: Option<&AgentId>, now: Timestamp) -> Option<Timestamp> {
        let until = held.row.until_at?;
        if until > now && held.may_probe_early(agent, now) {
            return Some(now);
        }
        let is_of_others = held.row.scope == Scope::All
            && agent.is_some_and(|agent| match &held.asked {
                Some(asked) => asked != agent,
                // The probe could fail for the reason of the agent's own hold, and would seem to fail for everybody.
                None => held.involved.is_some() && self.agents.contains_key(agent),
            });
        // Such an agent waits only a while longer, because no other agent may have anything to send.
        Some(if is_of_others { until.plus(self.growth.base() * 2) } else { until })
    }

    /// Whether there is a hold on `agent` itself.
    #[must_use]
    pub fn is_held_itself(&self, agent: &AgentId) -> bool {
        self.agents.contains_key(agent)
    }

    /// When an agent without a part in the faults may probe the hold on everything, if one may do so before its end.
    #[must_use]
    pub fn early_probe_at(&self) -> Option<Timestamp> {
        let held = self.all.values().filter(|held| held.involved.is_some() && held.probe.is_none());
        held.map(|held| held.early_from).max()
    }

    /// The best content for the next probe for `agent`.
    #[must_use]
    pub fn probe(&self, agent: &AgentId) -> Probe {
        let mut probe = Probe::default();
        for held in self.concerning(Some(agent)) {
            let cause = held.row.cause;
            if held.may_be_content {
                // The first two probes carry halves, and the next ones quarters.
                probe.halved = probe.halved.max((held.row.repeats.saturating_add(2)).ilog2());
            }
            probe.asks |= cause.is_of_an_answer();
            probe.newest_first |= cause == Cause::Rejected;
        }
        probe
    }

    /// If a streak holds `agent` or everything: whether `request` was sent before that hold was placed. Otherwise `None`.
    #[must_use]
    pub fn by_streak(&self, agent: &AgentId, request: RequestId) -> Option<bool> {
        let held = self.concerning(Some(agent)).filter(|held| is_by_streak(held.row.cause));
        held.map(|held| request <= held.newest).reduce(|one, other| one || other)
    }

    /// Takes in that `request` was sent for `agent`. It probes every hold on the agent that has ended. Returns these holds.
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

    /// Takes in that `request` was never sent, so that another one may probe.
    pub fn forget(&mut self, request: RequestId, agent: &AgentId) {
        for held in self.concerning_mut(agent).filter(|held| held.probe == Some(request)) {
            held.probe = None;
        }
    }
}
