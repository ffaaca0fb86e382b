//! The errors of both engines.

use crate::queue::{
    QueueError, Remedy, postgres,
    sqlite::{self, Doubtful},
};

/// Why the queue cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be used.
    #[error(transparent)]
    Sqlite(#[from] sqlite::OpenError),
    /// The server or its database cannot be used.
    #[error(transparent)]
    Postgres(#[from] postgres::OpenError),
}

impl OpenError {
    /// Whether waiting can help.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Sqlite(error) => error.is_temporary(),
            Self::Postgres(error) => error.is_temporary(),
        }
    }

    /// Whether there is no queue there yet.
    #[must_use]
    pub fn is_without_tables(&self) -> bool {
        matches!(
            self,
            Self::Sqlite(sqlite::OpenError::Missing { .. } | sqlite::OpenError::Empty(_))
                | Self::Postgres(postgres::OpenError::Empty { .. })
        )
    }
}

impl Doubtful for OpenError {
    fn doubt(&self) -> Option<String> {
        match self {
            Self::Sqlite(error) => error.doubt(),
            Self::Postgres(_) => None,
        }
    }
}

/// Why a statement failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite's.
    #[error(transparent)]
    Sqlite(#[from] sqlite::StoreError),
    /// PostgreSQL's.
    #[error(transparent)]
    Postgres(#[from] postgres::StoreError),
}

impl StoreError {
    /// Whether waiting can help.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Sqlite(error) => error.is_temporary(),
            Self::Postgres(error) => error.remedy() == Remedy::Wait,
        }
    }
}

impl Doubtful for StoreError {
    fn doubt(&self) -> Option<String> {
        match self {
            Self::Sqlite(error) => error.doubt(),
            Self::Postgres(_) => None,
        }
    }
}

/// An engine's error of a statement is one of the queue that it keeps.
impl From<sqlite::StoreError> for OpenError {
    fn from(error: sqlite::StoreError) -> Self {
        Self::Sqlite(error.into())
    }
}

impl From<StoreError> for OpenError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Sqlite(error) => error.into(),
            StoreError::Postgres(error) => error.into(),
        }
    }
}

impl From<postgres::StoreError> for OpenError {
    fn from(error: postgres::StoreError) -> Self {
        Self::Postgres(error.into())
    }
}
