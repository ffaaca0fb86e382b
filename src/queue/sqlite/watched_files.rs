//! The files of a database that is open, and whether they are still those that were opened.

use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::errors::StoreError;

/// What tells a file from another one in its place: device and inode.
pub(super) type FileIdentity = (u64, u64);

/// The file at `path`, wherever that leads.
pub(super) fn identity_of(path: &Path) -> io::Result<FileIdentity> {
    fs::metadata(path).map(|found| (found.dev(), found.ino()))
}

/// A file of SQLite's own beside the database: beside the file itself, not beside a link to it.
pub(super) fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut path = fs::canonicalize(database).unwrap_or_else(|_| database.to_owned()).into_os_string();
    path.push(suffix);
    PathBuf::from(path)
}

/// What is said of a file that has got a second name while it was open.
const LINKED: &str = "it has got another name (a hard link) while in use, and what is written by that name is lost; remove that \
                      name (`find DIRECTORY -samefile FILE` lists them), and start again";

/// What has become of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// It is where it was.
    Same,
    /// There is none any more.
    Gone,
    /// There is another one.
    Other,
}

/// Files as they were opened: the database, its log, and the log's index, through which everybody sees what is in the log.
#[derive(Clone, Debug, Default)]
pub(super) struct Files {
    log: Option<(PathBuf, FileIdentity)>,
    index: Option<(PathBuf, FileIdentity)>,
    others: Vec<(PathBuf, FileIdentity)>,
}

impl Files {
    /// Those of a database that SQLite has open, as far as they are there.
    pub(super) fn of(database: &Path) -> Self {
        let named = |path: PathBuf| {
            let identity = identity_of(&path).ok()?;
            Some((path, identity))
        };
        Self {
            log: named(beside(database, "-wal")),
            index: named(beside(database, "-shm")),
            others: named(database.to_owned()).into_iter().collect(),
        }
    }

    /// Adds one.
    pub(super) fn watch(&mut self, path: PathBuf, identity: FileIdentity) {
        self.others.push((path, identity));
    }

    /// Whether the database has a log that others can see: one that was opened, and taken away before we looked, is not there.
    pub(super) fn has_log(&self) -> bool {
        self.log.is_some() && self.index.is_some()
    }

    /// The first that is not there any more, or is another one. SQLite goes on with the old one and never notices, while
    /// everybody else uses what is there now, or nothing.
    pub(super) fn replaced(&self) -> Option<&Path> {
        let mut all = self.others.iter().chain(&self.log).chain(&self.index);
        all.find(|file| place(file) != Place::Same).map(|(path, _)| path.as_path())
    }

    /// Fails if one of them was replaced, for which `said` has the words, or has got another name.
    ///
    /// # Errors
    /// Then.
    pub(super) fn check(&self, doing: &'static str, said: impl Fn(&Path) -> &'static str) -> Result<(), StoreError> {
        let (path, error) = match (self.replaced(), self.linked()) {
            (Some(path), _) => (path, io::Error::new(io::ErrorKind::NotFound, Replaced(said(path)))),
            (None, Some(path)) => (path, io::Error::new(io::ErrorKind::InvalidInput, Replaced(LINKED))),
            (None, None) => return Ok(()),
        };
        Err(StoreError { path: path.to_owned(), doing, source: sqlx::Error::Io(error) })
    }

    /// The database or the lock file, if it has a second name: by that name, others write another log.
    fn linked(&self) -> Option<&Path> {
        let is_linked = |path: &Path| fs::metadata(path).is_ok_and(|found| found.nlink() > 1);
        self.others.iter().map(|(path, _)| path.as_path()).find(|path| is_linked(path))
    }

    /// Whether SQLite may close the database in good order, if it has it open last: copy what it knows of the log into the
    /// database, and remove the log. Whoever opens the database while we have it open makes new files in the place of those that
    /// are missing, which stay until we close it.
    pub(super) fn may_be_closed(&self) -> bool {
        let place = |file: &Option<_>| file.as_ref().map_or(Place::Same, place);
        match (place(&self.log), place(&self.index)) {
            // Others write there, and we would copy over that, and remove it unread.
            (Place::Other, _) | (_, Place::Other) => false,
            // What is in the log that was taken away is nowhere else; and nobody has opened the database since.
            (Place::Gone, _) => true,
            // The log has it all, and whoever opens it next finds all of it.
            (Place::Same, Place::Gone) => false,
            (Place::Same, Place::Same) => true,
        }
    }
}

/// What is written from here on, others do not see: they use other files.
#[derive(Debug)]
pub(super) struct Replaced(&'static str);

impl fmt::Display for Replaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Replaced {}

fn place((path, identity): &(PathBuf, FileIdentity)) -> Place {
    match identity_of(path) {
        Ok(found) if found == *identity => Place::Same,
        Ok(_) => Place::Other,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Place::Gone,
        // That says nothing about the file.
        Err(_) => Place::Same,
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
        // What is done to the log and its index, and whether SQLite may close the database then.
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
            let files = Files::of(&database);
            assert!(files.has_log() && files.replaced().is_none() && files.may_be_closed());
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
