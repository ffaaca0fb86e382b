//! The log lines: the interface to whoever watches.

use std::{
    cell::RefCell,
    io::{self, BufRead as _, BufReader, Write},
    process::{Command, Stdio},
    sync::{Arc, Mutex, Once},
    time::Duration,
};

use audio_cache_sweeper::{
    pace::RateLimit,
    sandbox::{Mood, Options},
    worker::{Ended, Until},
};
use serde_json::Value;
use sqlx::{Connection, SqliteConnection};
use tokio::sync::Notify;
use tracing_subscriber::{Layer as _, filter::dynamic_filter_fn, layer::SubscriberExt as _};

use crate::{
    bed::{Bed, Plan, listing},
    daemon::skipped,
};

/// Where the log goes in a test; tells when a line with the `awaited` event has come.
#[derive(Clone, Default)]
pub struct Log {
    text: Arc<Mutex<Vec<u8>>>,
    awaited: &'static str,
    came: Arc<Notify>,
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.lock().unwrap().extend_from_slice(bytes);
        if String::from_utf8_lossy(bytes).contains(&format!(r#""event":"{}""#, self.awaited)) {
            self.came.notify_one();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

thread_local! {
    /// Where the log of this thread goes, and with it that of the test that it runs.
    static CAPTURE: RefCell<Option<Log>> = const { RefCell::new(None) };
}

/// Lets [`Log::capture`] work in this process. One subscriber for all tests, there before anything is logged: with one for
/// each, what is logged elsewhere at the moment that another is set decides, for all, that nobody wants to hear of it.
pub fn subscribe() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let wanted = dynamic_filter_fn(|_, _| CAPTURE.with_borrow(Option::is_some));
        let writer = || CAPTURE.with_borrow(|log| log.clone().unwrap_or_default());
        let layer = tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(writer).with_filter(wanted);
        tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer)).unwrap();
    });
}

/// Ends the capture when it is dropped.
pub struct Captured;

impl Drop for Captured {
    fn drop(&mut self) {
        CAPTURE.set(None);
    }
}

impl Log {
    /// Tells of lines with this event.
    pub fn awaiting(event: &'static str) -> Self {
        Self { awaited: event, ..Self::default() }
    }

    /// What tells.
    pub fn came(&self) -> Arc<Notify> {
        Arc::clone(&self.came)
    }

    pub fn capture(&self) -> Captured {
        subscribe();
        CAPTURE.set(Some(self.clone()));
        Captured
    }

    pub fn entries(&self) -> Vec<Value> {
        let text = String::from_utf8(self.text.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub fn events(&self, event: &str) -> Vec<Value> {
        self.entries().into_iter().filter(|entry| entry["event"] == event).collect()
    }
}

#[tokio::test]
async fn once_a_minute_a_summary_tells_how_the_queue_stands() {
    let log = Log { awaited: "summary", ..Log::default() };
    let _guard = log.capture();
    let sandbox = Options { failing: vec!["1".to_owned()], ..Plan::default().sandbox };
    let mut plan = Plan { sandbox, ..Plan::default() };
    plan.settings.policy.max_attempts = 1;
    let mut bed = Bed::new(plan).await;
    bed.insert_many("a", 21).await;
    bed.work().await;
    bed.execute("INSERT INTO holds (scope) VALUES ('b')").await;
    bed.insert_many("b", 3).await;
    bed.work().await;
    bed.clock.advance(Duration::from_secs(60));
    let told = log.came.clone();
    let ended = bed.worker.run(async move { told.notified().await }, Until::Told).await.unwrap();
    assert_eq!(ended, Ended::Told);
    let [summary] = &log.events("summary")[..] else { panic!("one summary") };
    for (field, value) in [
        ("pending", 3),
        ("due", 3),
        ("in_flight", 0),
        ("dead", 1),
        ("holds", 1),
        ("deleted_total", 20),
        ("log_lines_dropped", 0),
    ] {
        assert_eq!(summary[field], value, "{field} in {summary}");
    }
    assert_eq!(summary["deleted_per_s"], 0.3);
    assert_eq!(summary["requests_per_second"], 10_000.0);
    assert!(summary["oldest_due_s"].as_u64().unwrap() >= 60, "{summary}");
}

#[tokio::test]
async fn a_request_is_one_line_with_its_numbers_and_what_needs_a_person_is_said_once() {
    let log = Log::default();
    let _guard = log.capture();
    let sandbox = Options { forbidden: vec!["locked".to_owned()], ..Plan::default().sandbox };
    let mut bed = Bed::new(Plan { sandbox, ..Plan::default() }).await;
    bed.sandbox.script([listing(&["1", "999"], &["2"])]);
    bed.insert(&[("a", "1"), ("a", "2")]).await;
    bed.work().await;
    let [request] = &log.events("request")[..] else { panic!("one request") };
    assert_eq!((&request["level"], &request["agent"], &request["status"]), (&"INFO".into(), &"a".into(), &200.into()));
    assert_eq!((&request["size"], &request["deleted"], &request["retried"]), (&2.into(), &1.into(), &1.into()));
    assert_eq!(log.events("unexpected_ids")[0]["ids"], 1);
    assert_eq!(log.events("deletion").len(), 2, "at debug");

    bed.insert_many("locked", 5).await;
    for _ in 0..3 {
        bed.work().await;
        bed.clock.advance(Duration::from_secs(1_000));
    }
    let levels: Vec<Value> = log.events("hold_placed").iter().map(|hold| hold["level"].clone()).collect();
    assert_eq!(levels, ["ERROR", "WARN", "WARN"]);
    let text = String::from_utf8(log.text.lock().unwrap().clone()).unwrap();
    assert!(!text.contains(crate::bed::KEY), "the key is in the log");
}

#[tokio::test]
async fn a_throttled_answer_lowers_the_rate_what_gets_through_sets_it_and_each_change_is_told() {
    let log = Log::default();
    let _guard = log.capture();
    let rate = RateLimit { requests_per_second: 40.0, burst: 1.try_into().unwrap() };
    let mut bed = Bed::new(Plan { rate, adaptive: true, ..Plan::default() }).await;
    bed.insert_many("a", 4_000).await;
    for _ in 0..40 {
        bed.work().await;
        bed.clock.advance(Duration::from_millis(25));
    }
    assert_eq!((bed.sizes().len(), log.events("rate_changed").len()), (40, 0), "the ceiling");
    bed.sandbox.script([Mood::status(429)]);
    bed.work().await;
    bed.clock.advance(Duration::from_millis(6_250));
    bed.work().await;
    assert_eq!(log.events("hold_placed")[0]["level"], "WARN", "nobody needs to come for that");
    let changes = log.events("rate_changed");
    let told = |at: usize| {
        let number = |field: &str| changes[at][field].as_f64().unwrap();
        (number("from"), number("to"), changes[at]["why"].as_str().unwrap())
    };
    assert_eq!((told(0), changes.len()), ((40.0, 38.0, "throttled"), 2), "{changes:#?}");
    // 40 answers and the probe, in a second and the hold.
    let (from, to, why) = told(1);
    assert!(from == 38.0 && (41.0 * 1.03 / 7.25 - to).abs() < 0.01 && why == "delivered", "{from} {to}");
    let sent = bed.sizes().len();
    for _ in 0..100 {
        bed.work().await;
        bed.clock.advance(Duration::from_millis(100));
    }
    // In turns of a tenth of a second; with a few small steps up, because more than that may be borne.
    let sent = (bed.sizes().len() - sent) as f64 / 10.0;
    assert!((0.8 * to..1.1 * to).contains(&sent), "{sent}/s at {to}/s");
}

#[tokio::test]
async fn a_shutdown_while_the_file_is_locked_writes_what_it_knows_once_it_can() {
    let log = Log { awaited: "database_unavailable", ..Log::default() };
    let _guard = log.capture();
    let mut bed = Bed::new(Plan { busy_timeout: Duration::from_millis(1), ..Plan::default() }).await;
    bed.sandbox.script([Mood::Gate]);
    bed.insert(&[("a", "1")]).await;
    bed.worker.turn().await.unwrap();
    let mut other = SqliteConnection::connect(bed.options.path.to_str().unwrap()).await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    bed.sandbox.open_gate();
    // Released only after the second try has failed, too.
    let release = async {
        log.came.notified().await;
        log.came.notified().await;
        sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    };
    let (ended, ()) = tokio::select! {
        both = async { tokio::join!(bed.worker.run(async {}, Until::Told), release) } => both,
        () = tokio::time::sleep(Duration::from_secs(30)) => panic!("there was no second try"),
    };
    assert_eq!(ended.unwrap(), Ended::Told);
    assert_eq!(bed.count("state = 'deleted' AND attempts = 1").await, 1);
}

#[tokio::test]
async fn that_requests_about_one_row_are_refused_is_said_once() {
    let log = Log::default();
    let _guard = log.capture();
    let mut plan = Plan::default();
    plan.settings.policy.max_attempts = 1;
    let mut bed = Bed::new(plan).await;
    bed.sandbox.script([listing(&[], &["1", "2"]), Mood::status(405), Mood::status(405)]);
    bed.insert_many("a", 2).await;
    bed.work().await;
    let [refused] = &log.events("single_delete_refused")[..] else { panic!("once: {:?}", log.entries()) };
    assert_eq!((&refused["level"], &refused["agent"], &refused["status"]), (&"WARN".into(), &"a".into(), &405.into()));
    assert_eq!(refused["fault"], "contract");
}

#[tokio::test]
async fn whoever_keeps_the_log_of_commits_from_being_copied_is_named() {
    let log = Log::default();
    let _guard = log.capture();
    let mut bed = Bed::new(Plan::default()).await;
    let grow =
        "CREATE TABLE IF NOT EXISTS theirs (x); INSERT INTO theirs VALUES (zeroblob(20000000)); DROP TABLE theirs";
    bed.execute(grow).await;
    bed.clock.advance(Duration::from_secs(60));
    bed.worker.do_chores().await.unwrap();
    assert_eq!(log.events("wal_growing").len(), 0, "a large log that can be copied is none that grows");
    // Another process, in the middle of reading.
    let python = "import sqlite3, sys
reader = sqlite3.connect(sys.argv[1], isolation_level=None)
reader.execute('BEGIN')
reader.execute('SELECT count(*) FROM deletions').fetchone()
print('reading', flush=True)
sys.stdin.read()";
    let mut reader = Command::new("python3");
    reader.args(["-c", python]).arg(&bed.options.path).stdin(Stdio::piped()).stdout(Stdio::piped());
    let Ok(mut reader) = reader.spawn() else { return skipped("python3 cannot be started") };
    let mut said = String::new();
    BufReader::new(reader.stdout.take().unwrap()).read_line(&mut said).unwrap();
    bed.execute(grow).await;
    bed.clock.advance(Duration::from_secs(60));
    bed.worker.do_chores().await.unwrap();
    let [grows] = &log.events("wal_growing")[..] else { panic!("once: {:?}", log.entries()) };
    assert!(grows["mib"].as_u64().unwrap() >= 19, "{grows}");
    let readers = grows["readers"].as_str().unwrap();
    assert!(cfg!(not(target_os = "linux")) || readers.contains(&format!("{} python", reader.id())), "{readers}");
    drop(reader.stdin.take());
    reader.wait().unwrap();
    bed.execute(grow).await;
    bed.clock.advance(Duration::from_secs(60));
    bed.worker.do_chores().await.unwrap();
    assert_eq!(log.events("wal_growing").len(), 1);
}
