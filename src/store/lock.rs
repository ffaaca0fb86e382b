//! Whose the file is: the lock beside it, and whether the files are still the ones that were opened.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use super::errors::OpenError;

/// What the lock file's name has more than the database's.
pub(super) const LOCK_SUFFIX: &str = ".lock";

/// How often a lock is tried again that somebody only looks at, and how long after each time.
const PATIENCE_WITH_LOOKERS: u32 = 100;
const LOOKERS_PAUSE: Duration = Duration::from_millis(1);

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

/// The lock file beside the database, locked. It is never removed: removing it would let two daemons lock two files.
/// What is in it never matters to the lock, which the operating system takes back from a process that ends.
pub(super) fn lock(database: &Path) -> Result<(File, PathBuf), OpenError> {
    // A link to what is not there yet could not be followed below. An empty file is a new database, and nobody has it open
    // whose locks would go when it is closed here. If it cannot be made, SQLite says why.
    if !database.exists() {
        let _ = OpenOptions::new().create(true).append(true).open(database);
    }
    let path = lock_path(database);
    let error = |source| OpenError::Lock { path: path.clone(), source };
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let (mut file, writable) = match opened {
        Ok(file) => (file, true),
        // Somebody made it read-only: it can be locked all the same.
        Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
            (File::open(&path).map_err(|_| error(source))?, false)
        }
        Err(source) => return Err(error(source)),
    };
    match try_lock(&file) {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            // The number is a courtesy; that it is locked is the point. What could not be written is not ours.
            let pid = read_pid(&mut file).filter(|_| writable);
            return Err(OpenError::Taken { path: database.to_owned(), pid });
        }
        Err(TryLockError::Error(source)) => return Err(error(source)),
    }
    if writable {
        file.set_len(0).map_err(error)?;
        file.seek(SeekFrom::Start(0)).map_err(error)?;
        writeln!(file, "{}", std::process::id()).map_err(error)?;
    }
    Ok((file, path))
}

/// Takes the lock. Those who only ask who has it ([`holder`]) share it for a moment, and with each other: a daemon shares
/// it with nobody. So if it can be shared just now, no daemon has it, and it is tried again.
fn try_lock(file: &File) -> Result<(), TryLockError> {
    for _ in 0..PATIENCE_WITH_LOOKERS {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {}
            done => return done,
        }
        file.try_lock_shared()?;
        file.unlock().map_err(TryLockError::Error)?;
        thread::sleep(LOOKERS_PAUSE);
    }
    file.try_lock()
}

/// Whether a process has the lock of this database, and its number, if that can be read. Never in a daemon's way,
/// which waits for whoever only looks.
///
/// # Errors
/// If there is a lock file that cannot be opened or locked: then nobody knows.
pub fn holder(database: &Path) -> io::Result<Option<Option<u32>>> {
    let mut file = match File::open(lock_path(database)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(Some(read_pid(&mut file))),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut pid = String::new();
    file.read_to_string(&mut pid).ok()?;
    pid.trim().parse().ok()
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn whoever_looks_at_the_lock_sees_its_holder_and_keeps_nobody_from_taking_it() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("queue.db");
        assert_eq!(holder(&database).unwrap(), None, "no lock file");
        let (held, path) = lock(&database).unwrap();
        assert_eq!(holder(&database).unwrap(), Some(Some(std::process::id())));
        assert!(matches!(lock(&database), Err(OpenError::Taken { .. })));
        drop(held);
        // A look that takes its time: until it is over, the lock is waited for.
        let look = File::open(&path).unwrap();
        look.try_lock_shared().unwrap();
        assert!(matches!(File::open(&path).unwrap().try_lock(), Err(TryLockError::WouldBlock)));
        let (waits, gone) = std::sync::mpsc::channel();
        let waiting = thread::spawn(move || {
            waits.send(()).unwrap();
            lock(&database).map(|_| ())
        });
        gone.recv().unwrap();
        drop(look);
        waiting.join().unwrap().unwrap();
        // And many of them, all the time, in the way of many starts.
        let database = dir.path().join("queue.db");
        let stop = std::sync::atomic::AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        holder(&database).unwrap();
                    }
                });
            }
            let taken = (0..200).filter(|_| lock(&database).is_err()).count();
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(taken, 0);
        });
    }
}
