//! `sweeper retry`: makes dead rows pending again.

use std::process::ExitCode;

use clap::{
    ArgGroup, Args,
    builder::{PossibleValuesParser, TypedValueParser},
};

use super::{
    Failure,
    arguments::agent_id,
    operator::{As, Login},
    steps::Steps,
    terminal::{ask, report, say, warn_person, will_ask},
    times::plural,
};
use crate::{
    config::Config,
    model::{
        act::Kind,
        clock::Clock,
        deletion::AgentId,
        outcome::{Cause, Scope},
    },
    queue::sqlite::{Changed, Producer},
};

const EXAMPLES: &str = "\
Examples:
  sweeper retry --cause api_failed --dry-run
  sweeper retry --agent PROJECT-58RP822I --yes
  sweeper retry --all

Exit codes: 0 done, 1 the answer was no, 2 usage or configuration, 3 database unusable.";

/// Which dead rows to retry.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, group(ArgGroup::new("which").required(true).multiple(true).args(["agent", "cause", "all"])))]
pub(super) struct RetryArgs {
    /// Retry the dead rows of this agent.
    #[arg(long, value_name = "AGENT", value_parser = agent_id)]
    agent: Option<AgentId>,
    /// Retry the rows that are dead for this cause.
    #[arg(long, value_name = "CAUSE", value_parser = causes())]
    cause: Option<Cause>,
    /// Retry every dead row.
    #[arg(long, conflicts_with_all = ["agent", "cause"])]
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

/// The causes that a dead row can have.
fn causes() -> impl TypedValueParser<Value = Cause> {
    let names = Cause::ALL.into_iter().filter(|cause| *cause != Cause::Operator).map(Cause::as_str);
    PossibleValuesParser::new(names).try_map(|name| Cause::parse(&name).ok_or("no cause"))
}

/// Asks, and makes the rows pending.
///
/// # Errors
/// If nobody can be asked, or the database cannot be used.
pub(super) async fn retry(args: RetryArgs, config: &Config, clock: Clock, login: &Login) -> Result<ExitCode, Failure> {
    if !args.yes && !args.dry_run {
        will_ask()?;
    }
    let mut producer = Producer::join(&config.store).await?;
    let scope = args.agent.clone().map_or(Scope::All, Scope::Agent);
    let cause = args.cause.map_or_else(String::new, |cause| format!(", cause: {}", cause.as_str()));
    producer.begin_act(login.act(&args.whose, Kind::Retry, Some(scope), Some(&format!("dead rows{cause}"))), 1);
    let done = retry_with(&mut producer, &args, clock).await;
    // Everything is committed. A WAL that could not be copied stays beside the file.
    let _ = producer.close().await;
    done
}

async fn retry_with(producer: &mut Producer, args: &RetryArgs, clock: Clock) -> Result<ExitCode, Failure> {
    let ids = producer.dead(args.agent.as_ref(), args.cause).await?;
    let count = plural(ids.len() as u64, "dead row", "dead rows");
    if args.dry_run {
        say(&format!("dry run: {count} would be retried; nothing was written"))?;
        return Ok(ExitCode::SUCCESS);
    }
    if ids.is_empty() {
        say("no dead row matches; nothing was written")?;
        return Ok(ExitCode::SUCCESS);
    }
    if !args.yes && !ask(&format!("Retry {count}?"))? {
        say("nothing was written")?;
        return Ok(ExitCode::from(1));
    }
    let (mut steps, mut stuck) = (Steps::new(producer, clock), 0);
    while let Some(chunk) = steps.next(&ids).await {
        let now = steps.clock.now();
        let Changed { done, stuck: left } = steps.producer.revive(chunk, now).await?;
        steps.done += done;
        stuck += left;
    }
    let now = steps.clock.now();
    steps.producer.end_act(now).await?;
    report(&format!("revived {}", steps.done));
    if stuck > 0 {
        let rows = plural(stuck, "row stays dead: it has a value", "rows stay dead: they have values");
        warn_person(&format!("{rows} that the schema does not allow, so that no request can carry it"));
    }
    let others = (ids.len() as u64).saturating_sub(steps.done + stuck);
    if others > 0 {
        let rows = plural(others, "row was", "rows were");
        warn_person(&format!("{rows} changed or removed by somebody else meanwhile"));
    }
    Ok(ExitCode::SUCCESS)
}
