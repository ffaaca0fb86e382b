//! How fast a queue is emptied: by the daemon, by what one would otherwise write, and by its parts alone.
//!
//! `cargo bench --bench drain`; with a million rows: `DRAIN_ROWS=1000000 cargo bench --bench drain`. `DRAIN_ROUNDS` is how
//! often each is measured (3), in turns, so that what else the machine does meets all of them; the table has medians.
//!
//! * *sweeper*: `sweeper run --until-empty` in a process of its own, from its start to its end, with a log line per request.
//! * *worker*: the same in this process, from the first turn to the last deletion, without a log.
//! * *SQLite alone*: the worker's statements in transactions of its size, with answers made up at once. What its steps take
//!   is wall time, with the hand-over between our thread and SQLite's, and with what the disk takes for a commit.
//! * *HTTP alone*: the worker's requests, 64 in flight, without a database.
//! * The peers' files say what they do, and what they leave out.
//!
//! All of them talk to a `sweeper sandbox` in a process of its own, which answers at once and shares the cores: with a real
//! API, `rate_limit` and the network decide, and none of these differences can be seen. What the peers do not do (claims,
//! history, retries, a rate) is not in any figure.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on should stop where it is")]
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

mod common;
#[path = "peers/mod.rs"]
mod peers;
#[path = "common/process.rs"]
mod process;
#[path = "common/worker.rs"]
mod real;
#[path = "common/turns.rs"]
mod turns;

use std::{
    env,
    fs::{self, File},
    path::Path,
    process::Command,
    sync::Arc,
};

use audio_cache_sweeper::{
    api::Transport as _,
    model::{
        clock::Clock,
        deletion::{AgentId, Batch, Deletion, DeletionId, EntryId, Lane},
    },
    queue::{Queue as _, sqlite::Store},
    worker::EVENT_INTERVAL,
};
use common::{fill, machine, options};
use peers::{Peers, text};
use process::{StandIn, sweeper, watch};
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};
use tokio::task::JoinSet;
use turns::{STEPS, Turns};
use uuid::Uuid;

const AGENTS: [u32; 2] = [1, 1_000];
const CONCURRENCY: usize = 64;

/// How apalis-sqlite is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Apalis {
    ids_per_job: u32,
    fetch: u32,
    tuning: &'static str,
}

/// Who empties the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Sweeper,
    Worker,
    SqliteAlone,
    HttpAlone,
    Asyncio,
    Plain { how: &'static str },
    Apalis(Apalis),
}

/// What one run came to.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    seconds: f64,
    requests: u64,
    peak_kib: Option<u64>,
    /// Bytes: the largest write-ahead log, and by how much the file has grown.
    disk: Option<(u64, u64)>,
    /// Seconds of each of [`STEPS`].
    steps: Option<[f64; STEPS.len()]>,
}

struct Entrant {
    who: Who,
    agents: u32,
    rows: u32,
    /// How many times as fast the sweeper should be.
    aim: Option<f64>,
    runs: Vec<Run>,
}

impl Entrant {
    fn name(&self) -> String {
        match self.who {
            Who::Sweeper => "sweeper".to_owned(),
            Who::Worker => "worker".to_owned(),
            Who::SqliteAlone => "SQLite alone".to_owned(),
            Who::HttpAlone => "HTTP alone".to_owned(),
            Who::Asyncio => "asyncio, aiohttp".to_owned(),
            Who::Plain { how } => format!("requests ({how}), sqlite3"),
            Who::Apalis(Apalis { ids_per_job, fetch, tuning }) => {
                format!("apalis, {ids_per_job} a job, fetch {fetch}, {tuning}")
            }
        }
    }

    /// IDs per second, the slowest first.
    fn speeds(&self) -> Vec<f64> {
        let mut speeds: Vec<f64> = self.runs.iter().map(|run| f64::from(self.rows) / run.seconds).collect();
        speeds.sort_by(f64::total_cmp);
        speeds
    }

    fn median(&self) -> Option<f64> {
        let speeds = self.speeds();
        speeds.get(speeds.len() / 2).copied()
    }
}

fn main() {
    // As the daemon's.
    let runtime =
        tokio::runtime::Builder::new_current_thread().event_interval(EVENT_INTERVAL).enable_all().build().unwrap();
    let number = |name, or| env::var(name).map_or(or, |text| text.parse().unwrap());
    let (rows, rounds) = (number("DRAIN_ROWS", 100_000), number("DRAIN_ROUNDS", 3));
    let peers = Peers::ready();
    println!("machine: {}", machine());
    let sqlite = runtime.block_on(async {
        let mut conn = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        sqlx::query_scalar::<_, String>("SELECT sqlite_version()").fetch_one(&mut conn).await.unwrap()
    });
    println!("SQLite {sqlite} (sweeper); {}", peers.versions().join("; "));
    for (peer, why) in [("asyncio and requests", peers.python.as_ref().err()), ("apalis", peers.apalis.as_ref().err())]
    {
        if let Some(why) = why {
            println!("SKIPPED: {peer}, because they could not be made ready: {why}");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let mut entrants = entrants(rows, &peers);
    runtime.block_on(async {
        for round in 0..rounds {
            // How many requests a turn of the worker settles, on average.
            let mut turns = [CONCURRENCY; AGENTS.len()];
            for entrant in &mut entrants {
                let turn = &mut turns[AGENTS.iter().position(|agents| *agents == entrant.agents).unwrap()];
                let run = run(entrant, turn, dir.path(), &peers).await;
                entrant.runs.push(run);
            }
            println!("round {} of {rounds}; a turn settled {turns:?} requests with {AGENTS:?} agents", round + 1);
        }
    });
    for agents in AGENTS {
        report(agents, entrants.iter().filter(|entrant| entrant.agents == agents).collect());
    }
    runtime.block_on(minimal(dir.path()));
}

fn entrants(rows: u32, peers: &Peers) -> Vec<Entrant> {
    let apalis = |ids_per_job, fetch, tuning| Who::Apalis(Apalis { ids_per_job, fetch, tuning });
    let [one, many] = AGENTS;
    let few = |most| rows.min(most);
    [
        (Who::Sweeper, one, rows, None),
        (Who::Sweeper, many, rows, None),
        (Who::Worker, one, rows, None),
        (Who::Worker, many, rows, None),
        (Who::SqliteAlone, one, rows, None),
        (Who::SqliteAlone, many, rows, None),
        (Who::HttpAlone, one, rows, None),
        (Who::HttpAlone, many, rows, None),
        (Who::Asyncio, one, rows, Some(2.5)),
        (Who::Asyncio, many, rows, Some(4.0)),
        (Who::Plain { how: "post" }, one, few(10_000), Some(40.0)),
        (Who::Plain { how: "session" }, one, few(10_000), None),
        (apalis(20, 200, "tuned"), one, rows, Some(1.2)),
        (apalis(20, 200, "tuned"), many, rows, Some(1.2)),
        (apalis(20, 200, "durable"), one, rows, Some(1.2)),
        (apalis(20, 10, "tuned"), one, rows, Some(1.2)),
        (apalis(20, 200, "documented"), one, few(50_000), None),
        (apalis(1, 200, "tuned"), one, few(20_000), Some(20.0)),
    ]
    .into_iter()
    .filter(|(who, ..)| match who {
        Who::Asyncio | Who::Plain { .. } => peers.python.is_ok(),
        Who::Apalis(_) => peers.apalis.is_ok(),
        Who::Sweeper | Who::Worker | Who::SqliteAlone | Who::HttpAlone => true,
    })
    .map(|(who, agents, rows, aim)| Entrant { who, agents, rows, aim, runs: Vec::new() })
    .collect()
}

/// One run on a queue of its own, with a stand-in of its own: it remembers what it has deleted.
async fn run(entrant: &Entrant, turn: &mut usize, dir: &Path, peers: &Peers) -> Run {
    let &Entrant { who, agents, rows, .. } = entrant;
    let kind = if matches!(who, Who::Asyncio | Who::Plain { .. }) { "simple" } else { "queue" };
    let (template, database) = (dir.join(format!("{kind}-{rows}-{agents}.db")), dir.join("work.db"));
    if !template.exists() && kind == "simple" {
        fill_simply(&template, rows, agents).await;
    } else if !template.exists() {
        fill(&template, rows, agents).await;
    }
    if !matches!(who, Who::Apalis(_)) {
        fs::copy(&template, &database).unwrap();
        File::open(&database).unwrap().sync_all().unwrap();
    }
    let stand_in = StandIn::start(&[]);
    let run = match who {
        Who::Sweeper => {
            let before = fs::metadata(&database).unwrap().len();
            let seen = watch(sweeper(&database, &stand_in.url, &["--until-empty"], &[]), &database);
            let grown = fs::metadata(&database).unwrap().len() - before;
            let (requests, _) = verify(&database).await;
            let (peak_kib, disk) = (Some(seen.peak_kib), Some((seen.wal, grown)));
            Run { seconds: seen.took.as_secs_f64(), requests, peak_kib, disk, ..Run::default() }
        }
        Who::Worker => {
            let (seconds, settled) = work(&database, &stand_in.url, rows, CONCURRENCY).await;
            *turn = settled;
            Run { seconds, requests: verify(&database).await.0, ..Run::default() }
        }
        Who::SqliteAlone => {
            let Turns { seconds, steps, .. } = sqlite_alone(&database, *turn).await;
            Run { seconds, requests: verify(&database).await.0, steps: Some(steps), ..Run::default() }
        }
        Who::HttpAlone => http_alone(&stand_in.url, rows, agents).await,
        Who::Asyncio => script(peers, "asyncio_drain.py", &[], &stand_in.url, &database),
        Who::Plain { how } => script(peers, "plain_drain.py", &[how], &stand_in.url, &database),
        Who::Apalis(Apalis { ids_per_job, fetch, tuning }) => {
            let numbers = [rows, agents, ids_per_job, fetch].map(|number| number.to_string());
            let mut command = Command::new(peers.apalis.as_ref().unwrap());
            said(command.arg(&stand_in.url).arg(&database).args(numbers).arg(tuning))
        }
    };
    for ending in ["db", "db-wal", "db-shm", "db.lock"] {
        // Not everybody leaves all of them.
        let _ = fs::remove_file(database.with_extension(ending));
    }
    run
}

/// The peers' table.
async fn fill_simply(path: &Path, rows: u32, agents: u32) {
    let mut conn = SqliteConnection::connect(&format!("{}?mode=rwc", path.display())).await.unwrap();
    let sql = format!(
        "PRAGMA journal_mode = WAL;
         CREATE TABLE deletions (
            id INTEGER PRIMARY KEY, agent_id TEXT NOT NULL, entry_id TEXT NOT NULL, done INTEGER NOT NULL DEFAULT 0);
         WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {rows})
         INSERT INTO deletions (agent_id, entry_id) SELECT 'PROJECT-' || (i % {agents}), 1000000 + i FROM n;"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
}

/// Holds that all is done and written down; returns how many requests that took, and the fewest it could have taken.
async fn verify(database: &Path) -> (u64, u64) {
    let mut conn = SqliteConnection::connect(database.to_str().unwrap()).await.unwrap();
    let intact: String = sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&mut conn).await.unwrap();
    assert_eq!(intact, "ok");
    let (rows, deleted, told): (i64, i64, i64) = sqlx::query_as(
        "SELECT count(*), coalesce(sum(state = 'deleted'), 0), (SELECT count(*) FROM outcomes WHERE verdict = 'deleted')
         FROM deletions",
    )
    .fetch_one(&mut conn)
    .await
    .unwrap();
    assert_eq!((rows, rows), (deleted, told));
    let (requests, answered, fewest): (i64, i64, i64) = sqlx::query_as(
        "SELECT count(*), count(answered_at),
            (SELECT sum((n + 19) / 20) FROM (SELECT count(*) AS n FROM deletions GROUP BY agent_id))
         FROM requests",
    )
    .fetch_one(&mut conn)
    .await
    .unwrap();
    assert_eq!((requests, requests), (answered, fewest), "requests, answers, and the fewest that could do");
    (u64::try_from(requests).unwrap(), u64::try_from(fewest).unwrap())
}

/// The real worker, here; returns the seconds, and how many requests a turn settled on average.
async fn work(database: &Path, url: &str, rows: u32, concurrency: usize) -> (f64, usize) {
    let store = Store::open(options(database)).await.unwrap();
    let clock = Clock::system();
    let mut worker = real::worker(store, url, concurrency).await;
    let (mut turns, mut settled) = (0, 0);
    while worker.totals().deleted < u64::from(rows) {
        let turn = worker.turn().await.unwrap();
        turns += usize::from(turn.settled > 0);
        settled += turn.settled;
        worker.wait_for_a_call().await;
    }
    let seconds = clock.elapsed().as_secs_f64();
    worker.close().await.unwrap();
    (seconds, (settled / turns).max(1))
}

/// What the worker asks of SQLite, `turn` requests settled and as many claimed in each transaction.
async fn sqlite_alone(database: &Path, turn: usize) -> Turns {
    let mut store = Store::open(options(database)).await.unwrap();
    let taken = turns::drain(&mut store, turn, CONCURRENCY).await;
    store.close().await.unwrap();
    taken
}

/// The worker's requests, and nothing else.
async fn http_alone(url: &str, rows: u32, agents: u32) -> Run {
    let mut batches = Vec::new();
    for agent in 0..agents {
        let name = AgentId::parse(&format!("PROJECT-{agent}")).unwrap();
        let lane = Lane { priority: 0, agent: name, batch_max: 20 };
        let rows: Vec<Deletion> = (agent..rows)
            .step_by(agents as usize)
            .map(|i| {
                let (id, entry) = (DeletionId(i64::from(i)), EntryId::parse(&(1_000_000 + i).to_string()).unwrap());
                Deletion::new(id, entry)
            })
            .collect();
        batches.extend(rows.chunks(20).map(|rows| Batch::new(lane.clone(), rows.to_vec()).unwrap()));
    }
    let requests = batches.len() as u64;
    let (api, clock) = (Arc::new(real::api(url)), Clock::system());
    let mut batches = batches.into_iter();
    let mut calls = JoinSet::new();
    loop {
        while calls.len() < CONCURRENCY
            && let Some(batch) = batches.next()
        {
            let api = Arc::clone(&api);
            calls.spawn(async move {
                api.bulk_delete(&batch, Uuid::nil()).await.result.unwrap().deleted.len() == batch.len()
            });
        }
        match calls.join_next().await {
            Some(done) => assert!(done.unwrap()),
            None => break,
        }
    }
    Run { seconds: clock.elapsed().as_secs_f64(), requests, ..Run::default() }
}

fn script(peers: &Peers, name: &str, more: &[&str], url: &str, database: &Path) -> Run {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers").join(name);
    said(Command::new(peers.python.as_ref().unwrap()).arg(script).arg(url).arg(database).args(more))
}

/// What a peer says about its run.
fn said(command: &mut Command) -> Run {
    let line: serde_json::Value = serde_json::from_str(&text(command).unwrap()).unwrap();
    Run {
        seconds: line["seconds"].as_f64().unwrap(),
        requests: line["requests"].as_u64().unwrap(),
        peak_kib: line["peak_kib"].as_u64(),
        ..Run::default()
    }
}

fn report(agents: u32, entrants: Vec<&Entrant>) {
    let median = |who| entrants.iter().find(|entrant| entrant.who == who).and_then(|entrant| entrant.median());
    let sweeper = median(Who::Sweeper).unwrap();
    println!("\nagents: {agents}; IDs/s is the median (and the lowest and the highest), memory the highest");
    println!("{:<36} {:>9} {:>28} {:>9} {:>9}  the sweeper is", "", "rows", "IDs/s", "requests", "memory");
    for entrant in &entrants {
        let (speeds, last) = (entrant.speeds(), entrant.runs.last().unwrap());
        let (speed, lowest, highest) = (entrant.median().unwrap(), speeds[0], speeds[speeds.len() - 1]);
        let range = format!("{speed:.0} ({lowest:.0}–{highest:.0})");
        let memory = entrant
            .runs
            .iter()
            .filter_map(|run| run.peak_kib)
            .max()
            .map_or_else(String::new, |kib| format!("{} MiB", kib.div_ceil(1024)));
        let times = sweeper / speed;
        let ratio = match entrant.aim {
            Some(aim) => {
                format!("{times:.1} times as fast; aim {aim}: {}", if times >= aim { "yes" } else { "MISSED" })
            }
            None => format!("{times:.2}"),
        };
        let (name, rows, requests) = (entrant.name(), entrant.rows, last.requests);
        println!("{name:<36} {rows:>9} {range:>28} {requests:>9} {memory:>9}  {ratio}");
    }
    if let (Some(worker), Some(sqlite), Some(http)) =
        (median(Who::Worker), median(Who::SqliteAlone), median(Who::HttpAlone))
    {
        let bound = sqlite.min(http);
        println!(
            "of the slower of SQLite alone and HTTP alone: sweeper {:.0} %, worker {:.0} %; aim 60 %",
            100.0 * sweeper / bound,
            100.0 * worker / bound
        );
    }
    for entrant in &entrants {
        let Some((run, steps)) = entrant.runs.last().and_then(|run| Some((run, run.steps?))) else { continue };
        let each = |seconds: f64| seconds * 1e6 / f64::from(entrant.rows);
        let told: Vec<String> =
            STEPS.iter().zip(steps).map(|(step, seconds)| format!("{step} {:.2}", each(seconds))).collect();
        println!("SQLite alone, the last run, µs per ID: {:.2}: {}", each(run.seconds), told.join(", "));
    }
    for entrant in &entrants {
        let Some((wal, grown)) = entrant.runs.last().and_then(|run| run.disk) else { continue };
        println!(
            "sweeper: the write-ahead log was {:.1} MiB at most, the file grew by {:.0} bytes per deletion",
            wal as f64 / f64::from(1 << 20),
            grown as f64 / f64::from(entrant.rows)
        );
    }
}

/// That no more requests are sent than must be, at any concurrency.
async fn minimal(dir: &Path) {
    println!("\nrequests for 10,007 rows, and the fewest that could do");
    println!("{:>8} {:>13} {:>13} {:>13}", "agents", "1 at a time", "8 at a time", "64 at a time");
    for agents in [1, 7, 1_000] {
        let mut told = String::new();
        for concurrency in [1, 8, 64] {
            let database = dir.join(format!("minimal-{agents}-{concurrency}.db"));
            fill(&database, 10_007, agents).await;
            let stand_in = StandIn::start(&[]);
            work(&database, &stand_in.url, 10_007, concurrency).await;
            let (requests, fewest) = verify(&database).await;
            told.push_str(&format!(" {:>13}", format!("{requests} / {fewest}")));
        }
        println!("{agents:>8}{told}");
    }
}
