//! How the API is reached: the pool of connections and how long it lives, the proxy, and whose certificates are believed.

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
    small_file,
};

/// After this time, new requests go over new connections: the host's name is resolved again, so that a busy daemon does not
/// stay with an address that is not in use any more.
pub const MAX_AGE: Duration = Duration::from_secs(60);
/// So they do after this many faults in a row that another server may not have,
pub const MAX_FAULTS: u32 = 3;
/// but not more often than this.
const MIN_AGE: Duration = Duration::from_secs(1);
/// Five times what a system's whole store of certificates takes.
const MAX_CA_BYTES: u64 = 1 << 20;

/// What has to be known for it.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) is_tls: bool,
    pub(super) proxy: Option<Url>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) connect_timeout: Duration,
    pub(super) request_timeout: Duration,
}

/// Why there can be no connection.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The file with certificates cannot be used.
    #[error("api.ca_file {path}: {source}")]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// The client cannot be built; mostly for want of certificates.
    #[error(
        "set up TLS: {0}; install the certificates of the system (the package is called ca-certificates), or name a file \
         with those to be believed in api.ca_file"
    )]
    Client(String),
}

/// The connections. Requests in flight keep theirs to their end.
#[derive(Debug)]
pub(super) struct Connections {
    settings: Settings,
    clock: Clock,
    pool: Mutex<Pool>,
    /// For the certificates.
    aside: Aside,
    /// For a new client, while nobody may use the old one.
    building: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Pool {
    client: Client,
    /// Elapsed time.
    made_at: Duration,
    /// In a row.
    faults: u32,
    /// No request goes over its connections any more, unless there is no other client to be had.
    is_over: bool,
}

impl Connections {
    /// None is made yet.
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

    /// The client that new requests go through.
    pub(super) async fn client(&self) -> Client {
        // After an answer was mixed up, nobody may use what is open; but one new client is enough for all who wait for it.
        let is_over = self.pool().is_over;
        let _building = if is_over { Some(self.building.lock().await) } else { None };
        if self.is_due() {
            let settings = self.settings.clone();
            let made = self.aside.run(PATIENCE, move || client(&settings)).await;
            let mut pool = self.pool();
            // It could be built at the start. What keeps it from being built now is a system in trouble, or a store of
            // certificates that is just being replaced: the old one is still good.
            if let Some(Ok(client)) = made {
                pool.client = client;
            }
            pool.is_over = false;
        }
        self.pool().client.clone()
    }

    /// Whether there is to be another client. While it is made for reasons of age, others may use the old one.
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

    /// No connection that is open now gets another request.
    pub(super) fn drop_all(&self) {
        self.pool().is_over = true;
    }

    /// What a request came to.
    pub(super) fn heard(&self, fault: Option<&Fault>) {
        let mut pool = self.pool();
        let is_of_the_server = match fault {
            Some(Fault::Garbled | Fault::Lost | Fault::Unreachable | Fault::Untrusted) => true,
            // 421: the API's own word for "you have reached the wrong server".
            Some(Fault::Status { status, .. }) => *status >= 500 || *status == 421,
            None => false,
        };
        pool.faults = if is_of_the_server { pool.faults.saturating_add(1) } else { 0 };
    }
}

/// A client with a pool of connections of its own. It reads the certificates anew.
fn client(settings: &Settings) -> Result<Client, SetupError> {
    let Settings { is_tls, proxy, ca_file, connect_timeout, request_timeout } = settings;
    let failed = |error: reqwest::Error| SetupError::Client(causes(&error));
    let mut builder = Client::builder()
        // A redirect would carry the key to wherever it points.
        .redirect(Policy::none())
        // Neither the environment's, nor any other that was not asked for.
        .no_proxy()
        .connect_timeout(*connect_timeout)
        .timeout(*request_timeout)
        .user_agent(concat!("audio-cache-sweeper/", env!("CARGO_PKG_VERSION")));
    if !is_tls {
        // Loopback: nobody's certificates are needed, and a proxy would be shown the key.
        return builder.tls_certs_only([]).build().map_err(failed);
    }
    if let Some(proxy) = proxy {
        // CONNECT: the proxy sees the host's name, and TLS from there on.
        builder = builder.proxy(Proxy::https(proxy.clone()).map_err(failed)?);
    }
    if let Some(path) = ca_file {
        let problem = |source| SetupError::CaFile { path: path.clone(), source };
        let (pem, _) = small_file::read(path, MAX_CA_BYTES).map_err(problem)?;
        let certificates = Certificate::from_pem_bundle(&pem).unwrap_or_default();
        if certificates.is_empty() {
            return Err(problem(io::Error::new(io::ErrorKind::InvalidData, "has no certificate in PEM in it")));
        }
        builder = builder.tls_certs_merge(certificates);
    }
    builder.build().map_err(failed)
}

/// Whether an error without an answer came before or after anything was sent.
pub(super) fn fault_of(error: &reqwest::Error) -> Fault {
    if !error.is_connect() && !error.is_builder() {
        Fault::Lost
    } else if is_refused_by_proxy(error) || is_about_trust(error) {
        Fault::Untrusted
    } else {
        Fault::Unreachable
    }
}

/// Whether there is no secure connection, and time alone mends that as little as it mends a key: the server has shown a
/// certificate that is not believed (an unknown issuer, an expired one, another host's), does not speak TLS as we do, or refuses
/// us.
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
    reason = "somebody else's enums: what else they have is of this connection only"
)]
fn is_lasting(error: &rustls::Error) -> bool {
    use rustls::{AlertDescription as Alert, Error, InvalidMessage};
    match error {
        Error::InvalidCertificate(_) | Error::NoCertificatesPresented | Error::PeerIncompatible(_) => true,
        // It speaks something else than TLS: a port for plain HTTP, say.
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

/// Whether the proxy asks for a user and a password. hyper-util keeps the type of this error to itself. Of any other answer to
/// CONNECT it does not say what it was: 403 is for a person, but not to be told from 502, which may pass.
fn is_refused_by_proxy(error: &reqwest::Error) -> bool {
    causes(error).contains("tunnel error: proxy authorization required")
}

/// The error with its causes; without the URL, which the log has anyway.
pub(super) fn describe(error: &reqwest::Error) -> String {
    let what = if error.is_timeout() { "timed out" } else { "failed" };
    let causes = causes(error);
    if is_refused_by_proxy(error) {
        return "the proxy refuses: 407 Proxy Authentication Required; api.proxy must be one that asks for no password"
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
