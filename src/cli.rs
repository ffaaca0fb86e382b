//! The command line: arguments, exit codes and signals around the worker.

mod arguments;
mod demo;
mod enqueue;
mod init;
mod input;
mod listing;
mod pages;
mod revive;
mod sandbox;
mod show;
mod signals;
mod status;
mod times;

use std::{
    collections::{BTreeMap, HashMap},
    env,
    ffi::OsString,
    future::{Future, pending},
    io::{self, IsTerminal as _, Write as _},
    net::SocketAddr,
    path::PathBuf,
    pin::pin,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use tokio::{runtime, time::sleep};
use tracing::{debug, error, info, warn};
use tracing_subscriber::EnvFilter;
use uuid::Uuid;

use crate::{
    api::{Api, ApiError, SetupError, key::KeyError},
    config::{Config, ConfigError},
    durations, event,
    model::{
        clock::Clock,
        deletion::{AgentId, EntryId, IdError},
    },
    pace::Pace,
    printable,
    queue::sqlite::{self, Counter, Doubtful, OpenError, Opened, Store, StoreError},
    watch::{
        health::Health,
        http::{self, Endpoint},
        metrics::Metrics,
        supervisor::Supervisor,
        telemetry,
    },
    worker::{Doubts, EVENT_INTERVAL, Ended, Totals, Until, Worker, tell_of_a_doubt},
};
use enqueue::EnqueueArgs;
use revive::{CancelArgs, RetryArgs};
use sandbox::{SandboxArgs, stand_in};
use show::ShowArgs;
use signals::{Signal, shutdown, stopped};
use status::StatusArgs;

/// Empties a queue of audio-cache deletions, kept in a SQLite table, through PolyAI's bulk-delete API.
#[derive(Debug, Parser)]
#[command(name = "sweeper", version, max_term_width = 100, after_help = EXIT_CODES)]
struct Cli {
    /// The configuration file (TOML), also named by SWEEPER_CONFIG; every key can be given as SWEEPER__SECTION__KEY, too.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

/// How long a start waits before it tries a database again that could not be used.
const START_RETRY: Duration = Duration::from_secs(1);

/// How often the service manager hears of a start that takes its time.
const START_BEAT: Duration = Duration::from_secs(1);

const EXIT_CODES: &str = "\
Examples:
  sweeper demo
  sweeper enqueue --agent PROJECT-58RP822I 4711 4712
  sweeper run --config /etc/sweeper.toml
  sweeper status

Exit codes: 0 clean, 1 runtime failure, or not all of it could be done, 2 usage or configuration, \
3 database unusable, 4 --until-empty left dead rows, 5 --give-up-after gave up, \
129, 130 and 143 enqueue was stopped by SIGHUP, SIGINT or SIGTERM.";

const RUN_EXAMPLES: &str = "\
Examples:
  SWEEPER__API__KEY_FILE=/run/secrets/polyai sweeper run --config /etc/sweeper.toml
  sweeper run --until-empty --give-up-after 10m";

const INIT_EXAMPLES: &str = "\
Examples:
  sweeper init
  SWEEPER__DATABASE__PATH=/var/lib/sweeper/queue.db sweeper init

Exit codes: 0 made or up to date, 2 configuration, 3 database unusable.";

const CHECK_EXAMPLES: &str = "\
Example:
  sweeper check --config /etc/sweeper.toml && systemctl restart sweeper

Exit codes: 0 it can be used, 2 it cannot; the message names the key, its value and what is allowed.";

const DEMO_EXAMPLES: &str = "\
Example:
  sweeper demo";

const HEALTHCHECK_EXAMPLES: &str = "\
Example:
  SWEEPER__HTTP__LISTEN=127.0.0.1:9464 sweeper healthcheck

Exit codes: 0 alive, 1 not alive, or no answer, 2 http.listen is off.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Work on the queue until told to stop (also without a subcommand).
    Run(RunArgs),
    /// Put deletions into the queue: from arguments, a file, standard input, or an agent's remote cache.
    Enqueue(EnqueueArgs),
    /// Show how the queue stands, and whether a daemon works on it.
    Status(StatusArgs),
    /// Tell the story of one ID: its requests, what came back, and what to quote to support.
    Show(ShowArgs),
    /// Bring dead rows back, with all their attempts before them.
    Retry(RetryArgs),
    /// Take pending rows out of the queue.
    Cancel(CancelArgs),
    /// Create the database, or bring its tables up to date, so that producers can start first.
    #[command(after_help = INIT_EXAMPLES)]
    Init,
    /// Print the configuration as it is in effect, and what is wrong with it.
    #[command(after_help = CHECK_EXAMPLES)]
    Check,
    /// Show the whole thing at work on this machine, with nothing configured: no key, no network.
    #[command(after_help = DEMO_EXAMPLES)]
    Demo,
    /// Stand in for the API, with faults to order.
    Sandbox(SandboxArgs),
    /// Ask the daemon on http.listen whether it is alive.
    #[command(after_help = HEALTHCHECK_EXAMPLES)]
    Healthcheck,
    /// Print what completes this program's arguments in a shell.
    Completions(pages::CompletionsArgs),
    /// Print a manual page, in the form that `man -l -` shows.
    Man(pages::ManArgs),
}

#[derive(Debug, Default, Args)]
#[command(after_help = RUN_EXAMPLES)]
struct RunArgs {
    /// End when no row is open any more; waits for retries and holds, and an outage keeps rows open for as long as it lasts.
    #[arg(long)]
    until_empty: bool,
    /// With --until-empty: end with exit code 5 when no row has reached an end for this long (10m, say).
    #[arg(long, value_name = "DURATION", requires = "until_empty", value_parser = duration)]
    give_up_after: Option<Duration>,
}

fn duration(text: &str) -> Result<Duration, String> {
    durations::parse(text, &(Duration::ZERO..=Duration::from_secs(366 * 86_400)))
}

fn agent_id(text: &str) -> Result<AgentId, IdError> {
    AgentId::parse(text)
}

fn entry_id(text: &str) -> Result<EntryId, IdError> {
    EntryId::parse(text)
}

/// Why a command failed, as far as its exit code goes.
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
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(said) => return arguments::tell(said),
    };
    // What is not Unicode comes as U+FFFD, which the configuration refuses: without the variable, a default would be used.
    let text = |text: OsString| text.to_string_lossy().into_owned();
    let environment = env::vars_os().map(|(name, value)| (text(name), text(value))).collect();
    let done = runtime::Builder::new_current_thread()
        .event_interval(EVENT_INTERVAL)
        .enable_all()
        .build()
        .context("start the runtime")
        .map_err(Failure::from)
        .and_then(|runtime| {
            let done = runtime.block_on(cli.run(&environment));
            // A name that is being resolved cannot be interrupted, and is not waited for.
            runtime.shutdown_background();
            done
        });
    match done {
        Ok(code) => code,
        Err(failure) => {
            warn_person(&format!("sweeper: {failure}"));
            ExitCode::from(failure.exit_code())
        }
    }
}

impl Cli {
    async fn run(self, environment: &HashMap<String, String>) -> Result<ExitCode, Failure> {
        signals::survive_file_size_limit()?;
        let named = environment.get("SWEEPER_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
        let file = self.config.or(named);
        let config = || Config::load(file.as_deref(), environment);
        match self.command.unwrap_or_else(|| Command::Run(RunArgs::default())) {
            Command::Run(args) => {
                let socket = environment.get("NOTIFY_SOCKET").map(PathBuf::from);
                run(&config()?, &args, Supervisor::new(socket, sd_notify::watchdog_enabled())).await
            }
            Command::Enqueue(args) => enqueue::enqueue(args, &config()?, Clock::system()).await,
            Command::Status(args) => {
                let config = config()?;
                status::status(args, &config, Clock::system(), shutdown()?).await
            }
            Command::Show(args) => show::show(args, &config()?, Clock::system()).await,
            Command::Retry(args) => revive::retry(args, &config()?, Clock::system()).await,
            Command::Cancel(args) => revive::cancel(args, &config()?, Clock::system()).await,
            Command::Init => init::init(&config()?.store).await,
            Command::Check => check(config()),
            Command::Demo => {
                demo::demo(shutdown()?).await?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Sandbox(args) => stand_in(args, shutdown()?).await,
            Command::Healthcheck => healthcheck(config()?.listen).await,
            Command::Completions(args) => pages::completions(args),
            Command::Man(args) => pages::man(&args),
        }
    }
}

/// A worker on what `config` names, with the system's chance. `started`: that it begins was logged.
///
/// # Errors
/// If there is no key, or the database cannot be used.
async fn worker(config: &Config, clock: &Clock, started: &mut bool) -> Result<Worker<Store>, Failure> {
    let api = Api::new(config.api()?)?;
    let store = Store::open(config.store.clone()).await?;
    if !std::mem::replace(started, true) {
        info!(
            event = event::STARTED,
            version = env!("CARGO_PKG_VERSION"),
            database = %config.store.path.display(),
            created = store.opened() == Opened::Created,
            adopted = store.opened() == Opened::Adopted,
            api = %config.base_url,
            requests_per_second = config.rate.requests_per_second,
            burst = config.rate.burst,
            concurrency = config.worker.concurrency,
            "started"
        );
        for exposure in config.exposures() {
            let (path, mode, setting) = (exposure.path.display(), format!("{:04o}", exposure.mode), exposure.what);
            let may = exposure.may();
            warn!(event = event::KEY_EXPOSED, setting, %path, mode, "the file with the API key: {may}; chmod 600 ends that");
        }
        if !config.unused_proxies.is_empty() {
            let variables = config.unused_proxies.join(", ");
            warn!(
                event = event::PROXY_IGNORED,
                variables, "the environment names a proxy, which is not used: api.proxy does"
            );
        }
    }
    let pace = Pace::new(config.rate, config.hold_growth);
    let pace = if config.adaptive { pace.adaptive(config.worker.concurrency, clock.elapsed()) } else { pace };
    Ok(Worker::new(store, api, pace, config.worker, clock.clone(), rng()).await?)
}

#[expect(clippy::disallowed_methods, reason = "the one place where chance comes in")]
fn rng() -> fastrand::Rng {
    fastrand::Rng::new()
}

fn new_uuid(rng: &mut fastrand::Rng) -> Uuid {
    uuid::Builder::from_random_bytes(rng.u128(..).to_be_bytes()).into_uuid()
}

async fn run(config: &Config, args: &RunArgs, supervisor: Supervisor) -> Result<ExitCode, Failure> {
    // The filter has been tried out when the configuration was read.
    let log = telemetry::init(config.log_format, EnvFilter::new(&config.log_filter)).context("start the log")?;
    let until = match args {
        RunArgs { until_empty: true, give_up_after } => Until::Empty { give_up_after: *give_up_after },
        RunArgs { until_empty: false, .. } => Until::Told,
    };
    let shutdown = shutdown()?;
    let (ended, totals) = match work(config, until, shutdown, supervisor).await {
        Ok(done) => done,
        Err(failure) => {
            error!(event = event::STOPPED, exit_code = failure.exit_code(), error = %failure, "stopped");
            log.flush();
            return Err(failure);
        }
    };
    let code = match ended {
        Ended::Empty if totals.dead > 0 => 4,
        Ended::Told | Ended::Empty => 0,
        Ended::GaveUp => 5,
    };
    let Totals { requests, deleted, absent, retried, dead, .. } = totals;
    info!(event = event::STOPPED, exit_code = code, requests, deleted, absent, retried, dead, "stopped");
    Ok(ExitCode::from(code))
}

/// Works on what `config` names until told to stop, or until there is nothing more to do.
///
/// # Errors
/// If there is no key, or the database cannot be used.
async fn work(
    config: &Config,
    until: Until,
    shutdown: impl Future<Output = ()>,
    supervisor: Supervisor,
) -> Result<(Ended, Totals), Failure> {
    let clock = Clock::system();
    let metrics = Metrics::new(clock.now());
    let endpoint = config.listen.map(|address| listen(address, config, &metrics, &clock)).transpose()?;
    // Answers until the end of this, also while the database is waited for and while the end has begun.
    let (_endpoint, mut supervisor) = match endpoint {
        Some((endpoint, health)) => (Some(endpoint), supervisor.telling(health)),
        None => (None, supervisor),
    };
    let mut shutdown = pin!(shutdown);
    let give_up = async {
        match until {
            Until::Empty { give_up_after: Some(after) } => sleep(after).await,
            Until::Empty { give_up_after: None } | Until::Told => pending().await,
        }
    };
    let worker = tokio::select! {
        biased;
        // Dropped in the middle, a start is what a crash would have left: the next one goes on from there.
        () = &mut shutdown => Err(Ended::Told),
        worker = patient_worker(config, &clock, &mut supervisor) => Ok(worker?),
        () = give_up => Err(Ended::GaveUp),
    };
    let worker = match worker {
        Ok(worker) => worker,
        Err(ended) => {
            info!(event = event::STOPPING, why = ended.as_str(), in_flight = 0, "stopping");
            supervisor.stopping();
            return Ok((ended, Totals::default()));
        }
    };
    let mut worker = worker.supervised_by(supervisor).measured_by(metrics);
    let ended = worker.run(shutdown, until).await;
    let totals = worker.totals();
    // After a failure, too: the log of commits may have been taken away, and what is in it be nowhere else.
    if let Err(error) = worker.close().await {
        // All is committed; the next one to open the file does what was left undone.
        debug!(%error, "the database was not closed in good order");
    }
    Ok((ended?, totals))
}

/// Answers on `address` about metrics and health, from before the database is opened.
///
/// # Errors
/// If that address cannot be had.
fn listen(
    address: SocketAddr,
    config: &Config,
    metrics: &Metrics,
    clock: &Clock,
) -> Result<(Endpoint, Health), Failure> {
    let health = Health::new(config.store.busy_timeout);
    let sources = http::Sources {
        metrics: metrics.clone(),
        health: health.clone(),
        counter: Counter::new(config.store.clone()),
        clock: clock.clone(),
    };
    let remedy = "give http.listen an address of this machine with a free port, or off";
    let endpoint = Endpoint::start(address, sources).map_err(|error| {
        let path = config.store.path.clone();
        match sqlite::holder(&path) {
            // It is another daemon on the same database that has the port, too.
            Ok(Some(pid)) => Failure::from(OpenError::Taken { path, pid }),
            Ok(None) | Err(_) => {
                anyhow::anyhow!("http.listen = \"{address}\": cannot listen: {error}; {remedy}").into()
            }
        }
    })?;
    info!(event = event::LISTENING, address = %endpoint.address(), "metrics and health are told");
    Ok((endpoint, health))
}

/// A [`worker`], as soon as the database can be used: one that is locked, or on a full disk, is waited for.
///
/// # Errors
/// If there is no key, or the database cannot be used and waiting does not mend that.
async fn patient_worker(config: &Config, clock: &Clock, supervisor: &mut Supervisor) -> Result<Worker<Store>, Failure> {
    let (mut started, mut waiting, mut doubts) = (false, false, Doubts::default());
    loop {
        let made = {
            let mut made = pin!(worker(config, clock, &mut started));
            loop {
                tokio::select! {
                    biased;
                    made = &mut made => break made,
                    // A migration takes as long as the file is large, and what a crash left is settled before the first turn.
                    () = sleep(START_BEAT) => supervisor.starting(START_BEAT * 10),
                }
            }
        };
        // Each try opens the file anew.
        if let Some(doubt) = made.as_ref().err().and_then(Failure::doubt)
            && doubts.may_look_again(clock.elapsed())
        {
            waiting = true;
            tell_of_a_doubt(&doubt);
            sleep(START_RETRY).await;
            continue;
        }
        match made {
            Err(failure) if failure.is_temporary() => {
                if std::mem::replace(&mut waiting, true) {
                    debug!(event = event::DATABASE_UNAVAILABLE, error = %failure, "the database still cannot be used");
                } else {
                    let next = "trying again until it can";
                    warn!(event = event::DATABASE_UNAVAILABLE, error = %failure, "the database cannot be used; {next}");
                }
                // A try may take as long as two busy timeouts, one to open and one to recover.
                supervisor.waiting((config.store.busy_timeout + START_RETRY) * 4);
                sleep(START_RETRY).await;
            }
            done => {
                if waiting && done.is_ok() {
                    info!(event = event::DATABASE_AVAILABLE, "the database can be used again");
                }
                return done;
            }
        }
    }
}

/// What a person is told of a file that was opened, if there is news.
fn told(options: &sqlite::Options, opened: Opened) -> Option<String> {
    let path = options.path.display();
    match opened {
        Opened::Created => Some(format!("{path}: created")),
        Opened::Adopted => Some(format!(
            "{path}: up to date; by its tables it is a queue of sweeper's that was loaded from a dump, and it is marked as one again"
        )),
        Opened::Existing => None,
    }
}

fn check(config: Result<Config, ConfigError>) -> Result<ExitCode, Failure> {
    let list_of = |shown: &BTreeMap<String, String>| -> String {
        shown.iter().map(|(key, value)| format!("{key} = {}\n", printable::line(value))).collect()
    };
    let config = match config {
        Ok(config) => config,
        Err(error) => {
            if let ConfigError::Values { shown, .. } = &error {
                say(&list_of(shown))?;
            }
            return Err(error.into());
        }
    };
    let mut text = list_of(&config.shown);
    let policy = &config.worker.policy;
    let list = |delays: &[Duration]| delays.iter().map(|delay| durations::show(*delay)).collect::<Vec<_>>().join(", ");
    text.push_str(&format!("\nrequests go to {}\n", config.base_url));
    text.push_str(&format!(
        "a row that fails is tried {} times, with these delays between (each up to a quarter later): {}\n",
        policy.max_attempts,
        list(&policy.retry.schedule(policy.max_attempts)),
    ));
    text.push_str(&format!(
        "everything is held after {} faults in a row, for (each up to a quarter longer): {}, …\n",
        config.worker.after_faults,
        list(&config.hold_growth.schedule(5)),
    ));
    say(text.trim_end())?;
    let options = config.api()?;
    let key = options.key.clone();
    // Reads the key and the certificates.
    Api::new(options)?;
    for exposure in config.exposures() {
        let (path, mode, what, may) = (exposure.path.display(), exposure.mode, exposure.what, exposure.may());
        say(&format!("\n{what} {path} has mode {mode:04o}: {may}; chmod 600 {path} ends that"))?;
    }
    if key.read()?.is_short() && !config.is_on_loopback() {
        say("\nthe API key is short for one; what the API may send back of it is logged as it is")?;
    }
    if !config.unused_proxies.is_empty() {
        let variables = config.unused_proxies.join(", ");
        say(&format!("\n{variables}: the environment names a proxy, which is not used; api.proxy is off"))?;
    }
    if config.proxy.is_some() && config.base_url.scheme() == "http" {
        say("\napi.proxy is not used: an http:// base_url is on loopback, and is reached directly")?;
    }
    say("\nthe configuration can be used")?;
    Ok(ExitCode::SUCCESS)
}

async fn healthcheck(listen: Option<SocketAddr>) -> Result<ExitCode, Failure> {
    let Some(listen) = listen else { return Err(ConfigError::NoListener("off").into()) };
    if listen.port() == 0 {
        return Err(ConfigError::NoListener("on a port that the system chooses").into());
    }
    http::ask_livez(listen).await.map_err(|said| anyhow::anyhow!("no healthy daemon on {listen}: {said}"))?;
    say("alive")?;
    Ok(ExitCode::SUCCESS)
}

fn say(text: &str) -> Result<(), Failure> {
    writeln!(io::stdout(), "{}", printable::lines(text)).context("write to standard output").map_err(Failure::from)
}

/// What has been done: that cannot be undone, and has not failed because nobody hears of it.
fn report(text: &str) {
    if say(text).is_err() {
        warn_person(text);
    }
}

/// For whoever runs this by hand: what standard output is not for.
fn warn_person(text: &str) {
    // Nowhere is left to say it if standard error is closed.
    let _ = writeln!(io::stderr(), "{}", printable::lines(text));
}

/// Refuses to go on to a question that nobody can answer.
///
/// # Errors
/// If standard input is no terminal.
fn will_ask() -> Result<(), Failure> {
    if io::stdin().is_terminal() {
        return Ok(());
    }
    let said = "this asks before it writes, and standard input is no terminal: give --yes, or --dry-run to see what it would do";
    Err(Failure::Usage(said.to_owned()))
}

/// Asks; anything but a yes is a no.
///
/// # Errors
/// If there is nobody to be asked.
fn ask(question: &str) -> Result<bool, Failure> {
    let mut stderr = io::stderr();
    write!(stderr, "{question} [y/N] ").and_then(|()| stderr.flush()).context("ask")?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).context("read the answer")?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// A line on standard error that tells how far something has come, if that is a terminal.
struct Progress {
    is_on: bool,
    is_shown: bool,
}

impl Progress {
    fn new() -> Self {
        Self { is_on: io::stderr().is_terminal(), is_shown: false }
    }

    fn show(&mut self, text: impl Fn() -> String) {
        if self.is_on {
            self.is_shown = true;
            // Nowhere is left to say it if standard error is closed.
            let _ = write!(io::stderr(), "\r{}\u{1b}[K", printable::line(&text()));
        }
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.is_shown) {
            let _ = write!(io::stderr(), "\r\u{1b}[K");
        }
    }
}
