//! Holds as the database stores them, and changes of them.

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
