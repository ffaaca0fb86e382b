//! The parts of the page that everybody may see: numbers, and sentences without names.

use std::time::Duration;

use maud::{Markup, html};

use super::{
    chart::charts,
    frame::{cell, class, number, prose, section, sentence, table, text, words},
    look::{Facts, Look, Why},
    samples::Point,
};
use crate::{
    durations,
    model::{
        clock::Timestamp,
        outcome::{Cause, Scope},
        remedy::{Names, reason, remedy},
    },
    watch::{
        health::State,
        report::{
            empty::Tone,
            figures::{plural, show_count, show_time},
            limits,
            why::Reason,
        },
    },
};

/// What the daemon is doing.
pub(super) struct Headline {
    pub(super) tone: Tone,
    pub(super) said: String,
}

impl Headline {
    /// `hung`: for how long the loop has not come round, if that is too long.
    pub(super) fn new(state: State, hung: Option<Duration>, facts: Option<&Facts>) -> Self {
        let (tone, said) = match (hung, state) {
            (Some(hung), _) => (Tone::Alarm, format!("The daemon’s loop has hung for {} s", hung.as_secs())),
            (None, State::Starting) => (Tone::Warning, "Starting: the database is being opened".to_owned()),
            (None, State::DatabaseDown) => (Tone::Alarm, "The database cannot be used; the log says why".to_owned()),
            (None, State::Stopping) => (Tone::Warning, "Stopping".to_owned()),
            (None, State::StandingBy) => (Tone::Plain, "Standing by: another daemon leads".to_owned()),
            (None, State::Working) => working(facts),
        };
        Self { tone, said }
    }
}

/// What a daemon that works is doing: what matters most of what its rows wait for.
fn working(facts: Option<&Facts>) -> (Tone, String) {
    let Some(facts) = facts else { return (Tone::Plain, "Working".to_owned()) };
    let said = match facts.why.waits.first().map(|wait| wait.reason) {
        None => return (Tone::Plain, "Idle: nothing is pending".to_owned()),
        Some(Reason::NeedsAPerson) => return (Tone::Alarm, "Rows wait for a person".to_owned()),
        Some(Reason::Held) => return (Tone::Warning, "Rows are held".to_owned()),
        Some(Reason::DueLater) => "Waiting: no row is due yet",
        Some(
            Reason::NoDaemon
            | Reason::Daemon
            | Reason::Concurrency
            | Reason::Rate
            | Reason::Gathering
            | Reason::InFlight,
        ) => "Working",
    };
    (Tone::Plain, said.to_owned())
}

/// The headline, and when the queue will be empty.
pub(super) fn state(headline: &Headline, why: Option<&Why>) -> Markup {
    html! {
        h1 class=(class(headline.tone)) { (headline.said) }
        @if let Some(why) = why {
            ul.reasons { @for (tone, line) in &why.end { li class=(class(*tone)) { (capitalized(line)) } } }
        }
    }
}

/// A line of `status` as it reads without the name before it.
fn capitalized(line: &str) -> String {
    let line = text(line);
    match line.strip_prefix("in about ") {
        Some(rest) => format!("Empty in about {rest}"),
        None => line.chars().take(1).flat_map(char::to_uppercase).chain(line.chars().skip(1)).collect(),
    }
}

/// The message that nothing was read, and why, if that may be told.
pub(super) fn unread(look: Option<&Look>, is_known: bool) -> Markup {
    html! {
        @match look.map(|look| (&look.seen, look.at)) {
            None => { p.note role="status" { "The queue is being read. This page then shows more." } }
            Some((Err(why), at)) => {
                p.alarm role="status" { "The database could not be read at " (show_time(at)) ". The log says more." }
                @if is_known { p { (text(why)) } }
            }
            Some((Ok(_), _)) => {}
        }
    }
}

/// The numbers.
pub(super) fn tiles(facts: &Facts) -> Markup {
    let (rows, report) = (&facts.report.rows, &facts.report);
    let oldest = Duration::from_secs_f64(report.oldest_due_s);
    let oldest = (rows.due > 0).then(|| format!("the oldest for {}", durations::show_roughly(oldest)));
    let flying = plural(report.in_flight.requests, "request", "requests");
    let pace = format!("lately {} per minute", show_count(report.deleted_per_minute.round() as u64));
    let dead = if rows.dead > 0 { Tone::Alarm } else { Tone::Plain };
    let inbox = report.inbox.as_ref().map(|inbox| {
        let oldest = Duration::from_secs_f64(inbox.oldest_s);
        let oldest = (inbox.rows > 0).then(|| format!("the oldest for {}", durations::show_roughly(oldest)));
        ("Not taken in yet", inbox.rows, Tone::Plain, oldest)
    });
    let tiles = [
        ("Pending", rows.pending, Tone::Plain, None),
        ("Due", rows.due, Tone::Plain, oldest),
        ("In flight", report.in_flight.rows, Tone::Plain, Some(flying)),
        ("Deleted", rows.deleted, Tone::Plain, Some(pace)),
        ("Absent", rows.absent, Tone::Plain, Some("no such entry".to_owned())),
        ("Dead", rows.dead, dead, None),
    ];
    html! {
        dl.tiles {
            @for (name, count, tone, note) in inbox.into_iter().chain(tiles) {
                div {
                    dt { (name) }
                    dd class=(class(tone)) { (show_count(count)) }
                    @if let Some(note) = note { dd.note { (note) } }
                }
            }
        }
        p.note { "Rows that are still kept: settled ones go after queue.retention." }
    }
}

/// What pending rows wait for.
pub(super) fn waits(why: &Why) -> Markup {
    let rows = why.waits.iter().map(|wait| {
        let tone = match wait.reason {
            Reason::NeedsAPerson => Tone::Alarm,
            Reason::Held | Reason::NoDaemon => Tone::Warning,
            Reason::Daemon
            | Reason::Concurrency
            | Reason::Rate
            | Reason::Gathering
            | Reason::InFlight
            | Reason::DueLater => Tone::Plain,
        };
        (tone, [html! { (wait.word) }, html! { (show_count(wait.rows)) }, cell(&wait.note)])
    });
    if why.waits.is_empty() {
        return html! {};
    }
    let title = "What pending rows wait for";
    section("waits", title, &table("waits", title, [words("state"), number("rows"), prose("why")], rows))
}

/// The limits in effect.
pub(super) fn limits(facts: &Facts) -> Markup {
    let Some(settings) = &facts.report.settings else { return html! {} };
    let content = html! {
        dl.facts {
            dt { "rate" }
            dd { (limits::rate(settings)) }
            dt { "in flight" }
            dd { (limits::concurrency(settings)) }
        }
    };
    section("limits", "Rate", &content)
}

/// The charts.
pub(super) fn history(points: &[Point]) -> Markup {
    let content = html! {
        div.charts { @for chart in charts(points) { (chart.figure()) } }
        p.note { "Since this daemon started, six hours at most. Deleted by this daemon alone." }
    };
    section("history", "The last hours", &content)
}

/// The holds by their cause, with what to do.
pub(super) fn causes(facts: &Facts) -> Markup {
    if facts.causes.is_empty() {
        return html! {};
    }
    let rows = facts.causes.iter().map(|held| {
        let tone = if held.needs_a_person { Tone::Alarm } else { Tone::Warning };
        let scope = if held.is_on_everything { "everything" } else { "agents" };
        let todo = if held.cause == Cause::Operator {
            "`sweeper release` lifts it".to_owned()
        } else {
            remedy(held.cause, &Scope::All, false, &Names::default())
        };
        let why = html! { (reason(held.cause)) };
        (tone, [cell(held.cause.as_str()), html! { (show_count(held.holds)) }, html! { (scope) }, why, sentence(&todo)])
    });
    let columns = [words("cause"), number("holds"), words("on"), prose("because"), prose("what to do")];
    section("holds", "Holds", &table("holds", "Holds by their cause", columns, rows))
}

/// The dead rows by their cause.
pub(super) fn dead(facts: &Facts) -> Markup {
    if facts.report.dead.is_empty() {
        return html! {};
    }
    let rows = facts.report.dead.iter().map(|dead| {
        let cause = cell(dead.cause.as_deref().unwrap_or("unknown"));
        (Tone::Plain, [cause, html! { (show_count(dead.rows)) }, html! { (show_count(dead.unconfirmed)) }])
    });
    let columns = [words("cause"), number("rows"), number("unconfirmed")];
    let content = html! {
        (table("dead", "Dead rows by their cause", columns, rows))
        p.note {
            (sentence("`sweeper list --state dead` names them, and `sweeper retry` tries them again. Unconfirmed: an attempt may have deleted the entry."))
        }
    };
    section("dead", "Dead", &content)
}

/// When what is shown was read.
pub(super) fn footer(look: Option<&Look>, version: &str, started: Option<Timestamp>, now: Timestamp) -> Markup {
    html! {
        footer {
            @if let Some(look) = look {
                p { "The database was read at " (show_time(look.at)) ", " (durations::show_roughly(now.since(look.at))) " ago." }
            }
            p {
                "Version " (version)
                @if let Some(started) = started { ". The daemon that leads works since " (show_time(started)) }
                "."
            }
        }
    }
}
