//! Which lane's turn it is: what the worker remembers of the lanes between two listings.
//!
//! Memory is in proportion to the lanes that have open rows, never to the rows.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, VecDeque},
};

use crate::{clock::Timestamp, deletion::Lane};

/// The lanes that have, or soon will have, something to send.
#[derive(Debug, Default)]
pub struct Lanes {
    /// Lanes worth a look now: highest priority first, inside of one taking turns.
    ready: BTreeMap<Reverse<i64>, VecDeque<Lane>>,
    /// Lanes worth a look later; those that are so at the same time, in the order in which they came.
    waiting: BTreeMap<Wait, Lane>,
    /// Where each lane is: `None` in `ready`, else in `waiting`.
    place: HashMap<Lane, Option<Wait>>,
    /// How many lanes came so far.
    came: u64,
}

/// When a lane is worth a look, and its number among those that came.
type Wait = (Timestamp, u64);

impl Lanes {
    /// Takes in a listing of all lanes that have open rows, each with the time at which its first row is due.
    ///
    /// Ready lanes keep their turn, even if the listing does not have them: a look at an empty lane drops it.
    pub fn list(&mut self, listing: Vec<(Lane, Timestamp)>) {
        for lane in std::mem::take(&mut self.waiting).into_values() {
            self.place.remove(&lane);
        }
        for (lane, due_at) in listing {
            self.note(lane, due_at);
        }
    }

    /// Remembers that `lane` is worth a look at `look_at`, unless an earlier look is due anyway.
    pub fn note(&mut self, lane: Lane, look_at: Timestamp) {
        match self.place.get(&lane) {
            None => {}
            Some(None) => return,
            Some(Some((known, _))) if *known <= look_at => return,
            Some(Some(known)) => {
                self.waiting.remove(known);
            }
        }
        self.came += 1;
        let wait = (look_at, self.came);
        self.place.insert(lane.clone(), Some(wait));
        self.waiting.insert(wait, lane);
    }

    /// Takes up to `most` lanes out whose time has come: of the highest priority that has any, and only of that.
    pub fn take(&mut self, now: Timestamp, most: usize) -> Vec<Lane> {
        while let Some(first) = self.waiting.first_entry()
            && first.key().0 <= now
        {
            let lane = first.remove();
            self.push_ready(lane);
        }
        let Some(mut entry) = self.ready.first_entry() else { return Vec::new() };
        let queue = entry.get_mut();
        let taken: Vec<Lane> = queue.drain(..most.min(queue.len())).collect();
        if queue.is_empty() {
            entry.remove();
        }
        for lane in &taken {
            self.place.remove(lane);
        }
        taken
    }

    /// Puts a lane behind the others of its priority: it had its turn, and has more.
    pub fn put_back(&mut self, lane: Lane) {
        self.forget_waiting(&lane);
        self.push_ready(lane);
    }

    /// Puts lanes that were taken and not served back to where they were.
    pub fn restore(&mut self, lanes: Vec<Lane>) {
        for lane in lanes.into_iter().rev() {
            self.forget_waiting(&lane);
            if self.place.insert(lane.clone(), None) != Some(None) {
                self.ready.entry(Reverse(lane.priority)).or_default().push_front(lane);
            }
        }
    }

    /// When the next lane is worth a look: the epoch if one is now, `None` if there is none.
    #[must_use]
    pub fn next_look(&self) -> Option<Timestamp> {
        if self.ready.is_empty() {
            self.waiting.first_key_value().map(|((at, _), _)| *at)
        } else {
            Some(Timestamp::ZERO)
        }
    }

    fn push_ready(&mut self, lane: Lane) {
        if self.place.insert(lane.clone(), None) != Some(None) {
            self.ready.entry(Reverse(lane.priority)).or_default().push_back(lane);
        }
    }

    fn forget_waiting(&mut self, lane: &Lane) {
        if let Some(Some(wait)) = self.place.get(lane) {
            self.waiting.remove(wait);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deletion::AgentId;

    fn lane(priority: i64, agent: &str) -> Lane {
        Lane { priority, agent: AgentId::parse(agent).unwrap(), batch_max: 20 }
    }

    fn names(lanes: &[Lane]) -> Vec<&str> {
        lanes.iter().map(|lane| lane.agent.as_str()).collect()
    }

    const NOW: Timestamp = Timestamp(100);

    #[test]
    fn lanes_take_turns_inside_a_priority_and_the_higher_goes_first() {
        let mut lanes = Lanes::default();
        lanes.list(["a", "b", "c"].map(|agent| (lane(0, agent), Timestamp::ZERO)).into());
        lanes.note(lane(9, "urgent"), NOW);
        assert_eq!(names(&lanes.take(NOW, 5)), ["urgent"], "one priority at a time");
        let first = lanes.take(NOW, 2);
        assert_eq!(names(&first), ["a", "b"]);
        first.into_iter().for_each(|lane| lanes.put_back(lane));
        assert_eq!(names(&lanes.take(NOW, 2)), ["c", "a"]);
    }

    #[test]
    fn a_listing_does_not_disturb_the_order_of_turns() {
        let mut lanes = Lanes::default();
        let listing = || ["a", "b", "c"].map(|agent| (lane(0, agent), Timestamp::ZERO)).into();
        lanes.list(listing());
        lanes.take(NOW, 1).into_iter().for_each(|lane| lanes.put_back(lane));
        lanes.list(listing());
        assert_eq!(names(&lanes.take(NOW, 9)), ["b", "c", "a"]);
        assert_eq!(lanes.next_look(), None);
    }

    #[test]
    fn a_lane_is_looked_at_when_its_time_has_come_and_never_twice_over() {
        let mut lanes = Lanes::default();
        lanes.note(lane(0, "a"), Timestamp(200));
        lanes.note(lane(0, "a"), Timestamp(150));
        lanes.note(lane(0, "a"), Timestamp(300));
        assert_eq!(lanes.next_look(), Some(Timestamp(150)));
        assert!(lanes.take(NOW, 9).is_empty());
        assert_eq!(names(&lanes.take(Timestamp(400), 9)), ["a"]);
        assert!(lanes.take(Timestamp(400), 9).is_empty());
    }

    #[test]
    fn lanes_that_were_not_served_keep_their_turn() {
        let mut lanes = Lanes::default();
        lanes.list(["a", "b", "c"].map(|agent| (lane(0, agent), Timestamp::ZERO)).into());
        let taken = lanes.take(NOW, 2);
        lanes.note(lane(0, "b"), Timestamp(500));
        lanes.restore(taken);
        assert_eq!(names(&lanes.take(NOW, 9)), ["a", "b", "c"]);
    }
}
