//! `sweeper retry`: makes dead rows pending again, or rows due that wait for their next attempt.

use std::{collections::HashSet, process::ExitCode};

use clap::{
    ArgGroup, Args,
    builder::{PossibleValuesParser, TypedValueParser},
};

use super::{
    Failure,
    arguments::{agent_id, label},
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
        clock::{Clock, Timestamp},
        deletion::{AgentId, DeletionId},
        label::Label,
        outcome::{Cause, Scope},
    },
    queue::either::Producer,
};

const EXAMPLES: &str = "\
Examples:
  sweeper retry --cause api_failed --dry-run
  sweeper retry --agent PROJECT-58RP822I --yes
  sweeper retry --label ERASURE-17
  sweeper retry --now --all

With --now, pending rows that failed before and wait for their next attempt become due at once. Their attempts still count.
Dead rows stay dead.

Exit codes: 0 done, 1 the answer was no, or no wish has the label, 2 usage or configuration, 3 database unusable.";

/// Which rows to retry.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, group(ArgGroup::new("which").required(true).multiple(true).args(["agent", "label", "cause", "all"])))]
pub(super) struct RetryArgs {
    /// Retry the rows of this agent.
    #[arg(long, value_name = "AGENT", value_parser = agent_id)]
    agent: Option<AgentId>,
    /// Retry the rows that a wish with this label is for. The dead ones' other wishes open again as well.
    #[arg(long, value_name = "LABEL", value_parser = label)]
    label: Option<Label>,
    /// Retry the rows that failed for this cause.
    #[arg(long, value_name = "CAUSE", value_parser = causes())]
    cause: Option<Cause>,
    /// Retry all of them.
    #[arg(long, conflicts_with_all = ["agent", "label", "cause"])]
    all: bool,
    /// Make rows due at once that failed before and wait for their next attempt, instead of dead rows pending. Does not
    /// ask.
    #[arg(long)]
    now: bool,
    /// With --now: also the rows that were enqueued for a later time and have not been tried. Asks, because they are then
    /// deleted at once.
    #[arg(long, requires = "now", conflicts_with = "cause")]
    scheduled: bool,
    /// Print the number of rows, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    whose: As,
}

/// The causes that a dead row can have.
pub(super) fn causes() -> impl TypedValueParser<Value = Cause> {
    let names = Cause::ALL.into_iter().filter(|cause| !cause.is_of_a_command()).map(Cause::as_str);
    PossibleValuesParser::new(names).try_map(|name| Cause::parse(&name).ok_or("no cause"))
}

impl RetryArgs {
    /// Whether there is a question before anything is written.
    fn asks(&self) -> bool {
        !self.yes && !self.dry_run && (!self.now || self.scheduled)
    }

    /// What was chosen, for the table of acts.
    fn chosen(&self) -> String {
        let rows = match (self.now, self.scheduled) {
            (false, _) => "dead rows",
            (true, false) => "waiting rows, due now",
            (true, true) => "waiting and scheduled rows, due now",
        };
        let label = self.label.as_ref().map_or_else(String::new, |label| format!(", label: {label}"));
        let cause = self.cause.map_or_else(String::new, |cause| format!(", cause: {}", cause.as_str()));
        format!("{rows}{label}{cause}")
    }
}

/// Asks, and makes the rows pending or due.
///
/// # Errors
/// If nobody can be asked, or the database cannot be used.
pub(super) async fn retry(args: RetryArgs, config: &Config, clock: Clock, login: &Login) -> Result<ExitCode, Failure> {
    if args.asks() {
        will_ask()?;
    }
    // A label or a cause may be about any agents.
    let scope = args.agent.clone().map(Scope::Agent).or(args.all.then_some(Scope::All));
    let act = login.act(&args.whose, ActKind::Retry, scope, Some(&args.chosen()));
    let mut producer = Producer::join(&config.store).await?;
    producer.begin_act(act, 1);
    let done = retry_with(&mut producer, &args, config, clock).await;
    // Everything is committed. A WAL that could not be copied stays beside the file.
    let _ = producer.close().await;
    done
}

async fn retry_with(
    producer: &mut Producer,
    args: &RetryArgs,
    config: &Config,
    clock: Clock,
) -> Result<ExitCode, Failure> {
    let (ids, scheduled) = choose(producer, args, clock.now()).await?;
    let rows = if args.now { ("waiting row", "waiting rows") } else { ("dead row", "dead rows") };
    let count = plural(ids.len() as u64, rows.0, rows.1);
    let early = plural(scheduled, "was enqueued", "were enqueued");
    let early = if scheduled > 0 { format!(", of which {early} for a later time") } else { String::new() };
    if ids.is_empty()
        && let Some(said) = unknown(args.agent.as_ref(), args.label.as_ref(), config).await?
    {
        warn_person(&said);
        return Ok(ExitCode::from(1));
    }
    if args.dry_run {
        let would = if args.now { "become due now" } else { "be retried" };
        say(&format!("dry run: {count}{early} would {would}; nothing was written"))?;
        return Ok(ExitCode::SUCCESS);
    }
    if ids.is_empty() {
        say(&format!("no {} matches; nothing was written", rows.0))?;
        return Ok(ExitCode::SUCCESS);
    }
    let question = if args.now { format!("Send {count} at once{early}?") } else { format!("Retry {count}?") };
    if args.asks() && !ask(&question)? {
        say("nothing was written")?;
        return Ok(ExitCode::from(1));
    }
    let (mut steps, mut stuck) = (Steps::new(producer, clock), 0);
    while let Some(chunk) = steps.next(&ids).await {
        let now = steps.clock.now();
        let changed = match args.now {
            true => steps.producer.hurry(chunk, args.scheduled, now).await?,
            false => steps.producer.revive(chunk, now).await?,
        };
        steps.done += changed.done;
        stuck += changed.stuck;
    }
    let now = steps.clock.now();
    steps.producer.end_act(now).await?;
    tell(args, &ids, steps.done, stuck);
    tell_what_is_held(steps.producer, &ids, now).await;
    Ok(ExitCode::SUCCESS)
}

/// The rows that were chosen, and how many of them nobody has tried yet.
async fn choose(producer: &mut Producer, args: &RetryArgs, now: Timestamp) -> Result<(Vec<DeletionId>, u64), Failure> {
    let (agent, cause) = (args.agent.as_ref(), args.cause);
    Ok(match (&args.label, args.now) {
        (None, true) => producer.waiting(agent, cause, args.scheduled, now).await?,
        (None, false) => (producer.dead(agent, cause).await?, 0),
        (Some(label), true) => {
            let of_label: HashSet<DeletionId> = producer.pending_of_label(label, agent).await?.into_iter().collect();
            let (mut ids, _) = producer.waiting(agent, cause, args.scheduled, now).await?;
            let (mut tried, _) = producer.waiting(agent, cause, false, now).await?;
            [&mut ids, &mut tried].into_iter().for_each(|ids| ids.retain(|id| of_label.contains(id)));
            let untried = ids.len().saturating_sub(tried.len()) as u64;
            (ids, untried)
        }
        (Some(label), false) => (producer.dead_of_label(label, agent, cause).await?, 0),
    })
}

/// Says what was done, and why the rest was not.
fn tell(args: &RetryArgs, ids: &[DeletionId], done: u64, stuck: u64) {
    report(&if args.now { format!("due now {done}") } else { format!("retried {done}") });
    if stuck > 0 {
        let stays = if args.now { ("row waits on", "rows wait on") } else { ("row stays dead", "rows stay dead") };
        let rows = plural(stuck, stays.0, stays.1);
        warn_person(&format!(
            "{rows}: values that the schema does not allow were forced in, and no request can carry them"
        ));
    }
    let others = (ids.len() as u64).saturating_sub(done + stuck);
    if others > 0 {
        let rows = plural(others, "row was", "rows were");
        warn_person(&format!("{rows} changed or removed by somebody else meanwhile"));
    }
}

/// Says how many of the rows wait for a hold all the same.
async fn tell_what_is_held(producer: &mut Producer, ids: &[DeletionId], now: Timestamp) {
    // The rows are retried, and a remark that cannot be made does not undo that.
    let Ok(held) = producer.held(ids, now).await else { return };
    if held > 0 {
        let rows = plural(held, "of these rows waits", "of these rows wait");
        warn_person(&format!("{rows} for a hold: `sweeper status` lists the holds, `sweeper release` lifts them"));
    }
}
