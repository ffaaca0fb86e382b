//! Where a value was set: messages about a wrong value say it.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

/// The origin of each value that is no default, by `section.key`.
pub(super) type Origins = BTreeMap<String, Origin>;

/// The place in which a value was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A line of a file, counted from 1. The path is absolute.
    File(PathBuf, usize),
    /// A variable of the environment.
    Variable(String),
}

impl Origin {
    pub(super) fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path, _) => Some(path),
            Self::Variable(_) => None,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, line) => write!(f, "in {}, line {line}", path.display()),
            Self::Variable(name) => write!(f, "by {name}"),
        }
    }
}
