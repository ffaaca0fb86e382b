//! The queue that the configuration names, whichever engine keeps it: for the commands and the page. The worker knows the seam
//! alone.

/// Does the same with either engine.
macro_rules! with {
    ($either:expr, $method:ident ( $($argument:expr),* )) => {
        match $either {
            Self::Sqlite(engine) => engine.$method($($argument),*).await.map_err(StoreError::from),
            Self::Postgres(engine) => engine.$method($($argument),*).await.map_err(StoreError::from),
        }
    };
}

mod comparison;
mod errors;
mod producer;
mod reader;

use std::{fmt, time::Duration};

pub use errors::{OpenError, StoreError};
pub use producer::Producer;
pub use reader::Reader;

use super::{postgres, sqlite};
use crate::printable::absolute;

/// Which database is used, and how.
#[derive(Clone, Debug)]
pub enum Options {
    /// A file on this machine.
    Sqlite(sqlite::Options),
    /// A server.
    Postgres(postgres::Options),
}

impl Options {
    /// The longest that a healthy engine waits for others, within one statement.
    #[must_use]
    pub fn longest_wait(&self) -> Duration {
        match self {
            Self::Sqlite(options) => options.longest_wait(),
            Self::Postgres(options) => options.longest_wait(),
        }
    }

    /// The name of the place, without a password: the absolute path of the file, or `DATABASE at HOST:PORT`.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Sqlite(options) => absolute(&options.path).display().to_string(),
            Self::Postgres(options) => options.address.to_string(),
        }
    }
}

/// The place in a sentence, without a password: the absolute path of the file, or `database NAME at HOST:PORT`.
impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(options) => absolute(&options.path).display().fmt(f),
            Self::Postgres(options) => write!(f, "database {}", options.address),
        }
    }
}
