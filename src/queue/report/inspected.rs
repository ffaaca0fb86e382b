//! What a look at a queue finds that creates and changes nothing, and that also tells why there is nothing to be seen.

use super::Daemon;
use crate::model::{deletion::AgentId, hold::HoldRow};

/// The limits that another client of the same API shares with the daemon.
#[derive(Clone, Debug)]
pub struct SharedLimits {
    /// The holds on everything and on the agent in question.
    pub holds: Vec<HoldRow>,
    /// The current rate of the daemon, in requests per second, if one runs.
    pub requests_per_second: Option<f64>,
}

/// What was seen of a queue. `E`: why its tables cannot be used.
#[derive(Debug)]
pub struct Inspection<E> {
    /// The daemon that works on it.
    pub daemon: Daemon,
    /// The tables, or why they cannot be used.
    pub tables: Result<Tables, E>,
}

/// What was read in up-to-date tables.
#[derive(Debug)]
pub struct Tables {
    /// The holds.
    pub holds: Vec<HoldRow>,
    /// An agent that the queue has pending rows of, or had a request for.
    pub agent: Option<AgentId>,
}
