//! The output of a command, its questions, and its progress.

use std::{
    fmt::Display,
    io::{self, IsTerminal as _, Write as _},
    os::fd::{AsFd as _, BorrowedFd},
    thread,
};

use anstyle::{AnsiColor, Style};
use anyhow::{Context as _, Error};
use comfy_table::{CellAlignment, ContentArrangement, Row, Table, presets::NOTHING};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::oneshot;

use super::{Failure, screen::columns};
use crate::printable;

const BOLD: Style = Style::new().bold();
pub(super) const GREEN: Style = AnsiColor::Green.on_default();
pub(super) const YELLOW: Style = AnsiColor::Yellow.on_default();
pub(super) const RED: Style = AnsiColor::Red.on_default();

/// Columns by which tables are indented at most.
const INDENT: usize = 2;

/// Prints the result of a command.
///
/// # Errors
/// If standard output cannot be written. A reader that has gone, such as `head`, wants no more, and is no error.
pub(super) fn say(text: &str) -> Result<(), Failure> {
    is_read(write_out(&format!("{}\n", printable::lines(text)))).map(drop)
}

/// Prints a result with colours. Text from other programs must be escaped already.
///
/// # Errors
/// As [`say`].
pub(super) fn say_in_colour(text: &str) -> Result<(), Failure> {
    write_coloured(text).map(drop)
}

/// The same. False if nobody reads standard output any more.
///
/// # Errors
/// As [`say`].
pub(super) fn write_coloured(text: &str) -> Result<bool, Failure> {
    // Removes the colours if standard output is no terminal, or NO_COLOR is set.
    let mut out = anstream::stdout();
    is_read(writeln!(out, "{text}").and_then(|()| out.flush()))
}

/// Writes to standard output, all at once.
pub(super) fn write_out(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}

/// Whether a write to standard output had a reader.
pub(super) fn is_read(written: io::Result<()>) -> Result<bool, Failure> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::Other(Error::new(error).context("write to standard output"))),
    }
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

/// Whether standard output and standard error are the same terminal, file, pipe or socket.
pub(super) fn outputs_are_one() -> bool {
    let place = |output: BorrowedFd<'_>| rustix::fs::fstat(output).map(|found| (found.st_dev, found.st_ino)).ok();
    place(io::stdout().as_fd()).is_some_and(|out| place(io::stderr().as_fd()) == Some(out))
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

/// Asks on a thread of its own, because reading the answer cannot be cancelled by a signal. The thread is not joined.
///
/// # Errors
/// As [`ask`].
pub(super) async fn ask_aside(question: String) -> Result<bool, Failure> {
    let (tell, told) = oneshot::channel();
    let thread = thread::Builder::new().name("question".to_owned());
    // If the receiver is gone, the process is ending.
    thread.spawn(move || drop(tell.send(ask(&question)))).context("ask")?;
    told.await.context("ask")?
}

/// `text` in a colour.
pub(super) fn styled(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}

/// `text` in bold.
pub(super) fn bold(text: impl Display) -> String {
    styled(BOLD, text)
}

/// The lines of a table, its header first and in bold. `right`: the columns that are aligned to the right. Text that does not fit into
/// the terminal ends with `…`; without a terminal, nothing is cut. The cells must be escaped.
pub(super) fn table<const N: usize>(
    header: [&str; N],
    right: &[usize],
    rows: impl IntoIterator<Item = [String; N]>,
) -> Vec<String> {
    let mut table = Table::new();
    table.load_style(NOTHING);
    match columns() {
        Some(columns) => {
            let width = u16::try_from(columns - INDENT).unwrap_or(u16::MAX);
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        }
        None => {
            table.set_content_arrangement(ContentArrangement::Disabled);
        }
    }
    table.set_truncation_indicator("…").set_header(header);
    for cells in rows {
        let mut row = Row::from(cells);
        row.max_height(1);
        table.add_row(row);
    }
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if at + 1 == N { 0 } else { 2 }));
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
