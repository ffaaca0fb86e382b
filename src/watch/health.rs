//! How the daemon is, for whoever asks: said by the loop, read by another thread.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

/// How long the loop may be silent beside what it waits for the database: a full disk's errors and a slow one's commits.
const MAX_SILENCE: Duration = Duration::from_secs(30);
/// A round of the loop may wait for a locked file twice; twice that, as for the service manager's watchdog.
const BUSY_TIMEOUTS: u32 = 4;
/// What `beat_ms` is before the first beat.
const NEVER: u64 = u64::MAX;

/// What the daemon is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// The database is being opened, and what a crash left is being settled.
    Starting,
    /// The loop turns.
    Working,
    /// The database cannot be used just now.
    DatabaseDown,
    /// The end has begun; nothing else comes after it.
    Stopping,
}

/// How the daemon is; clones share it.
#[derive(Clone, Debug)]
pub struct Health(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: AtomicU8,
    /// Elapsed time of the last beat.
    beat_ms: AtomicU64,
    patience: Duration,
}

impl Health {
    /// Of a daemon that waits for so long when the database is locked.
    #[must_use]
    pub fn new(busy_timeout: Duration) -> Self {
        let patience = busy_timeout * BUSY_TIMEOUTS + MAX_SILENCE;
        let (state, beat_ms) = (AtomicU8::new(State::Starting as u8), AtomicU64::new(NEVER));
        Self(Arc::new(Inner { state, beat_ms, patience }))
    }

    /// What it is about from now on.
    pub fn set(&self, state: State) {
        if self.state() != State::Stopping {
            self.0.state.store(state as u8, Ordering::Relaxed);
        }
    }

    /// The loop has come round; `now` is elapsed time.
    pub fn beat(&self, now: Duration) {
        self.0.beat_ms.store(u64::try_from(now.as_millis()).unwrap_or(NEVER - 1), Ordering::Relaxed);
    }

    /// Whether the loop turns, or has not begun to: a migration of a large database takes its time.
    ///
    /// # Errors
    /// For how long it has not, if that is too long.
    pub fn alive(&self, now: Duration) -> Result<(), Duration> {
        let beat_ms = self.0.beat_ms.load(Ordering::Relaxed);
        let silent = now.saturating_sub(Duration::from_millis(beat_ms));
        if beat_ms == NEVER || silent <= self.0.patience { Ok(()) } else { Err(silent) }
    }

    /// What it is about.
    #[must_use]
    pub fn state(&self) -> State {
        let state = self.0.state.load(Ordering::Relaxed);
        [State::Starting, State::Working, State::DatabaseDown]
            .into_iter()
            .find(|known| *known as u8 == state)
            .unwrap_or(State::Stopping)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_is_silent_for_longer_than_it_may_wait_is_not_alive() {
        let health = Health::new(Duration::from_secs(5));
        let seconds = Duration::from_secs;
        assert_eq!(health.alive(seconds(100_000)), Ok(()), "it has not begun");
        health.beat(seconds(100));
        assert_eq!(health.alive(seconds(100 + 4 * 5 + 30)), Ok(()));
        assert_eq!(health.alive(seconds(151)), Err(seconds(51)));
        health.beat(seconds(151));
        assert_eq!(health.alive(seconds(151)), Ok(()));
        assert_eq!(health.alive(seconds(3)), Ok(()), "whoever asks read the clock before");
    }

    #[test]
    fn nothing_comes_after_the_end() {
        let health = Health::new(Duration::ZERO);
        assert_eq!(health.state(), State::Starting);
        for state in [State::DatabaseDown, State::Working, State::Stopping] {
            health.set(state);
            assert_eq!(health.state(), state);
        }
        health.set(State::DatabaseDown);
        assert_eq!(health.state(), State::Stopping);
    }
}
