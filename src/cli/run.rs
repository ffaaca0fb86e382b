//! `sweeper run`: the daemon, from its start to its exit code.

mod alone;
mod progress;
mod relay;
mod shutdown;
mod standby;
mod start;

use std::{
    future::{Future, pending},
    io::{self, IsTerminal as _},
    net::SocketAddr,
    pin::pin,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use clap::Args;
use tokio::{sync::mpsc::unbounded_channel, time::sleep};
use tracing::{Level, debug, error, info, warn};
use tracing_subscriber::EnvFilter;

use super::{
    Failure,
    arguments::duration,
    reload::{Layers, Reloader},
    rng,
    signals::{Signal, daemon},
    terminal::{outputs_are_one, report},
    version,
};
use crate::{
    api::Api,
    config::{Config, ConfigError, TokenSource},
    event,
    model::clock::Clock,
    pace::Pace,
    queue::{
        Queue,
        either::Options,
        postgres,
        sqlite::{self, OpenError},
    },
    watch::{
        health::Health,
        http::{Endpoint, Sources},
        metrics::Metrics,
        page,
        supervisor::Supervisor,
        telemetry::{self, Log, Width},
    },
    worker::{Ended, Totals, Until, Worker},
};
use progress::Progress;
use relay::Relay;
use shutdown::Shutdown;
use start::Start;

/// Pause before a start tries a database again that could not be used.
pub(super) const START_RETRY: Duration = Duration::from_secs(1);

/// Interval between two messages to the service manager during a long start.
const START_BEAT: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
Examples:
  SWEEPER__API__KEY_FILE=/run/secrets/polyai sweeper run --config ./sweeper.toml
  sweeper run --until-empty --give-up-after 10m
  sweeper run --max-requests 3

Exit codes: 0 ended as told, or empty; 1 runtime failure; 2 usage or configuration; 3 database unusable; 4 --until-empty left
dead rows, or a request of --max-requests made a row dead; 5 --give-up-after gave up.";

/// When the daemon ends by itself.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RunArgs {
    /// End when no row is open any more. Retries and holds are waited for, and an outage keeps rows open as long as it
    /// lasts. On a terminal, one line shows how far it is, in place of log lines of level info; warnings and errors appear
    /// above that line. With log.format = json, or a log.filter that asks for more than info, it shows the log lines.
    #[arg(long)]
    until_empty: bool,
    /// With --until-empty: end with exit code 5 when no row has reached an end for this long (such as 10m).
    #[arg(long, value_name = "DURATION", requires = "until_empty", value_parser = duration)]
    give_up_after: Option<Duration>,
    /// Send at most N requests (probes and single-entry DELETEs count), and end when all of them are answered or lost: a
    /// trial before the whole queue goes out. If fewer rows are due, it waits for more, unless --until-empty is given, too.
    #[arg(long, value_name = "N", value_parser = requests, allow_negative_numbers = true)]
    max_requests: Option<usize>,
}

fn requests(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => {
            Err("must be 1 or more; to send nothing, use `sweeper plan`, which shows what would go out".to_owned())
        }
        Ok(requests) => Ok(requests),
        Err(_) => Err("must be a number of requests, 1 or more".to_owned()),
    }
}

/// When the daemon's work ends, beside being told to stop.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) until: Until,
    /// The most requests that are sent. `None`: no limit.
    pub(super) max_requests: Option<usize>,
}

impl RunArgs {
    fn end(&self) -> End {
        let until = match self {
            Self { until_empty: true, give_up_after, .. } => Until::Empty { give_up_after: *give_up_after },
            Self { until_empty: false, .. } => Until::Told,
        };
        End { until, max_requests: self.max_requests }
    }

    fn exit_code(&self, ended: Ended, totals: &Totals) -> u8 {
        match ended {
            Ended::Empty if totals.dead > 0 => 4,
            Ended::GaveUp => 5,
            Ended::Told | Ended::Empty | Ended::MaxRequests => {
                if self.max_requests.is_some() && totals.dead_by_request > 0 { 4 } else { 0 }
            }
        }
    }
}

/// Runs the daemon until it is told to stop, or until the queue is empty. `config` was read from `layers`, from which SIGHUP
/// reads it again.
///
/// # Errors
/// If there is no API key, http.listen is taken, or the database cannot be used.
pub(super) async fn run(
    config: &Config,
    args: &RunArgs,
    supervisor: Supervisor,
    layers: Layers,
) -> Result<ExitCode, Failure> {
    // `Config::load` has tried the filter already.
    let filter = EnvFilter::new(&config.log_filter);
    let line = if progress::is_wanted(args, config, &filter) { Progress::start().ok() } else { None };
    let log = match &line {
        Some(line) => {
            let output = line.above(telemetry::output());
            telemetry::init_to(output, config.log_format, progress::without_info(filter), Width::Terminal)
        }
        None => telemetry::init(config.log_format, filter, Width::Terminal),
    };
    let log = log.context("start the log")?;
    let clock = Clock::system();
    let (metrics, begun) = (Metrics::new(clock.now()), clock.elapsed());
    let (hangup, hangups) = unbounded_channel();
    // A terminal that is closed sends SIGHUP, too.
    let reload = (!io::stdout().is_terminal()).then_some(hangup);
    let shutdown = daemon(reload, last_words(metrics.clone(), log.clone()))?;
    let reloader = Reloader::new(config, layers, log.clone(), hangups);
    let work = work(config, args.end(), &metrics, shutdown, supervisor, Some(reloader));
    let done = match &line {
        None => work.await,
        Some(line) => tokio::select! {
            done = work => done,
            never = line.follow(&config.store, &metrics, &clock) => match never {},
        },
    };
    let is_followed = line.is_some();
    drop(line);
    let (ended, totals) = match done {
        Ok(done) => done,
        Err(failure) => {
            let failure = failure.naming(Some(&config.database_origin()));
            error!(event = event::STOPPED, exit_code = failure.exit_code(), error = %failure, "stopped");
            log.flush();
            let is_said = tracing::enabled!(Level::ERROR) && outputs_are_one();
            return if is_said { Ok(ExitCode::from(failure.exit_code())) } else { Err(failure) };
        }
    };
    let code = args.exit_code(ended, &totals);
    let Totals { requests, deleted, absent, retried, released, dead, .. } = totals;
    info!(event = event::STOPPED, exit_code = code, requests, deleted, absent, retried, released, dead, "stopped");
    if is_followed {
        log.flush();
        report(&progress::summary(ended, &totals, clock.elapsed().saturating_sub(begun)));
    }
    Ok(ExitCode::from(code))
}

/// Logs, before a second signal ends the process, how many requests the next start has to settle.
fn last_words(metrics: Metrics, log: Log) -> impl FnOnce(Signal) + Send + 'static {
    move |signal| {
        warn!(
            event = event::STOPPED_AT_ONCE,
            signal = signal.name(),
            exit_code = 1,
            requests = metrics.unsettled(),
            "a second signal ends the daemon at once; the next start settles the requests without a written answer as lost"
        );
        log.flush();
    }
}

/// What the start of a worker and its run need.
pub(super) struct Job<'c> {
    pub(super) config: &'c Config,
    pub(super) end: End,
    pub(super) metrics: &'c Metrics,
    pub(super) clock: Clock,
    pub(super) supervisor: Supervisor,
    start: Start,
}

/// How a run has ended, and what was done in it.
type Done = Result<(Ended, Totals), Failure>;

/// Works on the queue until `shutdown` completes or `end` is reached.
///
/// # Errors
/// As [`run`].
pub(super) async fn work(
    config: &Config,
    end: End,
    metrics: &Metrics,
    shutdown: impl Future<Output = ()>,
    supervisor: Supervisor,
    reloader: Option<Reloader>,
) -> Done {
    let clock = Clock::system();
    let endpoint = config.http.listen.map(|address| listen(address, config, metrics, &clock)).transpose()?;
    // The endpoint answers until this function returns: also while the database is waited for, and while the daemon stops.
    let (_endpoint, supervisor) = match endpoint {
        Some((endpoint, health)) => (Some(endpoint), supervisor.telling(health)),
        None => (None, supervisor),
    };
    let mut job = Job { config, end, metrics, clock, supervisor, start: Start::default() };
    let mut shutdown = pin!(Shutdown::new(shutdown));
    let (reload, reloads) = unbounded_channel();
    let mut relay = Relay::new(reloads);
    let reloading = async {
        match reloader {
            Some(reloader) => reloader.serve(reload).await,
            None => pending().await,
        }
    };
    let working = async {
        match &config.store {
            Options::Sqlite(options) => alone::work(options, &mut job, shutdown.as_mut(), &mut relay).await,
            Options::Postgres(options) => standby::work(options, &mut job, shutdown.as_mut(), &mut relay).await,
        }
    };
    tokio::select! {
        biased;
        done = working => done,
        never = reloading => match never {},
    }
}

impl Job<'_> {
    /// Runs a worker that has been made, until its end, and closes its queue.
    async fn run<Q: Queue>(
        &self,
        worker: Worker<Q>,
        shutdown: impl Future<Output = ()>,
        relay: &mut Relay,
    ) -> (Result<Ended, Q::Error>, Totals) {
        let (reload, reloads) = unbounded_channel();
        let worker =
            worker.supervised_by(self.supervisor.clone()).measured_by(self.metrics.clone()).reloaded_by(reloads);
        let mut worker = worker.sending_at_most(self.end.max_requests);
        self.metrics.leads(Some(worker.lease()));
        let ended = tokio::select! {
            biased;
            ended = worker.run(shutdown, self.end.until) => ended,
            never = relay.forward(&reload) => match never {},
        };
        self.metrics.leads(None);
        let totals = worker.totals();
        // Close after a failure, too: the WAL may hold commits that are not in the file yet, and somebody may remove it.
        if let Err(error) = worker.close().await {
            // Everything is committed, and the next process that opens the file finishes the clean-up.
            debug!(%error, "the database was not closed in good order");
        }
        (ended, totals)
    }

    /// A client for the API. It is made before the queue is opened: without a key there is nothing to do.
    ///
    /// # Errors
    /// If there is no key, or none that can be used.
    fn api(&self) -> Result<Api, Failure> {
        Ok(Api::new(self.config.api()?)?.named(self.config.names.clone()))
    }

    /// A worker on an opened queue.
    ///
    /// # Errors
    /// If the database cannot be used.
    async fn worker<Q: Queue>(&self, queue: Q, api: Api) -> Result<Worker<Q>, Failure>
    where
        Failure: From<Q::Error>,
    {
        let config = self.config;
        let mut pace = Pace::new(config.rate, config.hold_growth);
        pace.permits.lead_by(LEAD);
        let begun = self.clock.elapsed();
        let pace = if config.adaptive { pace.adaptive(config.worker.concurrency, begun) } else { pace };
        Ok(Worker::new(queue, api, pace, config.worker, self.clock.clone(), rng()).await?)
    }

    /// Does a part of the start, and tells the service manager meanwhile that it takes time: a migration of large tables and the recovery
    /// after a crash can take minutes.
    async fn starting<T>(&mut self, part: impl AsyncFnOnce(&mut Self) -> T) -> T {
        let mut supervisor = self.supervisor.clone();
        let mut part = pin!(part(self));
        loop {
            tokio::select! {
                biased;
                done = &mut part => return done,
                () = sleep(START_BEAT) => supervisor.starting(START_BEAT * 10),
            }
        }
    }

    /// The end of a run that was told to stop before its worker was made, or gave up.
    fn stopped_early(&mut self, ended: Ended) -> (Ended, Totals) {
        info!(event = event::STOPPING, why = ended.as_str(), in_flight = 0, "stopping");
        self.supervisor.stopping();
        (ended, Totals::default())
    }
}

/// Completes when a run until the queue is empty has waited for its start for as long as it may.
async fn give_up(until: Until) {
    match until {
        Until::Empty { give_up_after: Some(after) } => sleep(after).await,
        Until::Empty { give_up_after: None } | Until::Told => pending().await,
    }
}

/// Serves metrics, health and the page on `address`, starting before the database is opened.
///
/// # Errors
/// If the address cannot be bound, or the token of the page cannot be read.
fn listen(
    address: SocketAddr,
    config: &Config,
    metrics: &Metrics,
    clock: &Clock,
) -> Result<(Endpoint, Health), Failure> {
    let health = Health::new(config.store.longest_wait());
    let token = config.http.token.as_ref().map(TokenSource::read).transpose().map_err(ConfigError::Token)?;
    let (queue, hosts, names) = (config.store.clone(), config.http.hosts.clone(), config.names.clone());
    let page = page::Settings { queue, hosts, token, names, version: version::SHORT };
    let (metrics, clock) = (metrics.clone(), clock.clone());
    let started = match &config.store {
        Options::Sqlite(options) => {
            let counter = sqlite::Counter::new(options.clone());
            Endpoint::start(address, Sources { metrics, health: health.clone(), counter, clock }, page)
        }
        Options::Postgres(options) => {
            let counter = postgres::Counter::new(options.clone());
            Endpoint::start(address, Sources { metrics, health: health.clone(), counter, clock }, page)
        }
    };
    let remedy = "give http.listen an address of this machine with a free port, or off";
    let endpoint = started.map_err(|error| {
        // Another daemon on the same database has the port, too: the database is the more useful thing to name.
        let holder = config.sqlite().ok().and_then(|file| Some((file.path.clone(), sqlite::holder(&file.path).ok()??)));
        match holder {
            Some((path, pid)) => Failure::from(OpenError::Taken { path, pid }),
            None => anyhow!("http.listen = \"{address}\": cannot listen: {error}; {remedy}").into(),
        }
    })?;
    info!(event = event::LISTENING, address = %endpoint.address(), "serving metrics and health");
    Ok((endpoint, health))
}

/// How long before its departure a request may be claimed. A commit takes a few milliseconds, and seldom more than this.
const LEAD: Duration = Duration::from_millis(20);
