//! What would go out: the open rows by agent and priority, and the requests that they take.

use sqlx::{SqliteConnection, sqlite::SqliteRow};

use super::{
    super::{
        invalid_rows::invalid,
        lock_holder::holder,
        rows::{holds, json},
        step_limit::whole_file,
    },
    Reader, concerning, count, introduction,
    standing::Daemon,
    text, value,
};
use crate::{
    model::{clock::Timestamp, deletion::AgentId, hold::HoldRow, outcome::Scope},
    queue::sqlite::StoreError,
};

/// ?1 now; ?2 agent or NULL; ?3 ids that are left out: [id, …]. A row for each lane, grouped in the order of the index, so that nothing is sorted.
pub(in crate::queue::sqlite) const LANES_TO_SEND: &str = "
SELECT agent_id, priority, batch_max, sum(due_at <= ?1), sum(due_at > ?1), min(iif(due_at > ?1, due_at, NULL)),
    max(iif(due_at > ?1, due_at, NULL)), min(id)
FROM deletions INDEXED BY deletions_due
WHERE state = 'pending' AND (?2 IS NULL OR agent_id = ?2) AND id NOT IN (SELECT value FROM json_each(?3))
GROUP BY priority, agent_id, batch_max";

/// ?1 agent or NULL
const IN_FLIGHT: &str = "
SELECT count(*), sum(size) FROM requests INDEXED BY requests_unanswered
WHERE answered_at IS NULL AND (?1 IS NULL OR agent_id = ?1)";

/// ?1 ids: [id, …]; ?2 agent
const OF_AGENT: &str = "SELECT count(*) FROM deletions WHERE id IN (SELECT value FROM json_each(?1)) AND agent_id = ?2";

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
    /// The causes of those holds.
    pub causes: Vec<&'static str>,
    /// The last time at which one of the others is due; `None` if all are due.
    pub last_due_at: Option<Timestamp>,
}

impl Remaining {
    fn of(agents: &[AgentLoad], holds: &[HoldRow], now: Timestamp) -> Self {
        let is_in_force = |hold: &&HoldRow| hold.until_at.is_none_or(|until| until > now);
        let mut remaining = Self::default();
        for agent in agents {
            let rows = agent.due.rows + agent.later.rows;
            remaining.pending += rows;
            let concerns = |hold: &&HoldRow| match &hold.scope {
                Scope::All => true,
                Scope::Agent(held) => held.as_str() == agent.agent,
            };
            let causes: Vec<_> =
                holds.iter().filter(is_in_force).filter(concerns).map(|hold| hold.cause.as_str()).collect();
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

impl Reader {
    /// What is left to do. Counts along the index of open rows.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn remaining(&mut self, now: Timestamp) -> Result<Remaining, StoreError> {
        let read = async {
            let _budget = self.steps.allow(whole_file(&self.path));
            let lanes = sqlx::query(LANES_TO_SEND).bind(now.0).bind(None::<&str>).bind("[]");
            let lanes = lanes.fetch_all(&mut self.conn).await?;
            Ok(Remaining::of(&agents(&lanes, 1), &holds(&mut self.conn).await?, now))
        };
        read.await.map_err(|source| StoreError { path: self.path.clone(), doing: "count what is left", source })
    }

    /// What would go out, or the part of one agent, at one moment. A request carries at most `batch_size` rows, or as
    /// many as in the daemon that works on the queue. Reads the whole table.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn outlook(
        &mut self,
        agent: Option<&AgentId>,
        batch_size: u8,
        now: Timestamp,
    ) -> Result<Outlook, StoreError> {
        let held = holder(&self.path);
        let budget = self.steps.allow(whole_file(&self.path));
        let read = async {
            // One transaction, so that all counts are of the same moment.
            sqlx::raw_sql("BEGIN").execute(&mut self.conn).await?;
            let pid = held.as_ref().ok().copied().flatten().flatten();
            let outlook = outlook(&mut self.conn, agent, batch_size, pid, now).await;
            sqlx::raw_sql("ROLLBACK").execute(&mut self.conn).await?;
            outlook
        };
        let outlook = read.await;
        drop(budget);
        let mut outlook = match outlook {
            Ok(outlook) => outlook,
            Err(source) => return Err(self.blame("read what would go out", source).await),
        };
        outlook.daemon.running = held.as_ref().ok().map(Option::is_some);
        outlook.daemon.pid = held.ok().flatten().flatten();
        Ok(outlook)
    }
}

async fn outlook(
    conn: &mut SqliteConnection,
    agent: Option<&AgentId>,
    batch_size: u8,
    pid: Option<u32>,
    now: Timestamp,
) -> Result<Outlook, sqlx::Error> {
    let name = agent.map(AgentId::as_str);
    let refused = refused(conn).await?;
    let lanes = sqlx::query(LANES_TO_SEND).bind(now.0).bind(name).bind(json(&refused)).fetch_all(&mut *conn).await?;
    let in_flight = sqlx::query(IN_FLIGHT).bind(name).fetch_one(&mut *conn).await?;
    let introduction = introduction(conn, pid).await?;
    // Whoever asks may have another configuration than the daemon.
    let in_effect = introduction.as_ref().and_then(|said| said.in_effect);
    let batch_size = in_effect.map_or(batch_size, |settings| settings.batch_size);
    Ok(Outlook {
        agents: agents(&lanes, batch_size),
        refused: count_of(conn, &refused, name).await?,
        in_flight: Load { requests: count(&in_flight, 0), rows: count(&in_flight, 1) },
        holds: concerning(holds(conn).await?, agent),
        daemon: Daemon { introduction, ..Daemon::default() },
    })
}

/// Adds up the lanes of each agent and priority, which come one after another.
fn agents(lanes: &[SqliteRow], batch_size: u8) -> Vec<AgentLoad> {
    let mut agents: Vec<AgentLoad> = Vec::new();
    for row in lanes {
        let (agent, priority) = (text(row, 0).unwrap_or_default(), value(row, 1).unwrap_or(0));
        // A lane for single-entry DELETEs has a `batch_max` of 0.
        let full = value::<u8, _>(row, 2).map_or(1, |most| u64::from(most.min(batch_size)).max(1));
        let first_id = value(row, 7).unwrap_or(i64::MAX);
        let is_same = agents.last().is_some_and(|last| last.agent == agent && last.priority == priority);
        if !is_same {
            agents.push(AgentLoad { agent, priority, first_id, ..AgentLoad::default() });
        }
        let Some(sum) = agents.last_mut() else { continue };
        sum.due.add(Load::of(count(row, 3), full));
        sum.later.add(Load::of(count(row, 4), full));
        sum.first_id = sum.first_id.min(first_id);
        let (next, last) = (value(row, 5).map(Timestamp), value(row, 6).map(Timestamp));
        sum.next_due_at = [sum.next_due_at, next].into_iter().flatten().min();
        sum.last_due_at = sum.last_due_at.max(last);
    }
    agents.sort_by_key(|sum| {
        let waits_until = if sum.due.rows > 0 { None } else { sum.next_due_at };
        // What is due goes before what is not, whatever its priority.
        (waits_until, std::cmp::Reverse(sum.priority), sum.first_id)
    });
    agents
}

/// The open rows that the daemon would make dead, because they cannot be read.
async fn refused(conn: &mut SqliteConnection) -> Result<Vec<i64>, sqlx::Error> {
    let (mut refused, mut from) = (Vec::new(), Some(i64::MIN));
    while let Some(first) = from {
        let (found, next) = invalid(conn, first).await?;
        refused.extend(found.ids);
        from = next;
    }
    Ok(refused)
}

/// The number of these rows, or of those of one agent.
async fn count_of(conn: &mut SqliteConnection, ids: &[i64], agent: Option<&str>) -> Result<u64, sqlx::Error> {
    match agent {
        Some(agent) if !ids.is_empty() => {
            let of_agent = sqlx::query(OF_AGENT).bind(json(&ids)).bind(agent).fetch_one(conn).await?;
            Ok(count(&of_agent, 0))
        }
        Some(_) | None => Ok(ids.len() as u64),
    }
}
