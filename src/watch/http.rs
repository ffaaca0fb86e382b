//! Metrics, health and the page over HTTP: `/metrics`, `/livez`, `/readyz`, and the paths of [`page`].
//!
//! The endpoint has a thread of its own, so it can report a loop that hangs, and a scrape takes no time from the loop.

use std::{collections::VecDeque, convert::Infallible, io, net::SocketAddr, sync::Arc, thread, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime,
    sync::{Mutex, OwnedMutexGuard, oneshot},
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};
use tower::ServiceExt as _;
use tracing::warn;

use crate::{
    event,
    model::clock::Clock,
    queue::Counter,
    watch::{
        health::{Health, State as Life},
        metrics::{Exposition, Metrics},
        page::{self, Busy, Page, Peer, SAMPLE_INTERVAL},
    },
};

/// The most open connections. For one more, the oldest one that waits for its client is closed.
const MAX_CONNECTIONS: usize = 128;
/// The time before a connection may be closed for another one. Without it, a flood of connections would close each one before
/// its client can send the request.
const MIN_STAY: Duration = Duration::from_millis(100);
/// The time after which a connection may be closed that is still being answered, if all are: scrapes that wait for a count must not
/// keep a health check out.
const MAX_ANSWERING: Duration = Duration::from_secs(1);
/// How often to check for a connection that may be closed.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// The longest time from the first byte of a connection to its last.
const MAX_CONNECTION_TIME: Duration = Duration::from_secs(10);
/// The longest time that a client may take to send its request; shorter than what `sweeper healthcheck` waits.
const MAX_HEADER_TIME: Duration = Duration::from_secs(1);
/// The longest headers, in bytes.
const MAX_HEADERS: usize = 16 << 10;
/// How often to see whether the database has been opened.
const START_INTERVAL: Duration = Duration::from_millis(500);
/// The shortest time between two counts of the rows, however often somebody scrapes.
const COUNT_INTERVAL: Duration = Duration::from_secs(5);
/// Counting the rows, for scrapes and for the page's charts together, may use at most one part in this many of wall time.
const COUNT_SHARE: u32 = 10;
/// How long a scrape waits for the count. After that, it returns the previous count. Prometheus waits for ten seconds.
const COUNT_PATIENCE: Duration = Duration::from_secs(5);

/// The sources of the answers.
#[derive(Clone, Debug)]
pub struct Sources<C> {
    /// The worker's counters.
    pub metrics: Metrics,
    /// The loop's health.
    pub health: Health,
    /// Counts the rows in the database.
    pub counter: C,
    /// The loop's clock.
    pub clock: Clock,
}

/// The endpoint. It answers until it is dropped. Dropping does not wait, so a client that hangs delays nothing.
#[derive(Debug)]
pub struct Endpoint {
    address: SocketAddr,
    /// Dropping the sender stops the thread.
    _stop: oneshot::Sender<()>,
}

impl Endpoint {
    /// Listens on `listen`, and starts the thread that answers. Port 0 takes a free port.
    ///
    /// # Errors
    /// If the address cannot be bound, the thread cannot be started, or the system has no random numbers.
    pub fn start<C: Counter>(listen: SocketAddr, sources: Sources<C>, page: page::Settings) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (metrics, health, clock) = (sources.metrics.clone(), sources.health.clone(), sources.clock.clone());
        let page = Page::new(page, address.port(), metrics, health, clock)?;
        let shared = Arc::new(Shared { sources, counting: Arc::default() });
        let (stop, stopped) = oneshot::channel();
        let serving = move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    never = sample(&shared, &page) => match never {},
                    error = serve(listener, Arc::clone(&shared), Arc::clone(&page)) => {
                        warn!(event = event::HTTP_FAILED, %address, %error, "the HTTP endpoint has ended; metrics and health are not served until the daemon is restarted");
                    }
                }
            });
            runtime.shutdown_background();
        };
        thread::Builder::new().name("sweeper-http".to_owned()).spawn(serving)?;
        Ok(Self { address, _stop: stop })
    }

    /// The address of the endpoint.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

struct Shared<C> {
    sources: Sources<C>,
    counting: Arc<Mutex<Counting>>,
}

/// The last count of the rows.
#[derive(Clone, Copy, Default)]
struct Counting {
    /// The earliest time of the next one, in elapsed time.
    next: Duration,
    failing: bool,
    /// The pending rows; `None` if they could not be counted.
    pending: Option<u64>,
}

/// Takes samples for the page's charts, for ever. Where the rows cannot be counted, the chart has a gap.
async fn sample<C: Counter>(shared: &Shared<C>, page: &Page) -> Infallible {
    let Sources { health, clock, .. } = &shared.sources;
    loop {
        let next = match health.state() {
            Life::Starting => {
                sleep(START_INTERVAL).await;
                continue;
            }
            Life::Working | Life::StandingBy => {
                let counting = Arc::clone(&shared.counting).lock_owned().await;
                let counting = shared.count(counting).await;
                page.sample(counting.pending);
                counting.next
            }
            Life::DatabaseDown | Life::Stopping => {
                page.sample(None);
                Duration::ZERO
            }
        };
        // An earlier sample would have the same count.
        sleep(SAMPLE_INTERVAL.max(next.saturating_sub(clock.elapsed()))).await;
    }
}

async fn serve<C: Counter>(listener: std::net::TcpListener, shared: Arc<Shared<C>>, page: Arc<Page>) -> io::Error {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return error,
    };
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .with_state(shared)
        .merge(page::router(page))
        .fallback(|| async {
            (StatusCode::NOT_FOUND, "not found; there are /, /entry, /login, /metrics, /livez and /readyz\n")
        });
    let (mut tasks, mut guests, clock) = (JoinSet::new(), Guests::default(), Clock::system());
    loop {
        while tasks.try_join_next().is_some() {}
        guests.0.retain(|guest| !guest.task.is_finished());
        if guests.0.len() >= MAX_CONNECTIONS && !guests.make_room(clock.elapsed()) {
            // Every connection is new or being answered, and will end soon.
            let _ = timeout(LOOK_INTERVAL, tasks.join_next()).await;
            continue;
        }
        let Ok((stream, peer)) = listener.accept().await else {
            // The process is probably out of file handles. Some will be free soon.
            guests.make_room(clock.elapsed());
            sleep(LOOK_INTERVAL).await;
            continue;
        };
        let busy = Busy::default();
        let task = tasks.spawn(answer(stream, Peer(peer.ip()), router.clone(), busy.clone()));
        guests.0.push_back(Guest { task, busy, since: clock.elapsed() });
    }
}

/// An open connection.
struct Guest {
    task: AbortHandle,
    busy: Busy,
    /// When the connection was accepted, in elapsed time.
    since: Duration,
}

/// The open connections, oldest first.
#[derive(Default)]
struct Guests(VecDeque<Guest>);

impl Guests {
    /// Closes the oldest connection that waits for its client and may be closed, or else the oldest one that has been answered for long.
    /// Returns false if there is none.
    fn make_room(&mut self, now: Duration) -> bool {
        let has_stayed = |guest: &Guest, least| now.saturating_sub(guest.since) >= least;
        let waiting = self.0.iter().position(|guest| has_stayed(guest, MIN_STAY) && !guest.busy.is_set());
        let oldest = waiting.or_else(|| self.0.iter().position(|guest| has_stayed(guest, MAX_ANSWERING)));
        let Some(guest) = oldest.and_then(|at| self.0.remove(at)) else { return false };
        guest.task.abort();
        true
    }
}

/// Answers one request. There is no keep-alive, because an idle connection would keep others out.
async fn answer(stream: TcpStream, peer: Peer, router: Router, busy: Busy) {
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(busy.clone());
        let (router, busy) = (router.clone(), busy.clone());
        async move {
            busy.set(true);
            let response: Result<Response, Infallible> = router.oneshot(request.map(Body::new)).await;
            busy.set(false);
            response
        }
    });
    let mut http = http1::Builder::new();
    http.keep_alive(false).timer(TokioTimer::new()).header_read_timeout(MAX_HEADER_TIME).max_buf_size(MAX_HEADERS);
    // A connection that the client ends early needs no handling.
    let _ = timeout(MAX_CONNECTION_TIME, http.serve_connection(TokioIo::new(stream), service)).await;
}

async fn metrics<C: Counter>(State(shared): State<Arc<Shared<C>>>, headers: HeaderMap) -> Response {
    let count = async {
        // One that waits for another's count ends with its scrape.
        let counting = Arc::clone(&shared.counting).lock_owned().await;
        let shared = Arc::clone(&shared);
        // The count is a task of its own, so that it continues when the scrape stops waiting.
        let _ = tokio::spawn(async move { shared.count(counting).await }).await;
    };
    let _ = timeout(COUNT_PATIENCE, count).await;
    let accept: Vec<&str> = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let form = Exposition::wanted(&accept.join(","));
    match shared.sources.metrics.encode(form) {
        Ok(text) => ([(header::CONTENT_TYPE, form.content_type())], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

impl<C: Counter> Shared<C> {
    /// Counts the rows, unless the last count is recent. Returns the last count.
    async fn count(&self, mut counting: OwnedMutexGuard<Counting>) -> Counting {
        let Sources { metrics, counter, clock, .. } = &self.sources;
        let begun = clock.elapsed();
        if begun < counting.next {
            return *counting;
        }
        match counter.census(clock.now()).await {
            Ok(census) => {
                (counting.failing, counting.pending) = (false, Some(census.tally.pending));
                metrics.counted(Some(&census));
            }
            Err(error) => {
                metrics.counted(None);
                counting.pending = None;
                if !std::mem::replace(&mut counting.failing, true) {
                    warn!(event = event::COUNT_FAILED, %error, "the rows cannot be counted; /metrics leaves out their numbers until they can");
                }
            }
        }
        let ended = clock.elapsed();
        counting.next = ended + COUNT_INTERVAL.max(ended.saturating_sub(begun) * COUNT_SHARE);
        *counting
    }
}

async fn livez<C: Counter>(State(shared): State<Arc<Shared<C>>>) -> Response {
    told(shared.sources.alive())
}

async fn readyz<C: Counter>(State(shared): State<Arc<Shared<C>>>) -> Response {
    let ready = shared.sources.alive().and_then(|()| match shared.sources.health.state() {
        Life::Starting => Err("starting: the database is being opened".to_owned()),
        Life::Working | Life::StandingBy => Ok(()),
        Life::DatabaseDown => Err("the database cannot be used; the log says why".to_owned()),
        Life::Stopping => Err("stopping".to_owned()),
    });
    told(ready)
}

impl<C: Counter> Sources<C> {
    fn alive(&self) -> Result<(), String> {
        let silent = self.health.alive(self.clock.elapsed());
        silent.map_err(|silent| format!("the daemon's loop has hung for {} s", silent.as_secs()))
    }
}

fn told(well: Result<(), String>) -> Response {
    match well {
        Ok(()) => "ok\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}
