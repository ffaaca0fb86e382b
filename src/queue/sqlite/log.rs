//! What a person should know that is SQLite's own.

use tracing::{error, warn};

use super::{
    StoreError,
    trust::{Foreign, list},
    upkeep::Backlog,
};
use crate::event;

/// A reader keeps the write-ahead log from being copied into the file.
pub(super) fn wal_growing(Backlog { bytes, readers }: &Backlog) {
    let names: Vec<String> = readers.iter().map(|(pid, name)| format!("{pid} {name}")).collect();
    warn!(
        event = event::WAL_GROWING,
        mib = bytes >> 20,
        readers = names.join(", "),
        "the write-ahead log grows: a reader has kept one transaction open for long, so the log cannot be copied into the file"
    );
}

/// Something about the tables is not as our migrations make it.
pub(super) fn schema_modified(foreign: &[Foreign]) {
    warn!(
        event = event::SCHEMA_MODIFIED,
        names = list(foreign),
        "the tables are not as sweeper makes them: a trigger runs inside the daemon's transactions, and an index slows them down"
    );
}

/// A trigger of somebody else's kept a statement from doing what it does, if that is what the error says.
pub(super) fn trigger_interference(error: &StoreError) {
    if let Some(foreign) = error.foreign() {
        error!(
            event = event::TRIGGER_INTERFERENCE,
            names = list(foreign),
            %error,
            "a statement did not do what it does; nothing more is sent"
        );
    }
}
