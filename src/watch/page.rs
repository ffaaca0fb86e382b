//! The page for people: `/`, `/entry` and `/login`, and the style sheet.
//!
//! Nothing here changes the queue. Numbers are for everybody who can connect, as `/metrics` is; names of agents and IDs are for who
//! knows `http.token`. A browser runs no script of this page, and takes nothing from elsewhere: the headers forbid it.

mod access;
mod chart;
mod entry;
mod frame;
mod hosts;
mod login;
mod look;
mod named;
mod overview;
mod samples;

use std::{
    io,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Extension, Router,
    extract::{RawQuery, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use maud::{Markup, html};
use tokio::{runtime::Handle, task::spawn_blocking, time::timeout};

pub use access::Token;
pub use hosts::Hosts;

use access::{Attempt, Keeper, Visitor};
use entry::Found;
use frame::document;
use look::{Facts, LONGEST, Look, Looker};
use overview::Headline;
pub(super) use samples::INTERVAL as SAMPLE_INTERVAL;
use samples::{Sample, Samples};

use super::{health::Health, metrics::Metrics};
use crate::{
    model::{
        clock::{Clock, Timestamp},
        deletion::{AgentId, EntryId},
        remedy::Names,
    },
    queue::either::Options,
};

/// What a page may do. The style sheet is ours, and there is no script.
const POLICY: &str =
    "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
/// The headers of every answer of the page.
const HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    // With no-referrer, a browser would send our own form with the Origin null.
    (header::REFERRER_POLICY, "same-origin"),
    (header::X_FRAME_OPTIONS, "DENY"),
];
/// What a wrong bearer is told: on the overview, and where there is nothing without names.
const NAMELESS: &str = "The token of this request is not the daemon’s, so names are left out.";
const NAMELESS_ENTRY: &str = "This needs the token.";
const STYLE: &str = include_str!("page/style.css");
/// The seconds after which a browser loads the page again: usually, and if there is nothing to show yet.
const REFRESH: (&str, &str) = ("15", "2");

/// What the page is about, and who may see it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The queue.
    pub queue: Options,
    /// The names under which it may be asked for.
    pub hosts: Hosts,
    /// Who knows it sees names. `None`: nobody does.
    pub token: Option<Token>,
    /// The settings that remedies name.
    pub names: Names,
    /// The version of this program.
    pub version: &'static str,
}

/// The address that a request comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) IpAddr);

/// Whether a request is being answered. Otherwise its connection waits for the client, and may be closed for another one.
#[derive(Clone, Debug, Default)]
pub(super) struct Busy(Arc<AtomicBool>);

impl Busy {
    /// Sets it.
    pub(super) fn set(&self, is_busy: bool) {
        self.0.store(is_busy, Ordering::Relaxed);
    }

    /// Whether it is set.
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The page.
#[derive(Debug)]
pub(super) struct Page {
    settings: Settings,
    metrics: Metrics,
    health: Health,
    clock: Clock,
    keeper: Keeper,
    looker: Arc<Looker>,
    samples: Mutex<Samples>,
    /// One lookup at a time: it may read whole tables.
    lookups: Arc<tokio::sync::Mutex<()>>,
}

type Shared = State<Arc<Page>>;

impl Page {
    /// A page that is served on `port`.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub(super) fn new(
        settings: Settings,
        port: u16,
        metrics: Metrics,
        health: Health,
        clock: Clock,
    ) -> io::Result<Arc<Self>> {
        let keeper = Keeper::new(settings.token.as_ref(), port, clock.clone());
        let keeper = keeper.map_err(|_| io::Error::other("the system has no random numbers"))?;
        let looker = Looker::new(settings.queue.clone(), clock.clone());
        let (samples, lookups) = (Mutex::default(), Arc::default());
        Ok(Arc::new(Self { settings, metrics, health, clock, keeper, looker, samples, lookups }))
    }

    /// Takes a sample for the charts. `pending`: the open rows, if they can be counted.
    pub(super) fn sample(&self, pending: Option<u64>) {
        let sample = Sample { at: self.clock.elapsed(), deleted: self.metrics.deleted(), pending };
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).take(sample);
    }

    /// Reads the history of an ID, when no other is being read.
    ///
    /// # Errors
    /// If the database cannot be read in time.
    async fn find(&self, agent: &AgentId, entry: &EntryId) -> Result<Found, String> {
        let turn = timeout(Duration::from_secs(1), Arc::clone(&self.lookups).lock_owned());
        let turn = turn.await.map_err(|_| "another entry is being looked up; try again".to_owned())?;
        let (queue, handle) = (self.settings.queue.clone(), Handle::current());
        let (agent, entry) = (agent.clone(), entry.clone());
        let find = spawn_blocking(move || {
            let _turn = turn;
            handle.block_on(timeout(LONGEST, entry::find(&queue, &agent, &entry)))
        });
        match find.await {
            Ok(Ok(found)) => found,
            Ok(Err(_)) => Err(format!("reading it took longer than {} s", LONGEST.as_secs())),
            Err(panic) => Err(panic.to_string()),
        }
    }
}

/// The paths of the page.
pub(super) fn router(page: Arc<Page>) -> Router {
    let pages = Router::new()
        .route("/", get(overview))
        .route("/entry", get(entry))
        .route("/login", get(login::show).post(login::take))
        .layer(middleware::from_fn_with_state(Arc::clone(&page), check_host));
    let style = get(|| async { ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], STYLE) });
    pages.route("/page.css", style).layer(middleware::map_response(with_headers)).with_state(page)
}

async fn with_headers(mut response: Response) -> Response {
    response.headers_mut().extend(HEADERS.map(|(name, value)| (name, HeaderValue::from_static(value))));
    response
}

/// Refuses a request under another name than ours.
async fn check_host(State(page): Shared, request: Request, next: Next) -> Response {
    match page.settings.hosts.check(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(host) => {
            let host = if host.is_empty() { "none, or several".to_owned() } else { format!("{host:?}") };
            let said = format!("the Host header names {host}; a name that leads here belongs into http.hosts\n");
            (StatusCode::MISDIRECTED_REQUEST, said).into_response()
        }
    }
}

async fn overview(
    State(page): Shared,
    Extension(Peer(peer)): Extension<Peer>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    // Numbers are for everybody, so a wrong bearer gets them, too. The status tells a script that its token is wrong.
    let (visitor, refused) = match page.keeper.visitor(&headers, peer) {
        Ok(visitor) => (visitor, None),
        Err(attempt) => (Visitor::Stranger, Some(attempt)),
    };
    let refreshes = value_of(query.as_deref().unwrap_or_default(), "refresh").as_deref() != Some("off");
    let look = page.looker.look().await;
    let facts = look.as_ref().and_then(|look| look.seen.as_deref().ok());
    let hung = page.health.alive(page.clock.elapsed()).err();
    let headline = Headline::new(page.health.state(), hung, facts);
    let content = html! {
        @if let Some(attempt) = refused { p.alarm role="alert" { (login::said(attempt, NAMELESS)) } }
        (parts(&page, visitor, &headline, look.as_deref(), facts))
    };
    let link = if refreshes {
        html! { li { a href="/?refresh=off" { "Stop refreshing" } } }
    } else {
        html! { li { a href="/" { "Refresh every " (REFRESH.0) " s" } } }
    };
    let title = match facts {
        Some(facts) => format!("{}, {} pending", headline.said, facts.report.rows.pending),
        None => headline.said.clone(),
    };
    let mut response = told(StatusCode::OK, &document(&title, visitor, &link, &content));
    if refreshes {
        let after = if look.is_some() { REFRESH.0 } else { REFRESH.1 };
        response.headers_mut().insert(header::REFRESH, HeaderValue::from_static(after));
    }
    match refused {
        Some(attempt) => login::refusing(attempt, response),
        None => response,
    }
}

/// The parts of the overview, in the order in which somebody in a hurry reads them.
fn parts(page: &Page, visitor: Visitor, headline: &Headline, look: Option<&Look>, facts: Option<&Facts>) -> Markup {
    let is_known = visitor == Visitor::Known;
    let why = facts.map(|facts| if is_known { &facts.named_why } else { &facts.why });
    let points = page.samples.lock().unwrap_or_else(PoisonError::into_inner).points(page.clock.elapsed());
    let now = page.clock.now();
    let started = facts.and_then(|facts| facts.report.daemon.started_at).map(Timestamp);
    html! {
        (overview::state(headline, why))
        (overview::unread(look, is_known))
        @if let Some(facts) = facts { (overview::tiles(facts)) }
        @if let Some(why) = why { (overview::waits(why)) }
        @if let Some(facts) = facts {
            @if !is_known || !named::has_each_hold(facts) { (overview::causes(facts)) }
            @if is_known { (named::holds(facts, &page.settings.names, now)) (named::leadership(facts, now)) }
            (overview::limits(facts))
        }
        (overview::history(&points))
        @if let Some(facts) = facts {
            (overview::dead(facts))
            @if is_known { (named::parts(facts, now)) }
        }
        (hint(visitor))
        (overview::footer(look, page.settings.version, started, now))
    }
}

/// How to see the names.
fn hint(visitor: Visitor) -> Markup {
    html! {
        @match visitor {
            Visitor::Off => {
                p.note { "Agents, labels and requests are not shown here: that is on once http.token is set." }
            }
            Visitor::Stranger => {
                p.note { a href="/login" { "Log in" } " to see agents, labels and requests." }
            }
            Visitor::Known => {}
        }
    }
}

async fn entry(
    State(page): Shared,
    Extension(Peer(peer)): Extension<Peer>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    match page.keeper.visitor(&headers, peer) {
        Ok(Visitor::Known) => {}
        Ok(Visitor::Off) => return login::off(),
        Ok(Visitor::Stranger) => return login::refused(Attempt::Wrong, NAMELESS_ENTRY),
        Err(attempt) => return login::refused(attempt, NAMELESS_ENTRY),
    }
    let query = query.unwrap_or_default();
    let [agent, id] = ["agent", "id"].map(|name| value_of(&query, name).unwrap_or_default());
    let (agent, id) = (agent.trim(), id.trim());
    let shown = |status: StatusCode, title: &str, content: &Markup| {
        let content = html! { h1 { (frame::text(title)) } (content) (entry::form(agent, id)) };
        told(status, &document(title, Visitor::Known, &html! { li { a href="/" { "Overview" } } }, &content))
    };
    if agent.is_empty() && id.is_empty() {
        return shown(StatusCode::OK, "Look up an entry", &html! {});
    }
    let title = format!("{agent} {id}");
    let parsed = AgentId::parse(agent).map_err(|error| format!("the agent {error}"));
    let parsed = parsed.and_then(|agent| Ok((agent, EntryId::parse(id).map_err(|error| format!("the ID {error}"))?)));
    let (agent_id, entry_id) = match parsed {
        Ok(parsed) => parsed,
        Err(said) => {
            return shown(StatusCode::BAD_REQUEST, "Look up an entry", &html! { p.alarm { (frame::text(&said)) } });
        }
    };
    match page.find(&agent_id, &entry_id).await {
        Ok(found) => {
            let status = if found.story.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
            let queue = &page.settings.queue;
            shown(status, &title, &entry::history(queue, &agent_id, &entry_id, &found, page.clock.now()))
        }
        Err(why) => {
            let said = html! { p.alarm { "The database could not be read: " (frame::text(&why)) "." } };
            shown(StatusCode::SERVICE_UNAVAILABLE, &title, &said)
        }
    }
}

fn told(status: StatusCode, page: &Markup) -> Response {
    (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], page.0.clone()).into_response()
}

/// The value of a field of a query or a form.
fn value_of(fields: &str, name: &str) -> Option<String> {
    form_urlencoded::parse(fields.as_bytes()).find(|(known, _)| known == name).map(|(_, value)| value.into_owned())
}
