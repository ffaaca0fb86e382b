//! `sweeper enqueue` on a queue on a server.

use super::commands::{Scene, scene};
use crate::{
    cluster::{OWNER, cluster},
    daemon::sweeper,
    enqueue::fed,
};

#[tokio::test]
async fn it_says_how_many_were_accepted_and_how_many_of_them_were_there_already() {
    let Some(mut scene) = scene().await else { return };
    let enqueue = |scene: &Scene, ids: &[&str]| scene.run(&[&["enqueue", "--as", "ann", "--agent", "a"], ids].concat());
    let told = |accepted, waiting, reopened| {
        format!(
            "accepted {accepted} (at that moment, already waiting {waiting}, to be reopened {reopened}), refused 0\n"
        )
    };
    assert_eq!(enqueue(&scene, &["1", "2", "3"]), (0, told(3, 0, 0), String::new()));
    // Wishes in the inbox are not known yet.
    assert_eq!(enqueue(&scene, &["1"]), (0, told(1, 0, 0), String::new()));
    scene.take_in().await;
    scene.engine.execute("UPDATE deletions SET state = 'deleted', settled_at = 5 WHERE entry_id = '2'").await;
    assert_eq!(enqueue(&scene, &["1", "2", "2", "4"]), (0, told(4, 1, 1), String::new()), "a row is reopened once");
    scene.take_in().await;
    assert_eq!(scene.ids("state = 'pending'").await, "a1 a2 a3 a4");
    assert_eq!(scene.acts().await, "ann enqueue a 3 true; ann enqueue a 4 true", "one row is no act");
}

#[tokio::test]
async fn every_value_arrives_as_it_was_given() {
    let Some(mut scene) = scene().await else { return };
    let lines = [
        r#"{"agent_id": "a", "entry_id": "\\N", "priority": -3, "due_at": "2096-10-02T07:06:40Z", "label": "\\."}"#,
        r#"{"agent_id": "b", "entry_id": "c:\\tn", "label": "two words"}"#,
        r#"{"agent_id": "b", "entry_id": "\\."}"#,
        r#"{"agent_id": "b", "entry_id": "1.5"}"#,
    ];
    let (code, out, err) = fed(scene.command(&["enqueue"]), lines.join("\n"));
    assert_eq!(
        (code, out.lines().last()),
        (0, Some("accepted 4 (at that moment, already waiting 0, to be reopened 0), refused 0")),
        "{err}"
    );
    let rows = scene
        .texts("SELECT concat_ws('|', agent_id, entry_id, priority, due_at, label) FROM deletions ORDER BY id")
        .await;
    assert_eq!(rows, r"a|\N|-3|4000000000000|\. b|c:\tn|0|0|two words b|\.|0|0 b|1.5|0|0");
}

#[tokio::test]
async fn many_rows_go_in_chunks_and_nothing_is_written_of_a_chunk_that_the_server_refuses() {
    let Some(mut scene) = scene().await else { return };
    let file = scene.dir.path().join("ids.txt");
    let ids: Vec<String> = (1..=12_000).map(|id| id.to_string()).collect();
    std::fs::write(&file, ids.join("\n")).unwrap();
    let enqueue = ["enqueue", "--agent", "a", "--file", "ids.txt", "--as", "ann"];
    let all = "accepted 12000 (at that moment, already waiting 0, to be reopened 0), refused 0\n";
    assert_eq!(scene.run(&enqueue), (0, all.to_owned(), String::new()));
    assert_eq!(scene.acts().await, "ann enqueue a 12000 true");
    scene
        .engine
        .execute(
            "DELETE FROM deletions; ALTER TABLE deletions_new ADD CONSTRAINT \"no 7000\" CHECK (entry_id <> '7000')",
        )
        .await;
    let (code, out, err) = scene.run(&enqueue);
    let counted = scene.texts("SELECT count(*)::text FROM deletions").await;
    scene.engine.execute("ALTER TABLE deletions_new DROP CONSTRAINT \"no 7000\"").await;
    assert_eq!((code, out.as_str()), (3, ""));
    assert!(err.contains("accepted 5000 (") && err.contains("enqueueing the same again does no harm"), "{err}");
    assert!(err.contains("violates check constraint \"no 7000\""), "{err}");
    assert_eq!(counted, "5000");
}

#[tokio::test]
async fn known_rows_are_counted_by_their_index_also_on_a_table_that_was_never_analysed() {
    let Some(mut scene) = scene().await else { return };
    let fill = "INSERT INTO deletions (id, agent_id, entry_id, state) OVERRIDING SYSTEM VALUE
        SELECT n, 'a', n, 'pending' FROM generate_series(1, 50000) AS n";
    scene.engine.execute(fill).await;
    // Sessions of before, of other tests, may tell the server yet what they did, but none of them has looked for thousands of rows.
    let scans = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'one row per agent_id and entry_id'";
    let before = scene.engine.query::<(i64,)>(scans).await[0].0;
    let ids: Vec<String> = (40_000..45_000).map(|id| id.to_string()).collect();
    let (code, out, err) = fed(scene.command(&["enqueue", "--agent", "a"]), ids.join("\n"));
    let told = "accepted 5000 (at that moment, already waiting 5000, to be reopened 0), refused 0";
    assert_eq!((code, out.lines().last()), (0, Some(told)), "{err}");
    // Its session has told the server what it did when it ended.
    let mut seen = before;
    for _ in 0..500 {
        seen = scene.engine.query::<(i64,)>(scans).await[0].0;
        if seen >= before + 5_000 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the index was used {} times", seen - before);
}

#[tokio::test]
async fn with_create_it_makes_the_tables_and_without_it_is_told_how() {
    let Some(server) = cluster() else { return };
    let (dir, name) = (tempfile::tempdir().unwrap(), server.make_database("template1").await);
    let run = |role: &str, arguments: &[&str]| {
        let mut command = sweeper(dir.path());
        command.args(arguments).env("SWEEPER__DATABASE__URL", server.url(role, &name));
        fed(command, "")
    };
    for arguments in [&["enqueue", "--agent", "a", "1"][..], &["cancel", "--all", "--yes"]] {
        let (code, out, err) = run(OWNER, arguments);
        assert_eq!((code, out.as_str()), (3, ""), "{err}");
        assert!(err.contains("there is no queue in it yet; `sweeper init` makes one"), "{err}");
    }
    let mut admin = server.connect("postgres", &name).await;
    sqlx::raw_sql("CREATE ROLE creates_nothing LOGIN").execute(&mut admin).await.unwrap();
    let (code, _, err) = run("creates_nothing", &["enqueue", "--create", "--agent", "a", "1"]);
    assert!(code == 3 && err.contains("there is no schema sweeper, and this role may not make it"), "{err}");
    for created in [true, false] {
        let (code, out, err) = run(OWNER, &["enqueue", "--create", "--agent", "a", "1"]);
        let said = format!(
            "{name} at {}: created, in the schema sweeper; no daemon works on it: start one with `sweeper run`, with the same \
             database.url\n",
            server.dir().display()
        );
        let accepted = "accepted 1 (at that moment, already waiting 0, to be reopened 0), refused 0\n";
        let all = if created { format!("{said}{accepted}") } else { accepted.to_owned() };
        assert_eq!((code, out, err.as_str()), (0, all, ""));
    }
}
