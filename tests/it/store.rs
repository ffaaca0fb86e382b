//! The SQLite store, apart from what `suite` asks of every engine: values that only SQL can write, what enqueueing counts, and who
//! may open the file.

use std::time::Duration;

use audio_cache_sweeper::{
    model::{
        clock::Timestamp,
        deletion::{AgentId, EntryId},
    },
    queue::{
        Enqueued, Queue as _, Settlement, Tx as _, Wish,
        sqlite::{OpenError, Options, Producer, Reader, Store, Synchronous},
    },
};
use sqlx::{Connection, SqliteConnection};

use crate::suite::seam::{judged, retry, settlement};

const NOW: Timestamp = Timestamp(4_000_000_000_000);

/// A time in 2023: no number of seconds.
const FAR: i64 = 1_700_000_000_000;

pub fn options(dir: &tempfile::TempDir) -> Options {
    Options { path: dir.path().join("queue.db"), busy_timeout: Duration::from_secs(5), synchronous: Synchronous::Full }
}

/// A queue that has just been made.
pub async fn opened() -> (tempfile::TempDir, Options, Store) {
    let dir = tempfile::tempdir().unwrap();
    let options = options(&dir);
    let store = Store::open(options.clone()).await.unwrap();
    (dir, options, store)
}

pub type DeletionRow = (i64, String, String, i64, String, i64, i64, i64);

pub async fn table(options: &Options) -> Vec<DeletionRow> {
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

pub fn row(
    id: i64,
    agent: &str,
    entry: &str,
    state: &str,
    attempts: i64,
    batch_max: i64,
    maybe_done: i64,
) -> DeletionRow {
    (id, agent.into(), entry.into(), 0, state.into(), attempts, batch_max, maybe_done)
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

/// One row of each kind, and the same entries of another agent as bystanders.
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
async fn enqueueing_counts_each_wish_once_as_what_became_of_it() {
    let (_dir, options, _store, _conn) = with_all_kinds().await;
    let mut producer = Producer::join(&options).await.unwrap();
    let wish = |entry: &str, due_at| Wish {
        agent: AgentId::parse("a").unwrap(),
        entry: EntryId::parse(entry).unwrap(),
        priority: 9,
        due_at: Timestamp(due_at),
        label: None,
    };
    let wishes = [
        wish("1", FAR + 700), // reopened, then once as it is, and twice earlier
        wish("1", FAR + 700),
        wish("1", FAR + 600),
        wish("1", 0),
        wish("4", FAR + 9_500), // waits, is due earlier, waits, is due earlier; two later times are dropped
        wish("4", FAR + 8_000),
        wish("4", FAR + 8_500),
        wish("4", 0),
        wish("5", 0), // tried: both wait
        wish("6", 0),
        wish("7", FAR + 700), // new, earlier, waits with its later time dropped
        wish("7", FAR + 600),
        wish("7", FAR + 650),
    ];
    let expected =
        Enqueued { accepted: 0, inserted: 1, waiting: 1 + 2 + 2 + 1, dropped: 2 + 1, earlier: 2 + 2 + 1, reopened: 1 };
    assert_eq!(producer.enqueue(&wishes, Timestamp(0)).await.unwrap(), expected);
    let after = whole_table(&options).await;
    // One wish at a time, the counts are the same.
    let (_dir, options, _store, _conn) = with_all_kinds().await;
    let mut producer = Producer::join(&options).await.unwrap();
    let mut sum = Enqueued::default();
    for wish in wishes {
        let one = producer.enqueue(&[wish], Timestamp(0)).await.unwrap();
        sum.inserted += one.inserted;
        sum.waiting += one.waiting;
        sum.dropped += one.dropped;
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

/// A producer's connection, with default settings.
pub async fn client(options: &Options) -> SqliteConnection {
    SqliteConnection::connect(options.path.to_str().unwrap()).await.unwrap()
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
async fn a_request_whose_manifest_somebody_spoilt_is_settled_all_the_same() {
    let (_dir, options, mut store) = opened().await;
    let mut conn = client(&options).await;
    let sql =
        "INSERT INTO requests (correlation_id, agent_id, deletion_ids, size, claimed_at) VALUES ('-', 'a', 'x', 1, 5)";
    sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
    let orphan = Settlement { is_whole: false, ..settlement(1, vec![]) };
    let mut tx = store.begin().await.unwrap();
    tx.settle([orphan].iter()).await.unwrap();
    tx.commit(&[], None, NOW).await.unwrap();
    let answered: i64 = sqlx::query_scalar("SELECT answered_at FROM requests").fetch_one(&mut conn).await.unwrap();
    assert_eq!((answered, outcomes(&options).await), (NOW.0, vec![]));
}

#[tokio::test]
async fn a_row_that_comes_back_does_not_look_settled_any_more() {
    let (_dir, options, mut store) = opened().await;
    let mut conn = client(&options).await;
    let sql = "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', '1');
               INSERT INTO requests (correlation_id, agent_id, deletion_ids, size, claimed_at) VALUES ('-', 'a', '[1]', 1, 5);
               PRAGMA ignore_check_constraints = ON;
               UPDATE deletions SET settled_at = 7";
    sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
    let mut tx = store.begin().await.unwrap();
    tx.settle([settlement(1, vec![judged(1, retry(9))])].iter()).await.unwrap();
    tx.commit(&[], None, NOW).await.unwrap();
    let settled: Option<i64> =
        sqlx::query_scalar("SELECT settled_at FROM deletions").fetch_one(&mut conn).await.unwrap();
    assert_eq!(settled, None);
}
