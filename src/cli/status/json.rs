//! `sweeper status --json`: the state of the queue for programs.

use std::time::Duration;

use serde::Serialize;

use super::{
    acts::ActReport,
    outlook::Outlook,
    why::{Reason, Wait, hold_on, is_probed, needs_a_person, rows_under, together, waits_of},
};
use crate::{
    model::{clock::Timestamp, deletion::AgentId, hold::HoldRow},
    queue::{
        InEffect, either,
        report::{Blocker, Inbox, Leadership, Session, Standing},
    },
};

/// The object that `--json` writes. Names and meanings are stable. Times are Unix milliseconds, durations seconds.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) database: String,
    pub(super) at: i64,
    pub(super) agent: Option<String>,
    pub(super) daemon: DaemonReport,
    pub(super) leadership: Option<LeadershipReport>,
    pub(super) inbox: Option<InboxReport>,
    pub(super) rows: Rows,
    pub(super) verified_at: Option<i64>,
    pub(super) waits: Vec<WaitReport>,
    pub(super) in_flight: InFlight,
    pub(super) oldest_due_s: f64,
    pub(super) deleted_per_minute: f64,
    pub(super) ended_per_minute: f64,
    pub(super) empty_in_s: Option<u64>,
    pub(super) rest_empty_in_s: Option<u64>,
    /// Agents that need a person come first, then other held ones.
    pub(super) agents: Vec<AgentReport>,
    pub(super) dead: Vec<DeadReport>,
    pub(super) holds: Vec<HoldReport>,
    acts: Vec<ActReport>,
    #[serde(skip)]
    pub(super) outlook: Outlook,
    #[serde(skip)]
    pub(super) settings: Option<InEffect>,
}

#[derive(Debug, Serialize)]
pub(super) struct DaemonReport {
    pub(super) running: Option<bool>,
    pub(super) pid: Option<u32>,
    pub(super) version: Option<String>,
    pub(super) started_at: Option<i64>,
    requests_per_second: Option<f64>,
    rate_ceiling: Option<f64>,
    rate_why: Option<&'static str>,
    concurrency: Option<usize>,
    concurrency_ceiling: Option<usize>,
    concurrency_why: Option<&'static str>,
    batch_size: Option<u8>,
    linger_s: Option<f64>,
}

/// Who leads and who waits to lead, if the queue is on a server.
#[derive(Debug, Serialize)]
pub(super) struct LeadershipReport {
    pub(super) epoch: u64,
    pub(super) leader: Option<SessionReport>,
    pub(super) standbys: Vec<SessionReport>,
    pub(super) blocked_by: Vec<BlockerReport>,
}

/// A session that keeps the leader's waiting.
#[derive(Debug, Serialize)]
pub(super) struct BlockerReport {
    pub(super) session: i32,
    pub(super) user: Option<String>,
    pub(super) application: Option<String>,
    pub(super) client: Option<String>,
    pub(super) state: Option<String>,
    pub(super) since_at: Option<i64>,
}

/// A session of a daemon on the server.
#[derive(Debug, Serialize)]
pub(super) struct SessionReport {
    pub(super) user: String,
    pub(super) client: Option<String>,
    pub(super) session: i32,
    since_at: Option<i64>,
}

/// The wishes that the leader has not taken in yet.
#[derive(Debug, Serialize)]
pub(in crate::cli) struct InboxReport {
    pub(in crate::cli) rows: u64,
    pub(in crate::cli) oldest_s: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct Rows {
    pub(super) pending: u64,
    pub(super) due: u64,
    pub(super) deleted: u64,
    pub(super) absent: u64,
    pub(super) dead: u64,
    pub(super) verified: u64,
}

/// Pending rows, by what they wait for.
#[derive(Debug, Serialize)]
pub(super) struct WaitReport {
    pub(super) reason: Reason,
    pub(super) rows: u64,
    pub(super) until_at: Option<i64>,
    #[serde(skip)]
    pub(super) requests: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct InFlight {
    pub(super) requests: u64,
    pub(super) rows: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct AgentReport {
    pub(super) agent_id: String,
    pub(super) pending: u64,
    pub(super) due: u64,
    pub(super) oldest_due_s: f64,
    pub(super) in_flight: u64,
    pub(super) next_due_at: Option<i64>,
    /// What most matters of what its rows wait for.
    pub(super) waits_for: Option<Reason>,
    pub(super) until_at: Option<i64>,
    /// The cause of the hold that its rows wait for.
    #[serde(skip)]
    pub(super) cause: Option<&'static str>,
    #[serde(skip)]
    pub(super) is_probed: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct DeadReport {
    pub(super) cause: Option<String>,
    pub(super) rows: u64,
    pub(super) unconfirmed: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct HoldReport {
    pub(super) scope: String,
    pub(super) cause: &'static str,
    why: Option<String>,
    since_at: i64,
    until_at: Option<i64>,
    left_s: Option<f64>,
    pub(super) rows: u64,
    pub(super) needs_a_person: bool,
}

fn seconds(span: Duration) -> f64 {
    (span.as_secs_f64() * 1_000.0).round() / 1_000.0
}

fn per_minute(rows: u64, span: Duration) -> f64 {
    let minutes = span.max(Duration::from_secs(1)).as_secs_f64() / 60.0;
    (rows as f64 / minutes * 10.0).round() / 10.0
}

impl Report {
    /// The report on this database.
    pub(super) fn new(
        database: &either::Options,
        agent: Option<&AgentId>,
        standing: &Standing,
        now: Timestamp,
    ) -> Self {
        let recent = standing.recent;
        let ended_per_minute = per_minute(recent.ended, recent.span);
        let outlook = Outlook::new(standing, ended_per_minute, now);
        let rest_empty_in_s = outlook.rest_in.map(|span| span.as_secs());
        let mut agents: Vec<(AgentReport, Vec<Wait>)> = standing
            .agents
            .iter()
            .map(|agent| {
                let waits = waits_of(agent, standing, now);
                let cause = hold_on(&standing.holds, &agent.agent, now).map(|hold| hold.cause.as_str());
                let first = waits.first();
                let report = AgentReport {
                    agent_id: agent.agent.clone(),
                    pending: agent.pending,
                    due: agent.due,
                    oldest_due_s: seconds(agent.oldest_due),
                    in_flight: agent.in_flight,
                    next_due_at: agent.next_due_at.map(|at| at.0),
                    waits_for: first.map(|wait| wait.reason),
                    until_at: first.and_then(|wait| wait.until).map(|at| at.0),
                    cause,
                    is_probed: is_probed(&standing.holds, &agent.agent, now),
                };
                (report, waits)
            })
            .collect();
        let is_held = |reason| matches!(reason, Some(Reason::NeedsAPerson | Reason::Held));
        // The sort is stable: the agents with the most rows stay first.
        agents.sort_by_key(|(agent, _)| {
            agent.waits_for.filter(|reason| is_held(Some(*reason))).map_or((1, None), |r| (0, Some(r)))
        });
        let waits = together(agents.iter().flat_map(|(_, waits)| waits));
        Self {
            database: database.name(),
            at: now.0,
            agent: agent.map(|agent| agent.as_str().to_owned()),
            daemon: DaemonReport::new(standing),
            leadership: standing.daemon.leadership.as_ref().map(LeadershipReport::new),
            inbox: standing.inbox.map(InboxReport::new),
            rows: Rows::new(standing),
            verified_at: standing.verified.last_at.map(|at| at.0),
            waits: waits.iter().map(WaitReport::new).collect(),
            in_flight: InFlight { requests: standing.requests_in_flight, rows: standing.rows_in_flight },
            oldest_due_s: seconds(standing.oldest_due),
            deleted_per_minute: per_minute(recent.deleted, recent.span),
            ended_per_minute,
            empty_in_s: rest_empty_in_s.filter(|_| outlook.stopped + outlook.probed == 0),
            rest_empty_in_s,
            agents: agents.into_iter().map(|(agent, _)| agent).collect(),
            dead: standing
                .causes
                .iter()
                .map(|dead| DeadReport { cause: dead.cause.clone(), rows: dead.rows, unconfirmed: dead.unconfirmed })
                .collect(),
            holds: standing.holds.iter().map(|hold| HoldReport::new(hold, standing, now)).collect(),
            acts: standing.acts.iter().map(ActReport::new).collect(),
            outlook,
            settings: standing.daemon.introduction.as_ref().and_then(|said| said.in_effect),
        }
    }
}

impl Rows {
    fn new(standing: &Standing) -> Self {
        let Standing { pending, due, deleted, absent, dead, verified, .. } = *standing;
        Self { pending, due, deleted, absent, dead, verified: verified.rows }
    }
}

impl DaemonReport {
    fn new(standing: &Standing) -> Self {
        let daemon = &standing.daemon;
        let said = daemon.introduction.as_ref();
        let settings = said.and_then(|said| said.in_effect);
        Self {
            running: daemon.running,
            pid: daemon.pid,
            version: said.map(|said| said.version.clone()),
            started_at: said.map(|said| said.started_at.0),
            requests_per_second: settings.map(|settings| settings.requests_per_second),
            rate_ceiling: settings.map(|settings| settings.rate_ceiling),
            rate_why: settings.map(|settings| settings.rate_reason.as_str()),
            concurrency: settings.map(|settings| settings.concurrency),
            concurrency_ceiling: settings.map(|settings| settings.concurrency_ceiling),
            concurrency_why: settings.map(|settings| settings.concurrency_reason.as_str()),
            batch_size: settings.map(|settings| settings.batch_size),
            linger_s: settings.map(|settings| seconds(settings.linger)),
        }
    }
}

impl LeadershipReport {
    fn new(leadership: &Leadership) -> Self {
        Self {
            epoch: leadership.epoch,
            leader: leadership.leader.as_ref().map(SessionReport::new),
            standbys: leadership.standbys.iter().map(SessionReport::new).collect(),
            blocked_by: leadership.blocked_by.iter().map(BlockerReport::new).collect(),
        }
    }
}

impl SessionReport {
    fn new(session: &Session) -> Self {
        Self {
            user: session.user.clone(),
            client: session.client.clone(),
            session: session.backend,
            since_at: session.since.map(|at| at.0),
        }
    }
}

impl BlockerReport {
    fn new(blocker: &Blocker) -> Self {
        let Blocker { session, user, application, client, state, since, .. } = blocker.clone();
        Self { session, user, application, client, state, since_at: since.map(|at| at.0) }
    }
}

impl InboxReport {
    pub(in crate::cli) fn new(inbox: Inbox) -> Self {
        Self { rows: inbox.rows, oldest_s: seconds(inbox.oldest) }
    }
}

impl WaitReport {
    fn new(wait: &Wait) -> Self {
        Self { reason: wait.reason, rows: wait.rows, until_at: wait.until.map(|at| at.0), requests: wait.requests }
    }
}

impl HoldReport {
    fn new(hold: &HoldRow, standing: &Standing, now: Timestamp) -> Self {
        Self {
            scope: hold.scope.as_str().to_owned(),
            cause: hold.cause.as_str(),
            why: hold.why.clone(),
            since_at: hold.since_at.0,
            until_at: hold.until_at.map(|at| at.0),
            left_s: hold.until_at.map(|at| seconds(at.since(now))),
            rows: rows_under(hold, standing, now),
            needs_a_person: needs_a_person(hold),
        }
    }
}
