//! The daemon dies as a process at any moment, and between any two pages that SQLite writes. (`suite::crash` has what every
//! engine must bear.)

use std::{
    process::{Child, Command},
    time::Duration,
};

use audio_cache_sweeper::sandbox::Options;

use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use crate::{
    bed::Plan,
    daemon::{configured, finish, sandbox, sweeper},
    engines::sqlite::Sqlite,
    suite::crash::in_the_middle,
};

/// How many polls a turn takes is up to the machine; where its commits end is not. So this goes through all of them: the
/// log of commits is cut off behind each, from the file's first migration to its last outcome, and a daemon starts on it.
#[tokio::test]
#[expect(clippy::print_stdout, reason = "figures, for whoever asks with --nocapture")]
async fn every_commit_and_every_torn_one_is_a_place_to_start_again_from() {
    let mut bed = in_the_middle::<Sqlite>().await;
    for _ in 0..4 {
        bed.clock.advance(Duration::from_secs(20));
        bed.worker.turn().await.unwrap();
        bed.worker.wait_for_a_call().await;
    }
    // By another process: to close a file that SQLite has open drops SQLite's locks.
    let copy = tempfile::tempdir().unwrap();
    let files = ["queue.db", "queue.db-wal"].map(|name| bed.dir.path().join(name));
    assert!(Command::new("cp").args(&files).arg(copy.path()).status().unwrap().success());
    let (file, log) = (copy.path().join("queue.db"), std::fs::read(copy.path().join("queue.db-wal")).unwrap());
    let word = |at: usize| u32::from_be_bytes(log[at..at + 4].try_into().unwrap()) as usize;
    let frame = 24 + word(8);
    let frames = (log.len() - 32) / frame;
    assert!(frames < 1_000, "SQLite has begun to empty its log: {frames} frames");
    // The size of the database, in pages, stands in the last frame of each commit, and 0 in the others.
    let commits: Vec<usize> = (0..frames).filter(|n| word(32 + n * frame + 4) > 0).collect();
    let cuts = commits.iter().flat_map(|n| {
        let end = 32 + (n + 1) * frame;
        [end, (end + frame / 2).min(log.len())]
    });
    let mut tried = 0;
    for cut in cuts {
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(&file, dir.path().join("queue.db")).unwrap();
        std::fs::write(dir.path().join("queue.db-wal"), &log[..cut]).unwrap();
        let plan = Plan { sandbox: Options { record: false, ..bed.plan.sandbox.clone() }, ..bed.plan.clone() };
        let mut after = crate::bed::on(dir, plan).await;
        let rows =
            "SELECT agent_id, entry_id, CASE state WHEN 'pending' THEN '' ELSE state END FROM deletions ORDER BY id";
        let before: Vec<(String, String, String)> = after.query(rows).await;
        assert_eq!(after.query::<(i64,)>("SELECT count(*) FROM requests WHERE answered_at IS NULL").await, [(0,)]);
        for _ in 0..20 {
            after.work().await;
            after.clock.advance(Duration::from_secs(100));
        }
        let ended: Vec<(String, String, String)> = after.query(rows).await;
        assert_eq!(before.len(), ended.len(), "cut at {cut}");
        for (before, ended) in before.iter().zip(&ended) {
            assert!(
                (&before.0, &before.1) == (&ended.0, &ended.1) && !ended.2.is_empty(),
                "{cut}: {before:?}, {ended:?}"
            );
            assert!(
                before.2.is_empty() || before.2 == ended.2,
                "cut at {cut}: {before:?} was settled, and is {ended:?}"
            );
        }
        assert_eq!(after.count("attempts > 2").await, 0, "cut at {cut}");
        assert_eq!(after.query::<(String,)>("PRAGMA integrity_check").await, [("ok".to_owned(),)], "cut at {cut}");
        tried += 1;
    }
    println!("{} commits in {frames} frames, {tried} cuts", commits.len());
    assert!(commits.len() > 15, "{} commits", commits.len());
}

async fn insert(conn: &mut SqliteConnection, rows: &[(String, String)]) {
    let values: Vec<String> = rows.iter().map(|(agent, entry)| format!("('{agent}', '{entry}')")).collect();
    let sql = format!("INSERT INTO deletions (agent_id, entry_id) VALUES {}", values.join(", "));
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(conn).await.unwrap();
}

/// The first column of what a query finds, as text.
async fn texts(conn: &mut SqliteConnection, sql: &str) -> Vec<String> {
    let sql = format!("WITH found (text) AS ({sql}) SELECT CAST(text AS TEXT) FROM found");
    let rows: Vec<(String,)> = sqlx::query_as(AssertSqlSafe(sql)).fetch_all(conn).await.unwrap();
    rows.into_iter().map(|(text,)| text).collect()
}

#[tokio::test]
#[expect(clippy::print_stdout, reason = "figures, for whoever asks with --nocapture")]
#[expect(clippy::too_many_lines, reason = "forty lives of one queue, from beginning to end")]
async fn a_daemon_that_is_killed_at_random_moments_accounts_for_every_row() {
    const LIVES: u64 = 40;
    const ROWS: u64 = 1_200;
    const AGENTS: [&str; 3] = ["a", "b", "c"];
    // Where the process is when it is killed, no seed can say; the seed only makes the sandbox's draws the same.
    let mut rng = fastrand::Rng::with_seed(20);
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        latency: Duration::from_millis(2),
        fail_ratio: 0.05,
        error_ratio: 0.03,
        reset_ratio: 0.06,
        garbage_ratio: 0.02,
        numeric_ids: true,
        seed: 20,
        ..Options::default()
    };
    let sandbox = sandbox(options).await;
    let command = || {
        let mut command = configured(dir.path(), &sandbox);
        command
            .env("SWEEPER__DATABASE__BUSY_TIMEOUT", "5s")
            .env("SWEEPER__RATE_LIMIT__REQUESTS_PER_SECOND", "300")
            .env("SWEEPER__RATE_LIMIT__BURST", "3")
            .env("SWEEPER__RETRY__MAX_ATTEMPTS", "5")
            .env("SWEEPER__RETRY__BASE_DELAY", "1ms")
            .env("SWEEPER__RETRY__MAX_DELAY", "20ms")
            .env("SWEEPER__HOLD__BASE_DELAY", "1ms")
            .env("SWEEPER__HOLD__MAX_DELAY", "10ms");
        command
    };
    assert!(sweeper(dir.path()).arg("init").output().unwrap().status.success());
    let mut rows: Vec<(String, String)> = Vec::new();
    let mut conn = SqliteConnection::connect(dir.path().join("sweeper.db").to_str().unwrap()).await.unwrap();
    for life in 0..LIVES {
        // Producers do not care whether anybody works.
        let new: Vec<(String, String)> = (0..ROWS / LIVES)
            .map(|n| {
                let bad = if n == 7 && life % 8 == 0 { "no-number-" } else { "" };
                (AGENTS[rng.usize(..3)].to_owned(), format!("{bad}{}", life * 1_000 + n))
            })
            .collect();
        insert(&mut conn, &new).await;
        rows.extend(new);
        let arrived = sandbox.requests().len();
        let mut child: Child = command().arg("run").stdout(std::process::Stdio::null()).spawn().unwrap();
        // At its first breath, when nothing tells where it is, or in the middle of its work.
        if life % 3 == 0 {
            tokio::time::sleep(Duration::from_micros(rng.u64(..30_000))).await;
        } else {
            sandbox.arrived(arrived + rng.usize(1..8)).await;
            for _ in 0..rng.usize(..2_000) {
                tokio::task::yield_now().await;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let before = texts(&mut conn, "SELECT count(*) FROM deletions").await;
        assert_eq!(before, [rows.len().to_string()], "life {life}");
    }
    let mut last = command();
    last.args(["run", "--until-empty"]);
    let (code, stdout, _) = finish(last).await;
    assert!(code == 0 || code == 4, "{stdout}");

    let ended = texts(&mut conn, "SELECT count(*) FROM deletions WHERE state IN ('deleted', 'absent', 'dead')").await;
    assert_eq!(ended, [rows.len().to_string()], "every row has reached an end");
    for row in texts(&mut conn, "SELECT agent_id || ' ' || entry_id FROM deletions WHERE state = 'deleted'").await {
        let (agent, entry) = row.split_once(' ').unwrap();
        assert!(sandbox.is_gone(agent, entry), "{row} is deleted here, and not there");
    }
    let none: [&str; 0] = [];
    assert_eq!(texts(&mut conn, "SELECT id FROM deletions WHERE attempts > 5").await, none);
    assert_eq!(texts(&mut conn, "SELECT id FROM requests WHERE answered_at IS NULL").await, none);
    let orphaned =
        texts(&mut conn, "SELECT count(*) FROM requests WHERE detail = 'the daemon ended before the answer'").await;
    assert!(orphaned[0].parse::<u64>().unwrap() > LIVES / 3, "{orphaned:?} requests in {LIVES} lives");
    assert_eq!(texts(&mut conn, "SELECT integrity_check FROM pragma_integrity_check").await, ["ok"]);
    let counts = texts(&mut conn, "SELECT state || ' ' || count(*) FROM deletions GROUP BY state").await;
    println!("{LIVES} lives, {} rows in, {counts:?}, {orphaned:?} orphans", rows.len());
}
