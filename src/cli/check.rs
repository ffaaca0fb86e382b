//! `sweeper check`: the configuration in effect, what is wrong with it, the database, and on request the API.

mod line;
mod local;
mod meaning;
mod online;
mod server;
mod unused;

use std::{
    collections::{BTreeMap, HashMap},
    process::ExitCode,
    time::Duration,
};

use clap::Args;

use super::{Failure, arguments::agent_id, terminal::say};
use line::Line;
use online::Known;

use crate::{
    api::Api,
    config::{Config, ConfigError, TokenSource},
    durations,
    model::{clock::Clock, deletion::AgentId},
    printable,
    queue::{
        either::Options,
        postgres::{Checkup, Seen},
        sqlite::inspect,
    },
};

const EXAMPLES: &str = "\
Examples:
  sweeper check --config /etc/sweeper/sweeper.toml && systemctl restart sweeper
  sweeper check --online --agent PROJECT-58RP822I
  sweeper check --online --try-write --agent PROJECT-58RP822I

Nothing is created, changed or deleted. Without --online, nothing is sent.

Exit codes: 0 all is well; 1 something is not: its line says NOT, what that means and what to do; 2 the configuration cannot
be used: the message names the key, its value and what is allowed.";

/// Whether to ask the API, and what.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CheckArgs {
    /// Ask the API, with one request that lists one entry: is the key right, and the region, is the agent known, may the
    /// key read. Connection, TLS, proxy and certificates are those of the daemon.
    #[arg(long)]
    online: bool,
    /// The agent to ask about. Without this option: one of the queue, or else one that does not exist, which shows only
    /// whether the API is reached and the key is not refused.
    #[arg(long, value_name = "AGENT", value_parser = agent_id, requires = "online")]
    agent: Option<AgentId>,
    /// Find out whether the key may write: send a second request, a bulk delete without any ID.
    #[arg(long, requires = "online", requires = "agent")]
    try_write: bool,
}

/// Prints the configuration, the delays that follow from it, what a person should know about it, and the state of the database;
/// with `--online`, what the API says.
///
/// # Errors
/// If the configuration cannot be used, or standard output cannot be written.
pub(super) async fn check(
    args: &CheckArgs,
    config: Result<Config, ConfigError>,
    environment: &HashMap<String, String>,
    clock: &Clock,
) -> Result<ExitCode, Failure> {
    let config = match config {
        Ok(config) => config,
        Err(error) => {
            if let ConfigError::Values { shown, .. } = &error {
                say(&list_of(shown))?;
            }
            return Err(error.into());
        }
    };
    let file = config.file.as_ref().map(|file| format!("the configuration file is {}", file.display()));
    let file = file.unwrap_or_else(|| "no configuration file is read".to_owned());
    say(&format!("{}\n{file}\n{}", list_of(&config.shown), consequences(&config)))?;
    config.http.token.as_ref().map(TokenSource::read).transpose().map_err(ConfigError::Token)?;
    let options = config.api()?;
    let key = options.key.clone();
    // Making the client reads the key and the certificates.
    let api = Api::new(options)?;
    for warning in warnings(&config, key.read()?.is_short()) {
        say(&format!("\n{warning}"))?;
    }
    say("")?;
    let (lines, known) = look(&config.store).await;
    let mut is_well = line::tell(&lines)?;
    if args.online {
        let lines = online::ask(args, &api, &config, environment, &known, clock).await?;
        is_well &= line::tell(&lines)?;
    }
    let rest = if is_well { "" } else { "; see NOT above for what is not well" };
    say(&format!("\nthe configuration can be used{rest}"))?;
    Ok(ExitCode::from(u8::from(!is_well)))
}

/// The state of the queue: as lines, and what asking the API depends on.
async fn look(store: &Options) -> (Vec<Line>, Known) {
    match store {
        Options::Sqlite(options) => {
            let inspection = inspect(options).await;
            let lines = local::lines(&options.path, &inspection);
            let (holds, agent) =
                inspection.tables.map_or_else(|_| Default::default(), |tables| (tables.holds, tables.agent));
            (lines, Known { daemon: inspection.daemon, holds, agent })
        }
        Options::Postgres(options) => {
            let checkup = Checkup::of(options).await;
            let lines = server::lines(&options.address, &checkup);
            let known = checkup.tables.ok().and_then(|tables| tables.seen);
            let known = known.map(|Seen { daemon, holds, agent }| Known { daemon, holds, agent });
            (lines, known.unwrap_or_default())
        }
    }
}

fn list_of(shown: &BTreeMap<String, String>) -> String {
    shown.iter().map(|(key, value)| format!("{key} = {}\n", printable::line(value))).collect()
}

/// Where requests go, and the delays after failures.
fn consequences(config: &Config) -> String {
    let policy = &config.worker.policy;
    let list = |delays: &[Duration]| delays.iter().map(|delay| durations::show(*delay)).collect::<Vec<_>>().join(", ");
    format!(
        "requests go to {}\n\
         a row that fails is tried {} times, with these delays between attempts (each up to a quarter longer): {}\n\
         after {} faults in a row, their agent is held, or everything if they come from several agents, for (each up to a quarter longer): {}, …",
        config.base_url,
        policy.max_attempts,
        list(&policy.retry.schedule(policy.max_attempts)),
        config.worker.after_faults,
        list(&config.hold_growth.schedule(5)),
    )
}

/// Messages about settings that work but are probably mistakes.
fn warnings(config: &Config, key_is_short: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    for exposure in config.exposures() {
        let (path, mode, what, may) =
            (exposure.path.display().to_string(), exposure.mode, exposure.what, exposure.may());
        warnings
            .push(format!("{what} {path} has mode {mode:04o}: {may}; chmod 600 {} ends that", printable::shell(&path)));
    }
    if key_is_short && !config.is_on_loopback() {
        let said = "the API key is too short to be told from other text: if the API sends it back, the log shows it";
        warnings.push(said.to_owned());
    }
    warnings.extend(unused::settings(config));
    warnings
}
