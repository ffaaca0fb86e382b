//! `sweeper plan` for people.

use std::time::Duration;

use super::json::{AgentReport, Report, Sum};
use crate::{
    cli::{
        terminal::{RED, YELLOW, styled, table},
        times::{plural, show_count, show_text},
    },
    durations,
    model::clock::Timestamp,
};

/// Agents that are listed.
const SHOWN_AGENTS: usize = 20;
/// The longest ID that is shown whole, in characters. PolyAI's have 16.
const LONGEST_AGENT: usize = 18;

pub(super) fn show(report: &Report) -> String {
    let now = Timestamp(report.at);
    let mut lines: Vec<String> =
        facts(report, now).into_iter().map(|(name, text)| format!("{name:<9}  {text}")).collect();
    if !report.agents.is_empty() {
        lines.push(String::new());
        lines.extend(agent_lines(&report.agents, now));
    }
    lines.join("\n")
}

fn facts(report: &Report, now: Timestamp) -> Vec<(&'static str, String)> {
    let whose = match (report.is_running, report.daemon) {
        (Some(true), Some(pid)) => format!("the rate of the daemon (process {pid}) now"),
        (Some(true), None) => "the rate of the daemon now".to_owned(),
        (Some(false), _) => "configured; no daemon runs".to_owned(),
        (None, _) => "configured; this user cannot see whether a daemon runs".to_owned(),
    };
    let mut facts = vec![("rate", format!("{:.2} requests/s, {whose}", report.requests_per_second))];
    let agents = || report.agents.iter().filter(|agent| !agent.is_held());
    let takes = Duration::from_secs_f64(report.now_takes_s.min(1e9));
    let takes =
        if report.now.rows > 0 { format!(": {} at this rate", durations::show_roughly(takes)) } else { String::new() };
    facts.push(("now", format!("{}{takes}", sum(report.now))));
    if report.later.rows > 0 {
        let first = agents().filter_map(|agent| agent.next_due_at).min();
        let last = agents().filter_map(|agent| agent.last_due_at).max();
        let at = |at: Option<i64>| at.map_or_else(String::new, |at| durations::show_roughly(Timestamp(at).since(now)));
        let (first, last) = (at(first), at(last));
        let span = if first == last { first } else { format!("{first} to {last}") };
        facts.push(("later", format!("{}, due in {span}", sum(report.later))));
    }
    if report.held.rows > 0 {
        facts.push(("held", styled(YELLOW, sum(report.held))));
    }
    let inbox = report.inbox.as_ref().map_or(0, |inbox| inbox.rows);
    let total =
        if report.total.rows == 0 && inbox > 0 { "nothing but the inbox".to_owned() } else { sum(report.total) };
    facts.push(("total", total));
    if report.in_flight.requests > 0 {
        let orphans = if report.is_running == Some(false) { "; the next daemon settles them first" } else { "" };
        facts.push(("in flight", format!("{} of the total{orphans}", sum(report.in_flight))));
    }
    if inbox > 0 {
        let wishes = plural(inbox, "wish waits", "wishes wait");
        let until = match report.is_running {
            Some(false) => styled(YELLOW, format!("{wishes} for a daemon: none runs")),
            _ => format!("{wishes} for the leader to take them in"),
        };
        facts.push(("inbox", until));
    }
    if report.refused > 0 {
        let rows = plural(report.refused, "more row has a value", "more rows have values");
        facts.push(("refused", styled(RED, format!("{rows} that no request can carry; the daemon makes them dead"))));
    }
    if report.total.rows > 0 {
        facts.push(("", "These are the fewest requests: IDs that fail come back in later ones.".to_owned()));
    }
    facts
}

fn sum(sum: Sum) -> String {
    if sum.rows == 0 {
        return "nothing".to_owned();
    }
    format!("{} in {}", plural(sum.rows, "row", "rows"), plural(sum.requests, "request", "requests"))
}

/// The agents, in the order in which they go.
fn agent_lines(agents: &[AgentReport], now: Timestamp) -> Vec<String> {
    let rows = agents.iter().take(SHOWN_AGENTS).map(|agent| {
        [
            show_text(&agent.agent_id, LONGEST_AGENT),
            agent.priority.to_string(),
            show_count(agent.due.rows),
            show_count(agent.later.rows),
            show_count(agent.due.requests + agent.later.requests),
            goes(agent, now),
        ]
    });
    let mut lines = table(["agent", "priority", "due", "later", "requests", "goes"], &[1, 2, 3, 4], rows);
    for (line, agent) in lines.iter_mut().skip(1).zip(agents) {
        if agent.is_held() {
            *line = styled(YELLOW, &line);
        }
    }
    if agents.len() > SHOWN_AGENTS {
        let more = show_count((agents.len() - SHOWN_AGENTS) as u64);
        lines.push(format!("… and {more} more; --json has all of them"));
    }
    lines
}

/// When the first of these rows goes.
fn goes(agent: &AgentReport, now: Timestamp) -> String {
    let left = |at: i64| durations::show_roughly(Timestamp(at).since(now));
    match (&agent.hold, agent.next_due_at) {
        (Some(hold), _) if !hold.probes => {
            let until = hold.until_at.map_or_else(|| ", no end".to_owned(), |at| format!(" {}", left(at)));
            format!("held{until}: {}", hold.cause)
        }
        (_, Some(at)) if agent.due.rows == 0 => format!("in {}", left(at)),
        (Some(hold), _) => format!("probe first: {}", hold.cause),
        (None, _) => "now".to_owned(),
    }
}
