//! A wall clock that is wrong for a while, and is put right: what it gave must keep nothing waiting, and prune nothing.

use std::time::Duration;

use audio_cache_sweeper::{
    model::clock::Timestamp,
    pace::RateLimit,
    sandbox::{Mood, Options, Outage},
};

use crate::{
    bed::{Bed, Plan, START, listing, status_with},
    logs::Log,
};

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// Turns for so long, ten seconds apart at the most, until no row is open; how long that took.
async fn run_for(bed: &mut Bed, most: Duration) -> Duration {
    let start = bed.clock.elapsed();
    loop {
        bed.work().await;
        let passed = bed.clock.elapsed() - start;
        if passed >= most || bed.count("state = 'pending'").await == 0 {
            return passed;
        }
        let wait = bed.worker.turn().await.unwrap().wait.unwrap_or(most);
        let step = wait.clamp(Duration::from_millis(1), Duration::from_secs(10));
        bed.clock.advance(step.min(most - passed));
    }
}

/// How often the log says that the clock was set, and how often that something was put right because of that.
fn said(log: &Log) -> (usize, usize) {
    let all = log.events("clock_jumped");
    let jumps = all.iter().filter(|entry| entry.get("by_ms").is_some()).count();
    (jumps, all.len() - jumps)
}

/// After a jump ahead and back: in the life that saw both, or after a restart that saw only what was left.
fn assert_said(log: &Log, restart: bool, what: &str) {
    let (jumps, put_right) = said(log);
    assert_eq!(jumps, if restart { 1 } else { 2 }, "{what}");
    assert!(!restart || put_right == 1, "{what}: {put_right}");
}

fn jump(bed: &Bed, ahead: Duration) {
    bed.clock.jump_to(bed.clock.now().plus(ahead));
}

fn jump_back(bed: &Bed, by: Duration) {
    bed.clock.jump_to(bed.clock.now().minus(by));
}

/// Everything that makes the daemon place a hold, and the hold's scope.
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

/// A queue on which a hold stands that a clock placed, or placed again, which was ahead.
async fn held(outage: Outage, ahead: Duration, was_held: bool) -> Bed {
    let mut bed =
        Bed::new(Plan { sandbox: Options { outage: Some(outage), ..Plan::default().sandbox }, ..Plan::default() })
            .await;
    bed.insert_many("a", 45).await;
    if was_held {
        run_for(&mut bed, Duration::from_secs(200)).await;
    }
    jump(&bed, ahead);
    run_for(&mut bed, Duration::from_secs(200)).await;
    bed
}

#[tokio::test]
async fn a_hold_that_a_clock_placed_which_was_ahead_lasts_no_longer_than_such_holds_do() {
    let cases = [(HOUR, false, false), (3 * YEAR, true, false), (3 * YEAR, false, true), (HOUR, true, true)];
    for (n, (outage, scope)) in faults().into_iter().enumerate() {
        // Two of the four with each.
        for (ahead, was_held, restart) in [cases[n % 2], cases[2 + n / 2 % 2]] {
            let what = format!("{outage:?}, {ahead:?} ahead, held before: {was_held}, restart: {restart}");
            let log = Log::default();
            let _guard = log.capture();
            let mut bed = held(outage, ahead, was_held).await;
            let holds: Vec<(String, i64)> = bed.query("SELECT scope, until_at FROM holds").await;
            assert!(holds.iter().any(|(on, _)| on == scope), "{what}: {holds:?}");
            bed.sandbox.set_outage(None);
            assert_eq!(said(&log), (1, 0), "{what}: the jump ahead");
            jump_back(&bed, ahead);
            let mut bed = if restart { bed.restart().await } else { bed };
            let before = bed.count("state = 'dead'").await;
            // The longest hold with its jitter, and then the longest delay of a row with its.
            let took = run_for(&mut bed, Duration::from_secs(750 + 75 + 60)).await;
            assert_eq!(bed.count("state = 'deleted'").await, 45 - before, "{what}: {took:?}");
            assert_said(&log, restart, &what);
        }
    }
}

#[tokio::test]
async fn with_a_clock_that_begins_in_1970_the_daemon_works_as_with_any_other() {
    // A minute, and twenty days: those milliseconds look like seconds of 2024.
    for begins in [60_000, 1_728_000_000] {
        for (outage, scope) in faults() {
            let sandbox = Options { outage: Some(outage), ..Plan::default().sandbox };
            let mut bed = Bed::new(Plan { sandbox, ..Plan::default() }).await;
            bed.clock.jump_to(Timestamp(begins));
            let what = format!("{outage:?} at {begins}");
            bed.execute(
                "DELETE FROM requests; DELETE FROM deletions; UPDATE daemon SET started_at = 0, updated_at = 0",
            )
            .await;
            bed.insert_many("a", 45).await;
            run_for(&mut bed, Duration::from_secs(200)).await;
            let holds: Vec<(String,)> = bed.query("SELECT scope FROM holds").await;
            assert!(holds.iter().any(|(on,)| on == scope), "{what}: {holds:?}");
            bed.sandbox.set_outage(None);
            let before = bed.count("state = 'dead'").await;
            run_for(&mut bed, Duration::from_secs(750 + 75 + 60)).await;
            assert_eq!(bed.count("state = 'deleted'").await, 45 - before, "{what}");
        }
    }
}

#[tokio::test]
async fn a_question_that_a_clock_put_off_which_was_ahead_is_asked_with_the_next_permit() {
    // Nothing is there: after three answers that delete nothing, one row is asked about before the agent is held.
    let sandbox = Options { agents: vec![("a".to_owned(), 0)], ..Plan::default().sandbox };
    let rate = RateLimit { requests_per_second: 1.0, burst: 1.try_into().unwrap() };
    let mut bed = Bed::new(Plan { sandbox, rate, ..Plan::default() }).await;
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

#[tokio::test]
async fn a_retry_that_a_clock_scheduled_which_was_ahead_waits_no_longer_than_its_delay() {
    let moods =
        [listing(&["2"], &["1"]), listing(&["2"], &[]), status_with(500, "Retry-After", "40"), Mood::status(500)];
    for mood in moods {
        for (ahead, restart) in [(HOUR, false), (3 * YEAR, false), (HOUR, true), (3 * YEAR, true)] {
            let what = format!("{mood:?}, {ahead:?} ahead, restart: {restart}");
            let log = Log::default();
            let _guard = log.capture();
            let mut bed = Bed::new(Plan::default()).await;
            bed.insert_many("a", 2).await;
            jump(&bed, ahead);
            bed.sandbox.script([mood.clone()]);
            bed.work().await;
            assert_eq!(bed.sizes(), [2], "{what}");
            let due: Vec<(i64,)> = bed.query("SELECT due_at FROM deletions WHERE state = 'pending'").await;
            assert!(due.iter().all(|(due,)| *due > bed.clock.now().0), "{what}");
            bed.clock.advance(Duration::from_secs(3));
            jump_back(&bed, ahead);
            let mut bed = if restart { bed.restart().await } else { bed };
            bed.work().await;
            assert_eq!(bed.sizes(), [2], "{what}: not before its delay");
            run_for(&mut bed, Duration::from_secs(75)).await;
            assert_eq!(bed.count("state = 'deleted'").await, 2, "{what}");
            assert_said(&log, restart, &what);
        }
    }
}

#[tokio::test]
async fn with_a_clock_that_is_set_back_a_linger_lasts_no_longer() {
    let fresh = |entry: u32, at: Timestamp| {
        format!("INSERT INTO deletions (agent_id, entry_id, created_at) VALUES ('a', '{entry}', {at})")
    };
    let mut plan = Plan::default();
    plan.settings.linger = Duration::from_secs(2);
    let mut bed = Bed::new(plan).await;
    bed.execute(&fresh(1, START)).await;
    bed.work().await;
    jump_back(&bed, HOUR);
    bed.clock.advance(Duration::from_secs(2));
    bed.work().await;
    assert_eq!(bed.sizes(), [1], "it was inserted by the clock of before");
    let now = bed.clock.now();
    bed.execute(&fresh(2, now)).await;
    bed.work().await;
    bed.clock.advance(Duration::from_millis(1_999));
    bed.work().await;
    assert_eq!(bed.sizes(), [1]);
    bed.clock.advance(Duration::from_millis(1));
    bed.work().await;
    assert_eq!(bed.sizes(), [1, 1]);
}

#[tokio::test]
async fn what_people_said_stays_as_it_is_whatever_the_clock_does() {
    let mut bed = Bed::new(Plan::default()).await;
    jump(&bed, HOUR);
    bed.sandbox.script([listing(&[], &["1", "2"])]);
    bed.insert(&[("tried", "1"), ("tried", "2")]).await;
    bed.work().await;
    let (now, week) = (bed.clock.now(), bed.clock.now().plus(7 * DAY));
    let answered: i64 = bed.query::<(i64,)>("SELECT max(answered_at) FROM requests").await[0].0;
    // No delay is as long as this: 60 s and a quarter of it.
    let later = answered + 75_001;
    bed.execute(&format!(
        "UPDATE deletions SET due_at = {week} WHERE entry_id = '1';
         UPDATE deletions SET due_at = {later} WHERE entry_id = '2';
         INSERT INTO deletions (agent_id, entry_id, due_at) VALUES ('untried', '3', {now} + 30000);
         INSERT INTO holds (scope, since_at, until_at) VALUES ('b', {now}, {week}), ('c', {now}, NULL);"
    ))
    .await;
    let due = "SELECT entry_id, due_at FROM deletions ORDER BY 1";
    let holds = "SELECT scope, since_at, coalesce(until_at, 0) FROM holds ORDER BY 1";
    let due_before: Vec<(String, i64)> = bed.query(due).await;
    let holds_before: Vec<(String, i64, i64)> = bed.query(holds).await;
    jump_back(&bed, HOUR);
    bed.work().await;
    let mut bed = bed.restart().await;
    bed.work().await;
    assert_eq!(bed.query::<(String, i64)>(due).await, due_before);
    assert_eq!(bed.query::<(String, i64, i64)>(holds).await, holds_before);
    // The one whose due time is a delay of the daemon's own is not a person's.
    bed.execute(&format!("UPDATE deletions SET due_at = {later} - 1 WHERE entry_id = '2'")).await;
    let mut bed = bed.restart().await;
    run_for(&mut bed, Duration::from_secs(80)).await;
    assert_eq!(bed.count("entry_id = '2' AND state = 'deleted'").await, 1);
    assert_eq!(bed.count("state = 'pending'").await, 2);
}

#[tokio::test]
async fn a_clock_that_is_slewed_is_not_set_and_a_due_time_that_it_reaches_is_seen_within_a_minute() {
    let log = Log::default();
    let _guard = log.capture();
    let mut bed = Bed::new(Plan::default()).await;
    let due = START.plus(HOUR);
    bed.execute(&format!("INSERT INTO deletions (agent_id, entry_id, due_at) VALUES ('a', '1', {due})")).await;
    while bed.clock.now() < due.plus(Duration::from_secs(114)) && bed.sizes().is_empty() {
        bed.worker.turn().await.unwrap();
        bed.work().await;
        // 1.9 s of the wall clock in each second: the time that the worker waits for comes sooner than it knows.
        bed.clock.advance(Duration::from_secs(1));
        jump(&bed, Duration::from_millis(900));
    }
    assert_eq!(bed.sizes(), [1]);
    assert!(bed.clock.elapsed() < Duration::from_secs(2_000), "{:?}", bed.clock.elapsed());
    assert_eq!(log.events("clock_jumped").len(), 0);
}

/// Turns and chores for so long, a quarter of a day apart at the most, with as many steps of pruning as there are.
async fn tidy_for(bed: &mut Bed, time: Duration) {
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

async fn kept(bed: &mut Bed) -> (i64, i64) {
    (bed.count("true").await, bed.query::<(i64,)>("SELECT count(*) FROM requests").await[0].0)
}

fn keeping(days: u32) -> Plan {
    let mut plan = Plan::default();
    plan.settings.retention = days * DAY;
    plan
}

#[tokio::test]
async fn a_clock_that_is_ahead_for_a_while_prunes_nothing_and_put_right_it_prunes_as_before() {
    let mut bed = Bed::new(keeping(30)).await;
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

#[tokio::test]
async fn a_start_by_a_clock_far_ahead_of_the_file_prunes_nothing_for_an_hour_and_says_so() {
    let log = Log::default();
    let _guard = log.capture();
    let mut bed = Bed::new(keeping(30)).await;
    assert_eq!(log.events("clock_suspect").len(), 0, "a new file has no time to compare with");
    // By the clock of the test, where that of SQLite would be.
    bed.execute(&format!(
        "INSERT INTO deletions (agent_id, entry_id, created_at, due_at) VALUES ('a', '1', {START}, 0), ('a', '2', {START}, {START} + 9000000000000)"
    ))
    .await;
    bed.work().await;
    bed.clock.advance(Duration::from_secs(2));
    bed.work().await;
    assert_eq!(bed.count("state = 'deleted'").await, 1);
    jump(&bed, 60 * DAY);
    let mut bed = bed.restart().await;
    assert_eq!(log.events("clock_suspect").len(), 1);
    tidy_for(&mut bed, HOUR - Duration::from_secs(60)).await;
    assert_eq!(kept(&mut bed).await, (2, 1));
    tidy_for(&mut bed, HOUR).await;
    assert_eq!(kept(&mut bed).await, (1, 0), "after an hour it is believed");
}

#[tokio::test]
async fn a_start_after_less_than_half_of_the_retention_prunes_at_once() {
    let log = Log::default();
    let _guard = log.capture();
    let mut bed = Bed::new(keeping(30)).await;
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

#[tokio::test]
async fn many_due_times_that_are_wrong_are_put_right_in_steps() {
    for restart in [false, true] {
        let mut bed = Bed::new(Plan::default()).await;
        jump(&bed, YEAR);
        bed.work().await;
        let (now, right) = (bed.clock.now(), bed.clock.now().minus(YEAR));
        // 250 requests with 20 rows each, among as many that a right clock saw; and rows of other requests.
        bed.execute(&format!(
            "INSERT INTO holds (scope) VALUES ('*');
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)
             INSERT INTO deletions (agent_id, entry_id, request_id, attempts, last_cause, due_at)
                SELECT 'agent-' || (i % 7), i, (i + 19) / 20, 1, 'api_failed',
                    CASE ((i + 19) / 20) % 2 WHEN 0 THEN {now} ELSE {right} END + 10000 FROM n;
             INSERT INTO requests (id, correlation_id, agent_id, deletion_ids, size, claimed_at, answered_at, status)
                SELECT request_id, 'x', 'a', json_group_array(id), count(*), 1, max(due_at) - 10000, 200
                FROM deletions GROUP BY request_id;"
        ))
        .await;
        let wrong = format!("due_at > {right} + 3600000");
        assert_eq!(bed.count(&wrong).await, 5_000);
        jump_back(&bed, YEAR);
        let mut left = 5_000;
        let mut bed = if restart { bed.restart().await } else { bed };
        let mut turns = 0;
        while left > 0 && turns < 100 {
            bed.worker.turn().await.unwrap();
            let now_left = bed.count(&wrong).await;
            assert!(restart || left - now_left <= 2_000, "{} in one step", left - now_left);
            (left, turns) = (now_left, turns + 1);
        }
        assert!(left == 0 && (restart || turns >= 3), "{left} are left after {turns} turns");
        assert_eq!(bed.count(&format!("due_at BETWEEN {right} AND {right} + 11000")).await, 10_000);
    }
}
