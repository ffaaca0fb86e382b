//! `sweeper verify`: what is compared, what counts as a whole listing, and what is written, on both engines. How the agent is held
//! meanwhile: see `held`.

mod held;

use std::{process::Command, time::Duration};

use audio_cache_sweeper::{
    model::clock::Clock,
    sandbox::{Mood, Options, Sandbox},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    daemon::{configure, finish, sandbox, sweeper},
    engines::{Tables, postgres::Postgres, sqlite::Sqlite},
    suite::engine::Setup,
};

/// What differs between the engines.
trait Sql: Tables {
    /// Begins a transaction that lets nobody else write rows.
    const KEEP_OUT: &str;
    /// `requests.deletion_ids` of a request with the row 1.
    const MANIFEST: &str;

    /// The one text column of a query, joined by spaces.
    async fn joined(&mut self, sql: &str) -> String {
        self.texts(sql).await.join(" ")
    }
}

impl Sql for Sqlite {
    const KEEP_OUT: &str = "BEGIN IMMEDIATE";
    const MANIFEST: &str = "[1]";
}

impl Sql for Postgres {
    const KEEP_OUT: &str = "BEGIN; LOCK TABLE deletions IN SHARE ROW EXCLUSIVE MODE";
    const MANIFEST: &str = "{1}";
}

/// A queue that nobody works on, and an API.
struct Scene<E> {
    engine: E,
    dir: TempDir,
    sandbox: Sandbox,
}

impl<E: Sql> Scene<E> {
    /// The cache of `a` has the entries 1 to `entries`.
    async fn new(entries: u64, keeping: &[&str]) -> Self {
        let keeping = keeping.iter().map(|id| (*id).to_owned()).collect();
        Self::with(entries, Options { keeping, ..Options::default() }).await
    }

    async fn with(entries: u64, options: Options) -> Self {
        let engine = E::create(Setup { busy_timeout: Duration::from_secs(5), in_memory: true }).await;
        drop(engine.open().await);
        let agents = vec![("a".to_owned(), entries), ("b".to_owned(), 300)];
        let sandbox = sandbox(Options { agents, ..options }).await;
        Self { engine, dir: tempfile::tempdir().unwrap(), sandbox }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = configure(sweeper(self.dir.path()), &self.sandbox);
        self.engine.configure(&mut command);
        command.args(arguments).env("SUDO_USER", "ann");
        for (name, value) in [("BASE_DELAY", "1ms"), ("MAX_DELAY", "2ms"), ("MAX_RETRY_AFTER", "5ms")] {
            command.env(format!("SWEEPER__HOLD__{name}"), value);
        }
        command
    }

    async fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        finish(self.command(arguments)).await
    }

    /// `verify --agent a` with these arguments.
    async fn verify(&self, arguments: &[&str]) -> (i32, String, String) {
        self.run(&[&["verify", "--agent", "a"], arguments].concat()).await
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        let (_, out, err) = self.verify(&[&["--json"], arguments].concat()).await;
        serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{err}"))
    }

    /// A daemon works until nothing is pending.
    async fn work(&self) {
        let (code, out, _) = self.run(&["run", "--until-empty", "--give-up-after", "1m"]).await;
        assert!(code == 0 || code == 4, "{out}");
    }

    /// Rows of `a` that ended a minute ago.
    async fn settled(&mut self, state: &str, entries: &[&str]) {
        let at = Clock::system().now().0 - 60_000;
        for entry in entries {
            let columns = "agent_id, entry_id, state, settled_at, last_cause";
            let cause = if state == "dead" { "'api_failed'" } else { "NULL" };
            self.engine
                .sql(&format!("INSERT INTO deletions ({columns}) VALUES ('a', '{entry}', '{state}', {at}, {cause})"))
                .await;
        }
    }

    /// The entries of the rows of which this is true, in order.
    async fn entries(&mut self, condition: &str) -> String {
        self.engine.joined(&format!("SELECT entry_id FROM deletions WHERE {condition} ORDER BY entry_id")).await
    }

    async fn verified(&mut self) -> String {
        self.entries("verified_at IS NOT NULL").await
    }

    async fn holds(&mut self) -> String {
        self.engine.joined("SELECT cause FROM holds ORDER BY cause").await
    }

    async fn acts(&mut self) -> String {
        let query = "SELECT act || '|' || operator || '|' || scope || '|' || CAST(rows AS text) FROM acts ORDER BY id";
        self.engine.joined(query).await
    }

    /// The requests that list a cache, in their order.
    fn listings(&self) -> Vec<String> {
        let all = self.sandbox.requests().into_iter().filter(|request| request.method == "GET");
        all.map(|request| request.uri.rsplit('/').next().unwrap().to_owned()).collect()
    }
}

/// The same tests on both engines.
macro_rules! on_both {
    ($($test:ident),* $(,)?) => {
        on_both!(@ sqlite crate::engines::sqlite::Sqlite: $($test),*);
        on_both!(@ postgres crate::engines::postgres::Postgres: $($test),*);
    };
    (@ $name:ident $engine:ty: $($test:ident),*) => {
        mod $name {
            $(
                #[tokio::test]
                async fn $test() {
                    if <$engine as crate::suite::engine::Engine>::is_here() {
                        super::$test::<$engine>().await;
                    }
                }
            )*
        }
    };
}
use on_both;

on_both!(
    an_api_that_says_deleted_and_keeps_the_entry_is_found_out,
    what_is_still_there_is_reopened_with_its_wishes,
    dead_rows_that_are_gone_are_told_of_and_stay_dead,
    an_entry_that_was_cached_again_is_told_apart,
    nothing_is_confirmed_from_a_listing_that_may_have_shifted,
    an_order_that_the_api_ignores_is_made_up_for_by_a_second_listing,
    what_was_settled_before_the_listing_is_compared_whatever_the_clocks_say,
    an_error_in_the_middle_of_a_listing_writes_nothing,
    rows_are_chosen_by_label_and_time,
);

fn page(total: u64, ids: impl IntoIterator<Item = u64>) -> Mood {
    let entries: Vec<Value> = ids.into_iter().map(|id| json!({ "id": id.to_string() })).collect();
    Mood::Garble(json!({ "totalCount": total, "entries": entries }).to_string())
}

async fn an_api_that_says_deleted_and_keeps_the_entry_is_found_out<E: Sql>() {
    let mut scene = Scene::<E>::new(450, &["7"]).await;
    assert_eq!(scene.run(&["enqueue", "--agent", "a", "5", "6", "7", "8"]).await.0, 0);
    scene.work().await;
    assert_eq!(scene.entries("state = 'deleted'").await, "5 6 7 8");
    let dry = scene.verify(&["--dry-run"]).await;
    assert!(dry.0 == 1 && dry.1.contains("dry run: 3 rows would be verified; nothing was written"), "{dry:?}");
    assert_eq!(scene.verified().await, "");
    let (code, out, err) = scene.verify(&[]).await;
    assert_eq!((code, err.as_str()), (1, ""), "{out}");
    let correlation_id = scene.engine.joined("SELECT CAST(correlation_id AS text) FROM requests WHERE id = 1").await;
    for said in [
        "the cache of a had 447 entries at 20",
        "verified 3 rows: the entry is not in the cache\n1 row is deleted or absent, and the entry is in the cache:\n  7: deleted 20",
        &format!(" UTC by request 1, correlation ID {correlation_id}; cached 2025-"),
        "`sweeper verify --agent a --requeue` reopens what is in the cache",
    ] {
        assert!(out.contains(said), "{said}: {out}");
    }
    let pages = [0, 199, 398].map(|offset| format!("audio-cache?limit=200&offset={offset}&sort=id:asc"));
    assert_eq!(scene.listings(), [pages.clone(), pages].concat(), "each page begins with the end of the one before");
    assert_eq!((scene.verified().await.as_str(), scene.holds().await.as_str()), ("5 6 8", ""));
    assert!(scene.acts().await.ends_with("verify|ann|a|3"), "{}", scene.acts().await);
    let found = scene.json(&[]).await;
    assert_eq!((&found["verified"], &found["listed"]), (&json!(3), &json!(447)), "{found}");
    let [still] = found["still_listed"].as_array().unwrap().as_slice() else { panic!("{found}") };
    assert_eq!(
        (&still["entry_id"], &still["state"], &still["request_id"]),
        (&json!("7"), &json!("deleted"), &json!(1))
    );
    assert_eq!((&still["correlation_id"], &still["cached_again"]), (&json!(correlation_id), &json!(false)));
    // Whoever looks is told.
    let (_, shown, _) = scene.run(&["show", "a", "5"]).await;
    assert!(shown.contains("\n  verified 20") && shown.contains(" UTC: not in the agent's cache then\n"), "{shown}");
    let (_, shown, _) = scene.run(&["show", "a", "7"]).await;
    assert!(!shown.contains("verified"), "{shown}");
    let (_, told, _) = scene.run(&["status", "--json"]).await;
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["rows"]["verified"], &told["verified_at"]), (&json!(3), &found["at"]), "{told}");
    assert_eq!(told["acts"][0]["act"], "verify", "{told}");
    let (_, told, _) = scene.run(&["status"]).await;
    let line = told.lines().find(|line| line.starts_with("verified ")).unwrap();
    assert!(line.contains(" 3  of these, not in the cache 20"), "{told}");
    let (_, listed, _) = scene.run(&["list", "--agent", "a", "--json"]).await;
    let times: Vec<Value> =
        listed.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["verified_at"].clone()).collect();
    assert_eq!(times, [found["at"].clone(), found["at"].clone(), Value::Null, found["at"].clone()], "{listed}");
    // Whoever reopens a row takes that back: it is about another deletion.
    assert_eq!(scene.run(&["enqueue", "--agent", "a", "5"]).await.0, 0);
    scene.work().await;
    assert_eq!((scene.entries("state = 'absent'").await.as_str(), scene.verified().await.as_str()), ("5", "6 8"));
}

async fn what_is_still_there_is_reopened_with_its_wishes<E: Sql>() {
    let mut scene = Scene::<E>::new(30, &["7"]).await;
    assert_eq!(scene.run(&["enqueue", "--agent", "a", "--label", "T", "7", "8"]).await.0, 0);
    scene.work().await;
    assert_eq!(scene.run(&["status", "--label", "T"]).await.0, 0, "all are fulfilled, as far as the API tells");
    let (code, _, err) = scene.verify(&["--requeue"]).await;
    assert!(code == 2 && err.contains("give --yes to go ahead"), "{err}");
    assert_eq!(scene.listings().len(), 0, "nobody could have answered");
    let (_, out, _) = scene.verify(&["--requeue", "--dry-run"]).await;
    assert!(out.ends_with("dry run: 1 row would be reopened\n"), "{out}");
    assert_eq!(scene.entries("state = 'pending'").await, "");
    let (code, out, err) = scene.verify(&["--requeue", "--yes", "--label", "T"]).await;
    assert_eq!((code, err.as_str()), (1, ""), "{out}");
    assert!(out.ends_with("\nreopened 1\n"), "{out}");
    let open = "state = 'pending' AND settled_at IS NULL AND attempts = 0 AND due_at > 0 AND request_id IS NULL AND label = 'T'";
    assert_eq!((scene.entries(open).await.as_str(), scene.verified().await.as_str()), ("7", "8"));
    let wishes = "SELECT entry_id || coalesce(state, 'open') FROM wishes WHERE label = 'T' ORDER BY entry_id";
    assert_eq!(scene.engine.joined(wishes).await, "7open 8deleted");
    assert!(scene.acts().await.ends_with("verify|ann|a|1 retry|ann|a|1"), "{}", scene.acts().await);
    assert_eq!(scene.run(&["status", "--label", "T"]).await.0, 1, "the label is open again");
}

async fn dead_rows_that_are_gone_are_told_of_and_stay_dead<E: Sql>() {
    let mut scene = Scene::<E>::new(30, &[]).await;
    scene.settled("dead", &["1", "x", "y"]).await;
    scene.settled("absent", &["z"]).await;
    let (code, out, err) = scene.verify(&[]).await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.contains("verified 3 rows"), "{out}");
    assert!(out.contains("2 of them are dead, and the entry is not in the cache all the same:\n  x\n  y\n"), "{out}");
    assert!(out.contains("1 dead row has its entry in the cache"), "{out}");
    assert_eq!((scene.verified().await.as_str(), scene.entries("state = 'dead'").await.as_str()), ("x y z", "1 x y"));
    let found = scene.json(&[]).await;
    assert_eq!((&found["dead_gone"], &found["dead_listed"]), (&json!(["x", "y"]), &json!(1)), "{found}");
    assert_eq!(scene.run(&["retry", "--all", "--yes"]).await.0, 0);
    assert_eq!((scene.verified().await.as_str(), scene.entries("state = 'pending'").await.as_str()), ("z", "1 x y"));
}

async fn an_entry_that_was_cached_again_is_told_apart<E: Sql>() {
    let mut scene = Scene::<E>::new(3, &[]).await;
    scene.settled("deleted", &["3", "x"]).await;
    scene.engine.sql("UPDATE deletions SET settled_at = 1700000000000 WHERE entry_id = '3'").await;
    scene.engine.sql("UPDATE deletions SET verified_at = settled_at").await;
    let (code, out, _) = scene.verify(&[]).await;
    assert!(code == 1 && out.contains("  3: deleted 2023-11-14 22:13:20 UTC; cached again 2025-"), "{out}");
    assert!(out.contains(" UTC, after that\n"), "{out}");
    assert_eq!(scene.verified().await, "x", "what is listed is not verified any more");
    assert_eq!(scene.json(&[]).await["still_listed"][0]["cached_again"], true);
}

async fn nothing_is_confirmed_from_a_listing_that_may_have_shifted<E: Sql>() {
    let mut scene = Scene::<E>::new(3, &[]).await;
    scene.settled("deleted", &["x"]).await;
    let first = || page(201, 1..=200);
    let shifts = [
        ([first(), page(202, 200..=202)], "the cache had 201 entries, and 202 on a later page"),
        ([first(), page(201, 201..=202)], "the entry 200, with which a page ended, does not begin the next page"),
        ([first(), page(201, [200])], "the API says that there are 201 entries, and listed 200"),
    ];
    for (pages, said) in shifts {
        scene.sandbox.script((0..3).flat_map(|_| pages.clone()));
        let (code, out, err) = scene.verify(&[]).await;
        assert_eq!((code, out.as_str()), (1, ""), "{err}");
        assert!(err.contains(&format!("{said}; listing again")) || err.contains("listing again"), "{err}");
        assert!(
            err.contains("nothing was written: listing the cache was tried 3 times, and no listing counts"),
            "{err}"
        );
        assert!(err.contains(said), "{said}: {err}");
        assert_eq!((scene.verified().await.as_str(), scene.holds().await.as_str()), ("", ""));
    }
    let twice = || page(2, [1, 1]);
    scene.sandbox.script([twice(), twice(), twice()]);
    let found = scene.json(&[]).await;
    assert_eq!((found["shifted"].as_array().map(Vec::len), &found["at"]), (Some(3), &Value::Null), "{found}");
    // The third listing is whole, and a cache without any entry is one, too.
    scene.sandbox.script([twice(), twice(), page(0, [])]);
    let (code, out, err) = scene.verify(&[]).await;
    assert!(code == 0 && out.contains("had 0 entries") && err.matches("listing again").count() == 2, "{out}{err}");
    assert_eq!(scene.verified().await, "x");
    assert_eq!(scene.acts().await, "verify|ann|a|1");
}

async fn an_order_that_the_api_ignores_is_made_up_for_by_a_second_listing<E: Sql>() {
    let mut scene = Scene::<E>::with(450, Options { ignore_sort: true, ..Options::default() }).await;
    scene.settled("deleted", &["7", "x"]).await;
    let (code, out, err) = scene.verify(&[]).await;
    assert!(code == 1 && out.contains("had 450 entries") && out.contains("\n  7: deleted"), "{out}");
    assert!(err.contains("does not list the cache of a by ID, as asked; two listings in a row have to agree"), "{err}");
    let asked: Vec<bool> = scene.listings().iter().map(|listing| listing.ends_with("sort=cached_at:asc")).collect();
    assert_eq!(asked, [false, true, true, true, true, true, true], "one page by ID, and three pages twice");
    assert_eq!(scene.verified().await, "x");
    // 7 moves to the first page after that was listed, 1 goes, and 201 comes: the listing is whole, as far as one can tell.
    let believed = || [page(201, (1..=200).rev().filter(|id| *id != 7).chain([300])), page(201, [300, 201])];
    let (listed, sorted) = (|| [page(201, (2..=201).rev()), page(201, [2, 300])], page(201, [2, 1]));
    scene.engine.sql("UPDATE deletions SET verified_at = NULL").await;
    scene.sandbox.script([vec![sorted.clone()], believed().to_vec(), listed().to_vec()].concat());
    scene.sandbox.script([believed(), listed(), believed(), listed()].concat());
    let (code, out, err) = scene.verify(&[]).await;
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    assert!(err.matches("two listings in a row differ; listing again").count() == 2, "{err}");
    assert_eq!(scene.verified().await, "");
    // A single page needs no order.
    let before = scene.listings().len();
    scene.sandbox.script([page(3, [9, 300, 8])]);
    let (code, out, err) = scene.verify(&[]).await;
    assert_eq!((code, err.as_str(), scene.listings().len()), (0, "", before + 1), "{out}");
    assert_eq!(scene.verified().await, "7 x");
}

async fn what_was_settled_before_the_listing_is_compared_whatever_the_clocks_say<E: Sql>() {
    let mut scene = Scene::<E>::new(3, &[]).await;
    scene.settled("deleted", &["1", "x"]).await;
    // By a daemon whose clock is ahead.
    scene.engine.sql("UPDATE deletions SET settled_at = settled_at + 600000").await;
    let found = scene.json(&[]).await;
    assert_eq!((&found["verified"], &found["left_out"]), (&json!(1), &json!(0)), "{found}");
    assert_eq!((&found["still_listed"][0]["entry_id"], &found["changed"]), (&json!("1"), &json!(0)), "{found}");
    assert_eq!(scene.verified().await, "x");
}

/// SQLite can have values that the schema does not allow.
#[tokio::test]
async fn a_row_that_cannot_be_compared_is_no_row_that_is_gone() {
    let mut scene = Scene::<Sqlite>::new(3, &[]).await;
    scene.settled("deleted", &["1", "x", "y"]).await;
    scene.engine.sql("PRAGMA ignore_check_constraints = ON").await;
    scene.engine.sql("UPDATE deletions SET settled_at = 'soon' WHERE entry_id = 'y'").await;
    let (code, out, _) = scene.verify(&["--since", "1h"]).await;
    assert!(code == 1 && out.contains("verified 1 row"), "{out}");
    scene.sandbox.script([page(0, [])]);
    let (code, out, err) = scene.verify(&[]).await;
    assert!(code == 1 && out.contains("1 row was settled by somebody else meanwhile, or is invalid"), "{out}{err}");
    assert_eq!(scene.json(&[]).await["left_out"], 1);
    assert_eq!(scene.verified().await, "x");
    // The wish of a row that cannot be reopened stays as it is.
    assert_eq!(scene.run(&["enqueue", "--agent", "b", "--label", "T", "1", "2"]).await.0, 0);
    let ended = "settled_at = 1700000000000, state = 'deleted'";
    scene.engine.sql(&format!("UPDATE deletions SET {ended} WHERE agent_id = 'b'")).await;
    scene.engine.sql("UPDATE wishes SET closed_at = 1700000000000, state = 'deleted'").await;
    let refuse =
        "CREATE TRIGGER keep BEFORE UPDATE ON deletions WHEN OLD.entry_id = '1' BEGIN SELECT RAISE(IGNORE); END";
    scene.engine.sql(refuse).await;
    let (code, out, err) = scene.run(&["verify", "--agent", "b", "--requeue", "--yes"]).await;
    assert!(code == 1 && out.ends_with("reopened 1\n"), "{out}{err}");
    assert!(err.contains("1 row was changed or removed by somebody else meanwhile"), "{err}");
    assert_eq!(scene.entries("agent_id = 'b' AND state = 'pending'").await, "2");
    let wishes = "SELECT entry_id || coalesce(state, 'open') FROM wishes ORDER BY entry_id";
    assert_eq!(scene.engine.joined(wishes).await, "1deleted 2open");
}

async fn an_error_in_the_middle_of_a_listing_writes_nothing<E: Sql>() {
    let mut scene = Scene::<E>::new(300, &[]).await;
    scene.settled("deleted", &["x"]).await;
    for (status, said) in [(401, "the API key is wrong"), (403, "needs `read`"), (404, "check the agent's ID")] {
        scene.sandbox.script([Mood::Plain, Mood::status(status)]);
        let (code, out, err) = scene.verify(&[]).await;
        assert_eq!((code, out.as_str()), (1, ""), "{err}");
        assert!(err.contains(&format!("answered {status}")) && err.contains(said), "{err}");
        assert_eq!((scene.verified().await.as_str(), scene.holds().await.as_str()), ("", ""), "{status}");
    }
    // It is the request that is rejected, and not the order that it asks for.
    scene.sandbox.script([Mood::status(400), Mood::status(400), Mood::status(400)]);
    let (code, _, err) = scene.verify(&[]).await;
    assert!(code == 1 && err.contains("list the audio cache of a: the API answered 400"), "{err}");
    assert_eq!((scene.verified().await.as_str(), scene.holds().await.as_str()), ("", ""));
    let before = scene.listings().len();
    // An API that knows no order by IDs is asked for another one, and for its own.
    scene.sandbox.script([Mood::status(400), Mood::status(400), Mood::Plain, Mood::status(429), Mood::status(500)]);
    let (code, _, err) = scene.verify(&[]).await;
    assert!(code == 0 && err.matches("trying again").count() == 2, "{err}");
    let asked = &scene.listings()[before..];
    let [by_id, by_time, pages @ ..] = asked else { panic!("{asked:?}") };
    assert!(by_id.ends_with("sort=id:asc") && by_time.ends_with("sort=cached_at:asc"), "{asked:?}");
    let offsets = [0, 199, 199, 199, 0, 199].map(|offset| format!("audio-cache?limit=200&offset={offset}"));
    assert_eq!(pages, offsets, "two listings, and two pages that were asked for again");
    assert_eq!((scene.verified().await.as_str(), scene.holds().await.as_str()), ("x", ""));
}

async fn rows_are_chosen_by_label_and_time<E: Sql>() {
    let mut scene = Scene::<E>::new(30, &[]).await;
    assert_eq!(scene.run(&["enqueue", "--agent", "a", "--label", "T", "1", "2"]).await.0, 0);
    assert_eq!(scene.run(&["enqueue", "--agent", "a", "3"]).await.0, 0);
    scene.work().await;
    assert_eq!(scene.run(&["enqueue", "--agent", "a", "--label", "T", "--due", "1d", "4"]).await.0, 0);
    let (code, out, _) = scene.verify(&["--label", "T"]).await;
    assert!(
        code == 0 && out.contains("verified 2 rows") && out.contains("1 row is pending, and was not compared"),
        "{out}"
    );
    assert_eq!(scene.verified().await, "1 2");
    let listings = scene.listings().len();
    let none = scene.verify(&["--since", "2100-01-01"]).await;
    assert_eq!((none.0, none.1.as_str()), (1, "no settled row matches; nothing was listed; 1 row is pending\n"));
    scene.engine.sql("UPDATE deletions SET settled_at = 1700000000000 WHERE entry_id = '2'").await;
    let found = scene.json(&["--since", "1h"]).await;
    assert_eq!((&found["verified"], &found["pending"]), (&json!(2), &json!(1)), "{found}");
    assert_eq!(scene.verified().await, "1 2 3");
    let (code, _, err) = scene.run(&["verify", "--agent", "A"]).await;
    assert!(code == 1 && err.contains("there is no row of agent A in"), "{err}");
    let (code, _, err) = scene.verify(&["--label", "U"]).await;
    assert!(code == 1 && err.contains("no wish has the label U in"), "{err}");
    // Nothing is shown to be gone.
    assert_eq!(scene.run(&["enqueue", "--agent", "b", "--label", "V", "1", "2"]).await.0, 0);
    let (code, out, _) = scene.run(&["verify", "--agent", "b", "--label", "V", "--json"]).await;
    assert!(code == 1 && out.contains("\"pending\":2"), "{out}");
    let (code, out, _) = scene.verify(&["--label", "V"]).await;
    assert_eq!((code, out.as_str()), (1, "no settled row matches; nothing was listed\n"), "a label of another agent");
    assert_eq!(scene.listings().len(), listings + 1, "nothing is listed for nothing");
    // A wish outlives its row.
    scene.engine.sql("DELETE FROM deletions WHERE entry_id = '1'").await;
    let (code, out, _) = scene.verify(&["--label", "T"]).await;
    assert!(code == 0 && out.contains("1 wish has no row any more"), "{out}");
    // A wish that is fulfilled does not show that its row is at its end: somebody has reopened it, for a later wish.
    let reopen = "UPDATE deletions SET state = 'pending', settled_at = NULL, verified_at = NULL WHERE entry_id = '2'";
    scene.engine.sql(reopen).await;
    assert_eq!(scene.engine.joined("SELECT state FROM wishes WHERE label = 'T' AND entry_id = '2'").await, "deleted");
    let (code, out, _) = scene.verify(&["--label", "T"]).await;
    assert!(code == 1 && out.contains("nothing was listed; 2 rows are pending"), "{out}");
}
