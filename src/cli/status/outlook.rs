//! When the queue will be empty, as far as anybody can tell.

use std::time::Duration;

use super::why::{hold_on, needs_a_person};
use crate::{
    model::clock::Timestamp,
    queue::{
        InEffect,
        sqlite::{AgentStanding, Standing},
    },
};

/// The time that so many requests take at the rate in effect, at least.
pub(super) fn time_of(requests: u64, settings: &InEffect) -> Duration {
    Duration::try_from_secs_f64(requests as f64 / settings.requests_per_second).unwrap_or(Duration::MAX)
}

/// When the queue will be empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outlook {
    /// Rows that wait for a hold that only a person can end. The queue is not empty before that.
    pub(super) stopped: u64,
    /// Time until all other rows have reached an end; `None` if nobody can tell.
    pub(super) rest_in: Option<Duration>,
    /// The time is that of the last row that is due later, and not of the pace.
    pub(super) waits_for_due_rows: bool,
}

impl Outlook {
    /// `ended_per_minute`: the pace of the last minutes.
    pub(super) fn new(standing: &Standing, ended_per_minute: f64, now: Timestamp) -> Self {
        let is_stopped =
            |agent: &&AgentStanding| hold_on(&standing.holds, &agent.agent, now).is_some_and(needs_a_person);
        let (stopped, rest): (Vec<_>, Vec<_>) = standing.agents.iter().partition(is_stopped);
        let stopped = stopped.iter().map(|agent| agent.pending.saturating_sub(agent.in_flight)).sum();
        let pending = standing.pending - stopped;
        if pending == 0 {
            return Self { stopped, rest_in: Some(Duration::ZERO), waits_for_due_rows: false };
        }
        if standing.daemon.running == Some(false) {
            return Self { stopped, ..Self::default() };
        }
        let later: u64 = rest.iter().map(|agent| agent.pending - agent.due).sum();
        let at_pace = match pending - later.min(pending) {
            0 => Some(Duration::ZERO),
            soon => (ended_per_minute > 0.0).then(|| {
                let minutes = soon as f64 / ended_per_minute;
                Duration::try_from_secs_f64((minutes * 60.0).ceil()).unwrap_or(Duration::MAX)
            }),
        };
        // A hold that ends by itself is waited for first.
        let held = rest.iter().filter_map(|agent| hold_on(&standing.holds, &agent.agent, now)?.until_at);
        let held = held.map(|until| until.since(now)).max().unwrap_or_default();
        let last_due = rest.iter().filter_map(|agent| agent.last_due_at).max();
        let last_due = last_due.map(|at| at.since(now)).unwrap_or_default();
        // A pace of before the rate was lowered, or of a burst, does not last.
        let requests = rest.iter().map(|agent| agent.requests).sum();
        let said = standing.daemon.introduction.as_ref();
        let at_rate =
            said.and_then(|said| said.in_effect).map_or(Duration::ZERO, |settings| time_of(requests, &settings));
        let at_pace = at_pace.map(|span| span.max(at_rate).saturating_add(held));
        Self {
            stopped,
            rest_in: at_pace.map(|span| span.max(last_due)),
            waits_for_due_rows: at_pace.is_some_and(|span| last_due > span),
        }
    }
}
