//! The report as text.

use super::{
    facts::{Facts, States},
    seal::{claim_line, sealed_text},
    sections,
};
use crate::{
    cli::{
        Failure,
        times::{show_count, show_text},
    },
    printable,
};

/// The page.
///
/// # Errors
/// If what is checked cannot be written as JSON.
pub(super) fn page(facts: &Facts) -> Result<String, Failure> {
    let mut lines = vec![format!("What became of the deletions with the label {}", facts.label), String::new()];
    lines.extend(sections::asked(facts).into_iter().map(|(name, said)| format!("{name:<12} {said}")));
    lines.push(String::new());
    for (state, count, said) in sections::states(facts) {
        lines.push(format!("{state:<12} {:>10}  {said}", show_count(count)).trim_end().to_owned());
    }
    lines.push(String::new());
    lines.push(format!("{:<12} {}", "verified", sections::verified(facts)));
    lines.push(String::new());
    lines.extend(agents(facts));
    lines.push(String::new());
    lines.push(sections::hashed(facts));
    lines.push(sections::CHECKED.to_owned());
    lines.push(String::new());
    let lines: Vec<_> = lines.iter().map(|line| printable::line(line)).collect();
    Ok(sealed_text(&format!("{}\n{}", lines.join("\n"), claim_line(facts)?)))
}

fn agents(facts: &Facts) -> Vec<String> {
    let (agents, more) = sections::agents(facts);
    let head = ["deleted", "absent", "dead", "cancelled", "open"].map(|state| format!("{state:>11}")).concat();
    let width = agents.iter().map(|(agent, _)| agent.chars().count()).max().unwrap_or(0).clamp(5, 60);
    let row = |(agent, states): &(&str, States)| {
        let counts = [states.deleted, states.absent, states.dead, states.cancelled, states.open];
        let counts = counts.map(|count| format!("{:>11}", show_count(count))).concat();
        format!("{:<width$}{counts}", show_text(agent, 60))
    };
    let more = (more > 0).then(|| format!("and {} more agents: --json names all", show_count(more as u64)));
    std::iter::once(format!("{:<width$}{head}", "agent")).chain(agents.iter().map(row)).chain(more).collect()
}
