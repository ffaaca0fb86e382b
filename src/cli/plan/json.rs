//! `sweeper plan --json`: what would go out, for programs.

use serde::Serialize;

use crate::{
    config::Config,
    model::{clock::Timestamp, deletion::AgentId, hold::HoldsByScope},
    queue::report::{AgentLoad, Load, Outlook},
    watch::report::json::InboxReport,
};

/// The object that `--json` writes. Names and meanings are stable. Times are Unix milliseconds, durations seconds.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) database: String,
    pub(super) at: i64,
    agent: Option<String>,
    pub(super) daemon: Option<u32>,
    pub(super) is_running: Option<bool>,
    /// The daemon's current rate, or the configured one.
    pub(super) requests_per_second: f64,
    pub(super) now: Sum,
    pub(super) now_takes_s: f64,
    pub(super) later: Sum,
    pub(super) held: Sum,
    pub(super) total: Sum,
    pub(super) in_flight: Sum,
    pub(super) inbox: Option<InboxReport>,
    pub(super) refused: u64,
    /// Those that are held come last; of the others, whoever goes first comes first.
    pub(super) agents: Vec<AgentReport>,
}

/// Rows, and the fewest requests that can carry them.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Sum {
    pub(super) rows: u64,
    pub(super) requests: u64,
}

impl From<Load> for Sum {
    fn from(load: Load) -> Self {
        Self { rows: load.rows, requests: load.requests }
    }
}

/// The pending rows of an agent that have the same priority.
#[derive(Debug, Serialize)]
pub(super) struct AgentReport {
    pub(super) agent_id: String,
    pub(super) priority: i64,
    pub(super) due: Sum,
    pub(super) later: Sum,
    pub(super) next_due_at: Option<i64>,
    pub(super) last_due_at: Option<i64>,
    pub(super) hold: Option<HoldReport>,
}

/// The hold that the rows wait for.
#[derive(Debug, Serialize)]
pub(super) struct HoldReport {
    scope: String,
    pub(super) cause: &'static str,
    pub(super) until_at: Option<i64>,
    /// The time of the hold is over: one request probes before the others go.
    pub(super) probes: bool,
}

impl AgentReport {
    fn new(load: AgentLoad, holds: &HoldsByScope<'_>, now: Timestamp) -> Self {
        let holds = holds.on(&load.agent).filter(|hold| !hold.is_over(now));
        let longest = holds.reduce(|one, other| if other.outlasts(one) { other } else { one });
        let hold = longest.map(|hold| HoldReport {
            scope: hold.scope.as_str().to_owned(),
            cause: hold.cause.as_str(),
            until_at: hold.until_at.map(|at| at.0),
            probes: hold.until_at.is_some_and(|until| until <= now),
        });
        Self {
            priority: load.priority,
            due: load.due.into(),
            later: load.later.into(),
            next_due_at: load.next_due_at.map(|at| at.0),
            last_due_at: load.last_due_at.map(|at| at.0),
            agent_id: load.agent,
            hold,
        }
    }

    /// Whether a hold keeps every request back.
    pub(super) fn is_held(&self) -> bool {
        self.hold.as_ref().is_some_and(|hold| !hold.probes)
    }
}

impl Report {
    /// Whether nothing is pending.
    pub(super) fn is_empty(&self) -> bool {
        self.total.rows + self.refused + self.inbox.as_ref().map_or(0, |inbox| inbox.rows) == 0
    }

    pub(super) fn new(config: &Config, agent: Option<&AgentId>, outlook: Outlook, now: Timestamp) -> Self {
        let Outlook { daemon, agents, refused, inbox, in_flight, holds } = outlook;
        let holds = HoldsByScope::new(&holds);
        let mut agents: Vec<_> = agents.into_iter().map(|load| AgentReport::new(load, &holds, now)).collect();
        // The sort is stable, so the rest of the order stays.
        agents.sort_by_key(AgentReport::is_held);
        let (mut due, mut later, mut held) = (Load::default(), Load::default(), Load::default());
        let load = |sum: Sum| Load { rows: sum.rows, requests: sum.requests };
        for agent in &agents {
            let to = if agent.is_held() { &mut held } else { &mut due };
            to.add(load(agent.due));
            let to = if agent.is_held() { &mut held } else { &mut later };
            to.add(load(agent.later));
        }
        let mut total = due;
        [later, held].into_iter().for_each(|other| total.add(other));
        let said = daemon.introduction.as_ref().and_then(|said| said.in_effect).map(|said| said.requests_per_second);
        let rate = said.unwrap_or(config.rate.requests_per_second);
        Self {
            database: config.store.name(),
            at: now.0,
            agent: agent.map(|agent| agent.as_str().to_owned()),
            daemon: daemon.pid,
            is_running: daemon.running,
            requests_per_second: rate,
            now: due.into(),
            now_takes_s: (due.requests as f64 / rate * 1_000.0).round() / 1_000.0,
            later: later.into(),
            held: held.into(),
            total: total.into(),
            in_flight: in_flight.into(),
            inbox: inbox.map(InboxReport::new),
            refused,
            agents,
        }
    }
}
