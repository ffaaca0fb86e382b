//! Whoever looks at a queue sees the same, whichever engine keeps it: both engines get the same rows, and the binary is asked about both.

use std::time::Duration;

use audio_cache_sweeper::{
    model::{
        act::{Act, ActId, ActKind},
        clock::Timestamp,
        outcome::Cause,
    },
    sandbox::{Mood, Options},
};
use serde_json::Value;

use crate::{
    cluster::cluster,
    daemon::{finish, sweeper},
    engines::{postgres::Postgres, sqlite::Sqlite},
    suite::{
        bed::{Bed, Plan, START},
        engine::{Engine, Hold, Row, Setup, Wish},
    },
};

/// What only one engine has, or what each look has anew.
const OWN: [&str; 5] = ["database", "at", "leadership", "inbox", "oldest_s"];

/// What the suite's engine has no words for.
trait Sql: Engine {
    async fn sql(&mut self, sql: &str);
}

impl Sql for Sqlite {
    async fn sql(&mut self, sql: &str) {
        self.execute(sql).await;
    }
}

impl Sql for Postgres {
    async fn sql(&mut self, sql: &str) {
        self.execute(sql).await;
    }
}

fn dated(agent: &str, entry: &str) -> Wish {
    Wish { created_at: Some(START), ..Wish::of(agent, entry) }
}

/// A queue with a worker, which has deleted some rows, has given up others, has a call in flight, and is kept from sending the rest.
async fn worked<E: Sql>() -> Bed<E> {
    let sandbox = Options { failing: vec!["3".to_owned(), "b7".to_owned()], ..Plan::default().sandbox };
    let mut plan = Plan { sandbox, ..Plan::default() };
    // One call after the other, so that chance is drawn in the same order.
    plan.settings.concurrency = 1;
    let mut bed = Bed::<E>::new(plan).await;
    let wishes: Vec<Wish> = (1..=30).map(|id| dated("a", &id.to_string())).collect();
    bed.enqueue(&wishes).await;
    bed.sql(&format!(
        "INSERT INTO deletions (agent_id, entry_id, label, created_at)
         VALUES ('b', 'b7', 'T 1', {START}), ('b', 'b8', 'T 1', {START}), ('b', 'b8', 'T 2', {START})"
    ))
    .await;
    for _ in 0..12 {
        bed.work().await;
        bed.clock.advance(Duration::from_secs(30));
    }
    bed.sandbox.script([Mood::Hang]);
    bed.enqueue(&[dated("c", "1"), dated("c", "2")]).await;
    bed.clock.advance(Duration::from_secs(30));
    bed.worker.turn().await.unwrap();
    bed.place(&[Hold::on("*"), Hold { cause: Cause::Throttled, ..Hold::on("a") }]).await;
    let later =
        |hours: u64, entry| Wish { due_at: START.plus(Duration::from_secs(3_600 * hours)), ..dated("d", entry) };
    bed.enqueue(&[later(2, "1"), later(900, "2"), Wish { priority: 5, ..dated("d", "3") }, dated("a", "3")]).await;
    bed.sql(&format!(
        "INSERT INTO deletions (agent_id, entry_id, label, created_at) VALUES ('b', 'b9', 'T 1', {START})"
    ))
    .await;
    bed.worker.turn().await.unwrap();
    let act = Act {
        id: ActId(1),
        acted_at: START,
        kind: Some(ActKind::Retry),
        operator: "ann".to_owned(),
        scope: Some("a".to_owned()),
        rows: 1,
        detail: Some("dead rows".to_owned()),
        ended: true,
    };
    bed.act(&act).await;
    bed
}

/// Rows that no worker has seen, some of them invalid, and the requests of a daemon that died.
async fn left_behind<E: Engine>() -> E {
    let mut engine = E::create(Setup { busy_timeout: Duration::ZERO, in_memory: true }).await;
    drop(engine.open().await);
    let mut rows: Vec<Row> =
        (1..=50).map(|id| Row::new(id, if id % 2 == 0 { "even" } else { "odd" }, &id.to_string())).collect();
    for row in &mut rows[..20] {
        row.batch_max = u8::try_from(row.id).unwrap();
    }
    rows[40].give_up(START);
    (rows[41].last_cause, rows[41].maybe_done) = (Some(Cause::Lost), true);
    rows[41].give_up(START);
    let mut requests: Vec<_> =
        (1..=3).map(|id| crate::suite::engine::Request::new(id, "even", &[2, 4, 6 * id])).collect();
    requests[0].answered_at = Some(START);
    engine.put(&rows, &requests).await;
    if engine.switch_checks_off().await {
        engine.enqueue(&[dated("an agent", "1"), dated("even", "an entry"), dated("", "2"), dated("even", "")]).await;
    }
    engine
}

async fn told<E: Engine>(engine: &E, arguments: &[&str]) -> (i32, String, String) {
    let dir = tempfile::tempdir().unwrap();
    let mut command = sweeper(dir.path());
    engine.configure(&mut command);
    command.args(arguments);
    let (code, out, err) = finish(command).await;
    // Each names its own place.
    let place = |text: String| {
        text.replace(&format!("database {}", engine.address()), "QUEUE").replace(&engine.address(), "QUEUE")
    };
    (code, out, place(err))
}

/// Takes away what differs. Times in seconds are those of each look.
fn comparable(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|name, _| !OWN.contains(&name.as_str()));
            for (name, value) in map.iter_mut() {
                match value.as_f64().filter(|_| name.ends_with("_s")) {
                    Some(seconds) => *value = Value::from((seconds / 600.0).round()),
                    None => comparable(value),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(comparable),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// What both print for this, which is the same.
async fn same<A: Engine, B: Engine>(one: &A, other: &B, arguments: &[&str]) -> (i32, String) {
    let (one, other) = (told(one, arguments).await, told(other, arguments).await);
    if arguments.contains(&"--json") {
        let objects = |text: &str| -> Vec<Value> {
            let mut objects: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            objects.iter_mut().for_each(comparable);
            objects
        };
        assert_eq!((one.0, objects(&one.1), &one.2), (other.0, objects(&other.1), &other.2), "{arguments:?}");
    } else {
        assert_eq!(one, other, "{arguments:?}");
    }
    (one.0, one.1)
}

/// Compares a label's reports, whose lines must have the same bytes. Each names its own queue, and has its own seal.
async fn same_reports<A: Engine, B: Engine>(one: &A, other: &B, label: &str) {
    let arguments = ["report", "--label", label, "--json", "--rows"];
    let (one, other) = (told(one, &arguments).await, told(other, &arguments).await);
    assert_eq!((one.0, &one.2), (other.0, &other.2), "{label}");
    let objects = [one.1, other.1].map(|text| {
        let mut object: Value = serde_json::from_str(&text).unwrap_or_default();
        for own in ["queue", "read_at", "read_until", "seal"] {
            object.as_object_mut().map(|object| object.remove(own));
        }
        object
    });
    assert_eq!(objects[0], objects[1], "{label}");
}

/// Asks both engines everything about these entries.
async fn all_the_same<A: Engine, B: Engine>(one: &A, other: &B, agents: &[&str], entries: &[(&str, &str)]) {
    let looks: [&[&str]; 11] = [
        &["status", "--json"],
        &["plan", "--json"],
        &["plan"],
        &["list"],
        &["list", "--json"],
        &["list", "--state", "pending,dead"],
        &["list", "--state", "deleted,absent", "--limit", "7"],
        &["list", "--cause", "api_failed"],
        &["export"],
        &["export", "--format", "jsonl", "--state", "deleted,dead,cancelled"],
        &["export", "--by", "ended", "--since", "2020-01-01"],
    ];
    for look in looks {
        assert_eq!(same(one, other, look).await.0, 0, "{look:?}");
    }
    for agent in agents {
        for look in ["status", "plan", "list"] {
            same(one, other, &[look, "--json", "--agent", agent]).await;
        }
        same(one, other, &["export", "--agent", agent]).await;
    }
    for (agent, entry) in entries {
        same(one, other, &["show", agent, entry]).await;
    }
}

#[tokio::test]
async fn what_a_worker_has_done_looks_the_same_on_both_engines() {
    if cluster().is_none() {
        return;
    }
    let (one, other) = (worked::<Sqlite>().await, worked::<Postgres>().await);
    let entries =
        [("a", "1"), ("a", "3"), ("b", "b7"), ("b", "b8"), ("b", "b9"), ("c", "1"), ("d", "1"), ("d", "3"), ("d", "4")];
    all_the_same(&one.engine, &other.engine, &["a", "b", "c", "d", "e"], &entries).await;
    for label in ["T 1", "T 2", "T 3"] {
        for look in [&["status", "--json", "--label", label], &["list", "--json", "--label", label]] {
            same(&one.engine, &other.engine, look).await;
        }
        same(&one.engine, &other.engine, &["export", "--label", label]).await;
        same_reports(&one.engine, &other.engine, label).await;
    }
    // What was compared has something of everything.
    let (_, told) = same(&one.engine, &other.engine, &["status", "--json"]).await;
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["daemon"]["running"], true, "{told}");
    assert_eq!(told["daemon"]["pid"], std::process::id(), "{told}");
    assert_eq!(told["in_flight"], serde_json::json!({ "requests": 1, "rows": 2 }), "{told}");
    for name in ["pending", "deleted", "dead"] {
        assert!(told["rows"][name].as_u64().unwrap() > 0, "{name}: {told}");
    }
    for name in ["agents", "dead", "holds", "acts", "waits"] {
        assert!(!told[name].as_array().unwrap().is_empty(), "{name}: {told}");
    }
    let (_, shown) = same(&one.engine, &other.engine, &["show", "b", "b7"]).await;
    assert!(
        shown.contains("dead, api_failed") && shown.contains("label T 1") && shown.contains("single-entry"),
        "{shown}"
    );
}

#[tokio::test]
async fn what_a_dead_daemon_left_behind_looks_the_same_on_both_engines() {
    if cluster().is_none() {
        return;
    }
    let (one, other) = (left_behind::<Sqlite>().await, left_behind::<Postgres>().await);
    all_the_same(&one, &other, &["even", "odd"], &[("even", "2"), ("even", "6"), ("odd", "41"), ("even", "42")]).await;
    let (_, told) = same(&one, &other, &["plan", "--json"]).await;
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["refused"], &told["is_running"]), (&4.into(), &false.into()), "{told}");
    assert_eq!(told["in_flight"]["requests"], 2, "{told}");
    assert!(Timestamp(told["at"].as_i64().unwrap()) < START, "{told}");
}
