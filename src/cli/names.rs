//! Names that somebody gives of things in the queue: what was meant, and how a shell takes them.

use std::borrow::Cow;

use super::{
    Failure,
    terminal::warn_person,
    times::{plural, show_text},
};
use crate::{
    config::{Config, nearest::nearest_ids},
    model::{deletion::AgentId, label::Label},
    printable::absolute,
    queue::sqlite::{Reader, twice_if_damaged},
};

/// The longest name of an agent that a message shows whole.
const MAX_NAME: usize = 60;

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
    let database = absolute(&config.store.path);
    let said = format!("there is no row of agent {} in {}", show_text(agent.as_str(), MAX_NAME), database.display());
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

/// The message about a label that no wish has.
///
/// # Errors
/// If the database cannot be read.
pub(super) async fn unknown_label(label: &Label, reader: &mut Reader, config: &Config) -> Result<String, Failure> {
    let meant = meant(label.as_str(), &reader.labels().await?);
    let (label, path) = (quoted(label.as_str()), absolute(&config.store.path));
    Ok(format!(
        "no wish has the label {label} in {}, or they all ended longer ago than queue.retention{meant}",
        path.display()
    ))
}

/// Warns of a label that no wish has. Returns whether it did.
///
/// # Errors
/// If the database cannot be read.
pub(super) async fn warn_if_unknown(label: &Label, config: &Config) -> Result<bool, Failure> {
    let look = async || {
        let mut reader = Reader::open(&config.store).await?;
        let is_known = reader.knows_label(label).await?;
        Ok::<_, Failure>(if is_known { None } else { Some(unknown_label(label, &mut reader, config).await?) })
    };
    let said = twice_if_damaged(look).await?;
    said.iter().for_each(|said| warn_person(said));
    Ok(said.is_some())
}

fn meant(written: &str, names: &[String]) -> String {
    let near = nearest_ids(written, names.iter().map(String::as_str));
    let near: Vec<Cow<'_, str>> = near.into_iter().map(quoted).collect();
    if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(" or ")) }
}

/// The name as a shell takes it: in quotation marks unless it needs none.
pub(super) fn quoted(name: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/@%+=,".contains(c);
    if !name.is_empty() && name.chars().all(is_plain) {
        return Cow::Borrowed(name);
    }
    Cow::Owned(format!("'{}'", name.replace('\'', r"'\''")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_quoted_for_a_shell_only_where_it_must_be() {
        for (name, shown) in
            [("ERASURE-17", "ERASURE-17"), ("erasure 17", "'erasure 17'"), ("it's", r"'it'\''s'"), ("$(id)", "'$(id)'")]
        {
            assert_eq!(quoted(name), shown);
        }
    }
}
