use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::model::deletion::{AgentId, DeletionId, EntryId, Lane, State};

#[path = "judge_tests/alone.rs"]
mod alone;
#[path = "judge_tests/answers.rs"]
mod answers;
#[path = "judge_tests/condemned.rs"]
mod condemned;
#[path = "judge_tests/properties.rs"]
mod properties;
#[path = "judge_tests/rejected.rs"]
mod rejected;
#[path = "judge_tests/whole.rs"]
mod whole;

const NOW: Timestamp = Timestamp(1_000_000);
/// The request that is judged. Other requests have numbers below or above 40, which is the row's last request.
const REQUEST: RequestId = RequestId(50);
const LAST: RequestId = RequestId(40);
const BEFORE: RequestId = RequestId(30);
const SINCE: RequestId = RequestId(45);
const OURS: &str = "3f0c7a52-9d1e-4b7f-8a36-2c5d9e1b4f60";

fn policy() -> Policy {
    Policy {
        max_attempts: 3,
        ask_singly: true,
        retry: Backoff::new(Duration::from_secs(10), Duration::from_secs(60)).unwrap(),
        min_retry_after: Duration::from_secs(1),
        max_retry_after: Duration::from_secs(100),
    }
}

fn row(at: i64) -> Deletion {
    let entry = EntryId::parse(&at.to_string()).unwrap();
    Deletion::new(DeletionId(at + 100), entry)
}

/// A row that has been in a request, and has one attempt left.
fn last_chance(at: i64) -> Deletion {
    Deletion { attempts: 2, last_request: Some(LAST), ..row(at) }
}

fn named(entry: &str, row: Deletion) -> Deletion {
    Deletion { entry: EntryId::parse(entry).unwrap(), ..row }
}

fn bulk(batch_max: u8, rows: Vec<Deletion>) -> Batch {
    let lane = Lane { priority: 0, agent: AgentId::parse("agent").unwrap(), batch_max };
    Batch::new(lane, rows).unwrap()
}

/// A batch of `n` rows that were never sent.
fn fresh(n: i64) -> Batch {
    bulk(20, (0..n).map(row).collect())
}

fn single(row: Deletion) -> Batch {
    let batch = bulk(ALONE, vec![row]).alone();
    assert_eq!(batch.kind(), Kind::Single);
    batch
}

fn strings(ids: &[&str]) -> Vec<String> {
    ids.iter().map(|&id| id.to_owned()).collect()
}

fn lists(deleted: &[&str], failed: &[&str]) -> Result<Answer, Fault> {
    Ok(Answer { deleted: strings(deleted), failed: strings(failed) })
}

fn status(status: u16) -> Result<Answer, Fault> {
    Err(Fault::Status { status, retry_after: None })
}

fn status_with(status: u16, retry_after: RetryAfter) -> Result<Answer, Fault> {
    Err(Fault::Status { status, retry_after: Some(retry_after) })
}

/// Something was settled after the rows' last request.
fn witnessed() -> Standing {
    Standing { settled: Some(SINCE), answered: Some(SINCE), ..Standing::default() }
}

fn said(code: &str, error_id: Option<&str>) -> Envelope {
    let error_id = error_id.map(str::to_owned);
    Envelope { is_current: true, code: code.to_owned(), message: None, error_id }
}

fn judge_all(
    batch: &Batch,
    result: &Result<Answer, Fault>,
    envelope: Option<&Envelope>,
    standing: &Standing,
    policy: &Policy,
    seed: u64,
) -> Judgement {
    let sent = Sent { request: REQUEST, batch, correlation_id: OURS };
    judge(sent, Heard { result, envelope }, standing, policy, NOW, &mut fastrand::Rng::with_seed(seed))
}

fn judged(batch: &Batch, result: &Result<Answer, Fault>, standing: &Standing) -> Judgement {
    judge_all(batch, result, None, standing, &policy(), 1)
}

fn without_asking(batch: &Batch, result: &Result<Answer, Fault>, standing: &Standing) -> Judgement {
    judge_all(batch, result, None, standing, &Policy { ask_singly: false, ..policy() }, 1)
}

/// The verdict on the only row.
fn one(batch: &Batch, result: &Result<Answer, Fault>, standing: &Standing) -> Judged {
    let judgement = judged(batch, result, standing);
    assert_eq!(judgement.rows.len(), 1);
    judgement.rows[0]
}

fn verdicts(judgement: &Judgement) -> Vec<&'static str> {
    judgement.rows.iter().map(|row| row.verdict.as_str()).collect()
}

fn sizes(judgement: &Judgement) -> Vec<Option<u8>> {
    judgement.rows.iter().map(|row| row.batch_max).collect()
}

/// The scope, the cause and the end of the hold that follows.
fn held(judgement: &Judgement) -> Option<(&str, Cause, HoldEnd)> {
    judgement.hold.as_ref().map(|hold| (hold.scope.as_str(), hold.cause, hold.end))
}

/// The time from now to the row's due time.
fn later(at: Timestamp) -> Duration {
    at.since(NOW)
}

fn is_about(delay: Duration, seconds: u64) -> bool {
    let least = Duration::from_secs(seconds);
    (least..=least + least / 16).contains(&delay)
}

#[test]
fn each_status_holds_what_it_speaks_of() {
    let growing = |scope, cause| Some((scope, cause, HoldEnd::Growing));
    let by_streak = |scope, cause| Some((scope, cause, HoldEnd::ByStreak));
    for (codes, expected) in [
        (&[401_u16][..], growing("*", Cause::Unauthorized)),
        (&[403], growing("agent", Cause::Forbidden)),
        (&[404], growing("agent", Cause::UnknownAgent)),
        (&[300, 301, 399, 405, 501], growing("*", Cause::Contract)),
        (&[409, 410, 412, 415, 418, 499, 505, 520, 530, 100, 600], growing("agent", Cause::Contract)),
        (&[408, 500, 502, 503, 504], by_streak("agent", Cause::ServerError)),
        (&[400, 413, 422], by_streak("agent", Cause::Rejected)),
        (&[429], growing("*", Cause::Throttled)),
    ] {
        for code in codes {
            assert_eq!(held(&judged(&fresh(1), &status(*code), &Standing::default())), expected, "{code}");
        }
    }
    for (fault, expected) in [
        (Fault::Garbled, by_streak("agent", Cause::Garbled)),
        (Fault::Lost, by_streak("agent", Cause::Lost)),
        (Fault::Unreachable, by_streak("*", Cause::Unreachable)),
    ] {
        assert_eq!(held(&judged(&fresh(1), &Err(fault), &Standing::default())), expected, "{fault:?}");
    }
}

#[test]
fn a_hold_knows_whether_something_in_the_request_may_be_the_reason() {
    let may_be = |result| judged(&fresh(1), &result, &Standing::default()).hold.unwrap().may_be_content;
    for code in [408, 409, 410, 412, 415, 418, 500, 502, 503, 504, 520] {
        assert!(may_be(status(code)), "{code}");
    }
    assert!(may_be(status_with(503, RetryAfter::Seconds(1))));
    assert!(may_be(Err(Fault::Garbled)) && may_be(Err(Fault::Lost)));
    for code in [301, 400, 401, 403, 404, 405, 413, 422, 429, 501] {
        assert!(!may_be(status(code)), "{code}");
    }
    assert!(!may_be(Err(Fault::Unreachable)) && !may_be(lists(&[], &["0"])));
}

#[test]
fn what_says_nothing_about_the_rows_brings_them_back_at_once_as_they_were() {
    let worn =
        Deletion { asks: 1, maybe_done: true, first_fault: Some(BEFORE), evidence: Some(BEFORE), ..last_chance(0) };
    let batch = bulk(8, vec![worn, row(1)]);
    for result in
        [status(401), status(403), status(404), status(405), status(429), status(301), Err(Fault::Unreachable)]
    {
        let judgement = judged(&batch, &result, &witnessed());
        let cause = result.as_ref().unwrap_err().cause();
        for (row, judged) in batch.deletions().iter().zip(&judgement.rows) {
            assert_eq!(*judged, kept(row, Verdict::Release { due_at: NOW, cause }), "{result:?}");
        }
        assert!(!judgement.is_answer && !judgement.has_settled && !judgement.is_refused, "{result:?}");
    }
}

#[test]
fn a_retry_after_is_kept_between_floor_and_ceiling_and_moves_the_hold_of_any_status() {
    let second = |seconds: i64| Timestamp(NOW.0 + seconds * 1_000);
    for (wish, expected) in [
        (RetryAfter::Seconds(7), second(7)),
        (RetryAfter::Seconds(0), second(1)),
        (RetryAfter::Seconds(u64::MAX), second(100)),
        (RetryAfter::At(second(30)), second(30)),
        (RetryAfter::At(Timestamp::ZERO), second(1)),
        (RetryAfter::At(Timestamp::MAX), second(100)),
    ] {
        for code in [400, 401, 403, 404, 405, 409, 500, 504] {
            let hold = judged(&fresh(1), &status_with(code, wish), &Standing::default()).hold.unwrap();
            assert_eq!(hold.not_before, Some(expected), "{code} {wish:?}");
            assert!(!matches!(hold.end, HoldEnd::At(_)), "{code}: the cause and the counting stay its own");
        }
        for code in [429, 503] {
            let judgement = judged(&fresh(1), &status_with(code, wish), &Standing::default());
            assert_eq!(held(&judgement), Some(("*", Cause::Throttled, HoldEnd::At(expected))), "{code} {wish:?}");
        }
    }
    assert_eq!(judged(&fresh(1), &status(500), &Standing::default()).hold.unwrap().not_before, None);
}

#[test]
fn a_floor_above_the_ceiling_is_the_ceiling() {
    let policy = Policy { min_retry_after: Duration::from_secs(200), ..policy() };
    let asked = status_with(429, RetryAfter::Seconds(5));
    let hold = judge_all(&fresh(1), &asked, None, &Standing::default(), &policy, 1).hold.unwrap();
    assert_eq!(hold.end, HoldEnd::At(NOW.plus(Duration::from_secs(200))));
}

#[test]
fn a_row_is_not_due_before_the_retry_after_nor_later_for_it_than_for_a_failure() {
    let due = |result, standing: &Standing| later(one(&fresh(1), &result, standing).verdict.due_at().unwrap());
    let none = Standing::default();
    assert_eq!(due(status_with(401, RetryAfter::Seconds(7)), &none), Duration::from_secs(7));
    assert_eq!(due(status_with(429, RetryAfter::Seconds(7)), &none), Duration::from_secs(7));
    assert_eq!(due(status_with(500, RetryAfter::Seconds(50)), &none), Duration::from_secs(50));
    assert!(is_about(due(status_with(500, RetryAfter::Seconds(7)), &none), 10), "the delay is the longer one");
    assert_eq!(due(status_with(401, RetryAfter::Seconds(100)), &none), Duration::from_secs(75), "60 s and a quarter");
}

#[test]
fn every_cause_has_a_string_of_its_own() {
    for cause in Cause::ALL {
        assert_eq!(Cause::parse(cause.as_str()), Some(cause));
    }
    assert_eq!(Cause::parse("Lost"), None);
}

#[test]
fn only_a_release_leaves_the_attempts_alone_and_only_an_end_has_a_state() {
    let (due_at, cause) = (NOW, Cause::Lost);
    for (verdict, counted, end) in [
        (Verdict::Deleted, true, Some(State::Deleted)),
        (Verdict::Absent, true, Some(State::Absent)),
        (Verdict::Dead { cause }, true, Some(State::Dead)),
        (Verdict::Retry { due_at, cause }, true, None),
        (Verdict::Release { due_at, cause }, false, None),
    ] {
        assert_eq!((verdict.counted(), verdict.end(), verdict.due_at().is_none()), (counted, end, end.is_some()));
    }
}
