//! The log: its events, its formats and its output. The events are an interface; the README documents them.

mod writer;

use std::{
    fs::File,
    io::{self, IsTerminal as _, Write},
    os::fd::AsFd as _,
};

use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use writer::Lines;
pub use writer::dropped_lines;

/// The values of the field `event`. They are stable.
pub mod event {
    /// The daemon has started.
    pub const STARTED: &str = "started";
    /// Requests that an earlier daemon left unanswered were settled as lost.
    pub const RECOVERED: &str = "recovered";
    /// A request has ended, with an answer or without.
    pub const REQUEST: &str = "request";
    /// One row got a verdict. Logged at debug.
    pub const DELETION: &str = "deletion";
    /// Rows were made dead.
    pub const DEAD: &str = "dead";
    /// The API listed IDs that were not sent.
    pub const UNEXPECTED_IDS: &str = "unexpected_ids";
    /// A hold was placed, or renewed after a failed probe.
    pub const HOLD_PLACED: &str = "hold_placed";
    /// A hold has ended, and a request probes it.
    pub const HOLD_PROBED: &str = "hold_probed";
    /// The wall clock was set.
    pub const CLOCK_JUMPED: &str = "clock_jumped";
    /// The wall clock may be wrong, so nothing is pruned for an hour.
    pub const CLOCK_SUSPECT: &str = "clock_suspect";
    /// A response was the answer to another request.
    pub const RESPONSE_MISMATCH: &str = "response_mismatch";
    /// A response has a correlation ID that was never sent.
    pub const UNKNOWN_CORRELATION_ID: &str = "unknown_correlation_id";
    /// A hold was lifted.
    pub const HOLD_LIFTED: &str = "hold_lifted";
    /// The rate limit has changed.
    pub const RATE_CHANGED: &str = "rate_changed";
    /// The limit of requests in flight has changed.
    pub const CONCURRENCY_CHANGED: &str = "concurrency_changed";
    /// The key file has another key, which is used from now on.
    pub const KEY_CHANGED: &str = "key_changed";
    /// The key file was read again and cannot be used.
    pub const KEY_UNUSABLE: &str = "key_unusable";
    /// Other users may read or write a file with the key in it.
    pub const KEY_EXPOSED: &str = "key_exposed";
    /// The environment names a proxy, which is ignored.
    pub const PROXY_IGNORED: &str = "proxy_ignored";
    /// A single-entry DELETE was refused.
    pub const SINGLE_DELETE_REFUSED: &str = "single_delete_refused";
    /// The database has rows that no request can carry.
    pub const INVALID_ROWS: &str = "invalid_rows";
    /// The state of the queue. Logged once a minute.
    pub const SUMMARY: &str = "summary";
    /// Old rows were removed. Logged at debug.
    pub const PRUNED: &str = "pruned";
    /// The database cannot be used. The daemon tries again until it can.
    pub const DATABASE_UNAVAILABLE: &str = "database_unavailable";
    /// The database can be used again.
    pub const DATABASE_AVAILABLE: &str = "database_available";
    /// A message to the service manager could not be sent.
    pub const SD_NOTIFY_FAILED: &str = "sd_notify_failed";
    /// Metrics and health are served on this address.
    pub const LISTENING: &str = "listening";
    /// Metrics and health are no longer served.
    pub const HTTP_FAILED: &str = "http_failed";
    /// The rows could not be counted for a scrape.
    pub const COUNT_FAILED: &str = "count_failed";
    /// The write-ahead log (WAL) grows, because a reader keeps SQLite from copying it into the database.
    pub const WAL_GROWING: &str = "wal_growing";
    /// The tables have triggers or indexes that sweeper did not create, or some of its own were changed or are missing.
    pub const SCHEMA_MODIFIED: &str = "schema_modified";
    /// A statement of the daemon was undone, skipped or interrupted, probably by a trigger that sweeper did not create.
    pub const TRIGGER_INTERFERENCE: &str = "trigger_interference";
    /// The daemon begins to shut down.
    pub const STOPPING: &str = "stopping";
    /// The daemon has ended.
    pub const STOPPED: &str = "stopped";
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text for a person on a terminal, JSON for everything else.
    Auto,
    /// One line of text per event.
    Text,
    /// One JSON object per line.
    Json,
}

impl Format {
    /// Replaces `Auto` by the format for this standard output.
    #[must_use]
    pub fn resolve(self) -> Self {
        match self {
            Self::Auto if std::io::stdout().is_terminal() => Self::Text,
            Self::Auto => Self::Json,
            Self::Text | Self::Json => self,
        }
    }
}

/// The log of this process. Dropping it waits briefly for its last lines to be written.
#[derive(Debug)]
pub struct Log(Lines);

impl Log {
    /// Waits until all lines are written, but not long if nobody reads. Call this before printing to standard output.
    pub fn flush(&self) {
        self.0.flush();
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Starts logging to standard output. Only the first call in a process has an effect.
///
/// # Errors
/// If the thread that writes the log cannot be started.
pub fn init(format: Format, filter: EnvFilter) -> io::Result<Log> {
    let (format, is_coloured) = (format.resolve(), io::stdout().is_terminal());
    // The standard library's lock and buffer are avoided, because a process that ends must wait for neither.
    let output: Box<dyn Write + Send> = match io::stdout().as_fd().try_clone_to_owned() {
        Ok(output) => Box::new(File::from(output)),
        Err(_) => Box::new(io::stdout()),
    };
    let lines = Lines::to(output, format, is_coloured)?;
    let registry = tracing_subscriber::registry().with(filter);
    let set = match format {
        Format::Json => {
            let layer = tracing_subscriber::fmt::layer().json().flatten_event(true);
            registry.with(layer.with_writer(lines.clone())).try_init()
        }
        Format::Text | Format::Auto => {
            let layer = tracing_subscriber::fmt::layer().with_target(false).with_ansi(is_coloured);
            registry.with(layer.with_writer(lines.clone())).try_init()
        }
    };
    // This fails if a subscriber is set already: tests in one process share it.
    drop(set);
    Ok(Log(lines))
}
