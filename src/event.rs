//! The names of the log events: the values of the field `event`. They are stable, because other programs read the logs.
//! docs/reference-logs.md has the table.

/// The daemon has started.
pub const STARTED: &str = "started";
/// Another daemon leads, or this program is too old to lead: this daemon stands by.
pub const STANDBY: &str = "standby";
/// This daemon leads.
pub const LEADING: &str = "leading";
/// Another daemon leads instead of this one.
pub const DEPOSED: &str = "deposed";
/// The server's clock and ours differ.
pub const CLOCK_SKEW: &str = "clock_skew";
/// A transaction that is open for long keeps the server from removing old rows.
pub const OLD_SNAPSHOT: &str = "old_snapshot";
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
/// An operator has held, released, retried, cancelled or enqueued something with a command.
pub const OPERATOR_ACT: &str = "operator_act";
/// The rate limit has changed.
pub const RATE_CHANGED: &str = "rate_changed";
/// The limit of requests in flight has changed.
pub const CONCURRENCY_CHANGED: &str = "concurrency_changed";
/// Requests are spaced evenly from now on, or may leave in a burst again.
pub const BURST_CHANGED: &str = "burst_changed";
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
/// Pending rows with values that the schema does not allow were made dead.
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
/// SIGHUP was received, and the configuration was read again.
pub const RELOADED: &str = "reloaded";
/// Settings were changed that only a restart applies.
pub const RESTART_NEEDED: &str = "restart_needed";
/// SIGHUP was received, and the configuration cannot be used. The settings stay as they are.
pub const RELOAD_FAILED: &str = "reload_failed";
/// The daemon begins to shut down.
pub const STOPPING: &str = "stopping";
/// A second signal ends the daemon at once.
pub const STOPPED_AT_ONCE: &str = "stopped_at_once";
/// The daemon has ended.
pub const STOPPED: &str = "stopped";
