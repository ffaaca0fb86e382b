//! The layer of the configuration file: its text, and where each key stands in it.

use std::{
    io,
    path::{Path, PathBuf},
};

use toml::de::{DeTable, DeValue};

use super::{
    ConfigError,
    origin::{Origin, Origins},
    unknown,
};
use crate::{printable::absolute, small_file};

/// A configuration file may have this many bytes. All keys with their comments take less than a hundredth.
const MOST: u64 = 1 << 20;

/// A configuration file that was read, and that is TOML.
pub(super) struct FileLayer {
    /// Absolute.
    pub(super) path: PathBuf,
    pub(super) text: String,
    pub(super) origins: Origins,
    /// The sections and keys that are unknown, or of the wrong kind.
    pub(super) problems: Vec<String>,
}

impl FileLayer {
    /// Reads the file. Messages name the absolute path.
    ///
    /// # Errors
    /// If the file cannot be read, or is no TOML.
    pub(super) fn read(path: &Path) -> Result<Self, ConfigError> {
        let path = absolute(path);
        let wrong = |problem: &str| ConfigError::Layer(format!("{}: {problem}", path.display()));
        let bytes = small_file::read(&path, MOST).map_err(|error| wrong(&unreadable(&error, &path)))?;
        let text = String::from_utf8(bytes).map_err(|_| wrong("is not UTF-8; save the file as UTF-8"))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned();
        let lines = Lines { path: &path, text: &text };
        let table = DeTable::parse(&text).map_err(|error| {
            // The message of the error alone: its other lines quote the file, in which the API key may be.
            let message = error.message().lines().collect::<Vec<_>>().join(": ");
            let at = error.span().map_or(0, |span| span.start);
            ConfigError::Layer(format!("{}: {message}", lines.place(at)))
        })?;
        let (origins, problems) = check(table.get_ref(), &lines);
        Ok(Self { path, text, origins, problems })
    }
}

fn unreadable(error: &io::Error, path: &Path) -> String {
    // Below a file there are no names.
    let file = path.ancestors().skip(1).find(|above| above.exists()).filter(|above| !above.is_dir());
    if let Some(file) = file {
        format!("{} is a file, and must be a directory; or read no file with --config none", file.display())
    } else if error.kind() == io::ErrorKind::NotFound {
        "there is no such file".to_owned()
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        format!("{error}, or read no file with --config none")
    } else {
        error.to_string()
    }
}

/// Finds the lines of a file.
struct Lines<'a> {
    path: &'a PathBuf,
    text: &'a str,
}

impl Lines<'_> {
    /// The line, counted from 1, in which the byte at this offset stands.
    fn line(&self, offset: usize) -> usize {
        1 + self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
    }

    fn place(&self, offset: usize) -> String {
        format!("{}, line {}", self.path.display(), self.line(offset))
    }
}

/// Whether a key may have several values.
fn may_be_a_list(section: &str, key: &str) -> bool {
    [("database", "url"), ("http", "hosts")].contains(&(section, key))
}

/// The line of each key, and the problems of all that is no key.
fn check(root: &DeTable<'_>, lines: &Lines<'_>) -> (Origins, Vec<String>) {
    let (mut origins, mut problems) = (Origins::new(), Vec::new());
    for (section, value) in root {
        let mut wrong = |at: usize, problem: &str| problems.push(format!("{}: {problem}", lines.place(at)));
        let (at, section) = (section.span().start, section.get_ref().as_ref());
        let Some(known) = unknown::keys_of(section) else {
            wrong(at, &unknown::section_in_file(section));
            continue;
        };
        let DeValue::Table(table) = value.get_ref() else {
            wrong(at, &format!("{section} is a section; {}", unknown::keys_listed(section)));
            continue;
        };
        for (key, value) in table {
            let (at, key) = (key.span().start, key.get_ref().as_ref());
            if !known.contains(&key) {
                wrong(at, &unknown::key_in_file(section, key));
            } else if matches!(value.get_ref(), DeValue::Table(_)) {
                wrong(at, &format!("{section}.{key}: must be one value, not a section"));
            } else if matches!(value.get_ref(), DeValue::Array(_)) && !may_be_a_list(section, key) {
                wrong(at, &format!("{section}.{key}: must be one value, not a list"));
            } else {
                origins.insert(format!("{section}.{key}"), Origin::File(lines.path.clone(), lines.line(at)));
            }
        }
    }
    (origins, problems)
}
