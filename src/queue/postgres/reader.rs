//! Read-only looks at the queue, beside whoever leads.

mod backlog;
mod history;
mod leadership;
mod listed;
mod plan;
mod records;
mod requests;
mod standing;
mod wishes;

use sqlx::{ColumnIndex, PgConnection, Postgres, Row as _, Type, decode::Decode, postgres::PgRow};

pub(super) use leadership::daemon;

use super::{
    blockers::watched,
    command::connect_known,
    errors::{OpenError, StoreError},
    grants::Grant,
    listing,
    open::{OPEN, Options},
    rights::explained,
};
use crate::{
    model::{
        clock::Timestamp,
        deletion::{AgentId, EntryId},
        hold::HoldRow,
        label::Label,
    },
    queue::report::{
        Activity, Columns, Enqueuers, LabelStanding, ListedRow, Listing, NewestRequest, Outlook, Record, Records,
        Remaining, SharedLimits, Standing, Story, WishStanding, concerning,
    },
};

/// Tables that were never analysed look larger or smaller than they are, and compiling a plan may take longer than executing it.
const SETTINGS: &str = "SET jit = off";

/// What one look reads is of one moment.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
/// The same for a look that walks along indexes: without statistics, the server would rather read and sort the whole table.
const BEGIN_WALK: &str = "
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off;
SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off";

/// A connection that only reads.
#[derive(Debug)]
pub struct Reader {
    conn: PgConnection,
    options: Options,
    /// The server's process for this connection.
    backend: i32,
}

impl Reader {
    /// Opens an up-to-date queue.
    ///
    /// # Errors
    /// If there is no queue, it is not up to date or not for this role to see, or the server fails.
    pub async fn open(options: &Options) -> Result<Self, OpenError> {
        let mut conn = connect_known(options).await?;
        let error = |source| StoreError::new(&options.address, OPEN, source);
        sqlx::raw_sql(SETTINGS).execute(&mut conn).await.map_err(error)?;
        let backend = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut conn).await.map_err(error)?;
        Ok(Self { conn, options: options.clone(), backend })
    }

    /// The state of the queue, or of one agent's part of it. Reads the whole table.
    ///
    /// # Errors
    /// If the server fails.
    pub async fn standing(&mut self, agent: Option<&AgentId>, now: Timestamp) -> Result<Standing, StoreError> {
        let read = async |conn: &mut PgConnection| standing::seen(conn, agent, now).await;
        let seen = self.look("read the state of the queue", read).await?;
        Ok(Standing::of(seen, agent, now))
    }

    /// Every agent that has a row, settled or not, or a wish in the inbox.
    ///
    /// # Errors
    /// If the server fails.
    pub async fn agents(&mut self) -> Result<Vec<AgentId>, StoreError> {
        self.walk("list the agents", backlog::agents).await
    }

    /// The holds that requests for an agent must wait for, and the daemon's rate.
    ///
    /// # Errors
    /// If the server fails.
    pub async fn shared_limits(&mut self, agent: &AgentId) -> Result<SharedLimits, StoreError> {
        let read = async |conn: &mut PgConnection| {
            Ok(SharedLimits {
                holds: concerning(listing::holds(conn).await?, Some(agent)),
                requests_per_second: leadership::rate(conn).await?,
            })
        };
        self.walk("read the holds", read).await
    }

    /// Everything about one ID; `None` if there is neither a row nor a wish in the inbox. Reads the whole table of requests.
    ///
    /// # Errors
    /// If the server fails.
    pub async fn story(&mut self, agent: &AgentId, entry: &EntryId) -> Result<Option<Story>, StoreError> {
        let read = async |conn: &mut PgConnection| history::story(conn, agent, entry).await;
        self.look("look for the row", read).await
    }

    /// What is left to do. Counts along the index of open rows.
    ///
    /// # Errors
    /// If the server fails.
    pub async fn remaining(&mut self, now: Timestamp) -> Result<Remaining, StoreError> {
        let read = async |conn: &mut PgConnection| plan::remaining(conn, now).await;
        self.walk("count what is left", read).await
    }

    /// What would go out, or the part of one agent. A request carries at most `batch_size` rows, or as many as in the daemon that
    /// leads. Reads the whole table.
    ///
    /// # Errors
    /// If the server fails.
    pub async fn outlook(
        &mut self,
        agent: Option<&AgentId>,
        batch_size: u8,
        now: Timestamp,
    ) -> Result<Outlook, StoreError> {
        let read = async |conn: &mut PgConnection| plan::outlook(conn, agent, batch_size, now).await;
        self.look("read what would go out", read).await
    }

    /// The next rows of a walk, which may be none; `None` at its end. A walk may go on with another reader.
    ///
    /// # Errors
    /// If the server fails. The same call then can be made again.
    pub async fn listed(&mut self, listing: &mut Listing) -> Result<Option<Vec<ListedRow>>, StoreError> {
        let Some(place) = listing.place().cloned() else { return Ok(None) };
        let choice = listing.choice();
        let read = async |conn: &mut PgConnection| {
            let page = listed::page(conn, choice, &place).await?;
            let next_cause = match place.cause_at_end(&page) {
                Some(cause) => listed::next_cause(conn, cause).await?,
                None => None,
            };
            Ok((page, next_cause))
        };
        let (page, next_cause) = self.walk("list the rows", read).await?;
        Ok(Some(listing.go_on(page, next_cause)))
    }

    /// The next records of a walk, which may be none; `None` at its end. A walk may go on with another reader.
    ///
    /// # Errors
    /// If the server fails. The same call then can be made again.
    pub async fn records(&mut self, records: &mut Records) -> Result<Option<Vec<Record>>, StoreError> {
        let Some(place) = records.place().cloned() else { return Ok(None) };
        let choice = records.choice();
        let read = async |conn: &mut PgConnection| {
            let page = records::page(conn, choice, &place).await?;
            let requests = records::requests(conn, &page.requests()).await?;
            Ok((page, requests))
        };
        let (page, requests) = self.walk("read the records", read).await?;
        Ok(Some(records.go_on(page, &requests)))
    }

    /// All holds.
    ///
    /// # Errors
    /// If the server fails.
    pub async fn holds(&mut self) -> Result<Vec<HoldRow>, StoreError> {
        let read = async |conn: &mut PgConnection| Ok(concerning(listing::holds(conn).await?, None));
        self.walk("read the holds", read).await
    }

    /// Who enqueued wishes with this label, or with any, by commands that left an act.
    ///
    /// # Errors
    /// If the server fails.
    pub async fn enqueuers(&mut self, label: Option<&Label>) -> Result<Enqueuers, StoreError> {
        self.look("read the acts", async |conn: &mut PgConnection| records::enqueuers(conn, label).await).await
    }

    /// What the leader does for `agent`: the requests without an answer, and those with a higher number than `after`.
    ///
    /// # Errors
    /// If the server fails.
    pub async fn activity(&mut self, agent: &AgentId, after: i64) -> Result<Activity, StoreError> {
        let read = async |conn: &mut PgConnection| requests::activity(conn, agent, after).await;
        self.walk("look for requests", read).await
    }

    /// The correlation IDs of those of these requests that are kept.
    ///
    /// # Errors
    /// If the server fails.
    pub async fn correlation_ids(&mut self, requests: &[i64]) -> Result<Vec<(i64, String)>, StoreError> {
        let read = async |conn: &mut PgConnection| requests::correlation_ids(conn, requests).await;
        self.walk("look for requests", read).await
    }

    /// How the wishes with this label stand, or those of them for one agent; `None` if there is none. Reads all of them.
    ///
    /// # Errors
    /// If the server fails.
    pub async fn label(&mut self, label: &Label, agent: Option<&AgentId>) -> Result<Option<LabelStanding>, StoreError> {
        let read = async |conn: &mut PgConnection| wishes::standing(conn, label, agent).await;
        self.look("count the wishes of a label", read).await
    }

    /// The wishes for an entry, if any of them has a label, or had one. They outlive the row.
    ///
    /// # Errors
    /// If the server fails.
    pub async fn wishes(&mut self, agent: &AgentId, entry: &EntryId) -> Result<Vec<WishStanding>, StoreError> {
        let read = async |conn: &mut PgConnection| wishes::of_entry(conn, agent, entry).await;
        self.walk("look for wishes", read).await
    }

    /// Whether there is a wish with this label.
    ///
    /// # Errors
    /// If the server fails.
    pub async fn knows_label(&mut self, label: &Label) -> Result<bool, StoreError> {
        let read = async |conn: &mut PgConnection| wishes::is_known(conn, label).await;
        self.walk("look for the label", read).await
    }

    /// All labels, in their order, up to `most`.
    ///
    /// # Errors
    /// If the server fails.
    pub async fn labels(&mut self, most: u32) -> Result<Vec<String>, StoreError> {
        self.walk("list the labels", async |conn: &mut PgConnection| wishes::labels(conn, most).await).await
    }

    /// The newest requests, up to `most`, the newest first.
    ///
    /// # Errors
    /// If the server fails.
    pub async fn newest_requests(&mut self, most: u32) -> Result<Vec<NewestRequest>, StoreError> {
        self.walk("read the requests", async |conn: &mut PgConnection| history::newest(conn, most).await).await
    }

    /// Reads what may be whole tables, at one moment.
    async fn look<T>(
        &mut self,
        doing: &'static str,
        read: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        self.read(BEGIN, doing, read).await
    }

    /// Reads along indexes, at one moment.
    async fn walk<T>(
        &mut self,
        doing: &'static str,
        read: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        self.read(BEGIN_WALK, doing, read).await
    }

    async fn read<T>(
        &mut self,
        begin: &'static str,
        doing: &'static str,
        read: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        let conn = &mut self.conn;
        let found = async {
            sqlx::raw_sql(begin).execute(&mut *conn).await?;
            let found = read(&mut *conn).await;
            sqlx::raw_sql("ROLLBACK").execute(&mut *conn).await?;
            found
        };
        let Options { address, busy_timeout, .. } = &self.options;
        match watched(address, self.backend, *busy_timeout, found).await {
            Ok(found) => Ok(found),
            Err(source) => {
                Err(StoreError::new(address, doing, explained(&mut self.conn, source, Grant::Operator).await))
            }
        }
    }
}

/// The value, unless it is NULL.
fn value<'r, T, I>(row: &'r PgRow, column: I) -> Option<T>
where
    T: Decode<'r, Postgres> + Type<Postgres>,
    I: ColumnIndex<PgRow>,
{
    row.try_get::<Option<T>, _>(column).ok().flatten()
}

/// A `bigint`; zero if it is NULL.
fn count(row: &PgRow, column: usize) -> u64 {
    value::<i64, _>(row, column).and_then(|n| u64::try_from(n).ok()).unwrap_or(0)
}

/// A `text`.
fn text(row: &PgRow, column: usize) -> Option<String> {
    value(row, column)
}

/// A `bigint` in Unix milliseconds.
fn at(row: &PgRow, column: usize) -> Option<Timestamp> {
    value(row, column).map(Timestamp)
}

impl Columns for PgRow {
    fn text(&self, name: &str) -> Option<String> {
        value(self, name)
    }

    fn number(&self, name: &str) -> Option<i64> {
        value(self, name)
    }

    fn flag(&self, name: &str) -> Option<bool> {
        value(self, name)
    }
}
