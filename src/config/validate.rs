//! The step from text to values: [`RawConfig::validate`] checks a section at a time.

use std::{collections::BTreeMap, num::NonZeroU32, path::PathBuf, time::Duration};

use reqwest::Url;

use super::{
    Config, ConfigError, filter, http,
    origin::Origins,
    paths,
    raw::{
        RawApi, RawConfig, RawDatabase, RawDelivery, RawHold, RawLog, RawQueue, RawRateLimit, RawRetry, RawShutdown,
        Secret,
    },
    urls,
    values::{Problems, days, ms},
};
use crate::{
    api::key::KeySource,
    model::{backoff::Backoff, judge::Policy, remedy::Names},
    pace::RateLimit,
    queue::{
        either,
        postgres::{self, Address},
        sqlite,
    },
    watch::telemetry::Format,
    worker::{self, LoggedRequests},
};

impl RawConfig {
    /// Checks every value. A problem names where its value was set, by `origins`. `shown` goes into the [`Config`] or the
    /// error as it is.
    pub(super) fn validate(self, shown: BTreeMap<String, String>, origins: Origins) -> Result<Config, ConfigError> {
        let Self { database, api, rate_limit, delivery, retry, hold, queue, log, http, shutdown } = self;
        let mut problems = Problems { found: Vec::new(), origins };
        let p = &mut problems;
        let store = store(&database, p);
        let api = Api::check(api, p);
        let (rate, adaptive) = rate(&rate_limit, p);
        let (log_format, log_filter, logged_requests) = logging(&log, p);
        let worker = worker(&delivery, &retry, &hold, &queue, &shutdown, logged_requests, p);
        let http = http::check(&http, p);
        let (Some(base_url), Some((worker, hold_growth)), true) = (api.base_url, worker, problems.found.is_empty())
        else {
            return Err(ConfigError::Values { problems: problems.found, shown });
        };
        let store = match store {
            either::Options::Postgres(options) => {
                either::Options::Postgres(postgres::Options { request_timeout: api.request_timeout, ..options })
            }
            either::Options::Sqlite(options) => either::Options::Sqlite(options),
        };
        Ok(Config {
            store,
            base_url,
            key: api.key,
            file: None,
            names: Names::default(),
            unused_region: None,
            file_with_key: None,
            file_with_token: None,
            proxy: api.proxy,
            unused_proxies: Vec::new(),
            ca_file: api.ca_file,
            connect_timeout: api.connect_timeout,
            request_timeout: api.request_timeout,
            rate,
            adaptive,
            hold_growth,
            worker: worker::Settings { request_timeout: api.request_timeout, ..worker },
            log_format,
            log_filter,
            http,
            set: BTreeMap::new(),
            shown,
        })
    }
}

/// The database: the server that `database.url` names, or else the file that `database.path` names.
fn store(raw: &RawDatabase, p: &mut Problems) -> either::Options {
    // The path is shown even if it looks like a key: `Config::shown` has it, too.
    let path = paths::database(&raw.path).unwrap_or_else(|problem| {
        p.add_shown("database.path", &raw.path, &problem);
        PathBuf::new()
    });
    let busy_timeout = p.duration("database.busy_timeout", &raw.busy_timeout, ms(0)..=ms(300_000));
    let synchronous = p.word(
        "database.synchronous",
        &raw.synchronous,
        &[("full", sqlite::Synchronous::Full), ("normal", sqlite::Synchronous::Normal)],
        sqlite::Synchronous::Full,
    );
    let lease = p.duration("database.lease", &raw.lease, ms(2_000)..=ms(60_000));
    let files = [("database.password_file", &raw.password_file), ("database.ca_file", &raw.ca_file)];
    let files = files.map(|(key, file)| file.as_ref().map(|file| p.file(key, file)));
    let Some(urls) = &raw.url else {
        for (key, _) in [("database.password_file", &files[0]), ("database.ca_file", &files[1])]
            .iter()
            .filter(|(_, file)| file.is_some())
        {
            p.add(key, "is for a server, and database.url names none; give database.url, or leave this out");
        }
        return either::Options::Sqlite(sqlite::Options { path, busy_timeout, synchronous });
    };
    if p.origins.contains_key("database.path") {
        let too = p.origin("database.path");
        p.add("database.url", &format!("database.path is given, too{too}; give one of them, not both"));
    }
    let [password_file, ca_file] = files;
    // A refused value is not shown: it may have a password in it.
    let address = Address::parse(urls.as_slice()).and_then(|address| address.with_files(password_file, ca_file));
    match address {
        Ok(address) => {
            // It is another section's.
            let request_timeout = Duration::ZERO;
            either::Options::Postgres(postgres::Options { address, busy_timeout, lease, request_timeout })
        }
        Err(problem) => {
            p.add("database.url", &problem.to_string());
            either::Options::Sqlite(sqlite::Options { path, busy_timeout, synchronous })
        }
    }
}

/// The section `api` as checked.
struct Api {
    base_url: Option<Url>,
    key: Option<KeySource>,
    proxy: Option<Url>,
    ca_file: Option<PathBuf>,
    connect_timeout: Duration,
    request_timeout: Duration,
}

impl Api {
    fn check(raw: RawApi, p: &mut Problems) -> Self {
        let base_url = base_url(&raw.region, raw.base_url.as_deref(), p);
        let key = match (raw.key, raw.key_file) {
            (Some(_), Some(_)) => {
                let too = p.origin("api.key_file");
                p.add("api.key", &format!("api.key_file is given, too{too}; give one of them, not both"));
                None
            }
            (Some(Secret(key)), None) => {
                let set = p.origins.get("api.key").map(ToString::to_string);
                Some(KeySource::Given { key, set })
            }
            (None, Some(path)) => Some(KeySource::File(p.file("api.key_file", &path))),
            (None, None) => None,
        };
        // A refused value is not shown: people put passwords into URLs.
        let proxy = match raw.proxy.trim() {
            "off" => None,
            url => urls::parse_proxy(url).map_err(|problem| p.add("api.proxy", &problem)).ok(),
        };
        let ca_file = raw.ca_file.map(|path| p.file("api.ca_file", &path));
        let connect_timeout = p.duration("api.connect_timeout", &raw.connect_timeout, ms(1)..=ms(600_000));
        let request_timeout = p.duration("api.request_timeout", &raw.request_timeout, ms(1)..=ms(600_000));
        if request_timeout < connect_timeout {
            let (request, connect) = (&raw.request_timeout, &raw.connect_timeout);
            let problem = format!("must not be shorter than api.connect_timeout ({connect:?})");
            p.add_shown("api.request_timeout", request, &problem);
        }
        Self { base_url, key, proxy, ca_file, connect_timeout, request_timeout }
    }
}

fn base_url(region: &str, given: Option<&str>, p: &mut Problems) -> Option<Url> {
    let of_region = p.word(
        "api.region",
        region,
        &[
            ("us", "https://api.us.poly.ai"),
            ("eu", "https://api.eu.poly.ai"),
            ("uk", "https://api.uk.poly.ai"),
            ("studio", "https://api.studio.poly.ai"),
        ],
        "https://api.us.poly.ai",
    );
    let (key, url) = given.map_or(("api.region", of_region), |url| ("api.base_url", url));
    // A refused value is not shown: people put keys into URLs.
    urls::parse_base_url(url).map_err(|problem| p.add(key, &problem)).ok()
}

fn rate(raw: &RawRateLimit, p: &mut Problems) -> (RateLimit, bool) {
    let most_burst = NonZeroU32::new(100_000).unwrap_or(NonZeroU32::MAX);
    let rate = RateLimit {
        requests_per_second: p.number("rate_limit.requests_per_second", &raw.requests_per_second, 0.001..=100_000.0),
        burst: p.number("rate_limit.burst", &raw.burst, NonZeroU32::MIN..=most_burst),
    };
    (rate, p.flag("rate_limit.adaptive", &raw.adaptive))
}

/// The worker's settings, and how holds grow.
fn worker(
    delivery: &RawDelivery,
    retry: &RawRetry,
    hold: &RawHold,
    queue: &RawQueue,
    shutdown: &RawShutdown,
    logged_requests: LoggedRequests,
    p: &mut Problems,
) -> Option<(worker::Settings, Backoff)> {
    let batch_size = p.number("delivery.batch_size", &delivery.batch_size, 1..=20);
    let concurrency = p.number("delivery.concurrency", &delivery.concurrency, 1..=1_024);
    let linger = p.duration("delivery.linger", &delivery.linger, ms(0)..=days(1));
    let max_attempts = p.number("retry.max_attempts", &retry.max_attempts, 1..=1_000);
    let ask_singly = p.flag("retry.ask_singly", &retry.ask_singly);
    let retry = p.backoff("retry", &retry.base_delay, &retry.max_delay);
    let after_faults = p.number("hold.after_faults", &hold.after_faults, 1..=1_000);
    let max_retry_after = p.duration("hold.max_retry_after", &hold.max_retry_after, ms(1)..=days(30));
    let growth = p.backoff("hold", &hold.base_delay, &hold.max_delay);
    let poll_interval = p.duration("queue.poll_interval", &queue.poll_interval, ms(1)..=ms(600_000));
    let retention = p.duration("queue.retention", &queue.retention, ms(0)..=days(36_500));
    let evidence_retention = p.duration("queue.evidence_retention", &queue.evidence_retention, ms(0)..=days(36_500));
    let grace = p.duration("shutdown.grace", &shutdown.grace, ms(0)..=days(1));
    let (retry, growth) = (retry?, growth?);
    let policy = Policy { max_attempts, ask_singly, retry, min_retry_after: growth.base(), max_retry_after };
    let longest_hold = growth.delay(u32::MAX);
    let settings = worker::Settings {
        batch_size,
        concurrency,
        linger,
        policy,
        after_faults,
        longest_hold,
        poll_interval,
        retention,
        evidence_retention,
        grace,
        // It is another section's.
        request_timeout: Duration::ZERO,
        logged_requests,
    };
    Some((settings, growth))
}

fn logging(raw: &RawLog, p: &mut Problems) -> (Format, String, LoggedRequests) {
    let format = p.word(
        "log.format",
        &raw.format,
        &[("auto", Format::Auto), ("text", Format::Text), ("json", Format::Json)],
        Format::Auto,
    );
    let filter = filter::parse(&raw.filter).unwrap_or_else(|problem| {
        // The filter is shown even if it looks like a key: `Config::shown` has it, too.
        p.add_shown("log.filter", &raw.filter, &problem);
        String::new()
    });
    let requests = p.word(
        "log.requests",
        &raw.requests,
        &[("all", LoggedRequests::All), ("failed", LoggedRequests::Failed), ("none", LoggedRequests::None)],
        LoggedRequests::All,
    );
    (format, filter, requests)
}
