//! What producers and operators can write with SQL, and what is refused with what words.

use audio_cache_sweeper::{
    model::{
        deletion::{AgentId, EntryId, refuse_floating},
        label::Label,
        outcome::Cause,
    },
    queue::Queue as _,
};

use super::scene;

#[tokio::test]
async fn every_usual_way_to_insert_is_taken_in() {
    let Some(mut seam) = scene().await else { return };
    for sql in [
        "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', '1')",
        "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', '2'), ('a', '3')",
        "INSERT INTO deletions (agent_id, entry_id, priority) SELECT 'a', n::text, 3 FROM generate_series(4, 5) AS n",
        "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', '1') ON CONFLICT DO NOTHING",
    ] {
        seam.engine.execute(sql).await;
    }
    let mut copy = seam.engine.copy("COPY deletions (agent_id, entry_id) FROM STDIN").await;
    copy.send(&b"a\t7\na\t1\n"[..]).await.unwrap();
    assert_eq!(copy.finish().await.unwrap(), 2);
    let ids: Vec<(i64,)> =
        seam.engine.query("INSERT INTO deletions (agent_id, entry_id) VALUES ('a', '6') RETURNING id").await;
    assert!(seam.queue.changed().await.unwrap());
    let rows: Vec<(String, String)> =
        seam.engine.query("SELECT entry_id, state FROM deletions ORDER BY entry_id").await;
    let expected: Vec<(String, String)> = (1..=7).map(|n| (n.to_string(), "pending".to_owned())).collect();
    assert_eq!(rows, expected);
    let kept: Vec<(i64,)> = seam.engine.query("SELECT id FROM deletions WHERE entry_id = '6'").await;
    assert_eq!(kept, ids, "the id that the INSERT returned");
}

/// A value, and the words of the constraint that refuses it.
const REFUSED: [(&str, &str, &str); 15] = [
    ("agent_id", "''", "agent_id must be 1 to 255 printable ASCII"),
    ("agent_id", "'a b'", "agent_id must be 1 to 255 printable ASCII"),
    ("agent_id", "repeat('x', 256)", "agent_id must be 1 to 255 printable ASCII"),
    ("agent_id", "'a/b'", "agent_id must be one URL path segment"),
    ("agent_id", r"'a\b'", "agent_id must be one URL path segment"),
    ("agent_id", "'*'", "agent_id must be one URL path segment"),
    ("entry_id", "E'1\\n'", "entry_id must be 1 to 255 printable ASCII"),
    ("entry_id", "'é'", "entry_id must be 1 to 255 printable ASCII"),
    ("entry_id", "'4711.0'", "agent_id and entry_id must not be floating-point numbers"),
    ("due_at", "1764000000", "due_at must be Unix milliseconds; this looks like seconds"),
    ("due_at", "-1", "due_at must be Unix milliseconds, up to the year 9999"),
    ("created_at", "1764000000", "created_at is in milliseconds; this looks like seconds"),
    ("label", "' x'", "label must be 1 to 255 printable ASCII, spaces only inside"),
    ("priority", "'high'", "invalid input syntax for type bigint"),
    ("state", "'weird'", "no partition of relation \"deletions\" found for row"),
];

#[tokio::test]
async fn a_bad_value_is_refused_at_its_insert_with_what_is_wrong() {
    let Some(mut seam) = scene().await else { return };
    for (column, value, says) in REFUSED {
        let mut columns = vec![("agent_id", "'a'"), ("entry_id", "'1'")];
        columns.retain(|(name, _)| *name != column);
        columns.push((column, value));
        let (names, values): (Vec<&str>, Vec<&str>) = columns.into_iter().unzip();
        let sql = format!("INSERT INTO deletions ({}) VALUES ({})", names.join(", "), values.join(", "));
        let error = seam.engine.try_to(&sql).await.unwrap_err();
        assert!(error.contains(says), "{sql}: {error}");
    }
    let upsert =
        "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', '1') ON CONFLICT (agent_id, entry_id) DO NOTHING";
    let error = seam.engine.try_to(upsert).await.unwrap_err();
    assert!(error.contains("no unique or exclusion constraint"), "{error}");
    let error =
        seam.engine.try_to("INSERT INTO deletions (id, agent_id, entry_id) VALUES (7, 'a', '1')").await.unwrap_err();
    assert!(error.contains("cannot insert a non-DEFAULT value into column \"id\""), "{error}");
    assert!(!seam.queue.changed().await.unwrap(), "nothing of it is there");
}

/// The program and the tables must agree: a row that the tables take and the program cannot read would be swept away.
#[tokio::test]
async fn the_checks_are_those_of_the_program() {
    let Some(mut seam) = scene().await else { return };
    let long = "x".repeat(255);
    let texts = [
        "4711",
        "4711.0",
        "4711.",
        "4711,00",
        "1e5",
        "1E+5",
        "1.5e3",
        "1.5E",
        "1E+",
        "-3.0",
        "+-3,0e1",
        "1.2.0",
        "1.0e+e",
        "1.50",
        "0x1p3",
        ".0",
        "a",
        "",
        " ",
        "a b",
        "a/b",
        "a\\b",
        ".",
        "..",
        "...",
        "*",
        "%2e",
        "x\u{7f}",
        "é",
        &long,
        &format!("{long}x"),
        "~",
        "!",
        "9.00719925474099e+15",
    ];
    for text in texts {
        let quoted = text.replace('\'', "''");
        let insert = |agent: &str, entry: &str| {
            format!("INSERT INTO deletions (agent_id, entry_id) VALUES ('{agent}', '{entry}')")
        };
        let is_taken = seam.engine.try_to(&insert(&quoted, "1")).await.is_ok();
        assert_eq!(is_taken, AgentId::parse(text).is_ok() && refuse_floating(text).is_ok(), "agent {text:?}");
        let is_taken = seam.engine.try_to(&insert("a", &quoted)).await.is_ok();
        assert_eq!(is_taken, EntryId::parse(text).is_ok() && refuse_floating(text).is_ok(), "entry {text:?}");
        let labelled = format!("INSERT INTO deletions (agent_id, entry_id, label) VALUES ('a', '1', '{quoted}')");
        assert_eq!(seam.engine.try_to(&labelled).await.is_ok(), Label::parse(text).is_ok(), "label {text:?}");
    }
    for cause in Cause::ALL {
        seam.engine.execute(&format!("INSERT INTO holds (scope, cause) VALUES ('a', '{}')", cause.as_str())).await;
    }
    assert_eq!(seam.queue.holds().await.unwrap().len(), Cause::ALL.len());
}

#[tokio::test]
async fn an_operator_s_update_cannot_rename_a_row_or_put_it_off_in_seconds() {
    let Some(mut seam) = scene().await else { return };
    seam.engine.execute("INSERT INTO deletions (agent_id, entry_id) VALUES ('a', '1')").await;
    seam.queue.changed().await.unwrap();
    for (set, says) in [
        ("entry_id = '2'", "id, agent_id and entry_id of a deletion stay as they are"),
        ("due_at = 1764000000", "due_at must be Unix milliseconds; this looks like seconds"),
        ("state = 'deleted'", "a pending row has no settled_at, a settled row has one"),
        ("verified_at = 5", "only a settled row has a verified_at"),
        ("batch_max = 21", "batch_max must be from 0 to 20"),
    ] {
        let error = seam.engine.try_to(&format!("UPDATE deletions SET {set}")).await.unwrap_err();
        assert!(error.contains(says), "{set}: {error}");
    }
    seam.engine.execute("UPDATE deletions SET due_at = 1764000000000, priority = 4, entry_id = entry_id").await;
    assert!(seam.queue.changed().await.unwrap());
}

/// PostgreSQL cuts names off after 63 bytes, and with them the words about what is wrong.
#[test]
fn the_words_of_every_constraint_are_there_to_their_end() {
    let migration = include_str!("../../../migrations/postgres/0001_queue.sql");
    let names: Vec<&str> =
        migration.split("CONSTRAINT \"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(names.len() > 20);
    for name in names {
        assert!(name.len() <= 63, "{name}");
    }
}
