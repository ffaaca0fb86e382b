//! When a run ends, and what it then tells.

use std::time::Duration;

use crate::queue::{Counts, Settlement};

/// When to end without being told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Never.
    Told,
    /// When no row is open any more; or when nothing was settled for so long.
    Empty {
        /// `None`: wait for ever.
        give_up_after: Option<Duration>,
    },
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Told,
    /// No row is open.
    Empty,
    /// Nothing was settled for too long.
    GaveUp,
}

impl Ended {
    /// The string in the logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Told => "told",
            Self::Empty => "empty",
            Self::GaveUp => "gave_up",
        }
    }
}

/// What this worker has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests sent.
    pub requests: u64,
    /// Rows deleted.
    pub deleted: u64,
    /// Rows whose entries are not there.
    pub absent: u64,
    /// Rows that came back to be sent again, once for each time.
    pub retried: u64,
    /// Of them, those whose attempt did not count.
    pub released: u64,
    /// Rows given up.
    pub dead: u64,
    /// The longest that one of our transactions kept others from writing.
    pub longest_write: Duration,
}

impl Totals {
    /// Rows that have reached an end.
    pub(super) fn ended(&self) -> u64 {
        self.deleted + self.absent + self.dead
    }

    /// The verdicts among it.
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
}

/// What a turn did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Requests settled.
    pub settled: usize,
    /// Requests sent.
    pub sent: usize,
    /// Requests on their way.
    pub in_flight: usize,
    /// How long until a turn may have something to do, if nothing comes back and nobody writes; `None`: for ever.
    pub wait: Option<Duration>,
}
