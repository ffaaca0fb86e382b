//! When the queue will be empty, as far as anybody can tell.

use std::time::Duration;

use super::why::{hold_on, is_probed, needs_a_person};
use crate::{
    model::{clock::Timestamp, hold::HoldsByScope},
    queue::{
        InEffect,
        report::{AgentStanding, Standing},
    },
};

/// The time that so many requests take at the rate in effect, at least.
pub(crate) fn time_of(requests: u64, settings: &InEffect) -> Duration {
    Duration::try_from_secs_f64(requests as f64 / settings.requests_per_second).unwrap_or(Duration::MAX)
}

/// When the queue will be empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outlook {
    /// Rows that wait for a hold that only a person can end. The queue is not empty before that.
    pub(crate) stopped: u64,
    /// Other rows that wait for a hold that ends only with a probe. Nobody can tell when one gets through.
    pub(crate) probed: u64,
    /// Time until all rows that are not stopped have reached an end, but for the probed ones if there are others; `None` if nobody
    /// can tell.
    pub(crate) rest_in: Option<Duration>,
    /// The time is that of the last row that is due later, and not of the pace.
    pub(crate) waits_for_due_rows: bool,
    /// Rows that are neither stopped nor probed.
    pub(crate) rest: u64,
}

impl Outlook {
    /// `ended_per_minute`: the pace of the last minutes.
    pub(crate) fn new(standing: &Standing, holds: &HoldsByScope<'_>, ended_per_minute: f64, now: Timestamp) -> Self {
        let is_stopped = |agent: &&AgentStanding| hold_on(holds, &agent.agent, now).is_some_and(needs_a_person);
        let (stopped, others): (Vec<_>, Vec<_>) = standing.agents.iter().partition(is_stopped);
        let stopped = stopped.iter().map(|agent| agent.pending.saturating_sub(agent.in_flight)).sum();
        let (probed, going): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|agent| is_probed(holds, &agent.agent, now));
        // A row in flight may be the probe, so it is no other row.
        let probed = probed.iter().map(|agent| agent.pending).sum();
        let rest = standing.pending - stopped - probed;
        let outlook = Self { stopped, probed, rest, ..Self::default() };
        if rest == 0 {
            let is_over = probed == 0 && standing.inbox.is_none_or(|inbox| inbox.rows == 0);
            return Self { rest_in: is_over.then_some(Duration::ZERO), ..outlook };
        }
        // Without a pace, rows that are due later do not end then either: they may all be retries.
        if standing.daemon.running == Some(false) || ended_per_minute <= 0.0 {
            return outlook;
        }
        let later: u64 = going.iter().map(|agent| agent.pending - agent.due).sum();
        let minutes = rest.saturating_sub(later) as f64 / ended_per_minute;
        let at_pace = Duration::try_from_secs_f64((minutes * 60.0).ceil()).unwrap_or(Duration::MAX);
        // A person's hold ends when it says.
        let held = going.iter().filter_map(|agent| hold_on(holds, &agent.agent, now)?.until_at);
        let held = held.map(|until| until.since(now)).max().unwrap_or_default();
        let last_due = going.iter().filter_map(|agent| agent.last_due_at).max();
        let last_due = last_due.map(|at| at.since(now)).unwrap_or_default();
        // A pace of before the rate was lowered, or of a burst, does not last.
        let requests = going.iter().map(|agent| agent.requests).sum();
        let said = standing.daemon.introduction.as_ref();
        let at_rate =
            said.and_then(|said| said.in_effect).map_or(Duration::ZERO, |settings| time_of(requests, &settings));
        let at_pace = at_pace.max(at_rate).saturating_add(held);
        Self { rest_in: Some(at_pace.max(last_due)), waits_for_due_rows: last_due > at_pace, ..outlook }
    }
}
