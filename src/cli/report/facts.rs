//! What a report says: counts of a label's wishes, and the hash over their lines.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::canonical::{self, Hash};
use crate::{
    model::{clock::Timestamp, hold::HoldRow, outcome::Scope},
    queue::report::{CANCELLED, INBOX, Record},
};

/// How many wishes are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct States {
    pub(super) deleted: u64,
    pub(super) absent: u64,
    pub(super) dead: u64,
    pub(super) cancelled: u64,
    pub(super) open: u64,
}

impl States {
    fn add(&mut self, state: &str) {
        let count = match state {
            "deleted" => &mut self.deleted,
            "absent" => &mut self.absent,
            "dead" => &mut self.dead,
            CANCELLED => &mut self.cancelled,
            _ => &mut self.open,
        };
        *count += 1;
    }

    pub(super) fn all(self) -> u64 {
        self.gone() + self.dead + self.cancelled + self.open
    }

    /// Those whose entries are gone.
    pub(super) fn gone(self) -> u64 {
        self.deleted + self.absent
    }
}

/// The first and the last of some times.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Span(pub(super) Option<(Timestamp, Timestamp)>);

impl Span {
    fn add(&mut self, at: Timestamp) {
        self.0 = Some(self.0.map_or((at, at), |(first, last)| (first.min(at), last.max(at))));
    }
}

/// Why wishes are open, and when they go on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Open {
    /// Wait for a hold.
    pub(super) held: u64,
    /// Wait for their next attempt.
    pub(super) retrying: u64,
    /// Were enqueued for a later time.
    pub(super) later: u64,
    /// Are due.
    pub(super) due: u64,
    /// When the first of those goes that wait or are for later.
    pub(super) next: Option<Timestamp>,
}

/// What the queue says about a label.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) label: String,
    /// The name of the queue.
    pub(super) queue: String,
    /// When reading began and ended.
    pub(super) read: (Timestamp, Timestamp),
    pub(super) states: States,
    /// Wishes that no leader has taken in yet. They are not hashed.
    pub(super) inbox: u64,
    pub(super) agents: BTreeMap<String, States>,
    pub(super) asked: Span,
    /// By whom, as far as that is known.
    pub(super) askers: BTreeMap<Option<String>, u64>,
    pub(super) ended: Span,
    /// The dead by their cause.
    pub(super) dead: BTreeMap<String, u64>,
    /// The dead whose entries may be gone all the same.
    pub(super) unconfirmed: u64,
    /// The cancelled by who cancelled them, as far as that is known.
    pub(super) cancellers: BTreeMap<Option<String>, u64>,
    pub(super) open: Open,
    /// The holds that open wishes wait for.
    pub(super) holds: Vec<HoldRow>,
    /// Of the wishes whose entries are gone, those that a listing of the agent's cache has confirmed.
    pub(super) verified: u64,
    pub(super) verified_at: Span,
    pub(super) sha256: String,
    /// The lines that are hashed, if they are kept.
    pub(super) lines: Option<Vec<String>>,
    hash: Hash,
    /// All holds that may hold something, each with whether a wish waits for it.
    all_holds: Vec<(HoldRow, bool)>,
}

impl Facts {
    /// Nothing is known so far. `keeps`: keep the lines.
    pub(super) fn new(label: &str, queue: String, holds: Vec<HoldRow>, keeps: bool, now: Timestamp) -> Self {
        let head = canonical::head(label);
        let mut hash = Hash::default();
        hash.add(&head);
        Self {
            label: label.to_owned(),
            queue,
            read: (now, now),
            states: States::default(),
            inbox: 0,
            agents: BTreeMap::new(),
            asked: Span::default(),
            askers: BTreeMap::new(),
            ended: Span::default(),
            dead: BTreeMap::new(),
            unconfirmed: 0,
            cancellers: BTreeMap::new(),
            open: Open::default(),
            holds: Vec::new(),
            verified: 0,
            verified_at: Span::default(),
            sha256: String::new(),
            lines: keeps.then(|| vec![head]),
            hash,
            all_holds: holds.into_iter().filter(|hold| !hold.is_over(now)).map(|hold| (hold, false)).collect(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.states.all() + self.inbox == 0
    }

    /// Adds the next wish, in the order of agents and entries.
    pub(super) fn add(&mut self, record: &Record, asked_by: Option<&str>) {
        if record.state == INBOX {
            self.inbox += 1;
            return;
        }
        let line = canonical::line(record);
        self.hash.add(&line);
        self.lines.iter_mut().for_each(|lines| lines.push(line.clone()));
        self.states.add(&record.state);
        self.agents.entry(record.agent.clone()).or_default().add(&record.state);
        self.asked.add(record.asked_at);
        *self.askers.entry(asked_by.map(str::to_owned)).or_default() += 1;
        record.ended_at.iter().for_each(|at| self.ended.add(*at));
        match record.state.as_str() {
            "deleted" | "absent" => {
                self.verified += u64::from(record.verified_at.is_some());
                record.verified_at.iter().for_each(|at| self.verified_at.add(*at));
            }
            "dead" => {
                *self.dead.entry(record.cause.clone().unwrap_or_else(|| "cause unknown".to_owned())).or_default() += 1;
                self.unconfirmed += u64::from(record.maybe_done == Some(true));
            }
            CANCELLED => *self.cancellers.entry(record.cancelled_by.clone()).or_default() += 1,
            _ => self.add_open(record),
        }
    }

    fn add_open(&mut self, record: &Record) {
        let holds = |hold: &HoldRow| match &hold.scope {
            Scope::All => true,
            Scope::Agent(agent) => agent.as_str() == record.agent,
        };
        let mut is_held = false;
        for (_, waits) in self.all_holds.iter_mut().filter(|(hold, _)| holds(hold)) {
            (is_held, *waits) = (true, true);
        }
        let due_at = record.due_at.unwrap_or_default();
        let count = match (is_held, due_at > self.read.0, record.attempts.unwrap_or(0) > 0) {
            (true, _, _) => &mut self.open.held,
            (false, false, _) => &mut self.open.due,
            (false, true, true) => &mut self.open.retrying,
            (false, true, false) => &mut self.open.later,
        };
        *count += 1;
        if !is_held && due_at > self.read.0 {
            self.open.next = Some(self.open.next.map_or(due_at, |next| next.min(due_at)));
        }
    }

    /// All wishes were added.
    pub(super) fn end(&mut self, now: Timestamp) {
        self.read.1 = now;
        self.sha256 = self.hash.clone().hex();
        self.holds = self.all_holds.drain(..).filter(|(_, waits)| *waits).map(|(hold, _)| hold).collect();
    }
}
