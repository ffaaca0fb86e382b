//! The API's client: sends one request and reads its response. Nothing is retried here.

mod answer;
mod aside;
mod connections;
pub mod key;
mod listing;
mod rate_headers;
mod reply;
mod retry_after;
mod trial;

use std::{
    future::Future,
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Mutex, PoisonError, RwLock},
    time::Duration,
};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url, header::CONTENT_TYPE};
use serde::Serialize;
use tracing::warn;
use uuid::Uuid;

use connections::{Connections, Settings, describe, fault_of};
pub use connections::{MAX_AGE, MAX_FAULTS, SetupError};
pub use listing::{Entry, Order, PAGE_SIZE, Page};
pub use reply::Reply;
use reply::{Read, message, read_body, text_headers};
pub use trial::Trial;

use crate::{
    api::{
        aside::Aside,
        key::{Key, KeyError, KeySource, Keys},
    },
    event,
    model::{
        clock::Clock,
        deletion::{AgentId, Batch, EntryId},
        envelope::Envelope,
        outcome::Fault,
        remedy::Names,
    },
};

/// The header with the correlation ID of a request. The API sends ours back, and PolyAI's support asks for it.
pub const CORRELATION_ID: &str = "x-polyai-correlation-id";

/// The longest answer that is read, in bytes. Twenty IDs of 255 bytes are 6 KiB, so this is forty times an answer. Parsed into
/// short strings, it takes fifteen times as much memory, and `delivery.concurrency` requests may read one at the same time.
pub const MAX_ANSWER_BYTES: usize = 256 << 10;

/// How many bytes of an error's body are read for its message.
const MAX_ERROR_BYTES: usize = 16 << 10;

/// How many characters of a message from outside are kept.
const MAX_DETAIL_CHARS: usize = 300;

/// How many correlation IDs of one response are kept.
const MAX_REMOTE_IDS: usize = 8;

/// How long reading a file may take. After that, the key or the certificates that were read before stay in use.
const PATIENCE: Duration = Duration::from_secs(5);

/// Every character that a path segment must escape: all but RFC 3986's unreserved characters.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The options of the client.
#[derive(Clone, Debug)]
pub struct Options {
    /// The base URL, such as `https://api.us.poly.ai`. Its path is kept.
    pub base_url: Url,
    /// Where the key comes from.
    pub key: KeySource,
    /// The HTTP proxy, if requests go through one. A base URL with `http://` is always reached directly.
    pub proxy: Option<Url>,
    /// A PEM file with certificates of issuers that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// The longest time that DNS, TCP and TLS together may take.
    pub connect_timeout: Duration,
    /// The longest time from the start of a request to the last byte of its answer.
    pub request_timeout: Duration,
}

/// Carries requests out: [`Api`] over the network, and in the simulator a model of the API.
pub trait Transport: Send + Sync + 'static {
    /// Sends one bulk delete with the batch's IDs.
    fn bulk_delete(&self, batch: &Batch, correlation_id: Uuid) -> impl Future<Output = Reply> + Send;

    /// Sends one single-entry DELETE for the only row of the batch.
    fn delete_one(&self, batch: &Batch, correlation_id: Uuid) -> impl Future<Output = Reply> + Send;

    /// Stops using the connections that are open now, because one of them has delivered the answer to another request. A request
    /// in flight keeps its connection to its end.
    fn reconnect(&self) {}

    /// The settings that remedies name.
    fn names(&self) -> Names {
        Names::default()
    }

    /// Uses this key, read from this source, for new requests. Returns whether it is another one.
    fn use_key(&self, _: KeySource, _: Key) -> bool {
        false
    }
}

/// The client of the API.
#[derive(Debug)]
pub struct Api {
    connections: Connections,
    base: String,
    names: Names,
    source: RwLock<KeySource>,
    keys: RwLock<Keys>,
    /// Reads the key file.
    aside: Aside,
    /// The last logged reason why the key file cannot be used.
    key_problem: Mutex<Option<String>>,
}

/// Why no client can be made.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// There is no usable key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// TLS could not be set up.
    #[error(transparent)]
    Setup(#[from] SetupError),
}

#[derive(Serialize)]
struct Body<'a> {
    ids: Vec<&'a str>,
}

impl Api {
    /// Reads the key and sets up the client. Nothing is sent.
    ///
    /// # Errors
    /// If there is no usable key, or TLS cannot be set up.
    pub fn new(options: Options) -> Result<Self, ApiError> {
        // Fails if a provider is already installed. That one is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let Options { base_url, key, proxy, ca_file, connect_timeout, request_timeout } = options;
        let is_tls = base_url.scheme() != "http";
        let settings = Settings { is_tls, proxy, ca_file, connect_timeout, request_timeout };
        let connections = Connections::new(settings, Clock::system())?;
        let keys = RwLock::new(Keys::new(key.read()?));
        let base = base_url.as_str().trim_end_matches('/').to_owned();
        let names = Names::default();
        Ok(Self {
            connections,
            base,
            names,
            source: RwLock::new(key),
            keys,
            aside: Aside::default(),
            key_problem: Mutex::default(),
        })
    }

    /// Replaces the clock, which tells the age of the connections.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { connections: self.connections.with_clock(clock), ..self }
    }

    /// Sets the settings that remedies name. By default, these are the keys of the configuration without their values.
    #[must_use]
    pub fn named(self, names: Names) -> Self {
        Self { names, ..self }
    }

    /// The client for new requests.
    async fn client(&self) -> Client {
        self.connections.client().await
    }

    fn key(&self) -> Key {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).current().clone()
    }

    /// Makes text from outside fit for a log line and a database: without any key, without control characters, and short. The
    /// keys are removed before the text is cut, because a part of a key could not be recognised.
    fn clean(&self, text: &str) -> String {
        let text = self.keys.read().unwrap_or_else(PoisonError::into_inner).redact(text);
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_DETAIL_CHARS).collect()
    }

    fn url(&self, agent: &AgentId) -> String {
        format!("{}/bulk-delete", self.cache_url(agent))
    }

    /// The URL of an entry whose ID can be in a path.
    fn entry_url(&self, agent: &AgentId, entry: &EntryId) -> String {
        format!("{}/{}", self.cache_url(agent), utf8_percent_encode(entry.as_str(), SEGMENT))
    }

    fn cache_url(&self, agent: &AgentId) -> String {
        format!("{}/v1/agents/{}/audio-cache", self.base, utf8_percent_encode(agent.as_str(), SEGMENT))
    }

    /// Sends the request with the headers that every request has. `parse` reads the body of a 200, of up to `most` bytes.
    async fn send<T>(
        &self,
        request: RequestBuilder,
        correlation_id: Uuid,
        most: usize,
        parse: impl Fn(&[u8]) -> Result<T, String> + Send,
    ) -> Reply<T> {
        self.exchange(request, correlation_id, most, parse).await.0
    }

    /// The same. Also returns the address that answered: the proxy's, if requests go through one.
    async fn exchange<T>(
        &self,
        request: RequestBuilder,
        correlation_id: Uuid,
        most: usize,
        parse: impl Fn(&[u8]) -> Result<T, String> + Send,
    ) -> (Reply<T>, Option<SocketAddr>) {
        let key = self.key();
        let Ok(header) = key.header() else { return (unbuilt(), None) };
        let request = request.header("x-api-key", header).header(CORRELATION_ID, correlation_id.to_string());
        let (reply, peer) = match request.send().await {
            Ok(response) => {
                let peer = response.remote_addr();
                (self.read(response, &key, most, parse).await, peer)
            }
            Err(error) => (Reply::unheard(fault_of(&error), self.clean(&describe(&error))), None),
        };
        self.connections.heard(reply.result.as_ref().err());
        (reply, peer)
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
        let windows = rate_headers::parse(response.headers());
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
            // A status outside of 2xx is enough to judge, even if its body cannot be read.
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
        // The documentation names both statuses for a key that was replaced.
        let is_refused = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        let key_changed = is_refused && self.reread_key(key).await;
        let detail = detail.map(|detail| self.clean(&detail));
        Reply { result, status: Some(status.as_u16()), detail, remote_ids, envelope, windows, key_changed }
    }

    /// Reads the key file again. Returns true if it has another key than the refused one.
    async fn reread_key(&self, refused: &Key) -> bool {
        let source = self.source.read().unwrap_or_else(PoisonError::into_inner).clone();
        let KeySource::File(path) = source.clone() else { return false };
        let read = self.aside.run(PATIENCE, move || source.read()).await.unwrap_or_else(|| {
            let said = format!("could not be read within {} s: its file system hangs", PATIENCE.as_secs());
            Err(KeyError::File { path, source: io::Error::new(io::ErrorKind::TimedOut, said) })
        });
        self.log_key_problem(read.as_ref().err());
        // If the key cannot be read now, the old key stays in use.
        let Ok(found) = read else { return false };
        let changed = !found.is_same(refused);
        self.keys.write().unwrap_or_else(PoisonError::into_inner).replace(found);
        changed
    }

    /// Logs why the key file cannot be used, unless the last line said the same.
    fn log_key_problem(&self, error: Option<&KeyError>) {
        let problem = error.map(KeyError::to_string);
        let mut told = self.key_problem.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = problem.as_ref().filter(|problem| told.as_ref() != Some(problem)) {
            warn!(
                event = event::KEY_UNUSABLE,
                error, "the key file was read again and cannot be used; mend it: until then, the old key stays in use"
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
        self.send(request, correlation_id, MAX_ANSWER_BYTES, answer::parse_lists).await
    }

    async fn delete_one(&self, batch: &Batch, correlation_id: Uuid) -> Reply {
        // A URL is normalised on its way, so an ID that is no plain path segment would name another entry.
        let Some(row) = batch.only().filter(|row| row.entry.can_be_in_a_path()) else { return unbuilt() };
        let request = self.client().await.delete(self.entry_url(&batch.lane().agent, &row.entry));
        self.send(request, correlation_id, MAX_ANSWER_BYTES, |body| answer::parse_success(body, &row.entry)).await
    }

    fn reconnect(&self) {
        self.connections.drop_all();
    }

    fn names(&self) -> Names {
        self.names.clone()
    }

    fn use_key(&self, source: KeySource, key: Key) -> bool {
        let is_another = !key.is_same(&self.key());
        *self.source.write().unwrap_or_else(PoisonError::into_inner) = source;
        self.keys.write().unwrap_or_else(PoisonError::into_inner).replace(key);
        is_another
    }
}

fn unbuilt<T>() -> Reply<T> {
    Reply::unheard(Fault::Unreachable, "the request could not be built")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_and_the_entry_are_exactly_one_percent_encoded_segment_each() {
        let options = Options {
            base_url: Url::parse("http://127.0.0.1:9/prefix/").unwrap(),
            key: "k".into(),
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
