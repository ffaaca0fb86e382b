//! When a run ends, what it reports, and what a turn did.

use std::time::Duration;

use crate::queue::{Counts, Settlement};

/// When to end without being told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Never.
    Told,
    /// When no row is open any more.
    Empty {
        /// End also when no row has reached an end for this long. `None`: never.
        give_up_after: Option<Duration>,
    },
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to end.
    Told,
    /// No row is open.
    Empty,
    /// No row reached an end for too long.
    GaveUp,
    /// As many requests as it may send are sent, and each is settled.
    MaxRequests,
}

impl Ended {
    /// The name in the logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Told => "told",
            Self::Empty => "empty",
            Self::GaveUp => "gave_up",
            Self::MaxRequests => "max_requests",
        }
    }
}

/// What this worker has done since it was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests sent.
    pub requests: u64,
    /// Rows deleted.
    pub deleted: u64,
    /// Rows that are absent: the API knows no such entry.
    pub absent: u64,
    /// Retries and releases: each time that a row comes back is counted.
    pub retried: u64,
    /// Releases among them: the attempt did not count.
    pub released: u64,
    /// Rows that are dead.
    pub dead: u64,
    /// Rows among them that a request of this worker made dead. The others are of an earlier daemon's requests, or invalid.
    pub dead_by_request: u64,
    /// Duration of the longest of our transactions. During it, no other process could write.
    pub longest_write: Duration,
}

impl Totals {
    /// Adds those of another worker.
    pub fn merge(&mut self, other: &Self) {
        let Self { requests, deleted, absent, retried, released, dead, dead_by_request, longest_write } = *other;
        self.requests += requests;
        self.deleted += deleted;
        self.absent += absent;
        self.retried += retried;
        self.released += released;
        self.dead += dead;
        self.dead_by_request += dead_by_request;
        self.longest_write = self.longest_write.max(longest_write);
    }

    /// Rows that have reached an end.
    pub(super) fn ended(&self) -> u64 {
        self.deleted + self.absent + self.dead
    }

    /// The verdicts in these totals.
    pub(super) fn counts(&self) -> Counts {
        let Self { deleted, absent, retried, released, dead, .. } = *self;
        Counts { deleted, absent, retried, released, dead }
    }

    pub(super) fn add(&mut self, settlement: &Settlement) {
        let Counts { deleted, absent, retried, released, dead } = settlement.counts();
        self.deleted += deleted;
        self.absent += absent;
        self.retried += retried;
        self.released += released;
        self.dead += dead;
    }

    /// Adds the verdicts on the rows of a request that this worker has sent.
    pub(super) fn add_own(&mut self, settlement: &Settlement) {
        self.add(settlement);
        self.dead_by_request += settlement.counts().dead;
    }
}

/// What a turn did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Requests settled.
    pub settled: usize,
    /// Requests sent.
    pub sent: usize,
    /// Requests in flight.
    pub in_flight: usize,
    /// Time until a turn may have something to do, if no call comes back and nobody writes. `None`: no such time.
    pub wait: Option<Duration>,
}
