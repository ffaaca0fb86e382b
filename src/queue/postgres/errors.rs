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
    /// This role may not make the schema.
    #[error(
        "database {address}: there is no schema sweeper, and this role may not make it: a superuser runs GRANT CREATE ON DATABASE for \
         it once"
    )]
    MayNotCreate {
        /// The database.
        address: Address,
    },
    /// There is a pooler in between.
    #[error(
        "database {address}: a pooler gives each transaction another session, and the daemon needs one to itself: connect past the \
         pooler, or through it in session mode (producers may use any pooler)"
    )]
    Pooled {
        /// The database.
        address: Address,
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
            Self::Sql(error) => error.is_temporary(),
            Self::Taken { .. }
            | Self::OldServer { .. }
            | Self::Newer { .. }
            | Self::Older { .. }
            | Self::Empty { .. }
            | Self::NoAccess { .. }
            | Self::Pooled { .. }
            | Self::MayNotCreate { .. }
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
    /// Another database answers under the same name.
    AnotherDatabase,
}

impl StoreError {
    pub(super) fn new(address: &Address, doing: &'static str, source: sqlx::Error) -> Self {
        Self { address: address.clone(), doing, cause: Failure::Sql(source) }
    }

    /// This daemon does not lead any more.
    pub(super) fn deposed(address: &Address, doing: &'static str) -> Self {
        Self { address: address.clone(), doing, cause: Failure::Deposed }
    }

    /// Another database than before answers.
    pub(super) fn another_database(address: &Address, doing: &'static str) -> Self {
        Self { address: address.clone(), doing, cause: Failure::AnotherDatabase }
    }

    /// Whether waiting can help, without anybody doing something about it.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match &self.cause {
            Failure::Sql(error) => matches!(class_of(error), Class::Lost | Class::Busy),
            Failure::Waiting => true,
            Failure::Deposed | Failure::AnotherDatabase => false,
        }
    }

    /// Whether a row is there already.
    pub(super) fn is_duplicate(&self) -> bool {
        matches!(&self.cause, Failure::Sql(error) if error.as_database_error().is_some_and(|error| error.is_unique_violation()))
    }

    /// Whether the server does not let us in.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(&self.cause, Failure::Sql(error) if class_of(error) == Class::Denied)
    }

    /// Whether another daemon leads instead of this one.
    #[must_use]
    pub fn is_deposed(&self) -> bool {
        matches!(self.cause, Failure::Deposed)
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
            Failure::AnotherDatabase => {
                f.write_str("another database answers than before; start the daemon again if it is to work on that one")
            }
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            Failure::Sql(error) => Some(error),
            Failure::Deposed | Failure::Waiting | Failure::AnotherDatabase => None,
        }
    }
}

impl QueueError for StoreError {
    fn remedy(&self) -> Remedy {
        match &self.cause {
            Failure::Deposed => Remedy::Lost,
            Failure::Waiting => Remedy::Wait,
            Failure::AnotherDatabase => Remedy::End,
            Failure::Sql(error) => match class_of(error) {
                // A password or a right may have been replaced, and be in order in a moment: the daemon worked until now.
                Class::Lost | Class::Busy | Class::Denied => Remedy::Wait,
                Class::Damaged => Remedy::Reconnect(format!("{self} (a read failed, or the data is damaged)")),
                Class::InvalidRow => Remedy::Sweep,
                Class::Other => Remedy::End,
            },
        }
    }
}
