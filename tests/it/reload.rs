//! SIGHUP: the configuration and the key are read again, and what can change does, while the daemon runs.

use std::{fs, os::unix::net::UnixDatagram, path::Path, process::Command, time::Duration};

use audio_cache_sweeper::sandbox::{Options, Sandbox};

use crate::daemon::{BINARY, Daemon, KEY, blocking, clean, configured, finish, queue, sandbox, skipped, sql};

/// A daemon with a configuration file beside its environment.
fn command(dir: &Path, sandbox: &Sandbox, text: &str) -> Command {
    write(dir, text);
    let mut command = configured(dir, sandbox);
    command.env("SWEEPER_CONFIG", dir.join("sweeper.toml"));
    // The file says these.
    for name in ["RATE_LIMIT__REQUESTS_PER_SECOND", "RATE_LIMIT__BURST", "DELIVERY__LINGER", "API__KEY"] {
        command.env_remove(format!("SWEEPER__{name}"));
    }
    command
}

fn write(dir: &Path, text: &str) {
    fs::write(dir.join("sweeper.toml"), text).unwrap();
}

fn settings(rate: &str, log: &str, more: &str) -> String {
    format!(
        "[api]\nkey = \"{KEY}\"\n[rate_limit]\nrequests_per_second = {rate}\nburst = 1\n[delivery]\nlinger = \"0s\"\n[log]\n{log}\n{more}"
    )
}

#[tokio::test]
async fn a_lower_rate_and_another_filter_are_in_effect_at_once_and_said() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), 1).await;
    let text = settings("1000", "requests = 'failed'", "");
    let daemon = Daemon::start(command(dir.path(), &sandbox, &text)).until("started").await;
    sandbox.arrived(1).await;
    write(dir.path(), &settings("0.001", "filter = 'debug'", ""));
    daemon.signal("HUP");
    let daemon = daemon.until("reloaded").await;
    // One request of each of these agents may go within sixteen minutes, and one has gone.
    sql(dir.path(), "INSERT INTO deletions (agent_id, entry_id) VALUES ('b', 1), ('c', 1)").await;
    blocking(|| std::thread::sleep(Duration::from_millis(300))).await;
    daemon.signal("TERM");
    let (code, log) = daemon.ended().await;
    assert_eq!((code, log.count("reloaded", "INFO"), sandbox.requests().len()), (0, 1, 1), "{log:#?}");
    assert_eq!(
        log.last("reloaded", "changes"),
        "log.filter: info -> debug, log.requests: failed -> all, rate_limit.requests_per_second: 1000 -> 0.001"
    );
    assert_eq!(
        sql(dir.path(), "SELECT requests_per_second || '' FROM daemon").await[0].0,
        "0.001",
        "`status` reads it"
    );
    assert_eq!(log.count("restart_needed", "WARN") + log.count("reload_failed", "ERROR"), 0);
}

#[tokio::test]
async fn the_filter_can_be_changed_to_debug_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), 1).await;
    let text = settings("1000", "filter = 'info'", "");
    let daemon = Daemon::start(command(dir.path(), &sandbox, &text)).until("request").await;
    write(dir.path(), &settings("1000", "filter = 'debug'", ""));
    daemon.signal("HUP");
    let daemon = daemon.until("reloaded").await;
    sql(dir.path(), "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', 2)").await;
    let daemon = daemon.until("deletion").await;
    daemon.signal("TERM");
    assert_eq!(daemon.ended().await.0, 0);
}

#[tokio::test]
async fn a_stricter_filter_does_not_hide_that_the_configuration_was_read() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), 1).await;
    let text = settings("1000", "filter = 'info'", "");
    let daemon = Daemon::start(command(dir.path(), &sandbox, &text)).until("request").await;
    write(dir.path(), &settings("1", "filter = 'warn'", ""));
    daemon.signal("HUP");
    let daemon = daemon.until("reloaded").await;
    daemon.signal("TERM");
    let (code, log) = daemon.ended().await;
    let changes = "log.filter: info -> warn, rate_limit.requests_per_second: 1000 -> 1";
    assert_eq!((code, log.last("reloaded", "changes").as_str()), (0, changes), "{log:#?}");
    assert_eq!(log.count("stopping", "INFO"), 0, "the new filter is in effect");
}

#[tokio::test]
async fn a_file_that_is_wrong_changes_nothing_and_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), 1).await;
    let good = settings("1000", "requests = 'all'", "");
    let mut daemon = Daemon::start(command(dir.path(), &sandbox, &good)).until("request").await;
    let two = settings("0", "requests = 'some'", "");
    let key_file = dir.path().join("no-key");
    let no_key = good.replace(&format!("key = \"{KEY}\""), &format!("key_file = \"{}\"", key_file.display()));
    let cases = [
        (two.as_str(), &["rate_limit.requests_per_second", "log.requests = \"some\"", "sweeper.toml, line"][..]),
        ("[log]\nfilters = 'info'\n", &["sweeper.toml, line 2", "filters", "did you mean"][..]),
        ("[log\n", &["sweeper.toml, line 1"][..]),
        ("", &["no API key"][..]),
        (no_key.as_str(), &["no-key"][..]),
    ];
    for (text, said) in cases {
        write(dir.path(), text);
        daemon.signal("HUP");
        daemon = daemon.until("reload_failed").await;
        let line = daemon.text().lines().last().unwrap().to_owned();
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        let error = line["error"].as_str().unwrap();
        assert_eq!(line["level"], "ERROR");
        assert!(said.iter().all(|said| error.contains(said)) && !error.contains('\n'), "{error}");
        assert!(!error.contains(KEY), "{error}");
    }
    fs::remove_file(dir.path().join("sweeper.toml")).unwrap();
    daemon.signal("HUP");
    let daemon = daemon.until("reload_failed").await;
    sql(dir.path(), "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', 2)").await;
    let daemon = daemon.until("request").await;
    daemon.signal("TERM");
    let (code, log) = daemon.ended().await;
    assert_eq!((code, log.count("reloaded", "INFO"), log.count("reload_failed", "ERROR")), (0, 0, 6), "{log:#?}");
}

#[tokio::test]
async fn what_needs_a_restart_is_named_with_the_value_that_stays_and_the_environment_still_wins() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), 1).await;
    let mut command = command(dir.path(), &sandbox, &settings("1000", "", ""));
    command.env("SWEEPER__RETRY__MAX_ATTEMPTS", "3");
    let daemon = Daemon::start(command).until("request").await;
    let more = "format = 'text'\n[http]\nlisten = '127.0.0.1:1'\n[retry]\nmax_attempts = 9\n[hold]\nafter_faults = 7\n";
    write(dir.path(), &settings("1000", "", more));
    daemon.signal("HUP");
    let daemon = daemon.until("reloaded").await;
    daemon.signal("HUP");
    let daemon = daemon.until("reloaded").await;
    daemon.signal("TERM");
    let (code, log) = daemon.ended().await;
    let keys = "http.listen: off -> 127.0.0.1:1, log.format: auto -> text";
    assert_eq!((code, log.last("restart_needed", "keys").as_str()), (0, keys), "{log:#?}");
    assert_eq!(log.count("restart_needed", "WARN"), 2, "as long as they differ");
    assert_eq!(log.last("reloaded", "changes"), "none", "the second time");
}

#[tokio::test]
async fn another_key_is_used_and_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), 1).await;
    let good = settings("1000", "", "");
    let wrong = good.replace(KEY, "wr0ng-k3y-of-yesterday");
    let mut command = command(dir.path(), &sandbox, &wrong);
    command.env("SWEEPER__HOLD__MAX_DELAY", "1s");
    let daemon = Daemon::start(command).until("hold_placed").await;
    write(dir.path(), &good);
    daemon.signal("HUP");
    let daemon = daemon.until("reloaded").await.until("hold_lifted").await;
    let text = daemon.text().to_owned();
    assert!(!text.contains(KEY) && !text.contains("wr0ng-k3y"), "{text}");
    daemon.signal("TERM");
    let (code, log) = daemon.ended().await;
    assert_eq!((code, log.last("reloaded", "changes").as_str()), (0, "the API key (not shown)"), "{log:#?}");
    assert_eq!(sql(dir.path(), "SELECT state FROM deletions").await[0].0, "deleted");
}

#[tokio::test]
async fn the_service_manager_is_told_that_it_reloads_and_that_it_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let next = || {
        let socket = socket.try_clone().unwrap();
        blocking(move || {
            let mut message = [0; 1024];
            let length = socket.recv(&mut message).unwrap();
            String::from_utf8(message[..length].to_vec()).unwrap()
        })
    };
    let mut command = command(dir.path(), &sandbox, &settings("1000", "", ""));
    command.env("NOTIFY_SOCKET", dir.path().join("notify"));
    let daemon = Daemon::start(command);
    assert!(next().await.contains("READY=1\n"));
    for text in ["[wrong", &settings("5", "", "")] {
        write(dir.path(), text);
        daemon.signal("HUP");
        let said = next().await;
        assert!(said.contains("RELOADING=1\n") && said.contains("MONOTONIC_USEC="), "{said}");
        assert!(next().await.contains("READY=1\n"));
    }
    daemon.signal("TERM");
    assert!(next().await.contains("STOPPING=1\n"));
    assert_eq!(daemon.ended().await.0, 0);
}

#[tokio::test]
async fn with_a_terminal_as_standard_output_it_ends_in_good_order() {
    if Command::new("script").arg("--version").output().is_err() {
        return skipped("there is no script(1) that gives a terminal");
    }
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), 1).await;
    let mut script = crate::daemon::configure(clean("script", dir.path()), &sandbox);
    // It has answered a request, so it listens to signals.
    let run = format!(
        "{BINARY} run & until grep -q deleted typescript; do sleep 0.05; done; kill -HUP $!; wait $!; echo ended with $?"
    );
    script.env("SHELL", "/bin/sh").args(["-qfec", &run, "typescript"]);
    let (_, said, _) = finish(script).await;
    assert!(said.contains("stopping (told)") && said.contains("ended with 0"), "{said}");
}
