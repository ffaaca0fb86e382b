//! Holds on everything, and many agents.

use super::*;

/// Holds with one on everything for the faults of `a` and `b`; and its end.
fn all_held() -> (Holds, Timestamp) {
    let mut holds = holds();
    let changes = take(&mut holds, reached(3, "a", Cause::ServerError, Scope::All), NOW);
    let end = end_of(placed(&changes).0);
    (holds, end)
}

#[test]
fn a_row_of_an_agent_that_took_no_part_may_probe_a_hold_on_everything_early() {
    let (mut holds, end) = all_held();
    assert_eq!(holds.admit(&agent("a"), NOW), Admission::Held(Some(end)));
    assert_eq!(holds.admit(&agent("b"), NOW), Admission::Held(Some(end)));
    assert_eq!((holds.admit(&agent("c"), NOW), holds.admit_any(NOW)), (Admission::Probe, Admission::Probe));
    assert_eq!(holds.early_probe_at(), Some(NOW));
    assert_eq!(holds.sent(RequestId(4), &agent("c"), NOW), [(Scope::All, Cause::ServerError)]);
    assert_eq!(holds.admit(&agent("d"), NOW), Admission::Held(Some(end)), "one at a time");
    assert_eq!(holds.early_probe_at(), None);
    assert_eq!(take(&mut holds, settled(4, "c"), at(1)), [lifted(Scope::All, Cause::ServerError, Some(end))]);
    assert_eq!(holds.admit(&agent("a"), at(1)), Admission::Free);
}

#[test]
fn an_agent_that_took_part_is_no_probe_before_the_end() {
    let (mut holds, end) = all_held();
    for involved in ["a", "b"] {
        assert_eq!(holds.sent(RequestId(4), &agent(involved), NOW), []);
    }
    assert_eq!(holds.sent(RequestId(4), &agent("a"), end), [(Scope::All, Cause::ServerError)]);
}

#[test]
fn an_early_probe_that_fails_takes_part_from_then_on_and_the_next_may_after_the_base_delay() {
    let (mut holds, end) = all_held();
    holds.sent(RequestId(4), &agent("c"), NOW);
    assert_eq!(take(&mut holds, reached(4, "c", Cause::ServerError, Scope::All), at(1)), [], "the hold stays as it is");
    assert_eq!(holds.admit(&agent("c"), at(1)), Admission::Held(Some(end)));
    assert_eq!(holds.admit(&agent("d"), at(3)), Admission::Held(Some(end)));
    assert_eq!((holds.admit(&agent("d"), at(4)), holds.early_probe_at()), (Admission::Probe, Some(at(4))));
    assert_eq!(holds.admit(&agent("c"), at(4).min(Timestamp(end.0 - 1))), Admission::Held(Some(end)));
    assert_eq!(holds.count(), 1);
}

#[test]
fn an_early_probe_that_fails_after_the_end_is_the_probe_of_that_end() {
    let (mut holds, end) = all_held();
    holds.sent(RequestId(4), &agent("c"), NOW);
    let changes = take(&mut holds, reached(4, "c", Cause::ServerError, Scope::All), end);
    assert_eq!((placed(&changes).0.repeats, placed(&changes).0.since_at), (1, NOW));
}

#[test]
fn a_hold_on_everything_that_the_api_asks_for_has_no_early_probes() {
    for (cause, end) in [
        (Cause::Unauthorized, HoldEnd::Growing),
        (Cause::Throttled, HoldEnd::At(at(9))),
        (Cause::Unreachable, HoldEnd::ByStreak),
    ] {
        let mut holds = holds();
        let asked = Outcome { reached: Some(Scope::All), ..outcome(1, "a", Some(hold(Scope::All, cause, end))) };
        take(&mut holds, asked, NOW);
        assert!(matches!(holds.admit(&agent("c"), NOW), Admission::Held(Some(_))), "{cause:?}");
        assert_eq!(holds.early_probe_at(), None, "{cause:?}");
        assert_eq!(holds.sent(RequestId(2), &agent("c"), NOW), [], "{cause:?}");
    }
}

#[test]
fn a_probe_of_one_agent_s_hold_that_completes_everybody_s_streak_renews_the_one_and_places_the_other() {
    let mut holds = probing(on("a"), Cause::ServerError, 0);
    let changes = take(&mut holds, reached(9, "a", Cause::ServerError, Scope::All), at(4));
    let [HoldChange::Placed { row: own, .. }, HoldChange::Placed { row: all, .. }] = &changes[..] else {
        panic!("{changes:?}")
    };
    assert_eq!((&own.scope, own.repeats, &all.scope, all.repeats), (&on("a"), 1, &Scope::All, 0));
    assert_eq!(holds.count(), 2);
}

#[test]
fn when_the_probe_fails_of_what_everybody_meets_nobody_probes_early_any_more() {
    for (asked, may_probe) in [(growing(Scope::All, Cause::Unauthorized), false), (by_streak("a", Cause::Lost), true)] {
        let (mut holds, end) = all_held();
        holds.sent(RequestId(4), &agent("a"), end);
        take(&mut holds, Outcome { reached: Some(Scope::All), ..outcome(4, "a", asked) }, end);
        let admission = holds.admit(&agent("c"), end.plus(secs(4)));
        assert_eq!(admission == Admission::Probe, may_probe, "{admission:?}");
    }
}

#[test]
fn agents_that_are_held_themselves_let_the_others_probe_first_for_a_while() {
    let mut holds = holds();
    take(&mut holds, reached(1, "c", Cause::ServerError, on("c")), NOW);
    let changes = take(&mut holds, reached(3, "a", Cause::ServerError, Scope::All), NOW);
    let end = end_of(placed(&changes).0);
    assert_eq!(holds.admit(&agent("a"), end), Admission::Probe);
    assert_eq!(holds.admit(&agent("c"), end), Admission::Held(Some(end.plus(secs(8)))), "twice the base delay");
    assert_eq!(holds.admit(&agent("c"), end.plus(secs(8))), Admission::Probe);
    // Any agent may probe a hold whose cause concerns everybody.
    let mut holds = super::holds();
    take(&mut holds, reached(1, "c", Cause::ServerError, on("c")), NOW);
    let changes = take(&mut holds, outcome(2, "c", growing(Scope::All, Cause::Unauthorized)), NOW);
    assert_eq!(holds.admit(&agent("c"), end_of(placed(&changes).0)), Admission::Probe);
}

#[test]
fn a_status_out_of_the_contract_that_two_agents_get_holds_everything_and_may_be_probed_early() {
    let mut holds = holds();
    let contract = |request, name| outcome(request, name, growing(on(name), Cause::Contract));
    take(&mut holds, contract(1, "a"), NOW);
    let changes = take(&mut holds, Outcome { reached: Some(Scope::All), ..contract(2, "b") }, NOW);
    assert_eq!(placed(&changes).0.scope, Scope::All);
    assert_eq!(holds.admit(&agent("c"), NOW), Admission::Probe);
    assert_eq!(holds.admit(&agent("b"), NOW), Admission::Held(placed(&changes).0.until_at));
}

#[test]
fn the_agent_whose_fault_completed_it_took_part_even_if_it_is_not_known_yet() {
    let mut holds = holds();
    take(&mut holds, reached(3, "z", Cause::ServerError, Scope::All), NOW);
    assert!(matches!(holds.admit(&agent("z"), NOW), Admission::Held(_)));
    assert_eq!(holds.admit(&agent("c"), NOW), Admission::Probe);
}

#[test]
fn holds_of_agents_without_open_rows_are_lifted_a_few_at_a_time_and_people_s_stay() {
    let mut holds = holds();
    let until = Some(at(9));
    let rows = ["a", "b", "c", "d"].map(|name| row(on(name), Cause::Forbidden, until));
    holds.load(
        rows.into_iter().chain([row(on("a"), Cause::Operator, until), row(Scope::All, Cause::Lost, until)]).collect(),
    );
    holds.sent(RequestId(1), &agent("d"), at(9));
    let is_open = |agent: &AgentId| agent.as_str() == "b";
    assert_eq!(holds.lift_idle(is_open, 1), [lifted(on("a"), Cause::Forbidden, until)]);
    assert_eq!(holds.lift_idle(is_open, 9), [lifted(on("c"), Cause::Forbidden, until)]);
    assert_eq!(holds.lift_idle(is_open, 9), [], "a person's, an open agent's, and one whose probe is on its way");
    assert_eq!(holds.count(), 4);
    holds.forget(RequestId(1), &agent("d"));
    assert_eq!(holds.lift_idle(is_open, 9), [lifted(on("d"), Cause::Forbidden, until)]);
}
