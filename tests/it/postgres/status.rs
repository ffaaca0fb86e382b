//! What `status` and its like show of a server: who leads, who waits to lead, and the wishes that nobody has taken in yet.

use std::time::Duration;

use audio_cache_sweeper::{
    model::clock::Timestamp,
    queue::{Counter as _, Queue as _, either, postgres::Counter},
};
use serde_json::{Value, json};

use crate::{
    cluster::cluster,
    daemon::{finish, sweeper},
    engines::postgres::Postgres,
    suite::{
        bed::{Bed, Plan},
        engine::{Engine as _, Setup},
    },
};

/// The binary on this queue.
async fn told(engine: &Postgres, arguments: &[&str]) -> (i32, String, String) {
    let dir = tempfile::tempdir().unwrap();
    let mut command = sweeper(dir.path());
    engine.configure(&mut command);
    command.args(arguments);
    finish(command).await
}

async fn report(engine: &Postgres, arguments: &[&str]) -> Value {
    let (code, out, err) = told(engine, arguments).await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    serde_json::from_str(&out).unwrap()
}

async fn queue() -> Postgres {
    Postgres::create(Setup { busy_timeout: Duration::from_secs(5), in_memory: true }).await
}

#[tokio::test]
async fn wishes_in_the_inbox_are_counted_apart_and_shown_listed_and_planned() {
    if cluster().is_none() {
        return;
    }
    let mut engine = queue().await;
    let long_ago = "floor(extract(epoch FROM now()) * 1000)::bigint - 90000";
    engine
        .execute(&format!(
            "INSERT INTO deletions (agent_id, entry_id, label, priority, created_at)
             VALUES ('a', '1', NULL, 3, {long_ago}), ('a', '1', NULL, 7, {long_ago}), ('b', '2', 'T 1', 0, {long_ago} + 30000)"
        ))
        .await;
    let status = report(&engine, &["status", "--json"]).await;
    let oldest = status["inbox"]["oldest_s"].as_f64().unwrap();
    assert!(status["inbox"]["rows"] == 3 && (90.0..150.0).contains(&oldest), "{status}");
    assert_eq!((&status["rows"]["pending"], &status["agents"]), (&0.into(), &json!([])), "{status}");
    let (code, page, err) = told(&engine, &["status", "--agent", "b"]).await;
    assert_eq!((code, err.as_str()), (0, ""), "{page}");
    assert!(page.contains("\nnew         1  not taken in by the leader yet, the oldest for 1m"), "{page}");
    let (_, page, _) = told(&engine, &["show", "a", "1"]).await;
    assert!(page.starts_with("a 1: new\n") && page.contains(", priority 7\n"), "{page}");
    assert!(page.contains("in the inbox for 1m ") && page.contains(": no leader has taken it in yet\n"), "{page}");
    for (arguments, entries) in [
        (&["list"][..], 3),
        (&["list", "--state", "new", "--agent", "a"], 2),
        (&["list", "--label", "T 1"], 1),
        (&["list", "--state", "pending"], 0),
    ] {
        let (code, out, _) = told(&engine, arguments).await;
        let states: Vec<&str> = out.lines().map(|line| line.split('\t').nth(2).unwrap()).collect();
        assert_eq!((code, states), (0, vec!["new"; entries]), "{arguments:?}");
    }
    let label = report_of(&engine, 1, &["status", "--label", "T 1", "--json"]).await;
    assert_eq!((&label["wishes"]["pending"], &label["wishes"]["deleted"]), (&1.into(), &0.into()), "{label}");
    let plan = report(&engine, &["plan", "--json"]).await;
    assert_eq!((&plan["inbox"]["rows"], &plan["total"]["rows"]), (&3.into(), &0.into()), "{plan}");
    let (_, page, _) = told(&engine, &["plan"]).await;
    let inbox = "total      nothing but the inbox\ninbox      3 wishes wait for a daemon: none runs\n";
    assert!(page.contains(inbox), "{page}");
    // A queue is not empty while there are wishes in the inbox.
    assert_eq!((&status["empty_in_s"], &status["rest_empty_in_s"]), (&Value::Null, &Value::Null), "{status}");
    let (_, page, _) = told(&engine, &["status"]).await;
    assert!(page.contains("\nempty      not before a daemon runs: 3 wishes are in the inbox\n"), "{page}");
    let (_, page, _) = told(&engine, &["status", "--agent", "b"]).await;
    assert!(page.contains("not before a daemon runs: 1 wish is in the inbox\n"), "{page}");
    let census = Counter::new(engine.options.clone()).census(Timestamp::ZERO).await.unwrap();
    assert_eq!((census.tally.inbox, census.tally.pending), (Some(3), 3));
    // Then somebody leads.
    let mut store = engine.open().await;
    let (_, page, _) = told(&engine, &["status"]).await;
    assert!(page.contains("cannot be estimated: 3 wishes are in the inbox, for the leader to take in\n"), "{page}");
    let (_, page, _) = told(&engine, &["plan"]).await;
    assert!(page.contains("inbox      3 wishes wait for the leader to take them in\n"), "{page}");
    assert!(store.changed().await.unwrap());
    let status = report(&engine, &["status", "--json"]).await;
    assert_eq!((&status["inbox"]["rows"], &status["rows"]["pending"]), (&0.into(), &2.into()), "{status}");
    let census = Counter::new(engine.options.clone()).census(Timestamp::ZERO).await.unwrap();
    assert_eq!((census.tally.inbox, census.tally.pending), (Some(0), 2));
    // A wish for a row that is known already.
    engine.execute("INSERT INTO deletions (agent_id, entry_id) VALUES ('a', '1')").await;
    let (_, page, _) = told(&engine, &["show", "a", "1"]).await;
    assert!(page.starts_with("a 1: pending\n"), "{page}");
    assert!(page.contains("another wish for it is in the inbox for "), "{page}");
}

/// The object that is printed with this exit code.
async fn report_of(engine: &Postgres, expected: i32, arguments: &[&str]) -> Value {
    let (code, out, err) = told(engine, arguments).await;
    assert_eq!(code, expected, "{out}{err}");
    serde_json::from_str(&out).unwrap()
}

#[tokio::test]
async fn a_wish_that_reopens_a_fulfilled_one_of_its_label_is_open_before_it_is_taken_in() {
    if cluster().is_none() {
        return;
    }
    let mut engine = queue().await;
    engine
        .execute("INSERT INTO wishes (label, agent_id, entry_id, wished_at, state, closed_at) VALUES ('T', 'a', '1', 5, 'deleted', 6), ('T', 'a', '2', 5, 'absent', 6)")
        .await;
    let label = report(&engine, &["status", "--label", "T", "--json"]).await;
    assert_eq!(label["wishes"], json!({ "pending": 0, "deleted": 1, "absent": 1, "dead": 0, "cancelled": 0 }));
    engine.execute("INSERT INTO deletions (agent_id, entry_id, label) VALUES ('a', '1', 'T'), ('a', '1', 'T'), ('a', '3', 'T')").await;
    let label = report_of(&engine, 1, &["status", "--label", "T", "--json"]).await;
    assert_eq!(label["wishes"], json!({ "pending": 2, "deleted": 0, "absent": 1, "dead": 0, "cancelled": 0 }));
}

#[tokio::test]
async fn the_state_new_is_refused_where_there_is_no_inbox() {
    let dir = tempfile::tempdir().unwrap();
    sweeper(dir.path()).arg("init").output().unwrap();
    let mut command = sweeper(dir.path());
    command.args(["list", "--state", "new"]);
    let (code, _, err) = finish(command).await;
    assert!(code == 2 && err.contains("has no inbox"), "{err}");
}

#[tokio::test]
async fn status_shows_who_leads_who_stands_by_and_what_the_leader_said() {
    if cluster().is_none() {
        return;
    }
    let engine = queue().await;
    let none = report(&engine, &["status", "--json"]).await;
    assert_eq!(none["daemon"]["running"], false, "{none}");
    let (before, leader) = (none["leadership"]["epoch"].as_u64().unwrap(), &none["leadership"]["leader"]);
    assert_eq!((leader, &none["leadership"]["standbys"]), (&Value::Null, &json!([])), "{none}");
    let mut standby = engine.database.connect().await;
    let backend: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut standby).await.unwrap();
    sqlx::raw_sql("SET application_name = 'sweeper standby'").execute(&mut standby).await.unwrap();
    let store = engine.open().await;
    let starting = report(&engine, &["status", "--json"]).await;
    assert_eq!(
        (&starting["daemon"]["running"], &starting["daemon"]["version"]),
        (&true.into(), &Value::Null),
        "{starting}"
    );
    let (_, page, _) = told(&engine, &["status"]).await;
    assert!(page.starts_with("daemon     starting, or another command has the lock for a moment\n"), "{page}");
    drop(store);
    let bed = Bed::on(engine, Plan::default()).await;
    let running = report(&bed.engine, &["status", "--json"]).await;
    let (daemon, leadership) = (&running["daemon"], &running["leadership"]);
    assert_eq!((&daemon["running"], &daemon["pid"]), (&true.into(), &std::process::id().into()), "{running}");
    assert_eq!(daemon["version"], env!("CARGO_PKG_VERSION"), "{running}");
    assert_eq!(
        (&leadership["epoch"], &leadership["leader"]["client"]),
        (&(before + 2).into(), &"this machine".into()),
        "{running}"
    );
    assert!(leadership["leader"]["since_at"].as_i64().unwrap() > 1_700_000_000_000, "{running}");
    let standbys = leadership["standbys"].as_array().unwrap();
    assert!(standbys.len() == 1 && standbys[0]["session"] == backend, "{running}");
    let (_, page, _) = told(&bed.engine, &["status"]).await;
    let user = leadership["leader"]["user"].as_str().unwrap();
    assert!(page.contains(&format!("\nleader     {user} from this machine, session ")), "{page}");
    assert!(page.contains(&format!("\nstandby    {user} from this machine, session {backend}\n")), "{page}");
    // The words of a former leader are not those of the next one.
    let Bed { worker, engine, .. } = bed;
    drop(worker);
    let _store = engine.open().await;
    let next = report(&engine, &["status", "--json"]).await;
    assert_eq!(
        (&next["daemon"]["version"], &next["leadership"]["epoch"]),
        (&Value::Null, &(before + 3).into()),
        "{next}"
    );
}

#[tokio::test]
async fn what_is_left_to_do_has_the_wishes_that_no_leader_has_taken_in() {
    if cluster().is_none() {
        return;
    }
    let mut engine = queue().await;
    engine.execute("INSERT INTO deletions (agent_id, entry_id) VALUES ('a', '1'), ('a', '2'), ('b', '1')").await;
    let options = either::Options::Postgres(engine.options.clone());
    let left = async || {
        let left = either::Reader::open(&options).await.unwrap().remaining(Timestamp(4_000_000_000_000)).await.unwrap();
        (left.pending, left.inbox)
    };
    assert_eq!(left().await, (0, 3));
    let mut leader = engine.open().await;
    leader.changed().await.unwrap();
    leader.close().await.unwrap();
    engine.execute("INSERT INTO deletions (agent_id, entry_id) VALUES ('a', '3')").await;
    assert_eq!(left().await, (3, 1));
}
