//! The tables: which values an INSERT may write, what a refused one is told, and which SQLite versions can write.

use audio_cache_sweeper::{model::outcome::Cause, queue::sqlite::Store};
use sqlx::AssertSqlSafe;

use crate::store::{client, opened, options, row, table};

const MIGRATION: &str = include_str!("../../migrations/sqlite/0001_queue.sql");

#[tokio::test]
async fn a_bad_row_is_refused_at_its_insert_with_what_is_wrong() {
    let (_dir, options, _store) = opened().await;
    let mut conn = client(&options).await;
    let long = "x".repeat(256);
    let cases = [
        ("('', '1')", "agent_id must be text of 1 to 255"),
        ("('a b', '1')", "agent_id must be text of 1 to 255"),
        ("('a', '')", "entry_id must be text of 1 to 255"),
        (&format!("('a', '{long}')"), "entry_id must be text of 1 to 255"),
        ("('a', 'x' || char(0))", "entry_id must be text of 1 to 255"),
        ("('a', 'caf' || char(233))", "entry_id must be text of 1 to 255"),
        ("('a', x'31')", "entry_id must be text of 1 to 255"),
        ("('a', CAST(x'ff' AS TEXT))", "entry_id must be text of 1 to 255"),
        ("('a', NULL)", "entry_id must be text of 1 to 255"),
        ("('.', '1')", "one URL path segment"),
        ("('..', '1')", "one URL path segment"),
        ("('a/b', '1')", "one URL path segment"),
        ("('a\\b', '1')", "one URL path segment"),
        ("('*', '1')", "one URL path segment"),
    ];
    for (values, said) in cases {
        let sql = format!("INSERT INTO deletions (agent_id, entry_id) VALUES {values}");
        let error = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await.unwrap_err().to_string();
        assert!(error.contains(said), "{values}: {error}");
    }
    let cases = [
        ("priority", "'high'", "priority must be an integer"),
        ("state", "'gone'", "state must be pending, deleted, absent or dead"),
        ("attempts", "-1", "attempts must be"),
        ("due_at", "-1", "due_at must be Unix milliseconds"),
        ("due_at", "9e99", "due_at must be Unix milliseconds"),
        ("batch_max", "-1", "batch_max must be"),
        ("asks", "-1", "asks must be"),
        ("batch_max", "21", "batch_max must be"),
        ("maybe_done", "2", "maybe_done must be"),
        ("first_fault", "0", "first_fault must be a positive integer, or NULL"),
        ("first_fault", "-1", "first_fault must be a positive integer, or NULL"),
        ("first_fault", "1.5", "first_fault must be a positive integer, or NULL"),
        ("first_fault", "'first'", "first_fault must be a positive integer, or NULL"),
        ("last_cause", "'bad luck'", "last_cause must be a known cause"),
        ("settled_at", "5", "a pending row has no settled_at"),
        ("verified_at", "'then'", "verified_at must be Unix milliseconds"),
        ("verified_at", "-1", "verified_at must be Unix milliseconds"),
        ("verified_at", "5", "only a settled row has a verified_at"),
        ("id", "-1", "id must be a positive integer"),
        ("id", "9223372036854775807", "this id leaves no room"),
    ];
    for (column, value, said) in cases {
        let sql = format!("INSERT INTO deletions (agent_id, entry_id, {column}) VALUES ('a', '1', {value})");
        let error = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await.unwrap_err().to_string();
        assert!(error.contains(said), "{column} {value}: {error}");
    }
    assert_eq!(table(&options).await, []);
    sqlx::raw_sql("INSERT INTO deletions (agent_id, entry_id) VALUES ('a', 17)").execute(&mut conn).await.unwrap();
    assert_eq!(table(&options).await, [row(1, "a", "17", "pending", 0, 20, 0)], "a number becomes text");
}

#[tokio::test]
async fn a_bad_hold_or_request_is_refused_at_its_insert_with_what_is_wrong() {
    let (_dir, options, _store) = opened().await;
    let mut conn = client(&options).await;
    let cases = [
        ("holds", "cause", "'bad luck'", "cause must be operator, verify or a cause"),
        ("holds", "scope", "''", "scope must be"),
        ("holds", "since_at", "'now'", "since_at must be Unix milliseconds"),
        ("holds", "until_at", "-1", "until_at must be Unix milliseconds"),
        ("holds", "probed_at", "-1", "probed_at must be Unix milliseconds, or NULL"),
        ("holds", "probed_at", "0.5", "probed_at must be Unix milliseconds, or NULL"),
        ("holds", "probed_at", "'now'", "probed_at must be Unix milliseconds, or NULL"),
        ("holds", "probed_at", "253402300800000", "probed_at must be Unix milliseconds, or NULL"),
        ("holds", "repeats", "-1", "repeats must be"),
        ("holds", "why", "x'61'", "why must be text of at most 500 characters"),
        ("holds", "why", "printf('%501d', 1)", "why must be text of at most 500 characters"),
        ("holds", "why", "'a' || char(27)", "without control characters"),
        ("holds", "why", "'a' || char(0)", "without control characters"),
        ("acts", "act", "'shout'", "act must be hold, release, retry, cancel, enqueue or verify"),
        ("acts", "operator", "''", "operator must be text of 1 to 100 characters"),
        ("acts", "operator", "'a' || char(133)", "operator must be text of 1 to 100 characters"),
        ("acts", "operator", "'a' || char(0)", "operator must be text of 1 to 100 characters"),
        ("acts", "operator", "printf('%101d', 1)", "operator must be text of 1 to 100 characters"),
        ("acts", "scope", "'a b'", "scope must be * or an agent_id, or NULL"),
        ("acts", "rows", "-1", "rows must be an integer of 0 or more"),
        ("acts", "detail", "'a' || char(10)", "detail must be text of at most 1000 characters"),
        ("acts", "detail", "printf('%1001d', 1)", "detail must be text of at most 1000 characters"),
        ("acts", "acted_at", "'now'", "acted_at must be Unix milliseconds"),
        ("acts", "updated_at", "-1", "updated_at must be Unix milliseconds"),
        ("acts", "ended", "2", "ended must be 0 or 1"),
        ("acts", "logged", "'no'", "logged must be 0 or 1"),
        ("requests", "kind", "'triple'", "kind must be bulk or single"),
        ("requests", "size", "21", "size must be from 1 to 20"),
        ("requests", "fault", "'bad luck'", "fault must be a known cause"),
        ("requests", "fault", "'operator'", "fault must be a known cause"),
    ];
    for (table, column, value, said) in cases {
        let mut fields = match table {
            "holds" => vec![("scope", "'a'")],
            "acts" => {
                vec![("acted_at", "5"), ("act", "'hold'"), ("operator", "'ann'"), ("rows", "1"), ("updated_at", "5")]
            }
            _ => vec![
                ("correlation_id", "'x'"),
                ("agent_id", "'a'"),
                ("deletion_ids", "'[1]'"),
                ("size", "1"),
                ("claimed_at", "5"),
            ],
        };
        fields.retain(|(name, _)| *name != column);
        fields.push((column, value));
        let (names, values): (Vec<&str>, Vec<&str>) = fields.into_iter().unzip();
        let sql = format!("INSERT INTO {table} ({}) VALUES ({})", names.join(", "), values.join(", "));
        let error = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await.unwrap_err().to_string();
        assert!(error.contains(said), "{table}.{column} {value}: {error}");
    }
    let count = "SELECT (SELECT count(*) FROM holds) + (SELECT count(*) FROM requests) + (SELECT count(*) FROM acts)";
    let left: i64 = sqlx::query_scalar(count).fetch_one(&mut conn).await.unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn every_cause_can_be_written_wherever_one_is() {
    let (_dir, options, _store) = opened().await;
    let mut conn = client(&options).await;
    for (n, cause) in Cause::ALL.iter().enumerate() {
        let hold = "INSERT INTO holds (scope, cause, probed_at) VALUES ('a', ?, 5)";
        sqlx::query(hold).bind(cause.as_str()).execute(&mut conn).await.unwrap();
        if cause.is_of_a_command() {
            continue;
        }
        let request = "INSERT INTO requests (correlation_id, agent_id, deletion_ids, size, claimed_at, fault)
                       VALUES ('x', 'a', '[1]', 1, 5, ?)";
        sqlx::query(request).bind(cause.as_str()).execute(&mut conn).await.unwrap();
        let row = "INSERT INTO deletions (agent_id, entry_id, first_fault, last_cause) VALUES ('a', ?, 1, ?)";
        sqlx::query(row).bind(n.to_string()).bind(cause.as_str()).execute(&mut conn).await.unwrap();
    }
}

#[test]
fn the_tables_need_nothing_that_old_sqlites_lack() {
    let uncommented: Vec<&str> = MIGRATION.lines().map(|line| line.split("--").next().unwrap()).collect();
    let statements = uncommented.join(" ").to_lowercase();
    // The view ends with the first semicolon behind its name.
    let (before, view) = statements.split_once("create view").unwrap();
    let sql = [before, view.split_once(';').unwrap().1].concat();
    for new in [" strict", "unixepoch", "json", "->", "over (", "returning", "generated", "iif(", "update from"] {
        assert!(!sql.contains(new), "{new:?}");
    }
}

#[tokio::test]
async fn only_a_view_needs_json_which_no_producer_looks_into() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(&dir);
    drop(Store::open(options.clone()).await.unwrap());
    let sql = "SELECT type, name FROM sqlite_master WHERE instr(lower(sql), 'json_') OR instr(sql, '->')";
    let json: Vec<(String, String)> = sqlx::query_as(sql).fetch_all(&mut client(&options).await).await.unwrap();
    assert_eq!(json, [("view".to_owned(), "outcomes".to_owned())]);
}

#[tokio::test]
async fn an_id_can_be_neither_given_nor_changed_so_that_others_cannot_insert() {
    let (_dir, options, _store) = opened().await;
    let mut conn = client(&options).await;
    sqlx::raw_sql("INSERT INTO deletions (agent_id, entry_id) VALUES ('a', 1)").execute(&mut conn).await.unwrap();
    let changed = sqlx::raw_sql("UPDATE deletions SET id = 9223372036854775807").execute(&mut conn).await;
    assert!(changed.unwrap_err().to_string().contains("id, agent_id and entry_id of a deletion stay as they are"));
    sqlx::raw_sql("UPDATE deletions SET id = id, priority = 3").execute(&mut conn).await.unwrap();
    sqlx::raw_sql("INSERT INTO deletions (agent_id, entry_id) VALUES ('a', 2)").execute(&mut conn).await.unwrap();
}

#[tokio::test]
async fn a_time_that_is_none_is_refused_of_a_row_that_is_there_too_and_changes_nothing() {
    let (_dir, options, _store) = opened().await;
    let mut conn = client(&options).await;
    let insert = |priority: i64, due_at: i64| {
        format!("INSERT INTO deletions (agent_id, entry_id, priority, due_at) VALUES ('a', '1', {priority}, {due_at})")
    };
    sqlx::raw_sql(AssertSqlSafe(insert(0, 0))).execute(&mut conn).await.unwrap();
    let error = sqlx::raw_sql(AssertSqlSafe(insert(9, -1))).execute(&mut conn).await.unwrap_err().to_string();
    assert!(error.contains("due_at must be Unix milliseconds"), "{error}");
    assert_eq!(table(&options).await, [row(1, "a", "1", "pending", 0, 20, 0)]);
}
