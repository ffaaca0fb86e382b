//! Values of arguments, and messages about wrong ones.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use clap::{
    Error,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::{WITHOUT_CONFIG, terminal::warn_person, times::show_text};
use crate::{
    durations,
    model::{
        deletion::{AgentId, EntryId, IdError},
        label::{Label, LabelError},
    },
    printable::is_harmful,
};

/// The longest duration that an argument can have.
const MAX_DURATION: Duration = Duration::from_secs(366 * 86_400);

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    durations::parse(text, &(Duration::ZERO..=MAX_DURATION))
}

pub(super) fn agent_id(text: &str) -> Result<AgentId, IdError> {
    AgentId::parse(text)
}

pub(super) fn entry_id(text: &str) -> Result<EntryId, IdError> {
    EntryId::parse(text)
}

pub(super) fn label(text: &str) -> Result<Label, LabelError> {
    Label::parse(text)
}

/// The longest argument that a message quotes, in characters.
const MOST_QUOTED: usize = 200;

/// Prints clap's message: what is wrong, or the help or version that was asked for.
pub(super) fn tell(error: Error) -> ExitCode {
    let code = u8::try_from(error.exit_code()).unwrap_or(2);
    if is_stray_config(&error) {
        let without = WITHOUT_CONFIG.join(", ");
        warn_person(&format!(
            "sweeper: --config follows the command that reads the file, as in `sweeper run --config FILE`; {without} read none"
        ));
        return ExitCode::from(code);
    }
    let printed = with_tip(escape(error)).print().and_then(|()| io::stdout().flush());
    match printed {
        // The help or the version was asked for, and somebody may rely on it. A reader that has gone wants no more.
        Err(error) if code == 0 && error.kind() != io::ErrorKind::BrokenPipe => {
            warn_person(&format!("sweeper: write to standard output: {error}"));
            ExitCode::from(1)
        }
        // If a message cannot be written, there is nowhere left to say so.
        _ => ExitCode::from(code),
    }
}

/// Whether `--config` stands before the command, or with a command that reads no configuration.
fn is_stray_config(error: &Error) -> bool {
    let is_config = |value: &ContextValue| matches!(value, ContextValue::String(text) if text == "--config");
    error.kind() == ErrorKind::UnknownArgument && error.get(ContextKind::InvalidArg).is_some_and(is_config)
}

/// The commands that have no `--dry-run`: they send, or only read.
const WITHOUT_DRY_RUN: [&str; 3] = ["sweeper run", "sweeper <COMMAND>", "sweeper demo"];

/// Points a person who looks for a trial without consequences to `sweeper plan`.
fn with_tip(mut error: Error) -> Error {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::StyledStr(text)) => text.to_string(),
        _ => String::new(),
    };
    let (argument, usage) = (text(ContextKind::InvalidArg), text(ContextKind::Usage));
    let is_trial =
        ["--dry", "--simulat", "--preview", "--plan", "--no-op"].iter().any(|name| argument.starts_with(name));
    if is_trial && WITHOUT_DRY_RUN.iter().any(|command| usage.contains(command)) {
        let tip = "'sweeper plan' shows what would go out, and sends nothing".to_owned();
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

/// Escapes and cuts the arguments that the message quotes. Unescaped, they could steer the terminal; uncut, they could bury the
/// message. clap's own colours stay.
fn escape(mut error: Error) -> Error {
    let parts: Vec<(ContextKind, ContextValue)> = error.context().map(|(kind, value)| (kind, value.clone())).collect();
    for (kind, value) in parts {
        let escaped = if let ContextValue::String(text) = &value
            && is_odd(text)
        {
            ContextValue::String(show_text(text, MOST_QUOTED))
        } else if let ContextValue::Strings(texts) = &value
            && texts.iter().any(|text| is_odd(text))
        {
            ContextValue::Strings(texts.iter().map(|text| show_text(text, MOST_QUOTED)).collect())
        } else {
            continue;
        };
        error.insert(kind, escaped);
        // The suggestion repeats the argument between clap's own colours, so it cannot be escaped as text.
        error.remove(ContextKind::Suggested);
    }
    error
}

fn is_odd(text: &str) -> bool {
    text.chars().count() > MOST_QUOTED || text.chars().any(is_harmful)
}
