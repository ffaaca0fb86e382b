//! The service manager's view: ready, alive, stopping.

use std::{fs, os::unix::net::UnixDatagram, path::Path, process::Command, time::Duration};

use audio_cache_sweeper::sandbox::{Mood, Options};

use crate::daemon::{Daemon, Locked, Log, blocking, configured, queue, sandbox};

/// A socket as systemd has it.
struct Manager(UnixDatagram);

impl Manager {
    fn new(dir: &Path) -> Self {
        Self::on(UnixDatagram::bind(dir.join("notify")).unwrap())
    }

    fn on(socket: UnixDatagram) -> Self {
        // Long enough for any machine; a test that waits for so long has failed.
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self(socket)
    }

    /// Waits for a message with this line; how many others came before.
    async fn told(&self, line: &'static str) -> usize {
        let socket = self.0.try_clone().unwrap();
        blocking(move || {
            let mut others = 0;
            loop {
                let mut message = [0; 1024];
                let length = socket.recv(&mut message).unwrap();
                if std::str::from_utf8(&message[..length]).unwrap().lines().any(|said| said == line) {
                    return others;
                }
                others += 1;
            }
        })
        .await
    }
}

fn supervised(mut command: Command, dir: &Path, watchdog_ms: u64) -> Command {
    command
        .env("NOTIFY_SOCKET", dir.join("notify"))
        .env("WATCHDOG_USEC", (watchdog_ms * 1_000).to_string())
        .env("SWEEPER__QUEUE__POLL_INTERVAL", "10m");
    command
}

#[tokio::test]
async fn it_is_told_ready_alive_and_stopping_also_between_rare_polls_and_during_the_grace_period() {
    let dir = tempfile::tempdir().unwrap();
    let manager = Manager::new(dir.path());
    let sandbox = sandbox(Options::default()).await;
    sandbox.script([Mood::Gate]);
    queue(dir.path(), 1).await;
    let daemon = Daemon::start(supervised(configured(dir.path(), &sandbox), dir.path(), 200));
    assert_eq!(manager.told("READY=1").await, 0, "the first that is said");
    for _ in 0..10 {
        assert_eq!(manager.told("WATCHDOG=1").await, 0);
    }
    sandbox.arrived(1).await;
    daemon.signal("TERM");
    manager.told("STOPPING=1").await;
    // The call does not come back yet, and its time is not over.
    for _ in 0..10 {
        assert_eq!(manager.told("WATCHDOG=1").await, 0);
    }
    sandbox.open_gate();
    assert_eq!(daemon.ended().await.0, 0);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_socket_without_a_file_is_written_too() {
    use std::os::{linux::net::SocketAddrExt as _, unix::net::SocketAddr};

    let dir = tempfile::tempdir().unwrap();
    let name = format!("sweeper-test-{}", dir.path().display());
    let manager = Manager::on(UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap());
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), 1).await;
    let mut command = supervised(configured(dir.path(), &sandbox), dir.path(), 200);
    command.env("NOTIFY_SOCKET", format!("@{name}"));
    let daemon = Daemon::start(command);
    assert_eq!(manager.told("READY=1").await, 0);
    daemon.signal("TERM");
    manager.told("STOPPING=1").await;
    let (code, log) = daemon.ended().await;
    assert_eq!((code, log.count("sd_notify_failed", "WARN")), (0, 0), "{log:#?}");
}

#[tokio::test]
async fn without_a_watchdog_it_is_not_fed_and_one_of_another_process_is_not_ours() {
    for other in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let manager = Manager::new(dir.path());
        let sandbox = sandbox(Options::default()).await;
        queue(dir.path(), 1).await;
        let mut command = supervised(configured(dir.path(), &sandbox), dir.path(), 1);
        // The rounds of this one would feed a watchdog of a millisecond, if it had one.
        command.env("SWEEPER__QUEUE__POLL_INTERVAL", "1ms");
        if other {
            command.env("WATCHDOG_PID", "1");
        } else {
            command.env_remove("WATCHDOG_USEC");
        }
        let daemon = Daemon::start(command).until("request").await;
        assert_eq!(manager.told("READY=1").await, 0);
        daemon.signal("TERM");
        assert_eq!(manager.told("STOPPING=1").await, 0, "nothing between the two");
        assert_eq!(daemon.ended().await.0, 0);
    }
}

/// Starts a daemon beside somebody who writes, until it has asked twice for more time with this message; then it works, and is
/// told to end.
async fn a_start_beside_a_writer(busy_timeout: &str, asks: &'static str) -> (i32, Log) {
    let dir = tempfile::tempdir().unwrap();
    let manager = Manager::new(dir.path());
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), 1).await;
    let locked = Locked::new(dir.path()).await;
    let mut command = supervised(configured(dir.path(), &sandbox), dir.path(), 200);
    command.env("SWEEPER__DATABASE__BUSY_TIMEOUT", busy_timeout);
    let daemon = Daemon::start(command);
    for _ in 0..2 {
        assert_eq!(manager.told(asks).await, 0);
    }
    locked.release().await;
    manager.told("READY=1").await;
    daemon.signal("TERM");
    manager.told("STOPPING=1").await;
    daemon.ended().await
}

#[tokio::test]
async fn a_start_that_waits_for_the_database_asks_for_more_time_and_is_ready_only_after_it() {
    assert_eq!(a_start_beside_a_writer("0ms", "EXTEND_TIMEOUT_USEC=4000000").await.0, 0);
}

#[tokio::test]
async fn a_start_that_takes_its_time_asks_for_more_of_it_all_along() {
    // It is in the middle of opening the file, as it is during a migration: no try has failed yet.
    let (code, log) = a_start_beside_a_writer("5m", "EXTEND_TIMEOUT_USEC=10000000").await;
    assert_eq!((code, log.count("database_unavailable", "WARN")), (0, 0), "{log:#?}");
}

#[tokio::test]
async fn a_socket_that_is_gone_is_said_once_and_breaks_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let manager = Manager::new(dir.path());
    let sandbox = sandbox(Options::default()).await;
    sandbox.script([Mood::Gate]);
    queue(dir.path(), 1).await;
    let mut command = supervised(configured(dir.path(), &sandbox), dir.path(), 20);
    command.env("SWEEPER__QUEUE__POLL_INTERVAL", "1ms");
    let daemon = Daemon::start(command);
    manager.told("READY=1").await;
    fs::remove_file(dir.path().join("notify")).unwrap();
    let daemon = daemon.until("sd_notify_failed").await;
    sandbox.arrived(1).await;
    sandbox.open_gate();
    let daemon = daemon.until("request").await;
    daemon.signal("TERM");
    let (code, log) = daemon.ended().await;
    assert_eq!((code, log.count("sd_notify_failed", "WARN")), (0, 1), "{log:#?}");
    assert_eq!(log.last("stopped", "deleted"), "1");
}
