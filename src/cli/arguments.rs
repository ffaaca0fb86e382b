//! What is wrong with the arguments, told without steering the terminal of whoever gave them.

use std::process::ExitCode;

use clap::{
    Error,
    error::{ContextKind, ContextValue},
};

use crate::printable::{is_harmful, line};

/// Prints what clap has to say: what is wrong, or the help or the version that was asked for.
pub(super) fn tell(said: Error) -> ExitCode {
    let code = u8::try_from(said.exit_code()).unwrap_or(2);
    // Nowhere is left to say it if that cannot be written.
    let _ = tame(said).print();
    ExitCode::from(code)
}

/// The same with what it has of the arguments escaped; clap's own colours stay.
fn tame(mut said: Error) -> Error {
    let parts: Vec<(ContextKind, ContextValue)> = said.context().map(|(kind, value)| (kind, value.clone())).collect();
    for (kind, value) in parts {
        let tamed = if let ContextValue::String(text) = &value
            && is_wild(text)
        {
            ContextValue::String(line(text).into_owned())
        } else if let ContextValue::Strings(texts) = &value
            && texts.iter().any(|text| is_wild(text))
        {
            ContextValue::Strings(texts.iter().map(|text| line(text).into_owned()).collect())
        } else {
            continue;
        };
        said.insert(kind, tamed);
        // What it suggests has the argument once more, between escape sequences of clap's own.
        said.remove(ContextKind::Suggested);
    }
    said
}

fn is_wild(text: &str) -> bool {
    text.chars().any(is_harmful)
}
