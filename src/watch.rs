//! Everything for those who watch the daemon: logs, metrics, health, the service manager, and the state of the queue in words.

pub mod telemetry;

pub mod health;

pub mod metrics;

pub mod supervisor;

pub mod http;

pub mod page;

pub(crate) mod report;
