//! Every line of the decision table, over real HTTP.

use std::time::Duration;

use audio_cache_sweeper::{
    model::{deletion::State, outcome::Cause},
    sandbox::Mood,
};

use super::{
    bed::{Bed, Plan, START, listing, status_with},
    engine::{Engine, Hold},
    tests,
};

/// The columns of a row that are compared: state, attempts, last_cause, maybe_done, batch_max, and, of a pending row, when it is
/// due.
fn row(
    state: &'static str,
    attempts: u32,
    cause: &'static str,
    maybe_done: u8,
    batch_max: u8,
    due: Option<Due>,
) -> Expected {
    Expected { row: (state, attempts, cause, maybe_done, batch_max), due }
}

#[derive(Clone, Debug)]
struct Expected {
    row: (&'static str, u32, &'static str, u8, u8),
    due: Option<Due>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Due {
    AtOnce,
    /// After the first delay of the schedule, or up to a quarter of it later.
    Backoff,
    /// After this many milliseconds.
    After(i64),
}

const NO_HOLD: Option<(&str, &str)> = None;

/// Sends `count` rows in one request that the API treats as `mood`, and compares what is written.
async fn judged<E: Engine>(plan: Plan, mood: Mood, count: usize, expected: &[Expected], hold: Option<(&str, &str)>) {
    let what = format!("{mood:?}");
    let mut bed = Bed::<E>::new(plan).await;
    bed.sandbox.script([mood]);
    bed.insert_many("a", count).await;
    assert_eq!(bed.worker.turn().await.unwrap().sent, 1, "{what}");
    bed.worker.wait_for_a_call().await;
    bed.pause("*").await; // The next turn settles, and sends nothing.
    bed.worker.turn().await.unwrap();
    let rows = bed.rows().await;
    assert_eq!(rows.len(), expected.len(), "{what}");
    for (row, expected) in rows.into_iter().zip(expected) {
        let due = row.is(State::Pending).then(|| row.due_at.0 - START.0);
        let cause = row.last_cause.map_or("", Cause::as_str);
        let written = (row.state.as_str(), row.attempts, cause, u8::from(row.maybe_done), row.batch_max);
        assert_eq!(written, expected.row, "{what}");
        match expected.due {
            None => assert_eq!(due, None, "{what}"),
            Some(Due::AtOnce) => assert_eq!(due, Some(0), "{what}"),
            Some(Due::After(ms)) => assert_eq!(due, Some(ms), "{what}"),
            Some(Due::Backoff) => assert!((10_000..=12_500).contains(&due.unwrap()), "{what}: due {due:?}"),
        }
    }
    let holds = bed.holds().await;
    let holds = holds.iter().map(Hold::key).filter(|(_, cause)| *cause != Cause::Operator);
    assert_eq!(holds.map(|(scope, cause)| (scope, cause.as_str())).collect::<Vec<_>>(), Vec::from_iter(hold), "{what}");
}

/// A plan with `after_faults` = 1: the first fault places a hold.
fn at_once() -> Plan {
    let mut plan = Plan::default();
    plan.settings.after_faults = 1;
    plan
}

pub async fn a_200_is_believed_id_by_id<E: Engine>() {
    let deleted = row("deleted", 1, "", 0, 20, None);
    let failed = row("pending", 1, "api_failed", 0, 20, Some(Due::Backoff));
    let contradicted = row("pending", 1, "api_contradicted", 0, 20, Some(Due::Backoff));
    let silent = row("pending", 1, "api_silent", 0, 20, Some(Due::Backoff));
    let mixed = [deleted.clone(), failed, contradicted.clone(), silent.clone()];
    judged::<E>(Plan::default(), listing(&["1", "3"], &["2", "3"]), 4, &mixed, NO_HOLD).await;
    let strangers = listing(&["1", "999", "", "01", "1 ", "１"], &["998"]);
    judged::<E>(Plan::default(), strangers, 2, &[deleted, silent.clone()], NO_HOLD).await;
    judged::<E>(Plan::default(), Mood::Silent, 1, &[silent], NO_HOLD).await;
    judged::<E>(Plan::default(), Mood::Contradict, 1, &[contradicted], NO_HOLD).await;
    judged::<E>(Plan::default(), Mood::Strangers, 1, &[row("deleted", 1, "", 0, 20, None)], NO_HOLD).await;
}

pub async fn a_2xx_that_is_not_the_promised_json_leaves_the_outcome_open<E: Engine>() {
    // The first fault is no evidence about the row: nothing has got through yet.
    let garbled = row("pending", 0, "garbled", 1, 20, Some(Due::Backoff));
    let bodies = [
        "",
        "<html>",
        "null",
        "{}",
        r#"{"success":true}"#,
        r#"{"failed":[]}"#,
        r#"{"deleted":null,"failed":[]}"#,
        r#"{"deleted":[1.0],"failed":[]}"#,
        r#"{"deleted":[1e0],"failed":[]}"#,
        r#"{"deleted":[1,18446744073709551616],"failed":[]}"#,
        r#"{"deleted":["1"],"failed":[]} x"#,
        r#"{"deleted":["1"],"failed":[]"#,
    ];
    for body in bodies {
        let mood = Mood::Garble(body.to_owned());
        judged::<E>(at_once(), mood, 1, std::slice::from_ref(&garbled), Some(("a", "garbled"))).await;
    }
    let long = format!(r#"{{"deleted":["1"],"failed":["{}"]}}"#, "x".repeat(2 << 20));
    judged::<E>(at_once(), Mood::Garble(long), 1, std::slice::from_ref(&garbled), Some(("a", "garbled"))).await;
    for status in [201, 202, 204, 206] {
        let mood = Mood::Say { status, headers: vec![], body: String::new() };
        judged::<E>(at_once(), mood, 1, std::slice::from_ref(&garbled), Some(("a", "garbled"))).await;
    }
}

pub async fn a_200_that_is_clear_is_taken_whatever_its_form<E: Engine>() {
    let deleted = row("deleted", 1, "", 0, 20, None);
    let failed = row("pending", 1, "api_failed", 0, 20, Some(Due::Backoff));
    for (body, expected) in [
        (r#"{"deleted":["1"]}"#, &deleted),
        (r#"{"deleted":["1"],"failed":null}"#, &deleted),
        (r#"{"deleted":[1],"failed":[]}"#, &deleted),
        ("\u{feff}{\"deleted\":[\"1\"],\"failed\":[]}", &deleted),
        (r#"{"deleted":[],"failed":[1]}"#, &failed),
    ] {
        judged::<E>(Plan::default(), Mood::Garble(body.to_owned()), 1, std::slice::from_ref(expected), NO_HOLD).await;
    }
}

pub async fn a_rejected_request_is_halved_and_a_rejected_row_is_dead<E: Engine>() {
    for status in [400, 413, 422] {
        let half = row("pending", 0, "rejected", 0, 2, Some(Due::AtOnce));
        judged::<E>(Plan::default(), Mood::status(status), 3, &[half.clone(), half.clone(), half], NO_HOLD).await;
        judged::<E>(Plan::default(), Mood::status(status), 1, &[row("dead", 1, "rejected", 0, 20, None)], NO_HOLD)
            .await;
    }
}

pub async fn what_says_nothing_about_the_rows_does_not_count_and_holds<E: Engine>() {
    let at_once = |cause| row("pending", 0, cause, 0, 20, Some(Due::AtOnce));
    let cases = [
        (401, "*", "unauthorized"),
        (403, "a", "forbidden"),
        (404, "a", "unknown_agent"),
        (300, "*", "contract"),
        (307, "*", "contract"),
        (405, "*", "contract"),
        (501, "*", "contract"),
        (429, "*", "throttled"),
    ];
    for (status, scope, cause) in cases {
        judged::<E>(Plan::default(), Mood::status(status), 1, &[at_once(cause)], Some((scope, cause))).await;
    }
    // The content of the request may be the reason, so its rows come back a little later.
    for status in [402, 409, 410, 412, 415, 418, 451, 505, 520, 530, 599] {
        let later = row("pending", 0, "contract", 0, 20, Some(Due::Backoff));
        judged::<E>(Plan::default(), Mood::status(status), 1, &[later], Some(("a", "contract"))).await;
    }
    let busy = status_with(503, "retry-after", "30");
    let asked = row("pending", 0, "throttled", 0, 20, Some(Due::After(30_000)));
    judged::<E>(Plan::default(), busy, 1, &[asked], Some(("*", "throttled"))).await;
}

pub async fn server_errors_hold_by_streak_and_do_not_count_while_nothing_gets_through<E: Engine>() {
    let failed = row("pending", 0, "server_error", 0, 20, Some(Due::Backoff));
    for status in [408, 500, 502, 503, 504] {
        judged::<E>(at_once(), Mood::status(status), 1, std::slice::from_ref(&failed), Some(("a", "server_error")))
            .await;
        judged::<E>(Plan::default(), Mood::status(status), 1, std::slice::from_ref(&failed), NO_HOLD).await;
    }
    let nonsense = status_with(503, "retry-after", "soon");
    judged::<E>(at_once(), nonsense, 1, &[failed], Some(("a", "server_error"))).await;
}

pub async fn a_request_without_an_answer_may_have_been_done<E: Engine>() {
    let lost = row("pending", 0, "lost", 1, 20, Some(Due::Backoff));
    for done in [false, true] {
        judged::<E>(at_once(), Mood::Reset { done }, 1, std::slice::from_ref(&lost), Some(("a", "lost"))).await;
    }
    let plan = Plan { request_timeout: Duration::from_millis(50), ..at_once() };
    judged::<E>(plan, Mood::Hang, 1, &[lost], Some(("a", "lost"))).await;
}

pub async fn a_request_that_was_never_sent_does_not_count<E: Engine>() {
    // A port that nobody listens on any more.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let plan = Plan { base_url: Some(format!("http://{closed}")), ..at_once() };
    let released = row("pending", 0, "unreachable", 0, 20, Some(Due::AtOnce));
    judged::<E>(plan, Mood::Plain, 1, std::slice::from_ref(&released), Some(("*", "unreachable"))).await;
    // A server without TLS. Waiting does not help.
    let bed = Bed::<E>::new(Plan::default()).await;
    let plan = Plan { base_url: Some(bed.sandbox.url().replace("http:", "https:")), ..at_once() };
    let released = row("pending", 0, "untrusted", 0, 20, Some(Due::AtOnce));
    judged::<E>(plan, Mood::Plain, 1, &[released], Some(("*", "untrusted"))).await;
}

pub async fn a_throttled_answer_holds_for_as_long_as_it_asks_within_limits<E: Engine>() {
    // A date counts from the answer's own `Date`, whatever our clock says. This one is a day behind.
    let sent_at = START.0 - 86_400_000;
    let date = httpdate_of(sent_at + 100_000);
    let past = httpdate_of(sent_at - 100_000);
    let cases = [
        ("30", 30),
        ("0", 5),
        ("999999999", 3_600),
        ("12, 40", 40),
        ("39.5s", 40),
        (date.as_str(), 100),
        (past.as_str(), 5),
    ];
    for (asked, seconds) in cases {
        let mut bed = Bed::<E>::new(Plan::default()).await;
        let headers = vec![("date", httpdate_of(sent_at)), ("retry-after", asked.to_owned())];
        bed.sandbox.script([Mood::Say { status: 429, headers, body: String::new() }]);
        bed.insert_many("a", 1).await;
        bed.work().await;
        let seconds = Duration::from_secs(seconds);
        let [hold] = &bed.holds().await[..] else { panic!("one hold: {asked}") };
        assert_eq!(hold.until_at, Some(START.plus(seconds)), "{asked}");
        bed.clock.advance(seconds - Duration::from_millis(1));
        bed.work().await;
        assert_eq!(bed.sizes().len(), 1, "{asked}: nothing goes during a hold");
        bed.clock.advance(Duration::from_millis(1));
        bed.work().await;
        assert_eq!((bed.count_in(State::Deleted).await, bed.sizes().len()), (1, 2), "{asked}");
        assert_eq!(bed.holds().await, [], "lifted");
    }
}

fn httpdate_of(ms: i64) -> String {
    httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_millis(u64::try_from(ms).unwrap()))
}

tests!($ verdicts:
    a_200_is_believed_id_by_id,
    a_2xx_that_is_not_the_promised_json_leaves_the_outcome_open,
    a_200_that_is_clear_is_taken_whatever_its_form,
    a_rejected_request_is_halved_and_a_rejected_row_is_dead,
    what_says_nothing_about_the_rows_does_not_count_and_holds,
    server_errors_hold_by_streak_and_do_not_count_while_nothing_gets_through,
    a_request_without_an_answer_may_have_been_done,
    a_request_that_was_never_sent_does_not_count,
    a_throttled_answer_holds_for_as_long_as_it_asks_within_limits,
);
