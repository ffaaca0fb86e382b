//! The write-ahead log is cut off behind any commit. (`suite::crash` cuts turns short and kills processes, for every engine.)

use std::{process::Command, time::Duration};

use audio_cache_sweeper::sandbox::Options;

use crate::{bed::Plan, engines::sqlite::Sqlite, suite::crash::in_the_middle};

/// The number of polls in a turn depends on the machine, but its commits do not. So the write-ahead log is cut off behind each
/// commit, and inside it, from the first migration to the last outcome, and a daemon starts on each.
#[tokio::test]
#[expect(clippy::print_stdout, reason = "figures, for whoever asks with --nocapture")]
async fn every_commit_and_every_torn_one_is_a_place_to_start_again_from() {
    let mut bed = in_the_middle::<Sqlite>().await;
    for _ in 0..4 {
        bed.clock.advance(Duration::from_secs(20));
        bed.worker.turn().await.unwrap();
        bed.worker.wait_for_a_call().await;
    }
    // Copied by another process: closing a file in this one would drop SQLite's locks on it.
    let copy = tempfile::tempdir().unwrap();
    let files = ["queue.db", "queue.db-wal"].map(|name| bed.dir.path().join(name));
    assert!(Command::new("cp").args(&files).arg(copy.path()).status().unwrap().success());
    let (file, log) = (copy.path().join("queue.db"), std::fs::read(copy.path().join("queue.db-wal")).unwrap());
    let word = |at: usize| u32::from_be_bytes(log[at..at + 4].try_into().unwrap()) as usize;
    let frame = 24 + word(8);
    let frames = (log.len() - 32) / frame;
    assert!(frames < 1_000, "SQLite has begun to empty its log: {frames} frames");
    // The last frame of each commit has the size of the database, in pages. The others have 0.
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
