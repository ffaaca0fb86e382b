//! Names that somebody gives of things in the queue, and what was meant.

use std::borrow::Cow;

use super::{
    Failure,
    times::{plural, show_text},
};
use crate::{
    config::{Config, nearest::nearest_ids},
    model::{deletion::AgentId, label::Label},
    printable::shell,
    queue::{either::Reader, sqlite::twice_if_damaged},
};

/// The longest name of an agent that a message shows whole.
const MAX_NAME: usize = 60;
/// The labels that are looked at for one that is meant.
const MOST_LABELS: u32 = 100_000;

/// The message about an agent that has no row: it is most likely misspelt. `None` if it has one.
///
/// # Errors
/// If the database cannot be read.
pub(super) async fn unknown_agent(agent: &AgentId, config: &Config) -> Result<Option<String>, Failure> {
    let look = async || Ok::<_, Failure>(Reader::open(&config.store).await?.agents().await?);
    let agents = twice_if_damaged(look).await?;
    Ok((!agents.contains(agent)).then(|| without_rows(agent, &agents, config)))
}

fn without_rows(agent: &AgentId, agents: &[AgentId], config: &Config) -> String {
    let database = &config.store;
    let said = format!("there is no row of agent {} in {}", show_text(agent.as_str(), MAX_NAME), database);
    if agents.is_empty() {
        return format!("{said}; there is no row at all");
    }
    let near = nearest_ids(agent.as_str(), agents.iter().map(AgentId::as_str));
    let near: Vec<String> = near.into_iter().map(|name| show_text(name, MAX_NAME)).collect();
    if near.is_empty() {
        let count = plural(agents.len() as u64, "agent has rows", "agents have rows");
        return format!("{said}; {count}, and none of a similar name: `sweeper status` lists them");
    }
    format!("{said}; did you mean {}?", near.join(" or "))
}

/// The message about a label that no wish has. `None` if one has it.
///
/// # Errors
/// If the database cannot be read.
pub(super) async fn unknown_label(label: &Label, config: &Config) -> Result<Option<String>, Failure> {
    let look = async || {
        let mut reader = Reader::open(&config.store).await?;
        Ok::<_, Failure>(if reader.knows_label(label).await? { None } else { Some(reader.labels(MOST_LABELS).await?) })
    };
    Ok(twice_if_damaged(look).await?.map(|labels| {
        let (meant, label) = (meant(label.as_str(), &labels), shell(label.as_str()));
        let database = &config.store;
        format!("no wish has the label {label} in {database}, or they all ended longer ago than queue.evidence_retention{meant}")
    }))
}

/// The message about the label or the agent by which nothing was found, if nothing in the queue has it.
///
/// # Errors
/// If the database cannot be read.
pub(super) async fn unknown(
    agent: Option<&AgentId>,
    label: Option<&Label>,
    config: &Config,
) -> Result<Option<String>, Failure> {
    let said = match label {
        Some(label) => unknown_label(label, config).await?,
        None => None,
    };
    match (said, agent) {
        (None, Some(agent)) => unknown_agent(agent, config).await,
        (said, _) => Ok(said),
    }
}

fn meant(written: &str, names: &[String]) -> String {
    let near = nearest_ids(written, names.iter().map(String::as_str));
    let near: Vec<Cow<'_, str>> = near.into_iter().map(shell).collect();
    if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(" or ")) }
}
