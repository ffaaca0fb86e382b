//! One daemon per file. A lock on the database itself keeps every other sweeper out, by whatever name it opens the file. A lock
//! file beside it says who has the lock, and can be read without touching the database.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown},
    path::{Path, PathBuf},
    process,
    time::Duration,
};

use rustix::fs::OFlags;
use tokio::time::sleep;

use super::{
    database_file::{DatabaseFile, MODE},
    errors::{OpenError, StoreError},
    location::refuse_another_wal,
    lock_holder::{Holder, LockText, Purpose},
    open::Options,
    watched_files::{FileIdentity, identity_of},
};
use crate::small_file::be_regular;

/// The lock file's name is the database's with this suffix.
pub(super) const LOCK_SUFFIX: &str = ".lock";

/// The pause between two tries of a lock.
const PAUSE: Duration = Duration::from_millis(2);

/// Both locks, held until this is dropped. If the process dies, the operating system releases them. The lock file is never
/// removed: otherwise two sweepers could lock two different files.
#[derive(Debug)]
pub(super) struct Lock {
    /// `Err` if the database cannot be opened. SQLite has a better message about that.
    database: Result<DatabaseFile, io::Error>,
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Takes the locks of the database at `options.path`, which is made, empty, if it does not exist. Waits up to
    /// `options.busy_timeout` for a sweeper that is making the tables.
    ///
    /// # Errors
    /// If another process has one of the locks, or the database lies where it must not.
    pub(super) async fn take(options: &Options, purpose: Purpose) -> Result<Self, OpenError> {
        loop {
            let lock = Self::take_once(options, purpose).await?;
            if lock.is_in_place(&options.path) {
                return Ok(lock);
            }
            // The files were replaced while we waited: lock the new ones.
        }
    }

    async fn take_once(options: &Options, purpose: Purpose) -> Result<Self, OpenError> {
        let path = &options.path;
        let database = DatabaseFile::open_or_create(path);
        let (lock_file, is_writable) = open_lock_file(path)?;
        let lock = Self { database, file: lock_file, path: lock_path(path) };
        wait_for(&lock.file, &lock.path, || LockText::read(&lock.file), options).await?;
        if is_writable {
            let text = LockText { pid: process::id(), purpose };
            text.write(&lock.file).map_err(|source| OpenError::Lock { path: lock.path.clone(), source })?;
        }
        if let Ok(database) = &lock.database {
            // On BSD and macOS, `flock` on the database would keep SQLite itself out.
            if cfg!(target_os = "linux") {
                wait_for(database.file(), path, || None, options).await?;
            }
            refuse_another_wal(path, database).await?;
        }
        Ok(lock)
    }

    fn is_in_place(&self, database: &Path) -> bool {
        let is_at = |file: &File, path: &Path| match (file.metadata(), identity_of(path)) {
            (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == there,
            // The next step that opens the file reports the error.
            _ => true,
        };
        is_at(&self.file, &self.path) && self.database.as_ref().map_or(true, |locked| is_at(locked.file(), database))
    }

    /// The lock file: its path and identity.
    ///
    /// # Errors
    /// If the system cannot tell.
    pub(super) fn identity(&self) -> Result<(PathBuf, FileIdentity), OpenError> {
        let found = self.file.metadata();
        let found = found.map_err(|source| OpenError::Lock { path: self.path.clone(), source })?;
        Ok((self.path.clone(), (found.dev(), found.ino())))
    }

    /// Fails if the database itself could not be opened to be locked.
    ///
    /// # Errors
    /// In that case.
    pub(super) fn check_database(&self, path: &Path) -> Result<(), StoreError> {
        self.database.as_ref().map(drop).map_err(|error| {
            let source = sqlx::Error::Io(io::Error::new(error.kind(), error.to_string()));
            StoreError { path: path.to_owned(), doing: "open", source }
        })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file is not enough: a child that another thread is just starting holds the same lock until its exec.
        let _ = self.file.unlock();
    }
}

/// Locks `file`, which is at `path`, and waits for its holder as long as that kind of holder is waited for. `text` reads the lock
/// file, which may change meanwhile.
async fn wait_for(
    file: &File,
    path: &Path,
    mut text: impl FnMut() -> Option<LockText>,
    options: &Options,
) -> Result<(), OpenError> {
    let (mut last, mut waited) = (None, Duration::ZERO);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(source)) => return Err(OpenError::Lock { path: path.to_owned(), source }),
            Err(TryLockError::WouldBlock) => {}
        }
        let holder = Holder::of(file, path, text());
        if last.as_ref() != Some(&holder) {
            waited = Duration::ZERO;
        }
        if waited >= holder.patience(options.busy_timeout) {
            return Err(holder.refusal(&options.path, path));
        }
        last = Some(holder);
        sleep(PAUSE).await;
        waited += PAUSE;
    }
}

/// The path of the lock file, beside the target of any link: two paths to one database (a link, `./x`) must lead to one lock file.
pub(super) fn lock_path(database: &Path) -> PathBuf {
    let real = match (fs::canonicalize(database), database.parent(), database.file_name()) {
        (Ok(real), _, _) => real,
        (Err(_), Some(parent), Some(name)) => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            fs::canonicalize(parent).unwrap_or_else(|_| parent.to_owned()).join(name)
        }
        (Err(_), _, _) => database.to_owned(),
    };
    let mut path = real.into_os_string();
    path.push(LOCK_SUFFIX);
    PathBuf::from(path)
}

/// The lock file of a database, made if it does not exist, and whether we may write to it.
fn open_lock_file(database: &Path) -> Result<(File, bool), OpenError> {
    let path = lock_path(database);
    let opened = match lock_file_options(true).mode(MODE).create_new(true).open(&path) {
        Ok(made) => {
            give_to_owner(&made, database);
            Ok((made, true))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match open_existing(&path, true) {
            // A read-only lock file can be locked all the same.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                open_existing(&path, false).map(|file| (file, false)).map_err(|_| error)
            }
            opened => opened.map(|file| (file, true)),
        },
        Err(error) => Err(error),
    };
    opened.map_err(|source| OpenError::Lock { path, source })
}

/// Opens a lock file that exists. Refuses anything but a regular file with one name, so that nothing else is ever written to.
pub(super) fn open_existing(path: &Path, write: bool) -> io::Result<File> {
    // Check before opening: opening a device may do something.
    be_regular(&fs::symlink_metadata(path)?)?;
    let file = lock_file_options(write).open(path)?;
    let found = file.metadata()?;
    be_regular(&found)?;
    if found.nlink() > 1 {
        let message = format!("has {} names (hard links), and must have one", found.nlink());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    Ok(file)
}

/// Follows no link, and does not wait for the other end of a named pipe.
fn lock_file_options(write: bool) -> OpenOptions {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut options = OpenOptions::new();
    options.read(true).write(write).custom_flags(i32::try_from(flags.bits()).unwrap_or(0));
    options
}

/// Gives a file that root made to the database's owner, who could not use it otherwise. SQLite does the same with its files.
fn give_to_owner(file: &File, database: &Path) {
    if let (true, Ok(found)) = (rustix::process::geteuid().is_root(), fs::metadata(database)) {
        // Root in a container may lack the permission.
        let _ = fchown(file, Some(found.uid()), Some(found.gid()));
    }
}

#[cfg(test)]
#[path = "lock_tests.rs"]
mod tests;
