//! Random failures, one after the other, under load. `FAILOVERS` sets their number, and `FAILOVERS_SEED` their seed.

use std::{env, time::Duration};

use super::{
    deadline::{say, tell, wait_until},
    scene::{LEASE, SLACK, Scene},
    server::Server,
    truth::Mood,
    way::Passes,
};

/// The daemons that run at any time.
const NODES: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Failure {
    Kill,
    Stop,
    Terminate,
    Cut,
    CutAnswers,
    RestartServer,
    KillServer,
}

const FAILURES: [Failure; 7] = [
    Failure::Kill,
    Failure::Stop,
    Failure::Terminate,
    Failure::Cut,
    Failure::CutAnswers,
    Failure::RestartServer,
    Failure::KillServer,
];

fn variable(name: &str) -> Option<u64> {
    env::var(name).ok().map(|value| value.parse().unwrap())
}

#[tokio::test]
async fn random_failures_lose_nothing_and_send_nothing_too_early() {
    let Some(server) = Server::start().await else { return };
    let seed = variable("FAILOVERS_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let count = variable("FAILOVERS").unwrap_or(4);
    say(&format!("random failures: FAILOVERS={count} FAILOVERS_SEED={seed}"));
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut scene = Scene::of(&[&server], NODES, seed);
    scene.truth.set(Mood::Mixed);
    let mut took = Vec::new();
    for round in 0..count {
        let failure = FAILURES[rng.usize(..FAILURES.len())];
        // At any place of a turn, or of a take-over.
        let further = rng.usize(0..30);
        if further > 0 {
            scene.served(further);
        }
        std::thread::sleep(Duration::from_micros(rng.u64(0..30_000)));
        let after = fail(&mut scene, &server, failure, &mut rng);
        tell(&format!("{round}: {failure:?}: {after:?} until the work goes on"));
        took.push((failure, after));
    }
    for failure in FAILURES {
        let mut took: Vec<Duration> = took.iter().filter(|(of, _)| *of == failure).map(|(_, took)| *took).collect();
        took.sort();
        if let (Some(median), Some(most)) = (took.get(took.len() / 2), took.last()) {
            tell(&format!("{failure:?}: {} times, median {median:?}, longest {most:?}", took.len()));
        }
    }
    let findings = scene.finish().await;
    tell(&format!(
        "{} requests, {} rows; late {}, twice {}, lost {}, at most {:.1} above rate x time",
        findings.requests,
        findings.rows,
        findings.late.len(),
        findings.twice.len(),
        findings.lost.len(),
        findings.above_rate
    ));
    findings.assert_sound();
}

/// Lets something fail, and waits until the work goes on: how long that took.
fn fail(scene: &mut Scene, server: &Server, failure: Failure, rng: &mut fastrand::Rng) -> Duration {
    let (before, failed) = (scene.leader(), scene.clock.elapsed());
    let most = LEASE + Duration::from_secs(1) + SLACK;
    let took = match failure {
        Failure::RestartServer | Failure::KillServer => {
            if failure == Failure::KillServer {
                server.kill();
                server.start_again();
            } else {
                server.restart();
            }
            let up = scene.clock.elapsed();
            scene.served(1).saturating_sub(up)
        }
        Failure::Kill => {
            scene.nodes[before.node].kill();
            scene.next_leader(before.epoch).at.saturating_sub(failed)
        }
        Failure::Terminate => {
            scene.nodes[before.node].signal("TERM");
            // Calls in flight have their time.
            let next = scene.next_leader(before.epoch).at.saturating_sub(failed);
            assert_eq!(scene.nodes[before.node].ended(most), 0);
            next
        }
        Failure::Stop | Failure::Cut | Failure::CutAnswers => {
            let node = &scene.nodes[before.node];
            match failure {
                Failure::Stop => node.signal("STOP"),
                Failure::Cut => node.set_ways(Passes::Nothing),
                Failure::CutAnswers => node.set_ways(Passes::Up),
                Failure::Kill | Failure::Terminate | Failure::RestartServer | Failure::KillServer => {}
            }
            let next = scene.next_leader(before.epoch);
            std::thread::sleep(Duration::from_millis(rng.u64(0..1_500)));
            let node = &scene.nodes[before.node];
            if failure == Failure::Stop {
                node.signal("CONT");
            } else {
                node.set_ways(Passes::Both);
            }
            // In the middle of its take-over, it notices only that its session is gone.
            let said = || ["deposed", "database_unavailable"].into_iter().flat_map(|event| node.lines(event));
            let told = || said().find(|(at, _)| *at > failed);
            wait_until(Duration::from_secs(30), || format!("the end of a leadership:\n{}", scene.logs()), told);
            next.at.saturating_sub(failed)
        }
    };
    assert!(took <= most, "{failure:?}: {took:?}\n{}", scene.logs());
    while scene.nodes.iter().filter(|node| node.is_alive).count() < NODES {
        scene.start_node();
    }
    took
}
