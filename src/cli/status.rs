//! `sweeper status`: the state of the queue, for people and for programs.

mod acts;
mod label;
mod layout;
mod page;

use std::{
    future::{Future, pending},
    mem,
    pin::pin,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::sleep,
};

use super::{
    Failure,
    arguments::{self, agent_id, duration},
    names::unknown_agent,
    screen,
    terminal::{is_read, warn_person, write_coloured, write_out},
};
use crate::{
    config::Config,
    model::{clock::Clock, deletion::AgentId, label::Label},
    printable,
    queue::{either::Reader, report::Standing, sqlite::twice_if_damaged},
    watch::report::json::Report,
};
pub(super) use page::hold_lines;

const EXAMPLES: &str = "\
Examples:
  sweeper status
  sweeper status --agent PROJECT-58RP822I --watch
  sweeper status --json | jq .rows.pending
  sweeper status --label ERASURE-17

It only reads. It reads the whole table of deletions, so the time it takes grows with the rows.

On a terminal, --watch shows as much as fits, what needs a person first. Without a terminal, nothing is cut; COLUMNS sets a \
width.

Exit codes: 0 shown, whether or not a daemon runs, 1 the agent has no row, 2 usage or configuration, 3 database unusable. With \
--label: 0 every wish is deleted or absent, 4 some are dead or cancelled, else 1 some are open, or there is no such label.";

/// What to show, and how.
#[derive(Debug, Default, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct StatusArgs {
    /// Print one JSON object on one line. docs/reference-status-json.md describes it.
    #[arg(long)]
    json: bool,
    /// Show it again every DURATION (2s by default) until interrupted.
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = "2s",
          value_parser = duration)]
    watch: Option<Duration>,
    /// Show only what concerns this agent.
    #[arg(long, value_name = "AGENT", value_parser = agent_id)]
    agent: Option<AgentId>,
    /// Show what became of the wishes with this label instead. It reads all of them.
    #[arg(long, value_name = "LABEL", value_parser = arguments::label)]
    label: Option<Label>,
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
    if let Some(label) = &args.label {
        return label::status(label, &args, config, &clock, shutdown).await;
    }
    let mut shutdown = pin!(shutdown);
    let mut resized = Resized::new(args.watch.is_some())?;
    let mut show = Show { is_json: args.json, is_watched: args.watch.is_some(), is_first: true, is_anew: true };
    loop {
        let now = clock.now();
        let may_be_absent = show.is_first && args.agent.is_some();
        let look = async || {
            let mut reader = Reader::open(&config.store).await?;
            let standing = reader.standing(args.agent.as_ref(), now).await?;
            Ok::<_, Failure>(standing)
        };
        let standing = twice_if_damaged(look).await?;
        if may_be_absent
            && is_without_rows(&standing)
            && let Some(agent) = &args.agent
            && let Some(said) = unknown_agent(agent, config).await?
        {
            warn_person(&format!("sweeper: {said}"));
            return Ok(ExitCode::from(1));
        }
        let report = Report::new(&config.store, args.agent.as_ref(), &standing, now);
        let has_reader = show.print(&report, &standing)?;
        let Some(pause) = args.watch.filter(|_| has_reader) else { return Ok(ExitCode::SUCCESS) };
        tokio::select! {
            () = &mut shutdown => {
                show.end()?;
                return Ok(ExitCode::SUCCESS);
            }
            () = resized.next() => show.is_anew = true,
            () = sleep(pause) => {}
        }
    }
}

/// How the looks at the queue are printed.
struct Show {
    is_json: bool,
    is_watched: bool,
    /// Nothing was printed yet.
    is_first: bool,
    /// The screen is to be cleared.
    is_anew: bool,
}

impl Show {
    /// Prints one look. False if nobody reads standard output any more.
    fn print(&mut self, report: &Report, standing: &Standing) -> Result<bool, Failure> {
        let (is_first, is_anew) = (mem::take(&mut self.is_first), mem::take(&mut self.is_anew));
        if self.is_json {
            let text = serde_json::to_string(report).context("write JSON")?;
            return is_read(write_out(&format!("{}\n", printable::json_line(&text))));
        }
        if let Some(lines) = self.screen() {
            // One line for the cursor, and one for what an interrupt echoes.
            let page = page::show(report, standing, Some(lines.saturating_sub(2)));
            return is_read(write_out(&screen::frame(&page, screen::columns(), is_anew)));
        }
        let gap = if is_first { "" } else { "\n" };
        write_coloured(&format!("{gap}{}", page::show(report, standing, None).join("\n")))
    }

    /// The lines of the terminal, if each page is drawn in the place of the last one.
    fn screen(&self) -> Option<usize> {
        screen::lines().filter(|_| self.is_watched && !self.is_json)
    }

    /// Leaves the last page, with the prompt below it.
    fn end(&self) -> Result<(), Failure> {
        match self.screen() {
            Some(_) => is_read(write_out("\n")).map(drop),
            None => Ok(()),
        }
    }
}

/// Changes of the terminal's size.
struct Resized(Option<Signal>);

impl Resized {
    fn new(is_watched: bool) -> Result<Self, Failure> {
        let listen = || signal(SignalKind::window_change()).context("listen to signals");
        Ok(Self(is_watched.then(listen).transpose()?))
    }

    /// Completes at the next change.
    async fn next(&mut self) {
        let changed = match &mut self.0 {
            Some(changes) => changes.recv().await,
            None => None,
        };
        // Without changes to come, this never completes.
        if changed.is_none() {
            pending::<()>().await;
        }
    }
}

/// Whether an agent has neither a row nor a wish in the inbox.
fn is_without_rows(standing: &Standing) -> bool {
    let inbox = standing.inbox.map_or(0, |inbox| inbox.rows);
    inbox + standing.pending + standing.deleted + standing.absent + standing.dead == 0
}
