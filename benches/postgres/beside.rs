//! The sweeper beside what else the same deletions could be done with: same server, same rows, same stand-in.

use std::{io::Read as _, time::Duration};

use audio_cache_sweeper::model::clock::Clock;

use crate::{
    median, number,
    peers::{Peers, Run, Who},
    process::{Killed, cpu_of_ended},
    server::{Server, connect},
    stand_in::StandIn,
    verdict,
};

const AGENTS: [u32; 2] = [1, 1_000];

/// One request an ID, and the requests of batches, at 64 at a time.
const ENTRANTS: [Who; 12] = [
    Who::Sweeper { taken_in: true },
    Who::Sweeper { taken_in: false },
    Who::Boss { is_prepared: false, by: "work", batch: 1_000, workers: 2 },
    Who::Boss { is_prepared: false, by: "fetch", batch: 1_000, workers: 2 },
    Who::Boss { is_prepared: false, by: "fetch", batch: 20_000, workers: 2 },
    Who::Graphile { how: "single", concurrent: 64 },
    Who::Graphile { how: "gather", concurrent: 1_280 },
    Who::Script,
    Who::Boss { is_prepared: true, by: "work", batch: 50, workers: 2 },
    Who::Boss { is_prepared: true, by: "fetch", batch: 50, workers: 2 },
    Who::Graphile { how: "batch", concurrent: 64 },
    Who::Graphile { how: "record", concurrent: 64 },
];

struct Entrant {
    who: Who,
    runs: Vec<Seen>,
}

/// What one run came to.
#[derive(Clone, Copy)]
struct Seen {
    run: Run,
    /// Requests that have arrived.
    requests: u64,
    /// Seconds of CPU: of the process, from its start on, and of the server.
    cpu: [f64; 2],
}

pub async fn run(server: &Server, peers: &Peers) {
    let (rows, rounds) = (number("POSTGRES_PEER_ROWS", 100_000), number("POSTGRES_ROUNDS", 3));
    println!("\nside by side: {rows} rows, over HTTP; {}", Peers::versions());
    for agents in AGENTS {
        let entrants = ENTRANTS.into_iter().filter(|who| peers.has(*who));
        let mut entrants: Vec<Entrant> = entrants.map(|who| Entrant { who, runs: Vec::new() }).collect();
        let mut made = Vec::new();
        for _ in 0..rounds {
            for Entrant { who, runs } in &mut entrants {
                who.fill(server, peers, &mut made, rows, agents).await;
                runs.push(once(server, peers, *who, rows).await);
            }
        }
        report(&entrants, rows, agents);
        for template in made {
            server.drop_database(&template).await;
        }
    }
}

/// Everything in `work`, with a stand-in of its own.
async fn once(server: &Server, peers: &Peers, who: Who, rows: u32) -> Seen {
    let stand_in = StandIn::start(Duration::ZERO);
    let used = || [cpu_of_ended("self"), server.cpu()];
    let (clock, before) = (Clock::system(), used());
    let mut process = Killed(who.work(server, peers, &stand_in.url(), rows, true).spawn().unwrap());
    let mut said = String::new();
    if let Some(mut stdout) = process.0.stdout.take() {
        stdout.read_to_string(&mut said).unwrap();
    }
    let status = process.0.wait().unwrap();
    let (seconds, after) = (clock.elapsed().as_secs_f64(), used());
    assert!(status.success(), "{}: {status}", who.name());
    let counts = stand_in.counts();
    assert_eq!((counts.distinct, counts.ids), (rows.into(), rows.into()), "{}: IDs that were sent", who.name());
    let left: i64 = sqlx::query_scalar(who.left()).fetch_one(&mut connect(&server.url("work")).await).await.unwrap();
    assert_eq!(left, 0, "{}: IDs that are left", who.name());
    // The sweeper says nothing, so its start counts.
    let run: Option<Run> = said.lines().last().map(|line| serde_json::from_str(line).unwrap());
    let run = run.unwrap_or(Run { seconds, peak_kib: None });
    Seen { run, requests: counts.requests, cpu: [after[0] - before[0], after[1] - before[1]] }
}

fn report(entrants: &[Entrant], rows: u32, agents: u32) {
    let fewest = u64::from(agents * (rows / agents).div_ceil(20));
    println!("\n  agents: {agents}; IDs/s: the median (the lowest–the highest); {fewest} requests must be");
    println!("  CPU: of the process and of the server, in µs per ID, of the last run");
    println!("  {:<36} {:>24} {:>8} {:>8} {:>12}  leaves out", "", "IDs/s", "requests", "memory", "CPU");
    let mut best = [0.0_f64; 4];
    for Entrant { who, runs } in entrants {
        let mut speeds: Vec<f64> = runs.iter().map(|seen| f64::from(rows) / seen.run.seconds).collect();
        let speed = median(&mut speeds);
        let place = match who {
            Who::Sweeper { taken_in: true } => Some(0),
            Who::Sweeper { taken_in: false } => Some(1),
            Who::Script => Some(2),
            Who::Boss { .. } | Who::Graphile { .. } => who.is_single().then_some(3),
        };
        if let Some(place) = place {
            best[place] = best[place].max(speed);
        }
        let range = format!("{speed:.0} ({:.0}–{:.0})", speeds[0], speeds[speeds.len() - 1]);
        let requests = runs.iter().map(|seen| seen.requests).max().unwrap();
        let memory = runs
            .iter()
            .filter_map(|seen| seen.run.peak_kib)
            .max()
            .map_or_else(String::new, |kib| format!("{} MiB", kib / 1024));
        let note = match who {
            Who::Sweeper { .. } => format!("never more requests than must be: {}", verdict(requests == fewest)),
            Who::Boss { .. } | Who::Graphile { .. } | Who::Script => who.leaves_out().to_owned(),
        };
        let cpu = runs[runs.len() - 1].cpu.map(|seconds| format!("{:.0}", seconds * 1e6 / f64::from(rows))).join(", ");
        println!("  {:<36} {range:>24} {requests:>8} {memory:>8} {cpu:>12}  {note}", who.name());
    }
    let [taken_in, inbox, script, single] = best;
    for (name, ours) in [("rows taken in", taken_in), ("rows in the inbox", inbox)] {
        let (of_single, of_script) = (ours / single, ours / script);
        println!(
            "  sweeper, {name}: {of_single:.2} times the best with a job per ID, aim 2: {}; {of_script:.2} of the script, aim 0.8: {}",
            verdict(of_single >= 2.0),
            verdict(of_script >= 0.8)
        );
    }
}
