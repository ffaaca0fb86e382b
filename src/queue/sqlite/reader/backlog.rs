//! The pending rows of each agent: how many are due, in flight, or gathering, and when the others are due.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use sqlx::SqliteConnection;

use super::{count, text, value};
use crate::{
    model::{
        clock::Timestamp,
        deletion::{AgentId, MAX_BATCH_SIZE},
        outcome::Cause,
    },
    queue::{
        InEffect,
        rows::{due_since, is_retry, json},
    },
};

/// ?1 now; ?2 agent or NULL. Grouped in the order of the index, so that nothing is sorted.
pub(in crate::queue::sqlite) const PENDING: &str = "
SELECT agent_id, priority, batch_max, count(*), sum(due_at <= ?1), min(CASE WHEN due_at > ?1 THEN due_at END), max(due_at)
FROM deletions INDEXED BY deletions_due
WHERE state = 'pending' AND (?2 IS NULL OR agent_id = ?2)
GROUP BY priority, agent_id, batch_max";

/// The ids of the rows in flight. A manifest that is no JSON names none.
macro_rules! in_flight {
    () => {
        "(SELECT given.value FROM requests INDEXED BY requests_unanswered
          CROSS JOIN json_each(CASE WHEN json_valid(requests.deletion_ids) THEN requests.deletion_ids END) AS given
          WHERE requests.answered_at IS NULL)"
    };
}

/// ?1 agent or NULL
pub(in crate::queue::sqlite) const PENDING_IN_FLIGHT: &str = concat!(
    "SELECT agent_id, priority, batch_max, count(*) FROM deletions
    WHERE id IN ",
    in_flight!(),
    " AND state = 'pending' AND (?1 IS NULL OR agent_id = ?1)
    GROUP BY agent_id, priority, batch_max"
);

/// ?1 lanes: [[priority, agent_id, batch_max], …]; ?2 now. The due rows of these lanes that are not in flight.
pub(in crate::queue::sqlite) const IDLE: &str = concat!(
    "SELECT lane.key, deletions.due_at, deletions.created_at, deletions.attempts, deletions.last_cause
    FROM json_each(?1) AS lane CROSS JOIN deletions INDEXED BY deletions_due
    WHERE deletions.state = 'pending' AND deletions.priority = lane.value->>0 AND deletions.agent_id = lane.value->>1
      AND deletions.batch_max = lane.value->>2 AND deletions.due_at <= ?2 AND deletions.id NOT IN ",
    in_flight!()
);

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

/// The pending rows of one lane.
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

/// The agents with pending rows. `settings`: those of the daemon, if one runs.
pub(super) async fn backlog(
    conn: &mut SqliteConnection,
    agent: Option<&str>,
    settings: Option<&InEffect>,
    now: Timestamp,
) -> Result<BTreeMap<String, AgentStanding>, sqlx::Error> {
    let mut in_flight = HashMap::new();
    for row in sqlx::query(PENDING_IN_FLIGHT).bind(agent).fetch_all(&mut *conn).await? {
        let lane = (text(&row, 0).unwrap_or_default(), value::<i64, _>(&row, 1), value::<i64, _>(&row, 2));
        in_flight.insert(lane, count(&row, 3));
    }
    let mut agents = BTreeMap::<String, AgentStanding>::new();
    let mut lanes = Vec::new();
    for row in sqlx::query(PENDING).bind(now.0).bind(agent).fetch_all(&mut *conn).await? {
        let (name, priority, batch_max) = (text(&row, 0).unwrap_or_default(), value(&row, 1), value::<i64, _>(&row, 2));
        let flying = in_flight.get(&(name.clone(), priority, batch_max)).copied().unwrap_or(0);
        let (pending, due) = (count(&row, 3), count(&row, 4));
        let agent = agents.entry(name.clone()).or_default();
        agent.agent.clone_from(&name);
        agent.pending += pending;
        agent.due += due;
        agent.in_flight += flying;
        if due < pending {
            let [next, last] = [5, 6].map(|column| value::<i64, _>(&row, column).map(Timestamp));
            agent.next_due_at = agent.next_due_at.into_iter().chain(next).min();
            agent.last_due_at = agent.last_due_at.max(last);
        }
        let batch_max = batch_max.and_then(|most| u8::try_from(most).ok()).unwrap_or(MAX_BATCH_SIZE);
        lanes.push((name, LaneStanding { priority, batch_max, idle: due.saturating_sub(flying) }));
    }
    let batch_size = settings.map_or(MAX_BATCH_SIZE, |settings| settings.batch_size);
    let (partial, others): (Vec<_>, Vec<_>) = lanes.into_iter().partition(|(_, lane)| {
        // The daemon sends parts of a split request at once.
        settings.is_some() && (1..lane.full(batch_size)).contains(&lane.idle) && lane.batch_max >= batch_size
    });
    let until = match settings {
        Some(settings) => gather(conn, &partial, settings, now).await?,
        None => HashMap::new(),
    };
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
    for (agent, lane) in others {
        if let Some(agent) = agents.get_mut(&agent) {
            agent.requests += lane.idle.div_ceil(lane.full(batch_size));
        }
    }
    Ok(agents)
}

/// Until when the rows of each of these lanes wait for others, by the lane's place. The rule is the daemon's own.
async fn gather(
    conn: &mut SqliteConnection,
    lanes: &[(String, LaneStanding)],
    settings: &InEffect,
    now: Timestamp,
) -> Result<HashMap<usize, Timestamp>, sqlx::Error> {
    let mut until = HashMap::new();
    if lanes.is_empty() {
        return Ok(until);
    }
    let asked: Vec<_> = lanes.iter().map(|(agent, lane)| (lane.priority, agent, lane.batch_max)).collect();
    for row in sqlx::query(IDLE).bind(json(&asked)).bind(now.0).fetch_all(conn).await? {
        let (Some(lane), Some(due_at), Some(created_at)) =
            (value::<i64, _>(&row, 0), value(&row, 1), value::<i64, _>(&row, 2))
        else {
            continue;
        };
        let attempts = value::<i64, _>(&row, 3).and_then(|attempts| u32::try_from(attempts).ok()).unwrap_or(0);
        let cause = text(&row, 4).and_then(|cause| Cause::parse(&cause));
        let wait = if is_retry(due_at, attempts, cause) { settings.retry.gathering(attempts) } else { Duration::ZERO };
        let of_row = due_since(due_at, created_at, now).plus(wait.max(settings.linger));
        let Ok(lane) = usize::try_from(lane) else { continue };
        until.entry(lane).and_modify(|until: &mut Timestamp| *until = (*until).min(of_row)).or_insert(of_row);
    }
    Ok(until)
}

/// Every agent that has a row, in the order of their IDs: a step of the index for each, whatever the number of rows.
const AGENTS: &str = "
WITH RECURSIVE agent (id) AS (
    SELECT min(agent_id) FROM deletions
    UNION
    SELECT (SELECT min(agent_id) FROM deletions WHERE agent_id > agent.id) FROM agent WHERE agent.id IS NOT NULL
)
SELECT id FROM agent WHERE id IS NOT NULL";

/// Every agent that has a row.
pub(super) async fn agents(conn: &mut SqliteConnection) -> Result<Vec<AgentId>, sqlx::Error> {
    let rows = sqlx::query(AGENTS).fetch_all(conn).await?;
    // What is no agent ID was inserted past the checks.
    Ok(rows.iter().filter_map(|row| AgentId::parse(&text(row, 0)?).ok()).collect())
}
