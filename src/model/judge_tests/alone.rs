//! Single-entry DELETEs, and bulk deletes of one row.

use super::*;

/// A bulk delete of the agent was answered with a 200.
fn known() -> Standing {
    Standing { answered: Some(BEFORE), ..Standing::default() }
}

fn with_singles() -> Standing {
    Standing { singles_answered: true, ..known() }
}

fn older(code: &str, error_id: Option<&str>) -> Envelope {
    Envelope { is_current: false, ..said(code, error_id) }
}

fn about(envelope: Option<&Envelope>, standing: &Standing) -> Judgement {
    judge_all(&single(last_chance(0)), &status(404), envelope, standing, &policy(), 1)
}

#[test]
fn a_404_is_believed_only_with_proof_that_the_api_speaks_of_this_entry() {
    for (envelope, standing, is_believed) in [
        (Some(said("ENTRY_NOT_FOUND", None)), known(), true),
        (Some(said("NOT_FOUND", Some(OURS))), known(), true),
        (Some(older("NOT_FOUND", Some(OURS))), known(), true),
        (None, with_singles(), false),
        (Some(older("NOT_FOUND", None)), with_singles(), true),
        (None, known(), false),
        (Some(said("ENTRY_NOT_FOUND", Some("another"))), known(), false),
        (Some(older("ENTRY_NOT_FOUND", None)), known(), false),
        (Some(said("AGENT_NOT_FOUND", Some(OURS))), known(), false),
        (Some(said("AGENT_NOT_FOUND", Some(OURS))), with_singles(), false),
        (Some(older("NO_ROUTE", None)), with_singles(), false),
        (Some(said("ENTRY_NOT_FOUND", Some(OURS))), Standing::default(), false),
        (None, Standing { singles_answered: true, ..Standing::default() }, false),
    ] {
        let judgement = about(envelope.as_ref(), &standing);
        let row = judgement.rows[0];
        if is_believed {
            assert_eq!((row.verdict, row.batch_max), (Verdict::Absent, Some(20)), "{envelope:?}");
            assert!(judgement.is_answer && judgement.has_settled && !judgement.is_refused, "{envelope:?}");
        } else {
            let verdict = Verdict::Release { due_at: NOW, cause: Cause::UnknownAgent };
            assert_eq!((row.verdict, row.asks, row.batch_max), (verdict, 1, Some(20)), "{envelope:?}");
            assert!(judgement.is_refused && !judgement.is_answer && !judgement.has_settled, "{envelope:?}");
        }
        assert_eq!(held(&judgement), None, "{envelope:?}");
    }
}

#[test]
fn a_404_to_a_bulk_delete_is_never_about_an_entry() {
    let envelope = said("ENTRY_NOT_FOUND", Some(OURS));
    let batch = bulk(ALONE, vec![last_chance(0)]);
    let judgement = judge_all(&batch, &status(404), Some(&envelope), &with_singles(), &policy(), 1);
    assert_eq!(verdicts(&judgement), ["release"]);
    assert_eq!(held(&judgement), Some(("agent", Cause::UnknownAgent, HoldEnd::Growing)));
}

#[test]
fn no_other_status_is_a_word_about_the_entry() {
    let envelope = said("ENTRY_NOT_FOUND", Some(OURS));
    for code in [301, 400, 401, 403, 405, 408, 409, 410, 413, 422, 429, 500, 501, 503] {
        let judgement = judge_all(
            &single(row(0)),
            &status(code),
            Some(&envelope),
            &Standing { is_suspect: true, ..with_singles() },
            &policy(),
            1,
        );
        assert!(!judgement.has_settled && verdicts(&judgement) == ["release"], "{code}");
    }
}

#[test]
fn a_refusal_holds_nothing_and_leaves_the_row_to_a_bulk_delete() {
    for code in [301, 400, 401, 403, 404, 405, 413, 422, 501] {
        let judgement = judged(&single(last_chance(0)), &status(code), &known());
        let row = judgement.rows[0];
        assert_eq!((row.verdict.as_str(), row.verdict.due_at()), ("release", Some(NOW)), "{code}");
        assert_eq!((row.batch_max, row.asks, held(&judgement)), (Some(20), 1, None), "{code}");
        assert!(judgement.is_refused, "{code}");
        let suspected = Deletion { first_fault: Some(BEFORE), ..last_chance(0) };
        assert_eq!(
            one(&single(suspected), &status(code), &known()).batch_max,
            Some(1),
            "{code}: not with others again"
        );
    }
}

#[test]
fn what_may_have_reached_the_entry_or_nobody_is_no_refusal() {
    for result in [
        status(409),
        status(410),
        status(429),
        status(500),
        status(503),
        Err(Fault::Garbled),
        Err(Fault::Lost),
        Err(Fault::Unreachable),
    ] {
        let judgement = judged(&single(last_chance(0)), &result, &known());
        assert!(!judgement.is_refused && judgement.hold.is_some(), "{result:?}");
    }
}

#[test]
fn asking_in_vain_while_others_get_through_has_a_limit_and_is_then_an_attempt_that_failed() {
    let throttled = status_with(503, RetryAfter::Seconds(1));
    for result in [Err(Fault::Lost), Err(Fault::Garbled), status(500), status(408), status(409), throttled] {
        let cause = result.as_ref().unwrap_err().cause();
        for asks in 0..MAX_ASKS - 1 {
            let row = one(&single(Deletion { asks, ..last_chance(0) }), &result, &witnessed());
            assert_eq!((row.verdict.as_str(), row.asks, row.batch_max), ("release", asks + 1, None), "{result:?}");
            let (due, least) = (later(row.verdict.due_at().unwrap()), Duration::from_secs(10 << asks));
            assert!(least <= due && due <= least + least / 4, "{result:?}: {due:?}");
        }
        let last = |attempts| {
            let row = Deletion { attempts, asks: MAX_ASKS - 1, ..last_chance(0) };
            one(&single(row), &result, &witnessed())
        };
        assert_eq!((last(2).verdict, last(2).asks, last(2).batch_max), (Verdict::Dead { cause }, 0, Some(20)));
        assert_eq!((last(1).verdict.as_str(), last(1).asks, last(1).batch_max), ("retry", 0, Some(20)), "{result:?}");
    }
}

#[test]
fn in_an_outage_and_for_a_429_nothing_is_asked_in_vain() {
    let worn = || single(Deletion { asks: MAX_ASKS - 1, ..last_chance(0) });
    for result in
        [Err(Fault::Lost), Err(Fault::Garbled), Err(Fault::Unreachable), status(500), status(409), status(429)]
    {
        for standing in [known(), Standing { is_only_work: true, is_suspect: true, ..known() }] {
            let row = one(&worn(), &result, &standing);
            assert_eq!((row.verdict.as_str(), row.asks, row.batch_max), ("release", MAX_ASKS - 1, None), "{result:?}");
        }
    }
    for result in [status(429), status_with(429, RetryAfter::Seconds(5))] {
        let row = one(&worn(), &result, &witnessed());
        assert_eq!((row.verdict.as_str(), row.asks), ("release", MAX_ASKS - 1));
    }
}
