//! The state of the queue, as the tables have it.

use std::time::Duration;

use sqlx::PgConnection;

use super::{
    super::{
        counter::waiting,
        listing::{self, act_row},
    },
    at,
    backlog::backlog,
    count, daemon, text, value,
};
use crate::{
    model::{clock::Timestamp, deletion::AgentId},
    queue::report::{DeadRows, Inbox, NEWEST_REQUESTS, Newest, Seen, Verified},
};

/// The acts that are read.
const SHOWN_ACTS: i64 = 3;

/// Reads the whole table: no index follows the states of settled rows.
const SETTLED: &str = "
SELECT count(*) FILTER (WHERE state = 'deleted'), count(*) FILTER (WHERE state = 'absent'), count(verified_at), max(verified_at)
FROM deletions_known";
/// $1 agent
const SETTLED_OF_AGENT: &str = "
SELECT count(*) FILTER (WHERE state = 'deleted'), count(*) FILTER (WHERE state = 'absent'), count(verified_at), max(verified_at)
FROM deletions_known WHERE agent_id = $1";

/// $1 agent or NULL
const DEAD: &str = "
SELECT last_cause, count(*), count(*) FILTER (WHERE maybe_done) FROM deletions_known
WHERE state = 'dead' AND ($1::text IS NULL OR agent_id = $1)
GROUP BY last_cause ORDER BY count(*) DESC, last_cause NULLS FIRST";

/// $1 agent or NULL
const IN_FLIGHT: &str = "
SELECT count(*) FILTER (WHERE $1::text IS NULL OR agent_id = $1),
    sum(size) FILTER (WHERE $1::text IS NULL OR agent_id = $1), count(*)
FROM requests WHERE answered_at IS NULL";

/// $1 agent or NULL; $2 since when; $3 the number of requests. They are claimed in the order of their ids, so the newest are enough.
const NEWEST: &str = "
SELECT sum(deleted), sum(coalesce(deleted, 0) + coalesce(absent, 0) + coalesce(dead, 0)), max(looked_at), min(reach)
FROM (
    SELECT deleted, absent, dead, answered_at, agent_id, count(*) OVER () AS looked_at, min(claimed_at) OVER () AS reach
    FROM (SELECT * FROM requests ORDER BY id DESC LIMIT $3) AS newest
) AS counted
WHERE answered_at > $2 AND ($1::text IS NULL OR agent_id = $1)";

/// $1 agent or NULL; $2 the most acts. An act on several agents may concern any.
const LAST_ACTS: &str = "
SELECT id, acted_at, act, operator, scope, rows, detail, ended FROM acts
WHERE $1::text IS NULL OR scope IS NULL OR scope IN ('*', $1) ORDER BY id DESC LIMIT $2";

/// $1 agent or NULL. The wishes, and for how many milliseconds the oldest has waited, by the server's clock, which has dated it.
const INBOX: &str = "
SELECT count(*), floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint - min(created_at)
FROM deletions_new WHERE $1::text IS NULL OR agent_id = $1";

/// What is read for the state of the queue.
pub(super) async fn seen(
    conn: &mut PgConnection,
    agent: Option<&AgentId>,
    now: Timestamp,
) -> Result<Seen, sqlx::Error> {
    let name = agent.map(AgentId::as_str);
    let daemon = daemon(conn).await?;
    let settings = daemon.introduction.as_ref().and_then(|said| said.in_effect);
    let agents = backlog(conn, name, settings, now).await?;
    let holds = listing::holds(conn).await?;
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
    let acts = sqlx::query(LAST_ACTS).bind(name).bind(SHOWN_ACTS).fetch_all(&mut *conn).await?;
    Ok(Seen {
        daemon,
        inbox: Some(inbox(conn, name).await?),
        agents,
        waiting,
        deleted: count(&settled, 0),
        absent: count(&settled, 1),
        verified: Verified { rows: count(&settled, 2), last_at: at(&settled, 3) },
        causes: causes.collect(),
        requests_in_flight: count(&in_flight, 0),
        rows_in_flight: count(&in_flight, 1),
        calls: count(&in_flight, 2),
        holds,
        acts: acts.iter().map(act_row).collect::<Result<_, _>>()?,
        newest: Newest {
            deleted: count(&newest, 0),
            ended: count(&newest, 1),
            looked_at: count(&newest, 2),
            reach: at(&newest, 3),
        },
    })
}

/// The wishes that are not taken in yet, or those for one agent.
pub(super) async fn inbox(conn: &mut PgConnection, agent: Option<&str>) -> Result<Inbox, sqlx::Error> {
    let row = sqlx::query(INBOX).bind(agent).fetch_one(conn).await?;
    let oldest = value::<i64, _>(&row, 1).and_then(|ms| u64::try_from(ms).ok()).unwrap_or(0);
    Ok(Inbox { rows: count(&row, 0), oldest: Duration::from_millis(oldest) })
}
