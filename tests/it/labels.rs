//! Labels in SQL: which wishes an entry has, whatever is done to its row, and in whichever way a program writes.

mod commands;
mod pruning;

use audio_cache_sweeper::sandbox::Options as SandboxOptions;
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use crate::{
    bed::{Bed, Plan},
    daemon::{configured, finish, queue, sandbox, sql},
};

/// A queue, and a program that writes to it.
struct Scene {
    bed: Bed,
    conn: SqliteConnection,
}

impl Scene {
    async fn new() -> Self {
        let bed = Bed::new(Plan::default()).await;
        let conn = SqliteConnection::connect(bed.options.path.to_str().unwrap()).await.unwrap();
        Self { bed, conn }
    }

    async fn try_to(&mut self, sql: &str) -> Result<(), String> {
        let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.conn).await;
        done.map(drop).map_err(|error| error.as_database_error().unwrap().message().to_owned())
    }

    async fn run(&mut self, sql: &str) {
        self.try_to(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Wishes for entry 1, by a plain INSERT. An empty label: without one.
    async fn wish(&mut self, label: &str) {
        self.run(&format!(
            "INSERT INTO deletions (agent_id, entry_id, label) VALUES ('a', '1', nullif('{label}', ''))"
        ))
        .await;
    }

    async fn settle(&mut self, state: &str) {
        self.run(&format!(
            "UPDATE deletions SET state = '{state}', settled_at = 2000000000000 WHERE entry_id = '1' AND state = 'pending'"
        ))
        .await;
    }

    async fn retry(&mut self) {
        self.run(
            "UPDATE deletions SET state = 'pending', settled_at = NULL, attempts = 0, due_at = 0 WHERE state = 'dead'",
        )
        .await;
    }

    /// Cancels a label's wishes as `sweeper cancel --label` does.
    async fn cancel(&mut self, label: &str) {
        self.run(&format!(
            "UPDATE wishes SET state = 'cancelled', closed_at = 2000000000001, closed_by = 'ann'
             WHERE label = '{label}' AND state IS NULL"
        ))
        .await;
    }

    /// The rows and the wishes: `state label` of each row, then `label state` of each wish.
    async fn now(&mut self) -> Vec<String> {
        let rows = "SELECT entry_id || ' ' || state || ' ' || coalesce(label, '-') FROM deletions ORDER BY id";
        let wishes = "SELECT '\"' || label || '\" ' || coalesce(state, 'open') || coalesce(' by ' || closed_by, '')
                      FROM wishes ORDER BY entry_id, label";
        let mut now: Vec<(String,)> = self.bed.query(rows).await;
        now.extend(self.bed.query(wishes).await);
        let odd = "SELECT label FROM wishes WHERE (state IS NULL) <> (closed_at IS NULL)";
        assert_eq!(self.bed.query::<(String,)>(odd).await, [], "a wish has a time of its end if it has ended");
        now.into_iter().map(|(line,)| line).collect()
    }
}

#[tokio::test]
async fn a_label_s_wishes_end_as_their_rows_do() {
    for state in ["deleted", "absent", "dead"] {
        let mut scene = Scene::new().await;
        scene.wish("T").await;
        assert_eq!(scene.now().await, ["1 pending T", "\"T\" open"]);
        scene.settle(state).await;
        assert_eq!(scene.now().await, [format!("1 {state} T"), format!("\"T\" {state}")]);
        let closed: Vec<(i64,)> = scene.bed.query("SELECT closed_at FROM wishes").await;
        assert_eq!(closed, [(2_000_000_000_000,)]);
    }
}

#[tokio::test]
async fn an_entry_that_is_wished_for_under_two_labels_goes_only_with_the_last_of_them() {
    let mut scene = Scene::new().await;
    scene.wish("T").await;
    scene.wish("U").await;
    scene.wish("T").await;
    assert_eq!(scene.now().await, ["1 pending T", "\"T\" open", "\"U\" open"], "the row has the newest label");
    scene.cancel("T").await;
    assert_eq!(scene.now().await, ["1 pending U", "\"T\" cancelled by ann", "\"U\" open"]);
    scene.settle("deleted").await;
    assert_eq!(scene.now().await, ["1 deleted U", "\"T\" cancelled by ann", "\"U\" deleted"]);
    let mut scene = Scene::new().await;
    scene.wish("T").await;
    scene.wish("U").await;
    scene.cancel("T").await;
    scene.cancel("U").await;
    assert_eq!(scene.now().await, ["\"T\" cancelled by ann", "\"U\" cancelled by ann"]);
}

#[tokio::test]
async fn cancelling_a_label_never_drops_a_wish_without_one() {
    for (first, second) in [("", "T"), ("T", "")] {
        let mut scene = Scene::new().await;
        scene.wish(first).await;
        scene.wish(second).await;
        assert_eq!(scene.now().await, ["1 pending T", "\"\" open", "\"T\" open"]);
        scene.wish(second).await;
        scene.wish(first).await;
        assert_eq!(scene.now().await, ["1 pending T", "\"\" open", "\"T\" open"], "once each");
        scene.cancel("T").await;
        assert_eq!(scene.now().await, ["1 pending -", "\"T\" cancelled by ann"], "it is a row without labels again");
        scene.wish("U").await;
        scene.settle("deleted").await;
        assert_eq!(scene.now().await, ["1 deleted U", "\"T\" cancelled by ann", "\"U\" deleted"]);
    }
    let mut scene = Scene::new().await;
    scene.wish("").await;
    scene.wish("T").await;
    scene.wish("U").await;
    scene.cancel("U").await;
    scene.cancel("T").await;
    assert_eq!(scene.now().await, ["1 pending -", "\"T\" cancelled by ann", "\"U\" cancelled by ann"]);
}

#[tokio::test]
async fn a_fulfilled_wish_stays_fulfilled_when_somebody_else_wants_the_entry_gone_again() {
    for (again, row) in [("U", "1 pending U"), ("", "1 pending -")] {
        let mut scene = Scene::new().await;
        scene.wish("T").await;
        scene.settle("deleted").await;
        scene.wish(again).await;
        let open: &[&str] = if again.is_empty() { &[] } else { &["\"U\" open"] };
        assert_eq!(scene.now().await, [&[row, "\"T\" deleted"], open].concat());
        scene.run("DELETE FROM deletions").await;
        let cancelled: &[&str] = if again.is_empty() { &[] } else { &["\"U\" cancelled"] };
        assert_eq!(scene.now().await, [&["\"T\" deleted"], cancelled].concat(), "and when the row is gone");
    }
    let mut scene = Scene::new().await;
    scene.wish("T").await;
    scene.settle("absent").await;
    scene.wish("T").await;
    assert_eq!(scene.now().await, ["1 pending T", "\"T\" open"], "the same label wishes for it anew");
    scene.run("DELETE FROM deletions").await;
    scene.wish("T").await;
    assert_eq!(scene.now().await, ["1 pending T", "\"T\" open"], "also after the row was cancelled");
}

#[tokio::test]
async fn a_dead_wish_opens_again_with_its_row_and_follows_it_to_another_end() {
    let mut scene = Scene::new().await;
    scene.wish("").await;
    scene.wish("T").await;
    scene.settle("dead").await;
    assert_eq!(scene.now().await, ["1 dead T", "\"\" dead", "\"T\" dead"]);
    scene.retry().await;
    assert_eq!(scene.now().await, ["1 pending T", "\"\" open", "\"T\" open"]);
    scene.settle("dead").await;
    scene.wish("U").await;
    assert_eq!(scene.now().await, ["1 pending U", "\"\" open", "\"T\" open", "\"U\" open"]);
    scene.settle("deleted").await;
    assert_eq!(scene.now().await, ["1 deleted U", "\"T\" deleted", "\"U\" deleted"]);
    // Somebody has looked, and knows that it is gone.
    let mut scene = Scene::new().await;
    scene.wish("T").await;
    scene.settle("dead").await;
    scene.run("UPDATE deletions SET state = 'absent' WHERE state = 'dead'").await;
    assert_eq!(scene.now().await, ["1 absent T", "\"T\" absent"]);
    // A dead row without a label that is wished for with one, and the reverse.
    for (first, second) in [("", "T"), ("T", "")] {
        let mut scene = Scene::new().await;
        scene.wish(first).await;
        scene.settle("dead").await;
        scene.wish(second).await;
        scene.cancel("T").await;
        assert_eq!(scene.now().await, ["1 pending -", "\"T\" cancelled by ann"]);
    }
}

#[tokio::test]
async fn a_wish_outlives_its_row_whoever_removes_it() {
    let mut scene = Scene::new().await;
    scene.wish("T").await;
    scene.wish("").await;
    scene.run("DELETE FROM deletions WHERE state = 'pending'").await;
    assert_eq!(scene.now().await, ["\"T\" cancelled"]);
    for state in ["deleted", "dead"] {
        let mut scene = Scene::new().await;
        scene.wish("T").await;
        scene.wish("").await;
        scene.settle(state).await;
        scene.run("DELETE FROM deletions").await;
        assert_eq!(scene.now().await, [format!("\"T\" {state}")]);
    }
}

/// Every way to write an INSERT that goes on after a conflict.
const CLAUSES: [(&str, &str); 7] = [
    ("INSERT", ""),
    ("INSERT OR IGNORE", ""),
    ("INSERT OR FAIL", ""),
    ("INSERT", " ON CONFLICT DO NOTHING"),
    ("INSERT", " ON CONFLICT (agent_id, entry_id) DO NOTHING"),
    ("INSERT", " ON CONFLICT (agent_id, entry_id) DO UPDATE SET label = excluded.label, priority = 3"),
    ("INSERT", " ON CONFLICT (agent_id, entry_id) DO UPDATE SET agent_id = excluded.agent_id RETURNING id"),
];

#[tokio::test]
async fn labels_do_the_same_whatever_the_clause_of_the_insert() {
    for recursive in ["OFF", "ON"] {
        for (insert, clause) in CLAUSES {
            let mut scene = Scene::new().await;
            scene.run(&format!("PRAGMA recursive_triggers = {recursive}")).await;
            let wish = |label: &str, entry: &str| {
                format!("{insert} INTO deletions (agent_id, entry_id, label) VALUES ('a', '{entry}', {label}){clause}")
            };
            let what = format!("{insert}{clause}, recursive triggers {recursive}");
            // OR FAIL fails on a duplicate, after the trigger has written.
            let fails = insert.ends_with("FAIL");
            for (label, is_new) in [("'T'", true), ("'U'", false), ("'U'", false), ("NULL", false)] {
                let done = scene.try_to(&wish(label, "1")).await;
                assert_eq!(done.is_err(), fails && !is_new, "{what}: {done:?}");
            }
            assert_eq!(scene.now().await, ["1 pending U", "\"\" open", "\"T\" open", "\"U\" open"], "{what}");
            scene.settle("deleted").await;
            let _ = scene.try_to(&wish("'T'", "1")).await;
            assert_eq!(scene.now().await, ["1 pending T", "\"T\" open", "\"U\" deleted"], "{what}");
            scene.settle("deleted").await;
            let _ = scene.try_to(&wish("NULL", "1")).await;
            assert_eq!(scene.now().await, ["1 pending -", "\"T\" deleted", "\"U\" deleted"], "{what}");
            let _ = scene.try_to(&wish("'V'", "1")).await;
            scene.cancel("V").await;
            let before = ["1 pending -", "\"T\" deleted", "\"U\" deleted", "\"V\" cancelled by ann"];
            assert_eq!(scene.now().await, before, "{what}");
            // What is refused leaves nothing behind.
            for refused in ["INSERT OR REPLACE", "INSERT OR ABORT", "INSERT OR ROLLBACK"] {
                let sql = format!("{refused} INTO deletions (agent_id, entry_id, label) VALUES ('a', '1', 'W')");
                assert!(scene.try_to(&sql).await.is_err(), "{refused}");
                assert_eq!(scene.now().await, before, "{refused}");
            }
            scene.run("INSERT OR REPLACE INTO deletions (agent_id, entry_id, label) VALUES ('a', '2', 'W')").await;
            assert_eq!(scene.now().await[..2], ["1 pending -", "2 pending W"]);
        }
    }
}

#[tokio::test]
async fn an_insert_of_many_rows_writes_each_one_s_wish() {
    let mut scene = Scene::new().await;
    scene
        .run(
            "INSERT INTO deletions (agent_id, entry_id, label) VALUES
                 ('a', '1', 'T'), ('a', '1', 'U'), ('a', '1', NULL), ('a', '2', NULL), ('a', '2', 'T'), ('a', '3', NULL);
             INSERT INTO deletions (agent_id, entry_id, label, state, settled_at) VALUES ('a', '4', 'T', 'dead', 2000000000000)",
        )
        .await;
    let rows = ["1 pending U", "2 pending T", "3 pending -", "4 dead T"];
    let wishes = ["\"\" open", "\"T\" open", "\"U\" open", "\"\" open", "\"T\" open", "\"T\" dead"];
    assert_eq!(scene.now().await, [&rows[..], &wishes].concat());
}

#[tokio::test]
async fn a_wrong_label_is_refused_at_its_insert_with_what_is_wrong() {
    let mut scene = Scene::new().await;
    let long = "x".repeat(256);
    let wrong = [
        "''".to_owned(),
        "' '".to_owned(),
        "' T'".to_owned(),
        "'T '".to_owned(),
        format!("'{long}'"),
        "'T' || char(10)".to_owned(),
        "'T' || char(0)".to_owned(),
        "char(127)".to_owned(),
        "'caf' || char(233)".to_owned(),
        "x'54'".to_owned(),
    ];
    for value in &wrong {
        for (insert, clause) in CLAUSES {
            let sql = format!("{insert} INTO deletions (agent_id, entry_id, label) VALUES ('a', '1', {value}){clause}");
            let error = scene.try_to(&sql).await.unwrap_err();
            assert!(error.contains("label must be text of 1 to 255 printable ASCII"), "{sql}: {error}");
        }
    }
    assert_eq!(scene.now().await, [] as [String; 0]);
    // Numbers become text, as IDs do.
    let insert = "INSERT INTO deletions (agent_id, entry_id, label) VALUES ('a', ?1, ?1)";
    sqlx::query(insert).bind(4711).execute(&mut scene.conn).await.unwrap();
    scene.run("INSERT INTO deletions (agent_id, entry_id, label) VALUES ('a', '2', 'erasure 17 (b)')").await;
    assert_eq!(scene.now().await[..2], ["4711 pending 4711", "2 pending erasure 17 (b)"]);
}

#[tokio::test]
async fn a_label_comes_with_an_insert_and_an_update_cannot_lose_it() {
    let mut scene = Scene::new().await;
    scene.wish("T").await;
    let error = scene.try_to("UPDATE deletions SET label = 'X'").await.unwrap_err();
    assert_eq!(error, "the label of a deletion comes with an INSERT: insert the entry again with the label");
    scene.run("UPDATE deletions SET label = NULL, priority = 4").await;
    assert_eq!(scene.now().await, ["1 pending T", "\"T\" open"]);
    assert_eq!(scene.bed.count("priority = 4").await, 1);
    scene.settle("deleted").await;
    scene.run("UPDATE deletions SET label = NULL").await;
    assert_eq!(scene.now().await, ["1 deleted -", "\"T\" deleted"]);
}

#[tokio::test]
async fn the_daemon_writes_what_became_of_each_label_s_wishes() {
    let dir = tempfile::tempdir().unwrap();
    let options = SandboxOptions { failing: vec!["3".to_owned()], ..SandboxOptions::default() };
    let sandbox = sandbox(options).await;
    queue(dir.path(), 3).await;
    let label = "INSERT INTO deletions (agent_id, entry_id, label)
                 VALUES ('a', '1', 'T'), ('a', '2', 'T'), ('a', '3', 'T'), ('a', '4', 'U'), ('a', '5', NULL)";
    sql(dir.path(), label).await;
    let mut command = configured(dir.path(), &sandbox);
    command.args(["run", "--until-empty"]).env("SWEEPER__RETRY__MAX_ATTEMPTS", "2");
    let (code, log, _) = finish(command).await;
    assert!(code == 4 && !log.contains("schema_modified"), "{log}");
    let wishes =
        sql(dir.path(), "SELECT label || ' ' || entry_id || ' ' || state FROM wishes ORDER BY label, entry_id").await;
    let wishes: Vec<&str> = wishes.iter().map(|(wish,)| wish.as_str()).collect();
    assert_eq!(wishes, [" 3 dead", "T 1 deleted", "T 2 deleted", "T 3 dead", "U 4 deleted"]);
}
