use super::*;
use crate::model::outcome::{Hold, HoldEnd};

#[path = "holds_tests/clocks.rs"]
mod clocks;
#[path = "holds_tests/crowds.rs"]
mod crowds;
#[path = "holds_tests/people.rs"]
mod people;
#[path = "holds_tests/probes.rs"]
mod probes;
#[path = "holds_tests/questions.rs"]
mod questions;

const NOW: Timestamp = Timestamp(1_000_000_000);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn at(seconds: u64) -> Timestamp {
    NOW.plus(secs(seconds))
}

/// Holds that start at 4 s and grow to 60 s.
fn holds() -> Holds {
    Holds::new(Backoff::new(secs(4), secs(60)).unwrap())
}

fn agent(name: &str) -> AgentId {
    AgentId::parse(name).unwrap()
}

fn on(name: &str) -> Scope {
    Scope::Agent(agent(name))
}

fn hold(scope: Scope, cause: Cause, end: HoldEnd) -> Hold {
    let may_be_content = matches!(cause, Cause::ServerError | Cause::Garbled | Cause::Lost | Cause::Contract);
    Hold { scope, cause, end, not_before: None, may_be_content }
}

fn growing(scope: Scope, cause: Cause) -> Option<Hold> {
    Some(hold(scope, cause, HoldEnd::Growing))
}

fn by_streak(name: &str, cause: Cause) -> Option<Hold> {
    Some(hold(on(name), cause, HoldEnd::ByStreak))
}

/// A request from which this hold follows. No streak is long enough.
fn outcome(request: i64, name: &str, hold: Option<Hold>) -> Outcome {
    let request = RequestId(request);
    Outcome { request, agent: agent(name), hold, reached: None, has_settled: false, asks_first: false, newest: request }
}

fn settled(request: i64, name: &str) -> Outcome {
    Outcome { has_settled: true, ..outcome(request, name, None) }
}

fn reached(request: i64, name: &str, cause: Cause, scope: Scope) -> Outcome {
    Outcome { reached: Some(scope), ..outcome(request, name, by_streak(name, cause)) }
}

fn take(holds: &mut Holds, outcome: Outcome, now: Timestamp) -> Vec<HoldChange> {
    let involved = || BTreeSet::from([agent("a"), agent("b")]);
    holds.answered(outcome, involved, now, &mut fastrand::Rng::with_seed(1))
}

fn row(scope: Scope, cause: Cause, until_at: Option<Timestamp>) -> HoldRow {
    HoldRow { scope, cause, since_at: NOW, until_at, repeats: 0, probed_at: None, why: None }
}

/// The only placed row, and whether it is reported as the longest.
fn placed(changes: &[HoldChange]) -> (&HoldRow, bool) {
    match changes {
        [HoldChange::Placed { row, is_longest }] => (row, *is_longest),
        other => panic!("{other:?}"),
    }
}

fn lifted(scope: Scope, cause: Cause, until_at: Option<Timestamp>) -> HoldChange {
    HoldChange::Lifted { scope, cause, until_at }
}

fn end_of(row: &HoldRow) -> Timestamp {
    row.until_at.unwrap()
}

/// Holds with one that was placed at [`NOW`] and has ended, and its probe in flight.
fn probing(scope: Scope, cause: Cause, repeats: u32) -> Holds {
    let mut holds = holds();
    holds.load(vec![HoldRow { repeats, ..row(scope.clone(), cause, Some(at(4))) }]);
    assert_eq!(holds.sent(RequestId(9), &agent("a"), at(4)), [(scope, cause)]);
    holds
}

fn is_jittered(delay: Duration, seconds: u64) -> bool {
    (secs(seconds)..=secs(seconds) + secs(seconds) / 4).contains(&delay)
}

#[test]
fn a_hold_of_one_agent_begins_at_once_and_leaves_the_others_free() {
    let mut holds = holds();
    let changes = take(&mut holds, outcome(1, "a", growing(on("a"), Cause::Throttled)), NOW);
    let (row, is_longest) = placed(&changes);
    assert_eq!((&row.scope, row.cause, row.since_at, row.repeats), (&on("a"), Cause::Throttled, NOW, 0));
    assert_eq!((row.probed_at, is_longest), (Some(NOW), false));
    assert!(is_jittered(end_of(row).since(NOW), 4));
    assert_eq!(holds.admit(&agent("a"), NOW), Admission::Held(row.until_at));
    assert_eq!(holds.admit(&agent("a"), end_of(row)), Admission::Probe);
    assert_eq!((holds.admit(&agent("b"), NOW), holds.admit_any(NOW)), (Admission::Free, Admission::Free));
    assert!(holds.is_held_itself(&agent("a")) && !holds.is_held_itself(&agent("b")));
    assert_eq!(holds.count(), 1);
}

#[test]
fn a_fault_by_streak_holds_what_the_streak_has_reached_and_nothing_before() {
    let mut holds = holds();
    assert_eq!(take(&mut holds, outcome(1, "a", by_streak("a", Cause::Lost)), NOW), []);
    assert_eq!((holds.count(), holds.admit(&agent("a"), NOW)), (0, Admission::Free));
    let changes = take(&mut holds, reached(2, "a", Cause::Lost, on("a")), NOW);
    assert_eq!((&placed(&changes).0.scope, holds.admit(&agent("b"), NOW)), (&on("a"), Admission::Free));
    let changes = take(&mut holds, reached(3, "b", Cause::Lost, Scope::All), NOW);
    assert_eq!((&placed(&changes).0.scope, holds.count()), (&Scope::All, 2));
}

#[test]
fn what_was_sent_before_a_hold_by_streak_places_no_other() {
    let mut holds = holds();
    take(&mut holds, Outcome { newest: RequestId(8), ..reached(3, "a", Cause::Lost, on("a")) }, NOW);
    for request in [4, 8] {
        assert_eq!(take(&mut holds, reached(request, "a", Cause::ServerError, on("a")), NOW), [], "{request}");
    }
    assert_eq!(take(&mut holds, reached(4, "a", Cause::Lost, on("a")), NOW), []);
    assert_eq!(take(&mut holds, reached(9, "a", Cause::ServerError, on("a")), NOW).len(), 1, "it was sent since");
    assert_eq!(take(&mut holds, reached(9, "a", Cause::Lost, on("a")), NOW), [], "of the same cause there is one");
}

#[test]
fn a_probe_that_settles_something_lifts_what_it_probed() {
    let mut holds = probing(on("a"), Cause::ServerError, 0);
    holds.load_some(BTreeSet::new(), vec![row(Scope::All, Cause::Lost, Some(at(4)))]);
    assert_eq!(
        holds.sent(RequestId(10), &agent("a"), at(5)),
        [(Scope::All, Cause::Lost), (on("a"), Cause::ServerError)]
    );
    let all = lifted(Scope::All, Cause::Lost, Some(at(4)));
    assert_eq!(take(&mut holds, settled(10, "a"), at(5)), [all, lifted(on("a"), Cause::ServerError, Some(at(4)))]);
    assert_eq!((holds.count(), holds.admit(&agent("a"), NOW)), (0, Admission::Free));
    assert_eq!(take(&mut holds, settled(11, "a"), at(5)), []);
}

#[test]
fn only_the_probe_decides() {
    let mut holds = probing(on("a"), Cause::ServerError, 0);
    for request in [8, 10] {
        assert_eq!(take(&mut holds, settled(request, "a"), at(4)), []);
        assert_eq!(take(&mut holds, outcome(request, "a", None), at(4)), []);
    }
    assert_eq!(take(&mut holds, settled(9, "b"), at(4)), [], "of another agent");
    assert_eq!((holds.count(), holds.admit(&agent("a"), at(4))), (1, Admission::Probing));
}

#[test]
fn a_hold_doubles_with_each_probe_that_fails_and_says_once_that_it_is_the_longest() {
    let mut holds = holds();
    let changes = take(&mut holds, reached(1, "a", Cause::Lost, on("a")), NOW);
    let (mut row, _) = {
        let (row, said) = placed(&changes);
        (row.clone(), said)
    };
    let mut schedule = Vec::new();
    for request in 2..9 {
        let now = end_of(&row);
        assert_eq!(holds.admit(&agent("a"), now), Admission::Probe);
        holds.sent(RequestId(request), &agent("a"), now);
        assert_eq!(holds.admit(&agent("a"), now), Admission::Probing);
        let changes = take(&mut holds, outcome(request, "a", by_streak("a", Cause::Lost)), now);
        let (next, is_longest) = placed(&changes);
        assert_eq!((next.since_at, next.probed_at), (NOW, Some(now)), "a pause that is renewed has been one all along");
        schedule.push((end_of(next).since(now), next.repeats, is_longest));
        row = next.clone();
    }
    let expected =
        [(8, 1, false), (16, 2, false), (32, 3, false), (60, 4, true), (60, 5, false), (60, 6, false), (60, 7, false)];
    for ((delay, repeats, is_longest), (seconds, n, said)) in schedule.into_iter().zip(expected) {
        assert!(is_jittered(delay, seconds) && (repeats, is_longest) == (n, said), "{delay:?} {repeats} {is_longest}");
    }
    assert_eq!(holds.count(), 1);
}

#[test]
fn what_needs_a_person_is_asked_about_once_a_minute_at_the_most() {
    for cause in [Cause::Unauthorized, Cause::Forbidden, Cause::UnknownAgent, Cause::Contract] {
        let mut holds = Holds::new(Backoff::new(secs(1), secs(600)).unwrap());
        let changes = take(&mut holds, outcome(1, "a", growing(on("a"), cause)), NOW);
        assert!(is_jittered(end_of(placed(&changes).0).since(NOW), 60), "{cause:?}");
        let mut holds = Holds::new(Backoff::new(secs(1), secs(30)).unwrap());
        let changes = take(&mut holds, outcome(1, "a", growing(on("a"), cause)), NOW);
        let (row, is_longest) = placed(&changes);
        assert!(is_jittered(end_of(row).since(NOW), 30) && is_longest, "never above the longest delay");
    }
    let mut holds = Holds::new(Backoff::new(secs(1), secs(600)).unwrap());
    let changes = take(&mut holds, reached(1, "a", Cause::Rejected, on("a")), NOW);
    assert!(is_jittered(end_of(placed(&changes).0).since(NOW), 1));
}

#[test]
fn a_retry_after_moves_the_end_and_only_ever_later() {
    let asked = |request, cause, seconds| {
        let hold = Hold { not_before: Some(at(seconds)), ..hold(on("a"), cause, HoldEnd::Growing) };
        outcome(request, "a", Some(hold))
    };
    let mut holds = holds();
    assert_eq!(end_of(placed(&take(&mut holds, asked(1, Cause::Forbidden, 200), NOW)).0), at(200));
    let mut other = super::tests::holds();
    let changes = take(&mut other, asked(1, Cause::Forbidden, 2), NOW);
    assert!(is_jittered(end_of(placed(&changes).0).since(NOW), 60), "the hold's own time is longer");
    // A request that was in flight moves the end, too, and changes nothing else.
    let changes = take(&mut holds, asked(2, Cause::Forbidden, 300), at(1));
    let (row, is_longest) = placed(&changes);
    assert_eq!((end_of(row), row.since_at, row.repeats, is_longest), (at(300), NOW, 0, true));
    for seconds in [300, 250] {
        assert_eq!(take(&mut holds, asked(3, Cause::Forbidden, seconds), at(1)), []);
    }
    assert_eq!(
        take(&mut holds, outcome(4, "a", growing(on("a"), Cause::Forbidden)), at(400)),
        [],
        "it says nothing of an end"
    );
    // A probe that fails.
    holds.sent(RequestId(5), &agent("a"), at(300));
    assert_eq!(end_of(placed(&take(&mut holds, asked(5, Cause::Forbidden, 900), at(300))).0), at(900));
}

#[test]
fn of_several_ends_that_are_asked_for_the_latest_counts() {
    let mut holds = holds();
    let throttled =
        |request, seconds| outcome(request, "a", Some(hold(Scope::All, Cause::Throttled, HoldEnd::At(at(seconds)))));
    assert_eq!(end_of(placed(&take(&mut holds, throttled(1, 2), NOW)).0), at(2), "shorter than a hold of its own");
    assert_eq!(end_of(placed(&take(&mut holds, throttled(2, 30), at(1))).0), at(30));
    for seconds in [30, 10] {
        assert_eq!(take(&mut holds, throttled(3, seconds), at(1)), []);
    }
    assert_eq!(holds.admit_any(at(1)), Admission::Held(Some(at(30))));
    holds.sent(RequestId(4), &agent("b"), at(30));
    let again = Outcome { agent: agent("b"), ..throttled(4, 31) };
    assert_eq!(end_of(placed(&take(&mut holds, again, at(30))).0), at(31), "the probe's is the one that counts");
}

#[test]
fn a_probe_that_fails_for_another_reason_puts_that_hold_in_the_place_of_the_first() {
    let mut holds = probing(Scope::All, Cause::ServerError, 3);
    let changes = take(&mut holds, outcome(9, "a", growing(Scope::All, Cause::Unauthorized)), at(5));
    let [first, HoldChange::Placed { row, .. }] = &changes[..] else { panic!("{changes:?}") };
    assert_eq!(*first, lifted(Scope::All, Cause::ServerError, Some(at(4))));
    assert_eq!((row.cause, row.repeats, row.since_at, holds.count()), (Cause::Unauthorized, 4, at(5), 1));
}

#[test]
fn a_probe_that_fails_for_everybody_tells_nothing_about_the_agent() {
    let mut holds = probing(on("a"), Cause::Forbidden, 0);
    let changes = take(&mut holds, outcome(9, "a", growing(Scope::All, Cause::Throttled)), at(4));
    assert_eq!((&placed(&changes).0.scope, holds.count()), (&Scope::All, 2));
    assert!(matches!(holds.admit(&agent("a"), at(5)), Admission::Held(_)));
    assert_eq!(holds.sent(RequestId(10), &agent("a"), at(60)).len(), 2, "both are probed next");
}

#[test]
fn an_answer_of_the_api_to_one_agent_ends_a_hold_on_everything() {
    let mut holds = probing(Scope::All, Cause::Unauthorized, 0);
    let changes = take(&mut holds, outcome(9, "a", growing(on("a"), Cause::Forbidden)), at(4));
    let [first, HoldChange::Placed { row, .. }] = &changes[..] else { panic!("{changes:?}") };
    assert_eq!((first, &row.scope), (&lifted(Scope::All, Cause::Unauthorized, Some(at(4))), &on("a")));
    assert_eq!(holds.admit(&agent("b"), at(4)), Admission::Free);
}

#[test]
fn a_fault_by_streak_keeps_a_hold_of_another_kind_unless_it_is_an_answer() {
    for cause in [Cause::ServerError, Cause::Lost, Cause::Garbled] {
        let mut holds = probing(on("a"), Cause::Forbidden, 0);
        let changes = take(&mut holds, outcome(9, "a", by_streak("a", cause)), at(4));
        assert_eq!((placed(&changes).0.cause, placed(&changes).0.repeats), (Cause::Forbidden, 1), "{cause:?}");
    }
    for cause in [Cause::ApiFailed, Cause::ApiSilent, Cause::ApiContradicted, Cause::Rejected] {
        let mut holds = probing(on("a"), Cause::Forbidden, 0);
        let changes = take(&mut holds, outcome(9, "a", by_streak("a", cause)), at(4));
        assert_eq!(changes, [lifted(on("a"), Cause::Forbidden, Some(at(4)))], "{cause:?}");
    }
    let mut holds = probing(on("a"), Cause::ServerError, 0);
    let changes = take(&mut holds, outcome(9, "a", by_streak("a", Cause::Lost)), at(4));
    assert!(
        matches!(&changes[..], [HoldChange::Lifted { .. }, HoldChange::Placed { row, .. }] if row.cause == Cause::Lost)
    );
}

#[test]
fn a_hold_until_the_time_that_the_api_says_is_said_to_be_the_longest_once_if_it_is() {
    for (lasts, is_longest) in [(20, false), (90, true)] {
        let mut holds = holds();
        let throttled = |request, seconds| {
            outcome(request, "a", Some(hold(Scope::All, Cause::Throttled, HoldEnd::At(at(seconds)))))
        };
        for n in 0..9 {
            let changes = take(&mut holds, throttled(n, n.unsigned_abs() * 100 + lasts), at(n.unsigned_abs() * 100));
            let expected = (u32::try_from(n).unwrap(), is_longest && n == 0);
            assert_eq!((placed(&changes).0.repeats, placed(&changes).1), expected);
            holds.sent(RequestId(n + 1), &agent("a"), at(n.unsigned_abs() * 100 + lasts));
        }
    }
}

#[test]
fn a_rejection_of_several_rows_counts_for_nothing_so_its_hold_does_not_grow_by_it() {
    let mut holds = probing(on("a"), Cause::Rejected, 3);
    let changes = take(&mut holds, outcome(9, "a", None), at(4));
    assert_eq!(placed(&changes).0.repeats, 3);
    let mut holds = probing(on("a"), Cause::ApiFailed, 3);
    assert_eq!(placed(&take(&mut holds, outcome(9, "a", None), at(4))).0.repeats, 4);
}

#[test]
fn a_probe_that_asks_for_no_pause_renews_only_what_it_could_not_end() {
    for cause in [Cause::Rejected, Cause::ApiFailed, Cause::ApiSilent, Cause::ApiContradicted] {
        let mut holds = probing(on("a"), cause, 0);
        assert_eq!(placed(&take(&mut holds, outcome(9, "a", None), at(4))).0.repeats, 1, "{cause:?}");
    }
    for cause in [Cause::ServerError, Cause::Lost, Cause::Forbidden, Cause::Throttled] {
        let mut holds = probing(on("a"), cause, 0);
        assert_eq!(take(&mut holds, outcome(9, "a", None), at(4)), [lifted(on("a"), cause, Some(at(4)))], "{cause:?}");
    }
}
