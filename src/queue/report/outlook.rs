//! What would go out: the open rows by agent and priority, and the requests that they take.

use std::cmp::Reverse;

use super::{Daemon, Inbox};
use crate::model::{
    clock::Timestamp,
    hold::{HoldRow, HoldsByScope},
};

/// Rows, and the fewest requests that can carry them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// The number of rows.
    pub rows: u64,
    /// The number of requests.
    pub requests: u64,
}

impl Load {
    /// The rows of one lane, `full` in a request.
    fn of(rows: u64, full: u64) -> Self {
        Self { rows, requests: rows.div_ceil(full) }
    }

    /// Adds another load, whose rows share no request with these.
    pub fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.requests += other.requests;
    }
}

/// The open rows of one agent that have the same priority.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentLoad {
    /// The agent.
    pub agent: String,
    /// The priority. Higher ones go first.
    pub priority: i64,
    /// The rows whose due time has come, sent or not.
    pub due: Load,
    /// The other rows.
    pub later: Load,
    /// The first due time of the other rows.
    pub next_due_at: Option<Timestamp>,
    /// The last due time of the other rows.
    pub last_due_at: Option<Timestamp>,
    /// The lowest id: agents with the same priority take turns, and that one with the oldest row begins.
    first_id: i64,
}

/// What would go out.
#[derive(Clone, Debug, Default)]
pub struct Outlook {
    /// The daemon that works on the queue.
    pub daemon: Daemon,
    /// The open rows that a request can carry. Whoever goes first comes first, if nothing is held.
    pub agents: Vec<AgentLoad>,
    /// The other open rows: they have values that the schema does not allow, so that no request can carry them.
    pub refused: u64,
    /// The wishes that the leader has not taken in yet; `None`: this engine has no inbox. They are in no other number.
    pub inbox: Option<Inbox>,
    /// The requests without an answer.
    pub in_flight: Load,
    /// The holds.
    pub holds: Vec<HoldRow>,
}

/// What is left to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remaining {
    /// Open rows.
    pub pending: u64,
    /// Open rows among them that a hold keeps back.
    pub held: u64,
    /// Wishes that the leader has not taken in yet: they are no rows so far. 0 for an engine without an inbox.
    pub inbox: u64,
    /// The causes of those holds.
    pub causes: Vec<&'static str>,
    /// The last time at which one of the others is due; `None` if all are due.
    pub last_due_at: Option<Timestamp>,
}

impl Remaining {
    pub(in crate::queue) fn of(agents: &[AgentLoad], holds: &[HoldRow], now: Timestamp) -> Self {
        let is_in_force = |hold: &&HoldRow| hold.until_at.is_none_or(|until| until > now);
        let (mut remaining, holds) = (Self::default(), HoldsByScope::new(holds));
        for agent in agents {
            let rows = agent.due.rows + agent.later.rows;
            remaining.pending += rows;
            let causes: Vec<_> = holds.on(&agent.agent).filter(is_in_force).map(|hold| hold.cause.as_str()).collect();
            if causes.is_empty() {
                remaining.last_due_at = remaining.last_due_at.max(agent.last_due_at);
            } else {
                remaining.held += rows;
                remaining.causes.extend(causes);
            }
        }
        remaining.causes.sort_unstable();
        remaining.causes.dedup();
        remaining
    }
}

/// The open rows of a lane, as an engine counts them.
#[derive(Clone, Debug)]
pub(in crate::queue) struct LaneLoad {
    pub(in crate::queue) agent: String,
    pub(in crate::queue) priority: i64,
    /// `None`: an invalid value.
    pub(in crate::queue) batch_max: Option<u8>,
    pub(in crate::queue) due: u64,
    pub(in crate::queue) later: u64,
    /// The first and the last due time of those that are due later.
    pub(in crate::queue) next_due_at: Option<Timestamp>,
    pub(in crate::queue) last_due_at: Option<Timestamp>,
    /// The lowest id.
    pub(in crate::queue) first_id: Option<i64>,
}

/// Adds up the lanes of each agent and priority.
pub(in crate::queue) fn agents(lanes: impl IntoIterator<Item = LaneLoad>, batch_size: u8) -> Vec<AgentLoad> {
    let mut agents: Vec<AgentLoad> = Vec::new();
    let mut lanes: Vec<LaneLoad> = lanes.into_iter().collect();
    lanes.sort_by(|one, other| (one.priority, &one.agent).cmp(&(other.priority, &other.agent)));
    for lane in lanes {
        // A lane for single-entry DELETEs has a `batch_max` of 0.
        let full = lane.batch_max.map_or(1, |most| u64::from(most.min(batch_size)).max(1));
        let first_id = lane.first_id.unwrap_or(i64::MAX);
        let is_same = agents.last().is_some_and(|last| last.agent == lane.agent && last.priority == lane.priority);
        if !is_same {
            agents.push(AgentLoad { agent: lane.agent, priority: lane.priority, first_id, ..AgentLoad::default() });
        }
        let Some(sum) = agents.last_mut() else { continue };
        sum.due.add(Load::of(lane.due, full));
        sum.later.add(Load::of(lane.later, full));
        sum.first_id = sum.first_id.min(first_id);
        sum.next_due_at = [sum.next_due_at, lane.next_due_at].into_iter().flatten().min();
        sum.last_due_at = sum.last_due_at.max(lane.last_due_at);
    }
    agents.sort_by_key(|sum| {
        let waits_until = if sum.due.rows > 0 { None } else { sum.next_due_at };
        // What is due goes before what is not, whatever its priority.
        (waits_until, Reverse(sum.priority), sum.first_id)
    });
    agents
}
