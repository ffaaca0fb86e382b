//! Looking at the queue, without a hand in it: read-only, beside whoever works on it.

mod standing;
mod story;

use std::path::PathBuf;

use sqlx::{ColumnIndex, Row as _, Sqlite, SqliteConnection, Type, decode::Decode, sqlite::SqliteRow};

pub(super) use standing::waiting;
pub use standing::{AgentStanding, Daemon, DeadRows, Introduction, Lately, Standing};
#[cfg(test)]
pub(super) use standing::{DEAD, PENDING, first_rows};
pub use story::{Story, Told};

use super::{
    errors::{OpenError, StoreError},
    file::{Options, connect},
    lock::holder,
    rows::holds,
    schema::connect_known,
    steps::{Steps, whole_file},
    trust::blame,
};
use crate::model::{
    clock::Timestamp,
    deletion::{AgentId, EntryId},
    hold::HoldRow,
    outcome::Scope,
};

/// What a person types to lift a hold.
#[must_use]
pub fn lifting(hold: &HoldRow) -> String {
    let (scope, cause) = (hold.scope.as_str().replace('\'', "''"), hold.cause.as_str());
    format!("DELETE FROM holds WHERE scope = '{scope}' AND cause = '{cause}'")
}

/// A connection that only reads.
#[derive(Debug)]
pub struct Reader {
    pub(super) conn: SqliteConnection,
    path: PathBuf,
    steps: Steps,
}

/// What somebody else who asks the same API has to mind.
#[derive(Clone, Debug)]
pub struct Neighbour {
    /// The pauses of everything and of the agent in question.
    pub holds: Vec<HoldRow>,
    /// The current rate of the daemon, if one runs.
    pub requests_per_second: Option<f64>,
}

/// What the process with this number wrote of itself when it began to work on this file, if that can be read: also from a file
/// whose tables are older than ours.
pub async fn introduction_of(options: &Options, pid: Option<u32>) -> Option<Introduction> {
    introduction(&mut connect(options, true).await.ok()?, pid).await.ok()?
}

impl Reader {
    /// Opens a queue that is there and up to date. Not to be kept for long: if we may not write it and nobody did at this
    /// time, it does not see what somebody writes later.
    ///
    /// # Errors
    /// If it is not, or SQLite fails.
    pub async fn open(options: &Options) -> Result<Self, OpenError> {
        let ((mut conn, _), path) = (connect_known(options, true).await?, options.path.clone());
        match Steps::of(&mut conn).await {
            Ok(steps) => Ok(Self { conn, path, steps }),
            Err(source) => Err(StoreError { path, doing: "open", source }.into()),
        }
    }

    /// How everything stands, or what of it concerns one agent: as of one moment. Reads the whole table.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn standing(&mut self, agent: Option<&AgentId>, now: Timestamp) -> Result<Standing, StoreError> {
        let held = holder(&self.path);
        let allowance = self.steps.allow(whole_file(&self.path));
        let read = async {
            // One transaction: what is counted was all so at the same time.
            sqlx::raw_sql("BEGIN").execute(&mut self.conn).await?;
            let pid = held.as_ref().ok().copied().flatten().flatten();
            let standing = standing::standing(&mut self.conn, agent, pid, now).await;
            sqlx::raw_sql("ROLLBACK").execute(&mut self.conn).await?;
            standing
        };
        let standing = read.await;
        drop(allowance);
        let mut standing = match standing {
            Ok(standing) => standing,
            Err(source) => return Err(self.blame("look at the queue", source).await),
        };
        standing.daemon.running = held.as_ref().ok().map(Option::is_some);
        standing.daemon.pid = held.ok().flatten().flatten();
        Ok(standing)
    }

    /// What keeps requests for an agent, and how fast the daemon sends its own.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn neighbour(&mut self, agent: &AgentId) -> Result<Neighbour, StoreError> {
        let pid = holder(&self.path).ok().flatten().flatten();
        let read = async {
            let holds = concerning(holds(&mut self.conn).await?, Some(agent));
            let said = introduction(&mut self.conn, pid).await?;
            Ok(Neighbour { holds, requests_per_second: said.map(|said| said.requests_per_second) })
        };
        read.await.map_err(|source| StoreError { path: self.path.clone(), doing: "look at the holds", source })
    }

    /// What became of one ID; `None` if there is no such row.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn story(&mut self, agent: &AgentId, entry: &EntryId) -> Result<Option<Story>, StoreError> {
        let story = {
            let _allowance = self.steps.allow(whole_file(&self.path));
            story::story(&mut self.conn, agent, entry).await
        };
        match story {
            Ok(story) => Ok(story),
            Err(source) => Err(self.blame("look for the row", source).await),
        }
    }

    /// The error, with the names of what is somebody else's in the tables, if that may be its cause.
    async fn blame(&mut self, doing: &'static str, source: sqlx::Error) -> StoreError {
        let error = StoreError { path: self.path.clone(), doing, source };
        blame(&mut self.conn, &self.steps, error).await
    }
}

/// What the daemon with this process number wrote of itself.
async fn introduction(conn: &mut SqliteConnection, pid: Option<u32>) -> Result<Option<Introduction>, sqlx::Error> {
    let said = sqlx::query("SELECT version, started_at, requests_per_second FROM daemon WHERE pid = ?1").bind(pid);
    Ok(said.fetch_optional(conn).await?.and_then(|row| {
        Some(Introduction {
            version: text(&row, 0)?,
            started_at: Timestamp(value(&row, 1)?),
            requests_per_second: value(&row, 2)?,
        })
    }))
}

/// The pauses that an agent's rows wait for; all of them if no agent is named.
fn concerning(holds: Vec<HoldRow>, agent: Option<&AgentId>) -> Vec<HoldRow> {
    let concerns = |hold: &HoldRow| match (&hold.scope, agent) {
        (Scope::All, _) | (_, None) => true,
        (Scope::Agent(held), Some(agent)) => held == agent,
    };
    let mut holds: Vec<HoldRow> = holds.into_iter().filter(concerns).collect();
    // That on everything first: `*` is below what an agent's ID begins with.
    holds.sort_by(|a, b| (a.scope.as_str(), a.cause).cmp(&(b.scope.as_str(), b.cause)));
    holds
}

/// A value, unless there is none, or one of another type: CHECKs can be switched off.
fn value<'r, T, I>(row: &'r SqliteRow, column: I) -> Option<T>
where
    T: Decode<'r, Sqlite> + Type<Sqlite>,
    I: ColumnIndex<SqliteRow>,
{
    row.try_get::<Option<T>, _>(column).ok().flatten()
}

fn count(row: &SqliteRow, column: usize) -> u64 {
    value::<i64, _>(row, column).and_then(|n| u64::try_from(n).ok()).unwrap_or(0)
}

/// A text, which need not be UTF-8 in SQLite.
fn text(row: &SqliteRow, column: usize) -> Option<String> {
    let bytes: Option<&[u8]> = row.try_get_unchecked(column).ok()?;
    bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned())
}
