//! One request: what is sent, and what the reply is taken for. Nothing is tried again here.

mod aside;
mod connections;
pub mod key;
mod listing;
mod lists;
mod retry_after;

use std::{
    future::Future,
    io,
    path::PathBuf,
    sync::{Mutex, PoisonError, RwLock},
    time::Duration,
};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{
    Client, RequestBuilder, Response, StatusCode, Url,
    header::{CONTENT_TYPE, HeaderMap},
};
use serde::{Deserialize, Serialize};
use tracing::warn;
use uuid::Uuid;

use connections::{Connections, Settings, describe, fault_of};
pub use connections::{MAX_AGE, MAX_FAULTS, SetupError};
pub use listing::{Entry, PAGE_SIZE, Page};

use crate::{
    api::{
        aside::Aside,
        key::{Key, KeyError, KeySource, Keys},
    },
    event,
    model::{
        clock::Clock,
        deletion::{AgentId, Batch, EntryId},
        envelope::{Envelope, without_bom},
        outcome::{Answer, Fault},
    },
};

/// The header that support asks for; the API echoes ours.
pub const CORRELATION_ID: &str = "x-polyai-correlation-id";

/// The longest answer that is read. Twenty IDs of 255 bytes are 6 KiB; an answer forty times that is none. As short
/// strings it takes fifteen times as much memory again, and `delivery.concurrency` calls may be reading one.
pub const MAX_ANSWER_BYTES: usize = 256 << 10;

/// How much of an error's body is read for its message.
const MAX_ERROR_BYTES: usize = 16 << 10;

/// How much of what others say of themselves is kept.
const MAX_DETAIL_CHARS: usize = 300;

/// How many correlation IDs that came back with one answer are kept.
const MAX_REMOTE_IDS: usize = 8;

/// How long a file that is read beside the loop may take; then what was read before stays in use.
const PATIENCE: Duration = Duration::from_secs(5);

/// What may stand in a path segment as it is: RFC 3986's unreserved characters.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What a request needs to know beside its batch.
#[derive(Clone, Debug)]
pub struct Options {
    /// `https://api.us.poly.ai`, say; a path in it is kept.
    pub base_url: Url,
    /// Where the key comes from.
    pub key: KeySource,
    /// The HTTP proxy that is asked for the connection, if not the API itself; never for `http://`.
    pub proxy: Option<Url>,
    /// A file with certificates that are believed beside those of the system.
    pub ca_file: Option<PathBuf>,
    /// For DNS, TCP and TLS together.
    pub connect_timeout: Duration,
    /// For everything, to the last byte of the answer.
    pub request_timeout: Duration,
}

/// Who carries requests out: [`Api`] over the network, and in the simulator a model of it.
pub trait Transport: Send + Sync + 'static {
    /// Asks for the deletion of a batch, once.
    fn bulk_delete(&self, batch: &Batch, correlation_id: Uuid) -> impl Future<Output = Reply> + Send;

    /// Asks for the deletion of the one row of a batch, alone, once.
    fn delete_one(&self, batch: &Batch, correlation_id: Uuid) -> impl Future<Output = Reply> + Send;

    /// Uses no connection again that is open now: one of them has delivered somebody else's answer. Requests in flight
    /// keep theirs to their end.
    fn reconnect(&self) {}
}

/// The API, ready to be called.
#[derive(Debug)]
pub struct Api {
    connections: Connections,
    base: String,
    source: KeySource,
    keys: RwLock<Keys>,
    /// For the key file.
    aside: Aside,
    /// What was last logged as the reason why the key file cannot be used.
    key_problem: Mutex<Option<String>>,
}

/// Why there is nothing to call the API with.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// No key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// TLS could not be set up.
    #[error(transparent)]
    Setup(#[from] SetupError),
}

/// What came back, or did not; `T` is what a 200 has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply<T = Answer> {
    /// To be judged.
    pub result: Result<T, Fault>,
    /// The HTTP status, if there was one.
    pub status: Option<u16>,
    /// What was said with a fault: the API's message or the network's error, shortened, the key taken out.
    pub detail: Option<String>,
    /// The correlation IDs that came back: the header's values, in their order.
    pub remote_ids: Vec<String>,
    /// The error's body, if it has a shape that the API itself uses.
    pub envelope: Option<Envelope>,
    /// A new key was found after a 401 or a 403: nothing more needs a person.
    pub key_changed: bool,
}

impl<T> Reply<T> {
    /// A request of which nothing was heard.
    #[must_use]
    pub fn unheard(fault: Fault, detail: impl Into<String>) -> Self {
        Self {
            result: Err(fault),
            status: None,
            detail: Some(detail.into()),
            remote_ids: Vec::new(),
            envelope: None,
            key_changed: false,
        }
    }
}

#[derive(Serialize)]
struct Body<'a> {
    ids: Vec<&'a str>,
}

/// What is said about a single entry.
#[derive(Deserialize)]
struct RawSuccess {
    success: bool,
}

/// The answer about a single entry, in the form of the two lists.
fn parse_success(body: &[u8], entry: &EntryId) -> Result<Answer, String> {
    let RawSuccess { success } = parse_object(body)?;
    let (entry, none) = (vec![entry.as_str().to_owned()], Vec::new());
    let (deleted, failed) = if success { (entry, none) } else { (none, entry) };
    Ok(Answer { deleted, failed })
}

/// An object. `derive` would also take an array for a struct, and `[["1"],[]]` tells of nothing.
fn parse_object<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    let body = without_bom(body);
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err("not the promised JSON: not an object".to_owned());
    }
    serde_json::from_slice(body).map_err(|error| format!("not the promised JSON: {error}"))
}

impl Api {
    /// Reads the key and sets up the client. Nothing is sent.
    ///
    /// # Errors
    /// If there is no usable key, or TLS cannot be set up.
    pub fn new(options: Options) -> Result<Self, ApiError> {
        // Already installed, by us or by whoever uses this crate: either way there is one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let Options { base_url, key, proxy, ca_file, connect_timeout, request_timeout } = options;
        let is_tls = base_url.scheme() != "http";
        let settings = Settings { is_tls, proxy, ca_file, connect_timeout, request_timeout };
        let connections = Connections::new(settings, Clock::system())?;
        let keys = RwLock::new(Keys::new(key.read()?));
        let base = base_url.as_str().trim_end_matches('/').to_owned();
        Ok(Self { connections, base, source: key, keys, aside: Aside::default(), key_problem: Mutex::default() })
    }

    /// The same by another clock: it tells how old the connections are.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { connections: self.connections.with_clock(clock), ..self }
    }

    /// The client that new requests go through.
    async fn client(&self) -> Client {
        self.connections.client().await
    }

    fn key(&self) -> Key {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).current().clone()
    }

    /// What others say, fit for a log line and a database: without any key, without control characters, and short. The
    /// keys go first: what is left of one that was cut in two could not be told any more.
    fn clean(&self, text: &str) -> String {
        let text = self.keys.read().unwrap_or_else(PoisonError::into_inner).redact(text);
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_DETAIL_CHARS).collect()
    }

    fn url(&self, agent: &AgentId) -> String {
        format!("{}/bulk-delete", self.cache_url(agent))
    }

    /// Of an entry whose ID can be in a path.
    fn entry_url(&self, agent: &AgentId, entry: &EntryId) -> String {
        format!("{}/{}", self.cache_url(agent), utf8_percent_encode(entry.as_str(), SEGMENT))
    }

    fn cache_url(&self, agent: &AgentId) -> String {
        format!("{}/v1/agents/{}/audio-cache", self.base, utf8_percent_encode(agent.as_str(), SEGMENT))
    }

    /// Sends it, with the headers that every request has; `parse` is for the body of a 200, of up to `most` bytes.
    async fn send<T>(
        &self,
        request: RequestBuilder,
        correlation_id: Uuid,
        most: usize,
        parse: impl Fn(&[u8]) -> Result<T, String> + Send,
    ) -> Reply<T> {
        let key = self.key();
        let Ok(header) = key.header() else { return unbuilt() };
        let request = request.header("x-api-key", header).header(CORRELATION_ID, correlation_id.to_string());
        let reply = match request.send().await {
            Ok(response) => self.read(response, &key, most, parse).await,
            Err(error) => Reply::unheard(fault_of(&error), self.clean(&describe(&error))),
        };
        self.connections.heard(reply.result.as_ref().err());
        reply
    }

    async fn read<T>(
        &self,
        mut response: Response,
        key: &Key,
        most_bytes: usize,
        parse: impl Fn(&[u8]) -> Result<T, String> + Send,
    ) -> Reply<T> {
        let status = response.status();
        let ids = text_headers(response.headers(), CORRELATION_ID);
        let remote_ids = ids.take(MAX_REMOTE_IDS).map(|id| self.clean(id)).collect();
        let retry_after = retry_after::parse(response.headers());
        let mut envelope = None;
        let most = if status.is_success() { most_bytes } else { MAX_ERROR_BYTES };
        let body = read_body(&mut response, most).await;
        let (result, detail) = match (status, body) {
            (StatusCode::OK, Ok(Read::Whole(body))) => match parse(&body) {
                Ok(answer) => (Ok(answer), None),
                Err(problem) => (Err(Fault::Garbled), Some(problem)),
            },
            (status, Ok(Read::TooLong)) if status.is_success() => {
                (Err(Fault::Garbled), Some(format!("longer than {most_bytes} bytes")))
            }
            (status, Ok(_)) if status.is_success() => (Err(Fault::Garbled), Some(format!("{status} instead of 200"))),
            (status, Err(error)) if status.is_success() => (Err(Fault::Lost), Some(describe(&error))),
            // A status outside of 2xx says enough, whatever became of its body.
            (status, body) => {
                let said = match body {
                    Ok(Read::Whole(body)) => {
                        envelope = Envelope::parse(&body).map(|said| said.cleaned(|text| self.clean(text)));
                        message(&body)
                    }
                    Ok(Read::TooLong) | Err(_) => None,
                };
                (Err(Fault::Status { status: status.as_u16(), retry_after }), said)
            }
        };
        // Which of the two a replaced key gets is documented in both ways.
        let is_refused = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        let key_changed = is_refused && self.reread_key(key).await;
        let detail = detail.map(|detail| self.clean(&detail));
        Reply { result, status: Some(status.as_u16()), detail, remote_ids, envelope, key_changed }
    }

    /// Reads the key file again; true if it has another key than the one that was refused.
    async fn reread_key(&self, refused: &Key) -> bool {
        let KeySource::File(path) = &self.source else { return false };
        let source = self.source.clone();
        let read = self.aside.run(PATIENCE, move || source.read()).await.unwrap_or_else(|| {
            let said = format!("could not be read within {} s: its file system hangs", PATIENCE.as_secs());
            Err(KeyError::File { path: path.clone(), source: io::Error::new(io::ErrorKind::TimedOut, said) })
        });
        self.tell_of(read.as_ref().err());
        // A key that cannot be read just now is no reason to give up the one we have.
        let Ok(found) = read else { return false };
        let changed = !found.is_same(refused);
        self.keys.write().unwrap_or_else(PoisonError::into_inner).replace(found);
        changed
    }
}

impl Api {
    /// Logs why the key file cannot be used, unless that was said before.
    fn tell_of(&self, error: Option<&KeyError>) {
        let problem = error.map(KeyError::to_string);
        let mut told = self.key_problem.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = problem.as_ref().filter(|problem| told.as_ref() != Some(problem)) {
            warn!(
                event = event::KEY_UNUSABLE,
                error, "the key file was read again and cannot be used; the old key stays"
            );
        }
        *told = problem;
    }
}

impl Transport for Api {
    async fn bulk_delete(&self, batch: &Batch, correlation_id: Uuid) -> Reply {
        let body = Body { ids: batch.deletions().iter().map(|row| row.entry.as_str()).collect() };
        let Ok(body) = serde_json::to_vec(&body) else { return unbuilt() };
        let request = self.client().await.post(self.url(&batch.lane().agent));
        let request = request.header(CONTENT_TYPE, "application/json").body(body);
        self.send(request, correlation_id, MAX_ANSWER_BYTES, lists::parse).await
    }

    async fn delete_one(&self, batch: &Batch, correlation_id: Uuid) -> Reply {
        // Another ID would be another request: a URL is normalised on its way.
        let Some(row) = batch.only().filter(|row| row.entry.can_be_in_a_path()) else { return unbuilt() };
        let request = self.client().await.delete(self.entry_url(&batch.lane().agent, &row.entry));
        self.send(request, correlation_id, MAX_ANSWER_BYTES, |body| parse_success(body, &row.entry)).await
    }

    fn reconnect(&self) {
        self.connections.drop_all();
    }
}

fn unbuilt<T>() -> Reply<T> {
    Reply::unheard(Fault::Unreachable, "the request could not be built")
}

enum Read {
    Whole(Vec<u8>),
    TooLong,
}

async fn read_body(response: &mut Response, most: usize) -> Result<Read, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > most {
            return Ok(Read::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Read::Whole(body))
}

/// Every value of this header that is text.
fn text_headers<'h>(headers: &'h HeaderMap, name: &str) -> impl Iterator<Item = &'h str> {
    headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok())
}

/// The message in an error's body, in any of the envelopes that the API and its gateway are known to use; failing
/// that, the body itself.
fn message(body: &[u8]) -> Option<String> {
    let body = without_bom(body);
    let text = String::from_utf8_lossy(body);
    let said = serde_json::from_slice::<serde_json::Value>(body).ok().and_then(|value| {
        ["/error_message", "/error/message", "/message", "/error", "/detail"]
            .iter()
            .find_map(|path| value.pointer(path)?.as_str().map(str::to_owned))
    });
    said.or_else(|| (!text.trim().is_empty()).then(|| text.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_is_found_in_every_known_envelope() {
        let envelopes = [
            r#"{"success":false,"error":"Bad","error_id":"x","error_code":"BAD","error_message":"said","data":null}"#,
            r#"{"error":{"code":"BAD","id":"x","message":"said","correlation_id":"x"}}"#,
            r#"{"message":"said","errors":[{"field":"ids","message":"other"}]}"#,
            r#"{"message":"said"}"#,
            r#"{"success":false,"error":"said","error_message":null}"#,
            " said\n",
            "\u{feff}{\"message\":\"said\"}",
        ];
        for envelope in envelopes {
            assert_eq!(message(envelope.as_bytes()).as_deref(), Some("said"), "{envelope}");
        }
        assert_eq!(message(b" \n"), None);
        assert_eq!(message(b"[1]").as_deref(), Some("[1]"));
    }

    #[test]
    fn a_single_entry_is_answered_with_an_object_that_has_a_boolean() {
        let entry = EntryId::parse("7").unwrap();
        let parse = |body: &str| parse_success(body.as_bytes(), &entry).ok().map(|said| (said.deleted, said.failed));
        let seven = || vec!["7".to_owned()];
        assert_eq!(parse(r#" {"success": true, "more": []}"#), Some((seven(), vec![])));
        assert_eq!(parse(r#"{"success":false}"#), Some((vec![], seven())));
        assert_eq!(parse("\u{feff}{\"success\":true}"), Some((seven(), vec![])));
        for other in ["", "true", "[true]", "{}", r#"{"success":null}"#, r#"{"success":"true"}"#, r#"{"success":1}"#] {
            assert_eq!(parse(other), None, "{other}");
        }
        assert_eq!(parse(r#"{"success":true,"success":false}"#), None, "twice");
        assert_eq!(parse(r#"{"success":true} x"#), None);
    }

    #[test]
    fn the_agent_and_the_entry_are_exactly_one_percent_encoded_segment_each() {
        let options = Options {
            base_url: Url::parse("http://127.0.0.1:9/prefix/").unwrap(),
            key: KeySource::Given("k".into()),
            proxy: None,
            ca_file: None,
            connect_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_secs(1),
        };
        let api = Api::new(options).unwrap();
        for agent in ["PROJECT-58RP822I", "%2e%2e", "a?b#c", "...", "a%2Fb", "a;b:c@d&e=f+g"] {
            let url = Url::parse(&api.url(&AgentId::parse(agent).unwrap())).unwrap();
            let segments: Vec<_> = url.path_segments().unwrap().collect();
            assert_eq!(segments.len(), 6, "{url}");
            let decoded = percent_encoding::percent_decode_str(segments[3]).decode_utf8().unwrap();
            assert_eq!(decoded, agent);
            assert_eq!((segments[0], segments[5], url.query(), url.fragment()), ("prefix", "bulk-delete", None, None));
        }
        let agent = AgentId::parse("a").unwrap();
        for entry in ["4711", "%2e%2e", "a?b#c", "...", "a%2Fb", "*", "a;b:c@d&e=f+g"].map(EntryId::parse) {
            let entry = entry.unwrap();
            let url = Url::parse(&api.entry_url(&agent, &entry)).unwrap();
            let segments: Vec<_> = url.path_segments().unwrap().collect();
            assert_eq!((segments.len(), url.query(), url.fragment()), (6, None, None), "{url}");
            let decoded = percent_encoding::percent_decode_str(segments[5]).decode_utf8().unwrap();
            assert_eq!(decoded, entry.as_str());
        }
    }
}
