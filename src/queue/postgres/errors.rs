//! Why the database cannot be used, and whether waiting helps.

use std::fmt;

use sqlx::migrate::MigrateError;

use super::{
    address::{Address, message_of},
    codes::{Class, class_of},
};
use crate::queue::{QueueError, Remedy, SchemaChange, schema_changes::Interference};

/// sqlx's table of migrations.
const MIGRATIONS: &str = "_sqlx_migrations";

/// What to do about a statement without effect if nobody has changed the tables.
const OTHERWISE: &str = "look at the log of the server";

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
    /// Tables were dropped from it.
    #[error(
        "database {address}: somebody has dropped {} of the queue's tables from the schema sweeper: {}; nothing was changed. Restore \
         the database from a backup; or, if nothing in it is needed any more, DROP SCHEMA sweeper CASCADE and run `sweeper init`",
        .missing.len(),
        .missing.join(", ")
    )]
    Incomplete {
        /// The database.
        address: Address,
        /// The tables that are missing.
        missing: Vec<String>,
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
    /// Somebody has dropped the list of migrations.
    pub(super) fn without_migrations(address: &Address) -> Self {
        Self::Incomplete { address: address.clone(), missing: vec![MIGRATIONS.to_owned()] }
    }

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
            | Self::Incomplete { .. }
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
    /// A statement did not have its effect, or failed, and what others have changed of the tables may be the cause.
    NotDone(Interference),
    /// This role may only enqueue.
    WithoutRight(String),
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

    /// A statement did not have its effect, and these changes of the tables may be the cause.
    pub(super) fn not_done(address: &Address, doing: &'static str, message: String, changes: &[SchemaChange]) -> Self {
        let cause = Failure::NotDone(Interference::new(message, changes, OTHERWISE));
        Self { address: address.clone(), doing, cause }
    }

    /// The same error, with the names of these changes of the tables, if it is one that they can cause.
    pub(super) fn blamed(self, changes: &[SchemaChange]) -> Self {
        match &self.cause {
            Failure::Sql(error) if class_of(error) == Class::Other && !changes.is_empty() => {
                Self::not_done(&self.address, self.doing, message_of(error), changes)
            }
            // It was made with what was known of the tables then.
            Failure::NotDone(interference) if interference.foreign.is_empty() => {
                Self::not_done(&self.address, self.doing, interference.message.clone(), changes)
            }
            Failure::Sql(_)
            | Failure::Deposed
            | Failure::Waiting
            | Failure::AnotherDatabase
            | Failure::NotDone(_)
            | Failure::WithoutRight(_) => self,
        }
    }

    /// The changes of the tables that may have kept a statement from its effect, if that is what this error says.
    #[must_use]
    pub fn interference(&self) -> Option<&[SchemaChange]> {
        match &self.cause {
            Failure::NotDone(interference) => Some(&interference.foreign),
            Failure::Sql(_)
            | Failure::Deposed
            | Failure::Waiting
            | Failure::AnotherDatabase
            | Failure::WithoutRight(_) => None,
        }
    }

    /// Whether the statement has undone itself, because not all of it had its effect.
    pub(super) fn is_undone(&self) -> bool {
        // division_by_zero
        matches!(&self.cause, Failure::Sql(error)
            if error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "22012"))
    }

    /// This role may not change what is in the queue.
    pub(super) fn without_right(address: &Address, doing: &'static str, role: String) -> Self {
        Self { address: address.clone(), doing, cause: Failure::WithoutRight(role) }
    }

    /// Whether waiting can help, without anybody doing something about it.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match &self.cause {
            Failure::Sql(error) => matches!(class_of(error), Class::Lost | Class::Busy),
            Failure::Waiting => true,
            Failure::Deposed | Failure::AnotherDatabase | Failure::NotDone(_) | Failure::WithoutRight(_) => false,
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
            Failure::WithoutRight(role) => write!(
                f,
                "permission denied: the role {role} may enqueue, and change nothing else; the owner of the tables gives it more with \
                 `sweeper grant --operator {role}`"
            ),
            Failure::Waiting => f.write_str("the server has not ended the session of before yet"),
            Failure::AnotherDatabase => {
                f.write_str("another database answers than before; start the daemon again if it is to work on that one")
            }
            Failure::NotDone(interference) => interference.fmt(f),
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            Failure::Sql(error) => Some(error),
            Failure::NotDone(interference) => Some(interference),
            Failure::Deposed | Failure::Waiting | Failure::AnotherDatabase | Failure::WithoutRight(_) => None,
        }
    }
}

impl QueueError for StoreError {
    fn remedy(&self) -> Remedy {
        match &self.cause {
            Failure::Deposed => Remedy::Lost,
            Failure::Waiting => Remedy::Wait,
            Failure::AnotherDatabase | Failure::NotDone(_) | Failure::WithoutRight(_) => Remedy::End,
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
