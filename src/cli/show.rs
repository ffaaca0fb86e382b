//! `sweeper show`: the history of one ID.

use std::process::ExitCode;

use clap::Args;

use super::{
    Failure,
    arguments::{agent_id, entry_id},
    status::hold_lines,
    terminal::{GREEN, RED, YELLOW, say_in_colour, styled, warn_person},
    times::{plural, show_text, show_time},
};
use crate::{
    config::Config,
    model::{
        clock::{Clock, Timestamp},
        deletion::{AgentId, EntryId},
    },
    printable,
    queue::{
        either::Reader,
        report::{INBOX, SentRequest, Story, WishStanding},
        sqlite::twice_if_damaged,
    },
    watch::report::story::{answer, due, end, in_inbox, kind, label, state, unknown, verdict},
};

const EXAMPLES: &str = "\
Example:
  sweeper show PROJECT-58RP822I 4711

It only reads. It reads the whole table of requests, so the time it takes grows with the requests.

Exit codes: 0 shown, 1 there is no such row, 2 usage or configuration, 3 database unusable.";

/// Which ID to show.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ShowArgs {
    /// The agent that the entry belongs to.
    #[arg(value_name = "AGENT", value_parser = agent_id)]
    agent: AgentId,
    /// The ID of the entry.
    #[arg(value_name = "ENTRY", value_parser = entry_id)]
    entry: EntryId,
}

impl ShowArgs {
    pub(super) fn new(agent: AgentId, entry: EntryId) -> Self {
        Self { agent, entry }
    }
}

/// Shows the history.
///
/// # Errors
/// If the database cannot be read.
pub(super) async fn show(args: ShowArgs, config: &Config, clock: Clock) -> Result<ExitCode, Failure> {
    let ShowArgs { agent, entry } = args;
    let look = async || {
        let mut reader = Reader::open(&config.store).await?;
        let story = reader.story(&agent, &entry).await?;
        // Wishes outlive their row.
        let wishes = if story.is_none() { reader.wishes(&agent, &entry).await? } else { Vec::new() };
        Ok::<_, Failure>((story, wishes))
    };
    let (found, wishes) = twice_if_damaged(look).await?;
    let Some(story) = found else {
        warn_person(&unknown(&agent, &entry, &config.store.to_string()));
        if !wishes.is_empty() {
            say_in_colour(&wish_lines(&wishes).join("\n"))?;
        }
        return Ok(ExitCode::from(1));
    };
    say_in_colour(&history(&agent, entry.as_str(), &story, clock.now()).join("\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// The lines of the history. Any program may have written to the tables, so each line is escaped.
fn history(agent: &AgentId, entry: &str, story: &Story, now: Timestamp) -> Vec<String> {
    let colour = match story.state.as_str() {
        "deleted" | "absent" => GREEN,
        "dead" => RED,
        _ => YELLOW,
    };
    let state = styled(colour, printable::line(&state(story)));
    let mut lines = vec![format!("{agent} {entry}: {state}")];
    lines.push(format!("  enqueued {}, priority {}", show_time(story.created_at), story.priority));
    if let Some(at) = story.settled_at {
        lines.push(format!("  settled {}", show_time(at)));
        lines
            .extend(story.verified_at.map(|at| format!("  verified {}: not in the agent's cache then", show_time(at))));
    } else if story.state != INBOX {
        lines.push(format!("  {}", due(story, now)));
    } else if story.due_at > now {
        lines.push(format!("  due {}", show_time(story.due_at)));
    }
    lines.extend(story.in_inbox_since.map(|since| format!("  {}", in_inbox(story, since, now))));
    lines.push(format!("  {}", plural(story.attempts.unsigned_abs(), "counted attempt", "counted attempts")));
    lines.extend(wish_lines(&story.wishes));
    if story.state == "pending" && !story.holds.is_empty() {
        lines.push("waiting for these holds:".to_owned());
        lines.extend(hold_lines(&story.holds, now).iter().map(|line| format!("  {line}")));
    }
    if story.requests.is_empty() {
        lines.push("no request with this ID is on record".to_owned());
    } else {
        lines.push("requests with this ID, oldest first; support asks for the correlation IDs:".to_owned());
        lines.extend(story.requests.iter().flat_map(request).map(|line| printable::line(&line).into_owned()));
    }
    lines
}

/// The wishes for an entry, a line each.
fn wish_lines(wishes: &[WishStanding]) -> Vec<String> {
    let wish = |wish: &WishStanding| {
        let (label, wished, end) = (label(wish), show_time(wish.wished_at), end(wish));
        printable::line(&format!("  {label}: wished {wished}, {end}")).into_owned()
    };
    let head = (!wishes.is_empty()).then(|| "wishes for this entry:".to_owned());
    head.into_iter().chain(wishes.iter().map(wish)).collect()
}

fn request(told: &SentRequest) -> Vec<String> {
    let (what, answer, verdict) = (kind(told), answer(told), verdict(told));
    let verdict = verdict.map_or_else(String::new, |verdict| format!(": {verdict}"));
    let mut lines = vec![
        format!("  {}  request {}, {what}: {answer}{verdict}", show_time(told.claimed_at), told.request),
        format!("      correlation ID {}", told.correlation_id),
    ];
    if let Some(remote_id) = told.remote_id.as_ref().filter(|id| **id != told.correlation_id) {
        lines.push(format!("      the API's correlation ID {}", show_text(remote_id, 300)));
    }
    if let Some(detail) = &told.detail {
        lines.push(format!("      detail: {}", show_text(detail, 300)));
    }
    lines
}
