//! The order of turns: the lanes in memory between two listings.
//!
//! Memory grows with the lanes that have open rows, never with the rows. Times are elapsed time: setting the wall clock must not
//! make a lane wait.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use crate::model::deletion::{ALONE, AgentId, Lane};

/// The lanes that have something to send, or will have.
#[derive(Debug, Default)]
pub struct Lanes {
    /// Lanes to look at now: highest priority first, taking turns inside a priority.
    ready: BTreeMap<Reverse<i64>, VecDeque<Lane>>,
    /// Lanes to look at later, by time and then in the order in which they came.
    waiting: BTreeMap<Wait, Lane>,
    /// Agents whose hold is over and may be probed, in turns. Their lanes are in `places`.
    probing: VecDeque<AgentId>,
    /// Where each lane is, by agent.
    places: HashMap<AgentId, BTreeMap<Key, Place>>,
    /// Number of lanes that came so far.
    came: u64,
}

/// The time of the next look at a lane, and its number among those that came.
type Wait = (Duration, u64);

/// A lane of an agent: priority, `batch_max`.
type Key = (i64, u8);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Ready,
    /// True: it has due rows that wait for a hold.
    Waiting(Wait, bool),
    Probing,
}

impl Lanes {
    /// Replaces the waiting lanes by a listing of all lanes with open rows, each with the time of its next look.
    ///
    /// Ready lanes keep their turn, even if the listing does not have them: the look at an empty lane drops it.
    pub fn list(&mut self, listing: Vec<(Lane, Duration)>) {
        for lane in std::mem::take(&mut self.waiting).into_values() {
            self.forget(&lane);
        }
        for (lane, look_at) in listing {
            self.note(lane, look_at);
        }
    }

    /// Schedules a look at `lane` at `look_at`, unless an earlier one is scheduled.
    pub fn note(&mut self, lane: Lane, look_at: Duration) {
        self.wait(lane, look_at, false);
    }

    /// Schedules a look at `lane` at the end of the hold that its due rows wait for.
    pub fn hold(&mut self, lane: Lane, until: Duration) {
        self.wait(lane, until, true);
    }

    fn wait(&mut self, lane: Lane, look_at: Duration, is_held: bool) {
        match self.place(&lane) {
            None => {}
            Some(Place::Ready | Place::Probing) => return,
            Some(Place::Waiting((known, _), _)) if known <= look_at => return,
            Some(Place::Waiting(known, _)) => {
                self.waiting.remove(&known);
            }
        }
        self.came += 1;
        let wait = (look_at, self.came);
        self.put(&lane, Place::Waiting(wait, is_held));
        self.waiting.insert(wait, lane);
    }

    /// Takes the next lane whose time has come, of the highest priority.
    pub fn next(&mut self, now: Duration) -> Option<Lane> {
        self.wake(now);
        let mut entry = self.ready.first_entry()?;
        let lane = entry.get_mut().pop_front();
        if entry.get().is_empty() {
            entry.remove();
        }
        lane.inspect(|lane| self.forget(lane))
    }

    fn wake(&mut self, now: Duration) {
        while let Some(first) = self.waiting.first_entry()
            && first.key().0 <= now
        {
            let lane = first.remove();
            self.push_ready(lane);
        }
    }

    /// Puts a lane that had its turn and has more rows behind the others of its priority.
    pub fn put_back(&mut self, lane: Lane) {
        self.leave_waiting(&lane);
        self.push_ready(lane);
    }

    /// Puts lanes that were taken and not served back in front.
    pub fn restore(&mut self, lanes: Vec<Lane>) {
        for lane in lanes.into_iter().rev() {
            self.leave_waiting(&lane);
            if self.place(&lane) != Some(Place::Ready) {
                self.put(&lane, Place::Ready);
                self.ready.entry(Reverse(lane.priority)).or_default().push_front(lane);
            }
        }
    }

    /// Puts a lane aside whose agent may probe its hold: probes take turns of their own.
    pub fn set_aside(&mut self, lane: &Lane) {
        self.leave_waiting(lane);
        let lanes = self.places.get(&lane.agent);
        if !lanes.is_some_and(|lanes| lanes.values().any(|place| *place == Place::Probing)) {
            self.probing.push_back(lane.agent.clone());
        }
        self.put(lane, Place::Probing);
    }

    /// Takes the next agent that may probe, with its lanes.
    pub fn next_probing(&mut self) -> Option<(AgentId, Vec<Lane>)> {
        let agent = self.probing.pop_front()?;
        let lanes = self.places.get(&agent).into_iter().flatten();
        let lanes = lanes.filter(|(_, place)| **place == Place::Probing);
        let lanes = lanes.map(|((priority, batch_max), _)| Lane {
            priority: *priority,
            agent: agent.clone(),
            batch_max: *batch_max,
        });
        let lanes: Vec<Lane> = lanes.collect();
        lanes.iter().for_each(|lane| self.forget(lane));
        Some((agent, lanes))
    }

    /// Takes the lanes of an agent whose rows get single-entry DELETEs and whose time has come.
    pub fn take_alone(&mut self, agent: &AgentId, now: Duration) -> Vec<Lane> {
        let has_come = |place: &Place| match place {
            Place::Ready => true,
            Place::Waiting((at, _), _) => *at <= now,
            Place::Probing => false,
        };
        let lanes = self.places.get(agent).into_iter().flatten();
        let lanes = lanes.filter(|((_, batch_max), place)| *batch_max == ALONE && has_come(place));
        let lanes = lanes.map(|((priority, batch_max), _)| Lane {
            priority: *priority,
            agent: agent.clone(),
            batch_max: *batch_max,
        });
        let lanes: Vec<Lane> = lanes.collect();
        for lane in &lanes {
            self.leave_waiting(lane);
            let priority = Reverse(lane.priority);
            if self.place(lane) == Some(Place::Ready)
                && let Some(ready) = self.ready.get_mut(&priority)
            {
                ready.retain(|other| other != lane);
                if ready.is_empty() {
                    self.ready.remove(&priority);
                }
            }
            self.forget(lane);
        }
        lanes
    }

    /// Whether the agent has due rows that are not in flight.
    #[must_use]
    pub fn has_due(&self, agent: &AgentId, now: Duration) -> bool {
        let mut places = self.places.get(agent).into_iter().flat_map(BTreeMap::values);
        places.any(|place| match place {
            Place::Ready | Place::Probing | Place::Waiting(_, true) => true,
            Place::Waiting((look_at, _), false) => *look_at <= now,
        })
    }

    /// Whether the agent has a lane.
    #[must_use]
    pub fn knows(&self, agent: &AgentId) -> bool {
        self.places.contains_key(agent)
    }

    /// The elapsed time of the next look: zero if one is due now, `None` if there is no lane.
    #[must_use]
    pub fn next_look(&self) -> Option<Duration> {
        if self.ready.is_empty() && self.probing.is_empty() {
            self.waiting.first_key_value().map(|((at, _), _)| *at)
        } else {
            Some(Duration::ZERO)
        }
    }

    fn push_ready(&mut self, lane: Lane) {
        if self.place(&lane) != Some(Place::Ready) {
            self.put(&lane, Place::Ready);
            self.ready.entry(Reverse(lane.priority)).or_default().push_back(lane);
        }
    }

    fn place(&self, lane: &Lane) -> Option<Place> {
        self.places.get(&lane.agent)?.get(&(lane.priority, lane.batch_max)).copied()
    }

    fn put(&mut self, lane: &Lane, place: Place) {
        let lanes = match self.places.get_mut(&lane.agent) {
            Some(lanes) => lanes,
            None => self.places.entry(lane.agent.clone()).or_default(),
        };
        lanes.insert((lane.priority, lane.batch_max), place);
    }

    fn forget(&mut self, lane: &Lane) {
        if let Some(lanes) = self.places.get_mut(&lane.agent) {
            lanes.remove(&(lane.priority, lane.batch_max));
            if lanes.is_empty() {
                self.places.remove(&lane.agent);
            }
        }
    }

    fn leave_waiting(&mut self, lane: &Lane) {
        if let Some(Place::Waiting(wait, _)) = self.place(lane) {
            self.waiting.remove(&wait);
        }
    }
}
#[cfg(test)]
mod tests {
    use super::*;

    fn lane(priority: i64, agent: &str) -> Lane {
        Lane { priority, agent: AgentId::parse(agent).unwrap(), batch_max: 20 }
    }

    /// Up to `most` lanes of the highest priority that has any.
    fn take(lanes: &mut Lanes, now: Duration, most: usize) -> Vec<Lane> {
        let mut taken: Vec<Lane> = Vec::new();
        while taken.len() < most
            && let Some(lane) = lanes.next(now)
        {
            if taken.first().is_some_and(|first| first.priority != lane.priority) {
                lanes.restore(vec![lane]);
                break;
            }
            taken.push(lane);
        }
        taken
    }

    fn names(lanes: &[Lane]) -> Vec<&str> {
        lanes.iter().map(|lane| lane.agent.as_str()).collect()
    }

    const NOW: Duration = Duration::from_secs(100);

    #[test]
    fn lanes_take_turns_inside_a_priority_and_the_higher_goes_first() {
        let mut lanes = Lanes::default();
        lanes.list(["a", "b", "c"].map(|agent| (lane(0, agent), Duration::ZERO)).into());
        lanes.note(lane(9, "urgent"), NOW);
        assert_eq!(names(&take(&mut lanes, NOW, 5)), ["urgent"], "one priority at a time");
        let first = take(&mut lanes, NOW, 2);
        assert_eq!(names(&first), ["a", "b"]);
        first.into_iter().for_each(|lane| lanes.put_back(lane));
        assert_eq!(names(&take(&mut lanes, NOW, 2)), ["c", "a"]);
    }

    #[test]
    fn a_listing_does_not_disturb_the_order_of_turns() {
        let mut lanes = Lanes::default();
        let listing = || ["a", "b", "c"].map(|agent| (lane(0, agent), Duration::ZERO)).into();
        lanes.list(listing());
        take(&mut lanes, NOW, 1).into_iter().for_each(|lane| lanes.put_back(lane));
        lanes.list(listing());
        assert_eq!(names(&take(&mut lanes, NOW, 9)), ["b", "c", "a"]);
        assert_eq!(lanes.next_look(), None);
    }

    #[test]
    fn a_lane_is_looked_at_when_its_time_has_come_and_never_twice_over() {
        let mut lanes = Lanes::default();
        lanes.note(lane(0, "a"), Duration::from_secs(200));
        lanes.note(lane(0, "a"), Duration::from_secs(150));
        lanes.note(lane(0, "a"), Duration::from_secs(300));
        assert_eq!(lanes.next_look(), Some(Duration::from_secs(150)));
        assert!(take(&mut lanes, NOW, 9).is_empty());
        assert_eq!(names(&take(&mut lanes, Duration::from_secs(400), 9)), ["a"]);
        assert!(take(&mut lanes, Duration::from_secs(400), 9).is_empty());
    }

    #[test]
    fn lanes_that_were_not_served_keep_their_turn() {
        let mut lanes = Lanes::default();
        lanes.list(["a", "b", "c"].map(|agent| (lane(0, agent), Duration::ZERO)).into());
        let taken = take(&mut lanes, NOW, 2);
        lanes.note(lane(0, "b"), Duration::from_secs(500));
        lanes.restore(taken);
        assert_eq!(names(&take(&mut lanes, NOW, 9)), ["a", "b", "c"]);
    }

    #[test]
    fn an_agent_s_lanes_that_may_probe_come_together_and_once() {
        let mut lanes = Lanes::default();
        lanes.set_aside(&lane(0, "a"));
        lanes.set_aside(&lane(5, "a"));
        lanes.set_aside(&lane(0, "b"));
        assert_eq!(lanes.next_look(), Some(Duration::ZERO));
        let (agent, of_it) = lanes.next_probing().unwrap();
        assert_eq!((agent.as_str(), of_it), ("a", vec![lane(0, "a"), lane(5, "a")]));
        assert!(!lanes.knows(&agent));
        lanes.set_aside(&lane(0, "a"));
        assert_eq!(lanes.next_probing().unwrap().0.as_str(), "b");
        assert_eq!(lanes.next_probing().unwrap().0.as_str(), "a");
        assert!(lanes.next_probing().is_none() && lanes.next_look().is_none());
    }

    #[test]
    fn lanes_whose_rows_are_asked_about_alone_are_taken_out_wherever_they_are() {
        let mut lanes = Lanes::default();
        let agent = lane(0, "a").agent;
        let alone = |priority| Lane { batch_max: ALONE, ..lane(priority, "a") };
        lanes.put_back(alone(5));
        lanes.put_back(lane(0, "a"));
        lanes.put_back(alone(0));
        lanes.note(alone(1), NOW);
        lanes.note(alone(2), NOW + Duration::from_millis(1));
        lanes.set_aside(&alone(3));
        assert_eq!(lanes.take_alone(&agent, NOW), [alone(0), alone(1), alone(5)]);
        assert_eq!(take(&mut lanes, NOW, 9), [lane(0, "a")], "the others are out of their places");
        assert_eq!(lanes.next_probing(), Some((agent, vec![alone(3)])));
        assert_eq!(lanes.next_look(), Some(NOW + Duration::from_millis(1)));
    }

    #[test]
    fn an_agent_has_due_rows_if_a_lane_of_it_is_ready_or_held_and_not_if_it_only_waits() {
        let mut lanes = Lanes::default();
        let agent = lane(0, "a").agent;
        lanes.note(lane(0, "a"), Duration::from_secs(200));
        assert!(lanes.knows(&agent) && !lanes.has_due(&agent, NOW));
        lanes.hold(lane(1, "a"), Duration::from_secs(200));
        assert!(lanes.has_due(&agent, NOW));
        assert_eq!(names(&take(&mut lanes, Duration::from_secs(200), 9)), ["a"]);
        assert!(lanes.has_due(&agent, NOW), "the other one is ready now");
        take(&mut lanes, Duration::from_secs(200), 9);
        assert!(!lanes.knows(&agent));
    }
}
