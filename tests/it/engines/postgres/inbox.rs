//! What the inbox comes to: written once more, without a database, to compare with.

use std::collections::BTreeMap;

use audio_cache_sweeper::model::{clock::Timestamp, deletion::State};

use crate::suite::engine::Row;

/// The rows as they are once these wishes are taken in, ordered by id. The wishes for an entry are taken in together.
pub fn taken_in(known: Vec<Row>, wishes: Vec<Row>) -> Vec<Row> {
    if wishes.is_empty() {
        return known;
    }
    let mut of_entry: BTreeMap<(String, String), Vec<Row>> = BTreeMap::new();
    for wish in wishes {
        of_entry.entry((wish.agent.clone(), wish.entry.clone())).or_default().push(wish);
    }
    let mut rows: Vec<Row> = Vec::new();
    for row in known {
        match of_entry.remove(&(row.agent.clone(), row.entry.clone())) {
            Some(wishes) => rows.push(again(row, &merged(&wishes))),
            None => rows.push(row),
        }
    }
    rows.extend(of_entry.into_values().map(|wishes| merged(&wishes)));
    rows.sort_by_key(|row| row.id);
    rows
}

/// Wishes for one entry that nobody knows yet.
fn merged(wishes: &[Row]) -> Row {
    let first = wishes[0].clone();
    let earliest = wishes.iter().map(|wish| wish.due_at).min().unwrap();
    // A row that is due since its wish keeps its turn.
    let due_at = if first.due_at == first.created_at { first.due_at } else { earliest };
    Row { due_at, priority: wishes.iter().map(|wish| wish.priority).max().unwrap(), ..first }
}

/// A row that is wished for again.
fn again(row: Row, wish: &Row) -> Row {
    if !row.is(State::Pending) {
        let is_at_once = wish.due_at == Timestamp::ZERO && wish.created_at >= Timestamp::LEAST_DUE;
        return Row { id: row.id, due_at: if is_at_once { wish.created_at } else { wish.due_at }, ..wish.clone() };
    }
    let is_untried = row.request.is_none() && row.attempts == 0 && row.due_at != row.created_at;
    let due_at = if is_untried { row.due_at.min(wish.due_at) } else { row.due_at };
    Row { due_at, priority: row.priority.max(wish.priority), ..row }
}
