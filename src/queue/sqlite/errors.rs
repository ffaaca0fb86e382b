//! Why the file cannot be used, and whether waiting helps.

use std::{
    borrow::Cow,
    fmt, io,
    path::{Path, PathBuf},
};

use sqlx::migrate::MigrateError;

use super::{
    location::LocationError,
    lock::LOCK_SUFFIX,
    result_codes::{is_full, is_temporary_code, lock_remedy, may_be_damaged, remedy, take_over},
    watched_files::{Replaced, beside},
};
use crate::{
    permission::{Need, refusal},
    printable::{absolute, shell},
    queue::{QueueError, Remedy},
};

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another daemon has it.
    #[error(
        "database {}: another sweeper{} is working on it, and only one may; stop that one, or give database.path another file",
        absolute(.path).display(),
        pid_text(*.pid)
    )]
    Taken {
        /// The file.
        path: PathBuf,
        /// The other daemon's process, if it could be read.
        pid: Option<u32>,
    },
    /// Made by another program.
    #[error(
        "database {}: it is a SQLite database, but not one of sweeper's; give database.path a file of its own",
        absolute(.0).display()
    )]
    NotOurs(PathBuf),
    /// Made by a newer sweeper.
    #[error(
        "database {}: made by a newer sweeper (schema {version}); use that version or a newer one",
        absolute(.path).display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The first migration that this version does not know.
        version: i64,
    },
    /// Made by a development version from before the first release.
    #[error(
        "database {}: made by an older development version, whose files this version does not use; nothing in it was changed. To \
         take its pending rows over, give database.path another file, run `sweeper init`, and execute on the new file: {}",
        absolute(.0).display(),
        take_over(.0)
    )]
    Older(PathBuf),
    /// It has our tables, and some of them were changed.
    #[error(
        "database {}: it looks like a queue of sweeper's that was loaded from a dump, and not all of it is as it was: {}; nothing in \
         it was changed. Load the dump into a new file again, and see to the errors that sqlite3 prints meanwhile. Or, to take \
         the pending rows over, give database.path another file, run `sweeper init`, and execute on the new file: {}",
        absolute(.path).display(),
        .wrong.join(", "),
        take_over(.path)
    )]
    Altered {
        /// The file.
        path: PathBuf,
        /// The objects that are missing or were changed.
        wrong: Vec<String>,
    },
    /// It is ours, and tables were dropped from it.
    #[error(
        "database {}: somebody has dropped {} of the queue's tables: {}; nothing was changed. Put a backup of the file in its place. \
         Or, to take the pending rows over if the table deletions is still there, give database.path another file, run \
         `sweeper init`, and execute on the new file: {}",
        absolute(.path).display(),
        .missing.len(),
        .missing.join(", "),
        take_over(.path)
    )]
    Incomplete {
        /// The file.
        path: PathBuf,
        /// The tables that are missing.
        missing: Vec<String>,
    },
    /// There is nothing in it yet.
    #[error(
        "database {}: there are no tables in it yet; `sweeper init` or the next start of the daemon makes them",
        absolute(.0).display()
    )]
    Empty(PathBuf),
    /// There is none.
    #[error("database {}: there is no such file{}", absolute(.path).display(), .named)]
    Missing {
        /// Its path.
        path: PathBuf,
        /// Where the path comes from, and what to do: the end of the message.
        named: String,
    },
    /// The directory for the file is missing.
    #[error(
        "database {}: there is no directory {dir}{named}; make it with `mkdir -p {}`, or give database.path another file",
        absolute(.path).display(),
        shell(&.directory.display().to_string()),
        dir = .directory.display()
    )]
    NoDirectory {
        /// Its path.
        path: PathBuf,
        /// The absolute path of the missing directory.
        directory: PathBuf,
        /// Where the path comes from: a part of the message.
        named: String,
    },
    /// The permissions of the file, or of a directory above it, keep this process out.
    #[error("database {}: {refusal}", absolute(.path).display())]
    Denied {
        /// Its path.
        path: PathBuf,
        /// Whose the file or directory is, its mode, who this process is, and what to do.
        refusal: String,
    },
    /// The lock file beside it cannot be used.
    #[error("lock file {}: {source}; {}", absolute(.path).display(), lock_remedy(source))]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file must not lie there, or another program has locked it.
    #[error(transparent)]
    Location(#[from] LocationError),
    /// A migration failed.
    #[error(
        "database {}: migrate: {source}{}",
        absolute(.path).display(),
        migration_code(source).map_or_else(Cow::default, |code| remedy(code, .path))
    )]
    Migrate {
        /// The file.
        path: PathBuf,
        /// The migration's error.
        source: Box<MigrateError>,
    },
    /// SQLite refuses it.
    #[error(transparent)]
    Sql(#[from] StoreError),
}

/// An error that may mean that the file is damaged. It need not: SQLite says "malformed" also when the disk fails a single read
/// (EIO).
pub trait Doubtful {
    /// The message to log while the caller takes a second look; `None` for any other error.
    fn doubt(&self) -> Option<String>;
}

impl Doubtful for StoreError {
    fn doubt(&self) -> Option<String> {
        self.code().filter(|code| may_be_damaged(*code)).map(|_| doubt(&self.path, self.doing, &self.cause()))
    }
}

impl Doubtful for OpenError {
    fn doubt(&self) -> Option<String> {
        match self {
            Self::Sql(error) => error.doubt(),
            Self::Migrate { path, source } => migration_code(source)
                .filter(|code| may_be_damaged(*code))
                .map(|_| doubt(path, "migrate", &source.to_string())),
            Self::Taken { .. }
            | Self::NotOurs(_)
            | Self::Newer { .. }
            | Self::Older(_)
            | Self::Altered { .. }
            | Self::Incomplete { .. }
            | Self::Empty(_)
            | Self::Missing { .. }
            | Self::NoDirectory { .. }
            | Self::Denied { .. }
            | Self::Location(_)
            | Self::Lock { .. } => None,
        }
    }
}

fn doubt(path: &Path, doing: &str, cause: &str) -> String {
    format!("database {}: {doing}: a read failed, or the file is damaged ({cause})", absolute(path).display())
}

impl OpenError {
    /// The same error; if the permissions are its cause, it says which.
    #[must_use]
    pub(super) fn explained(self, path: &Path, need: Need) -> Self {
        let is_access = match &self {
            Self::Sql(error) => error.is_access(),
            Self::Lock { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
            Self::Missing { .. } => true,
            Self::Migrate { source, .. } => migration_code(source).is_some_and(is_access_code),
            Self::Taken { .. }
            | Self::NotOurs(_)
            | Self::Newer { .. }
            | Self::Older(_)
            | Self::Altered { .. }
            | Self::Incomplete { .. }
            | Self::Empty(_)
            | Self::NoDirectory { .. }
            | Self::Denied { .. }
            | Self::Location(_) => false,
        };
        if !is_access {
            return self;
        }
        // SQLite needs the files beside the database, too.
        let beside = ["-wal", "-shm", LOCK_SUFFIX].map(|suffix| (beside(path, suffix), Need::Read));
        let mut files = [(path.to_owned(), need)].into_iter().chain(beside);
        match files.find_map(|(file, need)| refusal(&file, need)) {
            Some(refusal) => Self::Denied { path: path.to_owned(), refusal },
            None => self,
        }
    }

    /// Whether waiting can help.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Sql(error) => error.is_temporary(),
            Self::Migrate { source, .. } => migration_code(source).is_some_and(is_temporary_code),
            // The process number in the lock file is the first write of a start: a full disk shows there.
            Self::Lock { source, .. } => is_full(source),
            Self::Taken { .. }
            | Self::NotOurs(_)
            | Self::Newer { .. }
            | Self::Older(_)
            | Self::Altered { .. }
            | Self::Incomplete { .. }
            | Self::Empty(_)
            | Self::Missing { .. }
            | Self::NoDirectory { .. }
            | Self::Denied { .. }
            | Self::Location(_) => false,
        }
    }
}

/// SQLite's extended result code, if SQLite failed the migration.
#[expect(clippy::wildcard_enum_match_arm, reason = "sqlx's enum: its other variants have no SQLite code")]
pub(super) fn migration_code(error: &MigrateError) -> Option<i32> {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => extended_code(error),
        _ => None,
    }
}

fn pid_text(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

/// [`StoreError::doing`] of a [`super::Store`] that replaces its connection.
pub(super) const REOPEN: &str = "reopen";

/// SQLite's message if a column that goes into JSON holds a blob.
const BLOB_IN_JSON: &str = "JSON cannot hold BLOB values";

/// A statement, or another use of the file, that failed.
#[derive(Debug)]
pub struct StoreError {
    pub(super) path: PathBuf,
    /// The attempted action, as the message has it: `enqueue`, `read the holds`.
    pub(super) doing: &'static str,
    pub(super) source: sqlx::Error,
}

impl StoreError {
    pub(super) fn new(path: &Path, doing: &'static str, source: sqlx::Error) -> Self {
        Self { path: path.to_owned(), doing, source }
    }

    /// SQLite's extended result code, if SQLite failed.
    pub(super) fn code(&self) -> Option<i32> {
        extended_code(&self.source)
    }

    /// Whether a file cannot be opened or made.
    #[must_use]
    pub fn is_access(&self) -> bool {
        let is_denied =
            matches!(&self.source, sqlx::Error::Io(error) if error.kind() == io::ErrorKind::PermissionDenied);
        is_denied || self.code().is_some_and(is_access_code)
    }

    /// Whether waiting can help: the file is busy or locked, or the disk is full or failing.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        self.code().is_some_and(is_temporary_code)
    }

    /// The message of SQLite or of the system.
    fn cause(&self) -> String {
        match (&self.source, self.source.as_database_error()) {
            (_, Some(error)) => error.message().to_owned(),
            (sqlx::Error::Io(error), None) => error.to_string(),
            (other, None) => other.to_string(),
        }
    }

    /// Whether a row has a value that the schema does not allow.
    fn is_invalid_row(&self) -> bool {
        let is_blob = |error: &dyn sqlx::error::DatabaseError| error.message() == BLOB_IN_JSON;
        matches!(self.source, sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. })
            || self.source.as_database_error().is_some_and(is_blob)
    }

    /// Whether a file was replaced, so that other processes use other files.
    pub(super) fn is_replaced(&self) -> bool {
        let sqlx::Error::Io(error) = &self.source else { return false };
        error.get_ref().is_some_and(|cause| cause.is::<Replaced>())
    }
}

/// SQLITE_PERM, SQLITE_READONLY and SQLITE_CANTOPEN.
fn is_access_code(code: i32) -> bool {
    matches!(code & 0xff, 3 | 8 | 14)
}

pub(super) fn extended_code(error: &sqlx::Error) -> Option<i32> {
    error.as_database_error()?.code()?.parse().ok()
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The path may be that of a file beside the database.
        let is_beside =
            ["-wal", "-shm", LOCK_SUFFIX].iter().any(|suffix| self.path.to_string_lossy().ends_with(suffix));
        let noun = if is_beside { "file" } else { "database" };
        write!(f, "{noun} {}: {}: {}", absolute(&self.path).display(), self.doing, self.cause())?;
        f.write_str(&self.code().map_or_else(Cow::default, |code| remedy(code, &self.path)))
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl QueueError for StoreError {
    fn remedy(&self) -> Remedy {
        if let Some(doubt) = self.doubt() {
            return Remedy::Reconnect(doubt);
        }
        // A disk that fails a read may fail to open the file as well.
        if self.doing == REOPEN && self.is_access() {
            return Remedy::Reconnect(self.to_string());
        }
        if self.is_temporary() {
            Remedy::Wait
        } else if self.is_invalid_row() {
            Remedy::Sweep
        } else if self.is_replaced() {
            Remedy::Lost
        } else {
            Remedy::End
        }
    }
}
