//! Where a database may not lie, whatever is in it: where others do not see its log, or its locks.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::sleep;

use super::{descriptor::Descriptor, files::beside, processes::strangers};
use crate::small_file::be_regular;

/// How often it is looked again for processes that use other files than we do, and for how long: one that is just opening or
/// closing the database looks like one, and a daemon whose files were taken away ends soon.
const STRANGERS_PAUSE: Duration = Duration::from_millis(20);
const STRANGERS_PATIENCE: Duration = Duration::from_secs(1);

/// Why a database is not opened that could be.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// It is no file that could be one.
    #[error("database {path}: {source}; give database.path another file")]
    Special {
        /// What is there.
        path: PathBuf,
        /// What it is.
        source: io::Error,
    },
    /// It has several names.
    #[error(
        "database {path}: the file has {names} names (hard links); the log of commits belongs to a name, so what is written by \
         one name is lost by another: keep one (`find DIRECTORY -samefile {path}` lists them), or make the others symbolic links"
    )]
    Linked {
        /// The name by which it was to be opened.
        path: PathBuf,
        /// How many there are.
        names: u64,
    },
    /// It is mounted without its directory.
    #[error(
        "database {0}: the file itself is a mount point, so those outside see another log of commits and another lock than what \
         is beside it here; mount its directory instead"
    )]
    Mounted(PathBuf),
    /// It is on another machine.
    #[error(
        "database {path}: it is on a network file system ({kind}), where neither SQLite's locks nor ours are certain; put it on \
         a local disk"
    )]
    Remote {
        /// The file.
        path: PathBuf,
        /// What the file system is called.
        kind: &'static str,
    },
    /// Others write another log.
    #[error(
        "database {path}: {processes} uses the file by another name, or with a -wal or -shm file that was taken away since, and \
         would overwrite what is written now; end that process, then try again"
    )]
    Strangers {
        /// The file.
        path: PathBuf,
        /// Who does.
        processes: String,
    },
    /// Somebody else has locked it, or the lock file.
    #[error("database {path}: {file} is locked by {by}; end that process, or let it lock a file that is not sweeper's")]
    Locked {
        /// The database.
        path: PathBuf,
        /// What is locked.
        file: PathBuf,
        /// Who has locked it, as far as that can be seen.
        by: String,
    },
}

/// Refuses a database that others can have open with another log than the one beside `path`, or that is on another machine.
///
/// # Errors
/// Then. Nothing is said of one that is not there yet, but for its directory.
pub(super) fn refuse(path: &Path) -> Result<(), PlaceError> {
    if let Some(found) = fs::metadata(path).ok().filter(|found| !found.is_dir()) {
        // SQLite would wait for the other end of a pipe.
        be_regular(&found).map_err(|source| PlaceError::Special { path: path.to_owned(), source })?;
        if found.nlink() > 1 {
            return Err(PlaceError::Linked { path: path.to_owned(), names: found.nlink() });
        }
    }
    let real = fs::canonicalize(path);
    if real.is_ok_and(|real| fs::read("/proc/self/mountinfo").is_ok_and(|mounts| is_mount_point(&mounts, &real))) {
        return Err(PlaceError::Mounted(path.to_owned()));
    }
    match remote(path) {
        Some(kind) => Err(PlaceError::Remote { path: path.to_owned(), kind }),
        None => Ok(()),
    }
}

/// Of lines like `36 35 98:0 /root /mount\040point rw shared:1 - ext4 …`, whether one is mounted there.
fn is_mount_point(mounts: &[u8], path: &Path) -> bool {
    let points = mounts.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    points.into_iter().any(|point| OsStr::from_bytes(&unescape(point)) == path.as_os_str())
}

/// Spaces and the like are written `\040`.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, others)) = rest.split_first() {
        let octal = others.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = &others[3..];
            }
            None => {
                plain.push(*first);
                rest = others;
            }
        }
    }
    plain
}

/// The network file system that a database is on, or will be. There the system makes of our lock one that keeps SQLite itself
/// out, or keeps nobody out.
#[cfg(target_os = "linux")]
fn remote(path: &Path) -> Option<&'static str> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let found = rustix::fs::statfs(path).or_else(|_| rustix::fs::statfs(directory)).ok()?;
    // On some machines the field is signed, and the number has 32 bits.
    #[expect(clippy::cast_sign_loss, reason = "that is what is meant")]
    name_of_remote(found.f_type as u64 & 0xffff_ffff)
}

#[cfg(not(target_os = "linux"))]
fn remote(_: &Path) -> Option<&'static str> {
    None
}

/// By the numbers in Linux's magic.h.
#[cfg(target_os = "linux")]
fn name_of_remote(number: u64) -> Option<&'static str> {
    match number {
        0x6969 => Some("NFS"),
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => Some("SMB"),
        0x5346_414f | 0x6b41_4653 => Some("AFS"),
        0x00c3_6400 => Some("Ceph"),
        _ => None,
    }
}

/// Refuses to write beside processes that use another log, after a moment in which they may end.
///
/// # Errors
/// If they do not.
pub(super) async fn refuse_strangers(path: &Path, database: &Descriptor) -> Result<(), PlaceError> {
    let mut waited = Duration::ZERO;
    loop {
        let index = fs::metadata(beside(path, "-shm")).ok().map(|found| found.ino());
        let found = if database.has_log() { strangers(database.file(), index) } else { Vec::new() };
        let Some(first) = found.first() else { return Ok(()) };
        if waited >= STRANGERS_PATIENCE {
            let others = found.len() - 1;
            let others = if others > 0 { format!(" (one of {})", others + 1) } else { String::new() };
            return Err(PlaceError::Strangers { path: path.to_owned(), processes: format!("{first}{others}") });
        }
        sleep(STRANGERS_PAUSE).await;
        waited += STRANGERS_PAUSE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_found_whatever_their_names_are() {
        let mounts = b"36 35 98:0 /mnt1 /srv/a rw,noatime master:1 - ext3 /dev/root rw\n\
            37 35 98:0 /x /srv/a\\040b\\134c\\012d rw - ext3 /dev/root rw\n\
            38 35 98:0 /x /srv/\xff rw - ext3 /dev/root rw\n\
            39 35 98:0 /x /srv/\\9z\\04 rw - ext3 /dev/root rw\n\n";
        for path in [b"/srv/a".as_slice(), b"/srv/a b\\c\nd", b"/srv/\xff", b"/srv/\\9z\\04"] {
            assert!(is_mount_point(mounts, Path::new(OsStr::from_bytes(path))), "{path:?}");
        }
        for path in ["/srv", "/srv/a ", "/srv/a/queue.db", "/mnt1", "/x"] {
            assert!(!is_mount_point(mounts, Path::new(path)), "{path}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn network_file_systems_are_known_and_local_ones_are_none() {
        let known: Vec<_> = [0x6969, 0x517b, 0xff53_4d42, 0xfe53_4d42, 0x00c3_6400].map(name_of_remote).into();
        assert_eq!(known, [Some("NFS"), Some("SMB"), Some("SMB"), Some("SMB"), Some("Ceph")]);
        // ext4, xfs, btrfs, tmpfs, overlayfs, FUSE, 9P.
        for number in [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630, 0x6573_5546, 0x0102_1997] {
            assert_eq!(name_of_remote(number), None, "{number:#x}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("queue.db");
        assert!(refuse(&path).is_ok(), "not there yet");
        fs::write(&path, "").unwrap();
        assert!(refuse(&path).is_ok());
    }
}
