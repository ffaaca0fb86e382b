//! The names of the log events: the values of the field `event`. Stable, one for each thing that is worth a line. The logs are
//! the interface, and the README has the table.

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
