//! Where a command writes its result: standard output, or a file that is there whole or not at all.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Args;
use rustix::fs::fstat;

use super::{Failure, rng, terminal::is_read};
use crate::{config::Config, printable::absolute, queue::either};

/// The options that name the place.
#[derive(Debug, Args)]
pub(super) struct OutputArgs {
    /// Write to this file instead of standard output. The file is complete, or is not made.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace the file if it is there.
    #[arg(long, requires = "output")]
    force: bool,
}

/// Where a result is written. If this is dropped before [`Output::finish`], no file is left.
#[derive(Debug)]
pub(super) enum Output {
    Standard,
    File(Part),
}

/// A file that is being written under another name.
#[derive(Debug)]
pub(super) struct Part {
    to: BufWriter<File>,
    part: PathBuf,
    target: PathBuf,
    force: bool,
}

impl OutputArgs {
    /// Opens the place.
    ///
    /// # Errors
    /// If the file is there and may not be replaced, or cannot be made.
    pub(super) fn open(&self, config: &Config) -> Result<Output, Failure> {
        match &self.output {
            Some(path) if path.as_os_str() != "-" => Part::new(path, self.force, config).map(Output::File),
            _ => Ok(Output::Standard),
        }
    }
}

impl Output {
    /// The file's absolute path; `None`: standard output.
    pub(super) fn file(&self) -> Option<&Path> {
        match self {
            Self::Standard => None,
            Self::File(part) => Some(&part.target),
        }
    }

    /// Writes. False if nobody reads standard output any more.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn write(&mut self, text: &str) -> Result<bool, Failure> {
        match self {
            Self::Standard => {
                let mut out = io::stdout().lock();
                is_read(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
            }
            Self::File(part) => {
                let written = part.to.write_all(text.as_bytes());
                written.with_context(|| format!("write {}", part.target.display()))?;
                Ok(true)
            }
        }
    }

    /// Gives the file its name, once all of it is on the disk.
    ///
    /// # Errors
    /// If it cannot be written, or a file of that name has come meanwhile.
    pub(super) fn finish(self) -> Result<(), Failure> {
        let Self::File(mut part) = self else { return Ok(()) };
        let target = part.target.display().to_string();
        let written = part.to.flush().and_then(|()| part.to.get_ref().sync_all()).and_then(|()| part.rename());
        if written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists) {
            return Err(there(&part.target));
        }
        Ok(written.with_context(|| format!("write {target}"))?)
    }
}

fn there(path: &Path) -> Failure {
    Failure::Usage(format!("{}: there is a file of this name; name another one, or give --force", path.display()))
}

impl Part {
    fn new(path: &Path, force: bool, config: &Config) -> Result<Self, Failure> {
        let target = absolute(path);
        if let Ok(found) = fs::metadata(&target) {
            if !found.is_file() {
                let said = "is no file: leave --output out, and send standard output there";
                return Err(Failure::Usage(format!("{}: {said}", target.display())));
            }
            if is_of_queue(&target, config) {
                return Err(Failure::Usage(format!("{}: is a file of the queue: name another one", target.display())));
            }
            if !force {
                return Err(there(&target));
            }
        }
        // Behind a symbolic link, the file is written, and not the link replaced.
        let target = fs::canonicalize(&target).unwrap_or(target);
        let name = target.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let part = target.with_file_name(format!(".{name}.{:08x}.part", rng().u32(..)));
        let made = OpenOptions::new().write(true).create_new(true).open(&part);
        let to = made.with_context(|| format!("write {}", target.display()))?;
        Ok(Self { to: BufWriter::with_capacity(1 << 16, to), part, target, force })
    }

    /// Gives the file its name. Without `--force`, it replaces none.
    fn rename(&self) -> io::Result<()> {
        if self.force {
            return fs::rename(&self.part, &self.target);
        }
        match fs::hard_link(&self.part, &self.target) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
            // The file system has no hard links.
            Err(_) if fs::symlink_metadata(&self.target).is_err() => fs::rename(&self.part, &self.target),
            Err(_) => Err(io::ErrorKind::AlreadyExists.into()),
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Under the other name, if it has not become the file. There is nobody left to tell if that fails.
        let _ = fs::remove_file(&self.part);
    }
}

/// Whether the file is the queue, or one that SQLite or the daemon keeps beside it.
fn is_of_queue(target: &Path, config: &Config) -> bool {
    let either::Options::Sqlite(options) = &config.store else { return false };
    let place = |path: &Path| {
        File::open(path).and_then(|file| Ok(fstat(&file)?)).map(|found| (found.st_dev, found.st_ino)).ok()
    };
    let Some(target) = place(target) else { return false };
    ["", "-wal", "-shm", "-journal", ".lock"].iter().any(|suffix| {
        let mut name = options.path.clone().into_os_string();
        name.push(suffix);
        place(Path::new(&name)) == Some(target)
    })
}
