//! Where the database is, how it is reached, and how it is named in messages.

use std::{
    fmt, io,
    path::PathBuf,
    str::FromStr as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sqlx::{
    ConnectOptions as _, Connection as _, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};
use tokio::time::timeout;
use tracing::subscriber::NoSubscriber;

use super::{
    codes::{Class, class_of, is_of_a_pooler},
    rights::Explained,
    url::{self, Url, UrlError},
};
use crate::small_file;

/// The name under which our connections appear in `pg_stat_activity`.
const APPLICATION: &str = "sweeper";

/// A server answers within this time, or the next one is asked.
const CONNECTED_WITHIN: Duration = Duration::from_secs(2);

/// A file with a password has this many bytes at most.
const MOST_OF_PASSWORD: u64 = 4096;

/// Whether a server takes writes: a standby of PostgreSQL's replication, and a server that was set to read only, do not.
const IS_READ_ONLY: &str = "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean";

/// Errors whose messages say too little: what was waited for, and what to do.
pub(super) const LOCK_NOT_AVAILABLE: &str = "55P03";
const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// Why a database cannot be named so.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// One of the URLs.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// The password is given twice.
    #[error("the URL has a password, and password_file is given, too; give one of them")]
    TwoPasswords,
}

/// A database, on one server or on any of several that take each other's place. Cheap to clone. Its `Display` and its `Debug` have no
/// password.
#[derive(Clone)]
pub struct Address(Arc<Inner>);

struct Inner {
    /// In the order in which they are tried.
    servers: Vec<Server>,
    password_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    name: String,
    /// The place of the server that was connected to last.
    last: AtomicUsize,
}

struct Server {
    url: Url,
    /// `host:port`, or the directory of the socket.
    name: String,
}

impl Address {
    /// Parses URLs: one, or several of servers of which one at a time takes writes.
    ///
    /// # Errors
    /// If one of them is none.
    pub fn parse<T: AsRef<str>>(urls: &[T]) -> Result<Self, AddressError> {
        let urls = url::parse(urls)?;
        let servers: Vec<Server> = urls.into_iter().map(|url| Server { name: url.server(), url }).collect();
        let database = servers.first().map(|server| server.url.database()).unwrap_or_default();
        let names: Vec<&str> = servers.iter().map(|server| server.name.as_str()).collect();
        let name = format!("{database} at {}", names.join(", "));
        Ok(Self(Arc::new(Inner { servers, password_file: None, ca_file: None, name, last: AtomicUsize::default() })))
    }

    /// The same database, with a file whose first line is the password, and a file with certificates of issuers that are trusted beside
    /// the system's. Both are read at each connect, because passwords and certificates are replaced.
    ///
    /// # Errors
    /// If a URL has a password, too.
    pub fn with_files(self, password_file: Option<PathBuf>, ca_file: Option<PathBuf>) -> Result<Self, AddressError> {
        let inner = self.0;
        if password_file.is_some() && inner.servers.iter().any(|server| server.url.has_password()) {
            return Err(AddressError::TwoPasswords);
        }
        let servers = inner.servers.iter().map(|server| Server { url: server.url.clone(), name: server.name.clone() });
        let servers = servers.collect();
        Ok(Self(Arc::new(Inner {
            servers,
            password_file,
            ca_file,
            name: inner.name.clone(),
            last: AtomicUsize::default(),
        })))
    }

    /// The name of the database.
    pub(super) fn database(&self) -> &str {
        self.0.servers.first().map_or("", |server| server.url.database())
    }

    /// The servers that are reached over a network without making sure who answers, each with its `sslmode`.
    pub fn unverified(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.servers.iter().filter_map(|server| Some((server.name.as_str(), server.url.unverified_mode()?)))
    }

    /// Connects to the first server that takes writes, beginning with the one that was connected to last.
    ///
    /// # Errors
    /// If there is none. An error that may pass goes before one for which a person must act.
    pub(super) async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let mut failures: Vec<(&str, sqlx::Error)> = Vec::new();
        let servers = self.0.servers.iter().enumerate();
        // A server that is gone without a word costs two seconds. One that took writes before probably still does.
        let first = self.0.last.load(Ordering::Relaxed);
        for (at, server) in servers.clone().skip(first).chain(servers.take(first)) {
            match self.connect_to(server).await {
                Ok(conn) => {
                    self.0.last.store(at, Ordering::Relaxed);
                    return Ok(conn);
                }
                Err(error) => failures.push((&server.name, error)),
            }
        }
        // If one of them may be back in a moment, that one may be it.
        if failures.iter().all(|(_, error)| class_of(error) != Class::Lost)
            && let Some((_, error)) = failures.pop()
        {
            return Err(error);
        }
        let told: Vec<String> = match failures.as_slice() {
            [(_, error)] => vec![message_of(error)],
            several => several.iter().map(|(name, error)| format!("{name}: {}", message_of(error))).collect(),
        };
        Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::NotConnected, told.join("; "))))
    }

    async fn connect_to(&self, server: &Server) -> Result<PgConnection, sqlx::Error> {
        let options = self.options(server)?;
        let connecting = async {
            let mut conn = PgConnection::connect_with(&options).await?;
            if sqlx::query_scalar(IS_READ_ONLY).fetch_one(&mut conn).await? {
                let said =
                    "the server takes no writes: it replicates another one, or default_transaction_read_only is on";
                return Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, said)));
            }
            Ok(conn)
        };
        let silent = || io::Error::new(io::ErrorKind::TimedOut, "the server does not answer");
        timeout(CONNECTED_WITHIN, connecting).await.unwrap_or_else(|_| Err(sqlx::Error::Io(silent())))
    }

    fn options(&self, server: &Server) -> Result<PgConnectOptions, sqlx::Error> {
        // sqlx logs a line of .pgpass that it cannot read, with the password in it.
        let parsed = tracing::subscriber::with_default(NoSubscriber::default(), || {
            PgConnectOptions::from_str(server.url.as_str())
        });
        let mut options = parsed?.disable_statement_logging();
        if options.get_application_name().is_none() {
            options = options.application_name(APPLICATION);
        }
        if let Some(file) = &self.0.password_file {
            let unreadable = |said: &dyn fmt::Display| {
                sqlx::Error::Configuration(format!("database.password_file {}: {said}", file.display()).into())
            };
            let text = small_file::read(file, MOST_OF_PASSWORD).map_err(|error| unreadable(&error))?;
            let text = String::from_utf8(text).map_err(|_| unreadable(&"it is not UTF-8"))?;
            options = options.password(text.lines().next().unwrap_or_default());
        }
        if server.url.is_near() && server.url.mode().is_none() {
            return Ok(options);
        }
        if server.url.mode().is_none() {
            options = options.ssl_mode(PgSslMode::VerifyFull);
        }
        if let Some(file) = &self.0.ca_file {
            options = options.ssl_root_cert(file);
        }
        Ok(options)
    }
}

/// The message of the server, or of the connection.
pub(super) fn message_of(error: &sqlx::Error) -> String {
    match (error, error.as_database_error()) {
        (_, Some(said)) if is_of_a_pooler(error) => {
            let why = "a pooler gives each transaction another session: connect past it, or through it in session mode";
            format!("{} ({why})", said.message())
        }
        (_, Some(error)) => match error.code().as_deref() {
            // The message is ours already.
            _ if error.try_downcast_ref::<Explained>().is_some() => error.message().to_owned(),
            Some(LOCK_NOT_AVAILABLE) => {
                "kept waiting for a lock, for longer than database.busy_timeout, by another session".to_owned()
            }
            Some(INSUFFICIENT_PRIVILEGE) => {
                format!("{}; `sweeper grant` prints the rights that a role needs", error.message())
            }
            _ => error.message().to_owned(),
        },
        (sqlx::Error::Io(error), None) => error.to_string(),
        (other, None) => other.to_string(),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.name)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Address").field(&self.0.name).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_named_without_its_password() {
        let address = Address::parse(&["postgres://ann:s3cret@db.example:5433/app"]).unwrap();
        assert_eq!(address.to_string(), "app at db.example:5433");
        assert!(!format!("{address:?}").contains("s3cret"));
        let socket = Address::parse(&["postgres://ann@localhost/app?host=/run/postgresql"]).unwrap();
        assert_eq!(socket.to_string(), "app at /run/postgresql");
        let two = Address::parse(&["postgres://ann@a/app", "postgres://ann@b:5433/app"]).unwrap();
        assert_eq!(two.to_string(), "app at a:5432, b:5433");
        let error = Address::parse(&["postgres://ann:s3cret@db:port/app"]).unwrap_err().to_string();
        assert!(error.contains("postgres://USER@HOST/DATABASE") && !error.contains("s3cret"), "{error}");
    }

    #[test]
    fn the_password_is_given_once() {
        let address = Address::parse(&["postgres://ann:s3cret@db/app"]).unwrap();
        assert!(address.with_files(Some("/run/secrets/pg".into()), None).is_err());
        let address = Address::parse(&["postgres://ann@db/app"]).unwrap();
        assert!(address.with_files(Some("/run/secrets/pg".into()), None).is_ok());
    }

    #[test]
    fn who_answers_is_verified_unless_the_server_is_on_this_machine_or_somebody_wishes_otherwise() {
        for (url, unverified) in [
            ("postgres://a@db.example/app", false),
            ("postgres://a@db.example/app?sslmode=verify-full", false),
            ("postgres://a@db.example/app?sslmode=require", true),
            ("postgres://a@db.example/app?sslmode=disable", true),
            ("postgres://a@127.0.0.1/app?sslmode=disable", false),
            ("postgres://a@[::1]/app", false),
            ("postgres://a@x/app?host=/run/postgresql", false),
        ] {
            let address = Address::parse(&[url]).unwrap();
            assert_eq!(address.unverified().count() == 1, unverified, "{url}");
            let server = &address.0.servers[0];
            let is_verified = matches!(address.options(server).unwrap().get_ssl_mode(), PgSslMode::VerifyFull);
            assert_eq!(is_verified, !unverified && !server.url.is_near(), "{url}");
        }
    }
}
