//! Faults by law: each belongs to an ID, to an agent, or to a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use audio_cache_sweeper::model::{
    deletion::Kind,
    outcome::{Fault, RetryAfter},
};

use super::api::{Call, Mood, NOT_A_NUMBER};

/// An agent's entry.
pub type Entry = (String, String);

/// What an entry is like, which decides how its row must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Good,
    /// The entry is gone.
    Gone,
    /// The ID is malformed.
    Malformed,
    /// Each request with this entry gets this fault.
    Poison(Fault),
}

/// A time in which every request is answered with `mood`.
#[derive(Clone, Copy, Debug)]
pub struct Outage {
    pub from: Duration,
    pub to: Duration,
    pub mood: Mood,
}

/// How single-entry DELETEs are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Singles {
    Served,
    /// With a 405.
    Refused,
    /// With a gateway's 404.
    Unrouted,
}

/// All laws of a world: an answer depends on nothing else.
#[derive(Debug)]
pub struct Laws {
    pub classes: BTreeMap<Entry, Class>,
    pub outages: Vec<Outage>,
    /// Agents whose requests get this fault, until this time.
    pub agents: BTreeMap<String, (Fault, Duration)>,
    pub singles: Singles,
    /// The first request with one of these entries lists it as failed.
    pub flaky: BTreeSet<Entry>,
    /// Until this time, this percentage of answers is swapped with another one.
    pub swaps: (Duration, u8),
}

pub fn status(status: u16) -> Fault {
    Fault::Status { status, retry_after: None }
}

pub fn retry_after(status: u16, seconds: u64) -> Fault {
    Fault::Status { status, retry_after: Some(RetryAfter::Seconds(seconds)) }
}

impl Laws {
    pub fn new() -> Self {
        Self {
            classes: BTreeMap::new(),
            outages: Vec::new(),
            agents: BTreeMap::new(),
            singles: Singles::Served,
            flaky: BTreeSet::new(),
            swaps: (Duration::ZERO, 0),
        }
    }

    /// When the last fault ends, apart from those that never end.
    pub fn end(&self) -> Duration {
        let agents = self.agents.values().map(|(_, to)| *to).filter(|to| *to < Duration::MAX);
        self.outages.iter().map(|outage| outage.to).chain(agents).chain([self.swaps.0]).max().unwrap_or_default()
    }

    pub fn class(&self, agent: &str, entry: &str) -> Class {
        self.classes.get(&(agent.to_owned(), entry.to_owned())).copied().unwrap_or(Class::Good)
    }

    pub fn outage(&self, at: Duration) -> Option<&Outage> {
        self.outages.iter().find(|outage| outage.from <= at && at < outage.to)
    }

    /// How a call that arrives at this time is answered.
    pub fn mood(&mut self, call: &Call, at: Duration) -> Mood {
        if let Some(outage) = self.outage(at) {
            return outage.mood;
        }
        if let Some((fault, to)) = self.agents.get(&call.agent)
            && at < *to
        {
            return Mood::Fault(*fault);
        }
        match (call.kind, self.singles) {
            (Kind::Single, Singles::Refused) => return Mood::Fault(status(405)),
            (Kind::Single, Singles::Unrouted) => return Mood::Fault(status(404)),
            (Kind::Single, Singles::Served) | (Kind::Bulk, _) => {}
        }
        // A malformed ID is rejected before any entry is looked up.
        if call.entries.iter().any(|entry| entry.starts_with(NOT_A_NUMBER)) {
            return Mood::Ok;
        }
        for entry in &call.entries {
            if let Class::Poison(fault) = self.class(&call.agent, entry) {
                return Mood::Fault(fault);
            }
        }
        let before = self.flaky.len();
        self.flaky.retain(|(agent, entry)| *agent != call.agent || !call.entries.contains(entry));
        if self.flaky.len() < before { Mood::AllFailed } else { Mood::Ok }
    }
}
