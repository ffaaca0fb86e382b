//! A client's program, asked over its standard input and output.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
};

use serde_json::{Value, json};
use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::timeout,
};

use super::{PATIENCE, install};
use crate::daemon::blocking;

/// A line that the program answered.
#[derive(Debug)]
pub enum Answer {
    /// It is in a transaction and has read; it goes on when it is told to.
    Read,
    /// It has enqueued, and tells the ids if its form does; or what the library said instead.
    Done(Result<Option<Vec<i64>>, String>),
}

/// A way to enqueue.
#[derive(Clone, Debug)]
pub struct Form {
    pub name: String,
    pub does: String,
    /// What becomes of IDs that are numbers.
    pub numbers: String,
}

/// The program, killed when it is dropped.
pub struct Client {
    child: Child,
    lines: UnboundedReceiver<Value>,
    errors: PathBuf,
    /// What docs/enqueueing.md calls it.
    pub title: String,
    pub busy_timeout: i64,
    pub forms: Vec<Form>,
}

impl Client {
    /// Starts it on the queue in `dir`; what is missing if it cannot run here.
    pub async fn start(script: &str, dir: &Path) -> Result<Self, String> {
        let (script, dir) = (script.to_owned(), dir.to_owned());
        // What it says on standard error is of interest only if it fails.
        let errors = dir.join("client.log");
        let log = fs::File::create(&errors).unwrap();
        let started = blocking(move || {
            let mut command = install::command(&script, &dir)?;
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
            command.spawn().map_err(|error| format!("{:?} ({error})", command.get_program()))
        });
        let mut child = started.await?;
        let (send, lines) = unbounded_channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // Whatever else a library prints is no answer.
                if let Ok(line) = serde_json::from_str(&line) {
                    let _ = send.send(line);
                }
            }
        });
        let mut client = Self { child, lines, errors, title: String::new(), busy_timeout: 0, forms: Vec::new() };
        let hello = client.line().await;
        if let Some(missing) = hello["missing"].as_str() {
            assert!(!install::wanted(), "{missing} was to be installed");
            return Err(missing.to_owned());
        }
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let form = |form: &Value| Form { name: text(&form[0]), does: text(&form[1]), numbers: text(&form[2]) };
        client.title = text(&hello["title"]);
        client.busy_timeout = hello["busy_timeout"].as_i64().unwrap();
        client.forms = hello["forms"].as_array().unwrap().iter().map(form).collect();
        Ok(client)
    }

    /// Without waiting for the answer.
    pub fn send(&mut self, form: &str, rows: &Value) {
        self.write(&json!({ "form": form, "rows": rows }).to_string());
    }

    /// Lets it go on with its transaction.
    pub fn go_on(&mut self) {
        self.write("");
    }

    pub async fn ask(&mut self, form: &str, rows: &Value) -> Result<Option<Vec<i64>>, String> {
        self.send(form, rows);
        match self.answer().await {
            Answer::Done(done) => done,
            Answer::Read => panic!("{form} reads"),
        }
    }

    pub async fn answer(&mut self) -> Answer {
        let line = self.line().await;
        if line["read"] == true {
            return Answer::Read;
        }
        match (line["error"].as_str(), line["ids"].as_array()) {
            (Some(error), _) => Answer::Done(Err(error.to_owned())),
            (None, Some(ids)) => Answer::Done(Ok(Some(ids.iter().map(|id| id.as_i64().unwrap()).collect()))),
            (None, None) => Answer::Done(Ok(None)),
        }
    }

    fn write(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    async fn line(&mut self) -> Value {
        let line = timeout(PATIENCE, self.lines.recv()).await.ok().flatten();
        line.unwrap_or_else(|| panic!("no answer: {}", fs::read_to_string(&self.errors).unwrap()))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
