//! Input of `enqueue`: plain lines, CSV or JSON lines. Each line becomes a wish or a problem.

mod ahead;
mod csv;
mod foreign;
mod json;
mod lines;

use clap::ValueEnum;

use super::times::{Moment, show_text};
use crate::{
    model::{
        clock::Timestamp,
        deletion::{AgentId, EntryId, refuse_floating},
        label::Label,
    },
    queue::Wish,
};
pub(super) use ahead::{Ahead, Input, Line, SILENCE};
pub(super) use foreign::{in_quotes, is_several};

/// How a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// The first line decides.
    Auto,
    /// An entry ID in each line.
    Lines,
    /// Comma-separated values, below a line that names the columns.
    Csv,
    /// A JSON object in each line.
    Jsonl,
}

/// Why a line is not a wish.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// This line is wrong; the next one may be right.
    Line(String),
    /// The whole input is in a form that cannot be read.
    Input(String),
}

/// Values for lines that do not name their own.
#[derive(Clone, Debug)]
pub(super) struct Defaults {
    pub(super) agent: Option<AgentId>,
    pub(super) priority: i64,
    pub(super) due_at: Timestamp,
    pub(super) label: Option<Label>,
}

impl Defaults {
    /// The wish for an entry of which nothing else is said.
    pub(super) fn wish(&self, agent: AgentId, entry: EntryId) -> Wish {
        Wish { agent, entry, priority: self.priority, due_at: self.due_at, label: self.label.clone() }
    }
}

/// The texts of a wish, not parsed yet.
#[derive(Default)]
struct Raw {
    agent: Option<String>,
    entry: Option<String>,
    priority: Option<String>,
    due: Option<String>,
    label: Option<String>,
}

/// Makes wishes of lines.
pub(super) struct Parser {
    format: Format,
    defaults: Defaults,
    now: Timestamp,
    /// Whether `Lines` was guessed from the first line. Then a line that looks like another format is refused.
    guessed: bool,
    /// Whether a line has been parsed that is not empty.
    has_begun: bool,
    records: csv::Records,
    /// The agent of the last line, which is most often the agent of the next one, too.
    agent: Option<AgentId>,
}

impl Parser {
    pub(super) fn new(format: Format, defaults: Defaults, now: Timestamp) -> Self {
        Self { format, defaults, now, guessed: false, has_begun: false, records: csv::Records::new(), agent: None }
    }

    /// The wish in a line; `None` if the line is empty or names the columns.
    ///
    /// # Errors
    /// If the line, or the whole input, cannot be read.
    pub(super) fn parse(&mut self, line: &str) -> Result<Option<Wish>, Problem> {
        if line.is_empty() {
            return Ok(None);
        }
        if !std::mem::replace(&mut self.has_begun, true)
            && matches!(self.format, Format::Auto | Format::Jsonl)
            && let Some(said) = foreign::json(line)
        {
            return Err(Problem::Input(said.to_owned()));
        }
        if self.format == Format::Auto {
            self.format = self.recognise(line)?;
            self.guessed = self.format == Format::Lines;
        }
        if self.guessed && in_quotes(line).is_some() {
            return Err(Problem::Line(quoted(line)));
        }
        if self.guessed && is_several(line) {
            return Err(Problem::Line(several(line)));
        }
        if self.guessed && line.contains(['{', '[', '"', ',', ';', '\t']) {
            let said = "does not look like an ID, as the first line did; --format lines takes every line as an ID";
            return Err(Problem::Line(said.to_owned()));
        }
        let raw = match self.format {
            Format::Auto | Format::Lines => Raw { entry: Some(line.to_owned()), ..Raw::default() },
            Format::Jsonl => json::read(line).map_err(Problem::Line)?,
            Format::Csv => match self.records.read(line, self.defaults.agent.is_some())? {
                Some(raw) => raw,
                None => return Ok(None),
            },
        };
        self.wish(raw).map(Some)
    }

    /// The format of an input that begins with this line.
    fn recognise(&mut self, first: &str) -> Result<Format, Problem> {
        if first.starts_with('{') {
            return Ok(Format::Jsonl);
        }
        let fields = self.records.fields(first).unwrap_or_default();
        if fields.iter().any(|name| name == "entry_id") {
            Ok(Format::Csv)
        } else if is_several(first) {
            Err(Problem::Input(several(first)))
        } else if let Some(said) = csv::separated(first).or_else(|| csv::misspelt(&fields)) {
            Err(Problem::Input(format!("{said} (if it is an ID all the same, give --format lines)")))
        } else if in_quotes(first).is_some() {
            Err(Problem::Input(quoted(first)))
        } else if first.contains(['[', '"']) || fields.iter().any(|name| csv::is_column(name)) {
            Err(Problem::Input(
                "the first line is neither an ID, nor a JSON object, nor the names of comma-separated columns (agent_id, \
                 entry_id, priority, due_at, label): give --format lines if it is an ID all the same"
                    .to_owned(),
            ))
        } else if fields.len() > 1 {
            Err(Problem::Input(
                "the first line looks like CSV, and names no column entry_id: put a line above it that names the columns \
                 (agent_id,entry_id), or give --format lines if the commas belong to the IDs"
                    .to_owned(),
            ))
        } else {
            Ok(Format::Lines)
        }
    }

    fn wish(&mut self, raw: Raw) -> Result<Wish, Problem> {
        let agent = self.agent(raw.agent)?;
        let entry = raw.entry.ok_or_else(|| Problem::Line("has no entry_id".to_owned()))?;
        if self.format != Format::Lines && refuse_floating(&entry).is_ok() && is_several(&entry) {
            return Err(Problem::Line(several(&entry)));
        }
        let entry = refuse_floating(&entry).and_then(|()| EntryId::parse(&entry)).map_err(|error| refused(&error))?;
        let priority = match raw.priority {
            Some(text) => {
                text.parse().map_err(|_| refused(&format!("priority {text:?}: must be an integer of up to 64 bits")))?
            }
            None => self.defaults.priority,
        };
        let due_at = match raw.due {
            Some(text) => {
                Moment::parse_due(&text).map_err(|error| refused(&format!("due_at {text:?}: {error}")))?.due(self.now)
            }
            None => self.defaults.due_at,
        };
        let label = match raw.label {
            Some(text) => Some(Label::parse(&text).map_err(|error| refused(&error))?),
            None => self.defaults.label.clone(),
        };
        self.agent = Some(agent.clone());
        Ok(Wish { agent, entry, priority, due_at, label })
    }

    /// The agent that a line names, or the default.
    fn agent(&self, text: Option<String>) -> Result<AgentId, Problem> {
        match text {
            Some(text) => match &self.agent {
                Some(agent) if agent.as_str() == text => Ok(agent.clone()),
                _ => refuse_floating(&text).and_then(|()| AgentId::parse(&text)).map_err(|error| refused(&error)),
            },
            None => self.defaults.agent.clone().ok_or_else(|| match self.format {
                // CSV has passed the check of its header, so only this line lacks an agent.
                Format::Jsonl | Format::Csv => Problem::Line("has no agent_id, and no --agent was given".to_owned()),
                Format::Auto | Format::Lines => Problem::Input(
                    "the input does not say whose entries these are: give --agent, or a column agent_id in CSV"
                        .to_owned(),
                ),
            }),
        }
    }
}

/// What is wrong with a line of several numbers.
fn several(line: &str) -> String {
    let line = show_text(line, 60);
    format!("{line:?} looks like several IDs: write each on a line of its own, or give --format lines if it is one ID")
}

/// What is wrong with a line in quotation marks.
fn quoted(line: &str) -> String {
    let line = show_text(line, 60);
    format!(
        "{line} is in quotation marks, which are not part of an ID: remove them, or put a line above that names the column \
         (entry_id), or give --format lines if they are part of the ID"
    )
}

/// A problem of one line, with its quoted text cut to a readable length.
fn refused(error: &dyn ToString) -> Problem {
    Problem::Line(show_text(&error.to_string(), 400))
}

#[cfg(test)]
#[path = "input_tests.rs"]
mod tests;
