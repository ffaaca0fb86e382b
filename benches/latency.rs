//! How soon a row that was inserted is on its way, what the daemon at work costs other producers, and what it costs idle.
//!
//! `cargo bench --bench latency`: about two minutes. With more of everything: `LATENCY_SAMPLES=2000`,
//! `LATENCY_ROWS=1000000` and `LATENCY_IDLE=120` (seconds).
//!
//! * *prompt*: from the return of a producer's commit to the request's arrival at a stand-in, one row at a time, linger 0,
//!   at moments that have nothing to do with the daemon's polling.
//! * *good neighbour*: a producer in another process, beside a drain of 1,000 interleaved agents at full speed; first one row
//!   per transaction, 5 ms apart, then 100,000 rows in one transaction. It waits for locks as SQLite's own busy handler
//!   does, up to 5 s, which is what most clients have by default; a client that does not wait at all is told "database is
//!   locked" by any writer.
//! * *fair share*: how many of the requests that the rate allows are sent while a producer in another process commits single
//!   rows without a pause, and how many it commits.
//! * *small*: the memory and the CPU of a daemon with nothing to do, and the disk that a drain takes.
//!
//! The daemon is the `sweeper` binary in its own process. Everything shares the machine's cores and disk, so on a machine
//! with few of them the producers wait for a core, too.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on should stop where it is")]
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

mod common;
#[path = "common/process.rs"]
mod process;

use std::{
    env,
    fs::{self, File},
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use audio_cache_sweeper::{
    model::clock::Clock,
    queue::sqlite::{Producer, Store},
    sandbox::{self, Sandbox},
    worker::EVENT_INTERVAL,
};
use common::{fill, machine, memory_kib, options};
use process::{StandIn, end, sweeper, watch};
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

const AGENTS: u32 = 1_000;
/// What separates the transactions of the producer of single rows.
const GAP: Duration = Duration::from_millis(5);
const BULK_ROWS: u32 = 100_000;
/// How often a bulk insert is timed.
const BULKS: usize = 3;
/// The requests that the rate allows beside a producer that never pauses: so many a second, for so many seconds.
const FAIR_RATE: u64 = 25;
const FAIR_SECONDS: u64 = 12;
/// Time enough for a daemon to be at full speed, or idle.
const SETTLED: Duration = Duration::from_millis(500);

fn main() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().event_interval(EVENT_INTERVAL).enable_all().build().unwrap();
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [word, database, rows] = arguments.as_slice()
        && (word == SINGLE || word == BULK || word == LOOP)
    {
        return runtime.block_on(produce(word, database, rows.parse().unwrap()));
    }
    let number = |name, or| env::var(name).map_or(or, |text| text.parse().unwrap());
    let (samples, rows) = (number("LATENCY_SAMPLES", 300), number("LATENCY_ROWS", 500_000));
    println!("machine: {}", machine());
    let dir = tempfile::tempdir().unwrap();

    println!("\nprompt: from the commit to the request's arrival, {samples} times");
    for (poll, median, tail) in [("100ms", 60.0, Some(120.0)), ("10ms", 10.0, None)] {
        let took = runtime.block_on(prompt(&dir.path().join(format!("prompt-{poll}.db")), poll, samples));
        let aims = [(50, Some(median)), (95, None), (99, tail)];
        println!("  queue.poll_interval = {poll:>5}: {}", quantiles(took, &aims));
    }

    println!("\ngood neighbour: {rows} rows of {AGENTS} agents");
    let template = dir.path().join("template.db");
    runtime.block_on(fill(&template, rows, AGENTS));
    runtime.block_on(neighbour(&template, samples));
    println!("\nfair share: {} requests at {FAIR_RATE}/s", FAIR_RATE * FAIR_SECONDS);
    runtime.block_on(fair_share(&dir.path().join("fair.db")));

    println!("\nsmall");
    idle(&dir.path().join("idle.db"), Duration::from_secs(number("LATENCY_IDLE", 20).into()));
    let database = copy(&template);
    let (before, stand_in) = (fs::metadata(&database).unwrap().len(), StandIn::start(&[]));
    let drained = watch(sweeper(&database, &stand_in.url, &["--until-empty"], &[]), &database);
    let grown = fs::metadata(&database).unwrap().len() - before;
    println!(
        "  draining {rows} rows: {:.1} MiB of memory at most (aim 40), write-ahead log {:.1} MiB at most, \
         {:.0} bytes of the database per deletion before and {:.0} more after; {:.0} IDs/s",
        drained.peak_kib as f64 / 1024.0,
        drained.wal as f64 / f64::from(1 << 20),
        before as f64 / f64::from(rows),
        grown as f64 / f64::from(rows),
        f64::from(rows) / drained.took.as_secs_f64(),
    );
}

/// How long each of `samples` rows took to be on its way, in milliseconds.
async fn prompt(database: &Path, poll: &str, samples: u32) -> Vec<f64> {
    drop(Store::open(options(database)).await.unwrap());
    let sandbox = Sandbox::start(SocketAddr::from(([127, 0, 0, 1], 0)), sandbox::Options::default()).await.unwrap();
    let mut daemon = sweeper(database, &sandbox.url(), &[], &[("QUEUE__POLL_INTERVAL", poll)]);
    let mut producer = Producer::open(&options(database)).await.unwrap();
    let (clock, mut rng) = (Clock::system(), fastrand::Rng::with_seed(1));
    let mut took = Vec::new();
    tokio::time::sleep(SETTLED).await;
    for sample in 1..=samples {
        tokio::time::sleep(Duration::from_micros(rng.u64(20_000..220_000))).await;
        producer.insert([("NEIGHBOUR", sample.to_string().as_str(), 0)]).await.unwrap();
        let committed = clock.elapsed();
        sandbox.arrived(sample as usize).await;
        took.push((clock.elapsed() - committed).as_secs_f64() * 1e3);
    }
    end(&mut daemon);
    took
}

async fn neighbour(template: &Path, samples: u32) {
    let aims = [(50, None), (99, Some(50.0))];
    let alone = Told::by(SINGLE, &copy(template), samples);
    println!("  one row per transaction, alone:     {}", quantiles(alone.took, &[(50, None), (99, None)]));

    let (database, stand_in) = (copy(template), StandIn::start(&[]));
    let mut daemon = sweeper(&database, &stand_in.url, &[], &[]);
    thread::sleep(SETTLED);
    let (clock, before) = (Clock::system(), sent(&database).await);
    let beside = Told::by(SINGLE, &database, samples);
    let speed = (sent(&database).await - before) as f64 * 20.0 / clock.elapsed().as_secs_f64();
    println!("  one row per transaction, meanwhile: {}", quantiles(beside.took, &aims));
    println!(
        "    \"database is locked\": {} times; the drain meanwhile: {speed:.0} IDs/s{}",
        beside.locked,
        still_at_it(&database).await
    );
    end(&mut daemon);

    let (mut alone, mut beside, mut locked, mut note) = (Vec::new(), Vec::new(), 0, "");
    for _ in 0..BULKS {
        alone.extend(Told::by(BULK, &copy(template), BULK_ROWS).took);
        let (database, stand_in) = (copy(template), StandIn::start(&[]));
        let mut daemon = sweeper(&database, &stand_in.url, &[], &[]);
        thread::sleep(SETTLED);
        let told = Told::by(BULK, &database, BULK_ROWS);
        note = still_at_it(&database).await;
        locked += told.locked;
        beside.extend(told.took);
        end(&mut daemon);
    }
    let [alone, beside] = [alone, beside].map(|mut took| {
        took.sort_by(f64::total_cmp);
        took[took.len() / 2]
    });
    let times = beside / alone;
    println!(
        "  {BULK_ROWS} rows in one transaction: {alone:.0} ms alone, {beside:.0} ms meanwhile: {times:.2} times, aim 2: {}; \
         \"database is locked\": {locked} times{note}",
        verdict(times, 2.0)
    );
}

/// A daemon that may send [`FAIR_RATE`] requests a second, beside a producer that commits one row after the other.
async fn fair_share(database: &Path) {
    let (requests, stand_in) = (FAIR_RATE * FAIR_SECONDS, StandIn::start(&[]));
    // Twice as many as can be sent, so that there is always one to send.
    fill(database, u32::try_from(requests * 20 * 2).unwrap(), 10).await;
    let settings = [
        ("RATE_LIMIT__REQUESTS_PER_SECOND", FAIR_RATE.to_string()),
        ("RATE_LIMIT__BURST", "5".to_owned()),
        ("DELIVERY__CONCURRENCY", "8".to_owned()),
    ];
    let settings = settings.each_ref().map(|(key, value)| (*key, value.as_str()));
    let mut daemon = sweeper(database, &stand_in.url, &[], &settings);
    thread::sleep(SETTLED);
    let mut command = Command::new(env::current_exe().unwrap());
    command.arg(LOOP).arg(database).arg(FAIR_SECONDS.to_string()).stdout(Stdio::piped());
    let producer = command.spawn().unwrap();
    let before = sent(database).await;
    let said = producer.wait_with_output().unwrap();
    let sent = sent(database).await - before;
    assert!(said.status.success(), "{}", said.status);
    let (locked, committed): (u64, u64) = serde_json::from_slice(&said.stdout).unwrap();
    println!(
        "  beside {:.0} commits/s: {sent} of {requests} requests sent; \"database is locked\": {locked} times",
        committed as f64 / FAIR_SECONDS as f64
    );
    end(&mut daemon);
}

/// The number of the newest request.
async fn sent(database: &Path) -> i64 {
    let mut conn = SqliteConnection::connect(database.to_str().unwrap()).await.unwrap();
    sqlx::query_scalar("SELECT coalesce(max(id), 0) FROM requests").fetch_one(&mut conn).await.unwrap()
}

/// What is to be said if the drain ended before the producer did.
async fn still_at_it(database: &Path) -> &'static str {
    let mut conn = SqliteConnection::connect(database.to_str().unwrap()).await.unwrap();
    let open = "SELECT EXISTS (SELECT 1 FROM deletions WHERE state = 'pending' AND entry_id < 'NEW')";
    let open: bool = sqlx::query_scalar(open).fetch_one(&mut conn).await.unwrap();
    if open { "" } else { " (THE DRAIN WAS OVER BEFORE: take more LATENCY_ROWS)" }
}

/// A copy to work on; there is one at a time.
fn copy(template: &Path) -> std::path::PathBuf {
    let database = template.with_file_name("work.db");
    for ending in ["db-wal", "db-shm", "db.lock"] {
        // Not everybody leaves all of them.
        let _ = fs::remove_file(database.with_extension(ending));
    }
    fs::copy(template, &database).unwrap();
    File::open(&database).unwrap().sync_all().unwrap();
    database
}

const SINGLE: &str = "produce-single-rows";
const BULK: &str = "produce-in-bulk";
const LOOP: &str = "produce-without-pause";

/// What a producer in another process tells.
#[derive(Debug)]
struct Told {
    /// Milliseconds that each transaction took.
    took: Vec<f64>,
    /// How often it heard that the database is locked.
    locked: u64,
}

impl Told {
    /// Runs it: this program, with other arguments.
    fn by(word: &str, database: &Path, rows: u32) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.arg(word).arg(database).arg(rows.to_string()).stderr(Stdio::inherit());
        let said = command.output().unwrap();
        assert!(said.status.success(), "{}", said.status);
        let (locked, took): (u64, Vec<f64>) = serde_json::from_slice(&said.stdout).unwrap();
        Self { took, locked }
    }
}

/// The other process.
async fn produce(word: &str, database: &str, rows: u32) {
    let mut conn = SqliteConnection::connect(database).await.unwrap();
    let (clock, mut took, mut locked) = (Clock::system(), Vec::new(), 0_u64);
    if word == LOOP {
        let locked = commit_without_pause(&mut conn, Duration::from_secs(rows.into())).await;
        let committed = "SELECT count(*) FROM deletions WHERE agent_id = 'NEIGHBOUR'";
        let committed: u64 = sqlx::query_scalar(committed).fetch_one(&mut conn).await.unwrap();
        println!("{}", serde_json::to_string(&(locked, committed)).unwrap());
        return;
    }
    let statements: Vec<String> = if word == SINGLE {
        let insert = |i| format!("INSERT INTO deletions (agent_id, entry_id) VALUES ('NEIGHBOUR', 'NEW-{i}')");
        (0..rows).map(insert).collect()
    } else {
        vec![format!(
            "BEGIN IMMEDIATE;
             WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {rows})
             INSERT INTO deletions (agent_id, entry_id) SELECT 'PROJECT-' || (i % {AGENTS}), 'NEW-' || i FROM n;
             COMMIT"
        )]
    };
    for statement in statements {
        let begun = clock.elapsed();
        while let Err(error) = sqlx::raw_sql(AssertSqlSafe(statement.as_str())).execute(&mut conn).await {
            assert!(error.to_string().contains("locked"), "{error}");
            locked += 1;
        }
        took.push((clock.elapsed() - begun).as_secs_f64() * 1e3);
        tokio::time::sleep(GAP).await;
    }
    println!("{}", serde_json::to_string(&(locked, took)).unwrap());
}

/// Single rows, each with a commit of its own that waits for no disk, one right after the other for some time; tells how often
/// it was said that the database is locked.
async fn commit_without_pause(conn: &mut SqliteConnection, length: Duration) -> u64 {
    let (clock, mut locked) = (Clock::system(), 0);
    sqlx::raw_sql("PRAGMA synchronous = OFF").execute(&mut *conn).await.unwrap();
    // Many at a time, and prepared, so that SQLite's thread waits for nobody between them.
    let script = ["INSERT INTO deletions (agent_id, entry_id) VALUES ('NEIGHBOUR', ?)"; 50].join(";");
    let mut entry = 0_u64;
    while clock.elapsed() < length {
        let mut query = sqlx::query(AssertSqlSafe(script.as_str()));
        for _ in 0..50 {
            query = query.bind(format!("NEW-{entry}"));
            entry += 1;
        }
        if let Err(error) = query.execute(&mut *conn).await {
            assert!(error.to_string().contains("locked"), "{error}");
            locked += 1;
        }
    }
    locked
}

/// What a daemon costs that has nothing to do.
fn idle(database: &Path, length: Duration) {
    // Nobody answers there, and nothing is asked.
    let mut daemon = sweeper(database, "http://127.0.0.1:9", &[], &[]);
    let process = daemon.id().to_string();
    thread::sleep(SETTLED * 4);
    let before = cpu(&process);
    thread::sleep(length);
    let share = 100.0 * (cpu(&process) - before) / length.as_secs_f64();
    let memory = memory_kib(&process, "VmRSS").unwrap() as f64 / 1024.0;
    println!(
        "  idle: {memory:.1} MiB of memory, aim 15: {}; {share:.2} % of a core over {} s, aim 0.25: {}",
        verdict(memory, 15.0),
        length.as_secs(),
        verdict(share, 0.25)
    );
    end(&mut daemon);
}

/// The seconds of CPU that a process has had, as Linux tells it: in ticks of 10 ms.
fn cpu(process: &str) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // Its name, in parentheses, may have spaces in it.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u32 = fields[11..=12].iter().map(|ticks| ticks.parse::<u32>().unwrap()).sum();
    f64::from(ticks) / 100.0
}

fn verdict(found: f64, aim: f64) -> &'static str {
    if found <= aim { "yes" } else { "MISSED" }
}

/// Percentiles of milliseconds, each with its aim, and the highest.
fn quantiles(mut took: Vec<f64>, wanted: &[(usize, Option<f64>)]) -> String {
    took.sort_by(f64::total_cmp);
    let mut told = String::new();
    for &(percent, aim) in wanted {
        let found = took[(took.len() * percent).div_ceil(100) - 1];
        told.push_str(&format!("p{percent} {found:.1} ms"));
        told.push_str(&aim.map_or_else(String::new, |aim| format!(" (aim {aim}: {})", verdict(found, aim))));
        told.push_str(", ");
    }
    told + &format!("highest {:.1} ms", took[took.len() - 1])
}
