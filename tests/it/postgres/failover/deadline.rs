//! Waiting for something that must come, and telling how long that took.

use std::{
    env,
    io::{self, Write as _},
    thread::sleep,
    time::Duration,
};

use audio_cache_sweeper::model::clock::Clock;

/// Asks again and again until there is an answer.
pub fn wait_until<T>(most: Duration, what: impl Fn() -> String, mut ask: impl FnMut() -> Option<T>) -> T {
    let clock = Clock::system();
    let by = clock.elapsed() + most;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(clock.elapsed() < by, "{} has not come within {most:?}", what());
        sleep(Duration::from_millis(5));
    }
}

/// The same on a runtime, which goes on meanwhile.
pub async fn until<T>(most: Duration, what: impl Fn() -> String, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let clock = Clock::system();
    let by = clock.elapsed() + most;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(clock.elapsed() < by, "{} has not come within {most:?}", what());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Tells something that a passing test would swallow.
pub fn say(what: &str) {
    let mut stderr = io::stderr();
    writeln!(stderr, "{what}").unwrap();
}

/// The same, for who asked for a long run.
pub fn tell(what: &str) {
    if env::var_os("FAILOVERS").is_some() {
        say(what);
    }
}
