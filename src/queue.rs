//! The seam between the worker and the engine that keeps the queue: what an engine must do for the worker, and the values that
//! go through it. No SQL.
//!
//! An engine is a folder that implements [`Queue`], [`Tx`] and [`Counter`], and passes the suite in `tests/it/suite`: [`sqlite`] and
//! [`postgres`]. [`either`] is for the commands and the page, which work on the one that is configured.

mod changes;
mod doing;
pub mod either;
mod label_walk;
pub mod lease;
pub mod postgres;
mod prune_walk;
pub mod report;
mod rows;
mod schema_changes;
pub mod sqlite;
mod values;

use std::{collections::BTreeSet, future::Future, time::Duration};

pub use changes::{Cancelled, Changed, Concerned, Enqueued, Place, Released, SettledRow, Wish};
pub use schema_changes::{Change, SchemaChange, names_of};
pub use values::{
    Census, Claim, Committed, Counts, Cutoff, DueRow, InEffect, Look, Orphan, Settlement, Swept, Tally, Upkeep,
};

use lease::Lease;

use crate::model::{
    act::{Act, ActId},
    clock::Timestamp,
    deletion::{AgentId, DeletionId, Lane, RequestId},
    hold::{HoldChange, HoldRow},
    limits::Learnt,
    outcome::Scope,
};

/// The queue, owned by the one worker on it.
///
/// All methods run on one task. A future that is dropped before it is done leaves the queue as a crash would.
#[expect(async_fn_in_trait, reason = "the loop runs under block_on on one thread, and nobody else calls these")]
pub trait Queue {
    /// Why a call failed, and what the worker does then.
    type Error: QueueError;
    /// A transaction.
    type Tx<'q>: Tx<Error = Self::Error>
    where
        Self: 'q;
    /// Counts rows beside the worker.
    type Counter: Counter<Error = Self::Error>;

    /// Checks that this process still owns the queue. Makes no round trip.
    ///
    /// # Errors
    /// With [`Remedy::Lost`], if it does not.
    fn check_owner(&self) -> Result<(), Self::Error>;

    /// For how long this process may send. Each use of the queue prolongs it.
    fn lease(&self) -> Lease {
        Lease::endless()
    }

    /// Makes sure that this process still owns the queue, which prolongs the lease.
    ///
    /// # Errors
    /// As [`Queue::check_owner`], or if the database fails.
    async fn renew(&mut self) -> Result<(), Self::Error> {
        self.check_owner()
    }

    /// Whether the queue may have been another machine's until it was opened. Then the requests without an answer may still be under
    /// way, and their times are those of another clock.
    fn was_shared(&self) -> bool {
        false
    }

    /// Whether anybody else has written since this was asked the last time.
    ///
    /// # Errors
    /// As [`Queue::check_owner`], or if the database fails.
    async fn changed(&mut self) -> Result<bool, Self::Error>;

    /// Whether there is more that producers wrote than was taken in so far. The rows that would fill a request may be among it.
    fn is_taking_in(&self) -> bool {
        false
    }

    /// Every lane with open rows, and when its first row is due. O(lanes), never O(rows).
    ///
    /// # Errors
    /// If the database fails, or a row cannot be read ([`Remedy::Sweep`]).
    async fn lanes(&mut self) -> Result<Vec<(Lane, Timestamp)>, Self::Error>;

    /// All holds, whoever placed them.
    ///
    /// # Errors
    /// If the database fails.
    async fn holds(&mut self) -> Result<Vec<HoldRow>, Self::Error>;

    /// The acts of operators that no worker has logged: up to `most`, the oldest first. Those that have ended, and those that were
    /// begun and have not gone on after `quiet_since`, because their command was killed or waits for its input.
    ///
    /// # Errors
    /// If the database fails.
    async fn acts(&mut self, quiet_since: Timestamp, most: u32) -> Result<Vec<Act>, Self::Error>;

    /// The requests of earlier workers that have no answer.
    ///
    /// # Errors
    /// If the database fails, or a row cannot be read.
    async fn orphans(&mut self) -> Result<Vec<Orphan>, Self::Error>;

    /// The latest possible sending times of the newest requests: at most `most`, none before `since`, oldest first.
    ///
    /// # Errors
    /// If the database fails.
    async fn sent_since(&mut self, since: Timestamp, most: u32, now: Timestamp) -> Result<Vec<Timestamp>, Self::Error>;

    /// The newest requests about one row that ended with that row dead as rejected, back to the last request that settled a row.
    /// Returns agent and row of each, oldest first, at most `most`.
    ///
    /// # Errors
    /// If the database fails.
    async fn last_rejected(&mut self, most: u32) -> Result<Vec<(AgentId, DeletionId)>, Self::Error>;

    /// What the daemon before has learnt about the API's limits: the last [`InEffect::learnt`] that was written, whatever its age.
    /// Values that are none count as not learnt.
    ///
    /// # Errors
    /// If the database fails.
    async fn learnt(&mut self) -> Result<Option<Learnt>, Self::Error>;

    /// The newest time in the queue, if there is any: what the clock showed when the queue was used last.
    ///
    /// # Errors
    /// If the database fails.
    async fn newest_time(&mut self) -> Result<Option<Timestamp>, Self::Error>;

    /// Does one step of correcting due times that were written while the clock was ahead, going back from request `before`. Each
    /// such row becomes due its original delay from now, which is at most `longest`. Returns the request before which to go on
    /// (`None`: done) and the number of rows corrected.
    ///
    /// # Errors
    /// If the database fails.
    async fn put_clock_right(
        &mut self,
        before: RequestId,
        longest: Duration,
        now: Timestamp,
    ) -> Result<(Option<RequestId>, u64), Self::Error>;

    /// Whether no row is open.
    ///
    /// # Errors
    /// If the database fails.
    async fn is_empty(&mut self) -> Result<bool, Self::Error>;

    /// Begins a transaction that writes. One that was left open is undone first.
    ///
    /// # Errors
    /// If the database fails, or somebody else keeps us from writing for too long.
    async fn begin(&mut self) -> Result<Self::Tx<'_>, Self::Error>;

    /// Undoes a transaction that was dropped. [`Queue::begin`] does the same, but until then the dropped one may keep others from
    /// writing.
    async fn undo(&mut self);

    /// Commits a write that changes nothing. Only a write shows that the disk is full.
    ///
    /// # Errors
    /// If nothing can be written.
    async fn can_write(&mut self) -> Result<(), Self::Error>;

    /// One step of keeping the queue from growing for ever: removes some of what is older than `cutoff` (nothing, if that is `None`), or gives back some of the room that became free. A step keeps others from writing for some milliseconds at most.
    ///
    /// # Errors
    /// If the database fails.
    async fn upkeep(&mut self, cutoff: Option<Cutoff>) -> Result<Upkeep, Self::Error>;

    /// One step through all rows: makes pending rows dead that cannot be read, because somebody has switched off the checks of the
    /// schema. Called after [`Remedy::Sweep`] until there is no more.
    ///
    /// # Errors
    /// If the database fails.
    async fn sweep(&mut self, now: Timestamp) -> Result<Swept, Self::Error>;

    /// Called once a minute. Logs what an operator of this engine should know.
    ///
    /// # Errors
    /// If the database fails.
    async fn inspect(&mut self) -> Result<(), Self::Error>;

    /// Goes on with a fresh connection, and stays the owner. What the old connection left open is undone.
    ///
    /// # Errors
    /// If there is none to be had; then the old one stays.
    async fn reconnect(&mut self) -> Result<(), Self::Error>;

    /// The error that ends the worker, with its cause if this engine can find that out, which is logged. What was open is undone.
    async fn explain(&mut self, error: Self::Error) -> Self::Error;

    /// How long the queue is to be left to others before the next transaction, after one that took `wrote_for`. `others_wrote`:
    /// how long ago others were last seen to have written.
    fn gap(&self, wrote_for: Duration, others_wrote: Option<Duration>) -> Duration;

    /// Counts rows on a connection of its own: that takes longer than a turn may.
    fn counter(&self) -> Self::Counter;

    /// Closes the queue in good order.
    ///
    /// # Errors
    /// If the database fails; nothing is lost by that.
    async fn close(self) -> Result<(), Self::Error>;
}

/// A transaction that writes: everything that one turn changes. Nothing of it happens without [`Tx::commit`].
///
/// An engine may keep what is written until the commit, and send all of it then. [`Tx::look`] and [`Tx::holds_of`] answer as if
/// everything that this transaction was given before were written.
#[expect(async_fn_in_trait, reason = "the loop runs under block_on on one thread, and nobody else calls these")]
pub trait Tx {
    /// Why a call failed.
    type Error: QueueError;

    /// Writes what became of answered requests: onto their rows, as far as those are still pending, and onto the requests. A
    /// request that has its answer already is left as it is: settling again after a commit in doubt does no harm.
    ///
    /// # Errors
    /// If the database fails.
    async fn settle<'s>(
        &mut self,
        settlements: impl Iterator<Item = &'s Settlement> + Clone,
    ) -> Result<(), Self::Error>;

    /// Writes what changed in the holds. One is lifted only if it is still the one that was known: an operator may have put
    /// another in its place.
    ///
    /// # Errors
    /// If the database fails.
    async fn change_holds(&mut self, changes: &[HoldChange]) -> Result<(), Self::Error>;

    /// Removes the holds on `scopes` that people placed until a time that has come. Those that were given more time meanwhile
    /// stay.
    ///
    /// # Errors
    /// If the database fails.
    async fn lift_over(&mut self, scopes: &[Scope], now: Timestamp) -> Result<(), Self::Error>;

    /// Writes that these acts of operators were logged. [`Queue::acts`] does not return them again, unless one goes on and ends.
    ///
    /// # Errors
    /// If the database fails.
    async fn acts_logged(&mut self, acts: &[ActId]) -> Result<(), Self::Error>;

    /// Whether anybody else has written since [`Queue::changed`] was asked: this transaction may have waited for them. What they
    /// wrote can be read in here. Either nothing more comes until this one is over, or [`Tx::commit`] makes no claims then.
    ///
    /// # Errors
    /// If the database fails.
    async fn news(&mut self) -> Result<bool, Self::Error>;

    /// The holds of these scopes, whoever placed them, with those that this transaction has changed.
    ///
    /// # Errors
    /// If the database fails.
    async fn holds_of(&mut self, scopes: &BTreeSet<Scope>) -> Result<Vec<HoldRow>, Self::Error>;

    /// Looks for due rows of `lanes`: up to `most` of each, without those `in_flight`. Returns one [`Look`] per lane, in their order.
    /// The row that has been due longest comes first. With `newest_first`, among rows due at once, the newest comes first.
    ///
    /// # Errors
    /// If the database fails, or a row cannot be read.
    async fn look(
        &mut self,
        lanes: &[Lane],
        most: usize,
        in_flight: &[DeletionId],
        newest_first: bool,
        now: Timestamp,
    ) -> Result<Vec<Look>, Self::Error>;

    /// The ID for the next request. It is given out once, even if no request is then written with it.
    fn next_request_id(&mut self) -> RequestId;

    /// Writes, for those who look, that this process works on the queue from now on, with its version and its settings.
    ///
    /// # Errors
    /// If the database fails.
    async fn introduce(&mut self, settings: &InEffect, now: Timestamp) -> Result<(), Self::Error>;

    /// Writes the claims, each with its manifest, and commits everything. Writes `settings`, too, if there are new ones.
    ///
    /// If somebody has changed rows or holds since this transaction looked at them, an engine that lets others write meanwhile makes
    /// no claim, and commits the rest: a claimed row may be gone.
    ///
    /// # Errors
    /// If the database fails. Whether it happened then shows when the queue is read next.
    async fn commit(
        self,
        claims: &[Claim],
        settings: Option<&InEffect>,
        now: Timestamp,
    ) -> Result<Committed, Self::Error>;
}

/// Counts the rows of a queue, beside whoever works on it.
pub trait Counter: Clone + Send + Sync + 'static {
    /// Why it failed.
    type Error: QueueError;

    /// How the queue stands: O(open and dead rows).
    ///
    /// # Errors
    /// If the database fails.
    fn census(&self, now: Timestamp) -> impl Future<Output = Result<Census, Self::Error>> + Send;
}

/// An error of an engine.
pub trait QueueError: std::error::Error + Send + Sync + 'static {
    /// What the worker does after it.
    fn remedy(&self) -> Remedy;
}

/// What the worker does after an error of the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Tries again later: somebody else writes for long, or the disk is full. Nothing is lost by waiting.
    Wait,
    /// Tries again on a fresh connection, a few times: a read failed, or the data is damaged. The text is the message to log.
    Reconnect(String),
    /// Sweeps, and tries again: a row has a value that the schema does not allow.
    Sweep,
    /// Ends: this process does not own the queue any more, and may neither send nor write.
    Lost,
    /// Ends: a person must act.
    End,
}
