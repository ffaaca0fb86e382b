//! The evidence from single-entry DELETEs.

use super::*;

#[test]
fn that_there_are_single_deletes_is_shown_by_a_200_to_one() {
    let shown = |verdict, is_answer| {
        let mut evidence = evidence();
        let batch = single("a", 1);
        take(&mut evidence, 1, &batch, &Judgement { is_answer, has_settled: true, ..all(&batch, verdict) });
        standing(&evidence, "a").singles_answered
    };
    let due_at = crate::model::clock::Timestamp::ZERO;
    let retry = |cause| Verdict::Retry { due_at, cause };
    assert!(shown(Verdict::Deleted, true) && shown(retry(Cause::ApiFailed), true));
    assert!(!shown(Verdict::Absent, true), "a 404 was believed for another reason");
    assert!(!shown(Verdict::Dead { cause: Cause::Rejected }, true), "a 400 is none");
    assert!(!shown(retry(Cause::ServerError), false));
    let mut evidence = evidence();
    succeed(&mut evidence, 1, &batch("a", [1]));
    assert!(!standing(&evidence, "a").singles_answered, "a bulk delete is none");
    succeed(&mut evidence, 2, &single("a", 2));
    let absent = single("a", 3);
    take(&mut evidence, 3, &absent, &Judgement { is_answer: true, has_settled: true, ..all(&absent, Verdict::Absent) });
    assert!(standing(&evidence, "a").singles_answered, "once shown, it stays");
}

#[test]
fn the_api_s_word_about_one_row_vouches_for_a_while_or_until_something_is_deleted() {
    let mut evidence = evidence();
    succeed(&mut evidence, 1, &single("a", 1));
    let vouched =
        |evidence: &Evidence, agent, elapsed| evidence.standing(&batch(agent, [1]), false, false, elapsed).is_vouched;
    let end = NOW + LASTS;
    assert!(vouched(&evidence, "a", NOW) && vouched(&evidence, "a", end - Duration::from_millis(1)));
    assert!(!vouched(&evidence, "a", end) && !vouched(&evidence, "b", NOW));
    succeed(&mut evidence, 2, &batch("b", [1]));
    assert!(vouched(&evidence, "a", NOW), "of another agent");
    succeed(&mut evidence, 3, &batch("a", [2]));
    assert!(!vouched(&evidence, "a", NOW));
}

#[test]
fn after_such_a_word_answers_that_delete_nothing_hold_their_agents_and_not_all() {
    let mut evidence = evidence();
    succeed(&mut evidence, 1, &single("x", 1));
    let fail = |evidence: &mut Evidence, agent, row, cause, elapsed| {
        let batch = batch(agent, [row]);
        evidence.take_in(RequestId(row), &batch, &fault(&batch, cause), false, elapsed)
    };
    fail(&mut evidence, "a", 1, Cause::ApiFailed, NOW);
    fail(&mut evidence, "b", 2, Cause::ApiFailed, NOW);
    assert!(!standing(&evidence, "c").completes_streak);
    assert_eq!(fail(&mut evidence, "c", 3, Cause::ApiSilent, NOW), None);
    assert_eq!(fail(&mut evidence, "a", 4, Cause::ApiContradicted, NOW), None);
    assert_eq!(fail(&mut evidence, "a", 5, Cause::ApiFailed, NOW), of("a"));
    assert_eq!(fail(&mut evidence, "c", 6, Cause::ServerError, NOW), Some(Scope::All), "a 500 is no such answer");
    assert_eq!(fail(&mut evidence, "c", 7, Cause::ApiFailed, NOW + LASTS), Some(Scope::All), "that was long ago");
}

#[test]
fn single_deletes_that_are_refused_in_a_row_are_given_up_for_a_while() {
    let refuse = |evidence: &mut Evidence, elapsed| {
        let batch = single("a", 1);
        let refused = Judgement { is_refused: true, ..retried(&batch, Cause::Contract) };
        evidence.take_in(RequestId(1), &batch, &refused, false, elapsed)
    };
    let refused =
        |evidence: &Evidence, elapsed| evidence.standing(&batch("a", [1]), false, false, elapsed).asks_refused;
    let mut evidence = evidence();
    for _ in 1..MAX_ASKS {
        assert_eq!(refuse(&mut evidence, NOW), None);
        assert!(!refused(&evidence, NOW));
    }
    refuse(&mut evidence, NOW);
    assert!(refused(&evidence, NOW) && refused(&evidence, NOW + LASTS * 10 - Duration::from_millis(1)));
    assert!(!refused(&evidence, NOW + LASTS * 10), "then it is tried again");
    assert!(!standing(&evidence, "b").asks_refused);
    refuse(&mut evidence, NOW + LASTS * 10);
    assert!(refused(&evidence, NOW + LASTS * 10), "one more is enough");
    succeed(&mut evidence, 2, &batch("a", [2]));
    assert!(refused(&evidence, NOW), "a bulk delete says nothing about that");
    succeed(&mut evidence, 2, &single("a", 2));
    assert!(!refused(&evidence, NOW));
}
