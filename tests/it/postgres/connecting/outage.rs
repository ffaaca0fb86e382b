//! An outage whose reason changes: each reason is a warning once.

use std::{collections::HashSet, time::Duration};

use tokio::time::sleep;

use super::front::{Act, Front};
use crate::{
    cluster::{OWNER, cluster},
    daemon::{Daemon, configure, sandbox, sweeper},
    engines::postgres::Postgres,
    suite::engine::{Engine as _, Setup},
};

/// Long enough for two tries.
const TRIES: Duration = Duration::from_millis(2_500);

#[tokio::test]
async fn each_new_reason_of_an_outage_is_warned_of_once() {
    if cluster().is_none() {
        return;
    }
    let engine = Postgres::create(Setup { busy_timeout: Duration::ZERO, in_memory: false }).await;
    let (dir, sandbox) =
        (tempfile::tempdir().unwrap(), sandbox(audio_cache_sweeper::sandbox::Options::default()).await);
    let front = Front::new(Act::Forward).await;
    let mut command = configure(sweeper(dir.path()), &sandbox);
    let url = format!("postgres://{OWNER}@127.0.0.1:{}/{}", front.port(), engine.database.name());
    command.env("SWEEPER__DATABASE__URL", url);
    let daemon = Daemon::start(command).until("leading").await;
    let acts = [Act::Close, Act::Say(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Act::Close];
    for act in acts {
        front.set(act);
        sleep(TRIES).await;
    }
    front.set(Act::Forward);
    let daemon = daemon.until("database_available").await;
    daemon.signal("TERM");
    let (code, log) = daemon.ended().await;
    assert_eq!(code, 0, "{log:#?}");
    let down = log.lines().iter().filter(|line| line["event"] == "database_unavailable" && line["level"] == "WARN");
    let told: Vec<&str> = down.map(|line| line["error"].as_str().unwrap()).collect();
    let reasons: HashSet<&&str> = told.iter().collect();
    assert_eq!(reasons.len(), told.len(), "{told:#?}");
    for reason in ["closed the connection", "does not speak as PostgreSQL does"] {
        assert!(told.iter().any(|error| error.contains(reason)), "{reason}: {told:#?}");
    }
}
