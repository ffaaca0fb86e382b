//! Verdicts on faults of a whole request that may be an outage, or may be the doing of one ID in the request.

use super::{Case, kept, part, to_be_asked};
use crate::model::{
    deletion::{ALONE, Deletion, MAX_BATCH_SIZE, RequestId},
    outcome::{Cause, Fault, Hold, Judged, Judgement},
};

impl Case<'_> {
    pub(super) fn whole(&self, fault: &Fault, hold: Option<Hold>) -> Judgement {
        let (unseen, cause) = (matches!(fault, Fault::Garbled | Fault::Lost), fault.cause());
        // If nobody gets through, no row is the reason. A throttled row comes back at the time that the API asked for.
        let released = if cause == Cause::Throttled { self.release_now(cause) } else { self.release_later(cause) };
        self.fault_judgement(hold, |row| {
            let judged = if self.counts_as_a_whole(row) {
                self.counted_as_a_whole(row, fault)
            } else {
                Judged { batch_max: self.smaller(row), ..kept(row, released) }
            };
            let first_fault = if self.is_about_one_to_be_asked(row) { None } else { self.first_fault(row) };
            Judged { maybe_done: row.maybe_done || unseen, first_fault, ..judged }
        })
    }

    /// Whether the fault counts as an attempt of this row: others get through, and this row does not.
    pub(super) fn counts_as_a_whole(&self, row: &Deletion) -> bool {
        if self.standing.is_orphan {
            return true;
        }
        if self.standing.is_old_news {
            return false;
        }
        // The row first failed together with others that got through since, and now fails alone. The size of the batch is not
        // enough to tell, because rejections split a batch without anything having got through.
        let got_through =
            row.first_fault.is_some() && (row.evidence.is_some() || self.standing.settled > row.first_fault);
        let is_told_apart = got_through && self.batch().lane().batch_max <= 1 && self.batch().len() == 1;
        self.is_witnessed(row) || (is_told_apart && self.standing.is_only_work)
    }

    fn counted_as_a_whole(&self, row: &Deletion, fault: &Fault) -> Judged {
        let (cause, len) = (fault.cause(), self.batch().len());
        if self.is_about_one_to_be_asked(row) {
            return self.ask_again(row, cause);
        }
        if len > 1 {
            // The last attempt of a row is about that row alone. A throttled answer and a status outside of the contract do not
            // count for a batch.
            let is_counted = !self.is_last(row) && matches!(cause, Cause::ServerError | Cause::Garbled | Cause::Lost);
            let verdict = if is_counted { self.retry_unless_last(row, cause) } else { self.release_later(cause) };
            return Judged { batch_max: self.smaller(row), ..kept(row, verdict) };
        }
        let was_to_be_asked = self.batch().lane().batch_max == ALONE;
        if self.is_last(row) && !was_to_be_asked && row.asks == 0 && self.may_ask(row) && !self.standing.is_orphan {
            return to_be_asked(row, self.release_later(cause));
        }
        let batch_max = if self.is_last(row) { MAX_BATCH_SIZE } else { 1 };
        // The row failed alone after others got through. This is stored, because a restart must not forget it.
        let evidence = row.evidence.or(self.is_witnessed(row).then_some(self.sent.request));
        Judged { batch_max: Some(batch_max), asks: 0, evidence, ..kept(row, self.retry(row, cause)) }
    }

    /// The next batch size of a row, if the batch is split: it failed again, and something got through since the row first
    /// failed, so one ID in the batch may be the reason.
    fn smaller(&self, row: &Deletion) -> Option<u8> {
        let is_again = row.first_fault.is_some() && self.batch().len() > 1;
        let got_through = self.standing.is_orphan || self.standing.settled > row.first_fault;
        (is_again && got_through && !self.standing.is_old_news).then(|| part(self.batch().len()))
    }

    pub(super) fn first_fault(&self, row: &Deletion) -> Option<RequestId> {
        row.first_fault.or(Some(self.sent.request))
    }
}
