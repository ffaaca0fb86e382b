//! Empties a SQLite queue of audio-cache deletions through PolyAI's bulk-delete API.
//!
//! Being built: the pure files, the store and the API client are here, the worker and the command line are not yet.

pub mod clock;

pub mod deletion;

pub mod backoff;

pub mod outcome;

pub mod lanes;

pub mod pace;

pub mod key;

pub mod api;

pub mod store;

pub mod telemetry;

pub mod config;

pub mod sandbox;

pub mod cli;

pub mod worker;
