//! What other programs have changed of our tables: for both engines.
//!
//! Whoever may write to the database can add a trigger, which then runs inside our transactions: it can leave out our changes, undo
//! them, or never end. We cannot prevent that, but we can see it, and say so.

use std::fmt;

use tracing::{error, warn};

use crate::event;

/// The most names in one message, and the longest in characters.
const MOST_NAMED: usize = 10;
const LONGEST_NAME: usize = 100;

/// One difference between our tables and what our migrations make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaChange {
    /// `trigger`, `index`, `table`, `view`; on a server also `column`, `constraint`, `function`, `rule` and others.
    pub kind: String,
    /// The object's name.
    pub name: String,
    /// The table of ours that it is on.
    pub table: String,
    /// What was done to it.
    pub change: Change,
}

/// What another program did to an object of the schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It added one that is not ours.
    Added,
    /// It changed one of ours.
    Altered,
    /// It dropped one of ours.
    Missing,
    /// One of ours belongs to this role, of which ours is no member.
    OwnedBy(String),
}

impl SchemaChange {
    /// A change, with a name that is not longer than a message bears.
    pub(super) fn new(kind: &str, name: &str, table: &str, change: Change) -> Self {
        let name = name.chars().take(LONGEST_NAME).collect();
        Self { kind: kind.to_owned(), name, table: table.to_owned(), change }
    }

    /// Whether it can change what our statements write. An index that is not ours only makes them slow, unless it is unique or has an
    /// expression, and a leader puts a missing row back.
    pub(super) fn can_interfere(&self) -> bool {
        !["index", "row of"].contains(&&*self.kind) && !matches!(self.change, Change::OwnedBy(_))
    }
}

impl fmt::Display for SchemaChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, name, table, change } = self;
        write!(f, "{kind} {name}")?;
        if !name.eq_ignore_ascii_case(table) && !table.is_empty() {
            write!(f, " on {table}")?;
        }
        match change {
            Change::Added => Ok(()),
            Change::Altered => f.write_str(" (ours, changed)"),
            Change::Missing => f.write_str(" (ours, missing)"),
            Change::OwnedBy(role) => write!(f, " (ours, owned by {role})"),
        }
    }
}

/// All changes in one text, the first ten by name.
#[must_use]
pub fn names_of(changes: &[SchemaChange]) -> String {
    let named: Vec<String> = changes.iter().take(MOST_NAMED).map(SchemaChange::to_string).collect();
    let more = changes.len().saturating_sub(MOST_NAMED);
    if more > 0 { format!("{}, and {more} more", named.join(", ")) } else { named.join(", ") }
}

/// The changes that were seen at the last look.
#[derive(Debug, Default)]
pub(super) struct KnownChanges {
    pub(super) changes: Vec<SchemaChange>,
    /// They have not been reported yet.
    is_news: bool,
}

impl KnownChanges {
    pub(super) fn update(&mut self, found: Vec<SchemaChange>) {
        self.is_news |= !found.is_empty() && found != self.changes;
        self.changes = found;
    }

    /// Whether a foreign trigger or the like can change what our statements write.
    pub(super) fn can_interfere(&self) -> bool {
        self.changes.iter().any(SchemaChange::can_interfere)
    }

    /// The changes, if they have not been reported yet.
    pub(super) fn news(&mut self) -> Option<&[SchemaChange]> {
        std::mem::take(&mut self.is_news).then_some(self.changes.as_slice())
    }
}

/// A statement did not have its effect, and these may be the cause.
#[derive(Debug)]
pub(super) struct Interference {
    pub(super) message: String,
    pub(super) foreign: Vec<SchemaChange>,
    /// What to do if nobody has changed the tables.
    otherwise: &'static str,
}

impl Interference {
    pub(super) fn new(message: String, foreign: &[SchemaChange], otherwise: &'static str) -> Self {
        Self { message, foreign: foreign.to_vec(), otherwise }
    }
}

impl fmt::Display for Interference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { message, foreign, otherwise } = self;
        if foreign.is_empty() {
            return write!(f, "{message}, though the tables are as sweeper makes them: {otherwise}");
        }
        let names = names_of(foreign);
        if foreign.iter().all(|object| object.change == Change::Added) {
            write!(
                f,
                "{message}; not made by sweeper, and at work inside its transactions: {names}; drop what is not sweeper's"
            )
        } else {
            write!(
                f,
                "{message}; the tables are not as sweeper makes them: {names}; drop what is not sweeper's, and restore what is"
            )
        }
    }
}

impl std::error::Error for Interference {}

/// Logs that the tables are not as our migrations make them.
pub(super) fn log_modified(foreign: &[SchemaChange]) {
    warn!(
        event = event::SCHEMA_MODIFIED,
        names = names_of(foreign),
        "the tables are not as sweeper makes them: triggers of others run inside the daemon's transactions, their indexes slow these \
         down, and triggers of ours that are changed or missing do not protect the queue"
    );
}

/// Logs that a foreign trigger may have kept a statement from its effect.
pub(super) fn log_interference(foreign: &[SchemaChange], error: &impl fmt::Display) {
    error!(
        event = event::TRIGGER_INTERFERENCE,
        names = names_of(foreign),
        %error,
        "a statement did not have its effect; nothing more is sent"
    );
}
