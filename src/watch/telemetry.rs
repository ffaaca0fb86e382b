//! The logs: who writes them where, and the names in them. Logs are the interface: the README has the table.

mod writer;

use std::{
    fs::File,
    io::{self, IsTerminal as _, Write},
    os::fd::AsFd as _,
};

use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use writer::Lines;
pub use writer::dropped_lines;

/// How log lines look.
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
    /// What `Auto` means on this standard output.
    #[must_use]
    pub fn resolve(self) -> Self {
        match self {
            Self::Auto if std::io::stdout().is_terminal() => Self::Text,
            Self::Auto => Self::Json,
            Self::Text | Self::Json => self,
        }
    }
}

/// The log of this process. Dropping it waits a moment until its last lines are written.
#[derive(Debug)]
pub struct Log(Lines);

impl Log {
    /// Waits until all is written, but not for long if nobody reads: for those who print something else next.
    pub fn flush(&self) {
        self.0.flush();
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Logs to standard output from here on. The first call decides; later ones change nothing.
///
/// # Errors
/// If there can be no thread that writes the log.
pub fn init(format: Format, filter: EnvFilter) -> io::Result<Log> {
    let (format, is_coloured) = (format.resolve(), io::stdout().is_terminal());
    // Not through the standard library's lock and buffer: a process that ends must not wait for either.
    let output: Box<dyn Write + Send> = match io::stdout().as_fd().try_clone_to_owned() {
        Ok(output) => Box::new(File::from(output)),
        Err(_) => Box::new(io::stdout()),
    };
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
    // There is one already: tests in one process share it.
    drop(set);
    Ok(Log(lines))
}
