//! The first lines of a daemon's log.

use tracing::{info, warn};

use crate::{config::Config, event};

/// One start of the daemon, which may take several tries.
#[derive(Default)]
pub(super) struct Start {
    is_logged: bool,
}

impl Start {
    /// Logs once that the daemon has started, and what its operator should know. `created`: the database was made; `adopted`: it was a
    /// loaded dump.
    pub(super) fn log(&mut self, config: &Config, created: bool, adopted: bool) {
        if std::mem::replace(&mut self.is_logged, true) {
            return;
        }
        info!(
            event = event::STARTED,
            version = env!("CARGO_PKG_VERSION"),
            database = config.store.name(),
            created,
            adopted,
            api = %config.base_url,
            requests_per_second = config.rate.requests_per_second,
            burst = config.rate.burst,
            concurrency = config.worker.concurrency,
            "started"
        );
        for exposure in config.exposures() {
            let (path, mode, setting) = (exposure.path.display(), format!("{:04o}", exposure.mode), exposure.what);
            let may = exposure.may();
            warn!(event = event::KEY_EXPOSED, setting, %path, mode, "the file with the API key: {may}; chmod 600 ends that");
        }
        if !config.unused_proxies.is_empty() {
            let variables = config.unused_proxies.join(", ");
            warn!(
                event = event::PROXY_IGNORED,
                variables, "the environment names a proxy, which is not used; api.proxy names the one to use"
            );
        }
    }
}
