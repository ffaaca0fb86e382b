//! Which processes have a file locked or open, as far as the system tells: only Linux does, and only of those that can be seen
//! from here, which those of another container cannot.

use std::{
    collections::BTreeSet,
    fmt,
    fs::{self, File},
    io::{self, Read as _},
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::Path,
    process,
};

use rustix::fs::{major, minor};

/// Most processes that are named.
const MOST_NAMED: usize = 10;

/// How often a long list of locks is read: with 300 that come and go, one in a hundred times leaves a lock out.
const LOOKS: u32 = 5;

/// Where SQLite locks a database for reading: `SHARED_FIRST` of so many bytes (sqlite's os.h).
const READ_LOCKS: std::ops::Range<u64> = 0x4000_0002..0x4000_0002 + 510;

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// The name of its program; `None` if it has ended, and has left what it had to another one.
    pub(super) name: Option<String>,
}

impl Process {
    pub(super) fn of(pid: u32) -> Self {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok().map(|name| name.trim_end().to_owned());
        Self { pid, name }
    }

    /// Whether this program runs there, under the name that it has here or the one that it is built with.
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
struct Held {
    pid: u32,
    /// By `flock`; else by POSIX's `fcntl`.
    is_flock: bool,
    is_exclusive: bool,
    /// The first byte.
    start: u64,
}

/// The locks that are held on the files with these inodes on the file system of `file`, each of them at least once; `None` if the
/// system does not tell.
fn held_on(file: &File, inodes: &[u64]) -> Option<Vec<(u64, Held)>> {
    let (device, mut held) = (device(file)?, Vec::new());
    for _ in 0..LOOKS {
        let (locks, is_whole) = read_locks().ok()?;
        held.extend(parse(&locks, &device, inodes));
        if is_whole {
            break;
        }
    }
    Some(held)
}

/// The device that a file is on, as `/proc/locks` has it: that of the mount. On btrfs, `stat` tells another one, which each
/// subvolume has for itself.
fn device(file: &File) -> Option<String> {
    let about = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    let mount = about.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim();
    let mounts = fs::read("/proc/self/mountinfo").ok()?;
    let mounts = String::from_utf8_lossy(&mounts);
    let line = mounts.lines().find(|line| line.split(' ').next() == Some(mount));
    let (major, minor) = match line.and_then(|line| line.split(' ').nth(2)?.split_once(':')) {
        Some((major, minor)) => (major.parse().ok()?, minor.parse().ok()?),
        // It is mounted where we do not see it.
        None => file.metadata().map(|found| (major(found.dev()), minor(found.dev()))).ok()?,
    };
    let (major, minor): (u32, u32) = (major, minor);
    Some(format!("{major:02x}:{minor:02x}"))
}

/// What `/proc/locks` says, and whether it was said in one go. Longer than a page, it comes in parts; of a lock that is given up
/// between two of them, the place is taken by the next, which is then left out.
fn read_locks() -> io::Result<(String, bool)> {
    let mut file = File::open("/proc/locks")?;
    let (mut text, mut part, mut parts) = (Vec::new(), vec![0; 64 << 10], 0);
    loop {
        match file.read(&mut part)? {
            0 => return Ok((String::from_utf8_lossy(&text).into_owned(), parts <= 1)),
            length => text.extend_from_slice(&part[..length]),
        }
        parts += 1;
    }
}

/// Of lines like `1: POSIX  ADVISORY  READ 3652 08:01:1234567 128 128`, those of these files. `->` stands for one that waits.
fn parse(locks: &str, device: &str, inodes: &[u64]) -> Vec<(u64, Held)> {
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
        Some((inode, Held { pid: pid.parse().ok()?, is_flock, is_exclusive: mode == "WRITE", start }))
    };
    locks.lines().filter_map(held).collect()
}

/// The processes that have locked a file by `flock`, and whether each shares it with nobody; `None` if the system does not tell.
pub(super) fn locking(file: &File) -> Option<Vec<(Process, bool)>> {
    let inode = file.metadata().ok()?.ino();
    let flocks = held_on(file, &[inode])?.into_iter().filter(|(_, held)| held.is_flock);
    Some(flocks.map(|(_, held)| (Process::of(held.pid), held.is_exclusive)).collect())
}

/// Other processes that read and write a database by another index of its log than the one with this inode: a removed one, or
/// that of another name of the database. Everybody who has the database open has a lock on it and one on the index.
pub(super) fn strangers(database: &File, index: Option<u64>) -> Vec<Process> {
    let Ok(inode) = database.metadata().map(|found| found.ino()) else { return Vec::new() };
    let inodes: Vec<u64> = index.into_iter().chain([inode]).collect();
    let held: Vec<_> = held_on(database, &inodes).unwrap_or_default();
    let held: Vec<_> = held.iter().filter(|(_, held)| !held.is_flock && held.pid != process::id()).collect();
    // Who closes the database last has it for itself, and no index any more.
    let reads = |held: &Held| !held.is_exclusive && READ_LOCKS.contains(&held.start);
    let is_insider = |pid| held.iter().any(|(of, held)| Some(*of) == index && held.pid == pid);
    let strangers = held.iter().filter(|(of, held)| *of == inode && reads(held) && !is_insider(held.pid));
    let pids: BTreeSet<u32> = strangers.map(|(_, held)| held.pid).collect();
    pids.into_iter().take(MOST_NAMED).map(Process::of).collect()
}

/// Other processes that have this file open: those of the same user, or, to root, all.
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
    fn a_list_of_locks_that_comes_in_parts_is_read_to_its_end() {
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
        let ours = [(Process::of(process::id()), true)];
        // More than once, if locks of others came and went meanwhile; never not at all, for a list that stays as it is.
        for file in [&first, &last] {
            assert!(locking(file).unwrap().iter().all(|found| *found == ours[0]));
        }
        assert!(locking(&first).is_some_and(|found| !found.is_empty()) || !read_locks().unwrap().1);
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
            (263, Held { pid: 12, is_flock: false, is_exclusive: false, start: 128 }),
            (263, Held { pid: 13, is_flock: true, is_exclusive: true, start: 0 }),
        ];
        assert_eq!(parse(locks, "fe:00", &[7, 263]), held);
        assert_eq!(parse(locks, "fe:00", &[7]), []);
    }
}
