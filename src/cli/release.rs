//! `sweeper release`: lifts holds.

use std::process::ExitCode;

use clap::{
    ArgGroup, Args,
    builder::{PossibleValuesParser, TypedValueParser},
};

use super::{
    Failure,
    arguments::agent_id,
    hold::describe,
    operator::{As, Login},
    terminal::{report, warn_person},
    times::plural,
};
use crate::{
    config::Config,
    model::{
        act::ActKind,
        clock::{Clock, Timestamp},
        deletion::AgentId,
        hold::HoldRow,
        outcome::{Cause, Scope},
    },
    queue::{Released, either::Producer},
};

/// Holds that are listed.
const SHOWN: usize = 20;

const EXAMPLES: &str = "\
Examples:
  sweeper release --agent PROJECT-58RP822I
  sweeper release --all
  sweeper release --agent PROJECT-58RP822I --cause unknown_agent
  sweeper release --cause operator

A hold that the daemon placed is over as soon as it is lifted. If its cause is not mended, the daemon places it again after \
the next request.

Exit codes: 0 released, 1 there was nothing to release, 2 usage or configuration, 3 database unusable.";

/// Which holds to lift.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, group(ArgGroup::new("which").required(true).multiple(true).args(["agent", "all", "cause"])))]
pub(super) struct ReleaseArgs {
    /// Lift the hold that an operator placed on this agent.
    #[arg(long, value_name = "AGENT", value_parser = agent_id)]
    agent: Option<AgentId>,
    /// Lift the hold that an operator placed on everything. Holds on agents stay.
    #[arg(long, conflicts_with = "agent")]
    all: bool,
    /// Lift the hold for this cause instead. Without --agent and --all: wherever it is.
    #[arg(long, value_name = "CAUSE", value_parser = causes())]
    cause: Option<Cause>,
    /// Lift the daemon's own holds as well, for whatever cause.
    #[arg(long, conflicts_with = "cause")]
    every_cause: bool,
    #[command(flatten)]
    whose: As,
}

fn causes() -> impl TypedValueParser<Value = Cause> {
    let names = Cause::ALL.into_iter().map(Cause::as_str);
    PossibleValuesParser::new(names).try_map(|name| Cause::parse(&name).ok_or("no cause"))
}

/// Lifts the holds.
///
/// # Errors
/// If the database cannot be used.
pub(super) async fn release(
    args: ReleaseArgs,
    config: &Config,
    clock: Clock,
    login: &Login,
) -> Result<ExitCode, Failure> {
    let scope = match args.agent {
        Some(agent) => Some(Scope::Agent(agent)),
        None => args.all.then_some(Scope::All),
    };
    let cause = args.cause.unwrap_or(Cause::Operator);
    let (causes, chosen) = match args.every_cause {
        true => (Cause::ALL.to_vec(), "every cause".to_owned()),
        false => (vec![cause], format!("cause: {}", cause.as_str())),
    };
    let draft = login.act(&args.whose, ActKind::Release, scope.clone(), Some(&chosen));
    let mut producer = Producer::join(&config.store).await?;
    producer.begin_act(draft, 1);
    let now = clock.now();
    let released = producer.release(scope.as_ref(), &causes, now).await;
    // Everything is committed. A WAL that could not be copied stays beside the file.
    let _ = producer.close().await;
    let Released { lifted, left } = released?;
    for hold in lifted.iter().take(SHOWN) {
        let cause = if hold.cause == Cause::Operator { String::new() } else { format!(" ({})", hold.cause.as_str()) };
        report(&format!("released {}{cause}: {}", hold.scope.name(), describe(hold, now)));
    }
    if lifted.len() > SHOWN {
        report(&format!("… and {} more", lifted.len() - SHOWN));
    }
    if lifted.is_empty() {
        warn_person(&nothing(scope.as_ref(), &causes));
    }
    tell_what_is_left(scope.as_ref(), &left, now);
    Ok(if lifted.is_empty() { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

/// There was no hold to lift.
fn nothing(scope: Option<&Scope>, causes: &[Cause]) -> String {
    let on = scope.map_or_else(|| "anything".to_owned(), Scope::name);
    match causes {
        [Cause::Operator] => format!("nothing was released: no operator holds {on}"),
        [cause] => format!("nothing was released: there is no hold on {on} for {}", cause.as_str()),
        _ => format!("nothing was released: there is no hold on {on}"),
    }
}

/// Says which holds still concern `scope`, and how they are lifted.
fn tell_what_is_left(scope: Option<&Scope>, left: &[HoldRow], now: Timestamp) {
    let is_over = |hold: &&HoldRow| !hold.is_over(now);
    let concerns = |hold: &&HoldRow| hold.scope == Scope::All || scope == Some(&hold.scope);
    for hold in left.iter().filter(is_over).filter(concerns) {
        let (name, cause) = (hold.scope.name(), hold.cause.as_str());
        let command = HoldRow::command_to_lift(&hold.scope, hold.cause);
        report(&format!("{name} is still held ({cause}): {}; lift it with: {command}", describe(hold, now)));
    }
    if !matches!(scope, Some(Scope::Agent(_))) {
        let others = left.iter().filter(is_over).filter(|hold| hold.scope != Scope::All).count();
        if others > 0 {
            let holds = plural(others as u64, "hold on a single agent stays", "holds on single agents stay");
            report(&format!("{holds}: `sweeper status` lists them"));
        }
    }
}
