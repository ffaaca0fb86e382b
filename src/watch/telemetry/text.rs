//! Log lines for people: the local time, the level, and a sentence. A request is one row.
//!
//! The documented events have sentences of their own ([`sentences`]). Every other event is its message with its fields, so a new
//! event needs no line here.

mod fields;
mod sentences;

use std::{fmt, io};

use anstyle::{AnsiColor, Effects, Style};
use jiff::tz::TimeZone;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

use crate::model::clock::{Clock, Timestamp};
use fields::Fields;

/// A narrower terminal is taken to be this wide.
const MIN_WIDTH: usize = 40;
/// The columns of a level and the spaces around it.
const LEVEL_WIDTH: usize = 7;

/// The columns that a line may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// Of the terminal on standard output, at each line. Without a terminal, lines are not wrapped.
    Terminal,
    /// This many.
    Columns(usize),
}

impl Width {
    fn columns(self) -> Option<usize> {
        let columns = match self {
            Self::Columns(columns) => Some(columns),
            Self::Terminal => rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| size.ws_col.into()),
        };
        // A serial terminal that does not know its size says 0.
        columns.filter(|columns| *columns > 0).map(|columns| columns.max(MIN_WIDTH))
    }
}

/// Formats events for people.
#[derive(Clone, Debug)]
pub struct Text {
    clock: Clock,
    zone: TimeZone,
    width: Width,
}

/// The circumstances of a line, beside its event.
struct Look<'a> {
    now: Timestamp,
    zone: &'a TimeZone,
    /// The columns that are left for the sentence.
    room: Option<usize>,
}

impl Text {
    /// Formats with the time of `clock` in `zone`, in lines of this width.
    #[must_use]
    pub fn new(clock: Clock, zone: TimeZone, width: Width) -> Self {
        Self { clock, zone, width }
    }
}

impl<S, N> FormatEvent<S, N> for Text
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let now = self.clock.now();
        let columns = self.width.columns();
        // A file is read on another day.
        let form = if columns.is_some() { "%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" };
        let time = fields::local(now, &self.zone, form);
        let before = time.chars().count() + LEVEL_WIDTH;
        let look = Look { now, zone: &self.zone, room: columns.map(|columns| columns.saturating_sub(before)) };
        let fields = Fields::of(event);
        let sentence =
            sentences::sentence(&fields, &look).unwrap_or_else(|| sentences::fallback(&fields, event, &look));
        let level = *event.metadata().level();
        let (dim, colour) = if writer.has_ansi_escapes() {
            (Style::new().effects(Effects::DIMMED), colour(level))
        } else {
            (Style::new(), Style::new())
        };
        write!(writer, "{dim}{time}{dim:#} {colour}{level:<5}{colour:#} ")?;
        let mut lines = wrapped(&sentence, look.room).into_iter();
        writeln!(writer, "{}", lines.next().unwrap_or_default())?;
        lines.try_for_each(|line| writeln!(writer, "{:before$}{line}", ""))
    }
}

fn colour(level: Level) -> Style {
    match level {
        Level::ERROR => AnsiColor::Red.on_default().bold(),
        Level::WARN => AnsiColor::Yellow.on_default(),
        Level::INFO => AnsiColor::Green.on_default(),
        Level::DEBUG => AnsiColor::Blue.on_default(),
        Level::TRACE => AnsiColor::Magenta.on_default(),
    }
}

/// The lines of a text that is wrapped between words. A word that is longer than a line is broken.
fn wrapped(text: &str, room: Option<usize>) -> Vec<String> {
    let Some(room) = room.filter(|room| text.chars().count() > *room) else { return vec![text.to_owned()] };
    let (mut lines, mut line, mut length) = (Vec::new(), String::new(), 0);
    for word in text.split(' ') {
        let mut rest: Vec<char> = word.chars().collect();
        if length > 0 && length + 1 + rest.len() > room {
            lines.push(std::mem::take(&mut line));
            length = 0;
        }
        while rest.len() > room {
            let tail = rest.split_off(room);
            lines.push(rest.into_iter().collect());
            rest = tail;
        }
        if length > 0 {
            line.push(' ');
            length += 1;
        }
        length += rest.len();
        line.extend(rest);
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_wrapped_between_words_and_a_long_word_is_broken() {
        assert_eq!(wrapped("one two  three", None), ["one two  three"]);
        assert_eq!(wrapped("one two", Some(7)), ["one two"]);
        assert_eq!(wrapped("one two three", Some(7)), ["one two", "three"]);
        assert_eq!(wrapped("a 0123456789 b", Some(4)), ["a", "0123", "4567", "89 b"]);
    }
}
