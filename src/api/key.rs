//! The API key: where it comes from, and what it may look like. It has no other way out than [`Key::header`].

use std::{
    fmt, fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};

use crate::small_file;

/// A key has some tens of characters; a file much longer is another one.
const MAX_FILE_BYTES: u64 = 16 << 10;

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
    #[error("api.key_file {}: {source}", shown(.path))]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// What is there cannot be a key.
    #[error("the API key ({origin}) {problem}")]
    Unusable {
        /// Where it is from.
        origin: Origin,
        /// Why not.
        problem: Problem,
    },
}

/// What keeps a text from being a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Nothing is in it.
    #[error("is empty")]
    Empty,
    /// A mark at its start, which some editors write.
    #[error("begins with a byte order mark, which an editor has written; save it as UTF-8 without one")]
    ByteOrderMark,
    /// Quotes around it.
    #[error("is in quotes, which do not belong to it; take them away")]
    Quotes,
    /// More than one line.
    #[error("has several lines; it must be one, and nothing else")]
    Lines,
    /// No header can carry it.
    #[error("has characters that no HTTP header can carry; it must be printable ASCII, on one line")]
    Characters,
}

/// Where a key is from, as a message names it.
#[derive(Clone, Debug)]
pub struct Origin(Option<PathBuf>);

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            None => f.write_str("api.key"),
            Some(path) => write!(f, "api.key_file {}", path.display()),
        }
    }
}

/// A path that leads nowhere, unless it looks like the key itself.
fn shown(path: &Path) -> String {
    let text = path.display().to_string();
    if looks_like_a_key(&text) {
        "(not shown, because it looks like a key; a key goes into api.key)".to_owned()
    } else {
        text
    }
}

/// Whether a value that means nothing where it stands may be the key, pasted into the wrong place. Then nobody is shown it.
#[must_use]
pub fn looks_like_a_key(text: &str) -> bool {
    let text = text.trim();
    let is_a_path = ["/", "./", "../", "~"].iter().any(|start| text.starts_with(start));
    let has = |is: fn(&char) -> bool| text.chars().any(|c| is(&c));
    let is_mixed = has(char::is_ascii_alphabetic) && has(char::is_ascii_digit);
    let is_one_word = text.bytes().all(|byte| byte.is_ascii_graphic());
    !is_a_path && is_mixed && is_one_word && ((text.len() >= 12 && !text.contains(['.', ':'])) || text.len() >= 40)
}

/// A file by which others than its owner get at the key, or can put another one in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposure {
    /// The file.
    pub path: PathBuf,
    /// Its permissions.
    pub mode: u32,
    /// What it is.
    pub what: &'static str,
}

impl Exposure {
    /// Of a file with the key in it, if it has such permissions.
    #[must_use]
    pub fn of(path: &Path, what: &'static str) -> Option<Self> {
        let mode = fs::metadata(path).ok()?.permissions().mode() & 0o7777;
        (mode & 0o026 != 0).then(|| Self { path: path.to_owned(), mode, what })
    }

    /// Who may do what.
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

/// The key in use, and those that it replaced: the API may still tell of them.
#[derive(Debug)]
pub struct Keys {
    current: Key,
    /// The newest last.
    retired: Vec<Key>,
}

/// How many replaced keys are remembered.
const MAX_RETIRED: usize = 8;

/// So many characters of a key's beginning are taken for it, if they are half of it or more. A key that has less is not
/// looked for in what others say: it might be any word, and what is left tells where it was.
const TELLING: usize = 8;

impl KeySource {
    /// Reads the key; white space around it does not belong to it.
    ///
    /// # Errors
    /// If the file cannot be read, or what is there cannot be a key.
    pub fn read(&self) -> Result<Key, KeyError> {
        let (text, origin): (SecretString, _) = match self {
            Self::Given(key) => (key.clone(), Origin(None)),
            Self::File(path) => {
                let (bytes, _) = small_file::read(path, MAX_FILE_BYTES)
                    .map_err(|source| KeyError::File { path: path.clone(), source })?;
                let origin = Origin(Some(path.clone()));
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

    /// The key file, if others may read or write it.
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
    } else if key.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
        None
    } else {
        Some(Problem::Characters)
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

    /// Whether it is too short to be told from other text.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.0.expose_secret().len() < TELLING
    }

    /// `text` without the key, in case somebody sends it back to us: as it is, escaped as JSON, URLs or HTML have it,
    /// or cut off after most of it.
    #[must_use]
    pub fn redact(&self, text: &str) -> String {
        if self.is_short() {
            return text.to_owned();
        }
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
        assert_eq!(problem_of(" \n"), Problem::Empty);
        for (text, problem) in [
            ("s3cr\u{1}et", Problem::Characters),
            ("s3cr é et", Problem::Characters),
            ("s3cr\net", Problem::Lines),
            ("\u{feff}s3cret", Problem::ByteOrderMark),
            ("\"s3cret\"", Problem::Quotes),
            (" 's3cret' ", Problem::Quotes),
            ("“s3cret”", Problem::Quotes),
        ] {
            assert_eq!(problem_of(text), problem, "{text:?}");
            let said = read(text).unwrap_err().to_string();
            assert!(!said.contains("s3cr") && said.starts_with("the API key (api.key) "), "{said}");
        }
        read("\"").unwrap();
        read("'s3cret").unwrap();
    }

    #[test]
    fn a_key_of_a_few_characters_is_any_word_and_left_where_it_is() {
        let short = read("success").unwrap();
        assert_eq!((short.is_short(), short.redact("no success")), (true, "no success".to_owned()));
        let long = read("success!").unwrap();
        assert_eq!((long.is_short(), long.redact("no success!")), (false, "no [key]".to_owned()));
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
    fn a_key_is_redacted_however_it_is_escaped() {
        for text in
            [r#"k"e\y&<n'/o %25+z"#, r#"""#, r"\", r"a\", r"\a", "%", "&", "a b", "s3cret", "%41", "&amp;", r"\u0041"]
        {
            // As it is, in quotes or not, and long enough.
            let text = text.repeat(TELLING.div_ceil(text.len()));
            let (key, text) = (Key(text.clone().into()), text.as_str());
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
        assert_eq!(read("s3cret-key").unwrap().redact("s3cret-"), "s3cret-", "too little to tell it from a word");
        assert_eq!(key.redact("00123456789abcdef0123456789abcdef"), "0[key][key]");
    }

    #[test]
    fn keys_that_were_replaced_are_redacted_too() {
        let mut keys = Keys::new(read("the-first").unwrap());
        keys.replace(read("the-first").unwrap());
        assert!(keys.retired.is_empty());
        for number in 0..20 {
            keys.replace(read(&format!("{number:05}-key")).unwrap());
        }
        assert_eq!(keys.redact("00019-key, 00018-key, 00012-key"), "[key], [key], [key]");
        assert_eq!(keys.retired.len(), MAX_RETIRED);
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
        assert_eq!(KeySource::Given("s3cret".into()).exposure(), None);
    }
}
