//! The state of the queue: counts, ages, and the pace of the last minutes.

use std::time::Duration;

use sqlx::{AssertSqlSafe, SqliteConnection, sqlite::SqliteRow};

use super::{
    super::{listing::LANES, rows::holds},
    acts,
    backlog::{AgentStanding, backlog},
    concerning, count, introduction, text, value,
};
use crate::{
    model::{act::Act, clock::Timestamp, deletion::AgentId, hold::HoldRow, outcome::Cause},
    queue::{InEffect, rows::waited},
};

/// The time that [`RecentPace`] covers.
const LATELY: Duration = Duration::from_secs(300);

/// Reads the whole table: no index follows the states of settled rows.
const SETTLED: &str = "SELECT sum(state = 'deleted'), sum(state = 'absent') FROM deletions";
/// ?1 agent
const SETTLED_OF_AGENT: &str = "
SELECT sum(state = 'deleted'), sum(state = 'absent') FROM deletions WHERE agent_id = ?1";

/// Two rows of each lane: the one that goes next, and the first with a due time. A release gives a row a new due time, and rows that
/// were enqueued since, which are due since 0, go before it. O(lanes).
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
SELECT sum(?1 IS NULL OR agent_id = ?1), sum(iif(?1 IS NULL OR agent_id = ?1, size, 0)), count(*)
FROM requests INDEXED BY requests_unanswered WHERE answered_at IS NULL";

/// The number of requests that are read for [`RecentPace`].
const NEWEST_REQUESTS: u64 = 20_000;

/// ?1 agent or NULL; ?2 since when; ?3 the number of requests. They are claimed in the order of their ids, so the newest are enough.
const NEWEST: &str = "
SELECT sum(deleted), sum(coalesce(deleted, 0) + coalesce(absent, 0) + coalesce(dead, 0)), max(looked_at), min(reach)
FROM (
    SELECT deleted, absent, dead, answered_at, agent_id,
        count(*) OVER () AS looked_at, min(claimed_at) OVER () AS reach
    FROM (SELECT * FROM requests ORDER BY id DESC LIMIT ?3)
)
WHERE answered_at > ?2 AND (?1 IS NULL OR agent_id = ?1)";

/// The state of the queue.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// The daemon that works on it.
    pub daemon: Daemon,
    /// Open rows.
    pub pending: u64,
    /// Open rows whose due time has come, sent or not.
    pub due: u64,
    /// Deleted rows that are still kept.
    pub deleted: u64,
    /// Rows whose entries did not exist.
    pub absent: u64,
    /// Dead rows.
    pub dead: u64,
    /// For how long the oldest due row has been due, of the two rows of each lane that are read.
    pub oldest_due: Duration,
    /// Requests without an answer.
    pub requests_in_flight: u64,
    /// The rows of those requests.
    pub rows_in_flight: u64,
    /// Requests without an answer, of all agents.
    pub calls: u64,
    /// Agents with open rows, those with the most first.
    pub agents: Vec<AgentStanding>,
    /// Dead rows by cause, the commonest cause first.
    pub causes: Vec<DeadRows>,
    /// The holds.
    pub holds: Vec<HoldRow>,
    /// The pace of the last minutes.
    pub recent: RecentPace,
    /// The last acts of operators, the newest first.
    pub acts: Vec<Act>,
}

/// The daemon that works on a queue, as far as it can be seen.
#[derive(Clone, Debug, Default)]
pub struct Daemon {
    /// Whether a daemon has the lock; `None` if the lock file cannot be read.
    pub running: Option<bool>,
    /// Its process number.
    pub pid: Option<u32>,
    /// What it wrote about itself at its start; `None` if it has not written that yet.
    pub introduction: Option<Introduction>,
}

/// What a daemon writes about itself.
#[derive(Clone, Debug)]
pub struct Introduction {
    /// Its version.
    pub version: String,
    /// When it started.
    pub started_at: Timestamp,
    /// Its settings; `None` if its version writes other ones.
    pub in_effect: Option<InEffect>,
}

/// Dead rows with one cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadRows {
    /// The cause; `None` if a person removed it.
    pub cause: Option<String>,
    /// The number of rows.
    pub rows: u64,
    /// Rows that an attempt may have deleted unseen.
    pub unconfirmed: u64,
}

/// The pace of the last minutes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecentPace {
    /// The time covered: five minutes, or the time since the daemon started, or as far back as the newest requests reach.
    pub span: Duration,
    /// Rows deleted.
    pub deleted: u64,
    /// Rows that have reached an end, deleted or not.
    pub ended: u64,
}

/// For how long the oldest rows have been due, with their agents: up to two rows for each lane.
pub(in crate::queue::sqlite) async fn waiting(
    conn: &mut SqliteConnection,
    holds: &[HoldRow],
    now: Timestamp,
) -> Result<Vec<(String, Duration)>, sqlx::Error> {
    let rows = sqlx::query(AssertSqlSafe(first_rows())).fetch_all(conn).await?;
    let age = |row: &SqliteRow| {
        let agent = text(row, 0)?;
        // An invalid row with a time that is no number does not count.
        let (due_at, created_at): (i64, i64) = (value(row, 1)?, value(row, 2)?);
        let cause = text(row, 3).and_then(|cause| Cause::parse(&cause));
        let age = waited(&agent, (due_at, created_at), cause, holds, now);
        Some((agent, age))
    };
    Ok(rows.iter().filter_map(age).collect())
}

/// The state of the queue. `pid` has the lock: the introduction of another process is a former daemon's.
pub(super) async fn standing(
    conn: &mut SqliteConnection,
    agent: Option<&AgentId>,
    pid: Option<u32>,
    now: Timestamp,
) -> Result<Standing, sqlx::Error> {
    let mut standing = Standing::default();
    let name = agent.map(AgentId::as_str);
    standing.daemon.introduction = introduction(conn, pid).await?;
    let said = standing.daemon.introduction.as_ref();
    let settings = said.and_then(|said| said.in_effect);
    let mut agents = backlog(conn, name, settings.as_ref(), now).await?;
    standing.pending = agents.values().map(|agent| agent.pending).sum();
    standing.due = agents.values().map(|agent| agent.due).sum();
    let holds = holds(conn).await?;
    for (agent, age) in waiting(conn, &holds, now).await? {
        if let Some(agent) = agents.get_mut(&agent) {
            agent.oldest_due = agent.oldest_due.max(age);
            standing.oldest_due = standing.oldest_due.max(age);
        }
    }
    standing.agents = agents.into_values().collect();
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
    standing.calls = count(&in_flight, 2);
    standing.holds = concerning(holds, agent);
    standing.acts = acts::last(conn, name).await?;

    let started_at = standing.daemon.introduction.as_ref().map(|introduction| introduction.started_at);
    let since = started_at.map_or(now.minus(LATELY), |at| at.max(now.minus(LATELY)));
    let newest = sqlx::query(NEWEST).bind(name).bind(since.0).bind(NEWEST_REQUESTS.cast_signed());
    let newest = newest.fetch_one(conn).await?;
    standing.recent = RecentPace { span: now.since(since), deleted: count(&newest, 0), ended: count(&newest, 1) };
    // If the newest requests do not reach back that far, the time shrinks to what they cover.
    if let (NEWEST_REQUESTS.., Some(reach)) = (count(&newest, 2), value::<i64, _>(&newest, 3)) {
        standing.recent.span = standing.recent.span.min(now.since(Timestamp(reach)));
    }
    Ok(standing)
}
