//! Removal of the API key from text that comes back from outside.
//!
//! A server that refuses a request may quote the request's header in its error, and that error goes into the log and the
//! database. The key may be escaped there: in JSON of a shape that we do not know, in the error page of a gateway, in a URL.
//! A server that shortens its message may have cut the key.

use std::collections::BTreeSet;

use secrecy::ExposeSecret;

use super::Key;

/// The key in use, and those that it replaced: the API may still quote an old one.
#[derive(Debug)]
pub struct Keys {
    current: Key,
    /// The newest last.
    retired: Vec<Key>,
}

/// How many replaced keys are remembered.
const MAX_RETIRED: usize = 8;

/// This many first characters of a key are redacted, if they are at least half of the key. A key with fewer characters is
/// never redacted: it may be any word, and the gaps would show where it was.
const TELLING: usize = 8;

impl Keys {
    /// Starts with the first key.
    #[must_use]
    pub fn new(current: Key) -> Self {
        Self { current, retired: Vec::new() }
    }

    /// The key to send.
    #[must_use]
    pub fn current(&self) -> &Key {
        &self.current
    }

    /// Takes `found` as the key to send from now on.
    pub fn replace(&mut self, found: Key) {
        if !found.is_same(&self.current) {
            self.retired.push(std::mem::replace(&mut self.current, found));
            let surplus = self.retired.len().saturating_sub(MAX_RETIRED);
            self.retired.drain(..surplus);
        }
    }

    /// Returns `text` with `[key]` in place of each of these keys.
    #[must_use]
    pub fn redact(&self, text: &str) -> String {
        self.retired.iter().fold(self.current.redact(text), |text, key| key.redact(&text))
    }
}

impl Key {
    /// Whether the key is too short to be told from other text, so that it is not redacted.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.0.expose_secret().len() < TELLING
    }

    /// Returns `text` with `[key]` in place of the key, escaped or not, whole or cut off after most of it.
    #[must_use]
    pub fn redact(&self, text: &str) -> String {
        if self.is_short() {
            return text.to_owned();
        }
        let key: Vec<Vec<String>> = self.0.expose_secret().bytes().map(spellings).collect();
        let mut clean = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let echo = echo(rest.as_bytes(), &key);
            clean.push_str(if echo.is_some() { "[key]" } else { &rest[..first.len_utf8()] });
            rest = &rest[echo.unwrap_or(first.len_utf8())..];
        }
        clean
    }
}

/// The ways to write this character of a key: as it is, and as JSON, Rust, URLs, forms and HTML escape it. The backslash of
/// an escape is left out, because [`echo`] skips backslashes.
fn spellings(byte: u8) -> Vec<String> {
    let mut all = vec![
        char::from(byte).to_string(),
        format!("u{byte:04x}"),
        format!("x{byte:02x}"),
        format!("%{byte:02x}"),
        format!("&#{byte};"),
        format!("&#{byte:03};"),
        format!("&#x{byte:x};"),
    ];
    let name = match byte {
        b'&' => "&amp;",
        b'<' => "&lt;",
        b'>' => "&gt;",
        b'"' => "&quot;",
        b'\'' => "&apos;",
        b' ' => "+",
        _ => return all,
    };
    all.push(name.to_owned());
    all
}

/// How many bytes at the start of `text` are the key or most of it. `key` has the spellings of each of its characters.
fn echo(text: &[u8], key: &[Vec<String>]) -> Option<usize> {
    // Several at a time, because a key may itself look like an escape: `%41` begins both `%41` and `%2541`.
    let mut ends = BTreeSet::from([0]);
    for (matched, spellings) in key.iter().enumerate() {
        let next: BTreeSet<usize> = ends.iter().flat_map(|end| steps(text, *end, spellings)).collect();
        if next.is_empty() {
            let is_most = matched >= TELLING.max(key.len().div_ceil(2));
            return ends.last().copied().filter(|_| is_most);
        }
        ends = next;
    }
    ends.last().copied()
}

/// Where a character that begins at `start` may end. A text that was escaped several times has several backslashes before
/// the character, and all of them belong to it.
fn steps(text: &[u8], start: usize, spellings: &[String]) -> impl Iterator<Item = usize> {
    let backslashes = text[start..].iter().take_while(|byte| **byte == b'\\').count();
    [start, start + backslashes].into_iter().flat_map(move |start| {
        spellings.iter().filter_map(move |spelling| {
            let written = text.get(start..start + spelling.len())?;
            let is_it = match spelling.len() {
                1 => written == spelling.as_bytes(),
                // Hexadecimal digits have two cases.
                _ => written.eq_ignore_ascii_case(spelling.as_bytes()),
            };
            is_it.then_some(start + spelling.len())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key(text.into())
    }

    #[test]
    fn a_key_of_a_few_characters_is_any_word_and_left_where_it_is() {
        let short = key("success");
        assert_eq!((short.is_short(), short.redact("no success")), (true, "no success".to_owned()));
        let long = key("success!");
        assert_eq!((long.is_short(), long.redact("no success!")), (false, "no [key]".to_owned()));
    }

    #[test]
    fn a_key_is_redacted_however_it_is_escaped() {
        for text in
            [r#"k"e\y&<n'/o %25+z"#, r#"""#, r"\", r"a\", r"\a", "%", "&", "a b", "s3cret", "%41", "&amp;", r"\u0041"]
        {
            // Short texts are repeated, because a short key is not redacted.
            let text = text.repeat(TELLING.div_ceil(text.len()));
            let (key, text) = (Key(text.clone().into()), text.as_str());
            let (json, debug) = (serde_json::to_string(text).unwrap(), format!("{text:?}"));
            let twice = serde_json::to_string(&json).unwrap();
            let unicode: String = text.chars().map(|c| format!("\\u{:04X}", u32::from(c))).collect();
            let percent = percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
            let in_html = |text: &str| {
                text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;").replace('\'', "&#039;")
            };
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
                in_html(text),
                in_html(&json[1..json.len() - 1]),
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
        let long = key("0123456789abcdef");
        assert_eq!(long.redact("0123456789abcde…"), "[key]…");
        assert_eq!(long.redact("(01234567)"), "([key])");
        assert_eq!(long.redact("0123456 is not half of it"), "0123456 is not half of it");
        assert_eq!(key("s3cret-key").redact("s3cret-"), "s3cret-", "too little to tell it from a word");
        assert_eq!(long.redact("00123456789abcdef0123456789abcdef"), "0[key][key]");
    }

    #[test]
    fn keys_that_were_replaced_are_redacted_too() {
        let mut keys = Keys::new(key("the-first"));
        keys.replace(key("the-first"));
        assert!(keys.retired.is_empty());
        for number in 0..20 {
            keys.replace(key(&format!("{number:05}-key")));
        }
        assert_eq!(keys.redact("00019-key, 00018-key, 00012-key"), "[key], [key], [key]");
        assert_eq!(keys.retired.len(), MAX_RETIRED);
    }
}
