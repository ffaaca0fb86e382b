//! `sweeper list`: the rows of a choice, one a line.

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{
    Failure,
    arguments::{agent_id, label},
    fresh::FreshReader,
    names::unknown,
    retry::causes,
    terminal::{is_read, warn_person, write_coloured},
    times::show_time,
};
use crate::{
    config::Config,
    model::{
        clock::{Clock, Timestamp},
        deletion::AgentId,
        label::Label,
        outcome::Cause,
    },
    printable,
    queue::{
        either::Options,
        report::{CANCELLED, Choice, INBOX, ListedRow, Listing},
    },
};

const EXAMPLES: &str = "\
Examples:
  sweeper list --state dead --cause rejected
  sweeper list --agent PROJECT-58RP822I --state pending,dead --json
  sweeper list --label ERASURE-17 --state dead,cancelled

Without a terminal, the columns are separated by tabs, without a header: agent_id, entry_id, state, last_cause, attempts, \
created_at, due_at, settled_at, label. Times are in UTC, as 2026-11-24T10:00:00Z; - stands for nothing. --json has all \
columns, with times in Unix milliseconds. Rows come by id; with --agent by entry; with --label by agent and entry; those \
that are only pending or dead by lane and by cause. Wishes that no leader has taken in yet (state new) come last.

It only reads, a page at a time: rows that change meanwhile are shown as they were before or after that.

Exit codes: 0 listed, also if nothing matches, 1 there is no such agent or label, 2 usage or configuration, 3 database \
unusable.";

/// Which rows to list, and how.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ListArgs {
    /// Only rows in these states. The state cancelled goes with --label, because a cancelled row is gone. The state new is of a wish on
    /// a server that no leader has taken in yet.
    #[arg(long = "state", value_name = "STATE", value_enum, value_delimiter = ',')]
    states: Vec<ListedState>,
    /// Only rows of this agent.
    #[arg(long, value_name = "AGENT", value_parser = agent_id)]
    agent: Option<AgentId>,
    /// Only rows whose last request failed for this cause.
    #[arg(long, value_name = "CAUSE", value_parser = causes())]
    cause: Option<Cause>,
    /// The wishes with this label, in the state that each of them has, also those whose rows are gone.
    #[arg(long, value_name = "LABEL", value_parser = label)]
    label: Option<Label>,
    /// Print a JSON object for each row.
    #[arg(long)]
    json: bool,
    /// Print up to N rows.
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

/// A state that a row or a wish can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ListedState {
    Pending,
    Deleted,
    Absent,
    Dead,
    Cancelled,
    New,
}

impl ListedState {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Deleted => "deleted",
            Self::Absent => "absent",
            Self::Dead => "dead",
            Self::Cancelled => CANCELLED,
            Self::New => INBOX,
        }
    }

    /// The message about `--state new` where there is no inbox.
    pub(super) fn new_on_a_file(config: &Config) -> String {
        let file = &config.store;
        format!("--state new is for a queue on a server: {file} has no inbox, so a row is pending at once")
    }
}

/// The object of `--json`. Names and meanings are stable; those of columns are theirs.
#[derive(Debug, Serialize)]
struct Object<'r> {
    id: Option<i64>,
    agent_id: &'r str,
    entry_id: &'r str,
    state: &'r str,
    last_cause: Option<&'r str>,
    attempts: Option<i64>,
    priority: Option<i64>,
    due_at: Option<i64>,
    created_at: Option<i64>,
    settled_at: Option<i64>,
    verified_at: Option<i64>,
    label: Option<&'r str>,
    wished_at: Option<i64>,
    closed_by: Option<&'r str>,
}

/// How rows are printed.
enum Form {
    Json,
    Tabs,
    /// The widths of the columns so far. They grow from page to page.
    Table(Vec<usize>),
}

/// Lists the rows.
///
/// # Errors
/// If the arguments make no sense, the database cannot be read, or standard output cannot be written.
pub(super) async fn list(args: ListArgs, config: &Config, clock: Clock) -> Result<ExitCode, Failure> {
    if args.label.is_none() && args.states.contains(&ListedState::Cancelled) {
        let said = "--state cancelled goes with --label: a row that was cancelled is gone, and only wishes with a label are kept";
        return Err(Failure::Usage(said.to_owned()));
    }
    if args.states.contains(&ListedState::New) && matches!(config.store, Options::Sqlite(_)) {
        return Err(Failure::Usage(ListedState::new_on_a_file(config)));
    }
    let mut form = match (args.json, io::stdout().is_terminal()) {
        (true, _) => Form::Json,
        (false, true) => Form::Table(Vec::new()),
        (false, false) => Form::Tabs,
    };
    let mut listing = Listing::new(Choice {
        states: args.states.iter().map(|state| state.as_str().to_owned()).collect(),
        agent: args.agent.clone(),
        cause: args.cause,
        label: args.label.clone(),
    });
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut is_empty = true;
    let mut reader = FreshReader::new(config, &clock);
    while left > 0 {
        let page = reader.look(async |reader| reader.listed(&mut listing).await);
        let Some(mut rows) = page.await? else { break };
        rows.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        left -= rows.len() as u64;
        is_empty &= rows.is_empty();
        if !rows.is_empty() && !form.print(&rows, clock.now())? {
            return Ok(ExitCode::SUCCESS);
        }
    }
    if is_empty && args.limit != Some(0) {
        return nothing(&args, config).await;
    }
    Ok(ExitCode::SUCCESS)
}

/// Says why nothing was listed.
async fn nothing(args: &ListArgs, config: &Config) -> Result<ExitCode, Failure> {
    let said = unknown(args.agent.as_ref(), args.label.as_ref(), config).await?;
    warn_person(said.as_deref().unwrap_or("nothing matches"));
    Ok(ExitCode::from(u8::from(said.is_some())))
}

impl Form {
    /// Prints a page. False if nobody reads it any more.
    fn print(&mut self, rows: &[ListedRow], now: Timestamp) -> Result<bool, Failure> {
        let lines: Vec<String> = match self {
            Self::Json => rows.iter().map(object).collect::<Result<_, _>>()?,
            Self::Tabs => rows.iter().map(|row| fields(row).join("\t")).collect(),
            Self::Table(widths) => return write_coloured(&table(widths, rows, now).join("\n")),
        };
        let mut out = io::stdout().lock();
        is_read(writeln!(out, "{}", lines.join("\n")).and_then(|()| out.flush()))
    }
}

fn object(row: &ListedRow) -> Result<String, Failure> {
    let ms = |at: Option<Timestamp>| at.map(|at| at.0);
    let object = Object {
        id: row.id,
        agent_id: &row.agent,
        entry_id: &row.entry,
        state: &row.state,
        last_cause: row.cause.as_deref(),
        attempts: row.attempts,
        priority: row.priority,
        due_at: ms(row.due_at),
        created_at: ms(row.created_at),
        settled_at: ms(row.settled_at),
        verified_at: ms(row.verified_at),
        label: row.label.as_deref(),
        wished_at: ms(row.wished_at),
        closed_by: row.closed_by.as_deref(),
    };
    let text = serde_json::to_string(&object).context("write JSON")?;
    Ok(printable::json_line(&text).into_owned())
}

/// The columns between tabs.
fn fields(row: &ListedRow) -> [String; 9] {
    let or_dash = |text: Option<String>| text.filter(|text| !text.is_empty()).unwrap_or_else(|| "-".to_owned());
    let time = |at: Option<Timestamp>| {
        let at = at.filter(|at| *at != Timestamp::ZERO)?.civil()?;
        Some(at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
    };
    [
        Some(row.agent.clone()),
        Some(row.entry.clone()),
        Some(row.state.clone()),
        row.cause.clone(),
        row.attempts.map(|attempts| attempts.to_string()),
        time(row.created_at.or(row.wished_at)),
        time(row.due_at),
        time(row.settled_at),
        row.label.clone(),
    ]
    .map(|text| printable::line(&or_dash(text)).into_owned())
}

/// The lines of a page on a terminal, below the header on the first one.
fn table(widths: &mut Vec<usize>, rows: &[ListedRow], now: Timestamp) -> Vec<String> {
    let header = ["agent", "entry", "state", "because", "attempts", "due or ended", "label"].map(str::to_owned);
    let cells = |row: &ListedRow| {
        let at = match (row.settled_at, row.due_at) {
            (Some(at), _) => show_time(at),
            (None, Some(at)) if at > now => show_time(at),
            (None, _) => "now".to_owned(),
        };
        let by = row.closed_by.as_ref().map_or_else(String::new, |by| format!(" (by {by})"));
        let attempts = row.attempts.map(|attempts| attempts.to_string()).unwrap_or_default();
        let state = format!("{}{by}", row.state);
        let (cause, label) = (row.cause.clone().unwrap_or_default(), row.label.clone().unwrap_or_default());
        [row.agent.clone(), row.entry.clone(), state, cause, attempts, at, label]
            .map(|text| printable::line(&text).into_owned())
    };
    let is_first = widths.is_empty();
    let lines: Vec<[String; 7]> = is_first.then_some(header).into_iter().chain(rows.iter().map(cells)).collect();
    widths.resize(7, 0);
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let join = |line: [String; 7]| {
        let cells = line.iter().zip(&*widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut lines: Vec<String> = lines.into_iter().map(join).collect();
    if let Some(header) = lines.first_mut().filter(|_| is_first) {
        *header = super::terminal::bold(&header);
    }
    lines
}
