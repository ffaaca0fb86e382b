//! `sweeper enqueue`: fills the queue from arguments, a file, standard input, or the remote cache.

mod cache;
mod odd_ids;
mod reading;
mod sink;

use std::{
    fs,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Args;
use jiff::tz::TimeZone;

use super::{
    Failure,
    arguments::{agent_id, label},
    input::{Ahead, Defaults, Format, Parser, in_quotes, is_several},
    listing::Filter,
    operator::{As, Login},
    signals::{already, stopped},
    terminal::warn_person,
    times::{Moment, show_due, show_text},
};
use crate::{
    config::Config,
    model::{
        act::ActKind,
        clock::{Clock, Timestamp},
        deletion::{AgentId, EntryId, refuse_floating},
        label::Label,
    },
    printable::absolute,
    queue::{Wish, either, sqlite},
};
use odd_ids::OddIds;
use reading::{Reading, Source};
use sink::{CHUNK, Sink};

const EXAMPLES: &str = "\
Examples:
  sweeper enqueue --agent PROJECT-58RP822I 4711 4712
  sweeper enqueue --agent PROJECT-58RP822I --file ids.txt --priority 10
  sweeper enqueue --agent PROJECT-58RP822I --label ERASURE-17 4711 4712
  jq -c '{agent_id: .agent, entry_id: .id}' export.jsonl | sweeper enqueue --dry-run
  sweeper enqueue --agent PROJECT-58RP822I --from-cache --cached-before 30d --language en-GB

Exit codes: 0 everything is enqueued; 1 some lines were refused (the others are enqueued, except with --strict), the \
cache could not be listed, or the answer was no; 2 usage or configuration; 3 database unusable; 129, 130 and 143 stopped \
by SIGHUP, SIGINT (Ctrl-C) or SIGTERM. A stopped command has enqueued what it had read by then; with --from-cache, \
nothing before the cache was listed to its end. Running it again with the same input does no harm.";

/// The longest message about an ID that quotes the ID, in characters.
const MOST_SAID: usize = 400;

/// What to enqueue, and how.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct EnqueueArgs {
    /// The agent that the entries belong to. An agent_id in the input overrides it.
    #[arg(long, value_name = "AGENT", value_parser = agent_id)]
    agent: Option<AgentId>,
    /// Entry IDs. Without any, or with -, standard input is read, and each line is in the queue at most a second later.
    #[arg(value_name = "ID", conflicts_with_all = ["file", "from_cache"])]
    ids: Vec<String>,
    /// A file to read, of any size: an entry ID a line, or CSV whose first line names its columns, or a JSON object a
    /// line. The columns are entry_id and, optionally, agent_id, priority, due_at and label.
    #[arg(long, value_name = "FILE", conflicts_with = "from_cache")]
    file: Option<PathBuf>,
    /// The format of the input.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Format::Auto, conflicts_with_all = ["ids", "from_cache"])]
    format: Format,
    /// Rows with a higher priority go first. A priority in the input overrides it.
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    priority: i64,
    /// Do not delete before this time (2026-11-24T22:00, in UTC), or before this time from now (2h). A due_at in the
    /// input overrides it. A row that is already waiting and has not been tried takes over an earlier time. The time is
    /// repeated on standard error, in UTC and in the local time zone.
    #[arg(long, value_name = "TIME", value_parser = Moment::parse_due, allow_hyphen_values = true)]
    due: Option<Moment>,
    /// The name under which to follow these deletions: a ticket, a request for erasure. `sweeper status --label` says what
    /// became of them. A label in the input overrides it.
    #[arg(long, value_name = "LABEL", value_parser = label)]
    label: Option<Label>,
    /// Stop at the first refused line.
    #[arg(long, conflicts_with = "from_cache")]
    strict: bool,
    /// Read and check everything, and write nothing.
    #[arg(long)]
    dry_run: bool,
    /// Create the queue if there is none: on a server, its tables. Without this, that happens only for a file, and only if
    /// standard error is a terminal: elsewhere, a missing queue is most likely a wrong path.
    #[arg(long)]
    create: bool,
    /// Enqueue what is in the agent's remote cache: list it to the end, show what would be deleted, and ask. Beside a
    /// running daemon, the listing takes at most half of the daemon's current rate. A hold on everything or on the agent
    /// and a Retry-After are waited for if they end within a minute. A longer one ends the listing, and what was listed
    /// by then is enqueued.
    #[arg(long, requires = "agent")]
    from_cache: bool,
    /// Do not ask before the entries of --from-cache are enqueued.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    whose: As,
}

/// Enqueues.
///
/// # Errors
/// If the arguments or the whole input make no sense, the input cannot be read, or the database cannot be used.
pub(super) async fn enqueue(
    args: EnqueueArgs,
    config: &Config,
    clock: Clock,
    login: &Login,
) -> Result<ExitCode, Failure> {
    let source = source(&args);
    let mut sink =
        Sink::new(&config.store, &clock, login.act(&args.whose, ActKind::Enqueue, None, Some(&source)), &args);
    let done = fill(&mut sink, args, config).await;
    sink.close().await;
    done
}

/// Where the IDs come from, for the table of acts.
fn source(args: &EnqueueArgs) -> String {
    let priority = if args.priority == 0 { String::new() } else { format!(", priority {}", args.priority) };
    let source = match &args.file {
        Some(path) if path.as_os_str() != "-" => absolute(path).display().to_string(),
        _ if args.from_cache => "the agent's cache".to_owned(),
        _ if args.ids.is_empty() || args.ids == ["-"] => "standard input".to_owned(),
        _ => "arguments".to_owned(),
    };
    let label = args.label.as_ref().map_or_else(String::new, |label| format!(", label: {label}"));
    format!("from {source}{priority}{label}")
}

async fn fill(sink: &mut Sink<'_>, args: EnqueueArgs, config: &Config) -> Result<ExitCode, Failure> {
    // clap's `requires` does not hold for an argument that conflicts with another one that is given.
    if !args.from_cache && (args.yes || args.filter.is_given()) {
        let said = "--yes and the filters on cached entries go with --from-cache, and with nothing else";
        return Err(Failure::Usage(said.to_owned()));
    }
    if let Some(agent) = &args.agent {
        refuse_floating(agent.as_str()).map_err(|error| Failure::Usage(error.to_string()))?;
    }
    let now = sink.clock.now();
    let defaults = Defaults {
        agent: args.agent.clone(),
        priority: args.priority,
        due_at: args.due.map_or(Timestamp::ZERO, |due| due.due(now)),
        label: args.label.clone(),
    };
    if args.due.is_some() {
        warn_person(&show_due(defaults.due_at, now, &TimeZone::system()));
    }
    if !args.create && !args.dry_run {
        require_queue(config)?;
    }
    if args.from_cache {
        return cache::from_cache(&args, config, defaults, sink).await;
    }
    let stdin_is_meant = args.ids == ["-"];
    if !stdin_is_meant && args.ids.iter().any(|id| id == "-") {
        let said = "- stands for standard input, and goes with no other IDs; an entry whose ID is - goes by --file";
        return Err(Failure::Usage(said.to_owned()));
    }
    if !args.ids.is_empty() && !stdin_is_meant {
        let wishes = wishes(&args.ids, &defaults)?;
        let mut odd = OddIds::default();
        wishes.iter().for_each(|wish| odd.look_at(&wish.entry, String::new));
        odd.warning(args.dry_run).iter().for_each(|text| warn_person(text));
        for chunk in wishes.chunks(CHUNK) {
            chunk.iter().cloned().for_each(|wish| sink.put(wish));
            sink.flush().await?;
        }
        return Ok(sink.finish(0));
    }
    let source = match &args.file {
        Some(path) if path.as_os_str() != "-" => {
            Source::file(path, database_file(config).map(|file| file.path.as_path()))?
        }
        file => Source::standard_input(stdin_is_meant || file.is_some())?,
    };
    let stop = stopped()?;
    let input = Ahead::new(source.reader, Parser::new(args.format, defaults, now)).context("start to read")?;
    Reading::new(source.name, source.size, args.strict).read(input, stop, sink).await
}

/// The file with the queue, if the queue is in one.
fn database_file(config: &Config) -> Option<&sqlite::Options> {
    match &config.store {
        either::Options::Sqlite(options) => Some(options),
        either::Options::Postgres(_) => None,
    }
}

/// Refuses to make a queue where no person sees it. No daemon would work on it.
fn require_queue(config: &Config) -> Result<(), Failure> {
    // On a server, nobody makes a queue without being told to.
    let Some(sqlite::Options { path: database, .. }) = database_file(config) else { return Ok(()) };
    let path = absolute(database);
    // Where the directory is missing too, opening the file fails with a better message.
    // An empty file is no queue either: a program that opened a wrong path has left it.
    let is_new = match fs::metadata(database) {
        Ok(found) => found.is_file() && found.len() == 0,
        Err(error) => error.kind() == io::ErrorKind::NotFound && path.parent().is_some_and(Path::is_dir),
    };
    if !is_new || io::stderr().is_terminal() {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "{}: there is no queue; this path is {}. Name the daemon's with --config or SWEEPER__DATABASE__PATH, or give --create to \
         make a new one",
        path.display(),
        config.database_origin()
    )))
}

/// The wishes of the arguments. One wrong ID refuses all of them.
fn wishes(ids: &[String], defaults: &Defaults) -> Result<Vec<Wish>, Failure> {
    if let Some(said) = ids.iter().find_map(|id| mistake(id)) {
        return Err(Failure::Usage(said));
    }
    let agent = defaults.agent.clone();
    let agent = agent.ok_or_else(|| Failure::Usage("whose entries are these? give --agent".to_owned()))?;
    ids.iter()
        .map(|id| {
            let entry = EntryId::parse(id).and_then(|entry| refuse_floating(id).map(|()| entry));
            let entry = entry.map_err(|error| Failure::Usage(show_text(&error.to_string(), MOST_SAID)))?;
            Ok(defaults.wish(agent.clone(), entry))
        })
        .collect()
}

/// What an argument most likely is, if it is no ID.
fn mistake(id: &str) -> Option<String> {
    let shown = show_text(id, 60);
    if let Some(alone) = in_quotes(id) {
        return Some(format!(
            "{shown} is in quotation marks, which are not part of an ID: give {}",
            show_text(alone, 60)
        ));
    }
    if refuse_floating(id).is_ok() && is_several(id) {
        return Some(format!(
            "{shown:?} looks like several IDs: give each as an argument of its own, or one a line on standard input"
        ));
    }
    let is_number = |id: &str| id.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(alone) = id.strip_suffix([',', ';']).filter(|alone| !alone.is_empty() && is_number(alone)) {
        return Some(format!("{shown:?} ends with a separator: give {alone}"));
    }
    let is_file = !is_number(id) && Path::new(id).is_file();
    is_file.then(|| {
        format!(
            "{shown:?} would be an entry ID, and there is a file of that name: --file {shown}? If it is an ID all the same, \
             give it on standard input"
        )
    })
}
