//! The binary from outside: exit codes, output, signals.

use std::{
    io::{self, BufRead, BufReader, Write as _},
    process::{Command, Stdio},
};

use assert_cmd::assert::OutputAssertExt as _;
use audio_cache_sweeper::sandbox::Options;
use sqlx::{Connection, SqliteConnection};

use crate::daemon::{Daemon, KEY, Locked, blocking, configured, finish, queue, sandbox, sql, sweeper};

#[test]
fn help_tells_the_commands_and_the_exit_codes() {
    let dir = tempfile::tempdir().unwrap();
    let help = sweeper(dir.path()).arg("--help").assert().code(0);
    let help = String::from_utf8(help.get_output().stdout.clone()).unwrap();
    for word in ["run", "init", "check", "demo", "sandbox", "Exit codes: 0 clean", "5 --give-up-after"] {
        assert!(help.contains(word), "{word:?} is missing in\n{help}");
    }
    sweeper(dir.path()).arg("--version").assert().code(0);
    for command in ["run", "init", "check", "demo", "sandbox"] {
        sweeper(dir.path()).args([command, "--help"]).assert().code(0);
    }
}

#[test]
fn usage_and_configuration_errors_end_with_2_and_name_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let wrong = |command: &mut Command, said: &[&str]| {
        let output = command.assert().code(2).get_output().clone();
        let stderr = String::from_utf8(output.stderr).unwrap();
        for text in said {
            assert!(stderr.contains(text), "{text:?} is missing in {stderr}");
        }
    };
    wrong(sweeper(dir.path()).arg("--no-such-flag"), &["--no-such-flag"]);
    wrong(sweeper(dir.path()).args(["run", "--give-up-after", "10m"]), &["--until-empty"]);
    wrong(sweeper(dir.path()).args(["run", "--until-empty", "--give-up-after", "10"]), &["250ms, 30s, 5m"]);
    wrong(sweeper(dir.path()).arg("run"), &["no API key", "SWEEPER__API__KEY", "api.key_file"]);
    wrong(sweeper(dir.path()).arg("run").env("SWEEPER__API__KEY", "a\u{1}b"), &["API key", "printable ASCII"]);
    wrong(sweeper(dir.path()).arg("run").env("SWEEPER__API__KEY_FILE", "nowhere"), &["api.key_file", "nowhere"]);
    wrong(
        sweeper(dir.path()).arg("run").env("SWEEPER__API__REGION", "mars"),
        &["api.region", "mars", "us, eu, uk, studio"],
    );
    wrong(sweeper(dir.path()).arg("run").env("SWEEPER__API__REGOIN", "us"), &["regoin"]);
    wrong(sweeper(dir.path()).args(["run", "--config", "nowhere.toml"]), &["nowhere.toml"]);
    wrong(sweeper(dir.path()).arg("run").env("SWEEPER_CONFIG", "nowhere.toml"), &["nowhere.toml"]);
    assert!(!dir.path().join("sweeper.db").exists(), "nothing was made");
}

#[test]
fn check_prints_the_effective_configuration_without_the_key() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("sweeper.toml"), "[rate_limit]\nburst = 9\n").unwrap();
    let checked = sweeper(dir.path())
        .args(["check", "--config", "sweeper.toml"])
        .env("SWEEPER__API__KEY", KEY)
        .env("SWEEPER__RETRY__MAX_ATTEMPTS", "4")
        .assert()
        .code(0);
    let output = checked.get_output();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    for line in ["rate_limit.burst = 9", "retry.max_attempts = 4", "api.key = [redacted]", ": 10s, 20s, 40s\n"] {
        assert!(stdout.contains(line), "{line:?} is missing in\n{stdout}");
    }
    assert!(!stdout.contains(KEY) && !stderr.contains(KEY));
    let wrong = sweeper(dir.path()).arg("check").env("SWEEPER__RATE_LIMIT__BURST", "0").assert().code(2);
    assert!(String::from_utf8_lossy(&wrong.get_output().stdout).contains("rate_limit.burst = 0"));
    let keyless = sweeper(dir.path()).arg("check").assert().code(2);
    assert!(String::from_utf8_lossy(&keyless.get_output().stdout).contains("rate_limit.burst = 5"));
}

#[tokio::test]
async fn a_database_that_cannot_be_used_ends_with_3_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("text.db"), "this is no database, however long you look at it\n".repeat(100))
        .unwrap();
    std::fs::create_dir(dir.path().join("dir.db")).unwrap();
    for (name, made) in [("foreign.db", "CREATE TABLE theirs (id)"), ("newer.db", "")] {
        let path = dir.path().join(name);
        if made.is_empty() {
            sweeper(dir.path()).arg("init").env("SWEEPER__DATABASE__PATH", &path).assert().code(0);
        }
        let url = format!("sqlite://{}?mode=rwc", path.display());
        let mut conn = SqliteConnection::connect(&url).await.unwrap();
        let newer = "INSERT INTO _sqlx_migrations VALUES (99, 'later', 0, 1, x'00', 0)";
        sqlx::raw_sql(if made.is_empty() { newer } else { made }).execute(&mut conn).await.unwrap();
    }
    let cases = [
        ("text.db", "not a database"),
        ("dir.db", "dir.db"),
        ("nowhere/queue.db", "nowhere"),
        ("foreign.db", "not one of sweeper's"),
        ("newer.db", "newer sweeper (schema 99)"),
    ];
    for (name, said) in cases {
        for command in ["init", "run"] {
            let failed = sweeper(dir.path())
                .arg(command)
                .env("SWEEPER__DATABASE__PATH", name)
                .env("SWEEPER__API__KEY", KEY)
                .assert()
                .code(3);
            let stderr = String::from_utf8_lossy(&failed.get_output().stderr).into_owned();
            assert!(stderr.contains(name.split('/').next().unwrap()) && stderr.contains(said), "{name}: {stderr}");
        }
    }
    let text = std::fs::read_to_string(dir.path().join("text.db")).unwrap();
    assert!(text.starts_with("this is no database"), "left as it was");
}

#[test]
fn init_makes_the_tables_and_says_what_it_did() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sweeper.db");
    for done in ["created", "up to date"] {
        sweeper(dir.path()).arg("init").assert().code(0).stdout(format!("{}: {done}\n", path.display()));
    }
}

#[tokio::test]
async fn until_empty_ends_with_0_when_all_is_deleted_4_when_any_is_dead_and_5_when_it_gives_up() {
    let dir = tempfile::tempdir().unwrap();
    sweeper(dir.path()).arg("init").assert().code(0);
    let options = Options { failing: vec!["3".to_owned()], forbidden: vec!["locked".to_owned()], ..Options::default() };
    let sandbox = sandbox(options).await;
    let run = |arguments: &'static [&'static str]| {
        let mut command = configured(dir.path(), &sandbox);
        command.args(["run", "--until-empty"]).args(arguments).env("SWEEPER__RETRY__MAX_ATTEMPTS", "2");
        finish(command)
    };
    assert_eq!(run(&[]).await.0, 0, "nothing to do");
    assert!(!dir.path().join("sweeper.db-wal").exists(), "closed in good order");
    sql(dir.path(), "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', 1), ('a', 2)").await;
    let (code, stdout, stderr) = run(&[]).await;
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    let events: Vec<String> = stdout
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["event"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(events, ["started", "request", "stopping", "stopped"]);
    sql(dir.path(), "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', 3), ('a', 4)").await;
    assert_eq!(run(&[]).await.0, 4);
    assert_eq!(run(&[]).await.0, 0, "dead rows of before are not this run's");
    sql(dir.path(), "INSERT INTO deletions (agent_id, entry_id) VALUES ('locked', 5)").await;
    assert_eq!(run(&["--give-up-after", "100ms"]).await.0, 5);
    let states = sql(dir.path(), "SELECT state FROM deletions ORDER BY id").await;
    let states: Vec<&str> = states.iter().map(|(state,)| state.as_str()).collect();
    assert_eq!(states, ["deleted", "deleted", "dead", "deleted", "pending"]);
}

#[tokio::test]
async fn giving_up_counts_from_the_start_also_if_the_file_is_locked() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), 1).await;
    let _locked = Locked::new(dir.path()).await;
    let mut command = configured(dir.path(), &sandbox);
    command.args(["run", "--until-empty", "--give-up-after", "200ms"]).env("SWEEPER__DATABASE__BUSY_TIMEOUT", "10ms");
    assert_eq!(finish(command).await.0, 5);
}

#[tokio::test]
async fn other_programs_insert_while_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    let daemon = Daemon::start(configured(dir.path(), &sandbox)).until("started").await;
    let python = "import sqlite3\nc = sqlite3.connect('sweeper.db')\n\
                  c.execute('INSERT INTO deletions (agent_id, entry_id) VALUES (?, ?)', ('python', 7))\nc.commit()";
    let shell = "INSERT INTO deletions (agent_id, entry_id) VALUES ('shell', 7)";
    let clients: [(&str, &[&str]); 2] =
        [("python3", &["-c", python]), ("sqlite3", &["-cmd", ".timeout 5000", "sweeper.db", shell])];
    let mut inserted = 0;
    for (program, arguments) in clients {
        match Command::new(program).args(arguments).current_dir(dir.path()).status() {
            Ok(status) => {
                assert!(status.success(), "{program}");
                inserted += 1;
            }
            // Not by a macro, whose output a passing test would swallow.
            Err(error) => writeln!(io::stderr(), "skipped: {program} cannot be started: {error}").unwrap(),
        }
    }
    sandbox.arrived(inserted).await;
    daemon.signal("TERM");
    assert_eq!(daemon.ended().await.0, 0);
    let deleted = sql(dir.path(), "SELECT agent_id FROM deletions WHERE state = 'deleted' AND entry_id = '7'").await;
    assert_eq!(deleted.len(), inserted);
}

#[tokio::test]
async fn the_sandbox_command_serves_until_it_is_told_to_stop() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = sweeper(dir.path());
    let mut child =
        command.args(["sandbox", "--listen", "127.0.0.1:0", "--key", KEY]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let url = line.trim().strip_prefix("the sandbox answers on ").unwrap().to_owned();
    let mut command = sweeper(dir.path());
    command.arg("init").assert().code(0);
    sql(dir.path(), "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', 1)").await;
    let mut command = sweeper(dir.path());
    command.args(["run", "--until-empty"]).env("SWEEPER__API__BASE_URL", url).env("SWEEPER__API__KEY", KEY);
    assert_eq!(finish(command).await.0, 0);
    Command::new("kill").args(["-s", "TERM", &child.id().to_string()]).assert().success();
    assert_eq!(blocking(move || child.wait().unwrap()).await.code(), Some(0));
}
