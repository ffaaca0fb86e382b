//! SIGHUP: reads the configuration and the key again, and hands the settings that can change to the worker.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    convert::Infallible,
    future::pending,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender},
    task::spawn_blocking,
    time::timeout,
};
use tracing::{error, warn};

use super::Failure;
use crate::{
    api::key::Key,
    config::{self, Config, ConfigError},
    event,
    model::remedy::Names,
    watch::telemetry::Log,
    worker::{Reload, Tunables},
};

/// The keys that a daemon takes over while it runs. A key that ends with a dot stands for its section. Every other key needs a
/// restart.
const TAKEN_OVER: [&str; 10] = [
    "rate_limit.",
    "delivery.",
    "retry.",
    "hold.",
    "queue.",
    "shutdown.",
    "log.filter",
    "log.requests",
    "api.key",
    "api.key_file",
];

/// How long reading may take: the files may be on a file system that hangs.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where the configuration is read from.
#[derive(Clone, Debug)]
pub(super) struct Layers {
    /// The value of `--config`.
    pub(super) argument: Option<PathBuf>,
    /// The environment, as it was at the start.
    pub(super) environment: HashMap<String, String>,
}

impl Layers {
    /// Reads the configuration.
    ///
    /// # Errors
    /// If it cannot be used.
    pub(super) fn load(&self) -> Result<Config, ConfigError> {
        let file = config::file(self.argument.clone(), &self.environment, Path::new(config::DEFAULT_FILE));
        Config::load(file.as_deref(), &self.environment)
    }
}

/// Reads the configuration again at each SIGHUP.
#[derive(Debug)]
pub(super) struct Reloader {
    layers: Layers,
    /// Every key with its value in effect.
    shown: BTreeMap<String, String>,
    /// The settings that remedies name. Another place of the API needs a restart.
    names: Names,
    log: Log,
    hangups: UnboundedReceiver<()>,
}

impl Reloader {
    /// A daemon runs with `config`, which was read from `layers`, and gets a message for each SIGHUP.
    pub(super) fn new(config: &Config, layers: Layers, log: Log, hangups: UnboundedReceiver<()>) -> Self {
        Self { layers, shown: config.shown.clone(), names: config.names.clone(), log, hangups }
    }

    /// Reads the configuration at each SIGHUP, and sends the result to the worker.
    pub(super) async fn serve(mut self, worker: UnboundedSender<Reload>) -> Infallible {
        loop {
            if self.hangups.recv().await.is_none() {
                return pending().await;
            }
            // One reading serves all signals that have come so far.
            while self.hangups.try_recv().is_ok() {}
            let reload = match read(self.layers.clone()).await {
                Ok((config, key)) => Reload::Take(Box::new(self.take_over(&config, key))),
                Err(said) => {
                    let error = said.split('\n').map(str::trim).collect::<Vec<_>>().join(" ");
                    error!(
                        event = event::RELOAD_FAILED,
                        error,
                        "the configuration was read again and cannot be used; the daemon goes on with the old one"
                    );
                    Reload::Refused
                }
            };
            // The worker is gone only when the daemon ends.
            let _ = worker.send(reload);
        }
    }

    /// Keeps the values of the keys that need a restart, and names these keys.
    fn take_over(&mut self, config: &Config, key: Key) -> Tunables {
        let (mut changes, mut kept) = (Vec::new(), Vec::new());
        let keys: BTreeSet<String> = self.shown.keys().chain(config.shown.keys()).cloned().collect();
        for key in keys {
            let (old, new) = (self.shown.get(&key), config.shown.get(&key));
            if old == new {
                continue;
            }
            let value = |value: Option<&String>| value.map_or("(not set)", String::as_str).to_owned();
            let change = format!("{key}: {} -> {}", value(old), value(new));
            if !is_taken_over(&key) {
                kept.push(change);
                continue;
            }
            changes.push(change);
            match new {
                Some(new) => self.shown.insert(key, new.clone()),
                None => self.shown.remove(&key),
            };
        }
        if !kept.is_empty() {
            let keys = kept.join(", ");
            warn!(event = event::RESTART_NEEDED, keys, "these settings stay as they are until the daemon is restarted");
        }
        self.names.key.clone_from(&config.names.key);
        Tunables {
            settings: config.worker,
            rate: config.rate,
            adaptive: config.adaptive,
            hold_growth: config.hold_growth,
            names: self.names.clone(),
            filter: Some(self.log.new_filter(&config.log_filter)),
            key: config.key.clone().map(|source| (source, key)),
            changes,
        }
    }
}

fn is_taken_over(key: &str) -> bool {
    TAKEN_OVER.iter().any(|known| *known == key || (known.ends_with('.') && key.starts_with(known)))
}

/// Reads the configuration and the key.
///
/// # Errors
/// The message of the one that cannot be used.
async fn read(layers: Layers) -> Result<(Config, Key), String> {
    let read = spawn_blocking(move || -> Result<_, Failure> {
        let config = layers.load()?;
        let key = config.key.as_ref().ok_or(ConfigError::NoKey)?.read()?;
        Ok((config, key))
    });
    match timeout(PATIENCE, read).await {
        Ok(Ok(read)) => read.map_err(|failure| failure.to_string()),
        Ok(Err(panic)) => Err(panic.to_string()),
        Err(_) => Err(format!("it could not be read within {} s: its file system hangs", PATIENCE.as_secs())),
    }
}
