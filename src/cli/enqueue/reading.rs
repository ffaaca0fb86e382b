//! `enqueue` from a file or standard input.

use std::{
    fs::{self, File},
    future::Future,
    io::{self, IsTerminal as _, Read},
    os::unix::fs::MetadataExt as _,
    path::Path,
    pin::pin,
    process::ExitCode,
};

use anyhow::Error;
use indicatif::ProgressBar;
use tokio::time::timeout;

use super::{
    already,
    odd_ids::OddIds,
    sink::{CHUNK, Sink},
};
use crate::cli::{
    Failure,
    input::{Ahead, Input, Line, Problem, SILENCE},
    signals::Signal,
    terminal::{progress, warn_person},
    times::{plural, show_count},
};
use crate::printable::absolute;

/// How many refused lines are shown.
const SHOWN: u64 = 20;

/// An input that has been opened.
pub(super) struct Source {
    pub(super) reader: Box<dyn Read + Send>,
    /// For messages.
    pub(super) name: String,
    /// Bytes, if it is a file.
    pub(super) size: Option<u64>,
}

impl Source {
    /// Opens a file. `database`: the file with the queue, if it is in one.
    ///
    /// # Errors
    /// If the file cannot be opened, is a directory, or is the database.
    pub(super) fn file(path: &Path, database: Option<&Path>) -> Result<Self, Failure> {
        let name = absolute(path).display().to_string();
        if let (Ok(given), Some(Ok(queue))) = (fs::metadata(path), database.map(fs::metadata))
            && (given.dev(), given.ino()) == (queue.dev(), queue.ino())
        {
            // Closing any handle of the database ends the locks that SQLite holds on it in this process.
            return Err(Failure::Usage(format!("--file {name}: that is the database itself")));
        }
        // A directory can be opened, and fails only when it is read.
        if path.is_dir() {
            return Err(Failure::Usage(format!("--file {name}: is a directory; name a file in it")));
        }
        // A file that cannot be opened is most likely a misspelt name, hence an error of usage.
        let file = File::open(path).map_err(|error| Failure::Usage(format!("--file {name}: {error}")))?;
        let size = file.metadata().ok().filter(|found| found.is_file()).map(|found| found.len());
        Ok(Self { reader: Box::new(file), name, size })
    }

    /// Standard input. `is_asked_for`: an argument names it.
    ///
    /// # Errors
    /// If it is a terminal, and no argument names it.
    pub(super) fn standard_input(is_asked_for: bool) -> Result<Self, Failure> {
        if !is_asked_for && io::stdin().is_terminal() {
            let said = "nothing to enqueue: give entry IDs, --file FILE, --from-cache, or - to type them in";
            return Err(Failure::Usage(said.to_owned()));
        }
        Ok(Self { reader: Box::new(io::stdin()), name: "standard input".to_owned(), size: None })
    }
}

/// An input on its way into the queue.
pub(super) struct Reading {
    /// The name of the input, for messages.
    name: String,
    /// Whether to stop at the first refused line.
    strict: bool,
    /// Number of refused lines.
    refused: u64,
    /// IDs that are not numbers.
    odd: OddIds,
    /// Number of the last line that was taken.
    last: u64,
    /// Number of the last line that was written.
    kept: u64,
    /// The last line, if it has no line break: it may have been cut off.
    rest: Option<Line>,
    progress: ProgressBar,
}

impl Reading {
    pub(super) fn new(name: String, size: Option<u64>, strict: bool) -> Self {
        // An empty file has no percentage.
        let progress = progress(size.filter(|size| *size > 0));
        Self { name, strict, refused: 0, odd: OddIds::default(), last: 0, kept: 0, rest: None, progress }
    }

    /// Moves the whole `input` into the sink. After a signal, only what has been read by then.
    ///
    /// # Errors
    /// If the input cannot be read, makes no sense, or the database cannot be used.
    pub(super) async fn read(
        mut self,
        mut input: Ahead,
        stop: impl Future<Output = Signal>,
        sink: &mut Sink<'_>,
    ) -> Result<ExitCode, Failure> {
        let mut stop = pin!(stop);
        loop {
            let lines = tokio::select! {
                biased;
                signal = &mut stop => return self.stop(signal, input, sink).await,
                () = sink.ripe() => {
                    self.flush(sink).await?;
                    continue;
                }
                lines = input.next() => lines,
            };
            let Some(lines) = lines else { break };
            if let Some(code) = self.take(lines, sink).await? {
                return Ok(code);
            }
        }
        self.flush(sink).await?;
        // Ctrl-C also ends the program at the other end of a pipe, perhaps in the middle of a line. That looks like the end
        // of the input, and half an ID is another ID: wait a moment for the signal.
        let signal = match self.rest {
            None => already(stop).await,
            Some(_) => timeout(SILENCE, stop).await.ok(),
        };
        if let Some(signal) = signal {
            return self.stop(signal, input, sink).await;
        }
        if let Some(line) = self.rest.take() {
            let last = Input::Lines(vec![Line { is_whole: true, ..line }]);
            if let Some(code) = self.take(last, sink).await? {
                return Ok(code);
            }
            self.flush(sink).await?;
        }
        self.show_remarks(sink.dry_run);
        if sink.taken == 0 && self.refused == 0 {
            warn_person(&format!("{}: nothing was read: there is no ID in it", self.name));
        }
        Ok(sink.finish(self.refused))
    }

    /// Takes some lines. `Some`: end with this code.
    async fn take(&mut self, read: Input, sink: &mut Sink<'_>) -> Result<Option<ExitCode>, Failure> {
        let lines = match read {
            Input::Lines(lines) => lines,
            Input::End => return Ok(None),
            Input::Failed(number, error) => {
                self.flush(sink).await?;
                self.progress.finish_and_clear();
                sink.tell(self.refused);
                return Err(Error::from(error).context(format!("read {}, line {number}", self.name)).into());
            }
        };
        for line in lines {
            if !line.is_whole {
                self.rest = Some(line);
                break;
            }
            self.last = line.number;
            match line.wish {
                Ok(wish) => {
                    self.odd.look_at(&wish.entry, || format!("{}, line {}: ", self.name, line.number));
                    sink.put(wish);
                    if sink.chunk.len() == CHUNK {
                        self.flush(sink).await?;
                        self.progress.set_position(line.read);
                        self.progress.set_message(format!("{} lines", show_count(line.number)));
                    }
                }
                Err(Problem::Input(problem)) => return Err(self.give_up(&problem, sink).await),
                Err(Problem::Line(problem)) => {
                    self.refuse(&problem);
                    if self.strict {
                        return Ok(Some(self.stop_strictly(sink)));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Writes the chunk.
    async fn flush(&mut self, sink: &mut Sink<'_>) -> Result<(), Failure> {
        if let Err(failure) = sink.flush().await {
            self.progress.finish_and_clear();
            sink.tell(self.refused);
            return Err(failure);
        }
        self.kept = self.last;
        Ok(())
    }

    /// Counts the last line as refused, and shows why.
    fn refuse(&mut self, problem: &str) {
        self.refused += 1;
        if self.refused <= SHOWN || self.strict {
            let text = format!("{}, line {}: {problem}", self.name, self.last);
            self.progress.suspend(|| warn_person(&text));
        }
    }

    /// The failure of an input that cannot be read any further. What was read before it is written.
    async fn give_up(&mut self, problem: &str, sink: &mut Sink<'_>) -> Failure {
        self.progress.finish_and_clear();
        if sink.taken > 0 || !sink.chunk.is_empty() || self.refused > 0 {
            if let Err(failure) = self.flush(sink).await {
                return failure;
            }
            sink.tell(self.refused);
        }
        Failure::Usage(format!("{}, line {}: {problem}", self.name, self.last))
    }

    /// Ends at the first refused line. The chunk that it is in is dropped.
    fn stop_strictly(&mut self, sink: &mut Sink<'_>) -> ExitCode {
        self.progress.finish_and_clear();
        sink.chunk.clear();
        sink.tell(self.refused);
        let kept = match self.kept {
            0 => "nothing was enqueued".to_owned(),
            kept if sink.dry_run => format!("lines 1 to {kept} would have been enqueued"),
            kept => format!("lines 1 to {kept} were enqueued"),
        };
        warn_person(&format!("sweeper: stopped at line {}, because of --strict; {kept}", self.last));
        sink.finish(self.refused)
    }

    /// Writes what has been read by now, and says how to go on.
    async fn stop(mut self, signal: Signal, mut input: Ahead, sink: &mut Sink<'_>) -> Result<ExitCode, Failure> {
        while let Some(lines) = input.next_of_these().await {
            if let Some(code) = self.take(lines, sink).await? {
                return Ok(code);
            }
        }
        self.flush(sink).await?;
        self.show_remarks(sink.dry_run);
        sink.tell(self.refused);
        let (by, last, name) = (signal.name(), self.last, &self.name);
        let rest = self.rest.as_ref().map_or("", |_| "; the next line was cut off, and is left out");
        warn_person(&format!(
            "sweeper: stopped by {by} after line {last} of {name}{rest}: unless that was its end, run it again with the same input"
        ));
        Ok(signal.exit_code())
    }

    /// Says at the end what is said once.
    fn show_remarks(&mut self, dry_run: bool) {
        self.progress.finish_and_clear();
        if self.refused > SHOWN {
            let more = plural(self.refused - SHOWN, "more line was", "more lines were");
            warn_person(&format!("… and {more} refused"));
        }
        self.odd.warning(dry_run).iter().for_each(|text| warn_person(text));
    }
}
