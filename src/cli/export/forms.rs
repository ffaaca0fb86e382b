//! A record as a line of CSV, or as a JSON object.

use anyhow::Context as _;
use clap::ValueEnum;
use serde::Serialize;

use crate::{
    cli::{Failure, times::rfc3339},
    model::clock::Timestamp,
    printable,
    queue::report::{Record, SentRequest},
};

/// How records are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Csv,
    Jsonl,
}

/// The line of CSV with the names of the columns, which are the names of [`Object`]'s fields.
const HEADER: &str = "agent_id,entry_id,label,state,asked_at,asked_by,priority,attempts,due_at,cause,maybe_done,sent_at,answered_at,\
    kind,status,verdict,correlation_id,remote_id,detail,ended_at,verified_at,cancelled_by\r\n";

/// The object of JSON lines. Names and meanings are stable. A value that is not known is null.
#[derive(Debug, Serialize)]
struct Object<'r> {
    agent_id: &'r str,
    entry_id: &'r str,
    label: Option<&'r str>,
    state: &'r str,
    asked_at: String,
    asked_by: Option<&'r str>,
    priority: Option<i64>,
    attempts: Option<i64>,
    due_at: Option<String>,
    cause: Option<&'r str>,
    maybe_done: Option<bool>,
    sent_at: Option<String>,
    answered_at: Option<String>,
    kind: Option<&'r str>,
    status: Option<i64>,
    verdict: Option<&'r str>,
    correlation_id: Option<&'r str>,
    remote_id: Option<&'r str>,
    detail: Option<&'r str>,
    ended_at: Option<String>,
    verified_at: Option<String>,
    cancelled_by: Option<&'r str>,
}

impl<'r> Object<'r> {
    fn new(record: &'r Record, asked_by: Option<&'r str>) -> Self {
        let request = record.request.as_ref();
        let text = |of: fn(&SentRequest) -> Option<&str>| request.and_then(of);
        let time = |at: Option<Timestamp>| at.map(rfc3339);
        Self {
            agent_id: &record.agent,
            entry_id: &record.entry,
            label: record.label.as_deref(),
            state: &record.state,
            asked_at: rfc3339(record.asked_at),
            asked_by,
            priority: record.priority,
            attempts: record.attempts,
            // 0 means at once.
            due_at: time(record.due_at.filter(|at| *at != Timestamp::ZERO)),
            cause: record.cause.as_deref(),
            maybe_done: record.maybe_done,
            sent_at: time(request.map(|request| request.claimed_at)),
            answered_at: time(request.and_then(|request| request.answered_at)),
            kind: text(|request| Some(&request.kind)),
            status: request.and_then(|request| request.status),
            verdict: text(|request| request.verdict.as_deref()),
            correlation_id: text(|request| Some(&request.correlation_id)),
            remote_id: text(|request| request.remote_id.as_deref()),
            detail: text(|request| request.detail.as_deref()),
            ended_at: time(record.ended_at),
            verified_at: time(record.verified_at),
            cancelled_by: record.cancelled_by.as_deref(),
        }
    }

    /// The line of CSV.
    fn csv(&self, line: &mut String) {
        let number = |n: Option<i64>| n.map(|n| n.to_string()).unwrap_or_default();
        let plain = |text: &Option<String>| text.clone().unwrap_or_default();
        let maybe_done = self.maybe_done.map(|maybe| maybe.to_string()).unwrap_or_default();
        let fields = [
            cell(Some(self.agent_id)),
            cell(Some(self.entry_id)),
            cell(self.label),
            cell(Some(self.state)),
            self.asked_at.clone(),
            cell(self.asked_by),
            number(self.priority),
            number(self.attempts),
            plain(&self.due_at),
            cell(self.cause),
            maybe_done,
            plain(&self.sent_at),
            plain(&self.answered_at),
            cell(self.kind),
            number(self.status),
            cell(self.verdict),
            cell(self.correlation_id),
            cell(self.remote_id),
            cell(self.detail),
            plain(&self.ended_at),
            plain(&self.verified_at),
            cell(self.cancelled_by),
        ];
        line.push_str(&fields.join(","));
        line.push_str("\r\n");
    }
}

impl Format {
    /// What stands before the first record.
    pub(super) fn header(self) -> &'static str {
        match self {
            Self::Csv => HEADER,
            Self::Jsonl => "",
        }
    }

    /// Adds a record.
    ///
    /// # Errors
    /// If it cannot be written as JSON.
    pub(super) fn add(self, record: &Record, asked_by: Option<&str>, to: &mut String) -> Result<(), Failure> {
        let object = Object::new(record, asked_by);
        match self {
            Self::Csv => object.csv(to),
            Self::Jsonl => {
                let text = serde_json::to_string(&object).context("write JSON")?;
                to.push_str(&printable::json_line(&text));
                to.push('\n');
            }
        }
        Ok(())
    }
}

/// What a spreadsheet takes for the beginning of a formula, also in the wide form of East Asian text. The apostrophe is among them so that
/// whoever takes the first one away has the text back.
const FORMULA: [char; 9] = ['=', '+', '-', '@', '\'', '＝', '＋', '－', '＠'];

/// Text from outside as a cell: on one line, no formula, and in quotation marks if it needs them.
fn cell(text: Option<&str>) -> String {
    let Some(text) = text else { return String::new() };
    let text = printable::line(text);
    let guard = if text.starts_with(FORMULA) { "'" } else { "" };
    if text.contains([',', '"']) || text.starts_with(' ') || text.ends_with(' ') {
        format!("\"{guard}{}\"", text.replace('"', "\"\""))
    } else {
        format!("{guard}{text}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_one_line_and_no_formula_and_keeps_its_commas() {
        for (text, expected) in [
            ("4711", "4711"),
            ("", ""),
            ("a,b", "\"a,b\""),
            ("say \"x\"", "\"say \"\"x\"\"\""),
            (" x ", "\" x \""),
            ("=1+1", "'=1+1"),
            ("-5", "'-5"),
            ("+49", "'+49"),
            ("@SUM(A1),1", "\"'@SUM(A1),1\""),
            ("'x", "''x"),
            ("＝1", "'＝1"),
            ("a=b", "a=b"),
            ("\t=1", "\\t=1"),
            ("a\r\nb\u{1b}[2J", "a\\r\\nb\\u{1b}[2J"),
        ] {
            assert_eq!(cell(Some(text)), expected, "{text:?}");
        }
        assert_eq!(cell(None), "");
    }

    #[test]
    fn the_header_names_the_fields_of_the_object() {
        let record = Record::default();
        let object = serde_json::to_string(&Object::new(&record, None)).unwrap();
        let names: Vec<&str> = HEADER.trim_end().split(',').collect();
        let mut rest = object.as_str();
        for name in &names {
            let at = rest.find(&format!("\"{name}\":")).unwrap_or_else(|| panic!("{name} in {rest}"));
            rest = &rest[at + 1..];
        }
        assert_eq!(serde_json::from_str::<serde_json::Value>(&object).unwrap().as_object().unwrap().len(), names.len());
        let mut line = String::new();
        Object::new(&record, None).csv(&mut line);
        assert_eq!(line.matches(',').count() + 1, names.len());
    }
}
