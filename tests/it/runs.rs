//! Runs of the binary one after another keep the rate together.

use std::time::Duration;

use audio_cache_sweeper::{model::clock::Clock, sandbox::Options};

use crate::daemon::{configured, finish, sandbox, sql, sweeper};

#[tokio::test]
async fn six_runs_until_empty_together_take_the_time_that_the_rate_demands() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    let mut init = sweeper(dir.path());
    init.arg("init");
    assert_eq!(finish(init).await.0, 0);
    let clock = Clock::system();
    for run in 0..6 {
        let values: Vec<String> = (0..5).map(|row| format!("('a', '{run}{row}')")).collect();
        sql(dir.path(), &format!("INSERT INTO deletions (agent_id, entry_id) VALUES {}", values.join(","))).await;
        let mut command = configured(dir.path(), &sandbox);
        command
            .args(["run", "--until-empty"])
            .env("SWEEPER__RATE_LIMIT__REQUESTS_PER_SECOND", "10")
            .env("SWEEPER__RATE_LIMIT__BURST", "5")
            .env("SWEEPER__DELIVERY__BATCH_SIZE", "1");
        let (code, said, complained) = finish(command).await;
        assert_eq!(code, 0, "{said}{complained}");
    }
    // All requests left between the start of the clock and now.
    let (took, requests) = (clock.elapsed(), sandbox.requests().len());
    assert_eq!(requests, 30);
    assert!(took >= Duration::from_millis(2_500), "{took:?}");
}
