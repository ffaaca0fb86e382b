//! What a queue tells about itself: how it stands, what was sent and rejected lately, and who works on it.

use std::time::Duration;

use audio_cache_sweeper::{
    model::{
        backoff::Backoff,
        deletion::{AgentId, DeletionId},
        limits::{ConcurrencyReason, Learnt, RateReason},
        outcome::Cause,
    },
    queue::{Counter as _, InEffect, Queue as _, Tx as _},
};

use super::{
    engine::{Counts, Daemon, Engine, Hold, Request, Wish},
    seam::{NOW, Seam, far},
    tests,
};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn agent(id: &str) -> AgentId {
    AgentId::parse(id).unwrap()
}

pub async fn a_census_counts_the_rows_the_holds_and_how_long_the_oldest_has_been_due<E: Engine>() {
    let mut seam = Seam::<E>::new().await;
    let created = |ago| Some(NOW.minus(seconds(ago)));
    let wishes = [
        Wish { created_at: created(60), ..Wish::of("a", "1") },
        Wish { due_at: NOW.minus(seconds(5)), created_at: created(90), ..Wish::of("b", "2") },
        Wish { due_at: NOW.plus(seconds(5)), created_at: created(90), ..Wish::of("c", "3") },
    ];
    seam.enqueue(&wishes).await;
    let counter = seam.queue.counter();
    let census = counter.census(NOW).await.unwrap();
    assert_eq!((census.tally.pending, census.tally.due, census.tally.oldest_due), (3, 2, seconds(60)));
    assert_eq!((census.tally.dead, census.holds), (0, vec![]));
    seam.engine.place(&[Hold { cause: Cause::Throttled, ..Hold::on("d") }, Hold::on("d")]).await;
    seam.engine.edit_where(|row| row.agent == "a", |row| row.give_up(NOW)).await;
    let mut census = counter.census(NOW).await.unwrap();
    assert_eq!((census.tally.pending, census.tally.due, census.tally.oldest_due), (2, 1, seconds(5)));
    census.holds.sort_by_key(|cause| cause.as_str());
    assert_eq!((census.tally.dead, census.holds), (1, vec![Cause::Operator, Cause::Throttled]));
}

pub async fn a_queue_is_empty_when_no_row_is_open<E: Engine>() {
    let mut seam = Seam::<E>::new().await;
    assert!(seam.queue.is_empty().await.unwrap());
    seam.enqueue(&[Wish { due_at: NOW.plus(seconds(1)), ..Wish::of("a", "1") }]).await;
    assert!(!seam.queue.is_empty().await.unwrap());
    seam.engine.edit_where(|_| true, |row| row.give_up(NOW)).await;
    assert!(seam.queue.is_empty().await.unwrap());
}

pub async fn the_last_requests_tell_when_they_had_left_at_the_latest<E: Engine>() {
    let answered = |id, at| Request { answered_at: Some(far(at)), ..Request::new(id, "a", &[1]) };
    let requests = [answered(1, 100), answered(2, 400), Request::new(3, "a", &[1]), answered(4, 300)];
    let mut seam = Seam::<E>::with(&[], &requests).await;
    assert_eq!(seam.queue.sent_since(far(200), 10, NOW).await.unwrap(), [far(300), far(400), NOW]);
    assert_eq!(seam.queue.sent_since(far(200), 2, NOW).await.unwrap(), [far(300), NOW], "the newest");
    assert_eq!(seam.queue.sent_since(NOW, 10, NOW).await.unwrap(), []);
}

pub async fn rejected_rows_are_remembered_until_something_is_settled<E: Engine>() {
    let answered = |id: i64, counts, rows: &[i64]| Request {
        answered_at: Some(far(id)),
        counts: Some(counts),
        fault: (counts.dead > 0).then_some(Cause::Rejected),
        ..Request::new(id, &format!("agent-{id}"), rows)
    };
    let [dead, deleted] = [Counts { dead: 1, ..Counts::default() }, Counts { deleted: 1, ..Counts::default() }];
    let retried = Counts { retried: 2, ..Counts::default() };
    let requests = [
        answered(1, dead, &[1]),
        answered(2, deleted, &[2]),
        answered(3, dead, &[3]),
        answered(4, retried, &[4, 5]),
        answered(5, dead, &[6]),
        answered(6, dead, &[7]),
    ];
    let mut seam = Seam::<E>::with(&[], &requests).await;
    let row = |request: i64, row| (agent(&format!("agent-{request}")), DeletionId(row));
    assert_eq!(seam.queue.last_rejected(9).await.unwrap(), [row(3, 3), row(5, 6), row(6, 7)]);
    assert_eq!(seam.queue.last_rejected(2).await.unwrap(), [row(5, 6), row(6, 7)], "the newest");
}

pub async fn the_newest_time_is_what_the_clock_showed_when_the_queue_was_used_last<E: Engine>() {
    let mut seam = Seam::<E>::new().await;
    assert_eq!(seam.queue.newest_time().await.unwrap(), None);
    seam.enqueue(&[Wish { created_at: Some(NOW), due_at: NOW.plus(seconds(9)), ..Wish::of("a", "1") }]).await;
    assert_eq!(seam.queue.newest_time().await.unwrap(), Some(NOW), "a time to come is none that was");
}

pub async fn the_queue_says_who_works_on_it_and_how_fast<E: Engine>() {
    let mut seam = Seam::<E>::new().await;
    assert_eq!((seam.engine.daemon().await, seam.queue.learnt().await.unwrap()), (None, None));
    let mut tx = seam.queue.begin().await.unwrap();
    let settings = InEffect {
        requests_per_second: 7.5,
        rate_ceiling: 7.5,
        rate_reason: RateReason::Ceiling,
        concurrency: 8,
        concurrency_ceiling: 8,
        concurrency_reason: ConcurrencyReason::Ceiling,
        batch_size: 20,
        linger: seconds(1),
        retry: Backoff::new(seconds(10), seconds(60)).unwrap(),
        learnt: None,
    };
    tx.introduce(&settings, NOW).await.unwrap();
    tx.commit(&[], None, NOW).await.unwrap();
    let (pid, version) = (std::process::id(), env!("CARGO_PKG_VERSION").to_owned());
    let daemon = Daemon { pid, version, started_at: NOW, settings, updated_at: NOW };
    assert_eq!((seam.engine.daemon().await, seam.queue.learnt().await.unwrap()), (Some(daemon.clone()), None));
    let later = NOW.plus(seconds(1));
    let other = InEffect {
        requests_per_second: 2.5,
        rate_ceiling: 100.0,
        rate_reason: RateReason::Found,
        concurrency: 2,
        concurrency_ceiling: 9,
        concurrency_reason: ConcurrencyReason::Latency,
        batch_size: 1,
        linger: seconds(0),
        retry: Backoff::new(seconds(1), seconds(2)).unwrap(),
        learnt: Some(Learnt { rate: Some(2.5), is_even: true, concurrency: Some(3), at: NOW }),
    };
    seam.queue.begin().await.unwrap().commit(&[], Some(&other), later).await.unwrap();
    let slower = Daemon { settings: other, updated_at: later, ..daemon.clone() };
    assert_eq!((seam.engine.daemon().await, seam.queue.learnt().await.unwrap()), (Some(slower), other.learnt));
    // Another daemon starts.
    let mut tx = seam.queue.begin().await.unwrap();
    tx.introduce(&settings, later).await.unwrap();
    tx.commit(&[], None, later).await.unwrap();
    let other = Daemon { started_at: later, updated_at: later, ..daemon };
    assert_eq!(seam.engine.daemon().await, Some(other));
}

tests!($ records:
    a_census_counts_the_rows_the_holds_and_how_long_the_oldest_has_been_due,
    a_queue_is_empty_when_no_row_is_open,
    the_last_requests_tell_when_they_had_left_at_the_latest,
    rejected_rows_are_remembered_until_something_is_settled,
    the_newest_time_is_what_the_clock_showed_when_the_queue_was_used_last,
    the_queue_says_who_works_on_it_and_how_fast,
);
