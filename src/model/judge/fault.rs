//! Verdicts on every outcome other than a 200: the table from cause to verdict and hold.

use super::{Case, kept};
use crate::model::{
    deletion::Deletion,
    outcome::{Cause, Fault, Hold, HoldEnd, Judged, Judgement, Scope},
};

impl Case<'_> {
    pub(super) fn fault(&self, fault: &Fault) -> Judgement {
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
                // If others get through, the fault is about this request, and a hold of the agent would not help.
                let is_about_it = self.rows().iter().any(|row| self.counts_as_a_whole(row));
                self.whole(fault, Some(hold).filter(|_| !is_about_it))
            }
            Cause::ServerError
            | Cause::Garbled
            | Cause::Lost
            | Cause::ApiFailed
            | Cause::ApiContradicted
            | Cause::ApiSilent
            | Cause::Operator
            | Cause::Verify => self.whole(fault, Some(self.hold(self.agent(), cause, HoldEnd::ByStreak))),
        }
    }

    /// Releases every row unchanged, because the fault says nothing about the rows.
    fn released(&self, cause: Cause, hold: Hold) -> Judgement {
        let verdict = self.release_now(cause);
        self.fault_judgement(Some(hold), |row| kept(row, verdict))
    }

    pub(super) fn fault_judgement(&self, hold: Option<Hold>, judged: impl Fn(&Deletion) -> Judged) -> Judgement {
        let rows = self.rows().iter().map(judged).collect();
        Judgement { rows, hold, strays: 0, is_answer: false, has_settled: false, asks_first: false, is_refused: false }
    }
}
