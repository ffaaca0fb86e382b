//! Every line of the decision table, over real HTTP; and how what failed comes back.

use std::time::Duration;

use audio_cache_sweeper::{
    model::{
        deletion::State,
        outcome::{Cause, Scope},
    },
    pace::RateLimit,
    queue::{QueueError as _, Remedy},
    sandbox::{Mood, Options},
};

use super::{
    bed::{Bed, Plan, START, listing, status_with},
    engine::{Counts, Engine, Hold, Request, Row},
    tests,
};

/// What is written onto a row: state, attempts, last cause, whether it may be done, the most rows it may go with, and, if it
/// is pending, when it is due.
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
    /// After the first delay of the schedule, and up to a quarter later.
    Backoff,
    /// So many milliseconds later.
    After(i64),
}

const NO_HOLD: Option<(&str, &str)> = None;

/// Sends `count` rows once, in one request treated as `mood`, and compares what is then written.
async fn judged<E: Engine>(plan: Plan, mood: Mood, count: usize, expected: &[Expected], hold: Option<(&str, &str)>) {
    let what = format!("{mood:?}");
    let mut bed = Bed::<E>::new(plan).await;
    bed.sandbox.script([mood]);
    bed.insert_many("a", count).await;
    assert_eq!(bed.worker.turn().await.unwrap().sent, 1, "{what}");
    bed.worker.wait_for_a_call().await;
    bed.pause("*").await; // so that the next turn settles, and sends nothing
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

/// A plan whose first fault of those that go by streak holds already.
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
    // The first fault says nothing about the row: nobody has got through.
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
    // Something in the request may be the reason: it goes again a little later.
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
    // Bound and not listened to by anybody any more.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let plan = Plan { base_url: Some(format!("http://{closed}")), ..at_once() };
    let released = row("pending", 0, "unreachable", 0, 20, Some(Due::AtOnce));
    judged::<E>(plan, Mood::Plain, 1, std::slice::from_ref(&released), Some(("*", "unreachable"))).await;
    // A server that speaks no TLS: time does not mend that.
    let bed = Bed::<E>::new(Plan::default()).await;
    let plan = Plan { base_url: Some(bed.sandbox.url().replace("http:", "https:")), ..at_once() };
    let released = row("pending", 0, "untrusted", 0, 20, Some(Due::AtOnce));
    judged::<E>(plan, Mood::Plain, 1, &[released], Some(("*", "untrusted"))).await;
}

pub async fn a_throttled_answer_holds_for_as_long_as_it_asks_within_limits<E: Engine>() {
    // A date counts from the answer's own, whatever our clock says: this one is a day behind.
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

pub async fn rows_that_failed_together_come_back_together_on_the_schedule_and_die_at_its_end<E: Engine>() {
    let sandbox = Options { failing: (1..=5).map(|id| id.to_string()).collect(), ..Plan::default().sandbox };
    let mut plan = Plan { sandbox, ..Plan::default() };
    plan.settings.policy.ask_singly = false;
    let mut bed = Bed::<E>::new(plan).await;
    bed.insert_many("a", 20).await;
    bed.work().await;
    assert_eq!(bed.sizes(), [20]);
    for (sizes, delay) in [(vec![20, 5], 10), (vec![20, 5, 5], 20)] {
        bed.clock.advance(Duration::from_secs(delay) - Duration::from_millis(1));
        bed.work().await;
        assert_eq!(bed.sizes().len(), sizes.len() - 1, "not before {delay} s");
        // Jitter, and then linger: five are not a full request.
        bed.clock.advance(Duration::from_millis(1 + delay * 250 + 1_000));
        bed.work().await;
        assert_eq!(bed.sizes(), sizes);
    }
    let failed = |row: &Row| row.is(State::Dead) && row.attempts == 3 && row.last_cause == Some(Cause::ApiFailed);
    assert_eq!(bed.count_where(failed).await, 5);
    assert_eq!(bed.count_where(|row| row.is(State::Deleted) && row.attempts == 1).await, 15);
    bed.clock.advance(Duration::from_secs(100_000));
    bed.work().await;
    assert_eq!(bed.sizes().len(), 3, "dead is dead");
}

pub async fn halving_finds_the_one_bad_id_among_twenty_and_saves_the_others<E: Engine>() {
    for bad in [0, 7, 19] {
        let sandbox = Options { numeric_ids: true, ..Plan::default().sandbox };
        let mut bed = Bed::<E>::new(Plan { sandbox, ..Plan::default() }).await;
        let mut ids: Vec<String> = (1..=20).map(|id| id.to_string()).collect();
        ids[bad] = "not-a-number".to_owned();
        let rows: Vec<(&str, &str)> = ids.iter().map(|id| ("a", id.as_str())).collect();
        bed.insert(&rows).await;
        bed.work().await;
        assert!(bed.sizes().len() <= 11, "{:?}", bed.sizes());
        assert_eq!(bed.count_where(|row| row.is(State::Deleted) && row.attempts == 1).await, 19);
        assert_eq!(bed.count_where(|row| row.is(State::Dead) && row.entry == "not-a-number").await, 1);
    }
}

pub async fn an_outage_costs_a_handful_of_attempts_and_not_the_backlog_s<E: Engine>() {
    let mut plan = Plan::default();
    plan.settings.concurrency = 4;
    let mut bed = Bed::<E>::new(plan).await;
    bed.sandbox.script(vec![Mood::status(500); 10]);
    bed.insert_many("a", 2_000).await;
    let mut hours = 0;
    while bed.pending().await > 0 && hours < 3_600 {
        bed.work().await;
        bed.clock.advance(Duration::from_secs(1));
        hours += 1;
    }
    assert_eq!(bed.count_in(State::Deleted).await, 2_000);
    let wasted = bed.rows().await.iter().map(|row| row.attempts).sum::<u32>() - 2_000;
    assert!(wasted <= 10 * 20, "{wasted} attempts were wasted");
}

pub async fn one_probe_goes_out_when_a_hold_ends_and_a_failed_one_doubles_it<E: Engine>() {
    let mut bed = Bed::<E>::new(Plan::default()).await;
    bed.sandbox.script([Mood::status(401), Mood::status(401)]);
    bed.insert_many("a", 1).await;
    bed.work().await;
    bed.insert_many("b", 200).await;
    bed.clock.advance(Duration::from_secs(59));
    bed.work().await;
    assert_eq!(bed.sizes().len(), 1, "what needs a person lasts a minute at least");
    bed.clock.advance(Duration::from_secs(16));
    bed.work().await;
    assert_eq!(bed.sizes().len(), 2, "one probe");
    let [hold] = &bed.holds().await[..] else { panic!("one hold") };
    let (now, seconds) = (bed.clock.now(), Duration::from_secs);
    let left = hold.until_at.unwrap().since(now);
    assert!(hold.repeats == 1 && (seconds(120)..=seconds(150)).contains(&left), "{left:?}");
    assert_eq!(now.since(hold.since_at), seconds(75), "it has been one pause all along");
    bed.clock.advance(Duration::from_secs(150));
    bed.work().await;
    assert_eq!(bed.count_in(State::Deleted).await, 201, "the probe was answered, and the rest went");
}

pub async fn one_agent_s_hold_does_not_slow_another<E: Engine>() {
    let sandbox = Options { forbidden: vec!["locked".to_owned()], ..Plan::default().sandbox };
    let mut bed = Bed::<E>::new(Plan { sandbox, ..Plan::default() }).await;
    bed.insert_many("locked", 100).await;
    bed.insert_many("open", 100).await;
    bed.work().await;
    assert_eq!(bed.count_where(|row| row.is(State::Deleted) && row.agent == "open").await, 100);
    let untried = |row: &Row| row.is(State::Pending) && row.agent == "locked" && row.attempts == 0;
    assert_eq!(bed.count_where(untried).await, 100);
    let before = bed.sizes().len();
    bed.clock.advance(Duration::from_secs(75));
    bed.work().await;
    assert_eq!(bed.sizes().len(), before + 1, "one probe of the agent");
}

pub async fn an_operator_pauses_and_resumes<E: Engine>() {
    let mut bed = Bed::<E>::new(Plan::default()).await;
    bed.pause("a").await;
    bed.insert_many("a", 20).await;
    bed.insert_many("b", 20).await;
    bed.work().await;
    assert_eq!(bed.count_in(State::Deleted).await, 20);
    bed.pause("*").await;
    bed.lift_where(|hold| hold.scope != Scope::All).await;
    bed.insert_many("c", 20).await;
    bed.work().await;
    assert_eq!(bed.sizes().len(), 1);
    bed.lift_all().await;
    bed.work().await;
    assert_eq!(bed.count_in(State::Deleted).await, 60);
}

pub async fn holds_outlive_a_restart_and_orphans_are_settled_as_lost<E: Engine>() {
    let rate = RateLimit { requests_per_second: 1_000.0, burst: 1_000.try_into().unwrap() };
    let mut bed = Bed::<E>::new(Plan { rate, ..Plan::default() }).await;
    bed.sandbox.script([Mood::status(401), Mood::Hang]);
    bed.insert_many("a", 1).await;
    bed.work().await;
    let mut bed = bed.restart().await;
    bed.insert_many("b", 20).await;
    bed.work().await;
    assert_eq!(bed.sizes().len(), 1, "still held");
    bed.clock.advance(Duration::from_secs(76));
    assert_eq!(bed.worker.turn().await.unwrap().sent, 1, "the probe, which hangs");
    bed.sandbox.arrived(2).await;
    let [claimed] = &bed.unanswered().await[..] else { panic!("one request") };
    let mut bed = bed.restart().await;
    let after: Vec<Request> = bed.requests().await.into_iter().filter(|request| request.id == claimed.id).collect();
    let rows = claimed.rows.len();
    let counts = Counts { retried: u32::try_from(rows).unwrap(), ..Counts::default() };
    let (answered_at, fault) = (Some(bed.clock.now()), Some(Cause::Lost));
    let detail = after[0].detail.clone();
    assert_eq!(after, [Request { answered_at, counts: Some(counts), fault, detail, ..claimed.clone() }]);
    let lost = |row: &Row| row.maybe_done && row.attempts == 1 && row.last_cause == Some(Cause::Lost);
    assert_eq!(bed.count_where(lost).await, rows);
    bed.clock.advance(Duration::from_secs(100));
    bed.work().await;
    assert_eq!(bed.count_in(State::Deleted).await, 21);
}

pub async fn a_pause_that_a_turn_had_to_wait_for_is_kept_by_that_turn<E: Engine>() {
    let mut bed = Bed::<E>::new(Plan::default()).await;
    bed.insert_many("a", 100).await;
    bed.shut_out().await;
    bed.pause("*").await;
    let let_in = async {
        // Not to wait for something: the turn is to meet a lock that lasts.
        tokio::time::sleep(Duration::from_millis(50)).await;
        bed.engine.let_in().await;
    };
    let (turn, ()) = tokio::join!(bed.worker.turn(), let_in);
    assert_eq!(turn.unwrap().sent, 0);
    bed.lift_all().await;
    bed.work().await;
    assert_eq!(bed.count_in(State::Deleted).await, 100);
}

pub async fn a_pause_in_the_place_of_one_that_is_over_is_not_lifted_with_it<E: Engine>() {
    let mut bed = Bed::<E>::new(Plan { busy_timeout: Duration::from_millis(1), ..Plan::default() }).await;
    bed.sandbox.script([Mood::status(401)]);
    bed.insert(&[("a", "1")]).await;
    bed.work().await;
    bed.clock.advance(Duration::from_secs(76));
    assert_eq!(bed.worker.turn().await.unwrap().sent, 1, "the probe");
    bed.worker.wait_for_a_call().await;
    // Judged, and not written; meanwhile somebody pauses for that very cause, for good.
    bed.shut_out().await;
    assert_eq!(bed.worker.turn().await.unwrap_err().remedy(), Remedy::Wait);
    bed.place(&[Hold { cause: Cause::Unauthorized, ..Hold::on("*") }]).await;
    bed.let_in().await;
    bed.insert_many("b", 40).await;
    bed.work().await;
    assert_eq!(bed.held().await, [("*".to_owned(), Cause::Unauthorized)]);
    assert_eq!(bed.sizes().len(), 2, "and nothing goes");
}

tests!($ retry:
    a_200_is_believed_id_by_id,
    a_2xx_that_is_not_the_promised_json_leaves_the_outcome_open,
    a_200_that_is_clear_is_taken_whatever_its_form,
    a_rejected_request_is_halved_and_a_rejected_row_is_dead,
    what_says_nothing_about_the_rows_does_not_count_and_holds,
    server_errors_hold_by_streak_and_do_not_count_while_nothing_gets_through,
    a_request_without_an_answer_may_have_been_done,
    a_request_that_was_never_sent_does_not_count,
    a_throttled_answer_holds_for_as_long_as_it_asks_within_limits,
    rows_that_failed_together_come_back_together_on_the_schedule_and_die_at_its_end,
    halving_finds_the_one_bad_id_among_twenty_and_saves_the_others,
    an_outage_costs_a_handful_of_attempts_and_not_the_backlog_s,
    one_probe_goes_out_when_a_hold_ends_and_a_failed_one_doubles_it,
    one_agent_s_hold_does_not_slow_another,
    an_operator_pauses_and_resumes,
    holds_outlive_a_restart_and_orphans_are_settled_as_lost,
    a_pause_that_a_turn_had_to_wait_for_is_kept_by_that_turn,
    a_pause_in_the_place_of_one_that_is_over_is_not_lifted_with_it,
);
