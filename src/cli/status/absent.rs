//! An agent without a row: it is most likely misspelt, so the nearest names are said.

use strsim::osa_distance;

use crate::{
    cli::times::{plural, show_text},
    model::deletion::AgentId,
};

/// Names that are said.
const SHOWN: usize = 3;
/// The longest name that is shown whole.
const MAX_NAME: usize = 60;

/// The message about an agent that has no row in `database`. `agents`: all that have one.
pub(in crate::cli) fn message(agent: &AgentId, agents: &[AgentId], database: &str) -> String {
    let said = format!("there is no row of agent {} in {database}", show_text(agent.as_str(), MAX_NAME));
    if agents.is_empty() {
        return format!("{said}; there is no row at all");
    }
    let near = nearest(agent.as_str(), agents.iter().map(AgentId::as_str));
    if near.is_empty() {
        let count = plural(agents.len() as u64, "agent has rows", "agents have rows");
        return format!("{said}; {count}, and none of a similar name: `sweeper status` lists them");
    }
    let near: Vec<String> = near.into_iter().map(|name| show_text(name, MAX_NAME)).collect();
    let known = near.split_last().map(|(last, others)| match others {
        [] => last.clone(),
        others => format!("{} or {last}", others.join(", ")),
    });
    format!("{said}; did you mean {}?", known.unwrap_or_default())
}

/// The names that take the fewest edits to get from the given one, whatever their case: at most a third of its letters, and only
/// those that are nearly as near as the nearest.
fn nearest<'a>(given: &str, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let lower = given.to_lowercase();
    let most = (lower.chars().count() / 3).max(1);
    let mut near: Vec<(usize, &str)> = names
        .map(|name| {
            let name_lower = name.to_lowercase();
            // Who gives the end of an ID, or its beginning, means the ID.
            let is_part = lower.len() >= 3 && name_lower.contains(&lower);
            (if is_part { 1 } else { osa_distance(&lower, &name_lower) }, name)
        })
        .filter(|(distance, _)| *distance <= most)
        .collect();
    near.sort_unstable();
    let least = near.first().map_or(0, |(distance, _)| *distance);
    near.into_iter().take_while(|(distance, _)| *distance <= least + 1).take(SHOWN).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_the_agents_that_may_be_meant() {
        let names = ["PROJECT-58RP822I", "PROJECT-58RP822J", "PROJECT-AAAAAAAA", "BAKERY", "CINEMA"];
        let cases: [(&str, &[&str]); 6] = [
            ("PROJECT-58RP8221", &["PROJECT-58RP822I", "PROJECT-58RP822J"]),
            ("project-58rp822i", &["PROJECT-58RP822I", "PROJECT-58RP822J"]),
            ("58RP822", &["PROJECT-58RP822I", "PROJECT-58RP822J"]),
            ("BAKREY", &["BAKERY"]),
            ("NOPE", &[]),
            ("", &[]),
        ];
        for (given, expected) in cases {
            assert_eq!(nearest(given, names.into_iter()), expected, "{given}");
        }
    }
}
