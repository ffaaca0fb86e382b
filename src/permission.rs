//! Explains why this process may not use a file: whose the file or its directory is, the mode, who this process is, and what to do.

use std::{
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt as _,
    path::{self, Path},
};

use nix::unistd::{Gid, Group, Uid, User};
use rustix::{
    fs::{Access, AtFlags, CWD, accessat},
    io::Errno,
    process::geteuid,
};

use crate::printable::shell;

/// What a process is to do with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Read the file.
    Read,
    /// Write the file, and make files beside it.
    Write,
}

/// Why the permissions keep this process from using the file, which need not exist. `None` if they do not.
#[must_use]
pub fn refusal(file: &Path, need: Need) -> Option<String> {
    let file = path::absolute(file).ok()?;
    let parent = file.parent()?;
    // From the root down: below a directory that may not be entered, nothing can be told.
    let mut directories: Vec<&Path> = parent.ancestors().collect();
    directories.reverse();
    let closed = directories.into_iter().find(|path| path.is_dir() && is_refused(path, Access::EXEC_OK));
    if let Some(directory) = closed {
        return Some(explained(directory, Act::Enter));
    }
    if is_refused(&file, Access::READ_OK) {
        return Some(explained(&file, Act::Read));
    }
    if need == Need::Read {
        return None;
    }
    if is_refused(&file, Access::WRITE_OK) {
        return Some(explained(&file, Act::Write));
    }
    is_refused(parent, Access::WRITE_OK).then(|| explained(parent, Act::MakeFiles))
}

/// The same error; if it means that the permissions are missing, with the reason.
#[must_use]
pub fn with_reason(error: io::Error, file: &Path) -> io::Error {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return error;
    }
    match refusal(file, Need::Read) {
        Some(said) => io::Error::new(io::ErrorKind::PermissionDenied, said),
        None => error,
    }
}

fn is_refused(path: &Path, access: Access) -> bool {
    // Of the effective user, as an open is.
    matches!(accessat(CWD, path, access, AtFlags::EACCESS), Err(Errno::ACCESS | Errno::PERM))
}

/// What is refused.
#[derive(Clone, Copy)]
enum Act {
    Enter,
    Read,
    Write,
    MakeFiles,
}

impl Act {
    fn words(self) -> &'static str {
        match self {
            Self::Enter => "enter it",
            Self::Read => "read it",
            Self::Write => "write it",
            Self::MakeFiles => "make files in it",
        }
    }

    /// The letters of `chmod` that allow it.
    fn letters(self) -> &'static str {
        match self {
            Self::Enter => "x",
            Self::Read => "r",
            Self::Write => "w",
            Self::MakeFiles => "wx",
        }
    }

    /// The permission bits of the group that allow it.
    fn bits(self) -> u32 {
        match self {
            Self::Enter => 0o010,
            Self::Read => 0o040,
            Self::Write => 0o020,
            Self::MakeFiles => 0o030,
        }
    }
}

fn explained(path: &Path, act: Act) -> String {
    let us = geteuid().as_raw();
    let we = who(us);
    let Ok(found) = fs::metadata(path) else {
        return format!("permission denied: this process, {we}, may not {} ({})", act.words(), path.display());
    };
    let kind = if found.is_dir() { "directory" } else { "file" };
    let mode = found.mode() & 0o7777;
    let group = Group::from_gid(Gid::from_raw(found.gid())).ok().flatten().map(|group| group.name);
    let group = group.unwrap_or_else(|| found.gid().to_string());
    format!(
        "permission denied: the {kind} {} belongs to {} and the group {group}, has mode {mode:04o}, and this process, {we}, may not {}; \
         {}",
        path.display(),
        who(found.uid()),
        act.words(),
        remedy(path, &found, act, us, &group)
    )
}

fn remedy(path: &Path, found: &Metadata, act: Act, us: u32, group: &str) -> String {
    if found.uid() == us {
        let path = path.display().to_string();
        return format!("its owner is this user: chmod u+{} {}", act.letters(), shell(&path));
    }
    let owner = user_name(found.uid()).unwrap_or_else(|| format!("'#{}'", found.uid()));
    let as_owner =
        if found.uid() == 0 { "sudo sweeper …".to_owned() } else { format!("sudo -u {owner} sweeper …") };
    let as_member = if found.mode() & act.bits() == act.bits() && found.gid() != 0 {
        format!(", or as a member of the group {group}")
    } else {
        String::new()
    };
    format!("run the command as that user (`{as_owner}`){as_member}")
}

/// A user with the number: `sweeper (uid 997)`.
#[must_use]
pub fn who(uid: u32) -> String {
    user_name(uid).map_or_else(|| format!("uid {uid}"), |name| format!("{name} (uid {uid})"))
}

/// The name of a user; `None` if the system knows none.
#[must_use]
pub fn user_name(uid: u32) -> Option<String> {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_have_names_where_the_system_knows_them() {
        assert_eq!([who(0), who(4_000_000_000)], ["root (uid 0)", "uid 4000000000"]);
    }

    #[test]
    fn what_is_permitted_or_not_there_is_not_refused() {
        let dir = tempfile::tempdir().unwrap();
        for need in [Need::Read, Need::Write] {
            assert_eq!(refusal(&dir.path().join("nowhere/queue.db"), need), None);
            assert_eq!(refusal(&dir.path().join("queue.db"), need), None);
        }
        fs::write(dir.path().join("file"), "").unwrap();
        assert_eq!(
            refusal(&dir.path().join("file/queue.db"), Need::Read),
            None,
            "a file is no directory to be entered"
        );
        let missing = with_reason(io::Error::from(io::ErrorKind::NotFound), Path::new("/etc/passwd"));
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
