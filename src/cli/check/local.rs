//! What `check` sees of the database without asking anybody: the file, its directory, its tables, and the daemon.

use std::{
    fs::{self, Metadata},
    io::{self, ErrorKind},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use rustix::{
    fs::{Access, access},
    process::geteuid,
};

use super::line::Line;
use crate::{
    cli::times::{show_text, show_time},
    permission::{Need, refusal, who},
    printable::absolute,
    queue::{
        names_of,
        report::Daemon,
        sqlite::{Inspection, OpenError},
    },
};

/// The file, its tables, and the daemon.
pub(super) fn lines(database: &Path, inspection: &Inspection) -> Vec<Line> {
    let path = absolute(database);
    let mut lines = vec![file(&path)];
    match &inspection.tables {
        Ok(tables) if tables.changes.is_empty() => lines.push(Line::ok("tables", "up to date")),
        Ok(tables) => {
            let names = names_of(&tables.changes);
            let said =
                format!("other programs have changed them: {names}. What is added runs with every write of the daemon");
            lines.push(Line::not("tables", said));
        }
        Err(OpenError::Missing { .. }) => {}
        // The line about the file has said it.
        Err(OpenError::Denied { .. }) if fs::metadata(&path).is_err() => {}
        Err(OpenError::Empty(_)) => {
            let said =
                "not made yet, or to be brought up to date; `sweeper init` or the next start of the daemon does that";
            lines.push(Line::open("tables", said));
        }
        Err(error) => lines.push(Line::not("tables", error.to_string())),
    }
    lines.push(daemon(&inspection.daemon));
    lines
}

fn file(path: &Path) -> Line {
    let shown = path.display();
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => {
            Line::not("database", format!("{shown} is a directory; give database.path the file in it"))
        }
        Ok(found) => {
            let facts = format!("{shown}, {}, {} KiB", describe(&found), found.len().div_ceil(1_024));
            may_write("database", facts, path)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => directory(path),
        Err(error) => Line::not("database", format!("{shown}: {}", unseen(path, &error))),
    }
}

/// The directory of a database that does not exist.
fn directory(path: &Path) -> Line {
    let shown = path.display();
    let Some(directory) = path.parent() else { return Line::not("database", format!("{shown} is no file")) };
    let within = directory.display();
    match fs::metadata(directory) {
        Ok(found) if found.is_dir() => {
            let facts = format!(
                "{shown} is not there; `sweeper init` or the daemon creates it in {within}, {}",
                describe(&found)
            );
            may_write("database", facts, directory)
        }
        Ok(_) => Line::not("database", format!("{shown}: {within} is no directory")),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Line::not("database", format!("{shown}: there is no directory {within}; create it, or set database.path"))
        }
        Err(error) => Line::not("database", format!("{shown}: {within}: {}", unseen(directory, &error))),
    }
}

/// Why a file cannot be looked at.
fn unseen(path: &Path, error: &io::Error) -> String {
    refusal(path, Need::Write).unwrap_or_else(|| format!("cannot be looked at by {}: {error}", who(geteuid().as_raw())))
}

fn may_write(name: &'static str, facts: String, path: &Path) -> Line {
    let me = who(geteuid().as_raw());
    match access(path, Access::WRITE_OK) {
        Ok(()) => Line::ok(name, format!("{facts}; {me} may write it")),
        Err(error) => Line::not(
            name,
            format!(
                "{facts}; {me} may not write it ({error}): let the user write it that runs the daemon, and run this as that user"
            ),
        ),
    }
}

fn describe(found: &Metadata) -> String {
    format!("mode {:04o}, owner {}", found.permissions().mode() & 0o7777, who(found.uid()))
}

/// The daemon that works on the queue.
pub(super) fn daemon(daemon: &Daemon) -> Line {
    let process = daemon.pid.map_or_else(String::new, |pid| format!(" as process {pid}"));
    match (daemon.running, &daemon.introduction) {
        (Some(true), Some(said)) => {
            let (since, version) = (show_time(said.started_at), show_text(&said.version, 36));
            let rate = said.in_effect.map(|settings| format!(", at {:.2} requests/s", settings.requests_per_second));
            let rate = rate.unwrap_or_default();
            Line::ok("daemon", format!("running{process} since {since}, version {version}{rate}"))
        }
        (Some(true), None) => {
            let what = if daemon.leadership.is_some() { "lock" } else { "file" };
            Line::ok("daemon", format!("starting, or another command has the {what} for a moment{process}"))
        }
        (Some(false), _) => Line::open("daemon", "not running"),
        (None, _) => Line::open("daemon", "unknown: this user cannot read the lock file beside the database"),
    }
}
