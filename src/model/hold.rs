//! A pause of everything or of one agent, as it is kept; and what changes in it.

use crate::model::{
    clock::Timestamp,
    outcome::{Cause, Scope},
};

/// A row of `holds`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldRow {
    /// On what.
    pub scope: Scope,
    /// Why.
    pub cause: Cause,
    /// Since when.
    pub since_at: Timestamp,
    /// Until when; `None` until somebody deletes the row. A time in the past: the next request probes, or, if a person
    /// placed it, it is over.
    pub until_at: Option<Timestamp>,
    /// How often it was placed again after a probe failed.
    pub repeats: u32,
    /// When a request last met what it is for.
    pub probed_at: Option<Timestamp>,
}

impl HoldRow {
    /// Whether nothing of it is left. A person who paused until a time meant that time: there was no fault, so there is
    /// nothing to probe.
    #[must_use]
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.cause == Cause::Operator && self.until_at.is_some_and(|until| until <= now)
    }

    /// When it was given its end.
    #[must_use]
    pub fn given_at(&self) -> Timestamp {
        self.probed_at.map_or(self.since_at, |probed_at| probed_at.max(self.since_at))
    }

    /// Whether it lasts longer than `other`.
    #[must_use]
    pub fn outlasts(&self, other: &Self) -> bool {
        self.until_at.unwrap_or(Timestamp(i64::MAX)) > other.until_at.unwrap_or(Timestamp(i64::MAX))
    }
}

/// What is to be written to `holds`, and said in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HoldChange {
    /// Insert this row, or put it in the place of the one with its scope and cause.
    Placed {
        /// The row.
        row: HoldRow,
        /// It has become as long as such holds become: time has not mended it.
        is_longest: bool,
    },
    /// Delete the row.
    Lifted {
        /// On what it was.
        scope: Scope,
        /// Why it was.
        cause: Cause,
        /// How long it was to be: a row of its scope and cause that is to last otherwise is another one.
        until_at: Option<Timestamp>,
    },
}
