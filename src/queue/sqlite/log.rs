//! Log events about SQLite's own matters.

use tracing::warn;

use super::upkeep::WalBacklog;
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
