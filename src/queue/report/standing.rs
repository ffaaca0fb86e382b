//! The state of a queue: counts, ages, the pace of the last minutes, and who works on it.

use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

use super::{AgentStanding, concerning};
use crate::{
    model::{act::Act, clock::Timestamp, deletion::AgentId, hold::HoldRow},
    queue::InEffect,
};

/// The time that [`RecentPace`] covers.
const LATELY: Duration = Duration::from_secs(300);

/// The number of requests that are read for [`RecentPace`].
pub(in crate::queue) const NEWEST_REQUESTS: u64 = 20_000;

/// The state of the queue.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// The daemon that works on it.
    pub daemon: Daemon,
    /// Open rows.
    pub pending: u64,
    /// Open rows whose due time has come, sent or not.
    pub due: u64,
    /// Deleted rows that are still kept.
    pub deleted: u64,
    /// Rows whose entries did not exist.
    pub absent: u64,
    /// Dead rows.
    pub dead: u64,
    /// Which settled rows were verified.
    pub verified: Verified,
    /// The wishes that the leader has not taken in yet; `None`: this engine has no inbox. They are in no other count.
    pub inbox: Option<Inbox>,
    /// For how long the oldest due row has been due, of the two rows of each lane that are read.
    pub oldest_due: Duration,
    /// Requests without an answer.
    pub requests_in_flight: u64,
    /// The rows of those requests.
    pub rows_in_flight: u64,
    /// Requests without an answer, of all agents.
    pub calls: u64,
    /// Agents with open rows, those with the most first.
    pub agents: Vec<AgentStanding>,
    /// Dead rows by cause, the commonest cause first.
    pub causes: Vec<DeadRows>,
    /// The holds.
    pub holds: Vec<HoldRow>,
    /// The pace of the last minutes.
    pub recent: RecentPace,
    /// The last acts of operators, the newest first.
    pub acts: Vec<Act>,
}

/// The daemon that works on a queue, as far as it can be seen.
#[derive(Clone, Debug, Default)]
pub struct Daemon {
    /// Whether a daemon has the lock; `None` if that cannot be seen.
    pub running: Option<bool>,
    /// Its process number, on its own machine.
    pub pid: Option<u32>,
    /// What it wrote about itself at its start; `None` if it has not written that yet.
    pub introduction: Option<Introduction>,
    /// Who leads and who waits, if the queue is on a server.
    pub leadership: Option<Leadership>,
}

/// What a daemon writes about itself.
#[derive(Clone, Debug)]
pub struct Introduction {
    /// Its version.
    pub version: String,
    /// When it started.
    pub started_at: Timestamp,
    /// Its settings; `None` if its version writes other ones.
    pub in_effect: Option<InEffect>,
}

/// Who leads, and who waits to lead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The number of times that somebody became the leader.
    pub epoch: u64,
    /// The session that has the lock.
    pub leader: Option<Session>,
    /// The sessions that wait for the lock, the one that has waited longest first.
    pub standbys: Vec<Session>,
    /// The sessions that keep the leader's waiting at the moment.
    pub blocked_by: Vec<Blocker>,
}

/// A session that another one waits for, because it has a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocker {
    /// The server's process for it; 0: a prepared transaction, which has none.
    pub session: i32,
    /// The role as which it is connected.
    pub user: Option<String>,
    /// What it calls itself.
    pub application: Option<String>,
    /// What it does: `active`, `idle in transaction`. `None`: the server does not tell this role.
    pub state: Option<String>,
    /// From where it is connected, as in [`Session`].
    pub client: Option<String>,
    /// When its transaction began. `None`: the server does not tell this role.
    pub since: Option<Timestamp>,
    /// The same as a time of day in UTC.
    pub since_utc: Option<String>,
}

/// A session of a daemon on the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The role as which it is connected.
    pub user: String,
    /// From where; `this machine`: that of the server. `None`: the server does not tell this role.
    pub client: Option<String>,
    /// The server's process for it.
    pub backend: i32,
    /// When it connected; `None`: the server does not tell this role.
    pub since: Option<Timestamp>,
}

/// The wishes that the leader has not taken in yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inbox {
    /// The number of wishes. Several may be for one entry.
    pub rows: u64,
    /// For how long the oldest has waited, by the server's clock.
    pub oldest: Duration,
}

/// The settled rows whose entries a listing of their agent's whole cache did not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// The number of rows.
    pub rows: u64,
    /// The time of the last listing.
    pub last_at: Option<Timestamp>,
}

/// Dead rows with one cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadRows {
    /// The cause; `None` if a person removed it.
    pub cause: Option<String>,
    /// The number of rows.
    pub rows: u64,
    /// Rows that an attempt may have deleted unseen.
    pub unconfirmed: u64,
}

/// The pace of the last minutes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecentPace {
    /// The time covered: five minutes, or the time since the daemon started, or as far back as the newest requests reach.
    pub span: Duration,
    /// Rows deleted.
    pub deleted: u64,
    /// Rows that have reached an end, deleted or not.
    pub ended: u64,
}

/// What an engine reads for a [`Standing`], at one moment.
#[derive(Debug, Default)]
pub(in crate::queue) struct Seen {
    pub(in crate::queue) daemon: Daemon,
    pub(in crate::queue) inbox: Option<Inbox>,
    pub(in crate::queue) agents: BTreeMap<String, AgentStanding>,
    /// For how long the first rows of the lanes have been due, with their agents.
    pub(in crate::queue) waiting: Vec<(String, Duration)>,
    pub(in crate::queue) deleted: u64,
    pub(in crate::queue) absent: u64,
    pub(in crate::queue) verified: Verified,
    pub(in crate::queue) causes: Vec<DeadRows>,
    pub(in crate::queue) requests_in_flight: u64,
    pub(in crate::queue) rows_in_flight: u64,
    pub(in crate::queue) calls: u64,
    pub(in crate::queue) holds: Vec<HoldRow>,
    pub(in crate::queue) acts: Vec<Act>,
    pub(in crate::queue) newest: Newest,
}

/// The newest requests: what those came to that were answered since [`Newest::since`].
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::queue) struct Newest {
    pub(in crate::queue) deleted: u64,
    pub(in crate::queue) ended: u64,
    /// The number of requests that were looked at.
    pub(in crate::queue) looked_at: u64,
    /// When the first of them was claimed.
    pub(in crate::queue) reach: Option<Timestamp>,
}

impl Newest {
    /// Since when answers count for the pace of the last minutes.
    pub(in crate::queue) fn since(daemon: &Daemon, now: Timestamp) -> Timestamp {
        let lately = now.minus(LATELY);
        daemon.introduction.as_ref().map_or(lately, |said| said.started_at.max(lately))
    }
}

impl Standing {
    /// What the rows come to; of one agent, if one is asked about.
    pub(in crate::queue) fn of(seen: Seen, agent: Option<&AgentId>, now: Timestamp) -> Self {
        let Seen { mut agents, waiting, newest, .. } = seen;
        let since = Newest::since(&seen.daemon, now);
        let mut span = now.since(since);
        // If the newest requests do not reach back that far, the time shrinks to what they cover.
        if let (NEWEST_REQUESTS.., Some(reach)) = (newest.looked_at, newest.reach) {
            span = span.min(now.since(reach));
        }
        let mut oldest_due = Duration::ZERO;
        for (agent, age) in waiting {
            if let Some(agent) = agents.get_mut(&agent) {
                agent.oldest_due = agent.oldest_due.max(age);
                oldest_due = oldest_due.max(age);
            }
        }
        let mut agents: Vec<AgentStanding> = agents.into_values().collect();
        agents.sort_by_key(|agent| Reverse(agent.pending));
        Self {
            daemon: seen.daemon,
            pending: agents.iter().map(|agent| agent.pending).sum(),
            due: agents.iter().map(|agent| agent.due).sum(),
            deleted: seen.deleted,
            absent: seen.absent,
            verified: seen.verified,
            dead: seen.causes.iter().map(|dead| dead.rows).sum(),
            inbox: seen.inbox,
            oldest_due,
            requests_in_flight: seen.requests_in_flight,
            rows_in_flight: seen.rows_in_flight,
            calls: seen.calls,
            agents,
            causes: seen.causes,
            holds: concerning(seen.holds, agent),
            recent: RecentPace { span, deleted: newest.deleted, ended: newest.ended },
            acts: seen.acts,
        }
    }
}
