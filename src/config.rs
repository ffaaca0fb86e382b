//! Configuration: as written (`RawConfig`), and as meant ([`Config`]).
//!
//! Three layers, each over the one before: `config/default.toml`, compiled in; a file; the environment.

mod paths;

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Display,
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use config::{ConfigError as LayerError, Environment, File, FileFormat, Value, ValueKind};
use reqwest::Url;
use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use crate::{
    api::{
        self,
        key::{Exposure, KeySource, looks_like_a_key},
    },
    durations,
    model::{backoff::Backoff, judge::Policy},
    pace::RateLimit,
    queue::sqlite,
    watch::telemetry::Format,
    worker,
};

/// Every key with its default and its meaning.
pub const DEFAULTS: &str = include_str!("../config/default.toml");

const PREFIX: &str = "SWEEPER";

/// Configuration that cannot be used. Says which key, what it is, and what is allowed; never the API key.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A layer cannot be read, or has a key that there is none of.
    #[error("configuration: {0}")]
    Layer(String),
    /// Values out of their limits; all of them, one a line.
    #[error("configuration:\n  {}", .problems.join("\n  "))]
    Values {
        /// What is wrong.
        problems: Vec<String>,
        /// [`Config::shown`], of this configuration.
        shown: BTreeMap<String, String>,
    },
    /// Nothing to call the API with.
    #[error(
        "configuration: no API key. Give one in the environment variable SWEEPER__API__KEY, or name a file that has it \
         in api.key_file (SWEEPER__API__KEY_FILE)"
    )]
    NoKey,
    /// Nobody to ask for the health.
    #[error(
        "configuration: http.listen is {0}, so there is nobody to ask; give it an address and a port, such as \
         127.0.0.1:9464, for the daemon and for this command (SWEEPER__HTTP__LISTEN)"
    )]
    NoListener(&'static str),
}

/// Configuration as written: every value is still text.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    database: RawDatabase,
    api: RawApi,
    rate_limit: RawRateLimit,
    delivery: RawDelivery,
    retry: RawRetry,
    hold: RawHold,
    queue: RawQueue,
    log: RawLog,
    http: RawHttp,
    shutdown: RawShutdown,
}

/// A section of [`RawConfig`]: all its keys are text.
macro_rules! section {
    ($name:ident { $($key:ident: $type:ty),+ $(,)? }) => {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct $name {
            $($key: $type),+
        }
    };
}

section!(RawDatabase { path: String, busy_timeout: String, synchronous: String });
section!(RawApi {
    region: String,
    base_url: Option<String>,
    key: Option<Secret>,
    key_file: Option<String>,
    proxy: String,
    ca_file: Option<String>,
    connect_timeout: String,
    request_timeout: String,
});
section!(RawRateLimit { requests_per_second: String, burst: String, adaptive: String });
section!(RawDelivery { batch_size: String, concurrency: String, linger: String });
section!(RawRetry { max_attempts: String, ask_singly: String, base_delay: String, max_delay: String });
section!(RawHold { after_faults: String, base_delay: String, max_delay: String, max_retry_after: String });
section!(RawQueue { poll_interval: String, retention: String });
section!(RawLog { format: String, filter: String });
section!(RawHttp { listen: String });
section!(RawShutdown { grace: String });

/// Text that is not to be printed.
#[derive(Debug, Deserialize)]
#[serde(from = "String")]
struct Secret(secrecy::SecretString);

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

/// Configuration as meant: every value is within its limits.
#[derive(Clone, Debug)]
pub struct Config {
    /// The database.
    pub store: sqlite::Options,
    /// Where the API is.
    pub base_url: Url,
    /// Where the key comes from, if that was said.
    pub key: Option<KeySource>,
    /// The configuration file, if the key is in it.
    pub file_with_key: Option<PathBuf>,
    /// The HTTP proxy, if any.
    pub proxy: Option<Url>,
    /// Variables of the environment that name a proxy, which is not used.
    pub unused_proxies: Vec<String>,
    /// A file with certificates that are believed beside those of the system.
    pub ca_file: Option<PathBuf>,
    /// For DNS, TCP and TLS together.
    pub connect_timeout: Duration,
    /// For the whole request.
    pub request_timeout: Duration,
    /// The highest rate.
    pub rate: RateLimit,
    /// Whether the rate that the API bears is to be found below that.
    pub adaptive: bool,
    /// How holds grow.
    pub hold_growth: Backoff,
    /// What the worker goes by.
    pub worker: worker::Settings,
    /// How log lines look.
    pub log_format: Format,
    /// Which are written.
    pub log_filter: String,
    /// Where metrics and health are told, if anywhere.
    pub listen: Option<SocketAddr>,
    /// Every key with its value as text, for people; the API key left out.
    pub shown: BTreeMap<String, String>,
}

impl Config {
    /// Reads all layers; `file` and `environment` override what is compiled in.
    ///
    /// # Errors
    /// If a layer cannot be read, a key is unknown, or values are out of their limits.
    pub fn load(file: Option<&Path>, environment: &HashMap<String, String>) -> Result<Self, ConfigError> {
        let mut builder = config::Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
        if let Some(path) = file {
            builder = builder.add_source(File::from(path).format(FileFormat::Toml));
        }
        let unused_proxies = proxies(environment);
        // An empty variable is none. But what this one was to say (`="$QUEUE"`) may be missing, and the default is another queue.
        let is_unnamed = environment
            .iter()
            .any(|(name, value)| name.eq_ignore_ascii_case("SWEEPER__DATABASE__PATH") && value.is_empty());
        let environment = Environment::with_prefix(PREFIX)
            .prefix_separator("__")
            .separator("__")
            .ignore_empty(true)
            .source(Some(environment.clone()));
        let mut builder = builder.add_source(environment);
        if is_unnamed {
            builder = builder.set_override("database.path", "").map_err(|error| layer_error(&error, file))?;
        }
        let layers = builder.build().map_err(|error| layer_error(&error, file))?;
        let shown = shown(&layers.cache);
        let file_with_key = file.filter(|file| is_key_of(file, &layers.cache)).map(Path::to_owned);
        let raw: RawConfig = layers.try_deserialize().map_err(|error| layer_error(&error, file))?;
        let mut config = Self { file_with_key, ..raw.validate(shown)? };
        if config.proxy.is_none() && config.base_url.scheme() != "http" {
            config.unused_proxies = unused_proxies;
        }
        Ok(config)
    }

    /// The files with the key that others may read or write.
    pub fn exposures(&self) -> impl Iterator<Item = Exposure> {
        let file =
            self.file_with_key.as_deref().and_then(|file| Exposure::of(file, "the configuration file with api.key"));
        self.key.as_ref().and_then(KeySource::exposure).into_iter().chain(file)
    }

    /// Whether the API is on this machine, and no real one.
    #[must_use]
    pub fn is_on_loopback(&self) -> bool {
        self.base_url.host_str().is_some_and(is_loopback)
    }

    /// What the API client needs.
    ///
    /// # Errors
    /// If there is no key.
    pub fn api(&self) -> Result<api::Options, ConfigError> {
        Ok(api::Options {
            base_url: self.base_url.clone(),
            key: self.key.clone().ok_or(ConfigError::NoKey)?,
            proxy: self.proxy.clone(),
            ca_file: self.ca_file.clone(),
            connect_timeout: self.connect_timeout,
            request_timeout: self.request_timeout,
        })
    }
}

/// Collects everything that is wrong, so that one run of `check` tells all of it.
#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    /// The value, or the problem and a stand-in that nobody gets to see.
    fn take<T>(&mut self, key: &str, written: &str, parsed: Result<T, String>, stand_in: T) -> T {
        parsed.unwrap_or_else(|problem| {
            let written = if looks_like_a_key(written) { HIDDEN.to_owned() } else { format!("{written:?}") };
            self.0.push(format!("{key} = {written}: {problem}"));
            stand_in
        })
    }

    fn file(&mut self, key: &str, written: &str) -> PathBuf {
        self.take(key, written, paths::file(written), PathBuf::new())
    }

    fn duration(&mut self, key: &str, written: &str, allowed: RangeInclusive<Duration>) -> Duration {
        let stand_in = *allowed.end();
        self.take(key, written, durations::parse(written, &allowed), stand_in)
    }

    fn number<T: FromStr + PartialOrd + Display + Copy>(
        &mut self,
        key: &str,
        written: &str,
        allowed: RangeInclusive<T>,
    ) -> T {
        let parsed = written
            .trim()
            .parse()
            .ok()
            .filter(|number| allowed.contains(number))
            .ok_or_else(|| format!("must be a number from {} to {}", allowed.start(), allowed.end()));
        let stand_in = *allowed.start();
        self.take(key, written, parsed, stand_in)
    }

    fn word<T: Copy>(&mut self, key: &str, written: &str, allowed: &[(&str, T)], stand_in: T) -> T {
        let words: Vec<&str> = allowed.iter().map(|(word, _)| *word).collect();
        let parsed = allowed
            .iter()
            .find(|(word, _)| *word == written.trim())
            .map(|(_, meant)| *meant)
            .ok_or_else(|| format!("must be one of {}", words.join(", ")));
        self.take(key, written, parsed, stand_in)
    }

    fn backoff(&mut self, section: &str, base: &str, max: &str) -> Option<Backoff> {
        let limits = ms(1)..=days(30);
        let base_delay = self.duration(&format!("{section}.base_delay"), base, limits.clone());
        let max_delay = self.duration(&format!("{section}.max_delay"), max, limits);
        Backoff::new(base_delay, max_delay)
            .map_err(|problem| self.0.push(format!("{section}.base_delay = {base:?}: {problem} ({max:?})")))
            .ok()
    }
}

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

const fn days(n: u64) -> Duration {
    Duration::from_secs(n * 24 * 60 * 60)
}

impl RawConfig {
    fn validate(self, shown: BTreeMap<String, String>) -> Result<Config, ConfigError> {
        let Self { database, api, rate_limit, delivery, retry, hold, queue, log, http, shutdown } = self;
        let mut problems = Problems::default();
        let p = &mut problems;
        // Shown as it is, also if it could be a key: `Config::shown` does so, too.
        let path = paths::database(&database.path).unwrap_or_else(|problem| {
            p.0.push(format!("database.path = {:?}: {problem}", database.path));
            PathBuf::new()
        });
        let store = sqlite::Options {
            path,
            busy_timeout: p.duration("database.busy_timeout", &database.busy_timeout, ms(0)..=ms(300_000)),
            synchronous: p.word(
                "database.synchronous",
                &database.synchronous,
                &[("full", sqlite::Synchronous::Full), ("normal", sqlite::Synchronous::Normal)],
                sqlite::Synchronous::Full,
            ),
        };
        let region = p.word(
            "api.region",
            &api.region,
            &[
                ("us", "https://api.us.poly.ai"),
                ("eu", "https://api.eu.poly.ai"),
                ("uk", "https://api.uk.poly.ai"),
                ("studio", "https://api.studio.poly.ai"),
            ],
            "https://api.us.poly.ai",
        );
        let (url_key, url) = match &api.base_url {
            Some(url) => ("api.base_url", url.as_str()),
            None => ("api.region", region),
        };
        // Not shown if it is refused: people put keys into URLs.
        let base_url = parse_base_url(url).map_err(|problem| p.0.push(format!("{url_key}: {problem}"))).ok();
        let key = match (api.key, api.key_file) {
            (Some(_), Some(_)) => {
                p.0.push("api.key and api.key_file: give one of them, not both".to_owned());
                None
            }
            (Some(Secret(key)), None) => Some(KeySource::Given(key)),
            (None, Some(path)) => Some(KeySource::File(p.file("api.key_file", &path))),
            (None, None) => None,
        };
        // Not shown if it is refused: people put passwords into URLs.
        let proxy = match api.proxy.trim() {
            "off" => None,
            url => parse_proxy(url).map_err(|problem| p.0.push(format!("api.proxy: {problem}"))).ok(),
        };
        let ca_file = api.ca_file.map(|path| p.file("api.ca_file", &path));
        let connect_timeout = p.duration("api.connect_timeout", &api.connect_timeout, ms(1)..=ms(600_000));
        let request_timeout = p.duration("api.request_timeout", &api.request_timeout, ms(1)..=ms(600_000));
        if request_timeout < connect_timeout {
            let (request, connect) = (&api.request_timeout, &api.connect_timeout);
            p.0.push(format!(
                "api.request_timeout = {request:?}: must not be shorter than api.connect_timeout ({connect:?})"
            ));
        }
        let rate = RateLimit {
            requests_per_second: p.number(
                "rate_limit.requests_per_second",
                &rate_limit.requests_per_second,
                0.001..=100_000.0,
            ),
            burst: p.number(
                "rate_limit.burst",
                &rate_limit.burst,
                NonZeroU32::MIN..=NonZeroU32::new(100_000).unwrap_or(NonZeroU32::MAX),
            ),
        };
        let adaptive = p.word("rate_limit.adaptive", &rate_limit.adaptive, &[("true", true), ("false", false)], true);
        let batch_size = p.number("delivery.batch_size", &delivery.batch_size, 1..=20);
        let concurrency = p.number("delivery.concurrency", &delivery.concurrency, 1..=1_024);
        let linger = p.duration("delivery.linger", &delivery.linger, ms(0)..=days(1));
        let max_attempts = p.number("retry.max_attempts", &retry.max_attempts, 1..=1_000);
        let ask_singly = p.word("retry.ask_singly", &retry.ask_singly, &[("true", true), ("false", false)], true);
        let retry = p.backoff("retry", &retry.base_delay, &retry.max_delay);
        let hold_after_faults = p.number("hold.after_faults", &hold.after_faults, 1..=1_000);
        let max_retry_after = p.duration("hold.max_retry_after", &hold.max_retry_after, ms(1)..=days(30));
        let hold_growth = p.backoff("hold", &hold.base_delay, &hold.max_delay);
        let poll_interval = p.duration("queue.poll_interval", &queue.poll_interval, ms(1)..=ms(600_000));
        let retention = p.duration("queue.retention", &queue.retention, ms(0)..=days(36_500));
        let grace = p.duration("shutdown.grace", &shutdown.grace, ms(0)..=days(1));
        let log_format = p.word(
            "log.format",
            &log.format,
            &[("auto", Format::Auto), ("text", Format::Text), ("json", Format::Json)],
            Format::Auto,
        );
        let listen = match http.listen.trim() {
            "off" => None,
            listen => {
                let parsed = listen.parse().map(Some);
                let problem =
                    |_| "must be an address and a port such as 127.0.0.1:9464 or [::]:9464, or off".to_owned();
                p.take("http.listen", &http.listen, parsed.map_err(problem), None)
            }
        };
        // A carriage return at its end would be the name of a module that nothing logs for.
        let log_filter = log.filter.trim().to_owned();
        if let Err(problem) = EnvFilter::try_new(&log_filter) {
            p.0.push(format!("log.filter = {:?}: {problem}", log.filter));
        }
        let (Some(base_url), Some(retry), Some(hold_growth), true) =
            (base_url, retry, hold_growth, problems.0.is_empty())
        else {
            return Err(ConfigError::Values { problems: problems.0, shown });
        };
        let policy = Policy { max_attempts, ask_singly, retry, min_retry_after: hold_growth.base(), max_retry_after };
        let worker = worker::Settings {
            batch_size,
            concurrency,
            linger,
            policy,
            after_faults: hold_after_faults,
            longest_hold: hold_growth.delay(u32::MAX),
            poll_interval,
            retention,
            grace,
        };
        Ok(Config {
            store,
            base_url,
            key,
            file_with_key: None,
            proxy,
            unused_proxies: Vec::new(),
            ca_file,
            connect_timeout,
            request_timeout,
            rate,
            adaptive,
            hold_growth,
            worker,
            log_format,
            log_filter,
            listen,
            shown,
        })
    }
}

fn parse_base_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text.trim())
        .map_err(|problem| format!("is not a URL ({problem}); write it like https://api.us.poly.ai"))?;
    let loopback = url.host_str().is_some_and(is_loopback);
    match url.scheme() {
        "https" => {}
        "http" if loopback => {}
        "http" => {
            return Err("http:// would show the API key to the network; use https:// (http only on loopback)".into());
        }
        // Of a key with a colon in it, a part would pass for a scheme.
        other if ["ftp", "file", "ws", "wss"].contains(&other) => {
            return Err(format!("must be https://, not {other}://"));
        }
        _ => return Err("must be https://; write it like https://api.us.poly.ai".into()),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not carry a user or a password; the key goes into api.key".into());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must end with its path, without ? or #".into());
    }
    Ok(url)
}

/// The variables by which many programs take a proxy for `https://`.
fn proxies(environment: &HashMap<String, String>) -> Vec<String> {
    let named = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"].into_iter();
    named.filter(|name| environment.get(*name).is_some_and(|value| !value.is_empty())).map(str::to_owned).collect()
}

fn parse_proxy(text: &str) -> Result<Url, String> {
    let form = "write it like http://proxy.example.org:3128, or off";
    let url = Url::parse(text).map_err(|problem| format!("is not a URL ({problem}); {form}"))?;
    if url.scheme() != "http" {
        return Err(format!("must be http://: inside of it goes TLS to the API; {form}"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!("must not carry a user or a password, which it is not asked with; {form}"));
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(format!("must end with its port; {form}"));
    }
    Ok(url)
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// What stands for a value that may be the API key, pasted into the wrong place.
const HIDDEN: &str = "(not shown, because it looks like a key)";

/// Whether `api.key` is from this file.
fn is_key_of(file: &Path, root: &Value) -> bool {
    let inside = |value: &Value, key: &str| {
        let ValueKind::Table(table) = &value.kind else { return None };
        table.get(key).cloned()
    };
    let key = inside(root, "api").and_then(|api| inside(&api, "key"));
    // The origin of a file's value is its path, in some form; that of a variable is none.
    key.is_some_and(|key| key.origin().is_some_and(|origin| Path::new(origin).file_name() == file.file_name()))
}

/// Every key and its value, without the API key.
fn shown(root: &Value) -> BTreeMap<String, String> {
    fn walk(path: &str, value: &Value, into: &mut BTreeMap<String, String>) {
        if let ValueKind::Table(table) = &value.kind {
            for (key, value) in table {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                walk(&path, value, into);
            }
        } else {
            let text = match path {
                "api.key" => "[redacted]".to_owned(),
                // People put keys into URLs.
                "api.base_url" if parse_base_url(&value.to_string()).is_err() => "[refused, and not shown]".to_owned(),
                "api.proxy" if value.to_string() != "off" && parse_proxy(&value.to_string()).is_err() => {
                    "[refused, and not shown]".to_owned()
                }
                "api.key_file" | "api.ca_file" if Path::new(&value.to_string()).exists() => value.to_string(),
                "database.path" | "api.base_url" | "api.proxy" | "http.listen" | "log.filter" => value.to_string(),
                _ if looks_like_a_key(&value.to_string()) => HIDDEN.to_owned(),
                _ => value.to_string(),
            };
            into.insert(path.to_owned(), text);
        }
    }
    let mut into = BTreeMap::new();
    walk("", root, &mut into);
    into
}

/// What is wrong with a layer, without showing a value: it may be the key in the wrong place.
#[expect(clippy::wildcard_enum_match_arm, reason = "somebody else's enum: what else it has speaks for itself")]
fn layer_error(error: &LayerError, file: Option<&Path>) -> ConfigError {
    let place = |origin: &Option<String>, key: &Option<String>| {
        let origin = origin.as_deref().unwrap_or("the configuration");
        key.as_ref().map_or_else(|| origin.to_owned(), |key| format!("{key} in {origin}"))
    };
    ConfigError::Layer(match error {
        LayerError::FileParse { uri, cause } => {
            // The first line says where, the last one what; the lines between quote the file.
            let text = cause.to_string();
            let lines: Vec<&str> = text.lines().filter(|line| !line.contains('|')).map(str::trim).collect();
            format!("{}: {}", uri.as_deref().unwrap_or("file"), lines.join(": "))
        }
        LayerError::Type { origin, expected, key, .. } => format!("{}: must be {expected}", place(origin, key)),
        LayerError::At { error, origin, key } => format!("{}: {}", place(origin, key), inner(error)),
        LayerError::Foreign(cause) => match file {
            Some(file) => format!("{}: {cause}", file.display()),
            None => cause.to_string(),
        },
        other => other.to_string(),
    })
}

#[expect(clippy::wildcard_enum_match_arm, reason = "somebody else's enum: what else it has speaks for itself")]
fn inner(error: &LayerError) -> String {
    match error {
        LayerError::Type { expected, .. } => format!("must be {expected}"),
        other => {
            let text = other.to_string();
            // It would go on with the value. All values are text, so it can only be a section that is none.
            if text.starts_with("invalid type") { "must be a section with keys in it".to_owned() } else { text }
        }
    }
}
