//! Errors that a foreign trigger or index may have caused, and the names of those.

use std::{io, path::Path};

use sqlx::{SqliteConnection, migrate::MigrateError};

use super::{
    errors::{OpenError, StoreError, migration_code},
    schema_watch::schema_changes,
    step_limit::StepLimit,
};
use crate::queue::schema_changes::{Change, Interference, SchemaChange};

/// What to do about a statement without effect if nobody has changed the tables.
const OTHERWISE: &str = "look at the file with PRAGMA integrity_check";

/// The error of a statement that SQLite calls done, though it did not have its effect.
pub(super) fn not_done(message: String, foreign: &[SchemaChange]) -> sqlx::Error {
    sqlx::Error::Io(io::Error::other(Interference::new(message, foreign, OTHERWISE)))
}

impl StoreError {
    /// The changes of the schema that may have kept a statement from its effect, if that is what this error says.
    #[must_use]
    pub fn interference(&self) -> Option<&[SchemaChange]> {
        let sqlx::Error::Io(error) = &self.source else { return None };
        let interference = error.get_ref()?.downcast_ref::<Interference>()?;
        Some(&interference.foreign)
    }
}

/// The error of a failed migration, with the names of foreign triggers on its tables, if there are any.
pub(super) async fn blame_migration(
    conn: &mut SqliteConnection,
    steps: &StepLimit,
    path: &Path,
    source: MigrateError,
) -> OpenError {
    let path = path.to_owned();
    let message = match migration_code(&source).map(|code| code & 0xff) {
        Some(9) => interrupted(steps),
        Some(1 | 19) => source.to_string(),
        _ => return OpenError::Migrate { path, source: Box::new(source) },
    };
    // Objects of ours are missing because the migration has not made them yet.
    let mut foreign = schema_changes(conn).await.unwrap_or_default();
    foreign.retain(|object| object.change == Change::Added);
    if foreign.is_empty() {
        return OpenError::Migrate { path, source: Box::new(source) };
    }
    StoreError { path, doing: "migrate", source: not_done(message, &foreign) }.into()
}

fn interrupted(steps: &StepLimit) -> String {
    format!("interrupted after {} million steps of SQLite", steps.most() / 1_000_000)
}

/// The same error, with the names of foreign triggers and indexes, if it is an error that these can cause.
pub(super) async fn blame(conn: &mut SqliteConnection, steps: &StepLimit, error: StoreError) -> StoreError {
    let code = error.code().map(|code| code & 0xff);
    // SQLITE_ERROR (a trigger that needs a table which is gone), SQLITE_INTERRUPT, _TOOBIG, _CONSTRAINT, _MISMATCH.
    let Some(1 | 9 | 18 | 19 | 20) = code else { return error };
    let message = match (code, error.source.as_database_error()) {
        (Some(9), _) => interrupted(steps),
        (_, Some(cause)) => cause.message().to_owned(),
        (_, None) => return error,
    };
    match schema_changes(conn).await {
        Ok(foreign) if code == Some(9) || !foreign.is_empty() => {
            StoreError { source: not_done(message, &foreign), ..error }
        }
        Ok(_) | Err(_) => error,
    }
}
