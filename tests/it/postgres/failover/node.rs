//! A daemon as a process, and what it logs.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use assert_cmd::assert::OutputAssertExt as _;
use audio_cache_sweeper::model::clock::Clock;
use serde_json::Value;

use super::{
    deadline::wait_until,
    way::{Passes, Way},
};

/// A line of a log, and when it came, by the scene's clock.
pub type Line = (Duration, Value);

/// A daemon, which is killed when this is dropped.
#[derive(Debug)]
pub struct Node {
    /// No other daemon of the scene has it. It is the API key, too.
    pub name: String,
    /// To each server that it knows.
    pub ways: Vec<Way>,
    /// Its process has not ended, as far as the test knows.
    pub is_alive: bool,
    child: Child,
    log: Arc<Mutex<Vec<Line>>>,
}

impl Node {
    pub fn start(name: String, ways: Vec<Way>, mut command: Command, clock: Clock) -> Self {
        let mut child = command.arg("run").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (log, output) = (Arc::<Mutex<Vec<Line>>>::default(), child.stdout.take().unwrap());
        let lines = Arc::clone(&log);
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let at = clock.elapsed();
                lines.lock().unwrap().push((at, serde_json::from_str(&line).unwrap()));
            }
        });
        Self { name, ways, is_alive: true, child, log }
    }

    /// The lines of this event so far.
    pub fn lines(&self, event: &str) -> Vec<Line> {
        self.log.lock().unwrap().iter().filter(|(_, line)| line["event"] == event).cloned().collect()
    }

    pub fn signal(&self, name: &str) {
        Command::new("kill").args(["-s", name, &self.child.id().to_string()]).assert().success();
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.is_alive = false;
    }

    /// Cuts its ways, or mends them.
    pub fn set_ways(&self, passes: Passes) {
        self.ways.iter().for_each(|way| way.set(passes));
    }

    /// Waits until it has ended by itself: its exit code.
    pub fn ended(&mut self, most: Duration) -> i32 {
        self.is_alive = false;
        let status = wait_until(most, || "the end of a daemon".to_owned(), || self.child.try_wait().unwrap());
        status.code().unwrap_or(-1)
    }

    /// Its log, for a failed test.
    pub fn text(&self) -> String {
        let log = self.log.lock().unwrap();
        let line = |(at, line): &Line| format!("{:8.3} {} {line}\n", at.as_secs_f64(), self.name);
        log.iter().filter(|(_, line)| line["event"] != "request").map(line).collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
