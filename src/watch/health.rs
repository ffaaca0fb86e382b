//! The daemon's health. The loop sets it, and another thread reads it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

/// How long the loop may be silent beside its waits for the database, because a full or slow disk delays its commits.
const MAX_SILENCE: Duration = Duration::from_secs(30);
/// A round of the loop may wait twice for a locked database. This is twice that, as for the service manager's watchdog.
const WAITS: u32 = 4;
/// The value of `beat_ms` before the first beat.
const NEVER: u64 = u64::MAX;

/// The state of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// The daemon opens the database, and settles the requests that a crash left unanswered.
    Starting,
    /// The loop runs.
    Working,
    /// Another daemon leads, and this one is ready to take over.
    StandingBy,
    /// The database cannot be used at present.
    DatabaseDown,
    /// The daemon shuts down. No other state follows.
    Stopping,
}

/// The daemon's health. Clones share it.
#[derive(Clone, Debug)]
pub struct Health(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: AtomicU8,
    /// The elapsed time of the last beat, in milliseconds.
    beat_ms: AtomicU64,
    patience: Duration,
}

impl Health {
    /// The health of a daemon whose queue waits for others for `longest_wait` at most.
    #[must_use]
    pub fn new(longest_wait: Duration) -> Self {
        let patience = longest_wait * WAITS + MAX_SILENCE;
        let (state, beat_ms) = (AtomicU8::new(State::Starting as u8), AtomicU64::new(NEVER));
        Self(Arc::new(Inner { state, beat_ms, patience }))
    }

    /// Sets the state.
    pub fn set(&self, state: State) {
        if self.state() != State::Stopping {
            self.0.state.store(state as u8, Ordering::Relaxed);
        }
    }

    /// Takes in that the loop has come round. `now` is elapsed time.
    pub fn beat(&self, now: Duration) {
        self.0.beat_ms.store(u64::try_from(now.as_millis()).unwrap_or(NEVER - 1), Ordering::Relaxed);
    }

    /// Checks that the loop runs, or has not begun: the migration of a large database may take long.
    ///
    /// # Errors
    /// The time since the last beat, if that is too long.
    pub fn alive(&self, now: Duration) -> Result<(), Duration> {
        let beat_ms = self.0.beat_ms.load(Ordering::Relaxed);
        let silent = now.saturating_sub(Duration::from_millis(beat_ms));
        if beat_ms == NEVER || silent <= self.0.patience { Ok(()) } else { Err(silent) }
    }

    /// The present state.
    #[must_use]
    pub fn state(&self) -> State {
        let state = self.0.state.load(Ordering::Relaxed);
        [State::Starting, State::Working, State::StandingBy, State::DatabaseDown]
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
