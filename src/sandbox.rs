//! A stand-in for the API on loopback, with faults to order: the demo's, the tests' and the benchmarks'.
//!
//! It keeps a set of entries per agent and really deletes from it, so that what the daemon believes can be compared
//! with what is gone. What the bulk delete does with an ID that does not exist is not documented; here it is `failed`.

mod listing;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    convert::Infallible,
    io,
    net::SocketAddr,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header::RETRY_AFTER},
    response::Response,
    routing::{delete, get, post},
};
use governor::{DefaultDirectRateLimiter, Quota};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::json;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    task::JoinSet,
    time::sleep,
};
use tower::ServiceExt as _;

use crate::{api::CORRELATION_ID, deletion::MAX_BATCH_SIZE};

/// More than any well-formed request has.
const MAX_BODY_BYTES: usize = 1 << 20;

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

/// How one request is treated, ordered in advance by [`Sandbox::script`].
#[derive(Clone, Debug)]
pub enum Mood {
    /// As the options say.
    Plain,
    /// Nothing is done, and this is the answer.
    Say {
        /// The status.
        status: u16,
        /// Headers beside the usual ones.
        headers: Vec<(&'static str, String)>,
        /// The body.
        body: String,
    },
    /// Done, and then a 200 with this body.
    Garble(String),
    /// Done, and then a 200 with two empty lists, or with an empty object.
    Silent,
    /// Done, and then all of it listed as deleted and as failed; a single entry is told of truly.
    Contradict,
    /// Done, and told truly, with IDs that nobody sent if there are lists.
    Strangers,
    /// The connection is cut.
    Reset {
        /// After the deletion was done.
        done: bool,
    },
    /// Never answered.
    Hang,
    /// As the options say, but not before [`Sandbox::open_gate`].
    Gate,
}

impl Mood {
    /// An answer of this status with an error in the API's envelope.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self::Say { status, headers: Vec::new(), body: envelope("sandbox", "ORDERED", "as ordered") }
    }
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
}

#[derive(Debug)]
struct Shared {
    options: Options,
    limiter: Option<DefaultDirectRateLimiter>,
    world: Mutex<World>,
    gate: Semaphore,
    arrived: watch::Sender<usize>,
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
        };
        let limiter = options.rate_limit.map(|rate| DefaultDirectRateLimiter::direct(Quota::per_second(rate)));
        let shared = Arc::new(Shared {
            options,
            limiter,
            world: Mutex::new(world),
            gate: Semaphore::new(0),
            arrived: watch::Sender::new(0),
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

/// The mark of a response that is not to be sent: the connection is cut instead.
#[derive(Clone, Copy)]
struct Cut;

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let router = Router::new()
        .route("/v1/agents/{agent}/audio-cache/bulk-delete", post(bulk_delete))
        .route("/v1/agents/{agent}/audio-cache/{entry}", delete(delete_one))
        .route("/v1/agents/{agent}/audio-cache", get(list))
        .fallback(|| async { error(StatusCode::NOT_FOUND, "", "NOT_FOUND", "no such route") })
        .with_state(shared);
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file handles, most likely: those of others come free.
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        let router = router.clone();
        connections.spawn(async move {
            let service = service_fn(move |request: hyper::Request<Incoming>| {
                let router = router.clone();
                async move {
                    let response: Result<Response, Infallible> = router.oneshot(request.map(Body::new)).await;
                    match response {
                        Ok(response) if response.extensions().get::<Cut>().is_some() => Err("cut as ordered"),
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

#[derive(Deserialize)]
struct Ids {
    ids: Vec<String>,
}

/// What a request asks for.
enum Asked {
    /// The deletion of those that are listed in the body.
    Bulk,
    /// The deletion of this one.
    One(String),
    /// What there is; with the query.
    List(String),
}

async fn bulk_delete(State(shared): State<Arc<Shared>>, Path(agent): Path<String>, request: Request) -> Response {
    serve_one(&shared, &agent, Asked::Bulk, request).await
}

async fn delete_one(
    State(shared): State<Arc<Shared>>,
    Path((agent, entry)): Path<(String, String)>,
    request: Request,
) -> Response {
    serve_one(&shared, &agent, Asked::One(entry), request).await
}

async fn list(State(shared): State<Arc<Shared>>, Path(agent): Path<String>, request: Request) -> Response {
    let query = request.uri().query().unwrap_or_default().to_owned();
    serve_one(&shared, &agent, Asked::List(query), request).await
}

async fn serve_one(shared: &Shared, agent: &str, asked: Asked, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, MAX_BODY_BYTES).await.unwrap_or_default();
    let recorded = shared.options.record.then(|| {
        let mut world = shared.world();
        world.requests.push(Recorded {
            method: head.method.to_string(),
            uri: head.uri.to_string(),
            headers: head.headers.clone(),
            body: body.clone(),
            status: 0,
        });
        world.requests.len() - 1
    });
    let mood = shared.world().script.pop_front().unwrap_or(Mood::Plain);
    shared.arrived.send_modify(|arrived| *arrived += 1);
    if !shared.options.latency.is_zero() {
        sleep(shared.options.latency).await;
    }
    let mut response = treat(shared, agent, asked, &head.headers, &body, mood).await;
    if let Some(id) = head.headers.get(CORRELATION_ID) {
        response.headers_mut().insert(CORRELATION_ID, id.clone());
    }
    if let (Some(at), None) = (recorded, response.extensions().get::<Cut>()) {
        shared.world().requests[at].status = response.status().as_u16();
    }
    response
}

async fn treat(shared: &Shared, agent: &str, asked: Asked, headers: &HeaderMap, body: &Bytes, mood: Mood) -> Response {
    let options = &shared.options;
    let correlation_id = headers.get(CORRELATION_ID).and_then(|id| id.to_str().ok()).unwrap_or_default();
    let refuse = |status, code, message: &str| error(status, correlation_id, code, message);
    if shared.limiter.as_ref().is_some_and(|limiter| limiter.check().is_err()) {
        let mut response = refuse(StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED", "too many requests");
        if let Some(value) = options.retry_after.as_ref().and_then(|text| HeaderValue::from_str(text).ok()) {
            response.headers_mut().insert(RETRY_AFTER, value);
        }
        return response;
    }
    match &mood {
        Mood::Say { status, headers, body } => return say(*status, headers, body),
        Mood::Reset { done: false } => return cut(),
        Mood::Hang => std::future::pending().await,
        Mood::Gate => {
            // Never closed; if it were, the gate would be open.
            let _ = shared.gate.acquire().await;
        }
        Mood::Plain
        | Mood::Garble(_)
        | Mood::Silent
        | Mood::Contradict
        | Mood::Strangers
        | Mood::Reset { done: true } => {}
    }
    let right = options.key.as_ref().is_none_or(|key| headers.get("x-api-key").is_some_and(|given| given == key));
    if !right || !headers.contains_key("x-api-key") {
        return refuse(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "missing or invalid API key");
    }
    if options.forbidden.iter().any(|forbidden| forbidden == agent) {
        return refuse(StatusCode::FORBIDDEN, "FORBIDDEN", "the API key does not have write permission");
    }
    if !options.agents.is_empty() && !options.agents.iter().any(|(known, _)| known == agent) {
        return refuse(StatusCode::NOT_FOUND, "NOT_FOUND", "no such agent");
    }
    let is_single = matches!(asked, Asked::One(_));
    let ids = match asked {
        Asked::List(query) => {
            return show(shared, agent, &query, &mood)
                .unwrap_or_else(|problem| refuse(StatusCode::BAD_REQUEST, "INVALID", problem));
        }
        Asked::One(entry) => Ok(Ids { ids: vec![entry] }),
        Asked::Bulk => serde_json::from_slice::<Ids>(body),
    };
    let ids = match ids {
        Ok(Ids { ids }) if (1..=usize::from(MAX_BATCH_SIZE)).contains(&ids.len()) => ids,
        Ok(_) => return refuse(StatusCode::BAD_REQUEST, "INVALID", "`ids` must contain between 1 and 20 entries"),
        Err(error) => return refuse(StatusCode::BAD_REQUEST, "INVALID", &format!("malformed JSON: {error}")),
    };
    if options.numeric_ids && ids.iter().any(|id| !id.bytes().all(|byte| byte.is_ascii_digit())) {
        return refuse(StatusCode::BAD_REQUEST, "INVALID", "Invalid ID");
    }
    perform(shared, agent, ids, is_single, &mood)
}

/// Lists. Of the moods for after a deletion, only those matter that say what comes back.
fn show(shared: &Shared, agent: &str, query: &str, mood: &Mood) -> Result<Response, &'static str> {
    let mut world = shared.world();
    let World { entries, rng, .. } = &mut *world;
    if matches!(mood, Mood::Plain) && rng.f64() < shared.options.error_ratio {
        return Ok(error(StatusCode::INTERNAL_SERVER_ERROR, "", "INTERNAL", "as ordered"));
    }
    match mood {
        Mood::Garble(body) => return Ok(json_response(StatusCode::OK, body.clone())),
        Mood::Reset { .. } => return Ok(cut()),
        Mood::Plain
        | Mood::Gate
        | Mood::Silent
        | Mood::Contradict
        | Mood::Strangers
        | Mood::Say { .. }
        | Mood::Hang => {}
    }
    let entries = entries.entry(agent.to_owned()).or_insert_with(|| Entries::AllBut(HashSet::new()));
    Ok(json_response(StatusCode::OK, listing::page(entries, query)?.to_string()))
}

/// Deletes, and tells of it as `mood` has it.
fn perform(shared: &Shared, agent: &str, ids: Vec<String>, is_single: bool, mood: &Mood) -> Response {
    let options = &shared.options;
    let mut world = shared.world();
    let World { entries, rng, .. } = &mut *world;
    if matches!(mood, Mood::Plain) {
        if rng.f64() < options.error_ratio {
            return error(StatusCode::INTERNAL_SERVER_ERROR, "", "INTERNAL", "as ordered");
        }
        if rng.f64() < options.reset_ratio / 2.0 {
            return cut();
        }
    }
    let entries = entries.entry(agent.to_owned()).or_insert_with(|| Entries::AllBut(HashSet::new()));
    if is_single && !ids.iter().all(|id| entries.has(id)) {
        return error(StatusCode::NOT_FOUND, "", "NOT_FOUND", "no such entry");
    }
    let (deleted, failed): (Vec<String>, Vec<String>) = ids
        .into_iter()
        .partition(|id| !options.failing.contains(id) && rng.f64() >= options.fail_ratio && entries.delete(id));
    let told = |deleted: &[String], failed: &[String]| {
        let lists = json!({ "deleted": deleted, "failed": failed });
        let body = if is_single { json!({ "success": failed.is_empty() }) } else { lists };
        json_response(StatusCode::OK, body.to_string())
    };
    match mood {
        Mood::Plain if rng.f64() < options.garbage_ratio => json_response(StatusCode::OK, "<html>".to_owned()),
        Mood::Plain if rng.f64() < options.reset_ratio / 2.0 => cut(),
        Mood::Garble(body) => json_response(StatusCode::OK, body.clone()),
        Mood::Silent if is_single => json_response(StatusCode::OK, "{}".to_owned()),
        Mood::Silent => told(&[], &[]),
        Mood::Contradict if !is_single => {
            let all: Vec<String> = deleted.into_iter().chain(failed).collect();
            told(&all, &all)
        }
        Mood::Strangers if !is_single => {
            let strangers = ["999999999".to_owned(), String::new()];
            let deleted: Vec<String> = deleted.into_iter().chain(strangers.clone()).collect();
            told(&deleted, &[failed, strangers.into()].concat())
        }
        Mood::Reset { .. } => cut(),
        Mood::Plain | Mood::Gate | Mood::Contradict | Mood::Strangers | Mood::Say { .. } | Mood::Hang => {
            told(&deleted, &failed)
        }
    }
}

fn cut() -> Response {
    let mut response = Response::new(Body::empty());
    response.extensions_mut().insert(Cut);
    response
}

fn say(status: u16, headers: &[(&'static str, String)], body: &str) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json_response(status, body.to_owned());
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
    response
}

fn error(status: StatusCode, correlation_id: &str, code: &str, message: &str) -> Response {
    json_response(status, envelope(correlation_id, code, message))
}

/// The API's envelope around an error.
fn envelope(correlation_id: &str, code: &str, message: &str) -> String {
    json!({
        "success": false, "error": message, "error_id": correlation_id, "error_code": code, "error_message": message,
        "data": null,
    })
    .to_string()
}

fn json_response(status: StatusCode, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    response
}
