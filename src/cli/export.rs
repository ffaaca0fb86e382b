//! `sweeper export`: what became of entries, a record a line, for somebody's archive or an auditor.

mod forms;

use std::{
    future::{Future, ready},
    pin::Pin,
    process::ExitCode,
};

use clap::{Args, ValueEnum};

use super::{
    Failure,
    arguments::{agent_id, label},
    fresh::FreshReader,
    list::ListedState,
    names::unknown,
    output::{Output, OutputArgs},
    signals::{Signal, stopped},
    terminal::{report, warn_person},
    times::{Moment, plural},
};
use crate::{
    config::Config,
    model::{clock::Clock, deletion::AgentId, label::Label},
    queue::{
        either::Options,
        report::{Enqueuers, Record, RecordChoice, Records},
    },
};
use forms::Format;

const EXAMPLES: &str = "\
Examples:
  sweeper export --label ERASURE-17 --output erasure-17.csv
  sweeper export --state deleted,absent --since 30d --by ended --format jsonl | gzip > gone.jsonl.gz
  sweeper export --agent PROJECT-58RP822I --since 2026-11-01 --until 2026-12-01

There is a record for each wish with a label, also if it was cancelled or its row is gone, and one for each row without a label. \
The columns are agent_id, entry_id, label, state, asked_at, asked_by, priority, attempts, due_at, cause, maybe_done, sent_at, \
answered_at, kind, status, verdict, correlation_id, remote_id, detail, ended_at, verified_at, cancelled_by. docs/proof.md says \
what they mean. Times are in UTC, as 2026-11-24T10:00:00.000Z. In CSV, a text that a spreadsheet would take for a formula has an \
apostrophe before it; JSON lines have the texts as they are.

It only reads, a page at a time, in constant memory: records that change meanwhile are as they were before or after that.

Exit codes: 0 written, also if nothing matches, 1 there is no such agent or label, or it cannot be written, 2 usage or \
configuration, 3 database unusable; 129, 130 and 143 stopped by SIGHUP, SIGINT (Ctrl-C) or SIGTERM. Only a command that ends with \
0 leaves a file.";

/// Which records to write, and how.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ExportArgs {
    /// Only records in these states. Cancelled are wishes with a label. The state new is of a wish on a server that no leader has taken
    /// in yet.
    #[arg(long = "state", value_name = "STATE", value_enum, value_delimiter = ',')]
    states: Vec<ListedState>,
    /// Only records of this agent.
    #[arg(long, value_name = "AGENT", value_parser = agent_id)]
    agent: Option<AgentId>,
    /// Only the wishes with this label.
    #[arg(long, value_name = "LABEL", value_parser = label)]
    label: Option<Label>,
    /// Only records from this time on (2026-11-24T10:00, in UTC), or from this time before now (30d).
    #[arg(long, value_name = "TIME", value_parser = Moment::parse)]
    since: Option<Moment>,
    /// Only records before this time.
    #[arg(long, value_name = "TIME", value_parser = Moment::parse)]
    until: Option<Moment>,
    /// The time that --since and --until are about: when the entry was asked for, or when its deletion ended.
    #[arg(long, value_name = "WHICH", value_enum, default_value_t = By::Asked)]
    by: By,
    /// The format: CSV with a header (RFC 4180), or a JSON object a line.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Format::Csv)]
    format: Format,
    #[command(flatten)]
    output: OutputArgs,
}

/// Which time of a record is chosen by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum By {
    Asked,
    Ended,
}

/// Writes the records.
///
/// # Errors
/// If the arguments make no sense, the database cannot be read, or the records cannot be written.
pub(super) async fn export(args: ExportArgs, config: &Config, clock: Clock) -> Result<ExitCode, Failure> {
    let choice = choice(&args, config, &clock)?;
    let (agent, label) = (choice.agent.clone(), choice.label.clone());
    let mut output = args.output.open(config)?;
    // Without a file, a signal ends the process, as it does with any command that only reads.
    let mut stop = match output.file() {
        Some(_) => Some(Box::pin(stopped()?)),
        None => None,
    };
    let mut reader = FreshReader::new(config, &clock);
    let enqueuers = reader.look(async |reader| reader.enqueuers(label.as_ref()).await).await?;
    let mut writing = Writing { format: args.format, enqueuers, count: 0, is_begun: false };
    let mut records = Records::new(choice);
    while let Some(page) = reader.look(async |reader| reader.records(&mut records).await).await? {
        if let Some(signal) = already(stop.as_mut()).await {
            let file = output.file().map(|file| file.display().to_string()).unwrap_or_default();
            warn_person(&format!("stopped by {}: {file} is not written", signal.name()));
            return Ok(signal.exit_code());
        }
        if !page.is_empty() && !writing.write(&page, &mut output)? {
            return Ok(ExitCode::SUCCESS);
        }
    }
    if writing.count == 0
        && let Some(said) = unknown(agent.as_ref(), label.as_ref(), config).await?
    {
        warn_person(&said);
        return Ok(ExitCode::from(1));
    }
    if !writing.write(&[], &mut output)? {
        return Ok(ExitCode::SUCCESS);
    }
    let count = plural(writing.count, "record", "records");
    let file = output.file().map(|file| file.display().to_string());
    output.finish()?;
    match file {
        Some(file) => report(&format!("{file}: {count}")),
        None if writing.count == 0 => warn_person("nothing matches"),
        None => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn choice(args: &ExportArgs, config: &Config, clock: &Clock) -> Result<RecordChoice, Failure> {
    if args.states.contains(&ListedState::New) && matches!(config.store, Options::Sqlite(_)) {
        return Err(Failure::Usage(ListedState::new_on_a_file(config)));
    }
    let now = clock.now();
    let (since, until) = (args.since.map(|time| time.before(now)), args.until.map(|time| time.before(now)));
    if let (Some(since), Some(until)) = (since, until)
        && since >= until
    {
        let said = "--until is not after --since, so nothing can be between them: exchange them, or leave one out";
        return Err(Failure::Usage(said.to_owned()));
    }
    Ok(RecordChoice {
        states: args.states.iter().map(|state| state.as_str().to_owned()).collect(),
        agent: args.agent.clone(),
        label: args.label.clone(),
        since,
        until,
        by_end: args.by == By::Ended,
    })
}

/// The signal, if it has come.
async fn already(stop: Option<&mut Pin<Box<impl Future<Output = Signal>>>>) -> Option<Signal> {
    let stop = stop?;
    tokio::select! {
        biased;
        signal = stop => Some(signal),
        () = ready(()) => None,
    }
}

/// The records that are being written.
struct Writing {
    format: Format,
    enqueuers: Enqueuers,
    count: u64,
    is_begun: bool,
}

impl Writing {
    /// Writes these records, below the header if they are the first. False if nobody reads any more.
    fn write(&mut self, records: &[Record], output: &mut Output) -> Result<bool, Failure> {
        let mut text = String::new();
        if !self.is_begun {
            text.push_str(self.format.header());
            self.is_begun = true;
        }
        for record in records {
            self.format.add(record, self.enqueuers.of(record), &mut text)?;
        }
        self.count += records.len() as u64;
        if text.is_empty() { Ok(true) } else { output.write(&text) }
    }
}
