//! Explains why the server refuses something to a role: which right is missing, and who gives it.

use std::{borrow::Cow, error::Error, fmt};

use sqlx::{
    PgConnection,
    error::{DatabaseError, ErrorKind},
};

use super::grants::Grant;

/// `insufficient_privilege`
const DENIED: &str = "42501";

/// The same error. If a right is missing, its message also says with which command the owner of the tables gives `needed`.
pub(super) async fn explained(conn: &mut PgConnection, error: sqlx::Error, needed: Grant) -> sqlx::Error {
    let sqlx::Error::Database(refused) = error else { return error };
    if refused.code().as_deref() != Some(DENIED) {
        return sqlx::Error::Database(refused);
    }
    let role: Option<String> = sqlx::query_scalar("SELECT current_user::text").fetch_one(conn).await.ok();
    let role = role.unwrap_or_else(|| "ROLE".to_owned());
    let (said, option) = (refused.message(), needed.option());
    let message = format!(
        "{said}: the role {role} lacks this right; the owner of the tables gives it with `sweeper grant {option} {role}`"
    );
    with_message(message, refused)
}

/// The server's error with another message.
pub(super) fn with_message(message: String, refused: Box<dyn DatabaseError>) -> sqlx::Error {
    sqlx::Error::Database(Box::new(Explained { message, refused }))
}

/// An error of the server with a message of our own.
#[derive(Debug)]
pub(super) struct Explained {
    message: String,
    refused: Box<dyn DatabaseError>,
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Explained {}

impl DatabaseError for Explained {
    fn message(&self) -> &str {
        &self.message
    }

    fn code(&self) -> Option<Cow<'_, str>> {
        self.refused.code()
    }

    fn as_error(&self) -> &(dyn Error + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn Error + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> Box<dyn Error + Send + Sync + 'static> {
        self
    }

    fn kind(&self) -> ErrorKind {
        self.refused.kind()
    }
}
