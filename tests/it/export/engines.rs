//! What an export says, on both engines: of queues that change meanwhile, of wishes whose rows go on, and of who asked.

use audio_cache_sweeper::{
    model::{
        act::{ActKind, Draft},
        clock::Timestamp,
        deletion::{AgentId, EntryId},
        label::Label,
    },
    queue::{
        Queue as _, Wish,
        either::{Producer, Reader},
        report::{RecordChoice, Records},
    },
};
use serde_json::Value;

use crate::{
    cluster::cluster,
    daemon::sweeper,
    engines::{Tables, postgres::Postgres, sqlite::Sqlite},
    enqueue::fed,
    suite::seam::Seam,
};

/// Long after now: nothing is sent.
const LATER: i64 = 4_100_000_000_000;

async fn sql<E: Tables>(seam: &mut Seam<E>, sql: &str) {
    seam.engine.sql(sql).await;
    while seam.queue.changed().await.unwrap() {}
}

fn objects<E: Tables>(seam: &Seam<E>, arguments: &[&str]) -> Vec<Value> {
    let dir = tempfile::tempdir().unwrap();
    let mut command = sweeper(dir.path());
    seam.engine.configure(&mut command);
    command.args(arguments);
    let (code, out, err) = fed(command, "");
    assert_eq!((code, err.as_str()), (0, ""), "{arguments:?}: {out}");
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What is there before the first page is exported once, whatever becomes of its labels between two pages.
async fn meanwhile<E: Tables>() {
    for of_agent in [None, Some("a")] {
        let mut seam = Seam::<E>::new().await;
        sql(
            &mut seam,
            &format!(
                "INSERT INTO deletions (agent_id, entry_id, label, due_at) VALUES
                     ('a', 'both', NULL, {LATER}), ('a', 'both', 'T', {LATER}), ('a', 'labelled', 'T', {LATER}),
                     ('a', 'plain', NULL, {LATER}), ('a', 'second', 'T', {LATER})"
            ),
        )
        .await;
        let agent = of_agent.map(|agent| AgentId::parse(agent).unwrap());
        let mut records = Records::new(RecordChoice { agent, ..RecordChoice::default() });
        let mut reader = Reader::open(&seam.engine.store()).await.unwrap();
        let mut found = Vec::new();
        while let Some(page) = reader.records(&mut records).await.unwrap() {
            let has_rows = found.is_empty() && !page.is_empty();
            found.extend(
                page.into_iter().map(|record| {
                    format!("{} {} {}", record.entry, record.label.as_deref().unwrap_or("-"), record.state)
                }),
            );
            if has_rows {
                // The rows were read, and the wishes come next.
                sql(
                    &mut seam,
                    "UPDATE wishes SET state = 'cancelled', closed_at = 5 WHERE label = 'T' AND entry_id <> 'second'",
                )
                .await;
                sql(
                    &mut seam,
                    "INSERT INTO deletions (agent_id, entry_id, label) VALUES ('a', 'plain', 'U'), ('a', 'second', NULL)",
                )
                .await;
            }
        }
        found.sort_unstable();
        let expected = [
            "both - pending",
            "both T cancelled",
            "labelled T cancelled",
            "plain - pending",
            "plain U pending",
            "second T pending",
        ];
        assert_eq!(found, expected, "{of_agent:?}");
    }
}

/// The record without a label says when the entry was wished for without one.
async fn beside_a_label<E: Tables>() {
    let mut seam = Seam::<E>::new().await;
    sql(
        &mut seam,
        &format!(
            "INSERT INTO deletions (agent_id, entry_id, label, created_at, due_at) VALUES
                 ('a', '1', 'T', 1700000000000, {LATER}), ('a', '1', NULL, 1700000005000, {LATER})"
        ),
    )
    .await;
    let records = objects(&seam, &["export", "--format", "jsonl"]);
    let said: Vec<_> =
        records.iter().map(|record| (record["label"].as_str(), record["asked_at"].as_str().unwrap())).collect();
    assert_eq!(said, [(None, "2023-11-14T22:13:25.000Z"), (Some("T"), "2023-11-14T22:13:20.000Z")]);
    assert!(objects(&seam, &["export", "--format", "jsonl", "--agent", "a"]) == records);
}

/// Of a wish that was fulfilled before its row was reopened, `list` and `export` say nothing that is about the row's later wish.
async fn reopened<E: Tables>() {
    let mut seam = Seam::<E>::new().await;
    let settle = |at: i64| {
        format!(
            "UPDATE deletions SET state = 'deleted', settled_at = {at}, verified_at = {at} + 7, attempts = 3, priority = 4,
                 last_cause = 'lost', request_id = 9"
        )
    };
    sql(&mut seam, "INSERT INTO deletions (agent_id, entry_id, label) VALUES ('a', '1', 'T')").await;
    sql(&mut seam, &settle(1_800_000_000_000)).await;
    let list = ["list", "--label", "T", "--json"];
    let first = objects(&seam, &list).remove(0);
    assert_eq!((&first["verified_at"], &first["attempts"]), (&1_800_000_000_007_i64.into(), &3.into()));
    sql(&mut seam, "INSERT INTO deletions (agent_id, entry_id, label) VALUES ('a', '1', 'U')").await;
    for again in ["pending", "deleted"] {
        if again == "deleted" {
            sql(&mut seam, &settle(1_900_000_000_000)).await;
        }
        let (listed, exported) = (
            objects(&seam, &list).remove(0),
            objects(&seam, &["export", "--label", "T", "--format", "jsonl"]).remove(0),
        );
        for column in ["verified_at", "attempts", "priority", "due_at"] {
            assert!(listed[column].is_null() && exported[column].is_null(), "{again}: {column} {listed} {exported}");
        }
        assert!(listed["created_at"].is_null() && listed["last_cause"].is_null(), "{again}: {listed}");
        assert_eq!((&listed["state"], &listed["settled_at"]), (&"deleted".into(), &1_800_000_000_000_i64.into()));
        assert_eq!(listed["id"], first["id"], "the row is there");
    }
    let later = objects(&seam, &["list", "--label", "U", "--json"]).remove(0);
    assert_eq!((&later["verified_at"], &later["attempts"]), (&1_900_000_000_007_i64.into(), &3.into()));
}

/// A command is known by the database's clock, whatever its own clock says, and SQL a moment later is not taken for it.
async fn who_asked<E: Tables>(its_clock: Option<Timestamp>) {
    let mut seam = Seam::<E>::new().await;
    let mut producer = Producer::join(&seam.engine.store()).await.unwrap();
    let draft = |operator: &str| Draft {
        kind: ActKind::Enqueue,
        operator: operator.to_owned(),
        scope: None,
        detail: Some("from arguments, label: T".to_owned()),
    };
    let wish = |agent: &str, entry: &str| Wish {
        agent: AgentId::parse(agent).unwrap(),
        entry: EntryId::parse(entry).unwrap(),
        priority: 0,
        due_at: Timestamp(LATER),
        label: Some(Label::parse("T").unwrap()),
    };
    let now = || its_clock.unwrap_or_else(|| audio_cache_sweeper::model::clock::Clock::system().now());
    for (operator, entry) in [("ann", "1"), ("bob", "2")] {
        producer.begin_act(draft(operator), 1);
        producer.enqueue(&[wish("a", entry)], now()).await.unwrap();
        producer.end_act(now()).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        sql(&mut seam, &format!("INSERT INTO deletions (agent_id, entry_id, label) VALUES ('a', 'sql{entry}', 'T')"))
            .await;
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    // While cleo's command is at work for agent c, SQL wishes for agents c and d.
    producer.begin_act(draft("cleo"), 1);
    producer.enqueue(&[wish("c", "1")], now()).await.unwrap();
    sql(&mut seam, "INSERT INTO deletions (agent_id, entry_id, label) VALUES ('c', 'sql', 'T'), ('d', 'sql', 'T')")
        .await;
    producer.enqueue(&[wish("c", "2")], now()).await.unwrap();
    producer.end_act(now()).await.unwrap();
    let said = |record: &Value| {
        let text = |name: &str| record[name].as_str().unwrap_or("-").to_owned();
        format!("{} {} {}", text("agent_id"), text("entry_id"), text("asked_by"))
    };
    let mut records: Vec<String> =
        objects(&seam, &["export", "--label", "T", "--format", "jsonl"]).iter().map(said).collect();
    records.sort_unstable();
    let expected = ["a 1 ann", "a 2 bob", "a sql1 -", "a sql2 -", "c 1 cleo", "c 2 cleo", "c sql cleo", "d sql -"];
    assert_eq!(records, expected);
}

#[tokio::test]
async fn what_is_there_is_exported_once_whatever_changes_meanwhile() {
    meanwhile::<Sqlite>().await;
    beside_a_label::<Sqlite>().await;
}

#[tokio::test]
async fn what_is_there_is_exported_once_whatever_changes_meanwhile_on_a_server() {
    if cluster().is_some() {
        meanwhile::<Postgres>().await;
        beside_a_label::<Postgres>().await;
    }
}

#[tokio::test]
async fn a_list_and_an_export_say_the_same_of_a_wish_whose_row_was_reopened() {
    reopened::<Sqlite>().await;
    if cluster().is_some() {
        reopened::<Postgres>().await;
    }
}

#[tokio::test]
async fn sql_a_moment_after_a_command_is_not_taken_for_it() {
    who_asked::<Sqlite>(None).await;
    if cluster().is_some() {
        who_asked::<Postgres>(None).await;
        for its_clock in [Timestamp(1_600_000_000_000), Timestamp(2_600_000_000_000)] {
            who_asked::<Postgres>(Some(its_clock)).await;
        }
    }
}
