//! `check --online`: asks the API what the key may do, with one request that lists and, if a person wishes, one that deletes
//! nothing.

use std::{collections::HashMap, time::Duration};

use tokio::time::sleep;

use super::{
    line::Line,
    meaning::{Agent, Asked},
};
use crate::{
    api::Api,
    cli::{CheckArgs, Failure, rng},
    config::Config,
    durations,
    model::{
        clock::{Clock, Timestamp},
        correlation::new_uuid,
        deletion::AgentId,
        hold::HoldRow,
        outcome::{Cause, Scope},
    },
    queue::report::Daemon,
};

/// The agent that is asked about if none is given and the queue has none. The API does not know it.
const NOBODY: &str = "sweeper-check";
/// The longest gap between the two requests.
const MAX_GAP: Duration = Duration::from_secs(10);

/// What is known of the queue, of which asking depends.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) daemon: Daemon,
    pub(super) holds: Vec<HoldRow>,
    /// An agent that the queue has rows of.
    pub(super) agent: Option<AgentId>,
}

/// Asks the API, and returns what it said.
///
/// # Errors
/// If there is no client for the API.
pub(super) async fn ask(
    args: &CheckArgs,
    api: &Api,
    config: &Config,
    environment: &HashMap<String, String>,
    known: &Known,
    clock: &Clock,
) -> Result<Vec<Line>, Failure> {
    let (agent, origin) = choose(args, known)?;
    if let Some(until) = pause(known, clock.now()) {
        let left = durations::show_roughly(until.since(clock.now()));
        let said = format!("not asked: the API has asked the daemon to send nothing (throttled); try again in {left}");
        return Ok(vec![Line::not("connection", said)]);
    }
    let is_shared = known.daemon.running == Some(true);
    let asked = Asked { config, environment, agent: &agent, origin, is_shared };
    let mut rng = rng();
    let begun = clock.elapsed();
    let read = api.try_read(&agent, new_uuid(&mut rng)).await;
    let took = clock.elapsed().saturating_sub(begun);
    let mut lines = asked.read(&read, took);
    if !args.try_write {
        let agent = args.agent.as_ref().map_or("AGENT", AgentId::as_str);
        let how = format!("not tried; `--try-write --agent {agent}` sends a bulk delete without any ID");
        lines.push(Line::open("write", how));
    } else if !asked.is_worth_a_write(&read) {
        lines.push(Line::open("write", "not tried, because of the above"));
    } else {
        let rate =
            known.daemon.introduction.as_ref().and_then(|said| said.in_effect).map(|said| said.requests_per_second);
        let rate = rate.unwrap_or(config.rate.requests_per_second);
        sleep(Duration::try_from_secs_f64(1.0 / rate).unwrap_or(MAX_GAP).min(MAX_GAP)).await;
        let write = api.try_write(&agent, new_uuid(&mut rng)).await;
        lines.push(asked.write(&write));
    }
    Ok(lines)
}

/// The agent to ask about.
fn choose(args: &CheckArgs, known: &Known) -> Result<(AgentId, Agent), Failure> {
    if let Some(agent) = &args.agent {
        return Ok((agent.clone(), Agent::Given));
    }
    match known.agent.clone() {
        Some(agent) => Ok((agent, Agent::OfTheQueue)),
        None => {
            let agent = AgentId::parse(NOBODY).map_err(|error| anyhow::anyhow!("{NOBODY}: {error}"))?;
            Ok((agent, Agent::Nobody))
        }
    }
}

/// The end of a pause that the API has asked for.
fn pause(known: &Known, now: Timestamp) -> Option<Timestamp> {
    let throttled = known.holds.iter().filter(|hold| hold.scope == Scope::All && hold.cause == Cause::Throttled);
    throttled.filter_map(|hold| hold.until_at).filter(|until| *until > now).max()
}
