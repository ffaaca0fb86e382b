//! A walk through the rows, the requests and the acts of a queue, to remove those that are old.
//!
//! All are read in the order of their ids, a stretch of each in a step. Old ones that stay, as evidence, are behind the walk then: it
//! never reads them twice, however many they are.

/// Where the walk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PruneWalk {
    /// The row after which to go on; `None`: the rows are done.
    pub(super) rows: Option<i64>,
    /// The request after which to go on; `None`: the requests are done.
    pub(super) requests: Option<i64>,
    /// The act after which to go on; `None`: the acts are done.
    pub(super) acts: Option<i64>,
}

impl Default for PruneWalk {
    fn default() -> Self {
        Self { rows: Some(0), requests: Some(0), acts: Some(0) }
    }
}

impl PruneWalk {
    /// Whether all are done.
    pub(super) fn is_over(self) -> bool {
        self.rows.is_none() && self.requests.is_none() && self.acts.is_none()
    }
}
