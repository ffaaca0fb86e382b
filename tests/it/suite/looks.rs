//! What the worker sees of the open rows: the lanes, and the due rows of each in the order in which they go out.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use audio_cache_sweeper::{
    model::{
        backoff::Backoff,
        clock::Timestamp,
        deletion::{DeletionId, Lane, State},
        limits::{ConcurrencyReason, RateReason},
        outcome::{Cause, Verdict},
    },
    queue::{InEffect, Look, Queue as _, Tx as _},
};

use super::{
    engine::{Engine, Hold, Request, Row, Wish},
    seam::{NOW, Seam, far, judged, lane, settlement},
    tests,
};

fn ago(seconds: u64) -> Timestamp {
    NOW.minus(Duration::from_secs(seconds))
}

/// Looks for `most` rows of a lane.
async fn look<E: Engine>(seam: &mut Seam<E>, lane: Lane, most: usize, in_flight: &[i64], newest_first: bool) -> Look {
    let in_flight: Vec<DeletionId> = in_flight.iter().copied().map(DeletionId).collect();
    let mut tx = seam.queue.begin().await.unwrap();
    let look = tx.look(&[lane], most, &in_flight, newest_first, NOW).await.unwrap().remove(0);
    tx.commit(&[], None, NOW).await.unwrap();
    look
}

fn ids(look: &Look) -> Vec<i64> {
    look.due.iter().map(|row| row.deletion.id.0).collect()
}

pub async fn a_lane_is_of_one_priority_agent_and_batch_max_and_says_when_its_first_row_is_due<E: Engine>() {
    let row = |id: i64, agent, due_at| Row { due_at, ..Row::new(id, agent, &id.to_string()) };
    let rows = [
        row(1, "a", far(9)),
        row(2, "a", far(5)),
        Row { priority: 3, ..row(3, "a", far(7)) },
        Row { batch_max: 0, ..row(4, "a", far(8)) },
        row(5, "b", Timestamp::ZERO),
        row(6, "b", far(1)),
        Row { state: State::Dead, settled_at: Some(NOW), ..row(7, "c", Timestamp::ZERO) },
    ];
    let mut seam = Seam::<E>::with(&rows, &[]).await;
    let expected = [
        (lane("a"), far(5)),
        (Lane { priority: 3, ..lane("a") }, far(7)),
        (Lane { batch_max: 0, ..lane("a") }, far(8)),
        (lane("b"), Timestamp::ZERO),
    ];
    // In any order: the worker has one of its own.
    let lanes = seam.queue.lanes().await.unwrap();
    assert_eq!(lanes.len(), 4);
    assert_eq!(BTreeMap::from_iter(lanes), BTreeMap::from(expected));
}

pub async fn of_the_due_rows_the_one_goes_first_that_could_have_gone_first<E: Engine>() {
    let row = |id: i64, due_at, created_at| Row { due_at, created_at, ..Row::new(id, "a", &id.to_string()) };
    let rows = [
        row(1, Timestamp::ZERO, ago(50)),
        row(2, ago(30), ago(90)),
        row(3, Timestamp::ZERO, ago(20)),
        row(4, ago(40), ago(90)),
        row(5, NOW, ago(90)),
        row(6, NOW.plus(Duration::from_secs(2)), ago(90)),
        row(7, NOW.plus(Duration::from_secs(1)), ago(90)),
    ];
    let mut seam = Seam::<E>::with(&rows, &[]).await;
    let all = look(&mut seam, lane("a"), 20, &[], false).await;
    assert_eq!(ids(&all), [1, 4, 2, 3, 5]);
    assert_eq!(all.next_due_at, Some(NOW.plus(Duration::from_secs(1))));
    let turns: Vec<Timestamp> = all.due.iter().map(|row| row.turn).collect();
    assert_eq!(turns, [ago(50), ago(40), ago(30), ago(20), NOW], "its due time, or else when it was enqueued");
    assert!(all.due.iter().all(|row| row.due_since == row.turn && !row.is_retry));
    assert_eq!(ids(&look(&mut seam, lane("a"), 3, &[], false).await), [1, 4, 2], "no more than are asked for");
    assert_eq!(ids(&look(&mut seam, lane("a"), 2, &[1, 2, 5], false).await), [4, 3], "none in flight");
    assert_eq!(ids(&look(&mut seam, lane("b"), 20, &[], false).await), [0; 0]);
    let newest = ids(&look(&mut seam, lane("a"), 20, &[], true).await);
    assert_eq!(newest[..2], [3, 1], "of those that are due at once");
}

pub async fn a_row_that_is_looked_at_is_told_with_all_that_judging_needs<E: Engine>() {
    let row = Row {
        attempts: 2,
        asks: 1,
        maybe_done: true,
        request: Some(9),
        first_fault: Some(7),
        evidence: Some(8),
        last_cause: Some(Cause::Rejected),
        due_at: ago(5),
        ..Row::new(4, "a", "entry")
    };
    let failed = Row { last_cause: Some(Cause::ApiFailed), attempts: 1, due_at: ago(4), ..Row::new(5, "a", "other") };
    let mut seam = Seam::<E>::with(&[row.clone(), failed], &[]).await;
    let found = look(&mut seam, lane("a"), 20, &[], false).await;
    let told = &found.due[0].deletion;
    assert_eq!((told.id.0, told.entry.as_str(), told.attempts, told.asks), (4, "entry", 2, 1));
    assert!(told.maybe_done && told.was_rejected);
    let requests = [told.last_request, told.first_fault, told.evidence].map(|request| request.map(|request| request.0));
    assert_eq!(requests, [row.request, row.first_fault, row.evidence]);
    assert_eq!(
        found.due.iter().map(|row| row.is_retry).collect::<Vec<_>>(),
        [false, true],
        "after an answer that counts"
    );
}

pub async fn a_created_at_ahead_of_our_clock_does_not_count<E: Engine>() {
    let row = Row { created_at: NOW.plus(Duration::from_secs(60)), ..Row::new(1, "a", "1") };
    let mut seam = Seam::<E>::with(&[row], &[]).await;
    let found = look(&mut seam, lane("a"), 20, &[], false).await;
    assert_eq!((ids(&found), found.due[0].due_since), (vec![1], Timestamp::ZERO));
}

/// An engine may remember where it has looked. Whatever comes in before that place must be found, with no listing in between.
pub async fn a_row_that_comes_in_before_those_that_were_looked_at_is_found<E: Engine>() {
    let rows: Vec<Row> = (1..=4).map(|id| Row::new(id, "a", &id.to_string())).collect();
    let mut seam = Seam::<E>::with(&rows, &[Request::new(1, "a", &[1]), Request::new(2, "a", &[2])]).await;
    seam.queue.changed().await.unwrap();
    seam.queue.lanes().await.unwrap();
    // Rows 1 and 2 are in flight. The rows of a transaction that is dropped are not.
    let in_flight = [DeletionId(1), DeletionId(2)];
    let mut tx = seam.queue.begin().await.unwrap();
    let found = tx.look(&[lane("a")], 20, &in_flight, false, NOW).await.unwrap().remove(0);
    assert_eq!(ids(&found), [3, 4]);
    let claimed = [1, 2, 3, 4].map(DeletionId);
    assert_eq!(ids(&tx.look(&[lane("a")], 20, &claimed, false, NOW).await.unwrap().remove(0)), [0; 0]);
    drop(tx);
    assert_eq!(ids(&look(&mut seam, lane("a"), 20, &[1, 2], false).await), [3, 4]);
    // Row 1 comes back, and is due.
    let due = Verdict::Release { due_at: ago(9), cause: Cause::Throttled };
    seam.settle(&[settlement(1, vec![judged(1, due)])]).await;
    assert_eq!(ids(&look(&mut seam, lane("a"), 20, &[2, 3, 4], false).await), [1]);
    // Row 2 ends, and is wished for again.
    seam.settle(&[settlement(2, vec![judged(2, Verdict::Deleted)])]).await;
    assert_eq!(ids(&look(&mut seam, lane("a"), 20, &[1, 3, 4], false).await), [0; 0]);
    seam.engine.enqueue(&[Wish::of("a", "2"), Wish::of("a", "5")]).await;
    assert!(seam.queue.changed().await.unwrap());
    let found = look(&mut seam, lane("a"), 20, &[1, 3, 4], false).await;
    let entries: BTreeSet<&str> = found.due.iter().map(|row| row.deletion.entry.as_str()).collect();
    assert_eq!(entries, BTreeSet::from(["2", "5"]));
}

pub async fn a_fresh_connection_undoes_what_was_open_and_the_worker_stays_the_owner<E: Engine>() {
    let mut seam = Seam::<E>::with(&[Row::new(1, "a", "1")], &[]).await;
    seam.engine.pause("a").await;
    let before = seam.tables().await;
    let mut tx = seam.queue.begin().await.unwrap();
    let retry = Backoff::new(Duration::from_secs(1), Duration::from_secs(2)).unwrap();
    let settings = InEffect {
        requests_per_second: 1.0,
        rate_ceiling: 1.0,
        rate_reason: RateReason::Ceiling,
        concurrency: 1,
        concurrency_ceiling: 1,
        concurrency_reason: ConcurrencyReason::Ceiling,
        batch_size: 1,
        linger: Duration::ZERO,
        retry,
        learnt: None,
    };
    tx.introduce(&settings, NOW).await.unwrap();
    drop(tx);
    seam.queue.reconnect().await.unwrap();
    seam.queue.check_owner().unwrap();
    assert_eq!((seam.tables().await, seam.engine.daemon().await), (before, None));
    // Others can write, and so can the worker.
    seam.engine.lift_all().await;
    assert_eq!(seam.engine.holds().await, [] as [Hold; 0]);
    seam.queue.can_write().await.unwrap();
    assert_eq!(ids(&look(&mut seam, lane("a"), 20, &[], false).await), [1]);
}

tests!($ looks:
    a_lane_is_of_one_priority_agent_and_batch_max_and_says_when_its_first_row_is_due,
    of_the_due_rows_the_one_goes_first_that_could_have_gone_first,
    a_row_that_is_looked_at_is_told_with_all_that_judging_needs,
    a_created_at_ahead_of_our_clock_does_not_count,
    a_row_that_comes_in_before_those_that_were_looked_at_is_found,
    a_fresh_connection_undoes_what_was_open_and_the_worker_stays_the_owner,
);
