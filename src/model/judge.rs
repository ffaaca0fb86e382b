//! What follows from a call. [`judge`] is the decision table of the documentation, and this file and its parts decide what
//! counts as evidence about a row.

mod answer;
mod fault;
mod rejection;
mod single;
mod whole;

use std::time::Duration;

use crate::model::{
    backoff::{Backoff, Jitter},
    clock::Timestamp,
    deletion::{ALONE, Batch, Deletion, Kind, MAX_BATCH_SIZE, RequestId},
    envelope::Envelope,
    outcome::{Answer, Cause, Fault, Hold, HoldEnd, Judged, Judgement, RetryAfter, Scope, Verdict},
};

/// How many single-entry DELETEs of a row may tell nothing (server errors, refusals, no answer). After that, the verdict is the
/// one that the bulk deletes allow.
pub const MAX_ASKS: u32 = 3;

/// The part of the configuration that verdicts depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How many counted attempts a row has before it is dead; at least 1.
    pub max_attempts: u32,
    /// Whether a single-entry DELETE asks about a row that bulk deletes cannot settle.
    pub ask_singly: bool,
    /// The delays between attempts.
    pub retry: Backoff,
    /// The shortest pause that a `Retry-After` can ask for.
    pub min_retry_after: Duration,
    /// The longest pause that a `Retry-After` can ask for.
    pub max_retry_after: Duration,
}

/// A request as it was sent.
#[derive(Clone, Copy, Debug)]
pub struct Sent<'a> {
    /// The request's number.
    pub request: RequestId,
    /// The rows in the request.
    pub batch: &'a Batch,
    /// The correlation ID that was sent with the request.
    pub correlation_id: &'a str,
}

/// The outcome of a request.
#[derive(Clone, Copy, Debug)]
pub struct Heard<'a> {
    /// The two lists, or a fault.
    pub result: &'a Result<Answer, Fault>,
    /// The error, if its body has a shape that the API itself uses.
    pub envelope: Option<&'a Envelope>,
}

/// The outcomes of other requests of this process, as far as a verdict depends on them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The newest request of this agent that settled something.
    pub settled: Option<RequestId>,
    /// The newest request of any agent that settled something.
    pub settled_by_anybody: Option<RequestId>,
    /// The agent has no rows beside those of this request.
    pub is_all_work: bool,
    /// The newest request of this agent that was answered with a 200.
    pub answered: Option<RequestId>,
    /// A single-entry DELETE of this agent was answered with a 200, so the API has this route.
    pub singles_answered: bool,
    /// The agent has no other rows that are due.
    pub is_only_work: bool,
    /// After answers that deleted nothing, the API itself said that a row of this agent is gone. So such answers are about the
    /// rows.
    pub is_vouched: bool,
    /// A streak of this agent, or of several, is long enough for a hold, or has placed one.
    pub is_suspect: bool,
    /// One more fault that counts towards the streak makes it long enough for a hold.
    pub completes_streak: bool,
    /// The request was sent before the present hold was placed, so its outcome belongs to the same incident.
    pub is_old_news: bool,
    /// Single-entry DELETEs of this agent are refused.
    pub asks_refused: bool,
    /// The daemon ended before the answer came. The attempt counts whatever other requests came to: a request that ends the
    /// daemon must not be sent for ever.
    pub is_orphan: bool,
}

/// Decides on a verdict for each row and on a hold, from the outcome of one request.
///
/// Each row gets exactly one verdict, whatever the answer says. `rng` is drawn from once.
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

/// A request to be judged, with all that its verdicts depend on.
struct Case<'a> {
    sent: Sent<'a>,
    heard: Heard<'a>,
    standing: &'a Standing,
    policy: &'a Policy,
    now: Timestamp,
    jitter: Jitter,
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

    fn agent(&self) -> Scope {
        Scope::Agent(self.batch().lane().agent.clone())
    }

    /// Whether something got through after the row's last request. Then a row that failed before and fails now does so while
    /// others do not.
    fn is_witnessed(&self, row: &Deletion) -> bool {
        let Standing { settled, settled_by_anybody, is_all_work, .. } = *self.standing;
        // The row fails alone and again, and nothing of its agent was settled in between. So the agent's other rows had their
        // turn and failed, too, and only another agent can show that the API is well.
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

    /// Retries the row, or gives it up if this was its last attempt.
    fn retry(&self, row: &Deletion, cause: Cause) -> Verdict {
        if self.is_last(row) { Verdict::Dead { cause } } else { self.retry_unless_last(row, cause) }
    }

    fn retry_unless_last(&self, row: &Deletion, cause: Cause) -> Verdict {
        let delay = self.policy.retry.spread(row.attempts.saturating_add(1), self.jitter);
        Verdict::Retry { due_at: self.not_before_asked(self.now.plus(delay)), cause }
    }

    /// Releases the row after the first delay of the schedule, because the reason may take a while to pass.
    fn release_later(&self, cause: Cause) -> Verdict {
        let delay = self.policy.retry.spread(1, self.jitter);
        Verdict::Release { due_at: self.not_before_asked(self.now.plus(delay)), cause }
    }

    fn release_now(&self, cause: Cause) -> Verdict {
        Verdict::Release { due_at: self.not_before_asked(self.now), cause }
    }

    /// Moves `due_at` to the time that a `Retry-After` asks for, but at most by the longest retry delay.
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
}

/// Gives the row this verdict and changes nothing else in it.
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

/// Gives the row this verdict from an answer about the row itself: if it comes back, it may join full batches again.
fn answered(row: &Deletion, verdict: Verdict) -> Judged {
    Judged { batch_max: Some(MAX_BATCH_SIZE), asks: 0, first_fault: None, ..kept(row, verdict) }
}

/// Gives the row this verdict and moves it to the lane for single-entry DELETEs.
fn to_be_asked(row: &Deletion, verdict: Verdict) -> Judged {
    Judged { batch_max: Some(ALONE), ..kept(row, verdict) }
}

/// How many rows of a batch that failed as a whole may go together next: the largest power of two below its size.
///
/// The parts of twenty are sixteen and four, and not ten and ten. From then on halves are even, so no row travels more than
/// five times: one bad ID among twenty is found in at most 11 requests, and two in at most 18, in whatever order the parts are
/// sent. Halves of ten, five, three and two take up to 19.
fn part(len: usize) -> u8 {
    let largest = len.next_power_of_two() / 2;
    u8::try_from(largest).unwrap_or(MAX_BATCH_SIZE).clamp(1, MAX_BATCH_SIZE)
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
