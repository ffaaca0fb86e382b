//! `sweeper enqueue`: fills the queue from arguments, lines, records, or the remote cache.

use std::{
    fs::File,
    future::{Future, pending, ready},
    io::{self, IsTerminal as _, Read, Write as _},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    pin::{Pin, pin},
    process::ExitCode,
    thread,
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};

use super::{
    Failure, Progress, Signal, agent_id, ask,
    input::{Ahead, Defaults, Format, Input, Line, Parser, Problem, SILENCE},
    listing::{Filter, Found, Lister},
    report, rng, say, stopped,
    times::{Moment, plural, show_count, show_text, show_time},
    told, warn_person, will_ask,
};
use crate::{
    config::Config,
    model::{
        clock::{Clock, Timestamp},
        deletion::{AgentId, EntryId, refuse_floating},
    },
    queue::sqlite::{Enqueued, Options, Producer, Wish},
};

/// How many rows go into one transaction: about a tenth of a second's worth, once there are a million.
const CHUNK: usize = 5_000;
/// How many refused lines are shown.
const SHOWN: u64 = 20;
/// How long a row waits for its chunk to become full.
const MAX_AGE: Duration = Duration::from_secs(1);
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
or the cache could not be listed, or the answer was no, 2 usage or configuration, 3 database unusable, \
129, 130 and 143 stopped by SIGHUP, SIGINT (Ctrl-C) or SIGTERM: what was read by then is enqueued (of --from-cache: nothing, before it was \
listed to its end), and to run it again with the same input does no harm.";

/// What is enqueued, and how.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct EnqueueArgs {
    /// Whose entries they are; an agent_id in the input goes before it.
    #[arg(long, value_name = "AGENT", value_parser = agent_id)]
    agent: Option<AgentId>,
    /// Entry IDs; without any, or with -, standard input is read: what comes is in the queue a second later at the latest.
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
    /// before it. A row that waits already and has not been tried takes an earlier time over.
    #[arg(long, value_name = "TIME", value_parser = Moment::parse)]
    due: Option<Moment>,
    /// Stop at the first line that is refused.
    #[arg(long, conflicts_with = "from_cache")]
    strict: bool,
    /// Read and check everything, and write nothing.
    #[arg(long)]
    dry_run: bool,
    /// Take what is in the agent's remote cache: list it to the end, show what would go, and ask. Beside a running daemon, at
    /// half of its current rate at the most. A hold on everything or on the agent, or a Retry-After, of up to a minute is
    /// waited for; a longer one ends the listing, and what was listed by then goes on.
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
    let mut sink = Sink::new(config, &clock, args.dry_run);
    let done = fill(&mut sink, args, config).await;
    sink.close().await;
    done
}

/// Enqueues, into this sink.
///
/// # Errors
/// As [`enqueue`].
async fn fill(sink: &mut Sink<'_>, args: EnqueueArgs, config: &Config) -> Result<ExitCode, Failure> {
    // clap does not ask for what conflicts with something else that is there.
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
    };
    if args.from_cache {
        return from_cache(&args, config, defaults, sink).await;
    }
    let stdin_is_meant = args.ids.len() == 1 && args.ids[0] == "-";
    if !stdin_is_meant && args.ids.iter().any(|id| id == "-") {
        let said = "- stands for standard input, and goes with no other IDs; an entry whose ID is - goes by --file";
        return Err(Failure::Usage(said.to_owned()));
    }
    if !args.ids.is_empty() && !stdin_is_meant {
        let wishes = wishes(&args.ids, &defaults)?;
        for chunk in wishes.chunks(CHUNK) {
            chunk.iter().cloned().for_each(|wish| sink.put(wish));
            sink.flush().await?;
        }
        return sink.finish(0);
    }
    let (source, name, size): (Box<dyn Read + Send>, String, Option<u64>) = match &args.file {
        Some(path) if path.as_os_str() != "-" => {
            let name = path.display().to_string();
            let (given, queue) = (std::fs::metadata(path), std::fs::metadata(&config.store.path));
            if let (Ok(given), Ok(queue)) = (given, queue)
                && (given.dev(), given.ino()) == (queue.dev(), queue.ino())
            {
                // Read to its end and closed, SQLite's locks on it would go.
                return Err(Failure::Usage(format!("--file {name}: that is the database itself")));
            }
            // What cannot be opened was most likely misspelt.
            let file = File::open(path).map_err(|error| Failure::Usage(format!("--file {name}: {error}")))?;
            let size = file.metadata().ok().filter(|found| found.is_file()).map(|found| found.len());
            (Box::new(file), name, size)
        }
        _ if !stdin_is_meant && args.file.is_none() && io::stdin().is_terminal() => {
            let said = "nothing to enqueue: give entry IDs, --file FILE, --from-cache, or - to type them in";
            return Err(Failure::Usage(said.to_owned()));
        }
        _ => (Box::new(io::stdin()), "standard input".to_owned(), None),
    };
    let stop = stopped()?;
    let input = Ahead::new(source, Parser::new(args.format, defaults, now)).context("start to read")?;
    let reading = Reading {
        name,
        size,
        strict: args.strict,
        refused: 0,
        last: 0,
        kept: 0,
        rest: None,
        progress: Progress::new(),
    };
    reading.read(input, stop, sink).await
}

/// Those of the arguments: a wrong one is a slip of the hand, and nothing is enqueued.
fn wishes(ids: &[String], defaults: &Defaults) -> Result<Vec<Wish>, Failure> {
    let agent = defaults.agent.clone();
    let agent = agent.ok_or_else(|| Failure::Usage("whose entries these are is not said: give --agent".to_owned()))?;
    ids.iter()
        .map(|id| {
            let entry = EntryId::parse(id).and_then(|entry| refuse_floating(id).map(|()| entry));
            let entry = entry.map_err(|error| Failure::Usage(error.to_string()))?;
            Ok(Wish { agent: agent.clone(), entry, priority: defaults.priority, due_at: defaults.due_at })
        })
        .collect()
}

/// An input on its way into the queue.
struct Reading {
    /// What a person calls it.
    name: String,
    /// Its bytes, if that is known.
    size: Option<u64>,
    strict: bool,
    /// How many lines were refused.
    refused: u64,
    /// The number of the last line that was looked at, and of the last one that was written.
    last: u64,
    kept: u64,
    /// The last line, if nothing says that it is whole.
    rest: Option<Line>,
    progress: Progress,
}

impl Reading {
    /// Takes all of `input` into the sink, or what there is of it until `stop`.
    async fn read(
        mut self,
        mut input: Ahead,
        stop: impl Future<Output = Signal>,
        sink: &mut Sink<'_>,
    ) -> Result<ExitCode, Failure> {
        let mut stop = pin!(stop);
        loop {
            let lines = tokio::select! {
                biased;
                signal = &mut stop => return self.stop(signal, input, sink).await,
                () = sink.ripe() => {
                    self.flush(sink).await?;
                    continue;
                }
                lines = input.next() => lines,
            };
            let Some(lines) = lines else { break };
            if let Some(code) = self.take(lines, sink).await? {
                return Ok(code);
            }
        }
        self.flush(sink).await?;
        // Ctrl-C ends also the program at the other end of a pipe, which looks like the end of the input, and may be in the
        // middle of a line: half an ID is another one.
        let signal = match self.rest {
            None => already(stop).await,
            Some(_) => timeout(SILENCE, stop).await.ok(),
        };
        if let Some(signal) = signal {
            return self.stop(signal, input, sink).await;
        }
        if let Some(line) = self.rest.take() {
            let last = Input::Lines(vec![Line { is_whole: true, ..line }]);
            if let Some(code) = self.take(last, sink).await? {
                return Ok(code);
            }
            self.flush(sink).await?;
        }
        self.show_refused();
        sink.finish(self.refused)
    }

    /// Takes some lines. `Some` if no more are wanted.
    async fn take(&mut self, read: Input, sink: &mut Sink<'_>) -> Result<Option<ExitCode>, Failure> {
        let lines = match read {
            Input::Lines(lines) => lines,
            Input::End => return Ok(None),
            Input::Failed(number, error) => {
                self.flush(sink).await?;
                self.progress.clear();
                sink.tell(self.refused);
                let doing = format!("read {}, line {number}", self.name);
                return Err(anyhow::Error::from(error).context(doing).into());
            }
        };
        for line in lines {
            if !line.is_whole {
                self.rest = Some(line);
                break;
            }
            let Line { number, read, wish, .. } = line;
            self.last = number;
            match wish {
                Ok(wish) => {
                    sink.put(wish);
                    if sink.chunk.len() == CHUNK {
                        self.flush(sink).await?;
                        let size = self.size.filter(|size| *size > 0);
                        let percent =
                            size.map_or_else(String::new, |size| format!(", {} %", (read * 100 / size).min(100)));
                        self.progress.show(|| format!("{} lines{percent}", show_count(number)));
                    }
                }
                Err(Problem::Input(problem)) => {
                    self.progress.clear();
                    if sink.taken > 0 || !sink.chunk.is_empty() || self.refused > 0 {
                        self.flush(sink).await?;
                        sink.tell(self.refused);
                    }
                    return Err(Failure::Usage(format!("{}, line {number}: {problem}", self.name)));
                }
                Err(Problem::Line(problem)) => {
                    self.refused += 1;
                    if self.refused <= SHOWN || self.strict {
                        self.progress.clear();
                        warn_person(&format!("{}, line {number}: {problem}", self.name));
                    }
                    if self.strict {
                        sink.chunk.clear();
                        sink.tell(self.refused);
                        let kept = match self.kept {
                            0 => "nothing was enqueued".to_owned(),
                            kept if sink.dry_run => format!("lines 1 to {kept} would have been enqueued"),
                            kept => format!("lines 1 to {kept} were enqueued"),
                        };
                        warn_person(&format!("sweeper: stopped at line {number}, as --strict has it; {kept}"));
                        return sink.finish(self.refused).map(Some);
                    }
                }
            }
        }
        Ok(None)
    }

    /// Writes what there is.
    async fn flush(&mut self, sink: &mut Sink<'_>) -> Result<(), Failure> {
        if let Err(failure) = sink.flush().await {
            self.progress.clear();
            sink.tell(self.refused);
            return Err(failure);
        }
        self.kept = self.last;
        Ok(())
    }

    /// Writes what was read by now, and tells how to go on.
    async fn stop(mut self, signal: Signal, mut input: Ahead, sink: &mut Sink<'_>) -> Result<ExitCode, Failure> {
        while let Some(lines) = input.next_of_these().await {
            if let Some(code) = self.take(lines, sink).await? {
                return Ok(code);
            }
        }
        self.flush(sink).await?;
        self.show_refused();
        sink.tell(self.refused);
        let (by, last, name) = (signal.name(), self.last, &self.name);
        let rest = self.rest.as_ref().map_or("", |_| "; the next one was cut off, and is left out");
        warn_person(&format!(
            "sweeper: stopped by {by} after line {last} of {name}{rest}: unless that was its end, run it again with the same input"
        ));
        Ok(signal.exit_code())
    }

    fn show_refused(&mut self) {
        self.progress.clear();
        if self.refused > SHOWN {
            let more = plural(self.refused - SHOWN, "more line was", "more lines were");
            warn_person(&format!("… and {more} refused"));
        }
    }
}

/// Takes wishes, and writes them in chunks.
struct Sink<'a> {
    options: &'a Options,
    clock: &'a Clock,
    dry_run: bool,
    /// Opened with the first chunk.
    producer: Option<Producer>,
    chunk: Vec<Wish>,
    /// Elapsed time at which the chunk is written even if it is not full.
    ripe_at: Duration,
    done: Enqueued,
    /// Rows that a dry run has taken.
    taken: u64,
    told: bool,
}

impl<'a> Sink<'a> {
    fn new(config: &'a Config, clock: &'a Clock, dry_run: bool) -> Self {
        let (producer, chunk, done) = (None, Vec::with_capacity(CHUNK), Enqueued::default());
        let ripe_at = Duration::ZERO;
        Self { options: &config.store, clock, dry_run, producer, chunk, ripe_at, done, taken: 0, told: false }
    }

    /// Leaves the queue; how far it was filled has been told.
    async fn close(self) {
        if let Some(producer) = self.producer {
            // All is committed; a log that could not be copied stays beside the file.
            let _ = producer.close().await;
        }
    }

    fn put(&mut self, wish: Wish) {
        if self.chunk.is_empty() {
            self.ripe_at = self.clock.elapsed() + MAX_AGE;
        }
        self.chunk.push(wish);
    }

    /// Completes when what was put in has waited for long enough.
    async fn ripe(&self) {
        match self.chunk.is_empty() {
            true => pending().await,
            false => sleep(self.ripe_at.saturating_sub(self.clock.elapsed())).await,
        }
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
                told(self.options, opened).iter().for_each(|text| report(text));
                none.insert(producer)
            }
        };
        let begun = self.clock.elapsed();
        let Enqueued { inserted, waiting, earlier, reopened } = producer.enqueue(&self.chunk).await?;
        // SQLite's way to wait for a lock is to try now and then: without a gap, who writes all the time starves the others.
        let took = self.clock.elapsed().saturating_sub(begun);
        self.chunk.clear();
        self.done.inserted += inserted;
        self.done.waiting += waiting;
        self.done.earlier += earlier;
        self.done.reopened += reopened;
        sleep(took.min(MAX_GAP)).await;
        Ok(())
    }

    fn summary(&self, refused: u64) -> String {
        let Enqueued { inserted, waiting, earlier, reopened } = self.done;
        if self.dry_run {
            format!("dry run: {} can be enqueued, {refused} refused; nothing was written", self.taken)
        } else {
            format!(
                "inserted {inserted}, already waiting {waiting}, now due earlier {earlier}, opened again {reopened}, \
                 refused {refused}"
            )
        }
    }

    /// What was done before something went wrong.
    fn tell(&mut self, refused: u64) {
        self.told = true;
        warn_person(&format!("{}; to enqueue the same again does no harm", self.summary(refused)));
    }

    fn finish(&self, refused: u64) -> Result<ExitCode, Failure> {
        if !self.told {
            report(&self.summary(refused));
        }
        Ok(if refused > 0 { ExitCode::from(1) } else { ExitCode::SUCCESS })
    }
}

async fn from_cache(
    args: &EnqueueArgs,
    config: &Config,
    defaults: Defaults,
    sink: &mut Sink<'_>,
) -> Result<ExitCode, Failure> {
    let agent = defaults.agent.context("--from-cache goes with --agent")?;
    let is_asked = !args.yes && !args.dry_run;
    if is_asked {
        will_ask()?;
    }
    let mut stop = pin!(stopped()?);
    let mut progress = Progress::new();
    let mut lister = Lister::new(config, agent.clone(), sink.clock.clone(), rng())?;
    let listed = tokio::select! {
        biased;
        signal = &mut stop => Err(signal),
        listed = lister.list(&args.filter, &mut progress) => Ok(listed),
    };
    progress.clear();
    let found = match listed {
        Ok(listed) => listed?,
        Err(signal) => return Ok(nothing_done(signal, "before the cache was listed to its end")),
    };
    show_found(&agent, &found)?;
    let count = found.ids.len() as u64;
    let cut_short = |code| found.cut_short.map_or(Ok(code), |error| Err(error.into()));
    if count == 0 {
        return cut_short(ExitCode::SUCCESS);
    }
    if is_asked {
        let question =
            format!("Enqueue these {} deletions? What is deleted cannot be brought back.", show_count(count));
        let answer = tokio::select! {
            biased;
            signal = &mut stop => return Ok(nothing_done(signal, "before there was an answer")),
            answer = ask_aside(question) => answer?,
        };
        if !answer {
            say("nothing was enqueued")?;
            return Ok(ExitCode::from(1));
        }
    }
    for ids in found.ids.chunks(CHUNK) {
        if let Some(signal) = already(stop.as_mut()).await {
            sink.tell(0);
            let by = signal.name();
            let left = show_count(count - sink.taken);
            warn_person(&format!("sweeper: stopped by {by} before the last {left} were enqueued: run it again"));
            return Ok(signal.exit_code());
        }
        for entry in ids {
            let (agent, entry) = (agent.clone(), entry.clone());
            sink.put(Wish { agent, entry, priority: defaults.priority, due_at: defaults.due_at });
        }
        if let Err(failure) = sink.flush().await {
            sink.tell(0);
            return Err(failure);
        }
    }
    sink.finish(0).and_then(cut_short)
}

fn nothing_done(signal: Signal, when: &str) -> ExitCode {
    warn_person(&format!("sweeper: stopped by {} {when}; nothing was enqueued", signal.name()));
    signal.exit_code()
}

/// The signal, if it has come.
async fn already(stop: Pin<&mut impl Future<Output = Signal>>) -> Option<Signal> {
    tokio::select! {
        biased;
        signal = stop => Some(signal),
        () = ready(()) => None,
    }
}

/// Asks on a thread of its own: who waits for an answer must hear signals, too, and need not wait for the thread.
async fn ask_aside(question: String) -> Result<bool, Failure> {
    let (tell, told) = oneshot::channel();
    let thread = thread::Builder::new().name("question".to_owned());
    // If nobody waits for the answer any more, the process ends.
    thread.spawn(move || drop(tell.send(ask(&question)))).context("ask")?;
    told.await.context("ask")?
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
    if found.cut_short.is_some() {
        warn_person("the cache was not listed to its end, and there may be more that would go");
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
