//! `sweeper check`: the configuration in effect, and what is wrong with it.

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use super::{Failure, terminal::say};
use crate::{
    api::Api,
    config::{Config, ConfigError},
    durations, printable,
};

pub(super) const EXAMPLES: &str = "\
Example:
  sweeper check --config /etc/sweeper/sweeper.toml && systemctl restart sweeper

Exit codes: 0 the configuration can be used, 2 it cannot; the message names the key, its value and what is allowed.";

/// Prints the configuration, the delays that follow from it, and what a person should know about it.
///
/// # Errors
/// If the configuration cannot be used, or standard output cannot be written.
pub(super) fn check(config: Result<Config, ConfigError>) -> Result<ExitCode, Failure> {
    let config = match config {
        Ok(config) => config,
        Err(error) => {
            if let ConfigError::Values { shown, .. } = &error {
                say(&list_of(shown))?;
            }
            return Err(error.into());
        }
    };
    let file = config.file.as_ref().map(|file| format!("the configuration file is {}", file.display()));
    let file = file.unwrap_or_else(|| "no configuration file is read".to_owned());
    say(&format!("{}\n{file}\n{}", list_of(&config.shown), consequences(&config)))?;
    let options = config.api()?;
    let key = options.key.clone();
    // Making the client reads the key and the certificates.
    Api::new(options)?;
    for warning in warnings(&config, key.read()?.is_short()) {
        say(&format!("\n{warning}"))?;
    }
    say("\nthe configuration can be used")?;
    Ok(ExitCode::SUCCESS)
}

fn list_of(shown: &BTreeMap<String, String>) -> String {
    shown.iter().map(|(key, value)| format!("{key} = {}\n", printable::line(value))).collect()
}

/// Where requests go, and the delays after failures.
fn consequences(config: &Config) -> String {
    let policy = &config.worker.policy;
    let list = |delays: &[Duration]| delays.iter().map(|delay| durations::show(*delay)).collect::<Vec<_>>().join(", ");
    format!(
        "requests go to {}\n\
         a row that fails is tried {} times, with these delays between attempts (each up to a quarter longer): {}\n\
         after {} faults in a row, everything is held for (each up to a quarter longer): {}, …",
        config.base_url,
        policy.max_attempts,
        list(&policy.retry.schedule(policy.max_attempts)),
        config.worker.after_faults,
        list(&config.hold_growth.schedule(5)),
    )
}

/// Messages about settings that work but are probably mistakes.
fn warnings(config: &Config, key_is_short: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    for exposure in config.exposures() {
        let (path, mode, what, may) = (exposure.path.display(), exposure.mode, exposure.what, exposure.may());
        warnings.push(format!("{what} {path} has mode {mode:04o}: {may}; chmod 600 {path} ends that"));
    }
    if key_is_short && !config.is_on_loopback() {
        let said = "the API key is too short to be told from other text: if the API sends it back, the log shows it";
        warnings.push(said.to_owned());
    }
    if let Some(set) = &config.unused_region {
        let url = &config.base_url;
        warnings
            .push(format!("api.region, set {set}, is not used: api.base_url is given, too, and requests go to {url}"));
    }
    if !config.unused_proxies.is_empty() {
        let variables = config.unused_proxies.join(", ");
        warnings.push(format!("{variables}: the environment names a proxy, which is not used; api.proxy is off"));
    }
    if config.proxy.is_some() && config.base_url.scheme() == "http" {
        let said = "api.proxy is not used: an http:// base_url is on loopback, and is reached directly";
        warnings.push(said.to_owned());
    }
    warnings
}
