//! `sweeper cancel`: removes pending rows from the queue.

use std::{collections::HashSet, process::ExitCode};

use clap::{ArgGroup, Args};

use super::{
    Failure,
    arguments::{agent_id, entry_id, label},
    names::unknown,
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
        label::Label,
        outcome::Scope,
    },
    queue::either::Producer,
};

/// How many named entries that are not pending are listed.
const SHOWN: usize = 20;

const EXAMPLES: &str = "\
Examples:
  sweeper cancel --agent PROJECT-58RP822I 4711 4712
  sweeper cancel --agent PROJECT-58RP822I --dry-run
  sweeper cancel --label ERASURE-17
  sweeper cancel --all --yes

Exit codes: 0 done, 1 the answer was no, a named entry is not pending, or no wish has the label, \
2 usage or configuration, 3 database unusable.";

/// Which pending rows to cancel.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, group(ArgGroup::new("which").required(true).multiple(true).args(["agent", "label", "all"])))]
pub(super) struct CancelArgs {
    /// Cancel the pending rows of this agent.
    #[arg(long, value_name = "AGENT", value_parser = agent_id)]
    agent: Option<AgentId>,
    /// Cancel only these entries of the agent.
    #[arg(value_name = "ENTRY", value_parser = entry_id, conflicts_with = "all", requires = "agent")]
    entries: Vec<EntryId>,
    /// Cancel the open wishes with this label, of the agent or of all. A row goes only if nobody else wishes for its entry;
    /// else it stays pending.
    #[arg(long, value_name = "LABEL", value_parser = label)]
    label: Option<Label>,
    /// Cancel every pending row of every agent.
    #[arg(long, conflicts_with_all = ["agent", "label"])]
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
    // A label or a cause may be about any agents.
    let scope = args.agent.clone().map(Scope::Agent).or(args.all.then_some(Scope::All));
    let detail = if args.entries.is_empty() { "pending rows" } else { "named entries" };
    let label = args.label.as_ref().map_or_else(String::new, |label| format!(", label: {label}"));
    producer.begin_act(login.act(&args.whose, ActKind::Cancel, scope, Some(&format!("{detail}{label}"))), 1);
    let done = cancel_with(&mut producer, &args, config, clock).await;
    // Everything is committed. A WAL that could not be copied stays beside the file.
    let _ = producer.close().await;
    done
}

async fn cancel_with(
    producer: &mut Producer,
    args: &CancelArgs,
    config: &Config,
    clock: Clock,
) -> Result<ExitCode, Failure> {
    let (ids, missing) = match (&args.agent, &args.label) {
        (Some(agent), label) if !args.entries.is_empty() => {
            named(producer, agent, &args.entries, label.as_ref()).await?
        }
        (agent, Some(label)) => (producer.pending_of_label(label, agent.as_ref()).await?, 0),
        (agent, None) => (producer.pending(agent.as_ref()).await?, 0),
    };
    let code = if missing > 0 { ExitCode::from(1) } else { ExitCode::SUCCESS };
    let count = match &args.label {
        Some(label) => plural(ids.len() as u64, "open wish", "open wishes") + &format!(" with the label {label}"),
        None => plural(ids.len() as u64, "pending row", "pending rows"),
    };
    if ids.is_empty()
        && let Some(said) = unknown(args.agent.as_ref(), args.label.as_ref(), config).await?
    {
        warn_person(&said);
        return Ok(ExitCode::from(1));
    }
    if args.dry_run {
        say(&format!("dry run: {count} would be cancelled; nothing was written"))?;
        return Ok(code);
    }
    if ids.is_empty() {
        let what = if args.label.is_some() { "open wish" } else { "pending row" };
        say(&format!("no {what} matches; nothing was written"))?;
        return Ok(code);
    }
    let question = match &args.label {
        Some(_) => format!("Cancel {count}? Rows that nobody else wishes for go. That cannot be undone."),
        None => format!("Remove {count} from the queue? That cannot be undone."),
    };
    if !args.yes && !ask(&question)? {
        say("nothing was written")?;
        return Ok(ExitCode::from(1));
    }
    take_out(producer, &ids, args.label.as_ref(), clock).await?;
    Ok(code)
}

/// Cancels these rows, or the wishes with `label` for them, and says so.
async fn take_out(
    producer: &mut Producer,
    ids: &[DeletionId],
    label: Option<&Label>,
    clock: Clock,
) -> Result<(), Failure> {
    let (mut steps, mut kept, mut in_flight) = (Steps::new(producer, clock), 0, 0);
    while let Some(chunk) = steps.next(ids).await {
        let now = steps.clock.now();
        match label {
            Some(label) => {
                let cancelled = steps.producer.cancel_wishes(label, chunk, now).await?;
                steps.done += cancelled.wishes;
                kept += cancelled.kept;
                in_flight += cancelled.in_flight;
            }
            None => {
                let cancelled = steps.producer.cancel(chunk, now).await?;
                steps.done += cancelled.done;
                in_flight += cancelled.in_flight;
            }
        }
    }
    let now = steps.clock.now();
    steps.producer.end_act(now).await?;
    let kept = match kept {
        0 => String::new(),
        kept => format!("; {} pending, wished for by others", plural(kept, "row stays", "rows stay")),
    };
    report(&format!("cancelled {}{kept}", steps.done));
    let left = (ids.len() as u64).saturating_sub(steps.done);
    if left > 0 {
        let rows = plural(left, "row was", "rows were");
        warn_person(&format!(
            "{rows} settled meanwhile, or had the same entry as another one: `sweeper show` tells more"
        ));
    }
    if in_flight > 0 {
        let rows = plural(in_flight, "row was", "rows were");
        warn_person(&format!("{rows} in flight, and may be deleted all the same"));
    }
    Ok(())
}

/// The pending rows of these entries, and the number of entries that have none.
async fn named(
    producer: &mut Producer,
    agent: &AgentId,
    entries: &[EntryId],
    label: Option<&Label>,
) -> Result<(Vec<DeletionId>, usize), Failure> {
    let (mut ids, mut seen, mut missing) = (Vec::new(), HashSet::new(), 0);
    for entry in entries {
        let found = producer.pending_rows(agent, entry, label).await?;
        if found.is_empty() {
            missing += 1;
            if missing <= SHOWN {
                let entry = entry.as_str();
                let wished = label.map_or_else(String::new, |label| format!(", or not under the label {label}"));
                warn_person(&format!(
                    "{agent} {entry}: not pending{wished}; `sweeper show {agent} {entry}` tells more"
                ));
            }
        }
        ids.extend(found.into_iter().filter(|id| seen.insert(*id)));
    }
    if missing > SHOWN {
        warn_person(&format!("… and {} more", missing - SHOWN));
    }
    Ok((ids, missing))
}
