//! `sweeper run`: the daemon, from its start to its exit code.

mod progress;

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
};
use crate::{
    api::Api,
    config::Config,
    event,
    model::clock::Clock,
    pace::Pace,
    queue::sqlite::{self, Counter, Doubtful as _, OpenError, Opened, Store},
    watch::{
        health::Health,
        http::{Endpoint, Sources},
        metrics::Metrics,
        supervisor::Supervisor,
        telemetry::{self, Log, Width},
    },
    worker::{Doubts, Ended, Totals, Until, Worker, tell_of_a_doubt},
};
use progress::Progress;

/// Pause before a start tries a database again that could not be used.
const START_RETRY: Duration = Duration::from_secs(1);

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
            never = line.follow(config.sqlite()?, &metrics, &clock) => match never {},
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
) -> Result<(Ended, Totals), Failure> {
    let (clock, until) = (Clock::system(), end.until);
    let endpoint = config.listen.map(|address| listen(address, config, metrics, &clock)).transpose()?;
    // The endpoint answers until this function returns: also while the database is waited for, and while the daemon stops.
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
        // Dropping a start midway leaves the file as a crash would: the next start carries on from there.
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
    let (reload, reloads) = unbounded_channel();
    let worker = worker.supervised_by(supervisor).measured_by(metrics.clone()).reloaded_by(reloads);
    let mut worker = worker.sending_at_most(end.max_requests);
    let reloading = async {
        match reloader {
            Some(reloader) => reloader.serve(reload).await,
            None => pending().await,
        }
    };
    let ended = tokio::select! {
        biased;
        ended = worker.run(shutdown, until) => ended,
        never = reloading => match never {},
    };
    let totals = worker.totals();
    // Close after a failure, too: the WAL may hold commits that are not in the file yet, and somebody may remove it.
    if let Err(error) = worker.close().await {
        // Everything is committed, and the next process that opens the file finishes the clean-up.
        debug!(%error, "the database was not closed in good order");
    }
    Ok((ended?, totals))
}

/// Serves metrics and health on `address`, starting before the database is opened.
///
/// # Errors
/// If the address cannot be bound.
fn listen(
    address: SocketAddr,
    config: &Config,
    metrics: &Metrics,
    clock: &Clock,
) -> Result<(Endpoint, Health), Failure> {
    let health = Health::new(config.store.longest_wait());
    let sources = Sources {
        metrics: metrics.clone(),
        health: health.clone(),
        counter: Counter::new(config.sqlite()?.clone()),
        clock: clock.clone(),
    };
    let remedy = "give http.listen an address of this machine with a free port, or off";
    let endpoint = Endpoint::start(address, sources).map_err(|error| {
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

/// A [`worker`], as soon as the database can be used. A locked database and a full disk are waited for.
///
/// # Errors
/// If there is no API key, or the database cannot be used and waiting does not help.
async fn patient_worker(config: &Config, clock: &Clock, supervisor: &mut Supervisor) -> Result<Worker<Store>, Failure> {
    let (mut start, mut waiting, mut doubts) = (Start::default(), false, Doubts::default());
    loop {
        let made = {
            let mut made = pin!(worker(config, clock, &mut start));
            loop {
                tokio::select! {
                    biased;
                    made = &mut made => break made,
                    // A migration of a large file and the recovery after a crash can take minutes.
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
                    let next = "trying again every second until it can";
                    warn!(event = event::DATABASE_UNAVAILABLE, error = %failure, "the database cannot be used; {next}");
                }
                // A try may wait twice that long: to open the file, and to recover.
                supervisor.waiting((config.store.longest_wait() + START_RETRY) * 4);
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

/// One start of the daemon, which may take several tries.
#[derive(Default)]
struct Start {
    is_logged: bool,
}

impl Start {
    /// Logs once that the daemon has started, and what its operator should know.
    fn log(&mut self, config: &Config, opened: Opened) {
        if std::mem::replace(&mut self.is_logged, true) {
            return;
        }
        info!(
            event = event::STARTED,
            version = env!("CARGO_PKG_VERSION"),
            database = %config.store,
            created = opened == Opened::Created,
            adopted = opened == Opened::Adopted,
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
                variables, "the environment names a proxy, which is not used; api.proxy names the one to use"
            );
        }
    }
}

/// How long before its departure a request may be claimed. A commit takes a few milliseconds, and seldom more than this.
const LEAD: Duration = Duration::from_millis(20);

/// A worker on the queue, with a client for the API.
///
/// # Errors
/// If there is no API key, or the database cannot be used.
async fn worker(config: &Config, clock: &Clock, start: &mut Start) -> Result<Worker<Store>, Failure> {
    let api = Api::new(config.api()?)?.named(config.names.clone());
    let store = Store::open(config.sqlite()?.clone()).await?;
    start.log(config, store.opened());
    let mut pace = Pace::new(config.rate, config.hold_growth);
    pace.permits.lead_by(LEAD);
    let pace = if config.adaptive { pace.adaptive(config.worker.concurrency, clock.elapsed()) } else { pace };
    Ok(Worker::new(store, api, pace, config.worker, clock.clone(), rng()).await?)
}
