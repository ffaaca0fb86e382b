//! The section `http`: where metrics, health and the page are served, and to whom.

use std::{net::SocketAddr, path::PathBuf};

use secrecy::ExposeSecret as _;

use super::{raw::RawHttp, values::Problems};
use crate::{
    api::key::Exposure,
    small_file,
    watch::page::{Hosts, Token},
};

/// The longest token file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 4 << 10;

/// The section `http` as checked.
#[derive(Clone, Debug)]
pub struct Http {
    /// The address on which metrics, health and the page are served, if they are.
    pub listen: Option<SocketAddr>,
    /// The names under which the page may be asked for.
    pub hosts: Hosts,
    /// Where the token comes from that shows names on the page, if there is one.
    pub token: Option<TokenSource>,
}

/// Where the token of the page comes from.
#[derive(Clone, Debug)]
pub enum TokenSource {
    /// The configuration has it.
    Given(Token),
    /// A file has it.
    File(PathBuf),
}

impl TokenSource {
    /// Reads the token.
    ///
    /// # Errors
    /// A message that names the file, if it cannot be read or has no token in it.
    pub fn read(&self) -> Result<Token, String> {
        match self {
            Self::Given(token) => Ok(token.clone()),
            Self::File(path) => {
                let wrong = |problem: String| format!("http.token_file {}: {problem}", path.display());
                let bytes = small_file::read(path, MAX_FILE_BYTES).map_err(|error| wrong(error.to_string()))?;
                Token::parse(&String::from_utf8_lossy(&bytes)).map_err(wrong)
            }
        }
    }

    /// The file, if other users may read or write it.
    pub(super) fn exposure(&self) -> Option<Exposure> {
        let Self::File(path) = self else { return None };
        Exposure::of(path, "http.token_file")
    }
}

/// Checks the section.
pub(super) fn check(raw: &RawHttp, p: &mut Problems) -> Http {
    let listen = match raw.listen.trim() {
        "off" => None,
        listen => {
            let problem = |_| "must be an address and a port such as 127.0.0.1:9464 or [::]:9464, or off".to_owned();
            p.take("http.listen", &raw.listen, listen.parse().map(Some).map_err(problem), None)
        }
    };
    let hosts = Hosts::parse(&raw.hosts.as_slice().join(",")).unwrap_or_else(|problem| {
        p.add("http.hosts", &problem);
        Hosts::default()
    });
    let token = match (&raw.token, &raw.token_file) {
        (Some(_), Some(_)) => {
            let too = p.origin("http.token_file");
            p.add("http.token", &format!("http.token_file is given, too{too}; give one of them, not both"));
            None
        }
        (Some(token), None) => match Token::parse(token.0.expose_secret()) {
            Ok(token) => Some(TokenSource::Given(token)),
            Err(problem) => {
                p.add("http.token", &problem);
                None
            }
        },
        (None, Some(path)) => Some(TokenSource::File(p.file("http.token_file", path))),
        (None, None) => None,
    };
    Http { listen, hosts, token }
}
