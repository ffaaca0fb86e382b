//! The report as a JSON object. Names and meanings are stable. Times are RFC 3339, in UTC.

use std::collections::BTreeMap;

use anyhow::Context as _;
use serde::Serialize;

use super::{
    canonical::VERSION,
    facts::{Facts, Span, States},
    seal::sealed_json,
};
use crate::{
    cli::{Failure, times::rfc3339},
    model::clock::Timestamp,
    printable,
};

/// [`super::seal::Claim`] has the fields that are checked.
#[derive(Debug, Serialize)]
struct Object<'f> {
    canonical: &'f str,
    label: &'f str,
    queue: &'f str,
    read_at: String,
    read_until: String,
    wishes: States,
    /// Wishes that no leader has taken in yet.
    inbox: u64,
    asked: Times,
    asked_by: Vec<Who<'f>>,
    agents: Vec<Agent<'f>>,
    ended: Times,
    dead: Vec<Cause<'f>>,
    /// The dead whose entries may be gone all the same.
    unconfirmed: u64,
    cancelled_by: Vec<Who<'f>>,
    open: Open<'f>,
    verified: Verified,
    sha256: &'f str,
    #[serde(skip_serializing_if = "Option::is_none")]
    lines: Option<&'f [String]>,
}

#[derive(Debug, Serialize)]
struct Times {
    first: Option<String>,
    last: Option<String>,
}

#[derive(Debug, Serialize)]
struct Who<'f> {
    operator: Option<&'f str>,
    wishes: u64,
}

#[derive(Debug, Serialize)]
struct Agent<'f> {
    agent_id: &'f str,
    #[serde(flatten)]
    wishes: States,
}

#[derive(Debug, Serialize)]
struct Cause<'f> {
    cause: &'f str,
    wishes: u64,
}

#[derive(Debug, Serialize)]
struct Open<'f> {
    held: u64,
    retrying: u64,
    later: u64,
    due: u64,
    next_at: Option<String>,
    holds: Vec<Hold<'f>>,
}

#[derive(Debug, Serialize)]
struct Hold<'f> {
    scope: &'f str,
    cause: &'f str,
    until_at: Option<String>,
    why: Option<&'f str>,
}

#[derive(Debug, Serialize)]
struct Verified {
    /// Of the wishes whose entries are gone, those that were not in the agent's cache when it was listed.
    wishes: u64,
    #[serde(flatten)]
    times: Times,
}

fn times(Span(span): Span) -> Times {
    Times { first: span.map(|(first, _)| rfc3339(first)), last: span.map(|(_, last)| rfc3339(last)) }
}

fn who(counts: &BTreeMap<Option<String>, u64>) -> Vec<Who<'_>> {
    counts.iter().map(|(operator, wishes)| Who { operator: operator.as_deref(), wishes: *wishes }).collect()
}

/// The page.
///
/// # Errors
/// If it cannot be written as JSON.
pub(super) fn page(facts: &Facts) -> Result<String, Failure> {
    let hold = |at: Option<Timestamp>| at.map(rfc3339);
    let object = Object {
        canonical: VERSION,
        label: &facts.label,
        queue: &facts.queue,
        read_at: rfc3339(facts.read.0),
        read_until: rfc3339(facts.read.1),
        wishes: facts.states,
        inbox: facts.inbox,
        asked: times(facts.asked),
        asked_by: who(&facts.askers),
        agents: facts.agents.iter().map(|(agent_id, wishes)| Agent { agent_id, wishes: *wishes }).collect(),
        ended: times(facts.ended),
        dead: facts.dead.iter().map(|(cause, wishes)| Cause { cause, wishes: *wishes }).collect(),
        unconfirmed: facts.unconfirmed,
        cancelled_by: who(&facts.cancellers),
        open: Open {
            held: facts.open.held,
            retrying: facts.open.retrying,
            later: facts.open.later,
            due: facts.open.due,
            next_at: facts.open.next.map(rfc3339),
            holds: facts
                .holds
                .iter()
                .map(|row| Hold {
                    scope: row.scope.as_str(),
                    cause: row.cause.as_str(),
                    until_at: hold(row.until_at),
                    why: row.why.as_deref(),
                })
                .collect(),
        },
        verified: Verified { wishes: facts.verified, times: times(facts.verified_at) },
        sha256: &facts.sha256,
        lines: facts.lines.as_deref(),
    };
    let text = serde_json::to_string(&object).context("write JSON")?;
    Ok(sealed_json(&printable::json_line(&text)))
}
