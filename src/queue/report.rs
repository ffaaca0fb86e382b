//! What can be seen of a queue, whichever engine keeps it: the values that readers return, and how they are put together from rows.
//!
//! An engine's reader returns plain rows and counts. What they come to is the same for all engines, and is worked out here.

mod backlog;
mod columns;
mod enqueuers;
mod listed;
mod outlook;
mod records;
mod requests;
mod standing;
mod story;

pub use backlog::AgentStanding;
pub use enqueuers::Enqueuers;
pub use listed::{Choice, INBOX, ListedRow, Listing};
pub use outlook::{AgentLoad, Load, Outlook, Remaining};
pub use records::{CANCELLED, Record, RecordChoice, Records};
pub use requests::{Activity, Unanswered};
pub use standing::{
    Blocker, Daemon, DeadRows, Inbox, Introduction, Leadership, RecentPace, Session, Standing, Verified,
};
pub use story::{LabelStanding, NewestRequest, SentRequest, Story, WishStanding};
pub(super) use {
    backlog::{Backlog, IdleRow, LaneCount, LaneKey},
    columns::Columns,
    enqueuers::{FoundAct, MOST_ACTS, end_of_detail},
    listed::{Last, PAGE, Page, Place},
    outlook::{LaneLoad, agents},
    records::{Found, FoundRequest, LastRecord, RecordPage, RecordPlace},
    standing::{NEWEST_REQUESTS, Newest, Seen},
};

use crate::model::{deletion::AgentId, hold::HoldRow, outcome::Scope};

/// The limits that another client of the same API shares with the daemon.
#[derive(Clone, Debug)]
pub struct SharedLimits {
    /// The holds on everything and on the agent in question.
    pub holds: Vec<HoldRow>,
    /// The current rate of the daemon, in requests per second, if one runs.
    pub requests_per_second: Option<f64>,
}

/// The holds that an agent's rows wait for; without an agent, all holds.
pub(super) fn concerning(holds: Vec<HoldRow>, agent: Option<&AgentId>) -> Vec<HoldRow> {
    let concerns = |hold: &HoldRow| match (&hold.scope, agent) {
        (Scope::All, _) | (_, None) => true,
        (Scope::Agent(held), Some(agent)) => held == agent,
    };
    let mut holds: Vec<HoldRow> = holds.into_iter().filter(concerns).collect();
    // The hold on everything comes first: `*` sorts before the letters and digits with which an agent's ID begins.
    holds.sort_by(|a, b| (a.scope.as_str(), a.cause).cmp(&(b.scope.as_str(), b.cause)));
    holds
}
