//! The content of probes, old news, and several holds at once.

use super::*;

#[test]
fn a_probe_carries_one_half_then_the_other_then_quarters() {
    let halved = |cause, repeats| {
        let mut holds = holds();
        holds.load(vec![HoldRow { repeats, ..row(on("a"), cause, Some(NOW)) }]);
        holds.probe(&agent("a")).halved
    };
    for cause in [Cause::ServerError, Cause::Garbled, Cause::Lost, Cause::Contract] {
        let found: Vec<_> = (0..7).map(|repeats| halved(cause, repeats)).collect();
        assert_eq!(found, [1, 1, 2, 2, 2, 2, 3], "{cause:?}");
    }
    for cause in [
        Cause::Unauthorized,
        Cause::Forbidden,
        Cause::UnknownAgent,
        Cause::Rejected,
        Cause::ApiFailed,
        Cause::Unreachable,
        // A hold that was read from the database may be for a 429.
        Cause::Throttled,
    ] {
        assert_eq!(halved(cause, 5), 0, "{cause:?}");
    }
    // One ID may be the reason for a 503, but never for a 429.
    for may_be_content in [true, false] {
        let mut holds = holds();
        let hold = Hold { may_be_content, ..hold(Scope::All, Cause::Throttled, HoldEnd::At(at(2))) };
        take(&mut holds, outcome(1, "a", Some(hold)), NOW);
        assert_eq!(holds.probe(&agent("a")).halved, u32::from(may_be_content));
    }
    assert_eq!(halved(Cause::Lost, u32::MAX), 31);
}

#[test]
fn a_probe_asks_about_one_row_after_answers_and_takes_the_newest_after_rejections() {
    let mut holds = holds();
    assert_eq!(holds.probe(&agent("a")), Probe::default());
    holds.load(vec![
        row(on("a"), Cause::ApiSilent, Some(NOW)),
        row(on("b"), Cause::Rejected, Some(NOW)),
        row(Scope::All, Cause::Lost, Some(NOW)),
    ]);
    assert_eq!(holds.probe(&agent("a")), Probe { halved: 1, asks: true, newest_first: false });
    assert_eq!(holds.probe(&agent("b")), Probe { halved: 1, asks: false, newest_first: true });
    assert_eq!(holds.probe(&agent("c")), Probe { halved: 1, asks: false, newest_first: false });
}

#[test]
fn a_request_is_old_news_if_it_was_sent_before_a_hold_by_streak() {
    let mut holds = holds();
    assert_eq!(holds.by_streak(&agent("a"), RequestId(1)), None);
    take(&mut holds, outcome(1, "a", growing(on("a"), Cause::Forbidden)), NOW);
    assert_eq!(holds.by_streak(&agent("a"), RequestId(1)), None, "no such hold");
    take(&mut holds, Outcome { newest: RequestId(8), ..reached(2, "a", Cause::Rejected, on("a")) }, NOW);
    assert_eq!(holds.by_streak(&agent("a"), RequestId(8)), Some(true));
    assert_eq!(holds.by_streak(&agent("a"), RequestId(9)), Some(false));
    assert_eq!(holds.by_streak(&agent("b"), RequestId(8)), None);
    take(&mut holds, Outcome { newest: RequestId(12), ..reached(10, "b", Cause::Lost, Scope::All) }, NOW);
    assert_eq!(holds.by_streak(&agent("a"), RequestId(9)), Some(true), "the one on everything is newer");
    assert_eq!(holds.by_streak(&agent("c"), RequestId(13)), Some(false));
    for cause in Cause::ALL {
        let mut holds = super::tests::holds();
        holds.load(vec![row(on("a"), cause, None)]);
        let is_of_faults =
            matches!(cause, Cause::Rejected | Cause::ServerError | Cause::Garbled | Cause::Lost | Cause::Contract);
        let expected = (is_of_faults || cause.is_of_an_answer()).then_some(false);
        assert_eq!(holds.by_streak(&agent("a"), RequestId(1)), expected, "{cause:?}");
    }
}

#[test]
fn a_renewed_hold_makes_old_news_of_what_was_sent_until_then() {
    let mut holds = probing(on("a"), Cause::Lost, 0);
    take(&mut holds, Outcome { newest: RequestId(20), ..outcome(9, "a", by_streak("a", Cause::Lost)) }, at(4));
    assert_eq!(holds.by_streak(&agent("a"), RequestId(20)), Some(true));
    assert_eq!(holds.by_streak(&agent("a"), RequestId(21)), Some(false));
}

#[test]
fn a_probe_that_nothing_will_be_heard_of_makes_room_for_another() {
    let mut holds = probing(Scope::All, Cause::Lost, 0);
    holds.forget(RequestId(8), &agent("a"));
    assert_eq!(holds.admit_any(at(4)), Admission::Probing, "another request is not the probe");
    holds.forget(RequestId(9), &agent("a"));
    assert_eq!(holds.admit_any(at(4)), Admission::Probe);
}

#[test]
fn of_several_holds_the_longest_decides_and_an_endless_one_most() {
    let mut holds = holds();
    let both = [row(Scope::All, Cause::Lost, Some(at(10))), row(on("a"), Cause::Forbidden, Some(at(20)))];
    holds.load(both.to_vec());
    assert_eq!(holds.admit(&agent("a"), NOW), Admission::Held(Some(at(20))));
    assert_eq!(holds.admit(&agent("a"), at(15)), Admission::Held(Some(at(20))));
    assert_eq!(holds.admit(&agent("b"), NOW), Admission::Held(Some(at(10))));
    assert_eq!(
        (holds.admit(&agent("b"), at(10)), holds.admit(&agent("a"), at(20))),
        (Admission::Probe, Admission::Probe)
    );
    // b probes the hold on everything. Its outcome says nothing about a's own hold.
    assert_eq!(holds.sent(RequestId(1), &agent("b"), at(20)), [(Scope::All, Cause::Lost)]);
    assert_eq!(
        (holds.admit(&agent("a"), at(20)), holds.admit(&agent("c"), at(20))),
        (Admission::Probing, Admission::Probing)
    );
    holds.load_some(BTreeSet::new(), vec![row(on("a"), Cause::Operator, None)]);
    assert_eq!(holds.admit(&agent("a"), at(20)), Admission::Held(None));
    assert_eq!(holds.count(), 3);
}
