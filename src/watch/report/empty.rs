//! The line of the page that tells when the queue will be empty, and which rows are left then.

use super::{
    figures::{plural, show_count},
    json::{AgentReport, Report},
    why::{Reason, needs_a_person},
    words::Name,
};
use crate::{
    durations,
    model::{hold::HoldRow, outcome::Scope},
    queue::report::Standing,
};

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// It is as it should be.
    Plain,
    /// Rows wait for something that ends by itself.
    Warning,
    /// Rows wait for a person.
    Alarm,
}

/// When the queue will be empty, and below that which rows are held.
pub(crate) fn lines(report: &Report, standing: &Standing, name: Name<'_>) -> Vec<(Tone, String)> {
    let (outlook, pending) = (report.outlook, report.rows.pending);
    if pending == 0 {
        return vec![(Tone::Plain, inbox(report))];
    }
    let of = |rows: u64| format!("({} of {})", show_count(rows), plural(pending, "row", "rows"));
    let stopped =
        (outlook.stopped > 0).then(|| format!("{} held {}", stoppers(report, standing, name), of(outlook.stopped)));
    let probed = (outlook.probed > 0).then(|| (probed(report, standing, name), causes(standing)));
    let mut lines = Vec::new();
    if outlook.rest > 0 || (report.daemon.running == Some(false) && probed.is_some()) {
        lines.push((Tone::Plain, rest(report)));
        lines.extend(stopped.map(|held| (Tone::Alarm, format!("but {held}"))));
        if let Some((scope, causes)) = probed.filter(|_| outlook.rest > 0) {
            lines.push((Tone::Warning, format!("but {scope} held until a probe gets through ({causes})")));
        }
        return lines;
    }
    // Nothing but held rows is left: no time is worth saying.
    lines.extend(stopped.map(|held| (Tone::Alarm, format!("not while {held}"))));
    if let Some((scope, causes)) = probed {
        let held = format!("{scope} held ({causes})");
        if scope == EVERYTHING {
            lines.push((Tone::Warning, format!("not before a probe gets through: {held}")));
        } else {
            lines.extend([(Tone::Warning, "not before a probe gets through:".to_owned()), (Tone::Warning, held)]);
        }
    }
    lines
}

/// Nothing is pending, but for wishes that the leader has not taken in.
fn inbox(report: &Report) -> String {
    let wishes = report.inbox.as_ref().map_or(0, |inbox| inbox.rows);
    let waiting = plural(wishes, "wish is in the inbox", "wishes are in the inbox");
    match (wishes, report.daemon.running) {
        (0, _) => "nothing is pending".to_owned(),
        (_, Some(false)) => format!("not before a daemon runs: {waiting}"),
        _ => format!("cannot be estimated: {waiting}, for the leader to take in"),
    }
}

/// When the rows that are not held will have reached an end.
fn rest(report: &Report) -> String {
    match report.outlook.rest_in {
        _ if report.daemon.running == Some(false) => "not before a daemon runs".to_owned(),
        Some(span) if report.outlook.waits_for_due_rows => {
            format!("in about {}, when the last row is due", durations::show_roughly(span))
        }
        Some(span) => format!("in about {}, at the pace of the last minutes", durations::show_roughly(span)),
        None => "cannot be estimated: no row reached an end lately".to_owned(),
    }
}

const EVERYTHING: &str = "everything is";

/// The scopes that are held until a person acts, with their verb: `PROJECT-58RP822I is`.
fn stoppers(report: &Report, standing: &Standing, name: Name<'_>) -> String {
    if standing.holds.iter().any(|hold| needs_a_person(hold) && hold.scope == Scope::All) {
        return EVERYTHING.to_owned();
    }
    scopes(report.agents.iter().filter(|agent| agent.waits_for == Some(Reason::NeedsAPerson)), name)
}

/// The scopes that are held until a probe gets through, likewise.
fn probed(report: &Report, standing: &Standing, name: Name<'_>) -> String {
    if by_probe(standing).any(|hold| hold.scope == Scope::All) && report.outlook.stopped + report.outlook.rest == 0 {
        return EVERYTHING.to_owned();
    }
    scopes(report.agents.iter().filter(|agent| agent.is_probed && agent.waits_for != Some(Reason::NeedsAPerson)), name)
}

/// The causes of the holds that end when a probe gets through.
fn causes(standing: &Standing) -> String {
    let mut causes: Vec<&str> = by_probe(standing).map(|hold| hold.cause.as_str()).collect();
    causes.sort_unstable();
    causes.dedup();
    match causes.as_slice() {
        [cause] => (*cause).to_owned(),
        [one, other] => format!("{one}, {other}"),
        _ => plural(causes.len() as u64, "cause", "causes"),
    }
}

fn by_probe(standing: &Standing) -> impl Iterator<Item = &HoldRow> {
    standing.holds.iter().filter(|hold| !hold.cause.is_of_a_command() && !needs_a_person(hold))
}

fn scopes<'a>(mut agents: impl Iterator<Item = &'a AgentReport>, name: Name<'_>) -> String {
    let first = agents.next().map_or_else(|| "an agent".to_owned(), |agent| name(&agent.agent_id));
    match agents.count() {
        0 => format!("{first} is"),
        others => format!("{first} and {} are", plural(others as u64, "other", "others")),
    }
}
