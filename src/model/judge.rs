//! What follows from a call: [`judge`] is the whole decision table of the documentation.
//!
//! What a request as a whole came to is evidence about the request. A row is condemned, and an entry believed gone, only
//! on evidence about that row: this file decides what that is.

use std::{collections::HashMap, time::Duration};

use crate::model::{
    backoff::{Backoff, Jitter},
    clock::Timestamp,
    deletion::{ALONE, Batch, Deletion, Kind, MAX_BATCH_SIZE, RequestId},
    envelope::Envelope,
    outcome::{Answer, Cause, Fault, Hold, HoldEnd, Judged, Judgement, RetryAfter, Scope, Verdict},
};

/// How often one row is asked about alone without anything being learnt (server errors, refusals, no answer), until what
/// the bulk delete left open counts as it is.
pub const MAX_ASKS: u32 = 3;

/// What [`judge`] goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How many counted attempts a row has before it is dead; at least 1.
    pub max_attempts: u32,
    /// Whether a row that a bulk delete cannot settle is asked about alone.
    pub ask_singly: bool,
    /// The delays between them.
    pub retry: Backoff,
    /// The shortest pause that a `Retry-After` can ask for.
    pub min_retry_after: Duration,
    /// The longest.
    pub max_retry_after: Duration,
}

/// A request, as it was sent.
#[derive(Clone, Copy, Debug)]
pub struct Sent<'a> {
    /// Its number.
    pub request: RequestId,
    /// Its content.
    pub batch: &'a Batch,
    /// The ID that went with it.
    pub correlation_id: &'a str,
}

/// What came back, or did not.
#[derive(Clone, Copy, Debug)]
pub struct Heard<'a> {
    /// The two lists, or what it came to instead.
    pub result: &'a Result<Answer, Fault>,
    /// The error, if it was one in a shape of the API's own.
    pub envelope: Option<&'a Envelope>,
}

/// What the other requests of this life came to, as far as it bears on a verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The newest request of this agent by whose answer something was settled.
    pub settled: Option<RequestId>,
    /// The newest of anybody.
    pub settled_by_anybody: Option<RequestId>,
    /// The agent has no rows beside those of this request.
    pub is_all_work: bool,
    /// The newest request of this agent that was answered with a 200.
    pub answered: Option<RequestId>,
    /// A single-entry DELETE of this agent was answered with a 200: there is such a route.
    pub singles_answered: bool,
    /// The agent has no other rows that are due.
    pub is_only_work: bool,
    /// The API itself said of a row of this agent that it is gone, after answers that deleted nothing: those are about rows.
    pub is_vouched: bool,
    /// The faults in a row of this agent, or of several, have reached the number that holds, or such a hold is on.
    pub is_suspect: bool,
    /// One more fault by streak, of this request, would reach that number.
    pub completes_streak: bool,
    /// The request was sent before the hold that is on was placed: its answer is no news.
    pub is_old_news: bool,
    /// Requests about one row of this agent are refused.
    pub asks_refused: bool,
    /// It counts whatever others came to: the daemon ended before the answer, and a request that ends it must not be sent
    /// for ever.
    pub is_orphan: bool,
}

/// Decides what becomes of each row and whether anything is to be held, from what the call returned.
///
/// Exactly one verdict for each row, whatever the answer says. `rng` is drawn from once.
#[must_use]
pub fn judge(
    sent: Sent<'_>,
    heard: Heard<'_>,
    standing: &Standing,
    policy: &Policy,
    now: Timestamp,
    rng: &mut fastrand::Rng,
) -> Judgement {
    let case = Case { sent, heard, standing, policy, now, jitter: Jitter::draw(rng) };
    match heard.result {
        Ok(answer) => case.answer(answer),
        Err(fault) => case.fault(fault),
    }
}

struct Case<'a> {
    sent: Sent<'a>,
    heard: Heard<'a>,
    standing: &'a Standing,
    policy: &'a Policy,
    now: Timestamp,
    jitter: Jitter,
}

/// What a 200 lists of one row.
#[derive(Clone, Copy, Default)]
struct Listed {
    deleted: bool,
    failed: bool,
}

impl Case<'_> {
    fn batch(&self) -> &Batch {
        self.sent.batch
    }

    fn rows(&self) -> &[Deletion] {
        self.sent.batch.deletions()
    }

    fn is_single(&self) -> bool {
        self.batch().kind() == Kind::Single
    }

    /// Something got through after the row's last request: what failed then and fails now does so while others do not.
    fn is_witnessed(&self, row: &Deletion) -> bool {
        let Standing { settled, settled_by_anybody, is_all_work, .. } = *self.standing;
        // Alone, and again without anything of its agent having been settled: the agent's other rows had their turn meanwhile
        // and failed, too. So it is for others to show that the API is well.
        let is_next_round = self.batch().len() == 1 && row.first_fault.is_some() && row.last_request > settled;
        let by_anybody = (is_all_work || is_next_round) && settled_by_anybody > row.last_request;
        row.last_request.is_some() && (settled > row.last_request || by_anybody)
    }

    fn is_last(&self, row: &Deletion) -> bool {
        row.attempts.saturating_add(1) >= self.policy.max_attempts
    }

    fn may_ask(&self, row: &Deletion) -> bool {
        self.policy.ask_singly && !self.standing.asks_refused && row.asks < MAX_ASKS && row.entry.can_be_in_a_path()
    }

    /// The attempt counts, and is the last one, or the row comes back.
    fn retry(&self, row: &Deletion, cause: Cause) -> Verdict {
        if self.is_last(row) { Verdict::Dead { cause } } else { self.retry_unless_last(row, cause) }
    }

    fn retry_unless_last(&self, row: &Deletion, cause: Cause) -> Verdict {
        let delay = self.policy.retry.spread(row.attempts.saturating_add(1), self.jitter);
        Verdict::Retry { due_at: self.not_before_asked(self.now.plus(delay)), cause }
    }

    /// The attempt does not count, and the row comes back after the first delay of the schedule: what it failed of may take
    /// a while.
    fn release_later(&self, cause: Cause) -> Verdict {
        let delay = self.policy.retry.spread(1, self.jitter);
        Verdict::Release { due_at: self.not_before_asked(self.now.plus(delay)), cause }
    }

    fn release_now(&self, cause: Cause) -> Verdict {
        Verdict::Release { due_at: self.not_before_asked(self.now), cause }
    }

    /// Not before the `Retry-After` that came with it; no row waits longer for that than for a failure.
    fn not_before_asked(&self, due_at: Timestamp) -> Timestamp {
        let most = self.now.plus(self.policy.retry.max());
        self.asked_time().map_or(due_at, |asked| due_at.max(asked.min(most)))
    }

    /// The time that a `Retry-After` asks for, within the limits of the configuration.
    fn asked_time(&self) -> Option<Timestamp> {
        let wish = match self.heard.result.as_ref().err()?.retry_after()? {
            RetryAfter::Seconds(seconds) => self.now.plus(Duration::from_secs(seconds)),
            RetryAfter::At(at) => at,
        };
        let Policy { min_retry_after: min, max_retry_after: max, .. } = *self.policy;
        Some(wish.clamp(self.now.plus(min), self.now.plus(max.max(min))))
    }

    fn hold(&self, scope: Scope, cause: Cause, end: HoldEnd) -> Hold {
        let may_be_content = self.heard.result.as_ref().err().is_some_and(Fault::may_be_the_content);
        Hold { scope, cause, end, not_before: self.asked_time(), may_be_content }
    }

    fn agent(&self) -> Scope {
        Scope::Agent(self.batch().lane().agent.clone())
    }

    // ---- A 200 with the two lists, or with `success`.

    fn answer(&self, answer: &Answer) -> Judgement {
        let (listed, strays) = self.listed(answer);
        let is_deleted = |listed: &Listed| listed.deleted && !listed.failed;
        let has_settled = listed.iter().any(is_deleted);
        let mut cause = Cause::ApiSilent;
        let mut judged = Vec::with_capacity(listed.len());
        for (row, listed) in self.rows().iter().zip(&listed) {
            let unsettled = match (listed.deleted, listed.failed) {
                (true, false) => {
                    judged.push(answered(row, Verdict::Deleted));
                    continue;
                }
                (false, true) => Cause::ApiFailed,
                (true, true) => Cause::ApiContradicted,
                (false, false) => Cause::ApiSilent,
            };
            cause = unsettled;
            // Others were deleted by the same answer: it is about this row.
            judged.push(if has_settled {
                Judged { evidence: row.evidence.or(Some(self.sent.request)), ..self.unsettled(row, unsettled) }
            } else {
                self.failed_with_all(row, unsettled)
            });
        }
        let by_streak = !has_settled && !self.standing.is_vouched;
        let asks_first = by_streak && self.ask_one(&mut judged, cause);
        let hold = by_streak.then(|| self.hold(self.agent(), cause, HoldEnd::ByStreak));
        Judgement { rows: judged, hold, strays, is_answer: true, has_settled, asks_first, is_refused: false }
    }

    fn listed(&self, answer: &Answer) -> (Vec<Listed>, usize) {
        let position: HashMap<&str, usize> =
            self.rows().iter().enumerate().map(|(at, row)| (row.entry.as_str(), at)).collect();
        let mut listed = vec![Listed::default(); self.rows().len()];
        let mut strays = 0;
        for id in &answer.deleted {
            match position.get(id.as_str()) {
                Some(&at) => listed[at].deleted = true,
                None => strays += 1,
            }
        }
        for id in &answer.failed {
            match position.get(id.as_str()) {
                Some(&at) => listed[at].failed = true,
                None => strays += 1,
            }
        }
        (listed, strays)
    }

    /// The bulk delete gives no reason. Where that would be the end, or the row may be gone already, one request about it
    /// alone tells, and the two of them are one attempt: it is the second that counts.
    fn unsettled(&self, row: &Deletion, cause: Cause) -> Judged {
        let may_be_gone = row.maybe_done && cause == Cause::ApiFailed;
        if !self.is_single() && self.may_ask(row) && (self.is_last(row) || may_be_gone) {
            return to_be_asked(row, self.release_now(cause));
        }
        let judged = answered(row, self.retry(row, cause));
        // Nobody has said whether there is such an entry: its end is unconfirmed.
        let is_unconfirmed = !self.is_single() && matches!(judged.verdict, Verdict::Dead { .. });
        Judged { maybe_done: judged.maybe_done || is_unconfirmed, ..judged }
    }

    /// A 200 that deleted nothing, or a `"success": false`: the rows may be the reason, or it is an outage that is spoken
    /// politely.
    fn failed_with_all(&self, row: &Deletion, cause: Cause) -> Judged {
        let others_got_through = self.standing.is_vouched || (!self.standing.is_old_news && self.is_witnessed(row));
        let says_it = self.is_single() || self.standing.is_only_work;
        let is_known = !self.standing.is_old_news && row.evidence.is_some() && says_it;
        if others_got_through || is_known {
            // That several fail together is evidence about the request.
            let is_evidence = self.is_witnessed(row) && self.batch().len() == 1;
            let evidence = row.evidence.or(is_evidence.then_some(self.sent.request));
            return Judged { evidence, ..self.unsettled(row, cause) };
        }
        let cannot_ask = !self.is_single() && !self.may_ask(row);
        if cannot_ask && !self.standing.is_old_news {
            // Nothing else could ever tell: the attempt counts, and the end is unconfirmed.
            return self.unsettled(row, cause);
        }
        if self.is_single() || self.standing.is_suspect || self.standing.is_old_news {
            return Judged { asks: row.asks, ..answered(row, self.release_later(cause)) };
        }
        // As long as such answers are few, it counts; but the end needs more than that.
        self.unsettled(row, cause)
    }

    /// Before the agent is held because of answers that delete nothing, the API is asked about one of the rows alone. The
    /// row that was asked about least often is taken.
    fn ask_one(&self, judged: &mut [Judged], cause: Cause) -> bool {
        let is_time = self.standing.is_suspect || self.standing.completes_streak;
        if self.is_single() || !is_time || self.standing.is_old_news {
            return false;
        }
        let rows = self.rows().iter().zip(judged);
        let Some((row, judged)) =
            rows.filter(|(row, _)| self.may_ask(row)).min_by_key(|(row, _)| (row.asks, row.attempts))
        else {
            return false;
        };
        *judged = to_be_asked(row, self.release_now(cause));
        true
    }

    // ---- Everything else.

    fn fault(&self, fault: &Fault) -> Judgement {
        if self.is_single() {
            if let Some(judgement) = self.word_about_the_entry(fault) {
                return judgement;
            }
            if self.is_refusal(fault) {
                return self.refused(fault);
            }
        }
        let cause = fault.cause();
        match cause {
            Cause::Rejected if self.batch().len() == 1 => self.rejected_alone(),
            Cause::Rejected => self.rejected_together(),
            Cause::Unauthorized | Cause::Untrusted => {
                self.released(cause, self.hold(Scope::All, cause, HoldEnd::Growing))
            }
            Cause::Forbidden | Cause::UnknownAgent => {
                self.released(cause, self.hold(self.agent(), cause, HoldEnd::Growing))
            }
            Cause::Unreachable => self.released(cause, self.hold(Scope::All, cause, HoldEnd::ByStreak)),
            Cause::Contract if fault.is_of_the_whole_api() => {
                self.released(cause, self.hold(Scope::All, cause, HoldEnd::Growing))
            }
            Cause::Throttled => {
                let end = self.asked_time().map_or(HoldEnd::Growing, HoldEnd::At);
                let hold = self.hold(Scope::All, cause, end);
                if fault.may_be_the_content() { self.whole(fault, Some(hold)) } else { self.released(cause, hold) }
            }
            Cause::Contract => {
                let hold = self.hold(self.agent(), cause, HoldEnd::Growing);
                // Others get through: it is about this request, and holding the agent would not mend it.
                let is_about_it = self.rows().iter().any(|row| self.counts_as_a_whole(row));
                self.whole(fault, Some(hold).filter(|_| !is_about_it))
            }
            Cause::ServerError
            | Cause::Garbled
            | Cause::Lost
            | Cause::ApiFailed
            | Cause::ApiContradicted
            | Cause::ApiSilent
            | Cause::Operator => self.whole(fault, Some(self.hold(self.agent(), cause, HoldEnd::ByStreak))),
        }
    }

    /// What says nothing about the rows: they come back as they were.
    fn released(&self, cause: Cause, hold: Hold) -> Judgement {
        let verdict = self.release_now(cause);
        self.fault_judgement(Some(hold), |row| kept(row, verdict))
    }

    fn fault_judgement(&self, hold: Option<Hold>, judged: impl Fn(&Deletion) -> Judged) -> Judgement {
        let rows = self.rows().iter().map(judged).collect();
        Judgement { rows, hold, strays: 0, is_answer: false, has_settled: false, asks_first: false, is_refused: false }
    }

    /// A request about one row to which the API itself gave its word.
    fn word_about_the_entry(&self, fault: &Fault) -> Option<Judgement> {
        let row = self.batch().only()?;
        let envelope = self.heard.envelope;
        let cause = fault.cause();
        let verdict = if cause == Cause::UnknownAgent && self.standing.answered.is_some() {
            // A gateway and a wrong region answer 404, too.
            let is_word = envelope.is_some_and(|said| said.is_word_about_the_entry(self.sent.correlation_id));
            let speaks_of_else = envelope.is_some_and(Envelope::speaks_of_something_else);
            let is_of_another =
                envelope.is_some_and(|said| said.error_id.is_some() && !said.is_ours(self.sent.correlation_id));
            let is_route = self.standing.singles_answered && !speaks_of_else && !is_of_another;
            (is_word || is_route).then_some(Verdict::Absent)?
        } else if cause == Cause::Rejected && !row.is_decimal() {
            // Documented as "Invalid ID".
            let is_word = envelope.is_some_and(|said| said.is_ours(self.sent.correlation_id));
            is_word.then_some(Verdict::Dead { cause })?
        } else {
            return None;
        };
        Some(Judgement {
            is_answer: true,
            has_settled: true,
            ..self.fault_judgement(None, |row| answered(row, verdict))
        })
    }

    /// Whether a fault of a request about one row refuses such requests, or everything.
    fn is_refusal(&self, fault: &Fault) -> bool {
        let is_word = self.heard.envelope.is_some_and(|said| said.is_ours(self.sent.correlation_id));
        match fault.cause() {
            Cause::Unauthorized | Cause::Forbidden | Cause::UnknownAgent => true,
            Cause::Rejected => !is_word,
            Cause::Contract => fault.is_of_the_whole_api(),
            Cause::ApiFailed
            | Cause::ApiContradicted
            | Cause::ApiSilent
            | Cause::Garbled
            | Cause::Throttled
            | Cause::ServerError
            | Cause::Lost
            | Cause::Unreachable
            | Cause::Untrusted
            | Cause::Operator => false,
        }
    }

    /// Everything may be refused, or only requests about one row. The next bulk delete with the row in it tells which, and
    /// places the hold if that needs a person.
    fn refused(&self, fault: &Fault) -> Judgement {
        let verdict = self.release_now(fault.cause());
        let judged = |row: &Deletion| Judged {
            batch_max: Some(if row.first_fault.is_some() { 1 } else { MAX_BATCH_SIZE }),
            asks: row.asks.saturating_add(1),
            ..kept(row, verdict)
        };
        Judgement { is_refused: true, ..self.fault_judgement(None, judged) }
    }

    /// A rejection of several rows tells nobody which ID was bad, and nothing about any of them: they go in parts.
    fn rejected_together(&self) -> Judgement {
        let (verdict, batch_max) = (self.release_now(Cause::Rejected), Some(part(self.batch().len())));
        self.fault_judgement(None, |row| Judged {
            batch_max,
            first_fault: self.first_rejection(row),
            ..kept(row, verdict)
        })
    }

    /// A rejection of one row is believed if a 200 since it was first rejected shows that not everything is. Without that,
    /// only as long as such rejections are few.
    fn rejected_alone(&self) -> Judgement {
        let cause = Cause::Rejected;
        let is_known = |row: &Deletion| row.first_fault.is_some() && self.standing.answered > row.first_fault;
        let is_known = self.batch().only().is_some_and(|row| row.was_rejected && is_known(row));
        if is_known || !(self.standing.is_suspect || self.standing.is_old_news) {
            let hold = (!is_known).then(|| self.hold(self.agent(), cause, HoldEnd::ByStreak));
            // It says nothing about others: as little as a rejection of several rows.
            return self.fault_judgement(hold, |row| answered(row, Verdict::Dead { cause }));
        }
        let verdict = self.release_now(cause);
        let hold = self.hold(self.agent(), cause, HoldEnd::ByStreak);
        self.fault_judgement(Some(hold), |row| {
            // Of an ID that is no number, the single-entry DELETE is documented to say so.
            let batch_max = if !row.is_decimal() && !self.is_single() && self.may_ask(row) { ALONE } else { 1 };
            let asks = row.asks + u32::from(self.is_single());
            Judged { batch_max: Some(batch_max), asks, first_fault: self.first_rejection(row), ..kept(row, verdict) }
        })
    }

    /// A fault of another kind before the first rejection is forgotten: a 200 between the two does not show that anything is
    /// accepted since.
    fn first_rejection(&self, row: &Deletion) -> Option<RequestId> {
        if row.was_rejected { self.first_fault(row) } else { Some(self.sent.request) }
    }

    fn first_fault(&self, row: &Deletion) -> Option<RequestId> {
        row.first_fault.or(Some(self.sent.request))
    }

    /// Whether a fault of the whole request counts as an attempt of this row.
    fn counts_as_a_whole(&self, row: &Deletion) -> bool {
        if self.standing.is_orphan {
            return true;
        }
        if self.standing.is_old_news {
            return false;
        }
        // It has failed before with others that got through since, and was told apart from them. Rejections alone tell rows
        // apart, too, without anything having got through.
        let got_through =
            row.first_fault.is_some() && (row.evidence.is_some() || self.standing.settled > row.first_fault);
        let is_told_apart = got_through && self.batch().lane().batch_max <= 1 && self.batch().len() == 1;
        self.is_witnessed(row) || (is_told_apart && self.standing.is_only_work)
    }

    /// A fault of the whole request, for which something in its content may be the reason, or an outage.
    fn whole(&self, fault: &Fault, hold: Option<Hold>) -> Judgement {
        let (unseen, cause) = (matches!(fault, Fault::Garbled | Fault::Lost), fault.cause());
        // Nobody gets through: that is no row's doing. Whoever says when to come again is taken at that word.
        let released = if cause == Cause::Throttled { self.release_now(cause) } else { self.release_later(cause) };
        self.fault_judgement(hold, |row| {
            let judged = if self.counts_as_a_whole(row) {
                self.counted_as_a_whole(row, fault)
            } else {
                Judged { batch_max: self.smaller(row), ..kept(row, released) }
            };
            let asks_of_it_alone = self.is_about_one_to_be_asked(row);
            let first_fault = if asks_of_it_alone { None } else { self.first_fault(row) };
            Judged { maybe_done: row.maybe_done || unseen, first_fault, ..judged }
        })
    }

    /// How many rows a row goes with next: with fewer, if something got through since it first failed with others. One ID of
    /// them may be the reason.
    fn smaller(&self, row: &Deletion) -> Option<u8> {
        let is_again = row.first_fault.is_some() && self.batch().len() > 1;
        let got_through = self.standing.is_orphan || self.standing.settled > row.first_fault;
        (is_again && got_through && !self.standing.is_old_news).then(|| part(self.batch().len()))
    }

    /// The request was to ask about this row alone, or stood in for that.
    fn is_about_one_to_be_asked(&self, row: &Deletion) -> bool {
        self.batch().lane().batch_max == ALONE && self.batch().len() == 1 && row.first_fault.is_none()
    }

    fn counted_as_a_whole(&self, row: &Deletion, fault: &Fault) -> Judged {
        let (cause, len) = (fault.cause(), self.batch().len());
        if self.is_about_one_to_be_asked(row) {
            return self.ask_again(row, cause);
        }
        if len > 1 {
            // The last attempt of a row is about it alone; and what is not counted when all fail is not counted here.
            let is_counted = !self.is_last(row) && matches!(cause, Cause::ServerError | Cause::Garbled | Cause::Lost);
            let verdict = if is_counted { self.retry_unless_last(row, cause) } else { self.release_later(cause) };
            return Judged { batch_max: self.smaller(row), ..kept(row, verdict) };
        }
        let was_to_be_asked = self.batch().lane().batch_max == ALONE;
        if self.is_last(row) && !was_to_be_asked && row.asks == 0 && self.may_ask(row) && !self.standing.is_orphan {
            return to_be_asked(row, self.release_later(cause));
        }
        let is_dead = self.is_last(row);
        let batch_max = if is_dead { MAX_BATCH_SIZE } else { 1 };
        // It failed alone after others got through: a restart must not forget that.
        let evidence = row.evidence.or(self.is_witnessed(row).then_some(self.sent.request));
        Judged { batch_max: Some(batch_max), asks: 0, evidence, ..kept(row, self.retry(row, cause)) }
    }

    /// A request about one row alone to which there was no answer: the same again later, and in the end an attempt that
    /// failed.
    fn ask_again(&self, row: &Deletion, cause: Cause) -> Judged {
        let asks = row.asks.saturating_add(1);
        if asks >= MAX_ASKS {
            return answered(row, self.retry(row, cause));
        }
        let due_at = self.not_before_asked(self.now.plus(self.policy.retry.jittered(asks, self.jitter)));
        Judged { asks, ..kept(row, Verdict::Release { due_at, cause }) }
    }
}

/// This verdict, and all else as it was.
fn kept(row: &Deletion, verdict: Verdict) -> Judged {
    Judged {
        id: row.id,
        verdict,
        batch_max: None,
        asks: row.asks,
        maybe_done: row.maybe_done,
        first_fault: row.first_fault,
        evidence: row.evidence,
    }
}

/// The row was answered about by itself: from here on it travels with others, if at all.
fn answered(row: &Deletion, verdict: Verdict) -> Judged {
    Judged { batch_max: Some(MAX_BATCH_SIZE), asks: 0, first_fault: None, ..kept(row, verdict) }
}

fn to_be_asked(row: &Deletion, verdict: Verdict) -> Judged {
    Judged { batch_max: Some(ALONE), ..kept(row, verdict) }
}

/// How many rows of a batch that failed as a whole may go together next: the largest power of two below its size.
///
/// Sixteen and four rather than ten and ten, because from then on halves are even and no row travels more than five
/// times: one bad ID among twenty is found in at most 11 requests and two in at most 18, in whatever order and however
/// much at the same time the parts are sent. Halves of ten, five, three and two take up to 19.
fn part(len: usize) -> u8 {
    let largest = len.next_power_of_two() / 2;
    u8::try_from(largest).unwrap_or(MAX_BATCH_SIZE).clamp(1, MAX_BATCH_SIZE)
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
