//! The store on real files: each transition beside rows that it must not touch.

use audio_cache_sweeper::queue::{Counter as _, Queue as _, Tx as _};
use std::time::Duration;

use audio_cache_sweeper::{
    model::{
        clock::Timestamp,
        deletion::{AgentId, Batch, DeletionId, EntryId, Lane, RequestId},
        outcome::{Cause, Judged, Verdict},
    },
    queue::{
        Claim, Settlement,
        sqlite::{Enqueued, OpenError, Options, Producer, Reader, Store, Synchronous, Wish},
    },
};
use sqlx::{Connection, SqliteConnection};

use crate::bed::UNCHECKED;

const MIGRATION: &str = include_str!("../../migrations/sqlite/0001_queue.sql");

const NOW: Timestamp = Timestamp(4_000_000_000_000);

/// Times from here on are milliseconds for certain.
const FAR: i64 = 1_700_000_000_000;

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
    let lanes = store.lanes().await.unwrap();
    assert_eq!(lanes.iter().map(|(lane, _)| lane.clone()).collect::<Vec<_>>(), [lane("a"), lane("b")]);

    let mut write = store.begin().await.unwrap();
    let request = write.next_request_id();
    let looks = write.look(&[lane("a")], 20, &[DeletionId(4)], false, NOW).await.unwrap();
    let due: Vec<_> = looks[0].due.iter().map(|row| row.deletion.clone()).collect();
    assert_eq!(due.iter().map(|row| row.id.0).collect::<Vec<_>>(), [1, 2, 3], "4 is in flight");
    let batch = Batch::new(lane("a"), due).unwrap();
    let claims = [Claim { request, correlation_id: uuid::Uuid::nil(), batch }];
    write.commit(&claims, None, NOW).await.unwrap();
    let orphans = store.orphans().await.unwrap();
    assert_eq!(orphans[0].batch.as_ref().unwrap().deletions(), claims[0].batch.deletions());

    let judged = |id, verdict, batch_max, maybe_done| Judged {
        id: DeletionId(id),
        verdict,
        batch_max,
        asks: 0,
        maybe_done,
        first_fault: None,
        evidence: None,
    };
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
        let mut write = store.begin().await.unwrap();
        write.settle(settlement.iter()).await.unwrap();
        write.commit(&[], None, NOW).await.unwrap();
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
    let tally = store.counter().census(NOW).await.unwrap().tally;
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
                first_fault: None,
                evidence: None,
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
    let mut write = store.begin().await.unwrap();
    write.settle(settlements.iter()).await.unwrap();
    write.commit(&[], None, NOW).await.unwrap();
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
                rows: vec![Judged {
                    id: DeletionId(id),
                    verdict,
                    batch_max: None,
                    asks: 0,
                    maybe_done: false,
                    first_fault: None,
                    evidence: None,
                }],
                is_whole: true,
            }
        })
        .collect();
    let mut write = store.begin().await.unwrap();
    write.settle(settlements.iter()).await.unwrap();
    assert!(write.news().await.unwrap(), "by what was inserted above");
    write.commit(&[], None, NOW).await.unwrap();
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

/// Every column of every row.
async fn whole_table(options: &Options) -> Vec<String> {
    let all =
        "SELECT json_array(id, agent_id, entry_id, priority, state, attempts, due_at, batch_max, asks, maybe_done,
                   request_id, first_fault, last_cause, created_at, settled_at) FROM deletions ORDER BY id";
    sqlx::query_scalar(all).fetch_all(&mut client(options).await).await.unwrap()
}

/// Rows of every kind, all of them of an entry that another agent has, too.
const ALL_KINDS: &str = "
    INSERT INTO deletions (agent_id, entry_id, priority, state, attempts, due_at, batch_max, asks, maybe_done, request_id,
        first_fault, last_cause, created_at, settled_at) VALUES
        ('a', 1, 1, 'dead',    5, 1700000009000, 1,  2, 1, 7,    6,    'lost', 100, 200),
        ('a', 2, 1, 'deleted', 1, 1700000009000, 20, 0, 0, 7,    NULL, NULL,   100, 200),
        ('a', 3, 1, 'absent',  1, 1700000009000, 0,  0, 0, 7,    5,    NULL,   100, 200),
        ('a', 4, 1, 'pending', 0, 1700000009000, 20, 0, 0, NULL, NULL, NULL,   100, NULL),
        ('a', 5, 1, 'pending', 0, 1700000009000, 4,  0, 0, 7,    7,    'rejected', 100, NULL),
        ('a', 6, 1, 'pending', 1, 1700000009000, 20, 0, 1, NULL, NULL, 'lost', 100, NULL);
    INSERT INTO deletions (agent_id, entry_id, priority, state, attempts, due_at, batch_max, asks, maybe_done, request_id,
        first_fault, last_cause, created_at, settled_at)
    SELECT 'b', entry_id, priority, state, attempts, due_at, batch_max, asks, maybe_done, request_id, first_fault, last_cause,
        created_at, settled_at FROM deletions";

async fn with_all_kinds() -> (tempfile::TempDir, Options, Store, SqliteConnection) {
    let (dir, options, store) = opened().await;
    let mut conn = client(&options).await;
    sqlx::raw_sql(ALL_KINDS).execute(&mut conn).await.unwrap();
    (dir, options, store, conn)
}

#[tokio::test]
async fn a_repeated_insert_reopens_a_settled_row_as_if_it_were_new() {
    let (_dir, options, _store, mut conn) = with_all_kinds().await;
    let mut expected = whole_table(&options).await;
    let again = "INSERT INTO deletions (agent_id, entry_id, priority, due_at, created_at) VALUES
                     ('a', 1, 0, 1700000000500, 300), ('a', 2, 0, 1700000000500, 300), ('a', 3, 0, 1700000000500, 300)";
    sqlx::raw_sql(again).execute(&mut conn).await.unwrap();
    for id in 1..=3 {
        expected[id - 1] = format!(r#"[{id},"a","{id}",0,"pending",0,1700000000500,20,0,0,null,null,null,300,null]"#);
    }
    assert_eq!(whole_table(&options).await, expected);
}

#[tokio::test]
async fn an_open_row_that_is_enqueued_again_takes_over_a_higher_priority_and_untried_an_earlier_time() {
    let (_dir, options, _store, mut conn) = with_all_kinds().await;
    let mut expected = whole_table(&options).await;
    let insert = async |conn: &mut SqliteConnection, values: &str| {
        let sql = format!("INSERT INTO deletions (agent_id, entry_id, priority, due_at) VALUES {values}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(conn).await.map(drop)
    };
    // Later, and with a lower priority: nothing.
    insert(&mut conn, "('a', 4, 0, 1700000009001), ('a', 5, 0, 1700000009001), ('a', 6, 0, 1700000009001)")
        .await
        .unwrap();
    assert_eq!(whole_table(&options).await, expected);
    // Earlier: only the one that was never tried.
    insert(&mut conn, "('a', 4, 1, 1700000008999), ('a', 5, 1, 1700000008999), ('a', 6, 1, 1700000008999)")
        .await
        .unwrap();
    expected[3] = r#"[4,"a","4",1,"pending",0,1700000008999,20,0,0,null,null,null,100,null]"#.to_owned();
    assert_eq!(whole_table(&options).await, expected);
    // Due at once, and more important.
    insert(&mut conn, "('a', 4, 2, 0), ('a', 5, 2, 0), ('a', 6, 2, 0)").await.unwrap();
    expected[3] = r#"[4,"a","4",2,"pending",0,0,20,0,0,null,null,null,100,null]"#.to_owned();
    expected[4] = r#"[5,"a","5",2,"pending",0,1700000009000,4,0,0,7,7,"rejected",100,null]"#.to_owned();
    expected[5] = r#"[6,"a","6",2,"pending",1,1700000009000,20,0,1,null,null,"lost",100,null]"#.to_owned();
    assert_eq!(whole_table(&options).await, expected);
    // A time that is none is refused as in a new row.
    insert(&mut conn, "('b', 4, 9, 1700000008000)").await.unwrap();
    expected[9] = r#"[10,"b","4",9,"pending",0,1700000008000,20,0,0,null,null,null,100,null]"#.to_owned();
    let error = insert(&mut conn, "('b', 4, 9, -1)").await.unwrap_err().to_string();
    assert!(error.contains("due_at must be Unix milliseconds"), "{error}");
    assert_eq!(whole_table(&options).await, expected);
}

#[tokio::test]
async fn enqueueing_counts_each_wish_once_as_what_became_of_it() {
    let (_dir, options, _store, _conn) = with_all_kinds().await;
    let mut producer = Producer::join(&options).await.unwrap();
    let wish = |entry: &str, due_at| Wish {
        agent: AgentId::parse("a").unwrap(),
        entry: EntryId::parse(entry).unwrap(),
        priority: 9,
        due_at: Timestamp(due_at),
    };
    let wishes = [
        wish("1", FAR + 700), // reopened, then once as it is, and twice earlier
        wish("1", FAR + 700),
        wish("1", FAR + 600),
        wish("1", 0),
        wish("4", FAR + 9_500), // waits, is due earlier, waits, is due earlier
        wish("4", FAR + 8_000),
        wish("4", FAR + 8_500),
        wish("4", 0),
        wish("5", 0), // tried: both wait
        wish("6", 0),
        wish("7", FAR + 700), // new, earlier, waits
        wish("7", FAR + 600),
        wish("7", FAR + 650),
    ];
    let expected = Enqueued { inserted: 1, waiting: 1 + 2 + 2 + 1, earlier: 2 + 2 + 1, reopened: 1 };
    assert_eq!(producer.enqueue(&wishes).await.unwrap(), expected);
    let after = whole_table(&options).await;
    // In other pieces, the same.
    let (_dir, options, _store, _conn) = with_all_kinds().await;
    let mut producer = Producer::join(&options).await.unwrap();
    let mut sum = Enqueued::default();
    for wish in wishes {
        let one = producer.enqueue(&[wish]).await.unwrap();
        sum.inserted += one.inserted;
        sum.waiting += one.waiting;
        sum.earlier += one.earlier;
        sum.reopened += one.reopened;
    }
    assert_eq!(sum, expected);
    let without_times = |rows: Vec<String>| -> Vec<String> {
        rows.iter().map(|row| row.rsplitn(3, ',').last().unwrap().to_owned()).collect()
    };
    assert_eq!(without_times(whole_table(&options).await), without_times(after));
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
        ("('a', NULL)", "entry_id must be text of 1 to 255"),
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
        ("first_fault", "0", "first_fault must be a positive integer, or NULL"),
        ("first_fault", "-1", "first_fault must be a positive integer, or NULL"),
        ("first_fault", "1.5", "first_fault must be a positive integer, or NULL"),
        ("first_fault", "'first'", "first_fault must be a positive integer, or NULL"),
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

#[tokio::test]
async fn a_bad_hold_or_request_is_refused_at_its_insert_with_what_is_wrong() {
    let (_dir, options, _store) = opened().await;
    let mut conn = client(&options).await;
    let cases = [
        ("holds", "cause", "'bad luck'", "cause must be operator or a cause"),
        ("holds", "scope", "''", "scope must be"),
        ("holds", "since_at", "'now'", "since_at must be Unix milliseconds"),
        ("holds", "until_at", "-1", "until_at must be Unix milliseconds"),
        ("holds", "probed_at", "-1", "probed_at must be Unix milliseconds, or NULL"),
        ("holds", "probed_at", "0.5", "probed_at must be Unix milliseconds, or NULL"),
        ("holds", "probed_at", "'now'", "probed_at must be Unix milliseconds, or NULL"),
        ("holds", "probed_at", "253402300800000", "probed_at must be Unix milliseconds, or NULL"),
        ("holds", "repeats", "-1", "repeats must be"),
        ("requests", "kind", "'triple'", "kind must be bulk or single"),
        ("requests", "size", "21", "size must be from 1 to 20"),
        ("requests", "fault", "'bad luck'", "fault must be a known cause"),
        ("requests", "fault", "'operator'", "fault must be a known cause"),
    ];
    for (table, column, value, said) in cases {
        let mut fields = match table {
            "holds" => vec![("scope", "'a'")],
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
        let error = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut conn).await.unwrap_err().to_string();
        assert!(error.contains(said), "{table}.{column} {value}: {error}");
    }
    let left: i64 = sqlx::query_scalar("SELECT (SELECT count(*) FROM holds) + (SELECT count(*) FROM requests)")
        .fetch_one(&mut conn)
        .await
        .unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn every_cause_can_be_written_wherever_one_is() {
    let (_dir, options, _store) = opened().await;
    let mut conn = client(&options).await;
    for (n, cause) in Cause::ALL.iter().enumerate() {
        let hold = "INSERT INTO holds (scope, cause, probed_at) VALUES ('a', ?, 5)";
        sqlx::query(hold).bind(cause.as_str()).execute(&mut conn).await.unwrap();
        if *cause == Cause::Operator {
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
    let sql = "INSERT INTO deletions (agent_id, entry_id, settled_at) VALUES ('a', 1, 5);
               INSERT INTO deletions (agent_id, entry_id, state, settled_at) VALUES ('a', 2, 'deleted', 5)";
    let mut conn = client(&options).await;
    for sql in [UNCHECKED, sql] {
        sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
    }
    assert_eq!(store.prune(Timestamp(1_000), 10).await.unwrap().removed, 1);
    assert_eq!(table(&options).await, [row(1, "a", "1", "pending", 0, 20, 0)]);
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
    store.undo().await;
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
async fn a_file_without_auto_vacuum_gives_nothing_back_until_it_was_vacuumed_once() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(&dir);
    drop(Store::open(options.clone()).await.unwrap());
    let off = "PRAGMA auto_vacuum = NONE; VACUUM";
    sqlx::raw_sql(off).execute(&mut client(&options).await).await.unwrap();
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
    let tally = store.counter().census(NOW).await.unwrap().tally;
    assert_eq!((tally.pending, tally.due, tally.oldest_due), (3, 2, Duration::from_secs(60)));
}

#[tokio::test]
async fn lanes_come_in_the_order_of_their_first_rows() {
    let (_dir, options, mut store) = opened().await;
    let mut conn = client(&options).await;
    let rows = "INSERT INTO deletions (agent_id, entry_id) VALUES ('z', 1), ('a', 1), ('m', 1), ('a', 2), ('z', 2)";
    sqlx::raw_sql(rows).execute(&mut conn).await.unwrap();
    let lanes = store.lanes().await.unwrap();
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
    assert_eq!(blocks.len(), 5);
    // As the shell would make it; and another queue, whose rows are taken over.
    std::fs::File::create(dir.path().join("archive.db")).unwrap();
    let copy = format!("VACUUM INTO '{}'", dir.path().join("old.db").display());
    sqlx::raw_sql(sqlx::AssertSqlSafe(copy)).execute(&mut conn).await.unwrap();
    for block in blocks {
        // Not beside the tests.
        let files = [("archive.db", "archive.db"), ("old.db", "old.db"), ("sweeper.db", "old.db")];
        let block = files.iter().fold(block.to_owned(), |block, (name, file)| {
            block.replace(&format!("'{name}'"), &format!("'{}'", dir.path().join(file).display()))
        });
        sqlx::raw_sql(sqlx::AssertSqlSafe(block)).execute(&mut conn).await.unwrap();
    }
}
