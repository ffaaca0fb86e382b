//! SQLite's result codes: whether waiting helps, whether the file may be damaged, and the advice at the end of a message.

use std::{borrow::Cow, io, path::Path};

use crate::printable::{absolute, shell};

/// Whether a statement that failed with this extended code may succeed later, without anybody changing the file.
pub(super) fn is_temporary_code(code: i32) -> bool {
    match code {
        // A second look decides about these, not waiting.
        _ if may_be_damaged(code) => false,
        _ => match code & 0xff {
            // SQLITE_BUSY and SQLITE_LOCKED of every kind: each try begins a new transaction, which also mends _BUSY_SNAPSHOT.
            // SQLITE_NOMEM.
            5..=7 => true,
            // SQLITE_IOERR: SQLite reports a full disk so (_SHMSIZE, _WRITE, _FSYNC), and a disk that is away for a while.
            // SQLITE_FULL.
            10 | 13 => true,
            // SQLITE_PROTOCOL: the race for the WAL's locks was lost too often. SQLITE_SCHEMA: another program changed the
            // tables faster than SQLite could prepare the statement again.
            15 | 17 => true,
            // SQLITE_READONLY: a person must act, also if the system made the disk read-only, and if the file is another one
            // (_DBMOVED). SQLITE_CANTOPEN: a process without free file descriptors looks the same as a missing directory, and
            // a restart mends the former.
            _ => false,
        },
    }
}

/// Whether this extended code says that the file is damaged.
pub(super) fn may_be_damaged(code: i32) -> bool {
    // SQLITE_IOERR_SHORT_READ: something cut the WAL short. SQLITE_IOERR_CORRUPTFS: the disk failed a read (EIO); most statements
    // report SQLITE_CORRUPT then. SQLITE_IOERR_DATA: a checksum is wrong. SQLITE_CORRUPT, SQLITE_NOTADB.
    matches!(code, 522 | 8458 | 8202) || matches!(code & 0xff, 11 | 26)
}

/// The end of a message: what a person can do about this extended code.
pub(super) fn remedy(code: i32, path: &Path) -> Cow<'static, str> {
    let text = match code {
        1032 => {
            "; the file was moved or deleted while in use: stop the daemon before touching its files, then start it again"
        }
        _ => match code & 0xff {
            11 => return rescue(path).into(),
            10 if may_be_damaged(code) => return rescue(path).into(),
            // Our statements are correct, so the tables are not.
            1 | 17 => "; another program changed its tables: restore it from a backup",
            3 | 8 => "; make the file and its directory writable for this user",
            5 | 6 => {
                "; another process is writing, and has kept the write lock for longer than database.busy_timeout: look for a \
                 transaction that was left open, then try again"
            }
            7 => "; give the process more memory",
            10 => return may_have_grown(file_size_limit()),
            13 => "; make room on its disk",
            14 => "; its directory must exist and be writable, and the process must have file descriptors left",
            15 => {
                "; too many processes compete for its locks, or it is on a network file system: put it on a local disk"
            }
            19 => "; another program changed its rows while in use: start the daemon again",
            26 => "; give database.path another file, or restore this one from a backup",
            _ => "",
        },
    };
    text.into()
}

/// What to do about a file that could not be written. A process that may not write a file beyond `limit` bytes is told the
/// same by SQLite as one whose disk is full, and the system's log then says nothing.
fn may_have_grown(limit: Option<u64>) -> Cow<'static, str> {
    let disk = "its disk is full or fails: the system's log says which";
    match limit {
        None => format!("; {disk}").into(),
        Some(limit) => format!(
            "; a file has reached the {} KiB that this process may write (raise ulimit -f; LimitFSIZE= in systemd), or {disk}",
            limit >> 10
        )
        .into(),
    }
}

fn file_size_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Fsize).current
}

/// The command that rescues the most of a damaged file. It does without `.recover`, which Debian's shell does not have. A dump
/// reads a damaged table up to the damage, then from the end back to the damage, and ends with ROLLBACK; `sed` makes that a COMMIT.
fn rescue(path: &Path) -> String {
    let path = absolute(path).display().to_string();
    let path = shell(&path);
    format!(
        "; it is damaged, or its disk cannot read it (then the system's log says so): restore it from a backup, or rescue what \
         can be read of it: sqlite3 {path} .dump | sed 's/^ROLLBACK; -- due to errors$/COMMIT;/' | sqlite3 rescued.db \
         (and go on as docs/operating.md says, at \"A damaged file\")"
    )
}

/// The SQL that copies the pending rows of an older file into the file in which it is run.
pub(super) fn take_over(old: &Path) -> String {
    let old = absolute(old).display().to_string().replace('\'', "''");
    format!(
        "ATTACH '{old}' AS old; INSERT INTO deletions (agent_id, entry_id, priority, due_at, created_at) \
         SELECT agent_id, entry_id, priority, due_at, created_at FROM old.deletions WHERE state = 'pending' \
         ORDER BY id; DETACH old;"
    )
}

/// What a person can do about a lock file that cannot be used.
pub(super) fn lock_remedy(error: &io::Error) -> &'static str {
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

/// Whether the disk, or the user's share of it, is full.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waiting_mends_is_waited_for_and_the_rest_says_what_to_do() {
        // Busy, recovery, snapshot, busy for long, locked, no memory, I/O, no room for the shared memory, full, locking
        // protocol, schema.
        for code in [5, 261, 517, 773, 6, 7, 10, 778, 4874, 13, 15, 17] {
            assert!(is_temporary_code(code), "{code} is temporary");
        }
        // Any error, read-only, moved, corrupt, corrupt index, cannot open, is a directory, no database, and those kinds
        // of I/O errors that mean damage.
        for code in [1, 3, 8, 1032, 11, 779, 14, 526, 19, 26, 522, 8202, 8458] {
            assert!(!is_temporary_code(code), "{code} is permanent");
        }
        for code in [1, 3, 5, 6, 7, 8, 10, 11, 13, 14, 15, 17, 19, 26, 522, 1032, 8202, 8458] {
            assert!(!remedy(code, Path::new("a.db")).is_empty(), "{code} has no remedy");
        }
    }

    #[test]
    fn what_says_that_the_file_is_damaged_is_in_doubt_and_nothing_else_is() {
        for code in [11, 267, 523, 779, 26, 522, 8202, 8458] {
            assert!(may_be_damaged(code) && !is_temporary_code(code), "{code}");
        }
        for code in [1, 5, 7, 8, 10, 13, 14, 19, 266, 778, 1032, 4874] {
            assert!(!may_be_damaged(code), "{code}");
        }
        let command = rescue(Path::new("/it's/a.db"));
        assert!(command.contains(r"sqlite3 '/it'\''s/a.db' .dump | sed "), "{command}");
    }
}
