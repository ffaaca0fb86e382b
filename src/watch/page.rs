//! The page for people: `/`, `/entry` and `/login`, and the style sheet.
//!
//! Nothing here changes the queue. Numbers are for everybody who can connect, as `/metrics` is; names of agents and IDs are for who
//! knows `http.token`. A browser runs no script of this page, and takes nothing from elsewhere: the headers forbid it.

mod access;
mod chart;
mod entry;
mod frame;
mod hosts;
mod look;
mod named;
mod overview;
mod samples;

use std::{
    io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Extension, Router,
    body::{Body, to_bytes},
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
use look::{LONGEST, Looker};
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
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
];
const STYLE: &str = include_str!("page/style.css");
/// The seconds after which a browser loads the page again: usually, and if there is nothing to show yet.
const REFRESH: (&str, &str) = ("15", "2");
/// The longest form, in bytes. A token has 256 at most.
const MAX_FORM: usize = 2_048;
/// How long a form may take to come. The connection counts as busy until then.
const FORM_WITHIN: Duration = Duration::from_secs(1);

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
        .route("/login", get(login_form).post(login))
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
    let visitor = match page.keeper.visitor(&headers, peer) {
        Ok(visitor) => visitor,
        Err(attempt) => return refused(attempt),
    };
    let refreshes = value_of(query.as_deref().unwrap_or_default(), "refresh").as_deref() != Some("off");
    let look = page.looker.look().await;
    let facts = look.as_ref().and_then(|look| look.seen.as_deref().ok());
    let is_known = visitor == Visitor::Known;
    let hung = page.health.alive(page.clock.elapsed()).err();
    let headline = Headline::new(page.health.state(), hung, facts);
    let why = facts.map(|facts| if is_known { &facts.named_why } else { &facts.why });
    let points = page.samples.lock().unwrap_or_else(PoisonError::into_inner).points(page.clock.elapsed());
    let now = page.clock.now();
    let started = facts.and_then(|facts| facts.report.daemon.started_at).map(Timestamp);
    let content = html! {
        (overview::state(&headline, why))
        (overview::unread(look.as_deref(), is_known))
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
        (overview::footer(look.as_deref(), page.settings.version, started, now))
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
    response
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
        Ok(Visitor::Off) => return off(),
        Ok(Visitor::Stranger) => return refused(Attempt::Wrong),
        Err(attempt) => return refused(attempt),
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

async fn login_form(State(page): Shared, Extension(Peer(peer)): Extension<Peer>, headers: HeaderMap) -> Response {
    match page.keeper.visitor(&headers, peer) {
        Ok(Visitor::Off) => off(),
        Ok(Visitor::Stranger | Visitor::Known) | Err(_) => form(StatusCode::OK, ""),
    }
}

/// Takes the token, and gives a cookie for it; or takes the cookie away.
async fn login(
    State(page): Shared,
    Extension(Peer(peer)): Extension<Peer>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    if page.settings.token.is_none() {
        return off();
    }
    // A browser says if somebody else's page sends the form. That page could have an address refused, or log somebody out.
    if headers.get("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none") {
        return (StatusCode::FORBIDDEN, "the form is that of another page\n").into_response();
    }
    let body = match timeout(FORM_WITHIN, to_bytes(body, MAX_FORM)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return (StatusCode::PAYLOAD_TOO_LARGE, "the form is too long\n").into_response(),
        Err(_) => return (StatusCode::REQUEST_TIMEOUT, "the form took too long\n").into_response(),
    };
    let body = String::from_utf8_lossy(&body);
    let back =
        |cookie: String| (StatusCode::SEE_OTHER, [(header::LOCATION, "/".to_owned()), (header::SET_COOKIE, cookie)]);
    if value_of(&body, "logout").is_some() {
        return back(page.keeper.no_cookie()).into_response();
    }
    match page.keeper.attempt(&value_of(&body, "token").unwrap_or_default(), peer) {
        Attempt::Right => back(page.keeper.cookie()).into_response(),
        attempt @ (Attempt::Wrong | Attempt::TooSoon) => refused_with(attempt, "This is not the token."),
    }
}

/// The form for the token, below what is wrong.
fn form(status: StatusCode, wrong: &str) -> Response {
    let content = html! {
        h1 { "Log in" }
        @if !wrong.is_empty() { p.alarm role="alert" { (wrong) } }
        p { "Agents, labels, IDs and requests are shown to who knows the token, which is http.token in the daemon’s configuration." }
        form.ask method="post" action="/login" {
            // For the password manager, which keeps a token under a name.
            input type="text" name="username" value="sweeper" autocomplete="username" hidden;
            label { "Token" input type="password" name="token" required autocomplete="current-password"; }
            button.go type="submit" { "Log in" }
        }
    };
    told(status, &document("Log in", Visitor::Off, &html! { li { a href="/" { "Overview" } } }, &content))
}

fn refused(attempt: Attempt) -> Response {
    refused_with(attempt, "This needs the token.")
}

fn refused_with(attempt: Attempt, wrong: &str) -> Response {
    let (status, said, name, value) = match attempt {
        Attempt::TooSoon => {
            let said = "The last token from your address was wrong. Wait a second, and try again.";
            (StatusCode::TOO_MANY_REQUESTS, said, header::RETRY_AFTER, "1")
        }
        Attempt::Wrong | Attempt::Right => (StatusCode::UNAUTHORIZED, wrong, header::WWW_AUTHENTICATE, "Bearer"),
    };
    let mut response = form(status, said);
    response.headers_mut().insert(name, HeaderValue::from_static(value));
    response
}

/// The page about names without a token.
fn off() -> Response {
    let content = html! {
        h1 { "Names are not shown" }
        p { "This page shows agents, labels and IDs only if http.token or http.token_file is set. Set one, and restart the daemon." }
    };
    let links = html! { li { a href="/" { "Overview" } } };
    told(StatusCode::FORBIDDEN, &document("Names are not shown", Visitor::Off, &links, &content))
}

fn told(status: StatusCode, page: &Markup) -> Response {
    (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], page.0.clone()).into_response()
}

/// The value of a field of a query or a form.
fn value_of(fields: &str, name: &str) -> Option<String> {
    form_urlencoded::parse(fields.as_bytes()).find(|(known, _)| known == name).map(|(_, value)| value.into_owned())
}
