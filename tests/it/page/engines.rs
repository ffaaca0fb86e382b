//! The page of a queue on a server, of whoever leads and of whoever waits; and of a database that cannot be read.

use std::time::Duration;

use audio_cache_sweeper::{sandbox::Options, watch::health::State};

use super::{TOKEN, get, get_known, paged, until};
use crate::{
    daemon::{Daemon, configure, queue, sandbox, sql},
    endpoint::still,
    health::address,
    postgres::commands,
};

#[tokio::test]
async fn a_leader_and_a_standby_tell_who_leads() {
    let Some(mut scene) = commands::scene().await else { return };
    scene
        .engine
        .execute(
            "INSERT INTO deletions (agent_id, entry_id, label) SELECT 'PROJECT-GOES', i, 'ERASURE-17' FROM generate_series(1, 40) AS i;
             INSERT INTO deletions (agent_id, entry_id) VALUES ('PROJECT-HELD', '1'), ('PROJECT-HELD', '2');
             INSERT INTO holds (scope, cause, why) VALUES ('PROJECT-HELD', 'operator', 'they <asked> us to wait')",
        )
        .await;
    let options = Options { agents: vec![("PROJECT-GOES".to_owned(), 39)], ..Options::default() };
    let sandbox = sandbox(options).await;
    let command = || paged(configure(scene.command(&[]), &sandbox));
    let leader = Daemon::start(command()).until("request").await;
    let standby = Daemon::start(command()).until("standby").await;
    let leading = until(address(&leader), "Absent\n1\n").await;
    leading.has(&[
        "Rows wait for a person",
        "Not while PROJECT-HELD is held (2 of 2 rows)",
        "operator: they <asked> us to wait",
        "ERASURE-17\n0\n39\n1\n0\n0\n",
        "Not taken in yet\n0\n",
        "Who leads",
        "epoch 1",
    ]);
    let waiting = until(address(&standby), "epoch 1").await;
    waiting.has(&["Standing by: another daemon leads", "Who leads", "standbys\nsweeper", "Deleted\n39\n"]);
    let open = get(address(&standby), "/").await;
    open.has(&["Standing by: another daemon leads", "Pending\n2\n"]);
    open.has_not(&["PROJECT", "ERASURE", "epoch", "session"]);
    let entry = get_known(address(&standby), "/entry?agent=PROJECT-GOES&id=7").await;
    assert_eq!(entry.status, 200);
    entry.has(&["deleted", "label ERASURE-17", "bulk delete of 20"]);
    let (code, shown, _) = scene.run(&["show", "PROJECT-GOES", "7"]);
    assert!(code == 0 && shown.contains("bulk delete of 20"), "{shown}");
}

#[tokio::test]
async fn many_who_look_cost_one_read() {
    let dir = tempfile::tempdir().unwrap();
    queue(dir.path(), 3).await;
    let (endpoint, health, clock) = still(dir.path(), Some(TOKEN));
    health.set(State::Working);
    until(endpoint.address(), "Pending\n3\n").await;
    sql(dir.path(), "INSERT INTO deletions (agent_id, entry_id) VALUES ('b', 1)").await;
    for _ in 0..20 {
        get(endpoint.address(), "/").await.has(&["Pending\n3\n"]);
    }
    clock.advance(Duration::from_secs(5));
    let page = until(endpoint.address(), "Pending\n4\n").await;
    page.has(&["Version 1.2.3"]);
}

#[tokio::test]
async fn a_database_that_cannot_be_read_is_said_on_a_page_that_still_answers() {
    let dir = tempfile::tempdir().unwrap();
    let (endpoint, health, clock) = still(dir.path(), Some(TOKEN));
    let address = endpoint.address();
    let page = until(address, "The database could not be read").await;
    assert_eq!(page.status, 200);
    page.has(&["Starting: the database is being opened", "sweeper.db", "The last hours"]);
    let open = get(address, "/").await;
    open.has(&["The database could not be read at 2096-10-02 07:06:40 UTC. The log says more."]);
    open.has_not(&["sweeper.db"]);
    let entry = get_known(address, "/entry?agent=a&id=1").await;
    assert_eq!(entry.status, 503);
    entry.has(&["The database could not be read: ", "sweeper.db"]);
    for (state, said) in [
        (State::DatabaseDown, "The database cannot be used; the log says why"),
        (State::Working, "Working"),
        (State::StandingBy, "Standing by: another daemon leads"),
    ] {
        health.set(state);
        get(address, "/").await.has(&[said]);
    }
    health.beat(clock.elapsed());
    clock.advance(Duration::from_secs(35));
    get(address, "/").await.has(&["loop has hung for 35 s"]);
    health.set(State::Stopping);
    health.beat(clock.elapsed());
    get(address, "/").await.has(&["Stopping"]);
    queue(dir.path(), 2).await;
    clock.advance(Duration::from_secs(5));
    until(address, "Pending\n2\n").await;
}
