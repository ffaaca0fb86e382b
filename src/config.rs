//! The configuration: as written (`RawConfig`), and as checked ([`Config`]).
//!
//! It has three layers, each of which overrides the one before: `config/default.toml`, which is compiled in; a file; the
//! environment.

mod file;
mod filter;
mod http;
pub(crate) mod nearest;
mod origin;
mod paths;
mod raw;
mod shown;
mod unknown;
mod urls;
mod validate;
mod values;
mod variables;

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use config::{Environment, File, FileFormat};
use reqwest::Url;

use file::FileLayer;
pub use http::{Http, TokenSource};
use origin::{Origin, Origins};
use raw::RawConfig;

use crate::{
    api::{
        self,
        key::{Exposure, KeySource},
    },
    model::{backoff::Backoff, remedy::Names},
    pace::RateLimit,
    printable::absolute,
    queue::{either, sqlite},
    watch::telemetry::Format,
    worker,
};

/// The text of `config/default.toml`: every key with its default and its meaning.
pub const DEFAULTS: &str = include_str!("../config/default.toml");

/// The configuration file that is read if no other is named.
pub const DEFAULT_FILE: &str = "/etc/sweeper/sweeper.toml";

/// The name that means no file.
const NO_FILE: &str = "none";

const PREFIX: &str = "SWEEPER";

/// Why a configuration cannot be used. The message names the key, its value and the allowed values, and never the API key.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A layer cannot be read.
    #[error("configuration: {0}")]
    Layer(String),
    /// A file or the environment sets what is no key. The message has a line for each.
    #[error("configuration:\n  {}", .0.join("\n  "))]
    Keys(Vec<String>),
    /// Values are out of their limits. The message has a line for each.
    #[error("configuration:\n  {}", .problems.join("\n  "))]
    Values {
        /// A line for each bad value.
        problems: Vec<String>,
        /// [`Config::shown`] of the refused configuration.
        shown: BTreeMap<String, String>,
    },
    /// There is no API key.
    #[error(
        "configuration: no API key. Give one in the environment variable SWEEPER__API__KEY, or name a file that has it \
         in api.key_file (SWEEPER__API__KEY_FILE)"
    )]
    NoKey,
    /// What was asked for works on a file alone.
    #[error("configuration: database.url is given, and this command works with a file (database.path) alone")]
    OnServer,
    /// The token of the page cannot be used.
    #[error("configuration: {0}")]
    Token(String),
    /// The daemon offers no health endpoint that could be asked.
    #[error(
        "configuration: http.listen is {0}, so there is no endpoint to ask; set it to an address and a port, such as \
         127.0.0.1:9464, for the daemon and for this command (SWEEPER__HTTP__LISTEN)"
    )]
    NoListener(&'static str),
}

/// The configuration as checked: every value is within its limits.
#[derive(Clone, Debug)]
pub struct Config {
    /// The absolute path of the configuration file, if one was read.
    pub file: Option<PathBuf>,
    /// How the database is opened.
    pub store: either::Options,
    /// The API's base URL.
    pub base_url: Url,
    /// Where the API key comes from; `None` if the configuration does not say.
    pub key: Option<KeySource>,
    /// The settings that remedies name: the place that the key is from, and the place of the API.
    pub names: Names,
    /// Where `api.region` was set, if it has no effect because `api.base_url` was set, too: `in FILE, line 3`. `check` warns
    /// of it.
    pub unused_region: Option<String>,
    /// The configuration file, if `api.key` is set in it.
    pub file_with_key: Option<PathBuf>,
    /// The configuration file, if `http.token` is set in it.
    pub file_with_token: Option<PathBuf>,
    /// The HTTP proxy, if requests go through one.
    pub proxy: Option<Url>,
    /// Variables of the environment that name a proxy, such as `HTTPS_PROXY`. They are ignored; `run` and `check` warn of it.
    pub unused_proxies: Vec<String>,
    /// A PEM file with certificates of issuers that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// The longest time that DNS, TCP and TLS together may take.
    pub connect_timeout: Duration,
    /// The longest time that a whole request may take.
    pub request_timeout: Duration,
    /// The highest rate of requests.
    pub rate: RateLimit,
    /// Whether the daemon searches for the API's own limit below that rate.
    pub adaptive: bool,
    /// The lengths of a hold that grows.
    pub hold_growth: Backoff,
    /// The settings of the worker.
    pub worker: worker::Settings,
    /// The format of log lines.
    pub log_format: Format,
    /// Which log lines are written: directives of `EnvFilter`.
    pub log_filter: String,
    /// Where metrics, health and the page are served, and to whom.
    pub http: Http,
    /// Where each value that is no default was set, by `section.key`: `in FILE, line 3`, or `by VARIABLE`.
    pub set: BTreeMap<String, String>,
    /// Every key with its value as text, for people. The API key is left out.
    pub shown: BTreeMap<String, String>,
}

/// The configuration file to read: `argument`, which is the value of `--config`; else the variable `SWEEPER_CONFIG`; else
/// `default`, if it is there. `none` or an empty variable means no file.
///
/// A `default` of which nobody can tell whether it is there is returned, too: reading the file then says what is wrong. To go
/// on with the built-in defaults would be to work on another queue.
#[must_use]
pub fn file(argument: Option<PathBuf>, environment: &HashMap<String, String>, default: &Path) -> Option<PathBuf> {
    if let Some(named) = argument.or_else(|| environment.get(variables::CONFIG).map(PathBuf::from)) {
        return Some(named).filter(|path| !path.as_os_str().is_empty() && path.as_os_str() != NO_FILE);
    }
    // Not `metadata`: a symbolic link to nowhere is there, too.
    let is_there = match default.symlink_metadata() {
        Ok(_) => true,
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    };
    is_there.then(|| default.to_owned())
}

impl Config {
    /// Reads all layers: `environment` overrides `file`, and `file` the defaults.
    ///
    /// # Errors
    /// If a layer cannot be read, a key is unknown, or values are out of their limits.
    pub fn load(file: Option<&Path>, environment: &HashMap<String, String>) -> Result<Self, ConfigError> {
        let file = file.map(FileLayer::read).transpose()?;
        let mut wrong = file.as_ref().map(|file| file.problems.clone()).unwrap_or_default();
        wrong.extend(variables::problems(environment));
        if !wrong.is_empty() {
            return Err(ConfigError::Keys(wrong));
        }
        let unused_proxies = urls::proxy_variables(environment);
        let mut builder = config::Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
        let mut origins = Origins::new();
        let mut path = None;
        if let Some(file) = file {
            path = Some(file.path);
            builder = builder.add_source(File::from_str(&file.text, FileFormat::Toml));
            origins = file.origins;
        }
        origins.extend(variables::origins(environment));
        builder = builder.add_source(
            Environment::with_prefix(PREFIX)
                .prefix_separator("__")
                .separator("__")
                .ignore_empty(true)
                .source(Some(environment.clone())),
        );
        for (key, variable) in variables::unnamed_database(environment) {
            origins.insert(key.to_owned(), Origin::Variable(variable));
            builder = builder.set_override(key, "").map_err(|error| layer_error(error, path.as_deref()))?;
        }
        let layers = builder.build().map_err(|error| layer_error(error, path.as_deref()))?;
        let shown = shown::shown(&layers.cache);
        let [file_with_key, file_with_token] =
            ["api.key", "http.token"].map(|key| origins.get(key).and_then(Origin::file).map(Path::to_owned));
        let unused_region = origins.get("api.region").filter(|_| origins.contains_key("api.base_url"));
        let unused_region = unused_region.map(ToString::to_string);
        let set = origins.iter().map(|(key, origin)| (key.clone(), origin.to_string())).collect();
        let names = names(&shown, &origins);
        let raw: RawConfig = layers.try_deserialize().map_err(|error| layer_error(error, path.as_deref()))?;
        let mut config = Self {
            file: path,
            names,
            file_with_key,
            file_with_token,
            unused_region,
            set,
            ..raw.validate(shown, origins)?
        };
        if config.proxy.is_none() && config.base_url.scheme() != "http" {
            config.unused_proxies = unused_proxies;
        }
        Ok(config)
    }

    /// The files with the key or the token in them that other users may read or write.
    pub fn exposures(&self) -> impl Iterator<Item = Exposure> {
        let of = |file: &Option<PathBuf>, what| file.as_deref().and_then(|file| Exposure::of(file, what));
        let exposures = [
            self.key.as_ref().and_then(KeySource::exposure),
            of(&self.file_with_key, "the configuration file with api.key"),
            self.http.token.as_ref().and_then(TokenSource::exposure),
            of(&self.file_with_token, "the configuration file with http.token"),
        ];
        exposures.into_iter().flatten()
    }

    /// Where the path or the URL of the database comes from: `set in FILE, line 3`, `set by VARIABLE`, or that it is the default.
    #[must_use]
    pub fn database_origin(&self) -> String {
        let origin = self.set.get("database.url").or_else(|| self.set.get("database.path"));
        origin.map_or_else(|| "the default, in the working directory".to_owned(), |origin| format!("set {origin}"))
    }

    /// The file, for what only a file can do.
    ///
    /// # Errors
    /// If the queue is on a server.
    pub fn sqlite(&self) -> Result<&sqlite::Options, ConfigError> {
        match &self.store {
            either::Options::Sqlite(options) => Ok(options),
            either::Options::Postgres(_) => Err(ConfigError::OnServer),
        }
    }

    /// Whether the API is on this machine, and so not the real one.
    #[must_use]
    pub fn is_on_loopback(&self) -> bool {
        self.base_url.host_str().is_some_and(urls::is_loopback)
    }

    /// The options of the API client.
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

/// The settings that remedies name. The values are those that people may see.
fn names(shown: &BTreeMap<String, String>, origins: &Origins) -> Names {
    let value = |key: &str| shown.get(key).map_or("", String::as_str);
    let api = ["api.base_url", "api.region"].into_iter().find(|key| shown.contains_key(*key)).unwrap_or("api.region");
    let key = match origins.get("api.key") {
        Some(origin) => format!("api.key (set {origin})"),
        None => match value("api.key_file") {
            shown::HIDDEN => format!("api.key_file {}", shown::HIDDEN),
            file => format!("api.key_file {}", absolute(Path::new(file)).display()),
        },
    };
    Names { api: format!("{api} = {}", value(api)), key }
}

/// Merging failed. Sections and keys were checked before, so only a number in the file can be out of the range of its type.
#[expect(clippy::wildcard_enum_match_arm, reason = "another crate's enum: its other errors have good messages")]
fn layer_error(error: config::ConfigError, file: Option<&Path>) -> ConfigError {
    let place = file.map(|file| format!("{}: ", file.display())).unwrap_or_default();
    // Never with a value: it may be the API key in the wrong place.
    ConfigError::Layer(match error {
        config::ConfigError::FileParse { cause, .. } => format!("{place}a number is out of range: {cause}"),
        other => format!("{place}{other}"),
    })
}
