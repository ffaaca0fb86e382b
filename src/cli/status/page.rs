//! `sweeper status` for people.

use std::{collections::HashSet, time::Duration};

use super::{
    acts::act_lines,
    json::{DaemonReport, InFlight, Report, Rows, is_stopped},
};
use crate::{
    cli::{
        terminal::{GREEN, RED, YELLOW, styled, table},
        times::{plural, show_count, show_text, show_time},
    },
    durations,
    model::{
        clock::Timestamp,
        hold::HoldRow,
        outcome::{Cause, Scope},
    },
    printable,
    queue::sqlite::Standing,
};

/// Agents that are listed.
const SHOWN_AGENTS: usize = 15;
/// Holds that are listed.
const SHOWN_HOLDS: usize = 10;
/// The longest version that is shown whole.
const MAX_VERSION: usize = 36;

/// The longest reason of a hold that is shown whole.
const MAX_WHY: usize = 60;

/// The page, 80 columns wide.
pub(super) fn show(report: &Report, standing: &Standing, is_one_agent: bool) -> String {
    let now = Timestamp(report.at);
    let mut sections = vec![daemon_lines(report, standing, now), row_lines(&report.rows, standing)];
    if !standing.agents.is_empty() && !is_one_agent {
        sections.push(agent_lines(standing));
    }
    if !report.dead.is_empty() {
        sections.push(dead_lines(report));
    }
    if !standing.holds.is_empty() {
        let mut lines = hold_lines(standing.holds.iter().take(SHOWN_HOLDS), now);
        more(&mut lines, standing.holds.len(), SHOWN_HOLDS, "holds");
        sections.push(lines);
    }
    if !standing.acts.is_empty() {
        sections.push(act_lines(&standing.acts, now));
    }
    sections.iter().map(|lines| lines.join("\n")).collect::<Vec<_>>().join("\n\n")
}

/// The daemon, its rate, and when the queue will be empty.
fn daemon_lines(report: &Report, standing: &Standing, now: Timestamp) -> Vec<String> {
    let mut facts = vec![("daemon", daemon(&report.daemon, now))];
    if let (Some(pid), Some(version)) = (report.daemon.pid, &report.daemon.version) {
        facts.push(("process", format!("{pid}, version {}", show_text(version, MAX_VERSION))));
    }
    let lately = format!("lately {} deleted per minute", show_count(report.deleted_per_minute.round() as u64));
    let rate = report.daemon.requests_per_second;
    let rate = rate.map_or_else(String::new, |rate| format!("at most {rate:.2} requests/s; "));
    facts.push(("rate", format!("{rate}{lately}")));
    let InFlight { requests, rows } = report.in_flight;
    if requests > 0 {
        let orphans = if report.daemon.running == Some(false) { ", until the next daemon settles them" } else { "" };
        let (requests, rows) = (plural(requests, "request", "requests"), plural(rows, "row", "rows"));
        facts.push(("in flight", format!("{requests} with {rows}{orphans}")));
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
        None => "cannot be estimated: no row reached an end lately".to_owned(),
    };
    facts.push(("empty", empty));
    if let (Some(1..), Some(left_out)) = (report.empty_in_s, left_out(report, standing, now)) {
        facts.push(("", format!("which leaves out {left_out}")));
    }
    facts.into_iter().map(|(name, text)| format!("{name:<9}  {text}")).collect()
}

fn daemon(daemon: &DaemonReport, now: Timestamp) -> String {
    match (daemon.running, daemon.started_at) {
        (Some(true), Some(started_at)) => {
            let started_at = Timestamp(started_at);
            let running = styled(GREEN, "running");
            format!("{running} since {} ({})", show_time(started_at), durations::show_roughly(now.since(started_at)))
        }
        (Some(true), None) => {
            let pid = daemon.pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
            format!("{}, or another command has the file for a moment{pid}", styled(YELLOW, "starting"))
        }
        (Some(false), _) => styled(YELLOW, "not running"),
        (None, _) => "unknown: this user cannot read the lock file beside the database".to_owned(),
    }
}

/// The number of rows in each state.
fn row_lines(rows: &Rows, standing: &Standing) -> Vec<String> {
    let Rows { pending, due, deleted, absent, dead } = rows;
    let oldest = match due {
        0 => String::new(),
        _ => format!(", the oldest for {}", durations::show_roughly(standing.oldest_due)),
    };
    let due = format!("{} due{oldest}", show_count(*due));
    let row = |state: &str, rows: &u64, note: &str| [state.to_owned(), show_count(*rows), note.to_owned()];
    let rows =
        [row("pending", pending, &due), row("deleted", deleted, ""), row("absent", absent, ""), row("dead", dead, "")];
    let mut lines = table(["state", "rows", ""], &[1], rows);
    if let Some(line) = lines.last_mut().filter(|_| *dead > 0) {
        *line = styled(RED, &line);
    }
    lines
}

/// The agents with open rows.
fn agent_lines(standing: &Standing) -> Vec<String> {
    let rows = standing.agents.iter().take(SHOWN_AGENTS).map(|agent| {
        let oldest = if agent.due > 0 { durations::show_roughly(agent.oldest_due) } else { String::new() };
        [printable::line(&agent.agent).into_owned(), show_count(agent.pending), show_count(agent.due), oldest]
    });
    let mut lines = table(["agent", "pending", "due", "oldest due"], &[1, 2, 3], rows);
    more(&mut lines, standing.agents.len(), SHOWN_AGENTS, "agents");
    lines
}

/// The causes of the dead rows.
fn dead_lines(report: &Report) -> Vec<String> {
    let rows = report.dead.iter().map(|dead| {
        let cause = printable::line(dead.cause.as_deref().unwrap_or("?")).into_owned();
        [cause, show_count(dead.rows), show_count(dead.unconfirmed)]
    });
    table(["dead because", "rows", "unconfirmed"], &[1, 2], rows)
}

/// Scope, cause, age and end of holds.
pub(in crate::cli) fn hold_lines<'h>(holds: impl IntoIterator<Item = &'h HoldRow>, now: Timestamp) -> Vec<String> {
    let rows = holds.into_iter().map(|hold| {
        let scope = match &hold.scope {
            Scope::All => "everything".to_owned(),
            Scope::Agent(agent) => printable::line(agent.as_str()).into_owned(),
        };
        let until = match hold.until_at {
            None => "somebody lifts it".to_owned(),
            Some(at) if at <= now && hold.cause == Cause::Operator => "it is over".to_owned(),
            Some(at) if at <= now => "the next request probes".to_owned(),
            Some(at) => format!("in {}", durations::show_roughly(at.since(now))),
        };
        let why = hold.why.as_ref().map_or_else(String::new, |why| format!(": {}", show_text(why, MAX_WHY)));
        [scope, format!("{}{why}", hold.cause.as_str()), durations::show_roughly(now.since(hold.since_at)), until]
    });
    let mut lines = table(["held", "because", "since", "until"], &[2], rows);
    lines.iter_mut().skip(1).for_each(|line| *line = styled(YELLOW, &line));
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

fn more(lines: &mut Vec<String>, all: usize, shown: usize, what: &str) {
    if all > shown {
        lines.push(format!("… and {} more {what}; --json has all of them", show_count((all - shown) as u64)));
    }
}
