//! The output of a command, its questions, and its progress.

use std::{
    fmt::Display,
    io::{self, IsTerminal as _, Write as _},
};

use anstyle::{AnsiColor, Style};
use anyhow::Context as _;
use comfy_table::{CellAlignment, ContentArrangement, Row, Table, presets::NOTHING};
use indicatif::{ProgressBar, ProgressStyle};

use super::Failure;
use crate::printable;

const BOLD: Style = Style::new().bold();
pub(super) const GREEN: Style = AnsiColor::Green.on_default();
pub(super) const YELLOW: Style = AnsiColor::Yellow.on_default();
pub(super) const RED: Style = AnsiColor::Red.on_default();

/// Columns of a table: a terminal's 80, less an indent of two.
const TABLE_WIDTH: u16 = 78;

/// Prints the result of a command.
///
/// # Errors
/// If standard output cannot be written.
pub(super) fn say(text: &str) -> Result<(), Failure> {
    writeln!(io::stdout(), "{}", printable::lines(text)).context("write to standard output").map_err(Failure::from)
}

/// Prints a result with colours. Text from other programs must be escaped already.
///
/// # Errors
/// If standard output cannot be written.
pub(super) fn say_in_colour(text: &str) -> Result<(), Failure> {
    // Removes the colours if standard output is no terminal, or NO_COLOR is set.
    let mut out = anstream::stdout();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("write to standard output").map_err(Failure::from)
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

/// `text` in a colour.
pub(super) fn styled(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}

/// The lines of a table, its header first and in bold. `right`: the columns that are aligned to the right. Text that does not fit into
/// the table ends with `…`. The cells must be escaped.
pub(super) fn table<const N: usize>(
    header: [&str; N],
    right: &[usize],
    rows: impl IntoIterator<Item = [String; N]>,
) -> Vec<String> {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_width(TABLE_WIDTH);
    table.set_truncation_indicator("…").set_header(header);
    for cells in rows {
        let mut row = Row::from(cells);
        row.max_height(1);
        table.add_row(row);
    }
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if right.contains(&at) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    if let Some(header) = lines.first_mut() {
        *header = styled(BOLD, &header);
    }
    lines
}

/// A progress bar for `total` units of work, or a spinner if the total is not known. Its message says what is done so far.
///
/// It is drawn on standard error, and only on a terminal. Dropping it removes it. While it is drawn, print through
/// [`ProgressBar::suspend`].
pub(super) fn progress(total: Option<u64>) -> ProgressBar {
    match total {
        Some(total) => styled_bar(ProgressBar::new(total), "{bar:20} {percent:>3} %  {msg}, {eta} left"),
        None => styled_bar(ProgressBar::no_length(), "{spinner} {msg}"),
    }
}

/// The same for rows that may become more, and end in bursts or not at all: the caller estimates the end. A message that is too
/// long for the terminal is cut.
pub(super) fn bar_of_rows() -> ProgressBar {
    styled_bar(ProgressBar::new(0), "{bar:15} {percent:>3} %  {wide_msg}")
}

fn styled_bar(bar: ProgressBar, template: &str) -> ProgressBar {
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
