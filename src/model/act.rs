//! What operators do to a queue with commands.

use std::fmt;

use crate::model::{clock::Timestamp, outcome::Scope};

/// The longest name of an operator, in characters.
pub const MAX_OPERATOR: usize = 100;
/// The longest reason that a person can give for a hold, in characters.
pub const MAX_WHY: usize = 500;
/// The longest [`Draft::detail`], in characters.
pub const MAX_DETAIL: usize = 1_000;

/// A row of `acts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActId(pub i64);

/// The kinds of acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActKind {
    /// Placed a hold.
    Hold,
    /// Lifted holds.
    Release,
    /// Made dead rows pending, or rows that wait for their next attempt due.
    Retry,
    /// Removed pending rows.
    Cancel,
    /// Enqueued more than one row, or with a label.
    Enqueue,
    /// Wrote which settled rows a listing of the agent's whole cache did not have.
    Verify,
}

impl ActKind {
    /// All kinds.
    pub const ALL: [Self; 6] = [Self::Hold, Self::Release, Self::Retry, Self::Cancel, Self::Enqueue, Self::Verify];

    /// The word in the database and in the logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Release => "release",
            Self::Retry => "retry",
            Self::Cancel => "cancel",
            Self::Enqueue => "enqueue",
            Self::Verify => "verify",
        }
    }

    /// The kind with this word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

impl fmt::Display for ActKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An act that is about to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// What is done.
    pub kind: ActKind,
    /// Who does it: 1 to [`MAX_OPERATOR`] characters without control characters.
    pub operator: String,
    /// What it is done to; `None`: to several agents.
    pub scope: Option<Scope>,
    /// What was chosen, and the reason: up to [`MAX_DETAIL`] characters without control characters.
    pub detail: Option<String>,
}

/// An act that was done, or begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    /// Its row.
    pub id: ActId,
    /// When it began.
    pub acted_at: Timestamp,
    /// What was done; `None` if the row is invalid.
    pub kind: Option<ActKind>,
    /// Who did it, as the command was told.
    pub operator: String,
    /// `*` or an agent; `None`: several agents.
    pub scope: Option<String>,
    /// The rows of deletions that were changed; of a hold or a release, the holds.
    pub rows: u64,
    /// What was chosen, and the reason.
    pub detail: Option<String>,
    /// The command has done all of it. If not, the command is still at work, or was killed.
    pub ended: bool,
}
