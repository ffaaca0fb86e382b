//! A file that seems to be damaged is looked at again before that is believed: one read that the disk fails looks the same.

use std::time::Duration;

use tracing::warn;

use super::Worker;
use crate::{api::Transport, queue::sqlite::StoreError, watch::telemetry::event};

/// How often it is looked at again, each time on a fresh connection.
const MOST_LOOKS: u32 = 2;
/// Doubts that are further apart have nothing to do with each other.
const WINDOW: Duration = Duration::from_secs(600);

/// How often the file has seemed to be damaged, each time soon after the time before.
#[derive(Debug, Default)]
pub struct Doubts {
    times: u32,
    /// Elapsed time.
    last: Duration,
}

impl Doubts {
    /// Counts one more; whether it is to be looked at again, or to be believed.
    pub fn may_look_again(&mut self, now: Duration) -> bool {
        if now.saturating_sub(self.last) > WINDOW {
            self.times = 0;
        }
        self.last = now;
        self.times += 1;
        self.times <= MOST_LOOKS
    }
}

/// Logs it, without what a person would do if it were so.
pub fn tell_of_a_doubt(doubt: &str) {
    let error = doubt;
    warn!(
        event = event::DATABASE_UNAVAILABLE,
        error, "the database seems to be damaged, as it does if one read fails; looking again on a fresh connection"
    );
}

impl<T: Transport> Worker<T> {
    /// After a doubt, goes on with a fresh connection: the same work is done again on that.
    ///
    /// # Errors
    /// If there is none to be had.
    pub(super) async fn go_on_afresh(&mut self) -> Result<(), StoreError> {
        if self.chores.in_doubt {
            self.store.reconnect().await?;
            self.chores.in_doubt = false;
            // What others wrote meanwhile, the fresh connection takes for old.
            self.others_have_written(self.clock.elapsed());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_third_doubt_soon_after_the_others_is_believed_and_one_long_after_is_the_first() {
        let mut doubts = Doubts::default();
        let looks = |doubts: &mut Doubts, seconds| doubts.may_look_again(Duration::from_secs(seconds));
        assert_eq!([0, 1, 2].map(|second| looks(&mut doubts, second)), [true, true, false]);
        assert_eq!([602, 603, 1203].map(|second| looks(&mut doubts, second)), [false, false, false]);
        assert_eq!([1804, 2404, 3004].map(|second| looks(&mut doubts, second)), [true, true, false]);
    }
}
