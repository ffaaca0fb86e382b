//! An engine as the tests see it: what producers and operators do to a queue, and what its tables hold.
//!
//! Each engine implements [`Engine`] in its own SQL. The ids of rows grow in the order in which wishes are enqueued, and may have
//! gaps.

use std::{fmt::Debug, future::Future, process::Command, time::Duration};

use audio_cache_sweeper::{
    model::{
        act::Act,
        clock::Timestamp,
        deletion::{Kind, State},
        outcome::{Cause, Scope},
    },
    queue::{InEffect, Queue},
};
use uuid::Uuid;

/// How a queue is made for a test.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// How long a write waits for other writers.
    pub busy_timeout: Duration,
    /// Commits need not reach the disk. Tests that take thousands of turns are faster so.
    pub in_memory: bool,
}

/// What a producer inserts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    pub agent: String,
    pub entry: String,
    pub priority: i64,
    /// [`Timestamp::ZERO`]: at once.
    pub due_at: Timestamp,
    /// `None`: the time of the database's own clock, which is long before [`START`](super::bed::START).
    pub created_at: Option<Timestamp>,
}

impl Wish {
    /// An `INSERT` that names an agent and an entry, and nothing else.
    pub fn of(agent: &str, entry: &str) -> Self {
        Self {
            agent: agent.to_owned(),
            entry: entry.to_owned(),
            priority: 0,
            due_at: Timestamp::ZERO,
            created_at: None,
        }
    }
}

/// A deletion, with all of its columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub id: i64,
    pub agent: String,
    pub entry: String,
    pub priority: i64,
    pub state: State,
    pub attempts: u32,
    pub due_at: Timestamp,
    pub batch_max: u8,
    pub asks: u32,
    pub maybe_done: bool,
    /// The last request that has settled the row since it was opened.
    pub request: Option<i64>,
    pub first_fault: Option<i64>,
    pub evidence: Option<i64>,
    pub last_cause: Option<Cause>,
    pub created_at: Timestamp,
    pub settled_at: Option<Timestamp>,
}

impl Row {
    /// A pending row that nobody has tried yet.
    pub fn new(id: i64, agent: &str, entry: &str) -> Self {
        Self {
            id,
            agent: agent.to_owned(),
            entry: entry.to_owned(),
            priority: 0,
            state: State::Pending,
            attempts: 0,
            due_at: Timestamp::ZERO,
            batch_max: 20,
            asks: 0,
            maybe_done: false,
            request: None,
            first_fault: None,
            evidence: None,
            last_cause: None,
            created_at: Timestamp::LEAST_DUE,
            settled_at: None,
        }
    }

    pub fn is(&self, state: State) -> bool {
        self.state == state
    }

    /// Makes the row dead, as an operator does.
    pub fn give_up(&mut self, at: Timestamp) {
        (self.state, self.settled_at) = (State::Dead, Some(at));
    }
}

/// A request, with all of its columns except the verdicts. Those are [`Outcome`]s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub id: i64,
    pub correlation_id: String,
    pub agent: String,
    pub kind: Kind,
    /// The manifest: the ids of the rows in the request.
    pub rows: Vec<i64>,
    pub claimed_at: Timestamp,
    pub answered_at: Option<Timestamp>,
    pub status: Option<u16>,
    pub counts: Option<Counts>,
    pub fault: Option<Cause>,
    pub detail: Option<String>,
    pub remote_id: Option<String>,
}

impl Request {
    /// An unanswered bulk delete with these rows.
    pub fn new(id: i64, agent: &str, rows: &[i64]) -> Self {
        Self {
            id,
            correlation_id: Uuid::from_u128(id.unsigned_abs().into()).to_string(),
            agent: agent.to_owned(),
            kind: Kind::Bulk,
            rows: rows.to_vec(),
            claimed_at: Timestamp::LEAST_DUE,
            answered_at: None,
            status: None,
            counts: None,
            fault: None,
            detail: None,
            remote_id: None,
        }
    }
}

/// The counts of verdicts that a request keeps. Released rows count as retried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub deleted: u32,
    pub absent: u32,
    pub retried: u32,
    pub dead: u32,
}

/// What a request did to a row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Outcome {
    pub request: i64,
    pub row: i64,
    /// As [`Verdict::as_str`](audio_cache_sweeper::model::outcome::Verdict::as_str) says it.
    pub verdict: String,
    pub cause: Option<Cause>,
}

/// A hold, with all of its columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    pub scope: Scope,
    pub cause: Cause,
    pub since_at: Timestamp,
    /// `None`: until the hold is lifted.
    pub until_at: Option<Timestamp>,
    pub probed_at: Option<Timestamp>,
    pub repeats: u32,
}

impl Hold {
    /// An operator's hold on an agent, or on everything (`*`), until it is lifted.
    pub fn on(scope: &str) -> Self {
        use audio_cache_sweeper::model::deletion::AgentId;
        let scope = if scope == "*" { Scope::All } else { Scope::Agent(AgentId::parse(scope).unwrap()) };
        let (since_at, cause) = (Timestamp::LEAST_DUE, Cause::Operator);
        Self { scope, cause, since_at, until_at: None, probed_at: None, repeats: 0 }
    }

    pub fn until(self, at: Timestamp) -> Self {
        Self { until_at: Some(at), ..self }
    }

    /// Scope and cause.
    pub fn key(&self) -> (&str, Cause) {
        (self.scope.as_str(), self.cause)
    }
}

/// What the daemon says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Daemon {
    pub pid: u32,
    pub version: String,
    pub started_at: Timestamp,
    pub settings: InEffect,
    pub updated_at: Timestamp,
}

/// A queue in a test, with the producers and operators who write to it.
pub trait Engine: Debug + Sized + 'static {
    type Queue: Queue + Debug + 'static;
    type Witness: Witness;

    /// Whether this engine's tests can be run here. If not, that has been said.
    fn is_here() -> bool {
        true
    }

    /// How many of the simulator's runs `cargo test` does. A run on a server takes longer than one on a file.
    fn runs(all: u64) -> u64 {
        all
    }

    /// Whether another machine may have led before, and live on: a daemon that starts then has an empty rate limiter, and waits before
    /// it sends the IDs of requests without an answer again.
    fn takes_over() -> bool {
        false
    }

    /// Whether a transaction may learn only at its commit that others have written.
    fn learns_late() -> bool {
        false
    }

    /// Makes an empty queue.
    async fn create(setup: Setup) -> Self;

    /// Opens the queue for a worker. The worker that had it open before is gone.
    async fn open(&self) -> Self::Queue;

    /// Configures the binary for this queue.
    fn configure(&self, command: &mut Command);

    /// The name of the queue in error messages: a file, or a host and a database.
    fn address(&self) -> String;

    /// A witness, who can look while the worker is in the middle of a turn.
    async fn witness(&self) -> Self::Witness;

    /// A producer's plain `INSERT`s, in this order and in one transaction.
    async fn enqueue(&mut self, wishes: &[Wish]);

    /// All deletions, ordered by id. An engine whose worker takes wishes in later shows them here as the rows that they will be,
    /// and [`Self::edit`] and [`Self::remove`] apply to them, too.
    async fn rows(&mut self) -> Vec<Row>;

    /// The settled rows whose last request is among the newest `requests` ones, ordered by id.
    async fn settled_by_the_newest(&mut self, requests: i64) -> Vec<Row>;

    /// All requests, ordered by id.
    async fn requests(&mut self) -> Vec<Request>;

    /// The unanswered requests, ordered by id.
    async fn unanswered(&mut self) -> Vec<Request>;

    /// What each request did to each of its rows, ordered by request and row.
    async fn outcomes(&mut self) -> Vec<Outcome>;

    /// All holds, ordered by scope and cause.
    async fn holds(&mut self) -> Vec<Hold>;

    /// The holds on everything and those on this agent, ordered by scope and cause.
    async fn holds_over(&mut self, agent: &str) -> Vec<Hold>;

    /// What the daemon says of itself.
    async fn daemon(&mut self) -> Option<Daemon>;

    /// How many rows are pending. Cheaper than [`Self::rows`].
    async fn pending(&mut self) -> usize;

    /// An operator places holds. Each replaces the one with its scope and cause.
    async fn place(&mut self, holds: &[Hold]);

    /// An operator lifts holds, by scope and cause.
    async fn lift(&mut self, holds: &[Hold]);

    /// An operator's command leaves an act that no daemon has logged. It went on last when it began.
    async fn act(&mut self, act: &Act);

    /// An operator writes all columns of these rows, except id, agent and entry.
    async fn edit(&mut self, rows: &[Row]);

    /// An operator removes these rows, by id.
    async fn remove(&mut self, rows: &[Row]);

    /// Writes rows and requests as an earlier daemon left them, with their ids. Later rows and requests get other ids.
    async fn put(&mut self, rows: &[Row], requests: &[Request]);

    /// Removes all rows and requests, and every time that a daemon has written.
    async fn forget(&mut self);

    /// Another process begins to write: until [`Self::let_in`], the worker's writes fail with
    /// [`Remedy::Wait`](audio_cache_sweeper::queue::Remedy::Wait). What this engine is told to write meanwhile belongs to that
    /// transaction.
    async fn shut_out(&mut self);

    /// The other process commits. If it has written nothing, the queue has not changed.
    async fn let_in(&mut self);

    /// Switches the checks of the schema off for this producer: from here on it may write rows that no worker can read. False if
    /// nobody can do that to this engine.
    async fn switch_checks_off(&mut self) -> bool;

    /// Panics if the engine finds its own storage damaged.
    async fn assert_sound(&mut self);

    /// The rows for which `is` holds.
    async fn rows_where(&mut self, is: impl Fn(&Row) -> bool) -> Vec<Row> {
        self.rows().await.into_iter().filter(is).collect()
    }

    /// How many rows there are for which `is` holds.
    async fn count_where(&mut self, is: impl Fn(&Row) -> bool) -> usize {
        self.rows_where(is).await.len()
    }

    /// How many rows are in this state.
    async fn count_in(&mut self, state: State) -> usize {
        self.count_where(|row| row.state == state).await
    }

    /// Scope and cause of each hold.
    async fn held(&mut self) -> Vec<(String, Cause)> {
        let holds = self.holds().await;
        holds.into_iter().map(|hold| (hold.scope.as_str().to_owned(), hold.cause)).collect()
    }

    /// An operator changes the rows for which `is` holds.
    async fn edit_where(&mut self, is: impl Fn(&Row) -> bool, change: impl Fn(&mut Row)) {
        let mut rows = self.rows_where(is).await;
        rows.iter_mut().for_each(change);
        self.edit(&rows).await;
    }

    /// An operator removes the rows for which `is` holds.
    async fn remove_where(&mut self, is: impl Fn(&Row) -> bool) {
        let rows = self.rows_where(is).await;
        self.remove(&rows).await;
    }

    /// An operator pauses an agent, or everything (`*`), until the hold is lifted.
    async fn pause(&mut self, scope: &str) {
        self.place(&[Hold::on(scope)]).await;
    }

    /// An operator changes the holds for which `is` holds.
    async fn change_holds_where(&mut self, is: impl Fn(&Hold) -> bool, change: impl Fn(&mut Hold)) {
        let mut holds: Vec<Hold> = self.holds().await.into_iter().filter(is).collect();
        holds.iter_mut().for_each(change);
        self.place(&holds).await;
    }

    /// An operator lifts the holds for which `is` holds.
    async fn lift_where(&mut self, is: impl Fn(&Hold) -> bool) {
        let holds: Vec<Hold> = self.holds().await.into_iter().filter(is).collect();
        self.lift(&holds).await;
    }

    /// An operator lifts every hold.
    async fn lift_all(&mut self) {
        self.lift_where(|_| true).await;
    }
}

/// Looks into the queue at any moment, on a connection of its own.
pub trait Witness: Debug + Send + 'static {
    /// The unanswered request with this correlation ID.
    fn in_flight(&mut self, id: Uuid) -> impl Future<Output = Option<Request>> + Send;

    /// The holds on everything, and those on this agent.
    fn holds_over(&mut self, agent: &str) -> impl Future<Output = Vec<Hold>> + Send;

    /// The error that a writer gets at this moment; `None` if it could write.
    fn kept_out_by(&mut self) -> impl Future<Output = Option<String>> + Send;
}
