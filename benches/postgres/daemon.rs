//! The daemon, in a process of its own.

use std::process::{Command, Stdio};

/// Requests in flight, for everybody.
pub const CONCURRENCY: &str = "64";

/// `sweeper run` on a database, with the limiter out of the way; its log goes nowhere.
pub fn daemon(database: &str, api: &str, linger: &str) -> Command {
    let settings = [
        ("DATABASE__URL", database),
        ("API__BASE_URL", api),
        ("API__KEY", "k"),
        ("RATE_LIMIT__REQUESTS_PER_SECOND", "100000"),
        ("RATE_LIMIT__BURST", "100000"),
        ("DELIVERY__CONCURRENCY", CONCURRENCY),
        ("DELIVERY__LINGER", linger),
    ];
    let settings = settings.map(|(key, value)| (format!("SWEEPER__{key}"), value));
    let mut command = Command::new(env!("CARGO_BIN_EXE_sweeper"));
    command.arg("run").env_clear().envs(settings).env("SWEEPER_CONFIG", "").stdout(Stdio::null());
    command
}
