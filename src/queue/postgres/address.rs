//! Where the database is, and how it is named in messages.

use std::{fmt, str::FromStr as _, sync::Arc};

use sqlx::{ConnectOptions as _, Connection as _, PgConnection, postgres::PgConnectOptions};

/// The name under which our connections appear in `pg_stat_activity`.
const APPLICATION: &str = "sweeper";

/// Why a text is not the URL of a database.
#[derive(Debug, thiserror::Error)]
#[error("it is not the URL of a PostgreSQL database: {0}; write it as postgres://USER@HOST/DATABASE")]
pub struct AddressError(String);

/// A database of a PostgreSQL server. Cheap to clone. Its `Display` and its `Debug` have no password.
#[derive(Clone)]
pub struct Address {
    options: Arc<PgConnectOptions>,
    name: Arc<str>,
}

impl Address {
    /// Parses a URL: `postgres://USER@HOST/DATABASE`.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(url: &str) -> Result<Self, AddressError> {
        let options = PgConnectOptions::from_str(url).map_err(|error| AddressError(error.to_string()))?;
        let options = options.application_name(APPLICATION).disable_statement_logging();
        let database = options.get_database().unwrap_or(options.get_username());
        let name = match options.get_socket() {
            Some(socket) => format!("{database} at {}", socket.display()),
            None => format!("{database} at {}:{}", options.get_host(), options.get_port()),
        };
        Ok(Self { name: name.into(), options: options.into() })
    }

    pub(super) async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        PgConnection::connect_with(&self.options).await
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Address").field(&self.name).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_named_without_its_password() {
        let address = Address::parse("postgres://ann:s3cret@db.example:5433/app").unwrap();
        assert_eq!(address.to_string(), "app at db.example:5433");
        assert!(!format!("{address:?}").contains("s3cret"));
        let socket = Address::parse("postgres://ann@localhost/app?host=/run/postgresql").unwrap();
        assert_eq!(socket.to_string(), "app at /run/postgresql");
        let error = Address::parse("postgres://ann:s3cret@db:port/app").unwrap_err().to_string();
        assert!(error.contains("postgres://USER@HOST/DATABASE") && !error.contains("s3cret"), "{error}");
    }
}
