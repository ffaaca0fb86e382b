//! The configuration as written: every key is known, and every value is still text.

use std::fmt;

use serde::Deserialize;

/// All sections. An unknown section or key is an error.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    pub(super) database: RawDatabase,
    pub(super) api: RawApi,
    pub(super) rate_limit: RawRateLimit,
    pub(super) delivery: RawDelivery,
    pub(super) retry: RawRetry,
    pub(super) hold: RawHold,
    pub(super) queue: RawQueue,
    pub(super) log: RawLog,
    pub(super) http: RawHttp,
    pub(super) shutdown: RawShutdown,
}

/// Defines a section of [`RawConfig`].
macro_rules! section {
    ($name:ident { $($key:ident: $type:ty),+ $(,)? }) => {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(super) struct $name {
            $(pub(super) $key: $type),+
        }

        impl $name {
            const KEYS: &[&str] = &[$(stringify!($key)),+];
        }
    };
}

section!(RawDatabase {
    path: String,
    url: Option<List>,
    password_file: Option<String>,
    ca_file: Option<String>,
    lease: String,
    busy_timeout: String,
    synchronous: String,
});
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
section!(RawQueue { poll_interval: String, retention: String, evidence_retention: String });
section!(RawLog { format: String, filter: String, requests: String });
section!(RawHttp { listen: String, hosts: List, token: Option<Secret>, token_file: Option<String> });
section!(RawShutdown { grace: String });

/// Every section with the names of its keys.
pub(super) const SECTIONS: [(&str, &[&str]); 10] = [
    ("database", RawDatabase::KEYS),
    ("api", RawApi::KEYS),
    ("rate_limit", RawRateLimit::KEYS),
    ("delivery", RawDelivery::KEYS),
    ("retry", RawRetry::KEYS),
    ("hold", RawHold::KEYS),
    ("queue", RawQueue::KEYS),
    ("log", RawLog::KEYS),
    ("http", RawHttp::KEYS),
    ("shutdown", RawShutdown::KEYS),
];

/// Text that `Debug` does not print. secrecy's own type cannot be deserialized without another feature.
#[derive(Debug, Deserialize)]
#[serde(from = "String")]
pub(super) struct Secret(pub(super) secrecy::SecretString);

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

/// One value, or a list of them. `Debug` does not print them: a URL may have a password in it.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum List {
    One(String),
    Several(Vec<String>),
}

impl List {
    pub(super) fn as_slice(&self) -> &[String] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::Several(values) => values,
        }
    }
}

impl fmt::Debug for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().finish_non_exhaustive()
    }
}
