//! The state of the queue: counts, ages, and the pace of the last minutes.

use std::time::Duration;

use sqlx::{AssertSqlSafe, SqliteConnection, sqlite::SqliteRow};

use super::{
    super::{listing::LANES, rows::holds},
    acts,
    backlog::backlog,
    count, introduction, text, value,
};
use crate::{
    model::{
        clock::Timestamp,
        deletion::AgentId,
        hold::{HoldRow, HoldsByScope},
        outcome::Cause,
    },
    queue::{
        report::{Daemon, DeadRows, NEWEST_REQUESTS, Newest, Seen, Verified},
        rows::waited,
    },
};

/// Reads the whole table: no index follows the states of settled rows.
const SETTLED: &str = "
SELECT sum(state = 'deleted'), sum(state = 'absent'), count(verified_at), max(verified_at) FROM deletions";
/// ?1 agent
const SETTLED_OF_AGENT: &str = "
SELECT sum(state = 'deleted'), sum(state = 'absent'), count(verified_at), max(verified_at) FROM deletions WHERE agent_id = ?1";

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

/// ?1 agent or NULL; ?2 since when; ?3 the number of requests. They are claimed in the order of their ids, so the newest are enough.
const NEWEST: &str = "
SELECT sum(deleted), sum(coalesce(deleted, 0) + coalesce(absent, 0) + coalesce(dead, 0)), max(looked_at), min(reach)
FROM (
    SELECT deleted, absent, dead, answered_at, agent_id,
        count(*) OVER () AS looked_at, min(claimed_at) OVER () AS reach
    FROM (SELECT * FROM requests ORDER BY id DESC LIMIT ?3)
)
WHERE answered_at > ?2 AND (?1 IS NULL OR agent_id = ?1)";

/// For how long the oldest rows have been due, with their agents: up to two rows for each lane.
pub(in crate::queue::sqlite) async fn waiting(
    conn: &mut SqliteConnection,
    holds: &[HoldRow],
    now: Timestamp,
) -> Result<Vec<(String, Duration)>, sqlx::Error> {
    let rows = sqlx::query(AssertSqlSafe(first_rows())).fetch_all(conn).await?;
    let holds = HoldsByScope::new(holds);
    let age = |row: &SqliteRow| {
        let agent = text(row, 0)?;
        // An invalid row with a time that is no number does not count.
        let (due_at, created_at): (i64, i64) = (value(row, 1)?, value(row, 2)?);
        let cause = text(row, 3).and_then(|cause| Cause::parse(&cause));
        let age = waited(&agent, (due_at, created_at), cause, &holds, now);
        Some((agent, age))
    };
    Ok(rows.iter().filter_map(age).collect())
}

/// What is read for the state of the queue. `pid` has the lock: the introduction of another process is a former daemon's.
pub(super) async fn seen(
    conn: &mut SqliteConnection,
    agent: Option<&AgentId>,
    pid: Option<u32>,
    now: Timestamp,
) -> Result<Seen, sqlx::Error> {
    let name = agent.map(AgentId::as_str);
    let daemon = Daemon { introduction: introduction(conn, pid).await?, ..Daemon::default() };
    let settings = daemon.introduction.as_ref().and_then(|said| said.in_effect);
    let agents = backlog(conn, name, settings, now).await?;
    let holds = holds(conn).await?;
    let waiting = waiting(conn, &holds, now).await?;
    let settled = match name {
        None => sqlx::query(SETTLED),
        Some(name) => sqlx::query(SETTLED_OF_AGENT).bind(name),
    };
    let settled = settled.fetch_one(&mut *conn).await?;
    let dead = sqlx::query(DEAD).bind(name).fetch_all(&mut *conn).await?;
    let causes =
        dead.iter().map(|row| DeadRows { cause: text(row, 0), rows: count(row, 1), unconfirmed: count(row, 2) });
    let in_flight = sqlx::query(IN_FLIGHT).bind(name).fetch_one(&mut *conn).await?;
    let newest = sqlx::query(NEWEST).bind(name).bind(Newest::since(&daemon, now).0);
    let newest = newest.bind(NEWEST_REQUESTS.cast_signed()).fetch_one(&mut *conn).await?;
    Ok(Seen {
        daemon,
        inbox: None,
        agents,
        waiting,
        deleted: count(&settled, 0),
        absent: count(&settled, 1),
        verified: Verified { rows: count(&settled, 2), last_at: value(&settled, 3).map(Timestamp) },
        causes: causes.collect(),
        requests_in_flight: count(&in_flight, 0),
        rows_in_flight: count(&in_flight, 1),
        calls: count(&in_flight, 2),
        holds,
        acts: acts::last(conn, name).await?,
        newest: Newest {
            deleted: count(&newest, 0),
            ended: count(&newest, 1),
            looked_at: count(&newest, 2),
            reach: value(&newest, 3).map(Timestamp),
        },
    })
}
