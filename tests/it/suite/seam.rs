//! An engine's queue as the worker sees it, without a worker.

use std::time::Duration;

use audio_cache_sweeper::{
    model::{
        clock::Timestamp,
        deletion::{AgentId, DeletionId, Lane, RequestId, State},
        outcome::{Cause, Judged, Verdict},
    },
    queue::{Queue as _, Settlement, Tx as _},
};

use super::{
    bed::START,
    engine::{Engine, Hold, Outcome, Request, Row, Setup, Wish},
};

pub const NOW: Timestamp = START;

/// All rows of all tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    pub rows: Vec<Row>,
    pub requests: Vec<Request>,
    pub outcomes: Vec<Outcome>,
    pub holds: Vec<Hold>,
}

impl Tables {
    pub fn request(&mut self, id: i64) -> &mut Request {
        self.requests.iter_mut().find(|request| request.id == id).unwrap()
    }
}

/// An open queue, with its producers and operators.
#[derive(Debug)]
pub struct Seam<E: Engine> {
    // Above the engine, because fields are dropped in order: the queue must be let go of first.
    pub queue: E::Queue,
    pub engine: E,
}

impl<E: Engine> Seam<E> {
    /// An empty queue. No write waits for another.
    pub async fn new() -> Self {
        let engine = E::create(Setup { busy_timeout: Duration::ZERO, in_memory: true }).await;
        Self { queue: engine.open().await, engine }
    }

    /// A queue with rows and requests that were there before it was opened.
    pub async fn with(rows: &[Row], requests: &[Request]) -> Self {
        let Self { queue, mut engine } = Self::new().await;
        queue.close().await.unwrap();
        engine.put(rows, requests).await;
        Self { queue: engine.open().await, engine }
    }

    /// A producer inserts, and the queue is told to look.
    pub async fn enqueue(&mut self, wishes: &[Wish]) {
        self.engine.enqueue(wishes).await;
        assert!(self.queue.changed().await.unwrap());
        self.queue.lanes().await.unwrap();
    }

    pub async fn tables(&mut self) -> Tables {
        Tables {
            rows: self.engine.rows().await,
            requests: self.engine.requests().await,
            outcomes: self.engine.outcomes().await,
            holds: self.engine.holds().await,
        }
    }

    /// Settles in a transaction of its own.
    pub async fn settle(&mut self, settlements: &[Settlement]) {
        let mut tx = self.queue.begin().await.unwrap();
        tx.settle(settlements.iter()).await.unwrap();
        tx.commit(&[], None, NOW).await.unwrap();
    }
}

pub fn lane(agent: &str) -> Lane {
    Lane { priority: 0, agent: AgentId::parse(agent).unwrap(), batch_max: 20 }
}

/// A verdict that leaves the other columns of a new row as they are.
pub fn judged(id: i64, verdict: Verdict) -> Judged {
    let (id, batch_max, asks, maybe_done, first_fault, evidence) = (DeletionId(id), None, 0, false, None, None);
    Judged { id, verdict, batch_max, asks, maybe_done, first_fault, evidence }
}

pub fn retry(seconds: u64) -> Verdict {
    Verdict::Retry { due_at: NOW.plus(Duration::from_secs(seconds)), cause: Cause::Lost }
}

/// A 200 to a request with exactly these rows.
pub fn settlement(request: i64, rows: Vec<Judged>) -> Settlement {
    Settlement {
        request: RequestId(request),
        answered_at: NOW,
        status: Some(200),
        fault: None,
        detail: None,
        remote_id: None,
        rows,
        is_whole: true,
    }
}

pub fn given(request: i64, row: i64, verdict: &str, cause: Option<Cause>) -> Outcome {
    Outcome { request, row, verdict: verdict.to_owned(), cause }
}

/// A time in 2023: long before [`NOW`], and no number of seconds.
pub fn far(ms: i64) -> Timestamp {
    Timestamp(1_700_000_000_000 + ms)
}

/// One row of each kind, and the same entries of another agent as bystanders.
pub fn rows_of_every_kind() -> Vec<Row> {
    let row = |id, entry| Row { priority: 1, due_at: far(9_000), ..Row::new(id, "a", entry) };
    let settled = |id, entry, state| Row { state, settled_at: Some(far(200)), request: Some(7), ..row(id, entry) };
    let rows = [
        Row {
            attempts: 5,
            batch_max: 1,
            asks: 2,
            maybe_done: true,
            first_fault: Some(6),
            last_cause: Some(Cause::Lost),
            ..settled(1, "1", State::Dead)
        },
        Row { attempts: 1, ..settled(2, "2", State::Deleted) },
        Row { attempts: 1, batch_max: 0, first_fault: Some(5), ..settled(3, "3", State::Absent) },
        row(4, "4"),
        Row { batch_max: 4, request: Some(7), first_fault: Some(7), last_cause: Some(Cause::Rejected), ..row(5, "5") },
        Row { attempts: 1, maybe_done: true, last_cause: Some(Cause::Lost), ..row(6, "6") },
    ];
    let others = rows.clone().map(|row| Row { id: row.id + 6, agent: "b".to_owned(), ..row });
    rows.into_iter().chain(others).collect()
}
