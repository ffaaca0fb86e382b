//! Files that hang while they are read again, as on a network file system that is away: the loop does not wait for them.

use std::{
    fs::{self, File},
    time::Duration,
};

use audio_cache_sweeper::{
    model::clock::Clock,
    sandbox::{Mood, Options},
};

use crate::{
    daemon::{Daemon, KEY, configured, queue, sandbox, sql},
    reads::{failing, library},
    tls::{Authority, over_tls},
};

/// Much less than the minute for which a read hangs.
const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_key_file_that_hangs_keeps_neither_the_loop_nor_the_end() {
    for event in ["key_unusable", "stopping"] {
        let dir = tempfile::tempdir().unwrap();
        let Some(library) = library(dir.path()) else { return };
        let sandbox = sandbox(Options::default()).await;
        fs::write(dir.path().join("the-key"), KEY).unwrap();
        queue(dir.path(), 1).await;
        sandbox.script([Mood::Plain, Mood::status(401)]);
        let clock = Clock::system();
        let mut command = configured(dir.path(), &sandbox);
        command
            .env_remove("SWEEPER__API__KEY")
            .env("SWEEPER__API__KEY_FILE", "the-key")
            .env("SWEEPER__SHUTDOWN__GRACE", "0s");
        failing(&mut command, &library, "/the-key", 1, 1).env("FAIL_READS_WHEN", dir.path().join("bad"));
        command.env("HANG_READS", dir.path().join("hangs"));
        let daemon = Daemon::start(command).until("request").await;
        File::create(dir.path().join("bad")).unwrap();
        sql(dir.path(), "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', '2')").await;
        while !dir.path().join("hangs").exists() {
            assert!(clock.elapsed() < SOON, "the key is not read again");
            tokio::task::yield_now().await;
        }
        let daemon = if event == "key_unusable" { daemon.until(event).await } else { daemon };
        daemon.signal("TERM");
        let (code, log) = daemon.ended().await;
        assert_eq!(code, 0, "{log:#?}");
        assert!(clock.elapsed() < SOON, "{event}: {:?} {log:#?}", clock.elapsed());
        if event == "key_unusable" {
            let said = log.last("key_unusable", "error");
            let file = dir.path().join("the-key");
            let expected =
                format!("api.key_file {}: could not be read within 5 s: its file system hangs", file.display());
            assert_eq!(said, expected);
        }
    }
}

#[tokio::test]
async fn certificates_that_hang_keep_nobody_the_old_ones_stay() {
    let dir = tempfile::tempdir().unwrap();
    let Some(library) = library(dir.path()) else { return };
    let sandbox = sandbox(Options::default()).await;
    let authority = Authority::new();
    fs::write(dir.path().join("the-ca.pem"), &authority.pem).unwrap();
    let port = authority.serve("localhost", false, &sandbox).await.port();
    queue(dir.path(), 1).await;
    // After three of these, the next request goes over a new connection, for which the certificates are read again.
    sandbox.script(vec![Mood::status(503); 3]);
    let mut command = over_tls(dir.path(), &sandbox, port);
    command.env("SWEEPER__API__CA_FILE", "the-ca.pem").env("SWEEPER__HOLD__BASE_DELAY", "1s");
    failing(&mut command, &library, "/the-ca.pem", 1, 1).env("FAIL_READS_WHEN", dir.path().join("bad"));
    command.env("HANG_READS", dir.path().join("hangs"));
    let clock = Clock::system();
    let daemon = Daemon::start(command).until("started").await;
    File::create(dir.path().join("bad")).unwrap();
    sandbox.arrived(4).await;
    let mut daemon = daemon;
    for _ in 0..4 {
        daemon = daemon.until("request").await;
    }
    daemon.signal("TERM");
    let (code, log) = daemon.ended().await;
    assert_eq!((code, log.last("request", "status").as_str()), (0, "200"), "{log:#?}");
    assert!(dir.path().join("hangs").exists() && clock.elapsed() < SOON, "{:?}", clock.elapsed());
}
