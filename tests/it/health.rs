//! What whoever watches can ask: metrics, health, and the commands that go with them.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    time::Duration,
};

use assert_cmd::assert::OutputAssertExt as _;
use audio_cache_sweeper::sandbox::{Mood, Options, Sandbox};

use crate::{
    daemon::{Daemon, KEY, Locked, blocking, configured, finish, queue, sandbox, sql, sweeper},
    hostile::{Hostile, Say, answer},
    scrape::{Family, parse},
};

/// What an address answers: status, content type, body.
pub fn get(address: SocketAddr, path: &str) -> io::Result<(u16, String, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: sweeper\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let content_type = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap_or_default();
    Ok((head.split(' ').nth(1).unwrap().parse().unwrap(), content_type.to_owned(), body.to_owned()))
}

pub async fn ask(address: SocketAddr, path: &'static str) -> (u16, String) {
    let (status, _, body) = blocking(move || get(address, path).unwrap()).await;
    (status, body)
}

pub fn listening(mut command: Command) -> Command {
    command.env("SWEEPER__HTTP__LISTEN", "127.0.0.1:0");
    command
}

pub fn address(daemon: &Daemon) -> SocketAddr {
    let line: serde_json::Value =
        daemon.text().lines().map(|line| serde_json::from_str(line).unwrap()).find(is_listening).unwrap();
    line["address"].as_str().unwrap().parse().unwrap()
}

fn is_listening(line: &serde_json::Value) -> bool {
    line["event"] == "listening"
}

pub async fn scrape(address: SocketAddr) -> Vec<Family> {
    let (status, content_type, body) = blocking(move || get(address, "/metrics").unwrap()).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(content_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    parse(&body)
}

/// The value of a sample, by its whole name with its labels.
pub fn value(families: &[Family], sample: &str) -> f64 {
    let all = families.iter().flat_map(|family| &family.samples);
    let found = all.clone().find(|(name, _)| name == sample);
    found.unwrap_or_else(|| panic!("no {sample} among {:#?}", all.collect::<Vec<_>>())).1
}

/// What a statement counts.
async fn count(dir: &Path, statement: &str) -> f64 {
    sql(dir, &format!("SELECT CAST(({statement}) AS TEXT)")).await[0].0.parse().unwrap()
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "the metrics are one table, checked line by line")]
async fn the_metrics_are_openmetrics_and_say_what_the_database_says() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        agents: vec![("a".to_owned(), 50), ("b".to_owned(), 9), ("locked".to_owned(), 3)],
        forbidden: vec!["locked".to_owned()],
        ..Options::default()
    };
    let sandbox = sandbox(options).await;
    sweeper(dir.path()).arg("init").assert().code(0);
    // One is bad and two are not there; one request of `locked` is refused, and one has no answer.
    sql(
        dir.path(),
        "INSERT INTO deletions (agent_id, entry_id) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n
         WHERE i < 52) SELECT 'a', i FROM n UNION ALL SELECT 'b', i FROM n WHERE i < 10
         UNION ALL SELECT 'locked', i FROM n WHERE i < 4",
    )
    .await;
    sql(dir.path(), "INSERT INTO deletions (agent_id, entry_id, due_at) VALUES ('later', 1, 4000000000000)").await;
    sandbox.script([Mood::Reset { done: false }, Mood::status(503)]);
    let mut command = listening(configured(dir.path(), &sandbox));
    command.env("SWEEPER__RETRY__MAX_ATTEMPTS", "3").env("SWEEPER__HOLD__MAX_DELAY", "1h");
    command.env("SWEEPER__HOLD__BASE_DELAY", "1h");
    let daemon = Daemon::start(command);
    let daemon = daemon.until("hold_placed").await;
    let address = address(&daemon);
    // `a` and `b` are done when what is open is held or not due; and the loop counts what it has written.
    while count(dir.path(), "SELECT count(*) FROM deletions WHERE state = 'pending'").await != 4.0 {}
    let written = count(dir.path(), "SELECT count(*) FROM outcomes").await;
    let families = loop {
        let families = scrape(address).await;
        let counted: f64 = ["deleted", "absent", "retry", "release", "dead"]
            .map(|verdict| value(&families, &format!("sweeper_deletions_total{{verdict=\"{verdict}\"}}")))
            .into_iter()
            .sum();
        if counted == written && value(&families, "sweeper_in_flight") == 0.0 {
            break families;
        }
    };

    let types: Vec<(&str, &str)> = families.iter().map(|family| (&*family.name, &*family.kind)).collect();
    assert_eq!(
        types,
        [
            ("sweeper_build", "info"),
            ("process_start_time_seconds", "gauge"),
            ("sweeper_deletions", "counter"),
            ("sweeper_requests", "counter"),
            ("sweeper_request_duration_seconds", "histogram"),
            ("sweeper_batch_size", "histogram"),
            ("sweeper_in_flight", "gauge"),
            ("sweeper_leader", "gauge"),
            ("sweeper_rate_requests_per_second", "gauge"),
            ("sweeper_rate_ceiling_requests_per_second", "gauge"),
            ("sweeper_concurrency_limit", "gauge"),
            ("sweeper_limit_reason", "gauge"),
            ("sweeper_queue_depth", "gauge"),
            ("sweeper_oldest_due_age_seconds", "gauge"),
            ("sweeper_holds", "gauge"),
        ]
    );
    let units: Vec<&str> = families.iter().filter_map(|family| family.unit.as_deref()).collect();
    assert_eq!(units, ["seconds"; 3]);
    let is = |sample: &str, expected: f64| assert_eq!(value(&families, sample), expected, "{sample}");
    is(concat!("sweeper_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}"), 1.0);
    for verdict in ["deleted", "absent", "retry", "release", "dead"] {
        let written = format!("SELECT count(*) FROM outcomes WHERE verdict = '{verdict}'");
        is(&format!("sweeper_deletions_total{{verdict=\"{verdict}\"}}"), count(dir.path(), &written).await);
    }
    is("sweeper_deletions_total{verdict=\"deleted\"}", 59.0);
    is("sweeper_deletions_total{verdict=\"absent\"}", 2.0);
    for status in [200, 403, 503] {
        let written = format!("SELECT count(*) FROM requests WHERE status = {status}");
        let written = count(dir.path(), &written).await;
        assert!(written > 0.0, "{status}");
        is(&format!("sweeper_requests_total{{status=\"{status}\"}}"), written);
    }
    is("sweeper_requests_total{status=\"none\"}", 1.0);
    let requests = count(dir.path(), "SELECT count(*) FROM requests WHERE answered_at IS NOT NULL").await;
    is("sweeper_request_duration_seconds_count", requests);
    is("sweeper_batch_size_count", count(dir.path(), "SELECT count(*) FROM requests WHERE kind = 'bulk'").await);
    is("sweeper_batch_size_sum", count(dir.path(), "SELECT sum(size) FROM requests WHERE kind = 'bulk'").await);
    is("sweeper_in_flight", 0.0);
    is("sweeper_queue_depth{state=\"pending\"}", 4.0);
    is("sweeper_queue_depth{state=\"due\"}", 3.0);
    is("sweeper_queue_depth{state=\"dead\"}", 0.0);
    is("sweeper_holds{cause=\"forbidden\"}", 1.0);
    is("sweeper_holds{cause=\"operator\"}", 0.0);
    let oldest = value(&families, "sweeper_oldest_due_age_seconds");
    assert!((0.0..600.0).contains(&oldest), "{oldest}");
    is("sweeper_rate_requests_per_second", 1_000.0);
    is("sweeper_rate_ceiling_requests_per_second", 1_000.0);
    is("sweeper_concurrency_limit", 8.0);
    for (limit, why, is_it) in [("rate", "ceiling", 1.0), ("rate", "found", 0.0), ("concurrency", "ceiling", 1.0)] {
        is(&format!("sweeper_limit_reason{{limit=\"{limit}\",why=\"{why}\"}}"), is_it);
    }

    daemon.signal("TERM");
    assert_eq!(daemon.ended().await.0, 0);
}

#[tokio::test]
async fn a_daemon_is_ready_while_it_works_and_not_while_the_database_is_locked() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), 1).await;
    let locked = Locked::new(dir.path()).await;
    let mut command = listening(configured(dir.path(), &sandbox));
    command.env("SWEEPER__DATABASE__BUSY_TIMEOUT", "0ms");
    let daemon = Daemon::start(command).until("database_unavailable").await;
    let address = address(&daemon);
    assert_eq!(ask(address, "/livez").await, (200, "ok\n".to_owned()), "to end it would not help");
    assert_eq!(ask(address, "/readyz").await.0, 503);
    locked.release().await;
    let daemon = daemon.until("request").await;
    assert_eq!(ask(address, "/readyz").await, (200, "ok\n".to_owned()));

    // An answer comes back that cannot be written.
    sandbox.script([Mood::Gate]);
    sql(dir.path(), "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', 'more')").await;
    sandbox.arrived(2).await;
    let locked = Locked::new(dir.path()).await;
    sandbox.open_gate();
    // Asked and not read from the log: the INSERT above may have been in its way for a moment, too.
    let said = loop {
        let (status, said) = ask(address, "/readyz").await;
        if status == 503 {
            break said;
        }
    };
    assert!(said.contains("cannot be used"), "{said}");
    assert_eq!(ask(address, "/livez").await.0, 200);
    locked.release().await;
    while ask(address, "/readyz").await.0 != 200 {}
    for (path, said) in [("/nowhere", 404), ("/metrics/", 404), ("/livez?verbose", 200)] {
        assert_eq!(ask(address, path).await.0, said, "{path}");
    }
    daemon.signal("TERM");
    assert_eq!(daemon.ended().await.0, 0);
}

#[tokio::test]
async fn while_it_stops_it_is_alive_and_not_ready_and_a_client_that_hangs_holds_nothing_up() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    sandbox.script([Mood::Gate]);
    queue(dir.path(), 1).await;
    let daemon = Daemon::start(listening(configured(dir.path(), &sandbox))).until("started").await;
    let address = address(&daemon);
    sandbox.arrived(1).await;
    let hanging: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect(address).unwrap()).collect();
    write!(&hanging[0], "GET /metrics HTTP/1.1\r\n").unwrap();
    let families = scrape(address).await;
    assert_eq!(value(&families, "sweeper_queue_depth{state=\"pending\"}"), 1.0);
    daemon.signal("TERM");
    let daemon = daemon.until("stopping").await;
    let mut readiness = ask(address, "/readyz").await;
    while readiness.0 == 200 {
        readiness = ask(address, "/readyz").await;
    }
    assert_eq!(readiness, (503, "stopping\n".to_owned()));
    assert_eq!(ask(address, "/livez").await.0, 200);
    sandbox.open_gate();
    let (code, log) = daemon.ended().await;
    assert_eq!((code, log.last("stopped", "deleted").as_str()), (0, "1"));
    drop(hanging);
    assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
}

#[tokio::test]
async fn an_address_that_is_taken_ends_the_start_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = configured(dir.path(), &sandbox);
    command.arg("run").env("SWEEPER__HTTP__LISTEN", &address);
    let (code, _, stderr) = finish(command).await;
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains(&format!("http.listen = \"{address}\": cannot listen")), "{stderr}");
    assert!(stderr.contains("a free port, or off"), "{stderr}");
    assert!(!dir.path().join("sweeper.db").exists(), "nothing was made");
    drop(taken);
    // A second one of the same configuration is told of the first, and not of its port.
    let with_port = || {
        let mut command = configured(dir.path(), &sandbox);
        command.env("SWEEPER__HTTP__LISTEN", &address);
        command
    };
    let first = Daemon::start(with_port()).until("started").await;
    let mut second = with_port();
    second.arg("run");
    let (code, _, stderr) = finish(second).await;
    assert!(code == 3 && stderr.contains(&format!("another sweeper (process {})", first.pid())), "{code}: {stderr}");
    for wrong in ["9464", "localhost:9464", "on", "127.0.0.1", "127.0.0.1:99999"] {
        let failed = sweeper(dir.path()).arg("check").env("SWEEPER__HTTP__LISTEN", wrong).assert().code(2);
        let stderr = String::from_utf8_lossy(&failed.get_output().stderr).into_owned();
        assert!(stderr.contains(&format!("http.listen = {wrong:?}: must be an address and a port")), "{stderr}");
    }
}

#[tokio::test]
async fn healthcheck_ends_with_0_if_the_daemon_is_alive_1_if_not_and_2_if_it_cannot_know() {
    let dir = tempfile::tempdir().unwrap();
    let check = |listen: Option<&str>| {
        let mut command = sweeper(dir.path());
        command.arg("healthcheck").envs(listen.map(|listen| ("SWEEPER__HTTP__LISTEN", listen)));
        // Whatever it is asked through, it must not be this.
        command.env("HTTP_PROXY", "http://127.0.0.1:1").env("http_proxy", "http://127.0.0.1:1");
        finish(command)
    };
    let (code, _, stderr) = check(None).await;
    assert_eq!(code, 2);
    assert!(stderr.contains("http.listen is off") && stderr.contains("SWEEPER__HTTP__LISTEN"), "{stderr}");
    let (code, _, stderr) = check(Some("127.0.0.1:0")).await;
    assert!(code == 2 && stderr.contains("a port that the system chooses"), "{stderr}");

    let sandbox = sandbox(Options::default()).await;
    let daemon = Daemon::start(listening(configured(dir.path(), &sandbox))).until("started").await;
    let port = address(&daemon).port();
    for listen in [format!("127.0.0.1:{port}"), format!("0.0.0.0:{port}")] {
        assert_eq!(check(Some(&listen)).await, (0, "alive\n".to_owned(), String::new()));
    }
    daemon.signal("TERM");
    assert_eq!(daemon.ended().await.0, 0);
    let (code, stdout, stderr) = check(Some(&format!("127.0.0.1:{port}"))).await;
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.contains(&format!("no healthy daemon on 127.0.0.1:{port}")), "{stderr}");
    assert!(stderr.contains("refused"), "{stderr}");
    // Somebody else's server.
    let other = Sandbox::start(SocketAddr::from(([127, 0, 0, 1], 0)), Options::default()).await.unwrap();
    let listen = other.url().trim_start_matches("http://").to_owned();
    let (code, _, stderr) = check(Some(&listen)).await;
    assert!(code == 1 && stderr.contains("404"), "{stderr}");
    // Its redirect would lead to an address that is alive.
    let daemon = Daemon::start(listening(configured(dir.path(), &sandbox))).until("started").await;
    let hostile = Hostile::start().await;
    let location = format!("location: http://{}/livez\r\n", address(&daemon));
    hostile.script([Say::Bytes(answer("302 Found", &location, b"elsewhere"))]);
    let listen = hostile.url.trim_start_matches("http://").to_owned();
    let (code, _, stderr) = check(Some(&listen)).await;
    assert!(code == 1 && stderr.contains(&format!("{listen} answered 302 Found")), "{stderr}");
}

#[tokio::test]
async fn what_a_crash_left_and_the_start_settled_is_counted_too() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    drop(Daemon::start_calling(dir.path(), &sandbox, Mood::Hang, "1m").await);
    sql(dir.path(), "INSERT INTO holds (scope) VALUES ('*')").await;
    let daemon = Daemon::start(listening(configured(dir.path(), &sandbox))).until("recovered").await;
    let address = address(&daemon);
    while value(&scrape(address).await, "sweeper_deletions_total{verdict=\"retry\"}") != 1.0 {}
    assert_eq!(value(&scrape(address).await, "sweeper_requests_total{status=\"none\"}"), 0.0, "not ours");
    daemon.signal("TERM");
    assert_eq!(daemon.ended().await.0, 0);
}

#[test]
fn completions_are_printed_for_each_shell_and_name_the_commands() {
    let dir = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let done = sweeper(dir.path()).args(["completions", shell]).assert().code(0);
        let text = String::from_utf8_lossy(&done.get_output().stdout).into_owned();
        assert!(text.contains("healthcheck") && text.contains("until-empty"), "{shell}: {text}");
    }
    let wrong = sweeper(dir.path()).args(["completions", "cmd"]).assert().code(2);
    let stderr = String::from_utf8_lossy(&wrong.get_output().stderr).into_owned();
    assert!(stderr.contains("'cmd'") && stderr.contains("bash"), "{stderr}");
    sweeper(dir.path()).arg("completions").assert().code(2);
}

#[test]
fn manual_pages_are_printed_for_the_program_and_for_each_command() {
    let dir = tempfile::tempdir().unwrap();
    let page = |arguments: &[&str]| {
        let done = sweeper(dir.path()).arg("man").args(arguments).assert().code(0);
        String::from_utf8_lossy(&done.get_output().stdout).into_owned()
    };
    let program = page(&[]);
    assert!(program.contains(".TH sweeper 1") && program.contains("Exit codes"), "{program}");
    let run = page(&["run"]);
    assert!(run.contains(".TH sweeper-run 1") && run.contains("until\\-empty") && run.contains("config"), "{run}");
    let wrong = sweeper(dir.path()).args(["man", "rnu"]).assert().code(2);
    let stderr = String::from_utf8_lossy(&wrong.get_output().stderr).into_owned();
    assert!(stderr.contains("there is no command \"rnu\"; there are run, enqueue, "), "{stderr}");
}

#[tokio::test]
async fn a_backup_while_it_runs_is_a_queue_to_go_on_from() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    let daemon = Daemon::start_calling(dir.path(), &sandbox, Mood::Gate, "1m").await;
    sql(dir.path(), "VACUUM INTO 'copy.db'".replace("copy.db", dir.path().join("copy.db").to_str().unwrap()).as_str())
        .await;
    sandbox.open_gate();
    let daemon = daemon.until("request").await;
    daemon.signal("TERM");
    assert_eq!(daemon.ended().await.0, 0);
    let mut command = configured(dir.path(), &sandbox);
    command.args(["run", "--until-empty"]).env("SWEEPER__DATABASE__PATH", "copy.db").env("SWEEPER__API__KEY", KEY);
    let (code, stdout, _) = finish(command).await;
    assert_eq!(code, 0, "{stdout}");
    assert!(stdout.contains(r#""event":"recovered""#), "the request that was on its way: {stdout}");
    assert_eq!(sandbox.requests().len(), 3, "its row was sent again, and, since it is gone already, asked about alone");
}
