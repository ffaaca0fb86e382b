//! `sweeper status`: the state of the queue, for people and for programs.

mod json;
mod page;

use std::{
    future::Future,
    io::{self, IsTerminal as _},
    pin::pin,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use tokio::time::sleep;

use super::{
    Failure,
    arguments::{agent_id, duration},
    terminal::say_in_colour,
};
use crate::{
    config::Config,
    model::{clock::Clock, deletion::AgentId},
    printable,
    queue::sqlite::{Reader, twice_if_damaged},
};
use json::Report;
pub(super) use page::hold_lines;

const EXAMPLES: &str = "\
Examples:
  sweeper status
  sweeper status --agent PROJECT-58RP822I --watch
  sweeper status --json | jq .rows.pending

It only reads. It reads the whole table of deletions, so the time it takes grows with the rows.

Exit codes: 0 shown, whether or not a daemon runs, 2 usage or configuration, 3 database unusable.";

/// What to show, and how.
#[derive(Debug, Default, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct StatusArgs {
    /// Print one JSON object on one line. The README describes it.
    #[arg(long)]
    json: bool,
    /// Show it again every DURATION (2s by default) until interrupted.
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = "2s",
          value_parser = duration)]
    watch: Option<Duration>,
    /// Show only what concerns this agent.
    #[arg(long, value_name = "AGENT", value_parser = agent_id)]
    agent: Option<AgentId>,
}

/// Shows the status; with `--watch`, until `shutdown` completes.
///
/// # Errors
/// If the database cannot be read, or standard output cannot be written.
pub(super) async fn status(
    args: StatusArgs,
    config: &Config,
    clock: Clock,
    shutdown: impl Future<Output = ()>,
) -> Result<ExitCode, Failure> {
    let mut shutdown = pin!(shutdown);
    let mut first = true;
    loop {
        let now = clock.now();
        let look = async || {
            let mut reader = Reader::open(&config.store).await?;
            Ok::<_, Failure>(reader.standing(args.agent.as_ref(), now).await?)
        };
        let standing = twice_if_damaged(look).await?;
        let report = Report::new(config, args.agent.as_ref(), &standing, now);
        let text = if args.json {
            printable::json_line(&serde_json::to_string(&report).context("write JSON")?).into_owned()
        } else {
            let clear = if args.watch.is_some() && io::stdout().is_terminal() { "\u{1b}[H\u{1b}[2J" } else { "" };
            let gap = if first || !clear.is_empty() { "" } else { "\n" };
            format!("{clear}{gap}{}", page::show(&report, &standing, args.agent.is_some()))
        };
        first = false;
        say_in_colour(&text)?;
        let Some(pause) = args.watch else { return Ok(ExitCode::SUCCESS) };
        tokio::select! {
            () = &mut shutdown => return Ok(ExitCode::SUCCESS),
            () = sleep(pause) => {}
        }
    }
}
