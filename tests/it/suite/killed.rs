//! The daemon dies as a process, at any moment.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use audio_cache_sweeper::{
    model::deletion::State,
    queue::Queue as _,
    sandbox::{Options, Sandbox},
};

use super::{
    engine::{Engine, Row, Setup, Wish},
    tests,
};
use crate::daemon::{blocking, configured, finish, sandbox};

/// How often the daemon is killed.
const LIVES: u64 = 40;
const ROWS_PER_LIFE: u64 = 30;

/// An API of which some calls fail in each way that there is.
async fn faulty() -> Sandbox {
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
    sandbox(options).await
}

/// The binary on this queue, with short delays and five attempts.
fn daemon<E: Engine>(engine: &E, dir: &tempfile::TempDir, sandbox: &Sandbox) -> Command {
    let mut command = configured(dir.path(), sandbox);
    command
        .env("SWEEPER__DATABASE__BUSY_TIMEOUT", "5s")
        .env("SWEEPER__RATE_LIMIT__REQUESTS_PER_SECOND", "300")
        .env("SWEEPER__RATE_LIMIT__BURST", "3")
        .env("SWEEPER__RETRY__MAX_ATTEMPTS", "5")
        .env("SWEEPER__RETRY__BASE_DELAY", "1ms")
        .env("SWEEPER__RETRY__MAX_DELAY", "20ms")
        .env("SWEEPER__HOLD__BASE_DELAY", "1ms")
        .env("SWEEPER__HOLD__MAX_DELAY", "10ms");
    engine.configure(&mut command);
    command
}

/// Starts the daemon, and kills it: while it starts, which takes some milliseconds, or in the middle of its work.
async fn live_and_die(mut command: Command, starting: bool, sandbox: &Sandbox, rng: &mut fastrand::Rng) {
    let arrived = sandbox.requests().len();
    let mut child: Child = command.arg("run").stdout(Stdio::null()).spawn().unwrap();
    if starting {
        tokio::time::sleep(Duration::from_micros(rng.u64(..30_000))).await;
    } else {
        sandbox.arrived(arrived + rng.usize(1..8)).await;
        for _ in 0..rng.usize(..2_000) {
            tokio::task::yield_now().await;
        }
    }
    child.kill().unwrap();
    blocking(move || child.wait().unwrap()).await;
}

#[expect(clippy::print_stdout, reason = "figures, for whoever asks with --nocapture")]
pub async fn a_daemon_that_is_killed_at_random_moments_accounts_for_every_row<E: Engine>() {
    // The seed fixes what the sandbox draws. Where the process is when it is killed, no seed can fix.
    let mut rng = fastrand::Rng::with_seed(20);
    let (dir, sandbox) = (tempfile::tempdir().unwrap(), faulty().await);
    let mut engine = E::create(Setup { busy_timeout: Duration::from_secs(5), in_memory: false }).await;
    engine.open().await.close().await.unwrap();
    let mut count = 0;
    for life in 0..LIVES {
        // Producers insert whether a daemon runs or not.
        let wish = |n| {
            let bad = if n == 7 && life % 8 == 0 { "no-number-" } else { "" };
            Wish::of(["a", "b", "c"][rng.usize(..3)], &format!("{bad}{}", life * 1_000 + n))
        };
        let wishes: Vec<Wish> = (0..ROWS_PER_LIFE).map(wish).collect();
        engine.enqueue(&wishes).await;
        count += wishes.len();
        live_and_die(daemon(&engine, &dir, &sandbox), life % 3 == 0, &sandbox, &mut rng).await;
        assert_eq!(engine.rows().await.len(), count, "life {life}");
    }
    let mut last = daemon(&engine, &dir, &sandbox);
    last.args(["run", "--until-empty"]);
    let (code, stdout, _) = finish(last).await;
    assert!(code == 0 || code == 4, "{stdout}");

    let rows = engine.rows().await;
    assert!(rows.len() == count && rows.iter().all(|row| !row.is(State::Pending)), "every row has reached an end");
    for Row { agent, entry, .. } in rows.iter().filter(|row| row.is(State::Deleted)) {
        assert!(sandbox.is_gone(agent, entry), "{agent} {entry} is deleted here, and not there");
    }
    assert!(rows.iter().all(|row| row.attempts <= 5));
    assert_eq!(engine.unanswered().await, []);
    let requests = engine.requests().await.into_iter();
    let orphans = requests.filter(|request| request.detail.as_deref() == Some("the daemon ended before the answer"));
    let orphans = orphans.count() as u64;
    assert!(orphans > LIVES / 3, "{orphans} orphans in {LIVES} lives");
    engine.assert_sound().await;
    println!("{LIVES} lives, {count} rows in, {orphans} orphans");
}

tests!($ killed:
    a_daemon_that_is_killed_at_random_moments_accounts_for_every_row,
);
