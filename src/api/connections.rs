//! The connections to the API: the age of the pool, the proxy, and the trusted certificates.

use std::{
    error::Error as StdError,
    io,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use reqwest::{Certificate, Client, Proxy, Url, redirect::Policy};

use super::PATIENCE;
use crate::{
    api::aside::Aside,
    model::{clock::Clock, outcome::Fault},
    printable::absolute,
    small_file,
};

/// After this time, new requests use new connections, and the host's name is resolved again. Otherwise a busy daemon would keep
/// using an address that the API has left.
pub const MAX_AGE: Duration = Duration::from_secs(60);
/// After this many faults in a row of the kind that another server may not have, new requests use new connections, too.
pub const MAX_FAULTS: u32 = 3;
/// The shortest time between two changes of the connections because of [`MAX_FAULTS`].
const MIN_AGE: Duration = Duration::from_secs(1);
/// The longest `api.ca_file` that is read: five times a system's whole store of certificates.
const MAX_CA_BYTES: u64 = 1 << 20;

/// The settings of a client.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) is_tls: bool,
    pub(super) proxy: Option<Url>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) connect_timeout: Duration,
    pub(super) request_timeout: Duration,
}

/// Why no client can be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The file with trusted certificates cannot be used.
    #[error("api.ca_file {}: {source}", absolute(.path).display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The client cannot be built, usually because the system has no certificates.
    #[error(
        "set up TLS: {0}; install the system's certificates (the package is called ca-certificates), or name a file with \
         trusted certificates in api.ca_file"
    )]
    Client(String),
}

/// The pool of connections, and when it is replaced. A request in flight keeps its connection to its end.
#[derive(Debug)]
pub(super) struct Connections {
    settings: Settings,
    clock: Clock,
    pool: Mutex<Pool>,
    /// Reads the certificates.
    aside: Aside,
    /// Locked while a client is built that has to replace the old one before the next request.
    building: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Pool {
    client: Client,
    /// In elapsed time.
    made_at: Duration,
    /// Faults in a row of the kind that another server may not have.
    faults: u32,
    /// No request may use these connections any more, unless no other client can be built.
    is_over: bool,
}

impl Connections {
    /// Sets up a client. No connection is opened yet.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub(super) fn new(settings: Settings, clock: Clock) -> Result<Self, SetupError> {
        let pool = Pool { client: client(&settings)?, made_at: clock.elapsed(), faults: 0, is_over: false };
        Ok(Self {
            settings,
            clock,
            pool: Mutex::new(pool),
            aside: Aside::default(),
            building: tokio::sync::Mutex::default(),
        })
    }

    pub(super) fn with_clock(self, clock: Clock) -> Self {
        self.pool().made_at = clock.elapsed();
        Self { clock, ..self }
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client for new requests.
    pub(super) async fn client(&self) -> Client {
        // After a mixed-up answer, no open connection may be used. One new client is enough for all requests that wait for it.
        let is_over = self.pool().is_over;
        let _building = if is_over { Some(self.building.lock().await) } else { None };
        if self.is_due() {
            let settings = self.settings.clone();
            let made = self.aside.run(PATIENCE, move || client(&settings)).await;
            let mut pool = self.pool();
            // A client could be built at the start. If none can be built now, the system is in trouble or its certificates are
            // being replaced, and the old client is still good.
            if let Some(Ok(client)) = made {
                pool.client = client;
            }
            pool.is_over = false;
        }
        self.pool().client.clone()
    }

    /// Whether a new client is due. While one is built because of age, other requests may use the old one.
    fn is_due(&self) -> bool {
        let (mut pool, now) = (self.pool(), self.clock.elapsed());
        let age = now.saturating_sub(pool.made_at);
        let is_due = pool.is_over || age >= MAX_AGE || (pool.faults >= MAX_FAULTS && age >= MIN_AGE);
        if is_due {
            pool.made_at = now;
            pool.faults = 0;
        }
        is_due
    }

    /// Makes sure that no connection that is open now gets another request.
    pub(super) fn drop_all(&self) {
        self.pool().is_over = true;
    }

    /// Takes in the fault of a request, or its success.
    pub(super) fn heard(&self, fault: Option<&Fault>) {
        let mut pool = self.pool();
        let is_of_the_server = match fault {
            Some(Fault::Garbled | Fault::Lost | Fault::Unreachable | Fault::Untrusted) => true,
            // 421 Misdirected Request: the request has reached the wrong server.
            Some(Fault::Status { status, .. }) => *status >= 500 || *status == 421,
            None => false,
        };
        pool.faults = if is_of_the_server { pool.faults.saturating_add(1) } else { 0 };
    }
}

/// Builds a client with its own pool of connections. It reads the certificates again.
fn client(settings: &Settings) -> Result<Client, SetupError> {
    let Settings { is_tls, proxy, ca_file, connect_timeout, request_timeout } = settings;
    let failed = |error: reqwest::Error| SetupError::Client(causes(&error));
    let mut builder = Client::builder()
        // A redirect would carry the key to wherever it points.
        .redirect(Policy::none())
        // Only the configured proxy is used, and never the environment's.
        .no_proxy()
        .connect_timeout(*connect_timeout)
        .timeout(*request_timeout)
        .user_agent(concat!("audio-cache-sweeper/", env!("CARGO_PKG_VERSION")));
    if !is_tls {
        // The API is on loopback. It needs no certificates, and a proxy would see the key.
        return builder.tls_certs_only([]).build().map_err(failed);
    }
    if let Some(proxy) = proxy {
        // With CONNECT, the proxy sees the host's name and then only TLS.
        builder = builder.proxy(Proxy::https(proxy.clone()).map_err(failed)?);
    }
    if let Some(path) = ca_file {
        let problem = |source| SetupError::CaFile { path: path.clone(), source };
        let pem = small_file::read(path, MAX_CA_BYTES).map_err(problem)?;
        let certificates = Certificate::from_pem_bundle(&pem).unwrap_or_default();
        if certificates.is_empty() {
            return Err(problem(io::Error::new(io::ErrorKind::InvalidData, "has no certificate in PEM format in it")));
        }
        builder = builder.tls_certs_merge(certificates);
    }
    builder.build().map_err(failed)
}

/// The fault of a request without a response: it depends on whether anything can have been sent.
pub(super) fn fault_of(error: &reqwest::Error) -> Fault {
    if !error.is_connect() && !error.is_builder() {
        Fault::Lost
    } else if is_refused_by_proxy(error) || is_about_trust(error) {
        Fault::Untrusted
    } else {
        Fault::Unreachable
    }
}

/// Whether TLS failed in a way that only a person can mend: the server's certificate is not trusted (unknown issuer, expired,
/// of another host), the server does not speak TLS that we support, or it refuses us.
fn is_about_trust(error: &(dyn StdError + 'static)) -> bool {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return is_lasting(tls);
    }
    // An I/O error's own source leaves out the error that it wraps.
    let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    inner.is_some_and(|inner| is_about_trust(inner)) || error.source().is_some_and(is_about_trust)
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "another crate's enums: their other errors concern this connection only"
)]
fn is_lasting(error: &rustls::Error) -> bool {
    use rustls::{AlertDescription as Alert, Error, InvalidMessage};
    match error {
        Error::InvalidCertificate(_) | Error::NoCertificatesPresented | Error::PeerIncompatible(_) => true,
        // The server does not speak TLS: a port for plain HTTP, for example.
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => true,
        Error::AlertReceived(alert) => matches!(
            alert,
            Alert::HandshakeFailure
                | Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::UnknownCA
                | Alert::AccessDenied
                | Alert::ProtocolVersion
                | Alert::InsufficientSecurity
                | Alert::UnrecognisedName
                | Alert::CertificateRequired
                | Alert::NoApplicationProtocol
        ),
        _ => false,
    }
}

/// Whether the proxy asks for a user and a password. hyper-util keeps the type of this error private, so its text is compared.
/// Any other refusal of CONNECT has the same text whatever its status: a 403, which needs a person, looks like a 502, which
/// passes.
fn is_refused_by_proxy(error: &reqwest::Error) -> bool {
    causes(error).contains("tunnel error: proxy authorization required")
}

/// The error with its causes, without the URL, which the log has anyway.
pub(super) fn describe(error: &reqwest::Error) -> String {
    let what = if error.is_timeout() { "timed out" } else { "failed" };
    let causes = causes(error);
    if is_refused_by_proxy(error) {
        return "the proxy refuses: 407 Proxy Authentication Required; api.proxy must be a proxy that asks for no password"
            .to_owned();
    }
    if causes.ends_with("tunnel error: unsuccessful") {
        return format!("{what}: {causes}: the proxy (api.proxy) does not open a connection to the API");
    }
    if causes.is_empty() { what.to_owned() } else { format!("{what}: {causes}") }
}

fn causes(error: &reqwest::Error) -> String {
    let mut causes = Vec::new();
    let mut cause = StdError::source(error);
    while let Some(error) = cause {
        causes.push(error.to_string());
        cause = error.source();
    }
    causes.join(": ")
}
