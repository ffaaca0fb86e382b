//! The values that go through the seam.

use std::time::Duration;

use crate::model::{
    backoff::Backoff,
    clock::Timestamp,
    deletion::{Batch, Deletion, DeletionId, RequestId},
    limits::{ConcurrencyReason, Learnt, RateReason},
    outcome::{Cause, Judged, Verdict},
};

/// The settings and limits of a daemon that decide when due rows go out, for those who look at the queue; and what the next daemon
/// is to know.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InEffect {
    /// The current rate.
    pub requests_per_second: f64,
    /// The configured rate, which the current one never exceeds.
    pub rate_ceiling: f64,
    /// Why the current rate is what it is.
    pub rate_reason: RateReason,
    /// The current limit of requests in flight.
    pub concurrency: usize,
    /// The configured limit of requests in flight.
    pub concurrency_ceiling: usize,
    /// Why the current limit of requests in flight is what it is.
    pub concurrency_reason: ConcurrencyReason,
    /// Most IDs per request, 1 to 20.
    pub batch_size: u8,
    /// How long a request that is not full waits for more rows.
    pub linger: Duration,
    /// The delays between attempts.
    pub retry: Backoff,
    /// What was learnt about the API's limits, for the next daemon.
    pub learnt: Option<Learnt>,
}

impl InEffect {
    /// Whether only limits differ that change by themselves.
    #[must_use]
    pub fn has_settings_of(&self, other: &Self) -> bool {
        let Self { requests_per_second, rate_reason, concurrency, concurrency_reason, learnt, .. } = *other;
        Self { requests_per_second, rate_reason, concurrency, concurrency_reason, learnt, ..*self } == *other
    }
}

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
    /// The sort key of its turn: `due_at`, or `created_at` if the row is due at once.
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

/// What a commit wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// Everything.
    Whole,
    /// Everything but the claims, because others have changed rows or holds meanwhile. None of the claimed requests may be sent.
    WithoutClaims,
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
    /// `rows` has every row of the manifest. False for an orphan, whose rows may have been removed.
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

/// What one step of a sweep did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swept {
    /// Rows that were made dead because their values are not those of a deletion.
    pub dead: u64,
    /// The first few of these rows.
    pub first: Vec<DeletionId>,
    /// What is wrong with the first of them; empty if there is none.
    pub problem: String,
    /// The end of the table is not reached yet.
    pub more: bool,
}

/// What is old enough to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cutoff {
    /// Rows that were settled before this time, and requests that were answered before it.
    pub settled: Timestamp,
    /// The same for rows for which there is a wish with a label, for the requests that name one, for wishes and for acts. Not after
    /// `settled`.
    pub evidence: Timestamp,
}

impl From<Timestamp> for Cutoff {
    /// Evidence is kept for no longer than the rest.
    fn from(at: Timestamp) -> Self {
        Self { settled: at, evidence: at }
    }
}

/// What one step of upkeep did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upkeep {
    /// Rows removed, of all tables.
    pub removed: u64,
    /// There is another step to do.
    pub more: bool,
}

/// How the queue stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Open rows.
    pub pending: u64,
    /// Of them, those whose time has come, sent or not.
    pub due: u64,
    /// Of them, wishes in the inbox that the leader has not taken in; `None`: the engine has no inbox.
    pub inbox: Option<u64>,
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
