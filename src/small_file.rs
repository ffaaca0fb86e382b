//! Reads a small file that somebody named in the configuration, and that may turn out to be anything.

use std::{
    fs::{self, Metadata, OpenOptions},
    io::{self, Read as _},
    mem,
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::Path,
};

use rustix::fs::OFlags;

use crate::permission::with_reason;

/// The first bytes of a SQLite database.
const DATABASE: &[u8] = b"SQLite format 3\0";

/// Reads a regular file of at most `most` bytes. Never waits, as opening a named pipe would do.
///
/// # Errors
/// If the file cannot be read, is no regular file, is longer, or is a SQLite database. A missing permission is explained.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    read_some(path, most).map_err(|error| with_reason(error, path))
}

fn read_some(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    // Checked before the open, because opening a device may have an effect, and after it, because the file may have changed.
    be_regular(&fs::metadata(path)?)?;
    let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOCTTY).bits()).unwrap_or(0);
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    be_regular(&file.metadata()?)?;
    let mut bytes = Vec::new();
    (&file).take(most + 1).read_to_end(&mut bytes)?;
    let wrong = |said: String| Err(io::Error::new(io::ErrorKind::InvalidData, said));
    if bytes.starts_with(DATABASE) {
        // This may be the queue. Closing the file would release all of SQLite's locks on it in this process, and other
        // processes would write at the same time as we do.
        mem::forget(file);
        return wrong("is a SQLite database; name another file".to_owned());
    }
    if bytes.len() as u64 > most {
        return wrong(format!("is longer than {most} bytes; name another file"));
    }
    Ok(bytes)
}

/// Checks that a file is a regular one.
///
/// # Errors
/// A message that names the kind of the file, if it is another one.
pub fn be_regular(metadata: &Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    if kind.is_file() {
        return Ok(());
    }
    let what = if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_symlink() {
        "a symbolic link"
    } else {
        "a device"
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("is {what}, and must be a regular file")))
}
