//! Who keeps a session waiting: the sessions whose locks it needs.

use std::{future::Future, pin::pin, time::Duration};

use sqlx::{PgConnection, Row as _, postgres::PgRow};
use tokio::time::sleep;

use super::{
    address::{Address, LOCK_NOT_AVAILABLE},
    rights::with_message,
};
use crate::{model::clock::Timestamp, printable, queue::report::Blocker};

/// `query_canceled`: by a time-out of ours
const CANCELED: &str = "57014";

/// A statement that takes this long may be waiting for a lock.
const SOON: Duration = Duration::from_secs(1);
/// Sessions that wait for a lock for less than this ask nobody.
const LEAST: Duration = Duration::from_millis(200);
/// While it still waits, others may be in its way.
const AGAIN: Duration = Duration::from_secs(2);
/// The most sessions that a message names.
const MOST: i32 = 3;

/// $1 a session; $2 the most of them. Those that keep it waiting, the oldest transaction first. A prepared transaction has no session. To a
/// role without pg_read_all_stats, the server shows the user and the application of another role's session.
const BLOCKERS: &str = "
SELECT blocker.pid, activity.usename::text, activity.application_name, activity.state,
    coalesce(host(activity.client_addr), CASE WHEN activity.backend_start IS NOT NULL THEN 'this machine' END),
    floor(extract(epoch FROM activity.xact_start) * 1000)::bigint, to_char(activity.xact_start AT TIME ZONE 'UTC', 'HH24:MI:SS')
FROM (SELECT DISTINCT unnest(pg_blocking_pids($1)) AS pid) AS blocker
LEFT JOIN pg_stat_activity AS activity ON activity.pid = blocker.pid AND blocker.pid <> 0
ORDER BY activity.xact_start NULLS LAST, blocker.pid LIMIT $2";

/// Those that keep this session waiting now.
pub(super) async fn blockers(conn: &mut PgConnection, backend: i32, most: i32) -> Result<Vec<Blocker>, sqlx::Error> {
    let rows = sqlx::query(BLOCKERS).bind(backend).bind(most).fetch_all(conn).await?;
    rows.iter().map(blocker).collect()
}

fn blocker(row: &PgRow) -> Result<Blocker, sqlx::Error> {
    Ok(Blocker {
        session: row.try_get(0)?,
        user: row.try_get(1)?,
        application: row.try_get::<Option<String>, _>(2)?.filter(|name| !name.is_empty()),
        state: row.try_get(3)?,
        client: row.try_get(4)?,
        since: row.try_get::<Option<i64>, _>(5)?.map(Timestamp),
        since_utc: row.try_get(6)?,
    })
}

/// Awaits `work`, which is done in the session `backend`. If it takes long, asks on another connection who keeps it waiting. If it then
/// fails for having waited, its error names them. `patience`: for how long it waits for a lock.
///
/// # Errors
/// The error of `work`.
pub(super) async fn watched<T>(
    address: &Address,
    backend: i32,
    patience: Duration,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let (mut work, mut seen, mut aside) = (pin!(work), Vec::new(), None);
    // Who waits for so little would ask about each slow statement. 0: a session without the leader's lock.
    if patience < LEAST || backend == 0 {
        return work.await;
    }
    let mut pause = SOON.min(patience / 2);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done.map_err(|error| naming(error, &seen)),
            () = sleep(pause) => {}
        }
        tokio::select! {
            biased;
            done = &mut work => return done.map_err(|error| naming(error, &seen)),
            // If nobody can be asked, the work goes on without. In a box: each statement of each session would have room for it.
            found = Box::pin(ask(&mut aside, address, backend)) => match found {
                Ok(found) if found.is_empty() => {}
                Ok(found) => seen = found,
                Err(_) => aside = None,
            },
        }
        pause = AGAIN;
    }
}

/// Asks on the connection `aside`, which it makes if there is none.
async fn ask(aside: &mut Option<PgConnection>, address: &Address, backend: i32) -> Result<Vec<Blocker>, sqlx::Error> {
    let conn = match aside {
        Some(conn) => conn,
        None => aside.insert(address.connect().await?),
    };
    blockers(conn, backend, MOST).await
}

/// The error with the names of those who stood in the way, if it is about that.
fn naming(error: sqlx::Error, seen: &[Blocker]) -> sqlx::Error {
    let sqlx::Error::Database(refused) = error else { return error };
    let said = match refused.code().as_deref() {
        _ if seen.is_empty() => return sqlx::Error::Database(refused),
        Some(LOCK_NOT_AVAILABLE) => "kept waiting for a lock, for longer than database.busy_timeout,".to_owned(),
        Some(CANCELED) => format!("{}: kept waiting", refused.message()),
        _ => return sqlx::Error::Database(refused),
    };
    let who: Vec<String> = seen.iter().map(words).collect();
    let end = seen.iter().find(|blocker| blocker.session != 0).map_or_else(String::new, |blocker| {
        format!("; end its transaction, or the session with SELECT pg_terminate_backend({})", blocker.session)
    });
    with_message(format!("{said} by {}{end}", who.join(" and ")), refused)
}

/// A session in a sentence.
fn words(blocker: &Blocker) -> String {
    let Blocker { session, user, application, state, client, since_utc, .. } = blocker;
    if *session == 0 {
        return "a prepared transaction (see pg_prepared_xacts)".to_owned();
    }
    let facts = [
        user.as_ref().map(|user| format!("user {user}")),
        application.as_ref().map(|application| format!("application {application}")),
        client.as_ref().map(|client| format!("from {client}")),
        state.clone(),
        since_utc.as_ref().map(|at| format!("transaction begun at {at} UTC")),
    ];
    let facts: Vec<String> = facts.into_iter().flatten().collect();
    printable::line(&format!("session {session} ({})", facts.join(", "))).into_owned()
}
