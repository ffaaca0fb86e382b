//! A line of `check`: one thing that was looked at or asked.

use crate::{
    cli::Failure,
    cli::terminal::{GREEN, RED, say_in_colour, styled},
    printable,
};

/// Columns of a line: a terminal's 80.
const WIDTH: usize = 80;
/// Columns before the text.
const INDENT: usize = 17;

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It is well.
    Ok,
    /// It is not.
    Not,
    /// It was not asked, or it cannot be judged.
    Open,
}

/// One thing that was looked at or asked.
#[derive(Debug)]
pub(super) struct Line {
    name: &'static str,
    pub(super) state: State,
    text: String,
}

impl Line {
    pub(super) fn new(name: &'static str, state: State, text: impl Into<String>) -> Self {
        Self { name, state, text: text.into() }
    }

    pub(super) fn ok(name: &'static str, text: impl Into<String>) -> Self {
        Self::new(name, State::Ok, text)
    }

    pub(super) fn not(name: &'static str, text: impl Into<String>) -> Self {
        Self::new(name, State::Not, text)
    }

    pub(super) fn open(name: &'static str, text: impl Into<String>) -> Self {
        Self::new(name, State::Open, text)
    }

    /// The line as text, broken at spaces. What is longer than a line, such as a path, stays whole.
    fn show(&self) -> String {
        let state = match self.state {
            State::Ok => styled(GREEN, "ok "),
            State::Not => styled(RED, "NOT"),
            State::Open => "-  ".to_owned(),
        };
        let mut lines = vec![String::new()];
        for word in printable::line(&self.text).split(' ') {
            let line = lines.last().map_or(0, |line| line.chars().count());
            if line > 0 && INDENT + line + 1 + word.chars().count() > WIDTH {
                lines.push(String::new());
            }
            if let Some(line) = lines.last_mut() {
                if !line.is_empty() {
                    line.push(' ');
                }
                line.push_str(word);
            }
        }
        let text = lines.join(&format!("\n{:INDENT$}", ""));
        format!("{:<11} {state}  {text}", self.name)
    }
}

/// Prints the lines. Returns true if all is well.
///
/// # Errors
/// If standard output cannot be written.
pub(super) fn tell(lines: &[Line]) -> Result<bool, Failure> {
    let shown: Vec<String> = lines.iter().map(|line| line.show().trim_end().to_owned()).collect();
    say_in_colour(&shown.join("\n"))?;
    Ok(lines.iter().all(|line| line.state != State::Not))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_broken_at_spaces_and_what_is_long_stays_whole() {
        let long = "x".repeat(100);
        let shown = Line::open("write", format!("{} {long} \u{1b}[2J end", "word ".repeat(20).trim_end())).show();
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines[0].starts_with("write       -    word word"), "{shown}");
        assert!(lines[1].starts_with(&format!("{:17}word", "")), "{shown}");
        assert_eq!(lines[2].trim(), long);
        assert_eq!(lines[3].trim(), "\\u{1b}[2J end");
        assert!(lines.iter().all(|line| line.chars().count() <= 80 || line.contains(&long)), "{shown}");
    }
}
