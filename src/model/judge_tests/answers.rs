//! A 200 with the two lists.

use super::*;

fn suspect() -> Standing {
    Standing { is_suspect: true, ..Standing::default() }
}

fn completing() -> Standing {
    Standing { completes_streak: true, ..Standing::default() }
}

#[test]
fn each_id_is_judged_by_the_lists_it_is_in() {
    let batch = bulk(5, (0..4).map(row).collect());
    let judgement = judged(&batch, &lists(&["0", "1", "9"], &["1", "2", "00", "2"]), &Standing::default());
    let causes: Vec<_> = judgement.rows.iter().map(|row| row.verdict.cause()).collect();
    assert_eq!(causes, [None, Some(Cause::ApiContradicted), Some(Cause::ApiFailed), Some(Cause::ApiSilent)]);
    assert_eq!(verdicts(&judgement), ["deleted", "retry", "retry", "retry"]);
    assert_eq!(sizes(&judgement), [Some(20); 4], "answered about by itself, a row travels with others again");
    assert_eq!((judgement.strays, held(&judgement)), (2, None));
    assert!(judgement.is_answer && judgement.has_settled && !judgement.asks_first && !judgement.is_refused);
}

#[test]
fn ids_that_were_not_sent_are_counted_and_touch_nothing() {
    let judgement = judged(&fresh(2), &lists(&["7", "8"], &["9"]), &Standing::default());
    assert_eq!((judgement.strays, judgement.has_settled), (3, false));
    let silent = |row: &Judged| row.verdict.cause() == Some(Cause::ApiSilent) && row.verdict.end().is_none();
    assert!(judgement.rows.iter().all(silent));
}

#[test]
fn what_failed_beside_others_that_were_deleted_has_evidence_from_then_on() {
    let known = Deletion { evidence: Some(BEFORE), ..row(1) };
    let judgement = judged(&bulk(20, vec![row(0), known, row(2), row(3)]), &lists(&["3"], &["0", "1"]), &suspect());
    let evidence: Vec<_> = judgement.rows.iter().map(|row| row.evidence).collect();
    assert_eq!(evidence, [Some(REQUEST), Some(BEFORE), Some(REQUEST), None]);
    assert_eq!(verdicts(&judgement), ["retry", "retry", "retry", "deleted"], "it counts, whatever the streak");
}

#[test]
fn an_answer_about_a_row_ends_what_was_suspected_of_it() {
    let worn = Deletion { asks: 2, first_fault: Some(BEFORE), ..row(1) };
    let judged = judged(&bulk(4, vec![row(0), worn]), &lists(&["0"], &["1"]), &Standing::default()).rows[1];
    assert_eq!((judged.asks, judged.first_fault, judged.batch_max), (0, None, Some(20)));
}

#[test]
fn what_a_bulk_delete_leaves_open_at_the_limit_is_asked_about_alone() {
    let rows = || (0..4).map(last_chance).chain([Deletion { attempts: 1, ..row(4) }]).collect();
    let result = lists(&["2", "3"], &["0", "2", "4"]);
    let judgement = judged(&bulk(20, rows()), &result, &Standing::default());
    let found: Vec<_> = judgement.rows.iter().map(|row| (row.verdict, row.batch_max)).collect();
    let asked = |cause| (Verdict::Release { due_at: NOW, cause }, Some(ALONE));
    assert_eq!(found[..3], [asked(Cause::ApiFailed), asked(Cause::ApiSilent), asked(Cause::ApiContradicted)]);
    assert_eq!(verdicts(&judgement), ["release", "release", "release", "deleted", "retry"]);
    let judgement = without_asking(&bulk(20, rows()), &result, &Standing::default());
    assert_eq!(verdicts(&judgement), ["dead", "dead", "dead", "deleted", "retry"]);
    let unconfirmed: Vec<bool> = judgement.rows.iter().map(|row| row.maybe_done).collect();
    assert_eq!(unconfirmed, [true, true, true, false, false], "nobody said whether there are such entries");
}

#[test]
fn a_row_is_asked_about_in_vain_three_times_and_not_at_all_where_that_cannot_be() {
    let ask = |row: Deletion, standing: &Standing| {
        judged(&bulk(20, vec![row, row_that_goes()]), &lists(&["9"], &[]), standing).rows[0].verdict.as_str()
    };
    let worn = |asks| Deletion { asks, ..last_chance(0) };
    let found = [0, 1, 2, 3, 4].map(|asks| ask(worn(asks), &Standing::default()));
    assert_eq!(found, ["release", "release", "release", "dead", "dead"]);
    assert_eq!(ask(named("a/b", last_chance(0)), &Standing::default()), "dead");
    let refused = Standing { asks_refused: true, ..Standing::default() };
    assert_eq!(ask(last_chance(0), &refused), "dead");
}

fn row_that_goes() -> Deletion {
    row(9)
}

#[test]
fn a_failure_of_what_may_be_gone_already_is_asked_about_at_once() {
    let gone = |at| Deletion { maybe_done: true, ..row(at) };
    let batch = bulk(20, vec![gone(0), gone(1), gone(2), row(3), row(4)]);
    let judgement = judged(&batch, &lists(&["1", "4"], &["0", "1", "3"]), &Standing::default());
    assert_eq!(verdicts(&judgement), ["release", "retry", "retry", "retry", "deleted"], "failed, and in one list only");
    assert_eq!((judgement.rows[0].batch_max, judgement.rows[0].verdict.due_at()), (Some(ALONE), Some(NOW)));
}

#[test]
fn a_200_that_deletes_nothing_is_no_success_and_holds_the_agent_by_streak() {
    for (result, cause) in [
        (lists(&[], &["0", "1"]), Cause::ApiFailed),
        (lists(&["0", "1"], &["0", "1"]), Cause::ApiContradicted),
        (lists(&[], &[]), Cause::ApiSilent),
        (lists(&["8", "9"], &["7"]), Cause::ApiSilent),
    ] {
        let judgement = judged(&fresh(2), &result, &Standing::default());
        assert_eq!(held(&judgement), Some(("agent", cause, HoldEnd::ByStreak)));
        assert!(judgement.is_answer && !judgement.has_settled && !judgement.asks_first);
        assert_eq!(verdicts(&judgement), ["retry", "retry"], "as long as such answers are few, they count");
        assert!(judgement.rows.iter().all(|row| row.evidence.is_none()));
        let vouched = Standing { is_vouched: true, is_suspect: true, ..Standing::default() };
        let judgement = judged(&fresh(2), &result, &vouched);
        assert_eq!((held(&judgement), judgement.asks_first), (None, false), "the API said itself that it is the rows");
        assert_eq!(verdicts(&judgement), ["retry", "retry"]);
        assert!(
            judgement.rows.iter().all(|row| row.evidence.is_none()),
            "that both failed is evidence about the request"
        );
        let row = || Deletion { last_request: Some(LAST), ..row(0) };
        let alone = judged(&bulk(20, vec![row()]), &lists(&[], &["0"]), &witnessed());
        assert_eq!(alone.rows[0].evidence, Some(REQUEST), "alone, while others got through");
    }
}

#[test]
fn before_an_agent_is_held_for_such_answers_the_row_least_asked_about_is_asked_about_alone() {
    let rows = || {
        vec![Deletion { asks: 1, ..row(0) }, Deletion { attempts: 1, ..row(1) }, row(2), row(3), named("a/b", row(4))]
    };
    let judgement = judged(&bulk(20, rows()), &lists(&[], &["0", "1", "2", "3"]), &completing());
    assert_eq!(verdicts(&judgement), ["retry", "retry", "release", "retry", "retry"]);
    assert_eq!(sizes(&judgement), [Some(20), Some(20), Some(ALONE), Some(20), Some(20)]);
    assert_eq!(judgement.rows[2].verdict.due_at(), Some(NOW));
    assert!(judgement.asks_first && judgement.hold.is_some());
    let judgement = judged(&bulk(20, rows()), &lists(&[], &["0"]), &suspect());
    assert_eq!(
        verdicts(&judgement),
        ["release", "release", "release", "release", "retry"],
        "a/b can only ever be counted"
    );
    assert_eq!(sizes(&judgement)[2], Some(ALONE));
    assert!(judgement.asks_first);
}

#[test]
fn nothing_is_asked_before_it_is_time_nor_where_it_cannot_be() {
    let failed = lists(&[], &["0", "1"]);
    assert!(!judged(&fresh(2), &failed, &Standing::default()).asks_first);
    assert!(!without_asking(&fresh(2), &failed, &completing()).asks_first);
    let refused = Standing { asks_refused: true, ..completing() };
    assert!(!judged(&fresh(2), &failed, &refused).asks_first);
    let old = Standing { is_old_news: true, ..suspect() };
    assert!(!judged(&fresh(2), &failed, &old).asks_first);
    assert!(!judged(&single(row(0)), &failed, &suspect()).asks_first, "it is such a request already");
}

#[test]
fn where_nobody_can_be_asked_the_attempts_count_and_the_end_is_unconfirmed() {
    let batch = || bulk(20, vec![last_chance(0), Deletion { attempts: 1, ..row(1) }]);
    let failed = lists(&[], &["0", "1"]);
    for standing in [Standing::default(), suspect()] {
        let judgement = without_asking(&batch(), &failed, &standing);
        assert_eq!(judgement.rows[0].verdict, Verdict::Dead { cause: Cause::ApiFailed });
        assert_eq!(verdicts(&judgement), ["dead", "retry"]);
        let maybe_done: Vec<_> = judgement.rows.iter().map(|row| row.maybe_done).collect();
        assert_eq!(maybe_done, [true, false]);
        let old = Standing { is_old_news: true, ..standing };
        assert_eq!(verdicts(&without_asking(&batch(), &failed, &old)), ["release", "release"]);
    }
    let refused = Standing { asks_refused: true, ..suspect() };
    assert_eq!(verdicts(&judged(&batch(), &failed, &refused)), ["dead", "retry"]);
}

#[test]
fn what_was_in_flight_when_the_hold_was_placed_condemns_nobody() {
    let batch = bulk(20, vec![last_chance(0), Deletion { evidence: Some(BEFORE), ..last_chance(1) }, row(2)]);
    let old = Standing { is_old_news: true, is_suspect: true, is_only_work: true, ..witnessed() };
    let judgement = judged(&batch, &lists(&[], &["0", "1", "2"]), &old);
    assert_eq!(verdicts(&judgement), ["release"; 3]);
    assert!(judgement.rows.iter().all(|row| is_about(later(row.verdict.due_at().unwrap()), 10)));
    assert_eq!(verdicts(&judged(&single(last_chance(0)), &lists(&[], &["0"]), &old)), ["release"]);
}

#[test]
fn under_suspicion_an_attempt_counts_only_if_others_got_through_or_the_row_is_known_to_fail() {
    let verdict = |row: Deletion, standing: &Standing| {
        // The single-entry DELETE asks about another row.
        let batch = bulk(20, vec![Deletion { asks: 1, ..row }, super::row(1)]);
        judged(&batch, &lists(&[], &["0", "1"]), standing).rows[0].verdict.as_str()
    };
    let sent_before = Deletion { last_request: Some(LAST), ..row(0) };
    let settled = |at| Standing { settled: at, ..suspect() };
    assert_eq!(verdict(sent_before.clone(), &settled(Some(SINCE))), "retry");
    assert_eq!(verdict(sent_before.clone(), &settled(Some(LAST))), "release", "by the same request: not since");
    assert_eq!(verdict(sent_before.clone(), &settled(None)), "release");
    assert_eq!(verdict(row(0), &settled(Some(SINCE))), "release", "it never failed before");
    let known = Deletion { evidence: Some(BEFORE), ..sent_before };
    assert_eq!(verdict(known.clone(), &suspect()), "release", "there is other work, which will show");
    assert_eq!(verdict(known, &Standing { is_only_work: true, ..suspect() }), "retry");
}

#[test]
fn a_success_false_ends_a_row_only_with_evidence_about_it() {
    let failed = lists(&[], &["0"]);
    let dead = Verdict::Dead { cause: Cause::ApiFailed };
    let known = || single(Deletion { evidence: Some(BEFORE), ..last_chance(0) });
    let blank = || single(last_chance(0));
    assert_eq!(one(&known(), &failed, &Standing::default()).verdict, dead);
    assert_eq!(one(&blank(), &failed, &witnessed()).verdict, dead);
    assert_eq!(one(&blank(), &failed, &Standing { is_vouched: true, ..Standing::default() }).verdict, dead);
    for standing in [Standing::default(), suspect(), Standing { is_only_work: true, ..suspect() }] {
        let judged = one(&blank(), &failed, &standing);
        assert_eq!((judged.verdict.as_str(), judged.batch_max), ("release", Some(20)), "{standing:?}");
        assert!(is_about(later(judged.verdict.due_at().unwrap()), 10));
    }
    let worn = single(Deletion { asks: 2, ..last_chance(0) });
    assert_eq!(one(&worn, &failed, &Standing::default()).asks, 2, "it is not a question in vain, nor forgotten");
}

#[test]
fn a_row_alone_that_the_api_deleted_is_deleted_and_its_counters_begin_anew() {
    let worn = Deletion { asks: 2, first_fault: Some(BEFORE), ..last_chance(0) };
    let judgement = judged(&single(worn), &lists(&["0"], &[]), &suspect());
    let row = judgement.rows[0];
    assert_eq!((row.verdict, row.asks, row.first_fault), (Verdict::Deleted, 0, None));
    assert!(judgement.has_settled && judgement.hold.is_none());
}

#[test]
fn a_counted_failure_waits_longer_each_time() {
    for (attempts, seconds) in [(0, 10), (1, 20)] {
        let row = Deletion { attempts, ..row(0) };
        let judged =
            judged(&bulk(20, vec![row, row_that_goes()]), &lists(&["9"], &["0"]), &Standing::default()).rows[0];
        assert!(is_about(later(judged.verdict.due_at().unwrap()), seconds), "{judged:?}");
    }
}
