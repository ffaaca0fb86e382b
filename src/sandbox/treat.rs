//! The way of a request from its arrival to its answer.

use std::{collections::HashSet, sync::Arc};

use axum::{
    Router,
    body::{Bytes, to_bytes},
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderValue, header::RETRY_AFTER},
    response::Response,
    routing::{delete, get, post},
};
use serde::Deserialize;
use serde_json::json;
use tokio::time::sleep;

use super::{
    Entries, Mood, Recorded, Shared, World, listing,
    replies::{cut, error, is_cut, json_response, say},
};
use crate::{api::CORRELATION_ID, model::deletion::MAX_BATCH_SIZE};

/// The longest body that is read, in bytes. No well-formed request is that long.
const MAX_BODY_BYTES: usize = 1 << 20;

/// The endpoints of the API. For any other path, the gateway answers.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    let no_route =
        || async { json_response(404, json!({ "message": "no Route matched with those values" }).to_string()) };
    Router::new()
        .route("/v1/agents/{agent}/audio-cache/bulk-delete", post(bulk_delete))
        .route("/v1/agents/{agent}/audio-cache/{entry}", delete(delete_one))
        .route("/v1/agents/{agent}/audio-cache", get(list))
        .fallback(no_route)
        .with_state(shared)
}

#[derive(Deserialize)]
struct Ids {
    ids: Vec<String>,
}

/// The kind of a request.
enum Asked {
    /// A bulk delete of the IDs in the body.
    Bulk,
    /// A single-entry DELETE of this ID.
    One(String),
    /// A list of the cache, with its query.
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
    let echo = head.headers.get(CORRELATION_ID);
    let correlation_id = echo.and_then(|id| id.to_str().ok()).unwrap_or_default();
    let call = Call { shared, agent, correlation_id, mood };
    let (is_allowed, told) = shared.windows.count();
    let is_allowed = is_allowed && shared.limiter.as_ref().is_none_or(|limiter| limiter.check().is_ok());
    let mut response = if is_allowed { call.treat(asked, &head.headers, &body).await } else { call.throttle() };
    for (name, value) in told.into_iter().chain(shared.options.headers.iter().cloned()) {
        response.headers_mut().append(name, value);
    }
    if let (Some(id), false) = (echo, response.headers().contains_key(CORRELATION_ID)) {
        response.headers_mut().insert(CORRELATION_ID, id.clone());
    }
    let ratio = shared.options.swap_ratio;
    if ratio > 0.0 && !is_cut(&response) && (shared.swap.is_waiting() || shared.world().rng.f64() < ratio) {
        response = shared.swap.exchange(response).await;
    }
    if let (Some(at), false) = (recorded, is_cut(&response)) {
        shared.world().requests[at].status = response.status().as_u16();
    }
    response
}

/// A request that is being answered.
struct Call<'a> {
    shared: &'a Shared,
    agent: &'a str,
    correlation_id: &'a str,
    mood: Mood,
}

impl Call<'_> {
    fn refuse(&self, status: u16, code: &str, message: &str) -> Response {
        error(status, self.correlation_id, code, message)
    }

    fn throttle(&self) -> Response {
        let mut response = self.refuse(429, "RATE_LIMITED", "too many requests");
        let retry_after = self.shared.options.retry_after.as_ref();
        if let Some(value) = retry_after.and_then(|text| HeaderValue::from_str(text).ok()) {
            response.headers_mut().insert(RETRY_AFTER, value);
        }
        response
    }

    async fn treat(&self, asked: Asked, headers: &HeaderMap, body: &Bytes) -> Response {
        let Self { shared, agent, .. } = *self;
        let options = &shared.options;
        if let Some(response) = self.before().await {
            return response;
        }
        let is_single = matches!(asked, Asked::One(_));
        let (ids, query) = match asked {
            Asked::List(query) => (None, Some(query)),
            Asked::One(entry) => (Some(Ok(Ids { ids: vec![entry] })), None),
            Asked::Bulk => (Some(serde_json::from_slice::<Ids>(body)), None),
        };
        if let Some(response) = self.outage(ids.as_ref().and_then(|ids| ids.as_ref().ok()), is_single) {
            return response;
        }
        let right = options.key.as_ref().is_none_or(|key| headers.get("x-api-key").is_some_and(|given| given == key));
        if !right || !headers.contains_key("x-api-key") {
            return self.refuse(401, "UNAUTHORIZED", "missing or invalid API key");
        }
        if let Some(permission) = options.permission.lacks(ids.is_none()) {
            return self.refuse(403, "FORBIDDEN", &format!("the API key does not have `{permission}` permission"));
        }
        if options.forbidden.iter().any(|forbidden| forbidden == agent) {
            let permission = if ids.is_none() { "read" } else { "write" };
            return self.refuse(403, "FORBIDDEN", &format!("the API key does not have {permission} permission"));
        }
        if !options.agents.is_empty() && !options.agents.iter().any(|(known, _)| known == agent) {
            return self.refuse(404, "AGENT_NOT_FOUND", "no such agent");
        }
        if is_single && options.refuse_singles {
            return self.refuse(405, "METHOD_NOT_ALLOWED", "method not allowed");
        }
        match (ids, query) {
            (Some(Ok(Ids { ids })), _) => self.delete(ids, is_single).await,
            (Some(Err(error)), _) => self.refuse(400, "INVALID", &format!("malformed JSON: {error}")),
            (None, query) => {
                self.show(&query.unwrap_or_default()).unwrap_or_else(|problem| self.refuse(400, "INVALID", problem))
            }
        }
    }

    /// The answer of a mood that does not depend on the request.
    async fn before(&self) -> Option<Response> {
        match &self.mood {
            Mood::Say { status, headers, body } => Some(say(*status, headers, body)),
            Mood::Refuse { status, code, message } => Some(self.refuse(*status, code, message)),
            Mood::Reset { done: false } => Some(cut()),
            Mood::Hang => std::future::pending().await,
            Mood::Gate => {
                // The semaphore is never closed, so this cannot fail.
                let _ = self.shared.gate.acquire().await;
                None
            }
            Mood::Plain
            | Mood::Garble(_)
            | Mood::Silent
            | Mood::Contradict
            | Mood::Strangers
            | Mood::Reset { done: true } => None,
        }
    }

    /// Whether the options decide, and not an order for this one request.
    fn is_plain(&self) -> bool {
        matches!(self.mood, Mood::Plain | Mood::Gate)
    }

    fn outage(&self, ids: Option<&Ids>, is_single: bool) -> Option<Response> {
        let outage = {
            let world = self.shared.world();
            world.outage.or_else(|| world.outages.get(self.agent).copied())
        };
        let outage = outage.filter(|_| self.is_plain())?;
        outage.answer(ids.map(|ids| ids.ids.as_slice()), is_single, self.correlation_id)
    }

    async fn delete(&self, ids: Vec<String>, is_single: bool) -> Response {
        let options = &self.shared.options;
        if !(1..=usize::from(MAX_BATCH_SIZE)).contains(&ids.len()) {
            return self.refuse(400, "INVALID", "`ids` must contain between 1 and 20 entries");
        }
        let poison = options.poison.iter().find(|(id, _)| ids.contains(id)).filter(|_| self.is_plain());
        if let Some((_, poison)) = poison {
            return match poison.answer(self.correlation_id) {
                Some(response) => response,
                None => std::future::pending().await,
            };
        }
        if options.numeric_ids && ids.iter().any(|id| !id.bytes().all(|byte| byte.is_ascii_digit())) {
            return self.refuse(400, "INVALID", "Invalid ID");
        }
        self.perform(ids, is_single)
    }

    /// Lists the cache. Of the moods that delete first, only those matter that decide the answer.
    fn show(&self, query: &str) -> Result<Response, &'static str> {
        let mut world = self.shared.world();
        let World { entries, rng, .. } = &mut *world;
        if matches!(self.mood, Mood::Plain) && rng.f64() < self.shared.options.error_ratio {
            return Ok(self.refuse(500, "INTERNAL", "as ordered"));
        }
        match &self.mood {
            Mood::Garble(body) => return Ok(json_response(200, body.clone())),
            Mood::Reset { .. } => return Ok(cut()),
            Mood::Plain
            | Mood::Gate
            | Mood::Silent
            | Mood::Contradict
            | Mood::Strangers
            | Mood::Say { .. }
            | Mood::Refuse { .. }
            | Mood::Hang => {}
        }
        let entries = entries.entry(self.agent.to_owned()).or_insert_with(|| Entries::AllBut(HashSet::new()));
        Ok(json_response(200, listing::page(entries, query, self.shared.options.ignore_sort)?.to_string()))
    }

    /// Deletes, and answers as the mood says.
    fn perform(&self, ids: Vec<String>, is_single: bool) -> Response {
        let options = &self.shared.options;
        let mut world = self.shared.world();
        let World { entries, rng, .. } = &mut *world;
        if matches!(self.mood, Mood::Plain) {
            if rng.f64() < options.error_ratio {
                return self.refuse(500, "INTERNAL", "as ordered");
            }
            if rng.f64() < options.reset_ratio / 2.0 {
                return cut();
            }
        }
        let entries = entries.entry(self.agent.to_owned()).or_insert_with(|| Entries::AllBut(HashSet::new()));
        if is_single && !ids.iter().all(|id| entries.has(id)) {
            return options.single_404.answer(self.correlation_id);
        }
        let (deleted, failed): (Vec<String>, Vec<String>) = ids.into_iter().partition(|id| {
            let fails = options.failing.contains(id) || rng.f64() < options.fail_ratio;
            !fails && if options.keeping.contains(id) { entries.has(id) } else { entries.delete(id) }
        });
        let told = |deleted: &[String], failed: &[String]| {
            let lists = json!({ "deleted": deleted, "failed": failed });
            let body = if is_single { json!({ "success": failed.is_empty() }) } else { lists };
            json_response(200, body.to_string())
        };
        match &self.mood {
            Mood::Plain if rng.f64() < options.garbage_ratio => json_response(200, "<html>".to_owned()),
            Mood::Plain if rng.f64() < options.reset_ratio / 2.0 => cut(),
            Mood::Garble(body) => json_response(200, body.clone()),
            Mood::Silent if is_single => json_response(200, "{}".to_owned()),
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
            Mood::Plain
            | Mood::Gate
            | Mood::Contradict
            | Mood::Strangers
            | Mood::Say { .. }
            | Mood::Refuse { .. }
            | Mood::Hang => told(&deleted, &failed),
        }
    }
}
