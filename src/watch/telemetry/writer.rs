//! The output of log lines. They go through a buffer to a thread that writes them, so logging never waits for the reader.
//!
//! The buffer is bounded. A line without room in the buffer is dropped and counted, and the daemon works on.

use std::{
    io::{self, ErrorKind, Write},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

use super::Format;
use crate::printable;

/// The most bytes in the buffer. A drain at full speed logs 6 MB/s, so a reader may stop for most of a second before a line is
/// dropped.
const MAX_WAITING: usize = 4 << 20;
/// The most bytes in one write.
const CHUNK: usize = 64 << 10;
/// The wait before a non-blocking output is tried again.
const RETRY: Duration = Duration::from_millis(10);
/// How long [`Lines::flush`] waits for one chunk, and the most chunks that it waits for.
const PATIENCE: Duration = Duration::from_millis(500);
const MAX_FLUSHES: u32 = 10;

/// Lines dropped since the process began. A process has one log.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// How many log lines were dropped since the process began.
#[must_use]
pub fn dropped_lines() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// The output of log lines. Clones share it.
#[derive(Clone, Debug)]
pub struct Lines {
    shared: Arc<Shared>,
    format: Format,
    is_coloured: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Notified when there is something to write.
    given: Condvar,
    /// Notified when something was written.
    written: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    is_writing: bool,
    /// The number of chunks written so far.
    chunks: u64,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    /// Starts the thread that writes lines to `output`. Harmful characters are escaped as `format` needs it.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn to(output: impl Write + Send + 'static, format: Format, is_coloured: bool) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let writing = Arc::clone(&shared);
        thread::Builder::new().name("sweeper-log".to_owned()).spawn(move || write_for_ever(&writing, output))?;
        Ok(Self { shared, format, is_coloured })
    }

    /// Waits until all lines are written, but not long if nobody reads.
    pub fn flush(&self) {
        let mut state = self.shared.state();
        for _ in 0..MAX_FLUSHES {
            let before = state.chunks;
            let is_open = |state: &mut State| (state.is_writing || !state.waiting.is_empty()) && state.chunks == before;
            let (next, late) = self
                .shared
                .written
                .wait_timeout_while(state, PATIENCE, is_open)
                .unwrap_or_else(PoisonError::into_inner);
            state = next;
            if late.timed_out() || (!state.is_writing && state.waiting.is_empty()) {
                return;
            }
        }
    }

    /// Adds a line, with its line break, to the buffer.
    fn take(&self, line: &[u8]) {
        let mut state = self.shared.state();
        if state.waiting.len() + line.len() > MAX_WAITING {
            DROPPED.fetch_add(1, Ordering::Relaxed);
            return;
        }
        state.waiting.extend_from_slice(line);
        drop(state);
        self.shared.given.notify_one();
    }
}

impl Write for Lines {
    /// Takes a whole line: the formatter writes one at a time.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        if body.iter().all(|byte| (b' '..=b'~').contains(byte)) {
            self.take(bytes);
        } else {
            let text = String::from_utf8_lossy(body);
            let clean = match self.format {
                Format::Json => printable::json_line(&text),
                Format::Text | Format::Auto => {
                    // The formatter has escaped the line breaks in its fields. Those that are left wrap a line.
                    let lines = text.split('\n').map(|line| printable::log_line(line, self.is_coloured));
                    lines.collect::<Vec<_>>().join("\n").into()
                }
            };
            self.take(format!("{clean}\n").as_bytes());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'w> MakeWriter<'w> for Lines {
    type Writer = Self;

    fn make_writer(&'w self) -> Self {
        self.clone()
    }
}

fn write_for_ever(shared: &Shared, mut output: impl Write) {
    let mut lines = Vec::new();
    loop {
        let mut state = shared.state();
        state.is_writing = false;
        shared.written.notify_all();
        state =
            shared.given.wait_while(state, |state| state.waiting.is_empty()).unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut state.waiting, &mut lines);
        state.is_writing = true;
        drop(state);
        for chunk in lines.chunks(CHUNK) {
            if let Err(lost) = write_all(&mut output, chunk) {
                DROPPED.fetch_add(lost, Ordering::Relaxed);
            }
            shared.state().chunks += 1;
            shared.written.notify_all();
        }
        lines.clear();
        // The memory of a long wait is freed.
        lines.shrink_to(CHUNK);
    }
}

/// Writes `rest`. If the reader is gone or the disk is full, returns the number of lines that were lost.
fn write_all(output: &mut impl Write, mut rest: &[u8]) -> Result<(), u64> {
    while !rest.is_empty() {
        match output.write(rest) {
            Ok(0) => break,
            Ok(length) => rest = &rest[length..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY),
            Err(_) => break,
        }
    }
    match rest.iter().filter(|byte| **byte == b'\n').count() {
        0 => Ok(()),
        lost => Err(lost as u64),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader, Read as _},
        os::unix::net::UnixStream,
    };

    use super::*;

    #[test]
    fn nobody_waits_for_a_reader_and_what_has_no_room_is_counted() {
        let (reader, output) = UnixStream::pair().unwrap();
        let mut lines = Lines::to(output, Format::Json, false).unwrap();
        let line = format!("{}\n", "x".repeat(1_023));
        let all = 3 * MAX_WAITING / line.len();
        for _ in 0..all {
            lines.write_all(line.as_bytes()).unwrap();
        }
        let dropped = dropped_lines();
        assert!(dropped > 0 && (dropped as usize) <= all * 2 / 3, "{dropped} of {all}");
        // The flush returns although nobody reads.
        Lines::flush(&lines);
        let reading = thread::spawn(move || BufReader::new(reader).lines().take(all - dropped as usize).count());
        assert_eq!(reading.join().unwrap(), all - dropped as usize, "all others arrive");
    }

    #[test]
    fn harmful_characters_are_escaped_in_either_format_and_only_text_is_wrapped() {
        for (format, expected) in [(Format::Text, "a\\u{202e}\nb\n"), (Format::Json, "a\\u202e\\u000ab\n")] {
            let (reader, output) = UnixStream::pair().unwrap();
            let mut lines = Lines::to(output, format, true).unwrap();
            lines.write_all("a\u{202e}\nb\n".as_bytes()).unwrap();
            let mut said = vec![0; expected.len()];
            BufReader::new(reader).read_exact(&mut said).unwrap();
            assert_eq!(String::from_utf8(said).unwrap(), expected);
        }
    }
}
