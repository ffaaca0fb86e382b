//! What whoever watches the daemon can ask over HTTP: `/metrics`, `/livez` and `/readyz`.
//!
//! A thread of its own answers, so that a loop that is stuck is told of, and a scrape takes no time from the loop.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

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
    sync::{Mutex, oneshot},
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
    },
};

/// Most connections at a time; for another one, the oldest that waits for its client gives way.
const MAX_CONNECTIONS: usize = 128;
/// It does so only after this time, in which its client can ask: else a flood of connections would end all of them at once.
const MIN_STAY: Duration = Duration::from_millis(100);
/// How often it is looked whether one has stayed that long.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// The longest that one may take, from its first byte to its last.
const MAX_CONNECTION_TIME: Duration = Duration::from_secs(10);
/// The longest that one may take to say what it wants: shorter than what `sweeper healthcheck` waits.
const MAX_HEADER_TIME: Duration = Duration::from_secs(1);
/// The rows are counted no more often than this, however often somebody asks.
const COUNT_INTERVAL: Duration = Duration::from_secs(5);
/// Counting them may take one part in this many of the time.
const COUNT_SHARE: u32 = 10;
/// How long a scrape waits for the count; after that, it tells the one before. Prometheus waits for ten seconds.
const COUNT_PATIENCE: Duration = Duration::from_secs(5);

/// What is answered with.
#[derive(Clone, Debug)]
pub struct Sources<C> {
    /// What the worker counts.
    pub metrics: Metrics,
    /// What the loop says of itself.
    pub health: Health,
    /// What counts the rows.
    pub counter: C,
    /// The clock that the loop goes by.
    pub clock: Clock,
}

/// Answers until it is dropped. Nobody waits for its end: a client that hangs holds nothing up.
#[derive(Debug)]
pub struct Endpoint {
    address: SocketAddr,
    /// Dropping it is the signal.
    _stop: oneshot::Sender<()>,
}

impl Endpoint {
    /// Listens on `listen` (port 0: on any), and answers from there on.
    ///
    /// # Errors
    /// If that address cannot be had.
    pub fn start<C: Counter>(listen: SocketAddr, sources: Sources<C>) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let serving = move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    error = serve(listener, Shared { sources, counting: Mutex::default() }) => {
                        warn!(event = event::HTTP_FAILED, %address, %error, "nobody answers on http.listen any more");
                    }
                }
            });
            runtime.shutdown_background();
        };
        thread::Builder::new().name("sweeper-http".to_owned()).spawn(serving)?;
        Ok(Self { address, _stop: stop })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

struct Shared<C> {
    sources: Sources<C>,
    counting: Mutex<Counting>,
}

/// When the rows are counted next, and whether they could be the last time.
#[derive(Default)]
struct Counting {
    next: Duration,
    failing: bool,
}

async fn serve<C: Counter>(listener: std::net::TcpListener, shared: Shared<C>) -> io::Error {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return error,
    };
    let router = Router::new()
        .route("/metrics", get(metrics::<C>))
        .route("/livez", get(livez::<C>))
        .route("/readyz", get(readyz::<C>))
        .fallback(|| async { (StatusCode::NOT_FOUND, "there are /metrics, /livez and /readyz\n") })
        .with_state(Arc::new(shared));
    let (mut tasks, mut guests, clock) = (JoinSet::new(), Guests::default(), Clock::system());
    loop {
        while tasks.try_join_next().is_some() {}
        guests.0.retain(|guest| !guest.task.is_finished());
        if guests.0.len() >= MAX_CONNECTIONS && !guests.make_room(clock.elapsed()) {
            // All of them are new, or being answered, which ends.
            let _ = timeout(LOOK_INTERVAL, tasks.join_next()).await;
            continue;
        }
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file handles, most likely. Ours come free by and by, and those of others.
            guests.make_room(clock.elapsed());
            sleep(LOOK_INTERVAL).await;
            continue;
        };
        let is_busy = Arc::<AtomicBool>::default();
        let task = tasks.spawn(answer(stream, router.clone(), Arc::clone(&is_busy)));
        guests.0.push_back(Guest { task, is_busy, since: clock.elapsed() });
    }
}

/// A connection.
struct Guest {
    task: AbortHandle,
    /// It has asked, and is being answered by us. Else it waits for its client, to ask or to take its answer.
    is_busy: Arc<AtomicBool>,
    /// Elapsed time.
    since: Duration,
}

/// The connections, oldest first.
#[derive(Default)]
struct Guests(VecDeque<Guest>);

impl Guests {
    /// Ends the oldest one that waits for its client, and has done so for a while; false if there is none.
    fn make_room(&mut self, now: Duration) -> bool {
        let has_stayed = |guest: &Guest| now.saturating_sub(guest.since) >= MIN_STAY;
        let oldest = self.0.iter().position(|guest| has_stayed(guest) && !guest.is_busy.load(Ordering::Relaxed));
        let Some(guest) = oldest.and_then(|at| self.0.remove(at)) else { return false };
        guest.task.abort();
        true
    }
}

/// Answers one request: an idle connection would keep others out.
async fn answer(stream: TcpStream, router: Router, is_busy: Arc<AtomicBool>) {
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (router, is_busy) = (router.clone(), Arc::clone(&is_busy));
        async move {
            is_busy.store(true, Ordering::Relaxed);
            let response: Result<Response, Infallible> = router.oneshot(request.map(Body::new)).await;
            is_busy.store(false, Ordering::Relaxed);
            response
        }
    });
    let mut http = http1::Builder::new();
    http.keep_alive(false).timer(TokioTimer::new()).header_read_timeout(MAX_HEADER_TIME);
    // One that ends early is the client's business.
    let _ = timeout(MAX_CONNECTION_TIME, http.serve_connection(TokioIo::new(stream), service)).await;
}

async fn metrics<C: Counter>(State(shared): State<Arc<Shared<C>>>, headers: HeaderMap) -> Response {
    let counting = Arc::clone(&shared);
    // A task of its own, so that a count that takes longer than a scraper waits comes to its end.
    let _ = timeout(COUNT_PATIENCE, tokio::spawn(async move { counting.count().await })).await;
    let accept: Vec<&str> = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let form = Exposition::wanted(&accept.join(","));
    match shared.sources.metrics.encode(form) {
        Ok(text) => ([(header::CONTENT_TYPE, form.content_type())], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

impl<C: Counter> Shared<C> {
    /// Counts the rows, unless that was done a moment ago.
    async fn count(&self) {
        let Sources { metrics, counter, clock, .. } = &self.sources;
        let mut counting = self.counting.lock().await;
        let begun = clock.elapsed();
        if begun < counting.next {
            return;
        }
        match counter.census(clock.now()).await {
            Ok(census) => {
                counting.failing = false;
                metrics.counted(Some(&census));
            }
            Err(error) => {
                metrics.counted(None);
                if !std::mem::replace(&mut counting.failing, true) {
                    warn!(event = event::COUNT_FAILED, %error, "the queue cannot be counted; /metrics goes without it");
                }
            }
        }
        let ended = clock.elapsed();
        counting.next = ended + COUNT_INTERVAL.max(ended.saturating_sub(begun) * COUNT_SHARE);
    }
}

async fn livez<C: Counter>(State(shared): State<Arc<Shared<C>>>) -> Response {
    told(shared.sources.alive())
}

async fn readyz<C: Counter>(State(shared): State<Arc<Shared<C>>>) -> Response {
    let ready = shared.sources.alive().and_then(|()| match shared.sources.health.state() {
        Life::Starting => Err("starting: the database is being opened".to_owned()),
        Life::Working => Ok(()),
        Life::DatabaseDown => Err("the database cannot be used just now; the log says why".to_owned()),
        Life::Stopping => Err("stopping".to_owned()),
    });
    told(ready)
}

impl<C: Counter> Sources<C> {
    fn alive(&self) -> Result<(), String> {
        let silent = self.health.alive(self.clock.elapsed());
        silent.map_err(|silent| format!("the loop has not come round for {} s", silent.as_secs()))
    }
}

fn told(well: Result<(), String>) -> Response {
    match well {
        Ok(()) => "ok\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}
