//! The log: its events, its formats and its output. The events are an interface; docs/reference-logs.md documents them.

mod text;
mod writer;

use std::{
    fs::File,
    io::{self, IsTerminal as _, Write},
    os::fd::AsFd as _,
};

use jiff::tz::TimeZone;
use tracing_subscriber::{EnvFilter, Registry, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _};

use crate::model::clock::Clock;
pub use text::{Text, Width};
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

/// The log of this process. Dropping the last clone waits briefly for its last lines to be written.
#[derive(Clone, Debug)]
pub struct Log {
    lines: Lines,
    filter: reload::Handle<EnvFilter, Registry>,
}

impl Log {
    /// Waits until all lines are written, but not long if nobody reads. Call this before printing to standard output.
    pub fn flush(&self) {
        self.lines.flush();
    }

    /// A filter of these directives, which is in effect from [`NewFilter::apply`] on.
    #[must_use]
    pub fn new_filter(&self, directives: &str) -> NewFilter {
        NewFilter { directives: directives.to_owned(), handle: self.filter.clone() }
    }
}

/// A filter that is not in effect yet.
#[derive(Clone, Debug)]
pub struct NewFilter {
    directives: String,
    handle: reload::Handle<EnvFilter, Registry>,
}

impl NewFilter {
    /// Replaces the log's filter.
    pub fn apply(&self) {
        // This fails if another subscriber is set: tests in one process share it.
        let _ = self.handle.reload(EnvFilter::new(&self.directives));
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Starts logging to standard output, in lines of this width if they are text. Only the first call in a process has an effect.
///
/// # Errors
/// If the thread that writes the log cannot be started.
pub fn init(format: Format, filter: EnvFilter, width: Width) -> io::Result<Log> {
    init_to(output(), format, filter, width)
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
pub fn init_to(output: Box<dyn Write + Send>, format: Format, filter: EnvFilter, width: Width) -> io::Result<Log> {
    let format = format.resolve();
    // Never if standard output is no terminal, or with NO_COLOR or TERM=dumb.
    let is_coloured = anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never;
    let lines = Lines::to(output, format, is_coloured)?;
    let (filter, handle) = reload::Layer::new(filter);
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(lines.clone());
    let set = match format {
        Format::Json => registry.with(layer.json().flatten_event(true)).try_init(),
        Format::Text | Format::Auto => {
            let text = Text::new(Clock::system(), TimeZone::system(), width);
            registry.with(layer.with_ansi(is_coloured).event_format(text)).try_init()
        }
    };
    // This fails if a subscriber is set already: tests in one process share it.
    drop(set);
    Ok(Log { lines, filter: handle })
}
