//! `sweeper status`: how the queue stands, for people and for programs.

use std::{
    collections::HashSet,
    future::Future,
    io::{self, IsTerminal as _, Write as _},
    pin::pin,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;
use tokio::time::sleep;

use super::{
    Failure, agent_id, duration,
    times::{plural, show_count, show_text, show_time},
};
use crate::{
    config::Config,
    durations,
    model::{
        clock::{Clock, Timestamp},
        deletion::AgentId,
        hold::HoldRow,
        outcome::{Cause, Scope},
    },
    printable,
    queue::sqlite::{Reader, Standing, sure},
};

/// How many agents the table has.
const SHOWN_AGENTS: usize = 15;
/// How many holds it has.
const SHOWN_HOLDS: usize = 10;
/// How long a name in it may be, and in the table of holds, which has more beside it.
const NAME: usize = 36;
const HELD_NAME: usize = 28;

const EXAMPLES: &str = "\
Examples:
  sweeper status
  sweeper status --agent PROJECT-58RP822I --watch
  sweeper status --json | jq .rows.pending

It only reads, and reads the whole table of deletions: the more rows, the longer that takes.

Exit codes: 0 shown, whether or not a daemon runs, 2 usage or configuration, 3 database unusable.";

/// What is shown, and how.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct StatusArgs {
    /// One JSON object on one line, as the README describes it.
    #[arg(long)]
    json: bool,
    /// Again and again, every two seconds or so often, until interrupted.
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = "2s",
          value_parser = duration)]
    watch: Option<Duration>,
    /// Only what concerns this agent.
    #[arg(long, value_name = "AGENT", value_parser = agent_id)]
    agent: Option<AgentId>,
}

/// Shows it, until `shutdown` if it is to be watched.
///
/// # Errors
/// If the database cannot be read, or standard output not written.
pub(super) async fn status(
    args: StatusArgs,
    config: &Config,
    clock: Clock,
    shutdown: impl Future<Output = ()>,
) -> Result<ExitCode, Failure> {
    let mut shutdown = pin!(shutdown);
    let mut first = true;
    loop {
        let now = clock.now();
        let look = async || {
            let mut reader = Reader::open(&config.store).await?;
            Ok::<_, Failure>(reader.standing(args.agent.as_ref(), now).await?)
        };
        let standing = sure(look).await?;
        let report = Report::new(config, args.agent.as_ref(), &standing, now);
        let text = if args.json {
            printable::json_line(&serde_json::to_string(&report).context("write JSON")?).into_owned()
        } else {
            let clear = if args.watch.is_some() && io::stdout().is_terminal() { "\u{1b}[H\u{1b}[2J" } else { "" };
            let gap = if first || !clear.is_empty() { "" } else { "\n" };
            format!("{clear}{gap}{}", show(&report, &standing, args.agent.is_some()))
        };
        first = false;
        // Takes the colours out if it is no terminal, or NO_COLOR is set.
        let mut out = anstream::stdout();
        writeln!(out, "{text}").and_then(|()| out.flush()).context("write to standard output")?;
        let Some(pause) = args.watch else { return Ok(ExitCode::SUCCESS) };
        tokio::select! {
            () = &mut shutdown => return Ok(ExitCode::SUCCESS),
            () = sleep(pause) => {}
        }
    }
}

/// What `--json` writes: names and meanings are stable. Times are Unix milliseconds, spans seconds.
#[derive(Debug, Serialize)]
struct Report {
    database: String,
    at: i64,
    agent: Option<String>,
    daemon: DaemonReport,
    rows: Rows,
    in_flight: InFlight,
    oldest_due_s: f64,
    deleted_per_minute: f64,
    ended_per_minute: f64,
    empty_in_s: Option<u64>,
    agents: Vec<AgentReport>,
    dead: Vec<DeadReport>,
    holds: Vec<HoldReport>,
}

#[derive(Debug, Serialize)]
struct DaemonReport {
    running: Option<bool>,
    pid: Option<u32>,
    version: Option<String>,
    started_at: Option<i64>,
    requests_per_second: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Rows {
    pending: u64,
    due: u64,
    deleted: u64,
    absent: u64,
    dead: u64,
}

#[derive(Debug, Serialize)]
struct InFlight {
    requests: u64,
    rows: u64,
}

#[derive(Debug, Serialize)]
struct AgentReport {
    agent_id: String,
    pending: u64,
    due: u64,
    oldest_due_s: f64,
}

#[derive(Debug, Serialize)]
struct DeadReport {
    cause: Option<String>,
    rows: u64,
    unconfirmed: u64,
}

#[derive(Debug, Serialize)]
struct HoldReport {
    scope: String,
    cause: &'static str,
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
    fn new(config: &Config, agent: Option<&AgentId>, standing: &Standing, now: Timestamp) -> Self {
        let Standing { daemon, pending, due, deleted, absent, dead, lately, .. } = standing;
        let ended_per_minute = per_minute(lately.ended, lately.span);
        // Nothing gets done without a daemon, or while all is held until somebody lifts it.
        let goes_on = daemon.running != Some(false) && !is_stopped(&standing.holds);
        let empty_in_s = match pending {
            0 => Some(0),
            pending if goes_on && ended_per_minute > 0.0 => {
                let held = standing.holds.iter().filter(|hold| hold.scope == Scope::All);
                let held = held.filter_map(|hold| Some(hold.until_at?.since(now))).max().unwrap_or_default();
                Some(held.as_secs() + (*pending as f64 / ended_per_minute * 60.0).ceil() as u64)
            }
            _ => None,
        };
        let said = daemon.said.as_ref();
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
            deleted_per_minute: per_minute(lately.deleted, lately.span),
            ended_per_minute,
            empty_in_s,
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
        }
    }
}

/// Held by somebody who has not said until when.
fn is_stopped(holds: &[HoldRow]) -> bool {
    holds.iter().any(|hold| hold.scope == Scope::All && hold.until_at.is_none())
}

impl HoldReport {
    fn new(hold: &HoldRow, now: Timestamp) -> Self {
        Self {
            scope: hold.scope.as_str().to_owned(),
            cause: hold.cause.as_str(),
            since_at: hold.since_at.0,
            until_at: hold.until_at.map(|at| at.0),
            left_s: hold.until_at.map(|at| seconds(at.since(now))),
        }
    }
}

const BOLD: &str = "\u{1b}[1m";
const GREEN: &str = "\u{1b}[32m";
const YELLOW: &str = "\u{1b}[33m";
const RED: &str = "\u{1b}[31m";
const PLAIN: &str = "\u{1b}[0m";

/// For people, on 80 columns.
fn show(report: &Report, standing: &Standing, is_one_agent: bool) -> String {
    let now = Timestamp(report.at);
    let mut lines = daemon_lines(report, standing, now);
    lines.push(String::new());
    lines.extend(row_lines(&report.rows, standing));
    if !standing.agents.is_empty() && !is_one_agent {
        lines.push(String::new());
        lines.extend(agent_lines(standing));
    }
    if !report.dead.is_empty() {
        lines.push(String::new());
        lines.extend(dead_lines(report));
    }
    if !standing.holds.is_empty() {
        lines.push(String::new());
        lines.push(format!("{BOLD}{:<HELD_NAME$} {:<14} {:>9}  {}{PLAIN}", "held", "because", "since", "until"));
        lines.extend(standing.holds.iter().take(SHOWN_HOLDS).map(|hold| hold_line(hold, now)));
        more(&mut lines, standing.holds.len(), SHOWN_HOLDS, "holds");
    }
    let lines: Vec<&str> = lines.iter().map(|line| line.trim_end()).collect();
    lines.join("\n")
}

/// Who works on the queue, how fast, and when it will be empty.
fn daemon_lines(report: &Report, standing: &Standing, now: Timestamp) -> Vec<String> {
    let mut lines = vec![format!("{:<10} {}", "daemon", daemon_line(&report.daemon, now))];
    if let (Some(pid), Some(version)) = (report.daemon.pid, &report.daemon.version) {
        lines.push(format!("{:<10} {pid}, version {}", "process", show_text(version, NAME)));
    }
    let lately = format!("lately {} deleted per minute", show_count(report.deleted_per_minute.round() as u64));
    let rate = report.daemon.requests_per_second;
    let rate = rate.map_or_else(String::new, |rate| format!("{rate:.2} requests/s at the most; "));
    lines.push(format!("{:<10} {rate}{lately}", "rate"));
    let InFlight { requests, rows } = report.in_flight;
    if requests > 0 {
        let orphans = if report.daemon.running == Some(false) { ", until the next daemon settles them" } else { "" };
        let (requests, rows) = (plural(requests, "request", "requests"), plural(rows, "row", "rows"));
        lines.push(format!("{:<10} {requests} with {rows}{orphans}", "in flight"));
    }
    let empty = match report.empty_in_s {
        Some(0) => "nothing is pending".to_owned(),
        Some(seconds) => {
            format!(
                "in about {}, at the pace of the last minutes",
                durations::show_roughly(Duration::from_secs(seconds))
            )
        }
        None if report.daemon.running == Some(false) => "not before a daemon runs".to_owned(),
        None if is_stopped(&standing.holds) => "not before the hold on everything is lifted".to_owned(),
        None => "nobody can tell: nothing reached an end lately".to_owned(),
    };
    lines.push(format!("{:<10} {empty}", "empty"));
    if let (Some(1..), Some(left_out)) = (report.empty_in_s, left_out(report, standing, now)) {
        lines.push(format!("{:<10} which leaves out {left_out}", ""));
    }
    lines
}

/// How many rows are in each state.
fn row_lines(rows: &Rows, standing: &Standing) -> [String; 4] {
    let Rows { pending, due, deleted, absent, dead } = rows;
    let oldest = match due {
        0 => String::new(),
        _ => format!(", the oldest for {}", durations::show_roughly(standing.oldest_due)),
    };
    let (colour, plain) = if *dead > 0 { (RED, PLAIN) } else { ("", "") };
    [
        format!("{:<10} {:>13}   {} due{oldest}", "pending", show_count(*pending), show_count(*due)),
        format!("{:<10} {:>13}", "deleted", show_count(*deleted)),
        format!("{:<10} {:>13}", "absent", show_count(*absent)),
        format!("{:<10} {colour}{:>13}{plain}", "dead", show_count(*dead)),
    ]
}

/// The agents with open rows.
fn agent_lines(standing: &Standing) -> Vec<String> {
    let mut lines =
        vec![format!("{BOLD}{:<NAME$} {:>13} {:>13} {:>14}{PLAIN}", "agent", "pending", "due", "oldest due")];
    for agent in standing.agents.iter().take(SHOWN_AGENTS) {
        let oldest = if agent.due > 0 { durations::show_roughly(agent.oldest_due) } else { String::new() };
        let (name, pending, due) = (show_text(&agent.agent, NAME), show_count(agent.pending), show_count(agent.due));
        lines.push(format!("{name:<NAME$} {pending:>13} {due:>13} {oldest:>14}"));
    }
    more(&mut lines, standing.agents.len(), SHOWN_AGENTS, "agents");
    lines
}

/// Why the dead rows are dead.
fn dead_lines(report: &Report) -> Vec<String> {
    let mut lines = vec![format!("{BOLD}{:<NAME$} {:>13} {:>13}{PLAIN}", "dead because", "rows", "unconfirmed")];
    for dead in &report.dead {
        let cause = show_text(dead.cause.as_deref().unwrap_or("?"), NAME);
        lines.push(format!("{cause:<NAME$} {:>13} {:>13}", show_count(dead.rows), show_count(dead.unconfirmed)));
    }
    lines
}

/// What is pending and does not wait for its turn alone, so that no pace tells when it goes.
fn left_out(report: &Report, standing: &Standing, now: Timestamp) -> Option<String> {
    let is_over = |hold: &HoldRow| hold.cause == Cause::Operator && hold.until_at.is_some_and(|until| until <= now);
    let held = standing.holds.iter().filter(|hold| !is_over(hold));
    let held: HashSet<&str> = held.filter(|hold| hold.scope != Scope::All).map(|hold| hold.scope.as_str()).collect();
    let held = standing.agents.iter().filter(|agent| held.contains(agent.agent.as_str())).count() as u64;
    let later = report.rows.pending - report.rows.due;
    let parts =
        [(held, plural(held, "held agent", "held agents")), (later, plural(later, "row due later", "rows due later"))];
    let parts: Vec<String> = parts.into_iter().filter(|(count, _)| *count > 0).map(|(_, text)| text).collect();
    (!parts.is_empty()).then(|| parts.join(" and "))
}

fn daemon_line(daemon: &DaemonReport, now: Timestamp) -> String {
    match (daemon.running, daemon.started_at) {
        (Some(true), Some(started_at)) => {
            let started_at = Timestamp(started_at);
            format!(
                "{GREEN}running{PLAIN} since {} ({})",
                show_time(started_at),
                durations::show_roughly(now.since(started_at))
            )
        }
        (Some(true), None) => {
            let pid = daemon.pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
            format!("{YELLOW}starting{PLAIN}, or another command has the file for a moment{pid}")
        }
        (Some(false), _) => format!("{YELLOW}not running{PLAIN}"),
        (None, _) => "unknown: this user cannot read the lock file beside the database".to_owned(),
    }
}

/// On what, why, since when, for how long.
pub(super) fn hold_line(hold: &HoldRow, now: Timestamp) -> String {
    let scope = match &hold.scope {
        Scope::All => "everything".to_owned(),
        Scope::Agent(agent) => show_text(agent.as_str(), HELD_NAME),
    };
    let until = match hold.until_at {
        None => "somebody lifts it".to_owned(),
        Some(at) if at <= now && hold.cause == Cause::Operator => "it is over".to_owned(),
        Some(at) if at <= now => "the next request probes".to_owned(),
        Some(at) => format!("in {}", durations::show_roughly(at.since(now))),
    };
    let since = durations::show_roughly(now.since(hold.since_at));
    let cause = format!("{:<14}", hold.cause.as_str());
    format!("{scope:<HELD_NAME$} {YELLOW}{cause}{PLAIN} {since:>9}  {until}")
}

fn more(lines: &mut Vec<String>, all: usize, shown: usize, what: &str) {
    if all > shown {
        lines.push(format!("… and {} more {what}; --json has all of them", show_count((all - shown) as u64)));
    }
}
