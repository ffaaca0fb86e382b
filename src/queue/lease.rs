//! For how long a process may send without having asked whether the queue is still its own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::model::clock::Clock;

/// A queue on a server can be taken over while its owner stands still. So each proof that the queue is still our own is good for a
/// while, and nobody sends after that. Clones share it.
#[derive(Clone, Debug)]
pub struct Lease(Option<Arc<Term>>);

#[derive(Debug)]
struct Term {
    clock: Clock,
    length: Duration,
    /// In elapsed time, in microseconds.
    until: AtomicU64,
}

impl Lease {
    /// That of a queue which nobody can take from a process that lives.
    #[must_use]
    pub fn endless() -> Self {
        Self(None)
    }

    /// A lease that each proof prolongs by `length`. It begins with the first.
    ///
    /// `clock` must count the time for which the machine is suspended.
    #[must_use]
    pub fn new(clock: Clock, length: Duration) -> Self {
        Self(Some(Arc::new(Term { clock, length, until: AtomicU64::new(0) })))
    }

    /// Whether it never ends.
    #[must_use]
    pub fn is_endless(&self) -> bool {
        self.0.is_none()
    }

    /// The elapsed time at which a proof begins.
    #[must_use]
    pub fn begin(&self) -> Duration {
        self.0.as_ref().map_or(Duration::ZERO, |term| term.clock.elapsed())
    }

    /// Takes in a proof that was begun at `begun` and has succeeded.
    pub fn prolong(&self, begun: Duration) {
        if let Some(term) = &self.0 {
            let until = u64::try_from((begun + term.length).as_micros()).unwrap_or(u64::MAX);
            term.until.fetch_max(until, Ordering::Relaxed);
        }
    }

    /// Ends it: the queue may be another one's from now on.
    pub fn end(&self) {
        if let Some(term) = &self.0 {
            term.until.store(0, Ordering::Relaxed);
        }
    }

    /// Whether a request may leave now.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let is_valid =
            |term: &Arc<Term>| u128::from(term.until.load(Ordering::Relaxed)) > term.clock.elapsed().as_micros();
        self.0.as_ref().is_none_or(is_valid)
    }

    /// How often the owner must at least use the queue, so that it stays its own; `None`: never.
    #[must_use]
    pub fn use_every(&self) -> Option<Duration> {
        self.0.as_ref().map(|term| term.length / 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::clock::Timestamp;

    #[test]
    fn a_proof_counts_from_its_beginning_and_a_late_one_shortens_nothing() {
        let (clock, second) = (Clock::manual(Timestamp::ZERO), Duration::from_secs(1));
        let lease = Lease::new(clock.clone(), 3 * second);
        assert!(!lease.is_valid());
        let begun = lease.begin();
        clock.advance(2 * second);
        let later = lease.begin();
        lease.prolong(later);
        lease.prolong(begun);
        clock.advance(3 * second - Duration::from_millis(1));
        assert!(lease.is_valid());
        clock.advance(Duration::from_millis(1));
        assert!(!lease.is_valid());
        lease.prolong(lease.begin());
        lease.end();
        assert!(!lease.is_valid());
        assert!(Lease::endless().is_valid());
    }
}
