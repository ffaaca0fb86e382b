//! The sandbox: a stand-in for the API with faults to order, for the demo, the tests and the benchmarks.
//!
//! The sandbox really deletes from a set of entries for each agent, so that a test can compare the daemon's verdicts with the
//! entries that are gone. The API's documentation does not say what a bulk delete does with an unknown ID; here the ID is in
//! `failed`.

mod faults;
mod listing;
mod mood;
mod replies;
mod swap;
mod treat;
mod windows;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    convert::Infallible,
    io,
    net::SocketAddr,
    num::NonZeroU32,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderName, HeaderValue},
    response::Response,
};
use governor::{DefaultDirectRateLimiter, Quota};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    task::JoinSet,
    time::sleep,
};
use tower::ServiceExt as _;

pub use faults::{Missing, Outage, Permission, Poison};
pub use mood::Mood;
pub use windows::{Limit, RateHeaders};

use swap::Swap;
use windows::Windows;

/// How the sandbox behaves.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The valid key; with `None`, any key is valid.
    pub key: Option<String>,
    /// The time before each answer.
    pub latency: Duration,
    /// The agents, each with its number of entries, whose IDs count from `1`. If empty, every agent has every entry.
    pub agents: Vec<(String, u64)>,
    /// What the key may do with every agent. Other requests are answered with 403.
    pub permission: Permission,
    /// The agents that the key has no permission for: they answer 403.
    pub forbidden: Vec<String>,
    /// The share of IDs that fail, drawn for each request: they are in `failed`, or get `"success": false`.
    pub fail_ratio: f64,
    /// The IDs that always fail in this way.
    pub failing: Vec<String>,
    /// The IDs that are answered as deleted, and stay.
    pub keeping: Vec<String>,
    /// Whether a list is in the order of the hits, whatever order is asked for.
    pub ignore_sort: bool,
    /// Whether a request with an ID that is not a number is answered with 400.
    pub numeric_ids: bool,
    /// The IDs that spoil every request with them, and the answers to such requests.
    pub poison: Vec<(String, Poison)>,
    /// The outage at the start, until [`Sandbox::set_outage`] changes it.
    pub outage: Option<Outage>,
    /// The answer to a single-entry DELETE of an entry that does not exist.
    pub single_404: Missing,
    /// Whether every single-entry DELETE is answered with 405.
    pub refuse_singles: bool,
    /// The share of answers that wait for the next answer and are exchanged with it: status, headers and body.
    pub swap_ratio: f64,
    /// The share of requests that are answered with 500.
    pub error_ratio: f64,
    /// The share of requests whose connection is cut, half of them after the deletion.
    pub reset_ratio: f64,
    /// The share of requests that delete and are then answered with something other than JSON.
    pub garbage_ratio: f64,
    /// The rate limit in requests per second, above which requests are answered with 429. One second's worth may come at once.
    pub rate_limit: Option<NonZeroU32>,
    /// The limits in fixed windows, above which requests are answered with 429.
    pub limits: Vec<Limit>,
    /// The headers in which each answer tells [`Self::limits`].
    pub rate_headers: Option<RateHeaders>,
    /// Headers that each answer has.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The `Retry-After` of a 429.
    pub retry_after: Option<String>,
    /// The seed of all random choices.
    pub seed: u64,
    /// Whether requests are recorded for [`Sandbox::requests`].
    pub record: bool,
}

/// A request as the sandbox received it.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The method, such as `POST`.
    pub method: String,
    /// The path and the query, not decoded.
    pub uri: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// The status of the answer; 0 if there was none.
    pub status: u16,
}

#[derive(Debug)]
enum Entries {
    /// These entries exist.
    Listed(HashSet<String>),
    /// All entries but these exist.
    AllBut(HashSet<String>),
}

impl Entries {
    fn has(&self, id: &str) -> bool {
        match self {
            Self::Listed(entries) => entries.contains(id),
            Self::AllBut(gone) => !gone.contains(id),
        }
    }

    fn delete(&mut self, id: &str) -> bool {
        match self {
            Self::Listed(entries) => entries.remove(id),
            Self::AllBut(gone) => gone.insert(id.to_owned()),
        }
    }
}

#[derive(Debug)]
struct World {
    entries: HashMap<String, Entries>,
    script: VecDeque<Mood>,
    requests: Vec<Recorded>,
    rng: fastrand::Rng,
    outage: Option<Outage>,
    /// The outages of single agents.
    outages: HashMap<String, Outage>,
}

#[derive(Debug)]
struct Shared {
    options: Options,
    limiter: Option<DefaultDirectRateLimiter>,
    windows: Windows,
    world: Mutex<World>,
    gate: Semaphore,
    arrived: watch::Sender<usize>,
    connections: AtomicUsize,
    swap: Swap,
}

impl Shared {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running sandbox. It ends when it is dropped.
#[derive(Debug)]
pub struct Sandbox {
    address: SocketAddr,
    shared: Arc<Shared>,
    _serving: JoinSet<()>,
}

impl Sandbox {
    /// Starts a sandbox on `address`. Port 0 takes a free port.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub async fn start(address: SocketAddr, options: Options) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let entries = options
            .agents
            .iter()
            .map(|(agent, count)| (agent.clone(), Entries::Listed((1..=*count).map(|id| id.to_string()).collect())))
            .collect();
        let world = World {
            entries,
            script: VecDeque::new(),
            requests: Vec::new(),
            rng: fastrand::Rng::with_seed(options.seed),
            outage: options.outage,
            outages: HashMap::new(),
        };
        let limiter = options.rate_limit.map(|rate| DefaultDirectRateLimiter::direct(Quota::per_second(rate)));
        let windows = Windows::new(options.limits.clone(), options.rate_headers);
        let shared = Arc::new(Shared {
            options,
            limiter,
            windows,
            world: Mutex::new(world),
            gate: Semaphore::new(0),
            arrived: watch::Sender::new(0),
            connections: AtomicUsize::new(0),
            swap: Swap::default(),
        });
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, _serving: serving })
    }

    /// The base URL, such as `http://127.0.0.1:8080`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sets the moods of the next requests, one for each. After that, the options decide again.
    pub fn script(&self, moods: impl IntoIterator<Item = Mood>) {
        self.shared.world().script.extend(moods);
    }

    /// Starts an outage of all agents; `None` ends it.
    pub fn set_outage(&self, outage: Option<Outage>) {
        self.shared.world().outage = outage;
    }

    /// Starts an outage of one agent; `None` ends it. An outage of all agents takes precedence.
    pub fn set_agent_outage(&self, agent: &str, outage: Option<Outage>) {
        let mut world = self.shared.world();
        match outage {
            Some(outage) => world.outages.insert(agent.to_owned(), outage),
            None => world.outages.remove(agent),
        };
    }

    /// The number of connections so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Opens the gate for every request with [`Mood::Gate`], now and later.
    pub fn open_gate(&self) {
        self.shared.gate.add_permits(1);
    }

    /// Waits until `count` requests have arrived since the start.
    pub async fn arrived(&self, count: usize) {
        // The channel is open, because `self` has the sender.
        let _ = self.shared.arrived.subscribe().wait_for(|arrived| *arrived >= count).await;
    }

    /// The recorded requests so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.world().requests.clone()
    }

    /// Whether this entry does not exist, or no longer does. False for an agent that the sandbox has not seen yet.
    #[must_use]
    pub fn is_gone(&self, agent: &str, entry: &str) -> bool {
        self.shared.world().entries.get(agent).is_some_and(|entries| !entries.has(entry))
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let router = treat::router(Arc::clone(&shared));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else {
            // The process is probably out of file handles. Some will be free soon.
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        shared.connections.fetch_add(1, Ordering::Relaxed);
        let router = router.clone();
        connections.spawn(async move {
            let service = service_fn(move |request: hyper::Request<Incoming>| {
                let router = router.clone();
                async move {
                    let response: Result<Response, Infallible> = router.oneshot(request.map(Body::new)).await;
                    match response {
                        Ok(response) if replies::is_cut(&response) => Err("cut as ordered"),
                        Ok(response) => Ok(response),
                        Err(never) => match never {},
                    }
                }
            });
            // A connection that ends early was ended by the client, or was cut as ordered.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
