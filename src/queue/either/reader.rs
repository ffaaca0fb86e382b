//! Read-only looks at the queue that the configuration names.

use super::{OpenError, Options, StoreError};
use crate::{
    model::{
        clock::Timestamp,
        deletion::{AgentId, EntryId},
        hold::HoldRow,
        label::Label,
    },
    queue::{
        postgres,
        report::{
            Activity, Enqueuers, LabelStanding, ListedRow, Listing, NewestRequest, Outlook, Record, Records, Remaining,
            SharedLimits, Standing, Story, WishStanding,
        },
        sqlite,
    },
};

/// A connection that only reads. Each look is at one moment.
#[derive(Debug)]
pub enum Reader {
    /// To a file.
    Sqlite(sqlite::Reader),
    /// To a server.
    Postgres(postgres::Reader),
}

impl Reader {
    /// Opens an up-to-date queue. Do not keep the reader for long: of a file that this user may not write, it may not see later
    /// commits.
    ///
    /// # Errors
    /// If there is no queue, it is not ours, not up to date or not for us to see, or the engine fails.
    pub async fn open(options: &Options) -> Result<Self, OpenError> {
        Ok(match options {
            Options::Sqlite(options) => Self::Sqlite(sqlite::Reader::open(options).await?),
            Options::Postgres(options) => Self::Postgres(postgres::Reader::open(options).await?),
        })
    }

    /// The state of the queue, or of one agent's part of it. Reads the whole table.
    ///
    /// # Errors
    /// If the engine fails.
    pub async fn standing(&mut self, agent: Option<&AgentId>, now: Timestamp) -> Result<Standing, StoreError> {
        with!(self, standing(agent, now))
    }

    /// Every agent that has a row, settled or not, or a wish in the inbox.
    ///
    /// # Errors
    /// If the engine fails.
    pub async fn agents(&mut self) -> Result<Vec<AgentId>, StoreError> {
        with!(self, agents())
    }

    /// The holds that requests for an agent must wait for, and the daemon's rate.
    ///
    /// # Errors
    /// If the engine fails.
    pub async fn shared_limits(&mut self, agent: &AgentId) -> Result<SharedLimits, StoreError> {
        with!(self, shared_limits(agent))
    }

    /// Everything about one ID; `None` if there is neither a row nor a wish in the inbox.
    ///
    /// # Errors
    /// If the engine fails.
    pub async fn story(&mut self, agent: &AgentId, entry: &EntryId) -> Result<Option<Story>, StoreError> {
        with!(self, story(agent, entry))
    }

    /// What is left to do. Counts along the index of open rows.
    ///
    /// # Errors
    /// If the engine fails.
    pub async fn remaining(&mut self, now: Timestamp) -> Result<Remaining, StoreError> {
        with!(self, remaining(now))
    }

    /// What would go out, or the part of one agent. A request carries at most `batch_size` rows, or as many as in the daemon that works
    /// on the queue. Reads the whole table.
    ///
    /// # Errors
    /// If the engine fails.
    pub async fn outlook(
        &mut self,
        agent: Option<&AgentId>,
        batch_size: u8,
        now: Timestamp,
    ) -> Result<Outlook, StoreError> {
        with!(self, outlook(agent, batch_size, now))
    }

    /// The next rows of a walk, which may be none; `None` at its end. A walk may go on with another reader of the same queue.
    ///
    /// # Errors
    /// If the engine fails. The same call then can be made again.
    pub async fn listed(&mut self, listing: &mut Listing) -> Result<Option<Vec<ListedRow>>, StoreError> {
        with!(self, listed(listing))
    }

    /// The next records of a walk, which may be none; `None` at its end. A walk may go on with another reader of the same queue.
    ///
    /// # Errors
    /// If the engine fails. The same call then can be made again.
    pub async fn records(&mut self, records: &mut Records) -> Result<Option<Vec<Record>>, StoreError> {
        with!(self, records(records))
    }

    /// All holds.
    ///
    /// # Errors
    /// If the engine fails.
    pub async fn holds(&mut self) -> Result<Vec<HoldRow>, StoreError> {
        with!(self, holds())
    }

    /// Who enqueued wishes with this label, or with any, by commands that left an act.
    ///
    /// # Errors
    /// If the engine fails.
    pub async fn enqueuers(&mut self, label: Option<&Label>) -> Result<Enqueuers, StoreError> {
        with!(self, enqueuers(label))
    }

    /// What the daemon does for `agent`: the requests without an answer, and those with a higher number than `after`.
    ///
    /// # Errors
    /// If the engine fails.
    pub async fn activity(&mut self, agent: &AgentId, after: i64) -> Result<Activity, StoreError> {
        with!(self, activity(agent, after))
    }

    /// The correlation IDs of those of these requests that are kept.
    ///
    /// # Errors
    /// If the engine fails.
    pub async fn correlation_ids(&mut self, requests: &[i64]) -> Result<Vec<(i64, String)>, StoreError> {
        with!(self, correlation_ids(requests))
    }

    /// How the wishes with this label stand, or those of them for one agent; `None` if there is none. Reads all of them.
    ///
    /// # Errors
    /// If the engine fails.
    pub async fn label(&mut self, label: &Label, agent: Option<&AgentId>) -> Result<Option<LabelStanding>, StoreError> {
        with!(self, label(label, agent))
    }

    /// The wishes for an entry, if any of them has a label, or had one. They outlive the row.
    ///
    /// # Errors
    /// If the engine fails.
    pub async fn wishes(&mut self, agent: &AgentId, entry: &EntryId) -> Result<Vec<WishStanding>, StoreError> {
        with!(self, wishes(agent, entry))
    }

    /// Whether there is a wish with this label.
    ///
    /// # Errors
    /// If the engine fails.
    pub async fn knows_label(&mut self, label: &Label) -> Result<bool, StoreError> {
        with!(self, knows_label(label))
    }

    /// All labels, in their order, up to `most`.
    ///
    /// # Errors
    /// If the engine fails.
    pub async fn labels(&mut self, most: u32) -> Result<Vec<String>, StoreError> {
        with!(self, labels(most))
    }

    /// The newest requests, up to `most`, the newest first.
    ///
    /// # Errors
    /// If the engine fails.
    pub async fn newest_requests(&mut self, most: u32) -> Result<Vec<NewestRequest>, StoreError> {
        with!(self, newest_requests(most))
    }
}
