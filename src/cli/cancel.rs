//! `sweeper cancel`: removes pending rows from the queue.

use std::{collections::HashSet, process::ExitCode};

use clap::{ArgGroup, Args};

use super::{
    Failure,
    arguments::{agent_id, entry_id},
    operator::{As, Login},
    steps::Steps,
    terminal::{ask, report, say, warn_person, will_ask},
    times::plural,
};
use crate::{
    config::Config,
    model::{
        act::ActKind,
        clock::Clock,
        deletion::{AgentId, DeletionId, EntryId},
        outcome::Scope,
    },
    queue::sqlite::Producer,
};

/// How many named entries that are not pending are listed.
const SHOWN: usize = 20;

const EXAMPLES: &str = "\
Examples:
  sweeper cancel --agent PROJECT-58RP822I 4711 4712
  sweeper cancel --agent PROJECT-58RP822I --dry-run
  sweeper cancel --all --yes

Exit codes: 0 done, 1 the answer was no, or a named entry is not pending, \
2 usage or configuration, 3 database unusable.";

/// Which pending rows to cancel.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, group(ArgGroup::new("which").required(true).args(["agent", "all"])))]
pub(super) struct CancelArgs {
    /// Cancel the pending rows of this agent.
    #[arg(long, value_name = "AGENT", value_parser = agent_id)]
    agent: Option<AgentId>,
    /// Cancel only these entries of the agent.
    #[arg(value_name = "ENTRY", value_parser = entry_id, conflicts_with = "all")]
    entries: Vec<EntryId>,
    /// Cancel every pending row of every agent.
    #[arg(long, conflicts_with = "agent")]
    all: bool,
    /// Print the number of rows, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    whose: As,
}

/// Asks, and removes the rows.
///
/// # Errors
/// If nobody can be asked, or the database cannot be used.
pub(super) async fn cancel(
    args: CancelArgs,
    config: &Config,
    clock: Clock,
    login: &Login,
) -> Result<ExitCode, Failure> {
    if !args.yes && !args.dry_run {
        will_ask()?;
    }
    let mut producer = Producer::join(&config.store).await?;
    let scope = args.agent.clone().map_or(Scope::All, Scope::Agent);
    let detail = if args.entries.is_empty() { "pending rows" } else { "named entries" };
    producer.begin_act(login.act(&args.whose, ActKind::Cancel, Some(scope), Some(detail)), 1);
    let done = cancel_with(&mut producer, &args, clock).await;
    // Everything is committed. A WAL that could not be copied stays beside the file.
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
        say(&format!("dry run: {count} would be cancelled; nothing was written"))?;
        return Ok(code);
    }
    if ids.is_empty() {
        say("no pending row matches; nothing was written")?;
        return Ok(code);
    }
    if !args.yes && !ask(&format!("Remove {count} from the queue? That cannot be undone."))? {
        say("nothing was written")?;
        return Ok(ExitCode::from(1));
    }
    // Look before the rows go, because an answer in between ends its request. And look again after it, for rows that were
    // claimed in between.
    let mut sent: HashSet<DeletionId> = producer.in_flight().await?.into_iter().collect();
    let mut steps = Steps::new(producer, clock);
    while let Some(chunk) = steps.next(&ids).await {
        let now = steps.clock.now();
        steps.done += steps.producer.cancel(chunk, now).await?.done;
    }
    let now = steps.clock.now();
    steps.producer.end_act(now).await?;
    sent.extend(steps.producer.in_flight().await?);
    report(&format!("cancelled {}", steps.done));
    let left = ids.len() as u64 - steps.done;
    if left > 0 {
        let rows = plural(left, "row was", "rows were");
        warn_person(&format!("{rows} settled meanwhile"));
    }
    let in_flight = ids.iter().filter(|id| sent.contains(id)).count() as u64;
    if in_flight > 0 {
        let rows = plural(in_flight, "row was", "rows were");
        warn_person(&format!("{rows} in flight, and may be deleted all the same"));
    }
    Ok(code)
}

/// The pending rows of these entries, and the number of entries that have none.
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
                    warn_person(&format!("{agent} {entry}: not pending; `sweeper show {agent} {entry}` tells more"));
                }
            }
        }
    }
    if missing > SHOWN {
        warn_person(&format!("… and {} more", missing - SHOWN));
    }
    Ok((ids, missing))
}
