//! The rights of producers and operators.

use audio_cache_sweeper::queue::{Queue as _, postgres::Grant};
use sqlx::{AssertSqlSafe, PgConnection};

use super::scene;
use crate::{cluster::cluster, engines::postgres::Postgres, suite::seam::Seam};

/// Roles belong to a server, not to a database: each test has a name of its own.
const PRODUCER: &str = "an \"app\" of ours";
const OPERATOR: &str = "ann";

async fn run(conn: &mut PgConnection, sql: &str) -> Result<(), String> {
    let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(conn).await;
    done.map(drop).map_err(|error| error.as_database_error().unwrap().message().to_owned())
}

/// A connection of this role, once it has these rights.
async fn role(seam: &mut Seam<Postgres>, name: &str, grant: Grant) -> PgConnection {
    let server = cluster().unwrap();
    let mut admin = server.connect("postgres", seam.engine.database.name()).await;
    run(&mut admin, &format!("CREATE ROLE \"{}\" LOGIN", name.replace('"', "\"\""))).await.unwrap();
    for statement in grant.statements(name) {
        seam.engine.execute(&statement).await;
    }
    let mut conn = server.connect(name, seam.engine.database.name()).await;
    run(&mut conn, "SET search_path = sweeper").await.unwrap();
    conn
}

async fn assert_rights(conn: &mut PgConnection, may: &[&str], may_not: &[&str]) {
    for sql in may {
        assert_eq!(run(conn, sql).await, Ok(()), "{sql}");
    }
    for sql in may_not {
        let error = run(conn, sql).await.unwrap_err();
        assert!(error.contains("permission denied"), "{sql}: {error}");
    }
}

#[tokio::test]
async fn a_producer_may_enqueue_and_read_rows_and_nothing_else() {
    let Some(mut seam) = scene().await else { return };
    let mut conn = role(&mut seam, PRODUCER, Grant::Producer).await;
    let may = [
        "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', '1') RETURNING id",
        "INSERT INTO deletions (agent_id, entry_id, priority, due_at, label) VALUES ('a', '2', 5, 0, 'T') ON CONFLICT DO NOTHING",
        "SELECT state FROM deletions WHERE agent_id = 'a'",
    ];
    let may_not = [
        "INSERT INTO deletions (agent_id, entry_id, state) VALUES ('a', '3', 'deleted')",
        "UPDATE deletions SET priority = 9",
        "DELETE FROM deletions",
        "INSERT INTO deletions_known (id, agent_id, entry_id, state) VALUES (1, 'a', '3', 'pending')",
        "INSERT INTO deletions_new (id, agent_id, entry_id) VALUES (1, 'a', '3')",
        "SELECT * FROM requests",
        "SELECT * FROM edits",
        "INSERT INTO holds (scope) VALUES ('*')",
    ];
    assert_rights(&mut conn, &may, &may_not).await;
    assert!(seam.queue.changed().await.unwrap());
    assert_eq!(seam.queue.lanes().await.unwrap().len(), 2);
}

#[tokio::test]
async fn an_operator_may_read_everything_and_hold_and_release() {
    let Some(mut seam) = scene().await else { return };
    seam.queue.changed().await.unwrap();
    let mut conn = role(&mut seam, OPERATOR, Grant::Operator).await;
    let may = [
        "SELECT * FROM deletions, requests, outcomes, wishes, acts, daemon, holds, edits, leadership",
        "INSERT INTO holds (scope) VALUES ('*') ON CONFLICT (scope, cause) DO UPDATE SET until_at = excluded.until_at, why = excluded.why",
        "INSERT INTO holds (scope, until_at, why) VALUES ('a', 1900000000000, 'the agent is being moved')",
    ];
    let may_not = [
        "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', '1')",
        "UPDATE deletions SET priority = 9",
        "DELETE FROM requests",
        "INSERT INTO edits (relation) VALUES ('holds')",
        "UPDATE leadership SET epoch = 9",
    ];
    assert_rights(&mut conn, &may, &may_not).await;
    assert!(
        seam.queue.changed().await.unwrap(),
        "the leader hears of it, although the operator may not write that down"
    );
    assert_eq!(seam.queue.holds().await.unwrap().len(), 2);
    assert_rights(&mut conn, &["DELETE FROM holds"], &[]).await;
    assert!(seam.queue.changed().await.unwrap() && seam.queue.holds().await.unwrap().is_empty());
}
