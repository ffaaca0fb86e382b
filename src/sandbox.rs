//! A stand-in for the API on loopback, with faults to order: the demo's, the tests' and the benchmarks'.
//!
//! It keeps a set of entries per agent and really deletes from it, so that what the daemon believes can be compared
//! with what is gone. What the bulk delete does with an ID that does not exist is not documented; here it is `failed`.

mod faults;
mod listing;
mod mood;
mod replies;
mod swap;
mod treat;

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
    http::HeaderMap,
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

pub use faults::{Missing, Outage, Poison};
pub use mood::Mood;

use swap::Swap;

/// How the sandbox behaves.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The key that is right; `None`: any.
    pub key: Option<String>,
    /// How long each answer takes.
    pub latency: Duration,
    /// The agents there are, each with its entries `1` to so many. None at all: every agent has every entry.
    pub agents: Vec<(String, u64)>,
    /// Agents that the key may not touch: 403.
    pub forbidden: Vec<String>,
    /// Which share of IDs is answered as `failed`, or with `"success": false`, drawn anew each time.
    pub fail_ratio: f64,
    /// IDs that are always answered so.
    pub failing: Vec<String>,
    /// Whether an ID that is not a number makes the request a 400.
    pub numeric_ids: bool,
    /// IDs that spoil their requests, and how such requests are answered.
    pub poison: Vec<(String, Poison)>,
    /// What everything is answered with, until [`Sandbox::set_outage`] says otherwise.
    pub outage: Option<Outage>,
    /// How a single DELETE of an entry is answered that is not there.
    pub single_404: Missing,
    /// Whether every single DELETE is answered with 405.
    pub refuse_singles: bool,
    /// Which share of answers waits a moment for the next answer, and is exchanged with it: status, headers and body.
    pub swap_ratio: f64,
    /// Which share of requests is answered with 500.
    pub error_ratio: f64,
    /// Which share of connections is cut; in half of the cases after the deletion was done.
    pub reset_ratio: f64,
    /// Which share of requests is done and then answered with something that is not JSON.
    pub garbage_ratio: f64,
    /// Requests per second above which it answers 429; a second's worth may come at once.
    pub rate_limit: Option<NonZeroU32>,
    /// What a 429 says in `Retry-After`.
    pub retry_after: Option<String>,
    /// Where its chances come from.
    pub seed: u64,
    /// Whether requests are kept for [`Sandbox::requests`].
    pub record: bool,
}

/// A request as it came in.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// `POST`, say.
    pub method: String,
    /// Path and query, not decoded.
    pub uri: String,
    /// All headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// What was answered; 0 if nothing was.
    pub status: u16,
}

#[derive(Debug)]
enum Entries {
    /// These.
    Listed(HashSet<String>),
    /// All but these.
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
    /// By agent.
    outages: HashMap<String, Outage>,
}

#[derive(Debug)]
struct Shared {
    options: Options,
    limiter: Option<DefaultDirectRateLimiter>,
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

/// A running sandbox; it ends when it is dropped.
#[derive(Debug)]
pub struct Sandbox {
    address: SocketAddr,
    shared: Arc<Shared>,
    _serving: JoinSet<()>,
}

impl Sandbox {
    /// Starts to answer on `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// If the address cannot be had.
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
        let shared = Arc::new(Shared {
            options,
            limiter,
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

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Treats the next requests so, one mood each; after that, as the options say.
    pub fn script(&self, moods: impl IntoIterator<Item = Mood>) {
        self.shared.world().script.extend(moods);
    }

    /// Answers everything so from now on, to whatever agent; `None`: as the options say otherwise.
    pub fn set_outage(&self, outage: Option<Outage>) {
        self.shared.world().outage = outage;
    }

    /// Answers everything about one agent so from now on, unless there is an outage of everything.
    pub fn set_agent_outage(&self, agent: &str, outage: Option<Outage>) {
        let mut world = self.shared.world();
        match outage {
            Some(outage) => world.outages.insert(agent.to_owned(), outage),
            None => world.outages.remove(agent),
        };
    }

    /// How many connections have been made so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Lets everything go on that waits in [`Mood::Gate`], now and from now on.
    pub fn open_gate(&self) {
        self.shared.gate.add_permits(1);
    }

    /// Waits until so many requests have come in since the start.
    pub async fn arrived(&self, count: usize) {
        // The sender is here, so the channel is open.
        let _ = self.shared.arrived.subscribe().wait_for(|arrived| *arrived >= count).await;
    }

    /// The requests so far, if they are recorded.
    #[must_use]
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.world().requests.clone()
    }

    /// Whether this entry is gone.
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
            // Out of file handles, most likely: those of others come free.
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
            // A connection that ends early is the client's business, or was ordered.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
