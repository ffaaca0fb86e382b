//! The integration tests: one binary, a module per concern.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

mod alone;
mod bed;
mod binary;
mod build;
mod config;
mod contract;
mod crash;
mod crowded;
mod daemon;
mod delivery;
mod deploy;
mod enqueue;
mod health;
mod help;
mod holds;
mod hostile;
mod key;
mod logs;
mod older;
mod outside;
mod producers;
mod replies;
mod retry;
mod revive;
mod sandbox;
mod scrape;
mod shutdown;
mod simulator;
mod status;
mod storage;
mod store;
mod supervisor;
mod tidy;
mod tls;
mod waste;
