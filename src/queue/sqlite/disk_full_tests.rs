//! A full disk: SQLite rolls such a transaction back by itself.

use std::time::Duration;

use super::{Options, Store, Synchronous};
use crate::queue::Queue as _;

#[tokio::test]
async fn a_transaction_that_the_disk_had_no_room_for_is_undone_and_the_next_one_works() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        path: dir.path().join("queue.db"),
        busy_timeout: Duration::from_secs(5),
        synchronous: Synchronous::Full,
    };
    let mut store = Store::open(options).await.unwrap();
    let limit = |pages: u32| sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {pages}"));
    sqlx::raw_sql(limit(1)).execute(&mut *store.conn).await.unwrap(); // SQLite takes the present number of pages instead
    for _ in 0..2 {
        let mut write = store.begin().await.unwrap();
        let one = "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', '1')";
        write.execute("insert", sqlx::query(one)).await.unwrap();
        let many = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)
                    INSERT INTO deletions (agent_id, entry_id) SELECT 'b', i FROM n";
        let error = write.execute("insert", sqlx::query(many)).await.unwrap_err();
        assert!(error.is_temporary() && error.to_string().contains("make room"), "{error}");
        store.undo().await;
        assert!(store.is_empty().await.unwrap(), "all of it is undone");
    }
    sqlx::raw_sql(limit(1_000_000)).execute(&mut *store.conn).await.unwrap();
    let write = store.begin().await.unwrap();
    write.finish().await.unwrap();
}
