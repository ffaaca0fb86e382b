//! What the page shows of the database. It is read when somebody looks, on a connection that only reads, and kept for some seconds, so
//! that many who look cost one read. Nobody waits for a read that takes long: until it is done, the page shows the one before.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{runtime::Handle, sync::watch, task::spawn_blocking, time::timeout};

use crate::{
    model::{
        clock::{Clock, Timestamp},
        label::Label,
        outcome::{Cause, Scope},
    },
    queue::{
        either::{Options, Reader},
        report::{LabelStanding, NewestRequest, Standing},
    },
    watch::report::{
        empty::{self, Tone},
        json::Report,
        why::{Reason, needs_a_person},
        words::{Name, probe, told},
    },
};

/// The shortest time between two reads.
const INTERVAL: Duration = Duration::from_secs(5);
/// Reading may use at most one part in this many of wall time.
const SHARE: u32 = 10;
/// How long a page waits for a read. After that, it shows the one before.
const PATIENCE: Duration = Duration::from_millis(60);
/// A read that takes longer than this has failed.
pub(super) const LONGEST: Duration = Duration::from_secs(8);
/// Reading the labels may take this long. The rest of them is left out.
const LABELS_WITHIN: Duration = Duration::from_millis(500);

/// Agents, holds and labels that are listed.
pub(super) const MOST_LISTED: usize = 20;
/// Requests that are listed.
const MOST_REQUESTS: u32 = 15;

/// One read.
#[derive(Debug)]
pub(super) struct Look {
    /// When it began.
    pub(super) at: Timestamp,
    /// What was read, or why nothing could be.
    pub(super) seen: Result<Box<Facts>, String>,
}

/// What was read. Lists are cut.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) report: Report,
    /// Without its agents.
    pub(super) standing: Standing,
    /// Why nothing goes out, for those who may not see names.
    pub(super) why: Why,
    /// The same for the others.
    pub(super) named_why: Why,
    /// All holds by their cause.
    pub(super) causes: Vec<HeldFor>,
    pub(super) holds: usize,
    /// The agents that are left out, and their open rows.
    pub(super) agents_left: (u64, u64),
    /// `None`: there was no time to count.
    pub(super) labels: Vec<(String, Option<LabelStanding>)>,
    pub(super) has_more_labels: bool,
    pub(super) requests: Vec<NewestRequest>,
}

/// Why nothing goes out.
#[derive(Debug)]
pub(super) struct Why {
    /// When the queue will be empty, and what keeps it from that.
    pub(super) end: Vec<(Tone, String)>,
    /// What pending rows wait for.
    pub(super) waits: Vec<Wait>,
}

/// Pending rows that wait for the same.
#[derive(Debug)]
pub(super) struct Wait {
    pub(super) reason: Reason,
    pub(super) rows: u64,
    pub(super) word: &'static str,
    pub(super) note: String,
}

/// The holds with one cause.
#[derive(Debug)]
pub(super) struct HeldFor {
    pub(super) cause: Cause,
    pub(super) holds: u64,
    /// One of them is on everything.
    pub(super) is_on_everything: bool,
    pub(super) needs_a_person: bool,
}

/// Reads, and keeps what was read last.
#[derive(Debug)]
pub(super) struct Looker {
    queue: Options,
    clock: Clock,
    last: watch::Sender<Option<Arc<Look>>>,
    is_reading: AtomicBool,
    /// The earliest time of the next read, in elapsed time.
    next: Mutex<Duration>,
}

impl Looker {
    pub(super) fn new(queue: Options, clock: Clock) -> Arc<Self> {
        let (last, is_reading, next) = (watch::Sender::default(), AtomicBool::new(false), Mutex::default());
        Arc::new(Self { queue, clock, last, is_reading, next })
    }

    /// The last read. If it is old, another one is begun, and waited for if it takes no time. `None`: there is none yet.
    pub(super) async fn look(self: &Arc<Self>) -> Option<Arc<Look>> {
        let mut last = self.last.subscribe();
        last.mark_unchanged();
        if self.begins() {
            let looker = Arc::clone(self);
            // A task of its own, so that it goes on when the page stops waiting.
            tokio::spawn(async move { looker.read().await });
        }
        if self.is_reading.load(Ordering::SeqCst) {
            let _ = timeout(PATIENCE, last.changed()).await;
        }
        last.borrow().clone()
    }

    /// Whether it is time for a read, which then has to follow.
    fn begins(&self) -> bool {
        let next = *self.next.lock().unwrap_or_else(PoisonError::into_inner);
        self.clock.elapsed() >= next && !self.is_reading.swap(true, Ordering::SeqCst)
    }

    async fn read(&self) {
        let (at, begun) = (self.clock.now(), self.clock.elapsed());
        let (queue, clock, handle) = (self.queue.clone(), self.clock.clone(), Handle::current());
        // Parts of it do not give way: they look for the daemon's process, and go through all agents.
        let read = spawn_blocking(move || handle.block_on(timeout(LONGEST, facts(&queue, &clock, at))));
        let seen = match read.await {
            Ok(Ok(seen)) => seen,
            Ok(Err(_)) => Err(format!("reading it took longer than {} s", LONGEST.as_secs())),
            Err(panic) => Err(panic.to_string()),
        };
        let ended = self.clock.elapsed();
        let pause = INTERVAL.max(ended.saturating_sub(begun) * SHARE);
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = ended + pause;
        self.last.send_replace(Some(Arc::new(Look { at, seen })));
        self.is_reading.store(false, Ordering::SeqCst);
    }
}

async fn facts(queue: &Options, clock: &Clock, now: Timestamp) -> Result<Box<Facts>, String> {
    let mut reader = Reader::open(queue).await.map_err(|error| error.to_string())?;
    let standing = reader.standing(None, now).await.map_err(|error| error.to_string())?;
    let requests = reader.newest_requests(MOST_REQUESTS).await.map_err(|error| error.to_string())?;
    let begun = clock.elapsed();
    let mut names = reader.labels(MOST_LISTED as u32 + 1).await.map_err(|error| error.to_string())?;
    let has_more_labels = names.len() > MOST_LISTED;
    names.truncate(MOST_LISTED);
    let mut labels = Vec::new();
    for name in names {
        let has_time = clock.elapsed().saturating_sub(begun) < LABELS_WITHIN;
        let standing = match Label::parse(&name).ok().filter(|_| has_time) {
            Some(label) => reader.label(&label, None).await.map_err(|error| error.to_string())?,
            None => None,
        };
        labels.push((name, standing));
    }
    let report = Report::new(queue, None, &standing, now);
    Ok(Box::new(Facts { labels, has_more_labels, requests, ..Facts::new(report, standing, now) }))
}

impl Facts {
    fn new(mut report: Report, mut standing: Standing, now: Timestamp) -> Self {
        let why = |name: Name<'_>| Why::new(&report, &standing, name, now);
        let (why, named_why) = (why(&|_| "an agent".to_owned()), why(&str::to_owned));
        let (causes, holds) = (held_for(&standing), standing.holds.len());
        let left = report.agents.get(MOST_LISTED..).unwrap_or_default();
        let agents_left = (left.len() as u64, left.iter().map(|agent| agent.pending).sum());
        report.agents.truncate(MOST_LISTED);
        report.holds = Vec::new();
        standing.agents = Vec::new();
        standing.holds.sort_by_key(|hold| !needs_a_person(hold));
        standing.holds.truncate(MOST_LISTED);
        let (labels, requests, has_more_labels) = (Vec::new(), Vec::new(), false);
        Self { report, standing, why, named_why, causes, holds, agents_left, labels, has_more_labels, requests }
    }
}

impl Why {
    fn new(report: &Report, standing: &Standing, name: Name<'_>, now: Timestamp) -> Self {
        let wait = |wait| {
            let (word, note) = told(wait, report, name, now);
            let probe = probe(wait, report, now).map_or_else(String::new, |probe| format!(", {probe}"));
            Wait { reason: wait.reason, rows: wait.rows, word, note: format!("{note}{probe}") }
        };
        Self { end: empty::lines(report, standing, name), waits: report.waits.iter().map(wait).collect() }
    }
}

/// The holds by their cause, those that need a person first.
fn held_for(standing: &Standing) -> Vec<HeldFor> {
    let mut causes = BTreeMap::<Cause, HeldFor>::new();
    for hold in &standing.holds {
        let new = HeldFor { cause: hold.cause, holds: 0, is_on_everything: false, needs_a_person: false };
        let held = causes.entry(hold.cause).or_insert(new);
        held.holds += 1;
        held.is_on_everything |= hold.scope == Scope::All;
        held.needs_a_person |= needs_a_person(hold);
    }
    let mut causes: Vec<HeldFor> = causes.into_values().collect();
    causes.sort_by_key(|held| !held.needs_a_person);
    causes
}
