//! What those hear who watch the daemon: logs, metrics, health, the service manager.

pub mod telemetry;

pub mod health;

pub mod metrics;

pub mod supervisor;

pub mod http;
