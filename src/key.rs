//! The API key: where it comes from, and what it may look like. It has no other way out than [`Key::header`].

use std::{fs, io, path::PathBuf};

use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};

/// Where the key comes from.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// The configuration itself.
    Given(SecretString),
    /// A file, read again whenever the API answers 401.
    File(PathBuf),
}

/// Why there is no usable key. Never shows any of it.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("api.key_file {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Nothing is in it.
    #[error("the API key is empty")]
    Empty,
    /// No header can carry it.
    #[error("the API key has characters that no HTTP header can carry; it must be printable ASCII, on one line")]
    Characters,
}

/// A key that can be sent.
#[derive(Clone, Debug)]
pub struct Key(SecretString);

impl KeySource {
    /// Reads the key; white space around it does not belong to it.
    ///
    /// # Errors
    /// If the file cannot be read, or what is there cannot be a key.
    pub fn read(&self) -> Result<Key, KeyError> {
        let text: SecretString = match self {
            Self::Given(key) => key.clone(),
            Self::File(path) => {
                fs::read_to_string(path).map_err(|source| KeyError::File { path: path.clone(), source })?.into()
            }
        };
        let key = text.expose_secret().trim();
        if key.is_empty() {
            Err(KeyError::Empty)
        } else if key.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
            Ok(Key(key.into()))
        } else {
            Err(KeyError::Characters)
        }
    }
}

impl Key {
    /// The key as the value of a header, marked so that nothing prints it.
    ///
    /// # Errors
    /// If no header can carry it, which [`KeySource::read`] has ruled out.
    pub fn header(&self) -> Result<HeaderValue, KeyError> {
        let mut value = HeaderValue::from_str(self.0.expose_secret()).map_err(|_| KeyError::Characters)?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// Whether both are the same key.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.0.expose_secret() == other.0.expose_secret()
    }

    /// `text` without the key, in case somebody sends it back to us.
    #[must_use]
    pub fn redact(&self, text: &str) -> String {
        text.replace(self.0.expose_secret(), "[key]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Key, KeyError> {
        KeySource::Given(text.into()).read()
    }

    #[test]
    fn a_key_is_trimmed_checked_and_never_shown() {
        let key = read(" s3cret\n").unwrap();
        assert_eq!(key.header().unwrap(), "s3cret");
        assert_eq!(key.redact("bad key s3cret!"), "bad key [key]!");
        assert!(!format!("{key:?} {:?}", key.header().unwrap()).contains("s3cret"));
        assert!(matches!(read(" \n"), Err(KeyError::Empty)));
        let error = read("s3cr\net").unwrap_err();
        assert!(matches!(error, KeyError::Characters) && !error.to_string().contains("s3cr"));
    }
}
