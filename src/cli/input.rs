//! What `enqueue` reads: lines, records or objects, each a wish or a problem.

use std::{
    io::{self, BufRead as _, BufReader, Read},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use clap::ValueEnum;
use serde::Deserialize;
use serde_json::Value;
use tokio::{sync::mpsc, time::timeout};

use super::times::{Moment, show_text};
use crate::{
    model::{
        clock::Timestamp,
        deletion::{AgentId, EntryId, refuse_floating},
    },
    queue::sqlite::Wish,
};

/// The longest line that is read: many times what the longest IDs take.
const MAX_LINE: usize = 16 << 10;
/// How much is read at a time.
const BUFFER: usize = 256 << 10;
/// How many lines are handed over together at the most, and how often that is done before it must wait.
const BLOCK: usize = 500;
const BLOCKS: usize = 4;
/// The first whole number that a double cannot tell from its neighbour, 2^53.
const INEXACT: u64 = 1 << 53;
/// A reader that hands over nothing for so long waits for its source.
pub(super) const SILENCE: Duration = Duration::from_millis(200);

/// How a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Told by the first line.
    Auto,
    /// An entry ID in each line.
    Lines,
    /// Comma-separated values, below a line that names the columns.
    Csv,
    /// A JSON object in each line.
    Jsonl,
}

/// What a wish is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Agent,
    Entry,
    Priority,
    Due,
}

impl Field {
    const ALL: [(&str, Self); 4] =
        [("agent_id", Self::Agent), ("entry_id", Self::Entry), ("priority", Self::Priority), ("due_at", Self::Due)];

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, field)| field)
    }
}

/// What a line is not.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// A wish.
    Line(String),
    /// In a form that anything can be made of; nor will the next ones be.
    Input(String),
}

/// What goes for a line that does not say it itself.
#[derive(Clone, Debug)]
pub(super) struct Defaults {
    pub(super) agent: Option<AgentId>,
    pub(super) priority: i64,
    pub(super) due_at: Timestamp,
}

/// A line that is not empty.
pub(super) struct Line {
    /// From 1.
    pub(super) number: u64,
    /// Bytes up to its end.
    pub(super) read: u64,
    /// Its end was read, and not only that of the input: then somebody may have cut it off.
    pub(super) is_whole: bool,
    pub(super) wish: Result<Wish, Problem>,
}

/// What has been read.
pub(super) enum Input {
    Lines(Vec<Line>),
    /// This line cannot be read, nor any behind it.
    Failed(u64, io::Error),
    /// That was all.
    End,
}

/// An input that is read on a thread of its own, as far ahead as a few blocks.
///
/// A read waits for as long as it likes, and nobody can call it off: so whoever listens to signals must not be the one
/// who reads, nor wait for the thread. What was read before such a wait is handed over before it.
pub(super) struct Ahead {
    blocks: mpsc::Receiver<Input>,
    enough: Arc<AtomicBool>,
}

impl Ahead {
    /// Begins to read `source`.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub(super) fn new(source: Box<dyn Read + Send>, parser: Parser) -> io::Result<Self> {
        let (sender, blocks) = mpsc::channel(BLOCKS);
        let enough = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&enough);
        thread::Builder::new().name("input".to_owned()).spawn(move || read_ahead(source, parser, &sender, &told))?;
        Ok(Self { blocks, enough })
    }

    /// What comes next; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Input> {
        match self.blocks.recv().await {
            Some(Input::End) => None,
            // Whoever ends without a word has not come to the end.
            None => Some(Input::Failed(0, io::Error::other("the reader has failed"))),
            input => input,
        }
    }

    /// What comes next of that which has been read by now; `None` if that was all.
    pub(super) async fn next_of_these(&mut self) -> Option<Input> {
        self.enough.store(true, Ordering::Relaxed);
        timeout(SILENCE, self.blocks.recv()).await.ok().flatten().filter(|input| !matches!(input, Input::End))
    }
}

fn read_ahead(source: Box<dyn Read + Send>, mut parser: Parser, sender: &mpsc::Sender<Input>, enough: &AtomicBool) {
    let mut lines = Lines::new(source);
    let mut block = Vec::new();
    // Nobody listens any more: then there is nothing to read for.
    let hand_over =
        |block: &mut Vec<Line>| block.is_empty() || sender.blocking_send(Input::Lines(std::mem::take(block))).is_ok();
    loop {
        let may_wait = !lines.has_line();
        if (block.len() == BLOCK || may_wait) && !hand_over(&mut block) {
            return;
        }
        if may_wait && enough.load(Ordering::Relaxed) {
            return;
        }
        let wish = match lines.next() {
            Ok(None) => break,
            Ok(Some(line)) => line.and_then(|line| parser.parse(line)),
            Err(error) => {
                let _ = sender.blocking_send(Input::Failed(lines.number + 1, error));
                return;
            }
        };
        if let Some(wish) = wish.transpose() {
            block.push(Line { number: lines.number, read: lines.read, is_whole: lines.is_whole, wish });
        }
    }
    if hand_over(&mut block) {
        let _ = sender.blocking_send(Input::End);
    }
}

/// Reads lines, in constant memory.
pub(super) struct Lines<R> {
    reader: BufReader<R>,
    line: Vec<u8>,
    /// Of the line that was read last, from 1.
    pub(super) number: u64,
    /// Bytes read so far.
    pub(super) read: u64,
    /// Whether the end of that line was read.
    is_whole: bool,
}

impl<R: Read> Lines<R> {
    pub(super) fn new(source: R) -> Self {
        Self { reader: BufReader::with_capacity(BUFFER, source), line: Vec::new(), number: 0, read: 0, is_whole: true }
    }

    /// Whether the next line is here already.
    fn has_line(&self) -> bool {
        self.reader.buffer().contains(&b'\n')
    }

    /// The next line, without white space around it; `None` at the end.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) fn next(&mut self) -> io::Result<Option<Result<&str, Problem>>> {
        self.line.clear();
        let most = MAX_LINE as u64 + 1;
        let mut read = (&mut self.reader).take(most).read_until(b'\n', &mut self.line)? as u64;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        self.is_whole = self.line.ends_with(b"\n");
        let is_short = self.is_whole || read < most;
        if !is_short {
            read += self.skip_line()?;
            self.is_whole = true;
        }
        self.read += read;
        if !is_short {
            return Ok(Some(Err(Problem::Line(format!("is longer than {MAX_LINE} bytes")))));
        }
        let mut line = self.line.as_slice();
        if self.number == 1 {
            // What Windows puts before UTF-8.
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        let text = str::from_utf8(line).map(str::trim);
        Ok(Some(text.map_err(|_| Problem::Line("is not UTF-8 text".to_owned()))))
    }

    /// Up to the next line, whatever it is.
    fn skip_line(&mut self) -> io::Result<u64> {
        let mut skipped = 0;
        loop {
            let buffer = self.reader.fill_buf()?;
            let (length, is_end) = match buffer.iter().position(|byte| *byte == b'\n') {
                Some(at) => (at + 1, true),
                None => (buffer.len(), buffer.is_empty()),
            };
            self.reader.consume(length);
            skipped += length as u64;
            if is_end {
                return Ok(skipped);
            }
        }
    }
}

/// Makes wishes of lines.
pub(super) struct Parser {
    format: Format,
    defaults: Defaults,
    now: Timestamp,
    /// That it is one ID a line was only guessed: what does not look like one is refused.
    guessed: bool,
    /// Of CSV, once its header has been read.
    columns: Option<Vec<Field>>,
    csv: csv_core::Reader,
    /// The one before is most often the next one, too.
    agent: Option<AgentId>,
}

/// The texts of a wish, before anything is made of them.
#[derive(Default)]
struct Raw {
    agent: Option<String>,
    entry: Option<String>,
    priority: Option<String>,
    due: Option<String>,
}

impl Raw {
    fn field(&mut self, field: Field) -> &mut Option<String> {
        match field {
            Field::Agent => &mut self.agent,
            Field::Entry => &mut self.entry,
            Field::Priority => &mut self.priority,
            Field::Due => &mut self.due,
        }
    }
}

impl Parser {
    pub(super) fn new(format: Format, defaults: Defaults, now: Timestamp) -> Self {
        Self { format, defaults, now, guessed: false, columns: None, csv: csv_core::Reader::new(), agent: None }
    }

    /// The wish in a line; `None` if nothing is in it, or the names of columns.
    ///
    /// # Errors
    /// If the line is none, or the whole input cannot be one.
    pub(super) fn parse(&mut self, line: &str) -> Result<Option<Wish>, Problem> {
        if line.is_empty() {
            return Ok(None);
        }
        if self.format == Format::Auto {
            self.format = self.recognise(line)?;
            self.guessed = self.format == Format::Lines;
        }
        if self.guessed && line.contains(['{', '[', '"', ',', ';', '\t']) {
            let said = "does not look like an ID, as the first line did; --format lines takes whatever it is for one";
            return Err(Problem::Line(said.to_owned()));
        }
        let raw = match self.format {
            Format::Auto | Format::Lines => Raw { entry: Some(line.to_owned()), ..Raw::default() },
            Format::Jsonl => raw_object(line).map_err(Problem::Line)?,
            Format::Csv => match self.raw_record(line)? {
                Some(raw) => raw,
                None => return Ok(None),
            },
        };
        self.wish(raw).map(Some)
    }

    fn recognise(&mut self, first: &str) -> Result<Format, Problem> {
        if first.starts_with('{') {
            return Ok(Format::Jsonl);
        }
        let fields = self.record(first).unwrap_or_default();
        let names = |name: &String| Field::ALL.iter().any(|(known, _)| name.eq_ignore_ascii_case(known));
        if fields.iter().any(|name| name == "entry_id") {
            Ok(Format::Csv)
        } else if first.contains(['[', '"', ';', '\t']) || first.eq_ignore_ascii_case("id") || fields.iter().any(names)
        {
            Err(Problem::Input(
                "the first line is neither an ID, nor a JSON object, nor the names of comma-separated columns (agent_id, \
                 entry_id, priority, due_at): give --format lines if it is an ID all the same"
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
        let line = |error: &dyn ToString| Problem::Line(shorten(&error.to_string()));
        let agent = match raw.agent {
            Some(text) => match &self.agent {
                Some(agent) if agent.as_str() == text => agent.clone(),
                _ => {
                    refuse_floating(&text).map_err(|error| line(&error))?;
                    AgentId::parse(&text).map_err(|error| line(&error))?
                }
            },
            None => self.defaults.agent.clone().ok_or_else(|| match self.format {
                // CSV without such a column and without --agent was refused at its header.
                Format::Jsonl | Format::Csv => Problem::Line("has no agent_id, and no --agent was given".to_owned()),
                Format::Auto | Format::Lines => Problem::Input(
                    "whose entries these are is not said: give --agent, or a column agent_id in CSV".to_owned(),
                ),
            })?,
        };
        let entry = raw.entry.ok_or_else(|| Problem::Line("has no entry_id".to_owned()))?;
        refuse_floating(&entry).map_err(|error| line(&error))?;
        let entry = EntryId::parse(&entry).map_err(|error| line(&error))?;
        let priority = match raw.priority {
            Some(text) => {
                text.parse().map_err(|_| line(&format!("priority {text:?}: must be an integer of up to 64 bits")))?
            }
            None => self.defaults.priority,
        };
        let due_at = match raw.due {
            Some(text) => {
                Moment::parse(&text).map_err(|error| line(&format!("due_at {text:?}: {error}")))?.due(self.now)
            }
            None => self.defaults.due_at,
        };
        self.agent = Some(agent.clone());
        Ok(Wish { agent, entry, priority, due_at })
    }

    /// `None` for the header.
    fn raw_record(&mut self, line: &str) -> Result<Option<Raw>, Problem> {
        let fields = self.record(line);
        let Some(columns) = &self.columns else {
            let names = fields.map_err(Problem::Input)?;
            self.columns = Some(columns_of(&names, self.defaults.agent.is_some()).map_err(Problem::Input)?);
            return Ok(None);
        };
        let fields = fields.map_err(Problem::Line)?;
        if fields.len() != columns.len() {
            let (found, wanted) = (fields.len(), columns.len());
            return Err(Problem::Line(format!("has {found} fields, and the header has {wanted}")));
        }
        let mut raw = Raw::default();
        for (column, text) in columns.iter().zip(fields) {
            *raw.field(*column) = Some(text).filter(|text| !text.is_empty());
        }
        Ok(Some(raw))
    }

    /// The fields of a line of CSV, without white space around them.
    fn record(&mut self, line: &str) -> Result<Vec<String>, String> {
        self.csv.reset();
        let (mut output, mut ends) = (vec![0; line.len() + 1], vec![0; line.len() + 1]);
        let input = [line.as_bytes(), b"\n"].concat();
        let (result, _, _, count) = self.csv.read_record(&input, &mut output, &mut ends);
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

fn shorten(text: &str) -> String {
    show_text(text, 400)
}

fn unknown(what: &str, name: &str) -> String {
    format!("{what} {:?} is none of agent_id, entry_id, priority, due_at", show_text(name, 60))
}

fn columns_of(names: &[String], has_agent: bool) -> Result<Vec<Field>, String> {
    let mut columns = Vec::new();
    for name in names {
        let field = Field::parse(name).ok_or_else(|| format!("{}: leave it out", unknown("column", name)))?;
        if columns.contains(&field) {
            return Err(format!("column {name:?} is there twice"));
        }
        columns.push(field);
    }
    if !columns.contains(&Field::Entry) {
        return Err("the first line must name the columns, and entry_id among them".to_owned());
    }
    if !columns.contains(&Field::Agent) && !has_agent {
        return Err("there is no column agent_id, and no --agent was given".to_owned());
    }
    Ok(columns)
}

/// A JSON object of a line.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Object {
    agent_id: Option<Value>,
    entry_id: Option<Value>,
    priority: Option<Value>,
    due_at: Option<Value>,
}

fn raw_object(line: &str) -> Result<Raw, String> {
    if !line.starts_with('{') {
        return Err("is not a JSON object".to_owned());
    }
    let object: Object = serde_json::from_str(line).map_err(|error| {
        // It is the one line that was read: its number in the input is said by others.
        let said = error.to_string().replace(" at line 1 column ", ", at column ");
        match error.classify() {
            serde_json::error::Category::Data => said,
            serde_json::error::Category::Io
            | serde_json::error::Category::Syntax
            | serde_json::error::Category::Eof => {
                format!("is not JSON: {said}")
            }
        }
    })?;
    Ok(Raw {
        agent: text_of("agent_id", object.agent_id)?,
        entry: text_of("entry_id", object.entry_id)?,
        priority: text_of("priority", object.priority)?,
        due: text_of("due_at", object.due_at)?,
    })
}

/// A JSON string, or an integer that no program that keeps numbers as doubles has rounded.
fn text_of(name: &str, value: Option<Value>) -> Result<Option<String>, String> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(Value::Number(number)) if number.as_i64().is_some_and(|exact| exact.unsigned_abs() < INEXACT) => {
            Ok(Some(number.to_string()))
        }
        Some(Value::Number(number)) => Err(format!(
            "{name} {number} may have been another number, as many programs keep numbers as doubles: write it as a string"
        )),
        Some(Value::Bool(_) | Value::Array(_) | Value::Object(_)) => {
            Err(format!("{name} must be a string or a number"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parser(format: Format, agent: Option<&str>) -> Parser {
        let agent = agent.map(|agent| AgentId::parse(agent).unwrap());
        Parser::new(format, Defaults { agent, priority: 5, due_at: Timestamp(9) }, Timestamp(1_000))
    }

    fn wish(agent: &str, entry: &str, priority: i64, due_at: i64) -> Wish {
        let (agent, entry) = (AgentId::parse(agent).unwrap(), EntryId::parse(entry).unwrap());
        Wish { agent, entry, priority, due_at: Timestamp(due_at) }
    }

    #[test]
    fn what_is_neither_lines_of_ids_nor_csv_nor_json_is_refused_instead_of_guessed() {
        for first in ["entry_id;priority", "Entry_ID", "id", "agent_id", "PRIORITY", "[", "[1,2]", "\"16\"", "1\t2"] {
            let refused = parser(Format::Auto, Some("a")).parse(first);
            assert!(matches!(refused, Err(Problem::Input(_))), "{first:?}: {refused:?}");
            assert!(parser(Format::Lines, Some("a")).parse(first).is_ok() || first.contains('\t'), "{first:?}");
        }
        let mut guessing = parser(Format::Auto, Some("a"));
        assert!(guessing.parse("bad line").is_err());
        for later in ["{\"entry_id\":13}", "1,2", "1;2", "\"16\"", "[", "]}"] {
            let refused = guessing.parse(later);
            assert!(matches!(refused, Err(Problem::Line(_))) || later == "]}", "{later:?}: {refused:?}");
        }
        assert!(guessing.parse("17").is_ok());
        let mut csv = parser(Format::Auto, None);
        assert_eq!(csv.parse("agent_id,entry_id"), Ok(None));
        assert!(csv.parse("a,1").is_ok());
        assert_eq!(csv.parse(",2"), Err(Problem::Line("has no agent_id, and no --agent was given".to_owned())));
    }

    #[test]
    fn lines_are_read_in_constant_memory_and_without_what_is_around_them() {
        let long = "x".repeat(MAX_LINE + 1);
        let input = format!("\u{feff}1\r\n\n 2 \n{long}\n{long}{long}{long}\n3\n\u{fffd}");
        let mut input = input.into_bytes();
        let end = input.len() - 3;
        input[end] = 0xff;
        let mut lines = Lines::new(input.as_slice());
        let mut seen = Vec::new();
        while let Some(line) = lines.next().unwrap() {
            seen.push(line.map(str::to_owned).map_err(|_| ()));
        }
        let text = |text: &str| Ok(text.to_owned());
        assert_eq!(seen, [text("1"), text(""), text("2"), Err(()), Err(()), text("3"), Err(())]);
        assert_eq!((lines.number, lines.read), (7, input.len() as u64));
        let exact = "y".repeat(MAX_LINE);
        assert_eq!(Lines::new(exact.as_bytes()).next().unwrap(), Some(Ok(exact.as_str())), "just short enough");
    }

    #[test]
    fn the_first_line_tells_the_format() {
        for (first, format) in [
            ("4711", Format::Lines),
            ("id-1", Format::Lines),
            ("entry_id", Format::Csv),
            ("\"entry_id\" , priority", Format::Csv),
            ("{\"entry_id\":1}", Format::Jsonl),
        ] {
            let mut parser = parser(Format::Auto, Some("a"));
            parser.parse("").unwrap();
            parser.parse(first).unwrap();
            assert_eq!(parser.format, format, "{first}");
        }
        assert!(
            matches!(parser(Format::Auto, Some("a")).parse("a,1"), Err(Problem::Input(said)) if said.contains("--format"))
        );
        assert_eq!(parser(Format::Lines, Some("a")).parse("a,1"), Ok(Some(wish("a", "a,1", 5, 9))));
    }

    #[test]
    fn records_and_objects_say_what_the_defaults_do_not() {
        let mut csv = parser(Format::Csv, Some("a"));
        assert_eq!(csv.parse("due_at,entry_id,agent_id,priority"), Ok(None));
        assert_eq!(csv.parse("1s,\"4\"\"7\",b,-3"), Ok(Some(wish("b", "4\"7", -3, 2_000))));
        assert_eq!(csv.parse(", 47 ,,"), Ok(Some(wish("a", "47", 5, 9))));
        let mut objects = parser(Format::Jsonl, Some("a"));
        let last = r#"{"entry_id":9007199254740991}"#;
        assert_eq!(objects.parse(last), Ok(Some(wish("a", "9007199254740991", 5, 9))));
        let all = r#"{"entry_id":47,"agent_id":"b","priority":3,"due_at":1764000000000}"#;
        assert_eq!(objects.parse(all), Ok(Some(wish("b", "47", 3, 1_764_000_000_000))));
        assert_eq!(objects.parse(r#"{"entry_id":"47","agent_id":null}"#), Ok(Some(wish("a", "47", 5, 9))));
    }

    #[test]
    fn every_problem_is_named() {
        let cases = [
            (Format::Lines, "a b", "\"a b\" is not an ID"),
            (Format::Csv, "1,2", "has 2 fields, and the header has 3"),
            (Format::Csv, "b,\"1,2", "does not end"),
            (Format::Csv, "b,,1", "has no entry_id"),
            (Format::Csv, "b/c,1,", "one URL path segment"),
            (Format::Csv, "b,1,high", "priority \"high\": must be an integer"),
            (Format::Jsonl, "{", "is not JSON"),
            (Format::Jsonl, "[1]", "not a JSON object"),
            (Format::Jsonl, "{}", "has no entry_id"),
            (Format::Lines, "4711.0", "floating-point"),
            (Format::Csv, "4.71E+15,1,1", "floating-point"),
            (Format::Jsonl, r#"{"entry_id":"4711.0"}"#, "floating-point"),
            (Format::Jsonl, r#"{"entry_id":4711.0}"#, "write it as a string"),
            (Format::Jsonl, r#"{"entry_id":9007199254740992}"#, "write it as a string"),
            (Format::Jsonl, r#"{"entry_id":-9007199254740992}"#, "write it as a string"),
            (Format::Jsonl, r#"{"entry_id":1.5}"#, "write it as a string"),
            (Format::Jsonl, r#"{"entry_id":123456789012345678901234}"#, "write it as a string"),
            (Format::Jsonl, r#"{"entry_id":[1]}"#, "must be a string or a number"),
            (Format::Jsonl, r#"{"entry_id":1,"entry_id":2}"#, "duplicate field `entry_id`"),
            (Format::Jsonl, r#"{"entry_id":1,"due_at":null,"due_at":"2h"}"#, "duplicate field `due_at`"),
            (Format::Jsonl, r#"{"entry_id":1,"prio":1}"#, "unknown field `prio`, expected one of"),
            (Format::Jsonl, r#"{"entry_id":1,"due_at":"soon"}"#, "due_at \"soon\": must be a time"),
            (Format::Jsonl, r#"{"entry_id":1,"due_at":1764000000}"#, "multiply it by 1000"),
        ];
        for (format, line, said) in cases {
            let mut parser = parser(format, Some("a"));
            if format == Format::Csv {
                parser.parse("agent_id,entry_id,priority").unwrap();
            }
            let problem = parser.parse(line).unwrap_err();
            assert!(matches!(&problem, Problem::Line(text) if text.contains(said)), "{line}: {problem:?}");
        }
        for (line, agent, said) in [
            ("entry_id", None, "--agent"),
            ("agent_id", Some("a"), "entry_id"),
            ("entry_id,entry_id", Some("a"), "twice"),
            ("entry_id,prio", Some("a"), "column \"prio\""),
        ] {
            let problem = parser(Format::Csv, agent).parse(line).unwrap_err();
            assert!(matches!(&problem, Problem::Input(text) if text.contains(said)), "{line}: {problem:?}");
        }
        assert!(matches!(parser(Format::Lines, None).parse("1"), Err(Problem::Input(_))));
        assert!(matches!(parser(Format::Jsonl, None).parse(r#"{"entry_id":1}"#), Err(Problem::Line(_))));
    }
}
