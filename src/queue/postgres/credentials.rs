//! The password and the certificates of a connection: where they come from, and what is wrong with their files.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use sqlx::{ConnectOptions as _, postgres::PgConnectOptions};

use super::url::Url;
use crate::{printable::absolute, small_file};

/// A file with a password has this many bytes at most.
const MOST_OF_PASSWORD: u64 = 4096;
/// The longest file with certificates that is read: five times a system's whole store.
const MOST_OF_CERTIFICATES: u64 = 1 << 20;

/// Where the password of a connection comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Url,
    File(PathBuf),
    Variable,
    PassFile,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url => f.write_str("database.url"),
            Self::File(file) => write!(f, "database.password_file {}", absolute(file).display()),
            Self::Variable => f.write_str("the environment variable PGPASSWORD"),
            Self::PassFile => f.write_str("the file of PGPASSFILE, or ~/.pgpass"),
        }
    }
}

/// The password's source, if there is a password: `options` are those of `url` and of the environment, without the file.
pub(super) fn source(url: &Url, file: Option<&Path>, options: &PgConnectOptions) -> Option<Source> {
    if let Some(file) = file {
        return Some(Source::File(file.to_owned()));
    }
    if url.has_password() {
        return Some(Source::Url);
    }
    if has_password(&PgConnectOptions::new_without_pgpass()) {
        return Some(Source::Variable);
    }
    has_password(options).then_some(Source::PassFile)
}

fn has_password(options: &PgConnectOptions) -> bool {
    // A URL is the only form that shows whether there is one. A user's name may not be fit for a URL.
    let url = options.clone().username("user").host("host").to_url_lossy();
    url.password().is_some_and(|password| !password.is_empty())
}

/// The first line of the file.
///
/// # Errors
/// If it cannot be read, or is empty.
pub(super) fn password(file: &Path) -> Result<String, sqlx::Error> {
    let wrong = |said: &dyn fmt::Display| {
        configuration(format!("database.password_file {}: {said}; its first line must be the password", shown(file)))
    };
    let text = small_file::read(file, MOST_OF_PASSWORD).map_err(|error| wrong(&error))?;
    let text = String::from_utf8(text).map_err(|_| wrong(&"it is not UTF-8"))?;
    match text.lines().next() {
        None | Some("") => Err(wrong(&if text.is_empty() { "it is empty" } else { "its first line is empty" })),
        Some(password) => Ok(password.to_owned()),
    }
}

/// The text of a file with certificates of issuers, and their number. `setting` names the file.
///
/// # Errors
/// If it cannot be read, or has no certificate, or one that is none.
pub(super) fn issuers(setting: &str, file: &Path) -> Result<(Vec<u8>, usize), sqlx::Error> {
    let wrong = |said: &dyn fmt::Display| {
        configuration(format!("{setting} {}: {said}; name a PEM file with the issuer's certificate", shown(file)))
    };
    let pem = small_file::read(file, MOST_OF_CERTIFICATES).map_err(|error| wrong(&error))?;
    let mut store = RootCertStore::empty();
    for found in CertificateDer::pem_slice_iter(&pem) {
        let added = found
            .map_err(|error| error.to_string())
            .and_then(|found| store.add(found).map_err(|error| error.to_string()));
        added.map_err(|error| wrong(&format!("its certificate {} cannot be used: {error}", store.len() + 1)))?;
    }
    match store.len() {
        0 => Err(wrong(&"has no certificate in PEM format in it")),
        certificates => Ok((pem, certificates)),
    }
}

/// The same options with the client's certificate and its key, if the URL names them.
///
/// # Errors
/// If it names one of them alone, or a file cannot be used.
pub(super) fn with_client_certificate(options: PgConnectOptions, url: &Url) -> Result<PgConnectOptions, sqlx::Error> {
    let (certificate, key) = match (url.file("sslcert"), url.file("sslkey")) {
        (Some(certificate), Some(key)) => (certificate, key),
        (None, None) => return Ok(options),
        (Some(_), None) => return Err(configuration("database.url has sslcert without sslkey; give both".to_owned())),
        (None, Some(_)) => return Err(configuration("database.url has sslkey without sslcert; give both".to_owned())),
    };
    let read = |parameter: &str, file: &Path| {
        let named = format!("{parameter} {} in database.url", shown(file));
        let pem = small_file::read(file, MOST_OF_CERTIFICATES);
        pem.map_err(|error| configuration(format!("{named}: {error}"))).map(|pem| (pem, named))
    };
    let (pem, named) = read("sslcert", &certificate)?;
    if CertificateDer::pem_slice_iter(&pem).next().is_none_or(|found| found.is_err()) {
        return Err(configuration(format!("{named}: has no certificate in PEM format in it")));
    }
    let options = options.ssl_client_cert_from_pem(pem);
    let (pem, named) = read("sslkey", &key)?;
    if PrivateKeyDer::from_pem_slice(&pem).is_err() {
        return Err(configuration(format!("{named}: has no private key in PEM format in it")));
    }
    Ok(options.ssl_client_key_from_pem(pem))
}

/// An error of a setting.
pub(super) fn configuration(said: String) -> sqlx::Error {
    sqlx::Error::Configuration(said.into())
}

fn shown(file: &Path) -> String {
    absolute(file).display().to_string()
}
