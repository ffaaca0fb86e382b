//! Rows that no bulk delete settles get a single-entry DELETE, over real HTTP.

use std::time::Duration;

use audio_cache_sweeper::{
    model::{deletion::State, outcome::Cause},
    pace::RateLimit,
    sandbox::{Mood, Options},
};

use super::{
    bed::{Bed, Plan, listing, status_with},
    engine::{Engine, Row},
    tests,
};

/// The columns of a row that these tests compare: state, attempts, last_cause, asks, maybe_done, batch_max.
type Written = (&'static str, u32, &'static str, u32, u8, u8);

fn row(state: &'static str, attempts: u32, cause: &'static str, asks: u32, maybe_done: u8, batch_max: u8) -> Written {
    (state, attempts, cause, asks, maybe_done, batch_max)
}

/// `max_attempts` is 1: a row that a bulk delete lists as failed gets its single-entry DELETE at once.
fn strict() -> Plan {
    let mut plan = Plan::default();
    plan.settings.policy.max_attempts = 1;
    plan
}

async fn rows<E: Engine>(bed: &mut Bed<E>) -> Vec<Written> {
    let written = |row: Row| {
        let cause = row.last_cause.map_or("", Cause::as_str);
        (row.state.as_str(), row.attempts, cause, row.asks, u8::from(row.maybe_done), row.batch_max)
    };
    bed.rows().await.into_iter().map(written).collect()
}

/// The columns of a request that these tests compare: kind, status, fault, absent, dead.
type Asked = (&'static str, Option<u16>, Option<Cause>, u32, u32);

async fn requests<E: Engine>(bed: &mut Bed<E>) -> Vec<Asked> {
    let asked = bed.requests().await.into_iter().map(|request| {
        let counts = request.counts.unwrap_or_default();
        (request.kind.as_str(), request.status, request.fault, counts.absent, counts.dead)
    });
    asked.collect()
}

async fn kinds<E: Engine>(bed: &mut Bed<E>) -> Vec<&'static str> {
    bed.requests().await.iter().map(|request| request.kind.as_str()).collect()
}

/// Whether the row is dead because the API kept listing it as failed.
fn is_dead(row: &Row, attempts: u32) -> bool {
    row.is(State::Dead) && row.attempts == attempts && row.last_cause == Some(Cause::ApiFailed)
}

async fn pass<E: Engine>(bed: &mut Bed<E>, seconds: u64) {
    bed.clock.advance(Duration::from_secs(seconds));
    bed.work().await;
}

pub async fn a_row_that_keeps_failing_is_asked_about_alone_instead_of_its_last_attempt<E: Engine>() {
    let sandbox =
        Options { agents: vec![("a".to_owned(), 18)], failing: vec!["18".to_owned()], ..Plan::default().sandbox };
    let mut bed = Bed::<E>::new(Plan { sandbox, ..Plan::default() }).await;
    bed.insert_many("a", 20).await;
    bed.work().await;
    pass(&mut bed, 14).await;
    assert_eq!(bed.sizes(), [20, 3]);
    pass(&mut bed, 26).await;
    assert_eq!(bed.sizes(), [20, 3, 3, 1, 1, 1], "the last attempt, finished one by one and at once");
    let written = rows(&mut bed).await;
    assert!(written[..17].iter().all(|written| *written == row("deleted", 1, "", 0, 0, 20)), "{written:?}");
    let last = [row("dead", 3, "api_failed", 0, 0, 20), row("absent", 3, "", 0, 0, 20), row("absent", 3, "", 0, 0, 20)];
    assert_eq!(written[17..], last);
    let id = bed.rows().await[19].id;
    let outcomes = bed.outcomes().await;
    let verdicts: Vec<&str> =
        outcomes.iter().filter(|outcome| outcome.row == id).map(|outcome| outcome.verdict.as_str()).collect();
    assert_eq!(verdicts, ["retry", "retry", "release", "absent"]);
    let totals = bed.worker.totals();
    assert_eq!((totals.deleted, totals.absent, totals.dead), (17, 2, 1));
}

pub async fn what_is_said_about_one_row_decides_on_it<E: Engine>() {
    let said = |status, body: &str| Mood::Say { status, headers: Vec::new(), body: body.to_owned() };
    // The bulk delete failed this row and deleted another one: that is evidence about this row.
    let cases = [
        (said(200, r#"{"success":true}"#), row("deleted", 1, "", 0, 0, 20)),
        (said(200, r#"{"success":false}"#), row("dead", 1, "api_failed", 0, 0, 20)),
        (Mood::status(404), row("absent", 1, "", 0, 0, 20)),
        (Mood::status(400), row("dead", 1, "rejected", 0, 0, 20)),
        (Mood::status(422), row("dead", 1, "rejected", 0, 0, 20)),
        (said(400, "<html>"), row("pending", 0, "rejected", 1, 0, 20)),
        (status_with(429, "retry-after", "9"), row("pending", 0, "throttled", 0, 0, 0)),
        // Nothing has got through since. It may be an outage, so this single-entry DELETE does not count.
        (Mood::status(500), row("pending", 0, "server_error", 0, 0, 0)),
        (Mood::Reset { done: true }, row("pending", 0, "lost", 0, 1, 0)),
        (said(204, ""), row("pending", 0, "garbled", 0, 1, 0)),
        (said(200, "[true]"), row("pending", 0, "garbled", 0, 1, 0)),
        (said(200, r#"{"deleted":["1"],"failed":[]}"#), row("pending", 0, "garbled", 0, 1, 0)),
    ];
    for (mood, expected) in cases {
        let what = format!("{mood:?}");
        let mut bed = Bed::<E>::new(strict()).await;
        bed.sandbox.script([listing(&["2"], &["1"]), mood]);
        bed.insert_many("a", 2).await;
        bed.work().await;
        let sent = bed.sandbox.requests();
        assert_eq!((sent[1].method.as_str(), sent[1].uri.as_str()), ("DELETE", "/v1/agents/a/audio-cache/1"), "{what}");
        assert!(sent[1].body.is_empty() && sent[1].headers.contains_key("x-polyai-correlation-id"), "{what}");
        assert_eq!(rows(&mut bed).await[0], expected, "{what}");
        assert_eq!(kinds(&mut bed).await[..2], ["bulk", "single"], "{what}");
    }
}

pub async fn a_row_that_may_be_gone_is_asked_about_as_soon_as_it_fails<E: Engine>() {
    let mut bed = Bed::<E>::new(Plan::default()).await;
    bed.sandbox.script([Mood::Reset { done: true }]);
    bed.insert_many("a", 1).await;
    bed.work().await;
    pass(&mut bed, 14).await;
    assert_eq!(rows(&mut bed).await, [row("absent", 1, "", 0, 1, 20)], "gone, and never said to be deleted");

    // The entry is still there, and others get through: the row is retried.
    let mut bed = Bed::<E>::new(Plan::default()).await;
    let still_there = Mood::Say { status: 200, headers: Vec::new(), body: r#"{"success":false}"#.to_owned() };
    bed.sandbox.script([Mood::Reset { done: false }, listing(&["2"], &["1"]), still_there]);
    bed.insert_many("a", 2).await;
    bed.work().await;
    pass(&mut bed, 14).await;
    assert_eq!(rows(&mut bed).await[0], row("pending", 1, "api_failed", 0, 1, 20));
    pass(&mut bed, 14).await;
    assert_eq!(rows(&mut bed).await[0], row("deleted", 2, "", 0, 1, 20));
}

/// Deletes a row of another agent: something gets through.
async fn others_get_through<E: Engine>(bed: &mut Bed<E>) {
    let entry = bed.sizes().len().to_string();
    bed.insert(&[("other", entry.as_str())]).await;
    bed.work().await;
    pass(bed, 1).await;
}

pub async fn three_requests_about_a_row_that_are_not_answered_while_others_get_through_are_an_attempt_that_failed<
    E: Engine,
>() {
    let unanswered = || [Mood::status(500), Mood::Garble("<html>".to_owned()), Mood::status(500)];
    let mut bed = Bed::<E>::new(strict()).await;
    bed.sandbox.script([listing(&[], &["1"]), Mood::status(500)]);
    bed.insert_many("a", 1).await;
    bed.work().await;
    assert_eq!(rows(&mut bed).await, [row("pending", 0, "server_error", 0, 0, 0)], "nobody gets through");
    for (mood, asks) in unanswered().into_iter().zip(1..) {
        others_get_through(&mut bed).await;
        bed.sandbox.script([mood]);
        pass(&mut bed, 26).await;
        let expected = match asks {
            1 => row("pending", 0, "server_error", 1, 0, 0),
            2 => row("pending", 0, "garbled", 2, 1, 0),
            _ => row("dead", 1, "server_error", 0, 1, 20),
        };
        assert_eq!(rows(&mut bed).await[0], expected);
    }
}

pub async fn requests_about_a_row_that_are_not_answered_while_nobody_gets_through_are_none<E: Engine>() {
    let mut bed = Bed::<E>::new(strict()).await;
    bed.sandbox.script([listing(&[], &["1"])].into_iter().chain((0..12).map(|_| Mood::status(500))));
    bed.insert_many("a", 1).await;
    for _ in 0..100 {
        pass(&mut bed, 100).await;
        let rows = rows(&mut bed).await;
        assert!(rows[0].0 == "deleted" || (rows[0].1, rows[0].3) == (0, 0), "{rows:?}");
    }
    assert_eq!(bed.count_in(State::Deleted).await, 1);
}

pub async fn an_api_that_refuses_requests_about_one_row_is_held_up_by_none_of_them<E: Engine>() {
    for status in [301, 401, 403, 405, 501] {
        let mut bed = Bed::<E>::new(strict()).await;
        let round = || [listing(&[], &["1"]), Mood::status(status)];
        bed.sandbox.script((0..3).flat_map(|_| round()).chain([listing(&[], &["1"])]));
        bed.insert_many("a", 1).await;
        bed.work().await;
        // The row lingers each time, because its request is not full.
        for _ in 0..3 {
            assert_eq!(rows(&mut bed).await[0].0, "pending");
            pass(&mut bed, 1).await;
        }
        // The third answer that deletes nothing holds the agent. The refused single-entry DELETE before it does not.
        assert_eq!(bed.held().await, [("a".to_owned(), Cause::ApiFailed)], "{status}");
        pass(&mut bed, 7).await;
        assert_eq!(rows(&mut bed).await, [row("dead", 1, "api_failed", 0, 1, 20)], "{status}: unconfirmed");
        let kinds = kinds(&mut bed).await;
        assert_eq!(kinds, ["bulk", "single", "bulk", "single", "bulk", "single", "bulk"], "{status}");
        pass(&mut bed, 60).await;
        assert_eq!(bed.holds().await, [], "{status}");
    }
}

pub async fn when_everything_is_refused_the_bulk_delete_places_the_hold_and_probes_it<E: Engine>() {
    let mut bed = Bed::<E>::new(strict()).await;
    bed.sandbox.script([listing(&[], &["1"]), Mood::status(403)].into_iter().chain((0..4).map(|_| Mood::status(403))));
    bed.insert_many("a", 1).await;
    bed.work().await;
    pass(&mut bed, 1).await;
    assert_eq!(rows(&mut bed).await, [row("pending", 0, "forbidden", 1, 0, 20)]);
    // The bulk delete that followed placed the hold. Each probe is a bulk delete, too, and doubles it.
    for repeats in 0..4 {
        let holds = bed.holds().await;
        assert!(matches!(&holds[..], [hold] if hold.scope.as_str() == "a" && hold.repeats == repeats), "{holds:?}");
        pass(&mut bed, 76 << repeats).await;
    }
    assert_eq!(bed.count_in(State::Deleted).await, 1);
    let kinds = kinds(&mut bed).await;
    assert_eq!(kinds, ["bulk", "single", "bulk", "bulk", "bulk", "bulk", "bulk"]);
}

/// Two rows are due for a single-entry DELETE; that of the first one is answered with `mood`.
async fn two_to_be_asked_about<E: Engine>(mood: Mood) -> Bed<E> {
    let mut plan = strict();
    plan.settings.concurrency = 1;
    plan.settings.after_faults = 1;
    let mut bed = Bed::<E>::new(plan).await;
    bed.sandbox.script([listing(&[], &["1", "2"]), mood]);
    bed.insert_many("a", 2).await;
    bed.work().await;
    bed
}

pub async fn a_row_to_be_asked_about_alone_probes_with_a_bulk_delete_and_does_not_die_of_that<E: Engine>() {
    let mut bed = two_to_be_asked_about::<E>(Mood::status(500)).await;
    let [first, second] = [row("pending", 0, "server_error", 0, 0, 0), row("pending", 0, "api_failed", 0, 0, 0)];
    assert_eq!(rows(&mut bed).await, [first, second]);
    // The hold ends before the first row is due again.
    bed.sandbox.script([Mood::status(500)]);
    pass(&mut bed, 7).await;
    assert_eq!(rows(&mut bed).await[1], row("pending", 0, "server_error", 0, 0, 0), "no answer, and no attempt");
    pass(&mut bed, 26).await;
    bed.work().await;
    pass(&mut bed, 26).await;
    let kinds = kinds(&mut bed).await;
    assert_eq!(kinds, ["bulk", "single", "bulk", "bulk", "single"], "two probes, and then the question that is left");
    assert_eq!(rows(&mut bed).await.iter().map(|row| (row.0, row.1)).collect::<Vec<_>>(), [("deleted", 1); 2]);
}

pub async fn a_throttled_request_about_one_row_has_asked_nothing<E: Engine>() {
    let mut bed = Bed::<E>::new(strict()).await;
    bed.insert_many("a", 1).await;
    for _ in 0..2 {
        // The hold's probe is a bulk delete. It leaves the row in its lane.
        bed.sandbox.script([listing(&[], &["1"]), status_with(429, "retry-after", "9")]);
        bed.work().await;
        assert_eq!(rows(&mut bed).await, [row("pending", 0, "throttled", 0, 0, 0)]);
        bed.clock.advance(Duration::from_secs(10));
    }
    bed.work().await;
    assert_eq!(rows(&mut bed).await, [row("deleted", 1, "", 0, 0, 20)], "it was asked about in the end");
}

pub async fn a_row_that_goes_with_a_bulk_delete_for_want_of_a_known_agent_is_lost_without_an_attempt<E: Engine>() {
    let mut bed = two_to_be_asked_about::<E>(Mood::status(500)).await.restart().await;
    bed.sandbox.script([Mood::Hang]);
    bed.clock.advance(Duration::from_secs(7));
    assert_eq!(bed.worker.turn().await.unwrap().sent, 1);
    bed.sandbox.arrived(3).await;
    let mut bed = bed.restart().await;
    assert_eq!(requests(&mut bed).await[2], ("bulk", None, Some(Cause::Lost), 0, 0));
    assert_eq!(rows(&mut bed).await[1], row("pending", 0, "lost", 1, 1, 0));
}

pub async fn requests_about_one_row_keep_to_the_rate_too<E: Engine>() {
    let mut plan = strict();
    plan.rate = RateLimit { requests_per_second: 2.0, burst: 3.try_into().unwrap() };
    let mut bed = Bed::<E>::new(plan).await;
    let ids: Vec<String> = (1..=20).map(|id| id.to_string()).collect();
    bed.sandbox.script([listing(&[], &ids.iter().map(String::as_str).collect::<Vec<_>>())]);
    bed.insert_many("a", 20).await;
    let expected: Vec<usize> = (0..30).map(|tenth| 3 + tenth / 5).collect();
    assert_eq!(bed.sent_by_tenths(30).await, expected);
}

pub async fn only_an_agent_that_a_bulk_delete_was_answered_for_is_believed_a_404<E: Engine>() {
    let mut bed = Bed::<E>::new(strict()).await;
    bed.sandbox.script([listing(&[], &["1"]), Mood::status(500)]);
    bed.insert_many("a", 1).await;
    bed.work().await;
    assert_eq!(rows(&mut bed).await, [row("pending", 0, "server_error", 0, 0, 0)], "to be asked about alone");
    let mut bed = bed.restart().await;
    bed.sandbox.script([Mood::status(404)]);
    pass(&mut bed, 14).await;
    assert_eq!(rows(&mut bed).await, [row("pending", 0, "unknown_agent", 0, 0, 0)], "a wrong region, for all we know");
    assert_eq!(bed.held().await, [("a".to_owned(), Cause::UnknownAgent)]);
    bed.sandbox.script([listing(&[], &["1"]), Mood::status(404)]);
    pass(&mut bed, 76).await;
    assert_eq!(rows(&mut bed).await, [row("absent", 1, "", 0, 0, 20)]);
    let [bulk, unanswered] = [("bulk", 200, None), ("single", 500, Some(Cause::ServerError))];
    let expected = [bulk, unanswered, ("bulk", 404, Some(Cause::UnknownAgent)), bulk, ("single", 404, None)];
    let found = requests(&mut bed).await.into_iter().map(|(kind, status, fault, ..)| (kind, status.unwrap(), fault));
    assert_eq!(found.collect::<Vec<_>>(), expected);
    assert_eq!(bed.holds().await, []);
}

pub async fn a_row_whose_request_alone_ends_the_daemon_is_given_up_after_the_third_time<E: Engine>() {
    let mut bed = Bed::<E>::new(strict()).await;
    bed.insert_many("a", 1).await;
    for asks in 1..=3 {
        bed.sandbox.script([listing(&[], &["1"]), Mood::Hang]);
        let before = bed.sandbox.requests().len();
        bed.worker.turn().await.unwrap();
        bed.worker.wait_for_a_call().await;
        // The first turn settles, and the second one sends the single-entry DELETE.
        bed.worker.turn().await.unwrap();
        bed.worker.turn().await.unwrap();
        bed.sandbox.arrived(before + 2).await;
        bed = bed.restart().await;
        let left = if asks < 3 { row("pending", 0, "lost", asks, 1, 0) } else { row("dead", 1, "lost", 0, 1, 20) };
        assert_eq!(rows(&mut bed).await, [left]);
        bed.clock.advance(Duration::from_secs(26));
    }
    let asked = ("single", None, Some(Cause::Lost), 0, 1);
    assert_eq!(requests(&mut bed).await.last(), Some(&asked));
}

pub async fn an_id_that_is_no_plain_segment_and_whatever_is_not_to_be_asked_about_dies_as_before<E: Engine>() {
    let mut bed = Bed::<E>::new(strict()).await;
    let entries = [".", "..", "a/b", "a\\b", "../bulk-delete", "bulk-delete"];
    bed.sandbox.script([listing(&[], &entries)]);
    bed.insert(&entries.map(|entry| ("a", entry))).await;
    bed.work().await;
    assert_eq!(bed.sizes(), [6]);
    assert_eq!(bed.count_where(|row| is_dead(row, 1)).await, 6);

    let mut plan = strict();
    plan.settings.policy.ask_singly = false;
    let mut bed = Bed::<E>::new(plan).await;
    bed.sandbox.script([listing(&[], &["1"])]);
    bed.insert_many("a", 1).await;
    // From an earlier configuration, with `ask_singly`.
    bed.put(&[Row { batch_max: 0, ..Row::new(100, "b", "gone") }], &[]).await;
    bed.sandbox.script([listing(&[], &["gone"])]);
    bed.work().await;
    assert_eq!(bed.count_where(|row| is_dead(row, 1)).await, 2);
    assert!(bed.sandbox.requests().iter().all(|request| request.method == "POST"));
}

pub async fn an_absent_row_is_opened_again_by_an_insert<E: Engine>() {
    let sandbox = Options { agents: vec![("a".to_owned(), 1)], ..strict().sandbox };
    let mut bed = Bed::<E>::new(Plan { sandbox, ..strict() }).await;
    bed.insert(&[("a", "2")]).await;
    bed.work().await;
    assert_eq!(rows(&mut bed).await, [row("absent", 1, "", 0, 0, 20)]);
    bed.insert(&[("a", "2")]).await;
    assert_eq!(rows(&mut bed).await, [row("pending", 0, "", 0, 0, 20)]);
    bed.work().await;
    assert_eq!(rows(&mut bed).await, [row("absent", 1, "", 0, 0, 20)]);
}

tests!($ alone:
    a_row_that_keeps_failing_is_asked_about_alone_instead_of_its_last_attempt,
    what_is_said_about_one_row_decides_on_it,
    a_row_that_may_be_gone_is_asked_about_as_soon_as_it_fails,
    three_requests_about_a_row_that_are_not_answered_while_others_get_through_are_an_attempt_that_failed,
    requests_about_a_row_that_are_not_answered_while_nobody_gets_through_are_none,
    an_api_that_refuses_requests_about_one_row_is_held_up_by_none_of_them,
    when_everything_is_refused_the_bulk_delete_places_the_hold_and_probes_it,
    a_row_to_be_asked_about_alone_probes_with_a_bulk_delete_and_does_not_die_of_that,
    a_throttled_request_about_one_row_has_asked_nothing,
    a_row_that_goes_with_a_bulk_delete_for_want_of_a_known_agent_is_lost_without_an_attempt,
    requests_about_one_row_keep_to_the_rate_too,
    only_an_agent_that_a_bulk_delete_was_answered_for_is_believed_a_404,
    a_row_whose_request_alone_ends_the_daemon_is_given_up_after_the_third_time,
    an_id_that_is_no_plain_segment_and_whatever_is_not_to_be_asked_about_dies_as_before,
    an_absent_row_is_opened_again_by_an_insert,
);
