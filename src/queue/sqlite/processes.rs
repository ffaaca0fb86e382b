//! Other processes that have a file locked or open, from `/proc`. Only Linux has it, and it shows only the processes of this
//! container.

use std::{
    collections::BTreeSet,
    fmt,
    fs::{self, File},
    io,
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::Path,
    process,
};

use rustix::fs::{major, minor};

/// The most processes that are named.
const MOST_NAMED: usize = 10;

/// How often `/proc/locks` is read. The kernel hands a long list out page by page. If a lock is released between two pages,
/// another one slips through: with 300 locks that come and go, about one list in a hundred lacks a lock.
const LOOKS: u32 = 3;

/// The bytes of a database that SQLite locks for reading: `SHARED_FIRST` and `SHARED_SIZE` in its os.h.
const READ_LOCKS: std::ops::Range<u64> = 0x4000_0002..0x4000_0002 + 510;

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// The name of its program; `None` if it has ended. Its lock may live on in a child.
    pub(super) name: Option<String>,
}

impl Process {
    pub(super) fn of(pid: u32) -> Self {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok().map(|name| name.trim_end().to_owned());
        Self { pid, name }
    }

    /// Whether it runs this program, by the name that this process has or by the name that it is built with.
    pub(super) fn is_sweeper(&self) -> bool {
        let ours = Self::of(process::id()).name;
        self.name.as_ref().is_some_and(|name| name.starts_with("sweeper") || Some(name) == ours.as_ref())
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.as_ref().map_or_else(String::new, |name| format!(" ({name})"));
        write!(f, "process {}{name}", self.pid)
    }
}

/// One line of `/proc/locks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct HeldLock {
    pid: u32,
    /// Taken by `flock`; else by POSIX's `fcntl`.
    is_flock: bool,
    is_exclusive: bool,
    /// The first locked byte.
    start: u64,
}

/// The locks on the files with these inodes on the file system of `file`, each at least once; `None` if `/proc` does not tell.
fn locks_on(file: &File, inodes: &[u64]) -> Option<Vec<(u64, HeldLock)>> {
    let (device, mut held) = (device(file)?, Vec::new());
    for _ in 0..LOOKS {
        held.extend(parse(&fs::read_to_string("/proc/locks").ok()?, &device, inodes));
    }
    Some(held)
}

/// The device of a file as `/proc/locks` writes it: that of the mount. On btrfs, `stat` has a device for each subvolume instead.
fn device(file: &File) -> Option<String> {
    let about = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    let mount = about.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim();
    let mounts = fs::read("/proc/self/mountinfo").ok()?;
    let mounts = String::from_utf8_lossy(&mounts);
    let line = mounts.lines().find(|line| line.split(' ').next() == Some(mount));
    let (major, minor) = match line.and_then(|line| line.split(' ').nth(2)?.split_once(':')) {
        Some((major, minor)) => (major.parse().ok()?, minor.parse().ok()?),
        // Its mount is not visible here.
        None => file.metadata().map(|found| (major(found.dev()), minor(found.dev()))).ok()?,
    };
    let (major, minor): (u32, u32) = (major, minor);
    Some(format!("{major:02x}:{minor:02x}"))
}

/// The locks on these files, from lines like `1: POSIX  ADVISORY  READ 3652 08:01:1234567 128 128`. A line with `->` is a process
/// that waits for a lock.
fn parse(locks: &str, device: &str, inodes: &[u64]) -> Vec<(u64, HeldLock)> {
    let held = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let (kind, _, mode, pid) = (words.next()?, words.next()?, words.next()?, words.next()?);
        let is_flock = match kind {
            "FLOCK" => true,
            "POSIX" => false,
            _ => return None,
        };
        let (file, start) = (words.next()?, words.next()?.parse().ok()?);
        let (on, inode) = file.rsplit_once(':')?;
        let inode = inode.parse().ok().filter(|inode| on == device && inodes.contains(inode))?;
        Some((inode, HeldLock { pid: pid.parse().ok()?, is_flock, is_exclusive: mode == "WRITE", start }))
    };
    locks.lines().filter_map(held).collect()
}

/// The processes that have locked a file by `flock`, and whether each lock is exclusive; `None` if `/proc` does not tell.
pub(super) fn locking(file: &File) -> Option<Vec<(Process, bool)>> {
    let inode = file.metadata().ok()?.ino();
    let flocks = locks_on(file, &[inode])?.into_iter().filter(|(_, held)| held.is_flock);
    Some(flocks.map(|(_, held)| (Process::of(held.pid), held.is_exclusive)).collect())
}

/// Other processes that have a database open with another WAL index than the one with this inode: a removed one, or the one of
/// another name of the database. SQLite has a lock on the database and one on the index for each process that has the database
/// open.
pub(super) fn with_another_wal(database: &File, index: Option<u64>) -> Vec<Process> {
    let Ok(inode) = database.metadata().map(|found| found.ino()) else { return Vec::new() };
    let inodes: Vec<u64> = index.into_iter().chain([inode]).collect();
    let held: Vec<_> = locks_on(database, &inodes).unwrap_or_default();
    let held: Vec<_> = held.iter().filter(|(_, held)| !held.is_flock && held.pid != process::id()).collect();
    // An exclusive lock is that of the last process while it closes the database: it has released the index already.
    let reads = |held: &HeldLock| !held.is_exclusive && READ_LOCKS.contains(&held.start);
    let uses_index = |pid| held.iter().any(|(of, held)| Some(*of) == index && held.pid == pid);
    let others = held.iter().filter(|(of, held)| *of == inode && reads(held) && !uses_index(held.pid));
    let pids: BTreeSet<u32> = others.map(|(_, held)| held.pid).collect();
    pids.into_iter().take(MOST_NAMED).map(Process::of).collect()
}

/// Other processes that have this file open: those of the same user, or all, if we run as root.
pub(super) fn having_open(path: &Path) -> io::Result<Vec<Process>> {
    let path = fs::canonicalize(path)?;
    let having = |process: fs::DirEntry| {
        let pid = process.file_name().to_str()?.parse().ok().filter(|pid| *pid != process::id())?;
        let files = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        let has_it = files.into_iter().any(|file| fs::read_link(file.path()).is_ok_and(|open| open == path));
        has_it.then(|| Process::of(pid))
    };
    Ok(fs::read_dir("/proc")?.flatten().filter_map(having).take(MOST_NAMED).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_found_at_both_ends_of_a_long_list() {
        let dir = tempfile::tempdir().unwrap();
        let locked = |name: &str| {
            let file = File::create(dir.path().join(name)).unwrap();
            file.try_lock().unwrap();
            file
        };
        let first = locked("first");
        if locking(&first).is_none() {
            return;
        }
        let _others: Vec<File> = (0..300).map(|n| locked(&n.to_string())).collect();
        let last = locked("last");
        let ours = (Process::of(process::id()), true);
        for file in [&first, &last] {
            let found = locking(file).unwrap();
            assert!(!found.is_empty() && found.iter().all(|found| *found == ours), "{found:?}");
        }
    }

    #[test]
    fn only_what_is_held_on_the_file_is_told() {
        let locks = "\
1: POSIX  ADVISORY  READ  12 fe:00:263 128 128
2: FLOCK  ADVISORY  WRITE 13 fe:00:263 0 EOF
2: -> FLOCK  ADVISORY  WRITE 14 fe:00:263 0 EOF
3: FLOCK  ADVISORY  READ 15 fe:01:263 0 EOF
4: OFDLCK ADVISORY  READ  -1 fe:00:263 0 EOF
5: LEASE  ACTIVE    READ  16 fe:00:263 0 EOF
6: POSIX  ADVISORY  WRITE 17 fe:00:2630 1073741826 1073742335
7: nonsense
";
        let held = [
            (263, HeldLock { pid: 12, is_flock: false, is_exclusive: false, start: 128 }),
            (263, HeldLock { pid: 13, is_flock: true, is_exclusive: true, start: 0 }),
        ];
        assert_eq!(parse(locks, "fe:00", &[7, 263]), held);
        assert_eq!(parse(locks, "fe:00", &[7]), []);
    }
}
