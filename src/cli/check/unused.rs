//! The settings that have no effect. Whoever has set one believes that it has.

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use crate::{config::Config, durations, queue::either::Options};

/// A sentence for each setting that somebody has set and that does nothing, because of another one.
pub(super) fn settings(config: &Config) -> Vec<String> {
    let mut unused = Vec::new();
    if let Some(set) = &config.unused_region {
        let url = &config.base_url;
        unused
            .push(format!("api.region, set {set}, is not used: api.base_url is given, too, and requests go to {url}"));
    }
    if !config.unused_proxies.is_empty() {
        let variables = config.unused_proxies.join(", ");
        unused.push(format!("{variables}: the environment names a proxy, which is not used; api.proxy is off"));
    }
    if config.base_url.scheme() == "http" {
        let why = "an http:// base_url is on loopback, and is reached";
        if config.ca_file.is_some() {
            unused.push(format!("api.ca_file is not used, and was not read: {why} without TLS"));
        }
        if config.proxy.is_some() {
            unused.push(format!("api.proxy is not used: {why} directly"));
        }
    }
    let reasons = reasons(config);
    // A default is nobody's wish, and an empty value is none.
    let is_given = |key: &str| config.shown.get(key).is_some_and(|value| !value.is_empty());
    for (key, why) in reasons.into_iter().filter(|(key, _)| is_given(key)) {
        if let Some(set) = config.set.get(key) {
            unused.push(format!("{key}, set {set}, is not used: {why}"));
        }
    }
    unused
}

/// The keys that have no effect with this configuration, whether they are set or not.
fn reasons(config: &Config) -> Vec<(&'static str, String)> {
    let (worker, mut reasons) = (&config.worker, Vec::new());
    match &config.store {
        Options::Sqlite(_) => {
            reasons.push(("database.lease", "it is for a server, and the queue is a file (database.path)".to_owned()));
        }
        Options::Postgres(_) => {
            let why = "it is for a file, and the queue is on a server (database.url), which has synchronous_commit";
            reasons.push(("database.synchronous", why.to_owned()));
        }
    }
    if worker.batch_size == 1 {
        reasons.push(("delivery.linger", "delivery.batch_size is 1, so every request is full".to_owned()));
    }
    let (asked, least) = (worker.policy.max_retry_after, worker.policy.min_retry_after);
    if asked < least {
        reasons.push(("hold.max_retry_after", longer(asked, "hold.base_delay", least)));
    }
    if worker.evidence_retention < worker.retention {
        let why = longer(worker.evidence_retention, "queue.retention", worker.retention);
        reasons.push(("queue.evidence_retention", why));
    }
    // Failed requests are logged at warn, the others at info. What log.requests leaves out is logged at debug.
    let level = EnvFilter::try_new(&config.log_filter).ok().and_then(|filter| filter.max_level_hint());
    if level.is_some_and(|level| level < LevelFilter::WARN) {
        let why = format!(
            "log.filter is {}: failed requests are logged at warn, and the others at info or debug",
            config.log_filter
        );
        reasons.push(("log.requests", why));
    }
    if config.http.listen.is_none() {
        for key in ["http.hosts", "http.token", "http.token_file"] {
            reasons.push((key, "http.listen is off, so there is no page".to_owned()));
        }
    }
    reasons
}

fn longer(this: std::time::Duration, key: &str, that: std::time::Duration) -> String {
    format!("{key} is longer ({} instead of {}), and counts", durations::show(that), durations::show(this))
}
