//! What holds for every request, outcome and standing.

use super::*;

pub(super) fn any_answer() -> impl Strategy<Value = Answer> {
    // The IDs are small numbers, so that the lists share IDs with the batch and with each other, and have unknown ones.
    let list = || prop::collection::vec((0_u32..24).prop_map(|id| id.to_string()), 0..30);
    (list(), list()).prop_map(|(deleted, failed)| Answer { deleted, failed })
}

pub(super) fn any_result() -> impl Strategy<Value = Result<Answer, Fault>> {
    let retry_after = prop_oneof![
        Just(None),
        any::<u64>().prop_map(|seconds| Some(RetryAfter::Seconds(seconds))),
        (0_u64..200).prop_map(|seconds| Some(RetryAfter::Seconds(seconds))),
        any::<i64>().prop_map(|at| Some(RetryAfter::At(Timestamp(at)))),
    ];
    let code = prop_oneof![
        100_u16..1_000,
        prop::sample::select(vec![400, 401, 403, 404, 405, 408, 409, 413, 422, 429, 500, 501, 503])
    ];
    prop_oneof![
        3 => any_answer().prop_map(Ok),
        3 => (code, retry_after).prop_map(|(status, retry_after)| Err(Fault::Status { status, retry_after })),
        1 => Just(Err(Fault::Garbled)),
        1 => Just(Err(Fault::Lost)),
        1 => Just(Err(Fault::Unreachable)),
    ]
}

pub(super) fn any_request() -> impl Strategy<Value = Option<RequestId>> {
    prop::option::of((25_i64..50).prop_map(RequestId))
}

pub(super) fn any_batch() -> impl Strategy<Value = Batch> {
    let facts = || (0_u32..3, 0_u32..4, any::<bool>(), any_request(), any_request(), any_request());
    let size = prop_oneof![Just(1_usize), 2..=20_usize];
    let rows = size.prop_flat_map(move |n| prop::collection::vec(facts(), n));
    (rows, prop::sample::select(vec![ALONE, 1, 2, 8, 20]), any::<bool>(), any::<bool>()).prop_map(
        |(rows, batch_max, alone, is_decimal)| {
            let rows: Vec<Deletion> = rows
                .into_iter()
                .zip(0..)
                .map(|((attempts, asks, maybe_done, last_request, first_fault, evidence), at)| {
                    let name = if is_decimal { at.to_string() } else { format!("x{at}") };
                    let row = Deletion { attempts, asks, maybe_done, last_request, first_fault, evidence, ..row(at) };
                    named(&name, row)
                })
                .collect();
            // Rows of the lane for single-entry DELETEs go one by one.
            let batch_max = if rows.len() > 1 { batch_max.max(2) } else { batch_max };
            let batch = bulk(batch_max, rows);
            if alone { batch.alone() } else { batch }
        },
    )
}

pub(super) fn any_standing() -> impl Strategy<Value = Standing> {
    (any_request(), any_request(), any::<[bool; 8]>()).prop_map(|(settled, answered, flags)| {
        let [
            singles_answered,
            is_only_work,
            is_vouched,
            is_suspect,
            completes_streak,
            is_old_news,
            asks_refused,
            is_orphan,
        ] = flags;
        Standing {
            settled,
            settled_by_anybody: settled,
            is_all_work: false,
            answered,
            singles_answered,
            is_only_work,
            is_vouched,
            is_suspect,
            completes_streak,
            is_old_news,
            asks_refused,
            is_orphan,
        }
    })
}

pub(super) fn any_envelope() -> impl Strategy<Value = Option<Envelope>> {
    let codes = prop::sample::select(vec!["ENTRY_NOT_FOUND", "AGENT_NOT_FOUND", "NOT_FOUND"]);
    let ids = prop::sample::select(vec![None, Some(OURS), Some("another")]);
    prop::option::of((codes, ids).prop_map(|(code, id)| said(code, id)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn each_row_gets_exactly_one_verdict_in_the_batch_s_order(
        batch in any_batch(), result in any_result(), envelope in any_envelope(), standing in any_standing(), seed: u64,
    ) {
        let judgement = judge_all(&batch, &result, envelope.as_ref(), &standing, &policy(), seed);
        let judged: Vec<_> = judgement.rows.iter().map(|row| row.id).collect();
        let sent: Vec<_> = batch.deletions().iter().map(|row| row.id).collect();
        prop_assert_eq!(judged, sent);
    }

    #[test]
    fn deleted_only_if_a_200_lists_it_as_deleted_and_not_as_failed(
        batch in any_batch(), result in any_result(), envelope in any_envelope(), standing in any_standing(),
    ) {
        let judgement = judge_all(&batch, &result, envelope.as_ref(), &standing, &policy(), 1);
        for (row, judged) in batch.deletions().iter().zip(&judgement.rows) {
            let id = row.entry.as_str().to_owned();
            let said_so = result.as_ref().is_ok_and(|answer| answer.deleted.contains(&id) && !answer.failed.contains(&id));
            prop_assert_eq!(judged.verdict == Verdict::Deleted, said_so);
        }
    }

    #[test]
    fn no_attempt_exceeds_the_limit_and_nothing_is_due_in_the_past_or_beyond_the_longest_delay(
        batch in any_batch(), result in any_result(), envelope in any_envelope(), standing in any_standing(), seed: u64,
    ) {
        let judgement = judge_all(&batch, &result, envelope.as_ref(), &standing, &policy(), seed);
        for (row, judged) in batch.deletions().iter().zip(&judgement.rows) {
            if let Some(due_at) = judged.verdict.due_at() {
                prop_assert!(NOW <= due_at && later(due_at) <= policy().retry.max());
            }
            let counted = row.attempts + u32::from(judged.verdict.counted());
            prop_assert!(counted <= policy().max_attempts);
            if matches!(judged.verdict, Verdict::Retry { .. }) {
                prop_assert!(counted < policy().max_attempts, "a row that comes back has an attempt left");
            }
            let to_be_asked = judged.batch_max == Some(ALONE) && matches!(judged.verdict, Verdict::Release { .. });
            prop_assert!(to_be_asked || judged.batch_max.is_none_or(|size| (1..=20).contains(&size)));
        }
        if let Some(hold) = judgement.hold {
            let asked = if let HoldEnd::At(until) = hold.end { Some(until) } else { hold.not_before };
            prop_assert!(asked.is_none_or(|until| until > NOW && later(until) <= policy().max_retry_after));
        }
    }

    #[test]
    fn rows_alike_come_back_together(n in 1_i64..=20, result in any_result(), standing in any_standing(), seed: u64) {
        if result.is_ok() {
            return Ok(());
        }
        let judgement = judge_all(&fresh(n), &result, None, &standing, &policy(), seed);
        prop_assert!(judgement.rows.iter().all(|row| row.verdict == judgement.rows[0].verdict));
    }

    #[test]
    fn a_doubt_is_never_forgotten_before_the_end(
        batch in any_batch(), result in any_result(), envelope in any_envelope(), standing in any_standing(),
    ) {
        let judgement = judge_all(&batch, &result, envelope.as_ref(), &standing, &policy(), 1);
        for (row, judged) in batch.deletions().iter().zip(&judgement.rows) {
            prop_assert!(judged.maybe_done || !row.maybe_done);
            let is_unconfirmed = matches!(judged.verdict, Verdict::Dead { cause } if cause.is_of_an_answer());
            let unseen = matches!(result, Err(Fault::Lost | Fault::Garbled));
            prop_assert!(row.maybe_done || !judged.maybe_done || unseen || is_unconfirmed);
        }
    }

    #[test]
    fn an_answer_settles_if_a_row_of_it_is_deleted_and_holds_nothing_then(
        batch in any_batch(), answer in any_answer(), standing in any_standing(),
    ) {
        let result = Ok(answer);
        let judgement = judged(&batch, &result, &standing);
        let deletes = judgement.rows.iter().any(|row| row.verdict == Verdict::Deleted);
        prop_assert!(judgement.is_answer);
        prop_assert_eq!(judgement.has_settled, deletes);
        prop_assert_eq!(judgement.hold.is_some(), !deletes && !standing.is_vouched);
    }
}
