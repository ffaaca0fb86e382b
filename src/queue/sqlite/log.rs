//! Log events about SQLite's own matters.

use tracing::{error, warn};

use super::{
    StoreError,
    schema_watch::{SchemaChange, names_of},
    upkeep::WalBacklog,
};
use crate::event;

/// A reader keeps SQLite from copying the WAL into the file.
pub(super) fn wal_growing(WalBacklog { bytes, readers }: &WalBacklog) {
    let names: Vec<String> = readers.iter().map(|(pid, name)| format!("{pid} {name}")).collect();
    warn!(
        event = event::WAL_GROWING,
        mib = bytes >> 20,
        readers = names.join(", "),
        "the write-ahead log grows, because a reader keeps a transaction open: end that process"
    );
}

/// The tables are not as our migrations make them.
pub(super) fn schema_modified(foreign: &[SchemaChange]) {
    warn!(
        event = event::SCHEMA_MODIFIED,
        names = names_of(foreign),
        "the tables are not as sweeper makes them: triggers of others run inside the daemon's transactions, their indexes slow these \
         down, and triggers of ours that are changed or missing do not protect the queue"
    );
}

/// A foreign trigger may have kept a statement from its effect, if that is what the error says.
pub(super) fn trigger_interference(error: &StoreError) {
    if let Some(foreign) = error.interference() {
        error!(
            event = event::TRIGGER_INTERFERENCE,
            names = names_of(foreign),
            %error,
            "a statement did not have its effect; nothing more is sent"
        );
    }
}
