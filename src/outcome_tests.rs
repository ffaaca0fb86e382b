use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::deletion::{EntryId, Lane};

const NOW: Timestamp = Timestamp(1_000_000);

fn policy() -> Policy {
    Policy {
        max_attempts: 3,
        ask_singly: true,
        retry: Backoff::new(Duration::from_secs(10), Duration::from_secs(60)).unwrap(),
        min_retry_after: Duration::from_secs(1),
        max_retry_after: Duration::from_secs(100),
    }
}

fn batch_of(attempts: &[u32], batch_max: u8) -> Batch {
    let lane = Lane { priority: 0, agent: AgentId::parse("agent").unwrap(), batch_max };
    let rows = attempts
        .iter()
        .enumerate()
        .map(|(at, &attempts)| Deletion {
            id: DeletionId(at as i64 + 100),
            entry: EntryId::parse(&at.to_string()).unwrap(),
            attempts,
            asks: 0,
            maybe_done: false,
        })
        .collect();
    Batch::new(lane, rows).unwrap()
}

fn judge_with_seed(batch: &Batch, reply: &Result<Answer, Fault>, seed: u64) -> Judgement {
    judge(batch, reply, true, &policy(), NOW, &mut fastrand::Rng::with_seed(seed))
}

fn status(status: u16, retry_after: Option<RetryAfter>) -> Result<Answer, Fault> {
    Err(Fault::Status { status, retry_after })
}

fn strings(ids: &[&str]) -> Vec<String> {
    ids.iter().map(|&id| id.to_owned()).collect()
}

#[test]
fn each_id_of_a_200_is_judged_by_the_lists_it_is_in() {
    let batch = batch_of(&[0, 0, 0, 0], 5);
    let answer = Answer { deleted: strings(&["0", "1", "9"]), failed: strings(&["1", "2", "00", "2"]) };
    let judgement = judge_with_seed(&batch, &Ok(answer), 1);
    let causes: Vec<_> = judgement.rows.iter().map(|row| row.verdict.cause()).collect();
    assert_eq!(causes, [None, Some(Cause::ApiContradicted), Some(Cause::ApiFailed), Some(Cause::ApiSilent)]);
    let batch_max: Vec<_> = judgement.rows.iter().map(|row| row.batch_max).collect();
    assert_eq!(batch_max, [Some(20), Some(20), Some(20), None], "only an answered row gets its full size back");
    assert_eq!((judgement.strays, judgement.hold), (2, None));
}

#[test]
fn a_retry_at_the_limit_is_dead_and_a_release_never_is() {
    let batch = batch_of(&[1, 2, 3, u32::MAX], 20);
    let retried = judge_with_seed(&batch, &status(500, None), 1);
    let verdicts: Vec<_> = retried.rows.iter().map(|row| row.verdict.as_str()).collect();
    assert_eq!(verdicts, ["retry", "dead", "dead", "dead"]);
    let released = judge_with_seed(&batch, &status(401, None), 1);
    assert!(released.rows.iter().all(|row| row.verdict.as_str() == "release" && !row.verdict.counted()));
}

#[test]
fn a_rejected_batch_is_halved_down_to_the_one_row_that_is_dead() {
    let sizes: Vec<Option<u8>> = [20, 19, 10, 5, 3, 2]
        .into_iter()
        .map(|n| judge_with_seed(&batch_of(&vec![0; n], 20), &status(400, None), 1).rows[0].batch_max)
        .collect();
    assert_eq!(sizes, [16, 16, 8, 4, 2, 1].map(Some));
    let single = judge_with_seed(&batch_of(&[0], 1), &status(422, None), 1);
    assert_eq!(single.rows[0].verdict, Verdict::Dead { cause: Cause::Rejected });
}

#[test]
fn retry_after_is_taken_in_both_forms_between_floor_and_ceiling() {
    let end = |wish| judge_with_seed(&batch_of(&[0], 20), &status(429, wish), 1).hold.unwrap().end;
    let at = |seconds: i64| HoldEnd::At(Timestamp(NOW.0 + seconds * 1_000));
    assert_eq!(end(Some(RetryAfter::Seconds(7))), at(7));
    assert_eq!(end(Some(RetryAfter::Seconds(0))), at(1));
    assert_eq!(end(Some(RetryAfter::Seconds(u64::MAX))), at(100));
    assert_eq!(end(Some(RetryAfter::At(Timestamp(NOW.0 + 30_000)))), at(30));
    assert_eq!(end(Some(RetryAfter::At(Timestamp::ZERO))), at(1));
    assert_eq!(end(None), HoldEnd::Growing);
}

#[test]
fn only_lost_and_garbled_leave_a_doubt_whether_it_was_done() {
    let doubt = |reply| judge_with_seed(&batch_of(&[0], 20), &reply, 1).rows[0].maybe_done;
    assert!(doubt(Err(Fault::Lost)) && doubt(Err(Fault::Garbled)));
    assert!(!doubt(Err(Fault::Unreachable)) && !doubt(status(500, None)) && !doubt(status(429, None)));
}

/// A row that was asked about alone, and what becomes of it.
fn alone(attempts: u32, asks: u32, is_known: bool, reply: &Result<Answer, Fault>) -> (Judged, Option<Hold>) {
    let lane = Lane { priority: 0, agent: AgentId::parse("agent").unwrap(), batch_max: ALONE };
    let entry = EntryId::parse("0").unwrap();
    let row = Deletion { id: DeletionId(100), entry, attempts, asks, maybe_done: false };
    let batch = Batch::new(lane, vec![row]).unwrap().alone();
    assert_eq!(batch.kind(), Kind::Single);
    let judgement = judge(&batch, reply, is_known, &policy(), NOW, &mut fastrand::Rng::with_seed(1));
    (judgement.rows[0], judgement.hold)
}

#[test]
fn a_404_about_one_entry_is_believed_of_a_known_agent_only() {
    let (known, hold) = alone(2, 0, true, &status(404, None));
    assert_eq!((known.verdict, hold), (Verdict::Absent, None));
    let (unknown, _) = alone(2, 0, false, &status(404, None));
    assert_eq!(unknown.verdict, Verdict::Release { due_at: NOW, cause: Cause::UnknownAgent });
    let bulk = judge_with_seed(&batch_of(&[2], 20), &status(404, None), 1);
    assert_eq!(bulk.rows[0].verdict.as_str(), "release", "a bulk delete's 404 is never about the entry");
}

#[test]
fn what_a_bulk_delete_leaves_open_at_the_limit_is_to_be_asked_about_alone() {
    let answer = || Ok(Answer { deleted: strings(&["2"]), failed: strings(&["0", "2", "3"]) });
    let judgement = judge_with_seed(&batch_of(&[2, 2, 2, 1], 20), &answer(), 1);
    let found: Vec<_> = judgement.rows.iter().map(|row| (row.verdict.as_str(), row.batch_max)).collect();
    let asked = ("release", Some(ALONE));
    assert_eq!(found, [asked, asked, asked, ("retry", Some(20))], "failed, silent, contradicted; and not at the limit");
    let off = Policy { ask_singly: false, ..policy() };
    let judgement = judge(&batch_of(&[2, 2, 2, 1], 20), &answer(), true, &off, NOW, &mut fastrand::Rng::with_seed(1));
    let found: Vec<_> = judgement.rows.iter().map(|row| row.verdict.as_str()).collect();
    assert_eq!(found, ["dead", "dead", "dead", "retry"]);
}

#[test]
fn asking_alone_in_vain_has_a_limit_and_is_then_an_attempt_that_failed() {
    for fault in [Fault::Lost, Fault::Garbled, Fault::Status { status: 500, retry_after: None }] {
        for asks in 0..MAX_ASKS - 1 {
            let (row, _) = alone(2, asks, true, &Err(fault));
            assert_eq!((row.verdict.as_str(), row.asks, row.batch_max), ("release", asks + 1, None));
            assert!(row.verdict.due_at().unwrap() >= NOW.plus(Duration::from_secs(10 << asks)));
        }
        let (row, _) = alone(2, MAX_ASKS - 1, true, &Err(fault));
        assert_eq!((row.verdict, row.asks, row.batch_max), (Verdict::Dead { cause: fault.cause() }, 0, Some(20)));
        let (row, _) = alone(1, MAX_ASKS - 1, true, &Err(fault));
        assert_eq!((row.verdict.as_str(), row.asks, row.batch_max), ("retry", 0, Some(20)), "it has attempts left");
    }
}

#[test]
fn a_refusal_of_a_request_about_one_row_holds_nothing_and_leaves_it_to_a_bulk_delete() {
    for code in [301, 401, 403, 405, 410, 501] {
        let (row, hold) = alone(2, 0, true, &status(code, None));
        assert_eq!((row.verdict.as_str(), row.verdict.due_at()), ("release", Some(NOW)), "{code}");
        assert_eq!((row.batch_max, row.asks, hold), (Some(20), 1, None), "{code}");
    }
    // The bulk delete answers the row as failed again: it is asked about until that has been refused three times.
    let mut batch = batch_of(&[2], 20);
    let answer = || Ok(Answer { deleted: Vec::new(), failed: strings(&["0"]) });
    for (asks, expected) in [(2, ("release", Some(ALONE), 2)), (3, ("dead", Some(20), 0))] {
        batch = Batch::new(batch.lane().clone(), vec![Deletion { asks, ..batch.deletions()[0].clone() }]).unwrap();
        let row = judge_with_seed(&batch, &answer(), 1).rows[0];
        assert_eq!((row.verdict.as_str(), row.batch_max, row.asks), expected);
    }
}

#[test]
fn every_cause_has_a_string_of_its_own() {
    for cause in Cause::ALL {
        assert_eq!(Cause::parse(cause.as_str()), Some(cause));
    }
    assert_eq!(Cause::parse("Lost"), None);
}

fn any_reply() -> impl Strategy<Value = Result<Answer, Fault>> {
    // Small numbers as IDs, so that the lists meet the batch, each other, and strangers.
    let list = || prop::collection::vec((0_u32..24).prop_map(|id| id.to_string()), 0..30);
    let retry_after = prop_oneof![
        Just(None),
        any::<u64>().prop_map(|seconds| Some(RetryAfter::Seconds(seconds))),
        any::<i64>().prop_map(|at| Some(RetryAfter::At(Timestamp(at)))),
    ];
    prop_oneof![
        (list(), list()).prop_map(|(deleted, failed)| Ok(Answer { deleted, failed })),
        (100_u16..1_000, retry_after).prop_map(|(status, retry_after)| Err(Fault::Status { status, retry_after })),
        Just(Err(Fault::Garbled)),
        Just(Err(Fault::Lost)),
        Just(Err(Fault::Unreachable)),
    ]
}

proptest! {
    #[test]
    fn each_row_gets_exactly_one_verdict_in_the_batch_s_order(attempts in prop::collection::vec(0_u32..6, 1..=20), reply in any_reply(), seed: u64) {
        let batch = batch_of(&attempts, 20);
        let judgement = judge_with_seed(&batch, &reply, seed);
        let judged: Vec<_> = judgement.rows.iter().map(|row| row.id).collect();
        let sent: Vec<_> = batch.deletions().iter().map(|row| row.id).collect();
        prop_assert_eq!(judged, sent);
    }

    #[test]
    fn deleted_only_if_a_200_lists_it_as_deleted_and_not_as_failed(attempts in prop::collection::vec(0_u32..6, 1..=20), reply in any_reply(), seed: u64) {
        let batch = batch_of(&attempts, 20);
        let judgement = judge_with_seed(&batch, &reply, seed);
        for (row, judged) in batch.deletions().iter().zip(&judgement.rows) {
            let said_so = reply.as_ref().is_ok_and(|answer| {
                let id = row.entry.as_str().to_owned();
                answer.deleted.contains(&id) && !answer.failed.contains(&id)
            });
            prop_assert_eq!(judged.verdict == Verdict::Deleted, said_so);
        }
    }

    #[test]
    fn nothing_is_due_in_the_past_and_no_attempt_exceeds_the_limit(attempts in prop::collection::vec(0_u32..3, 1..=20), reply in any_reply(), seed: u64) {
        let batch = batch_of(&attempts, 20);
        let judgement = judge_with_seed(&batch, &reply, seed);
        for (row, judged) in batch.deletions().iter().zip(&judgement.rows) {
            if let Some(due_at) = judged.verdict.due_at() {
                prop_assert!(due_at >= NOW);
            }
            let counted = row.attempts + u32::from(judged.verdict.counted());
            prop_assert!(counted <= policy().max_attempts);
            if matches!(judged.verdict, Verdict::Retry { .. }) {
                prop_assert!(counted < policy().max_attempts);
            }
            let to_be_asked = judged.batch_max == Some(ALONE) && judged.verdict.as_str() == "release";
            prop_assert!(to_be_asked || judged.batch_max.is_none_or(|size| (1..=20).contains(&size)));
        }
        if let Some(Hold { end: HoldEnd::At(until), .. }) = judgement.hold {
            prop_assert!(until > NOW && until <= NOW.plus(policy().max_retry_after));
        }
    }

    #[test]
    fn rows_that_failed_together_come_back_together(n in 1_usize..=20, seed: u64) {
        let judgement = judge_with_seed(&batch_of(&vec![1; n], 20), &Err(Fault::Lost), seed);
        prop_assert!(judgement.rows.iter().all(|row| row.verdict == judgement.rows[0].verdict));
    }
}
