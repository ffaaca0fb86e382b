//! Verdicts on rejections: 400, 413 and 422, with which the API says that the content is the reason.

use super::{Case, answered, kept, part};
use crate::model::{
    deletion::{ALONE, Deletion, RequestId},
    outcome::{Cause, HoldEnd, Judged, Judgement, Verdict},
};

impl Case<'_> {
    /// Splits the batch. A rejection of several rows does not say which ID is bad, so it is no evidence about any of them.
    pub(super) fn rejected_together(&self) -> Judgement {
        let (verdict, batch_max) = (self.release_now(Cause::Rejected), Some(part(self.batch().len())));
        self.fault_judgement(None, |row| Judged {
            batch_max,
            first_fault: self.first_rejection(row),
            ..kept(row, verdict)
        })
    }

    /// Judges the rejection of one row. It is believed if a 200 since the row's first rejection shows that the API does not
    /// reject everything. Without such a 200, it is believed only while such rejections are few.
    pub(super) fn rejected_alone(&self) -> Judgement {
        let cause = Cause::Rejected;
        let is_known = |row: &Deletion| row.first_fault.is_some() && self.standing.answered > row.first_fault;
        let is_known = self.batch().only().is_some_and(|row| row.was_rejected && is_known(row));
        if is_known || !(self.standing.is_suspect || self.standing.is_old_news) {
            let hold = (!is_known).then(|| self.hold(self.agent(), cause, HoldEnd::ByStreak));
            // This settles nothing: a rejection does not show that others get through.
            return self.fault_judgement(hold, |row| answered(row, Verdict::Dead { cause }));
        }
        let verdict = self.release_now(cause);
        let hold = self.hold(self.agent(), cause, HoldEnd::ByStreak);
        self.fault_judgement(Some(hold), |row| {
            // If the ID is no number, a single-entry DELETE is documented to say so.
            let batch_max = if !row.is_decimal() && !self.is_single() && self.may_ask(row) { ALONE } else { 1 };
            let asks = row.asks + u32::from(self.is_single());
            Judged { batch_max: Some(batch_max), asks, first_fault: self.first_rejection(row), ..kept(row, verdict) }
        })
    }

    /// The request that first rejected the row. Faults of another kind before it are dropped: a 200 between such a fault and
    /// the rejection does not show that the API accepts anything since.
    fn first_rejection(&self, row: &Deletion) -> Option<RequestId> {
        if row.was_rejected { self.first_fault(row) } else { Some(self.sent.request) }
    }
}
