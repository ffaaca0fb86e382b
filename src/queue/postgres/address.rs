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
    credentials,
    no_connection::{Way, explained},
    rights::Explained,
    url::{self, Url, UrlError},
};
use crate::printable::absolute;

/// The name under which our connections appear in `pg_stat_activity`.
const APPLICATION: &str = "sweeper";

/// A server answers within this time, or the next one is asked.
const CONNECTED_WITHIN: Duration = Duration::from_secs(2);

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
    /// Two files with trusted issuers are given.
    #[error("the URL has sslrootcert, and ca_file is given, too; give one of them")]
    TwoIssuers,
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
    /// If a URL has a password or `sslrootcert`, too.
    pub fn with_files(self, password_file: Option<PathBuf>, ca_file: Option<PathBuf>) -> Result<Self, AddressError> {
        let inner = self.0;
        if password_file.is_some() && inner.servers.iter().any(|server| server.url.has_password()) {
            return Err(AddressError::TwoPasswords);
        }
        if ca_file.is_some() && inner.servers.iter().any(|server| server.url.file("sslrootcert").is_some()) {
            return Err(AddressError::TwoIssuers);
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
    #[must_use]
    pub fn database(&self) -> &str {
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
        let (options, way) = self.options(server)?;
        let connecting = async {
            let mut conn = PgConnection::connect_with(&options).await.map_err(|error| explained(error, &way))?;
            if sqlx::query_scalar(IS_READ_ONLY).fetch_one(&mut conn).await? {
                let said =
                    "the server takes no writes: it replicates another one, or default_transaction_read_only is on";
                return Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, said)));
            }
            Ok(conn)
        };
        let silent = "the server does not answer: nothing there can be reached, or what listens there stands still, or is no PostgreSQL";
        let silent = || io::Error::new(io::ErrorKind::TimedOut, silent);
        timeout(CONNECTED_WITHIN, connecting).await.unwrap_or_else(|_| Err(sqlx::Error::Io(silent())))
    }

    /// How a server is connected to. Of the environment, what the URL leaves out is taken, but nothing that would change who is trusted.
    fn options(&self, server: &Server) -> Result<(PgConnectOptions, Way), sqlx::Error> {
        let Server { url, .. } = server;
        // sqlx logs a line of .pgpass that it cannot read, with the password in it.
        let parsed =
            tracing::subscriber::with_default(NoSubscriber::default(), || PgConnectOptions::from_str(url.as_str()));
        let mut options = parsed?.disable_statement_logging();
        if !url.has_application() {
            options = options.application_name(APPLICATION);
        }
        let password_file = self.0.password_file.as_deref();
        let mut way = Way {
            password: credentials::source(url, password_file, &options),
            mode: url.mode().map(str::to_owned),
            issuers: None,
            socket: url.socket(),
        };
        if let Some(file) = password_file {
            options = options.password(&credentials::password(file)?);
        }
        // PGSSLMODE has no effect.
        options = match url.mode() {
            Some(_) => options,
            None if url.is_near() => options.ssl_mode(PgSslMode::Prefer),
            None => options.ssl_mode(PgSslMode::VerifyFull),
        };
        if url.is_near() && url.mode().is_none() {
            return Ok((credentials::with_client_certificate(options, url)?, way));
        }
        // Neither has PGSSLROOTCERT.
        options = options.ssl_root_cert_from_pem(Vec::new());
        if let Some((setting, file)) = self.issuers(url) {
            options = options.ssl_root_cert_from_pem(credentials::issuers(setting, &file)?.0);
            way.issuers = Some(format!("{setting} {}", absolute(&file).display()));
        }
        Ok((credentials::with_client_certificate(options, url)?, way))
    }

    /// The file with trusted issuers, and the setting that names it.
    fn issuers(&self, url: &Url) -> Option<(&'static str, PathBuf)> {
        let of_url = url.file("sslrootcert").map(|file| ("sslrootcert in database.url:", file));
        of_url.or_else(|| Some(("database.ca_file", self.0.ca_file.clone()?)))
    }

    /// Each file with trusted issuers: how it is named, and the number of its certificates, or why it cannot be used.
    pub(super) fn all_issuers(&self) -> Vec<(String, Result<usize, String>)> {
        let mut files: Vec<_> = self.0.servers.iter().filter_map(|server| self.issuers(&server.url)).collect();
        files.dedup();
        let read = |(setting, file): (&'static str, PathBuf)| {
            let found = credentials::issuers(setting, &file).map(|(_, certificates)| certificates);
            (format!("{setting} {}", absolute(&file).display()), found.map_err(|error| message_of(&error)))
        };
        files.into_iter().map(read).collect()
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
        (sqlx::Error::Tls(error) | sqlx::Error::Configuration(error), None) => error.to_string(),
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
    fn a_password_and_issuers_are_given_once() {
        let address = Address::parse(&["postgres://ann:s3cret@db/app"]).unwrap();
        assert!(address.with_files(Some("/run/secrets/pg".into()), None).is_err());
        let address = Address::parse(&["postgres://ann@db/app"]).unwrap();
        assert!(address.with_files(Some("/run/secrets/pg".into()), None).is_ok());
        let address = Address::parse(&["postgres://ann@db/app?sslrootcert=/ca.pem"]).unwrap();
        assert!(address.with_files(None, Some("/other.pem".into())).is_err());
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
            let is_verified = matches!(address.options(server).unwrap().0.get_ssl_mode(), PgSslMode::VerifyFull);
            assert_eq!(is_verified, !unverified && !server.url.is_near(), "{url}");
        }
    }
}
