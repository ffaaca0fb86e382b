//! The daemon dies: inside of a turn at every step of it, and as a process at any moment.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    process::{Child, Command},
    task::Poll,
    time::Duration,
};

use audio_cache_sweeper::{
    pace::RateLimit,
    sandbox::{Mood, Options},
};

use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use crate::{
    bed::{Bed, Plan, listing},
    daemon::{configured, finish, sandbox, sweeper},
};

/// Polls a future so many times at the most, and drops it then; `None` if that was too few.
pub async fn cut_short<F: Future>(future: F, mut polls: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|context| {
        let Some(left) = polls.checked_sub(1) else { return Poll::Ready(None) };
        polls = left;
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if polls == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// A queue in the middle of its work: rows answered and not settled, rows in flight, rows due, a hold that is over.
async fn in_the_middle() -> Bed {
    let mut plan = Plan { request_timeout: Duration::from_millis(500), ..Plan::default() };
    plan.settings.concurrency = 3;
    plan.settings.policy.max_attempts = 2;
    let mut bed = Bed::new(plan).await;
    bed.sandbox.script([Mood::status(401)]);
    bed.insert(&[("held", "1")]).await;
    bed.work().await;
    bed.clock.advance(Duration::from_secs(76));
    bed.sandbox.script([
        listing(&["1"], &[]),
        listing(&["1", "2", "3"], &["4", "5"]),
        Mood::Hang,
        Mood::Reset { done: true },
    ]);
    bed.worker.turn().await.unwrap();
    bed.worker.wait_for_a_call().await;
    bed.insert_many("a", 20).await;
    bed.insert_many("b", 70).await;
    // The first one settles, and learns of the new rows in doing so.
    bed.worker.turn().await.unwrap();
    assert_eq!(bed.worker.turn().await.unwrap().sent, 3);
    bed.worker.wait_for_a_call().await;
    bed
}

/// How many rows that is.
const ROWS: i64 = 91;

/// What must hold after a crash, and in the end.
async fn run_to_the_end(mut bed: Bed, what: &str) {
    let sent: Vec<String> =
        bed.sandbox.requests().iter().map(|request| header(request, "x-polyai-correlation-id")).collect();
    let known: Vec<(String,)> = bed.query("SELECT correlation_id FROM requests").await;
    for id in sent {
        assert!(known.contains(&(id.clone(),)), "{what}: {id} was sent, and the queue does not know it");
    }
    assert_eq!(bed.query::<(i64,)>("SELECT count(*) FROM requests WHERE answered_at IS NULL").await, [(0,)], "{what}");
    let lost = "id IN (SELECT deletion_id FROM outcomes WHERE cause = 'lost') AND state <> 'deleted'";
    assert_eq!(bed.count(&format!("{lost} AND maybe_done = 0")).await, 0, "{what}: an orphan's row may have been done");
    for _ in 0..10 {
        bed.work().await;
        bed.clock.advance(Duration::from_secs(100));
    }
    assert_eq!(bed.count("state IN ('deleted', 'absent', 'dead')").await, ROWS, "{what}");
    assert_eq!(bed.count("attempts > 2 OR (state = 'pending') <> (settled_at IS NULL)").await, 0, "{what}");
    let deleted: Vec<(String, String)> =
        bed.query("SELECT agent_id, entry_id FROM deletions WHERE state = 'deleted'").await;
    // The answers of the script delete nothing by themselves, and say so of these.
    let said = |agent: &str, entry: &str| agent != "b" && ["1", "2", "3"].contains(&entry);
    for (agent, entry) in deleted {
        assert!(bed.sandbox.is_gone(&agent, &entry) || said(&agent, &entry), "{what}: {agent} {entry} was not deleted");
    }
    assert_eq!(bed.query::<(String,)>("PRAGMA integrity_check").await, [("ok".to_owned(),)], "{what}");
}

fn header(request: &audio_cache_sweeper::sandbox::Recorded, name: &str) -> String {
    request.headers[name].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_turn_that_is_cut_short_at_any_poll_loses_nothing() {
    let mut polls = 1;
    loop {
        let mut bed = in_the_middle().await;
        let whole = cut_short(bed.worker.turn(), polls).await;
        run_to_the_end(bed.restart().await, &format!("cut short after {polls} polls")).await;
        if let Some(turn) = whole {
            let turn = turn.unwrap();
            assert!(turn.settled > 0 && turn.sent > 0, "there was something to lose: {turn:?}");
            // The store's thread may be so quick that the first poll finds everything done, which cuts nothing short.
            if polls == 1 {
                continue;
            }
            break;
        }
        polls += 1;
    }
}

#[tokio::test]
async fn a_start_that_is_cut_short_at_any_poll_loses_nothing() {
    let mut polls = 1;
    loop {
        let mut bed = in_the_middle().await;
        bed.worker.turn().await.unwrap();
        let (bed, whole) = bed.restart_cut_short(polls).await;
        run_to_the_end(bed, &format!("cut short after {polls} polls")).await;
        if whole {
            break;
        }
        polls += 1;
    }
    assert!(polls > 1);
}

/// How many polls a turn takes is up to the machine; where its commits end is not. So this goes through all of them: the
/// log of commits is cut off behind each, from the file's first migration to its last outcome, and a daemon starts on it.
#[tokio::test]
#[expect(clippy::print_stdout, reason = "figures, for whoever asks with --nocapture")]
async fn every_commit_and_every_torn_one_is_a_place_to_start_again_from() {
    let mut bed = in_the_middle().await;
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
        let mut after = Bed::on(dir, plan).await;
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

#[tokio::test]
async fn a_row_whose_request_ends_the_daemon_every_time_is_given_up() {
    let mut bed = Bed::new(Plan::default()).await;
    bed.sandbox.script(vec![Mood::Hang; 10]);
    bed.insert(&[("a", "1")]).await;
    for life in 1..=3 {
        assert_eq!(bed.worker.turn().await.unwrap().sent, 1, "life {life}");
        bed = bed.restart().await;
        bed.clock.advance(Duration::from_secs(100));
    }
    assert_eq!(bed.count("state = 'dead' AND attempts = 3 AND last_cause = 'lost' AND maybe_done = 1").await, 1);
    bed.work().await;
    assert_eq!(bed.query::<(i64,)>("SELECT count(*) FROM requests").await, [(3,)]);
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

#[tokio::test]
async fn a_restart_goes_on_from_what_was_sent_before_it() {
    let rate = RateLimit { requests_per_second: 1.0, burst: 2.try_into().unwrap() };
    let mut bed = Bed::new(Plan { rate, ..Plan::default() }).await;
    bed.insert_many("a", 400).await;
    bed.work().await;
    let mut bed = bed.restart().await;
    bed.work().await;
    assert_eq!(bed.sizes().len(), 2, "the burst is spent, whoever spent it");
    bed.clock.advance(Duration::from_secs(1));
    bed.work().await;
    assert_eq!(bed.sizes().len(), 3);
    // A crash loop: each life sends what has been refilled, and no more.
    for life in 4..10 {
        bed = bed.restart().await;
        bed.work().await;
        bed.clock.advance(Duration::from_secs(1));
        bed.work().await;
        assert_eq!(bed.sizes().len(), life);
    }
    // In a restart after a while, there is a burst again.
    bed.clock.advance(Duration::from_secs(60));
    let mut bed = bed.restart().await;
    bed.work().await;
    assert_eq!(bed.sizes().len(), 11);
}
