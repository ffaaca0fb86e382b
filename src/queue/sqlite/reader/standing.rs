//! How the queue stands: counts, ages, and what was done lately.

use std::{collections::BTreeMap, time::Duration};

use sqlx::{AssertSqlSafe, SqliteConnection, sqlite::SqliteRow};

use super::{
    super::{
        listing::LANES,
        rows::{due_since, holds},
    },
    concerning, count, introduction, text, value,
};
use crate::model::{
    clock::Timestamp,
    deletion::AgentId,
    hold::HoldRow,
    outcome::{Cause, Scope},
};

/// How far back [`Lately`] looks.
const LATELY: Duration = Duration::from_secs(300);

/// ?1 now; ?2 agent or NULL. In the index's own order, so that nothing is sorted.
pub(in crate::queue::sqlite) const PENDING: &str = "
SELECT agent_id, count(*), sum(due_at <= ?1) FROM deletions INDEXED BY deletions_due
WHERE state = 'pending' AND (?2 IS NULL OR agent_id = ?2)
GROUP BY priority, agent_id";

/// Goes through the whole table: no index follows the states of rows that have reached an end.
const SETTLED: &str = "SELECT sum(state = 'deleted'), sum(state = 'absent') FROM deletions";
/// ?1 agent
const SETTLED_OF_AGENT: &str = "
SELECT sum(state = 'deleted'), sum(state = 'absent') FROM deletions WHERE agent_id = ?1";

/// Of each lane, the row that is next and the first of those that came back or were to wait: a release gives a row a new
/// due time, and lets what has just been enqueued, which is due since 0, go before it. O(lanes).
pub(in crate::queue::sqlite) fn first_rows() -> String {
    format!(
        "SELECT first.agent_id, first.due_at, first.created_at, first.last_cause
         FROM ({LANES}) AS lane_head CROSS JOIN deletions AS first ON first.id IN (lane_head.id, (
             SELECT next.id FROM deletions AS next INDEXED BY deletions_due
             WHERE next.state = 'pending' AND next.priority = lane_head.priority
                 AND next.agent_id = lane_head.agent_id AND next.batch_max = lane_head.batch_max AND next.due_at > 0
             ORDER BY next.due_at LIMIT 1))"
    )
}

/// ?1 agent or NULL
pub(in crate::queue::sqlite) const DEAD: &str = "
SELECT last_cause, count(*), sum(maybe_done) FROM deletions INDEXED BY deletions_dead
WHERE state = 'dead' AND (?1 IS NULL OR agent_id = ?1)
GROUP BY last_cause ORDER BY count(*) DESC, last_cause";

/// ?1 agent or NULL
const IN_FLIGHT: &str = "
SELECT count(*), sum(size) FROM requests INDEXED BY requests_unanswered
WHERE answered_at IS NULL AND (?1 IS NULL OR agent_id = ?1)";

/// How many of the newest requests are looked at for [`Lately`].
const NEWEST_REQUESTS: u64 = 20_000;

/// ?1 agent or NULL; ?2 since when; ?3 how many. Requests are claimed in the order of their ids, so the newest are enough.
const NEWEST: &str = "
SELECT sum(deleted), sum(coalesce(deleted, 0) + coalesce(absent, 0) + coalesce(dead, 0)), max(looked_at), min(reach)
FROM (
    SELECT deleted, absent, dead, answered_at, agent_id,
        count(*) OVER () AS looked_at, min(claimed_at) OVER () AS reach
    FROM (SELECT * FROM requests ORDER BY id DESC LIMIT ?3)
)
WHERE answered_at > ?2 AND (?1 IS NULL OR agent_id = ?1)";

/// How the queue stands.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// Who works on it.
    pub daemon: Daemon,
    /// Open rows.
    pub pending: u64,
    /// Of them, those whose time has come, sent or not.
    pub due: u64,
    /// Rows that were deleted and are still kept.
    pub deleted: u64,
    /// Rows whose entries were not there.
    pub absent: u64,
    /// Rows that were given up.
    pub dead: u64,
    /// How long the oldest due row of those that are next has been due.
    pub oldest_due: Duration,
    /// Requests without an answer.
    pub requests_in_flight: u64,
    /// How many rows are in those.
    pub rows_in_flight: u64,
    /// Agents with open rows, those with most of them first.
    pub agents: Vec<AgentStanding>,
    /// Why the dead ones are, the commonest cause first.
    pub causes: Vec<DeadRows>,
    /// The pauses.
    pub holds: Vec<HoldRow>,
    /// What was done lately.
    pub lately: Lately,
}

/// Who works on a queue, as far as that can be seen.
#[derive(Clone, Debug, Default)]
pub struct Daemon {
    /// Whether a daemon has the lock; `None` if the lock file cannot be read.
    pub running: Option<bool>,
    /// That process.
    pub pid: Option<u32>,
    /// What it wrote of itself at its start; `None` also if it has not come so far yet.
    pub said: Option<Introduction>,
}

/// What a daemon writes of itself.
#[derive(Clone, Debug)]
pub struct Introduction {
    /// Its version.
    pub version: String,
    /// When it started.
    pub started_at: Timestamp,
    /// Its current rate, in requests per second.
    pub requests_per_second: f64,
}

/// How one agent's rows stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentStanding {
    /// The agent.
    pub agent: String,
    /// Its open rows.
    pub pending: u64,
    /// Those of them whose time has come.
    pub due: u64,
    /// How long the oldest due row of those that are next has been due.
    pub oldest_due: Duration,
}

/// Dead rows with one cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadRows {
    /// The cause; `None` if somebody removed it.
    pub cause: Option<String>,
    /// How many.
    pub rows: u64,
    /// Of them, those that may have been deleted unseen.
    pub unconfirmed: u64,
}

/// What was done in the last minutes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lately {
    /// In how long: five minutes, or since the daemon started, or as far as the newest requests reach back.
    pub span: Duration,
    /// Rows deleted.
    pub deleted: u64,
    /// Rows that have reached an end, deleted or not.
    pub ended: u64,
}

/// How long the oldest rows have been due, as far as a row tells: each with its agent, some for each lane.
///
/// A release overwrites the due time: what was released has waited at least since there is the hold for which it was.
pub(in crate::queue::sqlite) async fn waiting(
    conn: &mut SqliteConnection,
    holds: &[HoldRow],
    now: Timestamp,
) -> Result<Vec<(String, Duration)>, sqlx::Error> {
    let rows = sqlx::query(AssertSqlSafe(first_rows())).fetch_all(conn).await?;
    let age = |row: &SqliteRow| {
        let agent = text(row, 0)?;
        // A row with a time that is none is not what one waits for.
        let (due_at, created_at): (i64, i64) = (value(row, 1)?, value(row, 2)?);
        let due_since = due_since(due_at, created_at, now);
        let cause = text(row, 3).and_then(|cause| Cause::parse(&cause));
        let covers = |hold: &&HoldRow, cause| match &hold.scope {
            Scope::All => hold.cause == cause,
            Scope::Agent(held) => hold.cause == cause && held.as_str() == agent,
        };
        let held =
            cause.and_then(|cause| holds.iter().filter(|hold| covers(hold, cause)).map(|hold| hold.since_at).min());
        if due_since > now && held.is_none() {
            return Some((agent, Duration::ZERO));
        }
        let since = held.map_or(due_since, |held| due_since.min(held.max(Timestamp(created_at))));
        Some((agent, now.since(since)))
    };
    Ok(rows.iter().filter_map(age).collect())
}

/// `pid` is the process that has the lock: another process's words are those of a daemon before.
pub(super) async fn standing(
    conn: &mut SqliteConnection,
    agent: Option<&AgentId>,
    pid: Option<u32>,
    now: Timestamp,
) -> Result<Standing, sqlx::Error> {
    let mut standing = Standing::default();
    let name = agent.map(AgentId::as_str);
    let mut agents = BTreeMap::<String, AgentStanding>::new();
    for row in sqlx::query(PENDING).bind(now.0).bind(name).fetch_all(&mut *conn).await? {
        let (pending, due) = (count(&row, 1), count(&row, 2));
        standing.pending += pending;
        standing.due += due;
        let agent = agents.entry(text(&row, 0).unwrap_or_default()).or_default();
        agent.pending += pending;
        agent.due += due;
    }
    let holds = holds(conn).await?;
    for (agent, age) in waiting(conn, &holds, now).await? {
        if let Some(agent) = agents.get_mut(&agent) {
            agent.oldest_due = agent.oldest_due.max(age);
            standing.oldest_due = standing.oldest_due.max(age);
        }
    }
    standing.agents = agents.into_iter().map(|(agent, standing)| AgentStanding { agent, ..standing }).collect();
    standing.agents.sort_by_key(|agent| std::cmp::Reverse(agent.pending));

    let settled = match name {
        None => sqlx::query(SETTLED),
        Some(name) => sqlx::query(SETTLED_OF_AGENT).bind(name),
    };
    let settled = settled.fetch_one(&mut *conn).await?;
    (standing.deleted, standing.absent) = (count(&settled, 0), count(&settled, 1));
    for row in sqlx::query(DEAD).bind(name).fetch_all(&mut *conn).await? {
        let dead = DeadRows { cause: text(&row, 0), rows: count(&row, 1), unconfirmed: count(&row, 2) };
        standing.dead += dead.rows;
        standing.causes.push(dead);
    }
    let in_flight = sqlx::query(IN_FLIGHT).bind(name).fetch_one(&mut *conn).await?;
    (standing.requests_in_flight, standing.rows_in_flight) = (count(&in_flight, 0), count(&in_flight, 1));
    standing.holds = concerning(holds, agent);

    standing.daemon.said = introduction(conn, pid).await?;
    let started_at = standing.daemon.said.as_ref().map(|said| said.started_at);
    let since = started_at.map_or(now.minus(LATELY), |at| at.max(now.minus(LATELY)));
    let newest = sqlx::query(NEWEST).bind(name).bind(since.0).bind(NEWEST_REQUESTS.cast_signed());
    let newest = newest.fetch_one(conn).await?;
    standing.lately = Lately { span: now.since(since), deleted: count(&newest, 0), ended: count(&newest, 1) };
    // If those do not reach back so far, what they do reach counts.
    if let (NEWEST_REQUESTS.., Some(reach)) = (count(&newest, 2), value::<i64, _>(&newest, 3)) {
        standing.lately.span = standing.lately.span.min(now.since(Timestamp(reach)));
    }
    Ok(standing)
}
