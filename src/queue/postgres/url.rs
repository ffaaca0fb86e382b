//! The URL of a database: which parameters it may have, and what its parts are.

use std::{borrow::Cow, fmt, net::IpAddr, path::PathBuf, str::FromStr as _};

use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::postgres::{PgConnectOptions, PgSslMode};

/// How the URL of a database is written.
const FORM: &str = "write it as postgres://USER@HOST/DATABASE";

/// The parameters that are understood. An unknown one is refused: with a parameter that has no effect, such as
/// `target_session_attrs`, somebody would rely on what is not so.
const PARAMETERS: [&str; 10] =
    ["host", "port", "dbname", "user", "password", "sslmode", "sslrootcert", "sslcert", "sslkey", "application_name"];

/// Those of them that name files.
const FILES: [&str; 3] = ["sslrootcert", "sslcert", "sslkey"];

/// Why a text is not the URL of a database. Its message has no part of a password.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UrlError(String);

/// The URL of a database on one server.
#[derive(Clone)]
pub(super) struct Url {
    text: SecretString,
    /// The directory of the socket, or the host.
    host: Result<String, String>,
    port: u16,
    database: String,
    mode: Option<String>,
    has_password: bool,
    has_application: bool,
    /// The parameters that name files, as they are written.
    files: Vec<(String, String)>,
}

/// Parses URLs. Each text may have several, with commas between them.
///
/// # Errors
/// If one is none, or they name different databases.
pub(super) fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Vec<Url>, UrlError> {
    let mut urls: Vec<Url> = Vec::new();
    for text in texts.iter().flat_map(|text| split(text.as_ref())) {
        let url = Url::parse(text)?;
        if urls.first().is_some_and(|first| first.database != url.database) {
            let said = "the URLs name different databases: several URLs are servers that take each other's place";
            return Err(UrlError(said.to_owned()));
        }
        urls.push(url);
    }
    if urls.is_empty() { Err(UrlError(format!("it is empty; {FORM}"))) } else { Ok(urls) }
}

/// Splits a list of URLs at its commas. A password may have a comma in it, but no scheme after that.
pub fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut from) = (Vec::new(), 0);
    for (at, _) in text.match_indices(',') {
        if ["postgres://", "postgresql://"].iter().any(|scheme| text[at + 1..].trim_start().starts_with(scheme)) {
            parts.push(text[from..at].trim());
            from = at + 1;
        }
    }
    parts.push(text[from..].trim());
    parts.into_iter().filter(|part| !part.is_empty()).collect()
}

/// The URL without its password, for people; `None` if it is no URL, and must not be shown.
#[must_use]
pub fn without_password(text: &str) -> Option<String> {
    let url = Url::parse(text).ok()?;
    let (before, rest) = text.split_once("://")?;
    let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let authority = match authority.rsplit_once('@') {
        Some((user, host)) => match user.split_once(':') {
            Some((user, _)) => format!("{user}:[redacted]@{host}"),
            None => authority.to_owned(),
        },
        None => authority.to_owned(),
    };
    let rest: Vec<Cow<'_, str>> = rest
        .split('&')
        .map(|part| match part.find("password=") {
            Some(at) if url.has_password => format!("{}password=[redacted]", &part[..at]).into(),
            _ => part.into(),
        })
        .collect();
    Some(format!("{before}://{authority}{}", rest.join("&")))
}

impl Url {
    fn parse(text: &str) -> Result<Self, UrlError> {
        let wrong = |said: &dyn fmt::Display| UrlError(format!("{said}; {FORM}"));
        if !["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme)) {
            return Err(wrong(&"it does not begin with postgres:// or postgresql://"));
        }
        let rest = text.split_once("://").map_or("", |(_, rest)| rest);
        let behind = rest.find(['/', '?', '#']).map_or("", |at| &rest[at..]);
        if behind.contains('@') {
            let said =
                "a password with / ? # or @ in it must be percent-encoded (%2F %3F %23 %40), or be in password_file";
            return Err(wrong(&said));
        }
        if behind.contains('#') {
            // What follows would be left out, and the rest may be the name of another database.
            return Err(wrong(&"it has a # in it: in a name, it is percent-encoded (%23)"));
        }
        if has_several_hosts(text) {
            return Err(wrong(&"several servers are several URLs, with commas between them or as a list"));
        }
        let parameters = check_parameters(text)?;
        // It reads no file and logs nothing: the URL has no unknown parameter any more.
        let options = tracing::subscriber::with_default(tracing::subscriber::NoSubscriber::default(), || {
            PgConnectOptions::from_str(text)
        });
        let options =
            options.map_err(|error| wrong(&format!("it is not the URL of a PostgreSQL database: {error}")))?;
        let named = |key: &str| parameters.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone());
        let authority = text.split_once("://").map_or("", |(_, rest)| rest);
        let authority = &authority[..authority.find(['/', '?']).unwrap_or(authority.len())];
        let has_password =
            named("password").is_some() || authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'));
        let database = options.get_database().unwrap_or(options.get_username()).to_owned();
        let host = match (options.get_socket(), options.get_host()) {
            (Some(socket), _) => Err(socket.display().to_string()),
            // Without a host in the URL: the directory of the socket that was found, or of PGHOST.
            (None, host) if host.starts_with('/') => Err(host.to_owned()),
            (None, host) => Ok(host.to_owned()),
        };
        let port = options.get_port();
        let (mode, has_application) = (named("sslmode"), named("application_name").is_some());
        let files = parameters.into_iter().filter(|(name, _)| FILES.contains(&name.as_str())).collect();
        Ok(Self { text: text.into(), host, port, database, mode, has_password, has_application, files })
    }

    pub(super) fn as_str(&self) -> &str {
        self.text.expose_secret()
    }

    pub(super) fn database(&self) -> &str {
        &self.database
    }

    pub(super) fn has_password(&self) -> bool {
        self.has_password
    }

    pub(super) fn has_application(&self) -> bool {
        self.has_application
    }

    /// The file that a parameter names.
    pub(super) fn file(&self, parameter: &str) -> Option<PathBuf> {
        let (_, written) = self.files.iter().find(|(name, _)| name == parameter)?;
        let written = written.replace('+', " ");
        Some(PathBuf::from(percent_decode_str(&written).decode_utf8_lossy().as_ref()))
    }

    /// The server, for people.
    pub(super) fn server(&self) -> String {
        match &self.host {
            Ok(host) => format!("{host}:{}", self.port),
            Err(socket) => socket.clone(),
        }
    }

    /// The file of its socket, if it is reached by one.
    pub(super) fn socket(&self) -> Option<String> {
        self.host.as_ref().err().map(|directory| format!("{directory}/.s.PGSQL.{}", self.port))
    }

    /// Whether the way to the server does not leave this machine.
    pub(super) fn is_near(&self) -> bool {
        self.host.as_ref().map_or(true, |host| {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
        })
    }

    /// The `sslmode` that it has.
    pub(super) fn mode(&self) -> Option<&str> {
        self.mode.as_deref()
    }

    /// Its `sslmode`, if with that nobody knows who answers.
    pub(super) fn unverified_mode(&self) -> Option<&str> {
        let is_verified = |mode: &&str| matches!(mode.parse(), Ok(PgSslMode::VerifyFull));
        self.mode().filter(|mode| !self.is_near() && !is_verified(mode))
    }
}

/// Whether the authority of a URL has a comma behind the user.
fn has_several_hosts(text: &str) -> bool {
    let authority = text.split_once("://").map_or("", |(_, rest)| rest);
    let authority = &authority[..authority.find(['/', '?']).unwrap_or(authority.len())];
    authority.rsplit('@').next().is_some_and(|hosts| hosts.contains(','))
}

/// The parameters of a URL, each of which is known.
fn check_parameters(text: &str) -> Result<Vec<(String, String)>, UrlError> {
    let Some((_, query)) = text.split_once('?') else { return Ok(Vec::new()) };
    let mut parameters = Vec::new();
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        if !PARAMETERS.contains(&name) {
            let why = match name {
                "target_session_attrs" => "; it is not needed: of several servers, the one that takes writes is used",
                "connect_timeout" => "; a server has two seconds to answer",
                "options" | "search_path" => {
                    "; sweeper sets up its sessions itself, and its tables are in the schema sweeper"
                }
                _ => "",
            };
            let known = PARAMETERS.join(", ");
            // What looks like no name may be a part of a password.
            let is_name = name.len() <= 40 && name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
            let name = if is_name { format!(" {name}") } else { String::new() };
            return Err(UrlError(format!("it has an unknown parameter{name}{why}. Known are {known}")));
        }
        if name == "sslmode" && value.parse::<PgSslMode>().is_err() {
            let modes = "disable, allow, prefer, require, verify-ca or verify-full";
            return Err(UrlError(format!("sslmode must be {modes}")));
        }
        parameters.push((name.to_owned(), value.to_owned()));
    }
    Ok(parameters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_split_at_commas_before_a_scheme() {
        let two = "postgres://a:x,y@h/d, postgresql://b@h2/d";
        assert_eq!(split(two), ["postgres://a:x,y@h/d", "postgresql://b@h2/d"]);
        assert_eq!(split(" "), Vec::<&str>::new());
    }

    #[test]
    fn what_is_no_url_is_told_what_to_write() {
        for (text, said) in [
            ("app", "does not begin with postgres://"),
            ("mysql://a@b/c", "does not begin with postgres://"),
            ("", "it is empty"),
            ("postgres://a@h1,h2/app", "several servers are several URLs"),
            ("postgres://a@h:x/app", "invalid port"),
            ("postgres://a@h/app#1", "it has a # in it"),
            ("postgres://ann:hunter?secretword@db/app", "must be percent-encoded"),
            ("postgres://ann:4711/xyz@db/app", "must be percent-encoded"),
            ("postgres://ann:4711#xyz@db/app", "must be percent-encoded"),
            (
                "postgres://a@h/app?target_session_attrs=read-write",
                "unknown parameter target_session_attrs; it is not needed",
            ),
            ("postgres://a@h/app?connect_timeout=5", "unknown parameter connect_timeout"),
            ("postgres://a@h/app?options=-csearch_path%3Dx", "unknown parameter options"),
            ("postgres://a@h/app?sslmode=on", "sslmode must be disable"),
            ("postgres://a@h/app,postgres://a@h2/other", "name different databases"),
        ] {
            let error = parse(&[text]).map(|urls| urls.len()).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
            assert!(["secretword", "4711", "xyz"].iter().all(|part| !error.contains(part)), "{error}");
        }
    }

    #[test]
    fn a_url_is_shown_without_its_password() {
        for (text, shown) in [
            ("postgres://ann:s3@cret@db/app", "postgres://ann:[redacted]@db/app"),
            ("postgres://ann@db/app?sslmode=require", "postgres://ann@db/app?sslmode=require"),
            ("postgres://db/app?user=a&password=s3cret&port=1", "postgres://db/app?user=a&password=[redacted]&port=1"),
            ("postgres://db/app?password=s3cret", "postgres://db/app?password=[redacted]"),
        ] {
            assert_eq!(without_password(text).as_deref(), Some(shown), "{text}");
        }
        for secret in ["s3cret", "postgres://ann:4711/xyz@db/app", "postgres://ann:hunter?secretword@db/app"] {
            assert_eq!(without_password(secret), None);
        }
    }
}
