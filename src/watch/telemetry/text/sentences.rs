//! The sentences of the documented events.

use std::time::Duration;

use tracing::Event;

use super::{Look, fields::Fields};
use crate::{durations, event, model::clock::Timestamp};

/// An agent takes at least so many columns of a row, so that the rows of most agents are aligned.
const AGENT_WIDTH: usize = 16;
/// An agent is cut to no less than this, so that the counts of a row stay.
const LEAST_AGENT: usize = 4;
/// A detail is left out of a row that has less room for it than this.
const LEAST_DETAIL: usize = 12;

/// The sentence of an event; `None` if it has none of its own.
pub(super) fn sentence(fields: &Fields, look: &Look<'_>) -> Option<String> {
    let shown = |name: &str| fields.shown(name, look);
    Some(match fields.text("event") {
        event::REQUEST => request(fields, look),
        event::DELETION => deletion(fields, look),
        event::DEAD => dead(fields, look),
        event::HOLD_PLACED => hold(fields, look),
        event::HOLD_PROBED => {
            format!("{}: the hold ({}) is over; request {} probes", scope(fields), shown("cause"), shown("request"))
        }
        event::OPERATOR_ACT => {
            let detail = if fields.has("detail") { format!(" ({})", shown("detail")) } else { String::new() };
            format!("{}{detail}, at {}", shown("message"), shown("acted_at"))
        }
        event::HOLD_LIFTED => format!("{} goes on: the hold ({}) is lifted", scope(fields), shown("cause")),
        event::RATE_CHANGED => {
            format!("the rate goes from {} to {} requests a second ({})", shown("from"), shown("to"), shown("why"))
        }
        event::CONCURRENCY_CHANGED => {
            let why = concurrency_why(fields);
            format!("at most {} at a time, not {}: {why}", count(fields.number("to"), "request"), shown("from"))
        }
        event::BURST_CHANGED => burst(fields, look),
        event::SUMMARY if fields.has("pending") => summary(fields, look),
        event::STARTED => started(fields, look),
        event::STOPPING => {
            format!("stopping ({}); {} in flight", shown("why"), count(fields.number("in_flight"), "request"))
        }
        event::STOPPED if fields.has("error") => {
            format!("stopped with exit code {}: {}", shown("exit_code"), shown("error"))
        }
        event::STOPPED => {
            let settled = settled(fields, &["deleted", "absent", "retried", "released", "dead"]);
            format!("stopped with exit code {}: {}; {settled}", shown("exit_code"), requests(fields))
        }
        _ => return None,
    })
}

fn concurrency_why(fields: &Fields) -> &str {
    match fields.text("why") {
        "latency" if fields.number("to") < fields.number("from") => "answers are slow",
        "latency" => "answers are no longer slow",
        "throttled" => "the API throttles more",
        "probing" => "the API may bear more",
        "acquitted" => "the API throttled one request alone, too",
        "learnt" => "the API throttled more before the restart",
        other => other,
    }
}

fn burst(fields: &Fields, look: &Look<'_>) -> String {
    let (from, to) = (fields.shown("from", look), fields.shown("to", look));
    match (fields.text("why"), fields.number("to")) {
        ("learnt", _) => {
            format!("requests are spaced evenly, and not up to {from} at once: as before the restart")
        }
        (_, 1) => format!("requests are spaced evenly, and not up to {from} at once: the API throttled some"),
        _ => format!("up to {to} requests may leave at once again: the API may bear them"),
    }
}

/// The message of an event with its fields, and the target if the event is not one of ours.
pub(super) fn fallback(fields: &Fields, event: &Event<'_>, look: &Look<'_>) -> String {
    let mut parts = vec![fields.text("message").to_owned()];
    if !fields.has("event") {
        parts[0] = format!("{}: {}", event.metadata().target(), parts[0]);
    }
    if fields.has("error") {
        parts[0] += &format!(": {}", fields.shown("error", look));
    }
    parts.extend(fields.rest(&["event", "message", "error"], look));
    parts.join(" ")
}

/// `PROJECT-58RP822I  20 released: 503 server_error  0.21 s  upstream conn…`: in one row, whatever the lengths.
fn request(fields: &Fields, look: &Look<'_>) -> String {
    let mut outcome = settled(fields, &["deleted", "absent", "dead", "retried", "released"]);
    if fields.has("fault") {
        outcome += &format!(": {} {}", fields.shown("status", look), fields.text("fault")).replace(":  ", ": ");
    }
    if fields.has("cause") {
        outcome += &format!(", none deleted: {}", fields.text("cause"));
    }
    if fields.text("kind") == "single" {
        outcome += " (single-entry)";
    }
    let seconds = fields.number("took_ms") as f64 / 1e3;
    let end = format!("  {outcome}  {seconds:.2} s");
    let most = look.room.map_or(usize::MAX, |room| {
        let left = room.saturating_sub(end.chars().count()).max(LEAST_AGENT);
        left.min((room / 3).max(AGENT_WIDTH))
    });
    let (agent, width) = (clipped(fields.text("agent"), most), most.min(AGENT_WIDTH));
    let row = format!("{agent:<width$}{end}");
    let (detail, length) = (fields.text("detail"), row.chars().count() + 2);
    let room = look.room.map_or(usize::MAX, |room| room.saturating_sub(length));
    if detail.is_empty() || room < LEAST_DETAIL {
        return look.room.map_or_else(|| row.clone(), |room| begun(&row, room));
    }
    format!("{row}  {}", begun(detail, room))
}

fn deletion(fields: &Fields, look: &Look<'_>) -> String {
    let shown = |name: &str| fields.shown(name, look);
    let mut row = format!("{}  {}  {}", shown("agent"), shown("entry"), shown("verdict"));
    if fields.has("cause") {
        row += &format!(": {}", shown("cause"));
    }
    if fields.number("due_at") > 0 {
        row += &format!(", due {}", shown("due_at"));
    }
    row
}

fn dead(fields: &Fields, look: &Look<'_>) -> String {
    let shown = |name: &str| fields.shown(name, look);
    let unconfirmed = match fields.number("unconfirmed") {
        0 => String::new(),
        rows => format!(", {rows} of them unconfirmed"),
    };
    format!("{}  {} dead ({}){unconfirmed}: {}", shown("agent"), shown("rows"), shown("cause"), shown("entries"))
}

/// `PROJECT-58RP822I is held until 14:04:07 (1m): the API does not know this agent ("not found"). Is the ID right, …?`
fn hold(fields: &Fields, look: &Look<'_>) -> String {
    let message = fields.text("message");
    let is = if message.contains("since before the start") { "is still held" } else { "is held" };
    let until = if fields.has("until_at") {
        let left = Timestamp(fields.number("until_at")).since(look.now);
        // Some milliseconds have gone by since the hold was placed.
        let left = durations::show_roughly(left + Duration::from_millis(500));
        format!("until {} ({left})", fields.shown("until_at", look))
    } else {
        "until a person lifts the hold".to_owned()
    };
    // What the API said, or why a person has placed the hold.
    let said = match (fields.text("detail"), fields.text("why")) {
        ("", "") => String::new(),
        ("", why) => format!(": {why}"),
        (detail, _) => format!(" (\"{detail}\")"),
    };
    let mut sentence = format!("{} {is} {until}: {}{said}.", scope(fields), fields.text("reason"));
    // Why the hold is an error although no setting is wrong.
    let why = message.split_once(": ").map(|(_, why)| format!("{why}."));
    for text in why.iter().map(String::as_str).chain([fields.text("remedy")]) {
        let mut rest = text.chars();
        sentence.extend([' '].into_iter().chain(rest.next().into_iter().flat_map(char::to_uppercase)).chain(rest));
    }
    sentence
}

fn summary(fields: &Fields, look: &Look<'_>) -> String {
    let shown = |name: &str| fields.shown(name, look);
    let mut parts = vec![format!("{} pending, {} due", shown("pending"), shown("due"))];
    if fields.number("due") > 0 {
        parts[0] += &format!(" (the oldest for {})", shown("oldest_due_s"));
    }
    parts.push(format!(
        "{} in flight, {}",
        shown("in_flight"),
        limit(fields, look, ["concurrency", "concurrency"], "")
    ));
    let rate = limit(fields, look, ["requests_per_second", "rate"], " requests a second");
    parts.push(format!("{} deleted a second, {rate}", shown("deleted_per_s")));
    if fields.number("holds") > 0 {
        parts.push(count(fields.number("holds"), "hold"));
    }
    parts.push(format!(
        "since the start {}, {} deleted, {} absent, {} dead",
        count(fields.number("requests_total"), "request"),
        shown("deleted_total"),
        shown("absent_total"),
        shown("dead_total")
    ));
    if fields.number("log_lines_dropped") > 0 {
        parts.push(format!("{} of the log dropped", count(fields.number("log_lines_dropped"), "line")));
    }
    parts.join("; ")
}

/// `at most 4.75 of 100 requests a second (found)`, or `at most 100 requests a second` at the ceiling.
fn limit(fields: &Fields, look: &Look<'_>, [current, limit]: [&str; 2], unit: &str) -> String {
    let current = fields.shown(current, look);
    match fields.text(&format!("{limit}_why")) {
        "" | "ceiling" => format!("at most {current}{unit}"),
        why => format!("at most {current} of {}{unit} ({why})", fields.shown(&format!("{limit}_ceiling"), look)),
    }
}

fn started(fields: &Fields, look: &Look<'_>) -> String {
    let shown = |name: &str| fields.shown(name, look);
    let made = if fields.is("created") {
        " (new)"
    } else if fields.is("adopted") {
        " (loaded from a dump)"
    } else {
        ""
    };
    format!(
        "sweeper {} works on {}{made}; at most {} requests a second go to {}",
        shown("version"),
        shown("database"),
        shown("requests_per_second"),
        shown("api")
    )
}

/// `Everything`, or the agent.
fn scope(fields: &Fields) -> &str {
    match fields.text("scope") {
        "*" => "everything",
        agent => agent,
    }
}

fn requests(fields: &Fields) -> String {
    count(fields.number("requests"), "request")
}

/// The counts that are not 0. The field `retried` counts released rows, too; here each row is in one count.
fn settled(fields: &Fields, names: &[&str]) -> String {
    let count = |name: &str| match name {
        "retried" => fields.number(name) - fields.number("released"),
        _ => fields.number(name),
    };
    let some = names.iter().filter(|name| count(name) > 0);
    let some: Vec<String> = some.map(|name| format!("{} {name}", count(name))).collect();
    if some.is_empty() { "0 deleted".to_owned() } else { some.join(", ") }
}

fn count(number: i64, noun: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{s}")
}

/// The beginning of the text, in at most this many columns.
fn begun(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// The text in at most this many columns: its beginning and its end, because the ends of IDs tell most.
fn clipped(text: &str, most: usize) -> String {
    let length = text.chars().count();
    if length <= most {
        return text.to_owned();
    }
    let tail = (most - 1) / 2;
    let head: String = text.chars().take(most - 1 - tail).collect();
    let tail: String = text.chars().skip(length - tail).collect();
    format!("{head}…{tail}")
}
