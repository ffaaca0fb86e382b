//! Everything for those who watch the daemon: logs, metrics, health, and the service manager.

pub mod telemetry;

pub mod health;

pub mod metrics;

pub mod supervisor;

pub mod http;
