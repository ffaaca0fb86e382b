//! Lines of an input, read in constant memory.

use std::io::{self, BufRead as _, BufReader, Read};

use super::{Problem, foreign};

/// The longest line that is read, in bytes: many times the longest IDs.
pub(super) const MAX_LINE: usize = 16 << 10;
/// Bytes read at a time.
const BUFFER: usize = 256 << 10;

/// Reads lines.
pub(super) struct Lines<R> {
    reader: BufReader<R>,
    line: Vec<u8>,
    /// Number of the last line that was read, from 1.
    pub(super) number: u64,
    /// Bytes read so far.
    pub(super) read: u64,
    /// Whether the last line ended with a line break.
    pub(super) is_whole: bool,
}

impl<R: Read> Lines<R> {
    pub(super) fn new(source: R) -> Self {
        Self { reader: BufReader::with_capacity(BUFFER, source), line: Vec::new(), number: 0, read: 0, is_whole: true }
    }

    /// Whether the next line is in the buffer, so that reading it does not wait.
    pub(super) fn has_line(&self) -> bool {
        self.reader.buffer().contains(&b'\n')
    }

    /// The next line, without the white space around it; `None` at the end.
    ///
    /// # Errors
    /// If the source cannot be read. A line that is too long or not text is an inner error, and the next call goes on. So is a
    /// first line that shows that the source is no text at all.
    pub(super) fn next(&mut self) -> io::Result<Option<Result<&str, Problem>>> {
        self.line.clear();
        let most = MAX_LINE as u64 + 1;
        let mut read = (&mut self.reader).take(most).read_until(b'\n', &mut self.line)? as u64;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        self.is_whole = self.line.ends_with(b"\n");
        let is_short = self.is_whole || read < most;
        if self.number == 1
            && let Some(said) = foreign::binary(&self.line, self.reader.buffer())
        {
            self.is_whole = true;
            return Ok(Some(Err(Problem::Input(said))));
        }
        if !is_short {
            read += self.reader.skip_until(b'\n')? as u64;
            self.is_whole = true;
        }
        self.read += read;
        if !is_short {
            return Ok(Some(Err(Problem::Line(format!("is longer than {MAX_LINE} bytes")))));
        }
        let mut line = self.line.as_slice();
        if self.number == 1 {
            // Programs on Windows write a byte order mark before UTF-8.
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        let text = str::from_utf8(line).map(str::trim);
        Ok(Some(text.map_err(|_| Problem::Line("is not UTF-8 text".to_owned()))))
    }
}
