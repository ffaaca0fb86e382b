//! Comma-separated values below a line that names the columns.
//!
//! Each line is a record of its own. The reader of the `csv` crate would let a field with an unterminated quote swallow the
//! lines below, and no column that is allowed can contain a line break.

use super::{Problem, Raw};
use crate::cli::times::show_text;

/// A column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Agent,
    Entry,
    Priority,
    Due,
    Label,
}

impl Field {
    const ALL: [(&str, Self); 5] = [
        ("agent_id", Self::Agent),
        ("entry_id", Self::Entry),
        ("priority", Self::Priority),
        ("due_at", Self::Due),
        ("label", Self::Label),
    ];

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, field)| field)
    }

    fn of(self, raw: &mut Raw) -> &mut Option<String> {
        match self {
            Self::Agent => &mut raw.agent,
            Self::Entry => &mut raw.entry,
            Self::Priority => &mut raw.priority,
            Self::Due => &mut raw.due,
            Self::Label => &mut raw.label,
        }
    }
}

/// Whether this is the name of a column.
pub(super) fn is_column(name: &str) -> bool {
    Field::parse(name).is_some()
}

/// The column that a name most likely means, however it is written.
pub(super) fn meant(name: &str) -> Option<&'static str> {
    let letters: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    match letters.to_ascii_lowercase().as_str() {
        "entryid" | "entry" | "id" => Some("entry_id"),
        "agentid" | "agent" => Some("agent_id"),
        "priority" | "prio" => Some("priority"),
        "dueat" | "due" => Some("due_at"),
        "label" | "labels" => Some("label"),
        _ => None,
    }
}

/// What is wrong with the first of these names that means a column, and is not spelt as the column. A column that another name
/// spells is not meant again.
pub(super) fn misspelt(names: &[String]) -> Option<String> {
    let is_named = |column: &str| names.iter().any(|name| name == column);
    let (name, column) = names.iter().find_map(|name| Some((name, meant(name).filter(|column| !is_named(column))?)))?;
    Some(format!("column {:?}: did you mean {column}?", show_text(name, 60)))
}

/// What is wrong with a first line that another character than the comma separates.
pub(super) fn separated(first: &str) -> Option<String> {
    if first.contains(',') {
        return None;
    }
    let (named, typed) = match first.find([';', '\t', '|']).and_then(|at| first[at..].chars().next())? {
        ';' => ("\";\"", "';'"),
        '|' => ("\"|\"", "'|'"),
        _ => ("tabs", "'\\t'"),
    };
    Some(format!(
        "the line is separated by {named}, expected \",\": `tr {typed} ',' <file | sweeper enqueue …` converts it if no \
         field contains a comma"
    ))
}

/// Reads records.
pub(super) struct Records {
    reader: csv_core::Reader,
    /// `None` until the header has been read.
    columns: Option<Vec<Field>>,
}

impl Records {
    pub(super) fn new() -> Self {
        Self { reader: csv_core::Reader::new(), columns: None }
    }

    /// The record in a line; `None` for the header. `has_agent`: an agent was given, so the column may be missing.
    ///
    /// # Errors
    /// If the line is not a record of these columns, or the header does not name usable columns.
    pub(super) fn read(&mut self, line: &str, has_agent: bool) -> Result<Option<Raw>, Problem> {
        let fields = self.fields(line);
        let Some(columns) = &self.columns else {
            let names = fields.map_err(Problem::Input)?;
            let columns = columns_of(&names, has_agent).map_err(|said| separated(line).unwrap_or(said));
            self.columns = Some(columns.map_err(Problem::Input)?);
            return Ok(None);
        };
        let fields = fields.map_err(Problem::Line)?;
        if fields.len() != columns.len() {
            let (found, wanted) = (fields.len(), columns.len());
            return Err(Problem::Line(format!(
                "has {found} fields, and the header has {wanted}; a value with a comma needs double quotes, and no entry ID has one"
            )));
        }
        let mut raw = Raw::default();
        for (column, text) in columns.iter().zip(fields) {
            *column.of(&mut raw) = Some(text).filter(|text| !text.is_empty());
        }
        Ok(Some(raw))
    }

    /// The fields of a line, without the white space around them.
    ///
    /// # Errors
    /// If a quoted field does not end on the line.
    pub(super) fn fields(&mut self, line: &str) -> Result<Vec<String>, String> {
        self.reader.reset();
        let (mut output, mut ends) = (vec![0; line.len() + 1], vec![0; line.len() + 1]);
        let input = [line.as_bytes(), b"\n"].concat();
        let (result, _, _, count) = self.reader.read_record(&input, &mut output, &mut ends);
        if result != csv_core::ReadRecordResult::Record {
            return Err("has a quoted field that does not end on the same line".to_owned());
        }
        let mut start = 0;
        let fields = ends[..count].iter().map(|end| {
            let field = String::from_utf8_lossy(&output[start..*end]).trim().to_owned();
            start = *end;
            field
        });
        Ok(fields.collect())
    }
}

fn columns_of(names: &[String], has_agent: bool) -> Result<Vec<Field>, String> {
    let mut columns = Vec::new();
    for name in names {
        let unknown = || {
            let name = show_text(name, 60);
            misspelt(names).unwrap_or_else(|| {
                format!("column {name:?} is none of agent_id, entry_id, priority, due_at, label: leave it out")
            })
        };
        let field = Field::parse(name).ok_or_else(unknown)?;
        if columns.contains(&field) {
            return Err(format!("column {name:?} is there twice"));
        }
        columns.push(field);
    }
    if !columns.contains(&Field::Entry) {
        return Err("the first line must name the columns, and entry_id must be one of them".to_owned());
    }
    if !columns.contains(&Field::Agent) && !has_agent {
        return Err("there is no column agent_id, and no --agent was given".to_owned());
    }
    Ok(columns)
}
