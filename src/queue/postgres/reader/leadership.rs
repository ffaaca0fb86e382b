//! Who leads, who waits to lead, and what the leader wrote about itself.

use sqlx::{PgConnection, postgres::PgRow};

use super::{
    super::{blockers::blockers, daemon::in_effect},
    at, text, value,
};
use crate::{
    model::clock::Timestamp,
    queue::report::{Daemon, Introduction, Leadership, Session},
};

/// The most sessions that are shown to be in the leader's way.
const MOST_BLOCKERS: i32 = 10;

/// Who has the lock.
macro_rules! lock {
    () => {
        "SELECT pid FROM pg_locks
        WHERE locktype = 'advisory' AND granted AND objsubid = 2
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND classid = to_regnamespace('sweeper')::oid AND objid = 1"
    };
}

/// Sessions of this database: the one that has the lock, and those that wait for it. To a role without pg_read_all_stats, the server
/// shows neither the address nor the time of another role's session.
const SESSIONS: &str = concat!(
    "
SELECT activity.usename::text, coalesce(host(activity.client_addr), CASE WHEN activity.backend_start IS NOT NULL THEN 'this machine' END),
    activity.pid, floor(extract(epoch FROM activity.backend_start) * 1000)::bigint, lock.pid IS NOT NULL AS leads
FROM pg_stat_activity AS activity LEFT JOIN (",
    lock!(),
    ") AS lock ON lock.pid = activity.pid
WHERE activity.datname = current_database() AND (lock.pid IS NOT NULL OR activity.application_name = 'sweeper standby')
ORDER BY activity.backend_start, activity.pid"
);

const RATE: &str = concat!("SELECT requests_per_second FROM daemon WHERE EXISTS (", lock!(), ")");

const EPOCH: &str = "SELECT epoch FROM leadership";

/// The row is of the leader only if it was written in the current epoch: else a new leader has not written it yet.
const INTRODUCTION: &str = "SELECT * FROM daemon WHERE epoch = (SELECT epoch FROM leadership)";

/// Who works on the queue.
pub(in crate::queue::postgres) async fn daemon(conn: &mut PgConnection) -> Result<Daemon, sqlx::Error> {
    let sessions = sqlx::query(SESSIONS).fetch_all(&mut *conn).await?;
    let is_leader = |row: &&PgRow| value(row, "leads") == Some(true);
    let leader = sessions.iter().find(is_leader).map(session);
    // Without the row, which the next leader puts back, nobody knows.
    let epoch = sqlx::query_scalar(EPOCH).fetch_optional(&mut *conn).await?.unwrap_or(0_i64);
    let blocked_by = match &leader {
        Some(leader) => blockers(&mut *conn, leader.backend, MOST_BLOCKERS).await?,
        None => Vec::new(),
    };
    let introduction = match leader {
        Some(_) => sqlx::query(INTRODUCTION).fetch_optional(conn).await?,
        None => None,
    };
    Ok(Daemon {
        running: Some(leader.is_some()),
        pid: introduction.as_ref().and_then(|row| u32::try_from(value::<i64, _>(row, "pid")?).ok()),
        introduction: introduction.as_ref().and_then(introduced),
        leadership: Some(Leadership {
            epoch: u64::try_from(epoch).unwrap_or(0),
            leader,
            standbys: sessions.iter().filter(|row| !is_leader(row)).map(session).collect(),
            blocked_by,
        }),
    })
}

/// The current rate of the daemon that leads, in requests per second. A producer may read it, too.
pub(super) async fn rate(conn: &mut PgConnection) -> Result<Option<f64>, sqlx::Error> {
    sqlx::query_scalar(RATE).fetch_optional(conn).await
}

fn session(row: &PgRow) -> Session {
    Session {
        user: text(row, 0).unwrap_or_default(),
        client: text(row, 1),
        backend: value(row, 2).unwrap_or(0),
        since: at(row, 3),
    }
}

fn introduced(row: &PgRow) -> Option<Introduction> {
    Some(Introduction {
        version: value(row, "version")?,
        started_at: Timestamp(value(row, "started_at")?),
        in_effect: in_effect(row),
    })
}
