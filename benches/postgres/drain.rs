//! How fast the statements of the worker empty a queue, near the server and further away.

use std::time::Duration;

use audio_cache_sweeper::{model::clock::Clock, queue::Queue as _};

use sqlx::PgConnection;

use crate::{
    delay, median, number,
    process::cpu,
    queue,
    server::{Server, connect},
    turns::{self, STEPS, Turns},
    verdict,
};

const AGENTS: [u32; 2] = [1, 1_000];
/// Requests that a turn settles, and claims.
const PER_TURN: [usize; 2] = [8, 64];
const CONCURRENCY: usize = 64;
/// Microseconds that a way to the server and back takes longer.
const ROUND_TRIPS: [u64; 3] = [0, 2_400, 4_600];

/// IDs per second that are wanted.
fn aim(round_trip: u64) -> Option<f64> {
    match round_trip {
        0 => Some(60_000.0),
        2_400 => Some(18_000.0),
        _ => None,
    }
}

struct Case {
    agents: u32,
    per_turn: usize,
    round_trip: u64,
    runs: Vec<(Turns, Busy)>,
}

/// Seconds that a drain kept others busy, as far as is known.
#[derive(Clone, Copy, Debug, Default)]
struct Busy {
    /// CPU of the server's process for the connection.
    backend: f64,
    /// CPU of this process, with the proxy's threads.
    ours: f64,
    /// What that process waited for the disk.
    disk: f64,
}

/// What backends have waited for the disk, in milliseconds. Servers from 18 on tell that elsewhere.
const DISK: &str = "
SELECT coalesce((to_jsonb(wal)->>'wal_sync_time')::float8, 0) + coalesce((to_jsonb(wal)->>'wal_write_time')::float8, 0)
FROM pg_stat_wal AS wal";
/// What a backend has counted is there for others to see some time after it has ended.
const COUNTED: Duration = Duration::from_millis(100);

pub async fn run(server: &Server) {
    let (rows, rounds) = (number("POSTGRES_ROWS", 200_000), number("POSTGRES_ROUNDS", 3));
    println!("\ndrain: {rows} rows; the worker's statements, answers made up at once");
    for agents in AGENTS {
        let seconds = queue::fill(server, &template(agents), rows, agents).await;
        println!("  {agents} agents: the leader has taken in {:.0} rows/s", f64::from(rows) / seconds);
    }
    let ways = ROUND_TRIPS.map(|delay| if delay == 0 { server.port } else { delay::start(server.port, micros(delay)) });
    for (way, delay) in ways.into_iter().zip(ROUND_TRIPS) {
        println!("  + {:.1} ms: {:.2} ms for SELECT 1 (p50)", delay as f64 / 1e3, round_trip(way).await * 1e3);
    }
    let mut cases = Vec::new();
    for round_trip in ROUND_TRIPS {
        for per_turn in PER_TURN {
            let case = |agents| Case { agents, per_turn, round_trip, runs: Vec::new() };
            cases.extend(AGENTS.map(case));
        }
    }
    // In turns, so that what else the machine does meets all of them.
    for _ in 0..rounds {
        for case in &mut cases {
            let way = ways[ROUND_TRIPS.iter().position(|delay| *delay == case.round_trip).unwrap()];
            case.runs.push(drain(server, way, case).await);
        }
    }
    report(&cases, rows);
    for agents in AGENTS {
        server.drop_database(&template(agents)).await;
    }
}

fn template(agents: u32) -> String {
    format!("full_{agents}")
}

fn micros(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

/// The seconds that a statement takes that does nothing.
async fn round_trip(port: u16) -> f64 {
    let (mut conn, clock) = (connect(&Server::url_by(port, "postgres")).await, Clock::system());
    let mut took = Vec::new();
    for _ in 0..200 {
        let begun = clock.elapsed();
        sqlx::query("SELECT 1").execute(&mut conn).await.unwrap();
        took.push((clock.elapsed() - begun).as_secs_f64());
    }
    median(&mut took)
}

async fn drain(server: &Server, way: u16, case: &Case) -> (Turns, Busy) {
    server.make("work", &template(case.agents)).await;
    let mut conn = server.connect("work").await;
    let mut store = queue::open(&Server::url_by(way, "work")).await;
    // Anything that was taken in is no news by now.
    while store.changed().await.unwrap() {}
    let backend = server.leader(&mut conn).await;
    let look = async |conn: &mut PgConnection| {
        let disk: f64 = sqlx::query_scalar(DISK).fetch_one(conn).await.unwrap();
        Busy { backend: cpu(&backend), ours: cpu("self"), disk: disk / 1e3 }
    };
    let before = look(&mut conn).await;
    let taken = turns::drain(&mut store, case.per_turn, CONCURRENCY).await;
    let Busy { backend, ours, .. } = look(&mut conn).await;
    store.close().await.unwrap();
    tokio::time::sleep(COUNTED).await;
    let Busy { disk, .. } = look(&mut conn).await;
    let busy = Busy { backend: backend - before.backend, ours: ours - before.ours, disk: disk - before.disk };
    let (requests, fewest) = queue::verify(&server.url("work")).await;
    assert_eq!(requests, fewest, "requests, and the fewest that could do");
    (taken, busy)
}

fn report(cases: &[Case], rows: u32) {
    println!(
        "  IDs/s: the median (the lowest–the highest). Of the last run, in µs per ID: the turn's steps ({}); and what of it kept busy: \
         the server's CPU, ours, the disk",
        STEPS[2..].join(", ")
    );
    println!(
        "  {:>7} {:>6} {:>8} {:>24} {:>8}  {:<18}  server, ours, disk",
        "delay", "agents", "per turn", "IDs/s", "turn", "steps"
    );
    for case in cases {
        let mut speeds: Vec<f64> = case.runs.iter().map(|(run, _)| f64::from(rows) / run.seconds).collect();
        let (speed, (last, busy)) = (median(&mut speeds), case.runs[case.runs.len() - 1]);
        let range = format!("{speed:.0} ({:.0}–{:.0})", speeds[0], speeds[speeds.len() - 1]);
        let each = |seconds: &f64| format!("{:.1}", seconds * 1e6 / f64::from(rows));
        let steps = last.steps[2..].iter().map(each).collect::<Vec<_>>().join(", ");
        let busy = [busy.backend, busy.ours, busy.disk].iter().map(each).collect::<Vec<_>>().join(", ");
        let (delay, turn) = (case.round_trip as f64 / 1e3, last.seconds * 1e3 / f64::from(last.turns));
        let aim =
            aim(case.round_trip).map_or_else(String::new, |aim| format!("; aim {aim}: {}", verdict(speed >= aim)));
        let (agents, per_turn) = (case.agents, case.per_turn);
        println!("  {delay:>4.1} ms {agents:>6} {per_turn:>8} {range:>24} {turn:>5.1} ms  {steps:<18}  {busy}{aim}");
    }
}
