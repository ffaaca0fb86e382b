//! Who has the lock that the leader or a command waits for: named in the error, and in `status`.

use std::time::Duration;

use audio_cache_sweeper::queue::{Queue as _, QueueError as _, Remedy};
use serde_json::Value;
use sqlx::PgConnection;

use super::commands;
use crate::{
    daemon::finish,
    engines::postgres::Postgres,
    suite::engine::{Engine as _, Setup},
};

/// A session that has locked the table of rows against writes, and its number.
async fn locker(engine: &Postgres, table: &'static str) -> (PgConnection, i32) {
    let mut conn = engine.database.connect().await;
    sqlx::raw_sql("SET application_name = 'a report'; BEGIN").execute(&mut conn).await.unwrap();
    let lock = format!("LOCK TABLE {table} IN SHARE MODE");
    sqlx::raw_sql(sqlx::AssertSqlSafe(lock)).execute(&mut conn).await.unwrap();
    let session = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut conn).await.unwrap();
    (conn, session)
}

#[tokio::test]
async fn a_command_that_waited_in_vain_names_who_stood_in_its_way() {
    let Some(mut scene) = commands::scene().await else { return };
    scene.engine.execute("INSERT INTO deletions (agent_id, entry_id) VALUES ('a', '1')").await;
    let (conn, session) = locker(&scene.engine, "requests").await;
    for arguments in [&["cancel", "--all", "--yes"][..], &["hold", "--all"]] {
        let mut command = scene.command(arguments);
        command.env("SWEEPER__DATABASE__BUSY_TIMEOUT", "1s");
        let (code, out, err) = finish(command).await;
        assert_eq!((code, out.as_str()), (3, ""), "{err}");
        let who = format!(
            "kept waiting for a lock, for longer than database.busy_timeout, by session {session} (user sweeper, application a report, \
             from this machine, idle in transaction, transaction begun at "
        );
        assert!(err.contains(&who), "{err}");
        assert!(err.contains(&format!("or the session with SELECT pg_terminate_backend({session})")), "{err}");
    }
    drop(conn);
}

#[tokio::test]
async fn a_leader_that_waits_for_a_lock_names_who_has_it_and_status_shows_it_meanwhile() {
    if crate::cluster::cluster().is_none() {
        return;
    }
    let engine = Postgres::create(Setup { busy_timeout: Duration::from_secs(4), in_memory: true }).await;
    let mut store = engine.open().await;
    let (conn, session) = locker(&engine, "deletions_known").await;
    let status = async |arguments: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        let mut command = crate::daemon::sweeper(dir.path());
        engine.configure(&mut command);
        command.args(arguments);
        finish(command).await
    };
    let looks = async {
        loop {
            let (code, out, err) = status(&["status", "--json"]).await;
            assert_eq!((code, err.as_str()), (0, ""), "{out}");
            let report: Value = serde_json::from_str(&out).unwrap();
            let blockers = report["leadership"]["blocked_by"].as_array().unwrap().clone();
            if let [blocker] = blockers.as_slice() {
                return (blocker.clone(), status(&["status"]).await.1);
            }
        }
    };
    let (written, (blocker, page)) = tokio::join!(store.can_write(), looks);
    let error = written.unwrap_err();
    assert_eq!(error.remedy(), Remedy::Wait, "{error}");
    let error = error.to_string();
    assert!(error.contains(&format!("by session {session} (user sweeper, application a report, from ")), "{error}");
    assert_eq!((&blocker["session"], &blocker["application"]), (&session.into(), &"a report".into()), "{blocker}");
    assert_eq!((&blocker["user"], &blocker["state"]), (&"sweeper".into(), &"idle in transaction".into()), "{blocker}");
    let line = format!("\nblocked    by session {session}: sweeper, a report, this machine, idle in transaction, for ");
    assert!(page.contains(&line), "{page}");
    // It is over with the lock.
    drop(conn);
    while store.can_write().await.is_err() {}
    let (_, out, _) = status(&["status", "--json"]).await;
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["leadership"]["blocked_by"], serde_json::json!([]), "{report}");
}
