//! Why there is no connection to a server: the setting that is wrong, and what to do.

use std::{error::Error as StdError, io};

use rustls::{CertificateError, Error as Tls};

use super::{
    credentials::{Source, configuration},
    rights::with_message,
};

/// `invalid_password`
const INVALID_PASSWORD: &str = "28P01";
/// `invalid_authorization_specification`
const NOT_LET_IN: &str = "28000";

/// How a server was asked for a connection.
#[derive(Debug)]
pub(super) struct Way {
    /// The password's source, if there was a password.
    pub(super) password: Option<Source>,
    /// The `sslmode` of the URL; `None`: the default.
    pub(super) mode: Option<String>,
    /// The setting with the file of trusted issuers, and that file.
    pub(super) issuers: Option<String>,
    /// The file of the server's socket, if that is the way to it.
    pub(super) socket: Option<String>,
}

/// The error with what is wrong and what to do. It has no part of a password.
#[expect(clippy::wildcard_enum_match_arm, reason = "sqlx's enum: its other errors are not about connecting")]
pub(super) fn explained(error: sqlx::Error, way: &Way) -> sqlx::Error {
    match error {
        sqlx::Error::Database(refused) => {
            let said = refused.message();
            let message = match refused.code().as_deref() {
                Some(INVALID_PASSWORD) => format!("{said}: {}", about_password(way)),
                Some(NOT_LET_IN) if said.contains("pg_hba.conf") => {
                    format!("{said}: the server's pg_hba.conf says who may connect from where, and whether with TLS")
                }
                _ => return sqlx::Error::Database(refused),
            };
            with_message(message, refused)
        }
        sqlx::Error::Tls(error) => match tls_of(&*error) {
            Some(tls) => sqlx::Error::Tls(about_tls(tls, way).into()),
            None if error.to_string() == "server does not support TLS" => sqlx::Error::Tls(without_tls(way).into()),
            None => sqlx::Error::Tls(error),
        },
        sqlx::Error::Io(error) => about_io(error, way),
        sqlx::Error::Protocol(said) if said.contains("0x00") && said.contains("SSLRequest") => closed(),
        sqlx::Error::Protocol(said) => lost(
            io::ErrorKind::InvalidData,
            format!(
                "what listens there does not speak as PostgreSQL does ({said}): are host and port in database.url right?"
            ),
        ),
        other => other,
    }
}

/// What to do about a password that is wrong or missing.
fn about_password(way: &Way) -> String {
    match &way.password {
        Some(source) => format!("the password is from {source}; put the right one there"),
        None => "no password was given. Name a file with it in database.password_file; or give it in the URL, from \
                 SWEEPER__DATABASE__URL, or in PGPASSWORD; or in the file of PGPASSFILE or ~/.pgpass, of mode 600, on a line for \
                 this host, port, database and user"
            .to_owned(),
    }
}

fn about_io(error: io::Error, way: &Way) -> sqlx::Error {
    let tls = error.get_ref().and_then(|inner| tls_of(inner));
    match (tls, error.kind(), &way.socket) {
        (Some(tls), ..) => sqlx::Error::Tls(about_tls(tls, way).into()),
        (None, io::ErrorKind::NotFound, Some(socket)) => lost(
            io::ErrorKind::NotFound,
            format!("there is no socket {socket}: does the server run, and is its socket in this directory?"),
        ),
        // Only PGSSLCERT and PGSSLKEY name files that sqlx itself reads.
        (None, io::ErrorKind::NotFound, None) => {
            configuration(format!("a file that PGSSLCERT or PGSSLKEY names is not there: {error}"))
        }
        (
            None,
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted,
            _,
        ) => closed(),
        (None, ..) => sqlx::Error::Io(error),
    }
}

/// The other side has closed the connection.
fn closed() -> sqlx::Error {
    let said = "what listens there closed the connection without an answer that PostgreSQL gives: it is another program, or a proxy \
                without a server behind it, or a server that is ending; are host and port in database.url right?";
    lost(io::ErrorKind::ConnectionReset, said.to_owned())
}

/// An error that may pass.
fn lost(kind: io::ErrorKind, said: String) -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(kind, said))
}

fn without_tls(way: &Way) -> String {
    let asked = match &way.mode {
        Some(mode) => format!("database.url asks for it with sslmode={mode}"),
        None => "sslmode=verify-full is the default for a server on another machine".to_owned(),
    };
    format!(
        "the server does not support TLS, and {asked}. Turn it on in the server (ssl = on). sslmode=disable in database.url does \
         without TLS: then everybody on the way reads the data, and any server that answers under this name gets the password"
    )
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "another crate's enum: its other errors have no remedy of their own"
)]
fn about_tls(error: &Tls, way: &Way) -> String {
    let what_to_do = match error {
        // A bad signature is that of another issuer with the same name.
        Tls::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => match &way.issuers {
            Some(issuers) => format!("nobody in {issuers}, nor in the system's store, has issued the server's certificate"),
            None => "the system's store has no such issuer; name a PEM file with the issuer's certificate in database.ca_file".to_owned(),
        },
        Tls::InvalidCertificate(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }) => {
            "database.url must name the host as the server's certificate does".to_owned()
        }
        Tls::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => "renew the server's certificate; or is the clock of this machine wrong?".to_owned(),
        Tls::AlertReceived(_) => {
            "the server refuses; if it asks for a certificate of ours, give sslcert and sslkey in database.url".to_owned()
        }
        _ => return format!("there is no TLS with the server: {error}"),
    };
    format!("{error}: {what_to_do}")
}

/// The error of TLS that this error is, or wraps.
fn tls_of<'e>(error: &'e (dyn StdError + 'static)) -> Option<&'e Tls> {
    if let Some(tls) = error.downcast_ref::<Tls>() {
        return Some(tls);
    }
    // An I/O error's own source leaves out the error that it wraps.
    let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    inner.and_then(|inner| tls_of(inner)).or_else(|| error.source().and_then(tls_of))
}
