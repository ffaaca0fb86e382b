//! `sweeper init`: creates the database, or brings its tables up to date.

use std::process::ExitCode;

use super::{
    Failure,
    terminal::{say, warn_person},
};
use crate::{
    model::clock::Clock,
    printable::absolute,
    queue::{
        Queue as _, either, names_of,
        postgres::{self, Candidate, Made},
        report::Introduction,
        sqlite::{self, OpenError, Opened, Options, Reader, Store, twice_if_damaged},
    },
};

pub(super) const EXAMPLES: &str = "\
Examples:
  sweeper init
  SWEEPER__DATABASE__PATH=/var/lib/sweeper/queue.db sweeper init
  SWEEPER__DATABASE__URL=postgres://sweeper@db.example.org/app sweeper init

Exit codes: 0 created or up to date, 2 configuration, 3 database unusable.";

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Creates or migrates the database. A daemon that works on it has done so already.
///
/// # Errors
/// If the database cannot be used, or standard output cannot be written.
pub(super) async fn init(options: &either::Options) -> Result<ExitCode, Failure> {
    match options {
        either::Options::Sqlite(options) => init_file(options).await,
        either::Options::Postgres(options) => init_server(options).await,
    }
}

async fn init_server(options: &postgres::Options) -> Result<ExitCode, Failure> {
    let address = &options.address;
    let made = Candidate::make(options.clone(), &Clock::system()).await?;
    let changes = postgres::changed_tables(options).await?;
    if !changes.is_empty() {
        warn_person(&format!("{address}: the tables are not as sweeper makes them: {}", names_of(&changes)));
    }
    say(&match made {
        Made::Created => format!("{address}: created, in the schema sweeper"),
        Made::Existing => format!("{address}: up to date"),
        Made::InUse(leader) => {
            let leader = leader.map_or_else(String::new, |leader| format!(" ({leader})"));
            format!("{address}: up to date, and in use by a sweeper{leader}")
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn init_file(options: &Options) -> Result<ExitCode, Failure> {
    let path = absolute(&options.path);
    let path = path.display();
    let done = match twice_if_damaged(async || Store::make(options.clone()).await).await {
        Ok(mut store) => {
            if let Some(foreign) = store.schema_news() {
                let names = names_of(foreign);
                warn_person(&format!("{path}: the tables are not as sweeper makes them: {names}"));
            }
            let opened = store.opened();
            // Everything is committed. A WAL that could not be copied stays beside the file.
            let _ = store.close().await;
            opening(options, opened).unwrap_or_else(|| format!("{path}: up to date"))
        }
        Err(OpenError::Taken { pid, .. }) => in_use(options, pid).await?,
        Err(error) => return Err(error.into()),
    };
    say(&done)?;
    Ok(ExitCode::SUCCESS)
}

/// The message about a file that was opened, if its opening changed it.
pub(super) fn opening(options: &Options, opened: Opened) -> Option<String> {
    let path = absolute(&options.path);
    let path = path.display();
    match opened {
        Opened::Created => Some(format!("{path}: created")),
        Opened::Adopted => Some(format!(
            "{path}: up to date; its tables show that it is a queue of sweeper that was loaded from a dump, and it is \
             marked as one again"
        )),
        Opened::Existing => None,
    }
}

/// The message if another process works on the database.
async fn in_use(options: &Options, pid: Option<u32>) -> Result<String, Failure> {
    let path = absolute(&options.path);
    let path = path.display();
    let process = pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
    let introduction = sqlite::introduction_of(options, pid).await.filter(|said| is_older(&said.version));
    let older = introduction.map(|Introduction { version, .. }| {
        format!("sweeper {version}{process}, which is older than this one, {VERSION}")
    });
    match Reader::open(options).await {
        Ok(_) => Ok(match older {
            Some(older) => {
                format!("{path}: up to date, and in use by {older}; to use this version, stop that one and start this")
            }
            None => format!("{path}: up to date, and in use by a sweeper{process}"),
        }),
        // The tables need a migration, and only the process that works on the file may do it.
        Err(OpenError::Empty(path)) => {
            if let Some(older) = older {
                warn_person(&format!("{}: in use by {older}; stop that one, and run this again", path.display()));
            }
            Err(OpenError::Taken { path, pid }.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether a version is older than ours. Text that is not a version of ours is not older.
fn is_older(version: &str) -> bool {
    let parts = |text: &str| -> Option<Vec<u32>> { text.split('.').map(|part| part.parse().ok()).collect() };
    parts(version).zip(parts(VERSION)).is_some_and(|(theirs, ours)| theirs < ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(is_older("0.0.9") && is_older("0.0.10"));
        for other in [VERSION, "0.1.1", "0.10.0", "1.0.0", "", "x", "0.0.x"] {
            assert!(!is_older(other), "{other}");
        }
    }
}
