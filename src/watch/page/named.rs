//! The parts of the page that name agents, labels and people: for those who have given the token.

use maud::{Markup, html};

use super::{
    frame::{cell, name, number, prose, section, sentence, table, text, time, words},
    look::{Facts, MOST_LISTED},
};
use crate::{
    durations,
    model::{
        act::ActKind,
        clock::Timestamp,
        hold::HoldRow,
        outcome::Scope,
        remedy::{Names, remedy},
    },
    queue::report::NewestRequest,
    watch::report::{
        acts::what,
        empty::Tone,
        figures::{plural, show_clock, show_count, show_text},
        json::{AgentReport, SessionReport},
        why::{Reason, needs_a_person},
        words::{blocked, hold_until, session_of, waits_for},
    },
};

/// The longest text of the API that is shown.
const MAX_DETAIL: usize = 200;

/// Whether the list of holds has all of them.
pub(super) fn has_each_hold(facts: &Facts) -> bool {
    facts.holds <= MOST_LISTED
}

/// The parts behind the numbers, in the order in which somebody in a hurry reads them.
pub(super) fn parts(facts: &Facts, now: Timestamp) -> Markup {
    html! {
        (agents(facts, now))
        (labels(facts))
        (requests(&facts.requests, now))
        (acts(facts, now))
    }
}

/// Who leads, who keeps the leader waiting, and who waits to lead.
pub(super) fn leadership(facts: &Facts, now: Timestamp) -> Markup {
    let Some(leadership) = &facts.report.leadership else { return html! {} };
    let who = |session: &SessionReport| session_of(session, MAX_DETAIL);
    let content = html! {
        dl.facts {
            dt { "leader" }
            dd {
                @match &leadership.leader {
                    Some(leader) => { (text(&who(leader))) ", epoch " (leadership.epoch) }
                    None => { "none" }
                }
            }
            @if !leadership.blocked_by.is_empty() {
                dt { "blocked" }
                dd.alarm { @for blocker in &leadership.blocked_by { div { (text(&blocked(blocker, MAX_DETAIL, now))) } } }
            }
            dt { "standbys" }
            dd {
                @if leadership.standbys.is_empty() { "none" }
                @for standby in &leadership.standbys { div { (text(&who(standby))) } }
            }
        }
    };
    section("leadership", "Who leads", &content)
}

/// The holds, those that need a person first.
pub(super) fn holds(facts: &Facts, names: &Names, now: Timestamp) -> Markup {
    if facts.holds == 0 {
        return html! {};
    }
    let rows = facts.standing.holds.iter().map(|hold| {
        let tone = if needs_a_person(hold) { Tone::Alarm } else { Tone::Warning };
        (tone, hold_cells(hold, names, now))
    });
    let columns = [name("held"), prose("because"), number("since"), words("until"), prose("what to do")];
    let left = facts.holds - facts.standing.holds.len();
    let content = html! {
        (table("each-hold", "Each hold", columns, rows))
        (and_more(left as u64, "more hold", "more holds", "`sweeper status` lists them"))
    };
    section("each-hold", if has_each_hold(facts) { "Holds" } else { "Each hold" }, &content)
}

fn hold_cells(hold: &HoldRow, names: &Names, now: Timestamp) -> [Markup; 5] {
    let scope = match &hold.scope {
        Scope::All => "everything",
        Scope::Agent(agent) => agent.as_str(),
    };
    let why = hold.why.as_ref().map_or_else(String::new, |why| format!(": {why}"));
    let cause = format!("{}{why}", hold.cause.as_str());
    let since = durations::show_roughly(now.since(hold.since_at));
    [
        cell(scope),
        cell(&cause),
        html! { (since) },
        html! { (hold_until(hold, now)) },
        sentence(&remedy(hold.cause, &hold.scope, false, names)),
    ]
}

/// The agents with open rows: held ones first, then those with the most.
fn agents(facts: &Facts, now: Timestamp) -> Markup {
    if facts.report.agents.is_empty() {
        return html! {};
    }
    let rows = facts.report.agents.iter().map(|agent| (tone(agent), agent_cells(agent, now)));
    let columns = [
        name("agent"),
        number("pending"),
        number("due"),
        number("oldest due"),
        number("in flight"),
        words("waits for"),
    ];
    let (left, pending) = facts.agents_left;
    let all = format!("{} pending; `sweeper status` lists them", show_count(pending));
    let content = html! {
        (table("agents", "Agents with pending rows", columns, rows))
        (and_more(left, "more agent", "more agents", &all))
    };
    section("agents", "Agents", &content)
}

fn tone(agent: &AgentReport) -> Tone {
    match agent.waits_for {
        Some(Reason::NeedsAPerson) => Tone::Alarm,
        Some(Reason::Held) => Tone::Warning,
        _ => Tone::Plain,
    }
}

fn agent_cells(agent: &AgentReport, now: Timestamp) -> [Markup; 6] {
    let oldest = std::time::Duration::from_secs_f64(agent.oldest_due_s);
    let oldest = if agent.due == 0 { String::new() } else { durations::show_roughly(oldest) };
    [
        cell(&agent.agent_id),
        html! { (show_count(agent.pending)) },
        html! { (show_count(agent.due)) },
        html! { (oldest) },
        html! { (show_count(agent.in_flight)) },
        cell(&waits_for(agent, now)),
    ]
}

/// The labels, in their order.
fn labels(facts: &Facts) -> Markup {
    if facts.labels.is_empty() {
        return html! {};
    }
    let rows = facts.labels.iter().map(|(label, standing)| {
        let counts = standing.map(|seen| [seen.pending, seen.deleted, seen.absent, seen.dead, seen.cancelled]);
        let count = |at: usize| counts.map_or_else(|| "?".to_owned(), |counts| show_count(counts[at]));
        let is_lost = standing.is_some_and(|seen| seen.dead + seen.cancelled > 0);
        let tone = if is_lost { Tone::Warning } else { Tone::Plain };
        let [pending, deleted, absent, dead, cancelled] = [0, 1, 2, 3, 4].map(|at| html! { (count(at)) });
        (tone, [cell(label), pending, deleted, absent, dead, cancelled])
    });
    let columns =
        [name("label"), number("pending"), number("deleted"), number("absent"), number("dead"), number("cancelled")];
    let content = html! {
        (table("labels", "Wishes by their label", columns, rows))
        @if facts.has_more_labels { p.note { (sentence("There are more labels. `sweeper status --label` shows any of them.")) } }
    };
    section("labels", "Labels", &content)
}

/// The newest requests.
fn requests(requests: &[NewestRequest], now: Timestamp) -> Markup {
    if requests.is_empty() {
        return html! {};
    }
    let rows = requests.iter().map(|request| (tone_of(request), request_cells(request, now)));
    let columns = [
        number("request"),
        time("claimed"),
        name("agent"),
        number("IDs"),
        time("answer"),
        prose("verdicts"),
        time("correlation ID"),
    ];
    section("requests", "Last requests", &table("requests", "The newest requests", columns, rows))
}

/// A request that failed as a whole is marked.
fn tone_of(request: &NewestRequest) -> Tone {
    let is_answered_well = request.status.is_some_and(|status| (200..300).contains(&status));
    let has_settled = request.verdicts[0] + request.verdicts[1] > 0;
    if request.answered_at.is_none() || is_answered_well || has_settled { Tone::Plain } else { Tone::Warning }
}

fn request_cells(request: &NewestRequest, now: Timestamp) -> [Markup; 7] {
    let answer = match (request.answered_at, request.status) {
        (None, _) => "none yet".to_owned(),
        (Some(at), status) => {
            let took = at.since(request.claimed_at).as_millis();
            let status = status.map_or_else(|| "no answer".to_owned(), |status| status.to_string());
            format!("{status}, {took} ms")
        }
    };
    let detail = request.detail.as_deref().map(|detail| show_text(detail, MAX_DETAIL));
    let counts = request.verdicts.iter().zip(["deleted", "absent", "come back", "dead"]);
    let verdicts: Vec<String> =
        counts.filter(|(count, _)| **count > 0).map(|(count, name)| format!("{count} {name}")).collect();
    let kind = (request.kind == "single").then(|| "single-entry DELETE".to_owned());
    let notes: Vec<String> = kind.into_iter().chain(detail).collect();
    [
        html! { (request.request) },
        html! { (show_clock(request.claimed_at, now)) },
        cell(&request.agent),
        html! { (request.size) },
        html! { (answer) },
        html! { (verdicts.join(", ")) @for note in notes { br; span.note { (note) } } },
        html! { code { (text(&request.correlation_id)) } },
    ]
}

/// The last acts of operators.
fn acts(facts: &Facts, now: Timestamp) -> Markup {
    if facts.standing.acts.is_empty() {
        return html! {};
    }
    let rows = facts.standing.acts.iter().map(|act| {
        let kind = act.kind.map_or("?", ActKind::as_str);
        let ago = durations::show_roughly(now.since(act.acted_at));
        (Tone::Plain, [html! { (kind) }, cell(&act.operator), html! { (ago) " ago" }, cell(&what(act))])
    });
    let columns = [words("act"), name("by"), time("when"), prose("what")];
    section("acts", "Last acts", &table("acts", "The last acts of operators", columns, rows))
}

/// The line that stands for what a list leaves out.
fn and_more(left: u64, one: &str, many: &str, rest: &str) -> Markup {
    html! { @if left > 0 { p.note { "… and " (plural(left, one, many)) ", " (sentence(rest)) } } }
}
