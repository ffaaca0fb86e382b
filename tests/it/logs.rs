//! Captures the log of a test. Its lines are tested in `suite::lines`; here is the one about the write-ahead log.

use std::{
    cell::RefCell,
    io::{self, BufRead as _, BufReader, Write},
    process::{Command, Stdio},
    sync::{Arc, Mutex, Once},
    time::Duration,
};

use serde_json::Value;
use tokio::sync::Notify;
use tracing_subscriber::{Layer as _, filter::dynamic_filter_fn, layer::SubscriberExt as _};

use crate::{
    bed::{Bed, Plan},
    daemon::skipped,
};

/// The captured log of a test. It notifies when a line with the `awaited` event has come.
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
    /// The capture of this thread, which runs one test.
    static CAPTURE: RefCell<Option<Log>> = const { RefCell::new(None) };
}

/// Lets [`Log::capture`] work in this process. There is one subscriber for all tests, set before anything is logged. With one for
/// each test, a line that is logged elsewhere while another one is being set makes tracing cache, for all, that nobody listens.
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
    /// A log that notifies of lines with this event.
    pub fn awaiting(event: &'static str) -> Self {
        Self { awaited: event, ..Self::default() }
    }

    /// The notification.
    pub fn came(&self) -> Arc<Notify> {
        Arc::clone(&self.came)
    }

    pub fn capture(&self) -> Captured {
        subscribe();
        CAPTURE.set(Some(self.clone()));
        Captured
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.text.lock().unwrap().clone()).unwrap()
    }

    pub fn entries(&self) -> Vec<Value> {
        self.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub fn events(&self, event: &str) -> Vec<Value> {
        self.entries().into_iter().filter(|entry| entry["event"] == event).collect()
    }
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
    // Another process is in the middle of a read.
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
