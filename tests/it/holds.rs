//! Holds are data: placed and lifted in SQL, and said in the log.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    time::Duration,
};

use audio_cache_sweeper::{
    model::clock::Clock,
    pace::RateLimit,
    sandbox::{Mood, Options},
    worker::{Ended, Until},
};

use sqlx::{Connection, SqliteConnection};

use crate::{
    bed::{Bed, Plan, START, UNCHECKED},
    logs::Log,
};

/// What the log says of holds: event, scope and cause.
fn said(log: &Log) -> Vec<(String, String, String)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    log.entries()
        .iter()
        .filter(|entry| ["hold_placed", "hold_probed", "hold_lifted"].iter().any(|event| entry["event"] == *event))
        .map(|entry| (text(&entry["event"]), text(&entry["scope"]), text(&entry["cause"])))
        .collect()
}

fn line(event: &str, scope: &str, cause: &str) -> (String, String, String) {
    (event.to_owned(), scope.to_owned(), cause.to_owned())
}

#[tokio::test]
async fn an_insert_pauses_with_the_next_turn_and_a_delete_resumes_with_the_next() {
    let mut plan = Plan::default();
    plan.settings.concurrency = 1;
    let mut bed = Bed::new(plan).await;
    bed.insert_many("a", 100).await;
    assert_eq!(bed.worker.turn().await.unwrap().sent, 1);
    for (scope, paused) in [("a", 0), ("*", 0), ("b", 1)] {
        bed.execute(&format!("INSERT INTO holds (scope) VALUES ('{scope}')")).await;
        bed.worker.wait_for_a_call().await;
        assert_eq!(bed.worker.turn().await.unwrap().sent, paused, "{scope}");
        bed.execute("DELETE FROM holds").await;
        if paused == 0 {
            assert_eq!(bed.worker.turn().await.unwrap().sent, 1, "{scope}");
        }
    }
}

#[tokio::test]
async fn the_loop_looks_for_holds_once_in_a_poll_interval_at_the_least() {
    // Nothing else wakes it: it must notice by itself that the hold is lifted.
    let log = Log::awaiting("hold_placed");
    let _guard = log.capture();
    let mut bed = Bed::new(Plan::default()).await;
    bed.execute("INSERT INTO holds (scope) VALUES ('a')").await;
    bed.insert_many("a", 3).await;
    let came = log.came();
    let mut other = SqliteConnection::connect(bed.options.path.to_str().unwrap()).await.unwrap();
    let resume = async {
        came.notified().await;
        sqlx::raw_sql("DELETE FROM holds").execute(&mut other).await.unwrap();
    };
    let until = Until::Empty { give_up_after: None };
    let (ended, ()) = tokio::join!(bed.worker.run(std::future::pending(), until), resume);
    assert_eq!(ended.unwrap(), Ended::Empty);
    assert_eq!(said(&log), [line("hold_placed", "a", "operator"), line("hold_lifted", "a", "operator")]);
}

/// Polls a future to its end; each poll takes a millisecond.
async fn slowly<F: Future>(future: F, clock: &Clock) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|context| {
        clock.advance(Duration::from_millis(1));
        future.as_mut().poll(context)
    })
    .await
}

#[tokio::test]
async fn a_lifted_hold_is_noticed_also_if_the_lanes_are_listed_before_the_holds_are_read_again() {
    let mut bed = Bed::new(Plan::default()).await;
    bed.insert_many("a", 3).await;
    bed.execute("INSERT INTO holds (scope) VALUES ('a')").await;
    let others =
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) SELECT 'b' || i FROM n";
    bed.execute(&format!("INSERT INTO holds (scope) {others}")).await;
    let clock = bed.clock.clone();
    // To read so many holds takes long, and is not done again soon. The one lane is listed at once.
    assert_eq!(slowly(bed.worker.turn(), &clock).await.unwrap().sent, 0);
    bed.execute("DELETE FROM holds").await;
    bed.clock.advance(Duration::from_millis(100));
    assert_eq!(bed.worker.turn().await.unwrap().sent, 0, "the holds were read again: this tests nothing");
    bed.clock.advance(Duration::from_secs(30));
    bed.work().await;
    assert_eq!(bed.count("state = 'deleted'").await, 3, "the lane was forgotten");
}

#[tokio::test]
async fn a_person_s_hold_ends_at_its_time_without_a_probe_and_its_row_goes() {
    let log = Log::default();
    let _guard = log.capture();
    let mut bed = Bed::new(Plan::default()).await;
    bed.insert_many("a", 100).await;
    let until = START.plus(Duration::from_secs(60));
    bed.execute(&format!("INSERT INTO holds (scope, until_at) VALUES ('*', {until}), ('b', {until})")).await;
    bed.work().await;
    bed.clock.advance(Duration::from_millis(59_999));
    bed.work().await;
    assert_eq!(bed.sizes(), [0; 0]);
    bed.clock.advance(Duration::from_millis(1));
    assert_eq!(bed.worker.turn().await.unwrap().sent, 5, "all at once: nothing was wrong, so nothing is probed");
    assert_eq!(bed.query::<(i64,)>("SELECT count(*) FROM holds").await, [(0,)]);
    let both = |event| [line(event, "*", "operator"), line(event, "b", "operator")];
    assert_eq!(said(&log), [both("hold_placed"), both("hold_lifted")].concat());
}

#[tokio::test]
async fn a_hold_that_is_given_more_time_goes_on() {
    let mut bed = Bed::new(Plan::default()).await;
    bed.insert_many("a", 1).await;
    bed.execute(&format!("INSERT INTO holds (scope, until_at) VALUES ('a', {START} + 1000)")).await;
    bed.work().await;
    bed.execute(&format!("UPDATE holds SET until_at = {START} + 9000")).await;
    bed.clock.advance(Duration::from_secs(5));
    bed.work().await;
    assert_eq!((bed.sizes().len(), bed.query::<(i64,)>("SELECT count(*) FROM holds").await[0].0), (0, 1));
    bed.clock.advance(Duration::from_secs(4));
    bed.work().await;
    assert_eq!((bed.sizes().len(), bed.query::<(i64,)>("SELECT count(*) FROM holds").await[0].0), (1, 0));
}

#[tokio::test]
async fn holds_with_odd_values_hold_what_they_say_at_the_most_and_can_be_lifted() {
    let past = format!("{}", START.minus(Duration::from_secs(1)));
    // since_at, until_at, whether it holds; the last of them only past the CHECKs.
    let cases = [
        (START.to_string(), past.clone(), false),
        (past.clone(), "0".to_owned(), false),
        ("253402300799999".to_owned(), past.clone(), false),
        ("0".to_owned(), "253402300799999".to_owned(), true),
        ("253402300799999".to_owned(), format!("{START} + 1"), true),
        ("0".to_owned(), "9223372036854775807".to_owned(), true),
        ("-9223372036854775807".to_owned(), "-9223372036854775807".to_owned(), false),
        ("'now'".to_owned(), "'tomorrow'".to_owned(), true),
        ("x'00'".to_owned(), "1.5".to_owned(), true),
    ];
    for cause in ["'operator'", "'nonsense'", "x'ff'"] {
        for (since, until, holds) in &cases {
            let mut bed = Bed::new(Plan::default()).await;
            bed.insert_many("a", 40).await;
            bed.execute(UNCHECKED).await;
            bed.execute(&format!(
                "INSERT INTO holds (scope, cause, since_at, until_at) VALUES ('a', {cause}, {since}, {until}),
                     ('no agent', {cause}, {since}, {until}), (x'61ff', {cause}, {since}, {until})"
            ))
            .await;
            bed.insert_many("b", 20).await;
            bed.work().await;
            let what = format!("{cause} since {since} until {until}");
            assert_eq!(bed.sizes().len(), if *holds { 1 } else { 3 }, "{what}");
            bed.execute("DELETE FROM holds WHERE scope = 'a'").await;
            bed.work().await;
            assert_eq!(bed.count("state = 'deleted'").await, 60, "{what}");
        }
    }
}

#[tokio::test]
async fn a_hold_of_the_daemon_is_said_to_be_placed_probed_and_lifted_and_outlives_it() {
    let log = Log::default();
    let _guard = log.capture();
    let mut bed = Bed::new(Plan::default()).await;
    bed.sandbox.script([Mood::status(403)]);
    bed.insert_many("a", 1).await;
    bed.work().await;
    bed.execute("INSERT INTO holds (scope) VALUES ('b')").await;
    bed.insert_many("b", 1).await;
    bed.work().await;
    let mut bed = bed.restart().await;
    bed.work().await;
    assert_eq!(bed.sizes().len(), 1, "both hold");
    bed.clock.advance(Duration::from_secs(76));
    bed.work().await;
    assert_eq!(bed.sizes().len(), 2, "one is over");
    let expected = [
        line("hold_placed", "a", "forbidden"),
        line("hold_placed", "b", "operator"),
        line("hold_placed", "a", "forbidden"),
        line("hold_placed", "b", "operator"),
        line("hold_probed", "a", "forbidden"),
        line("hold_lifted", "a", "forbidden"),
    ];
    assert_eq!(said(&log), expected, "the second daemon says by what it finds itself held");
}

#[tokio::test]
async fn while_one_agent_is_held_another_gets_every_permit() {
    let rate = RateLimit { requests_per_second: 0.5, burst: 1.try_into().unwrap() };
    let sandbox = Options { forbidden: vec!["locked".to_owned()], ..Plan::default().sandbox };
    for by_hand in [false, true] {
        let mut plan = Plan { rate, sandbox: sandbox.clone(), ..Plan::default() };
        plan.settings.concurrency = 1;
        let mut bed = Bed::new(plan).await;
        bed.insert_many("locked", 400).await;
        if by_hand {
            bed.execute("INSERT INTO holds (scope) VALUES ('locked')").await;
        } else {
            bed.work().await;
            // Long enough for what follows.
            bed.execute(&format!("UPDATE holds SET until_at = {START} + 3600000")).await;
            bed.clock.advance(Duration::from_secs(2));
        }
        bed.insert_many("open", 400).await;
        let before = bed.sizes().len();
        for served in 1..=20 {
            // Rows that come in make the lanes be listed again: the held one's too.
            bed.execute(&format!("INSERT INTO deletions (agent_id, entry_id) VALUES ('locked', 'more-{served}')"))
                .await;
            bed.work().await;
            assert_eq!(bed.sizes().len(), before + served);
            bed.clock.advance(Duration::from_secs(2));
        }
        assert_eq!(bed.count("state = 'deleted' AND agent_id = 'open'").await, 400);
    }
}

#[tokio::test]
async fn a_hold_that_is_over_as_it_is_placed_is_probed_once_by_the_turn_that_learns_of_it() {
    let mut bed = Bed::new(Plan::default()).await;
    bed.insert(&[("first", "1")]).await;
    for agent in ["a", "b", "c"] {
        bed.insert(&[(agent, "1")]).await;
    }
    bed.execute("UPDATE deletions SET due_at = 4000000010000 WHERE agent_id <> 'first'").await;
    bed.worker.turn().await.unwrap();
    bed.worker.wait_for_a_call().await;
    bed.clock.advance(Duration::from_secs(20));
    // Its transaction settles the first answer, and would claim for three agents.
    bed.execute("INSERT INTO holds (scope, cause, until_at) VALUES ('*', 'throttled', 0)").await;
    assert_eq!(bed.worker.turn().await.unwrap().sent, 1);
    bed.work().await;
    assert_eq!(bed.count("state = 'deleted'").await, 4);
}
