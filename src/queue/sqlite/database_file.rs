//! Descriptors of databases, which are never closed while there is such a file.
//!
//! When a process closes any descriptor of a file, POSIX takes away all locks that this process has on it. SQLite minds that
//! among its own descriptors, and does not know ours: closing one takes SQLite's locks away, and the next process to close the
//! database then believes to be the last one, and removes the log under us. So a descriptor that is not needed any more is
//! kept for the next one who asks.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::fs::OFlags;

use super::files::FileIdentity;
use crate::small_file::be_regular;

/// The mode of a file that we make, of which the umask takes away more: for its owner and the group. Whoever may open a
/// file can keep us out with a lock on it, or make its log grow by a transaction that reads for ever.
pub(super) const MODE: u32 = 0o660;

/// At this place of its head, a database says how it is written; 2 stands for a log (WAL).
const WRITE_VERSION_AT: u64 = 18;
const WAL: u8 = 2;

/// Those in use, and those that wait for the next user.
static KEPT: Mutex<Vec<Arc<File>>> = Mutex::new(Vec::new());

/// A descriptor of a database, with the lock that was taken by it. Dropped, it gives up the lock and stays open.
#[derive(Debug)]
pub(super) struct Descriptor(Arc<File>);

impl Descriptor {
    /// One of the database at `path`, which is made if it is not there: through a link, too, because the lock file is beside
    /// what the link leads to. An empty file is a new database.
    ///
    /// # Errors
    /// If it cannot be opened or made, or is no regular file.
    pub(super) fn of_new(path: &Path) -> io::Result<Self> {
        match Self::of(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(MODE).open(path);
                Ok(Self::keep(made?))
            }
            found => found,
        }
    }

    /// One of the database at `path`.
    ///
    /// # Errors
    /// If it cannot be opened, or is no regular file.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        // Before it is opened: opening a device may do something.
        let found = fs::metadata(path)?;
        be_regular(&found)?;
        if let Some(kept) = Self::kept((found.dev(), found.ino())) {
            return Ok(kept);
        }
        // A named pipe that came meanwhile would be waited for.
        let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOCTTY).bits()).unwrap_or(0);
        Ok(Self::keep(OpenOptions::new().read(true).custom_flags(flags).open(path)?))
    }

    /// One that nobody uses. Those of files that are gone are closed: no lock on such a file matters to anybody.
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

    /// What it is open for; also the only way to lock it.
    pub(super) fn file(&self) -> &File {
        &self.0
    }

    /// Whether the database is written through a log. Those who have such a one open have the log's index open, too.
    pub(super) fn has_log(&self) -> bool {
        let mut version = [0];
        self.0.read_exact_at(&mut version, WRITE_VERSION_AT).is_ok() && version == [WAL]
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // It has none, or the system takes it back when the process ends.
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
            let first = Descriptor::of_new(&path).unwrap();
            first.file().try_lock().unwrap();
            let second = Descriptor::of(&path).unwrap();
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
        drop(Descriptor::of_new(&path).unwrap());
        drop(Descriptor::of(&path).unwrap());
        assert!(of_it() <= 1, "the new file may have the old one's number");
    }
}
