//! A wall clock that is wrong for a while and is then set right. The times that it gave must keep no row waiting, and must not
//! make pruning remove anything early.

use std::time::Duration;

use audio_cache_sweeper::{
    model::{clock::Timestamp, deletion::State, outcome::Cause},
    pace::RateLimit,
    sandbox::{Mood, Options, Outage},
};

use super::{
    bed::{Bed, Plan, START, listing, status_with},
    engine::{Engine, Hold, Request, Row, Wish},
    tests,
};
use crate::logs::Log;

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// Takes turns, ten seconds apart at most, until no row is open or `most` has passed. Returns how long that took.
async fn run_for<E: Engine>(bed: &mut Bed<E>, most: Duration) -> Duration {
    let start = bed.clock.elapsed();
    loop {
        bed.work().await;
        let passed = bed.clock.elapsed() - start;
        if passed >= most || bed.pending().await == 0 {
            return passed;
        }
        let wait = bed.worker.turn().await.unwrap().wait.unwrap_or(most);
        let step = wait.clamp(Duration::from_millis(1), Duration::from_secs(10));
        bed.clock.advance(step.min(most - passed));
    }
}

/// How many log lines say that the clock was set, and how many that times were put right.
fn said(log: &Log) -> (usize, usize) {
    let all = log.events("clock_jumped");
    let jumps = all.iter().filter(|entry| entry.get("by_ms").is_some()).count();
    (jumps, all.len() - jumps)
}

/// The log after a jump ahead and back. The daemon saw both; with `restart`, the second daemon saw only the wrong times.
fn assert_said(log: &Log, restart: bool, what: &str) {
    let (jumps, put_right) = said(log);
    assert_eq!(jumps, if restart { 1 } else { 2 }, "{what}");
    assert!(!restart || put_right == 1, "{what}: {put_right}");
}

fn jump<E: Engine>(bed: &Bed<E>, ahead: Duration) {
    bed.clock.jump_to(bed.clock.now().plus(ahead));
}

fn jump_back<E: Engine>(bed: &Bed<E>, by: Duration) {
    bed.clock.jump_to(bed.clock.now().minus(by));
}

/// Every outage that makes the daemon place a hold, with the hold's scope.
fn faults() -> Vec<(Outage, &'static str)> {
    vec![
        (Outage::Status(401), "*"),
        (Outage::Status(403), "a"),
        (Outage::Status(404), "a"),
        (Outage::Status(405), "*"),
        (Outage::Status(302), "*"),
        (Outage::Status(418), "a"),
        (Outage::Status(400), "a"),
        (Outage::Status(500), "a"),
        (Outage::Reset, "a"),
        (Outage::Html, "a"),
        (Outage::PoliteFailed, "a"),
        (Outage::PoliteSilent, "a"),
        (Outage::RetryAfter(429, 120), "*"),
        (Outage::RetryAfter(503, 120), "*"),
        (Outage::RetryAfter(500, 120), "a"),
    ]
}

/// A queue with a hold that was placed, or placed again, while the clock was ahead.
async fn held<E: Engine>(outage: Outage, ahead: Duration, was_held: bool) -> Bed<E> {
    let mut bed =
        Bed::<E>::new(Plan { sandbox: Options { outage: Some(outage), ..Plan::default().sandbox }, ..Plan::default() })
            .await;
    bed.insert_many("a", 45).await;
    if was_held {
        run_for(&mut bed, Duration::from_secs(200)).await;
    }
    jump(&bed, ahead);
    run_for(&mut bed, Duration::from_secs(200)).await;
    bed
}

pub async fn a_hold_that_a_clock_placed_which_was_ahead_lasts_no_longer_than_such_holds_do<E: Engine>() {
    let cases = [(HOUR, false, false), (3 * YEAR, true, false), (3 * YEAR, false, true), (HOUR, true, true)];
    for (n, (outage, scope)) in faults().into_iter().enumerate() {
        // Each outage is tried with two of the four cases.
        for (ahead, was_held, restart) in [cases[n % 2], cases[2 + n / 2 % 2]] {
            let what = format!("{outage:?}, {ahead:?} ahead, held before: {was_held}, restart: {restart}");
            let log = Log::default();
            let _guard = log.capture();
            let mut bed = held::<E>(outage, ahead, was_held).await;
            let holds = bed.holds().await;
            assert!(holds.iter().any(|hold| hold.scope.as_str() == scope), "{what}: {holds:?}");
            bed.sandbox.set_outage(None);
            assert_eq!(said(&log), (1, 0), "{what}: the jump ahead");
            jump_back(&bed, ahead);
            let mut bed = if restart { bed.restart().await } else { bed };
            let before = bed.count_in(State::Dead).await;
            // The longest hold and the longest delay of a row, each with its jitter.
            let took = run_for(&mut bed, Duration::from_secs(750 + 75 + 60)).await;
            assert_eq!(bed.count_in(State::Deleted).await, 45 - before, "{what}: {took:?}");
            assert_said(&log, restart, &what);
        }
    }
}

pub async fn with_a_clock_that_begins_in_1970_the_daemon_works_as_with_any_other<E: Engine>() {
    // One minute, and twenty days: as seconds, the latter would be in 2024.
    for begins in [60_000, 1_728_000_000] {
        for (outage, scope) in faults() {
            let sandbox = Options { outage: Some(outage), ..Plan::default().sandbox };
            let mut bed = Bed::<E>::new(Plan { sandbox, ..Plan::default() }).await;
            bed.clock.jump_to(Timestamp(begins));
            let what = format!("{outage:?} at {begins}");
            bed.forget().await;
            bed.insert_many("a", 45).await;
            run_for(&mut bed, Duration::from_secs(200)).await;
            let holds = bed.holds().await;
            assert!(holds.iter().any(|hold| hold.scope.as_str() == scope), "{what}: {holds:?}");
            bed.sandbox.set_outage(None);
            let before = bed.count_in(State::Dead).await;
            run_for(&mut bed, Duration::from_secs(750 + 75 + 60)).await;
            assert_eq!(bed.count_in(State::Deleted).await, 45 - before, "{what}");
        }
    }
}

pub async fn a_question_that_a_clock_put_off_which_was_ahead_is_asked_with_the_next_permit<E: Engine>() {
    // The API has no entries. After three answers that delete nothing, one row gets its single-entry DELETE before the agent is
    // held.
    let sandbox = Options { agents: vec![("a".to_owned(), 0)], ..Plan::default().sandbox };
    let rate = RateLimit { requests_per_second: 1.0, burst: 1.try_into().unwrap() };
    let mut bed = Bed::<E>::new(Plan { sandbox, rate, ..Plan::default() }).await;
    jump(&bed, HOUR);
    bed.insert_many("a", 100).await;
    for sent in 1..=3 {
        bed.work().await;
        assert_eq!(bed.sizes().len(), sent);
        if sent < 3 {
            bed.clock.advance(Duration::from_secs(1));
        }
    }
    jump_back(&bed, HOUR);
    bed.work().await;
    bed.clock.advance(Duration::from_secs(1));
    bed.work().await;
    let asked: Vec<String> = bed.sandbox.requests().iter().map(|request| request.method.clone()).collect();
    assert_eq!(asked, ["POST", "POST", "POST", "DELETE"]);
}

pub async fn a_retry_that_a_clock_scheduled_which_was_ahead_waits_no_longer_than_its_delay<E: Engine>() {
    let moods =
        [listing(&["2"], &["1"]), listing(&["2"], &[]), status_with(500, "Retry-After", "40"), Mood::status(500)];
    for mood in moods {
        for (ahead, restart) in [(HOUR, false), (3 * YEAR, false), (HOUR, true), (3 * YEAR, true)] {
            let what = format!("{mood:?}, {ahead:?} ahead, restart: {restart}");
            let log = Log::default();
            let _guard = log.capture();
            let mut bed = Bed::<E>::new(Plan::default()).await;
            bed.insert_many("a", 2).await;
            jump(&bed, ahead);
            bed.sandbox.script([mood.clone()]);
            bed.work().await;
            assert_eq!(bed.sizes(), [2], "{what}");
            let pending = bed.rows_where(|row| row.is(State::Pending)).await;
            assert!(pending.iter().all(|row| row.due_at > bed.clock.now()), "{what}");
            bed.clock.advance(Duration::from_secs(3));
            jump_back(&bed, ahead);
            let mut bed = if restart { bed.restart().await } else { bed };
            bed.work().await;
            assert_eq!(bed.sizes(), [2], "{what}: not before its delay");
            run_for(&mut bed, Duration::from_secs(75)).await;
            assert_eq!(bed.count_in(State::Deleted).await, 2, "{what}");
            assert_said(&log, restart, &what);
        }
    }
}

pub async fn with_a_clock_that_is_set_back_a_linger_lasts_no_longer<E: Engine>() {
    let fresh = |entry: &str, at: Timestamp| [Wish { created_at: Some(at), ..Wish::of("a", entry) }];
    let mut plan = Plan::default();
    plan.settings.linger = Duration::from_secs(2);
    let mut bed = Bed::<E>::new(plan).await;
    bed.enqueue(&fresh("1", START)).await;
    bed.work().await;
    jump_back(&bed, HOUR);
    bed.clock.advance(Duration::from_secs(2));
    bed.work().await;
    assert_eq!(bed.sizes(), [1], "it was inserted by the clock of before");
    let now = bed.clock.now();
    bed.enqueue(&fresh("2", now)).await;
    bed.work().await;
    bed.clock.advance(Duration::from_millis(1_999));
    bed.work().await;
    assert_eq!(bed.sizes(), [1]);
    bed.clock.advance(Duration::from_millis(1));
    bed.work().await;
    assert_eq!(bed.sizes(), [1, 1]);
}

pub async fn what_people_said_stays_as_it_is_whatever_the_clock_does<E: Engine>() {
    let mut bed = Bed::<E>::new(Plan::default()).await;
    jump(&bed, HOUR);
    bed.sandbox.script([listing(&[], &["1", "2"])]);
    bed.insert(&[("tried", "1"), ("tried", "2")]).await;
    bed.work().await;
    let (now, week) = (bed.clock.now(), bed.clock.now().plus(7 * DAY));
    let answered = bed.requests().await.iter().filter_map(|request| request.answered_at).max().unwrap();
    // The longest delay is 60 s and a quarter of it. A longer one is a person's.
    let later = |ms: u64| answered.plus(Duration::from_millis(75_000 + ms));
    bed.edit_where(|row| row.entry == "1", |row| row.due_at = week).await;
    bed.edit_where(|row| row.entry == "2", |row| row.due_at = later(1)).await;
    bed.enqueue(&[Wish { due_at: now.plus(Duration::from_secs(30)), ..Wish::of("untried", "3") }]).await;
    let [b, c] = ["b", "c"].map(|agent| Hold { since_at: now, ..Hold::on(agent) });
    bed.place(&[b.until(week), c]).await;
    bed.worker.turn().await.unwrap();
    let (rows_before, holds_before) = (bed.rows().await, bed.holds().await);
    jump_back(&bed, HOUR);
    bed.work().await;
    let mut bed = bed.restart().await;
    bed.work().await;
    assert_eq!(bed.rows().await, rows_before);
    assert_eq!(bed.holds().await, holds_before);
    // A due time within the daemon's own longest delay is put right.
    bed.edit_where(|row| row.entry == "2", |row| row.due_at = later(0)).await;
    let mut bed = bed.restart().await;
    run_for(&mut bed, Duration::from_secs(80)).await;
    assert_eq!(bed.count_where(|row| row.entry == "2" && row.is(State::Deleted)).await, 1);
    assert_eq!(bed.count_in(State::Pending).await, 2);
}

pub async fn a_clock_that_is_slewed_is_not_set_and_a_due_time_that_it_reaches_is_seen_within_a_minute<E: Engine>() {
    let log = Log::default();
    let _guard = log.capture();
    let mut bed = Bed::<E>::new(Plan::default()).await;
    let due_at = START.plus(HOUR);
    bed.enqueue(&[Wish { due_at, ..Wish::of("a", "1") }]).await;
    while bed.clock.now() < due_at.plus(Duration::from_secs(114)) && bed.sizes().is_empty() {
        bed.worker.turn().await.unwrap();
        bed.work().await;
        // The wall clock gains 0.9 s in each second, so the due time comes sooner than the worker expects.
        bed.clock.advance(Duration::from_secs(1));
        jump(&bed, Duration::from_millis(900));
    }
    assert_eq!(bed.sizes(), [1]);
    assert!(bed.clock.elapsed() < Duration::from_secs(2_000), "{:?}", bed.clock.elapsed());
    assert_eq!(log.events("clock_jumped").len(), 0);
}

/// Takes turns and does chores, a quarter of a day apart at most, each time with enough steps to prune everything.
async fn tidy_for<E: Engine>(bed: &mut Bed<E>, time: Duration) {
    let end = bed.clock.elapsed() + time;
    loop {
        bed.work().await;
        for _ in 0..20 {
            bed.worker.do_chores().await.unwrap();
            bed.clock.advance(Duration::from_millis(50));
        }
        let now = bed.clock.elapsed();
        if now >= end {
            return;
        }
        bed.clock.advance((end - now).min(DAY / 4));
    }
}

/// How many rows and requests there are.
async fn kept<E: Engine>(bed: &mut Bed<E>) -> (usize, usize) {
    (bed.rows().await.len(), bed.requests().await.len())
}

fn keeping(days: u32) -> Plan {
    let mut plan = Plan::default();
    plan.settings.retention = days * DAY;
    plan
}

pub async fn a_clock_that_is_ahead_for_a_while_prunes_nothing_and_put_right_it_prunes_as_before<E: Engine>() {
    let mut bed = Bed::<E>::new(keeping(30)).await;
    bed.insert_many("a", 40).await;
    bed.work().await;
    tidy_for(&mut bed, DAY).await;
    jump(&bed, 60 * DAY);
    tidy_for(&mut bed, HOUR).await;
    assert_eq!(kept(&mut bed).await, (40, 2), "ahead");
    jump_back(&bed, 60 * DAY);
    tidy_for(&mut bed, 28 * DAY).await;
    assert_eq!(kept(&mut bed).await, (40, 2), "put right, and not old");
    tidy_for(&mut bed, 2 * DAY).await;
    assert_eq!(kept(&mut bed).await, (0, 0), "old");
}

pub async fn a_start_by_a_clock_far_ahead_of_the_file_prunes_nothing_for_an_hour_and_says_so<E: Engine>() {
    let log = Log::default();
    let _guard = log.capture();
    let mut bed = Bed::<E>::new(keeping(30)).await;
    assert_eq!(log.events("clock_suspect").len(), 0, "a new file has no time to compare with");
    // Dated by the test's clock: the database's own is a hundred years behind.
    let fresh = |entry| Wish { created_at: Some(START), ..Wish::of("a", entry) };
    bed.enqueue(&[fresh("1"), Wish { due_at: START.plus(285 * YEAR), ..fresh("2") }]).await;
    bed.work().await;
    bed.clock.advance(Duration::from_secs(2));
    bed.work().await;
    assert_eq!(bed.count_in(State::Deleted).await, 1);
    jump(&bed, 60 * DAY);
    let mut bed = bed.restart().await;
    assert_eq!(log.events("clock_suspect").len(), 1);
    tidy_for(&mut bed, HOUR - Duration::from_secs(60)).await;
    assert_eq!(kept(&mut bed).await, (2, 1));
    tidy_for(&mut bed, HOUR).await;
    assert_eq!(kept(&mut bed).await, (1, 0), "after an hour it is believed");
}

pub async fn a_start_after_less_than_half_of_the_retention_prunes_at_once<E: Engine>() {
    let log = Log::default();
    let _guard = log.capture();
    let mut bed = Bed::<E>::new(keeping(30)).await;
    bed.insert_many("a", 1).await;
    bed.work().await;
    tidy_for(&mut bed, 20 * DAY).await;
    bed.insert_many("b", 1).await;
    bed.work().await;
    jump(&bed, 14 * DAY);
    let mut bed = bed.restart().await;
    tidy_for(&mut bed, Duration::from_secs(1)).await;
    assert_eq!(kept(&mut bed).await, (1, 1));
    assert_eq!(log.events("clock_suspect").len(), 0);
}

/// 250 requests with 20 rows each that failed while the clock was wrong, and 250 that failed while it was right.
fn failed_requests(wrong: Timestamp, right: Timestamp) -> (Vec<Row>, Vec<Request>) {
    let (mut rows, mut requests) = (Vec::new(), Vec::new());
    for request in 1..=500 {
        let at = if request % 2 == 0 { wrong } else { right };
        let ids: Vec<i64> = ((request - 1) * 20 + 1..=request * 20).collect();
        let (due_at, last_cause) = (at.plus(Duration::from_secs(10)), Some(Cause::ApiFailed));
        rows.extend(ids.iter().map(|id| {
            let row = Row::new(*id, &format!("agent-{}", id % 7), &id.to_string());
            Row { request: Some(request), attempts: 1, last_cause, due_at, ..row }
        }));
        requests.push(Request { answered_at: Some(at), status: Some(200), ..Request::new(request, "a", &ids) });
    }
    (rows, requests)
}

pub async fn many_due_times_that_are_wrong_are_put_right_in_steps<E: Engine>() {
    for restart in [false, true] {
        let mut bed = Bed::<E>::new(Plan::default()).await;
        jump(&bed, YEAR);
        bed.work().await;
        let (now, right) = (bed.clock.now(), bed.clock.now().minus(YEAR));
        bed.pause("*").await;
        let (rows, requests) = failed_requests(now, right);
        bed.put(&rows, &requests).await;
        let wrong = |row: &Row| row.due_at > right.plus(HOUR);
        assert_eq!(bed.count_where(wrong).await, 5_000);
        jump_back(&bed, YEAR);
        let mut left = 5_000;
        let mut bed = if restart { bed.restart().await } else { bed };
        let mut turns = 0;
        while left > 0 && turns < 100 {
            bed.worker.turn().await.unwrap();
            let now_left = bed.count_where(wrong).await;
            assert!(restart || left - now_left <= 2_000, "{} in one step", left - now_left);
            (left, turns) = (now_left, turns + 1);
        }
        assert!(left == 0 && (restart || turns >= 3), "{left} are left after {turns} turns");
        let soon = right..=right.plus(Duration::from_secs(11));
        assert_eq!(bed.count_where(|row| soon.contains(&row.due_at)).await, 10_000);
    }
}

tests!($ clocks:
    a_hold_that_a_clock_placed_which_was_ahead_lasts_no_longer_than_such_holds_do,
    with_a_clock_that_begins_in_1970_the_daemon_works_as_with_any_other,
    a_question_that_a_clock_put_off_which_was_ahead_is_asked_with_the_next_permit,
    a_retry_that_a_clock_scheduled_which_was_ahead_waits_no_longer_than_its_delay,
    with_a_clock_that_is_set_back_a_linger_lasts_no_longer,
    what_people_said_stays_as_it_is_whatever_the_clock_does,
    a_clock_that_is_slewed_is_not_set_and_a_due_time_that_it_reaches_is_seen_within_a_minute,
    a_clock_that_is_ahead_for_a_while_prunes_nothing_and_put_right_it_prunes_as_before,
    a_start_by_a_clock_far_ahead_of_the_file_prunes_nothing_for_an_hour_and_says_so,
    a_start_after_less_than_half_of_the_retention_prunes_at_once,
    many_due_times_that_are_wrong_are_put_right_in_steps,
);
