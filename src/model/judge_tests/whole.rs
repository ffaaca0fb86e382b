//! Faults of a whole request, whose reason may be an outage or one ID in the request.

use super::*;

/// Every kind of such a fault.
fn faults() -> Vec<Result<Answer, Fault>> {
    let codes = [408, 409, 410, 412, 415, 500, 502, 503, 504, 520, 530].map(status);
    codes.into_iter().chain([Err(Fault::Garbled), Err(Fault::Lost), status_with(503, RetryAfter::Seconds(5))]).collect()
}

fn cause_of(result: &Result<Answer, Fault>) -> Cause {
    result.as_ref().unwrap_err().cause()
}

fn is_counted_together(result: &Result<Answer, Fault>) -> bool {
    matches!(cause_of(result), Cause::ServerError | Cause::Garbled | Cause::Lost)
}

/// A row that has been sent before, in a request that failed as a whole.
fn failed_before(at: i64) -> Deletion {
    Deletion { last_request: Some(LAST), first_fault: Some(LAST), ..row(at) }
}

#[test]
fn in_an_outage_no_row_is_spent_however_few_there_are() {
    for result in faults() {
        for n in [1, 2, 20] {
            for standing in [
                Standing::default(),
                Standing { is_only_work: true, is_suspect: true, ..Standing::default() },
                Standing { settled: Some(LAST), answered: Some(SINCE), ..Standing::default() },
                Standing { is_vouched: true, singles_answered: true, ..Standing::default() },
            ] {
                let rows = (0..n).map(|at| Deletion { attempts: 2, ..failed_before(at) }).collect();
                let judgement = judged(&bulk(20, rows), &result, &standing);
                let kept = |row: &Judged| !row.verdict.counted() && row.batch_max.is_none();
                assert!(judgement.rows.iter().all(kept), "{result:?} {n} {standing:?}");
                assert!(judgement.hold.is_some(), "{result:?}");
            }
        }
    }
}

#[test]
fn a_row_that_was_never_sent_is_not_counted_for_what_others_came_to() {
    for result in faults() {
        assert_eq!(verdicts(&judged(&fresh(3), &result, &witnessed())), ["release"; 3], "{result:?}");
    }
}

#[test]
fn what_is_released_waits_the_first_delay_unless_the_api_says_when_to_come_again() {
    for result in faults() {
        let due = later(one(&fresh(1), &result, &Standing::default()).verdict.due_at().unwrap());
        let is_asked = cause_of(&result) == Cause::Throttled;
        assert!(if is_asked { due == Duration::from_secs(5) } else { is_about(due, 10) }, "{result:?}: {due:?}");
    }
}

#[test]
fn while_others_get_through_a_batch_that_fails_for_the_second_time_is_split() {
    for result in faults() {
        for (n, part) in [(2, 1), (3, 2), (4, 2), (5, 4), (10, 8), (16, 8), (17, 16), (20, 16)] {
            let judgement = judged(&bulk(20, (0..n).map(failed_before).collect()), &result, &witnessed());
            assert!(sizes(&judgement).iter().all(|size| *size == Some(part)), "{result:?} {n}");
            let expected = if is_counted_together(&result) { "retry" } else { "release" };
            assert!(verdicts(&judgement).iter().all(|verdict| *verdict == expected), "{result:?} {n}");
        }
        let sent_before = |at| Deletion { last_request: Some(LAST), ..row(at) };
        let judgement = judged(&bulk(20, vec![failed_before(0), sent_before(1)]), &result, &witnessed());
        assert_eq!(sizes(&judgement), [Some(1), None], "{result:?}: for the first time, it stays as it was");
    }
}

#[test]
fn a_batch_goes_in_parts_as_soon_as_something_got_through_since_it_first_failed_counted_or_not() {
    let failed = |at| Deletion { last_request: Some(SINCE), first_fault: Some(BEFORE), ..row(at) };
    let settled = |settled| Standing { settled, ..Standing::default() };
    let batch = || bulk(20, vec![failed(0), failed(1), row(2)]);
    for result in faults() {
        let judgement = judged(&batch(), &result, &settled(Some(LAST)));
        assert_eq!((verdicts(&judgement), sizes(&judgement)), (vec!["release"; 3], vec![Some(2), Some(2), None]));
        for standing in [settled(None), settled(Some(BEFORE)), Standing { is_old_news: true, ..settled(Some(LAST)) }] {
            assert_eq!(sizes(&judged(&batch(), &result, &standing)), [None; 3], "{result:?} {standing:?}");
        }
        let alone = one(&bulk(20, vec![failed(0)]), &result, &settled(Some(LAST)));
        assert_eq!(alone.batch_max, None, "{result:?}: there is nothing to split");
    }
}

#[test]
fn that_a_row_failed_alone_while_others_got_through_is_remembered_as_evidence() {
    let only = Standing { is_only_work: true, ..Standing::default() };
    for result in faults() {
        let failed = one(&bulk(1, vec![failed_before(0)]), &result, &witnessed());
        assert_eq!(failed.evidence, Some(REQUEST), "{result:?}");
        let known = Deletion { evidence: Some(BEFORE), ..failed_before(0) };
        assert_eq!(one(&bulk(1, vec![known.clone()]), &result, &witnessed()).evidence, Some(BEFORE), "{result:?}");
        // A restart has lost the record of what was settled.
        let again = one(&bulk(1, vec![known.clone()]), &result, &only);
        assert_eq!((again.verdict.as_str(), again.evidence), ("retry", Some(BEFORE)), "{result:?}");
        let left_over = Standing { settled: Some(LAST), ..only };
        let told_apart = Deletion { first_fault: Some(BEFORE), ..failed_before(0) };
        assert_eq!(
            one(&bulk(1, vec![told_apart]), &result, &left_over).evidence,
            None,
            "{result:?}: not since its last"
        );
        let fresh_fault = Deletion { first_fault: None, ..known };
        assert_eq!(one(&bulk(1, vec![fresh_fault]), &result, &only).verdict.as_str(), "release", "{result:?}");
    }
}

#[test]
fn several_rows_are_never_dead_for_what_their_request_came_to_and_keep_their_last_attempt() {
    for result in faults() {
        for standing in [witnessed(), Standing { is_orphan: true, ..witnessed() }] {
            let rows = vec![last_chance(0), Deletion { attempts: 1, ..failed_before(1) }];
            let found = verdicts(&judged(&bulk(2, rows), &result, &standing));
            assert_eq!(
                found,
                ["release", if is_counted_together(&result) { "retry" } else { "release" }],
                "{result:?}"
            );
        }
    }
}

#[test]
fn the_first_request_that_failed_with_a_row_is_remembered() {
    for result in faults() {
        let known = Deletion { first_fault: Some(BEFORE), ..row(1) };
        for standing in [Standing::default(), witnessed()] {
            let judgement = judged(&bulk(20, vec![row(0), known.clone()]), &result, &standing);
            let first: Vec<_> = judgement.rows.iter().map(|row| row.first_fault).collect();
            assert_eq!(first, [Some(REQUEST), Some(BEFORE)], "{result:?}");
        }
        let asked = one(&single(row(0)), &result, &witnessed());
        assert_eq!(asked.first_fault, None, "{result:?}: a question about a row alone is no such request");
    }
}

#[test]
fn what_is_in_flight_when_a_hold_is_placed_counts_for_nothing() {
    let told_apart = Deletion { attempts: 2, ..failed_before(0) };
    let old = Standing { is_old_news: true, is_suspect: true, is_only_work: true, ..witnessed() };
    for result in faults() {
        assert_eq!(one(&bulk(1, vec![told_apart.clone()]), &result, &old).verdict.as_str(), "release", "{result:?}");
        assert_eq!(one(&single(told_apart.clone()), &result, &old).verdict.as_str(), "release", "{result:?}");
    }
}

#[test]
fn a_row_that_fails_alone_while_others_get_through_is_asked_about_before_it_is_dead() {
    for result in faults() {
        let cause = cause_of(&result);
        let row = |attempts, asks| Deletion { attempts, asks, ..failed_before(0) };
        for lane in [1, 20] {
            let again = one(&bulk(lane, vec![row(0, 0)]), &result, &witnessed());
            assert_eq!((again.verdict.as_str(), again.batch_max), ("retry", Some(1)), "{result:?}");
            let asked = one(&bulk(lane, vec![row(2, 0)]), &result, &witnessed());
            assert_eq!((asked.verdict.as_str(), asked.batch_max), ("release", Some(ALONE)), "{result:?}");
            let dead = one(&bulk(lane, vec![row(2, 1)]), &result, &witnessed());
            assert_eq!((dead.verdict, dead.batch_max, dead.asks), (Verdict::Dead { cause }, Some(20), 0), "{result:?}");
            let cannot = named("a/b", row(2, 0));
            assert_eq!(one(&bulk(lane, vec![cannot]), &result, &witnessed()).verdict, Verdict::Dead { cause });
        }
        let answered = one(&single(row(2, 0)), &result, &witnessed());
        assert_eq!((answered.verdict, answered.batch_max), (Verdict::Dead { cause }, Some(20)), "{result:?}");
    }
}

#[test]
fn once_told_apart_from_others_that_got_through_the_only_row_left_ends_by_itself() {
    // The row failed alone while others got through.
    let told = Deletion { evidence: Some(LAST), ..row(0) };
    let row =
        || Deletion { attempts: 2, asks: 1, first_fault: Some(BEFORE), last_request: Some(SINCE), ..told.clone() };
    let only = Standing { settled: Some(LAST), is_only_work: true, ..Standing::default() };
    for result in faults() {
        let verdict = |lane, row, standing: &Standing| one(&bulk(lane, vec![row]), &result, standing).verdict.as_str();
        assert_eq!(verdict(1, row(), &only), "dead", "{result:?}");
        assert_eq!(verdict(20, row(), &only), "release", "it was not told apart");
        let none = Standing { settled: None, ..only };
        assert_eq!(verdict(1, row(), &none), "dead", "a restart does not forget what is kept with the row");
        assert_eq!(verdict(1, Deletion { evidence: None, ..row() }, &none), "release", "nothing got through");
        assert_eq!(verdict(1, row(), &Standing { is_only_work: false, ..only }), "release", "others will show");
        assert_eq!(verdict(1, Deletion { first_fault: None, ..row() }, &only), "release", "split for no such fault");
        let two = bulk(1, vec![row(), Deletion { first_fault: Some(BEFORE), ..super::row(1) }]);
        assert_eq!(verdicts(&judged(&two, &result, &only)), ["release"; 2], "not alone");
    }
}

#[test]
fn a_row_that_was_told_apart_by_rejections_only_is_not_spent_in_an_outage() {
    // Nothing got through since the fault, so that the row is sent alone says nothing about it.
    let row = || Deletion { attempts: 2, asks: 1, first_fault: Some(BEFORE), last_request: Some(LAST), ..row(0) };
    for settled in [None, Some(RequestId(20)), Some(BEFORE)] {
        let only = Standing { settled, is_only_work: true, ..Standing::default() };
        for result in faults() {
            let found = one(&bulk(1, vec![row()]), &result, &only);
            assert_eq!(found.verdict.as_str(), "release", "{result:?} {settled:?}");
        }
    }
}

#[test]
fn a_status_out_of_the_contract_holds_its_agent_unless_it_is_known_to_be_the_content() {
    let batch = bulk(20, vec![failed_before(0), row(1)]);
    assert_eq!(held(&judged(&batch, &status(409), &witnessed())), None, "one of the rows failed before");
    let growing = Some(("agent", Cause::Contract, HoldEnd::Growing));
    assert_eq!(held(&judged(&batch, &status(409), &Standing::default())), growing);
    assert_eq!(held(&judged(&fresh(2), &status(409), &witnessed())), growing);
    let asked = Some(("*", Cause::Throttled, HoldEnd::At(NOW.plus(Duration::from_secs(5)))));
    let throttled = status_with(503, RetryAfter::Seconds(5));
    assert_eq!(held(&judged(&batch, &throttled, &witnessed())), asked, "it is taken at its word all the same");
    let by_streak = Some(("agent", Cause::ServerError, HoldEnd::ByStreak));
    assert_eq!(held(&judged(&batch, &status(500), &witnessed())), by_streak);
}

#[test]
fn a_429_never_counts_nor_splits() {
    for result in [status(429), status_with(429, RetryAfter::Seconds(5))] {
        let judgement = judged(&bulk(20, vec![failed_before(0), failed_before(1)]), &result, &witnessed());
        assert_eq!((verdicts(&judgement), sizes(&judgement)), (vec!["release"; 2], vec![None; 2]));
        assert_eq!(one(&bulk(1, vec![failed_before(0)]), &result, &witnessed()).first_fault, Some(LAST));
    }
}

#[test]
fn only_lost_and_garbled_leave_a_doubt_whether_it_was_done() {
    for result in
        faults().into_iter().chain([400, 401, 403, 404, 405, 429].map(status)).chain([Err(Fault::Unreachable)])
    {
        let unseen = matches!(result, Err(Fault::Lost | Fault::Garbled));
        for standing in [Standing::default(), witnessed()] {
            for batch in [fresh(2), bulk(1, vec![failed_before(0)]), single(row(0))] {
                let judgement = judged(&batch, &result, &standing);
                assert!(judgement.rows.iter().all(|row| row.maybe_done == unseen), "{result:?}");
            }
        }
    }
}

#[test]
fn the_orphans_of_a_crash_go_on_counting_until_they_end() {
    let orphan = Standing { is_orphan: true, ..Standing::default() };
    let lost = Err(Fault::Lost);
    let judgement = judged(&fresh(20), &lost, &orphan);
    assert!(
        judgement.rows.iter().all(|row| row.verdict.as_str() == "retry" && row.maybe_done && row.batch_max.is_none())
    );
    let again = judged(&bulk(20, (0..20).map(failed_before).collect()), &lost, &orphan);
    assert!(again.rows.iter().all(|row| row.batch_max == Some(16)), "the second time they are split");
    let last = one(&bulk(20, vec![last_chance(0)]), &lost, &orphan);
    assert_eq!((last.verdict, last.maybe_done), (Verdict::Dead { cause: Cause::Lost }, true));
    let asked = one(&single(Deletion { asks: MAX_ASKS - 1, ..last_chance(0) }), &lost, &orphan);
    assert_eq!(asked.verdict, Verdict::Dead { cause: Cause::Lost });
    let asked = one(&single(last_chance(0)), &lost, &orphan);
    assert_eq!((asked.verdict.as_str(), asked.asks), ("release", 1));
}
