//! The logs: who writes them where, and the names in them. Logs are the interface: the README has the table.

mod writer;

use std::{
    fs::File,
    io::{self, IsTerminal as _, Write},
    os::fd::AsFd as _,
};

use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use writer::Lines;
pub use writer::dropped_lines;

/// The values of the field `event`: stable, one for each thing that is worth a line.
pub mod event {
    /// The daemon has begun.
    pub const STARTED: &str = "started";
    /// Requests that a daemon before this one left unanswered were settled as lost.
    pub const RECOVERED: &str = "recovered";
    /// A request was answered, or was not.
    pub const REQUEST: &str = "request";
    /// What became of one row; at debug.
    pub const DELETION: &str = "deletion";
    /// Rows were given up.
    pub const DEAD: &str = "dead";
    /// The API listed IDs that were not sent.
    pub const UNEXPECTED_IDS: &str = "unexpected_ids";
    /// A hold was placed, or placed again after its probe.
    pub const HOLD_PLACED: &str = "hold_placed";
    /// A hold's time is up, and one request probes.
    pub const HOLD_PROBED: &str = "hold_probed";
    /// The wall clock was set.
    pub const CLOCK_JUMPED: &str = "clock_jumped";
    /// The wall clock may be wrong, and nothing is pruned for now.
    pub const CLOCK_SUSPECT: &str = "clock_suspect";
    /// An answer was that to another request.
    pub const RESPONSE_MISMATCH: &str = "response_mismatch";
    /// An answer has a correlation ID that nobody sent.
    pub const UNKNOWN_CORRELATION_ID: &str = "unknown_correlation_id";
    /// A hold was lifted.
    pub const HOLD_LIFTED: &str = "hold_lifted";
    /// The rate at which requests go out has changed.
    pub const RATE_CHANGED: &str = "rate_changed";
    /// So many requests may be on their way at a time, from here on.
    pub const CONCURRENCY_CHANGED: &str = "concurrency_changed";
    /// The key file has another key now.
    pub const KEY_CHANGED: &str = "key_changed";
    /// The key file was read again, and what is in it cannot be a key.
    pub const KEY_UNUSABLE: &str = "key_unusable";
    /// Others may read or write a file that the key is in.
    pub const KEY_EXPOSED: &str = "key_exposed";
    /// The environment names a proxy, which is not used.
    pub const PROXY_IGNORED: &str = "proxy_ignored";
    /// A request about one row was refused.
    pub const SINGLE_DELETE_REFUSED: &str = "single_delete_refused";
    /// Rows that no request can carry.
    pub const INVALID_ROWS: &str = "invalid_rows";
    /// How the queue stands; once a minute.
    pub const SUMMARY: &str = "summary";
    /// Old rows were removed; at debug.
    pub const PRUNED: &str = "pruned";
    /// The database cannot be used just now.
    pub const DATABASE_UNAVAILABLE: &str = "database_unavailable";
    /// It can be again.
    pub const DATABASE_AVAILABLE: &str = "database_available";
    /// The service manager's socket cannot be written.
    pub const SD_NOTIFY_FAILED: &str = "sd_notify_failed";
    /// Metrics and health are answered about on this address.
    pub const LISTENING: &str = "listening";
    /// Nobody answers there any more.
    pub const HTTP_FAILED: &str = "http_failed";
    /// The rows could not be counted for a scrape.
    pub const COUNT_FAILED: &str = "count_failed";
    /// The log of commits grows, because somebody keeps it from being copied into the file.
    pub const WAL_GROWING: &str = "wal_growing";
    /// Triggers and the like in the tables that are not ours, or not as we made them.
    pub const SCHEMA_MODIFIED: &str = "schema_modified";
    /// Such a one kept a statement from doing what it does.
    pub const TRIGGER_INTERFERENCE: &str = "trigger_interference";
    /// The daemon was told to end, or has nothing more to do.
    pub const STOPPING: &str = "stopping";
    /// The daemon has ended.
    pub const STOPPED: &str = "stopped";
}

/// How log lines look.
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
    /// What `Auto` means on this standard output.
    #[must_use]
    pub fn resolve(self) -> Self {
        match self {
            Self::Auto if std::io::stdout().is_terminal() => Self::Text,
            Self::Auto => Self::Json,
            Self::Text | Self::Json => self,
        }
    }
}

/// The log of this process. Dropping it waits a moment until its last lines are written.
#[derive(Debug)]
pub struct Log(Lines);

impl Log {
    /// Waits until all is written, but not for long if nobody reads: for those who print something else next.
    pub fn flush(&self) {
        self.0.flush();
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Logs to standard output from here on. The first call decides; later ones change nothing.
///
/// # Errors
/// If there can be no thread that writes the log.
pub fn init(format: Format, filter: EnvFilter) -> io::Result<Log> {
    let (format, is_coloured) = (format.resolve(), io::stdout().is_terminal());
    // Not through the standard library's lock and buffer: a process that ends must not wait for either.
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
    // There is one already: tests in one process share it.
    drop(set);
    Ok(Log(lines))
}
