//! `sweeper status` for people: a function for each section of the page.

use std::time::Duration;

use super::{
    acts::act_lines,
    layout::{Section, lay_out, least_height},
};
use crate::{
    cli::{
        screen,
        terminal::{GREEN, RED, YELLOW, styled, table},
        times::{plural, show_count, show_text, show_time},
        version,
    },
    durations,
    model::{clock::Timestamp, hold::HoldRow, outcome::Scope},
    printable,
    queue::report::{INBOX, Standing},
    watch::report::{
        empty::{self, Tone},
        json::{AgentReport, InFlight, LeadershipReport, Report, Rows, SessionReport},
        limits,
        why::{Reason, needs_a_person},
        words::{blocked, hold_until, probe, session_of, told, waits_for},
    },
};

/// Agents that are listed on a terminal whose height does not decide.
const SHOWN_AGENTS: usize = 15;
/// Holds, likewise.
const SHOWN_HOLDS: usize = 10;
/// Agents, and holds, that are listed where there is no terminal.
const MOST_LISTED: usize = 5_000;
/// Holds, and agents, that a screen shows before it shows less important sections.
const LEAST_LISTED: usize = 2;
/// The longest version that is shown whole.
const MAX_VERSION: usize = 36;
/// The longest name of a role that is shown whole.
const MAX_USER: usize = 30;
/// The width from which agents have more columns.
const WIDE: usize = 110;

/// The names of the lines that tell when the queue will be empty: the first has one.
const EMPTY: [&str; 4] = ["empty", "", "", ""];

/// The page, as wide as the terminal. With a `height`, it has that many lines at most.
pub(super) fn show(report: &Report, standing: &Standing, height: Option<usize>) -> Vec<String> {
    let full = sections(report, standing, height, false);
    // The last acts of operators are left out before the facts are shortened.
    let important = &full[..full.len() - usize::from(!standing.acts.is_empty())];
    match height {
        Some(height) if least_height(important) > height => {
            lay_out(&sections(report, standing, Some(height), true), Some(height))
        }
        _ => lay_out(&full, height),
    }
}

/// The sections, the most important lists first. `is_short`: the facts take fewer lines, so that holds and agents have some.
fn sections(report: &Report, standing: &Standing, height: Option<usize>, is_short: bool) -> Vec<Section> {
    let now = Timestamp(report.at);
    let most = |usual: usize| height.unwrap_or(if screen::columns().is_some() { usual } else { MOST_LISTED });
    let facts = Section::of(daemon_lines(report, standing, is_short, now));
    let mut sections = vec![facts, Section::of(row_lines(report, is_short, now))];
    if !standing.holds.is_empty() {
        sections.push(holds(standing, most(SHOWN_HOLDS), now));
    }
    if !report.dead.is_empty() && !is_short {
        sections.push(Section::list(dead_lines(report), 1));
    }
    if !report.agents.is_empty() && report.agent.is_none() {
        sections.push(agents(report, most(SHOWN_AGENTS), now));
    }
    if !standing.acts.is_empty() && !is_short {
        sections.push(Section::list(act_lines(&standing.acts, now), 1));
    }
    sections
}

/// The daemon, its rate, and when the queue will be empty.
fn daemon_lines(report: &Report, standing: &Standing, is_short: bool, now: Timestamp) -> Vec<String> {
    let mut facts = vec![("daemon", daemon(report, now))];
    if is_short {
        facts.extend(empty_lines(report, standing).into_iter().zip(EMPTY).map(|(text, name)| (name, text)));
        let Rows { deleted, absent, dead, .. } = &report.rows;
        let [deleted, absent, lost] = [deleted, absent, dead].map(|rows| show_count(*rows));
        let lost = if *dead > 0 { styled(RED, format!("{lost} dead")) } else { format!("{lost} dead") };
        facts.push(("settled", format!("{deleted} deleted, {absent} absent, {lost}")));
        return facts.into_iter().map(|(name, text)| format!("{name:<9}  {text}")).collect();
    }
    if let (Some(pid), Some(version)) = (report.daemon.pid, &report.daemon.version) {
        let other = if version == version::SHORT { String::new() } else { format!(" (this is {})", version::SHORT) };
        facts.push(("process", format!("{pid}, version {}{other}", show_text(version, MAX_VERSION))));
    }
    if let Some(leadership) = &report.leadership {
        facts.extend(leadership_lines(leadership, now));
    }
    let settings = report.settings.as_ref();
    let lately = format!("lately {} deleted per minute", show_count(report.deleted_per_minute.round() as u64));
    facts.extend(["rate", ""].into_iter().zip(settings.map(limits::rate).into_iter().chain([lately])));
    let InFlight { requests, rows } = report.in_flight;
    let flying = (requests > 0).then(|| {
        let orphans = if report.daemon.running == Some(false) { ", until the next daemon settles them" } else { "" };
        format!("{} with {}{orphans}", plural(requests, "request", "requests"), plural(rows, "row", "rows"))
    });
    facts.extend(["in flight", ""].into_iter().zip(flying.into_iter().chain(settings.map(limits::concurrency))));
    facts.extend(EMPTY.into_iter().zip(empty_lines(report, standing)));
    facts.into_iter().map(|(name, text)| format!("{name:<9}  {text}")).collect()
}

/// Who leads, who waits to lead, and who keeps the leader waiting.
fn leadership_lines(leadership: &LeadershipReport, now: Timestamp) -> Vec<(&'static str, String)> {
    let who = |session: &SessionReport| session_of(session, MAX_USER);
    let leader =
        leadership.leader.iter().map(|leader| ("leader", format!("{}, epoch {}", who(leader), leadership.epoch)));
    let standbys = match leadership.standbys.as_slice() {
        [] => vec![("standbys", "none".to_owned())],
        standbys => standbys.iter().map(|standby| ("standby", who(standby))).collect(),
    };
    let blocked = leadership.blocked_by.iter().map(|blocker| ("blocked", styled(RED, blocked(blocker, MAX_USER, now))));
    leader.chain(blocked).chain(standbys).collect()
}

/// A name in a sentence, as wide as the terminal lets it be.
fn terminal_name(name: &str) -> String {
    let most = screen::columns().map_or(usize::MAX - 1, |columns| columns.saturating_sub(50));
    show_text(name, most.max(10))
}

/// The lines that tell when the queue will be empty.
fn empty_lines(report: &Report, standing: &Standing) -> Vec<String> {
    let coloured = |(tone, text): (Tone, String)| match tone {
        Tone::Plain => text,
        Tone::Warning => styled(YELLOW, text),
        Tone::Alarm => styled(RED, text),
    };
    empty::lines(report, standing, &terminal_name).into_iter().map(coloured).collect()
}

fn daemon(report: &Report, now: Timestamp) -> String {
    let daemon = &report.daemon;
    match (daemon.running, daemon.started_at) {
        (Some(true), Some(started_at)) => {
            let started_at = Timestamp(started_at);
            let running = styled(GREEN, "running");
            format!("{running} since {} ({})", show_time(started_at), durations::show_roughly(now.since(started_at)))
        }
        (Some(true), None) => {
            let pid = daemon.pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
            let what = if report.leadership.is_some() { "lock" } else { "file" };
            format!("{}, or another command has the {what} for a moment{pid}", styled(YELLOW, "starting"))
        }
        (Some(false), _) => styled(YELLOW, "not running"),
        (None, _) => "unknown: this user cannot read the lock file beside the database".to_owned(),
    }
}

/// The number of rows in each state, and what the pending ones wait for.
fn row_lines(report: &Report, is_short: bool, now: Timestamp) -> Vec<String> {
    let Rows { pending, due, deleted, absent, dead, verified } = &report.rows;
    let oldest = match due {
        0 => String::new(),
        _ => format!(", the oldest for {}", durations::show_roughly(Duration::from_secs_f64(report.oldest_due_s))),
    };
    let due = format!("{} due{oldest}", show_count(*due));
    let row = |state: &str, rows: &u64, note: &str| [state.to_owned(), show_count(*rows), note.to_owned()];
    let (waits, reasons): (Vec<_>, Vec<_>) = report
        .waits
        .iter()
        .flat_map(|wait| {
            let (word, note) = told(wait, report, &terminal_name, now);
            let probe = probe(wait, report, now).map(|probe| [String::new(), String::new(), probe]);
            let first = row(&format!("  {word}"), &wait.rows, &note);
            std::iter::once(first).chain(probe).map(|row| (row, wait.reason))
        })
        .unzip();
    let settled = [row("deleted", deleted, ""), row("absent", absent, ""), row("dead", dead, "")];
    let last = report.verified_at.map(|at| format!("of these, not in the cache {}", show_time(Timestamp(at))));
    let verified = last.map(|last| row("verified", verified, &last));
    let settled = settled.into_iter().chain(verified).take(if is_short { 0 } else { usize::MAX });
    let inbox = report.inbox.as_ref().map(|inbox| {
        let oldest = durations::show_roughly(Duration::from_secs_f64(inbox.oldest_s));
        let note = format!("not taken in by the leader yet, the oldest for {oldest}");
        row(INBOX, &inbox.rows, if inbox.rows > 0 { &note } else { "" })
    });
    // The header, the inbox and the pending rows.
    let before = 2 + usize::from(inbox.is_some());
    let rows = inbox.into_iter().chain([row("pending", pending, &due)]).chain(waits).chain(settled);
    let mut lines = table(["state", "rows", ""], &[1], rows);
    for (line, reason) in lines.iter_mut().skip(before).zip(reasons) {
        *line = match reason {
            Reason::NeedsAPerson => styled(RED, &line),
            Reason::InFlight => styled(GREEN, &line),
            Reason::Held | Reason::NoDaemon => styled(YELLOW, &line),
            Reason::Daemon | Reason::Concurrency | Reason::Rate | Reason::Gathering | Reason::DueLater => continue,
        };
    }
    let dead_line = lines.len().saturating_sub(1 + usize::from(report.verified_at.is_some()));
    if let Some(line) = lines.get_mut(dead_line).filter(|_| *dead > 0 && !is_short) {
        *line = styled(RED, &line);
    }
    lines
}

/// The agents with open rows: those that need a person first.
fn agents(report: &Report, most: usize, now: Timestamp) -> Section {
    let all = report.agents.len();
    let agents: Vec<&AgentReport> = report.agents.iter().take(most).collect();
    let oldest = |agent: &AgentReport| {
        if agent.due == 0 {
            String::new()
        } else {
            durations::show_roughly(Duration::from_secs_f64(agent.oldest_due_s))
        }
    };
    let id = |agent: &AgentReport| printable::line(&agent.agent_id).into_owned();
    let (pending, due) = (|agent: &AgentReport| show_count(agent.pending), |agent: &AgentReport| show_count(agent.due));
    let is_wide = screen::columns().is_none_or(|columns| columns >= WIDE);
    let mut lines = if is_wide {
        let rows = agents.iter().map(|agent| {
            let next = agent.next_due_at.map(|next| durations::show_roughly(Timestamp(next).since(now)));
            let (flying, next) = (show_count(agent.in_flight), next.unwrap_or_default());
            [id(agent), pending(agent), due(agent), oldest(agent), flying, next, waits_for(agent, now)]
        });
        let header = ["agent", "pending", "due", "oldest due", "in flight", "next due in", "waits for"];
        table(header, &[1, 2, 3, 4, 5], rows)
    } else {
        let rows =
            agents.iter().map(|agent| [id(agent), pending(agent), due(agent), oldest(agent), waits_for(agent, now)]);
        table(["agent", "pending", "due", "oldest due", "waits for"], &[1, 2, 3], rows)
    };
    let head = lines.drain(..1).collect();
    for (line, agent) in lines.iter_mut().zip(&agents) {
        match agent.waits_for {
            Some(Reason::NeedsAPerson) => *line = styled(RED, &line),
            Some(Reason::Held) => *line = styled(YELLOW, &line),
            _ => {}
        }
    }
    let pending: Vec<u64> = report.agents.iter().map(|agent| agent.pending).collect();
    let more = move |shown: usize| {
        let (agents, rows) = (pending.len() - shown, pending.iter().skip(shown).sum());
        let agents = plural(agents as u64, "more agent", "more agents");
        format!("… and {agents}, {} pending; --json has all of them", show_count(rows))
    };
    Section { head, rows: lines, all, least: LEAST_LISTED, more: Box::new(more) }
}

/// The causes of the dead rows.
fn dead_lines(report: &Report) -> Vec<String> {
    let rows = report.dead.iter().map(|dead| {
        let cause = printable::line(dead.cause.as_deref().unwrap_or("?")).into_owned();
        [cause, show_count(dead.rows), show_count(dead.unconfirmed)]
    });
    table(["dead because", "rows", "unconfirmed"], &[1, 2], rows)
}

/// The holds: those that need a person first.
fn holds(standing: &Standing, most: usize, now: Timestamp) -> Section {
    let mut holds: Vec<&HoldRow> = standing.holds.iter().collect();
    holds.sort_by_key(|hold| !needs_a_person(hold));
    let all = holds.len();
    let mut lines = hold_lines(holds.into_iter().take(most), now);
    let head = lines.drain(..1).collect();
    let more = move |shown: usize| {
        format!("… and {}; --json has all of them", plural((all - shown) as u64, "more hold", "more holds"))
    };
    Section { head, rows: lines, all, least: LEAST_LISTED, more: Box::new(more) }
}

/// Scope, cause, age and end of holds.
pub(in crate::cli) fn hold_lines<'h>(holds: impl IntoIterator<Item = &'h HoldRow>, now: Timestamp) -> Vec<String> {
    let mut colours = Vec::new();
    let rows = holds.into_iter().map(|hold| {
        colours.push(if needs_a_person(hold) { RED } else { YELLOW });
        let scope = match &hold.scope {
            Scope::All => "everything".to_owned(),
            Scope::Agent(agent) => printable::line(agent.as_str()).into_owned(),
        };
        let why = hold.why.as_ref().map_or_else(String::new, |why| format!(": {}", printable::line(why)));
        [
            scope,
            format!("{}{why}", hold.cause.as_str()),
            durations::show_roughly(now.since(hold.since_at)),
            hold_until(hold, now),
        ]
    });
    let mut lines = table(["held", "because", "since", "until"], &[2], rows);
    lines.iter_mut().skip(1).zip(colours).for_each(|(line, colour)| *line = styled(colour, &line));
    lines
}
