//! `sweeper hold`: pauses one agent or everything.

use std::{process::ExitCode, time::Duration};

use clap::{ArgGroup, Args};
use jiff::tz::TimeZone;

use super::{
    Failure,
    arguments::agent_id,
    names::unknown_agent,
    operator::{As, Login, one_line},
    terminal::{report, warn_person},
    times::{plural, show_both, show_text},
};
use crate::{
    config::Config,
    durations,
    model::{
        act::{ActKind, MAX_WHY},
        clock::{Clock, Timestamp},
        deletion::AgentId,
        hold::HoldRow,
        outcome::{Cause, Scope},
    },
    queue::{Concerned, Place, either::Producer},
};

/// The longest time that can be given. Nobody remembers a hold for longer.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

const EXAMPLES: &str = "\
Examples:
  sweeper hold --agent PROJECT-58RP822I --why 'the new voice is not approved yet'
  sweeper hold --all --for 1h
  sweeper release --agent PROJECT-58RP822I

The daemon notices a hold within queue.poll_interval. Requests that are on their way are not stopped.

Exit codes: 0 held, 2 usage or configuration, 3 database unusable.";

/// What to hold, and for how long.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, group(ArgGroup::new("which").required(true).args(["agent", "all"])))]
pub(super) struct HoldArgs {
    /// Hold the rows of this agent, those to come included.
    #[arg(long, value_name = "AGENT", value_parser = agent_id)]
    agent: Option<AgentId>,
    /// Hold everything.
    #[arg(long)]
    all: bool,
    /// End the hold after this time: 30m, 1h, 7d. Without this option, the hold lasts until somebody releases it.
    #[arg(long = "for", value_name = "DURATION", value_parser = length, allow_hyphen_values = true)]
    length: Option<Duration>,
    /// The reason, for whoever finds the hold: status and the log show it.
    #[arg(long, value_name = "TEXT", value_parser = why)]
    why: Option<String>,
    #[command(flatten)]
    whose: As,
}

fn length(text: &str) -> Result<Duration, String> {
    let allowed = Duration::from_secs(1)..=LONGEST;
    durations::parse(text, &allowed)
        .map_err(|error| format!("{error}; leave the option out to hold until somebody releases it"))
}

fn why(text: &str) -> Result<String, String> {
    one_line(text, MAX_WHY)
}

/// Places the hold.
///
/// # Errors
/// If the clock makes no sense, or the database cannot be used.
pub(super) async fn hold(args: HoldArgs, config: &Config, clock: Clock, login: &Login) -> Result<ExitCode, Failure> {
    let now = clock.now();
    let until_at = args.length.map(|length| end(now, length)).transpose()?;
    let scope = args.agent.map_or(Scope::All, Scope::Agent);
    let until = show_until(until_at, args.length);
    let why = args.why.as_ref().map_or_else(String::new, |why| format!(": {why}"));
    let draft = login.act(&args.whose, ActKind::Hold, Some(scope.clone()), Some(&format!("{until}{why}")));
    let place = Place { scope, until_at, why: args.why };
    let mut producer = Producer::join(&config.store).await?;
    producer.begin_act(draft, 1);
    let done = place_and_tell(&mut producer, &place, &until, config, now).await;
    // Everything is committed. A WAL that could not be copied stays beside the file.
    let _ = producer.close().await;
    done.map(|()| ExitCode::SUCCESS)
}

/// The end of a hold of this length.
fn end(now: Timestamp, length: Duration) -> Result<Timestamp, Failure> {
    let end = now.plus(length);
    // The table takes such a time for seconds.
    if end < Timestamp::LEAST_DUE {
        let now = now.civil().map_or_else(String::new, |now| format!(" ({now})"));
        let said = format!("--for: the clock of this machine is wrong{now}: set it, or leave --for out");
        return Err(Failure::Usage(said));
    }
    Ok(end)
}

fn show_until(until_at: Option<Timestamp>, length: Option<Duration>) -> String {
    match (until_at, length) {
        (Some(at), Some(length)) => {
            format!("until {}, for {}", show_both(at, &TimeZone::system()), durations::show(length))
        }
        (Some(_) | None, _) => "until somebody releases it".to_owned(),
    }
}

async fn place_and_tell(
    producer: &mut Producer,
    place: &Place,
    until: &str,
    config: &Config,
    now: Timestamp,
) -> Result<(), Failure> {
    let replaced = producer.hold(place, now).await?;
    // The hold is placed. A count or a name that cannot be read does not undo it.
    let concerned = producer.concerned(&place.scope).await.ok();
    let waiting = concerned.map_or_else(String::new, |Concerned { pending, in_flight }| {
        let waiting = pending.saturating_sub(in_flight);
        format!("; {}", plural(waiting, "pending row waits", "pending rows wait"))
    });
    report(&format!("held {} {until}{waiting}", place.scope.name()));
    if let Some(Concerned { in_flight: in_flight @ 1.., .. }) = concerned {
        let rows = plural(in_flight, "row", "rows");
        report(&format!("requests with {rows} are on their way, and are not stopped"));
    }
    if let Some(before) = replaced {
        report(&format!("this takes the place of {}", describe(&before, now)));
    }
    report(&format!("lift it with: {}", HoldRow::command_to_lift(&place.scope, Cause::Operator)));
    if let Scope::Agent(agent) = &place.scope
        && let Ok(Some(said)) = unknown_agent(agent, config).await
    {
        let the = if said.ends_with('?') { " The" } else { "; the" };
        warn_person(&format!("{said}{the} hold is placed all the same"));
    }
    Ok(())
}

/// A hold that is there: its age, its end, and its reason.
pub(super) fn describe(hold: &HoldRow, now: Timestamp) -> String {
    let age = durations::show_roughly(now.since(hold.since_at));
    let end = match hold.until_at {
        None => "until somebody releases it".to_owned(),
        Some(at) if at <= now && hold.cause.is_of_a_command() => "which is over".to_owned(),
        Some(at) if at <= now => "until a probe succeeds".to_owned(),
        Some(at) => format!("for another {}", durations::show_roughly(at.since(now))),
    };
    let why = hold.why.as_ref().map_or_else(String::new, |why| format!(": {}", show_text(why, MAX_WHY)));
    format!("the hold of {age} ago, {end}{why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_begins_in_1970_gives_a_hold_no_end() {
        let hour = Duration::from_secs(3_600);
        let said = end(Timestamp(60_000), hour).unwrap_err().to_string();
        assert_eq!(said, "--for: the clock of this machine is wrong (1970-01-01T00:01:00): set it, or leave --for out");
        assert_eq!(end(Timestamp::LEAST_DUE, hour).unwrap(), Timestamp::LEAST_DUE.plus(hour));
    }
}
