//! `sweeper status` for people.

use std::{collections::HashSet, time::Duration};

use super::report::{DaemonReport, InFlight, Report, Rows, is_stopped};
use crate::{
    cli::times::{plural, show_count, show_text, show_time},
    durations,
    model::{
        clock::Timestamp,
        hold::HoldRow,
        outcome::{Cause, Scope},
    },
    queue::sqlite::Standing,
};

/// Agents that are listed.
const SHOWN_AGENTS: usize = 15;
/// Holds that are listed.
const SHOWN_HOLDS: usize = 10;
/// Width of a name, and of a name in the table of holds.
const NAME: usize = 36;
const HELD_NAME: usize = 28;

const BOLD: &str = "\u{1b}[1m";
const GREEN: &str = "\u{1b}[32m";
const YELLOW: &str = "\u{1b}[33m";
const RED: &str = "\u{1b}[31m";
const PLAIN: &str = "\u{1b}[0m";

/// The page, 80 columns wide.
pub(super) fn show(report: &Report, standing: &Standing, is_one_agent: bool) -> String {
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

/// The daemon, its rate, and when the queue will be empty.
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

/// The number of rows in each state.
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

/// The pending rows that the time to empty leaves out, because they wait for a hold or a due time.
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

/// Scope, cause, age and end of a hold.
pub(in crate::cli) fn hold_line(hold: &HoldRow, now: Timestamp) -> String {
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
