//! The rights of producers and operators, and `sweeper grant`, which gives them.

use audio_cache_sweeper::{
    queue::{Queue as _, postgres::Grant},
    sandbox::Options,
};
use sqlx::{AssertSqlSafe, PgConnection};

use super::{
    commands::{self, Scene},
    scene,
};
use crate::{
    cluster::{OWNER, cluster},
    daemon::{configure, finish, sandbox, sweeper},
    engines::postgres::Postgres,
    enqueue::fed,
    suite::{
        engine::{Engine as _, Request, Row},
        seam::Seam,
    },
};

/// Roles belong to a server, not to a database: each test has a name of its own.
const PRODUCER: &str = "an \"app\" of ours";
const OPERATOR: &str = "ann";

async fn run(conn: &mut PgConnection, sql: &str) -> Result<(), String> {
    let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(conn).await;
    done.map(drop).map_err(|error| error.as_database_error().unwrap().message().to_owned())
}

async fn make_role(name: &str, database: &str) {
    let mut admin = cluster().unwrap().connect("postgres", database).await;
    run(&mut admin, &format!("CREATE ROLE \"{}\" LOGIN", name.replace('"', "\"\""))).await.unwrap();
}

async fn connect(name: &str, database: &str) -> PgConnection {
    let mut conn = cluster().unwrap().connect(name, database).await;
    run(&mut conn, "SET search_path = sweeper").await.unwrap();
    conn
}

/// A connection of this role, once it has these rights.
async fn role(seam: &mut Seam<Postgres>, name: &str, grant: Grant) -> PgConnection {
    let database = seam.engine.database.name().to_owned();
    make_role(name, &database).await;
    for statement in grant.statements(name) {
        seam.engine.execute(&statement).await;
    }
    connect(name, &database).await
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

/// Our functions have the rights of the owner.
#[tokio::test]
async fn nobody_can_make_a_trigger_of_our_functions() {
    let Some(mut seam) = scene().await else { return };
    let mut conn = role(&mut seam, "a producer with triggers", Grant::Producer).await;
    run(&mut conn, "CREATE TEMP TABLE mine (label text, agent_id text, entry_id text, state text)").await.unwrap();
    for function in ["edited", "deletions_ended", "deletions_removed", "wishes_cancelled", "deletions_relabelled"] {
        let sql = format!("CREATE TRIGGER t AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION sweeper.{function}()");
        let error = run(&mut conn, &sql).await.unwrap_err();
        assert!(error.contains("permission denied for function"), "{sql}: {error}");
    }
    let error = run(&mut conn, "SELECT between_turns()").await.unwrap_err();
    assert!(error.contains("permission denied for function"), "{error}");
}

#[tokio::test]
async fn a_producer_may_enqueue_and_read_rows_and_nothing_else() {
    let Some(mut seam) = scene().await else { return };
    let mut conn = role(&mut seam, PRODUCER, Grant::Producer).await;
    let may = [
        "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', '1') RETURNING id",
        "INSERT INTO deletions (agent_id, entry_id, priority, due_at, label) VALUES ('a', '2', 5, 0, 'T') ON CONFLICT DO NOTHING",
        "SELECT state FROM deletions WHERE agent_id = 'a'",
        "SELECT * FROM holds, daemon",
    ];
    let may_not = [
        "INSERT INTO deletions (agent_id, entry_id, state) VALUES ('a', '3', 'deleted')",
        "UPDATE deletions SET priority = 9",
        "DELETE FROM deletions",
        "INSERT INTO deletions_known (id, agent_id, entry_id, state) VALUES (1, 'a', '3', 'pending')",
        "INSERT INTO deletions_new (id, agent_id, entry_id) VALUES (1, 'a', '3')",
        "SELECT * FROM requests",
        "SELECT * FROM edits",
        "SELECT * FROM acts",
        "INSERT INTO holds (scope) VALUES ('*')",
        "SELECT between_turns()",
    ];
    assert_rights(&mut conn, &may, &may_not).await;
    assert!(seam.queue.changed().await.unwrap());
    assert_eq!(seam.queue.lanes().await.unwrap().len(), 2);
}

#[tokio::test]
async fn an_operator_may_do_what_commands_do_and_write_nothing_that_is_the_daemon_s() {
    let Some(mut seam) = scene().await else { return };
    seam.queue.changed().await.unwrap();
    let mut conn = role(&mut seam, OPERATOR, Grant::Operator).await;
    let may = [
        "SELECT * FROM deletions, requests, outcomes, wishes, acts, daemon, holds, edits, leadership, _sqlx_migrations",
        "INSERT INTO holds (scope) VALUES ('*') ON CONFLICT (scope, cause) DO UPDATE SET until_at = excluded.until_at, why = excluded.why",
        "INSERT INTO holds (scope, until_at, why) VALUES ('a', 1900000000000, 'the agent is being moved')",
        "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', '1')",
        "BEGIN; SELECT between_turns(); DELETE FROM deletions WHERE agent_id = 'b'; COMMIT",
    ];
    let may_not = [
        "UPDATE deletions SET priority = 9",
        "UPDATE deletions SET maybe_done = false",
        "TRUNCATE deletions",
        "DELETE FROM requests",
        "UPDATE requests SET answered_at = 1",
        "INSERT INTO edits (relation) VALUES ('holds')",
        "DELETE FROM edits",
        "DELETE FROM acts",
        "DELETE FROM wishes",
        "UPDATE daemon SET pid = 1",
        "UPDATE leadership SET epoch = 9",
        "DO $$ BEGIN LOCK TABLE sweeper.requests IN SHARE MODE; END $$",
        "CREATE TABLE mine ()",
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

/// A queue with a row of each kind that commands change.
async fn with_rows() -> Option<Scene> {
    let mut scene = commands::scene().await?;
    let rows: Vec<Row> = (1..=4).map(|id| Row::new(id, "a", &id.to_string())).collect();
    scene.engine.put(&rows, &[Request::new(9, "a", &[1])]).await;
    scene.engine.execute("UPDATE deletions SET state = 'dead', settled_at = 5, last_cause = 'lost' WHERE id = 2").await;
    Some(scene)
}

/// Commands that need more rights than a producer has.
const BEYOND_A_PRODUCER: &[&[&str]] = &[
    &["hold", "--all"],
    &["release", "--all"],
    &["cancel", "--all", "--yes"],
    &["retry", "--all", "--yes"],
    &["retry", "--all", "--dry-run"],
    &["retry", "--now", "--all"],
    // There is no such row: that it lacks a right is what it is told all the same.
    &["retry", "--agent", "nobody", "--yes"],
    &["cancel", "--agent", "nobody", "--yes"],
    &["release", "--agent", "nobody"],
    &["status"],
    &["plan"],
    &["list"],
    &["show", "a", "1"],
];

#[tokio::test]
async fn grant_applies_the_rights_and_each_command_works_with_them_and_no_other() {
    let Some(mut scene) = with_rows().await else { return };
    let database = scene.engine.database.name().to_owned();
    let (producer, operator) = ("load \"er\"", "Bea");
    for name in [producer, operator] {
        make_role(name, &database).await;
    }
    let place = scene.engine.options.address.to_string();
    let as_role = |role: &str, arguments: &[&str]| fed(scene.command_of(role, arguments), "");
    // The role of a URL is percent-encoded.
    let encoded = "load%20%22er%22";
    let (code, _, err) = as_role(operator, &["hold", "--all"]);
    assert_eq!(code, 3);
    assert!(err.contains("this role may not use the schema sweeper; its owner runs `sweeper grant"), "{err}");

    let (code, out, err) = scene.run(&["grant", "--producer", producer, "--operator", operator, "--apply"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let granted = format!(
        "database {place}: granted: {producer} may enqueue, and read the rows\n\
         database {place}: granted: {operator} may run every command except run, init and grant\n"
    );
    assert_eq!(out, granted);

    let (code, out, err) = as_role(encoded, &["enqueue", "--agent", "b", "1", "2"]);
    assert_eq!(
        (code, out.as_str()),
        (0, "accepted 2 (at that moment, already waiting 0, to be reopened 0), refused 0\n"),
        "{err}"
    );
    let grant: &[&str] = &["grant", "--operator", producer, "--apply"];
    for command in BEYOND_A_PRODUCER.iter().copied().chain([grant]) {
        let (code, out, err) = as_role(encoded, command);
        assert!(matches!(code, 2 | 3) && out.is_empty(), "{command:?}: {code} {out}");
        let is_told = err.contains("permission denied") || err.contains(&format!("only {OWNER}, who owns the tables"));
        assert!(is_told && err.lines().count() == 1, "{command:?}: {err}");
        let remedy = format!("`sweeper grant --operator {producer}`");
        assert!(command[0] == "grant" || err.contains(&remedy), "{command:?}: {err}");
    }
    for (command, said) in [
        (&["hold", "--agent", "a", "--as", "bea"][..], "held "),
        (&["hold", "--agent", "a", "--for", "1h", "--as", "bea"], "this takes the place of"),
        (&["release", "--agent", "a", "--as", "bea"], "released "),
        (&["enqueue", "--agent", "a", "--label", "T-1", "--as", "bea", "5", "6"], "accepted 2"),
        (&["retry", "--agent", "a", "--yes", "--as", "bea"], "retried 1"),
        (&["cancel", "--label", "T-1", "--yes", "--as", "bea"], "cancelled 2"),
        (&["cancel", "--agent", "a", "--yes", "--as", "bea"], "cancelled 4"),
    ] {
        let (code, out, err) = as_role(operator, command);
        assert!(code == 0 && out.contains(said), "{command:?}: {code} {out}{err}");
    }
    let (code, _, err) = as_role(operator, &["grant", "--operator", operator, "--apply"]);
    assert!(code == 2 && err.contains("only sweeper, who owns the tables, may grant rights on them"), "{err}");
    assert_eq!(
        scene.acts().await,
        "bea hold a 1 true; bea hold a 1 true; bea release a 1 true; bea enqueue a 2 true; bea retry a 1 true; bea cancel 2 true; \
         bea cancel a 4 true",
        "a producer leaves no act"
    );
}

#[tokio::test]
async fn grant_prints_what_psql_can_execute() {
    let Some(mut scene) = commands::scene().await else { return };
    let (code, out, err) = scene.run(&["grant", "--producer", "x\"y", "--operator", "printed"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let database = scene.engine.database.name().to_owned();
    assert!(
        out.starts_with("-- x\"y may enqueue, and read the rows\nGRANT USAGE ON SCHEMA sweeper TO \"x\"\"y\";\n"),
        "{out}"
    );
    assert!(
        out.contains(&format!("-- ALTER ROLE \"printed\" IN DATABASE \"{database}\" SET search_path = sweeper;\n")),
        "{out}"
    );
    for name in ["x\"y", "printed"] {
        make_role(name, &database).await;
    }
    scene.engine.execute(&out).await;
    let mut conn = connect("x\"y", &database).await;
    assert_rights(&mut conn, &["INSERT INTO deletions (agent_id, entry_id) VALUES ('a', '1')"], &["DELETE FROM holds"])
        .await;
}

#[tokio::test]
async fn a_role_that_is_not_there_and_a_queue_in_a_file_are_told() {
    let Some(mut scene) = commands::scene().await else { return };
    let database = scene.engine.database.name().to_owned();
    make_role("here", &database).await;
    let (code, out, err) = scene.run(&["grant", "--producer", "here", "--operator", "Not There", "--apply"]);
    assert_eq!((code, out.as_str()), (2, ""));
    let place = scene.engine.options.address.to_string();
    let said = format!(
        "sweeper: database {place}: there is no role \"Not There\" on its server; `CREATE ROLE \"Not There\" LOGIN` makes one\n"
    );
    assert_eq!(err, said);
    let rights = "SELECT has_schema_privilege('here', 'sweeper', 'USAGE')::text";
    assert_eq!(scene.texts(rights).await, "false", "all or nothing");
    let (code, _, err) = fed(
        {
            let mut command = sweeper(scene.dir.path());
            command.args(["grant", "--producer", "app"]);
            command
        },
        "",
    );
    assert!(
        code == 2 && err.contains("sweeper.db: the queue is in this file") && err.contains("database.url"),
        "{err}"
    );
    let (code, _, err) = scene.run(&["grant"]);
    assert!(code == 2 && err.contains("--producer"), "{err}");
}

#[tokio::test]
async fn a_role_that_may_not_enqueue_is_told_which_right_of_a_producer_it_lacks() {
    let Some(mut scene) = commands::scene().await else { return };
    let database = scene.engine.database.name().to_owned();
    make_role("reads_only", &database).await;
    scene.engine.execute("GRANT USAGE ON SCHEMA sweeper TO reads_only; GRANT SELECT ON deletions TO reads_only").await;
    let (code, _, err) = fed(scene.command_of("reads_only", &["enqueue", "--agent", "a", "1"]), "");
    assert!(code == 3 && err.contains("permission denied for table deletions"), "{err}");
    assert!(err.trim_end().ends_with("`sweeper grant --producer reads_only`"), "{err}");
}

#[tokio::test]
async fn an_operator_may_verify_and_reopen_what_is_still_there() {
    let Some(mut scene) = commands::scene().await else { return };
    let database = scene.engine.database.name().to_owned();
    make_role("verifier", &database).await;
    assert_eq!(scene.run(&["grant", "--operator", "verifier", "--apply"]).0, 0);
    let rows = "INSERT INTO deletions (agent_id, entry_id, state, settled_at) VALUES ('a', '1', 'deleted', 5), ('a', 'x', 'absent', 5);
        INSERT INTO wishes (label, agent_id, entry_id, wished_at, state, closed_at) VALUES ('T', 'a', '1', 1, 'deleted', 5);
        UPDATE deletions SET label = 'T' WHERE entry_id = '1'";
    scene.engine.execute(rows).await;
    let sandbox = sandbox(Options { agents: vec![("a".to_owned(), 1)], ..Options::default() }).await;
    let command = scene.command_of("verifier", &["verify", "--agent", "a", "--requeue", "--yes", "--as", "bea"]);
    let (code, out, err) = finish(configure(command, &sandbox)).await;
    assert!(
        code == 1 && err.is_empty() && out.contains("verified 1 row") && out.ends_with("reopened 1\n"),
        "{out}{err}"
    );
    let found =
        "SELECT concat_ws(' ', entry_id, state, verified_at IS NOT NULL, label) FROM deletions ORDER BY entry_id";
    assert_eq!(scene.texts(found).await, "1 pending f T x absent t");
    assert_eq!(scene.texts("SELECT coalesce(state, 'open') FROM wishes").await, "open");
    assert_eq!(scene.acts().await, "bea verify a 1 true; bea retry a 1 true");
}
