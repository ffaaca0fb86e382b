//! Holds as the database stores them, and changes of them.

use std::collections::HashMap;

use crate::{
    model::{
        clock::Timestamp,
        outcome::{Cause, Scope},
    },
    printable::shell,
};

/// A row of `holds`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldRow {
    /// What is held.
    pub scope: Scope,
    /// The cause of the hold.
    pub cause: Cause,
    /// When the hold was placed.
    pub since_at: Timestamp,
    /// When the hold ends; `None` if it lasts until somebody deletes the row. After this time, the next request probes a hold of
    /// the daemon's. A hold that a command placed is over.
    pub until_at: Option<Timestamp>,
    /// How often the hold was renewed after a failed probe.
    pub repeats: u32,
    /// When a request last met the cause.
    pub probed_at: Option<Timestamp>,
    /// The reason that a person gave, or who verifies. Holds that the daemon placed have none.
    pub why: Option<String>,
}

impl HoldRow {
    /// Whether a hold that a command placed has ended. It has no fault as its cause, so it needs no probe.
    #[must_use]
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.cause.is_of_a_command() && self.until_at.is_some_and(|until| until <= now)
    }

    /// The command with which a person lifts the hold on `scope` for `cause`.
    #[must_use]
    pub fn command_to_lift(scope: &Scope, cause: Cause) -> String {
        let which = match scope {
            Scope::All => "--all".to_owned(),
            Scope::Agent(agent) => format!("--agent {}", shell(agent.as_str())),
        };
        let cause = if cause == Cause::Operator { String::new() } else { format!(" --cause {}", cause.as_str()) };
        format!("sweeper release {which}{cause}")
    }

    /// When the end of the hold was last set.
    #[must_use]
    pub fn given_at(&self) -> Timestamp {
        self.probed_at.map_or(self.since_at, |probed_at| probed_at.max(self.since_at))
    }

    /// Whether `other` is the same hold, placed by a person once more: only its beginning is another one. Or the same, renewed by
    /// the `sweeper verify` that placed it: only its end is another one.
    #[must_use]
    pub fn is_repeated_by(&self, other: &Self) -> bool {
        let is_placed_again = || *other == Self { since_at: other.since_at, ..self.clone() };
        let is_renewed = || *other == Self { until_at: other.until_at, ..self.clone() };
        (self.cause == Cause::Operator && is_placed_again()) || (self.cause == Cause::Verify && is_renewed())
    }

    /// Whether this hold lasts longer than `other`.
    #[must_use]
    pub fn outlasts(&self, other: &Self) -> bool {
        self.until_at.unwrap_or(Timestamp(i64::MAX)) > other.until_at.unwrap_or(Timestamp(i64::MAX))
    }
}

/// Holds by what they hold. There may be as many holds as agents, so a loop over agents must not go through all holds for each.
#[derive(Debug, Default)]
pub struct HoldsByScope<'h> {
    on_all: Vec<&'h HoldRow>,
    on_agents: HashMap<&'h str, Vec<&'h HoldRow>>,
}

impl<'h> HoldsByScope<'h> {
    /// Sorts these holds.
    #[must_use]
    pub fn new(holds: &'h [HoldRow]) -> Self {
        let mut sorted = Self::default();
        for hold in holds {
            match &hold.scope {
                Scope::All => sorted.on_all.push(hold),
                Scope::Agent(agent) => sorted.on_agents.entry(agent.as_str()).or_default().push(hold),
            }
        }
        sorted
    }

    /// The holds that keep this agent's rows back, or have done so: those on everything first.
    pub fn on(&self, agent: &str) -> impl Iterator<Item = &'h HoldRow> {
        let on_agent = self.on_agents.get(agent).map_or(&[][..], Vec::as_slice);
        self.on_all.iter().chain(on_agent).copied()
    }
}

/// A change of a hold, to be written to `holds` and logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HoldChange {
    /// The row was placed, or replaces the row with its scope and cause.
    Placed {
        /// The row.
        row: HoldRow,
        /// The hold has just grown to its longest length: waiting has not helped.
        is_longest: bool,
    },
    /// The row is to be deleted.
    Lifted {
        /// What was held.
        scope: Scope,
        /// The cause of the hold.
        cause: Cause,
        /// When the hold was to end. A row with the same scope and cause but another end is another hold.
        until_at: Option<Timestamp>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::deletion::AgentId;

    fn hold(scope: Scope, cause: Cause) -> HoldRow {
        let since_at = Timestamp::ZERO;
        HoldRow { scope, cause, since_at, until_at: None, repeats: 0, probed_at: None, why: None }
    }

    #[test]
    fn whoever_asks_about_an_agent_goes_through_its_holds_alone() {
        let agents: Vec<AgentId> = (0..10_000).map(|n| AgentId::parse(&format!("agent-{n}")).unwrap()).collect();
        let mut holds: Vec<HoldRow> =
            agents.iter().map(|agent| hold(Scope::Agent(agent.clone()), Cause::Operator)).collect();
        holds.extend([hold(Scope::All, Cause::Throttled), hold(Scope::Agent(agents[7].clone()), Cause::Forbidden)]);
        let by_scope = HoldsByScope::new(&holds);
        for agent in &agents {
            let of_agent = if *agent == agents[7] { 2 } else { 1 };
            let found = by_scope.on(agent.as_str());
            // A filter over all holds would announce up to 10,002.
            assert_eq!(found.size_hint(), (1 + of_agent, Some(1 + of_agent)), "{agent}");
            let scopes: Vec<&str> = found.map(|hold| hold.scope.as_str()).collect();
            assert!(scopes[0] == "*" && scopes[1..].iter().all(|scope| *scope == agent.as_str()), "{scopes:?}");
        }
        assert_eq!(by_scope.on("another").count(), 1);
    }

    #[test]
    fn the_command_that_lifts_a_hold_can_be_typed_as_it_is() {
        let command =
            |agent: &str, cause| HoldRow::command_to_lift(&Scope::Agent(AgentId::parse(agent).unwrap()), cause);
        assert_eq!(HoldRow::command_to_lift(&Scope::All, Cause::Operator), "sweeper release --all");
        assert_eq!(command("PROJECT-1", Cause::Operator), "sweeper release --agent PROJECT-1");
        assert_eq!(command("a", Cause::UnknownAgent), "sweeper release --agent a --cause unknown_agent");
        assert_eq!(command("a;b", Cause::Operator), "sweeper release --agent 'a;b'");
        assert_eq!(command("it's", Cause::Operator), r"sweeper release --agent 'it'\''s'");
    }
}
