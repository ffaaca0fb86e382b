//! Where a database must not lie, whatever is in it: where other processes would see another WAL, or other locks.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::sleep;

use super::{database_file::DatabaseFile, processes::with_another_wal, watched_files::beside};
use crate::{printable::absolute, small_file::be_regular};

/// How often processes with another WAL are looked for, and for how long. A process that is just opening or closing the database
/// looks like one, and a daemon whose files were removed ends soon.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
const LOOK_PATIENCE: Duration = Duration::from_secs(1);

/// Why a database is refused that SQLite could open.
#[derive(Debug, thiserror::Error)]
pub enum LocationError {
    /// It is not a regular file.
    #[error("database {}: {source}; give database.path another file", absolute(.path).display())]
    Special {
        /// Its path.
        path: PathBuf,
        /// The kind of thing that it is.
        source: io::Error,
    },
    /// It has several names.
    #[error(
        "database {0}: the file has {names} names (hard links). The write-ahead log belongs to a name, so rows that are written \
         by one name are lost by another: keep one name (`find DIRECTORY -samefile {0}` lists them), or make the others symbolic \
         links",
        absolute(.path).display()
    )]
    Linked {
        /// The name by which it was to be opened.
        path: PathBuf,
        /// The number of names.
        names: u64,
    },
    /// It is mounted without its directory.
    #[error(
        "database {}: the file itself is a mount point, so processes outside see another write-ahead log and another lock file \
         beside it; mount its directory instead",
        absolute(.0).display()
    )]
    Mounted(PathBuf),
    /// It is on another machine.
    #[error(
        "database {}: it is on a network file system ({kind}), where SQLite's locks and ours are not reliable; put it on a local \
         disk",
        absolute(.path).display()
    )]
    Remote {
        /// Its path.
        path: PathBuf,
        /// The name of the file system.
        kind: &'static str,
    },
    /// Another process writes another WAL.
    #[error(
        "database {}: {processes} has the file open with another write-ahead log (by another name of the file, or because a -wal \
         or -shm file was removed), and would overwrite new rows; end that process, then try again",
        absolute(.path).display()
    )]
    AnotherWal {
        /// Its path.
        path: PathBuf,
        /// The processes that do.
        processes: String,
    },
    /// Another program has locked it, or the lock file.
    #[error(
        "database {}: {} is locked by {by}; end that process, or let it lock another file",
        absolute(.path).display(),
        absolute(.file).display()
    )]
    Locked {
        /// The database.
        path: PathBuf,
        /// The locked file.
        file: PathBuf,
        /// The program that has locked it, as far as we can see.
        by: String,
    },
}

/// Refuses a database that other processes can have open with another WAL than the one beside `path`, or that is on another
/// machine. A database that does not exist yet is refused only for its directory.
///
/// # Errors
/// If it lies in such a place.
pub(super) fn refuse(path: &Path) -> Result<(), LocationError> {
    if let Some(found) = fs::metadata(path).ok().filter(|found| !found.is_dir()) {
        // SQLite would wait for the other end of a pipe.
        be_regular(&found).map_err(|source| LocationError::Special { path: path.to_owned(), source })?;
        if found.nlink() > 1 {
            return Err(LocationError::Linked { path: path.to_owned(), names: found.nlink() });
        }
    }
    if is_mount_point(path) {
        return Err(LocationError::Mounted(path.to_owned()));
    }
    match remote(path) {
        Some(kind) => Err(LocationError::Remote { path: path.to_owned(), kind }),
        None => Ok(()),
    }
}

/// Whether something is mounted on the file itself, as far as the kernel says so (Linux 5.8 and later).
#[cfg(target_os = "linux")]
fn is_mount_point(path: &Path) -> bool {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    let found = statx(CWD, path, AtFlags::empty(), StatxFlags::empty());
    found.is_ok_and(|found| (found.stx_attributes & found.stx_attributes_mask).contains(StatxAttributes::MOUNT_ROOT))
}

#[cfg(not(target_os = "linux"))]
fn is_mount_point(_: &Path) -> bool {
    false
}

/// The network file system that a database is on, or will be on. There our `flock` either keeps SQLite itself out, or keeps nobody
/// out.
#[cfg(target_os = "linux")]
fn remote(path: &Path) -> Option<&'static str> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let found = rustix::fs::statfs(path).or_else(|_| rustix::fs::statfs(directory)).ok()?;
    #[expect(clippy::cast_sign_loss, reason = "the field is a number of 32 bits, signed on some machines")]
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

/// Refuses to write beside a process that uses another WAL, if it does not end within a second.
///
/// # Errors
/// If such a process stays.
pub(super) async fn refuse_another_wal(path: &Path, database: &DatabaseFile) -> Result<(), LocationError> {
    let mut waited = Duration::ZERO;
    loop {
        let index = fs::metadata(beside(path, "-shm")).ok().map(|found| found.ino());
        let found = if database.has_wal() { with_another_wal(database.file(), index) } else { Vec::new() };
        let Some(first) = found.first() else { return Ok(()) };
        if waited >= LOOK_PATIENCE {
            let count = found.len();
            let of = if count > 1 { format!(" (one of {count})") } else { String::new() };
            return Err(LocationError::AnotherWal { path: path.to_owned(), processes: format!("{first}{of}") });
        }
        sleep(LOOK_PAUSE).await;
        waited += LOOK_PAUSE;
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_known_and_what_is_below_them_is_none() {
        assert!(is_mount_point(Path::new("/proc")));
        assert!(!is_mount_point(Path::new("/proc/self/stat")) && !is_mount_point(Path::new("/nowhere")));
    }

    #[test]
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
