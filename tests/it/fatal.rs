//! What ends the daemon, or keeps it from its database, is said once, and what to do with it.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
};

use audio_cache_sweeper::sandbox::{Mood, Options, Sandbox};
use sqlx::{Connection as _, SqliteConnection};

use crate::{
    bed::UNCHECKED,
    daemon::{BINARY, Daemon, Locked, blocking, clean, configure, configured, finish, open, queue, sandbox, skipped},
};

/// Another program's database in the place of the queue.
async fn theirs(dir: &Path) {
    let url = format!("sqlite://{}?mode=rwc", dir.join("sweeper.db").display());
    let mut conn = SqliteConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("CREATE TABLE theirs (x)").execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
}

/// A daemon that cannot start: what keeps it, its exit code, and a part of what it says.
async fn doomed(dir: &Path, sandbox: &Sandbox, why: &str) -> (Command, i32, String) {
    let mut command = configured(dir, sandbox);
    command.arg("run");
    match why {
        "not ours" => {
            theirs(dir).await;
            (command, 3, "it is a SQLite database, but not one of sweeper's".to_owned())
        }
        "key file" => {
            queue(dir, 1).await;
            let key = dir.join("nowhere");
            command.env_remove("SWEEPER__API__KEY").env("SWEEPER__API__KEY_FILE", &key);
            (command, 2, format!("api.key_file {}: ", key.display()))
        }
        _ => panic!("{why}"),
    }
}

/// Both outputs in one file, as they are in a terminal and in the journal; and each in its own.
async fn together_and_apart(make: impl Fn() -> Command, dir: &Path) -> [(i32, String, String); 2] {
    let file = fs::File::create(dir.join("both")).unwrap();
    let mut command = make();
    command.stdout(file.try_clone().unwrap()).stderr(file);
    let code = blocking(move || command.status().unwrap()).await.code().unwrap();
    let both = fs::read_to_string(dir.join("both")).unwrap();
    [(code, both, String::new()), finish(make()).await]
}

fn repeated(command: &Command) -> Command {
    let mut again = Command::new(command.get_program());
    again.args(command.get_args()).current_dir(command.get_current_dir().unwrap()).stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => again.env(name, value),
            None => again.env_remove(name),
        };
    }
    again
}

#[tokio::test]
async fn a_failure_is_said_once_where_both_outputs_go_to_one_place() {
    let sandbox = sandbox(Options::default()).await;
    for why in ["not ours", "key file"] {
        let dir = tempfile::tempdir().unwrap();
        let (command, code, said) = doomed(dir.path(), &sandbox, why).await;
        let [together, apart] = together_and_apart(|| repeated(&command), dir.path()).await;
        assert_eq!((together.0, together.1.matches(&said).count()), (code, 1), "{why}: {}", together.1);
        assert!(together.1.contains(r#""level":"ERROR""#) && together.1.contains("stopped"), "{}", together.1);
        let (ended, stdout, stderr) = apart;
        assert_eq!(
            (ended, stdout.matches(&said).count(), stderr.matches(&said).count()),
            (code, 1, 1),
            "{why}: {stderr}"
        );
        // Without a line in the log, standard error says it.
        let mut mute = repeated(&command);
        mute.env("SWEEPER__LOG__FILTER", "off");
        let [(_, both, _), _] = together_and_apart(|| repeated(&mute), dir.path()).await;
        assert!(both.starts_with("sweeper: ") && both.matches(&said).count() == 1, "{both}");
    }
}

#[tokio::test]
async fn a_port_that_is_taken_and_a_database_that_has_a_daemon_are_said_once() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), 1).await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let on_port = || {
        let mut command = configured(dir.path(), &sandbox);
        command.arg("run").env("SWEEPER__HTTP__LISTEN", &address);
        command
    };
    let [(code, both, _), (_, _, stderr)] = together_and_apart(on_port, dir.path()).await;
    assert_eq!(
        (code, both.matches("cannot listen").count(), stderr.matches("cannot listen").count()),
        (1, 1, 1),
        "{both}"
    );

    let daemon = Daemon::start(configured(dir.path(), &sandbox)).until("request").await;
    let second = || {
        let mut command = configured(dir.path(), &sandbox);
        command.arg("run");
        command
    };
    let [(code, both, _), _] = together_and_apart(second, dir.path()).await;
    assert_eq!((code, both.matches("another sweeper").count()), (3, 1), "{both}");
    daemon.signal("TERM");
    assert_eq!(daemon.ended().await.0, 0);
}

#[tokio::test]
async fn on_a_terminal_a_failure_is_one_sentence() {
    if Command::new("script").arg("--version").output().is_err() {
        return skipped("there is no script(1) that gives a terminal");
    }
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    theirs(dir.path()).await;
    let mut script = configure(clean("script", dir.path()), &sandbox);
    script.env("SHELL", "/bin/sh").args(["-qec", &format!("stty cols 200; {BINARY} run"), "typescript"]);
    let (code, said, _) = finish(script).await;
    let sentence = "it is a SQLite database, but not one of sweeper's";
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!((code, said.matches(sentence).count()), (3, 1), "{said}");
    assert!(said.contains("stopped with exit code 3: database ") && !said.contains("sweeper: "), "{said}");
}

#[tokio::test]
async fn invalid_rows_are_named_with_what_is_wrong_and_are_an_error_once() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), 1).await;
    let mut daemon = Daemon::start(configured(dir.path(), &sandbox)).until("request").await;
    let mut conn: SqliteConnection = open(&dir.path().join("sweeper.db")).await;
    sqlx::raw_sql(UNCHECKED).execute(&mut conn).await.unwrap();
    let rows = [
        "INSERT INTO deletions (id, agent_id, entry_id) VALUES (70, 'a', 'white space'), (71, 'a', 'more white space')",
        "INSERT INTO deletions (id, agent_id, entry_id) VALUES (80, 'a', 'again white space')",
        "INSERT INTO deletions (id, agent_id, entry_id, priority) VALUES (90, 'a', '9', 'high')",
    ];
    let mut said = Vec::new();
    for insert in rows {
        sqlx::raw_sql(insert).execute(&mut conn).await.unwrap();
        daemon = daemon.until("invalid_rows").await;
        let line: serde_json::Value = serde_json::from_str(daemon.text().lines().last().unwrap()).unwrap();
        said.push(line);
    }
    conn.close().await.unwrap();
    let told = |at: usize| ["level", "ids", "problem"].map(|field| said[at][field].as_str().unwrap().to_owned());
    let id = |text: &str| {
        format!("entry_id: {text:?} is not an ID: it must be 1 to 255 printable ASCII characters without spaces")
    };
    assert_eq!(told(0), ["ERROR", "70, 71", &id("white space")]);
    assert_eq!(told(1), ["WARN", "80", &id("again white space")]);
    assert_eq!(told(2), ["ERROR", "90", "priority: a value of another type, or out of range"]);
    assert_eq!(said[0]["rows"], 2);
    daemon.signal("TERM");
    assert_eq!(daemon.ended().await.0, 0);
}

#[tokio::test]
async fn a_database_that_cannot_be_used_while_it_ends_is_tried_until_the_grace_period_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    sandbox.script([Mood::Gate]);
    queue(dir.path(), 1).await;
    let mut command = configured(dir.path(), &sandbox);
    command.env("SWEEPER__DATABASE__BUSY_TIMEOUT", "10ms").env("SWEEPER__SHUTDOWN__GRACE", "1s");
    let daemon = Daemon::start(command).until("started").await;
    sandbox.arrived(1).await;
    daemon.signal("TERM");
    let daemon = daemon.until("stopping").await;
    let locked = Locked::new(dir.path()).await;
    sandbox.open_gate();
    let daemon = daemon.until("database_unavailable").await;
    let line = daemon.text().lines().last().unwrap().to_owned();
    assert!(line.contains("trying again until shutdown.grace is over") && !line.contains("every second"), "{line}");
    assert_eq!(daemon.ended().await.0, 3);
    locked.release().await;
}
