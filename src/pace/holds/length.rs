//! How long a hold lasts.

use super::Holds;
use crate::model::{
    backoff::{Backoff, Jitter},
    clock::Timestamp,
    hold::HoldRow,
    outcome::{Cause, Hold, HoldEnd},
};

/// A throttled hold grows this often, to eight times the base delay. Then it keeps its length for as many probes as a limit per
/// minute needs to reopen with a base delay of a second, so that little of the next minute is lost. After that it grows on: then
/// it is an outage.
const GROWS_FIRST: u32 = 3;
const KEEPS_LENGTH: u32 = 8;

impl Holds {
    /// The delays of holds for this cause.
    fn growth(&self, cause: Cause) -> Backoff {
        if cause.needs_a_person() { self.growth_for_a_person } else { self.growth }
    }

    /// The end of a hold that was renewed `repeats` times.
    pub(super) fn end(
        &self,
        cause: Cause,
        hold: Option<&Hold>,
        repeats: u32,
        now: Timestamp,
        rng: &mut fastrand::Rng,
    ) -> Timestamp {
        let keeps = cause == Cause::Throttled;
        let grown = if keeps { repeats.min(GROWS_FIRST.max(repeats.saturating_sub(KEEPS_LENGTH))) } else { repeats };
        let grown = now.plus(self.growth(cause).jittered(grown.saturating_add(1), Jitter::draw(rng)));
        let until = match hold.map(|hold| hold.end) {
            // The API asked for this time.
            Some(HoldEnd::At(until)) => until,
            Some(HoldEnd::Growing | HoldEnd::ByStreak) | None => grown,
        };
        hold.and_then(|hold| hold.not_before).map_or(until, |asked| until.max(asked))
    }

    /// Whether a hold has grown to its longest length.
    pub(super) fn is_longest(&self, row: &HoldRow) -> bool {
        row.until_at.is_some_and(|until| until.since(row.given_at()) >= self.growth(row.cause).delay(u32::MAX))
    }
}
