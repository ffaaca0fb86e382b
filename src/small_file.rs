//! Reading a file that somebody named in the configuration, and that may be anything.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read as _},
    mem,
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::Path,
};

use rustix::fs::OFlags;

/// What a SQLite database begins with.
const DATABASE: &[u8] = b"SQLite format 3\0";

/// What is in a regular file of at most so many bytes, and the file itself. Never waits: opening a named pipe would, for
/// somebody to write to it.
///
/// # Errors
/// If it cannot be read, is no regular file, or is longer.
pub fn read(path: &Path, most: u64) -> io::Result<(Vec<u8>, File)> {
    // Looked at before it is opened, because opening a device may do something; and after, because it may be another then.
    let found = fs::metadata(path)?;
    be_regular(&found)?;
    be_short(found.len(), most)?;
    let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOCTTY).bits()).unwrap_or(0);
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    be_regular(&file.metadata()?)?;
    let mut bytes = Vec::new();
    (&file).take(most + 1).read_to_end(&mut bytes)?;
    if bytes.starts_with(DATABASE) {
        // It may be the queue. Closed by us, all of SQLite's locks on it would go, and others would write beside us.
        mem::forget(file);
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "is a SQLite database, and cannot be what is wanted here",
        ));
    }
    be_short(bytes.len() as u64, most)?;
    Ok((bytes, file))
}

fn be_short(length: u64, most: u64) -> io::Result<()> {
    if length <= most {
        return Ok(());
    }
    let said = format!("is longer than {most} bytes, and cannot be what is wanted here");
    Err(io::Error::new(io::ErrorKind::InvalidData, said))
}

/// Fails if it is anything but a regular file, and says what.
///
/// # Errors
/// Then.
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
