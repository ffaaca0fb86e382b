//! The API key: where it comes from and which texts can be one. It leaves this module only through [`Key::header`].

mod redaction;

use std::{
    fmt, fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};

pub use redaction::Keys;

use crate::{printable::absolute, small_file};

/// The longest key file that is read. A key has some tens of characters.
const MAX_FILE_BYTES: u64 = 16 << 10;

/// Where the key comes from.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// The configuration has the key itself.
    Given {
        /// The key.
        key: SecretString,
        /// Where `api.key` was set: `by VARIABLE`, or `in FILE, line 3`. `None` if nobody knows.
        set: Option<String>,
    },
    /// A file has the key. It is read again whenever the API answers 401 or 403.
    File(PathBuf),
}

/// Why there is no usable key. The message shows no part of the key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("api.key_file {}: {source}", shown(.path))]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The text cannot be a key.
    #[error("the API key ({origin}) {problem}")]
    Unusable {
        /// Where the text is from.
        origin: Origin,
        /// Why the text cannot be a key.
        problem: Problem,
    },
}

/// Why a text cannot be a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The text is empty.
    #[error("is empty")]
    Empty,
    /// The text begins with a byte order mark, which some editors write.
    #[error("begins with a byte order mark, which some editors write; save it as UTF-8 without one")]
    ByteOrderMark,
    /// The text is a line of a header or of a file of variables, in which the key is.
    #[error("begins with the name of a header or a variable, which is no part of a key; give the key alone")]
    Named,
    /// The text is in quotes.
    #[error("is in quotes, which are not part of a key; remove them")]
    Quotes,
    /// The text has more than one line.
    #[error("has several lines; it must be one, and nothing else")]
    Lines,
    /// The text has characters that no header can carry.
    #[error("has characters that no HTTP header can carry; it must be printable ASCII, on one line")]
    Characters,
}

/// The place that a key is from, as a message names it.
#[derive(Clone, Debug)]
pub enum Origin {
    /// `api.key`, and where it was set.
    Setting(Option<String>),
    /// `api.key_file`.
    File(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setting(None) => f.write_str("api.key"),
            Self::Setting(Some(set)) => write!(f, "api.key, set {set}"),
            Self::File(path) => write!(f, "api.key_file {}", absolute(path).display()),
        }
    }
}

/// The path of an unreadable key file, unless the path as it was written looks like the key itself.
fn shown(path: &Path) -> String {
    if looks_like_a_key(&path.display().to_string()) {
        "(not shown, because it looks like a key; a key goes into api.key)".to_owned()
    } else {
        absolute(path).display().to_string()
    }
}

/// Whether an invalid value may be the key, pasted into the wrong place. Such a value is not shown.
#[must_use]
pub fn looks_like_a_key(text: &str) -> bool {
    let text = text.trim();
    let is_a_path = ["/", "./", "../", "~"].iter().any(|start| text.starts_with(start));
    let has = |is: fn(&char) -> bool| text.chars().any(|c| is(&c));
    let is_mixed = has(char::is_ascii_alphabetic) && has(char::is_ascii_digit);
    let is_one_word = text.bytes().all(|byte| byte.is_ascii_graphic());
    !is_a_path && is_mixed && is_one_word && ((text.len() >= 12 && !text.contains(['.', ':'])) || text.len() >= 40)
}

/// A file through which other users can read or replace the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposure {
    /// The absolute path of the file.
    pub path: PathBuf,
    /// The file's permission bits.
    pub mode: u32,
    /// What the file is, in words.
    pub what: &'static str,
}

impl Exposure {
    /// Describes a file with the key in it; `None` if its permissions expose nothing. Reading by the group is allowed.
    #[must_use]
    pub fn of(path: &Path, what: &'static str) -> Option<Self> {
        let mode = fs::metadata(path).ok()?.permissions().mode() & 0o7777;
        (mode & 0o026 != 0).then(|| Self { path: absolute(path), mode, what })
    }

    /// What other users may do with the file, in words.
    #[must_use]
    pub fn may(&self) -> &'static str {
        match (self.mode & 0o004 != 0, self.mode & 0o022 != 0) {
            (true, false) => "everyone may read it",
            (true, true) => "everyone may read it, and others may write it",
            (false, _) => "others may write it, and so change the key",
        }
    }
}

/// A key that can be sent.
#[derive(Clone, Debug)]
pub struct Key(SecretString);

impl From<&str> for KeySource {
    /// A key that no setting has.
    fn from(key: &str) -> Self {
        Self::Given { key: key.into(), set: None }
    }
}

impl KeySource {
    /// Reads the key, without the white space around it.
    ///
    /// # Errors
    /// If the file cannot be read, or its text cannot be a key.
    pub fn read(&self) -> Result<Key, KeyError> {
        let (text, origin): (SecretString, _) = match self {
            Self::Given { key, set } => (key.clone(), Origin::Setting(set.clone())),
            Self::File(path) => {
                let bytes = small_file::read(path, MAX_FILE_BYTES)
                    .map_err(|source| KeyError::File { path: path.clone(), source })?;
                let origin = Origin::File(path.clone());
                match String::from_utf8(bytes) {
                    Ok(text) => (text.into(), origin),
                    Err(_) => return Err(KeyError::Unusable { origin, problem: Problem::Characters }),
                }
            }
        };
        match problem(text.expose_secret().trim()) {
            None => Ok(Key(text.expose_secret().trim().into())),
            Some(problem) => Err(KeyError::Unusable { origin, problem }),
        }
    }

    /// The key file, if other users may read or write it.
    #[must_use]
    pub fn exposure(&self) -> Option<Exposure> {
        let Self::File(path) = self else { return None };
        Exposure::of(path, "api.key_file")
    }
}

fn problem(key: &str) -> Option<Problem> {
    let is_quoted = |marks: [char; 2]| key.len() > 1 && key.starts_with(marks[0]) && key.ends_with(marks[1]);
    if key.is_empty() {
        Some(Problem::Empty)
    } else if key.starts_with('\u{feff}') {
        Some(Problem::ByteOrderMark)
    } else if [['"', '"'], ['\'', '\''], ['`', '`'], ['“', '”'], ['‘', '’'], ['„', '“']].into_iter().any(is_quoted)
    {
        Some(Problem::Quotes)
    } else if key.contains(['\n', '\r']) {
        Some(Problem::Lines)
    } else if is_named(key) {
        Some(Problem::Named)
    } else if key.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
        None
    } else {
        Some(Problem::Characters)
    }
}

/// Whether it is `X-API-KEY: …`, `Bearer …`, `export …` or `NAME=…`. A key may end with `=`, as Base64 does.
fn is_named(key: &str) -> bool {
    let lower = key.to_ascii_lowercase();
    let is_variable = |name: &str| name.len() > 2 && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    let assigned =
        key.split_once('=').is_some_and(|(name, value)| is_variable(name) && !value.trim_matches('=').is_empty());
    assigned
        || ["bearer ", "basic ", "export ", "x-api-key:", "authorization:"].iter().any(|name| lower.starts_with(name))
}

impl Key {
    /// The key as the value of a header, marked as sensitive so that nothing prints it.
    ///
    /// # Errors
    /// If no header can carry the key. [`KeySource::read`] has ruled that out.
    pub fn header(&self) -> Result<HeaderValue, Problem> {
        let mut value = HeaderValue::from_str(self.0.expose_secret()).map_err(|_| Problem::Characters)?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// Whether both are the same key.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.0.expose_secret() == other.0.expose_secret()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Key, KeyError> {
        KeySource::from(text).read()
    }

    fn problem_of(text: &str) -> Problem {
        match read(text).unwrap_err() {
            KeyError::Unusable { problem, .. } => problem,
            KeyError::File { source, .. } => panic!("{source}"),
        }
    }

    #[test]
    fn a_key_is_trimmed_checked_and_never_shown() {
        let key = read(" s3cret-key\n").unwrap();
        assert_eq!(key.header().unwrap(), "s3cret-key");
        assert_eq!(key.redact("bad key s3cret-key!"), "bad key [key]!");
        assert!(!format!("{key:?} {:?}", key.header().unwrap()).contains("s3cret"));
        for odd in ["ABC=", "ABCDE==", "abc=def", "Ab=cd", "bearer", "a b"] {
            assert!(read(odd).is_ok(), "{odd}");
        }
        assert_eq!(problem_of(" \n"), Problem::Empty);
        for (text, problem) in [
            ("s3cr\u{1}et", Problem::Characters),
            ("s3cr é et", Problem::Characters),
            ("s3cr\net", Problem::Lines),
            ("\u{feff}s3cret", Problem::ByteOrderMark),
            ("\"s3cret\"", Problem::Quotes),
            (" 's3cret' ", Problem::Quotes),
            ("“s3cret”", Problem::Quotes),
            ("Bearer s3cret", Problem::Named),
            ("x-api-key: s3cret", Problem::Named),
            ("SWEEPER__API__KEY=s3cret", Problem::Named),
            ("export KEY=s3cret", Problem::Named),
        ] {
            assert_eq!(problem_of(text), problem, "{text:?}");
            let said = read(text).unwrap_err().to_string();
            assert!(!said.contains("s3cr") && said.starts_with("the API key (api.key) "), "{said}");
        }
        read("\"").unwrap();
        read("'s3cret").unwrap();
    }

    #[test]
    fn only_what_may_be_a_key_looks_like_one() {
        for key in [
            "sk-HEAD7f3qTAIL9wZ",
            "0123456789abcdef",
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0",
            "YWJj/ZGVm+12=",
        ] {
            assert!(looks_like_a_key(key), "{key}");
        }
        for other in [
            "mars",
            "localhost:9464",
            "eu-west-1",
            "nowhere",
            "/run/secrets/polyai-2026",
            "./polyai2026key1",
            "key-2026-04.txt",
            "a b 1 2 3 4 5 6 7",
        ] {
            assert!(!looks_like_a_key(other), "{other}");
        }
        let path = PathBuf::from("sk-HEAD7f3qTAIL9wZ");
        let said = KeySource::File(path).read().unwrap_err().to_string();
        assert!(
            !said.contains("HEAD7") && said.contains("api.key_file") && said.contains("looks like a key"),
            "{said}"
        );
    }

    #[test]
    fn a_key_file_is_a_small_file() {
        let dir = tempfile::tempdir().unwrap();
        let said = |path: &Path| KeySource::File(path.to_owned()).read().unwrap_err().to_string();
        let large = dir.path().join("large");
        fs::write(&large, "x".repeat(2 << 20)).unwrap();
        assert!(said(&large).contains("longer than"), "{}", said(&large));
        assert!(said(dir.path()).contains("is a directory"), "{}", said(dir.path()));
        assert!(said(Path::new("/dev/zero")).contains("is a device"));
        let pipe = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success() && said(&pipe).contains("is a named pipe"), "without waiting for a writer");
        let binary = dir.path().join("utf-16");
        fs::write(&binary, b"\xff\xfek\0e\0y\0").unwrap();
        assert!(said(&binary).contains("utf-16) has characters"), "{}", said(&binary));
    }

    #[test]
    fn a_key_file_that_others_may_read_or_write_is_found_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, "s3cret").unwrap();
        let source = KeySource::File(path.clone());
        for (mode, may) in [
            (0o600, None),
            (0o640, None),
            (0o604, Some("everyone may read it")),
            (0o644, Some("everyone may read it")),
            (0o620, Some("others may write it, and so change the key")),
            (0o602, Some("others may write it, and so change the key")),
            (0o666, Some("everyone may read it, and others may write it")),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let exposure = source.exposure();
            assert_eq!(exposure.as_ref().map(Exposure::may), may, "{mode:o}");
            assert!(exposure.is_none_or(|exposure| exposure.mode == mode && exposure.path == path));
        }
        assert_eq!(KeySource::File(dir.path().join("nowhere")).exposure(), None);
        assert_eq!(KeySource::from("s3cret").exposure(), None);
    }
}
