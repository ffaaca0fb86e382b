//! `sweeper status --json`: the state of the queue for programs.

use std::time::Duration;

use serde::Serialize;

use super::acts::ActReport;
use crate::{
    config::Config,
    model::{clock::Timestamp, deletion::AgentId, hold::HoldRow, outcome::Scope},
    queue::sqlite::Standing,
};

/// The object that `--json` writes. Names and meanings are stable. Times are Unix milliseconds, durations seconds.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) database: String,
    pub(super) at: i64,
    pub(super) agent: Option<String>,
    pub(super) daemon: DaemonReport,
    pub(super) rows: Rows,
    pub(super) in_flight: InFlight,
    pub(super) oldest_due_s: f64,
    pub(super) deleted_per_minute: f64,
    pub(super) ended_per_minute: f64,
    pub(super) empty_in_s: Option<u64>,
    agents: Vec<AgentReport>,
    pub(super) dead: Vec<DeadReport>,
    holds: Vec<HoldReport>,
    acts: Vec<ActReport>,
}

#[derive(Debug, Serialize)]
pub(super) struct DaemonReport {
    pub(super) running: Option<bool>,
    pub(super) pid: Option<u32>,
    pub(super) version: Option<String>,
    pub(super) started_at: Option<i64>,
    pub(super) requests_per_second: Option<f64>,
}

#[derive(Debug, Serialize)]
pub(super) struct Rows {
    pub(super) pending: u64,
    pub(super) due: u64,
    pub(super) deleted: u64,
    pub(super) absent: u64,
    pub(super) dead: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct InFlight {
    pub(super) requests: u64,
    pub(super) rows: u64,
}

#[derive(Debug, Serialize)]
struct AgentReport {
    agent_id: String,
    pending: u64,
    due: u64,
    oldest_due_s: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct DeadReport {
    pub(super) cause: Option<String>,
    pub(super) rows: u64,
    pub(super) unconfirmed: u64,
}

#[derive(Debug, Serialize)]
struct HoldReport {
    scope: String,
    cause: &'static str,
    why: Option<String>,
    since_at: i64,
    until_at: Option<i64>,
    left_s: Option<f64>,
}

fn seconds(span: Duration) -> f64 {
    (span.as_secs_f64() * 1_000.0).round() / 1_000.0
}

fn per_minute(rows: u64, span: Duration) -> f64 {
    let minutes = span.max(Duration::from_secs(1)).as_secs_f64() / 60.0;
    (rows as f64 / minutes * 10.0).round() / 10.0
}

impl Report {
    pub(super) fn new(config: &Config, agent: Option<&AgentId>, standing: &Standing, now: Timestamp) -> Self {
        let Standing { daemon, pending, due, deleted, absent, dead, recent, .. } = standing;
        let ended_per_minute = per_minute(recent.ended, recent.span);
        let said = daemon.introduction.as_ref();
        Self {
            database: config.store.path.display().to_string(),
            at: now.0,
            agent: agent.map(|agent| agent.as_str().to_owned()),
            daemon: DaemonReport {
                running: daemon.running,
                pid: daemon.pid,
                version: said.map(|said| said.version.clone()),
                started_at: said.map(|said| said.started_at.0),
                requests_per_second: said.map(|said| said.requests_per_second),
            },
            rows: Rows { pending: *pending, due: *due, deleted: *deleted, absent: *absent, dead: *dead },
            in_flight: InFlight { requests: standing.requests_in_flight, rows: standing.rows_in_flight },
            oldest_due_s: seconds(standing.oldest_due),
            deleted_per_minute: per_minute(recent.deleted, recent.span),
            ended_per_minute,
            empty_in_s: empty_in_s(standing, ended_per_minute, now),
            agents: standing
                .agents
                .iter()
                .map(|agent| AgentReport {
                    agent_id: agent.agent.clone(),
                    pending: agent.pending,
                    due: agent.due,
                    oldest_due_s: seconds(agent.oldest_due),
                })
                .collect(),
            dead: standing
                .causes
                .iter()
                .map(|dead| DeadReport { cause: dead.cause.clone(), rows: dead.rows, unconfirmed: dead.unconfirmed })
                .collect(),
            holds: standing.holds.iter().map(|hold| HoldReport::new(hold, now)).collect(),
            acts: standing.acts.iter().map(ActReport::new).collect(),
        }
    }
}

/// Seconds until nothing is pending, at the pace of the last minutes. `None` if the queue does not get emptier.
fn empty_in_s(standing: &Standing, ended_per_minute: f64, now: Timestamp) -> Option<u64> {
    if standing.pending == 0 {
        return Some(0);
    }
    // The queue does not empty without a daemon, or under a hold on everything that has no end.
    if standing.daemon.running == Some(false) || is_stopped(&standing.holds) || ended_per_minute <= 0.0 {
        return None;
    }
    let held = standing.holds.iter().filter(|hold| hold.scope == Scope::All);
    let held = held.filter_map(|hold| Some(hold.until_at?.since(now))).max().unwrap_or_default();
    Some(held.as_secs() + (standing.pending as f64 / ended_per_minute * 60.0).ceil() as u64)
}

/// Whether everything is held until somebody lifts the hold.
pub(super) fn is_stopped(holds: &[HoldRow]) -> bool {
    holds.iter().any(|hold| hold.scope == Scope::All && hold.until_at.is_none())
}

impl HoldReport {
    fn new(hold: &HoldRow, now: Timestamp) -> Self {
        Self {
            scope: hold.scope.as_str().to_owned(),
            cause: hold.cause.as_str(),
            why: hold.why.clone(),
            since_at: hold.since_at.0,
            until_at: hold.until_at.map(|at| at.0),
            left_s: hold.until_at.map(|at| seconds(at.since(now))),
        }
    }
}
