//! `sweeper retry` brings dead rows back; `sweeper cancel` takes pending ones out.

use std::{collections::HashSet, process::ExitCode, time::Duration};

use clap::{
    ArgGroup, Args,
    builder::{PossibleValuesParser, TypedValueParser as _},
};
use tokio::time::sleep;

use super::{
    Failure, Progress, agent_id, ask,
    enqueue::MAX_GAP,
    entry_id, report, say,
    times::{plural, show_count},
    warn_person, will_ask,
};
use crate::{
    config::Config,
    model::{
        clock::Clock,
        deletion::{AgentId, DeletionId, EntryId},
        outcome::Cause,
    },
    queue::sqlite::Producer,
};

/// How many rows go into one transaction.
const CHUNK: usize = 2_000;
/// How many named entries that are not pending are shown.
const SHOWN: usize = 20;

const RETRY_EXAMPLES: &str = "\
Examples:
  sweeper retry --cause api_failed --dry-run
  sweeper retry --agent PROJECT-58RP822I --yes
  sweeper retry --all

Exit codes: 0 done, 1 the answer was no, 2 usage or configuration, 3 database unusable.";

const CANCEL_EXAMPLES: &str = "\
Examples:
  sweeper cancel --agent PROJECT-58RP822I 4711 4712
  sweeper cancel --agent PROJECT-58RP822I --dry-run
  sweeper cancel --all --yes

Exit codes: 0 done, 1 the answer was no, or an entry that was named is not pending, \
2 usage or configuration, 3 database unusable.";

/// Which dead rows to try again.
#[derive(Debug, Args)]
#[command(after_help = RETRY_EXAMPLES, group(ArgGroup::new("which").required(true).multiple(true).args(["agent", "cause", "all"])))]
pub(super) struct RetryArgs {
    /// Those of this agent.
    #[arg(long, value_name = "AGENT", value_parser = agent_id)]
    agent: Option<AgentId>,
    /// Those that died of this.
    #[arg(long, value_name = "CAUSE", value_parser = causes())]
    cause: Option<Cause>,
    /// All of them.
    #[arg(long, conflicts_with_all = ["agent", "cause"])]
    all: bool,
    /// Say how many they are, and leave them as they are.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

/// Which pending rows to take out.
#[derive(Debug, Args)]
#[command(after_help = CANCEL_EXAMPLES, group(ArgGroup::new("which").required(true).args(["agent", "all"])))]
pub(super) struct CancelArgs {
    /// Those of this agent.
    #[arg(long, value_name = "AGENT", value_parser = agent_id)]
    agent: Option<AgentId>,
    /// Of that agent, only these entries.
    #[arg(value_name = "ENTRY", value_parser = entry_id, conflicts_with = "all")]
    entries: Vec<EntryId>,
    /// All of them, whosoever they are.
    #[arg(long, conflicts_with = "agent")]
    all: bool,
    /// Say how many they are, and leave them as they are.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

/// Those that a row can die of.
fn causes() -> impl clap::builder::TypedValueParser<Value = Cause> {
    let names = Cause::ALL.into_iter().filter(|cause| *cause != Cause::Operator).map(Cause::as_str);
    PossibleValuesParser::new(names).try_map(|name| Cause::parse(&name).ok_or("no cause"))
}

/// Revives.
///
/// # Errors
/// If nobody can be asked, or the database cannot be used.
pub(super) async fn retry(args: RetryArgs, config: &Config, clock: Clock) -> Result<ExitCode, Failure> {
    if !args.yes && !args.dry_run {
        will_ask()?;
    }
    let mut producer = Producer::join(&config.store).await?;
    let done = retry_with(&mut producer, &args, clock).await;
    // All is committed; a log that could not be copied stays beside the file.
    let _ = producer.close().await;
    done
}

async fn retry_with(producer: &mut Producer, args: &RetryArgs, clock: Clock) -> Result<ExitCode, Failure> {
    let ids = producer.dead(args.agent.as_ref(), args.cause).await?;
    let count = plural(ids.len() as u64, "dead row", "dead rows");
    if args.dry_run {
        say(&format!("dry run: {count} would be tried again; nothing was written"))?;
        return Ok(ExitCode::SUCCESS);
    }
    if ids.is_empty() {
        say("no dead row is meant by that; nothing was written")?;
        return Ok(ExitCode::SUCCESS);
    }
    if !args.yes && !ask(&format!("Try {count} again?"))? {
        say("nothing was written")?;
        return Ok(ExitCode::from(1));
    }
    let mut steps = Steps::new(producer, clock);
    while let Some(chunk) = steps.next(&ids).await? {
        let now = steps.clock.now();
        steps.done += steps.producer.revive(chunk, now).await?;
    }
    report(&format!("revived {}", steps.done));
    let left = ids.len() as u64 - steps.done;
    if left > 0 {
        let rows = plural(left, "row stays dead", "rows stay dead");
        warn_person(&format!("{rows}: changed by somebody else meanwhile, or such that no request can carry it"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Takes out.
///
/// # Errors
/// If nobody can be asked, or the database cannot be used.
pub(super) async fn cancel(args: CancelArgs, config: &Config, clock: Clock) -> Result<ExitCode, Failure> {
    if !args.yes && !args.dry_run {
        will_ask()?;
    }
    let mut producer = Producer::join(&config.store).await?;
    let done = cancel_with(&mut producer, &args, clock).await;
    // All is committed; a log that could not be copied stays beside the file.
    let _ = producer.close().await;
    done
}

async fn cancel_with(producer: &mut Producer, args: &CancelArgs, clock: Clock) -> Result<ExitCode, Failure> {
    let (ids, missing) = match &args.agent {
        Some(agent) if !args.entries.is_empty() => named(producer, agent, &args.entries).await?,
        agent => (producer.pending(agent.as_ref()).await?, 0),
    };
    let code = if missing > 0 { ExitCode::from(1) } else { ExitCode::SUCCESS };
    let count = plural(ids.len() as u64, "pending row", "pending rows");
    if args.dry_run {
        say(&format!("dry run: {count} would be taken out; nothing was written"))?;
        return Ok(code);
    }
    if ids.is_empty() {
        say("no pending row is meant by that; nothing was written")?;
        return Ok(code);
    }
    if !args.yes && !ask(&format!("Take {count} out of the queue? That cannot be undone."))? {
        say("nothing was written")?;
        return Ok(ExitCode::from(1));
    }
    // Before, because an answer that comes meanwhile takes its request off the list; none can be sent of what is gone.
    let mut sent: HashSet<DeletionId> = producer.in_flight().await?.into_iter().collect();
    let mut steps = Steps::new(producer, clock);
    while let Some(chunk) = steps.next(&ids).await? {
        steps.done += steps.producer.cancel(chunk).await?;
    }
    // And after, for those that were claimed in between.
    sent.extend(steps.producer.in_flight().await?);
    report(&format!("cancelled {}", steps.done));
    let left = ids.len() as u64 - steps.done;
    if left > 0 {
        let rows = plural(left, "row was", "rows were");
        warn_person(&format!("{rows} settled meanwhile"));
    }
    let on_their_way = ids.iter().filter(|id| sent.contains(id)).count() as u64;
    if on_their_way > 0 {
        let rows = plural(on_their_way, "row was", "rows were");
        warn_person(&format!("{rows} on the way in a request, and may be deleted all the same"));
    }
    Ok(code)
}

/// The rows of these entries, and how many of them are not pending.
async fn named(
    producer: &mut Producer,
    agent: &AgentId,
    entries: &[EntryId],
) -> Result<(Vec<DeletionId>, usize), Failure> {
    let (mut ids, mut missing) = (Vec::new(), 0);
    for entry in entries {
        match producer.pending_row(agent, entry).await? {
            Some(id) if ids.contains(&id) => {}
            Some(id) => ids.push(id),
            None => {
                missing += 1;
                if missing <= SHOWN {
                    let entry = entry.as_str();
                    warn_person(&format!("{agent} {entry}: not pending; `sweeper show {agent} {entry}` tells of it"));
                }
            }
        }
    }
    if missing > SHOWN {
        warn_person(&format!("… and {} more", missing - SHOWN));
    }
    Ok((ids, missing))
}

/// Many rows, some at a time, with gaps for others who write: SQLite's way to wait for a lock is to try now and then.
struct Steps<'p> {
    producer: &'p mut Producer,
    clock: Clock,
    progress: Progress,
    at: usize,
    /// Rows changed.
    done: u64,
    /// Elapsed time at which the last step began.
    begun: Option<Duration>,
}

impl<'p> Steps<'p> {
    fn new(producer: &'p mut Producer, clock: Clock) -> Self {
        Self { producer, clock, progress: Progress::new(), at: 0, done: 0, begun: None }
    }

    /// The next step's rows; `None` at the end.
    async fn next<'i>(&mut self, ids: &'i [DeletionId]) -> Result<Option<&'i [DeletionId]>, Failure> {
        if let Some(begun) = self.begun {
            sleep(self.clock.elapsed().saturating_sub(begun).min(MAX_GAP)).await;
        }
        let Some(chunk) = ids[self.at..].chunks(CHUNK).next() else {
            self.progress.clear();
            return Ok(None);
        };
        self.progress.show(|| format!("{} of {} rows", show_count(self.at as u64), show_count(ids.len() as u64)));
        self.at += chunk.len();
        self.begun = Some(self.clock.elapsed());
        Ok(Some(chunk))
    }
}
