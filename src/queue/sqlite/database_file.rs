//! Our own file descriptors of databases, which stay open as long as the database exists.
//!
//! When a process closes any descriptor of a file, POSIX releases all locks that the process holds on the file. SQLite takes care
//! of this among its own descriptors, and does not know ours. Closing one of ours would release SQLite's locks. The next process
//! to close the database would then take itself for the last one, and remove the WAL that we write to. So a descriptor that is
//! no longer needed is kept, and handed to the next caller that asks for one.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::fs::OFlags;

use super::watched_files::FileIdentity;
use crate::small_file::be_regular;

/// The mode of a file that we make, before the umask: for its owner and the group. Nobody else may open it, because a lock on
/// the file would keep us out, and a transaction that reads for ever would make the WAL grow.
pub(super) const MODE: u32 = 0o660;

/// The offset of the write version in a database's header. The value 2 means that the database uses a WAL.
const WRITE_VERSION_AT: u64 = 18;
const WAL: u8 = 2;

/// All descriptors: those in use, and those that wait for the next caller.
static KEPT: Mutex<Vec<Arc<File>>> = Mutex::new(Vec::new());

/// A descriptor of a database, with the lock that was taken by it. Dropping it releases the lock, and keeps the descriptor open.
#[derive(Debug)]
pub(super) struct DatabaseFile(Arc<File>);

impl DatabaseFile {
    /// Opens the database at `path`, or makes it. An empty file is a new database. A link is followed, because the lock file lies
    /// beside the link's target.
    ///
    /// # Errors
    /// If it cannot be opened or made, or is no regular file.
    pub(super) fn open_or_create(path: &Path) -> io::Result<Self> {
        match Self::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(MODE).open(path);
                Ok(Self::keep(made?))
            }
            found => found,
        }
    }

    /// Opens the database at `path`.
    ///
    /// # Errors
    /// If it cannot be opened, or is no regular file.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        // Check before opening: opening a device may do something.
        let found = fs::metadata(path)?;
        be_regular(&found)?;
        if let Some(kept) = Self::kept((found.dev(), found.ino())) {
            return Ok(kept);
        }
        // NONBLOCK: if a named pipe took the file's place meanwhile, opening it would wait for a writer.
        let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOCTTY).bits()).unwrap_or(0);
        Ok(Self::keep(OpenOptions::new().read(true).custom_flags(flags).open(path)?))
    }

    /// A descriptor of this file that is not in use. Closes those of files that were deleted: no lock on such a file matters.
    fn kept(identity: FileIdentity) -> Option<Self> {
        let mut all = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        let is_free = |file: &Arc<File>| Arc::strong_count(file) == 1;
        all.retain(|file| !is_free(file) || file.metadata().is_ok_and(|found| found.nlink() > 0));
        let is_it = |file: &Arc<File>| file.metadata().is_ok_and(|found| (found.dev(), found.ino()) == identity);
        all.iter().find(|file| is_free(file) && is_it(file)).map(|file| Self(Arc::clone(file)))
    }

    fn keep(file: File) -> Self {
        let file = Arc::new(file);
        KEPT.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&file));
        Self(file)
    }

    /// The descriptor, to be locked and asked. It must not be cloned, because closing the clone releases SQLite's locks.
    pub(super) fn file(&self) -> &File {
        &self.0
    }

    /// Whether the database uses a WAL.
    pub(super) fn has_wal(&self) -> bool {
        let mut version = [0];
        self.0.read_exact_at(&mut version, WRITE_VERSION_AT).is_ok() && version == [WAL]
    }
}

impl Drop for DatabaseFile {
    fn drop(&mut self) {
        // An error means that there was no lock, or that the system releases it when the process ends.
        let _ = self.0.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open_descriptors(path: &Path) -> usize {
        let path = path.canonicalize().unwrap();
        let all = fs::read_dir("/proc/self/fd").unwrap().flatten();
        all.filter(|entry| fs::read_link(entry.path()).is_ok_and(|open| open == path)).count()
    }

    #[test]
    fn a_descriptor_is_never_closed_used_again_and_gone_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("queue.db");
        for _ in 0..3 {
            let first = DatabaseFile::open_or_create(&path).unwrap();
            first.file().try_lock().unwrap();
            let second = DatabaseFile::open(&path).unwrap();
            assert!(second.file().try_lock().is_err(), "another one, which does not share the lock");
            drop(first);
            second.file().try_lock().unwrap();
        }
        assert_eq!(open_descriptors(&path), 2, "no more than were in use at the same time");
        let of_it = {
            let identity = fs::metadata(&path).map(|found| (found.dev(), found.ino())).unwrap();
            move || {
                let all = KEPT.lock().unwrap();
                all.iter().filter(|file| file.metadata().is_ok_and(|f| (f.dev(), f.ino()) == identity)).count()
            }
        };
        assert_eq!(of_it(), 2);
        fs::remove_file(&path).unwrap();
        drop(DatabaseFile::open_or_create(&path).unwrap());
        drop(DatabaseFile::open(&path).unwrap());
        assert!(of_it() <= 1, "the new file may have the old one's inode");
    }
}
