//! The progress of `run --until-empty` on a terminal: one line in place of a log line for each request.
//!
//! A thread draws the line. The loop must not wait for a terminal that shows nothing for a while (Ctrl-S).

use std::{
    collections::VecDeque,
    convert::Infallible,
    env,
    io::{self, IsTerminal as _, Write},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
    time::Duration,
};

use indicatif::ProgressBar;
use tokio::time::sleep;
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use super::RunArgs;
use crate::{
    cli::{
        screen::columns,
        terminal::bar_of_rows,
        times::{plural, show_count, show_text},
    },
    config::Config,
    durations,
    model::clock::{Clock, Timestamp},
    queue::{
        either::{self, Reader},
        report::Remaining,
    },
    watch::{metrics::Metrics, telemetry::Format},
    worker::{Ended, Totals},
};

/// The pause between two looks at the queue.
const PAUSE: Duration = Duration::from_secs(1);
/// Looking may use at most 1/20 of wall time.
const SHARE: u32 = 20;
/// The time over which the pace is measured.
const PACE_OF: Duration = Duration::from_secs(20);
/// The columns before the text, by [`bar_of_rows`].
const BEFORE_TEXT: usize = 23;
/// How long the end waits for the terminal.
const PATIENCE: Duration = Duration::from_millis(500);

/// Whether to show the line: only where a person sees it, and has not asked for more log lines than usual.
pub(super) fn is_wanted(args: &RunArgs, config: &Config, filter: &EnvFilter) -> bool {
    let is_seen = io::stdout().is_terminal() && io::stderr().is_terminal();
    let can_draw = env::var_os("TERM").is_none_or(|term| term != "dumb");
    let asks_for_more = filter.max_level_hint().is_none_or(|level| level > LevelFilter::INFO);
    args.until_empty && is_seen && can_draw && config.log_format != Format::Json && !asks_for_more
}

/// The filter of the log while the line is shown: the line stands for the lines of level info.
pub(super) fn without_info(filter: EnvFilter) -> EnvFilter {
    match filter.max_level_hint() {
        Some(level) if level < LevelFilter::INFO => filter,
        Some(_) | None => EnvFilter::new("warn"),
    }
}

/// What the line shows.
#[derive(Debug)]
struct Picture {
    done: u64,
    total: u64,
    text: String,
}

/// The line. Dropping it removes it.
pub(super) struct Progress {
    bar: ProgressBar,
    /// `None` once the line is to be removed.
    pictures: Option<SyncSender<Picture>>,
    removed: Receiver<()>,
}

impl Progress {
    /// Starts the thread that draws.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(super) fn start() -> io::Result<Self> {
        let bar = bar_of_rows();
        // A picture that nobody has drawn yet is enough.
        let (pictures, shown) = sync_channel::<Picture>(1);
        let (tell, removed) = sync_channel(1);
        let drawn = bar.clone();
        thread::Builder::new().name("sweeper-progress".to_owned()).spawn(move || {
            for Picture { done, total, text } in shown {
                drawn.set_length(total);
                drawn.set_position(done);
                drawn.set_message(text);
            }
            drawn.finish_and_clear();
            // If the receiver is gone, the command has ended.
            let _ = tell.send(());
        })?;
        Ok(Self { bar, pictures: Some(pictures), removed })
    }

    /// Standard output for lines that appear above this one.
    pub(super) fn above(&self, output: Box<dyn Write + Send>) -> Box<dyn Write + Send> {
        Box::new(Above { bar: self.bar.clone(), output })
    }

    /// Follows the worker that counts in these metrics.
    pub(super) async fn follow(&self, queue: &either::Options, metrics: &Metrics, clock: &Clock) -> Infallible {
        let mut pace = Pace::default();
        loop {
            let (begun, now, done) = (clock.elapsed(), clock.now(), metrics.ended());
            // The worker says what is wrong with the database.
            if let Ok(remaining) = look(queue, now).await {
                let per_s = pace.take(begun, done);
                let text = fitted(&text(done, &remaining, per_s, now), columns());
                let picture = Picture { done, total: done + remaining.pending + remaining.inbox, text };
                // If the terminal is stopped, this one is left out.
                let _ = self.pictures.as_ref().map(|pictures| pictures.try_send(picture));
            }
            sleep(PAUSE.max(clock.elapsed().saturating_sub(begun) * SHARE)).await;
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.pictures = None;
        let _ = self.removed.recv_timeout(PATIENCE);
    }
}

/// Writes above the line.
struct Above {
    bar: ProgressBar,
    output: Box<dyn Write + Send>,
}

impl Write for Above {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Self { bar, output } = self;
        bar.suspend(|| output.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

async fn look(queue: &either::Options, now: Timestamp) -> Result<Remaining, super::Failure> {
    Ok(Reader::open(queue).await?.remaining(now).await?)
}

/// The pace of the last seconds.
#[derive(Debug, Default)]
struct Pace {
    /// Elapsed times, and the rows that were done by then.
    seen: VecDeque<(Duration, u64)>,
}

impl Pace {
    /// Takes in that `done` rows are done now, and returns the rows per second of the last time.
    fn take(&mut self, at: Duration, done: u64) -> f64 {
        self.seen.push_back((at, done));
        while self.seen.get(1).is_some_and(|(next, _)| at.saturating_sub(*next) >= PACE_OF) {
            self.seen.pop_front();
        }
        let (since, before) = self.seen.front().copied().unwrap_or((at, done));
        let span = at.saturating_sub(since).as_secs_f64();
        if span > 0.0 { done.saturating_sub(before) as f64 / span } else { 0.0 }
    }
}

/// The text beside the bar. It names no end that cannot come: what is held stays for as long as it is held.
fn text(done: u64, remaining: &Remaining, per_s: f64, now: Timestamp) -> String {
    let Remaining { pending, held, inbox, .. } = *remaining;
    // A wish of the inbox becomes a row, unless there is a row for its entry.
    let left = pending + inbox;
    let rows = format!("{} of {} rows", show_count(done), show_count(done + left));
    let pace = if per_s >= 9.5 { format!("{}/s", show_count(per_s.round() as u64)) } else { format!("{per_s:.1}/s") };
    if held > 0 {
        let causes = remaining.causes.join(", ");
        let which =
            if held == left { "the rest is held".to_owned() } else { plural(held, "row is held", "rows are held") };
        return format!("{rows}, {pace}; {which} ({causes})");
    }
    if left == 0 || per_s <= 0.0 {
        return format!("{rows}, {pace}");
    }
    let at_this_pace = Duration::from_secs_f64((left as f64 / per_s).ceil().min(1e9));
    // Rows that come back later, or were enqueued for later, end no sooner than they are due.
    let last_due = remaining.last_due_at.map_or(Duration::ZERO, |at| at.since(now));
    format!(
        "{rows}, {pace}, about {} left",
        durations::show_roughly(at_this_pace.max(last_due).max(Duration::from_secs(1)))
    )
}

/// The text in a terminal of so many columns. Text that is cut ends with a mark.
fn fitted(text: &str, columns: Option<usize>) -> String {
    show_text(text, columns.map_or(usize::MAX - 1, |columns| columns.saturating_sub(BEFORE_TEXT)))
}

/// The sentence at the end, in place of the last log line.
pub(super) fn summary(ended: Ended, totals: &Totals, took: Duration) -> String {
    let why = match ended {
        Ended::Empty => "the queue is empty",
        Ended::Told => "stopped by a signal",
        Ended::GaveUp => "gave up, because no row reached an end for --give-up-after",
        Ended::MaxRequests => "the requests of --max-requests are sent",
    };
    let Totals { requests, deleted, absent, dead, .. } = *totals;
    let told = [(deleted, "deleted"), (absent, "absent"), (dead, "dead")];
    let told: Vec<String> = told.iter().map(|(rows, state)| format!("{} {state}", show_count(*rows))).collect();
    let (requests, took) = (plural(requests, "request", "requests"), durations::show_roughly(took));
    let dead = if dead > 0 { "; `sweeper status` says why rows are dead" } else { "" };
    format!("{why}: {} in {requests}, {took}{dead}", told.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_764_000_000_000);

    #[test]
    fn it_names_an_end_only_if_one_can_come() {
        let left = |pending, held, due_in: u64| Remaining {
            pending,
            held,
            inbox: 0,
            causes: if held > 0 { vec!["operator"] } else { vec![] },
            last_due_at: (due_in > 0).then(|| NOW.plus(Duration::from_secs(due_in))),
        };
        for (remaining, per_s, said) in [
            (left(825, 0, 0), 0.0, "1,000 of 1,825 rows, 0.0/s"),
            (left(825, 0, 0), 85.4, "1,000 of 1,825 rows, 85/s, about 10s left"),
            (left(825, 0, 0), 1.0, "1,000 of 1,825 rows, 1.0/s, about 13m 45s left"),
            (left(825, 0, 7_200), 85.4, "1,000 of 1,825 rows, 85/s, about 2h left"),
            (left(0, 0, 0), 85.4, "1,000 of 1,000 rows, 85/s"),
            (left(825, 825, 0), 85.4, "1,000 of 1,825 rows, 85/s; the rest is held (operator)"),
            (left(825, 1, 0), 85.4, "1,000 of 1,825 rows, 85/s; 1 row is held (operator)"),
            (Remaining { inbox: 825, ..left(0, 0, 0) }, 85.4, "1,000 of 1,825 rows, 85/s, about 10s left"),
            (Remaining { inbox: 800, ..left(25, 0, 0) }, 85.4, "1,000 of 1,825 rows, 85/s, about 10s left"),
            (
                Remaining { inbox: 800, ..left(25, 25, 0) },
                85.4,
                "1,000 of 1,825 rows, 85/s; 25 rows are held (operator)",
            ),
        ] {
            assert_eq!(text(1_000, &remaining, per_s, NOW), said);
        }
    }

    #[test]
    fn text_that_is_cut_ends_with_a_mark() {
        let text = "1,000 of 1,825 rows, 85/s; the rest is held (forbidden, operator)";
        assert_eq!(fitted(text, Some(80)), "1,000 of 1,825 rows, 85/s; the rest is held (forbidden, …");
        assert_eq!(fitted(text, Some(80)).chars().count(), 80 - BEFORE_TEXT);
        for columns in [Some(120), None] {
            assert_eq!(fitted(text, columns), text);
        }
    }

    #[test]
    fn the_pace_is_that_of_the_last_seconds() {
        let mut pace = Pace::default();
        let paces: Vec<f64> = (0..60)
            .map(|second| pace.take(Duration::from_secs(second), if second < 30 { second * 10 } else { 290 }))
            .collect();
        assert_eq!([paces[0], paces[1], paces[20], paces[29], paces[59]], [0.0, 10.0, 10.0, 10.0, 0.0]);
        assert!(paces[40] > 0.0 && paces[40] < 6.0, "{}", paces[40]);
        assert!(pace.seen.len() < 25);
    }

    #[test]
    fn the_line_stands_for_the_lines_of_level_info() {
        for (filter, shown) in
            [("info", "warn"), ("warn", "warn"), ("error", "error"), ("off", "off"), ("info,sqlx=warn", "warn")]
        {
            assert_eq!(without_info(EnvFilter::new(filter)).to_string(), shown);
        }
    }
}
