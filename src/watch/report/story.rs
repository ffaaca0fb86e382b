//! The story of one ID in words.

use super::figures::{show_text, show_time};
use crate::{
    durations,
    model::{
        clock::Timestamp,
        deletion::{AgentId, EntryId},
    },
    queue::report::{INBOX, SentRequest, Story, WishStanding},
};

/// The message about an ID without a row in `place`, the database.
pub(crate) fn unknown(agent: &AgentId, entry: &EntryId, place: &str) -> String {
    format!(
        "{agent} {}: there is no such row in {place}: it was never enqueued, was cancelled, or was settled longer ago than queue.retention",
        entry.as_str()
    )
}

/// The label of a wish.
pub(crate) fn label(wish: &WishStanding) -> String {
    if wish.label.is_empty() { "no label".to_owned() } else { format!("label {}", wish.label) }
}

/// How a wish has ended.
pub(crate) fn end(wish: &WishStanding) -> String {
    match (&wish.state, wish.closed_at) {
        (Some(state), Some(at)) => {
            let by = wish.closed_by.as_ref().map_or_else(String::new, |by| format!(" by {}", show_text(by, 100)));
            format!("{state}{by} {}", show_time(at))
        }
        (Some(state), None) => state.clone(),
        (None, _) => "open".to_owned(),
    }
}

/// What waits for the leader.
pub(crate) fn in_inbox(story: &Story, since: Timestamp, now: Timestamp) -> String {
    let which = if story.state == INBOX { "in the inbox" } else { "another wish for it is in the inbox" };
    format!("{which} for {}: no leader has taken it in yet", durations::show_roughly(now.since(since)))
}

/// The state of the row, and why it is that.
pub(crate) fn state(story: &Story) -> String {
    let cause = story.last_cause.as_ref().map_or_else(String::new, |cause| format!(", {cause}"));
    let unconfirmed = match (story.state.as_str(), story.maybe_done) {
        ("dead", true) => "; unconfirmed: an attempt may have deleted it unseen",
        ("absent", true) => "; an attempt may have deleted it unseen",
        _ => "",
    };
    format!("{}{cause}{unconfirmed}", story.state)
}

/// When the row goes out.
pub(crate) fn due(story: &Story, now: Timestamp) -> String {
    let is_on_its_way = story.requests.iter().any(|told| told.answered_at.is_none());
    if is_on_its_way {
        "in flight, or was when its daemon died".to_owned()
    } else if story.due_at <= now {
        format!("due for {}", durations::show_roughly(now.since(story.due_at.max(story.created_at))))
    } else {
        format!("due {}, in {}", show_time(story.due_at), durations::show_roughly(story.due_at.since(now)))
    }
}

/// The kind of a request, and the number of its IDs.
pub(crate) fn kind(told: &SentRequest) -> String {
    match told.kind.as_str() {
        "single" => "single-entry DELETE".to_owned(),
        _ => format!("bulk delete of {}", told.size),
    }
}

/// The answer to a request, and how long it took.
pub(crate) fn answer(told: &SentRequest) -> String {
    match (told.answered_at, told.status) {
        (None, _) => "no answer yet, or its daemon died".to_owned(),
        (Some(at), Some(status)) => format!("{status} after {}", took(told.claimed_at, at)),
        (Some(at), None) => format!("no answer, gave up after {}", took(told.claimed_at, at)),
    }
}

/// The verdict of a request on the row, with its cause.
pub(crate) fn verdict(told: &SentRequest) -> Option<String> {
    let cause = told.cause.as_ref().map_or_else(String::new, |cause| format!(" ({cause})"));
    told.verdict.as_deref().map(|verdict| format!("{verdict}{cause}"))
}

fn took(from: Timestamp, to: Timestamp) -> String {
    let took = to.since(from);
    if took.as_secs() < 10 { format!("{} ms", took.as_millis()) } else { durations::show_roughly(took) }
}
