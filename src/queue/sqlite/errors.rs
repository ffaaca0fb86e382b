//! Why the file cannot be used, whether waiting helps, and what a person can do about it.

use std::{
    borrow::Cow,
    fmt, io,
    path::{self, Path, PathBuf},
};

use sqlx::migrate::MigrateError;

use super::{files::Replaced, place::PlaceError};
use crate::queue::{QueueError, Remedy};

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another daemon has it.
    #[error("database {path}: another sweeper{} is working on it; one daemon per file", pid_text(*.pid))]
    Taken {
        /// The file.
        path: PathBuf,
        /// The other daemon's process, if it could be read.
        pid: Option<u32>,
    },
    /// Made by somebody else.
    #[error("database {0}: it is a SQLite database, but not one of sweeper's; give database.path a file of its own")]
    NotOurs(PathBuf),
    /// Made by a newer sweeper.
    #[error("database {path}: made by a newer sweeper (schema {version}); use that version or a newer one")]
    Newer {
        /// The file.
        path: PathBuf,
        /// The first migration that we do not know.
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
    /// It is ours by its tables, and some of them are not as they were.
    #[error(
        "database {}: it looks like a queue of sweeper's that was loaded from a dump, and not all of it is as it was: {}; nothing in \
         it was changed. Load the dump into a new file again, and see to what sqlite3 says meanwhile. Or, to take the pending \
         rows over, give database.path another file, run `sweeper init`, and execute on the new file: {}",
        absolute(.path).display(),
        .wrong.join(", "),
        take_over(.path)
    )]
    Altered {
        /// The file.
        path: PathBuf,
        /// What is missing or other than it was.
        wrong: Vec<String>,
    },
    /// There is nothing in it yet.
    #[error("database {0}: there are no tables in it yet; `sweeper init` or the next start of the daemon makes them")]
    Empty(PathBuf),
    /// There is none.
    #[error("database {0}: there is no such file; `sweeper init` makes it, and database.path says where it is")]
    Missing(PathBuf),
    /// The lock file beside it cannot be used.
    #[error("lock file {path}: {source}; {}", lock_remedy(source))]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// It must not lie there, or somebody else has locked it.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// A migration failed.
    #[error("database {path}: migrate: {source}{}", migration_code(source).map_or_else(Cow::default, |code| remedy(code, .path)))]
    Migrate {
        /// The file.
        path: PathBuf,
        /// What the migration says.
        source: Box<MigrateError>,
    },
    /// SQLite refuses it.
    #[error(transparent)]
    Sql(#[from] StoreError),
}

/// An error that says that the file is damaged, which may be so or not: SQLite makes "malformed" of a read that the disk fails
/// once (EIO), too.
pub trait Doubtful {
    /// What is said while that is looked into; `None` for any other error.
    fn doubt(&self) -> Option<String>;
}

impl Doubtful for StoreError {
    fn doubt(&self) -> Option<String> {
        self.code().filter(|code| is_doubtful(*code)).map(|_| {
            let Self { path, doing, .. } = self;
            let path = path.display();
            format!("database {path}: {doing}: a read failed, or it is damaged ({})", self.said())
        })
    }
}

impl Doubtful for OpenError {
    fn doubt(&self) -> Option<String> {
        match self {
            Self::Sql(error) => error.doubt(),
            Self::Migrate { path, source } => migration_code(source)
                .filter(|code| is_doubtful(*code))
                .map(|_| format!("database {}: migrate: a read failed, or it is damaged ({source})", path.display())),
            Self::Taken { .. }
            | Self::NotOurs(_)
            | Self::Newer { .. }
            | Self::Older(_)
            | Self::Altered { .. }
            | Self::Empty(_)
            | Self::Missing(_)
            | Self::Place(_)
            | Self::Lock { .. } => None,
        }
    }
}

impl OpenError {
    /// Whether waiting can help.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Sql(error) => error.is_temporary(),
            Self::Migrate { source, .. } => migration_code(source).is_some_and(passes),
            // That a full disk has no room for the number in the lock file is the first that is heard of it.
            Self::Lock { source, .. } => is_full(source),
            Self::Taken { .. }
            | Self::NotOurs(_)
            | Self::Newer { .. }
            | Self::Older(_)
            | Self::Altered { .. }
            | Self::Empty(_)
            | Self::Missing(_)
            | Self::Place(_) => false,
        }
    }
}

fn absolute(path: &Path) -> PathBuf {
    path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// What takes the pending rows of an older file over into the one in which it is run.
fn take_over(old: &Path) -> String {
    let old = absolute(old).display().to_string().replace('\'', "''");
    format!(
        "ATTACH '{old}' AS old; INSERT INTO deletions (agent_id, entry_id, priority, due_at, created_at) \
         SELECT agent_id, entry_id, priority, due_at, created_at FROM old.deletions WHERE state = 'pending' \
         ORDER BY id; DETACH old;"
    )
}

#[expect(clippy::wildcard_enum_match_arm, reason = "somebody else's enum: nothing else in it is SQLite's")]
pub(super) fn migration_code(error: &MigrateError) -> Option<i32> {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => extended_code(error),
        _ => None,
    }
}

fn lock_remedy(error: &io::Error) -> &'static str {
    if is_full(error) {
        "make room on its disk"
    } else if error.kind() == io::ErrorKind::InvalidInput {
        "move it away, and the next start makes another one"
    } else if error.kind() == io::ErrorKind::Unsupported {
        "put the database on a file system that has locks"
    } else {
        "the directory of the database must exist and be writable"
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn pid_text(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

/// What [`super::Store`] does when it opens its file a second time.
pub(super) const OPEN_AGAIN: &str = "open again";

/// What SQLite says if a column that a look reads holds a blob.
const BLOB_IN_JSON: &str = "JSON cannot hold BLOB values";

/// A statement that failed.
#[derive(Debug)]
pub struct StoreError {
    pub(super) path: PathBuf,
    pub(super) doing: &'static str,
    pub(super) source: sqlx::Error,
}

impl StoreError {
    pub(super) fn new(path: &Path, doing: &'static str, source: sqlx::Error) -> Self {
        Self { path: path.to_owned(), doing, source }
    }

    /// SQLite's extended result code, if it is SQLite that failed.
    pub(super) fn code(&self) -> Option<i32> {
        extended_code(&self.source)
    }

    /// Whether a file cannot be opened or made.
    #[must_use]
    pub fn is_access(&self) -> bool {
        self.code().is_some_and(|code| matches!(code & 0xff, 8 | 14))
    }

    /// Whether waiting can help: the file is busy or locked, or the disk is full or failing.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        self.code().is_some_and(passes)
    }
}

pub(super) fn extended_code(error: &sqlx::Error) -> Option<i32> {
    error.as_database_error()?.code()?.parse().ok()
}

/// Whether what SQLite answered with this extended code may go well later, with nobody doing anything to the file.
fn passes(code: i32) -> bool {
    match code {
        // What says that the file is damaged is looked at again, and not waited for.
        _ if is_doubtful(code) => false,
        _ => match code & 0xff {
            // SQLITE_BUSY, SQLITE_LOCKED: with all their kinds, since each try begins a new transaction (which is what
            // mends _BUSY_SNAPSHOT). SQLITE_NOMEM.
            5..=7 => true,
            // SQLITE_IOERR: a full disk is also reported so (_SHMSIZE, _WRITE, _FSYNC), and one that is away for a while.
            // SQLITE_FULL.
            10 | 13 => true,
            // SQLITE_PROTOCOL: the race for the locks of the log was lost too often. SQLITE_SCHEMA: somebody changed the
            // tables faster than the statement could be prepared again.
            15 | 17 => true,
            // SQLITE_READONLY: a person must act, also when the system made its disk read-only (_DBMOVED, too: the file
            // is another one). SQLITE_CANTOPEN happens only while opening; that the process has no file descriptors
            // left looks the same as that there is no such directory, and a new process mends the former.
            _ => false,
        },
    }
}

/// Whether this extended code says that the file is damaged.
fn is_doubtful(code: i32) -> bool {
    // SQLITE_IOERR_SHORT_READ: the log of commits was cut short underneath. _CORRUPTFS: a read that the disk fails (EIO); most
    // statements make SQLITE_CORRUPT of it. _DATA: a checksum is wrong. SQLITE_CORRUPT, SQLITE_NOTADB.
    matches!(code, 522 | 8458 | 8202) || matches!(code & 0xff, 11 | 26)
}

/// What a person can do about it: the end of a message.
fn remedy(code: i32, path: &Path) -> Cow<'static, str> {
    let text = match code {
        1032 => "; it was moved or deleted while in use: stop the daemon before touching its files",
        _ => match code & 0xff {
            11 => return rescue(path).into(),
            10 if is_doubtful(code) => return rescue(path).into(),
            // As ours are in order, it is the tables that are not.
            1 | 17 => "; somebody else changed its tables: restore it from a backup",
            3 | 8 => "; make the file and its directory writable for this user",
            5 | 6 => "; another process is writing, and has been for longer than database.busy_timeout",
            7 => "; give the process more memory",
            10 => "; its disk is full or fails: the system's log says which",
            13 => "; make room on its disk",
            14 => "; its directory must exist and be writable, and file descriptors must be left",
            15 => "; too many processes want its locks, or it is on a network file system: put it on a local disk",
            19 => "; somebody else changed its rows while in use: start the daemon again",
            26 => "; give database.path another file, or restore this one from a backup",
            _ => "",
        },
    };
    text.into()
}

/// What rescues the most of a damaged file. It needs no `.recover`, which Debian's shell does not have. A dump of a damaged
/// table goes up to the damage, and from the end back to it; the shell then undoes all of it, unless it is kept from that.
fn rescue(path: &Path) -> String {
    let path = absolute(path).display().to_string().replace('\'', r"'\''");
    format!(
        "; it is damaged, or its disk cannot read it (then the system's log says so): restore it from a backup, or rescue what \
         can be read of it: sqlite3 '{path}' .dump | sed 's/^ROLLBACK; -- due to errors$/COMMIT;/' | sqlite3 rescued.db \
         (and go on as the README says, at \"A damaged file\")"
    )
}

impl StoreError {
    /// What SQLite or the system said.
    fn said(&self) -> String {
        match (&self.source, self.source.as_database_error()) {
            (_, Some(said)) => said.message().to_owned(),
            (sqlx::Error::Io(said), None) => said.to_string(),
            (other, None) => other.to_string(),
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "database {}: {}: {}", self.path.display(), self.doing, self.said())?;
        f.write_str(&self.code().map_or_else(Cow::default, |code| remedy(code, &self.path)))
    }
}

impl QueueError for StoreError {
    fn remedy(&self) -> Remedy {
        if let Some(doubt) = self.doubt() {
            return Remedy::Reconnect(doubt);
        }
        // A disk that fails a read may fail to open the file as well.
        if self.doing == OPEN_AGAIN && self.is_access() {
            return Remedy::Reconnect(self.to_string());
        }
        if self.is_temporary() {
            Remedy::Wait
        } else if self.is_unreadable_row() {
            Remedy::Sweep
        } else if self.is_replaced() {
            Remedy::Lost
        } else {
            Remedy::End
        }
    }
}

impl StoreError {
    /// Whether a row has a value that the schema does not allow.
    fn is_unreadable_row(&self) -> bool {
        let is_blob = |error: &dyn sqlx::error::DatabaseError| error.message() == BLOB_IN_JSON;
        matches!(self.source, sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. })
            || self.source.as_database_error().is_some_and(is_blob)
    }

    /// Whether others use other files by now.
    fn is_replaced(&self) -> bool {
        let sqlx::Error::Io(error) = &self.source else { return false };
        error.get_ref().is_some_and(|said| said.is::<Replaced>())
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waiting_mends_is_waited_for_and_the_rest_says_what_to_do() {
        // Busy, recovery, snapshot, busy for long, locked, no memory, I/O, no room for the shared memory, full, locking
        // protocol, schema.
        for code in [5, 261, 517, 773, 6, 7, 10, 778, 4874, 13, 15, 17] {
            assert!(passes(code), "{code} is temporary");
        }
        // Any error, read-only, moved, corrupt, corrupt index, cannot open, is a directory, no database, and those kinds
        // of I/O errors that mean damage.
        for code in [1, 3, 8, 1032, 11, 779, 14, 526, 19, 26, 522, 8202, 8458] {
            assert!(!passes(code), "{code} is permanent");
        }
        for code in [1, 3, 5, 6, 7, 8, 10, 11, 13, 14, 15, 17, 19, 26, 522, 1032, 8202, 8458] {
            assert!(!remedy(code, Path::new("a.db")).is_empty(), "{code} has no remedy");
        }
    }

    #[test]
    fn what_says_that_the_file_is_damaged_is_in_doubt_and_nothing_else_is() {
        for code in [11, 267, 523, 779, 26, 522, 8202, 8458] {
            assert!(is_doubtful(code) && !passes(code), "{code}");
        }
        for code in [1, 5, 7, 8, 10, 13, 14, 19, 266, 778, 1032, 4874] {
            assert!(!is_doubtful(code), "{code}");
        }
        let said = rescue(Path::new("/it's/a.db"));
        assert!(said.contains(r"sqlite3 '/it'\''s/a.db' .dump | sed "), "{said}");
    }
}
