//! Why pending rows have not gone out: what each of them waits for, and which holds stop it.

use std::collections::HashMap;

use serde::Serialize;

use crate::{
    model::{
        clock::Timestamp,
        hold::{HoldRow, HoldsByScope},
        outcome::Scope,
    },
    queue::report::{AgentStanding, Standing},
};

/// What a pending row waits for. In the order in which people look at them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reason {
    /// A hold that has no end, or that only a person can end.
    NeedsAPerson,
    /// A hold that ends by itself.
    Held,
    /// A daemon: none runs.
    NoDaemon,
    /// A daemon that has not said how it works, because it is starting or cannot be seen.
    Daemon,
    /// The limit of requests in flight.
    Concurrency,
    /// The rate.
    Rate,
    /// Other rows, to share a request.
    Gathering,
    /// The answer to a request.
    InFlight,
    /// The time at which the row is due.
    DueLater,
}

/// Pending rows with one reason to wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wait {
    pub(crate) reason: Reason,
    pub(crate) rows: u64,
    /// Requests that these rows take, if they could go now.
    pub(crate) requests: u64,
    /// The earliest end of the wait, as far as it is known.
    pub(crate) until: Option<Timestamp>,
}

/// Whether only a person can end the hold.
pub(crate) fn needs_a_person(hold: &HoldRow) -> bool {
    hold.until_at.is_none() || hold.cause.needs_a_person()
}

/// The hold that an agent's rows wait for longest.
pub(crate) fn hold_on<'h>(holds: &HoldsByScope<'h>, agent: &str, now: Timestamp) -> Option<&'h HoldRow> {
    let in_force = holds.on(agent).filter(|hold| !hold.is_over(now));
    in_force.max_by_key(|hold| (needs_a_person(hold), hold.until_at.unwrap_or(Timestamp::MAX)))
}

/// Whether a hold of the daemon's is in force, which ends only when a probe gets through.
pub(crate) fn is_probed(holds: &HoldsByScope<'_>, agent: &str, now: Timestamp) -> bool {
    holds.on(agent).any(|hold| !hold.is_over(now) && !hold.cause.is_of_a_command())
}

/// The pending rows that are not in flight, by agent: those that a hold keeps back.
#[derive(Debug)]
pub(crate) struct Stoppable<'s> {
    all: u64,
    of_agents: HashMap<&'s str, u64>,
}

impl<'s> Stoppable<'s> {
    pub(crate) fn new(standing: &'s Standing) -> Self {
        let rows = |agent: &'s AgentStanding| (agent.agent.as_str(), agent.pending.saturating_sub(agent.in_flight));
        let of_agents: HashMap<_, _> = standing.agents.iter().map(rows).collect();
        Self { all: of_agents.values().sum(), of_agents }
    }

    /// The number of those that wait for the hold.
    pub(crate) fn under(&self, hold: &HoldRow, now: Timestamp) -> u64 {
        match &hold.scope {
            _ if hold.is_over(now) => 0,
            Scope::All => self.all,
            Scope::Agent(held) => self.of_agents.get(held.as_str()).copied().unwrap_or(0),
        }
    }
}

/// What rows wait for that could go now.
fn turn(standing: &Standing) -> Reason {
    let said = standing.daemon.introduction.as_ref();
    match (standing.daemon.running, said.and_then(|said| said.in_effect)) {
        (Some(false), _) => Reason::NoDaemon,
        (_, None) => Reason::Daemon,
        (_, Some(settings)) if standing.calls >= settings.concurrency as u64 => Reason::Concurrency,
        (_, Some(_)) => Reason::Rate,
    }
}

/// What the pending rows of an agent wait for, the most important first.
pub(crate) fn waits_of(
    agent: &AgentStanding,
    standing: &Standing,
    holds: &HoldsByScope<'_>,
    now: Timestamp,
) -> Vec<Wait> {
    let wait = |reason, rows, requests, until| Wait { reason, rows, requests, until };
    let flying = agent.in_flight.min(agent.pending);
    let mut waits = vec![wait(Reason::InFlight, flying, 0, None)];
    if let Some(hold) = hold_on(holds, &agent.agent, now) {
        let reason = if needs_a_person(hold) { Reason::NeedsAPerson } else { Reason::Held };
        waits.push(wait(reason, agent.pending - flying, 0, hold.until_at));
    } else {
        let ready = agent.due.saturating_sub(flying + agent.gathering);
        waits.push(wait(turn(standing), ready, agent.requests, None));
        waits.push(wait(Reason::Gathering, agent.gathering, 0, agent.gathers_until));
        waits.push(wait(Reason::DueLater, agent.pending - agent.due, 0, agent.next_due_at));
    }
    waits.retain(|wait| wait.rows > 0);
    waits.sort_by_key(|wait| wait.reason);
    waits
}

/// The waits of all agents together, the most important first.
pub(crate) fn together<'w>(waits: impl Iterator<Item = &'w Wait>) -> Vec<Wait> {
    let mut all: Vec<Wait> = Vec::new();
    for wait in waits {
        match all.iter_mut().find(|known| known.reason == wait.reason) {
            Some(known) => {
                known.rows += wait.rows;
                known.requests += wait.requests;
                known.until = known.until.into_iter().chain(wait.until).min();
            }
            None => all.push(wait.clone()),
        }
    }
    all.sort_by_key(|wait| wait.reason);
    all
}

#[cfg(test)]
#[path = "why_tests.rs"]
mod tests;
