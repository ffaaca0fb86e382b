//! The state of the queue in sentences: what rows wait for, and until when.

use std::time::Duration;

use super::{
    figures::{plural, show_clock, show_count, show_text, show_time},
    json::{AgentReport, BlockerReport, Report, SessionReport, WaitReport},
    outlook::time_of,
    why::Reason,
};
use crate::{
    durations,
    model::{clock::Timestamp, hold::HoldRow, outcome::Scope},
};

/// How a sentence shows the name of an agent: cut, or left out for a reader who may not see it.
pub(crate) type Name<'n> = &'n dyn Fn(&str) -> String;

/// A session of a daemon on a server: its role, of which at most `most` characters are shown, and from where it is connected.
pub(crate) fn session_of(session: &SessionReport, most: usize) -> String {
    let from = session.client.as_ref().map_or_else(String::new, |client| format!(" from {client}"));
    format!("{}{from}, session {}", show_text(&session.user, most), session.session)
}

/// A session that keeps the leader waiting for a lock. At most `most` characters of a name are shown.
pub(crate) fn blocked(blocker: &BlockerReport, most: usize, now: Timestamp) -> String {
    let BlockerReport { session, user, application, client, state, since_at } = blocker;
    if *session == 0 {
        return "by a prepared transaction (pg_prepared_xacts)".to_owned();
    }
    let user = user.as_ref().map(|user| show_text(user, most));
    let application = application.as_ref().map(|application| show_text(application, most));
    let since = since_at.map(|at| format!("for {}", durations::show_roughly(now.since(Timestamp(at)))));
    let facts: Vec<String> = [user, application, client.clone(), state.clone(), since].into_iter().flatten().collect();
    format!("by session {session}: {}", facts.join(", "))
}

/// When a hold ends.
pub(crate) fn hold_until(hold: &HoldRow, now: Timestamp) -> String {
    match hold.until_at {
        None => "somebody lifts it".to_owned(),
        Some(at) if at <= now && hold.cause.is_of_a_command() => "it is over".to_owned(),
        Some(at) if at <= now => "the next request probes".to_owned(),
        Some(at) => format!("in {}", durations::show_roughly(at.since(now))),
    }
}

/// What pending rows wait for: a word, and what else there is to say.
pub(crate) fn told(wait: &WaitReport, report: &Report, name: Name<'_>, now: Timestamp) -> (&'static str, String) {
    let until = wait.until_at.map(Timestamp);
    let settings = report.settings;
    match wait.reason {
        Reason::NeedsAPerson => ("held", format!("until a person acts: {}", stopping(report, name))),
        Reason::Held => {
            let until = until.filter(|until| *until > now);
            let until = until.map(|until| format!("until {} or later", show_clock(until, now)));
            ("held", until.unwrap_or_else(|| "until a probe gets through".to_owned()))
        }
        Reason::NoDaemon => ("idle", "no daemon runs".to_owned()),
        Reason::Daemon => ("idle", "the daemon has not said yet how it works".to_owned()),
        Reason::Concurrency => {
            let most = settings.map_or(0, |settings| settings.concurrency as u64);
            ("waiting", format!("for an answer: as many calls as may be are in flight, {}", show_count(most)))
        }
        Reason::Rate => {
            let least = settings.map_or(Duration::ZERO, |settings| time_of(wait.requests, &settings));
            let requests = plural(wait.requests, "request", "requests");
            let least = durations::show_roughly(least.max(Duration::from_secs(1)));
            ("waiting", format!("for the rate: {requests} in {least} at least"))
        }
        Reason::Gathering => {
            let until = until.map_or_else(String::new, |until| format!("until {} ", show_clock(until, now)));
            ("waiting", format!("{until}to share a request"))
        }
        Reason::InFlight => ("in flight", String::new()),
        Reason::DueLater => {
            let next = until.map_or_else(String::new, |next| {
                format!("next due {}, in {}", show_time(next), durations::show_roughly(next.since(now)))
            });
            ("due later", next)
        }
    }
}

/// When a request probes holds that need a person: whoever has mended the cause need do no more.
pub(crate) fn probe(wait: &WaitReport, report: &Report, now: Timestamp) -> Option<String> {
    let until = wait.until_at.map(Timestamp)?;
    if wait.reason != Reason::NeedsAPerson || report.daemon.running == Some(false) {
        return None;
    }
    let until = if until > now { show_clock(until, now) } else { "the next request".to_owned() };
    Some(format!("or until {until}: one request probes"))
}

/// The hold that needs a person, if it is the only one.
fn stopping(report: &Report, name: Name<'_>) -> String {
    let mut stopping = report.holds.iter().filter(|hold| hold.needs_a_person && hold.rows > 0);
    match (stopping.next(), stopping.next()) {
        (Some(hold), None) if hold.scope == Scope::All.as_str() => format!("everything, {}", hold.cause),
        (Some(hold), None) => format!("{}, {}", name(&hold.scope), hold.cause),
        _ => "see the holds below".to_owned(),
    }
}

/// What the rows of an agent wait for, in a few words.
pub(crate) fn waits_for(agent: &AgentReport, now: Timestamp) -> String {
    let until = agent.until_at.map(Timestamp);
    let cause = agent.cause.unwrap_or("?");
    match agent.waits_for {
        None => String::new(),
        Some(Reason::NeedsAPerson) => format!("a person: {cause}"),
        Some(Reason::Held) => format!("a hold: {cause}"),
        Some(Reason::NoDaemon | Reason::Daemon) => "a daemon".to_owned(),
        Some(Reason::Concurrency) => "a free call".to_owned(),
        Some(Reason::Rate) => "the rate".to_owned(),
        Some(Reason::Gathering) => {
            let until = until.map_or_else(String::new, |until| format!(" until {}", show_clock(until, now)));
            format!("others{until}")
        }
        Some(Reason::InFlight) => "its answer".to_owned(),
        Some(Reason::DueLater) => "its due time".to_owned(),
    }
}
