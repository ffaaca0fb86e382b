//! Where the look for due rows begins in each lane.
//!
//! Entries of settled rows stay at the head of a lane's index until the server cleans up, which it cannot while somebody holds an old
//! snapshot, such as a backup. Without a cursor, each look would step over all of them. The leader is the only writer, so it knows
//! when a row comes in behind a cursor. What others write with SQL of their own is found after the next listing of the lanes, which
//! begins all of them anew.

use std::collections::HashMap;

use crate::model::{clock::Timestamp, deletion::Lane};

/// A place in a lane. No row before it may be claimed: it is not pending, or is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    /// Of the rows with `due_at` 0: the id after which to look.
    pub(super) at_once: i64,
    /// Of the others: the due time and the id after which to look.
    pub(super) later: (i64, i64),
}

impl Cursor {
    /// Before the first row.
    const START: Self = Self { at_once: i64::MIN, later: (i64::MIN, i64::MIN) };
}

/// The cursors of the lanes.
#[derive(Debug, Default)]
pub(super) struct Cursors(HashMap<Lane, Cursor>);

impl Cursors {
    /// Where to look in this lane.
    pub(super) fn of(&self, lane: &Lane) -> Cursor {
        self.0.get(lane).copied().unwrap_or(Cursor::START)
    }

    /// A look at `lane` has found these as its first rows (due time and id), and nothing before them. `at_once` is `None` if the
    /// look did not go from the oldest row on.
    pub(super) fn advance(
        &mut self,
        lane: &Lane,
        at_once: Option<Option<i64>>,
        later: Option<(i64, i64)>,
        now: Timestamp,
    ) {
        let cursor = self.0.entry(lane.clone()).or_insert(Cursor::START);
        if let Some(first) = at_once {
            cursor.at_once = first.map_or(i64::MAX, |id| id - 1);
        }
        // If there is none, no row was due by now.
        cursor.later = later.map_or((now.0, i64::MAX), |(due_at, id)| (due_at, id - 1)).max(cursor.later);
    }

    /// Rows have come into `lane`, the first of them with this due time and this id.
    pub(super) fn set_back(&mut self, lane: &Lane, due_at: i64, id: i64) {
        if let Some(cursor) = self.0.get_mut(lane) {
            if due_at == 0 {
                cursor.at_once = cursor.at_once.min(id - 1);
            } else {
                cursor.later = cursor.later.min((due_at, id - 1));
            }
        }
    }

    /// Begins all lanes anew.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::deletion::AgentId;

    #[test]
    fn a_look_begins_where_the_last_one_found_its_first_row_and_a_row_that_comes_in_before_it_is_found() {
        let lane = Lane { priority: 0, agent: AgentId::parse("a").unwrap(), batch_max: 20 };
        let (mut cursors, now) = (Cursors::default(), Timestamp(1_000));
        assert_eq!(cursors.of(&lane), Cursor::START);
        cursors.set_back(&lane, 5, 7);
        assert_eq!(cursors.of(&lane), Cursor::START, "there was no look yet");
        cursors.advance(&lane, Some(Some(40)), Some((900, 8)), now);
        assert_eq!(cursors.of(&lane), Cursor { at_once: 39, later: (900, 7) });
        cursors.advance(&lane, Some(None), None, now);
        assert_eq!(cursors.of(&lane), Cursor { at_once: i64::MAX, later: (1_000, i64::MAX) });
        cursors.advance(&lane, None, None, Timestamp(500));
        assert_eq!(cursors.of(&lane).later, (1_000, i64::MAX), "with a clock that was set back");
        cursors.set_back(&lane, 0, 50);
        cursors.set_back(&lane, 700, 3);
        assert_eq!(cursors.of(&lane), Cursor { at_once: 49, later: (700, 2) });
        cursors.set_back(&lane, 0, 60);
        cursors.set_back(&lane, 2_000, 1);
        assert_eq!(cursors.of(&lane), Cursor { at_once: 49, later: (700, 2) }, "they come after the cursor");
        cursors.clear();
        assert_eq!(cursors.of(&lane), Cursor::START);
    }
}
