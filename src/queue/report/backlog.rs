//! The pending rows of each agent: how many are due, in flight, or gathering, and when the others are due.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use crate::{
    model::{clock::Timestamp, deletion::MAX_BATCH_SIZE, outcome::Cause},
    queue::{
        InEffect,
        rows::{due_since, is_retry},
    },
};

/// The state of one agent's pending rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentStanding {
    /// The agent.
    pub agent: String,
    /// Its open rows.
    pub pending: u64,
    /// Open rows whose due time has come.
    pub due: u64,
    /// For how long the oldest due row has been due, of the two rows of each lane that are read.
    pub oldest_due: Duration,
    /// Rows named by requests without an answer.
    pub in_flight: u64,
    /// Due rows that wait for others, to share a request.
    pub gathering: u64,
    /// Until when they do: the first lane of several.
    pub gathers_until: Option<Timestamp>,
    /// Requests that the other due rows take.
    pub requests: u64,
    /// When the next row is due, of those that are due later.
    pub next_due_at: Option<Timestamp>,
    /// When the last row is due, of those that are due later.
    pub last_due_at: Option<Timestamp>,
}

/// A lane as it is in the tables, also of invalid rows: agent, priority, `batch_max`.
pub(in crate::queue) type LaneKey = (String, Option<i64>, Option<i64>);

/// The number of pending rows in a lane.
#[derive(Clone, Debug)]
pub(in crate::queue) struct LaneCount {
    pub(in crate::queue) key: LaneKey,
    pub(in crate::queue) pending: u64,
    pub(in crate::queue) due: u64,
    /// The first due time of those that are due later.
    pub(in crate::queue) next_due_at: Option<Timestamp>,
    /// The last due time of all.
    pub(in crate::queue) last_due_at: Option<Timestamp>,
}

/// A due row that is not in flight.
#[derive(Clone, Copy, Debug)]
pub(in crate::queue) struct IdleRow {
    /// The place of its lane in [`Backlog::asked`].
    pub(in crate::queue) lane: usize,
    pub(in crate::queue) due_at: i64,
    pub(in crate::queue) created_at: i64,
    pub(in crate::queue) attempts: u32,
    pub(in crate::queue) cause: Option<Cause>,
}

/// The agents with pending rows, and the lanes whose due rows may wait for others.
#[derive(Debug)]
pub(in crate::queue) struct Backlog {
    agents: BTreeMap<String, AgentStanding>,
    partial: Vec<(String, LaneStanding)>,
    settings: Option<InEffect>,
}

/// The pending rows of one lane.
#[derive(Debug)]
struct LaneStanding {
    priority: Option<i64>,
    batch_max: u8,
    /// Due rows that are not in flight.
    idle: u64,
}

impl LaneStanding {
    /// The number of rows that fill a request.
    fn full(&self, batch_size: u8) -> u64 {
        u64::from(self.batch_max.min(batch_size)).max(1)
    }
}

impl Backlog {
    /// Adds up the lanes. `in_flight`: the pending rows in flight, by lane. `settings`: those of the daemon, if one runs.
    pub(in crate::queue) fn new(
        counts: Vec<LaneCount>,
        in_flight: &HashMap<LaneKey, u64>,
        settings: Option<InEffect>,
    ) -> Self {
        let mut agents = BTreeMap::<String, AgentStanding>::new();
        let mut lanes = Vec::new();
        for lane in counts {
            let LaneCount { pending, due, next_due_at, last_due_at, .. } = lane;
            let flying = in_flight.get(&lane.key).copied().unwrap_or(0);
            let (name, priority, batch_max) = lane.key;
            let agent = agents.entry(name.clone()).or_default();
            agent.agent.clone_from(&name);
            agent.pending += pending;
            agent.due += due;
            agent.in_flight += flying;
            if due < pending {
                agent.next_due_at = agent.next_due_at.into_iter().chain(next_due_at).min();
                agent.last_due_at = agent.last_due_at.max(last_due_at);
            }
            let batch_max = batch_max.and_then(|most| u8::try_from(most).ok()).unwrap_or(MAX_BATCH_SIZE);
            lanes.push((name, LaneStanding { priority, batch_max, idle: due.saturating_sub(flying) }));
        }
        let batch_size = settings.map_or(MAX_BATCH_SIZE, |settings| settings.batch_size);
        let (partial, others): (Vec<_>, Vec<_>) = lanes.into_iter().partition(|(_, lane)| {
            // The daemon sends parts of a split request at once.
            settings.is_some() && (1..lane.full(batch_size)).contains(&lane.idle) && lane.batch_max >= batch_size
        });
        for (agent, lane) in others {
            if let Some(agent) = agents.get_mut(&agent) {
                agent.requests += lane.idle.div_ceil(lane.full(batch_size));
            }
        }
        Self { agents, partial, settings }
    }

    /// The lanes of which [`Self::finish`] needs the due rows that are not in flight: priority, agent, `batch_max`.
    pub(in crate::queue) fn asked(&self) -> Vec<(Option<i64>, &str, u8)> {
        self.partial.iter().map(|(agent, lane)| (lane.priority, agent.as_str(), lane.batch_max)).collect()
    }

    /// The agents, with what waits for others.
    pub(in crate::queue) fn finish(self, idle: &[IdleRow], now: Timestamp) -> BTreeMap<String, AgentStanding> {
        let Self { mut agents, partial, settings } = self;
        let until = settings.map_or_else(HashMap::new, |settings| gather(idle, &settings, now));
        for (at, (agent, lane)) in partial.into_iter().enumerate() {
            let Some(agent) = agents.get_mut(&agent) else { continue };
            match until.get(&at) {
                Some(until) if *until > now => {
                    agent.gathering += lane.idle;
                    agent.gathers_until = agent.gathers_until.into_iter().chain([*until]).min();
                }
                _ => agent.requests += 1,
            }
        }
        agents
    }
}

/// Until when the rows of each lane wait for others, by the lane's place. The rule is the daemon's own.
fn gather(idle: &[IdleRow], settings: &InEffect, now: Timestamp) -> HashMap<usize, Timestamp> {
    let mut until = HashMap::new();
    for row in idle {
        let is_retry = is_retry(row.due_at, row.attempts, row.cause);
        let wait = if is_retry { settings.retry.gathering(row.attempts) } else { Duration::ZERO };
        let of_row = due_since(row.due_at, row.created_at, now).plus(wait.max(settings.linger));
        until.entry(row.lane).and_modify(|until: &mut Timestamp| *until = (*until).min(of_row)).or_insert(of_row);
    }
    until
}
