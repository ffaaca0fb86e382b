//! Questions: a single-entry DELETE before a hold for answers that delete nothing.

use super::*;

fn asks(request: i64, name: &str, scope: Scope) -> Outcome {
    Outcome { asks_first: true, ..reached(request, name, Cause::ApiFailed, scope) }
}

/// A question about a row of `a`.
fn asked(scope: Scope) -> Holds {
    let mut holds = holds();
    assert_eq!(take(&mut holds, asks(3, "a", scope), NOW), []);
    holds
}

#[test]
fn a_question_is_no_hold_and_its_agent_waits_for_the_one_request() {
    let mut holds = asked(on("a"));
    assert_eq!(
        (holds.count(), holds.admit(&agent("a"), NOW), holds.admit(&agent("b"), NOW)),
        (0, Admission::Probe, Admission::Free)
    );
    assert!(holds.probe(&agent("a")).asks);
    assert_eq!(holds.sent(RequestId(4), &agent("a"), NOW), [], "nobody is told");
    assert_eq!(holds.admit(&agent("a"), NOW), Admission::Probing);
    assert_eq!(holds.load(Vec::new()), [], "it is in no database");
    assert_eq!(holds.admit(&agent("a"), NOW), Admission::Probing);
    assert_eq!(holds.put_clock_right(Timestamp::ZERO), []);
}

#[test]
fn if_the_api_speaks_of_the_row_nothing_is_held() {
    let mut holds = asked(on("a"));
    holds.sent(RequestId(4), &agent("a"), NOW);
    assert_eq!(take(&mut holds, settled(4, "a"), at(1)), []);
    assert_eq!(holds.admit(&agent("a"), at(1)), Admission::Free);
}

#[test]
fn anything_that_gets_through_meanwhile_answers_the_question() {
    let mut holds = asked(on("a"));
    assert_eq!(take(&mut holds, settled(2, "b"), at(1)), []);
    assert_eq!(holds.admit(&agent("a"), at(1)), Admission::Probe, "not of another agent");
    assert_eq!(take(&mut holds, settled(2, "a"), at(1)), []);
    assert_eq!(holds.admit(&agent("a"), at(1)), Admission::Free);
    let mut holds = asked(Scope::All);
    assert_eq!(take(&mut holds, settled(2, "b"), at(1)), []);
    assert_eq!(holds.admit_any(at(1)), Admission::Free);
}

#[test]
fn if_the_row_alone_fails_as_well_the_hold_is_placed_and_is_the_first() {
    for hold in [by_streak("a", Cause::ApiFailed), by_streak("a", Cause::ServerError), None] {
        let mut holds = asked(on("a"));
        holds.sent(RequestId(4), &agent("a"), NOW);
        let cause = hold.as_ref().map_or(Cause::ApiFailed, |hold| hold.cause);
        let changes = take(&mut holds, outcome(4, "a", hold), at(1));
        let (row, is_longest) = placed(&changes);
        assert_eq!((&row.scope, row.cause, row.repeats, row.probed_at), (&on("a"), cause, 0, Some(at(1))));
        assert!(is_jittered(end_of(row).since(at(1)), 4) && !is_longest && holds.count() == 1);
        assert_eq!(holds.admit(&agent("a"), at(1)), Admission::Held(row.until_at));
    }
}

#[test]
fn a_first_hold_that_is_the_longest_at_once_says_so() {
    let mut holds = Holds::new(Backoff::new(secs(4), secs(4)).unwrap());
    take(&mut holds, asks(3, "a", on("a")), NOW);
    holds.sent(RequestId(4), &agent("a"), NOW);
    assert!(placed(&take(&mut holds, outcome(4, "a", by_streak("a", Cause::ApiFailed)), at(1))).1);
}

#[test]
fn a_question_on_everything_is_for_the_agent_whose_row_it_is_and_the_others_wait_a_while() {
    let holds = asked(Scope::All);
    assert_eq!(holds.admit(&agent("a"), NOW), Admission::Probe);
    assert_eq!(holds.admit(&agent("b"), NOW), Admission::Held(Some(at(8))));
    assert_eq!(holds.admit(&agent("b"), at(8)), Admission::Probe, "a may have nothing to send any more");
    assert_eq!(holds.early_probe_at(), None);
}

#[test]
fn once_a_hold_by_streak_is_on_the_question_is_its_next_probe() {
    let mut holds = probing(on("a"), Cause::ApiFailed, 2);
    assert_eq!(take(&mut holds, asks(9, "a", on("a")), at(5)), [], "neither longer nor placed again");
    assert_eq!((holds.count(), holds.admit(&agent("a"), at(5))), (1, Admission::Probe));
    holds.sent(RequestId(10), &agent("a"), at(5));
    let changes = take(&mut holds, outcome(10, "a", by_streak("a", Cause::ApiFailed)), at(5));
    assert_eq!(placed(&changes).0.repeats, 3);
}

#[test]
fn a_question_that_takes_the_place_of_a_hold_for_something_else_goes_on_where_that_was() {
    let mut holds = probing(on("a"), Cause::ServerError, 2);
    let lifted = lifted(on("a"), Cause::ServerError, Some(at(4)));
    assert_eq!(take(&mut holds, asks(9, "a", on("a")), at(5)), [lifted], "there are answers again");
    assert_eq!((holds.count(), holds.admit(&agent("a"), at(5))), (0, Admission::Probe));
    holds.sent(RequestId(10), &agent("a"), at(5));
    let changes = take(&mut holds, outcome(10, "a", by_streak("a", Cause::ApiFailed)), at(5));
    let (row, _) = placed(&changes);
    assert_eq!((row.cause, row.repeats), (Cause::ApiFailed, 3));
    assert!(is_jittered(end_of(row).since(at(5)), 32));
}

#[test]
fn a_second_answer_while_the_question_is_open_asks_no_other() {
    let mut holds = asked(on("a"));
    holds.sent(RequestId(4), &agent("a"), NOW);
    assert_eq!(take(&mut holds, asks(5, "a", on("a")), NOW), []);
    assert_eq!(holds.admit(&agent("a"), NOW), Admission::Probing, "the first is on its way");
    let late = Outcome { newest: RequestId(5), ..reached(3, "a", Cause::ApiFailed, on("a")) };
    assert_eq!(take(&mut holds, late, NOW), [], "sent before it");
}

#[test]
fn a_streak_that_goes_on_without_another_question_places_the_hold_in_the_place_of_the_first() {
    let mut holds = asked(on("a"));
    let changes = take(&mut holds, reached(4, "a", Cause::ApiFailed, on("a")), at(1));
    assert_eq!((placed(&changes).0.since_at, placed(&changes).0.repeats, holds.count()), (at(1), 0, 1));
    assert_eq!(holds.admit(&agent("a"), at(1)), Admission::Held(placed(&changes).0.until_at));
}

#[test]
fn a_person_s_hold_of_the_same_scope_goes_before_a_question() {
    let mut holds = asked(on("a"));
    holds.load(vec![row(on("a"), Cause::ApiFailed, Some(at(9)))]);
    assert_eq!((holds.count(), holds.admit(&agent("a"), NOW)), (1, Admission::Held(Some(at(9)))));
}

#[test]
fn a_question_of_an_agent_without_open_rows_is_dropped_without_a_word() {
    let mut holds = asked(on("a"));
    assert_eq!(holds.lift_idle(|_| false, 9), []);
    assert_eq!(holds.admit(&agent("a"), NOW), Admission::Free);
}
