//! Verdicts on a 200 with the two lists, or with `success`.

use std::collections::HashMap;

use super::{Case, answered, to_be_asked};
use crate::model::{
    deletion::Deletion,
    outcome::{Answer, Cause, HoldEnd, Judged, Judgement, Verdict},
};

/// In which lists of a 200 a row's ID is.
#[derive(Clone, Copy, Default)]
struct Listed {
    deleted: bool,
    failed: bool,
}

impl Case<'_> {
    pub(super) fn answer(&self, answer: &Answer) -> Judgement {
        let (listed, strays) = self.listed(answer);
        let has_settled = listed.iter().any(|listed| listed.deleted && !listed.failed);
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
            judged.push(if has_settled {
                // The same answer deleted others, so this failure is evidence about the row.
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

    /// The lists that each row is in, in the batch's order, and the number of IDs that were not sent.
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

    /// A row that the answer did not delete. A bulk delete gives no reason. So if the row would be dead, or may already be
    /// gone, a single-entry DELETE asks about it. The two requests are one attempt, and only the second counts.
    fn unsettled(&self, row: &Deletion, cause: Cause) -> Judged {
        let may_be_gone = row.maybe_done && cause == Cause::ApiFailed;
        if !self.is_single() && self.may_ask(row) && (self.is_last(row) || may_be_gone) {
            return to_be_asked(row, self.release_now(cause));
        }
        let judged = answered(row, self.retry(row, cause));
        // A bulk delete does not say whether there is such an entry, so a row that it makes dead is unconfirmed.
        let is_unconfirmed = !self.is_single() && matches!(judged.verdict, Verdict::Dead { .. });
        Judged { maybe_done: judged.maybe_done || is_unconfirmed, ..judged }
    }

    /// A row of a 200 that deleted nothing, or of a `"success": false`. Either the rows are the reason, or this is an outage
    /// that is answered with 200.
    fn failed_with_all(&self, row: &Deletion, cause: Cause) -> Judged {
        let others_got_through = self.standing.is_vouched || (!self.standing.is_old_news && self.is_witnessed(row));
        let is_about_this_row = self.is_single() || self.standing.is_only_work;
        let is_known = !self.standing.is_old_news && row.evidence.is_some() && is_about_this_row;
        if others_got_through || is_known {
            // If several rows fail together, that is evidence about the request only.
            let is_evidence = self.is_witnessed(row) && self.batch().len() == 1;
            let evidence = row.evidence.or(is_evidence.then_some(self.sent.request));
            return Judged { evidence, ..self.unsettled(row, cause) };
        }
        let cannot_ask = !self.is_single() && !self.may_ask(row);
        if cannot_ask && !self.standing.is_old_news {
            // Nothing could ever tell more: the attempt counts, and a row that ends this way is unconfirmed.
            return self.unsettled(row, cause);
        }
        if self.is_single() || self.standing.is_suspect || self.standing.is_old_news {
            return Judged { asks: row.asks, ..answered(row, self.release_later(cause)) };
        }
        // While such answers are few, the attempt counts; the last one still needs a single-entry DELETE.
        self.unsettled(row, cause)
    }

    /// Moves one row to the lane for single-entry DELETEs, before the agent is held for answers that delete nothing. Takes the
    /// row with the fewest such requests so far. Returns false if no row may be asked about.
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
}
