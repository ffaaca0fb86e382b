//! The log: its events, its formats and its output. The events are an interface; the README documents them.

mod writer;

use std::{
    fs::File,
    io::{self, IsTerminal as _, Write},
    os::fd::AsFd as _,
};

use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use writer::Lines;
pub use writer::dropped_lines;

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text for a person on a terminal, JSON for everything else.
    Auto,
    /// One line of text per event.
    Text,
    /// One JSON object per line.
    Json,
}

impl Format {
    /// Replaces `Auto` by the format for this standard output.
    #[must_use]
    pub fn resolve(self) -> Self {
        match self {
            Self::Auto if std::io::stdout().is_terminal() => Self::Text,
            Self::Auto => Self::Json,
            Self::Text | Self::Json => self,
        }
    }
}

/// The log of this process. Dropping it waits briefly for its last lines to be written.
#[derive(Debug)]
pub struct Log(Lines);

impl Log {
    /// Waits until all lines are written, but not long if nobody reads. Call this before printing to standard output.
    pub fn flush(&self) {
        self.0.flush();
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Starts logging to standard output. Only the first call in a process has an effect.
///
/// # Errors
/// If the thread that writes the log cannot be started.
pub fn init(format: Format, filter: EnvFilter) -> io::Result<Log> {
    init_to(output(), format, filter)
}

/// Standard output, without the standard library's lock and buffer: a process that ends must wait for neither.
#[must_use]
pub fn output() -> Box<dyn Write + Send> {
    match io::stdout().as_fd().try_clone_to_owned() {
        Ok(output) => Box::new(File::from(output)),
        Err(_) => Box::new(io::stdout()),
    }
}

/// The same as [`init`], with an `output` that leads to standard output.
///
/// # Errors
/// If the thread that writes the log cannot be started.
pub fn init_to(output: Box<dyn Write + Send>, format: Format, filter: EnvFilter) -> io::Result<Log> {
    let format = format.resolve();
    // Never if standard output is no terminal, or with NO_COLOR or TERM=dumb.
    let is_coloured = anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never;
    let lines = Lines::to(output, format, is_coloured)?;
    let registry = tracing_subscriber::registry().with(filter);
    let set = match format {
        Format::Json => {
            let layer = tracing_subscriber::fmt::layer().json().flatten_event(true);
            registry.with(layer.with_writer(lines.clone())).try_init()
        }
        Format::Text | Format::Auto => {
            let layer = tracing_subscriber::fmt::layer().with_target(false).with_ansi(is_coloured);
            registry.with(layer.with_writer(lines.clone())).try_init()
        }
    };
    // This fails if a subscriber is set already: tests in one process share it.
    drop(set);
    Ok(Log(lines))
}
