//! Cutting due rows of a lane into batches, and when to look at the lane next.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use crate::{
    model::{
        backoff::Backoff,
        clock::Timestamp,
        deletion::{ALONE, AgentId, Batch, Deletion, EntryId, Lane},
    },
    queue::{DueRow, Look},
};

/// How rows become requests.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Most IDs per request, 1 to 20.
    pub batch_size: u8,
    /// How long a request that is not full waits for more rows.
    pub linger: Duration,
    /// The retry delays.
    pub retry: Backoff,
    /// Time until the next look at a row whose entry ID is in flight as another row.
    pub recheck: Duration,
    /// Single-entry DELETEs are refused: rows that should get one join bulk deletes.
    pub asks_refused: bool,
}

impl Rules {
    /// The number of rows of `lane` that fill a request.
    fn full(&self, lane: &Lane) -> usize {
        let most = if lane.batch_max == ALONE && self.asks_refused { self.batch_size } else { lane.batch_max };
        usize::from(most.min(self.batch_size)).max(1)
    }

    /// Until when `row` may wait for others to fill a request. A row that failed waits for a share of its retry delay: the rows that
    /// failed at the same time in other requests come back in that time.
    fn may_wait_until(&self, row: &DueRow) -> Timestamp {
        let wait = if row.is_retry { self.retry.gathering(row.deletion.attempts) } else { Duration::ZERO };
        row.due_since.plus(wait.max(self.linger))
    }
}

/// What happens with a lane after its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It has more rows that can go out now.
    HasMore,
    /// There is nothing to send before this time.
    LookAt(Timestamp),
    /// There is nothing to send until somebody writes.
    Nothing,
}

/// The entry IDs in flight, by agent.
pub type Busy = HashMap<AgentId, HashSet<EntryId>>;

/// The batch that probes a hold: rows that a look at `lane` found, of which `halved` halvings are left. The size that is halved
/// is that of the rows that could go, or that of the `largest` failed request if that is larger. It does not linger.
pub fn probe(lane: &Lane, look: Look, halved: u32, largest: usize, busy: &Busy, rules: &Rules) -> Option<Batch> {
    let full = rules.full(lane);
    let busy = busy.get(&lane.agent);
    let mut seen = HashSet::new();
    let is_free = |entry: &EntryId| busy.is_none_or(|busy| !busy.contains(entry));
    let rows = look.due.into_iter().map(|row| row.deletion);
    let rows = rows.filter(|row| is_free(&row.entry) && seen.insert(row.entry.clone()));
    let mut rows: Vec<Deletion> = rows.take(full).collect();
    let size = rows.len().max(largest.min(full)).div_ceil(1 << halved.min(8));
    rows.truncate(size);
    Batch::new(lane.clone(), rows).ok()
}

/// Cuts the rows that a look at `lane` found into at most `room` batches, as full as they can be. `asked`: the limit of rows of
/// that look.
pub fn batches(
    lane: &Lane,
    look: Look,
    asked: usize,
    room: usize,
    busy: &Busy,
    rules: &Rules,
    now: Timestamp,
) -> (Vec<Batch>, Next) {
    let full = rules.full(lane);
    let there_may_be_more = look.due.len() >= asked;
    let found = look.due.len();
    // A row that was removed and inserted again has another id, but its entry ID may still be in flight for the first one.
    let busy = busy.get(&lane.agent);
    let is_free = |row: &DueRow| busy.is_none_or(|busy| !busy.contains(&row.deletion.entry));
    let mut seen = HashSet::with_capacity(found);
    let free = look.due.into_iter().filter(|row| is_free(row) && seen.insert(row.deletion.entry.clone()));
    let mut free: VecDeque<DueRow> = free.collect();
    // All of them must wait for calls in flight: another look at once would find the same rows.
    let stuck = found > 0 && free.is_empty();
    let mut next =
        if free.len() < found { soonest(look.next_due_at, now.plus(rules.recheck)) } else { look.next_due_at };
    let mut batches = Vec::new();
    while !free.is_empty() {
        let size = full.min(free.len());
        let partial = size < full && !there_may_be_more;
        // Parts of a split request do not linger: no other rows may join them.
        if partial && lane.batch_max >= rules.batch_size {
            let until = free.iter().map(|row| rules.may_wait_until(row)).min().unwrap_or(now);
            if until > now {
                next = soonest(next, until);
                break;
            }
        }
        if batches.len() == room {
            return (batches, Next::HasMore);
        }
        let rows: Vec<Deletion> = free.drain(..size).map(|row| row.deletion).collect();
        batches.extend(Batch::new(lane.clone(), rows));
    }
    let next = match next {
        _ if there_may_be_more && !stuck => Next::HasMore,
        Some(at) => Next::LookAt(at),
        None => Next::Nothing,
    };
    (batches, next)
}

fn soonest(one: Option<Timestamp>, other: Timestamp) -> Option<Timestamp> {
    Some(one.map_or(other, |one| one.min(other)))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
