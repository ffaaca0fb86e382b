//! The files of an open database, and whether they are still the files that were opened.

use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::errors::StoreError;

/// Device and inode: they tell a file from another one that took its place.
pub(super) type FileIdentity = (u64, u64);

/// The identity of the file at `path`, after links were followed.
pub(super) fn identity_of(path: &Path) -> io::Result<FileIdentity> {
    fs::metadata(path).map(|found| (found.dev(), found.ino()))
}

/// The path of SQLite's own file with this suffix. It lies beside the database itself, not beside a link to it.
pub(super) fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut path = fs::canonicalize(database).unwrap_or_else(|_| database.to_owned()).into_os_string();
    path.push(suffix);
    PathBuf::from(path)
}

/// The message about a file that got a second name while it was open.
const LINKED: &str = "it has got another name (a hard link) while in use, and rows that are written by that name are lost; remove \
                      that name (`find DIRECTORY -samefile FILE` lists them), and start again";

/// Whether a path still leads to the file that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// To the same file.
    InPlace,
    /// To no file.
    Gone,
    /// To another file.
    Replaced,
}

/// Files as they were opened: the database, its WAL, and the WAL's index (`-shm`), through which every process sees the WAL.
#[derive(Clone, Debug, Default)]
pub(super) struct WatchedFiles {
    wal: Option<(PathBuf, FileIdentity)>,
    index: Option<(PathBuf, FileIdentity)>,
    others: Vec<(PathBuf, FileIdentity)>,
}

impl WatchedFiles {
    /// The files of a database that SQLite has open, as far as they exist.
    pub(super) fn of(database: &Path) -> Self {
        let named = |path: PathBuf| {
            let identity = identity_of(&path).ok()?;
            Some((path, identity))
        };
        Self {
            wal: named(beside(database, "-wal")),
            index: named(beside(database, "-shm")),
            others: named(database.to_owned()).into_iter().collect(),
        }
    }

    /// Watches one more file.
    pub(super) fn add(&mut self, path: PathBuf, identity: FileIdentity) {
        self.others.push((path, identity));
    }

    /// Whether the WAL and its index were there. If not, they were removed between SQLite's opening them and our look.
    pub(super) fn has_wal(&self) -> bool {
        self.wal.is_some() && self.index.is_some()
    }

    /// The first file that is gone or was replaced. SQLite never notices, and goes on with the old file, while other processes use
    /// the new one.
    pub(super) fn replaced(&self) -> Option<&Path> {
        let mut all = self.others.iter().chain(&self.wal).chain(&self.index);
        all.find(|file| state(file) != State::InPlace).map(|(path, _)| path.as_path())
    }

    /// Fails with `message` if a file is gone or was replaced, and with another message if a file has got another name.
    ///
    /// # Errors
    /// In these cases; the worker then ends ([`crate::queue::Remedy::Lost`]).
    pub(super) fn check(&self, doing: &'static str, message: impl Fn(&Path) -> &'static str) -> Result<(), StoreError> {
        let (path, error) = match (self.replaced(), self.linked()) {
            (Some(path), _) => (path, io::Error::new(io::ErrorKind::NotFound, Replaced(message(path)))),
            (None, Some(path)) => (path, io::Error::new(io::ErrorKind::InvalidInput, Replaced(LINKED))),
            (None, None) => return Ok(()),
        };
        Err(StoreError { path: path.to_owned(), doing, source: sqlx::Error::Io(error) })
    }

    /// The database or the lock file, if it has a second name. A process that uses that name writes another WAL.
    fn linked(&self) -> Option<&Path> {
        let is_linked = |path: &Path| fs::metadata(path).is_ok_and(|found| found.nlink() > 1);
        self.others.iter().map(|(path, _)| path.as_path()).find(|path| is_linked(path))
    }

    /// Whether SQLite may close the database. The last connection copies its WAL into the database, and removes the WAL. A
    /// process that opens the database while we have it open makes new files in the place of missing ones.
    pub(super) fn may_be_closed(&self) -> bool {
        let state = |file: &Option<_>| file.as_ref().map_or(State::InPlace, state);
        match (state(&self.wal), state(&self.index)) {
            // Other processes write to the new file. Closing would overwrite their commits, and remove the file unread.
            (State::Replaced, _) | (_, State::Replaced) => false,
            // Only our connection still has the WAL's content, and nobody has opened the database since.
            (State::Gone, _) => true,
            // The WAL has every commit, and the next process to open the database finds them there.
            (State::InPlace, State::Gone) => false,
            (State::InPlace, State::InPlace) => true,
        }
    }
}

/// A file was replaced: other processes would not see what we write from here on.
#[derive(Debug)]
pub(super) struct Replaced(&'static str);

impl fmt::Display for Replaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Replaced {}

fn state((path, identity): &(PathBuf, FileIdentity)) -> State {
    match identity_of(path) {
        Ok(found) if found == *identity => State::InPlace,
        Ok(_) => State::Replaced,
        Err(error) if error.kind() == io::ErrorKind::NotFound => State::Gone,
        // The path cannot be read. That says nothing about the file.
        Err(_) => State::InPlace,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_left_as_it_is_if_others_use_other_files_or_find_all_in_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("queue.db");
        let path = |suffix: &str| beside(&database, suffix);
        // What happens to the WAL and to its index, and whether SQLite may close the database then.
        let cases = [
            (["stays", "stays"], true),
            (["stays", "gone"], false),
            (["stays", "other"], false),
            (["gone", "stays"], true),
            (["gone", "gone"], true),
            (["gone", "other"], false),
            (["other", "stays"], false),
            (["other", "gone"], false),
            (["other", "other"], false),
        ];
        for (done, may_be_closed) in cases {
            for suffix in ["", "-wal", "-shm", "-new"] {
                fs::write(path(suffix), suffix).unwrap();
            }
            let files = WatchedFiles::of(&database);
            assert!(files.has_wal() && files.replaced().is_none() && files.may_be_closed());
            for (suffix, done) in ["-wal", "-shm"].into_iter().zip(done) {
                match done {
                    "gone" => fs::remove_file(path(suffix)).unwrap(),
                    "other" => {
                        fs::write(path("-new"), "").unwrap();
                        fs::rename(path("-new"), path(suffix)).unwrap();
                    }
                    _ => {}
                }
            }
            assert_eq!(files.may_be_closed(), may_be_closed, "{done:?}");
            assert_eq!(files.replaced().is_none(), done == ["stays", "stays"], "{done:?}");
            let _ = fs::remove_file(path("-wal"));
            let _ = fs::remove_file(path("-shm"));
        }
    }
}
