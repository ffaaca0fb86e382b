//! When a row may be dead: the rule in other words than the code's, compared with the code for every combination of inputs.

use super::{
    properties::{any_batch, any_envelope, any_result, any_standing},
    *,
};

/// All inputs of a judgement.
struct Case<'a> {
    batch: &'a Batch,
    result: &'a Result<Answer, Fault>,
    envelope: Option<&'a Envelope>,
    standing: Standing,
    policy: Policy,
}

impl Case<'_> {
    fn is_single(&self) -> bool {
        self.batch.kind() == Kind::Single
    }

    fn is_at_the_limit(&self, row: &Deletion) -> bool {
        row.attempts + 1 == self.policy.max_attempts
    }

    /// No single-entry DELETE about the row is possible, or necessary, any more.
    fn is_asked_enough(&self, row: &Deletion) -> bool {
        let can_ask = self.policy.ask_singly && !self.standing.asks_refused && row.entry.can_be_in_a_path();
        self.is_single() || !can_ask || row.asks >= MAX_ASKS
    }

    /// Something got through after the row's last failure before this one.
    fn failed_while_others_got_through(&self, row: &Deletion) -> bool {
        let since = |settled: Option<RequestId>| settled.is_some() && settled > row.last_request;
        let is_next_round =
            self.batch.len() == 1 && row.first_fault.is_some() && row.last_request > self.standing.settled;
        let is_for_others_to_show = self.standing.is_all_work || is_next_round;
        row.last_request.is_some()
            && (since(self.standing.settled) || (is_for_others_to_show && since(self.standing.settled_by_anybody)))
    }

    /// The rule. `deletes_others`: the same answer deleted another row of the batch.
    fn may_die(&self, row: &Deletion, deletes_others: bool) -> bool {
        match self.result {
            Ok(_) => self.may_die_of_an_answer(row, deletes_others),
            Err(fault) => match fault.cause() {
                Cause::Rejected => self.may_die_of_a_rejection(row),
                Cause::ServerError | Cause::Garbled | Cause::Lost => self.may_die_of_a_fault(row),
                Cause::Contract => !fault.is_of_the_whole_api() && self.may_die_of_a_fault(row),
                Cause::Throttled => !fault.is_too_much() && self.may_die_of_a_fault(row),
                Cause::ApiFailed | Cause::ApiContradicted | Cause::ApiSilent | Cause::Operator | Cause::Verify => false,
                Cause::Unauthorized | Cause::Forbidden | Cause::UnknownAgent => false,
                Cause::Unreachable | Cause::Untrusted => false,
            },
        }
    }

    fn may_die_of_an_answer(&self, row: &Deletion, deletes_others: bool) -> bool {
        if !self.is_at_the_limit(row) || !self.is_asked_enough(row) {
            return false;
        }
        let news = !self.standing.is_old_news;
        let is_about_rows = self.standing.is_vouched || (news && self.failed_while_others_got_through(row));
        let is_known = news && row.evidence.is_some() && (self.is_single() || self.standing.is_only_work);
        // If only bulk deletes are possible, the attempts count.
        let is_all_there_is = news && !self.is_single();
        deletes_others || is_about_rows || is_known || is_all_there_is
    }

    fn may_die_of_a_rejection(&self, row: &Deletion) -> bool {
        if self.batch.len() > 1 {
            return false;
        }
        let is_word = self.envelope.is_some_and(|said| said.is_ours(OURS));
        if self.is_single() && !is_word {
            return false;
        }
        let is_documented = self.is_single() && !row.is_decimal();
        let was_rejected = row.was_rejected && row.first_fault.is_some();
        let others_are_not = was_rejected && self.standing.answered > row.first_fault;
        let are_few = !self.standing.is_suspect && !self.standing.is_old_news;
        is_documented || others_are_not || are_few
    }

    fn may_die_of_a_fault(&self, row: &Deletion) -> bool {
        if self.batch.len() > 1 || !self.is_at_the_limit(row) {
            return false;
        }
        let lane = self.batch.lane().batch_max;
        let got_through = row.evidence.is_some() || self.standing.settled > row.first_fault;
        let got_through_since_it_first_failed = row.first_fault.is_some() && got_through;
        let is_left_over = self.standing.is_only_work && lane <= 1 && got_through_since_it_first_failed;
        let news = !self.standing.is_old_news;
        let counts = news && (self.failed_while_others_got_through(row) || is_left_over);
        let is_a_question = lane == ALONE && row.first_fault.is_none();
        let was_asked = if is_a_question {
            row.asks + 1 >= MAX_ASKS
        } else {
            lane == ALONE || self.is_asked_enough(row) || row.asks > 0
        };
        let is_orphan = self.standing.is_orphan && (!is_a_question || was_asked);
        is_orphan || (counts && was_asked)
    }

    fn check(&self, deletes_others: bool) -> u32 {
        let judgement = judge_all(self.batch, self.result, self.envelope, &self.standing, &self.policy, 1);
        let row = &self.batch.deletions()[0];
        let is_dead = matches!(judgement.rows[0].verdict, Verdict::Dead { .. });
        // A single-entry DELETE asks about one row of such an answer, so that row does not end.
        let may_die = self.may_die(row, deletes_others);
        assert_eq!(
            is_dead,
            may_die,
            "{row:?}\n{:?} lane {}\n{:?} {:?}\n{:?}\nask_singly: {}\n{judgement:?}",
            self.batch.kind(),
            self.batch.lane().batch_max,
            self.result,
            self.envelope,
            self.standing,
            self.policy.ask_singly,
        );
        assert!(!is_dead || row.attempts < self.policy.max_attempts);
        u32::from(is_dead)
    }
}

const NO_YES: [bool; 2] = [false, true];

/// Each combination of some flags.
fn flags<const N: usize>() -> impl Iterator<Item = [bool; N]> {
    (0..1_u32 << N).map(|bits| std::array::from_fn(|at| bits & (1 << at) != 0))
}

fn policies() -> [Policy; 2] {
    NO_YES.map(|ask_singly| Policy { ask_singly, ..policy() })
}

/// A row in requests of each shape. In the last ones, another row is with it.
fn shapes(row: &Deletion) -> Vec<Batch> {
    let alone = |lane| bulk(lane, vec![row.clone()]);
    let with_another = |lane| bulk(lane, vec![row.clone(), super::row(7)]);
    let mut shapes = vec![alone(20), alone(8), alone(1), alone(ALONE), with_another(20), with_another(2)];
    shapes.extend(Some(alone(ALONE).alone()).filter(|batch| batch.kind() == Kind::Single));
    shapes
}

#[test]
fn a_fault_of_a_whole_request_condemns_a_row_only_alone_and_while_others_get_through() {
    let faults = [
        status(500),
        Err(Fault::Lost),
        status(409),
        status_with(503, RetryAfter::Seconds(1)),
        status(429),
        status(405),
    ];
    let (mut dead, mut all) = (0, 0);
    for [at_limit, was_sent, in_path, has_evidence] in flags() {
        for (asks, first_fault) in
            [0, 2, 3].into_iter().flat_map(|asks| [(asks, None), (asks, Some(BEFORE)), (asks, Some(LAST))])
        {
            let attempts = if at_limit { 2 } else { 1 };
            let (last_request, evidence) = (was_sent.then_some(LAST), has_evidence.then_some(BEFORE));
            let row = Deletion { attempts, asks, first_fault, last_request, evidence, ..row(0) };
            let row = if in_path { row } else { named("a/b", row) };
            for (batch, policy) in shapes(&row).iter().flat_map(|batch| policies().map(|policy| (batch, policy))) {
                for [is_only_work, is_old_news, is_orphan, asks_refused] in flags() {
                    for settled in [None, Some(RequestId(35)), Some(SINCE)] {
                        let standing = Standing {
                            settled,
                            is_only_work,
                            is_old_news,
                            is_orphan,
                            asks_refused,
                            ..Standing::default()
                        };
                        for result in &faults {
                            dead += Case { batch, result, envelope: None, standing, policy }.check(false);
                            all += 1;
                        }
                    }
                }
            }
        }
    }
    assert!(dead > all / 100, "{dead} of {all}");
}

#[test]
fn an_answer_condemns_a_row_only_at_the_limit_after_it_was_asked_about_and_with_evidence() {
    // The answer fails, contradicts or leaves out the row. The last answer deletes the other row.
    let results = [lists(&[], &["0", "7"]), lists(&["0"], &["0"]), lists(&[], &[]), lists(&["7"], &["0"])];
    let (mut dead, mut all) = (0, 0);
    for [at_limit, was_sent, in_path, has_evidence, maybe_done] in flags() {
        for asks in [0, 3] {
            let (attempts, last_request) = (if at_limit { 2 } else { 1 }, was_sent.then_some(LAST));
            let evidence = has_evidence.then_some(BEFORE);
            let row = Deletion { attempts, asks, last_request, evidence, maybe_done, ..row(0) };
            let row = if in_path { row } else { named("a/b", row) };
            for (batch, policy) in shapes(&row).iter().flat_map(|batch| policies().map(|policy| (batch, policy))) {
                for [is_only_work, is_old_news, is_vouched, asks_refused, is_suspect] in flags() {
                    for settled in [None, Some(RequestId(35)), Some(SINCE)] {
                        let standing = Standing {
                            settled,
                            is_only_work,
                            is_old_news,
                            is_vouched,
                            asks_refused,
                            is_suspect,
                            ..Standing::default()
                        };
                        for result in &results {
                            let deletes_others =
                                batch.len() > 1 && result.as_ref().is_ok_and(|answer| answer.deleted == ["7"]);
                            dead += Case { batch, result, envelope: None, standing, policy }.check(deletes_others);
                            all += 1;
                        }
                    }
                }
            }
        }
    }
    assert!(dead > all / 100, "{dead} of {all}");
}

#[test]
fn a_rejection_condemns_a_row_only_alone_and_while_others_are_not_or_such_are_few_or_the_api_says_invalid() {
    let envelopes = [None, Some(said("INVALID_ID", None)), Some(said("INVALID_ID", Some("another")))];
    let faults = [400, 413, 422, 401, 403, 404].map(status);
    let (mut dead, mut all) = (0, 0);
    for [at_limit, was_asked] in flags() {
        for (name, first_fault) in ["0", "12x", "a/b"].into_iter().flat_map(|name| [(name, None), (name, Some(LAST))]) {
            let (attempts, asks) = (if at_limit { 2 } else { 0 }, if was_asked { 1 } else { 0 });
            let was_rejected = at_limit != was_asked;
            let row =
                named(name, Deletion { attempts, asks, was_rejected, first_fault, last_request: Some(LAST), ..row(0) });
            for (batch, policy) in shapes(&row).iter().flat_map(|batch| policies().map(|policy| (batch, policy))) {
                for [is_old_news, is_suspect, asks_refused, singles_answered] in flags() {
                    for answered in [None, Some(RequestId(35)), Some(SINCE)] {
                        let standing = Standing {
                            answered,
                            settled: Some(SINCE),
                            is_old_news,
                            is_suspect,
                            asks_refused,
                            singles_answered,
                            ..Standing::default()
                        };
                        for (result, envelope) in
                            faults.iter().flat_map(|fault| envelopes.iter().map(move |said| (fault, said)))
                        {
                            dead += Case { batch, result, envelope: envelope.as_ref(), standing, policy }.check(false);
                            all += 1;
                        }
                    }
                }
            }
        }
    }
    assert!(dead > all / 100, "{dead} of {all}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn nobody_dies_of_a_whole_fault_that_is_old_news_or_while_nothing_is_settled_or_with_others(
        batch in any_batch(), result in any_result(), envelope in any_envelope(), standing in any_standing(),
    ) {
        let Err(fault) = &result else { return Ok(()) };
        let standing = Standing { is_orphan: false, ..standing };
        let judgement = judge_all(&batch, &result, envelope.as_ref(), &standing, &policy(), 1);
        let dead: Vec<_> = judgement.rows.iter().filter(|row| matches!(row.verdict, Verdict::Dead { .. })).collect();
        prop_assert!(batch.len() == 1 || dead.is_empty());
        let nothing_is_known = standing.settled.is_none() && batch.deletions().iter().all(|row| row.evidence.is_none());
        if fault.cause() != Cause::Rejected && (standing.is_old_news || nothing_is_known) {
            prop_assert!(dead.is_empty());
        }
        let is_suspicious = standing.is_suspect || standing.is_old_news;
        if fault.cause() == Cause::Rejected && is_suspicious && standing.answered.is_none() && envelope.is_none() {
            prop_assert!(dead.is_empty());
        }
    }
}
