//! 400, 413 and 422.

use super::*;

fn suspect() -> Standing {
    Standing { is_suspect: true, ..Standing::default() }
}

/// A row that was rejected together with others, and has been sent alone since.
fn told_apart(at: i64) -> Deletion {
    Deletion { was_rejected: true, last_request: Some(LAST), first_fault: Some(LAST), ..row(at) }
}

const REJECTED: Verdict = Verdict::Dead { cause: Cause::Rejected };
const RELEASED: Verdict = Verdict::Release { due_at: NOW, cause: Cause::Rejected };

#[test]
fn a_rejection_of_several_rows_says_nothing_of_any_of_them_and_they_go_in_parts() {
    for code in [400, 413, 422] {
        for standing in [Standing::default(), suspect(), Standing { is_old_news: true, ..witnessed() }] {
            for (n, part) in [(20, 16), (19, 16), (16, 8), (10, 8), (5, 4), (3, 2), (2, 1)] {
                let judgement = judged(&bulk(20, (0..n).map(last_chance).collect()), &status(code), &standing);
                assert!(judgement.rows.iter().all(|row| row.verdict == RELEASED && row.batch_max == Some(part)));
                assert!(judgement.rows.iter().all(|row| row.first_fault == Some(REQUEST)));
                assert_eq!((held(&judgement), judgement.has_settled), (None, false), "it counts for nothing");
            }
        }
    }
}

#[test]
fn until_the_streak_is_reached_a_rejection_of_one_row_is_believed_and_counts() {
    for code in [400, 413, 422] {
        for batch in [fresh(1), bulk(1, vec![told_apart(0)])] {
            let judgement = judged(&batch, &status(code), &Standing::default());
            assert_eq!((judgement.rows[0].verdict, judgement.rows[0].batch_max), (REJECTED, Some(20)));
            assert_eq!(held(&judgement), Some(("agent", Cause::Rejected, HoldEnd::ByStreak)));
            assert!(!judgement.has_settled && !judgement.is_answer);
        }
    }
}

#[test]
fn a_200_since_the_first_rejection_shows_that_not_everything_is_rejected() {
    let verdict = |first, answered, standing: Standing| {
        let batch = bulk(1, vec![Deletion { first_fault: first, ..told_apart(0) }]);
        let judgement = judged(&batch, &status(400), &Standing { answered, ..standing });
        (judgement.rows[0].verdict, held(&judgement).is_none(), judgement.has_settled)
    };
    let old = Standing { is_old_news: true, ..suspect() };
    for standing in [Standing::default(), suspect(), old] {
        assert_eq!(verdict(Some(LAST), Some(SINCE), standing), (REJECTED, true, false), "{standing:?}");
    }
    for standing in [suspect(), old, Standing { is_old_news: true, ..Standing::default() }] {
        for (first, answered) in
            [(Some(LAST), Some(LAST)), (Some(LAST), Some(BEFORE)), (Some(LAST), None), (None, Some(SINCE))]
        {
            let found = verdict(first, answered, standing);
            assert_eq!(found, (RELEASED, false, false), "{first:?} {answered:?} {standing:?}");
        }
    }
}

#[test]
fn a_200_before_the_first_rejection_shows_nothing_even_if_another_fault_came_before_it() {
    // An outage begins with 500s, lets something through, and continues with 400s.
    let failed = |at| Deletion { first_fault: Some(BEFORE), last_request: Some(BEFORE), ..row(at) };
    let standing = Standing { answered: Some(LAST), ..suspect() };
    let together = judged(&bulk(20, vec![failed(0), failed(1)]), &status(400), &standing);
    assert!(together.rows.iter().all(|row| row.first_fault == Some(REQUEST)));
    let alone = one(&bulk(20, vec![failed(0)]), &status(400), &standing);
    assert_eq!((alone.verdict, alone.first_fault, alone.batch_max), (RELEASED, Some(REQUEST), Some(1)));
    // The same holds if that fault had split them.
    let split = judged(&bulk(8, vec![failed(0), failed(1)]), &status(400), &standing);
    assert!(split.rows.iter().all(|row| row.first_fault == Some(REQUEST)));
    let again = |at| Deletion { was_rejected: true, ..failed(at) };
    let again = judged(&bulk(8, vec![again(0), again(1)]), &status(400), &standing);
    assert!(again.rows.iter().all(|row| row.first_fault == Some(BEFORE)), "the first of several rejections counts");
}

#[test]
fn after_the_streak_a_row_is_released_alone_and_one_without_a_number_is_asked_about() {
    let release = |row: Deletion, standing: &Standing| {
        let found = one(&bulk(20, vec![row]), &status(400), standing);
        assert_eq!((found.verdict, found.first_fault, found.asks), (RELEASED, Some(REQUEST), 0));
        found.batch_max
    };
    assert_eq!(release(row(0), &suspect()), Some(1));
    assert_eq!(release(named("12x", row(0)), &suspect()), Some(ALONE));
    assert_eq!(release(named("-1", row(0)), &suspect()), Some(ALONE));
    assert_eq!(release(named("a/b", row(0)), &suspect()), Some(1), "it cannot be in a path");
    let refused = Standing { asks_refused: true, ..suspect() };
    assert_eq!(release(named("12x", row(0)), &refused), Some(1));
}

#[test]
fn the_api_s_own_400_about_an_id_that_is_no_number_ends_its_row_whatever_the_streak() {
    let bad = || single(named("12x", row(0)));
    let standings = [
        suspect(),
        Standing::default(),
        Standing { is_old_news: true, ..suspect() },
        Standing { answered: None, ..suspect() },
    ];
    for standing in standings {
        for envelope in [said("INVALID_ID", None), said("INVALID_ID", Some(OURS))] {
            let judgement = judge_all(&bad(), &status(400), Some(&envelope), &standing, &policy(), 1);
            assert_eq!((judgement.rows[0].verdict, held(&judgement)), (REJECTED, None));
            assert!(judgement.is_answer && judgement.has_settled && !judgement.is_refused);
        }
    }
    for envelope in
        [None, Some(said("INVALID_ID", Some("another"))), Some(Envelope { is_current: false, ..said("X", None) })]
    {
        let judgement = judge_all(&bad(), &status(400), envelope.as_ref(), &suspect(), &policy(), 1);
        assert_eq!((judgement.rows[0].verdict, judgement.is_refused), (RELEASED, true), "{envelope:?}");
    }
}

#[test]
fn the_api_s_own_400_about_a_number_is_no_more_than_a_rejection_of_one_row() {
    let envelope = said("INVALID_ID", Some(OURS));
    let judge = |standing: &Standing| {
        let batch = single(Deletion { asks: 1, ..row(0) });
        let judgement = judge_all(&batch, &status(400), Some(&envelope), standing, &policy(), 1);
        assert!(!judgement.is_refused && !judgement.has_settled && judgement.hold.is_some());
        judgement.rows[0]
    };
    assert_eq!(judge(&Standing::default()).verdict, REJECTED);
    let released = judge(&suspect());
    assert_eq!((released.verdict, released.asks, released.batch_max), (RELEASED, 2, Some(1)));
}

#[test]
fn an_envelope_changes_nothing_for_a_bulk_delete() {
    let envelope = said("INVALID_ID", Some(OURS));
    let batch = bulk(20, vec![named("12x", row(0))]);
    let judgement = judge_all(&batch, &status(400), Some(&envelope), &suspect(), &policy(), 1);
    assert_eq!((judgement.rows[0].verdict, judgement.is_answer), (RELEASED, false));
}
