//! Wrong clocks, and starts.

use super::*;

#[test]
fn a_hold_placed_by_a_clock_that_was_ahead_lasts_no_longer_than_it_was_to() {
    let mut holds = holds();
    let year = secs(365 * 24 * 3_600);
    let ahead = HoldRow {
        since_at: NOW.plus(year),
        until_at: Some(NOW.plus(year).plus(secs(16))),
        repeats: 2,
        probed_at: Some(NOW.plus(year)),
        ..row(on("a"), Cause::Lost, None)
    };
    let operator = HoldRow { since_at: NOW.plus(year), ..row(on("a"), Cause::Operator, Some(NOW.plus(year))) };
    let fine = HoldRow { probed_at: Some(NOW), ..row(Scope::All, Cause::Forbidden, Some(at(600))) };
    let endless = HoldRow { since_at: at(1), ..row(on("b"), Cause::Lost, None) };
    holds.load(vec![ahead.clone(), operator.clone(), fine.clone(), endless.clone()]);
    let right = HoldRow { since_at: NOW, until_at: Some(at(16)), probed_at: Some(NOW), ..ahead };
    let still_endless = HoldRow { since_at: NOW, ..endless };
    let expected = [&right, &still_endless].map(|row| HoldChange::Placed { row: row.clone(), is_longest: false });
    assert_eq!(holds.put_clock_right(NOW), expected);
    assert_eq!(holds.put_clock_right(NOW), [], "once");
    assert_eq!(holds.load(vec![right, operator, fine, still_endless]), [], "the others are as they were");
    assert_eq!(holds.count(), 4);
}

#[test]
fn a_hold_renewed_by_a_clock_that_was_ahead_lasts_from_now_what_it_was_given_then() {
    let mut holds = holds();
    let renewed = HoldRow { probed_at: Some(at(5_000)), ..row(on("a"), Cause::Lost, Some(at(5_030))) };
    let before = HoldRow { probed_at: Some(NOW.minus(secs(9))), ..row(on("b"), Cause::Lost, Some(at(30))) };
    holds.load(vec![renewed.clone(), before.clone()]);
    let right = HoldRow { until_at: Some(at(40)), probed_at: Some(at(10)), ..renewed };
    assert_eq!(holds.put_clock_right(at(10)), [HoldChange::Placed { row: right.clone(), is_longest: false }]);
    assert_eq!(holds.load(vec![right, before]), []);
}

#[test]
fn a_probe_on_its_way_goes_on_deciding_when_the_clock_is_put_right() {
    let mut holds = holds();
    holds.load(vec![HoldRow { since_at: at(50), ..row(on("a"), Cause::Lost, Some(at(60))) }]);
    holds.sent(RequestId(9), &agent("a"), at(60));
    holds.put_clock_right(NOW);
    assert_eq!(take(&mut holds, settled(9, "a"), NOW), [lifted(on("a"), Cause::Lost, Some(at(10)))]);
}

#[test]
fn those_who_may_probe_early_do_not_wait_for_the_clock_that_was_ahead() {
    let mut holds = holds();
    take(&mut holds, reached(1, "a", Cause::Lost, Scope::All), at(1_000));
    assert!(matches!(holds.admit(&agent("c"), NOW), Admission::Held(_)));
    holds.put_clock_right(NOW);
    assert_eq!((holds.admit(&agent("c"), NOW), holds.early_probe_at()), (Admission::Probe, Some(NOW)));
}

/// The end of the hold after a start at [`NOW`].
fn after_a_start(cause: Cause, since: u64, until: Option<u64>, probed: Option<u64>) -> (Option<Timestamp>, usize) {
    let mut holds = Holds::new(Backoff::new(secs(1), secs(3_600)).unwrap());
    let ago = |seconds| NOW.minus(secs(seconds));
    let until_at = until.map(at);
    let row = HoldRow { since_at: ago(since), until_at, probed_at: probed.map(ago), ..row(on("a"), cause, None) };
    holds.load(vec![row]);
    let changes = holds.probe_soon(NOW);
    let in_memory = match holds.admit(&agent("a"), NOW) {
        Admission::Held(until) => until,
        Admission::Probe => Some(NOW),
        other @ (Admission::Free | Admission::Probing) => panic!("{other:?}"),
    };
    if let [HoldChange::Placed { row, is_longest: false }] = &changes[..] {
        assert_eq!(row.until_at, in_memory, "what is written is what counts");
    }
    (in_memory, changes.len())
}

#[test]
fn a_start_probes_what_needs_a_person_at_once_but_not_within_a_minute_of_its_last_probe() {
    for cause in [Cause::Unauthorized, Cause::Forbidden, Cause::UnknownAgent, Cause::Contract] {
        let found = |since, until, probed| after_a_start(cause, since, until, probed);
        assert_eq!(found(9_000, Some(3_000), Some(1_000)), (Some(NOW), 1), "{cause:?}");
        assert_eq!(found(9_000, Some(3_000), Some(60)), (Some(NOW), 1));
        assert_eq!(found(9_000, Some(3_000), Some(20)), (Some(at(40)), 1));
        assert_eq!(found(20, Some(3_000), None), (Some(at(40)), 1), "it was never probed: since it was placed");
        assert_eq!(found(9_000, Some(30), Some(20)), (Some(at(30)), 0), "it is over before that");
        assert_eq!(found(9_000, Some(40), Some(20)), (Some(at(40)), 0), "it is over just then");
        assert_eq!(found(9_000, None, Some(1_000)), (None, 0));
    }
    for cause in [Cause::ServerError, Cause::Rejected, Cause::Throttled, Cause::Operator, Cause::ApiFailed] {
        assert_eq!(after_a_start(cause, 9_000, Some(3_000), Some(1_000)), (Some(at(3_000)), 0), "{cause:?}");
    }
}

#[test]
fn a_start_probes_sooner_if_holds_never_last_a_minute_and_takes_a_future_probe_for_one_of_now() {
    let mut holds = Holds::new(Backoff::new(secs(1), secs(10)).unwrap());
    holds.load(vec![HoldRow { probed_at: Some(NOW), ..row(Scope::All, Cause::Unauthorized, Some(at(500))) }]);
    holds.probe_soon(NOW);
    assert_eq!(holds.admit_any(NOW), Admission::Held(Some(at(10))));
    let mut holds = super::holds();
    holds.load(vec![HoldRow { probed_at: Some(at(5_000)), ..row(Scope::All, Cause::Unauthorized, Some(at(9_000))) }]);
    holds.probe_soon(NOW);
    assert_eq!(holds.admit_any(NOW), Admission::Held(Some(at(60))));
}
