//! An input that a thread of its own reads a few blocks ahead.
//!
//! A read can wait for ever and cannot be cancelled. So the task that listens to signals must neither read itself nor wait
//! for the thread. The thread hands over what it has read before each wait.

use std::{
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::{sync::mpsc, time::timeout};

use super::{Parser, Problem, lines::Lines};
use crate::queue::Wish;

/// Lines of a block.
const BLOCK: usize = 500;
/// Blocks that are read ahead.
const BLOCKS: usize = 4;
/// A reader that hands over nothing for this long is waiting for its source.
pub(in crate::cli) const SILENCE: Duration = Duration::from_millis(200);

/// A line that is not empty.
pub(in crate::cli) struct Line {
    /// From 1.
    pub(in crate::cli) number: u64,
    /// Bytes of the input up to the end of this line.
    pub(in crate::cli) read: u64,
    /// Whether it ends with a line break. If not, it may have been cut off.
    pub(in crate::cli) is_whole: bool,
    pub(in crate::cli) wish: Result<Wish, Problem>,
}

/// A part of the input.
pub(in crate::cli) enum Input {
    Lines(Vec<Line>),
    /// The line with this number and all lines after it cannot be read.
    Failed(u64, io::Error),
    /// The end of the input.
    End,
}

/// The receiving side.
pub(in crate::cli) struct Ahead {
    blocks: mpsc::Receiver<Input>,
    enough: Arc<AtomicBool>,
}

impl Ahead {
    /// Starts to read `source`.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub(in crate::cli) fn new(source: Box<dyn Read + Send>, parser: Parser) -> io::Result<Self> {
        let (sender, blocks) = mpsc::channel(BLOCKS);
        let enough = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&enough);
        thread::Builder::new().name("input".to_owned()).spawn(move || read_ahead(source, parser, &sender, &told))?;
        Ok(Self { blocks, enough })
    }

    /// The next part; `None` at the end.
    pub(in crate::cli) async fn next(&mut self) -> Option<Input> {
        match self.blocks.recv().await {
            Some(Input::End) => None,
            // A thread that ends without `End` has panicked: the rest of the input is missing.
            None => Some(Input::Failed(0, io::Error::other("the reader has failed"))),
            input => input,
        }
    }

    /// The next part that has been read by now; `None` if there is no more. The thread stops at its next wait.
    pub(in crate::cli) async fn next_of_these(&mut self) -> Option<Input> {
        self.enough.store(true, Ordering::Relaxed);
        timeout(SILENCE, self.blocks.recv()).await.ok().flatten().filter(|input| !matches!(input, Input::End))
    }
}

fn read_ahead(source: Box<dyn Read + Send>, mut parser: Parser, sender: &mpsc::Sender<Input>, enough: &AtomicBool) {
    let mut lines = Lines::new(source);
    let mut block = Vec::new();
    // False if the receiver is gone.
    let hand_over =
        |block: &mut Vec<Line>| block.is_empty() || sender.blocking_send(Input::Lines(std::mem::take(block))).is_ok();
    loop {
        let may_wait = !lines.has_line();
        if (block.len() == BLOCK || may_wait) && !hand_over(&mut block) {
            return;
        }
        if may_wait && enough.load(Ordering::Relaxed) {
            return;
        }
        let wish = match lines.next() {
            Ok(None) => break,
            Ok(Some(line)) => line.and_then(|line| parser.parse(line)),
            Err(error) => {
                let _ = sender.blocking_send(Input::Failed(lines.number + 1, error));
                return;
            }
        };
        if let Some(wish) = wish.transpose() {
            block.push(Line { number: lines.number, read: lines.read, is_whole: lines.is_whole, wish });
        }
    }
    if hand_over(&mut block) {
        let _ = sender.blocking_send(Input::End);
    }
}
