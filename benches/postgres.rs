//! What PostgreSQL behind the worker does: how fast, how soon, how large, beside what else is there for it.
//!
//! `cargo bench --bench postgres`. It needs a server's binaries, on PATH or where packages put them, and starts a server of its own:
//! what is committed is on the disk, and autovacuum runs. `POSTGRES_PARTS=drain,latency,idle,size,peers,kill` chooses parts.
//!
//! * *drain*: the worker's statements in turns of 8 and of 64 requests, with 1 and 1,000 agents, answers made up at once; near the
//!   server, and through a proxy that delays what goes there and what comes back. `POSTGRES_ROWS`, and `POSTGRES_ROUNDS` for how often
//!   each is measured, in turns.
//! * *latency*: from the return of an autocommit INSERT to the arrival of the request. `POSTGRES_SAMPLES`.
//! * *idle*: the CPU of a daemon and of its server with nothing to do. `POSTGRES_IDLE` seconds.
//! * *size*: tables and indexes after `POSTGRES_SIZE_ROWS` rows were settled.
//! * *peers*: `sweeper run` from its start to its end, side by side with pg-boss, graphile-worker and a script, which their files in
//!   `benches/peers/postgres` explain. All of them talk to a stand-in of this file's, which counts what arrives and answers at once: with
//!   a real API, its rate and the network decide, and none of these differences can be seen. `POSTGRES_PEER_ROWS`, `POSTGRES_ROUNDS`.
//! * *kill*: each of them is killed with SIGKILL in the middle of `POSTGRES_KILL_ROWS` IDs and started again. How many IDs are not done
//!   after `POSTGRES_KILL_SECONDS`, and how many were sent twice, and how soon.
//!
//! The peers come from npm and PyPI, the first time.
//!
//! Everything shares the machine's cores and disk.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on should stop where it is")]
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

#[path = "postgres/beside.rs"]
mod beside;
#[path = "postgres/daemon.rs"]
mod daemon;
#[path = "postgres/delay.rs"]
mod delay;
#[path = "postgres/drain.rs"]
mod drain;
#[path = "peers/install.rs"]
mod install;
#[path = "postgres/kill.rs"]
mod kill;
#[path = "postgres/latency.rs"]
mod latency;
#[path = "common/machine.rs"]
mod machine;
#[path = "postgres/peers.rs"]
mod peers;
#[path = "postgres/process.rs"]
mod process;
#[path = "postgres/queue.rs"]
mod queue;
#[path = "postgres/server.rs"]
mod server;
#[path = "postgres/size.rs"]
mod size;
#[path = "postgres/stand_in.rs"]
mod stand_in;
#[path = "common/turns.rs"]
mod turns;

use std::{env, fs, time::Duration};

use audio_cache_sweeper::worker::EVENT_INTERVAL;

use peers::Peers;
use server::{SETTINGS, Server};

const PARTS: &str = "drain,latency,idle,size,peers,kill";

fn main() {
    // As the daemon's.
    let runtime =
        tokio::runtime::Builder::new_current_thread().event_interval(EVENT_INTERVAL).enable_all().build().unwrap();
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [word, latency] = arguments.as_slice()
        && word == stand_in::STAND_IN
    {
        return runtime.block_on(stand_in::serve(Duration::from_millis(latency.parse().unwrap())));
    }
    let Some(binaries) = server::binaries() else {
        println!("SKIPPED: there is no initdb on PATH or in /usr/lib/postgresql/*/bin");
        return;
    };
    println!("machine: {}; load average {}", machine::machine(), load());
    let server = Server::start(&binaries);
    runtime.block_on(async {
        let mut conn = server.connect("postgres").await;
        let version: String = sqlx::query_scalar("SHOW server_version").fetch_one(&mut conn).await.unwrap();
        println!("PostgreSQL {version}, on loopback, defaults but for {}", SETTINGS.join(", "));
        drop(conn);
        let parts = env::var("POSTGRES_PARTS").unwrap_or_else(|_| PARTS.to_owned());
        for part in parts.split(',') {
            match part {
                "drain" => drain::run(&server).await,
                "latency" => latency::run(&server).await,
                "idle" => latency::idle(&server).await,
                "size" => size::run(&server).await,
                "peers" => beside::run(&server, &Peers::ready()).await,
                "kill" => kill::run(&server, &Peers::ready()).await,
                _ => panic!("POSTGRES_PARTS: there is no part {part}, but {PARTS}"),
            }
            println!("  load average {}", load());
        }
    });
}

/// A number from the environment.
fn number(name: &str, or: u32) -> u32 {
    env::var(name).map_or(or, |text| text.parse().unwrap())
}

/// The middle one. Sorts them.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn verdict(is_reached: bool) -> &'static str {
    if is_reached { "yes" } else { "MISSED" }
}

/// How busy the machine is.
fn load() -> String {
    fs::read_to_string("/proc/loadavg").unwrap_or_default().split(' ').take(3).collect::<Vec<_>>().join(" ")
}
