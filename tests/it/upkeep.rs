//! The file does not grow for ever: pruning goes in steps, and free pages are given back.

use std::{fs, path::Path, time::Duration};

use audio_cache_sweeper::{
    model::clock::Timestamp,
    queue::{
        Queue as _,
        sqlite::{Options, Store},
    },
};

use crate::{
    bed::{Bed, Plan, START, UNCHECKED},
    daemon::open,
    store::{client, opened, options, row, table},
};

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
async fn old_acts_are_pruned_once_they_are_logged() {
    let (_dir, options, mut store) = opened().await;
    let mut conn = client(&options).await;
    sqlx::raw_sql(
        "INSERT INTO acts (acted_at, act, operator, rows, updated_at, ended, logged) VALUES
             (5, 'hold', 'ann', 1, 5, 1, 1), (5, 'hold', 'ann', 1, 5, 1, 0), (5, 'retry', 'ann', 1, 5, 0, 1),
             (5, 'enqueue', 'ann', 1, 2000, 0, 1), (2000, 'cancel', 'ann', 1, 2000, 1, 1)",
    )
    .execute(&mut conn)
    .await
    .unwrap();
    let step = store.prune(Timestamp(1_000), 200).await.unwrap();
    assert_eq!((step.removed, step.more), (2, true));
    let left: Vec<(i64,)> = sqlx::query_as("SELECT id FROM acts ORDER BY id").fetch_all(&mut conn).await.unwrap();
    assert_eq!(left, [(2,), (4,), (5,)]);
    assert_eq!(store.prune(Timestamp(1_000), 200).await.unwrap().removed, 0);
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

/// Writes enough history that pruning it frees pages.
async fn with_history(options: &Options) {
    let history = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40000)
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
        // A pointer-map page may go with them.
        assert!((100..=101).contains(&(last.0 - now.0)), "{last:?} {now:?}");
        last = now;
    }
    let (left, free) = pages(&options).await;
    // Some twenty pages are the tables' and indexes' own, however few rows there are.
    assert!(left < before / 8 && free < left / 10 + 16, "{left} pages of {before}, {free} of them free");
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
    // The remedy in docs/operating.md.
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
async fn after_somebody_has_read_for_long_the_log_of_commits_becomes_small_again() {
    let mut bed = Bed::new(Plan::default()).await;
    let log = bed.dir.path().join("queue.db-wal");
    let mib = |log: &Path| fs::metadata(log).unwrap().len() >> 20;
    let mut reader = open(&bed.options.path).await;
    sqlx::raw_sql("BEGIN; SELECT count(*) FROM deletions").execute(&mut reader).await.unwrap();
    bed.execute("CREATE TABLE theirs (x); INSERT INTO theirs VALUES (zeroblob(30000000))").await;
    for agent in ["a", "b"] {
        bed.insert_many(agent, 20).await;
        bed.work().await;
    }
    assert!(mib(&log) >= 28, "{}", mib(&log));
    sqlx::raw_sql("COMMIT").execute(&mut reader).await.unwrap();
    for agent in ["c", "d"] {
        bed.insert_many(agent, 20).await;
        bed.work().await;
    }
    assert!(mib(&log) <= 16, "{}", mib(&log));
}

#[tokio::test]
async fn old_history_goes_between_the_turns_and_its_pages_with_it() {
    let mut bed = Bed::new(Plan::default()).await;
    let history = format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
         INSERT INTO deletions (agent_id, entry_id, state, settled_at) SELECT 'a', i, 'deleted', {} FROM n",
        START.minus(Duration::from_secs(2 * 86_400)).0
    );
    bed.execute(&history).await;
    bed.insert(&[("b", "1")]).await;
    let pages = "SELECT (SELECT page_count FROM pragma_page_count), (SELECT freelist_count FROM pragma_freelist_count)";
    let before = bed.query::<(i64, i64)>(pages).await[0].0;
    // Gone through once: a step for each 200 rows, some for their pages, and what is settled meanwhile stays.
    for _ in 0..60 {
        bed.worker.turn().await.unwrap();
        bed.worker.do_chores().await.unwrap();
        bed.clock.advance(Duration::from_secs(1));
    }
    bed.work().await;
    assert_eq!((bed.count("agent_id = 'a'").await, bed.count("state = 'deleted'").await), (0, 1));
    let (after, free) = bed.query::<(i64, i64)>(pages).await[0];
    assert!(after < before / 2 && free <= after / 10 + 1, "{before} {after} {free}");
}

#[tokio::test]
async fn a_chore_that_fails_in_the_middle_keeps_nobody_from_writing() {
    let mut bed = Bed::new(Plan { busy_timeout: Duration::ZERO, ..Plan::default() }).await;
    bed.execute(
        "INSERT INTO deletions (agent_id, entry_id, state, created_at, settled_at)
             VALUES ('a', 1, 'deleted', 1700000000000, 1700000000000);
         CREATE TRIGGER kept BEFORE DELETE ON deletions BEGIN SELECT RAISE(ABORT, 'kept'); END;",
    )
    .await;
    bed.worker.turn().await.unwrap();
    let error = bed.worker.do_chores().await.unwrap_err();
    assert!(error.to_string().contains("kept"), "{error}");
    let mut producer = client(&bed.options).await;
    let begun = sqlx::raw_sql("PRAGMA busy_timeout = 0; BEGIN IMMEDIATE; ROLLBACK").execute(&mut producer).await;
    assert!(begun.is_ok(), "{begun:?}");
}
