//! How close the adaptive rate comes to a limit that nobody told it, and how seldom it oversteps it.
//!
//! `cargo bench --bench pace`. In virtual time: the real pace and the real judge, against limits of gateways, and against limits as
//! an API may have them. Then, over real HTTP and in real time: whether the sent rate is what is configured.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on should stop where it is")]
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

#[path = "common/machine.rs"]
mod machine;

#[path = "../tests/it/pace/simulation.rs"]
mod simulation;

use std::{net::SocketAddr, time::Duration};

use audio_cache_sweeper::{
    api::{self, Api},
    model::{backoff::Backoff, clock::Clock, judge::Policy},
    pace::{Pace, RateLimit, Tuning},
    queue::sqlite::{Options, Producer, Store, Synchronous},
    sandbox::{self, Sandbox},
    worker::{LoggedRequests, Settings, Worker},
};
use simulation::{Kind, LOOPBACK, Limit, RECORDED, Run, Scene, Told, simulate};

/// How long each simulated run takes.
const LENGTH: Duration = Duration::from_secs(1_200);
/// From here on, goodput is counted.
const SETTLED: Duration = Duration::from_secs(20);
const SEEDS: u64 = 5;
const CONCURRENCY: usize = 16;
/// How long before its departure a request may be claimed, as in the daemon.
const LEAD: Duration = Duration::from_millis(20);

/// What came of a run.
#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    /// Requests that the API answered from [`SETTLED`] on, as a share of what its limit still allowed then.
    goodput: f64,
    /// Throttled answers among all.
    throttled: f64,
    /// Seconds until the rate was within a tenth of the limit.
    found: f64,
    /// Seconds until a minute's goodput was 90 % of the limit after it was doubled.
    used: f64,
    /// Seconds until five minutes began with 1 % of throttled answers at the most, after the limit was halved.
    calm: f64,
}

fn run(kind: Kind, rate: f64, told: Told, seed: u64) -> Outcome {
    let scene = Scene {
        kind,
        rate,
        told,
        terrain: RECORDED,
        ceiling: rate * 10.0,
        concurrency: CONCURRENCY,
        length: LENGTH,
        change: None,
        lead: Duration::ZERO,
        tuning: Tuning::DEFAULT,
    };
    let stays = simulate(scene, seed);
    let change = |factor| Scene { length: LENGTH * 2, change: Some((LENGTH, factor)), ..scene };
    let doubled = simulate(change(2.0), seed);
    let halved = simulate(change(0.5), seed);
    let (settled, whole) = (SETTLED.as_secs_f64(), LENGTH.as_secs_f64());
    Outcome {
        goodput: stays.delivered(settled, whole)
            / Limit::new(kind, rate).allowance(|from, to| stays.delivered(from, to), settled, whole),
        throttled: stays.share(0.0, whole),
        found: stays.found.map_or(f64::NAN, f64::round),
        used: first(whole, |at| doubled.delivered(at, at + 60.0) >= 0.9 * 2.0 * rate * 60.0),
        calm: first(whole, |at| at + 300.0 <= 2.0 * whole && halved.share(at, at + 300.0) <= 0.01),
    }
}

/// How many seconds after `from` it is so for the first time.
fn first(from: f64, is_so: impl Fn(f64) -> bool) -> f64 {
    (0..from as u64).map(|after| after as f64).find(|after| is_so(from + after)).unwrap_or(f64::NAN)
}

/// The name, requests per second, the kind, the most requests in flight, and until when it is looked at.
fn gateways() -> Vec<(String, f64, Kind, usize, f64)> {
    let spaced = |burst, is_delayed| Kind::Spaced { burst, is_delayed };
    // A place is free again when the answer is judged, which waits for a commit now and then.
    let of = |most: f64| most / (LOOPBACK.mean_latency() + 0.003);
    vec![
        ("nginx 10 r/s".to_owned(), 10.0, spaced(0, false), 8, 200.0),
        ("nginx 60 r/m".to_owned(), 1.0, spaced(0, false), 8, 600.0),
        ("nginx 10 r/s, burst 5 nodelay".to_owned(), 10.0, spaced(5, false), 8, 200.0),
        ("nginx 10 r/s, burst 20 nodelay".to_owned(), 10.0, spaced(20, false), 8, 200.0),
        ("nginx 10 r/s, burst 20".to_owned(), 10.0, spaced(20, true), 8, 200.0),
        ("HAProxy 100 in 10 s".to_owned(), 10.0, Kind::Sliding { length: 10.0 }, 8, 200.0),
        ("HAProxy 10 in 1 s".to_owned(), 10.0, Kind::Sliding { length: 1.0 }, 8, 200.0),
        ("HAProxy 600 in 60 s".to_owned(), 10.0, Kind::Sliding { length: 60.0 }, 8, 200.0),
        ("nginx limit_conn 4".to_owned(), of(4.0), Kind::Concurrent { most: 4 }, 16, 200.0),
        ("nginx limit_conn 2".to_owned(), of(2.0), Kind::Concurrent { most: 2 }, 16, 200.0),
    ]
}

/// Gateways that tell nothing.
fn show_gateways() {
    println!("\ngateways, a ceiling of 2, 10 and 50 times the limit; worst of {SEEDS} seeds; from second 60 on");
    println!(
        "{:>32}  {:>23}  {:>23}  {:>14}  {:>12}",
        "limit", "goodput, %", "throttled, %", "doubled, used", "halved, calm"
    );
    for (name, rate, kind, concurrency, until) in gateways() {
        let (mut goodput, mut throttled) = (Vec::new(), Vec::new());
        let (mut used, mut calm) = (0.0, 0.0);
        for times in [2.0, 10.0, 50.0] {
            let scene = Scene {
                kind,
                rate,
                told: Told::Nothing,
                terrain: LOOPBACK,
                ceiling: rate * times,
                concurrency,
                length: Duration::from_secs_f64(until),
                change: None,
                lead: LEAD,
                tuning: Tuning::DEFAULT,
            };
            let runs: Vec<Run> = (0..SEEDS).map(|seed| simulate(scene, seed)).collect();
            let good = |run: &Run| run.delivered(60.0, until) / (rate * (until - 60.0));
            goodput.push(format!("{:.1}", 100.0 * runs.iter().map(good).fold(f64::MAX, f64::min)));
            let bad = |run: &Run| run.share(60.0, until);
            throttled.push(format!("{:.2}", 100.0 * runs.iter().map(bad).fold(0.0, f64::max)));
            for seed in 0..SEEDS {
                let change = |factor| Scene {
                    length: Duration::from_secs(900),
                    change: Some((Duration::from_secs(300), factor)),
                    ceiling: rate * times.max(3.0),
                    ..scene
                };
                let doubled = simulate(change(2.0), seed);
                let halved = simulate(change(0.5), seed);
                used = last(used, first(300.0, |at| doubled.delivered(at, at + 60.0) >= 0.9 * 2.0 * rate * 60.0));
                calm = last(calm, first(300.0, |at| halved.share(at, at + 60.0) <= 0.01));
            }
        }
        println!(
            "{name:>32}  {:>23}  {:>23}  {:>14}  {:>12}",
            goodput.join(" / "),
            throttled.join(" / "),
            seconds(used),
            seconds(calm)
        );
    }
}

/// The later of two times; never, if one of them never came.
fn last(one: f64, other: f64) -> f64 {
    if one.is_nan() || one > other { one } else { other }
}

fn seconds(seconds: f64) -> String {
    if seconds.is_nan() { "never".to_owned() } else { format!("{seconds} s") }
}

/// The name, requests per second, the kind for a seed, and what is told.
type Row = (String, f64, fn(f64) -> Kind, Told);

fn rows() -> Vec<Row> {
    let rates = [2.0, 10.0, 50.0];
    let bucket = |rate: f64, told| -> Row { (format!("{rate}/s, token bucket"), rate, |_| Kind::Bucket, told) };
    let window = |rate: f64, length: f64, kind, told| -> Row {
        (format!("{} in each {length} s", rate * length), rate, kind, told)
    };
    let minute = |seed: f64| Kind::Window { length: 60.0, offset: seed * 13.0 };
    let either = [Told::Nothing, Told::Exactly];
    let mut rows = Vec::new();
    rows.extend(rates.iter().flat_map(|rate| either.map(|told| bucket(*rate, told))));
    rows.extend(rates.iter().flat_map(|rate| either.map(|told| window(*rate, 60.0, minute, told))));
    rows.extend(rates.iter().flat_map(|rate| [3, 10].map(|told| bucket(*rate, Told::Always(told)))));
    rows.extend(either.map(|told| window(10.0, 10.0, |seed| Kind::Window { length: 10.0, offset: seed * 13.0 }, told)));
    rows.extend(either.map(|told| window(10.0, 20.0, |seed| Kind::Window { length: 20.0, offset: seed * 13.0 }, told)));
    rows.extend(either.map(|told| -> Row {
        ("4 at a time".to_owned(), 4.0 / RECORDED.mean_latency(), |_| Kind::Concurrent { most: 4 }, told)
    }));
    rows
}

fn main() {
    println!("machine: {}", machine::machine());
    show_gateways();
    println!(
        "virtual time, a ceiling of ten times the limit, {SEEDS} seeds, the worst of them; goodput from {} s to {} s",
        SETTLED.as_secs(),
        LENGTH.as_secs()
    );
    println!(
        "{:>24}  {:>11}  {:>8}  {:>9}  {:>8}  {:>14}  {:>12}",
        "limit", "Retry-After", "goodput", "throttled", "found", "doubled, used", "halved, calm"
    );
    for (name, rate, kind, told) in rows() {
        let runs: Vec<Outcome> = (0..SEEDS).map(|seed| run(kind(seed as f64), rate, told, seed)).collect();
        let worst = |of: fn(&Outcome) -> f64, worse: fn(f64, f64) -> f64| runs.iter().map(of).reduce(worse).unwrap();
        println!(
            "{name:>24}  {:>11}  {:>6.1} %  {:>7.2} %  {:>8}  {:>14}  {:>12}",
            match told {
                Told::Nothing => "no".to_owned(),
                Told::Exactly => "yes".to_owned(),
                Told::Always(seconds) => format!("{seconds} s"),
            },
            100.0 * worst(|run| run.goodput, f64::min),
            100.0 * worst(|run| run.throttled, f64::max),
            seconds(worst(|run| run.found, last)),
            seconds(worst(|run| run.used, last)),
            seconds(worst(|run| run.calm, last)),
        );
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    println!(
        "\nreal time, real HTTP: what is sent in ten seconds, as a share of what is configured (without the burst)"
    );
    for rate in [5.0, 50.0, 500.0] {
        println!("{rate:>24}/s  {:>6.2} %", 100.0 * runtime.block_on(sent(rate)));
    }
}

/// The real worker against a sandbox for ten seconds, with as much work as it can do.
async fn sent(requests_per_second: f64) -> f64 {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        path: dir.path().join("queue.db"),
        busy_timeout: Duration::from_secs(5),
        synchronous: Synchronous::Full,
    };
    let sandbox = sandbox::Options { latency: Duration::from_millis(20), ..sandbox::Options::default() };
    let sandbox = Sandbox::start(SocketAddr::from(([127, 0, 0, 1], 0)), sandbox).await.unwrap();
    let api = Api::new(api::Options {
        base_url: sandbox.url().parse().unwrap(),
        key: "k".into(),
        proxy: None,
        ca_file: None,
        connect_timeout: Duration::from_secs(5),
        request_timeout: Duration::from_secs(30),
    })
    .unwrap();
    let growth = Backoff::new(Duration::from_secs(1), Duration::from_secs(600)).unwrap();
    let settings = Settings {
        batch_size: 1,
        concurrency: 64,
        linger: Duration::ZERO,
        policy: Policy {
            max_attempts: 8,
            retry: growth,
            min_retry_after: growth.base(),
            max_retry_after: Duration::from_secs(3_600),
            ask_singly: true,
        },
        after_faults: 3,
        longest_hold: Duration::from_secs(600),
        poll_interval: Duration::from_millis(100),
        retention: Duration::from_secs(86_400),
        evidence_retention: Duration::ZERO,
        grace: Duration::from_secs(1),
        request_timeout: Duration::from_secs(30),
        logged_requests: LoggedRequests::All,
    };
    let store = Store::open(options.clone()).await.unwrap();
    let rows: Vec<String> = (0..(requests_per_second * 12.0) as u32).map(|id| id.to_string()).collect();
    let mut producer = Producer::open(&options).await.unwrap();
    producer.insert(rows.iter().map(|id| ("a", id.as_str(), 0))).await.unwrap();
    let clock = Clock::system();
    let burst = 5.try_into().unwrap();
    let pace = Pace::new(RateLimit { requests_per_second, burst }, growth).adaptive(64, clock.elapsed());
    let mut worker = Worker::new(store, api, pace, settings, clock, fastrand::Rng::with_seed(1)).await.unwrap();
    let until = audio_cache_sweeper::worker::Until::Told;
    worker.run(tokio::time::sleep(Duration::from_secs(10)), until).await.unwrap();
    (worker.totals().requests as f64 - 5.0) / (requests_per_second * 10.0)
}
