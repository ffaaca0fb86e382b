//! What a SIGKILL in the middle costs.

use std::time::Duration;

use audio_cache_sweeper::model::clock::Clock;
use sqlx::PgConnection;
use tokio::time::sleep;

use crate::{
    number,
    peers::{Peers, Who},
    process::Killed,
    server::{Server, connect},
    stand_in::StandIn,
    verdict,
};

const AGENTS: u32 = 100;
/// The stand-in takes this long to answer, so that there are always requests in flight.
const LATENCY: Duration = Duration::from_millis(20);
/// `api.request_timeout`, by default: before that, the request of the killed process may still be under way.
const REQUEST_TIMEOUT_MS: u64 = 30_000;
/// How often what has arrived is looked at.
const LOOK: Duration = Duration::from_millis(2);
/// How often the tables are looked at.
const SLOW_LOOK: Duration = Duration::from_millis(500);

const ENTRANTS: [Who; 7] = [
    Who::Sweeper { taken_in: false },
    Who::Boss { is_prepared: false, by: "work", batch: 1_000, workers: 2 },
    Who::Boss { is_prepared: true, by: "work", batch: 50, workers: 2 },
    Who::Graphile { how: "single", concurrent: 64 },
    Who::Graphile { how: "gather", concurrent: 1_280 },
    Who::Graphile { how: "batch", concurrent: 64 },
    Who::Script,
];

pub async fn run(server: &Server, peers: &Peers) {
    let (rows, patience) = (number("POSTGRES_KILL_ROWS", 20_000), number("POSTGRES_KILL_SECONDS", 60));
    println!(
        "\nkill -9: {rows} IDs of {AGENTS} agents, killed after half of them, started again, {patience} s; {}",
        Peers::versions()
    );
    println!("  {:<36} {:>6} {:>8} {:>11} {:>15}", "", "stuck", "done in", "sent twice", "after at least");
    let mut made = Vec::new();
    for who in ENTRANTS.into_iter().filter(|who| peers.has(*who)) {
        who.fill(server, peers, &mut made, rows, AGENTS).await;
        once(server, peers, who, rows, Duration::from_secs(patience.into())).await;
    }
}

async fn once(server: &Server, peers: &Peers, who: Who, rows: u32, patience: Duration) {
    let stand_in = StandIn::start(LATENCY);
    let start = || Killed(who.work(server, peers, &stand_in.url(), rows, false).spawn().unwrap());
    let first = start();
    while stand_in.counts().distinct < u64::from(rows) / 2 {
        sleep(LOOK).await;
    }
    // SIGKILL.
    drop(first);
    let (clock, mut conn) = (Clock::system(), connect(&server.url("work")).await);
    let _second = start();
    let mut stuck = left(&mut conn, who).await;
    while stuck > 0 && clock.elapsed() < patience {
        sleep(SLOW_LOOK).await;
        stuck = left(&mut conn, who).await;
    }
    let counts = stand_in.counts();
    let done = if stuck == 0 { format!("{:.1} s", clock.elapsed().as_secs_f64()) } else { String::new() };
    let soonest = counts.soonest_ms.map_or_else(String::new, |ms| format!("{:.1} s", ms as f64 / 1e3));
    let note = match who {
        Who::Sweeper { .. } => {
            let is_early = counts.soonest_ms.is_some_and(|ms| ms < REQUEST_TIMEOUT_MS);
            format!(
                "none stuck: {}; none twice within api.request_timeout: {}",
                verdict(stuck == 0),
                verdict(!is_early)
            )
        }
        Who::Boss { .. } => "stuck for 15 minutes, until its jobs expire".to_owned(),
        Who::Graphile { .. } => "stuck for 4 hours, until others may have its jobs".to_owned(),
        Who::Script => "what was in flight is sent again at once".to_owned(),
    };
    println!("  {:<36} {stuck:>6} {done:>8} {:>11} {soonest:>15}  {note}", who.name(), counts.twice);
}

async fn left(conn: &mut PgConnection, who: Who) -> i64 {
    sqlx::query_scalar(who.left()).fetch_one(conn).await.unwrap()
}
