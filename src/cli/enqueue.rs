//! `sweeper enqueue`: fills the queue from arguments, lines, records, or the remote cache.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use tokio::time::sleep;

use super::{
    Failure, Progress, agent_id, ask,
    input::{Defaults, Format, Lines, Parser, Problem},
    listing::{Filter, Found, Lister},
    rng, say,
    times::{Moment, plural, show_count, show_text, show_time},
    warn_person, will_ask,
};
use crate::{
    clock::{Clock, Timestamp},
    config::Config,
    deletion::{AgentId, EntryId},
    store::{Enqueued, Opened, Options, Producer, Wish},
};

/// How many rows go into one transaction: about a tenth of a second's worth, once there are a million.
const CHUNK: usize = 5_000;
/// How many refused lines are shown.
const SHOWN: u64 = 20;
/// How much is read at a time.
const BUFFER: usize = 256 << 10;
/// The longest gap that is left between two transactions for others who write: SQLite tries a lock again every 100 ms at
/// the latest, so one gap in two is met.
pub(super) const MAX_GAP: Duration = Duration::from_millis(50);

const EXAMPLES: &str = "\
Examples:
  sweeper enqueue --agent PROJECT-58RP822I 4711 4712
  sweeper enqueue --agent PROJECT-58RP822I --file ids.txt --priority 10
  jq -c '{agent_id: .agent, entry_id: .id}' export.jsonl | sweeper enqueue --dry-run
  sweeper enqueue --agent PROJECT-58RP822I --from-cache --cached-before 30d --language en-GB

Exit codes: 0 all are enqueued, 1 some lines were refused (the others are enqueued, but for --strict), \
or the cache could not be listed, or the answer was no, 2 usage or configuration, 3 database unusable.";

/// What is enqueued, and how.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct EnqueueArgs {
    /// Whose entries they are; an agent_id in the input goes before it.
    #[arg(long, value_name = "AGENT", value_parser = agent_id)]
    agent: Option<AgentId>,
    /// Entry IDs; without any, or with -, standard input is read.
    #[arg(value_name = "ID", conflicts_with_all = ["file", "from_cache"])]
    ids: Vec<String>,
    /// A file to read, of any size: an entry ID a line, or CSV whose first line names its columns, or a JSON object a
    /// line, with entry_id and, if wanted, agent_id, priority, due_at.
    #[arg(long, value_name = "FILE", conflicts_with = "from_cache")]
    file: Option<PathBuf>,
    /// How the input is written.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Format::Auto, conflicts_with_all = ["ids", "from_cache"])]
    format: Format,
    /// Higher goes first; a priority in the input goes before it.
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    priority: i64,
    /// Not to be deleted before this time (2026-11-24T22:00, in UTC), or before so long (2h); a due_at in the input goes
    /// before it.
    #[arg(long, value_name = "TIME", value_parser = Moment::parse)]
    due: Option<Moment>,
    /// Stop at the first line that is refused.
    #[arg(long, conflicts_with = "from_cache")]
    strict: bool,
    /// Read and check everything, and write nothing.
    #[arg(long)]
    dry_run: bool,
    /// Take what is in the agent's remote cache: list it to the end, show what would go, and ask.
    #[arg(long, requires = "agent")]
    from_cache: bool,
    /// Do not ask before what --from-cache found is enqueued.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    filter: Filter,
}

/// Enqueues.
///
/// # Errors
/// If the arguments or the whole input make no sense, the input cannot be read, or the database cannot be used.
pub(super) async fn enqueue(args: EnqueueArgs, config: &Config, clock: Clock) -> Result<ExitCode, Failure> {
    // clap does not ask for what conflicts with something else that is there.
    if !args.from_cache && (args.yes || args.filter.is_given()) {
        let said = "--yes and the filters on cached entries go with --from-cache, and with nothing else";
        return Err(Failure::Usage(said.to_owned()));
    }
    let now = clock.now();
    let defaults = Defaults {
        agent: args.agent.clone(),
        priority: args.priority,
        due_at: args.due.map_or(Timestamp::ZERO, |due| due.after(now)),
    };
    let mut sink = Sink::new(config, &clock, args.dry_run);
    if args.from_cache {
        return from_cache(&args, config, defaults, sink).await;
    }
    let stdin_is_meant = args.ids.len() == 1 && args.ids[0] == "-";
    if !args.ids.is_empty() && !stdin_is_meant {
        let wishes = wishes(&args.ids, &defaults)?;
        for wish in wishes {
            sink.put(wish).await?;
        }
        sink.flush().await?;
        return sink.finish(0);
    }
    let (mut source, name, size): (Box<dyn BufRead>, String, Option<u64>) = match &args.file {
        Some(path) if path.as_os_str() != "-" => {
            let name = path.display().to_string();
            // What cannot be opened was most likely misspelt.
            let file = File::open(path).map_err(|error| Failure::Usage(format!("--file {name}: {error}")))?;
            let size = file.metadata().ok().filter(|found| found.is_file()).map(|found| found.len());
            (Box::new(BufReader::with_capacity(BUFFER, file)), name, size)
        }
        _ if !stdin_is_meant && args.file.is_none() && io::stdin().is_terminal() => {
            let said = "nothing to enqueue: give entry IDs, --file FILE, --from-cache, or - to type them in";
            return Err(Failure::Usage(said.to_owned()));
        }
        _ => (Box::new(BufReader::with_capacity(BUFFER, io::stdin())), "standard input".to_owned(), None),
    };
    let parser = Parser::new(args.format, defaults, now);
    let refused = read(&mut source, &name, size, parser, args.strict, &mut sink).await?;
    sink.finish(refused)
}

/// Those of the arguments: a wrong one is a slip of the hand, and nothing is enqueued.
fn wishes(ids: &[String], defaults: &Defaults) -> Result<Vec<Wish>, Failure> {
    let agent = defaults.agent.clone();
    let agent = agent.ok_or_else(|| Failure::Usage("whose entries these are is not said: give --agent".to_owned()))?;
    ids.iter()
        .map(|id| {
            let entry = EntryId::parse(id).map_err(|error| Failure::Usage(error.to_string()))?;
            Ok(Wish { agent: agent.clone(), entry, priority: defaults.priority, due_at: defaults.due_at })
        })
        .collect()
}

/// Reads all of `source` into the sink; tells how many lines were refused.
async fn read(
    source: &mut dyn BufRead,
    name: &str,
    size: Option<u64>,
    mut parser: Parser,
    strict: bool,
    sink: &mut Sink<'_>,
) -> Result<u64, Failure> {
    let (mut lines, mut refused, mut kept) = (Lines::new(source), 0, 0);
    let mut progress = Progress::new();
    loop {
        let next = match lines.next() {
            Ok(next) => next.map(|line| line.and_then(|line| parser.parse(line))),
            Err(error) => {
                progress.clear();
                sink.flush().await?;
                sink.tell(refused);
                return Err(anyhow::Error::from(error)
                    .context(format!("read {name}, line {}", lines.number + 1))
                    .into());
            }
        };
        let number = lines.number;
        match next {
            None => break,
            Some(Ok(None)) => {}
            Some(Ok(Some(wish))) => {
                let is_written = match sink.put(wish).await {
                    Ok(is_written) => is_written,
                    Err(failure) => {
                        progress.clear();
                        sink.tell(refused);
                        return Err(failure);
                    }
                };
                if is_written {
                    kept = number;
                    let (read, size) = (lines.read, size.filter(|size| *size > 0));
                    let percent = size.map_or_else(String::new, |size| format!(", {} %", (read * 100 / size).min(100)));
                    progress.show(|| format!("{} lines{percent}", show_count(number)));
                }
            }
            Some(Err(Problem::Input(problem))) => {
                progress.clear();
                if sink.taken > 0 || refused > 0 {
                    sink.flush().await?;
                    sink.tell(refused);
                }
                return Err(Failure::Usage(format!("{name}, line {number}: {problem}")));
            }
            Some(Err(Problem::Line(problem))) => {
                refused += 1;
                if refused <= SHOWN || strict {
                    progress.clear();
                    warn_person(&format!("{name}, line {number}: {problem}"));
                }
                if strict {
                    sink.chunk.clear();
                    sink.tell(refused);
                    let kept = match kept {
                        0 => "nothing was".to_owned(),
                        kept => format!("lines 1 to {kept} were"),
                    };
                    warn_person(&format!("sweeper: stopped at line {number}, as --strict has it; {kept} enqueued"));
                    return Ok(refused);
                }
            }
        }
    }
    progress.clear();
    if let Err(failure) = sink.flush().await {
        sink.tell(refused);
        return Err(failure);
    }
    if refused > SHOWN {
        warn_person(&format!("… and {} refused", plural(refused - SHOWN, "more line was", "more lines were")));
    }
    Ok(refused)
}

/// Takes wishes, and writes them in chunks.
struct Sink<'a> {
    options: &'a Options,
    clock: &'a Clock,
    dry_run: bool,
    /// Opened with the first chunk.
    producer: Option<Producer>,
    chunk: Vec<Wish>,
    done: Enqueued,
    /// Rows that a dry run has taken.
    taken: u64,
    told: bool,
}

impl<'a> Sink<'a> {
    fn new(config: &'a Config, clock: &'a Clock, dry_run: bool) -> Self {
        let (producer, chunk, done) = (None, Vec::with_capacity(CHUNK), Enqueued::default());
        Self { options: &config.store, clock, dry_run, producer, chunk, done, taken: 0, told: false }
    }

    /// True if a chunk was written.
    async fn put(&mut self, wish: Wish) -> Result<bool, Failure> {
        self.chunk.push(wish);
        if self.chunk.len() < CHUNK {
            return Ok(false);
        }
        self.flush().await?;
        Ok(true)
    }

    async fn flush(&mut self) -> Result<(), Failure> {
        self.taken += self.chunk.len() as u64;
        if self.dry_run || self.chunk.is_empty() {
            self.chunk.clear();
            return Ok(());
        }
        let producer = match &mut self.producer {
            Some(producer) => producer,
            none => {
                let (producer, opened) = Producer::join_or_create(self.options).await?;
                if opened == Opened::Created {
                    say(&format!("{}: created", self.options.path.display()))?;
                }
                none.insert(producer)
            }
        };
        let begun = self.clock.elapsed();
        let Enqueued { inserted, waiting, reopened } = producer.enqueue(&self.chunk).await?;
        // SQLite's way to wait for a lock is to try now and then: without a gap, who writes all the time starves the others.
        let took = self.clock.elapsed().saturating_sub(begun);
        self.chunk.clear();
        self.done.inserted += inserted;
        self.done.waiting += waiting;
        self.done.reopened += reopened;
        sleep(took.min(MAX_GAP)).await;
        Ok(())
    }

    fn summary(&self, refused: u64) -> String {
        let Enqueued { inserted, waiting, reopened } = self.done;
        if self.dry_run {
            format!("dry run: {} can be enqueued, {refused} refused; nothing was written", self.taken)
        } else {
            format!("inserted {inserted}, already waiting {waiting}, opened again {reopened}, refused {refused}")
        }
    }

    /// What was done before something went wrong.
    fn tell(&mut self, refused: u64) {
        self.told = true;
        warn_person(&format!("{}; to enqueue the same again does no harm", self.summary(refused)));
    }

    fn finish(&self, refused: u64) -> Result<ExitCode, Failure> {
        if !self.told {
            say(&self.summary(refused))?;
        }
        Ok(if refused > 0 { ExitCode::from(1) } else { ExitCode::SUCCESS })
    }
}

async fn from_cache(
    args: &EnqueueArgs,
    config: &Config,
    defaults: Defaults,
    mut sink: Sink<'_>,
) -> Result<ExitCode, Failure> {
    let agent = defaults.agent.context("--from-cache goes with --agent")?;
    let is_asked = !args.yes && !args.dry_run;
    if is_asked {
        will_ask()?;
    }
    let mut progress = Progress::new();
    let mut lister = Lister::new(config, agent.clone(), sink.clock.clone(), rng())?;
    let listed = lister.list(&args.filter, &mut progress).await;
    progress.clear();
    let found = listed?;
    show_found(&agent, &found)?;
    let count = found.ids.len() as u64;
    if count == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    if is_asked
        && !ask(&format!("Enqueue these {} deletions? What is deleted cannot be brought back.", show_count(count)))?
    {
        say("nothing was enqueued")?;
        return Ok(ExitCode::from(1));
    }
    for entry in found.ids {
        let wish = Wish { agent: agent.clone(), entry, priority: defaults.priority, due_at: defaults.due_at };
        if let Err(failure) = sink.put(wish).await {
            sink.tell(0);
            return Err(failure);
        }
    }
    sink.flush().await?;
    sink.finish(0)
}

fn show_found(agent: &AgentId, found: &Found) -> Result<(), Failure> {
    let count = found.ids.len() as u64;
    let mut text = format!("{} of {} entries in the cache of {agent}", show_count(count), show_count(found.listed));
    for entry in &found.sample {
        let cached_at = entry.cached_at.map_or_else(|| "at an unknown time".to_owned(), show_time);
        let hits = entry.hit_count.map_or_else(|| "?".to_owned(), |hits| hits.to_string());
        let transcript = show_text(entry.transcript.as_deref().unwrap_or("?"), 60);
        text.push_str(&format!("\n  {}  cached {cached_at}, {hits} hits  {transcript}", entry.id.as_str()));
    }
    let more = count - found.sample.len() as u64;
    if more > 0 {
        text.push_str(&format!("\n  … and {} more", show_count(more)));
    }
    say(&text)?;
    if found.unknown > 0 {
        let entries = plural(found.unknown, "entry stays", "entries stay");
        warn_person(&format!("{entries}: the API does not say what a filter asks for"));
    }
    if found.unusable > 0 {
        let entries = plural(found.unusable, "entry stays", "entries stay");
        warn_person(&format!("{entries}: no ID that could be enqueued"));
    }
    if !found.doubts.is_empty() {
        let doubts = found.doubts.join("; ");
        warn_person(&format!(
            "{doubts}: pages shift while entries come and go, and some may be missing; run it again later"
        ));
    }
    // Whoever pipes this somewhere sees it before the question.
    io::stdout().flush().context("write to standard output")?;
    Ok(())
}
