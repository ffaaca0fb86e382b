//! The settings of each connection.

use std::time::Duration;

use sqlx::{ConnectOptions as _, SqliteConnection, sqlite::SqliteConnectOptions};

use super::{
    Counter, Options, Producer, Reader, Store, StoreError, Synchronous,
    connection::{connect, switch_to_wal},
    upkeep::MAX_WAL,
};
use crate::{model::clock::Timestamp, queue::Counter as _};

async fn settings(conn: &mut SqliteConnection) -> (i64, i64, i64) {
    let settings = "SELECT (SELECT trusted_schema FROM pragma_trusted_schema),
                           (SELECT cell_size_check FROM pragma_cell_size_check),
                           (SELECT journal_size_limit FROM pragma_journal_size_limit)";
    sqlx::query_as(settings).fetch_one(conn).await.unwrap()
}

#[tokio::test]
async fn no_connection_trusts_what_others_put_into_the_tables() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        path: dir.path().join("queue.db"),
        busy_timeout: Duration::from_secs(5),
        synchronous: Synchronous::Full,
    };
    let mut store = Store::open(options.clone()).await.unwrap();
    let mut producer = Producer::join(&options).await.unwrap();
    let mut reader = Reader::open(&options).await.unwrap();
    let mut counting = connect(&options, true).await.unwrap();
    let safe = (0, 1, i64::try_from(MAX_WAL).unwrap());
    for conn in [&mut *store.conn, &mut *producer.session.conn, &mut reader.conn, &mut counting] {
        assert_eq!(settings(conn).await, safe);
    }
    // Our own defaults, CHECKs, triggers and the view work with these settings.
    producer.insert([("a", "1", 0), ("a", "1", 5)]).await.unwrap();
    let refused = producer.insert([("a", "no spaces", 0)]).await.unwrap_err();
    assert!(refused.to_string().contains("printable"), "{refused}");
    let answered =
        "INSERT INTO requests (correlation_id, agent_id, deletion_ids, size, claimed_at, answered_at, verdicts)
                    VALUES ('x', 'a', '[1]', 1, 1, 2, '[{\"verdict\":\"deleted\"}]')";
    sqlx::query(answered).execute(&mut *producer.session.conn).await.unwrap();
    let outcomes: Vec<(i64, String)> =
        sqlx::query_as("SELECT deletion_id, verdict FROM outcomes").fetch_all(&mut reader.conn).await.unwrap();
    assert_eq!(outcomes, [(1, "deleted".to_owned())]);
    let tally = Counter::new(options).census(Timestamp(4_000_000_000_000)).await.unwrap().tally;
    assert_eq!((tally.pending, tally.due), (1, 1));
}

#[tokio::test]
async fn what_cannot_have_a_wal_is_refused_and_the_message_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("queue.db");
    let file = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    // Without locks there is no shared memory, as on some file systems.
    for (options, mode) in [(file.vfs("unix-none"), "delete"), (SqliteConnectOptions::new().in_memory(true), "memory")]
    {
        let mut conn = options.connect().await.unwrap();
        let source = switch_to_wal(&mut conn).await.unwrap_err();
        let error = StoreError { path: path.clone(), doing: "switch to WAL", source };
        let said = error.to_string();
        assert!(!error.is_temporary(), "{said}");
        assert!(said.contains(&format!("keeps the journal mode {mode}: ")) && said.contains("a local disk"), "{said}");
    }
}
