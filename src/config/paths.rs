//! Checks of the file names in the configuration: a name that would silently open another file than intended is refused.

use std::path::{Component, Path, PathBuf};

use crate::printable::is_harmful;

/// Suffixes of the files that SQLite and the daemon keep beside a database.
const BESIDE: [&str; 4] = ["-wal", "-shm", "-journal", ".lock"];

/// Parameters that SQLite and its drivers read after the question mark of a URI.
const URI_PARAMETERS: [&str; 6] = ["mode", "cache", "immutable", "vfs", "nolock", "psow"];

/// Checks the name of the database. A wrong name is dangerous because SQLite creates a file of any name: the daemon would
/// work on an empty queue while producers fill another one.
///
/// # Errors
/// A message that says what is wrong with the name, and what to do.
pub(super) fn database(name: &str) -> Result<PathBuf, String> {
    if name.to_ascii_lowercase().starts_with(":memory:") {
        return Err("is a database in memory to SQLite, which no other program can open; name a file".to_owned());
    }
    let path = file(name)?;
    if let Some(suffix) = BESIDE.iter().find(|suffix| name.ends_with(**suffix)) {
        return Err(format!(
            "ends with {suffix}, as the files do that SQLite and the daemon keep beside a database; name the database \
             itself, without {suffix}"
        ));
    }
    let parameter = name.rsplit_once('?').and_then(|(_, tail)| tail.split_once('=')).map(|(parameter, _)| parameter);
    if parameter.is_some_and(|parameter| URI_PARAMETERS.contains(&parameter) || parameter.starts_with('_')) {
        return Err("ends like a URI; give the path alone, without the question mark and its parameters".to_owned());
    }
    Ok(path)
}

/// Checks the name of any file.
///
/// # Errors
/// A message that says what is wrong with the name, and what to do.
pub(super) fn file(name: &str) -> Result<PathBuf, String> {
    if name.trim_matches(is_blank).is_empty() {
        return Err("must name a file".to_owned());
    }
    if let Some(found) = name.chars().find(|c| is_harmful(*c)) {
        return Err(format!("has {} in it; remove it", describe(found)));
    }
    if name.contains(char::REPLACEMENT_CHARACTER) {
        return Err("is not UTF-8; give the file another name".to_owned());
    }
    if name.trim_matches(is_blank) != name {
        let side = if name.starts_with(is_blank) { "begins" } else { "ends" };
        return Err(format!("{side} with white space, which is not part of a name; remove it"));
    }
    if name.starts_with(is_quote) || name.ends_with(is_quote) {
        return Err("has a quotation mark around it, which is not part of a name; remove it".to_owned());
    }
    let first = name.split('/').next().unwrap_or_default();
    if first.starts_with('~') && (first == "~" || name.contains('/')) {
        return Err(
            "begins with ~, which only a shell replaces by a home directory; write the directory out".to_owned()
        );
    }
    if has_variable(name) {
        return Err("has a variable in it, which is not replaced by its value; write the value out".to_owned());
    }
    if is_uri(name) {
        return Err("is a URI; give the path alone, such as /var/lib/sweeper/sweeper.db".to_owned());
    }
    // `Path` drops a trailing slash or dot, so the text itself is checked.
    let last = name.rsplit('/').next().unwrap_or_default();
    if ["", "."].contains(&last) || Path::new(name).components().next_back() == Some(Component::ParentDir) {
        return Err("names a directory; name a file in it".to_owned());
    }
    Ok(PathBuf::from(name))
}

/// Whether the character is white space, or has no width, as a byte order mark.
fn is_blank(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}')
}

fn is_quote(c: char) -> bool {
    matches!(c, '"' | '\'' | '`' | '“' | '”' | '„' | '‘' | '’' | '‚' | '«' | '»')
}

fn describe(c: char) -> String {
    let code = format!("the character U+{:04X}", u32::from(c));
    match c {
        '\r' => format!("a carriage return ({code}), which ends the lines of files written on Windows"),
        '\n' => format!("a line break ({code})"),
        '\t' => format!("a tab ({code})"),
        _ => format!("{code}, which is invisible"),
    }
}

/// Whether the name has `${NAME}` or `$(command)` anywhere, or `$NAME` at the start of a segment. Elsewhere, a dollar sign
/// may be part of a name.
fn has_variable(name: &str) -> bool {
    let begins = |segment: &str| {
        let rest = segment.strip_prefix('$');
        rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_'))
    };
    name.contains("${") || name.contains("$(") || name.split('/').any(begins)
}

/// Whether the name is a URI: `file:`, which SQLite always reads as one; `sqlite:`, which drivers use; or anything with `://`.
fn is_uri(name: &str) -> bool {
    let Some((scheme, rest)) = name.split_once(':') else { return false };
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    let is_known = ["file", "sqlite", "sqlite3"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
    is_scheme && (is_known || rest.starts_with("//"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_only_be_a_slip_is_no_name_of_a_file() {
        let slips = [
            ("", "must name a file"),
            (" \t", "must name a file"),
            ("\u{feff}", "must name a file"),
            ("a.db\r", "carriage return"),
            ("a.db\n", "line break"),
            ("a\tb.db", "a tab"),
            ("a\0.db", "U+0000"),
            ("a\u{1b}[2J.db", "U+001B"),
            ("a\u{202e}bd.", "U+202E"),
            ("a\u{fffd}.db", "not UTF-8"),
            ("a.db ", "ends with white space"),
            ("\u{a0}a.db", "begins with white space"),
            ("a.db\u{feff}", "ends with white space"),
            ("'a.db'", "quotation mark"),
            ("\"a.db\"", "quotation mark"),
            ("“a.db”", "quotation mark"),
            ("\"a", "quotation mark"),
            ("~", "begins with ~"),
            ("~/a.db", "begins with ~"),
            ("~sweeper/a.db", "begins with ~"),
            ("$HOME/a.db", "variable"),
            ("${HOME}/a.db", "variable"),
            ("/data/$NAME.db", "variable"),
            ("/data/a-${NAME}.db", "variable"),
            ("$(pwd)/a.db", "variable"),
            ("file:a.db", "URI"),
            ("FILE:///a.db", "URI"),
            ("sqlite:a.db", "URI"),
            ("sqlite3:///a.db", "URI"),
            ("https://a/b.db", "URI"),
            ("a/", "names a directory"),
            ("/", "names a directory"),
            ("a/.", "names a directory"),
            ("..", "names a directory"),
            ("a/..", "names a directory"),
        ];
        for (name, said) in slips {
            let problem = file(name).unwrap_err();
            assert!(problem.contains(said), "{name:?}: {problem}");
            assert!(!problem.chars().any(is_harmful), "{problem:?}");
        }
        let of_the_database = [
            (":memory:", "in memory"),
            (":MEMORY:", "in memory"),
            (":memory:x", "in memory"),
            ("a.db-wal", "-wal"),
            ("a.db-shm", "-shm"),
            ("a.db-journal", "-journal"),
            ("a.db.lock", ".lock"),
            ("a.db?mode=rwc", "like a URI"),
            ("a.db?cache=shared&mode=ro", "like a URI"),
            ("a.db?_journal=WAL", "like a URI"),
            ("file:a.db", "URI"),
        ];
        for (name, said) in of_the_database {
            let problem = database(name).unwrap_err();
            assert!(problem.contains(said), "{name:?}: {problem}");
        }
    }

    #[test]
    fn any_other_name_is_taken_as_it_is() {
        let names = [
            "sweeper.db",
            "./sweeper.db",
            "/var/lib/sweeper/queue of today.db",
            "a?b#c%20&d=e.db",
            "what?.db",
            "5$ a.db",
            "it's.db",
            "~a.db",
            "a:b.db",
            "C:a.db",
            "10:30.db",
            "dir.lock/wal",
            "é 漢字.db",
            "...",
            ".db",
            "..db",
        ];
        for name in names {
            assert_eq!(database(name).as_deref(), Ok(Path::new(name)));
        }
    }
}
