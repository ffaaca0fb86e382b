//! How much of a real gateway's limit the daemon uses without being told the limit, and how many answers are throttled.
//!
//! `cargo bench --bench gateways`: an hour and a half. It needs nginx and HAProxy (Debian's packages nginx-light and haproxy),
//! and skips the cases of the one that is not installed. These variables make it shorter:
//!
//! * `GATEWAYS_CASES="limit_conn 4,600 per"`: the cases whose names contain one of these, or whose set is `tuned`, `untuned`
//!   (the daemon's constants were chosen without these limits in view) or `changed`.
//! * `GATEWAYS_SECONDS=200`: the length of a run. Answers count from second 60 on. Limits below 2/s run for 600 s at
//!   least. A limit that changes does so at the end of this time, and its run goes on for 300 s more.
//! * `GATEWAYS_CEILINGS=2,10,50`: the daemon's ceilings, as multiples of the limit.
//! * `GATEWAYS_RUNS=3`: how often each ceiling is run. The tables have the worst figure.
//! * `GATEWAYS_KEEP=1`: the directories stay, which have the logs of the daemon and of the gateway, and the queue.
//!
//! Each case is a `sweeper run`, a gateway, and a `sweeper sandbox` behind the gateway that takes 60 ms for an answer. All
//! cases of a ceiling run side by side. The figures come from the gateway's own log of its answers, not from the daemon's.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on should stop where it is")]
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

#[path = "gateways/cases.rs"]
mod cases;
mod common;
#[path = "gateways/gateway.rs"]
mod gateway;
#[path = "gateways/outcome.rs"]
mod outcome;
#[path = "common/process.rs"]
#[expect(dead_code, reason = "the daemon keeps its limiter here, and never drains its queue")]
mod process;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use audio_cache_sweeper::{event::CONCURRENCY_CHANGED, model::clock::Clock};
use cases::{AFTER_CHANGE, Case, LATENCY, Set};
use common::{fill, machine};
use gateway::{Gateway, Program, log};
use outcome::{Outcome, SETTLED};
use process::{Killed, StandIn, daemon};
use serde_json::Value;
use sqlx::{Connection, SqliteConnection};
use tempfile::TempDir;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
    time::sleep,
};

const AGENTS: u32 = 5;
const LENGTH: Duration = Duration::from_secs(200);
/// Time for the daemon to start: a run's length counts from the first answer on.
const START: Duration = Duration::from_secs(1);
/// The daemon's log.
const LOG: &str = "sweeper.log";

fn main() -> ExitCode {
    let choice = Choice::from_environment();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // Dropping what runs kills its processes, whether it is done, interrupted, or has panicked.
    let done = runtime.block_on(async {
        tokio::select! {
            // Listens for signals before the first process starts.
            biased;
            () = interrupted() => false,
            () = measure(&choice) => true,
        }
    });
    if done { ExitCode::SUCCESS } else { ExitCode::from(130) }
}

async fn interrupted() {
    let [mut interrupt, mut terminate, mut hangup] =
        [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(|kind| signal(kind).unwrap());
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
}

/// What to measure.
#[derive(Debug)]
struct Choice {
    cases: Vec<Case>,
    /// `None`: each case has its own length.
    length: Option<Duration>,
    ceilings: Vec<f64>,
    runs: u32,
    keep: bool,
}

impl Choice {
    fn from_environment() -> Self {
        let list = |name, or: &str| -> Vec<String> {
            let text = env::var(name).unwrap_or_else(|_| or.to_owned());
            text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
        };
        let length = env::var("GATEWAYS_SECONDS").ok().map(|text| Duration::from_secs(text.parse().unwrap()));
        assert!(
            length.is_none_or(|length| length > SETTLED),
            "answers count from second 60 on: GATEWAYS_SECONDS is too low"
        );
        let cases = Case::chosen(&list("GATEWAYS_CASES", ""));
        assert!(!cases.is_empty(), "GATEWAYS_CASES names no case");
        let (cases, missing): (Vec<_>, Vec<_>) =
            cases.into_iter().partition(|case| case.limit.program().find().is_some());
        say_skipped(&missing);
        Self {
            cases,
            length,
            ceilings: list("GATEWAYS_CEILINGS", "2,10,50").iter().map(|text| text.parse().unwrap()).collect(),
            runs: env::var("GATEWAYS_RUNS").map_or(3, |text| text.parse().unwrap()),
            keep: env::var_os("GATEWAYS_KEEP").is_some(),
        }
    }

    fn length(&self, case: &Case) -> Duration {
        case.length(self.length.unwrap_or(LENGTH))
    }
}

fn say_skipped(cases: &[Case]) {
    for case in cases {
        let program = case.limit.program();
        println!("SKIPPED: {}: {program} is not installed (Debian's package {})", case.name, program.package());
    }
}

async fn measure(choice: &Choice) {
    println!("machine: {}", machine());
    let programs = [Program::Nginx, Program::HaProxy].into_iter();
    let programs = programs.filter(|program| choice.cases.iter().any(|case| case.limit.program() == *program));
    println!(
        "{}; cases side by side: {}; {} ms for an answer; runs: {}, the worst counts; answers count from second {} on",
        programs.map(Program::version).collect::<Vec<_>>().join(", "),
        choice.cases.len(),
        LATENCY.as_millis(),
        choice.runs,
        SETTLED.as_secs()
    );
    let mut worst: Vec<Vec<Outcome>> = vec![Vec::new(); choice.cases.len()];
    for (column, ceiling) in choice.ceilings.iter().enumerate() {
        for run in 1..=choice.runs {
            println!("\nceiling {ceiling} times the limit, run {run}:");
            let outcomes = side_by_side(choice, *ceiling).await;
            for (row, outcome) in worst.iter_mut().zip(outcomes) {
                match row.get_mut(column) {
                    Some(worst) => *worst = worst.or_worse(outcome),
                    None => row.push(outcome),
                }
            }
            let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
            println!("  load average at the end: {}", load.split(' ').next().unwrap_or("unknown"));
        }
    }
    print_tables(choice, &worst);
}

/// Runs all cases at the same time, each with its limit times `ceiling` as its ceiling. The outcomes have the cases' order.
async fn side_by_side(choice: &Choice, ceiling: f64) -> Vec<Outcome> {
    let mut ready = Vec::new();
    for case in &choice.cases {
        ready.push(Ready::new(case.clone(), ceiling, choice).await);
    }
    let mut running = JoinSet::new();
    for (place, ready) in ready.into_iter().enumerate() {
        running.spawn(async move { (place, ready.run().await) });
    }
    let mut outcomes = Vec::new();
    while let Some(ended) = running.join_next().await {
        outcomes.push(ended.unwrap());
    }
    outcomes.sort_unstable_by_key(|(place, _)| *place);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

/// A case with a filled queue, before its daemon starts. The processes end, and then the files go, when this is dropped.
#[derive(Debug)]
struct Ready {
    case: Case,
    ceiling: f64,
    length: Duration,
    keep: bool,
    gateway: Gateway,
    _stand_in: StandIn,
    dir: TempDir,
}

impl Ready {
    async fn new(case: Case, ceiling: f64, choice: &Choice) -> Self {
        let mut dir = tempfile::tempdir().unwrap();
        dir.disable_cleanup(choice.keep);
        let length = choice.length(&case);
        fill(&database(&dir), case.rows(length), AGENTS).await;
        let stand_in = StandIn::start(&["--key", "k", "--latency", &format!("{}ms", LATENCY.as_millis())]);
        let gateway = Gateway::start(&case.limit, stand_in.url.trim_start_matches("http://"), dir.path()).await;
        Self { case, ceiling, length, keep: choice.keep, gateway, _stand_in: stand_in, dir }
    }

    async fn run(self) -> Outcome {
        let (case, dir) = (&self.case, self.dir.path());
        let (ceiling, concurrency) = ((case.allowed * self.ceiling).to_string(), case.concurrency.to_string());
        let settings =
            [("RATE_LIMIT__REQUESTS_PER_SECOND", ceiling.as_str()), ("DELIVERY__CONCURRENCY", concurrency.as_str())];
        let database = database(&self.dir);
        let mut daemon = daemon(&database, &self.gateway.url(), &settings);
        let mut daemon = Killed(daemon.stdout(log(dir, LOG)).stderr(log(dir, "sweeper.err")).spawn().unwrap());
        sleep(self.length + START).await;
        let mut changed = None;
        if let Some((limit, _)) = &case.change {
            self.gateway.change(limit);
            changed = Some(Clock::system().now().0);
            sleep(AFTER_CHANGE).await;
        }
        let log_of = || fs::read_to_string(dir.join(LOG)).unwrap();
        let last = || log_of().lines().last().map(str::to_owned);
        assert_eq!(daemon.0.try_wait().unwrap(), None, "{}: the daemon has ended: {:?}", case.name, last());
        drop(daemon);
        assert!(has_work(&database).await, "{}: the daemon ran dry", case.name);
        let named = names_concurrency(&log_of());
        let outcome = Outcome::of(case, &self.gateway.answers(), self.length, changed, named);
        println!(
            "  {:NAME$}  {}, throttled {}; second 20 to 60: {}{}",
            case.name,
            rate(case, outcome.goodput),
            throttled(&outcome),
            rate(case, outcome.early),
            if outcome.odd > 0 { format!("; other statuses: {}", outcome.odd) } else { String::new() },
        );
        if self.keep {
            println!("    logs: {}", dir.display());
        }
        outcome
    }
}

fn database(dir: &TempDir) -> PathBuf {
    dir.path().join("queue.db")
}

/// Whether rows are left, so that the daemon never had to wait for some.
async fn has_work(database: &Path) -> bool {
    let mut conn = SqliteConnection::connect(database.to_str().unwrap()).await.unwrap();
    let exists = "SELECT EXISTS (SELECT 1 FROM deletions WHERE state = 'pending')";
    sqlx::query_scalar(exists).fetch_one(&mut conn).await.unwrap()
}

/// Whether a daemon's log says that throttled answers are a matter of concurrency.
fn names_concurrency(log: &str) -> bool {
    let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.any(|line| line["event"] == CONCURRENCY_CHANGED && line["why"] == "throttled")
}

/// The width of a case's name.
const NAME: usize = 50;

fn print_tables(choice: &Choice, worst: &[Vec<Outcome>]) {
    let table = |title: &str, is_in: &dyn Fn(&Case) -> bool, cell: &dyn Fn(&Case, &Outcome) -> String| {
        let rows: Vec<_> = choice.cases.iter().zip(worst).filter(|(case, _)| is_in(case)).collect();
        if rows.is_empty() {
            return;
        }
        print!("\n{title:NAME$}");
        choice.ceilings.iter().for_each(|ceiling| print!("  {:>30}", format!("ceiling {ceiling} times")));
        println!();
        for (case, outcomes) in rows {
            print!("{:NAME$}", case.name);
            outcomes.iter().for_each(|outcome| print!("  {:>30}", cell(case, outcome)));
            println!();
        }
    };
    let both = |case: &Case, outcome: &Outcome| format!("{}  {:>14}", rate(case, outcome.goodput), throttled(outcome));
    for set in [Set::Tuned, Set::Untuned, Set::Changed] {
        table(&format!("{}: goodput, throttled", set.name()), &|case| case.set == set, &both);
    }
    table("seconds until the change is taken in", &|case| case.change.is_some(), &|_, outcome| {
        if outcome.taken_in.is_finite() { format!("{} s", outcome.taken_in) } else { "never".to_owned() }
    });
    table("the log says that it is concurrency", &|case| case.is_concurrency, &|_, outcome| {
        if outcome.named { "yes" } else { "no" }.to_owned()
    });
}

/// A goodput as a share of the rate that gets through. For a limit on concurrency, also in requests per second.
fn rate(case: &Case, rate: f64) -> String {
    let share = format!("{:5.1} %", 100.0 * rate / case.allowed);
    if case.is_concurrency { format!("{rate:.1}/s {share}") } else { share }
}

fn throttled(outcome: &Outcome) -> String {
    let (count, share) = outcome.throttled;
    format!("{:.2} % ({count})", 100.0 * share)
}
