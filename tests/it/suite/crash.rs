//! The daemon dies: inside a turn, and inside its start, at each poll of them.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::Duration,
};

use audio_cache_sweeper::{
    model::{deletion::State, outcome::Cause},
    pace::RateLimit,
    sandbox::Mood,
};

use super::{
    bed::{Bed, Plan, listing},
    engine::{Engine, Row},
    tests,
};

/// Polls a future at most `polls` times, and then drops it. `None` if it was not done by then.
pub async fn cut_short<F: Future>(future: F, mut polls: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|context| {
        let Some(left) = polls.checked_sub(1) else { return Poll::Ready(None) };
        polls = left;
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if polls == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// A queue in the middle of its work: rows answered but not settled, rows in flight, due rows, and a hold that has ended.
pub async fn in_the_middle<E: Engine>() -> Bed<E> {
    let mut plan = Plan { request_timeout: Duration::from_millis(500), ..Plan::default() };
    plan.settings.concurrency = 3;
    plan.settings.policy.max_attempts = 2;
    let mut bed = Bed::<E>::new(plan).await;
    bed.sandbox.script([Mood::status(401)]);
    bed.insert(&[("held", "1")]).await;
    bed.work().await;
    bed.clock.advance(Duration::from_secs(76));
    bed.sandbox.script([
        listing(&["1"], &[]),
        listing(&["1", "2", "3"], &["4", "5"]),
        Mood::Hang,
        Mood::Reset { done: true },
    ]);
    bed.worker.turn().await.unwrap();
    bed.worker.wait_for_a_call().await;
    bed.insert_many("a", 20).await;
    bed.insert_many("b", 70).await;
    // The first turn settles. That transaction shows it the new rows.
    bed.worker.turn().await.unwrap();
    assert_eq!(bed.worker.turn().await.unwrap().sent, 3);
    bed.worker.wait_for_a_call().await;
    bed
}

/// The rows of [`in_the_middle`].
const ROWS: usize = 91;

/// Checks what must hold after a crash, works to the end, and checks again.
async fn run_to_the_end<E: Engine>(mut bed: Bed<E>, what: &str) {
    let sent: Vec<String> =
        bed.sandbox.requests().iter().map(|request| header(request, "x-polyai-correlation-id")).collect();
    let known = bed.requests().await;
    for id in sent {
        let is_known = known.iter().any(|request| request.correlation_id == id);
        assert!(is_known, "{what}: {id} was sent, and the queue does not know it");
    }
    assert!(known.iter().all(|request| request.answered_at.is_some()), "{what}");
    let outcomes = bed.outcomes().await;
    let was_lost =
        |row: &Row| outcomes.iter().any(|outcome| outcome.row == row.id && outcome.cause == Some(Cause::Lost));
    let forgotten = bed.rows_where(|row| was_lost(row) && !row.is(State::Deleted) && !row.maybe_done).await;
    assert_eq!(forgotten, [], "{what}: an orphan's row may have been done");
    for _ in 0..10 {
        bed.work().await;
        bed.clock.advance(Duration::from_secs(100));
    }
    let rows = bed.rows().await;
    assert_eq!(rows.len(), ROWS, "{what}");
    let is_ended = |row: &Row| !row.is(State::Pending) && row.settled_at.is_some() && row.attempts <= 2;
    assert!(rows.iter().all(is_ended), "{what}: {rows:?}");
    // The scripted answers list these as deleted without deleting them.
    let said = |agent: &str, entry: &str| agent != "b" && ["1", "2", "3"].contains(&entry);
    for Row { agent, entry, .. } in rows.iter().filter(|row| row.is(State::Deleted)) {
        assert!(bed.sandbox.is_gone(agent, entry) || said(agent, entry), "{what}: {agent} {entry} was not deleted");
    }
    bed.assert_sound().await;
}

fn header(request: &audio_cache_sweeper::sandbox::Recorded, name: &str) -> String {
    request.headers[name].to_str().unwrap().to_owned()
}

pub async fn a_turn_that_is_cut_short_at_any_poll_loses_nothing<E: Engine>() {
    let mut polls = 1;
    loop {
        let mut bed = in_the_middle::<E>().await;
        let whole = cut_short(bed.worker.turn(), polls).await;
        run_to_the_end(bed.restart().await, &format!("cut short after {polls} polls")).await;
        if let Some(turn) = whole {
            let turn = turn.unwrap();
            assert!(turn.settled > 0 && turn.sent > 0, "there was something to lose: {turn:?}");
            // The engine may be so quick that the first poll finds the turn done. Then nothing was cut short: try again.
            if polls == 1 {
                continue;
            }
            break;
        }
        polls += 1;
    }
}

pub async fn a_start_that_is_cut_short_at_any_poll_loses_nothing<E: Engine>() {
    let mut polls = 1;
    loop {
        let mut bed = in_the_middle::<E>().await;
        bed.worker.turn().await.unwrap();
        let (bed, whole) = bed.restart_cut_short(polls).await;
        run_to_the_end(bed, &format!("cut short after {polls} polls")).await;
        if whole {
            break;
        }
        polls += 1;
    }
    assert!(polls > 1);
}

pub async fn a_row_whose_request_ends_the_daemon_every_time_is_given_up<E: Engine>() {
    let mut bed = Bed::<E>::new(Plan::default()).await;
    bed.sandbox.script(vec![Mood::Hang; 10]);
    bed.insert(&[("a", "1")]).await;
    for life in 1..=3 {
        assert_eq!(bed.worker.turn().await.unwrap().sent, 1, "life {life}");
        bed = bed.restart().await;
        bed.clock.advance(Duration::from_secs(100));
    }
    let [row] = &bed.rows().await[..] else { panic!("one row") };
    assert_eq!((row.state, row.attempts, row.last_cause, row.maybe_done), (State::Dead, 3, Some(Cause::Lost), true));
    bed.work().await;
    assert_eq!(bed.requests().await.len(), 3);
}

pub async fn a_restart_goes_on_from_what_was_sent_before_it<E: Engine>() {
    if E::takes_over() {
        // It begins with nothing, whatever was sent before: that is the engine's own test.
        return;
    }
    let rate = RateLimit { requests_per_second: 1.0, burst: 2.try_into().unwrap() };
    let mut bed = Bed::<E>::new(Plan { rate, ..Plan::default() }).await;
    bed.insert_many("a", 400).await;
    bed.work().await;
    let mut bed = bed.restart().await;
    bed.work().await;
    assert_eq!(bed.sizes().len(), 2, "the burst is spent, whoever spent it");
    bed.clock.advance(Duration::from_secs(1));
    bed.work().await;
    assert_eq!(bed.sizes().len(), 3);
    // A crash loop: each daemon sends what the rate has refilled, and no more.
    for life in 4..10 {
        bed = bed.restart().await;
        bed.work().await;
        bed.clock.advance(Duration::from_secs(1));
        bed.work().await;
        assert_eq!(bed.sizes().len(), life);
    }
    // After an idle minute, a restart has a full burst again.
    bed.clock.advance(Duration::from_secs(60));
    let mut bed = bed.restart().await;
    bed.work().await;
    assert_eq!(bed.sizes().len(), 11);
}

tests!($ crash:
    a_turn_that_is_cut_short_at_any_poll_loses_nothing,
    a_start_that_is_cut_short_at_any_poll_loses_nothing,
    a_row_whose_request_ends_the_daemon_every_time_is_given_up,
    a_restart_goes_on_from_what_was_sent_before_it,
);
