//! Escapes text from outside for terminals and logs: characters that move the cursor, reorder a line or break it in two.

use std::{
    borrow::Cow,
    path::{self, Path, PathBuf},
};

/// Whether the character acts on a terminal or a line: a control character, one that changes the direction of writing, or a
/// separator of lines or paragraphs.
#[must_use]
pub fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The path as a message shows it: from the root, so that it is true in any directory.
#[must_use]
pub fn absolute(path: &Path) -> PathBuf {
    // This fails only without a working directory. Then the path as it was given is the best name.
    path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// `text` on one line, with each harmful character as Rust writes it in a string (`\n`, `\u{1b}`).
#[must_use]
pub fn line(text: &str) -> Cow<'_, str> {
    escape(text, is_harmful)
}

/// The same for text of several lines. Line breaks and tabs stay.
#[must_use]
pub fn lines(text: &str) -> Cow<'_, str> {
    escape(text, |c| is_harmful(c) && c != '\n' && c != '\t')
}

/// `text` as a shell takes it: in quotation marks unless it needs none.
#[must_use]
pub fn shell(text: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%=,".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.into();
    }
    format!("'{}'", text.replace('\'', r"'\''")).into()
}

fn escape(text: &str, is_escaped: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(&is_escaped) {
        return text.into();
    }
    let mut clean = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_escaped(c) { clean.push_str(&escaped(c)) } else { clean.push(c) }
    }
    clean.into()
}

/// The character as Rust writes it in a string. `char::escape_debug` would leave some harmful characters as they are.
fn escaped(c: char) -> String {
    match c {
        '\n' | '\r' | '\t' => c.escape_default().to_string(),
        c => c.escape_unicode().to_string(),
    }
}

/// A line of a text log. If `is_coloured`, the formatter's own colours (`ESC [ … m`) stay.
#[must_use]
pub fn log_line(line: &str, is_coloured: bool) -> Cow<'_, str> {
    if !line.chars().any(is_harmful) {
        return line.into();
    }
    let mut clean = String::with_capacity(line.len() + 16);
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        let length = match colour(rest).filter(|_| is_coloured) {
            Some(length) => {
                clean.push_str(&rest[..length]);
                length
            }
            None => {
                if is_harmful(c) {
                    clean.push_str(&escaped(c))
                } else {
                    clean.push(c)
                }
                c.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    clean.into()
}

/// The length of the escape sequence of a colour at the start of `text`.
fn colour(text: &str) -> Option<usize> {
    let inside = text.strip_prefix("\u{1b}[")?;
    let end = inside.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    inside[end..].starts_with('m').then_some(2 + end + 1)
}

/// A line of a JSON log. Harmful characters can only be in its strings, and JSON itself would not escape most of them.
#[must_use]
pub fn json_line(line: &str) -> Cow<'_, str> {
    if !line.chars().any(is_harmful) {
        return line.into();
    }
    let mut clean = String::with_capacity(line.len() + 16);
    for c in line.chars() {
        // Every harmful character is below 2^16, so it is one unit of UTF-16.
        if is_harmful(c) { clean.push_str(&format!("\\u{:04x}", u32::from(c))) } else { clean.push(c) }
    }
    clean.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HARMFUL: [char; 17] = [
        '\0', '\u{7}', '\n', '\r', '\u{1b}', '\u{7f}', '\u{85}', '\u{9b}', '\u{61c}', '\u{200e}', '\u{200f}',
        '\u{2028}', '\u{2029}', '\u{202a}', '\u{202e}', '\u{2066}', '\u{2069}',
    ];

    #[test]
    fn no_harmful_character_is_left_and_none_is_lost() {
        for c in HARMFUL {
            let text = format!("a{c}é");
            for clean in [line(&text), log_line(&text, true), log_line(&text, false)] {
                assert!(!clean.chars().any(is_harmful), "{clean:?}");
                assert!(clean.starts_with("a\\") && clean.ends_with('é'), "{clean:?}");
            }
            let json = format!("{{\"a\":\"{c}\"}}");
            let json = json_line(&json);
            assert!(!json.chars().any(is_harmful), "{json:?}");
            let back: serde_json::Value = serde_json::from_str(&json).unwrap();
            assert_eq!(back["a"], c.to_string());
        }
        for plain in ["", "a b", "é ✓ 漢字 👩🏽", "\\n"] {
            assert_eq!((line(plain), lines(plain)), (plain.into(), plain.into()));
        }
        assert_eq!(lines("a\n\tb\u{1b}[2J\r"), "a\n\tb\\u{1b}[2J\\r");
        assert_eq!(line("a\nb\u{202e}"), "a\\nb\\u{202e}");
    }

    #[test]
    fn text_is_quoted_for_a_shell_only_where_it_must_be() {
        for (text, shown) in [
            ("ERASURE-17", "ERASURE-17"),
            ("/var/lib/sweeper.db", "/var/lib/sweeper.db"),
            ("erasure 17", "'erasure 17'"),
            ("it's", r"'it'\''s'"),
            ("$(id)", "'$(id)'"),
            ("a;b", "'a;b'"),
            ("", "''"),
        ] {
            assert_eq!(shell(text), shown);
        }
    }

    #[test]
    fn only_colours_are_left_in_a_line_that_is_coloured() {
        let coloured = "\u{1b}[2m12:00\u{1b}[0m \u{1b}[31;1mERROR\u{1b}[0m";
        assert_eq!(log_line(coloured, true), coloured);
        assert!(!log_line(coloured, false).contains('\u{1b}'));
        for harmful in ["\u{1b}[2J", "\u{1b}]0;title\u{7}", "\u{1b}[31", "\u{1b}m", "\u{1b}[3é1m", "\u{9b}31m"] {
            let clean = log_line(harmful, true);
            assert!(!clean.chars().any(is_harmful), "{clean:?}");
        }
    }
}
