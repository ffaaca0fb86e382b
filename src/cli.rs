//! The command line: arguments, dispatch, and exit codes.

mod arguments;
mod cancel;
mod check;
mod demo;
mod enqueue;
mod export;
mod fresh;
mod grant;
mod healthcheck;
mod hold;
mod init;
mod input;
mod list;
mod listing;
mod man;
mod names;
mod operator;
mod output;
mod plan;
mod release;
mod reload;
mod report;
mod retry;
mod run;
mod sandbox;
mod screen;
mod show;
mod signals;
mod status;
mod steps;
mod terminal;
mod times;
mod verify;
mod version;

use std::{cell::OnceCell, collections::HashMap, env, ffi::OsString, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Arg, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, value_parser};
use tokio::runtime;

use crate::{
    api::{ApiError, SetupError, key::KeyError},
    config::{Config, ConfigError},
    model::clock::Clock,
    queue::{
        either::{OpenError, StoreError},
        postgres,
        sqlite::{self, Doubtful},
    },
    watch::supervisor::Supervisor,
    worker::EVENT_INTERVAL,
};
use cancel::CancelArgs;
use check::CheckArgs;
use demo::DemoArgs;
use enqueue::EnqueueArgs;
use export::ExportArgs;
use grant::GrantArgs;
use hold::HoldArgs;
use list::ListArgs;
use man::{CompletionsArgs, ManArgs};
use operator::Login;
use plan::PlanArgs;
use release::ReleaseArgs;
use reload::Layers;
use report::ReportArgs;
use retry::RetryArgs;
use run::RunArgs;
use sandbox::SandboxArgs;
use show::ShowArgs;
use signals::shutdown;
use status::StatusArgs;
use verify::VerifyArgs;

/// Empties a queue of audio-cache deletions, kept in a SQLite or PostgreSQL table, through PolyAI's bulk-delete API.
#[derive(Debug, Parser)]
#[command(name = "sweeper", version = version::SHORT, long_version = version::long(), max_term_width = 100, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// The arguments. Each command that reads a configuration has `--config`.
fn command_line() -> clap::Command {
    let config = Arg::new(CONFIG).long(CONFIG).value_name("FILE").value_parser(value_parser!(PathBuf)).help(
        "The configuration file (TOML), or none. Without this option: the file that SWEEPER_CONFIG names, or \
         /etc/sweeper/sweeper.toml if it is there. Each key can also be set as SWEEPER__SECTION__KEY",
    );
    Cli::command().mut_subcommands(|command| {
        if WITHOUT_CONFIG.contains(&command.get_name()) { command } else { command.arg(config.clone()) }
    })
}

const CONFIG: &str = "config";

/// The commands that read no configuration.
const WITHOUT_CONFIG: [&str; 4] = ["demo", "sandbox", "completions", "man"];

const EXIT_CODES: &str = "\
Examples:
  sweeper demo
  sweeper enqueue --agent PROJECT-58RP822I 4711 4712
  sweeper run --config ./sweeper.toml
  sweeper hold --all --for 1h
  sweeper status

Exit codes: 0 clean; 1 runtime failure, or only a part was done; 2 usage or configuration; 3 database unusable; \
4 --until-empty or --max-requests left dead rows; 5 --give-up-after gave up; 129, 130 and 143 enqueue or verify was stopped by SIGHUP, \
SIGINT or SIGTERM.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Work on the queue until told to stop.
    Run(RunArgs),
    /// Put deletions into the queue: from arguments, a file, standard input, or an agent's remote cache.
    Enqueue(EnqueueArgs),
    /// Show what is in the queue, and whether a daemon works on it.
    Status(StatusArgs),
    /// Show the history of one ID: its requests, their answers, and the correlation IDs that support asks for.
    Show(ShowArgs),
    /// Show what would go out: requests, minutes at the current rate, and what is held. Nothing is sent.
    Plan(PlanArgs),
    /// List rows of the queue, or the wishes with a label, one a line.
    List(ListArgs),
    /// Write what became of entries, a record a line, as CSV or JSON lines.
    Export(ExportArgs),
    /// Write a page that says what became of the entries with a label, or check such a page.
    Report(ReportArgs),
    /// Pause one agent or everything, at once.
    Hold(HoldArgs),
    /// Lift holds.
    Release(ReleaseArgs),
    /// Make dead rows pending again, with no attempt counted, or rows due that wait for their next attempt.
    Retry(RetryArgs),
    /// Remove pending rows from the queue.
    Cancel(CancelArgs),
    /// Compare the settled rows of an agent with its remote cache, and write down which entries are gone.
    Verify(VerifyArgs),
    /// Create the database, or bring its tables up to date, so that producers can start first.
    #[command(after_help = init::EXAMPLES)]
    Init,
    /// Print the SQL that gives roles of a PostgreSQL server the rights to enqueue or to run commands, or execute it.
    Grant(GrantArgs),
    /// Print the configuration in effect, what is wrong with it, and the state of the database; --online asks the API.
    Check(CheckArgs),
    /// Run a complete example on this machine. It needs no configuration, no API key and no network.
    Demo(DemoArgs),
    /// Stand in for the API, with faults on request.
    Sandbox(SandboxArgs),
    /// Ask the daemon on http.listen whether it is alive.
    #[command(after_help = healthcheck::EXAMPLES)]
    Healthcheck,
    /// Print a script that completes the arguments of this program in a shell.
    Completions(CompletionsArgs),
    /// Print a manual page, in the form that `man -l -` shows.
    Man(ManArgs),
}

/// Why a command failed. Each exit code has its own variants.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{0}")]
    Usage(String),
    #[error("configuration: {0}")]
    Key(#[from] KeyError),
    #[error("configuration: {0}")]
    Setup(SetupError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Database(#[from] StoreError),
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

impl From<sqlite::OpenError> for Failure {
    fn from(error: sqlite::OpenError) -> Self {
        Self::Open(error.into())
    }
}

impl From<sqlite::StoreError> for Failure {
    fn from(error: sqlite::StoreError) -> Self {
        Self::Database(error.into())
    }
}

impl From<postgres::OpenError> for Failure {
    fn from(error: postgres::OpenError) -> Self {
        Self::Open(error.into())
    }
}

impl From<postgres::StoreError> for Failure {
    fn from(error: postgres::StoreError) -> Self {
        Self::Database(error.into())
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::Key(error) => Self::Key(error),
            ApiError::Setup(error) => Self::Setup(error),
        }
    }
}

impl Doubtful for Failure {
    fn doubt(&self) -> Option<String> {
        match self {
            Self::Open(error) => error.doubt(),
            Self::Database(error) => error.doubt(),
            Self::Config(_) | Self::Usage(_) | Self::Key(_) | Self::Setup(_) | Self::Other(_) => None,
        }
    }
}

impl Failure {
    /// Whether waiting can help.
    fn is_temporary(&self) -> bool {
        match self {
            Self::Open(error) => error.is_temporary(),
            Self::Database(error) => error.is_temporary(),
            Self::Config(_) | Self::Usage(_) | Self::Key(_) | Self::Setup(_) | Self::Other(_) => false,
        }
    }

    /// Whether the server does not let us in.
    fn is_refusal(&self) -> bool {
        if let Self::Open(OpenError::Postgres(postgres::OpenError::Sql(error)))
        | Self::Database(StoreError::Postgres(error)) = self
        {
            return error.is_refusal();
        }
        false
    }

    /// The same failure. If there is no database, or no directory for it, it says where the path comes from.
    fn naming(self, origin: Option<&String>) -> Self {
        match (self, origin) {
            (Self::Open(OpenError::Sqlite(sqlite::OpenError::Missing { path, .. })), Some(origin)) => {
                let named = format!(
                    "; this path is {origin}. A daemon's queue is named by the daemon's configuration: give its file with \
                     --config. If there is no queue yet, `sweeper init` makes one here"
                );
                sqlite::OpenError::Missing { path, named }.into()
            }
            (Self::Open(OpenError::Sqlite(sqlite::OpenError::NoDirectory { path, directory, .. })), Some(origin)) => {
                let named = format!(", and the database's path is {origin}");
                sqlite::OpenError::NoDirectory { path, directory, named }.into()
            }
            (failure, _) => failure,
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Other(_) => 1,
            Self::Config(_) | Self::Usage(_) | Self::Key(_) | Self::Setup(_) => 2,
            Self::Open(_) | Self::Database(_) => 3,
        }
    }
}

/// The whole program.
#[must_use]
pub fn main() -> ExitCode {
    let parsed = command_line().try_get_matches().and_then(|matches| {
        let config = matches.subcommand().and_then(|(_, matches)| matches.try_get_one(CONFIG).ok().flatten().cloned());
        Ok((Cli::from_arg_matches(&matches)?.command, config))
    });
    let (command, config) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return arguments::tell(error),
    };
    // The configuration refuses the U+FFFD of a value that is not Unicode. Leaving the variable out would use a default.
    let text = |text: OsString| text.to_string_lossy().into_owned();
    let environment = env::vars_os().map(|(name, value)| (text(name), text(value))).collect();
    let done = runtime::Builder::new_current_thread()
        .event_interval(EVENT_INTERVAL)
        .enable_all()
        .build()
        .context("start the runtime")
        .map_err(Failure::from)
        .and_then(|runtime| {
            let done = runtime.block_on(command.run(config, &environment));
            // Resolving a host name cannot be interrupted: do not wait for its thread.
            runtime.shutdown_background();
            done
        });
    match done {
        Ok(code) => code,
        Err(failure) => {
            terminal::warn_person(&format!("sweeper: {failure}"));
            ExitCode::from(failure.exit_code())
        }
    }
}

impl Command {
    /// Runs the command. `file`: the value of `--config`.
    async fn run(self, file: Option<PathBuf>, environment: &HashMap<String, String>) -> Result<ExitCode, Failure> {
        signals::survive_file_size_limit()?;
        let login = Login::new(environment);
        let layers = Layers { argument: file, environment: environment.clone() };
        // Only a command that needs the configuration looks for its file: `demo` and `sandbox` never do.
        let origin = OnceCell::new();
        let config = || {
            let config = layers.load()?;
            // It is set once: each command loads one configuration.
            let _ = origin.set(config.database_origin());
            Ok(config)
        };
        let done = self.run_with(config, &layers, &login).await;
        done.map_err(|failure| failure.naming(origin.get()))
    }

    async fn run_with(
        self,
        config: impl FnOnce() -> Result<Config, ConfigError>,
        layers: &Layers,
        login: &Login,
    ) -> Result<ExitCode, Failure> {
        match self {
            Self::Run(args) => {
                let socket = layers.environment.get("NOTIFY_SOCKET").map(PathBuf::from);
                let supervisor = Supervisor::new(socket, sd_notify::watchdog_enabled());
                run::run(&config()?, &args, supervisor, layers.clone()).await
            }
            Self::Enqueue(args) => enqueue::enqueue(args, &config()?, Clock::system(), login).await,
            Self::Status(args) => status::status(args, &config()?, Clock::system(), shutdown()?).await,
            Self::Plan(args) => plan::plan(args, &config()?, Clock::system()).await,
            Self::Show(args) => show::show(args, &config()?, Clock::system()).await,
            Self::List(args) => list::list(args, &config()?, Clock::system()).await,
            Self::Export(args) => export::export(args, &config()?, Clock::system()).await,
            Self::Report(args) => report::report(args, &config()?, Clock::system()).await,
            Self::Hold(args) => hold::hold(args, &config()?, Clock::system(), login).await,
            Self::Release(args) => release::release(args, &config()?, Clock::system(), login).await,
            Self::Retry(args) => retry::retry(args, &config()?, Clock::system(), login).await,
            Self::Cancel(args) => cancel::cancel(args, &config()?, Clock::system(), login).await,
            Self::Verify(args) => verify::verify(args, &config()?, Clock::system(), login).await,
            Self::Init => init::init(&config()?.store).await,
            Self::Grant(args) => grant::grant(args, &config()?).await,
            Self::Check(args) => check::check(&args, config(), &layers.environment, &Clock::system()).await,
            Self::Demo(args) => demo::demo(args, shutdown()?).await,
            Self::Sandbox(args) => sandbox::sandbox(args, shutdown()?).await,
            Self::Healthcheck => healthcheck::healthcheck(config()?.http.listen).await,
            Self::Completions(args) => man::completions(args),
            Self::Man(args) => man::man(&args),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the only place that seeds a generator")]
fn rng() -> fastrand::Rng {
    fastrand::Rng::new()
}
