//! Who has the lock of a database: the lock file's text, checked against the processes that the system says have locked it.

use std::{
    fs::{File, TryLockError},
    io,
    os::unix::fs::FileExt as _,
    path::Path,
    process,
    time::Duration,
};

use super::{
    errors::OpenError,
    location::LocationError,
    lock::{lock_path, open_existing},
    processes::{Process, having_open, locking},
};

/// What the lock file says, behind the process number, of a sweeper that only makes the tables and is done in a moment.
const MAKES: &str = " makes it";
/// A longer lock file was not written by a sweeper. In bytes.
const MAX_LOCK_TEXT: usize = 64;

/// A daemon is believed after it was seen with the lock for this long: until a new holder has written to the lock file, its text
/// is that of the previous one.
const CONFIRM_DAEMON: Duration = Duration::from_millis(20);
/// How long to wait for a holder that may let go at once: `sweeper status` shares the lock for a moment, and a sweeper that has
/// just taken the lock may not have written its purpose yet.
const WAIT_FOR_OTHERS: Duration = Duration::from_millis(500);

/// Why a sweeper takes the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To work on the queue, as long as the daemon lives.
    Work,
    /// To make or migrate the tables, which takes a moment.
    Make,
}

/// The text of a lock file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LockText {
    pub(super) pid: u32,
    pub(super) purpose: Purpose,
}

impl LockText {
    /// `None` if it is no text that a sweeper writes.
    pub(super) fn read(file: &File) -> Option<Self> {
        let mut bytes = [0; MAX_LOCK_TEXT];
        let length = file.read_at(&mut bytes, 0).ok()?;
        let text = std::str::from_utf8(&bytes[..length]).ok()?.trim_end();
        let (pid, purpose) = match text.strip_suffix(MAKES) {
            Some(pid) => (pid, Purpose::Make),
            None => (text, Purpose::Work),
        };
        Some(Self { pid: pid.parse().ok()?, purpose })
    }

    pub(super) fn write(self, file: &File) -> io::Result<()> {
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
pub(super) enum Holder {
    /// A sweeper with this process number.
    Sweeper(LockText),
    /// A sweeper that we cannot see, in another container. Its process number means nothing here.
    UnseenSweeper(LockText),
    /// A sweeper that has not written its purpose yet. Its process number.
    SweeperWithoutText(u32),
    /// Processes that share the lock for a moment, to see who has it.
    Lookers,
    /// Another program; `None` if it cannot be seen.
    OtherProgram(Option<Process>),
}

impl Holder {
    /// The holder of the lock on `file`. The lock file's text is not believed about a process that does not have the lock.
    pub(super) fn of(file: &File, path: &Path, text: Option<LockText>) -> Self {
        let is_shared = file.try_lock_shared().is_ok() && file.unlock().is_ok();
        let Some(locking) = locking(file) else { return Self::from_text(text, is_shared) };
        let is_named = |process: &Process| text.is_some_and(|text| text.pid == process.pid);
        let other = locking.iter().find(|(process, _)| !is_named(process) && !process.is_sweeper());
        let exclusive = locking.iter().find(|(_, is_exclusive)| *is_exclusive);
        match (other, exclusive, text) {
            (Some((process, _)), _, _) => Self::OtherProgram(Some(with_name(process, path))),
            _ if is_shared => Self::Lookers,
            (None, Some((process, _)), Some(text)) if is_named(process) => Self::Sweeper(text),
            (None, Some((process, _)), _) => Self::SweeperWithoutText(process.pid),
            (None, None, Some(text)) => Self::UnseenSweeper(text),
            (None, None, None) => Self::OtherProgram(None),
        }
    }

    /// The same where the system does not say who has locked a file.
    fn from_text(text: Option<LockText>, is_shared: bool) -> Self {
        let is_visible = |pid| Process::of(pid).name.is_some();
        match text {
            _ if is_shared => Self::Lookers,
            Some(text) if Process::of(text.pid).is_sweeper() => Self::Sweeper(text),
            // That process has ended, or its number is another program's: the holder has not written this text.
            Some(_) if is_visible(process::id()) => Self::OtherProgram(None),
            // The system does not show any process.
            Some(text) => Self::UnseenSweeper(text),
            None => Self::OtherProgram(None),
        }
    }

    /// How long to wait for it.
    pub(super) fn patience(&self, busy_timeout: Duration) -> Duration {
        match self {
            Self::Sweeper(LockText { purpose: Purpose::Make, .. })
            | Self::UnseenSweeper(LockText { purpose: Purpose::Make, .. }) => busy_timeout.max(CONFIRM_DAEMON),
            Self::Sweeper(LockText { purpose: Purpose::Work, .. })
            | Self::UnseenSweeper(LockText { purpose: Purpose::Work, .. }) => CONFIRM_DAEMON,
            Self::SweeperWithoutText(_) | Self::Lookers | Self::OtherProgram(_) => WAIT_FOR_OTHERS,
        }
    }

    /// The error of a start that waited for it in vain.
    pub(super) fn refusal(self, database: &Path, file: &Path) -> OpenError {
        let path = database.to_owned();
        match self {
            Self::Sweeper(LockText { pid, .. }) | Self::SweeperWithoutText(pid) => {
                OpenError::Taken { path, pid: Some(pid) }
            }
            Self::UnseenSweeper(_) | Self::Lookers => OpenError::Taken { path, pid: None },
            Self::OtherProgram(process) => {
                let unseen = || "a process that cannot be seen from here, in another container, say".to_owned();
                let by = process.map_or_else(unseen, |process| format!("{process}, which is no sweeper"));
                LocationError::Locked { path, file: file.to_owned(), by }.into()
            }
        }
    }
}

/// The process, if it still runs. A process that has ended leaves its lock to the processes that share its descriptor: after
/// `exec 9> file; flock 9`, the shell has the lock, and the system names the ended `flock`.
fn with_name(process: &Process, path: &Path) -> Process {
    let heir = || having_open(path).ok()?.into_iter().find(|other| !other.is_sweeper());
    if process.name.is_some() { process.clone() } else { heir().unwrap_or_else(|| process.clone()) }
}

/// Who has the lock file of a database locked, if anybody. Only shares the lock, for a moment in which a starting daemon waits.
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
    let holder = Holder::of(&file, &path, LockText::read(&file));
    // A holder that the system does not list may have let go since the first try.
    let is_gone = matches!(holder, Holder::UnseenSweeper(_)) && is_free()?;
    Ok((!is_gone).then_some(holder))
}

/// Whether a daemon has the lock of this database, and its process number, if that is known.
///
/// # Errors
/// If the lock file exists and cannot be opened or locked: then nobody knows.
pub fn holder(database: &Path) -> io::Result<Option<Option<u32>>> {
    Ok(match look(database)? {
        Some(Holder::Sweeper(text) | Holder::UnseenSweeper(text)) => {
            (text.purpose == Purpose::Work).then_some(Some(text.pid))
        }
        Some(Holder::SweeperWithoutText(pid)) => Some(Some(pid)),
        Some(Holder::Lookers | Holder::OtherProgram(_)) | None => None,
    })
}

/// Whether a sweeper has the lock of this database, for whatever purpose: it may be making the tables.
pub(super) fn is_held(database: &Path) -> bool {
    match look(database) {
        Ok(Some(Holder::Sweeper(_) | Holder::UnseenSweeper(_) | Holder::SweeperWithoutText(_))) => true,
        Ok(Some(Holder::Lookers | Holder::OtherProgram(_)) | None) | Err(_) => false,
    }
}
