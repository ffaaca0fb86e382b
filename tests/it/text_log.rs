//! The log as a person reads it: on a terminal, at 80 and at 120 columns.

mod events;

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write},
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
};

use audio_cache_sweeper::{
    model::clock::{Clock, Timestamp},
    sandbox::{Mood, Options, Sandbox},
    watch::telemetry::{Text, Width},
};
use regex::Regex;

use events::{NOW, acts, holds, leaders, life, limits, requests};

use crate::daemon::{BINARY, clean, configure, configured, finish, queue, sandbox, skipped, sql};

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What `say` logs, as text of this width.
fn text(width: Width, say: impl FnOnce()) -> String {
    let written = Written::default();
    let writer = written.clone();
    let zone = jiff::tz::TimeZone::posix("CET-1").unwrap();
    let format = Text::new(Clock::manual(NOW), zone, width);
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .event_format(format)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, say);
    let bytes = written.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn every_event_is_a_sentence_in_local_time_without_epoch_numbers() {
    let all = || {
        requests();
        holds();
        limits();
        acts();
        leaders();
        life();
    };
    for columns in [80, 120] {
        let said = text(Width::Columns(columns), all);
        assert!(said.lines().all(|line| line.chars().count() <= columns), "{said}");
        assert!(!said.contains("179569") && !said.contains('\u{1b}'), "{said}");
        insta::assert_snapshot!(format!("text_{columns}"), said);
    }
    let said = text(Width::Terminal, all);
    assert!(said.starts_with("2026-11-26 14:03:07 INFO  PROJECT-58RP822I  20 deleted  0.21 s\n"), "{said}");
    assert_eq!(
        said.lines().count(),
        said.matches("\n2026-11-26 ").count() + 1,
        "where there is no terminal, nothing wraps"
    );
}

#[test]
fn on_a_narrow_terminal_the_agent_is_cut_before_the_counts() {
    let said = text(Width::Columns(40), requests);
    for row in ["INFO  PR…2I  20 deleted  0.21 s", "WARN  PR…I  20 released: 429 t…", "WARN  PR…I  20 retried, none d…"]
    {
        assert!(said.contains(row), "{row}: {said}");
    }
}

/// Whoever adds an event shows here how it reads.
#[test]
fn the_snapshot_has_an_event_of_each_kind() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let events = fs::read_to_string(root.join("src/event.rs")).unwrap();
    let events: BTreeSet<&str> =
        events.lines().filter_map(|line| line.strip_prefix("pub const ")?.split(':').next()).collect();
    let here = fs::read_to_string(root.join("tests/it/text_log/events.rs")).unwrap();
    let missing: Vec<_> = events.iter().filter(|event| !here.contains(&format!("event = event::{event},"))).collect();
    assert!(events.len() > 30 && missing.is_empty(), "{missing:?}");
}

/// Runs the daemon until it gives up, on a terminal with this many columns. What it has written there.
async fn on_a_terminal(dir: &Path, sandbox: &Sandbox, columns: u32, variables: &[(&str, &str)]) -> Option<String> {
    let mut script = configure(clean("script", dir), sandbox);
    script.env("SHELL", "/bin/sh").envs(variables.iter().copied());
    script.env("SWEEPER__DELIVERY__CONCURRENCY", "1").env("TZ", "UTC");
    let run = format!("stty cols {columns}; exec {BINARY} run --until-empty --give-up-after 1s");
    script.args(["-qec", &run, "typescript"]);
    // Who asks for more than info gets the log, and not a line of progress.
    script.env("SWEEPER__LOG__FILTER", "info,nothing=debug");
    if Command::new("script").arg("--version").output().is_err() {
        skipped("there is no script(1) that gives a terminal");
        return None;
    }
    let (code, said, _) = finish(script).await;
    assert_eq!(code, 5, "{said}");
    Some(said.replace("\r\n", "\n"))
}

/// From the first request on, without the numbers that differ from run to run. Where the first sentence wraps depends on the
/// path of the database.
fn masked(said: &str) -> String {
    let said = Regex::new(r"(?s)^.*?(\d\d:\d\d:\d\d INFO  a )").unwrap().replace(said, "$1").into_owned();
    let forms = [
        // Where a line is wrapped depends on how long the hold is: "1m" or "1m 12s".
        (r"\n {15}", " "),
        (r"(?m)^\d\d:\d\d:\d\d", "14:03:07"),
        (r"until \d\d:\d\d:\d\d \([^)]+\)", "until 14:04:07 (1m)"),
        (r"  \d+\.\d\d s", "  0.21 s"),
        (r"127\.0\.0\.1:\d+", "127.0.0.1:80"),
    ];
    forms.iter().fold(said, |said, (form, stands)| Regex::new(form).unwrap().replace_all(&said, *stands).into_owned())
}

async fn scene() -> (tempfile::TempDir, Sandbox) {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options { forbidden: vec!["locked".to_owned()], ..Options::default() }).await;
    queue(dir.path(), 22).await;
    let insert =
        format!("INSERT INTO deletions (agent_id, entry_id) VALUES ('{}', 1), ('locked', 1)", "long-".repeat(51));
    sql(dir.path(), &insert).await;
    sandbox.script([Mood::Plain, Mood::status(503)]);
    (dir, sandbox)
}

#[tokio::test]
async fn on_a_terminal_a_request_is_a_row_and_a_hold_says_its_reason_and_remedy() {
    for columns in [80, 120] {
        let (dir, sandbox) = scene().await;
        let no_colour = [("NO_COLOR", "1")];
        let Some(said) = on_a_terminal(dir.path(), &sandbox, columns, &no_colour).await else { return };
        assert!(said.lines().all(|line| line.chars().count() <= columns as usize), "{said}");
        assert!(said.contains(" INFO  sweeper ") && said.contains(" works on /"), "{said}");
        insta::assert_snapshot!(format!("terminal_{columns}"), masked(&said));
    }
}

#[tokio::test]
async fn levels_have_colours_on_a_terminal_that_has_them() {
    for (variables, is_coloured) in [(&[][..], true), (&[("NO_COLOR", "1")], false), (&[("TERM", "dumb")], false)] {
        let (dir, sandbox) = scene().await;
        let Some(said) = on_a_terminal(dir.path(), &sandbox, 80, variables).await else { return };
        assert_eq!(said.contains("\u{1b}[33mWARN"), is_coloured, "{variables:?}: {said}");
        assert_eq!(
            said.contains("\u{1b}[31mERROR") || said.contains("\u{1b}[1m\u{1b}[31mERROR"),
            is_coloured,
            "{said}"
        );
        assert_eq!(said.contains('\u{1b}'), is_coloured, "{variables:?}: {said}");
    }
}

#[tokio::test]
async fn text_in_a_file_has_the_date_and_is_not_wrapped_and_what_the_api_says_is_escaped() {
    let (dir, sandbox) = scene().await;
    let body = r#"{"success":false,"error_code":"X","error_message":"a\u001b[2J\u202eb"}"#;
    sandbox.script([Mood::Say { status: 418, headers: Vec::new(), body: body.to_owned() }]);
    let mut command = configured(dir.path(), &sandbox);
    command
        .args(["run", "--until-empty", "--give-up-after", "1s"])
        .env("SWEEPER__LOG__FORMAT", "text")
        .env("TZ", "UTC");
    let (code, said, _) = finish(command).await;
    assert_eq!(code, 5, "{said}");
    let start = Regex::new(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (INFO |WARN |ERROR) ").unwrap();
    assert!(said.lines().all(|line| start.is_match(line)), "{said}");
    assert!(said.contains("418 contract") && !said.contains(['\u{1b}', '\u{202e}']), "{said}");
}

#[tokio::test]
async fn times_are_in_the_time_zone_of_the_reader() {
    let (dir, sandbox) = scene().await;
    let mut command = configured(dir.path(), &sandbox);
    command.args(["run", "--until-empty", "--give-up-after", "1s"]).env("SWEEPER__LOG__FORMAT", "text");
    command.env("TZ", "XYZ-13:30");
    let before = Clock::system().now();
    let (_, said, _) = finish(command).await;
    let after = Clock::system().now();
    let first = Timestamp::parse(&said[..19].replace(' ', "T")).unwrap();
    let utc = Timestamp(first.0 - 13 * 3_600_000 - 30 * 60_000);
    // The line has no milliseconds.
    assert!(before.0 - 1_000 <= utc.0 && utc <= after, "{before} {utc} {after}: {said}");
}
