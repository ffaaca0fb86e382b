//! Verdicts on faults of a single-entry DELETE, which say more about their row than those of a bulk delete.

use super::{Case, MAX_ASKS, answered, kept};
use crate::model::{
    deletion::{ALONE, Deletion, MAX_BATCH_SIZE},
    envelope::Envelope,
    outcome::{Cause, Fault, Judged, Judgement, Verdict},
};

impl Case<'_> {
    /// The verdict if the fault is the API's own word about the entry.
    pub(super) fn word_about_the_entry(&self, fault: &Fault) -> Option<Judgement> {
        let row = self.batch().only()?;
        let envelope = self.heard.envelope;
        let cause = fault.cause();
        let verdict = if cause == Cause::UnknownAgent && self.standing.answered.is_some() {
            // A gateway or a wrong region answers 404 as well, so the status alone proves nothing.
            let is_word = envelope.is_some_and(|said| said.is_word_about_the_entry(self.sent.correlation_id));
            // The older shape without an ID may be another service's, unless the API has answered such a request before. A body in
            // no shape of the API's is never believed: a gateway that has lost its route answers so.
            let is_of_another = |said: &Envelope| said.error_id.is_some() && !said.is_ours(self.sent.correlation_id);
            let may_be_word = envelope.is_some_and(|said| !said.speaks_of_something_else() && !is_of_another(said));
            let is_route = self.standing.singles_answered && may_be_word;
            (is_word || is_route).then_some(Verdict::Absent)?
        } else if cause == Cause::Rejected && !row.is_decimal() {
            // The documentation calls this answer "Invalid ID".
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

    /// Whether the fault refuses single-entry DELETEs, or everything.
    pub(super) fn is_refusal(&self, fault: &Fault) -> bool {
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
            | Cause::Operator
            | Cause::Verify => false,
        }
    }

    /// Sends the row back to bulk deletes. The next bulk delete with the row shows whether everything is refused or only
    /// single-entry DELETEs, and places the hold if that needs a person.
    pub(super) fn refused(&self, fault: &Fault) -> Judgement {
        let verdict = self.release_now(fault.cause());
        let judged = |row: &Deletion| Judged {
            batch_max: Some(if row.first_fault.is_some() { 1 } else { MAX_BATCH_SIZE }),
            asks: row.asks.saturating_add(1),
            ..kept(row, verdict)
        };
        Judgement { is_refused: true, ..self.fault_judgement(None, judged) }
    }

    /// Whether the request was a single-entry DELETE, or a bulk delete in place of one.
    pub(super) fn is_about_one_to_be_asked(&self, row: &Deletion) -> bool {
        self.batch().lane().batch_max == ALONE && self.batch().len() == 1 && row.first_fault.is_none()
    }

    /// Repeats a request about one row that told nothing. After [`MAX_ASKS`], it counts as a failed attempt.
    pub(super) fn ask_again(&self, row: &Deletion, cause: Cause) -> Judged {
        let asks = row.asks.saturating_add(1);
        if asks >= MAX_ASKS {
            return answered(row, self.retry(row, cause));
        }
        let due_at = self.not_before_asked(self.now.plus(self.policy.retry.jittered(asks, self.jitter)));
        Judged { asks, ..kept(row, Verdict::Release { due_at, cause }) }
    }
}
