//! What commands change in a queue, and how that went: for both engines.

use crate::model::{
    clock::Timestamp,
    deletion::{AgentId, DeletionId, EntryId, State},
    hold::HoldRow,
    label::Label,
    outcome::Scope,
};

/// A deletion to be enqueued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The agent whose cache has the entry.
    pub agent: AgentId,
    /// The entry to delete.
    pub entry: EntryId,
    /// Higher goes first.
    pub priority: i64,
    /// The deletion must not be sent before this time.
    pub due_at: Timestamp,
    /// The name under which it can be followed.
    pub label: Option<Label>,
}

/// How many deletions of one call had which effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Enqueued {
    /// Wishes in the inbox of a queue on a server: the daemon makes rows of them. Of these, `waiting` and `reopened` are those whose
    /// rows were open or settled at that moment. The other fields are 0.
    pub accepted: u64,
    /// New rows.
    pub inserted: u64,
    /// Rows that were open, and keep their due time. They took over a higher priority.
    pub waiting: u64,
    /// How many of `waiting` were to be due later than the row is. That time is dropped.
    pub dropped: u64,
    /// Rows that were open and untried, and are due earlier now.
    pub earlier: u64,
    /// Settled rows that were reopened.
    pub reopened: u64,
}

/// How many rows a step changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Rows that were changed.
    pub done: u64,
    /// Rows that could not be changed, because they have values that the schema does not allow.
    pub stuck: u64,
    /// After a cancel: those of the rows that were in flight, and may be deleted all the same.
    pub in_flight: u64,
}

/// What a step of cancelling a label did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cancelled {
    /// Wishes that were cancelled.
    pub wishes: u64,
    /// Rows that stay pending, because somebody else wishes for the same entries.
    pub kept: u64,
    /// Rows that were in flight, and may be deleted all the same.
    pub in_flight: u64,
}

/// A hold that an operator places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// What is held.
    pub scope: Scope,
    /// When the hold ends; `None`: when somebody releases it.
    pub until_at: Option<Timestamp>,
    /// The reason: up to [`MAX_WHY`](crate::model::act::MAX_WHY) characters without control characters.
    pub why: Option<String>,
}

/// A settled row as it was read. It is changed only if it is still like this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SettledRow {
    /// Its number.
    pub id: DeletionId,
    /// Deleted, absent or dead.
    pub state: State,
    /// When it ended.
    pub settled_at: Timestamp,
}

/// The rows that a hold concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Concerned {
    /// Pending rows, those in flight included.
    pub pending: u64,
    /// Rows of requests that are on their way, and are not stopped.
    pub in_flight: u64,
}

/// What was released, and what is left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// The holds that were lifted.
    pub lifted: Vec<HoldRow>,
    /// All holds that are left, of any scope.
    pub left: Vec<HoldRow>,
}

/// The due time of rows that are to be due now. The table refuses due times before 1973. With a clock that begins in 1970, the rows
/// are due at once.
pub(super) fn due_now(now: Timestamp) -> Timestamp {
    if now < Timestamp::LEAST_DUE { Timestamp::ZERO } else { now }
}
