//! What a test does to an engine's queue, and sees of it, beside the worker.
//!
//! Each engine implements this for itself, in its own SQL. Ids grow in the order of the wishes, and may have gaps.

use std::{fmt::Debug, future::Future, time::Duration};

use audio_cache_sweeper::{
    model::{
        clock::Timestamp,
        deletion::{Kind, State},
        outcome::{Cause, Scope},
    },
    queue::Queue,
};
use uuid::Uuid;

/// How a queue is made for a test.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// How long a write waits for other writers.
    pub busy_timeout: Duration,
    /// Commits need not reach the disk: for beds that take thousands of turns.
    pub in_memory: bool,
}

/// What a producer asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    pub agent: String,
    pub entry: String,
    pub priority: i64,
    /// Zero: at once.
    pub due_at: Timestamp,
    /// `None`: now, by the database's own clock, which is long before [`START`](super::bed::START).
    pub created_at: Option<Timestamp>,
}

impl Wish {
    /// As an `INSERT` of an agent and an entry alone makes it.
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
    /// The last request that has settled it since it was opened.
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

    /// Makes it dead, as an operator does.
    pub fn give_up(&mut self, at: Timestamp) {
        (self.state, self.settled_at) = (State::Dead, Some(at));
    }
}

/// A request, with all of its columns but for its verdicts, which are [`Outcome`]s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub id: i64,
    pub correlation_id: String,
    pub agent: String,
    pub kind: Kind,
    /// The manifest: the ids of the rows that it was claimed with.
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
    /// A bulk delete that was claimed with these rows, and not answered.
    pub fn new(id: i64, agent: &str, rows: &[i64]) -> Self {
        Self {
            id,
            correlation_id: format!("test-{id}"),
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

/// How many rows got which verdict, as a request keeps it; those that were released count as retried.
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
    /// `None`: until it is lifted.
    pub until_at: Option<Timestamp>,
    pub probed_at: Option<Timestamp>,
    pub repeats: u32,
}

impl Hold {
    /// A person's, until it is lifted; on everything, if the scope is `*`.
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
    pub requests_per_second: f64,
    pub updated_at: Timestamp,
}

/// An engine's queue in a test: who inserts, who operates, and who reads the tables.
pub trait Engine: Debug + Sized + 'static {
    type Queue: Queue + Debug + 'static;
    type Witness: Witness;

    /// An empty queue.
    async fn create(setup: Setup) -> Self;

    /// What the worker works on. Whoever had it open before is gone.
    async fn open(&self) -> Self::Queue;

    /// What errors call this queue: a file, or a host and a database.
    fn address(&self) -> String;

    /// Somebody who looks while the worker is at work.
    async fn witness(&self) -> Self::Witness;

    /// A producer's plain `INSERT`s, in one transaction.
    async fn enqueue(&mut self, wishes: &[Wish]);

    /// All deletions, by id. If the worker has yet to take a wish in, the row is told as it will be then, and whoever edits or
    /// removes it does so with the wish.
    async fn rows(&mut self) -> Vec<Row>;

    /// Those of these rows that are settled, and by one of the newest requests: so many are looked at.
    async fn settled_by_the_newest(&mut self, requests: i64) -> Vec<Row>;

    /// All requests, by id.
    async fn requests(&mut self) -> Vec<Request>;

    /// Requests that are not answered, by id.
    async fn unanswered(&mut self) -> Vec<Request>;

    /// What each of the kept requests did to each of its rows, by request and row.
    async fn outcomes(&mut self) -> Vec<Outcome>;

    /// All holds, by scope and cause.
    async fn holds(&mut self) -> Vec<Hold>;

    /// Those on everything, and those on this agent.
    async fn holds_over(&mut self, agent: &str) -> Vec<Hold>;

    /// What the daemon says of itself.
    async fn daemon(&mut self) -> Option<Daemon>;

    /// How many rows are pending; cheaper than [`Self::rows`].
    async fn pending(&mut self) -> usize;

    /// An operator places holds, each in the place of the one with its scope and cause.
    async fn place(&mut self, holds: &[Hold]);

    /// An operator lifts holds, by scope and cause.
    async fn lift(&mut self, holds: &[Hold]);

    /// An operator writes all columns of these rows anew but for id, agent and entry.
    async fn edit(&mut self, rows: &[Row]);

    /// An operator takes rows out, by id.
    async fn remove(&mut self, rows: &[Row]);

    /// A history: rows and requests as an earlier daemon left them. Ids that they have are not given to others later.
    async fn put(&mut self, rows: &[Row], requests: &[Request]);

    /// The queue has never been worked on: no request, no row, and no time that a daemon has seen.
    async fn forget(&mut self);

    /// Until [`Self::let_in`], the worker's writes fail as busy. What this engine is told meanwhile is seen by nobody before
    /// that.
    async fn shut_out(&mut self);

    /// Commits what came since [`Self::shut_out`]; nothing, if nothing was done.
    async fn let_in(&mut self);

    /// Panics if the engine finds its own storage damaged.
    async fn assert_sound(&mut self);

    /// The rows that are so.
    async fn rows_where(&mut self, is: impl Fn(&Row) -> bool) -> Vec<Row> {
        self.rows().await.into_iter().filter(is).collect()
    }

    /// How many rows are so.
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

    /// An operator changes the rows that are so.
    async fn edit_where(&mut self, is: impl Fn(&Row) -> bool, change: impl Fn(&mut Row)) {
        let mut rows = self.rows_where(is).await;
        rows.iter_mut().for_each(change);
        self.edit(&rows).await;
    }

    /// An operator takes out the rows that are so.
    async fn remove_where(&mut self, is: impl Fn(&Row) -> bool) {
        let rows = self.rows_where(is).await;
        self.remove(&rows).await;
    }

    /// An operator pauses everything, or an agent, until the hold is lifted.
    async fn pause(&mut self, scope: &str) {
        self.place(&[Hold::on(scope)]).await;
    }

    /// An operator changes all holds that are so.
    async fn change_holds_where(&mut self, is: impl Fn(&Hold) -> bool, change: impl Fn(&mut Hold)) {
        let mut holds: Vec<Hold> = self.holds().await.into_iter().filter(is).collect();
        holds.iter_mut().for_each(change);
        self.place(&holds).await;
    }

    /// An operator lifts the holds that are so.
    async fn lift_where(&mut self, is: impl Fn(&Hold) -> bool) {
        let holds: Vec<Hold> = self.holds().await.into_iter().filter(is).collect();
        self.lift(&holds).await;
    }

    /// An operator lifts every hold.
    async fn lift_all(&mut self) {
        self.lift_where(|_| true).await;
    }
}

/// Looks into the queue at any moment, over a connection of its own.
pub trait Witness: Debug + Send + 'static {
    /// The unanswered request with this correlation ID.
    fn in_flight(&mut self, id: Uuid) -> impl Future<Output = Option<Request>> + Send;

    /// The holds on everything, and those on this agent.
    fn holds_over(&mut self, agent: &str) -> impl Future<Output = Vec<Hold>> + Send;

    /// Why nobody else could write at this moment; `None` if anybody could.
    fn kept_out_by(&mut self) -> impl Future<Output = Option<String>> + Send;
}
