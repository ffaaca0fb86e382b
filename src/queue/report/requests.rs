//! The requests of one agent: those that are out, and those that were claimed since.

use crate::model::clock::Timestamp;

/// What the daemon does for one agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// Whether a daemon works on the queue; `None` if that cannot be seen.
    pub running: Option<bool>,
    /// The agent's requests without an answer, oldest first.
    pub unanswered: Vec<Unanswered>,
    /// The highest number of a request, of any agent.
    pub last: i64,
    /// The agent's requests with a higher number than the given one.
    pub since: u64,
}

/// A request without an answer: in flight, or left by a daemon that died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unanswered {
    /// `requests.id`.
    pub request: i64,
    /// The number of its rows.
    pub rows: u64,
    /// When it was about to be sent.
    pub claimed_at: Timestamp,
}
