//! What crosses the seam between the worker and the engine that keeps the queue.

pub mod sqlite;

use std::time::Duration;

use crate::model::{
    clock::Timestamp,
    deletion::{Batch, Deletion, DeletionId, RequestId},
    outcome::{Cause, Judged, Verdict},
};

/// A request that was claimed and never answered: its daemon died.
#[derive(Debug, PartialEq, Eq)]
pub struct Orphan {
    /// The request.
    pub request: RequestId,
    /// What of its manifest is still pending; none if an operator took all of it out.
    pub batch: Option<Batch>,
}

/// What a look at a lane found.
#[derive(Debug, PartialEq, Eq)]
pub struct Look {
    /// Due rows, in the order in which they go out.
    pub due: Vec<DueRow>,
    /// Rows that no request can carry, or that are never due: their CHECKs were switched off for the INSERT.
    pub unusable: Vec<DeletionId>,
    /// When the first row that is not due yet will be.
    pub next_due_at: Option<Timestamp>,
}

impl Look {
    /// Takes in what a second look at the same lane found, whose time has come: the row that could have gone first comes
    /// first; with `as_they_are`, those that were found first.
    pub fn merge(&mut self, later: Self, most: usize, as_they_are: bool) {
        self.due.extend(later.due);
        if !as_they_are {
            // Both are in this order, and the sort finds that out.
            self.due.sort_by_key(|row| (row.turn, row.deletion.id));
        }
        self.due.truncate(most);
        self.unusable.extend(later.unusable);
        self.next_due_at = later.next_due_at;
    }
}

/// A row that may be claimed.
#[derive(Debug, PartialEq, Eq)]
pub struct DueRow {
    /// The row.
    pub deletion: Deletion,
    /// Since when it could have been sent.
    pub due_since: Timestamp,
    /// What its turn goes by: its time, or, if it is due at once, when it was enqueued.
    pub turn: Timestamp,
    /// It comes back from an attempt that failed, and counted.
    pub is_retry: bool,
}

/// A batch about to be sent.
#[derive(Debug)]
pub struct Claim {
    /// From the queue's transaction.
    pub request: RequestId,
    /// The UUID that goes with it.
    pub correlation_id: uuid::Uuid,
    /// Its content.
    pub batch: Batch,
}

/// An answered request, judged.
#[derive(Debug)]
pub struct Settlement {
    /// The request.
    pub request: RequestId,
    /// When its answer was judged.
    pub answered_at: Timestamp,
    /// The HTTP status, if there was one.
    pub status: Option<u16>,
    /// The cause, unless it was an answer.
    pub fault: Option<Cause>,
    /// What was said with it.
    pub detail: Option<String>,
    /// The correlation ID that came back.
    pub remote_id: Option<String>,
    /// What becomes of its rows.
    pub rows: Vec<Judged>,
    /// Those are all that it was sent with; of one that a crash left unanswered, some may be gone.
    pub is_whole: bool,
}

/// How many rows got each kind of verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Deleted.
    pub deleted: u64,
    /// Not there.
    pub absent: u64,
    /// To come back.
    pub retried: u64,
    /// Of them, those whose attempt does not count.
    pub released: u64,
    /// Given up.
    pub dead: u64,
}

impl Settlement {
    /// How many rows got each kind of verdict.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for row in &self.rows {
            let count = match row.verdict {
                Verdict::Deleted => &mut counts.deleted,
                Verdict::Absent => &mut counts.absent,
                Verdict::Retry { .. } => &mut counts.retried,
                Verdict::Release { .. } => {
                    counts.released += 1;
                    &mut counts.retried
                }
                Verdict::Dead { .. } => &mut counts.dead,
            };
            *count += 1;
        }
        counts
    }
}

/// What one step of pruning did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pruned {
    /// Rows removed, of all tables.
    pub removed: u64,
    /// The end of the tables is not reached yet.
    pub more: bool,
}

/// How the queue stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Open rows.
    pub pending: u64,
    /// Of them, those whose time has come, sent or not.
    pub due: u64,
    /// Dead rows that are still kept.
    pub dead: u64,
    /// How long the oldest due row has been due.
    pub oldest_due: Duration,
}

/// How the queue stands, and what holds it up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// The rows.
    pub tally: Tally,
    /// The cause of each hold.
    pub holds: Vec<Cause>,
}
