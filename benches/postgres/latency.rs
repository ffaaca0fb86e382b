//! How soon a row that was inserted is on its way, and what a daemon and its server cost without work.

use std::{net::SocketAddr, process::Child, time::Duration};

use audio_cache_sweeper::{
    model::clock::Clock,
    sandbox::{self, Sandbox},
};
use sqlx::PgConnection;

use crate::{
    daemon::daemon,
    median, number,
    process::{Killed, cpu},
    server::{Server, connect},
    verdict,
};

/// Time enough for a daemon to have begun, and to be idle.
const SETTLED: Duration = Duration::from_millis(1_500);
const INSERT: &str = "INSERT INTO sweeper.deletions (agent_id, entry_id) VALUES ('NEIGHBOUR', $1)";

/// From the return of an INSERT to the arrival of the request.
pub async fn run(server: &Server) {
    let samples = number("POSTGRES_SAMPLES", 300);
    server.make("work", "template1").await;
    let url = server.url("work");
    let sandbox = Sandbox::start(SocketAddr::from(([127, 0, 0, 1], 0)), sandbox::Options::default()).await.unwrap();
    let _daemon = Killed(daemon(&url, &sandbox.url(), "0ms").spawn().unwrap());
    let mut took = sample(&url, &sandbox, samples).await;
    let p50 = median(&mut took) * 1e3;
    let at = |percent: usize| took[(took.len() * percent).div_ceil(100) - 1] * 1e3;
    println!(
        "\nlatency: from the return of an INSERT to the request's arrival, {samples} times, at the default poll interval\n  \
         p50 {p50:.1} ms (aim 60: {}), p95 {:.1} ms, p99 {:.1} ms, highest {:.1} ms",
        verdict(p50 <= 60.0),
        at(95),
        at(99),
        at(100)
    );
}

/// Rows come at moments that have nothing to do with the worker's polls.
async fn sample(url: &str, sandbox: &Sandbox, samples: u32) -> Vec<f64> {
    let (mut conn, clock, mut rng) = (connect(url).await, Clock::system(), fastrand::Rng::with_seed(1));
    let mut took = Vec::new();
    tokio::time::sleep(SETTLED).await;
    for sample in 1..=samples {
        tokio::time::sleep(Duration::from_micros(rng.u64(20_000..220_000))).await;
        sqlx::query(INSERT).bind(sample.to_string()).execute(&mut conn).await.unwrap();
        let committed = clock.elapsed();
        sandbox.arrived(sample as usize).await;
        took.push((clock.elapsed() - committed).as_secs_f64());
    }
    took
}

/// What nothing costs.
pub async fn idle(server: &Server) {
    let seconds = number("POSTGRES_IDLE", 20);
    server.make("work", "template1").await;
    let url = server.url("work");
    // Nobody answers there, and nothing is asked.
    let daemon = Killed(daemon(&url, "http://127.0.0.1:9", "0ms").spawn().unwrap());
    let (worked, others, backend) = used(server, &url, &daemon.0, Duration::from_secs(seconds.into())).await;
    let share = |cpu: f64| 100.0 * cpu / f64::from(seconds);
    println!(
        "\nidle: over {seconds} s, in % of a core: the daemon {:.2}, its backend {:.2}, the server's other processes {:.2}",
        share(worked),
        share(backend),
        share(others)
    );
}

/// CPU that the daemon, the server's other processes and the daemon's backend use in this time.
async fn used(server: &Server, url: &str, daemon: &Child, time: Duration) -> (f64, f64, f64) {
    tokio::time::sleep(SETTLED).await;
    let mut conn: PgConnection = connect(url).await;
    let backend = server.leader(&mut conn).await;
    drop(conn);
    tokio::time::sleep(SETTLED).await;
    let look = || {
        let backend = cpu(&backend);
        (cpu(&daemon.id().to_string()), server.cpu() - backend, backend)
    };
    let before = look();
    tokio::time::sleep(time).await;
    let after = look();
    (after.0 - before.0, after.1 - before.1, after.2 - before.2)
}
