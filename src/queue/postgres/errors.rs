//! Why the database cannot be used, and whether waiting helps.

use std::fmt;

use sqlx::migrate::MigrateError;

use super::{
    address::{Address, message_of},
    codes::{Class, class_of},
};
use crate::queue::{QueueError, Remedy};

/// Why the queue cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another daemon leads.
    #[error("database {address}: another sweeper works on this queue{}, and only one may", holder_text(.holder.as_deref()))]
    Taken {
        /// The database.
        address: Address,
        /// The session that has the lock, if it can be seen.
        holder: Option<String>,
    },
    /// The server is too old.
    #[error("database {address}: its server is PostgreSQL {version}; sweeper needs PostgreSQL 14 or newer")]
    OldServer {
        /// The database.
        address: Address,
        /// The server's major version.
        version: u32,
    },
    /// Made by a newer sweeper.
    #[error("database {address}: made by a newer sweeper (schema {version}); use that version or a newer one")]
    Newer {
        /// The database.
        address: Address,
        /// The first migration that this version does not know.
        version: i64,
    },
    /// The tables are those of an older sweeper.
    #[error(
        "database {address}: made by an older sweeper (schema {version}); `sweeper init`, or a daemon of this version, brings the \
         tables up to date once no other daemon leads"
    )]
    Older {
        /// The database.
        address: Address,
        /// The last migration that was made.
        version: i64,
    },
    /// There are no tables.
    #[error("database {address}: there is no queue in it yet; `sweeper init` makes one, and so does the first daemon")]
    Empty {
        /// The database.
        address: Address,
    },
    /// There may be a queue, which this role may not see.
    #[error(
        "database {address}: this role may not use the schema sweeper; its owner runs `sweeper grant --operator ROLE`, or \
         `sweeper grant --producer ROLE`"
    )]
    NoAccess {
        /// The database.
        address: Address,
    },
    /// A migration failed.
    #[error("database {address}: migrate: {source}")]
    Migrate {
        /// The database.
        address: Address,
        /// The migration's error.
        source: Box<MigrateError>,
    },
    /// The server cannot be reached, or refuses something.
    #[error(transparent)]
    Sql(#[from] StoreError),
}

impl OpenError {
    /// Whether waiting can help.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Sql(error) => error.remedy() == Remedy::Wait,
            Self::Taken { .. }
            | Self::OldServer { .. }
            | Self::Newer { .. }
            | Self::Older { .. }
            | Self::Empty { .. }
            | Self::NoAccess { .. }
            | Self::Migrate { .. } => false,
        }
    }
}

fn holder_text(holder: Option<&str>) -> String {
    holder.map_or_else(String::new, |holder| format!(" ({holder})"))
}

/// A statement, or another use of the database, that failed.
#[derive(Debug)]
pub struct StoreError {
    address: Address,
    /// The attempted action, as the message has it: `settle`, `read the holds`.
    doing: &'static str,
    cause: Failure,
}

#[derive(Debug)]
enum Failure {
    /// The server or the connection failed.
    Sql(sqlx::Error),
    /// Somebody else leads.
    Deposed,
    /// The lock is not free. As far as is known, nobody else leads: the server has not ended our last session yet.
    Waiting,
}

impl StoreError {
    pub(super) fn new(address: &Address, doing: &'static str, source: sqlx::Error) -> Self {
        Self { address: address.clone(), doing, cause: Failure::Sql(source) }
    }

    /// This daemon does not lead any more.
    pub(super) fn deposed(address: &Address, doing: &'static str) -> Self {
        Self { address: address.clone(), doing, cause: Failure::Deposed }
    }

    /// The lock of our own last session is still held.
    pub(super) fn waiting(address: &Address, doing: &'static str) -> Self {
        Self { address: address.clone(), doing, cause: Failure::Waiting }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "database {}: {}: ", self.address, self.doing)?;
        match &self.cause {
            Failure::Sql(error) => f.write_str(&message_of(error)),
            Failure::Deposed => {
                f.write_str("another sweeper works on this queue now; this one neither sends nor writes any more")
            }
            Failure::Waiting => f.write_str("the server has not ended the session of before yet"),
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            Failure::Sql(error) => Some(error),
            Failure::Deposed | Failure::Waiting => None,
        }
    }
}

impl QueueError for StoreError {
    fn remedy(&self) -> Remedy {
        match &self.cause {
            Failure::Deposed => Remedy::Lost,
            Failure::Waiting => Remedy::Wait,
            Failure::Sql(error) => match class_of(error) {
                Class::Lost | Class::Busy => Remedy::Wait,
                Class::Damaged => Remedy::Reconnect(format!("{self} (a read failed, or the data is damaged)")),
                Class::InvalidRow => Remedy::Sweep,
                Class::Other => Remedy::End,
            },
        }
    }
}
