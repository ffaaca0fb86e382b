//! Holds that people place, change and lift.

use super::*;

fn operator(scope: Scope, until_at: Option<Timestamp>) -> HoldRow {
    row(scope, Cause::Operator, until_at)
}

fn news(row: &HoldRow) -> HoldChange {
    HoldChange::Placed { row: row.clone(), is_longest: false }
}

#[test]
fn without_an_end_a_hold_lasts_until_its_row_is_gone() {
    let mut holds = holds();
    holds.load(vec![operator(Scope::All, None)]);
    assert_eq!(holds.admit(&agent("a"), Timestamp::MAX), Admission::Held(None));
    assert!(!holds.any_over(Timestamp::MAX) && holds.over(Timestamp::MAX, 9).is_empty());
    assert_eq!(holds.sent(RequestId(1), &agent("a"), Timestamp::MAX), []);
    holds.load(Vec::new());
    assert_eq!((holds.admit(&agent("a"), NOW), holds.count()), (Admission::Free, 0));
}

#[test]
fn at_its_end_it_is_over_without_a_probe() {
    let mut holds = holds();
    holds.load(vec![operator(Scope::All, Some(NOW))]);
    let before = Timestamp(NOW.0 - 1);
    assert_eq!((holds.admit_any(before), holds.any_over(before)), (Admission::Held(Some(NOW)), false));
    assert_eq!((holds.admit_any(NOW), holds.any_over(NOW)), (Admission::Free, true));
    assert_eq!(holds.sent(RequestId(1), &agent("a"), NOW), [], "nothing is probed");
    assert_eq!(take(&mut holds, settled(1, "a"), NOW), []);
    assert_eq!((holds.over(before, 9), holds.over(NOW, 9)), (vec![], vec![Scope::All]));
    assert_eq!(holds.forget_over(before, 9), []);
    assert_eq!(holds.forget_over(NOW, 9), [lifted(Scope::All, Cause::Operator, Some(NOW))]);
    assert_eq!((holds.count(), holds.any_over(NOW)), (0, false));
}

#[test]
fn those_that_are_over_are_removed_a_few_at_a_time_the_first_one_first() {
    let mut holds = holds();
    holds.load(vec![operator(on("a"), Some(at(2))), operator(on("b"), Some(at(1))), operator(on("c"), Some(at(9)))]);
    assert_eq!((holds.over(at(5), 1), holds.over(at(5), 9)), (vec![on("b")], vec![on("b"), on("a")]));
    assert_eq!(holds.forget_over(at(5), 1), [lifted(on("b"), Cause::Operator, Some(at(1)))]);
    assert_eq!(holds.forget_over(at(5), 9), [lifted(on("a"), Cause::Operator, Some(at(2)))]);
    assert_eq!((holds.count(), holds.any_over(at(8)), holds.any_over(at(9))), (1, false, true));
}

#[test]
fn an_end_that_was_changed_or_a_hold_that_is_gone_is_no_end_any_more() {
    let mut holds = holds();
    holds.load(vec![operator(on("a"), Some(at(1))), operator(on("b"), Some(at(1)))]);
    holds.load(vec![operator(on("a"), Some(at(7)))]);
    assert_eq!((holds.any_over(at(6)), holds.over(at(7), 9)), (false, vec![on("a")]));
    // A hold of the daemon's is never over by time alone.
    holds.load(vec![row(on("a"), Cause::Lost, Some(at(1)))]);
    assert!(!holds.any_over(at(9)));
}

#[test]
fn a_hold_of_the_daemon_s_own_with_the_same_end_leaves_a_person_s_end_alone() {
    let mut holds = holds();
    holds.load(vec![operator(on("a"), Some(at(4))), row(on("a"), Cause::Lost, Some(at(4)))]);
    holds.sent(RequestId(1), &agent("a"), at(4));
    assert_eq!(take(&mut holds, settled(1, "a"), at(4)), [lifted(on("a"), Cause::Lost, Some(at(4)))]);
    assert!(holds.any_over(at(4)));
    assert_eq!(holds.over(at(4), 9), [on("a")]);
}

#[test]
fn what_others_changed_is_told_once() {
    let mut holds = holds();
    let (all, one) = (operator(Scope::All, None), operator(on("a"), Some(NOW)));
    assert_eq!(holds.load(vec![all.clone()]), [news(&all)]);
    assert_eq!(holds.load(vec![one.clone(), all.clone()]), [news(&one)]);
    assert_eq!(holds.load(vec![one.clone()]), [lifted(Scope::All, Cause::Operator, None)]);
    let longer = operator(on("a"), None);
    assert_eq!(holds.load(vec![longer.clone()]), [news(&longer)]);
    // Two rows are the same hold if one of them has an unknown cause.
    for rows in [vec![one.clone(), longer.clone()], vec![longer, one]] {
        assert_eq!(holds.load(rows), []);
    }
}

#[test]
fn the_same_hold_that_a_person_places_once_more_is_no_news() {
    let mut holds = holds();
    let first = operator(on("a"), None);
    holds.load(vec![first.clone()]);
    assert_eq!(holds.load(vec![HoldRow { since_at: at(3), ..first.clone() }]), []);
    let why = HoldRow { since_at: at(4), why: Some("wrong voice".to_owned()), ..first };
    assert_eq!(holds.load(vec![why.clone()]), [news(&why)], "another reason is news");
    assert_eq!(holds.load(Vec::new()), [lifted(on("a"), Cause::Operator, None)]);
}

#[test]
fn the_hold_of_a_verify_ends_like_a_person_s_beside_a_person_s_and_is_told_once() {
    let mut holds = holds();
    let (person, verify) = (operator(on("a"), Some(at(5))), row(on("a"), Cause::Verify, Some(at(3))));
    holds.load(vec![person.clone(), verify.clone()]);
    // It is renewed while the cache is listed.
    let renewed = HoldRow { until_at: Some(at(5)), ..verify.clone() };
    assert_eq!(holds.load(vec![person.clone(), renewed.clone()]), []);
    let anothers = HoldRow { since_at: at(1), ..renewed };
    assert_eq!(holds.load(vec![person, anothers.clone()]), [news(&anothers)]);
    assert_eq!(holds.lift_idle(|_| false, 9), [], "the agent has no rows that could probe it, and it needs none");
    assert_eq!(holds.put_clock_right(Timestamp(5)), []);
    assert_eq!(holds.admit(&agent("a"), at(4)), Admission::Held(Some(at(5))));
    assert_eq!(
        (holds.admit(&agent("a"), at(5)), holds.sent(RequestId(1), &agent("a"), at(5))),
        (Admission::Free, vec![])
    );
    assert_eq!(holds.over(at(5), 9), [on("a"), on("a")]);
    let gone = [Cause::Operator, Cause::Verify].map(|cause| lifted(on("a"), cause, Some(at(5))));
    assert_eq!((holds.forget_over(at(5), 9), holds.count()), (gone.to_vec(), 0));
}

#[test]
fn of_two_rows_that_last_equally_long_the_first_counts_each_time() {
    let first = operator(on("a"), Some(at(9)));
    let second = HoldRow { repeats: 3, ..first.clone() };
    let mut holds = holds();
    assert_eq!(holds.load(vec![first.clone(), second.clone()]), [news(&first)]);
    assert_eq!(holds.load(vec![first, second]), []);
}

#[test]
fn what_the_daemon_placed_itself_is_no_news() {
    let mut holds = holds();
    let changes = take(&mut holds, outcome(1, "a", growing(Scope::All, Cause::Contract)), NOW);
    assert_eq!(holds.load(vec![placed(&changes).0.clone()]), []);
    let ours = lifted(Scope::All, Cause::Contract, placed(&changes).0.until_at);
    assert_eq!(holds.load(Vec::new()), [ours], "a person lifted it");
    assert_eq!(holds.count(), 0);
}

#[test]
fn a_reading_of_some_scopes_leaves_the_others_alone() {
    let mut holds = holds();
    holds.load(vec![operator(on("a"), None), operator(on("b"), None), operator(Scope::All, None)]);
    let changes = holds.load_some([on("a"), on("x")].into(), vec![operator(on("c"), None)]);
    assert_eq!(changes, [lifted(on("a"), Cause::Operator, None), news(&operator(on("c"), None))]);
    assert_eq!(holds.count(), 3);
    assert!(holds.is_held_itself(&agent("b")) && !holds.is_held_itself(&agent("a")));
    assert_eq!(holds.load_some([Scope::All].into(), Vec::new()), [lifted(Scope::All, Cause::Operator, None)]);
}

#[test]
fn reading_the_holds_again_forgets_a_probe_only_if_its_hold_was_changed() {
    let mut holds = probing(Scope::All, Cause::Lost, 0);
    let row = row(Scope::All, Cause::Lost, Some(at(4)));
    holds.load(vec![row.clone()]);
    assert_eq!(holds.admit_any(at(4)), Admission::Probing);
    holds.load(vec![HoldRow { since_at: at(1), ..row }]);
    assert_eq!(holds.admit_any(at(4)), Admission::Probe);
}

#[test]
fn a_hold_that_a_person_lifted_while_its_probe_was_on_its_way_is_not_placed_again_by_a_success() {
    let mut holds = probing(on("a"), Cause::Lost, 0);
    holds.load(Vec::new());
    assert_eq!(take(&mut holds, settled(9, "a"), at(5)), []);
}
