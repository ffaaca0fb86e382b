//! `sweeper plan`: what would go out, and when. Nothing is sent or written.

mod json;
mod page;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;

use super::{
    Failure,
    arguments::agent_id,
    names::unknown_agent,
    terminal::{say_in_colour, warn_person},
};
use crate::{
    config::Config,
    model::{clock::Clock, deletion::AgentId},
    printable,
    queue::{either::Reader, sqlite::twice_if_damaged},
};
use json::Report;

const EXAMPLES: &str = "\
Examples:
  sweeper plan
  sweeper plan --agent PROJECT-58RP822I
  sweeper plan --json | jq .now.requests

It sends nothing and only reads. It reads the whole table of deletions, so the time it takes grows with the rows.
`sweeper run --max-requests N` then sends a few requests as a trial.

Exit codes: 0 shown, 1 no row of that agent is pending, 2 usage or configuration, 3 database unusable.";

/// What to show, and how.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct PlanArgs {
    /// Print one JSON object on one line. docs/reference-status-json.md describes it.
    #[arg(long)]
    json: bool,
    /// Show only the rows of this agent.
    #[arg(long, value_name = "AGENT", value_parser = agent_id)]
    agent: Option<AgentId>,
}

/// Shows what would go out.
///
/// # Errors
/// If the database cannot be read, or standard output cannot be written.
pub(super) async fn plan(args: PlanArgs, config: &Config, clock: Clock) -> Result<ExitCode, Failure> {
    let now = clock.now();
    let look = async || {
        let mut reader = Reader::open(&config.store).await?;
        Ok::<_, Failure>(reader.outlook(args.agent.as_ref(), config.worker.batch_size, now).await?)
    };
    let outlook = twice_if_damaged(look).await?;
    let report = Report::new(config, args.agent.as_ref(), outlook, now);
    if args.json {
        let line = serde_json::to_string(&report).context("write JSON")?;
        say_in_colour(&printable::json_line(&line))?;
    } else if !report.is_empty() || args.agent.is_none() {
        say_in_colour(&page::show(&report))?;
    }
    match &args.agent {
        Some(agent) if report.is_empty() => {
            let said = unknown_agent(agent, config).await?.unwrap_or_else(|| {
                let database = &config.store;
                format!("{agent}: no row of this agent is pending in {database}; `sweeper status` lists the agents")
            });
            warn_person(&said);
            Ok(ExitCode::from(1))
        }
        Some(_) | None => Ok(ExitCode::SUCCESS),
    }
}
