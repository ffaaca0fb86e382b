//! How close the adaptive rate comes to a limit that nobody told it, and how seldom it oversteps it.
//!
//! `cargo bench --bench pace`. In virtual time: the real pace and the real judge, against limits as an API may have them.
//! Then, over real HTTP and in real time: whether the sent rate is what is configured.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on should stop where it is")]
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

#[path = "common/machine.rs"]
mod machine;

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
    net::SocketAddr,
    time::Duration,
};

use audio_cache_sweeper::{
    api::{self, Api},
    model::{
        backoff::Backoff,
        clock::{Clock, Timestamp},
        deletion::{AgentId, Batch, Deletion, DeletionId, EntryId, Lane, RequestId},
        judge::{Heard, Policy, Sent, Standing, judge},
        outcome::{Answer, Fault, RetryAfter},
    },
    pace::{self, Admission, Pace, RateLimit},
    queue::sqlite::{Options, Producer, Store, Synchronous},
    sandbox::{self, Sandbox},
    worker::{LoggedRequests, Settings, Worker},
};

/// How long each simulated run takes.
const LENGTH: Duration = Duration::from_secs(1_200);
/// From here on, goodput is counted.
const SETTLED: Duration = Duration::from_secs(20);
const SEEDS: u64 = 5;
const CONCURRENCY: usize = 16;

/// How the API counts.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// So many a second, and a second's worth at once.
    Bucket,
    /// So many in each so many seconds, all at once if need be; they begin at any time.
    Window { length: f64, offset: f64 },
    /// So many at the same time, however many a second.
    Concurrent { most: u32 },
}

/// What a throttled answer says about when to come back.
#[derive(Clone, Copy, Debug)]
enum Told {
    Nothing,
    /// When it is right.
    Exactly,
    /// So many seconds, whatever is right.
    Always(u64),
}

/// What an answer takes: as sibling routes were recorded, 60 ms, and sometimes much more.
const LATENCY: (f64, f64) = (0.05, 0.03);
const SLOW_LATENCY: (f64, u8) = (0.25, 20);
/// On average.
const MEAN_LATENCY: f64 = LATENCY.0 + LATENCY.1 / 2.0 + SLOW_LATENCY.0 / SLOW_LATENCY.1 as f64;

#[derive(Clone, Debug)]
struct Limit {
    kind: Kind,
    /// Requests per second.
    rate: f64,
    left: f64,
    at: f64,
    in_flight: u32,
}

impl Limit {
    fn new(kind: Kind, rate: f64) -> Self {
        Self { kind, rate, left: rate, at: f64::NEG_INFINITY, in_flight: 0 }
    }

    fn window(now: f64, length: f64, offset: f64) -> f64 {
        ((now + offset) / length).floor()
    }

    fn change(&mut self, from: f64, factor: f64) {
        if self.rate == from {
            self.rate *= factor;
            if let Kind::Concurrent { most } = &mut self.kind {
                *most = (f64::from(*most) * factor) as u32;
            }
        }
    }

    /// Whether a request that arrives now is taken up; what counts over time is counted when it is answered.
    fn takes_up(&mut self) -> bool {
        let Kind::Concurrent { most } = self.kind else { return true };
        let takes_up = self.in_flight < most;
        self.in_flight += u32::from(takes_up);
        takes_up
    }

    /// Whether what was taken up is done.
    fn allows(&mut self, now: f64) -> bool {
        match self.kind {
            Kind::Concurrent { .. } => {
                self.in_flight -= 1;
                return true;
            }
            Kind::Bucket => {
                let earned = if self.at.is_finite() { (now - self.at) * self.rate } else { self.rate };
                self.left = (self.left + earned).min(self.rate.max(1.0));
                self.at = now;
            }
            Kind::Window { length, offset } => {
                let window = Self::window(now, length, offset);
                if window > self.at {
                    self.left = (self.rate * length).round();
                    self.at = window;
                }
            }
        }
        let allowed = self.left >= 1.0;
        self.left -= f64::from(u8::from(allowed));
        allowed
    }

    /// How many requests it allows from [`SETTLED`] to [`LENGTH`], when so many were answered since the last window began.
    fn allowance(&self, answered: impl Fn(f64, f64) -> f64) -> f64 {
        let (from, to) = (SETTLED.as_secs_f64(), LENGTH.as_secs_f64());
        match self.kind {
            Kind::Bucket | Kind::Concurrent { .. } => self.rate * (to - from),
            Kind::Window { length, offset } => {
                let begun = Self::window(from, length, offset) * length - offset;
                self.rate * length - answered(begun, from) + self.rate * (to - begun - length)
            }
        }
    }

    fn retry_after(&self, now: f64) -> u64 {
        let wait = match self.kind {
            Kind::Bucket => (1.0 - self.left) / self.rate,
            Kind::Window { length, offset } => length - (now + offset) % length,
            Kind::Concurrent { .. } => 1.0,
        };
        wait.ceil().max(1.0) as u64
    }
}

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

/// When it is answered, the request's number, and whether the API took it up.
type Flight = Reverse<(Duration, i64, bool)>;

/// `changes`: by which factor the limit changes at [`LENGTH`], and it goes on as long again.
#[expect(clippy::too_many_lines, reason = "the state of one simulation, whose parts all change each other")]
fn simulate(kind: Kind, rate: f64, told: Told, changes: Option<f64>, seed: u64) -> Outcome {
    let mut rng = fastrand::Rng::with_seed(seed);
    let growth = Backoff::new(Duration::from_secs(1), Duration::from_secs(600)).unwrap();
    let policy = Policy {
        max_attempts: 8,
        retry: growth,
        min_retry_after: growth.base(),
        max_retry_after: Duration::from_secs(3_600),
        ask_singly: true,
    };
    let ceiling = RateLimit { requests_per_second: rate * 10.0, burst: 5.try_into().unwrap() };
    let mut pace = Pace::new(ceiling, growth).adaptive(CONCURRENCY, Duration::ZERO);
    let agent = AgentId::parse("a").unwrap();
    let row = Deletion::new(DeletionId(1), EntryId::parse("1").unwrap());
    let lane = Lane { priority: 0, agent: agent.clone(), batch_max: 20 };
    let batch = Batch::new(lane, vec![row]).unwrap();
    let mut limit = Limit::new(kind, rate);
    let (mut now, mut newest) = (Duration::ZERO, 0_i64);
    let mut flights: BinaryHeap<Flight> = BinaryHeap::new();
    let (mut answered, mut throttled, mut found) = (Vec::new(), Vec::new(), f64::NAN);
    let wall = |now: Duration| Timestamp(4_000_000_000_000).plus(now);
    let length = if changes.is_some() { LENGTH * 2 } else { LENGTH };
    while now < length {
        // Sends what may go.
        let mut next = Duration::MAX;
        while flights.len() < CONCURRENCY {
            match pace.holds.admit(&agent, wall(now)) {
                Admission::Free | Admission::Probe => {}
                Admission::Held(Some(until)) => {
                    next = now + until.since(wall(now)).max(Duration::from_millis(1));
                    break;
                }
                Admission::Probing | Admission::Held(None) => break,
            }
            if !pace.permits.take(now) {
                next = pace.permits.next().max(now + Duration::from_micros(1));
                break;
            }
            newest += 1;
            pace.permits.leave(now);
            pace.holds.sent(RequestId(newest), &agent, wall(now));
            let slow = if rng.u8(..SLOW_LATENCY.1) == 0 { SLOW_LATENCY.0 } else { 0.0 };
            let latency = Duration::from_secs_f64(LATENCY.0 + LATENCY.1 * rng.f64() + slow);
            flights.push(Reverse((now + latency, newest, limit.takes_up())));
        }
        // Then the next thing that happens.
        let answer = flights.peek().map_or(Duration::MAX, |Reverse((at, ..))| *at);
        now = answer.min(next);
        if now < answer {
            continue;
        }
        let Some(Reverse((_, request, taken_up))) = flights.pop() else { continue };
        if let Some(factor) = changes.filter(|_| now >= LENGTH) {
            limit.change(rate, factor);
        }
        let at = now.as_secs_f64();
        let result = if taken_up && limit.allows(at) {
            answered.push(at);
            Ok(Answer { deleted: vec!["1".to_owned()], failed: Vec::new() })
        } else {
            throttled.push(at);
            let retry_after = match told {
                Told::Nothing => None,
                Told::Exactly => Some(RetryAfter::Seconds(limit.retry_after(at))),
                Told::Always(seconds) => Some(RetryAfter::Seconds(seconds)),
            };
            Err(Fault::Status { status: 429, retry_after })
        };
        let sent = Sent { request: RequestId(request), batch: &batch, correlation_id: "" };
        let heard = Heard { result: &result, envelope: None };
        let judgement = judge(sent, heard, &Standing::default(), &policy, wall(now), &mut rng);
        if found.is_nan() && (0.9 * rate..1.1 * rate).contains(&pace.permits.rate()) {
            found = at.round();
        }
        let (request, newest) = (RequestId(request), RequestId(newest));
        pace.permits.learn(request, Some(result.is_err()), newest, now);
        let outcome = pace::Outcome {
            request,
            agent: agent.clone(),
            hold: judgement.hold,
            reached: None,
            has_settled: judgement.has_settled,
            asks_first: judgement.asks_first,
            newest,
        };
        pace.holds.answered(outcome, BTreeSet::new, wall(now), &mut rng);
    }
    let count_of =
        |times: &[f64], from: f64, to: f64| times.iter().filter(|at| (from..to).contains(*at)).count() as f64;
    let count = |from: f64, to: f64| count_of(&answered, from, to);
    // How long after the change.
    let first = |is_so: &dyn Fn(f64) -> bool| {
        let from = LENGTH.as_secs();
        let at = (from..2 * from).find(|at| is_so(*at as f64));
        at.map_or(f64::NAN, |at| (at - from) as f64)
    };
    let (settled, whole) = (SETTLED.as_secs_f64(), LENGTH.as_secs_f64());
    Outcome {
        goodput: count(settled, whole) / Limit::new(kind, rate).allowance(count),
        throttled: throttled.len() as f64 / (throttled.len() + answered.len()) as f64,
        found,
        used: first(&|at| count(at, at + 60.0) >= 0.9 * 2.0 * rate * 60.0),
        calm: first(&|at| {
            let throttled = count_of(&throttled, at, at + 300.0);
            at + 300.0 <= 2.0 * whole && throttled <= 0.01 * (throttled + count(at, at + 300.0))
        }),
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
    rows.extend(
        either.map(|told| -> Row {
            ("4 at a time".to_owned(), 4.0 / MEAN_LATENCY, |_| Kind::Concurrent { most: 4 }, told)
        }),
    );
    rows
}

fn main() {
    println!("machine: {}", machine::machine());
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
        let runs: Vec<Outcome> = (0..SEEDS)
            .map(|seed| {
                let run = |changes| simulate(kind(seed as f64), rate, told, changes, seed);
                Outcome { used: run(Some(2.0)).used, calm: run(Some(0.5)).calm, ..run(None) }
            })
            .collect();
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
        grace: Duration::from_secs(1),
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
