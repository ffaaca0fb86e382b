//! A test bed: an engine's queue, a sandbox on loopback, and a worker whose clock stands still.

use std::{
    net::SocketAddr,
    ops::{Deref, DerefMut},
    time::Duration,
};

use audio_cache_sweeper::{
    api::{self, Api, key::KeySource},
    model::{
        backoff::Backoff,
        clock::{Clock, Timestamp},
        judge::Policy,
    },
    pace::{Pace, RateLimit},
    sandbox::{self, Mood, Recorded, Sandbox},
    worker::{LoggedRequests, Settings, Turn, Worker},
};

use super::engine::{Engine, Setup, Wish};

/// Long after any `created_at` that a database gives a row: every row has lingered.
pub const START: Timestamp = Timestamp(4_000_000_000_000);

pub const KEY: &str = "s3cret-key";

/// What a test may change. The default rate is far above what any test sends.
#[derive(Clone, Debug)]
pub struct Plan {
    pub sandbox: sandbox::Options,
    pub settings: Settings,
    pub rate: RateLimit,
    pub adaptive: bool,
    pub growth: Backoff,
    pub base_url: Option<String>,
    pub key: KeySource,
    pub request_timeout: Duration,
    pub busy_timeout: Duration,
}

impl Default for Plan {
    fn default() -> Self {
        let policy = Policy {
            max_attempts: 3,
            ask_singly: true,
            retry: Backoff::new(Duration::from_secs(10), Duration::from_secs(60)).unwrap(),
            min_retry_after: Duration::from_secs(5),
            max_retry_after: Duration::from_secs(3_600),
        };
        Self {
            sandbox: sandbox::Options {
                key: Some(KEY.to_owned()),
                record: true,
                seed: 7,
                ..sandbox::Options::default()
            },
            settings: Settings {
                batch_size: 20,
                concurrency: 8,
                linger: Duration::from_secs(1),
                policy,
                after_faults: 3,
                longest_hold: Duration::from_secs(600),
                poll_interval: Duration::from_millis(100),
                retention: Duration::from_secs(86_400),
                evidence_retention: Duration::ZERO,
                grace: Duration::from_secs(5),
                // A daemon that takes over waits for that long.
                request_timeout: Duration::ZERO,
                logged_requests: LoggedRequests::All,
            },
            rate: RateLimit { requests_per_second: 10_000.0, burst: 10_000.try_into().unwrap() },
            adaptive: false,
            growth: Backoff::new(Duration::from_secs(5), Duration::from_secs(600)).unwrap(),
            base_url: None,
            key: KEY.into(),
            request_timeout: Duration::from_secs(30),
            busy_timeout: Duration::from_secs(5),
        }
    }
}

/// A test acts on the queue, and looks at it, through its bed: `bed.place(…)`, `bed.rows()`.
#[derive(Debug)]
pub struct Bed<E: Engine> {
    // Above the engine, because fields are dropped in order: the worker must let go of the queue first.
    pub worker: Worker<E::Queue>,
    pub engine: E,
    pub sandbox: Sandbox,
    pub clock: Clock,
    pub plan: Plan,
}

impl<E: Engine> Deref for Bed<E> {
    type Target = E;

    fn deref(&self) -> &E {
        &self.engine
    }
}

impl<E: Engine> DerefMut for Bed<E> {
    fn deref_mut(&mut self) -> &mut E {
        &mut self.engine
    }
}

/// Lets the time pass in which a limiter that began empty fills up, if that is so short that no test is about it.
fn refill<E: Engine>(plan: &Plan, clock: &Clock) {
    let fills_in = Duration::from_secs_f64(f64::from(plan.rate.burst.get()) / plan.rate.requests_per_second);
    if E::takes_over() && fills_in <= Duration::from_secs(1) {
        clock.advance(fills_in);
    }
}

impl<E: Engine> Bed<E> {
    /// A bed on a new queue.
    pub async fn new(plan: Plan) -> Self {
        let setup = Setup { busy_timeout: plan.busy_timeout, in_memory: false };
        Self::on(E::create(setup).await, plan).await
    }

    /// A bed on this queue.
    pub async fn on(engine: E, plan: Plan) -> Self {
        crate::logs::subscribe();
        let sandbox = Sandbox::start(SocketAddr::from(([127, 0, 0, 1], 0)), plan.sandbox.clone()).await.unwrap();
        let clock = Clock::manual(START);
        let worker = worker(&engine, &plan, &sandbox, &clock).await;
        Self { worker, engine, sandbox, clock, plan }
    }

    /// A turn, after somebody has changed rows or holds by hand. Where that is learnt at the commit, which then makes no claims, the turn
    /// after it makes them. Returns how many requests were sent.
    pub async fn sent_by_a_turn(&mut self) -> usize {
        let sent = self.worker.turn().await.unwrap().sent;
        if sent == 0 && E::learns_late() { self.worker.turn().await.unwrap().sent } else { sent }
    }

    /// The daemon dies, and another one starts on the same queue.
    pub async fn restart(self) -> Self {
        let Self { worker: old, engine, sandbox, clock, plan } = self;
        drop(old);
        let worker = worker(&engine, &plan, &sandbox, &clock).await;
        refill::<E>(&plan, &clock);
        Self { worker, engine, sandbox, clock, plan }
    }

    /// The daemon dies, the next one dies after `polls` polls of its start, and a third one starts. True if the second one had
    /// finished its start.
    pub async fn restart_cut_short(self, polls: usize) -> (Self, bool) {
        let Self { worker: old, engine, sandbox, clock, plan } = self;
        drop(old);
        let whole = super::crash::cut_short(worker(&engine, &plan, &sandbox, &clock), polls).await.is_some();
        let worker = worker(&engine, &plan, &sandbox, &clock).await;
        (Self { worker, engine, sandbox, clock, plan }, whole)
    }

    /// A producer inserts rows of these agents and entries.
    pub async fn insert(&mut self, rows: &[(&str, &str)]) {
        let wishes: Vec<Wish> = rows.iter().map(|(agent, entry)| Wish::of(agent, entry)).collect();
        self.engine.enqueue(&wishes).await;
    }

    /// `count` entries of `agent`, numbered from 1.
    pub async fn insert_many(&mut self, agent: &str, count: usize) {
        let wishes: Vec<Wish> = (1..=count).map(|id| Wish::of(agent, &id.to_string())).collect();
        self.engine.enqueue(&wishes).await;
    }

    /// Takes turns until nothing is in flight and a turn does nothing. The clock stands still.
    pub async fn work(&mut self) {
        loop {
            let Turn { settled, sent, in_flight, wait } = self.worker.turn().await.unwrap();
            if in_flight > 0 {
                self.worker.wait_for_a_call().await;
            } else if settled + sent == 0 && wait != Some(Duration::ZERO) {
                break;
            }
        }
    }

    /// Lets this many tenths of a second pass: how many requests had been sent by each of them.
    pub async fn sent_by_tenths(&mut self, tenths: usize) -> Vec<usize> {
        let mut sent = Vec::new();
        for _ in 0..tenths {
            self.work().await;
            sent.push(self.sizes().len());
            self.clock.advance(Duration::from_millis(100));
        }
        sent
    }

    /// The IDs of each request so far.
    pub fn sent(&self) -> Vec<Vec<String>> {
        self.sandbox.requests().iter().map(ids).collect()
    }

    /// How many IDs each request so far had.
    pub fn sizes(&self) -> Vec<usize> {
        self.sent().iter().map(Vec::len).collect()
    }

    /// The agent of each request so far.
    pub fn agents(&self) -> Vec<String> {
        self.sandbox.requests().iter().map(|request| request.uri.split('/').nth(3).unwrap().to_owned()).collect()
    }
}

async fn worker<E: Engine>(engine: &E, plan: &Plan, sandbox: &Sandbox, clock: &Clock) -> Worker<E::Queue> {
    let base_url = plan.base_url.clone().unwrap_or_else(|| sandbox.url());
    let api = Api::new(api::Options {
        base_url: base_url.parse().unwrap(),
        key: plan.key.clone(),
        proxy: None,
        ca_file: None,
        connect_timeout: Duration::from_secs(5),
        request_timeout: plan.request_timeout,
    })
    .unwrap();
    let pace = Pace::new(plan.rate, plan.growth);
    let pace = if plan.adaptive { pace.adaptive(plan.settings.concurrency, clock.elapsed()) } else { pace };
    let queue = engine.open().await;
    Worker::new(queue, api, pace, plan.settings, clock.clone(), fastrand::Rng::with_seed(7)).await.unwrap()
}

/// The IDs in a request: in its body, or at the end of its path.
pub fn ids(request: &Recorded) -> Vec<String> {
    if request.method == "DELETE" {
        return request.uri.rsplit('/').take(1).map(str::to_owned).collect();
    }
    let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
    body["ids"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
}

/// A [`Mood`] that answers 200 with these lists.
pub fn listing(deleted: &[&str], failed: &[&str]) -> Mood {
    let body = serde_json::json!({ "deleted": deleted, "failed": failed }).to_string();
    Mood::Say { status: 200, headers: Vec::new(), body }
}

/// A [`Mood`] that answers with a status and one header.
pub fn status_with(status: u16, name: &'static str, value: &str) -> Mood {
    Mood::Say { status, headers: vec![(name, value.to_owned())], body: String::new() }
}
