//! The API key: where it comes from, and what it may look like. It has no other way out than [`Key::header`].

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};

/// Where the key comes from.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// The configuration itself.
    Given(SecretString),
    /// A file, read again whenever the API answers 401 or 403.
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

/// The key in use, and those that it replaced: the API may still tell of them.
#[derive(Debug)]
pub struct Keys {
    current: Key,
    /// The newest last.
    retired: Vec<Key>,
}

/// How many replaced keys are remembered.
const MAX_RETIRED: usize = 8;

/// So many characters of a key's beginning are taken for it, if they are half of it or more.
const TELLING: usize = 8;

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

    /// The key file and its permissions, if every user of this machine may read it.
    #[must_use]
    pub fn readable_by_everyone(&self) -> Option<(&Path, u32)> {
        let Self::File(path) = self else { return None };
        let mode = fs::metadata(path).ok()?.permissions().mode() & 0o7777;
        (mode & 0o004 != 0).then_some((path, mode))
    }
}

impl Keys {
    /// The first one.
    #[must_use]
    pub fn new(current: Key) -> Self {
        Self { current, retired: Vec::new() }
    }

    /// The one to send.
    #[must_use]
    pub fn current(&self) -> &Key {
        &self.current
    }

    /// Another one from here on.
    pub fn replace(&mut self, found: Key) {
        if !found.is_same(&self.current) {
            self.retired.push(std::mem::replace(&mut self.current, found));
            let surplus = self.retired.len().saturating_sub(MAX_RETIRED);
            self.retired.drain(..surplus);
        }
    }

    /// `text` without any of them.
    #[must_use]
    pub fn redact(&self, text: &str) -> String {
        self.retired.iter().fold(self.current.redact(text), |text, key| key.redact(&text))
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

    /// `text` without the key, in case somebody sends it back to us: as it is, escaped as JSON, URLs or HTML have it,
    /// or cut off after most of it.
    #[must_use]
    pub fn redact(&self, text: &str) -> String {
        let key = self.0.expose_secret().as_bytes();
        let mut clean = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let escapes = [Escape::None, Escape::Backslash, Escape::Percent, Escape::Entity];
            // The longest, so that nothing of it is left behind.
            let echo = escapes.into_iter().filter_map(|escape| escape.echo(rest, key)).max();
            clean.push_str(if echo.is_some() { "[key]" } else { &rest[..first.len_utf8()] });
            rest = &rest[echo.unwrap_or(first.len_utf8())..];
        }
        clean
    }
}

/// How somebody may have written what was a key.
#[derive(Clone, Copy)]
enum Escape {
    None,
    /// JSON, and what Rust or Python print of a string; also several times over.
    Backslash,
    /// URLs and forms.
    Percent,
    /// HTML.
    Entity,
}

impl Escape {
    /// How many bytes of `text`, from its start, are the key or most of it.
    fn echo(self, text: &str, key: &[u8]) -> Option<usize> {
        let (mut length, mut matched) = (0, 0);
        while let Some(&byte) = key.get(matched)
            && let Some(next) = text.get(length..)
            && let Some(taken) = self.character(next, byte)
        {
            length += taken;
            matched += 1;
        }
        (matched == key.len() || matched >= TELLING.max(key.len().div_ceil(2))).then_some(length)
    }

    /// How many bytes of `text`, from its start, stand for this one.
    fn character(self, text: &str, byte: u8) -> Option<usize> {
        let as_it_is = text.as_bytes().first().is_some_and(|first| *first == byte).then_some(1);
        // The length of a number and what is around it, if the number is this byte.
        let number = |around: [&str; 2], digits: &str, radix| {
            let is_it = !digits.starts_with('+') && u32::from_str_radix(digits, radix) == Ok(byte.into());
            is_it.then(|| around[0].len() + digits.len() + around[1].len())
        };
        match self {
            Self::None => as_it_is,
            // Doubled, the rest of it is skipped before the next character.
            Self::Backslash if byte == b'\\' => {
                let escaped = text.get(..6).filter(|text| text.eq_ignore_ascii_case(r"\u005c"));
                escaped.map(str::len).or(as_it_is)
            }
            Self::Backslash => {
                let rest = text.trim_start_matches('\\');
                let slashes = text.len() - rest.len();
                let digits = |letter, count| rest.strip_prefix(letter).and_then(|digits: &str| digits.get(..count));
                let escaped = digits('u', 4).and_then(|digits| number(["u", ""], digits, 16));
                let escaped = escaped.or_else(|| digits('x', 2).and_then(|digits| number(["x", ""], digits, 16)));
                let length = escaped
                    .filter(|_| slashes > 0)
                    .or_else(|| rest.as_bytes().first().is_some_and(|first| *first == byte).then_some(1));
                length.map(|length| slashes + length)
            }
            Self::Percent => {
                let escaped = text.strip_prefix('%').and_then(|digits| number(["%", ""], digits.get(..2)?, 16));
                escaped.or(as_it_is).or_else(|| (byte == b' ' && text.starts_with('+')).then_some(1))
            }
            Self::Entity => {
                let name = text.strip_prefix('&').and_then(|rest| rest.split_once(';')).map(|(name, _)| name);
                let escaped = name.and_then(|name| match (name, byte) {
                    ("amp", b'&') | ("lt", b'<') | ("gt", b'>') | ("quot", b'"') | ("apos", b'\'') => {
                        Some(name.len() + 2)
                    }
                    _ => {
                        let digits = name.strip_prefix('#')?;
                        match digits.strip_prefix(['x', 'X']) {
                            Some(digits) => number(["&#x", ";"], digits, 16),
                            None => number(["&#", ";"], digits, 10),
                        }
                    }
                });
                escaped.or(as_it_is)
            }
        }
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

    #[test]
    fn a_key_is_redacted_however_it_is_escaped() {
        for text in
            [r#"k"e\y&<n'/o %25+z"#, r#"""#, r"\", r"a\", r"\a", "%", "&", "a b", "s3cret", "%41", "&amp;", r"\u0041"]
        {
            let key = read(text).unwrap();
            let (json, debug) = (serde_json::to_string(text).unwrap(), format!("{text:?}"));
            let twice = serde_json::to_string(&json).unwrap();
            let unicode: String = text.chars().map(|c| format!("\\u{:04X}", u32::from(c))).collect();
            let percent = percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
            let html = text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;").replace('\'', "&#39;");
            let hex: String = text.chars().map(|c| format!("&#x{:x};", u32::from(c))).collect();
            let forms = [
                text.to_owned(),
                json[1..json.len() - 1].to_owned(),
                debug[1..debug.len() - 1].to_owned(),
                twice[3..twice.len() - 3].to_owned(),
                unicode.to_lowercase(),
                unicode,
                text.replace('/', r"\/"),
                percent.replace("%20", "+"),
                text.bytes().map(|byte| format!("%{byte:02x}")).collect(),
                html,
                hex,
            ];
            for form in &forms {
                let clean = key.redact(&format!("é: {form} é"));
                assert!(clean.starts_with("é: [key]"), "{text:?} as {form:?}: {clean:?}");
                assert!(clean.ends_with(" é"), "{text:?} as {form:?}: {clean:?}");
            }
        }
    }

    #[test]
    fn a_key_that_was_cut_off_is_redacted_if_most_of_it_is_there() {
        let key = read("0123456789abcdef").unwrap();
        assert_eq!(key.redact("0123456789abcde…"), "[key]…");
        assert_eq!(key.redact("(01234567)"), "([key])");
        assert_eq!(key.redact("0123456 is not half of it"), "0123456 is not half of it");
        assert_eq!(read("s3cret").unwrap().redact("s3cre"), "s3cre", "too little to tell it from a word");
        assert_eq!(key.redact("00123456789abcdef0123456789abcdef"), "0[key][key]");
    }

    #[test]
    fn keys_that_were_replaced_are_redacted_too() {
        let mut keys = Keys::new(read("first").unwrap());
        keys.replace(read("first").unwrap());
        assert!(keys.retired.is_empty());
        for number in 0..20 {
            keys.replace(read(&format!("key-{number:03}")).unwrap());
        }
        assert_eq!(keys.redact("key-019, key-018, key-012"), "[key], [key], [key]");
        assert_eq!(keys.retired.len(), MAX_RETIRED);
    }

    #[test]
    fn a_key_file_that_everyone_may_read_is_found_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, "s3cret").unwrap();
        let source = KeySource::File(path.clone());
        for (mode, exposed) in [(0o600, false), (0o640, false), (0o604, true), (0o644, true)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(source.readable_by_everyone(), exposed.then_some((path.as_path(), mode)), "{mode:o}");
        }
        assert_eq!(KeySource::File(dir.path().join("nowhere")).readable_by_everyone(), None);
        assert_eq!(KeySource::Given("s3cret".into()).readable_by_everyone(), None);
    }
}
