//! The real worker inside of the benchmark's process, limiter out of the way.

use std::time::Duration;

use audio_cache_sweeper::{
    api::{self, Api},
    model::{backoff::Backoff, clock::Clock, judge::Policy},
    pace::{Pace, RateLimit},
    queue::sqlite::Store,
    worker::{LoggedRequests, Settings, Worker},
};

/// A client of the API at `url`.
pub fn api(url: &str) -> Api {
    Api::new(api::Options {
        base_url: url.parse().unwrap(),
        key: "k".into(),
        proxy: None,
        ca_file: None,
        connect_timeout: Duration::from_secs(5),
        request_timeout: Duration::from_secs(30),
    })
    .unwrap()
}

/// A worker on `store`.
pub async fn worker(store: Store, url: &str, concurrency: usize) -> Worker<Store> {
    let growth = Backoff::new(Duration::from_secs(5), Duration::from_secs(600)).unwrap();
    let rate = RateLimit { requests_per_second: 100_000.0, burst: 100_000.try_into().unwrap() };
    let settings = Settings {
        batch_size: 20,
        concurrency,
        linger: Duration::ZERO,
        policy: Policy {
            max_attempts: 8,
            ask_singly: true,
            retry: growth,
            min_retry_after: Duration::from_secs(5),
            max_retry_after: Duration::from_secs(3_600),
        },
        after_faults: 3,
        longest_hold: Duration::from_secs(600),
        poll_interval: Duration::from_millis(100),
        retention: Duration::from_secs(86_400),
        evidence_retention: Duration::ZERO,
        grace: Duration::from_secs(8),
        request_timeout: Duration::from_secs(30),
        logged_requests: LoggedRequests::All,
    };
    let pace = Pace::new(rate, growth);
    Worker::new(store, api(url), pace, settings, Clock::system(), fastrand::Rng::with_seed(1)).await.unwrap()
}
