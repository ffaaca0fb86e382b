//! The store on real files: each transition beside rows that it must not touch.

use std::time::Duration;

use audio_cache_sweeper::{
    clock::Timestamp,
    deletion::{AgentId, Batch, DeletionId, EntryId, Lane, RequestId},
    outcome::{Cause, Judged, Verdict},
    store::{Claim, OpenError, Options, Producer, Reader, Settlement, Store, Synchronous},
};
use sqlx::{Connection, SqliteConnection};

/// Without the fifth, in which JSON is moved by us; of what it leaves behind there is a test.
const MIGRATIONS: [&str; 4] = [
    include_str!("../../migrations/0001_queue.sql"),
    include_str!("../../migrations/0002_ids.sql"),
    include_str!("../../migrations/0003_absent.sql"),
    include_str!("../../migrations/0004_daemon.sql"),
];

const NOW: Timestamp = Timestamp(4_000_000_000_000);

fn options(dir: &tempfile::TempDir) -> Options {
    Options { path: dir.path().join("queue.db"), busy_timeout: Duration::from_secs(5), synchronous: Synchronous::Full }
}

/// A queue that has just been made.
async fn opened() -> (tempfile::TempDir, Options, Store) {
    let dir = tempfile::tempdir().unwrap();
    let options = options(&dir);
    let store = Store::open(options.clone()).await.unwrap();
    (dir, options, store)
}

type DeletionRow = (i64, String, String, i64, String, i64, i64, i64);

async fn table(options: &Options) -> Vec<DeletionRow> {
    let mut conn = SqliteConnection::connect(options.path.to_str().unwrap()).await.unwrap();
    sqlx::query_as(
        "SELECT id, agent_id, entry_id, priority, state, attempts, batch_max, maybe_done FROM deletions ORDER BY id",
    )
    .fetch_all(&mut conn)
    .await
    .unwrap()
}

type Outcome = (i64, i64, String, Option<String>);

fn given(request: i64, row: i64, verdict: &str, cause: Option<&str>) -> Outcome {
    (request, row, verdict.to_owned(), cause.map(str::to_owned))
}

async fn outcomes(options: &Options) -> Vec<Outcome> {
    let mut conn = SqliteConnection::connect(options.path.to_str().unwrap()).await.unwrap();
    let all = "SELECT request_id, deletion_id, verdict, cause FROM outcomes ORDER BY request_id, deletion_id";
    sqlx::query_as(all).fetch_all(&mut conn).await.unwrap()
}

fn lane(agent: &str) -> Lane {
    Lane { priority: 0, agent: AgentId::parse(agent).unwrap(), batch_max: 20 }
}

fn row(id: i64, agent: &str, entry: &str, state: &str, attempts: i64, batch_max: i64, maybe_done: i64) -> DeletionRow {
    (id, agent.into(), entry.into(), 0, state.into(), attempts, batch_max, maybe_done)
}

#[tokio::test]
async fn a_batch_is_claimed_and_settled_and_the_rows_beside_it_stay_as_they_are() {
    let (_dir, options, mut store) = opened().await;
    let mut producer = Producer::open(&options).await.unwrap();
    producer.insert([("a", "1", 0), ("a", "2", 0), ("a", "3", 0), ("a", "4", 0), ("b", "1", 0)]).await.unwrap();
    assert!(store.changed().await.unwrap() && !store.changed().await.unwrap());
    let (lanes, unusable) = store.lanes().await.unwrap();
    assert_eq!(lanes.iter().map(|(lane, _)| lane.clone()).collect::<Vec<_>>(), [lane("a"), lane("b")]);
    assert!(unusable.is_empty());

    let mut write = store.write().await.unwrap();
    let request = write.next_request_id();
    let looks = write.look(&[lane("a")], 20, &[DeletionId(4)], NOW).await.unwrap();
    let due: Vec<_> = looks[0].due.iter().map(|row| row.deletion.clone()).collect();
    assert_eq!(due.iter().map(|row| row.id.0).collect::<Vec<_>>(), [1, 2, 3], "4 is in flight");
    let batch = Batch::new(lane("a"), due).unwrap();
    let claims = [Claim { request, correlation_id: uuid::Uuid::nil(), batch }];
    write.claim_and_commit(&claims, NOW).await.unwrap();
    let orphans = store.orphans().await.unwrap();
    assert_eq!(orphans[0].batch.as_ref().unwrap().deletions(), claims[0].batch.deletions());

    let judged =
        |id, verdict, batch_max, maybe_done| Judged { id: DeletionId(id), verdict, batch_max, asks: 0, maybe_done };
    let settlement = [Settlement {
        request,
        answered_at: NOW,
        status: Some(200),
        fault: None,
        detail: None,
        remote_id: None,
        rows: vec![
            judged(1, Verdict::Deleted, Some(20), false),
            judged(2, Verdict::Retry { due_at: NOW.plus(Duration::from_secs(9)), cause: Cause::Lost }, None, true),
            judged(3, Verdict::Dead { cause: Cause::Rejected }, Some(7), false),
        ],
        is_whole: true,
    }];
    // Twice, as after a commit in doubt: the second time changes nothing.
    for _ in 0..2 {
        let mut write = store.write().await.unwrap();
        write.settle(settlement.iter()).await.unwrap();
        write.commit().await.unwrap();
    }
    let after = [
        row(1, "a", "1", "deleted", 1, 20, 0),
        row(2, "a", "2", "pending", 1, 20, 1),
        row(3, "a", "3", "dead", 1, 7, 0),
        row(4, "a", "4", "pending", 0, 20, 0),
        row(5, "b", "1", "pending", 0, 20, 0),
    ];
    assert_eq!(table(&options).await, after);
    let given =
        [given(1, 1, "deleted", None), given(1, 2, "retry", Some("lost")), given(1, 3, "dead", Some("rejected"))];
    assert_eq!(outcomes(&options).await, given);
    assert!(store.orphans().await.unwrap().is_empty() && !store.is_empty().await.unwrap());
    let tally = store.counter().tally(NOW).await.unwrap();
    assert_eq!((tally.pending, tally.due, tally.dead), (3, 2, 1));
}

#[tokio::test]
async fn the_history_of_a_request_has_the_rows_that_were_judged_and_no_others() {
    let (_dir, options, mut store) = opened().await;
    let sql = "INSERT INTO requests (correlation_id, agent_id, deletion_ids, size, claimed_at)
               VALUES ('x', 'a', '[7,8,9]', 3, 5), ('y', 'a', '[7,8,9]', 3, 5), ('z', 'a', '[7,8,9]', 3, 5), ('-', 'a', 'x', 1, 5)";
    sqlx::raw_sql(sql).execute(&mut client(&options).await).await.unwrap();
    let lost = |due_at| Verdict::Retry { due_at: Timestamp(due_at), cause: Cause::Lost };
    let settlement = |request, rows: &[(i64, Verdict)], is_whole| Settlement {
        request: RequestId(request),
        answered_at: NOW,
        status: None,
        fault: None,
        detail: None,
        remote_id: None,
        rows: rows
            .iter()
            .map(|(id, verdict)| Judged {
                id: DeletionId(*id),
                verdict: *verdict,
                batch_max: None,
                asks: 0,
                maybe_done: true,
            })
            .collect(),
        is_whole,
    };
    let settlements = [
        settlement(1, &[(7, Verdict::Deleted), (8, Verdict::Deleted), (9, Verdict::Deleted)], true),
        // Of one that a crash left unanswered, a row was taken out since; and one whose manifest somebody spoilt.
        settlement(2, &[(7, lost(1)), (9, lost(2))], false),
        settlement(4, &[], false),
    ];
    let mut write = store.write().await.unwrap();
    write.settle(settlements.iter()).await.unwrap();
    write.commit().await.unwrap();
    let history = [
        given(1, 7, "deleted", None),
        given(1, 8, "deleted", None),
        given(1, 9, "deleted", None),
        given(2, 7, "retry", Some("lost")),
        given(2, 9, "retry", Some("lost")),
    ];
    assert_eq!(outcomes(&options).await, history);
}

#[tokio::test]
async fn answers_that_came_at_many_times_are_settled_together() {
    let (_dir, options, mut store) = opened().await;
    let sql = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30)
               INSERT INTO deletions (agent_id, entry_id) SELECT 'a', i FROM n;
               INSERT INTO requests (correlation_id, agent_id, deletion_ids, size, claimed_at)
               SELECT id, 'a', json_array(id), 1, 5 FROM deletions;
               PRAGMA ignore_check_constraints = ON; -- and what is open must not look settled any more
               UPDATE deletions SET settled_at = 7 WHERE id % 3 = 0";
    sqlx::raw_sql(sql).execute(&mut client(&options).await).await.unwrap();
    let settlements: Vec<Settlement> = (1..=30)
        .map(|id| {
            let verdict = match id % 3 {
                0 => Verdict::Retry { due_at: Timestamp(id), cause: Cause::Lost },
                1 => Verdict::Deleted,
                _ => Verdict::Dead { cause: Cause::ApiFailed },
            };
            Settlement {
                request: RequestId(id),
                answered_at: NOW.plus(Duration::from_millis(id.unsigned_abs())),
                status: None,
                fault: None,
                detail: None,
                remote_id: None,
                rows: vec![Judged { id: DeletionId(id), verdict, batch_max: None, asks: 0, maybe_done: false }],
                is_whole: true,
            }
        })
        .collect();
    let mut write = store.write().await.unwrap();
    write.settle(settlements.iter()).await.unwrap();
    assert!(write.is_overtaken().await.unwrap(), "by what was inserted above");
    write.commit().await.unwrap();
    let as_they_should = "SELECT count(*) FROM deletions WHERE attempts = 1 AND request_id = id AND CASE id % 3
        WHEN 0 THEN state = 'pending' AND due_at = id AND last_cause = 'lost' AND settled_at IS NULL
        WHEN 1 THEN state = 'deleted' AND settled_at = 4000000000000 + id
        ELSE state = 'dead' AND settled_at = 4000000000000 + id AND last_cause = 'api_failed' END";
    let rows: (i64,) = sqlx::query_as(as_they_should).fetch_one(&mut client(&options).await).await.unwrap();
    assert_eq!(rows.0, 30);
    assert!(store.orphans().await.unwrap().is_empty());
}

#[tokio::test]
async fn what_somebody_spoilt_of_the_history_keeps_nobody_from_the_rest() {
    let (_dir, options, _store) = opened().await;
    let mut conn = client(&options).await;
    for (ids, verdicts) in [
        ("[1,2]", Some(r#"[{"verdict":"deleted"}]"#)),
        ("[3]", Some(r#"[{"verdict":"dead","cause":"rejected","deletion_ids":[3]}]"#)),
        ("x", Some(r#"[{"verdict":"retry","cause":"lost","deletion_ids":[4]}]"#)),
        ("[5]", None),
        ("x", Some(r#"[{"verdict":"deleted"}]"#)),
        ("[5]", Some("")),
        ("[5]", Some("{")),
        ("[5]", Some("5")),
        ("[5]", Some("[5]")),
        ("[5]", Some("[[1]]")),
        ("[5]", Some(r#"["x"]"#)),
        ("[5]", Some(r#""x""#)),
        ("[5]", Some(r#"{"a":"x"}"#)),
        ("[5]", Some(r#"{"verdict":"deleted"}"#)),
    ] {
        let sql =
            "INSERT INTO requests (correlation_id, agent_id, deletion_ids, size, claimed_at, answered_at, verdicts)
                   VALUES ('x', 'a', ?1, 1, 5, 6, ?2)";
        sqlx::query(sql).bind(ids).bind(verdicts).execute(&mut conn).await.unwrap();
    }
    let history = [
        given(1, 1, "deleted", None),
        given(1, 2, "deleted", None),
        given(2, 3, "dead", Some("rejected")),
        given(3, 4, "retry", Some("lost")),
    ];
    assert_eq!(outcomes(&options).await, history);
    let rows = "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', '1'), ('a', '2'), ('a', '3'), ('a', '4')";
    sqlx::raw_sql(rows).execute(&mut conn).await.unwrap();
    let (agent, entry) = (AgentId::parse("a").unwrap(), EntryId::parse("4").unwrap());
    let story = Reader::open(&options).await.unwrap().story(&agent, &entry).await.unwrap().unwrap();
    assert_eq!(
        story.requests.iter().map(|told| told.request).collect::<Vec<_>>(),
        [3],
        "though its manifest is spoilt"
    );
}

#[tokio::test]
async fn a_repeated_insert_is_harmless_and_a_settled_row_opens_again() {
    let (_dir, options, store) = opened().await;
    let mut producer = Producer::open(&options).await.unwrap();
    producer.insert([("a", "1", 0), ("a", "1", 0), ("a", "2", 0)]).await.unwrap();
    let mut conn = SqliteConnection::connect(options.path.to_str().unwrap()).await.unwrap();
    sqlx::query("UPDATE deletions SET state = 'dead', settled_at = 1, attempts = 5, batch_max = 1 WHERE id = 1")
        .execute(&mut conn)
        .await
        .unwrap();
    producer.insert([("a", "1", 0)]).await.unwrap();
    let after = [row(1, "a", "1", "pending", 0, 20, 0), row(2, "a", "2", "pending", 0, 20, 0)];
    assert_eq!(table(&options).await, after);
    drop(store);
}

#[tokio::test]
async fn a_second_daemon_is_refused_and_so_is_a_database_of_somebody_else() {
    let (dir, options, store) = opened().await;
    let second = Store::open(options.clone()).await.unwrap_err();
    assert!(matches!(second, OpenError::Taken { pid: Some(pid), .. } if pid == std::process::id()), "{second}");
    drop(store);
    Store::open(options.clone()).await.unwrap();

    let foreign = Options { path: dir.path().join("foreign.db"), ..options };
    let mut conn = SqliteConnection::connect(&format!("sqlite://{}?mode=rwc", foreign.path.display())).await.unwrap();
    sqlx::query("CREATE TABLE theirs (id)").execute(&mut conn).await.unwrap();
    assert!(matches!(Store::open(foreign).await.unwrap_err(), OpenError::NotOurs(_)));
}

/// One connection as a producer's, with nothing set.
async fn client(options: &Options) -> SqliteConnection {
    SqliteConnection::connect(options.path.to_str().unwrap()).await.unwrap()
}

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
        ("('a', NULL)", "NOT NULL"),
        ("('.', '1')", "one URL path segment"),
        ("('..', '1')", "one URL path segment"),
        ("('a/b', '1')", "one URL path segment"),
        ("('a\\b', '1')", "one URL path segment"),
        ("('*', '1')", "one URL path segment"),
    ];
    for (values, said) in cases {
        let sql = format!("INSERT INTO deletions (agent_id, entry_id) VALUES {values}");
        let error = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut conn).await.unwrap_err().to_string();
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
        ("last_cause", "'bad luck'", "last_cause must be a known cause"),
        ("settled_at", "5", "a pending row has no settled_at"),
        ("id", "-1", "id must be a positive integer"),
        ("id", "9223372036854775807", "this id leaves no room"),
    ];
    for (column, value, said) in cases {
        let sql = format!("INSERT INTO deletions (agent_id, entry_id, {column}) VALUES ('a', '1', {value})");
        let error = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut conn).await.unwrap_err().to_string();
        assert!(error.contains(said), "{column} {value}: {error}");
    }
    assert_eq!(table(&options).await, []);
    sqlx::raw_sql("INSERT INTO deletions (agent_id, entry_id) VALUES ('a', 17)").execute(&mut conn).await.unwrap();
    assert_eq!(table(&options).await, [row(1, "a", "17", "pending", 0, 20, 0)], "a number becomes text");
}

#[test]
fn the_tables_need_nothing_that_old_sqlites_lack() {
    let sql: String = MIGRATIONS
        .iter()
        .flat_map(|sql| sql.lines())
        .map(|line| line.split("--").next().unwrap())
        .collect::<Vec<_>>()
        .join(" ")
        .to_lowercase();
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
async fn only_what_is_settled_and_old_is_pruned() {
    let (_dir, options, mut store) = opened().await;
    let mut conn = client(&options).await;
    sqlx::raw_sql(
        "INSERT INTO deletions (agent_id, entry_id, state, settled_at) VALUES
             ('a', 1, 'deleted', 999), ('a', 2, 'dead', 999), ('a', 3, 'deleted', 1000);
         INSERT INTO deletions (agent_id, entry_id) VALUES ('a', 4);
         INSERT INTO deletions (agent_id, entry_id, state, settled_at) VALUES
             ('a', 5, 'absent', 999), ('a', 6, 'absent', 1000);
         INSERT INTO requests (correlation_id, agent_id, deletion_ids, size, claimed_at, answered_at) VALUES
             ('x', 'a', '[1,2]', 2, 5, 999), ('y', 'a', '[3]', 1, 5, 1000), ('z', 'a', '[4]', 1, 5, NULL);
         UPDATE requests SET verdicts = '[{\"verdict\":\"deleted\"}]' WHERE id < 3",
    )
    .execute(&mut conn)
    .await
    .unwrap();
    let mut removed = 0;
    loop {
        let step = store.prune(Timestamp(1_000), 10).await.unwrap();
        removed += step.removed;
        if !step.more {
            break;
        }
    }
    assert_eq!(removed, 3 + 1);
    let left = [
        row(3, "a", "3", "deleted", 0, 20, 0),
        row(4, "a", "4", "pending", 0, 20, 0),
        row(6, "a", "6", "absent", 0, 20, 0),
    ];
    assert_eq!(table(&options).await, left);
    let requests: Vec<(i64,)> = sqlx::query_as("SELECT id FROM requests").fetch_all(&mut conn).await.unwrap();
    let outcomes: Vec<(i64,)> = sqlx::query_as("SELECT request_id FROM outcomes").fetch_all(&mut conn).await.unwrap();
    assert_eq!((requests, outcomes), (vec![(2,), (3,)], vec![(2,)]));
}

#[tokio::test]
async fn an_open_row_is_not_pruned_whatever_else_it_says() {
    let (_dir, options, mut store) = opened().await;
    let sql = "PRAGMA ignore_check_constraints = ON;
               INSERT INTO deletions (agent_id, entry_id, settled_at) VALUES ('a', 1, 5);
               INSERT INTO deletions (agent_id, entry_id, state, settled_at) VALUES ('a', 2, 'deleted', 5)";
    sqlx::raw_sql(sql).execute(&mut client(&options).await).await.unwrap();
    assert_eq!(store.prune(Timestamp(1_000), 10).await.unwrap().removed, 1);
    assert_eq!(table(&options).await, [row(1, "a", "1", "pending", 0, 20, 0)]);
}

#[tokio::test]
async fn an_id_can_be_neither_given_nor_changed_so_that_others_cannot_insert() {
    let (_dir, options, _store) = opened().await;
    let mut conn = client(&options).await;
    sqlx::raw_sql("INSERT INTO deletions (agent_id, entry_id) VALUES ('a', 1)").execute(&mut conn).await.unwrap();
    let changed = sqlx::raw_sql("UPDATE deletions SET id = 9223372036854775807").execute(&mut conn).await;
    assert!(changed.unwrap_err().to_string().contains("the id of a deletion stays as it is"));
    sqlx::raw_sql("UPDATE deletions SET id = id, priority = 3").execute(&mut conn).await.unwrap();
    sqlx::raw_sql("INSERT INTO deletions (agent_id, entry_id) VALUES ('a', 2)").execute(&mut conn).await.unwrap();
}

#[tokio::test]
async fn two_names_of_one_file_have_one_lock_even_if_it_is_not_there_yet() {
    let dir = tempfile::tempdir().unwrap();
    let link = Options { path: dir.path().join("link.db"), ..options(&dir) };
    std::os::unix::fs::symlink(dir.path().join("queue.db"), &link.path).unwrap();
    let _first = Store::open(link.clone()).await.unwrap();
    for second in [link, options(&dir)] {
        let error = Store::open(second).await.unwrap_err();
        assert!(matches!(error, OpenError::Taken { .. }), "{error}");
    }
}

#[tokio::test]
async fn pruning_goes_in_steps_and_tells_when_it_is_through() {
    let (_dir, options, mut store) = opened().await;
    let mut conn = client(&options).await;
    sqlx::raw_sql(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30)
         INSERT INTO deletions (agent_id, entry_id, state, settled_at) SELECT 'a', i, 'deleted', 5 FROM n;
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5)
         INSERT INTO requests (correlation_id, agent_id, deletion_ids, size, claimed_at, answered_at)
         SELECT i, 'a', '[]', 1, 5, 5 FROM n;",
    )
    .execute(&mut conn)
    .await
    .unwrap();
    let mut steps = Vec::new();
    for _ in 0..4 {
        let step = store.prune(Timestamp(1_000), 20).await.unwrap();
        steps.push((step.removed, step.more));
    }
    // Twenty rows and two requests at a time.
    assert_eq!(steps, [(20 + 2, true), (10 + 2, true), (1, true), (0, false)]);
}

#[tokio::test]
async fn a_step_of_upkeep_with_nothing_to_do_takes_no_lock() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { busy_timeout: Duration::ZERO, ..options(&dir) };
    let mut store = Store::open(options.clone()).await.unwrap();
    while store.give_back(100).await.unwrap() {}
    let mut conn = client(&options).await;
    sqlx::raw_sql(
        "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', 1), ('a', 2);
         INSERT INTO deletions (agent_id, entry_id, state, settled_at) VALUES ('a', 3, 'deleted', 1000);
         INSERT INTO requests (correlation_id, agent_id, deletion_ids, size, claimed_at, answered_at) VALUES
             ('y', 'a', '[3]', 1, 5, 1000), ('z', 'a', '[1]', 1, 5, NULL);
         BEGIN IMMEDIATE",
    )
    .execute(&mut conn)
    .await
    .unwrap();
    for more in [true, false, true] {
        let step = store.prune(Timestamp(1_000), 10).await.unwrap();
        assert_eq!((step.removed, step.more), (0, more));
    }
    assert!(!store.give_back(100).await.unwrap());
    assert!(store.prune(Timestamp(1_000), 10).await.is_ok(), "the end of the table");
    let error = store.prune(Timestamp(1_001), 10).await.unwrap_err();
    assert!(error.is_temporary(), "there is something to do, and it waits for its turn: {error}");
    sqlx::raw_sql("COMMIT").execute(&mut conn).await.unwrap();
    store.abandon().await;
    assert_eq!(store.prune(Timestamp(1_001), 10).await.unwrap().removed, 2, "where it was to be done");
}

/// A file with so much history that there is something to give back.
async fn with_history(options: &Options) {
    let history = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
         INSERT INTO deletions (agent_id, entry_id, state, settled_at) SELECT 'a', i, 'deleted', 5 FROM n;
         INSERT INTO deletions (agent_id, entry_id) VALUES ('a', 'open')";
    sqlx::raw_sql(history).execute(&mut client(options).await).await.unwrap();
}

async fn pages(options: &Options) -> (i64, i64) {
    let sql = "SELECT (SELECT page_count FROM pragma_page_count), (SELECT freelist_count FROM pragma_freelist_count)";
    sqlx::query_as(sql).fetch_one(&mut client(options).await).await.unwrap()
}

#[tokio::test]
async fn what_pruning_makes_free_is_given_back_in_steps_but_for_a_tenth() {
    let (_dir, options, mut store) = opened().await;
    with_history(&options).await;
    let (before, _) = pages(&options).await;
    while store.prune(Timestamp(1_000), 2_000).await.unwrap().more {}
    let mut last = pages(&options).await;
    assert!(last.0 == before && last.1 > before / 2, "free, and not given back: {last:?} of {before}");
    while store.give_back(100).await.unwrap() {
        let now = pages(&options).await;
        // A page that says what is where may go with them.
        assert!((100..=101).contains(&(last.0 - now.0)), "{last:?} {now:?}");
        last = now;
    }
    let (left, free) = pages(&options).await;
    assert!(left < before / 10 && free < left / 10 + 16, "{left} pages of {before}, {free} of them free");
    assert!(!store.give_back(100).await.unwrap(), "what is left stays for what comes");
    store.close().await.unwrap();
    let size = std::fs::metadata(&options.path).unwrap().len();
    assert!(size <= u64::try_from(left).unwrap() * 4096, "{size}");
    let check: String =
        sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&mut client(&options).await).await.unwrap();
    assert_eq!(check, "ok");
}

#[tokio::test]
async fn a_file_made_before_gives_nothing_back_until_it_was_vacuumed_once() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(&dir);
    drop(Store::open(options.clone()).await.unwrap());
    // As it was made then.
    let then = "PRAGMA auto_vacuum = NONE; VACUUM";
    sqlx::raw_sql(then).execute(&mut client(&options).await).await.unwrap();
    with_history(&options).await;
    let mut store = Store::open(options.clone()).await.unwrap();
    while store.prune(Timestamp(1_000), 2_000).await.unwrap().more {}
    let before = pages(&options).await;
    assert!(!store.give_back(100).await.unwrap());
    assert_eq!(pages(&options).await, before);
    store.close().await.unwrap();
    // What the README says.
    let once = "PRAGMA auto_vacuum = INCREMENTAL; VACUUM";
    sqlx::raw_sql(once).execute(&mut client(&options).await).await.unwrap();
    let mut store = Store::open(options.clone()).await.unwrap();
    with_history(&options).await;
    while store.prune(Timestamp(1_000), 2_000).await.unwrap().more {}
    assert!(store.give_back(100).await.unwrap());
}

#[tokio::test]
async fn a_file_that_was_closed_is_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(&dir);
    let store = Store::open(options).await.unwrap();
    assert!(dir.path().join("queue.db-wal").exists());
    store.close().await.unwrap();
    assert!(!dir.path().join("queue.db-wal").exists());
}

#[tokio::test]
async fn the_oldest_due_row_is_told_by_when_it_could_have_gone() {
    let (_dir, options, store) = opened().await;
    let mut conn = client(&options).await;
    let sql = format!(
        "INSERT INTO deletions (agent_id, entry_id, due_at, created_at) VALUES
            ('a', 1, 0, {now} - 60000), ('b', 2, {now} - 5000, {now} - 90000), ('c', 3, {now} + 5000, {now} - 90000)",
        now = NOW.0
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut conn).await.unwrap();
    let tally = store.counter().tally(NOW).await.unwrap();
    assert_eq!((tally.pending, tally.due, tally.oldest_due), (3, 2, Duration::from_secs(60)));
}

#[tokio::test]
async fn lanes_come_in_the_order_of_their_first_rows() {
    let (_dir, options, mut store) = opened().await;
    let mut conn = client(&options).await;
    let rows = "INSERT INTO deletions (agent_id, entry_id) VALUES ('z', 1), ('a', 1), ('m', 1), ('a', 2), ('z', 2)";
    sqlx::raw_sql(rows).execute(&mut conn).await.unwrap();
    let (lanes, _) = store.lanes().await.unwrap();
    let agents: Vec<&str> = lanes.iter().map(|(lane, _)| lane.agent.as_str()).collect();
    assert_eq!(agents, ["z", "a", "m"]);
}

#[tokio::test]
async fn the_readme_s_sql_runs() {
    let (dir, options, _store) = opened().await;
    let mut conn = client(&options).await;
    let blocks: Vec<&str> = include_str!("../../README.md")
        .split("```sql\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert_eq!(blocks.len(), 3);
    // As the shell would make it.
    std::fs::File::create(dir.path().join("archive.db")).unwrap();
    for block in blocks {
        // Not beside the tests.
        let block = block.replace("archive.db", dir.path().join("archive.db").to_str().unwrap());
        sqlx::raw_sql(sqlx::AssertSqlSafe(block)).execute(&mut conn).await.unwrap();
    }
}

#[tokio::test]
async fn a_file_of_the_version_before_comes_along_with_nothing_lost() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(&dir);
    // As it was made then: without the third migration, and with rows of every state, ids that are gone, and a view.
    drop(Store::open(options.clone()).await.unwrap());
    let mut conn = client(&options).await;
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
        "DROP TABLE deletions; DROP TABLE requests; DROP VIEW outcomes; DROP TABLE holds;
         DROP TABLE daemon; DELETE FROM _sqlx_migrations WHERE version >= 3; {} {}
         INSERT INTO deletions (agent_id, entry_id, priority, due_at, batch_max, created_at) VALUES ('a', 1, 7, 3, 5, 2);
         INSERT INTO deletions (agent_id, entry_id, state, attempts, settled_at, request_id) VALUES ('a', 2, 'deleted', 1, 9, 4);
         INSERT INTO deletions (agent_id, entry_id, state, attempts, maybe_done, last_cause, settled_at)
         VALUES ('a', 3, 'dead', 8, 1, 'api_failed', 9);
         INSERT INTO deletions (agent_id, entry_id) VALUES ('a', 'gone');
         DELETE FROM deletions WHERE id = 4;
         PRAGMA ignore_check_constraints = ON;
         INSERT INTO deletions (id, agent_id, entry_id) VALUES (-5, 'b', '');
         PRAGMA ignore_check_constraints = OFF;
         INSERT INTO requests (id, correlation_id, agent_id, deletion_ids, size, claimed_at) VALUES (4, 'x', 'a', '[2,3]', 2, 5);
         INSERT INTO outcomes VALUES (4, 2, 'deleted', NULL), (4, 3, 'dead', 'api_failed');
         INSERT INTO holds (scope) VALUES ('a');
         CREATE TABLE notes (deletion INTEGER REFERENCES deletions (id) ON DELETE CASCADE);
         INSERT INTO notes VALUES (1);
         CREATE VIEW theirs AS SELECT count(*) FROM deletions;",
        MIGRATIONS[0], MIGRATIONS[1]
    )))
    .execute(&mut conn)
    .await
    .unwrap();
    // What others added to the tables would not come along: it is refused, and stays as it is.
    let added = "ALTER TABLE deletions ADD COLUMN note TEXT; CREATE INDEX theirs_too ON outcomes (cause);
                 CREATE TRIGGER also_theirs AFTER INSERT ON Deletions BEGIN SELECT 1; END;
                 ALTER TABLE deletions ADD COLUMN twice AS (attempts * 2);";
    sqlx::raw_sql(added).execute(&mut conn).await.unwrap();
    let refused = Store::open(options.clone()).await.unwrap_err().to_string();
    assert!(
        refused.contains("what was added to it: theirs_too, also_theirs, deletions.note, deletions.twice; note how"),
        "{refused}"
    );
    let removed = "DROP TRIGGER also_theirs; DROP INDEX theirs_too; ALTER TABLE deletions DROP COLUMN note;
                   ALTER TABLE deletions DROP COLUMN twice;";
    sqlx::raw_sql(removed).execute(&mut conn).await.unwrap();
    let old = "SELECT json_array(id, agent_id, entry_id, priority, state, attempts, due_at, batch_max, maybe_done, request_id,
                   last_cause, created_at, settled_at) FROM deletions
               UNION ALL SELECT json_array(id, correlation_id, deletion_ids, size, claimed_at) FROM requests
               UNION ALL SELECT json_array(request_id, deletion_id, verdict, cause) FROM outcomes
               UNION ALL SELECT json_array(scope, cause) FROM holds
               UNION ALL SELECT json_array(deletion) FROM notes
               UNION ALL SELECT json_array(name, seq) FROM sqlite_sequence ORDER BY 1";
    // What the fourth migration adds is all new, and what was a table is a view since the fifth.
    let names = "SELECT json_array(type, name) FROM sqlite_master
                 WHERE name NOT IN ('daemon', 'outcomes', 'sqlite_autoindex_outcomes_1') ORDER BY 1";
    let (mut before, mut after) = (Vec::<Vec<(String,)>>::new(), Vec::new());
    for found in [&mut before, &mut after] {
        for sql in [old, names] {
            found.push(sqlx::query_as(sql).fetch_all(&mut conn).await.unwrap());
        }
        drop(Store::open(options.clone()).await.unwrap());
    }
    assert_eq!(before, after);
    assert_eq!(before[0].len(), 4 + 1 + 2 + 1 + 1 + 2);
    let new: Vec<(String, Option<i64>)> =
        sqlx::query_as("SELECT kind, absent FROM requests").fetch_all(&mut conn).await.unwrap();
    assert_eq!(new, [("bulk".to_owned(), None)]);
    // Ids go on behind the one that is gone, and a settled row is opened again, whatever it was settled as.
    sqlx::raw_sql(
        "INSERT INTO deletions (agent_id, entry_id) VALUES ('c', 1);
         UPDATE deletions SET state = 'absent', asks = 2 WHERE id = 2;
         INSERT INTO deletions (agent_id, entry_id) VALUES ('a', 2);",
    )
    .execute(&mut conn)
    .await
    .unwrap();
    let rows: Vec<(i64, String, i64)> =
        sqlx::query_as("SELECT id, state, asks FROM deletions WHERE id IN (2, 5)").fetch_all(&mut conn).await.unwrap();
    assert_eq!(rows, [(2, "pending".to_owned(), 0), (5, "pending".to_owned(), 0)]);
    let taken = "INSERT INTO deletions (id, agent_id, entry_id) VALUES (2, 'z', 1)";
    assert!(sqlx::raw_sql(taken).execute(&mut conn).await.unwrap_err().to_string().contains("belongs to another"));
}

/// As it was before `outcomes` was a view.
const BEFORE_THE_VIEW: &str = "
    DELETE FROM _sqlx_migrations WHERE version >= 5;
    DROP VIEW outcomes;
    ALTER TABLE requests DROP COLUMN verdicts;
    CREATE TABLE outcomes (
        request_id  INTEGER NOT NULL,
        deletion_id INTEGER NOT NULL,
        verdict     TEXT    NOT NULL,
        cause       TEXT,
        PRIMARY KEY (request_id, deletion_id)
    ) WITHOUT ROWID;";

#[tokio::test]
async fn what_is_on_the_table_that_becomes_a_view_is_named_and_nothing_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(&dir);
    drop(Store::open(options.clone()).await.unwrap());
    let mut conn = client(&options).await;
    let then = format!(
        "{BEFORE_THE_VIEW}
         ALTER TABLE deletions ADD COLUMN note TEXT;
         CREATE INDEX theirs_too ON deletions (note);
         CREATE TRIGGER theirs AFTER INSERT ON deletions BEGIN SELECT 1; END;
         CREATE INDEX by_row ON outcomes (deletion_id);
         ALTER TABLE requests ADD COLUMN verdicts;
         CREATE TRIGGER with_it AFTER DELETE ON requests BEGIN DELETE FROM Outcomes WHERE request_id = OLD.id; END;"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(then)).execute(&mut conn).await.unwrap();
    let refused = Store::open(options.clone()).await.unwrap_err().to_string();
    assert!(refused.contains("what was added to it: by_row, with_it, requests.verdicts; note"), "{refused}");
    let removed = "DROP INDEX by_row; DROP TRIGGER with_it; ALTER TABLE requests DROP COLUMN verdicts;
                   CREATE VIEW theirs_of_it AS SELECT count(*) AS n FROM outcomes";
    sqlx::raw_sql(removed).execute(&mut conn).await.unwrap();
    drop(Store::open(options.clone()).await.unwrap());
    let kept = "SELECT name FROM sqlite_master WHERE name LIKE 'theirs%' ORDER BY 1";
    let kept: Vec<String> = sqlx::query_scalar(kept).fetch_all(&mut conn).await.unwrap();
    assert_eq!(kept, ["theirs", "theirs_of_it", "theirs_too"]);
}

#[tokio::test]
async fn the_history_comes_along_when_it_becomes_a_view_odd_rows_of_it_too() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(&dir);
    drop(Store::open(options.clone()).await.unwrap());
    let mut conn = client(&options).await;
    let then = format!(
        "{BEFORE_THE_VIEW}
         INSERT INTO requests (correlation_id, agent_id, deletion_ids, size, claimed_at, answered_at) VALUES
             ('x', 'a', '[1,2,3]', 3, 5, 6), ('y', 'a', '[-4,9007199254740993]', 2, 5, 6), ('z', 'a', '[5]', 1, 5, NULL),
             ('o', 'a', 'x', 1, 5, 6);
         INSERT INTO outcomes VALUES
             (1, 1, 'deleted', NULL), (1, 2, 'retry', 'lost'), (1, 3, 'retry', 'api_failed'),
             (2, -4, 'deleted', NULL), (2, 9007199254740993, 'deleted', NULL),
             (4, 7, x'646561640d', x'07'), (77, 1, 'deleted', NULL);"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(then)).execute(&mut conn).await.unwrap();
    drop(Store::open(options.clone()).await.unwrap());
    let history = [
        given(1, 1, "deleted", None),
        given(1, 2, "retry", Some("lost")),
        given(1, 3, "retry", Some("api_failed")),
        given(2, -4, "deleted", None),
        given(2, 9_007_199_254_740_993, "deleted", None),
        given(4, 7, "dead\r", Some("\u{7}")),
    ];
    assert_eq!(outcomes(&options).await, history, "but for what a request that is gone did");
}
