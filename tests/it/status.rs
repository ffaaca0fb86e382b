//! `sweeper status` and `sweeper show`, from outside: what they say, and that they only look.

mod estimate;
mod watch;
mod why;
mod width;

use audio_cache_sweeper::queue::Counter as _;
use std::{path::Path, time::Duration};

use audio_cache_sweeper::{
    model::clock::{Clock, Timestamp},
    queue::sqlite::{Counter, Reader},
    sandbox::{Mood, Options},
};
use regex::Regex;
use serde_json::Value;

use crate::{
    bed::{Bed, KEY, Plan, START, UNCHECKED, status_with},
    daemon::{BINARY, Daemon, Locked, blocking, clean, configured, finish, queue, sandbox, skipped, sql, sweeper},
    enqueue::{fed, on_a_terminal},
};

/// What differs from run to run, told by its form.
pub fn stable(text: &str) -> String {
    let forms = [
        (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "[uuid]"),
        (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", "[time]"),
        (r"process    \d+", "process    [pid]"),
        (r"\(\d+[smhd]( \d+[smh])?\)", "[span]"),
        (r"after \d+ ms", "after [n] ms"),
        (r"lately [\d,]+ deleted", "lately [n] deleted"),
        (r"for \d+s", "for [span]"),
        (r"(?m) \d+s$", " [span]"),
        (r"(\d) +\d+s  +", "$1 [span]  "),
    ];
    let text = text.replace(env!("CARGO_PKG_VERSION"), "[version]");
    forms.iter().fold(text, |text, (form, stands)| Regex::new(form).unwrap().replace_all(&text, *stands).into_owned())
}

fn run(dir: &Path, arguments: &[&str]) -> String {
    run_in(None, dir, arguments)
}

/// The same on so many columns.
fn run_in(columns: Option<usize>, dir: &Path, arguments: &[&str]) -> String {
    let mut command = sweeper(dir);
    command.args(arguments).envs(columns.map(|columns| ("COLUMNS", columns.to_string())));
    let (code, out, err) = fed(command, "");
    assert_eq!((code, err.as_str()), (0, ""), "{arguments:?}: {out}");
    assert!(!out.contains('\u{1b}'), "no colours where there is no terminal");
    out
}

async fn report(dir: &Path, arguments: &[&str]) -> Value {
    let mut command = sweeper(dir);
    command.args(["status", "--json"]).args(arguments);
    let (code, out, err) = finish(command).await;
    assert_eq!((code, err.as_str(), out.lines().count()), (0, "", 1), "{out}");
    serde_json::from_str(&out).unwrap()
}

/// Unix milliseconds so many seconds from now, for SQL.
fn from_now(seconds: i64) -> i64 {
    Clock::system().now().0 + seconds * 1_000
}

/// Rows of every state, more agents than are shown, and holds of every kind.
async fn busy(dir: &Path) {
    queue(dir, 1_234).await;
    let hour_ago = from_now(-5_410);
    for statement in [
        format!("UPDATE deletions SET created_at = {hour_ago}"),
        format!("UPDATE deletions SET due_at = {} WHERE id <= 34", from_now(10_000)),
        format!("UPDATE deletions SET state = 'deleted', settled_at = {hour_ago} WHERE id BETWEEN 101 AND 200"),
        format!("UPDATE deletions SET state = 'absent', settled_at = {hour_ago} WHERE id BETWEEN 201 AND 203"),
        format!(
            "UPDATE deletions SET state = 'dead', settled_at = {hour_ago}, last_cause = iif(id < 305, 'rejected', 'lost'),
                 maybe_done = id > 308 WHERE id BETWEEN 301 AND 312"
        ),
        "INSERT INTO deletions (agent_id, entry_id)
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20) SELECT 'agent-' || (100 + i), i FROM n"
            .to_owned(),
        format!("INSERT INTO deletions (agent_id, entry_id) VALUES ('{}', 1), ('{0}', 2)", "long-".repeat(51)),
        format!("INSERT INTO holds (scope, since_at) VALUES ('a', {})", from_now(-90)),
        format!(
            "INSERT INTO holds (scope, cause, since_at, until_at, repeats)
             VALUES ('agent-101', 'forbidden', {}, {}, 3), ('*', 'throttled', {}, {}, 1)",
            from_now(-5_400),
            from_now(9_000),
            from_now(-90),
            from_now(-1)
        ),
    ] {
        sql(dir, &statement).await;
    }
}

/// Without the seconds, which may have gone on.
fn minutes(text: &str) -> String {
    Regex::new(r"(\d+[dmh]) \d+[smh]").unwrap().replace_all(text, "$1 [n]").into_owned()
}

fn widest(shown: &str) -> usize {
    shown.lines().map(|line| line.chars().count()).max().unwrap()
}

#[tokio::test]
async fn status_is_readable_on_80_columns_and_uses_120() {
    let dir = tempfile::tempdir().unwrap();
    sweeper(dir.path()).arg("init").output().unwrap();
    insta::assert_snapshot!("empty", stable(&run(dir.path(), &["status"])));
    busy(dir.path()).await;
    for (columns, name) in [(80, "busy"), (120, "busy_120")] {
        let shown = run_in(Some(columns), dir.path(), &["status"]);
        assert!(widest(&shown) <= columns, "{shown}");
        insta::assert_snapshot!(name, minutes(&stable(&shown)));
    }
    let one = run_in(Some(80), dir.path(), &["status", "--agent", "agent-101"]);
    insta::assert_snapshot!("one_agent", minutes(&stable(&one)));
    let piped = run(dir.path(), &["status"]);
    assert!(piped.contains(&"long-".repeat(51)), "without a terminal, nothing is cut: {piped}");
}

#[tokio::test]
async fn what_is_held_until_a_time_is_not_empty_before_that() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), 1).await;
    let daemon = Daemon::start(configured(dir.path(), &sandbox)).until("request").await;
    while report(dir.path(), &[]).await["rows"]["deleted"] != 1 {}
    sql(dir.path(), &format!("INSERT INTO holds (scope, until_at) VALUES ('*', {})", from_now(3_600))).await;
    sql(dir.path(), "INSERT INTO deletions (agent_id, entry_id) VALUES ('b', 1)").await;
    let held = report(dir.path(), &[]).await;
    assert!(held["empty_in_s"].as_u64().unwrap() >= 3_590, "{held}");
    let tomorrow = from_now(86_400);
    sql(dir.path(), &format!("INSERT INTO deletions (agent_id, entry_id, due_at) VALUES ('c', 1, {tomorrow})")).await;
    let held = report(dir.path(), &[]).await;
    assert!(held["empty_in_s"].as_u64().unwrap() >= 86_390, "{held}");
    sql(dir.path(), "INSERT INTO holds (scope) VALUES ('b'), ('nobody')").await;
    let held = report(dir.path(), &[]).await;
    assert!(held["empty_in_s"].is_null() && held["rest_empty_in_s"].as_u64().unwrap() >= 86_390, "{held}");
    let shown = run(dir.path(), &["status"]);
    assert!(shown.contains(", when the last row is due\n           but b is held (1 of 2 rows)\n"), "{shown}");
    daemon.signal("KILL");
    sql(dir.path(), &format!("UPDATE holds SET until_at = {}", from_now(-1))).await;
    assert!(run(dir.path(), &["status"]).contains("it is over"), "a person's hold ends without a probe");
}

#[tokio::test]
async fn the_json_has_what_the_readme_says_and_all_of_it() {
    let dir = tempfile::tempdir().unwrap();
    busy(dir.path()).await;
    sql(dir.path(), "INSERT INTO acts (acted_at, act, operator, rows, updated_at) VALUES (5, 'enqueue', 'ann', 2, 5)")
        .await;
    let all = report(dir.path(), &[]).await;
    fn names(value: &Value, path: &str, into: &mut Vec<String>) {
        if let Value::Object(object) = value {
            for (name, value) in object {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                into.push(path.clone());
                names(value, &path, into);
            }
        }
        if let Value::Array(values) = value {
            names(&values[0], path, into);
        }
    }
    let mut found = Vec::new();
    names(&all, "", &mut found);
    let page =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference-status-json.md")).unwrap();
    for name in &found {
        assert!(page.contains(&format!("`{name}`")), "docs/reference-status-json.md has no {name}");
    }
    assert_eq!(found.len(), 68, "{found:?}");
    assert_eq!(
        all["rows"],
        serde_json::json!({"pending": 1_141, "due": 1_107, "deleted": 100, "absent": 3, "dead": 12, "verified": 0})
    );
    assert_eq!(all["agents"].as_array().unwrap().len(), 22, "all of them");
    assert_eq!(all["agents"][0]["agent_id"], "a");
    assert!((5_410.0..5_500.0).contains(&all["oldest_due_s"].as_f64().unwrap()), "{all}");
    assert_eq!(all["dead"][0], serde_json::json!({"cause": "lost", "rows": 8, "unconfirmed": 4}));
    let one = report(dir.path(), &["--agent", "agent-101"]).await;
    assert_eq!((one["agent"].as_str(), &one["rows"]["pending"]), (Some("agent-101"), &1.into()));
    let scopes: Vec<&str> =
        one["holds"].as_array().unwrap().iter().map(|hold| hold["scope"].as_str().unwrap()).collect();
    assert_eq!(scopes, ["*", "agent-101"]);
}

#[tokio::test]
async fn status_tells_whether_a_daemon_runs_and_what_it_does() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    let daemon = Daemon::start_calling(dir.path(), &sandbox, Mood::Gate, "1h").await;
    let running = report(dir.path(), &[]).await;
    assert_eq!(
        (&running["daemon"]["running"], &running["daemon"]["pid"]),
        (&true.into(), &daemon.pid().into()),
        "{running}"
    );
    assert_eq!(running["daemon"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(running["daemon"]["requests_per_second"], 1_000.0);
    assert_eq!(
        (&running["daemon"]["rate_ceiling"], &running["daemon"]["rate_why"]),
        (&1_000.0.into(), &"ceiling".into())
    );
    let why = &running["daemon"]["concurrency_why"];
    assert_eq!((&running["daemon"]["concurrency_ceiling"], why), (&8.into(), &"ceiling".into()));
    assert!(
        (running["at"].as_i64().unwrap() - running["daemon"]["started_at"].as_i64().unwrap()) < 600_000,
        "{running}"
    );
    assert_eq!(running["in_flight"], serde_json::json!({"requests": 1, "rows": 1}));
    let shown = blocking({
        let dir = dir.path().to_owned();
        move || (run(&dir, &["status"]), run(&dir, &["show", "a", "1"]))
    })
    .await;
    assert!(shown.0.lines().all(|line| line.chars().count() <= 80), "{}", shown.0);
    insta::assert_snapshot!("running", minutes(&stable(&shown.0)));
    insta::assert_snapshot!("in_flight", stable(&shown.1));
    sandbox.open_gate();
    let daemon = daemon.until("request").await;
    // The log has it before the database.
    let mut done = report(dir.path(), &[]).await;
    while done["rows"]["pending"] != 0 {
        done = report(dir.path(), &[]).await;
    }
    assert_eq!((&done["rows"]["deleted"], &done["empty_in_s"]), (&1.into(), &0.into()), "{done}");
    assert!(done["deleted_per_minute"].as_f64().unwrap() > 0.0, "{done}");
    daemon.signal("KILL");
    assert_eq!(daemon.ended().await.0, -1);
    let stopped = report(dir.path(), &[]).await;
    assert_eq!(
        (&stopped["daemon"]["running"], &stopped["daemon"]["version"]),
        (&false.into(), &Value::Null),
        "{stopped}"
    );
}

#[tokio::test]
async fn status_looks_also_at_a_file_that_somebody_keeps_locked() {
    let dir = tempfile::tempdir().unwrap();
    queue(dir.path(), 3).await;
    let _locked = Locked::new(dir.path()).await;
    assert_eq!(report(dir.path(), &[]).await["rows"]["pending"], 3);
}

/// Runs a command on a copy of `sweeper.db`, alone on a disk that not even root can write; `None` if there is no such disk.
async fn on_a_disk_to_read_only(dir: &Path, beside: &str, arguments: &[&str]) -> Option<(i32, String, String)> {
    let script = "mkdir -p disk && mount -t tmpfs tmpfs disk && cp sweeper.db disk && for file in $BESIDE; do : > disk/$file; done \
                  && mount -o remount,ro disk && touch disk/other 2>/dev/null && exit 77; exec \"$0\" \"$@\"";
    let isolated = |program: &str| {
        let mut command = clean("unshare", dir);
        command.args(["--map-root-user", "--mount", program]);
        command
    };
    if !isolated("true").output().is_ok_and(|output| output.status.success()) {
        skipped("there is no `unshare`, or it may not mount anything");
        return None;
    }
    let mut command = isolated("sh");
    command.args(["-c", script, BINARY]).args(arguments).env("BESIDE", beside);
    command.env("SWEEPER__DATABASE__PATH", "disk/sweeper.db");
    Some(finish(command).await)
}

#[tokio::test]
async fn who_may_only_read_sees_a_queue_that_nobody_works_on_but_none_with_a_log_that_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    queue(dir.path(), 3).await;
    let Some((code, out, err)) = on_a_disk_to_read_only(dir.path(), "", &["status", "--json"]).await else { return };
    assert_eq!(code, 0, "{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&report["rows"]["pending"], &report["daemon"]["running"]), (&3.into(), &false.into()));
    let (code, out, err) = on_a_disk_to_read_only(dir.path(), "", &["show", "a", "1"]).await.unwrap();
    assert!(code == 0 && out.starts_with("a 1: pending"), "{err}");
    let (code, _, err) = on_a_disk_to_read_only(dir.path(), "sweeper.db-wal", &["status"]).await.unwrap();
    assert!(code == 3 && err.contains("sweeper.db: open"), "{err}");
    let (code, _, err) = on_a_disk_to_read_only(dir.path(), "", &["enqueue", "--agent", "a", "4"]).await.unwrap();
    assert!(code == 3 && err.contains("writable"), "{err}");
}

#[tokio::test]
async fn the_rate_is_written_with_what_is_written_anyway_and_nothing_while_idle() {
    let plan = Plan { adaptive: true, ..Plan::default() };
    let mut bed = Bed::new(plan).await;
    let rate = "SELECT requests_per_second FROM daemon WHERE pid > 0 AND started_at = 4000000000000 AND updated_at >= started_at";
    assert_eq!(bed.query::<(f64,)>(rate).await, [(10_000.0,)]);
    let version = bed.query::<(i64,)>("PRAGMA data_version").await;
    for _ in 0..10 {
        bed.clock.advance(Duration::from_secs(100));
        bed.work().await;
        bed.worker.do_chores().await.unwrap();
    }
    assert_eq!(bed.query::<(i64,)>("PRAGMA data_version").await, version, "nothing was committed");
    bed.sandbox.script([status_with(429, "retry-after", "1")]);
    bed.insert_many("a", 40).await;
    bed.clock.advance(Duration::from_secs(100));
    bed.work().await;
    let lowered = bed.query::<(f64,)>(rate).await[0].0;
    assert!(lowered < 10_000.0, "{lowered}");
}

#[tokio::test]
async fn what_is_held_and_probed_gets_older_whatever_comes_after_it() {
    let sandbox = Options { key: Some(KEY.to_owned()), forbidden: vec!["a".to_owned()], ..Options::default() };
    let mut bed = Bed::new(Plan { sandbox, ..Plan::default() }).await;
    bed.insert_many("a", 3).await;
    bed.execute(&format!("UPDATE deletions SET created_at = {}", START.0)).await;
    bed.clock.advance(Duration::from_secs(100));
    bed.work().await;
    bed.clock.advance(Duration::from_secs(3_600));
    bed.work().await;
    let released = "last_cause = 'forbidden' AND attempts = 0 AND due_at = 4000000000000 + 3700000";
    assert_eq!(bed.count(released).await, 3, "released by a probe");
    let fresh = "INSERT INTO deletions (agent_id, entry_id, created_at) VALUES ('a', 'fresh', 4000003700000)";
    bed.execute(fresh).await;
    bed.clock.advance(Duration::from_secs(10));
    // The first due time is overwritten; the hold's beginning is what there is, as long as there is the hold.
    for (change, oldest) in
        [("attempts = 0", 3_610), ("attempts = 1", 3_610), ("last_cause = 'rejected'", 10), ("last_cause = 'lost'", 10)]
    {
        bed.execute(&format!("UPDATE deletions SET {change} WHERE entry_id <> 'fresh'")).await;
        let now = bed.clock.now();
        let tally = Counter::new(bed.options.clone()).census(now).await.unwrap().tally;
        let standing = Reader::open(&bed.options).await.unwrap().standing(None, now).await.unwrap();
        let ages = [tally.oldest_due, standing.oldest_due, standing.agents[0].oldest_due];
        assert_eq!(ages, [Duration::from_secs(oldest); 3], "{change}");
    }
}

#[tokio::test]
async fn colours_are_for_terminals_and_for_those_who_want_them() {
    let dir = tempfile::tempdir().unwrap();
    queue(dir.path(), 3).await;
    let coloured = |arguments: &[&str]| {
        let mut command = sweeper(dir.path());
        command.args(arguments).env("TERM", "xterm").env_remove("NO_COLOR");
        command
    };
    let status = || coloured(&["status"]);
    let Some((code, shown)) = on_a_terminal(status(), "").await else { return };
    assert_eq!((code, shown.contains("\u{1b}[33mnot running\u{1b}[0m")), (0, true), "{shown:?}");
    let story = ["show", "a", "1"];
    let (_, shown) = on_a_terminal(coloured(&story), "").await.unwrap();
    assert!(shown.starts_with("a 1: \u{1b}[33mpending\u{1b}[0m\r\n"), "{shown:?}");
    for arguments in [&["status"][..], &story] {
        let mut plain = coloured(arguments);
        plain.env("NO_COLOR", "1");
        let (code, shown) = on_a_terminal(plain, "").await.unwrap();
        assert_eq!((code, shown.contains('\u{1b}')), (0, false), "{shown:?}");
    }
    let mut watched = status();
    watched.args(["--json"]);
    assert!(!on_a_terminal(watched, "").await.unwrap().1.contains('\u{1b}'));
}

#[tokio::test]
async fn the_story_of_an_id_has_every_request_and_what_to_quote() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options { agents: vec![("a".to_owned(), 1)], ..Options::default() }).await;
    queue(dir.path(), 2).await;
    sandbox.script([
        Mood::Say { status: 500, headers: vec![], body: r#"{"error_message":"out of\u001b[31m order"}"#.to_owned() },
        Mood::Plain,
    ]);
    let mut command = configured(dir.path(), &sandbox);
    command.args(["run", "--until-empty"]);
    assert_eq!(finish(command).await.0, 0);
    let shown = |entry: &'static str| {
        let dir = dir.path().to_owned();
        blocking(move || run(&dir, &["show", "a", entry]))
    };
    insta::assert_snapshot!("story_of_a_deleted_row", stable(&shown("1").await));
    insta::assert_snapshot!("story_of_an_absent_row", stable(&shown("2").await));
    let ids = sql(
        dir.path(),
        "SELECT correlation_id FROM requests JOIN outcomes ON request_id = requests.id AND deletion_id = 2",
    )
    .await;
    let story = shown("2").await;
    assert!(ids.len() >= 3 && ids.iter().all(|(id,)| story.contains(id)), "{story}");
    let tomorrow = from_now(100_000);
    sql(dir.path(), &format!("INSERT INTO deletions (agent_id, entry_id, due_at) VALUES ('a', 3, {tomorrow})")).await;
    let since = from_now(-90);
    sql(dir.path(), &format!("INSERT INTO holds (scope, since_at) VALUES ('*', {since}), ('b', {since})")).await;
    insta::assert_snapshot!("story_of_a_row_that_waits", minutes(&stable(&shown("3").await)));
}

#[test]
fn what_there_is_nothing_to_show_of_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = sweeper(dir.path());
        command.args(arguments);
        fed(command, "")
    };
    for arguments in [&["status"][..], &["status", "--json"], &["show", "a", "1"]] {
        let (code, out, err) = run(arguments);
        assert_eq!((code, out.as_str()), (3, ""), "{err}");
        let said = format!(
            "sweeper: database {}: there is no such file; this path is the default, in the working directory. A daemon's queue is \
             named by the daemon's configuration: give its file with --config. If there is no queue yet, `sweeper init` makes one \
             here\n",
            dir.path().join("sweeper.db").display()
        );
        assert_eq!(err, said);
    }
    assert!(!dir.path().join("sweeper.db").exists(), "and it was not made");
    sweeper(dir.path()).arg("init").output().unwrap();
    let (code, out, err) = run(&["show", "a", "1"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(
        err.contains(&format!("a 1: there is no such row in {}: ", dir.path().join("sweeper.db").display())),
        "{err}"
    );
    for (arguments, said) in [
        (&["show", "a"][..], "<ENTRY>"),
        (&["show", "a/b", "1"], "one URL path segment"),
        (&["show", "a", "1 2"], "printable ASCII"),
        (&["status", "--watch=never"], "must be a duration"),
        (&["status", "--agent", "*"], "not an agent ID"),
    ] {
        let (code, _, err) = run(arguments);
        assert_eq!(code, 2);
        assert!(err.contains(said), "{arguments:?}: {err}");
    }
}

#[test]
fn times_before_the_epoch_and_odd_rows_are_shown_as_well() {
    let dir = tempfile::tempdir().unwrap();
    sweeper(dir.path()).arg("init").output().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let odd = "INSERT INTO deletions (agent_id, entry_id, due_at, created_at, attempts, maybe_done, priority)
        VALUES ('a', '1', 'soon', -5, 'x', 'y', 'z'), (x'ff', '2', 1e300, 'x', 0, 0, 0), (CAST(x'fe' AS TEXT), '3', 0, 0, 0, 0, 0);
        INSERT INTO holds (scope, cause, since_at, until_at) VALUES ('a', 'odd', 'x', 'y')";
    runtime.block_on(sql(dir.path(), &format!("{UNCHECKED} {odd}")));
    let shown = run(dir.path(), &["status"]);
    assert!(Regex::new(r"\npending +3  ").unwrap().is_match(&shown), "{shown}");
    assert!(run(dir.path(), &["show", "a", "1"]).starts_with("a 1: pending\n"));
    assert_eq!(Timestamp::parse("1969-12-31"), None);
}
