//! The story of one ID: its row, each request that it was in, and the wishes for it.

use crate::model::{clock::Timestamp, hold::HoldRow};

/// Everything about one ID.
#[derive(Clone, Debug)]
pub struct Story {
    /// `pending`, `deleted`, `absent` or `dead`; `new`: there is no row yet, only a wish in the inbox.
    pub state: String,
    /// Higher goes first.
    pub priority: i64,
    /// The counted attempts.
    pub attempts: i64,
    /// An attempt may have succeeded unseen.
    pub maybe_done: bool,
    /// The cause of the last request that did not end it.
    pub last_cause: Option<String>,
    /// It must not be sent before this time.
    pub due_at: Timestamp,
    /// When it was enqueued. If it was reopened, the last time.
    pub created_at: Timestamp,
    /// When it reached its end.
    pub settled_at: Option<Timestamp>,
    /// When a listing of the agent's whole cache last did not have it.
    pub verified_at: Option<Timestamp>,
    /// The requests that had it, as far as they are kept, oldest first.
    pub requests: Vec<SentRequest>,
    /// The holds that it waits for.
    pub holds: Vec<HoldRow>,
    /// The wishes for it, if any of them has a label.
    pub wishes: Vec<WishStanding>,
    /// When the first wish for it was made that is still in the inbox; `None`: none is there.
    pub in_inbox_since: Option<Timestamp>,
}

/// A request, with its verdict on one row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SentRequest {
    /// `requests.id`.
    pub request: i64,
    /// `bulk` or `single`.
    pub kind: String,
    /// The number of its IDs.
    pub size: i64,
    /// When it was about to be sent.
    pub claimed_at: Timestamp,
    /// When its answer was judged; `None`: it is in flight, or its daemon died.
    pub answered_at: Option<Timestamp>,
    /// The HTTP status, if there was one.
    pub status: Option<i64>,
    /// The API's message or the network's error.
    pub detail: Option<String>,
    /// The correlation ID that we sent.
    pub correlation_id: String,
    /// The one that came back.
    pub remote_id: Option<String>,
    /// Its verdict on the row.
    pub verdict: Option<String>,
    /// The cause of the verdict.
    pub cause: Option<String>,
}

/// A request, as a list of the newest shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewestRequest {
    /// `requests.id`.
    pub request: i64,
    /// The agent.
    pub agent: String,
    /// `bulk` or `single`.
    pub kind: String,
    /// The number of its IDs.
    pub size: i64,
    /// When it was about to be sent.
    pub claimed_at: Timestamp,
    /// When its answer was judged; `None`: it is in flight, or its daemon died.
    pub answered_at: Option<Timestamp>,
    /// The HTTP status, if there was one.
    pub status: Option<i64>,
    /// The API's message or the network's error.
    pub detail: Option<String>,
    /// The correlation ID that we sent.
    pub correlation_id: String,
    /// How many of its rows were deleted, were absent, come back, and were given up.
    pub verdicts: [u64; 4],
}

/// How the wishes with one label stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LabelStanding {
    /// Open wishes, those in the inbox included.
    pub pending: u64,
    /// Wishes whose entries the API has deleted.
    pub deleted: u64,
    /// Wishes for entries that did not exist.
    pub absent: u64,
    /// Wishes that were given up.
    pub dead: u64,
    /// Wishes that somebody cancelled.
    pub cancelled: u64,
    /// When the first of them was wished.
    pub wished_at: Timestamp,
    /// When the last one ended that has ended.
    pub closed_at: Option<Timestamp>,
}

/// A wish for one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WishStanding {
    /// Its label; empty for the wish without one.
    pub label: String,
    /// `deleted`, `absent`, `dead` or `cancelled`; `None`: it is open.
    pub state: Option<String>,
    /// When it was wished.
    pub wished_at: Timestamp,
    /// When it ended.
    pub closed_at: Option<Timestamp>,
    /// Who cancelled it, if that is known.
    pub closed_by: Option<String>,
}
