//! The terminal as a screen: its size, and a page that is drawn in the place of the last one.

use std::{
    env,
    io::{self, IsTerminal as _},
};

use anstream::{AutoStream, ColorChoice, adapter::strip_str};
use rustix::termios::tcgetwinsize;

/// Columns and lines of a terminal that does not tell its size.
const USUAL: (usize, usize) = (80, 24);
/// Columns below which a page is not made narrower.
const NARROWEST: usize = 40;

/// The width of the output: the variable COLUMNS, or the terminal's width. `None`: there is no terminal, and nothing is cut.
pub(super) fn columns() -> Option<usize> {
    let width = number("COLUMNS").or_else(|| io::stdout().is_terminal().then(|| window().0));
    width.map(|width| width.max(NARROWEST))
}

/// The number of lines of the terminal, if standard output is one that can be drawn on.
pub(super) fn lines() -> Option<usize> {
    let is_screen = io::stdout().is_terminal() && env::var_os("TERM").is_none_or(|term| term != "dumb");
    is_screen.then(|| number("LINES").unwrap_or_else(|| window().1))
}

fn number(variable: &str) -> Option<usize> {
    env::var(variable).ok()?.trim().parse().ok().filter(|number| *number > 0)
}

/// Columns and lines.
fn window() -> (usize, usize) {
    let size = tcgetwinsize(io::stdout()).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0);
    size.map_or(USUAL, |size| (size.ws_col.into(), size.ws_row.into()))
}

/// What draws `page` in the place of the last one. Each line is cut at `columns`. With `is_anew`, the screen is cleared first.
///
/// The cursor stays below the page and is never hidden, so that an interrupt leaves the last page and a usable terminal.
pub(super) fn frame(page: &[String], columns: Option<usize>, is_anew: bool) -> String {
    let is_coloured = AutoStream::choice(&io::stdout()) != ColorChoice::Never;
    let mut frame = if is_anew { "\u{1b}[H\u{1b}[2J".to_owned() } else { "\u{1b}[H".to_owned() };
    for line in page {
        let line = cut(line, columns.unwrap_or(usize::MAX));
        // To the end of the line and of the screen: the last page may have been longer.
        let line = if is_coloured { line } else { strip_str(&line).to_string() };
        frame.push_str(&line);
        frame.push_str("\u{1b}[K\n");
    }
    frame.push_str("\u{1b}[J");
    frame
}

/// The line with at most `most` characters, not counting colours. A longer one ends with `…`.
fn cut(line: &str, most: usize) -> String {
    let mut cut = String::with_capacity(line.len());
    let (mut width, mut is_escape, mut is_over) = (0, false, false);
    let is_long = strip_str(line).to_string().chars().count() > most;
    for c in line.chars() {
        is_escape |= c == '\u{1b}';
        if is_escape {
            // A colour, or its end, which must stay.
            cut.push(c);
            is_escape = c != 'm';
        } else if is_long && width + 1 >= most {
            if !is_over {
                cut.push('…');
            }
            is_over = true;
        } else {
            cut.push(c);
            width += 1;
        }
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_where_the_terminal_ends_and_its_colour_ends_there_too() {
        for (line, most, expected) in [
            ("abc", 3, "abc"),
            ("abcd", 3, "ab…"),
            ("\u{1b}[31mabcd\u{1b}[0m", 3, "\u{1b}[31mab…\u{1b}[0m"),
            ("\u{1b}[31mabc\u{1b}[0m", 3, "\u{1b}[31mabc\u{1b}[0m"),
            ("", 3, ""),
        ] {
            assert_eq!(cut(line, most), expected, "{line:?}");
        }
    }
}
