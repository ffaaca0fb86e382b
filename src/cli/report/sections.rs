//! The sentences of a report, for text and HTML alike. Text from outside is on one line, and not yet escaped for HTML.

use std::collections::BTreeMap;

use super::facts::{Facts, Span};
use crate::{
    cli::times::{plural, show_count, show_text, show_time},
    model::hold::HoldRow,
};

/// The most agents that a page names. The JSON form has all of them.
pub(super) const MOST_AGENTS: usize = 20;
/// The most people, causes or holds that a sentence names.
const MOST_NAMED: usize = 10;
/// The longest name or reason, in characters.
const MOST_TEXT: usize = 100;

/// A name, and what is said of it.
pub(super) type Line = (&'static str, String);

/// When and from where, and what was asked.
pub(super) fn asked(facts: &Facts) -> Vec<Line> {
    let agents = plural(facts.agents.len() as u64, "agent", "agents");
    let wishes = plural(facts.states.all(), "deletion", "deletions");
    let mut lines = vec![
        ("queue", show_text(&facts.queue, 300)),
        ("read", format!("{} to {}", show_time(facts.read.0), show_time(facts.read.1))),
        ("asked", format!("{wishes} of {agents}{}", span(facts.asked, ", "))),
        ("asked by", who(&facts.askers)),
    ];
    if facts.inbox > 0 {
        let inbox = plural(facts.inbox, "more wish is", "more wishes are");
        lines.push(("not counted", format!("{inbox} in the inbox: no leader has taken them in yet")));
    }
    lines
}

/// What became of it: state, number, what that means.
pub(super) fn states(facts: &Facts) -> Vec<(&'static str, u64, String)> {
    let states = facts.states;
    let mut lines = vec![
        ("deleted", states.deleted, "the API said that it has deleted the entry".to_owned()),
        ("absent", states.absent, "the API said that there is no such entry".to_owned()),
        ("dead", states.dead, dead(facts)),
        (
            "cancelled",
            states.cancelled,
            if states.cancelled > 0 { format!("by {}", who(&facts.cancellers)) } else { String::new() },
        ),
        ("open", states.open, open(facts)),
    ];
    if facts.states.gone() == 0 {
        lines[0].2 = String::new();
        lines[1].2 = String::new();
    }
    lines
}

/// How it was verified.
pub(super) fn verified(facts: &Facts) -> String {
    let gone = facts.states.gone();
    if facts.verified == 0 {
        return "not yet: `sweeper verify` lists the agents' caches, and looks whether the entries are gone".to_owned();
    }
    let of = plural(gone, "deleted or absent entry", "deleted or absent entries");
    let was = if facts.verified == 1 { "was" } else { "were" };
    format!(
        "{} of {of} {was} not in the agent's cache when it was listed{}",
        show_count(facts.verified),
        span(facts.verified_at, ", ")
    )
}

/// What the hash is over.
pub(super) fn hashed(facts: &Facts) -> String {
    format!("SHA-256 (v1) of {}: {}", plural(facts.states.all(), "wish", "wishes"), facts.sha256)
}

/// What `--check` can show.
pub(super) const CHECKED: &str = "`sweeper report --check FILE` recomputes the hash from the queue. It shows that something has changed, \
                                  and not who has changed it.";

fn dead(facts: &Facts) -> String {
    if facts.states.dead == 0 {
        return String::new();
    }
    let causes =
        facts.dead.iter().map(|(cause, count)| format!("{} {}", show_text(cause, MOST_TEXT), show_count(*count)));
    let maybe = match facts.unconfirmed {
        0 => String::new(),
        unconfirmed => format!("; of these, {} may be deleted all the same", show_count(unconfirmed)),
    };
    format!("given up: {}{maybe}", first_of(causes.collect()))
}

fn open(facts: &Facts) -> String {
    let open = facts.open;
    let mut parts = Vec::new();
    if open.held > 0 {
        let holds = first_of(facts.holds.iter().map(hold).collect());
        parts.push(format!("{} for {holds}", plural(open.held, "waits", "wait")));
    }
    if open.due > 0 {
        parts.push(format!("{} due, in flight or as soon as the rate allows", plural(open.due, "is", "are")));
    }
    if open.retrying > 0 {
        parts.push(format!("{} for the next attempt", plural(open.retrying, "waits", "wait")));
    }
    if open.later > 0 {
        parts.push(format!("{} due later", plural(open.later, "is", "are")));
    }
    if let Some(next) = open.next {
        parts.push(format!("the next of these at {}", show_time(next)));
    }
    parts.join("; ")
}

fn hold(hold: &HoldRow) -> String {
    let until =
        hold.until_at.map_or_else(|| "until it is lifted".to_owned(), |at| format!("until {} or later", show_time(at)));
    let why = hold.why.as_ref().map_or_else(String::new, |why| format!(": {}", show_text(why, MOST_TEXT)));
    format!("the hold on {} ({}{why}) {until}", hold.scope.as_str(), hold.cause.as_str())
}

/// Names with their counts.
fn who(counts: &BTreeMap<Option<String>, u64>) -> String {
    let one = |(name, count): (&Option<String>, &u64)| {
        let name = name.as_ref().map_or_else(|| "not known".to_owned(), |name| show_text(name, MOST_TEXT));
        format!("{name} {}", show_count(*count))
    };
    first_of(counts.iter().map(one).collect())
}

/// The first of them in a sentence.
fn first_of(mut all: Vec<String>) -> String {
    let more = all.len().saturating_sub(MOST_NAMED);
    all.truncate(MOST_NAMED);
    if more > 0 {
        all.push(format!("and {} more", show_count(more as u64)));
    }
    all.join(", ")
}

fn span(Span(span): Span, before: &str) -> String {
    match span {
        None => String::new(),
        Some((first, last)) if first == last => format!("{before}{}", show_time(first)),
        Some((first, last)) => format!("{before}{} to {}", show_time(first), show_time(last)),
    }
}

/// The agents with the most wishes, and how many are left out.
pub(super) fn agents(facts: &Facts) -> (Vec<(&str, super::facts::States)>, usize) {
    let mut agents: Vec<_> = facts.agents.iter().map(|(agent, states)| (agent.as_str(), *states)).collect();
    agents.sort_by_key(|(_, states)| std::cmp::Reverse(states.all()));
    let more = agents.len().saturating_sub(MOST_AGENTS);
    agents.truncate(MOST_AGENTS);
    (agents, more)
}
