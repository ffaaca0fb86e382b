//! A connection of a command that writes, to whichever engine keeps the queue.

use super::{OpenError, Options, StoreError};
use crate::{
    model::{
        act::Draft,
        clock::{Clock, Timestamp},
        deletion::{AgentId, DeletionId, EntryId},
        hold::HoldRow,
        label::Label,
        outcome::{Cause, Scope},
    },
    queue::{
        Cancelled, Changed, Concerned, Enqueued, Place, Released, Wish,
        postgres::{self, Candidate, Made},
        sqlite::{self, Opened},
    },
};

/// A connection that enqueues, and changes rows and holds, beside a daemon or without one.
#[derive(Debug)]
pub enum Producer {
    /// To a file.
    Sqlite(Box<sqlite::Producer>),
    /// To a server.
    Postgres(Box<postgres::Producer>),
}

impl Producer {
    /// Opens a queue that is there and up to date.
    ///
    /// # Errors
    /// If it is not, or the engine fails.
    pub async fn join(options: &Options) -> Result<Self, OpenError> {
        Ok(match options {
            Options::Sqlite(options) => Self::Sqlite(sqlite::Producer::join(options).await?.into()),
            Options::Postgres(options) => Self::Postgres(postgres::Producer::join(options).await?.into()),
        })
    }

    /// The same. Makes the file if it does not exist, and adopts a dump that was loaded. Returns what the file was before. On a server,
    /// makes the tables if there are none and `creates` is true.
    ///
    /// # Errors
    /// If the file exists and is not ours or not up to date, if there is no queue on the server, or the engine fails.
    pub async fn join_or_create(options: &Options, creates: bool, clock: &Clock) -> Result<(Self, Opened), OpenError> {
        match options {
            Options::Sqlite(options) => {
                let (producer, opened) = sqlite::Producer::join_or_create(options).await?;
                Ok((Self::Sqlite(producer.into()), opened))
            }
            Options::Postgres(server) => match Self::join(options).await {
                Err(OpenError::Postgres(postgres::OpenError::Empty { .. })) if creates => {
                    let made = Candidate::make(server.clone(), clock).await?;
                    let opened = if made == Made::Created { Opened::Created } else { Opened::Existing };
                    Ok((Self::join(options).await?, opened))
                }
                joined => Ok((joined?, Opened::Existing)),
            },
        }
    }

    /// Closes the connection in good order.
    ///
    /// # Errors
    /// If the engine fails; nothing is lost by that.
    pub async fn close(self) -> Result<(), StoreError> {
        with!(self, close())
    }

    /// Begins an act: what this connection changes from here on belongs to it, and is written to `acts` with it, as soon as `least`
    /// rows are changed. A role of a server that may only enqueue leaves no act.
    pub fn begin_act(&mut self, draft: Draft, least: u64) {
        match self {
            Self::Sqlite(producer) => producer.begin_act(draft, least),
            Self::Postgres(producer) => producer.begin_act(draft, least),
        }
    }

    /// Writes that the act is done. Without this call, `acts` says that it was cut short.
    ///
    /// # Errors
    /// If the engine fails. What was changed is changed all the same.
    pub async fn end_act(&mut self, now: Timestamp) -> Result<(), StoreError> {
        with!(self, end_act(now))
    }

    /// Enqueues all deletions in one transaction, as a part of the act that was begun, if any.
    ///
    /// # Errors
    /// If the engine fails or refuses a row; then none is enqueued.
    pub async fn enqueue(&mut self, wishes: &[Wish], now: Timestamp) -> Result<Enqueued, StoreError> {
        with!(self, enqueue(wishes, now))
    }

    /// The dead rows of an agent, of a cause, or all of them, in the order of their ids.
    ///
    /// # Errors
    /// If the engine fails.
    pub async fn dead(&mut self, agent: Option<&AgentId>, cause: Option<Cause>) -> Result<Vec<DeletionId>, StoreError> {
        with!(self, dead(agent, cause))
    }

    /// The dead rows that a dead wish with this label is for, in the order of their ids.
    ///
    /// # Errors
    /// If the engine fails.
    pub async fn dead_of_label(
        &mut self,
        label: &Label,
        agent: Option<&AgentId>,
        cause: Option<Cause>,
    ) -> Result<Vec<DeletionId>, StoreError> {
        with!(self, dead_of_label(label, agent, cause))
    }

    /// The pending rows of an agent, or all of them, in the order of their ids.
    ///
    /// # Errors
    /// If the engine fails.
    pub async fn pending(&mut self, agent: Option<&AgentId>) -> Result<Vec<DeletionId>, StoreError> {
        with!(self, pending(agent))
    }

    /// The pending rows that an open wish with this label is for, in the order of their ids.
    ///
    /// # Errors
    /// If the engine fails.
    pub async fn pending_of_label(
        &mut self,
        label: &Label,
        agent: Option<&AgentId>,
    ) -> Result<Vec<DeletionId>, StoreError> {
        with!(self, pending_of_label(label, agent))
    }

    /// The pending rows of this entry. With a label, those that an open wish with this label is for. In a file, there is at most one.
    ///
    /// # Errors
    /// If the engine fails.
    pub async fn pending_rows(
        &mut self,
        agent: &AgentId,
        entry: &EntryId,
        label: Option<&Label>,
    ) -> Result<Vec<DeletionId>, StoreError> {
        with!(self, pending_rows(agent, entry, label))
    }

    /// The pending rows that wait for their next attempt, of an agent, after a cause, or all of them; with `scheduled`, those as
    /// well that nobody has tried yet and that are due later. Returns them in the order of their ids, and how many were never tried.
    ///
    /// # Errors
    /// If the engine fails.
    pub async fn waiting(
        &mut self,
        agent: Option<&AgentId>,
        cause: Option<Cause>,
        scheduled: bool,
        now: Timestamp,
    ) -> Result<(Vec<DeletionId>, u64), StoreError> {
        with!(self, waiting(agent, cause, scheduled, now))
    }

    /// Makes the dead ones of these rows pending again, due now and with all their attempts, in one transaction.
    ///
    /// # Errors
    /// If the engine fails; then no row is changed.
    pub async fn revive(&mut self, ids: &[DeletionId], now: Timestamp) -> Result<Changed, StoreError> {
        with!(self, revive(ids, now))
    }

    /// Makes those of these rows due now that wait for their next attempt; with `scheduled`, those as well that nobody has tried
    /// yet. One transaction. Attempts and holds stay as they are.
    ///
    /// # Errors
    /// If the engine fails; then no row is changed.
    pub async fn hurry(&mut self, ids: &[DeletionId], scheduled: bool, now: Timestamp) -> Result<Changed, StoreError> {
        with!(self, hurry(ids, scheduled, now))
    }

    /// How many of these rows a hold holds.
    ///
    /// # Errors
    /// If the engine fails.
    pub async fn held(&mut self, ids: &[DeletionId], now: Timestamp) -> Result<u64, StoreError> {
        with!(self, held(ids, now))
    }

    /// Removes the pending ones of these rows, in one transaction. All wishes for them are cancelled. No row that this removes is sent
    /// after it, except for those in flight.
    ///
    /// # Errors
    /// If the engine fails; then no row is removed.
    pub async fn cancel(&mut self, ids: &[DeletionId], now: Timestamp) -> Result<Changed, StoreError> {
        with!(self, cancel(ids, now))
    }

    /// Cancels the open wishes with this label for the pending ones of these rows, in one transaction, and removes the rows that have
    /// no open wish left.
    ///
    /// # Errors
    /// If the engine fails; then nothing is changed.
    pub async fn cancel_wishes(
        &mut self,
        label: &Label,
        ids: &[DeletionId],
        now: Timestamp,
    ) -> Result<Cancelled, StoreError> {
        with!(self, cancel_wishes(label, ids, now))
    }

    /// Places an operator's hold, in the place of one that is there, which is returned.
    ///
    /// # Errors
    /// If the engine fails; then nothing is changed.
    pub async fn hold(&mut self, place: &Place, now: Timestamp) -> Result<Option<HoldRow>, StoreError> {
        with!(self, hold(place, now))
    }

    /// The rows that a hold on `scope` concerns.
    ///
    /// # Errors
    /// If the engine fails.
    pub async fn concerned(&mut self, scope: &Scope) -> Result<Concerned, StoreError> {
        with!(self, concerned(scope))
    }

    /// Lifts the holds with these causes, on `scope` or wherever they are.
    ///
    /// # Errors
    /// If the engine fails; then nothing is changed.
    pub async fn release(
        &mut self,
        scope: Option<&Scope>,
        causes: &[Cause],
        now: Timestamp,
    ) -> Result<Released, StoreError> {
        with!(self, release(scope, causes, now))
    }
}
