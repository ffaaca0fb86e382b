//! `sweeper status --json`: the state of the queue for programs.

use std::time::Duration;

use serde::Serialize;

use super::{
    acts::ActReport,
    outlook::Outlook,
    why::{Reason, Stoppable, Wait, hold_on, is_probed, needs_a_person, together, waits_of},
};
use crate::{
    model::{
        clock::Timestamp,
        deletion::AgentId,
        hold::{HoldRow, HoldsByScope},
    },
    queue::{
        InEffect, either,
        report::{Blocker, Inbox, Leadership, Session, Standing},
    },
};

/// The object that `--json` writes. Names and meanings are stable. Times are Unix milliseconds, durations seconds.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) database: String,
    pub(crate) at: i64,
    pub(crate) agent: Option<String>,
    pub(crate) daemon: DaemonReport,
    pub(crate) leadership: Option<LeadershipReport>,
    pub(crate) inbox: Option<InboxReport>,
    pub(crate) rows: Rows,
    pub(crate) verified_at: Option<i64>,
    pub(crate) waits: Vec<WaitReport>,
    pub(crate) in_flight: InFlight,
    pub(crate) oldest_due_s: f64,
    pub(crate) deleted_per_minute: f64,
    pub(crate) ended_per_minute: f64,
    pub(crate) empty_in_s: Option<u64>,
    pub(crate) rest_empty_in_s: Option<u64>,
    /// Agents that need a person come first, then other held ones.
    pub(crate) agents: Vec<AgentReport>,
    pub(crate) dead: Vec<DeadReport>,
    pub(crate) holds: Vec<HoldReport>,
    acts: Vec<ActReport>,
    #[serde(skip)]
    pub(crate) outlook: Outlook,
    #[serde(skip)]
    pub(crate) settings: Option<InEffect>,
}

#[derive(Debug, Serialize)]
pub(crate) struct DaemonReport {
    pub(crate) running: Option<bool>,
    pub(crate) pid: Option<u32>,
    pub(crate) version: Option<String>,
    pub(crate) started_at: Option<i64>,
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
pub(crate) struct LeadershipReport {
    pub(crate) epoch: u64,
    pub(crate) leader: Option<SessionReport>,
    pub(crate) standbys: Vec<SessionReport>,
    pub(crate) blocked_by: Vec<BlockerReport>,
}

/// A session that keeps the leader's waiting.
#[derive(Debug, Serialize)]
pub(crate) struct BlockerReport {
    pub(crate) session: i32,
    pub(crate) user: Option<String>,
    pub(crate) application: Option<String>,
    pub(crate) client: Option<String>,
    pub(crate) state: Option<String>,
    pub(crate) since_at: Option<i64>,
}

/// A session of a daemon on the server.
#[derive(Debug, Serialize)]
pub(crate) struct SessionReport {
    pub(crate) user: String,
    pub(crate) client: Option<String>,
    pub(crate) session: i32,
    since_at: Option<i64>,
}

/// The wishes that the leader has not taken in yet.
#[derive(Debug, Serialize)]
pub(crate) struct InboxReport {
    pub(crate) rows: u64,
    pub(crate) oldest_s: f64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Rows {
    pub(crate) pending: u64,
    pub(crate) due: u64,
    pub(crate) deleted: u64,
    pub(crate) absent: u64,
    pub(crate) dead: u64,
    pub(crate) verified: u64,
}

/// Pending rows, by what they wait for.
#[derive(Debug, Serialize)]
pub(crate) struct WaitReport {
    pub(crate) reason: Reason,
    pub(crate) rows: u64,
    pub(crate) until_at: Option<i64>,
    #[serde(skip)]
    pub(crate) requests: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct InFlight {
    pub(crate) requests: u64,
    pub(crate) rows: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct AgentReport {
    pub(crate) agent_id: String,
    pub(crate) pending: u64,
    pub(crate) due: u64,
    pub(crate) oldest_due_s: f64,
    pub(crate) in_flight: u64,
    pub(crate) next_due_at: Option<i64>,
    /// What most matters of what its rows wait for.
    pub(crate) waits_for: Option<Reason>,
    pub(crate) until_at: Option<i64>,
    /// The cause of the hold that its rows wait for.
    #[serde(skip)]
    pub(crate) cause: Option<&'static str>,
    #[serde(skip)]
    pub(crate) is_probed: bool,
}

#[derive(Debug, Serialize)]
pub(crate) struct DeadReport {
    pub(crate) cause: Option<String>,
    pub(crate) rows: u64,
    pub(crate) unconfirmed: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct HoldReport {
    pub(crate) scope: String,
    pub(crate) cause: &'static str,
    why: Option<String>,
    since_at: i64,
    until_at: Option<i64>,
    left_s: Option<f64>,
    pub(crate) rows: u64,
    pub(crate) needs_a_person: bool,
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
    pub(crate) fn new(
        database: &either::Options,
        agent: Option<&AgentId>,
        standing: &Standing,
        now: Timestamp,
    ) -> Self {
        let recent = standing.recent;
        let ended_per_minute = per_minute(recent.ended, recent.span);
        let (holds, stoppable) = (HoldsByScope::new(&standing.holds), Stoppable::new(standing));
        let outlook = Outlook::new(standing, &holds, ended_per_minute, now);
        let rest_empty_in_s = outlook.rest_in.map(|span| span.as_secs());
        let mut agents: Vec<(AgentReport, Vec<Wait>)> = standing
            .agents
            .iter()
            .map(|agent| {
                let waits = waits_of(agent, standing, &holds, now);
                let cause = hold_on(&holds, &agent.agent, now).map(|hold| hold.cause.as_str());
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
                    is_probed: is_probed(&holds, &agent.agent, now),
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
            holds: standing.holds.iter().map(|hold| HoldReport::new(hold, &stoppable, now)).collect(),
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
    pub(crate) fn new(inbox: Inbox) -> Self {
        Self { rows: inbox.rows, oldest_s: seconds(inbox.oldest) }
    }
}

impl WaitReport {
    fn new(wait: &Wait) -> Self {
        Self { reason: wait.reason, rows: wait.rows, until_at: wait.until.map(|at| at.0), requests: wait.requests }
    }
}

impl HoldReport {
    fn new(hold: &HoldRow, stoppable: &Stoppable<'_>, now: Timestamp) -> Self {
        Self {
            scope: hold.scope.as_str().to_owned(),
            cause: hold.cause.as_str(),
            why: hold.why.clone(),
            since_at: hold.since_at.0,
            until_at: hold.until_at.map(|at| at.0),
            left_s: hold.until_at.map(|at| seconds(at.since(now))),
            rows: stoppable.under(hold, now),
            needs_a_person: needs_a_person(hold),
        }
    }
}
