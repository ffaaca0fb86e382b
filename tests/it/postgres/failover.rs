//! Daemons that end, stand still or lose their server, and servers that end: real processes, under load. Another daemon takes over, and
//! whatever happened, the stand-in and the tables agree that nothing was lost, and nothing sent that must not be.

mod checks;
mod deadline;
mod leadership;
mod node;
mod place;
mod pooler;
mod producers;
mod random;
mod scene;
mod server;
mod truth;
mod way;

use std::{collections::HashSet, time::Duration};

use deadline::{tell, wait_until};
use node::Node;
use scene::{LEASE, Leading, SLACK, Scene};
use server::Server;
use truth::Mood;
use uuid::Uuid;
use way::Passes;

/// A leader that failed at `failed` is replaced within the lease and a second.
fn assert_in_time(scene: &Scene, what: &str, failed: Duration, next: Leading) {
    let took = next.at.saturating_sub(failed);
    tell(&format!("{what}: {took:?} until the next one leads"));
    assert!(took <= LEASE + Duration::from_secs(1) + SLACK, "{what}: {took:?}\n{}", scene.logs());
}

#[tokio::test]
async fn a_leader_that_is_killed_is_replaced() {
    let Some(mut scene) = Scene::new(2).await else { return };
    scene.served(20);
    // What it has sent is answered after its end.
    scene.truth.set(Mood::Silent);
    scene.served(3);
    let (before, failed) = (scene.leader(), scene.clock.elapsed());
    scene.nodes[before.node].kill();
    let next = scene.next_leader(before.epoch);
    scene.truth.set(Mood::Mixed);
    assert_in_time(&scene, "SIGKILL", failed, next);
    scene.served(10);
    scene.finish().await.assert_sound();
}

#[tokio::test]
async fn a_leader_that_stands_still_is_replaced_and_sends_nothing_when_it_goes_on() {
    let Some(scene) = Scene::new(2).await else { return };
    scene.served(20);
    let (before, failed) = (scene.leader(), scene.clock.elapsed());
    scene.nodes[before.node].signal("STOP");
    let next = scene.next_leader(before.epoch);
    assert_in_time(&scene, "SIGSTOP", failed, next);
    scene.served(1);
    scene.nodes[before.node].signal("CONT");
    deposed(&scene, before);
    scene.finish().await.assert_sound();
}

#[tokio::test]
async fn a_leader_that_stands_still_between_its_commit_and_its_send_does_not_send_when_it_goes_on() {
    let Some(scene) = Scene::new(2).await else { return };
    scene.served(5);
    let (before, mut conn) = (scene.leader(), scene.place.connect().await);
    let leader = &scene.nodes[before.node];
    // Whoever commits a claim cannot have sent it while the answer to the commit is held.
    let mut answers = leader.ways[0].hold_answers();
    let mut known: Option<HashSet<Uuid>> = None;
    let claimed = loop {
        let held = answers.recv().await.unwrap();
        let unanswered = "SELECT correlation_id FROM requests WHERE answered_at IS NULL";
        let unanswered: Vec<Uuid> = sqlx::query_scalar(unanswered).fetch_all(&mut conn).await.unwrap();
        let claimed: Vec<Uuid> =
            known.iter().flat_map(|known| unanswered.iter().filter(|id| !known.contains(id))).copied().collect();
        if !claimed.is_empty() {
            leader.signal("STOP");
            drop(held);
            break claimed;
        }
        known.get_or_insert_default().extend(unanswered);
    };
    drop(answers);
    let (failed, next) = (scene.clock.elapsed(), scene.next_leader(before.epoch));
    assert_in_time(&scene, "SIGSTOP between commit and send", failed, next);
    scene.served(1);
    leader.signal("CONT");
    deposed(&scene, before);
    assert!(claimed.iter().all(|id| !scene.truth.has_seen(*id)), "{claimed:?}");
    scene.finish().await.assert_sound();
}

#[tokio::test]
async fn a_leader_that_is_told_to_stop_hands_over_at_once_and_leaves_nothing_unanswered() {
    let Some(mut scene) = Scene::new(2).await else { return };
    scene.served(20);
    let (before, failed) = (scene.leader(), scene.clock.elapsed());
    scene.nodes[before.node].signal("TERM");
    let next = scene.next_leader(before.epoch);
    let took = next.at.saturating_sub(failed);
    tell(&format!("SIGTERM: {took:?} until the next one leads"));
    assert!(took <= Duration::from_secs(1) + SLACK, "{took:?}\n{}", scene.logs());
    assert_eq!(scene.nodes[before.node].ended(SLACK), 0);
    assert_eq!(scene.nodes[next.node].lines("leading")[0].1["orphans"], 0);
    scene.finish().await.assert_sound();
}

#[tokio::test]
async fn a_leader_whose_network_is_cut_is_replaced_and_stands_by_once_the_network_is_back() {
    let Some(scene) = Scene::new(2).await else { return };
    for passes in [Passes::Nothing, Passes::Up] {
        scene.served(20);
        let (before, failed) = (scene.leader(), scene.clock.elapsed());
        scene.nodes[before.node].set_ways(passes);
        let next = scene.next_leader(before.epoch);
        assert_in_time(&scene, &format!("{passes:?} passes"), failed, next);
        scene.served(1);
        scene.nodes[before.node].set_ways(Passes::Both);
        deposed(&scene, before);
    }
    scene.finish().await.assert_sound();
}

/// Waits until a daemon has noticed that it leads no more.
fn deposed(scene: &Scene, leader: Leading) {
    let node = &scene.nodes[leader.node];
    wait_until(
        Duration::from_secs(30),
        || format!("the end of a leadership:\n{}", scene.logs()),
        || node.lines("deposed").pop().filter(|(at, _)| *at > leader.at),
    );
}

#[tokio::test]
async fn a_server_that_ends_and_starts_again_is_worked_on_again() {
    let Some(server) = Server::start().await else { return };
    let scene = Scene::of(&[&server], 2, 7);
    scene.truth.set(Mood::Mixed);
    for what in ["pg_ctl restart -m immediate", "SIGKILL of the postmaster"] {
        scene.served(20);
        if what.starts_with("SIGKILL") {
            server.kill();
            server.start_again();
        } else {
            server.restart();
        }
        let up = scene.clock.elapsed();
        let took = scene.served(1).saturating_sub(up);
        tell(&format!("{what}: {took:?} from the server's start to the next request"));
        assert!(took <= LEASE + Duration::from_secs(1) + SLACK, "{what}: {took:?}\n{}", scene.logs());
    }
    scene.finish().await.assert_sound();
}

#[tokio::test]
async fn a_standby_server_that_was_promoted_is_found_by_its_url() {
    let Some(primary) = Server::start().await else { return };
    let standby = primary.standby().await;
    let scene = Scene::of(&[&primary, &standby], 2, 7);
    scene.truth.set(Mood::Mixed);
    scene.served(20);
    primary.kill();
    standby.promote();
    let up = scene.clock.elapsed();
    let took = scene.served(1).saturating_sub(up);
    tell(&format!("promotion: {took:?} from the promotion to the next request"));
    assert!(took <= LEASE + Duration::from_secs(1) + SLACK, "{took:?}\n{}", scene.logs());
    scene.finish().await.assert_sound();
}

#[tokio::test]
async fn a_primary_that_is_gone_without_a_word_is_given_up_for_the_one_that_was_promoted() {
    let Some(primary) = Server::start().await else { return };
    let standby = primary.standby().await;
    let scene = Scene::of(&[&primary, &standby], 2, 7);
    scene.served(20);
    let before = scene.leader();
    scene.nodes.iter().for_each(|node| node.ways[0].set(Passes::Nothing));
    primary.kill();
    standby.promote();
    let up = scene.clock.elapsed();
    let took = scene.next_leader(before.epoch).at.saturating_sub(up);
    tell(&format!("promotion, the primary is silent: {took:?} from the promotion to the next leader"));
    scene.served(1);
    // First, a daemon tries for two seconds to connect to the one that is gone.
    assert!(took <= LEASE + Duration::from_secs(3) + SLACK, "{took:?}\n{}", scene.logs());
    scene.nodes.iter().for_each(|node| node.ways[0].set(Passes::Both));
    scene.finish().await.assert_sound();
}

#[tokio::test]
async fn a_server_that_takes_no_writes_for_a_while_is_waited_for() {
    let Some(server) = Server::start().await else { return };
    let scene = Scene::of(&[&server], 2, 7);
    scene.served(20);
    // A daemon notices only if there is something to write.
    let has_told = |node: &Node| !node.lines("database_unavailable").is_empty();
    for _ in 0..20 {
        server.takes_writes(false).await;
        let until = scene.clock.elapsed() + Duration::from_secs(1);
        while scene.clock.elapsed() < until && !scene.nodes.iter().any(has_told) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        server.takes_writes(true).await;
        scene.served(20);
        if scene.nodes.iter().any(has_told) {
            break;
        }
    }
    assert!(scene.nodes.iter().any(has_told), "{}", scene.logs());
    scene.finish().await.assert_sound();
}
