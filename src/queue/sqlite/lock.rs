//! Whose the file is. A lock on the database itself keeps every other sweeper out, by whatever name it comes. A lock file
//! beside it says who has it, and can be asked without touching the database.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, fchown},
    path::{Path, PathBuf},
    process,
    time::Duration,
};

use rustix::fs::OFlags;
use tokio::time::sleep;

use super::{
    descriptor::{Descriptor, MODE},
    errors::{OpenError, StoreError},
    file::Options,
    files::{FileIdentity, identity_of},
    place::{PlaceError, refuse_strangers},
    processes::{Process, having_open, locking},
};
use crate::small_file::be_regular;

/// What the lock file's name has more than the database's.
pub(super) const LOCK_SUFFIX: &str = ".lock";

/// What the lock file says, behind the process, of one that makes the database and is done in a moment.
const MAKES: &str = " makes it";
/// Most bytes of a lock file that can be ours.
const MAX_WORDS: usize = 64;

/// The pause between two tries of a lock.
const PAUSE: Duration = Duration::from_millis(2);
/// A daemon must be seen with the lock for this long before it is believed: the lock file may still say what the one before it was.
const TO_BE_SURE: Duration = Duration::from_millis(20);
/// The same for those who may let go of the lock at once. `sweeper status` shares it for a moment; and a sweeper that has just
/// locked the file may not have written yet what for.
const TO_BE_GONE: Duration = Duration::from_millis(500);

/// What the lock is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To work on the queue, as long as the daemon lives.
    Work,
    /// To make the database, which takes a moment.
    Make,
}

/// Both locks, held until this is dropped, and by the operating system's hand if we die. The lock file is never removed:
/// removing it would let two sweepers lock two files.
#[derive(Debug)]
pub(super) struct Lock {
    /// `Err` if the database cannot be opened: why it cannot, SQLite says better.
    database: Result<Descriptor, io::Error>,
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Takes the locks of the database at `options.path`, which is made, empty, if it is not there. Whoever makes it just now
    /// is waited for as long as `options.busy_timeout`.
    ///
    /// # Errors
    /// If somebody else has one of them, or the database lies where it must not.
    pub(super) async fn take(options: &Options, purpose: Purpose) -> Result<Self, OpenError> {
        loop {
            let lock = Self::take_what_is_there(options, purpose).await?;
            if lock.is_in_place(&options.path) {
                return Ok(lock);
            }
            // Somebody has put other files there while we waited.
        }
    }

    async fn take_what_is_there(options: &Options, purpose: Purpose) -> Result<Self, OpenError> {
        let path = &options.path;
        let database = Descriptor::of_new(path);
        let (lock_file, is_writable) = open_lock_file(path)?;
        let lock = Self { database, file: lock_file, path: lock_path(path) };
        wait_for(&lock.file, &lock.path, || Words::read(&lock.file), options).await?;
        if is_writable {
            let words = Words { pid: process::id(), purpose };
            words.write(&lock.file).map_err(|source| OpenError::Lock { path: lock.path.clone(), source })?;
        }
        if let Ok(database) = &lock.database {
            // On BSD and macOS, such a lock and SQLite's own would keep each other out.
            if cfg!(target_os = "linux") {
                wait_for(database.file(), path, || None, options).await?;
            }
            refuse_strangers(path, database).await?;
        }
        Ok(lock)
    }

    fn is_in_place(&self, database: &Path) -> bool {
        let is_at = |file: &File, path: &Path| match (file.metadata(), identity_of(path)) {
            (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == there,
            // Then the next to open it says what is wrong.
            _ => true,
        };
        is_at(&self.file, &self.path) && self.database.as_ref().map_or(true, |locked| is_at(locked.file(), database))
    }

    /// The lock file.
    ///
    /// # Errors
    /// If the system does not tell.
    pub(super) fn identity(&self) -> Result<(PathBuf, FileIdentity), OpenError> {
        let found = self.file.metadata();
        let found = found.map_err(|source| OpenError::Lock { path: self.path.clone(), source })?;
        Ok((self.path.clone(), (found.dev(), found.ino())))
    }

    /// Fails if the database itself is not locked, because it could not be opened for that.
    ///
    /// # Errors
    /// Then.
    pub(super) fn check_database(&self, path: &Path) -> Result<(), StoreError> {
        self.database.as_ref().map(drop).map_err(|error| {
            let source = sqlx::Error::Io(io::Error::new(error.kind(), error.to_string()));
            StoreError { path: path.to_owned(), doing: "open", source }
        })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing it would not do: a child that another thread starts just now has it, too, until it is another program.
        let _ = self.file.unlock();
    }
}

/// What a lock file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Words {
    pid: u32,
    purpose: Purpose,
}

impl Words {
    /// `None` if it says nothing that we would.
    fn read(file: &File) -> Option<Self> {
        let mut bytes = [0; MAX_WORDS];
        let length = file.read_at(&mut bytes, 0).ok()?;
        let text = std::str::from_utf8(&bytes[..length]).ok()?.trim_end();
        let (pid, purpose) = match text.strip_suffix(MAKES) {
            Some(pid) => (pid, Purpose::Make),
            None => (text, Purpose::Work),
        };
        Some(Self { pid: pid.parse().ok()?, purpose })
    }

    fn write(self, file: &File) -> io::Result<()> {
        let Self { pid, purpose } = self;
        let makes = match purpose {
            Purpose::Work => "",
            Purpose::Make => MAKES,
        };
        let line = format!("{pid}{makes}\n");
        file.set_len(0)?;
        file.write_all_at(line.as_bytes(), 0)
    }
}

/// Who has a lock that we want.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Holder {
    /// A sweeper of this process number, as it says.
    Sweeper(Words),
    /// The same, where its number means nothing to us: in another container.
    Unseen(Words),
    /// A sweeper that has not said what it wants, or not yet.
    Unclear(u32),
    /// Some that share it, and ask who has it.
    Lookers,
    /// Another program; `None` if nothing of it can be seen.
    Outsider(Option<Process>),
}

impl Holder {
    /// Who has it: the lock file is not believed about a process that has not locked it, as far as the system tells.
    fn of(file: &File, path: &Path, words: Option<Words>) -> Self {
        let is_shared = file.try_lock_shared().is_ok() && file.unlock().is_ok();
        let Some(locking) = locking(file) else { return Self::as_said(words, is_shared) };
        let is_said = |process: &Process| words.is_some_and(|words| words.pid == process.pid);
        let outsider = locking.iter().find(|(process, _)| !is_said(process) && !process.is_sweeper());
        let alone = locking.iter().find(|(_, is_exclusive)| *is_exclusive);
        match (outsider, alone, words) {
            (Some((process, _)), _, _) => Self::Outsider(Some(named(process, path))),
            _ if is_shared => Self::Lookers,
            (None, Some((process, _)), Some(words)) if is_said(process) => Self::Sweeper(words),
            (None, Some((process, _)), _) => Self::Unclear(process.pid),
            (None, None, Some(words)) => Self::Unseen(words),
            (None, None, None) => Self::Outsider(None),
        }
    }

    /// The same where the system does not tell who has locked what.
    fn as_said(words: Option<Words>, is_shared: bool) -> Self {
        let is_seen = |pid| Process::of(pid).name.is_some();
        match words {
            _ if is_shared => Self::Lookers,
            Some(words) if Process::of(words.pid).is_sweeper() => Self::Sweeper(words),
            // It has ended, or is another program by now: whoever has the lock has not written this.
            Some(_) if is_seen(process::id()) => Self::Outsider(None),
            // Nor does the system tell of any process.
            Some(words) => Self::Unseen(words),
            None => Self::Outsider(None),
        }
    }

    /// How long it is waited for.
    fn patience(&self, busy_timeout: Duration) -> Duration {
        match self {
            Self::Sweeper(Words { purpose: Purpose::Make, .. })
            | Self::Unseen(Words { purpose: Purpose::Make, .. }) => busy_timeout.max(TO_BE_SURE),
            Self::Sweeper(Words { purpose: Purpose::Work, .. })
            | Self::Unseen(Words { purpose: Purpose::Work, .. }) => TO_BE_SURE,
            Self::Unclear(_) | Self::Lookers | Self::Outsider(_) => TO_BE_GONE,
        }
    }

    fn refusal(self, database: &Path, file: &Path) -> OpenError {
        let path = database.to_owned();
        match self {
            Self::Sweeper(Words { pid, .. }) | Self::Unclear(pid) => OpenError::Taken { path, pid: Some(pid) },
            Self::Unseen(_) | Self::Lookers => OpenError::Taken { path, pid: None },
            Self::Outsider(process) => {
                let unseen = || "a process that cannot be seen from here, in another container, say".to_owned();
                let by = process.map_or_else(unseen, |process| format!("{process}, which is no sweeper"));
                PlaceError::Locked { path, file: file.to_owned(), by }.into()
            }
        }
    }
}

/// A process that has ended leaves its lock to whoever has the same descriptor, as the shell of `exec 9> file; flock 9`.
fn named(process: &Process, path: &Path) -> Process {
    let heir = || having_open(path).ok()?.into_iter().find(|other| !other.is_sweeper());
    if process.name.is_some() { process.clone() } else { heir().unwrap_or_else(|| process.clone()) }
}

/// Locks `file`, which is at `path`, after having waited for its holder as long as that kind of holder is waited for. `words` are
/// those of the lock file, which change while we wait.
async fn wait_for(
    file: &File,
    path: &Path,
    mut words: impl FnMut() -> Option<Words>,
    options: &Options,
) -> Result<(), OpenError> {
    let (mut last, mut waited) = (None, Duration::ZERO);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(source)) => return Err(OpenError::Lock { path: path.to_owned(), source }),
            Err(TryLockError::WouldBlock) => {}
        }
        let holder = Holder::of(file, path, words());
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

/// The lock file beside a database, wherever the latter's path leads: two paths to one file (a link, `./x`) must meet in
/// one lock.
fn lock_path(database: &Path) -> PathBuf {
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

/// The lock file of a database, made if it is not there, and whether we may write to it.
fn open_lock_file(database: &Path) -> Result<(File, bool), OpenError> {
    let path = lock_path(database);
    let opened = match itself(true).mode(MODE).create_new(true).open(&path) {
        Ok(made) => {
            leave_to_owner(&made, database);
            Ok((made, true))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match open_existing(&path, true) {
            // Somebody made it read-only: it can be locked all the same.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                open_existing(&path, false).map(|file| (file, false)).map_err(|_| error)
            }
            opened => opened.map(|file| (file, true)),
        },
        Err(error) => Err(error),
    };
    opened.map_err(|source| OpenError::Lock { path, source })
}

/// Opens a lock file that is there, if it is one: nothing that a link leads to is written to, and nobody is waited for.
fn open_existing(path: &Path, write: bool) -> io::Result<File> {
    // Before it is opened: opening a device may do something.
    be_regular(&fs::symlink_metadata(path)?)?;
    let file = itself(write).open(path)?;
    let found = file.metadata()?;
    be_regular(&found)?;
    if found.nlink() > 1 {
        let said = format!("has {} names (hard links), and must have one", found.nlink());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, said));
    }
    Ok(file)
}

/// Opens what has the name, and not what a link leads to, and does not wait for the other end of a pipe.
fn itself(write: bool) -> OpenOptions {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut options = OpenOptions::new();
    options.read(true).write(write).custom_flags(i32::try_from(flags.bits()).unwrap_or(0));
    options
}

/// What root makes is the database's owner's, as SQLite does it with its files: else the owner could not use it.
fn leave_to_owner(file: &File, database: &Path) {
    if let (true, Ok(found)) = (rustix::process::geteuid().is_root(), fs::metadata(database)) {
        // It may not be allowed to root, in a container.
        let _ = fchown(file, Some(found.uid()), Some(found.gid()));
    }
}

/// Who has the lock file of a database, if anybody has. Never in a daemon's way, which waits for whoever only looks.
fn look(database: &Path) -> io::Result<Option<Holder>> {
    let path = lock_path(database);
    let file = match open_existing(&path, false) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let is_free = || match file.try_lock_shared() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    };
    if is_free()? {
        return Ok(None);
    }
    let holder = Holder::of(&file, &path, Words::read(&file));
    // Whoever cannot be seen may have gone meanwhile.
    let is_gone = matches!(holder, Holder::Unseen(_)) && is_free()?;
    Ok((!is_gone).then_some(holder))
}

/// Whether a daemon has the lock of this database, and its number, if that is known.
///
/// # Errors
/// If there is a lock file that cannot be opened or locked: then nobody knows.
pub fn holder(database: &Path) -> io::Result<Option<Option<u32>>> {
    Ok(match look(database)? {
        Some(Holder::Sweeper(words) | Holder::Unseen(words)) => {
            (words.purpose == Purpose::Work).then_some(Some(words.pid))
        }
        Some(Holder::Unclear(pid)) => Some(Some(pid)),
        Some(Holder::Lookers | Holder::Outsider(_)) | None => None,
    })
}

/// Whether a sweeper has the lock of this database, for whatever purpose: it may be making the tables.
pub(super) fn is_held(database: &Path) -> bool {
    match look(database) {
        Ok(Some(Holder::Sweeper(_) | Holder::Unseen(_) | Holder::Unclear(_))) => true,
        Ok(Some(Holder::Lookers | Holder::Outsider(_)) | None) | Err(_) => false,
    }
}

#[cfg(test)]
#[path = "lock_tests.rs"]
mod tests;
