//! Other languages and ORMs: what docs/enqueueing.md shows for them, run with the real libraries beside a real daemon.
//!
//! `clients/*.py` and `clients/*.mjs` are one program for each client. Each has the page's lines in it, between `docs` and
//! `end`, and says what each of its ways to enqueue does. The tests here ask for it and look into the table.
//!
//! What is not installed is skipped. `SWEEPER_CLIENTS=install cargo test clients` installs it below `target/tmp`.

mod install;
mod process;

use std::{fs, path::Path, time::Duration};

use assert_cmd::assert::OutputAssertExt as _;
use audio_cache_sweeper::sandbox::{Options, Sandbox};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, ConnectOptions as _, sqlite::SqliteConnectOptions};
use tokio::time::timeout;

use self::process::{Answer, Client, Form};
use crate::daemon::{Daemon, configured, sandbox, skipped, sql, sweeper};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Less than any client waits for a lock before it gives up: what fails sooner has not waited.
const AT_ONCE: Duration = Duration::from_secs(4);

/// Above 2^53: a double cannot hold it.
const BIG: u64 = 9_007_199_254_740_993;

/// A queue with a daemon on it, an agent that is held, and a client.
struct Scene {
    dir: tempfile::TempDir,
    sandbox: Sandbox,
    daemon: Daemon,
    client: Client,
    /// All that the client said it has enqueued.
    enqueued: Vec<(String, String)>,
}

impl Scene {
    async fn new(script: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let sandbox = sandbox(Options::default()).await;
        sweeper(dir.path()).arg("init").assert().code(0);
        sql(dir.path(), "INSERT INTO holds (scope) VALUES ('held')").await;
        let client = match Client::start(script, dir.path()).await {
            Ok(client) => client,
            Err(missing) => {
                skipped(&format!("{missing} is not here; SWEEPER_CLIENTS=install cargo test clients installs it"));
                return None;
            }
        };
        let daemon = Daemon::start(configured(dir.path(), &sandbox)).until("started").await;
        Some(Self { dir, sandbox, daemon, client, enqueued: Vec::new() })
    }

    async fn one(&self, query: &str) -> Option<String> {
        sql(self.dir.path(), query).await.into_iter().next().map(|(value,)| value)
    }

    /// A column of a row, as text.
    async fn cell(&self, agent: &str, entry: &str, column: &str) -> Option<String> {
        let row = format!("FROM deletions d WHERE agent_id = '{agent}' AND entry_id = '{entry}'");
        self.one(&format!("SELECT CAST({column} AS TEXT) {row}")).await
    }

    /// How many requests have had this row, and its state: read at one time.
    async fn history(&self, entry: &str) -> String {
        let column = "(SELECT count(*) FROM outcomes WHERE deletion_id = d.id) || ' ' || state";
        self.cell("free", entry, column).await.unwrap()
    }

    async fn until_settled(&self, entry: &str) {
        self.until_none(&format!("agent_id = 'free' AND entry_id = '{entry}' AND state = 'pending'")).await;
        assert_ne!(self.cell("free", entry, "state").await, None, "{entry} has vanished");
    }

    async fn until_none(&self, condition: &str) {
        let query = format!("SELECT 1 || '' FROM deletions WHERE {condition}");
        let none = async {
            while self.one(&query).await.is_some() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, none).await.unwrap_or_else(|_| panic!("there is still a row with {condition}"));
    }

    /// Enqueues rows, of which none is bad.
    async fn enqueue(&mut self, form: &str, rows: &[(&str, &str, i64)]) -> Option<Vec<i64>> {
        let answer = self.client.ask(form, &row_objects(rows)).await;
        self.enqueued.extend(rows.iter().map(|(agent, entry, _)| ((*agent).to_owned(), (*entry).to_owned())));
        answer.unwrap_or_else(|error| panic!("{form} {rows:?}: {error}"))
    }

    /// Somebody else writes, and waits so long for the lock.
    async fn poke(&self, entry: &str, patience: Duration) -> Result<(), String> {
        let path = self.dir.path().join("sweeper.db");
        let options = SqliteConnectOptions::new().filename(path).busy_timeout(patience);
        let mut conn = options.connect().await.unwrap();
        let insert = format!("INSERT INTO deletions (agent_id, entry_id) VALUES ('held', '{entry}')");
        let done = sqlx::raw_sql(AssertSqlSafe(insert)).execute(&mut conn).await;
        done.map(drop).map_err(|error| error.to_string())
    }

    /// Nothing that was enqueued has vanished, and all of it is carried out once nothing is held.
    async fn end(self) {
        sql(self.dir.path(), "DELETE FROM holds").await;
        self.until_none("state = 'pending'").await;
        for (agent, entry) in &self.enqueued {
            assert!(self.cell(agent, entry, "state").await.is_some(), "{agent} {entry} has vanished");
            assert!(self.sandbox.is_gone(agent, entry), "{agent} {entry} was not deleted");
        }
        self.daemon.signal("TERM");
        assert_eq!(self.daemon.ended().await.0, 0);
    }
}

fn row_objects(rows: &[(&str, &str, i64)]) -> Value {
    rows.iter()
        .map(|(agent, entry, priority)| json!({ "agent_id": agent, "entry_id": entry, "priority": priority }))
        .collect()
}

/// An ID that names the form and what it is for.
fn entry_of(form: &str, what: &str) -> String {
    format!("{form}-{what}").replace(|c: char| !c.is_ascii_alphanumeric(), "-")
}

/// A new row, a duplicate of an open and of a settled one, both kinds together, a bad one, and numbers for IDs.
async fn enqueues(scene: &mut Scene, form: &str, numbers: &str, tells_ids: bool) {
    let [settled, open, new, late] = ["settled", "open", "new", "late"].map(|what| entry_of(form, what));
    let told = scene.enqueue(form, &[("free", &settled, 0)]).await;
    assert_eq!(told.is_some(), tells_ids, "{form}");
    scene.until_settled(&settled).await;
    scene.enqueue(form, &[("held", &open, 0)]).await;
    let before = scene.cell("held", &open, "id || ' ' || state").await;
    assert!(before.as_ref().unwrap().ends_with(" pending"), "{form}: {before:?}");
    let history = scene.history(&settled).await;

    let rows = [("free", settled.as_str(), 0), ("held", open.as_str(), 7), ("held", new.as_str(), 0)];
    let told = scene.enqueue(form, &rows).await;
    let mut ids = Vec::new();
    for (agent, entry, _) in rows {
        ids.push(scene.cell(agent, entry, "id").await.unwrap().parse::<i64>().unwrap());
    }
    if let Some(mut told) = told {
        told.sort_unstable();
        ids.sort_unstable();
        assert_eq!(told, ids, "{form} tells the ids of the rows that there are");
    }
    assert_eq!(scene.cell("held", &open, "id || ' ' || state").await, before, "{form}: it is the same row");
    assert_eq!(scene.cell("held", &open, "priority").await.unwrap(), "7", "{form}: the higher one");
    assert_eq!(scene.cell("held", &new, "state").await.unwrap(), "pending", "{form}");
    assert_ne!(scene.history(&settled).await, history, "{form}: a settled row is reopened");
    scene.until_settled(&settled).await;

    let bad = row_objects(&[("held", "b a d", 0)]);
    let error = scene.client.ask(form, &bad).await.unwrap_err();
    assert!(error.contains("printable ASCII characters without spaces"), "{form}: {error}");
    assert_eq!(scene.cell("held", "b a d", "state").await, None, "{form}");
    scene.enqueue(form, &[("held", &late, 0)]).await;
    assert!(scene.cell("held", &late, "state").await.is_some(), "{form}: the error ends nothing");
    enqueues_numbers(scene, form, numbers).await;
}

/// IDs that are numbers: in the table exactly, or refused, or another ID, as the client says.
async fn enqueues_numbers(scene: &mut Scene, form: &str, numbers: &str) {
    let answer = scene.client.ask(form, &json!([{ "agent_id": "held", "entry_id": BIG, "priority": 0 }])).await;
    let stored = scene.one("SELECT entry_id FROM deletions WHERE entry_id LIKE '900719925%'").await;
    match numbers {
        "exact" => assert_eq!((answer.is_ok(), stored), (true, Some(BIG.to_string())), "{form}"),
        "refused" => assert_eq!((answer.is_err(), stored), (true, None), "{form}"),
        "rounded" => assert_eq!((answer.is_ok(), stored), (true, Some((BIG - 1).to_string())), "{form}"),
        other => panic!("{form}: {other}"),
    }
    sql(scene.dir.path(), "DELETE FROM deletions WHERE entry_id LIKE '900719925%'").await;
}

/// After a duplicate, the id that the client tells is that of the row before.
async fn tells_another_s_id(scene: &mut Scene, form: &str) {
    let first = scene.enqueue(form, &[("held", "one", 0)]).await.unwrap();
    let second = scene.enqueue(form, &[("held", "two", 0)]).await.unwrap();
    assert_ne!(first, second, "{form}");
    assert_eq!(scene.enqueue(form, &[("held", "one", 0)]).await.unwrap(), second, "{form}");
}

async fn leaves_a_settled_row_as_it_is(scene: &mut Scene, form: &str) {
    let entry = entry_of(form, "left");
    scene.enqueue(form, &[("free", &entry, 0)]).await;
    scene.until_settled(&entry).await;
    let before = scene.history(&entry).await;
    scene.enqueue(form, &[("free", &entry, 3)]).await;
    assert_eq!(scene.history(&entry).await, before, "{form}: it was reopened");
}

async fn fails_on_a_duplicate(scene: &mut Scene, form: &str) {
    scene.enqueue(form, &[("held", "failing", 0)]).await;
    let error = scene.client.ask(form, &row_objects(&[("held", "failing", 0)])).await;
    assert!(error.is_err(), "{form}: {error:?}");
}

/// A transaction that reads, and then writes, while somebody else would like to write in between.
async fn reads_then_writes(scene: &mut Scene, form: &str, locks: bool) {
    let entry = entry_of(form, "transaction");
    scene.client.send(form, &row_objects(&[("held", &entry, 0)]));
    assert!(matches!(scene.client.answer().await, Answer::Read), "{form}");
    // Beside the daemon, it is the daemon that commits here.
    let patience = if locks { Duration::ZERO } else { PATIENCE };
    let poked = scene.poke(&format!("poke-{entry}"), patience).await;
    scene.client.go_on();
    let Answer::Done(done) = timeout(AT_ONCE, scene.client.answer()).await.unwrap() else { panic!("{form}") };
    let stored = scene.cell("held", &entry, "state").await.is_some();
    if locks {
        assert!(poked.unwrap_err().contains("database is locked"), "{form}: nobody else writes meanwhile");
        assert_eq!((done, stored), (Ok(None), true), "{form}");
    } else {
        poked.unwrap();
        let error = done.unwrap_err();
        // The second is Prisma's.
        let known = ["database is locked", "Operation has timed out"];
        assert!(known.iter().any(|known| error.contains(known)) && !stored, "{form}: {error}");
    }
}

async fn check(script: &str) {
    let Some(mut scene) = Scene::new(script).await else { return };
    assert!(section().contains(&scene.client.title), "docs/enqueueing.md names no {}", scene.client.title);
    assert!(scene.client.busy_timeout >= 1_000, "{script}: {} ms", scene.client.busy_timeout);
    for Form { name: form, does, numbers } in scene.client.forms.clone() {
        assert!(section().contains(&form), "{script}: docs/enqueueing.md says nothing of {form}");
        match does.as_str() {
            "enqueues" => enqueues(&mut scene, &form, &numbers, false).await,
            "tells the ids" => enqueues(&mut scene, &form, &numbers, true).await,
            "tells another's id" => tells_another_s_id(&mut scene, &form).await,
            "leaves a settled row as it is" => leaves_a_settled_row_as_it_is(&mut scene, &form).await,
            "fails on a duplicate" => fails_on_a_duplicate(&mut scene, &form).await,
            "locks first" => reads_then_writes(&mut scene, &form, true).await,
            "is locked out" => reads_then_writes(&mut scene, &form, false).await,
            other => panic!("{script}: {form} {other}"),
        }
    }
    scene.end().await;
}

/// One test for each client, so that each is skipped or fails by itself.
macro_rules! clients {
    ($($name:ident: $script:literal,)+) => {
        const SCRIPTS: &[&str] = &[$($script),+];
        $(
            #[tokio::test]
            async fn $name() {
                check($script).await;
            }
        )+
    };
}

clients! {
    python_s_sqlite3_does_what_docs_enqueueing_says: "driver_sqlite3.py",
    sqlalchemy_does_what_docs_enqueueing_says: "orm_sqlalchemy.py",
    django_does_what_docs_enqueueing_says: "orm_django.py",
    pandas_does_what_docs_enqueueing_says: "frame_pandas.py",
    better_sqlite3_does_what_docs_enqueueing_says: "driver_better_sqlite3.mjs",
    node_sqlite_does_what_docs_enqueueing_says: "driver_node_sqlite.mjs",
    libsql_does_what_docs_enqueueing_says: "driver_libsql.mjs",
    prisma_does_what_docs_enqueueing_says: "orm_prisma.mjs",
    drizzle_does_what_docs_enqueueing_says: "orm_drizzle.mjs",
    kysely_does_what_docs_enqueueing_says: "orm_kysely.mjs",
    knex_does_what_docs_enqueueing_says: "orm_knex.mjs",
    typeorm_does_what_docs_enqueueing_says: "orm_typeorm.mjs",
    sequelize_does_what_docs_enqueueing_says: "orm_sequelize.mjs",
}

/// What docs/enqueueing.md says about other languages.
fn section() -> &'static str {
    let page = include_str!("../../docs/enqueueing.md");
    page.split("## From other languages and ORMs\n").nth(1).unwrap().split("\n## ").next().unwrap()
}

/// What stands between `docs` and `end` in a file, without the indentation of its first line.
fn shown(text: &str) -> Vec<String> {
    let is_mark = |line: &str, mark| line.trim().trim_start_matches(['#', '/']).trim_start() == mark;
    let mut parts = Vec::new();
    let mut lines = text.lines();
    while lines.any(|line| is_mark(line, "docs")) {
        let part: Vec<&str> = lines.by_ref().take_while(|line| !is_mark(line, "end")).collect();
        let indent = part[0].len() - part[0].trim_start().len();
        parts.push(part.iter().map(|line| line.get(indent..).unwrap_or("").trim_end()).collect::<Vec<_>>().join("\n"));
    }
    parts
}

#[test]
fn what_docs_enqueueing_shows_of_other_languages_is_what_the_tests_run() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/clients");
    let mut seen = 0;
    for script in SCRIPTS.iter().chain(&["schema.prisma"]) {
        for part in shown(&fs::read_to_string(root.join(script)).unwrap()) {
            assert!(section().contains(&part), "{script} has, and docs/enqueueing.md has not:\n{part}");
            seen += 1;
        }
    }
    assert!(seen >= 20, "{seen}");
    for file in fs::read_dir(&root).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        let is_client = (name.ends_with(".py") || name.ends_with(".mjs")) && !name.starts_with("serve.");
        assert!(!is_client || SCRIPTS.contains(&name.as_str()), "{name} is run by no test");
    }
}
