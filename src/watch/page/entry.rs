//! `/entry`: the history of one ID, as `sweeper show` tells it.

use maud::{Markup, html};

use super::frame::{cell, name, number, prose, section, table, text, time, words};
use crate::{
    durations,
    model::{
        clock::Timestamp,
        deletion::{AgentId, EntryId},
        outcome::Scope,
    },
    queue::{
        either::{Options, Reader},
        report::{INBOX, SentRequest, Story, WishStanding},
    },
    watch::report::{
        empty::Tone,
        figures::{plural, show_text, show_time},
        story::{answer, due, end, in_inbox, kind, label, state, unknown, verdict},
        words::hold_until,
    },
};

/// The longest text of the API that is shown.
const MAX_DETAIL: usize = 300;

/// What there is about an ID.
pub(super) struct Found {
    /// `None`: there is no row.
    pub(super) story: Option<Story>,
    /// The wishes that have outlived their row.
    pub(super) wishes: Vec<WishStanding>,
}

/// Reads everything about one ID.
///
/// # Errors
/// If the database cannot be read.
pub(super) async fn find(queue: &Options, agent: &AgentId, entry: &EntryId) -> Result<Found, String> {
    let mut reader = Reader::open(queue).await.map_err(|error| error.to_string())?;
    let story = reader.story(agent, entry).await.map_err(|error| error.to_string())?;
    let wishes = match &story {
        Some(_) => Vec::new(),
        None => reader.wishes(agent, entry).await.map_err(|error| error.to_string())?,
    };
    Ok(Found { story, wishes })
}

/// The form that asks for an agent and an ID.
pub(super) fn form(agent: &str, entry: &str) -> Markup {
    html! {
        form.ask method="get" action="/entry" {
            label { "Agent" input name="agent" value=(agent) required autocomplete="off" spellcheck="false"; }
            label { "ID of the entry" input name="id" value=(entry) required autocomplete="off" spellcheck="false"; }
            button.go type="submit" { "Look up" }
        }
    }
}

/// The history.
pub(super) fn history(queue: &Options, agent: &AgentId, entry: &EntryId, found: &Found, now: Timestamp) -> Markup {
    let Some(story) = &found.story else {
        return html! {
            p { (text(&unknown(agent, entry, &queue.to_string()))) "." }
            (wishes(&found.wishes))
        };
    };
    html! {
        (facts(story, now))
        (wishes(&story.wishes))
        (holds(story, now))
        (requests(&story.requests))
    }
}

fn facts(story: &Story, now: Timestamp) -> Markup {
    let when = if let Some(at) = story.settled_at {
        Some(("settled", show_time(at)))
    } else if story.state != INBOX {
        Some(("next", due(story, now)))
    } else {
        (story.due_at > now).then(|| ("due", show_time(story.due_at)))
    };
    html! {
        dl.facts {
            dt { "state" }
            dd { (text(&state(story))) }
            dt { "enqueued" }
            dd { (show_time(story.created_at)) ", priority " (story.priority) }
            @if let Some((name, said)) = when { dt { (name) } dd { (text(&said)) } }
            @if let Some(since) = story.in_inbox_since { dt { "inbox" } dd { (in_inbox(story, since, now)) } }
            dt { "attempts" }
            dd { (plural(story.attempts.unsigned_abs(), "counted attempt", "counted attempts")) }
        }
    }
}

fn wishes(wishes: &[WishStanding]) -> Markup {
    if wishes.is_empty() {
        return html! {};
    }
    let rows = wishes
        .iter()
        .map(|wish| (Tone::Plain, [cell(&label(wish)), html! { (show_time(wish.wished_at)) }, cell(&end(wish))]));
    let columns = [name("wish"), time("wished"), words("end")];
    section("wishes", "Wishes", &table("wishes", "Wishes for this entry", columns, rows))
}

/// The holds that a pending row waits for.
fn holds(story: &Story, now: Timestamp) -> Markup {
    if story.state != "pending" || story.holds.is_empty() {
        return html! {};
    }
    let rows = story.holds.iter().map(|hold| {
        let scope = match &hold.scope {
            Scope::All => "everything",
            Scope::Agent(agent) => agent.as_str(),
        };
        let why = hold.why.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        let since = durations::show_roughly(now.since(hold.since_at));
        let cause = format!("{}{why}", hold.cause.as_str());
        (Tone::Warning, [cell(scope), cell(&cause), html! { (since) }, html! { (hold_until(hold, now)) }])
    });
    let columns = [name("held"), prose("because"), number("since"), words("until")];
    section("holds", "Waiting for these holds", &table("holds", "Holds that the row waits for", columns, rows))
}

fn requests(requests: &[SentRequest]) -> Markup {
    let content = if requests.is_empty() {
        html! { p { "No request with this ID is on record." } }
    } else {
        let rows = requests.iter().map(|told| (Tone::Plain, request_cells(told)));
        let columns = [
            number("request"),
            time("claimed"),
            words("kind"),
            words("answer"),
            words("verdict"),
            prose("correlation IDs and detail"),
        ];
        html! {
            (table("requests", "Requests with this ID, oldest first", columns, rows))
            p.note { "Support asks for the correlation IDs." }
        }
    };
    section("requests", "Requests", &content)
}

fn request_cells(told: &SentRequest) -> [Markup; 6] {
    let remote_id = told.remote_id.as_ref().filter(|id| **id != told.correlation_id);
    [
        html! { (told.request) },
        html! { (show_time(told.claimed_at)) },
        html! { (kind(told)) },
        html! { (answer(told)) },
        cell(&verdict(told).unwrap_or_default()),
        html! {
            code { (text(&told.correlation_id)) }
            @if let Some(id) = remote_id { br; "the API’s: " code { (show_text(id, MAX_DETAIL)) } }
            @if let Some(detail) = &told.detail { br; span.note { (show_text(detail, MAX_DETAIL)) } }
        },
    ]
}
