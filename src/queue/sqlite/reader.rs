//! Read-only looks at the queue, beside a daemon or without one.

mod acts;
mod backlog;
mod listed;
mod plan;
mod records;
mod requests;
mod standing;
mod story;
mod wishes;

use std::{path::PathBuf, time::Duration};

use sqlx::{ColumnIndex, Row as _, Sqlite, SqliteConnection, Type, decode::Decode, sqlite::SqliteRow};

#[cfg(test)]
pub(super) use plan::LANES_TO_SEND;
pub(super) use standing::waiting;
#[cfg(test)]
pub(super) use {
    backlog::{IDLE, PENDING, PENDING_IN_FLIGHT},
    listed::{
        BY_ID as LIST_BY_ID, DEAD as LIST_DEAD, OF_AGENT as LIST_OF_AGENT, OF_LABEL as LIST_OF_LABEL,
        PENDING as LIST_PENDING,
    },
    records::{
        ROWS as RECORDS, ROWS_OF_AGENT as RECORDS_OF_AGENT, WISHES as RECORDS_OF_WISHES,
        WISHES_OF_AGENT as RECORDS_OF_AGENTS_WISHES, WISHES_OF_LABEL as RECORDS_OF_LABEL,
    },
    standing::{DEAD, first_rows},
    wishes::{LABELS, OF_ENTRY, OF_LABEL},
};

use super::{
    connection::connect,
    errors::{OpenError, StoreError},
    interference::blame,
    lock_holder::holder,
    open::Options,
    rows::holds,
    schema::connect_known,
    step_limit::{StepLimit, whole_file},
};
use crate::{
    model::{
        backoff::Backoff,
        clock::Timestamp,
        deletion::{AgentId, EntryId},
        limits::{ConcurrencyReason, Learnt, RateReason},
    },
    queue::{
        InEffect,
        report::{Columns, Introduction, NewestRequest, SharedLimits, Standing, Story, concerning},
    },
};

/// A connection that only reads.
#[derive(Debug)]
pub struct Reader {
    pub(super) conn: SqliteConnection,
    path: PathBuf,
    steps: StepLimit,
}

/// The introduction that the daemon with this process number wrote into the file at its start, if it can be read. The tables may be
/// older than ours.
pub async fn introduction_of(options: &Options, pid: Option<u32>) -> Option<Introduction> {
    introduction(&mut connect(options, true).await.ok()?, pid).await.ok()?
}

impl Reader {
    /// Opens an up-to-date queue. Do not keep the reader for long: if this user may not write the file, it may not see later
    /// commits.
    ///
    /// # Errors
    /// If the file does not exist, is not ours or not up to date, or SQLite fails.
    pub async fn open(options: &Options) -> Result<Self, OpenError> {
        let ((mut conn, _), path) = (connect_known(options, true).await?, options.path.clone());
        match StepLimit::of(&mut conn).await {
            Ok(steps) => Ok(Self { conn, path, steps }),
            Err(source) => Err(StoreError { path, doing: "open", source }.into()),
        }
    }

    /// The state of the queue, or of one agent's part of it, at one moment. Reads the whole table.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn standing(&mut self, agent: Option<&AgentId>, now: Timestamp) -> Result<Standing, StoreError> {
        let held = holder(&self.path);
        let budget = self.steps.allow(whole_file(&self.path));
        let read = async {
            // One transaction, so that all counts are of the same moment.
            sqlx::raw_sql("BEGIN").execute(&mut self.conn).await?;
            let pid = held.as_ref().ok().copied().flatten().flatten();
            let seen = standing::seen(&mut self.conn, agent, pid, now).await;
            sqlx::raw_sql("ROLLBACK").execute(&mut self.conn).await?;
            seen
        };
        let seen = read.await;
        drop(budget);
        let mut seen = match seen {
            Ok(seen) => seen,
            Err(source) => return Err(self.blame("read the state of the queue", source).await),
        };
        seen.daemon.running = held.as_ref().ok().map(Option::is_some);
        seen.daemon.pid = held.ok().flatten().flatten();
        Ok(Standing::of(seen, agent, now))
    }

    /// Every agent that has a row, settled or not.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn agents(&mut self) -> Result<Vec<AgentId>, StoreError> {
        let agents = {
            let _budget = self.steps.allow(whole_file(&self.path));
            backlog::agents(&mut self.conn).await
        };
        match agents {
            Ok(agents) => Ok(agents),
            Err(source) => Err(self.blame("list the agents", source).await),
        }
    }

    /// The holds that requests for an agent must wait for, and the daemon's rate.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn shared_limits(&mut self, agent: &AgentId) -> Result<SharedLimits, StoreError> {
        let pid = holder(&self.path).ok().flatten().flatten();
        let read = async {
            let holds = concerning(holds(&mut self.conn).await?, Some(agent));
            let introduction = introduction(&mut self.conn, pid).await?;
            Ok(SharedLimits {
                holds,
                requests_per_second: introduction
                    .and_then(|introduction| introduction.in_effect)
                    .map(|settings| settings.requests_per_second),
            })
        };
        read.await.map_err(|source| StoreError { path: self.path.clone(), doing: "read the holds", source })
    }

    /// Everything about one ID; `None` if there is no such row.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn story(&mut self, agent: &AgentId, entry: &EntryId) -> Result<Option<Story>, StoreError> {
        let story = {
            let _budget = self.steps.allow(whole_file(&self.path));
            story::story(&mut self.conn, agent, entry).await
        };
        match story {
            Ok(story) => Ok(story),
            Err(source) => Err(self.blame("look for the row", source).await),
        }
    }

    /// The newest requests, up to `most`, the newest first.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn newest_requests(&mut self, most: u32) -> Result<Vec<NewestRequest>, StoreError> {
        match story::newest(&mut self.conn, most).await {
            Ok(requests) => Ok(requests),
            Err(source) => Err(self.blame("read the requests", source).await),
        }
    }

    /// The same error, with the names of foreign triggers that may be its cause.
    async fn blame(&mut self, doing: &'static str, source: sqlx::Error) -> StoreError {
        let error = StoreError { path: self.path.clone(), doing, source };
        blame(&mut self.conn, &self.steps, error).await
    }
}

/// The introduction that the daemon with this process number wrote. An older version writes less of it.
pub(super) async fn introduction(
    conn: &mut SqliteConnection,
    pid: Option<u32>,
) -> Result<Option<Introduction>, sqlx::Error> {
    let found = sqlx::query("SELECT * FROM daemon WHERE pid = ?1").bind(pid);
    Ok(found.fetch_optional(conn).await?.and_then(|row| {
        Some(Introduction {
            version: value(&row, "version")?,
            started_at: Timestamp(value(&row, "started_at")?),
            in_effect: in_effect(&row),
        })
    }))
}

/// The settings in the daemon's row.
fn in_effect(row: &SqliteRow) -> Option<InEffect> {
    let ms = |column| Some(Duration::from_millis(u64::try_from(value::<i64, _>(row, column)?).ok()?));
    let number = |column| usize::try_from(value::<i64, _>(row, column)?).ok();
    Some(InEffect {
        requests_per_second: value(row, "requests_per_second")?,
        rate_ceiling: value(row, "rate_ceiling")?,
        rate_reason: RateReason::parse(value(row, "rate_why")?)?,
        concurrency: number("concurrency")?,
        concurrency_ceiling: number("concurrency_ceiling")?,
        concurrency_reason: ConcurrencyReason::parse(value(row, "concurrency_why")?)?,
        batch_size: value(row, "batch_size")?,
        linger: ms("linger_ms")?,
        retry: Backoff::new(ms("retry_base_ms")?, ms("retry_max_ms")?).ok()?,
        learnt: learnt_in(row),
    })
}

/// What the last daemon has learnt about the API's limits.
pub(super) async fn learnt(conn: &mut SqliteConnection) -> Result<Option<Learnt>, sqlx::Error> {
    Ok(sqlx::query("SELECT * FROM daemon").fetch_optional(conn).await?.as_ref().and_then(learnt_in))
}

fn learnt_in(row: &SqliteRow) -> Option<Learnt> {
    Some(Learnt {
        rate: value(row, "learnt_rate"),
        is_even: value::<i64, _>(row, "learnt_even") == Some(1),
        concurrency: value::<i64, _>(row, "learnt_concurrency").and_then(|number| usize::try_from(number).ok()),
        at: Timestamp(value(row, "learnt_at")?),
    })
}

/// The value, unless it is NULL or, in an invalid row, of another type.
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

/// The text. In SQLite it need not be UTF-8.
pub(super) fn text(row: &SqliteRow, column: impl ColumnIndex<SqliteRow>) -> Option<String> {
    let bytes: Option<&[u8]> = row.try_get_unchecked(column).ok()?;
    bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned())
}

impl Columns for SqliteRow {
    fn text(&self, name: &str) -> Option<String> {
        text(self, name)
    }

    fn number(&self, name: &str) -> Option<i64> {
        value(self, name)
    }

    fn flag(&self, name: &str) -> Option<bool> {
        value::<i64, _>(self, name).map(|flag| flag == 1)
    }
}
