//! What of a lane goes out now, and when the lane is worth the next look.

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
    /// The delays after which rows come back.
    pub retry: Backoff,
    /// How long a row waits whose ID is in flight as another row.
    pub recheck: Duration,
    /// Requests about one row are refused: rows that were to be asked about go with others.
    pub asks_refused: bool,
}

impl Rules {
    /// How many rows of `lane` fill a request.
    fn full(&self, lane: &Lane) -> usize {
        let most = if lane.batch_max == ALONE && self.asks_refused { self.batch_size } else { lane.batch_max };
        usize::from(most.min(self.batch_size)).max(1)
    }

    /// Until when `row` may wait for others to fill a request with it. One that failed has waited a good while already
    /// and waits a share of that more: those that failed with it in other requests come back about then.
    fn may_wait_until(&self, row: &DueRow) -> Timestamp {
        let wait = if row.is_retry { self.retry.gathering(row.deletion.attempts) } else { Duration::ZERO };
        row.due_since.plus(wait.max(self.linger))
    }
}

/// What is to be done with a lane after its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It has more that can go out now.
    HasMore,
    /// Nothing until then.
    LookAt(Timestamp),
    /// Nothing until somebody writes.
    Nothing,
}

/// The IDs on their way, as the API sees them.
pub type Busy = HashMap<AgentId, HashSet<EntryId>>;

/// Of what a look at `lane` found, the request that probes: with as many rows as the halvings of before leave of it, or of
/// the `largest` request that failed; the other half of that is due a little later. It waits for no others.
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

/// Cuts what a look at `lane` found into at most `room` batches, as full as they can be. `asked` is how many rows the
/// look was limited to.
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
    // A row that was removed and inserted again has another id; its ID may still be in flight for the first one.
    let busy = busy.get(&lane.agent);
    let is_free = |row: &DueRow| busy.is_none_or(|busy| !busy.contains(&row.deletion.entry));
    let mut seen = HashSet::with_capacity(found);
    let free = look.due.into_iter().filter(|row| is_free(row) && seen.insert(row.deletion.entry.clone()));
    let mut free: VecDeque<DueRow> = free.collect();
    // Nothing but rows that must wait for others: looking again at once would find the same.
    let stuck = found > 0 && free.is_empty();
    let mut next =
        if free.len() < found { soonest(look.next_due_at, now.plus(rules.recheck)) } else { look.next_due_at };
    let mut batches = Vec::new();
    while !free.is_empty() {
        let size = full.min(free.len());
        let partial = size < full && !there_may_be_more;
        // Rows of a rejected request do not wait: they are being told apart, and are not joined by others.
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
