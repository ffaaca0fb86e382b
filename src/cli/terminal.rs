//! What a command says to whoever runs it, and what it asks.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};

use super::Failure;
use crate::printable;

/// Prints the result of a command.
///
/// # Errors
/// If standard output cannot be written.
pub(super) fn say(text: &str) -> Result<(), Failure> {
    writeln!(io::stdout(), "{}", printable::lines(text)).context("write to standard output").map_err(Failure::from)
}

/// Prints what has been done. It cannot be undone, so the command succeeds even if standard output cannot be written.
pub(super) fn report(text: &str) {
    if say(text).is_err() {
        warn_person(text);
    }
}

/// Prints to standard error, which keeps standard output fit for another program.
pub(super) fn warn_person(text: &str) {
    // If standard error is closed, there is nowhere left to say so.
    let _ = writeln!(io::stderr(), "{}", printable::lines(text));
}

/// Refuses to start a command whose question nobody could answer.
///
/// # Errors
/// If standard input is not a terminal.
pub(super) fn will_ask() -> Result<(), Failure> {
    if io::stdin().is_terminal() {
        return Ok(());
    }
    let said = "this command asks before it writes, and standard input is no terminal: give --yes to go ahead, or \
                --dry-run to see what it would do";
    Err(Failure::Usage(said.to_owned()))
}

/// Asks a question. Anything but `y` or `yes` means no.
///
/// # Errors
/// If the question cannot be written, or the answer cannot be read.
pub(super) fn ask(question: &str) -> Result<bool, Failure> {
    let mut stderr = io::stderr();
    write!(stderr, "{question} [y/N] ").and_then(|()| stderr.flush()).context("ask")?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).context("read the answer")?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// A progress bar for `total` units of work, or a spinner if the total is not known. Its message says what is done so far.
///
/// It is drawn on standard error, and only on a terminal. Dropping it removes it. While it is drawn, print through
/// [`ProgressBar::suspend`].
pub(super) fn progress(total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (ProgressBar::new(total), "{bar:20} {percent:>3} %  {msg}, {eta} left"),
        None => (ProgressBar::no_length(), "{spinner} {msg}"),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
