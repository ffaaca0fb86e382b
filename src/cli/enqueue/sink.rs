//! Where wishes go: into the queue, a chunk in each transaction.

use std::{future::pending, process::ExitCode, time::Duration};

use tokio::time::sleep;

use super::EnqueueArgs;
use crate::{
    cli::{
        Failure,
        init::opening,
        steps::MAX_GAP,
        terminal::{report, warn_person},
    },
    model::{act::Draft, clock::Clock},
    queue::{
        Enqueued, Wish,
        either::{Options, Producer},
        sqlite::Opened,
    },
};

/// Rows of one transaction. Writing them takes about 0.1 s in a table of a million rows.
pub(super) const CHUNK: usize = 5_000;
/// The longest time that a row waits for its chunk to fill up.
const MAX_AGE: Duration = Duration::from_secs(1);

/// Takes wishes, and writes them in chunks.
pub(super) struct Sink<'a> {
    options: &'a Options,
    pub(super) clock: &'a Clock,
    pub(super) dry_run: bool,
    /// A queue that is not there is made on a server, too.
    creates: bool,
    /// Whose act this is.
    act: Draft,
    /// `None` until the first chunk is written.
    producer: Option<Producer>,
    pub(super) chunk: Vec<Wish>,
    /// Elapsed time at which the chunk is written even if it is not full.
    ripe_at: Duration,
    done: Enqueued,
    /// Wishes that were written, or would have been without --dry-run.
    pub(super) taken: u64,
    /// Whether the summary has been printed.
    told: bool,
    /// Whether everything was done that was asked for.
    is_over: bool,
}

impl<'a> Sink<'a> {
    pub(super) fn new(options: &'a Options, clock: &'a Clock, act: Draft, args: &EnqueueArgs) -> Self {
        Self {
            options,
            clock,
            dry_run: args.dry_run,
            creates: args.create,
            act,
            producer: None,
            chunk: Vec::with_capacity(CHUNK),
            ripe_at: Duration::ZERO,
            done: Enqueued::default(),
            taken: 0,
            told: false,
            is_over: false,
        }
    }

    /// Closes the database.
    pub(super) async fn close(self) {
        if let Some(mut producer) = self.producer {
            if self.is_over {
                // The rows are enqueued. If this fails, the act looks as if it was cut short.
                let _ = producer.end_act(self.clock.now()).await;
            }
            // Everything is committed. A WAL that could not be copied stays beside the file.
            let _ = producer.close().await;
        }
    }

    pub(super) fn put(&mut self, wish: Wish) {
        if self.chunk.is_empty() {
            self.ripe_at = self.clock.elapsed() + MAX_AGE;
        }
        self.chunk.push(wish);
    }

    /// Completes when the oldest wish of the chunk has waited for `MAX_AGE`.
    pub(super) async fn ripe(&self) {
        match self.chunk.is_empty() {
            true => pending().await,
            false => sleep(self.ripe_at.saturating_sub(self.clock.elapsed())).await,
        }
    }

    /// Writes the chunk.
    ///
    /// # Errors
    /// If the database cannot be used.
    pub(super) async fn flush(&mut self) -> Result<(), Failure> {
        self.taken += self.chunk.len() as u64;
        if self.dry_run || self.chunk.is_empty() {
            self.chunk.clear();
            return Ok(());
        }
        let producer = match &mut self.producer {
            Some(producer) => producer,
            none => {
                let (producer, opened) = Producer::join_or_create(self.options, self.creates, self.clock).await?;
                tell_of_opening(self.options, opened);
                let producer = none.insert(producer);
                // Of a label, somebody may ask later who wished for it.
                let least = if self.chunk.iter().any(|wish| wish.label.is_some()) { 1 } else { 2 };
                producer.begin_act(self.act.clone(), least);
                producer
            }
        };
        let begun = self.clock.elapsed();
        let Enqueued { accepted, inserted, waiting, dropped, earlier, reopened } =
            producer.enqueue(&self.chunk, self.clock.now()).await?;
        let took = self.clock.elapsed().saturating_sub(begun);
        self.chunk.clear();
        self.done.accepted += accepted;
        self.done.inserted += inserted;
        self.done.waiting += waiting;
        self.done.dropped += dropped;
        self.done.earlier += earlier;
        self.done.reopened += reopened;
        if matches!(self.options, Options::Sqlite(_)) {
            // SQLite's busy handler only retries now and then: without a gap, another writer starves.
            sleep(took.min(MAX_GAP)).await;
        }
        Ok(())
    }

    fn summary(&self, refused: u64) -> String {
        let Enqueued { accepted, inserted, waiting, dropped, earlier, reopened } = self.done;
        if self.dry_run {
            format!("dry run: {} can be enqueued, {refused} refused; nothing was written", self.taken)
        } else if matches!(self.options, Options::Postgres(_)) {
            format!(
                "accepted {accepted} (at that moment, already waiting {waiting}, to be reopened {reopened}), refused {refused}"
            )
        } else {
            let dropped = match dropped {
                0 => String::new(),
                1 => " (of these, 1 keeps its earlier due time)".to_owned(),
                many => format!(" (of these, {many} keep their earlier due time)"),
            };
            format!(
                "inserted {inserted}, already waiting {waiting}{dropped}, now due earlier {earlier}, reopened {reopened}, \
                 refused {refused}"
            )
        }
    }

    /// Prints what was done before something went wrong. `refused`: number of refused lines.
    pub(super) fn tell(&mut self, refused: u64) {
        self.told = true;
        warn_person(&format!("{}; enqueueing the same again does no harm", self.summary(refused)));
    }

    /// Prints the summary, unless it has been printed. `refused`: number of refused lines.
    pub(super) fn finish(&mut self, refused: u64) -> ExitCode {
        self.is_over = true;
        if !self.told {
            report(&self.summary(refused));
        }
        if refused > 0 { ExitCode::from(1) } else { ExitCode::SUCCESS }
    }
}

/// Says that a queue was made, or a dump adopted.
fn tell_of_opening(options: &Options, opened: Opened) {
    let alone = |setting: &str| match opened {
        Opened::Created => {
            format!("; no daemon works on it: start one with `sweeper run`, with the same {setting}")
        }
        Opened::Adopted | Opened::Existing => String::new(),
    };
    match options {
        Options::Sqlite(file) => {
            opening(file, opened).iter().for_each(|text| report(&format!("{text}{}", alone("database.path"))));
        }
        Options::Postgres(_) if opened == Opened::Created => {
            report(&format!("{}: created, in the schema sweeper{}", options.name(), alone("database.url")));
        }
        Options::Postgres(_) => {}
    }
}
