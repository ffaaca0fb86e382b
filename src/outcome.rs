//! What came of a call, and what follows from it: [`judge`] is the whole decision table of the README.

use std::collections::HashMap;

use crate::{
    backoff::{Backoff, Jitter},
    clock::Timestamp,
    deletion::{ALONE, AgentId, Batch, Deletion, DeletionId, Kind, MAX_BATCH_SIZE, State},
};

/// So often a row is asked about alone without anything being learnt (server errors, refusals, no answer), until what the
/// bulk delete left open counts as it is.
pub const MAX_ASKS: u32 = 3;

/// The two lists of a 200, unjudged. The answer about a single entry is one list with its ID and one without.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// IDs the API says it deleted.
    pub deleted: Vec<String>,
    /// IDs the API says it did not delete; it gives no reasons.
    pub failed: Vec<String>,
}

/// Everything that a call can come to other than an [`Answer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An HTTP status outside of 2xx.
    Status {
        /// The code.
        status: u16,
        /// The `Retry-After` that came with it, if it was one.
        retry_after: Option<RetryAfter>,
    },
    /// A 2xx that is not the promised JSON, or longer than an answer can be.
    Garbled,
    /// The request was sent, or may have been, and no whole answer came back.
    Lost,
    /// No connection, so nothing was sent.
    Unreachable,
}

/// The two forms of `Retry-After` (RFC 9110, section 10.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryAfter {
    /// So many seconds from now.
    Seconds(u64),
    /// At a date.
    At(Timestamp),
}

/// Why a row or a request is as it is. The strings are the same in the database and in the logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// The API listed the ID as failed.
    ApiFailed,
    /// The API listed the ID as deleted and as failed.
    ApiContradicted,
    /// The API's 200 does not mention the ID.
    ApiSilent,
    /// A 2xx that is not the promised JSON.
    Garbled,
    /// 400, 413 or 422: the request's content is not acceptable.
    Rejected,
    /// 401.
    Unauthorized,
    /// 403.
    Forbidden,
    /// 404: no such agent, or the wrong region.
    UnknownAgent,
    /// A status the contract has no room for.
    Contract,
    /// 429, or 503 with `Retry-After`.
    Throttled,
    /// 408, 500, 502, 503, 504.
    ServerError,
    /// Sent, outcome unknown.
    Lost,
    /// Never sent.
    Unreachable,
    /// A person paused it (holds only).
    Operator,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 14] = [
        Self::ApiFailed,
        Self::ApiContradicted,
        Self::ApiSilent,
        Self::Garbled,
        Self::Rejected,
        Self::Unauthorized,
        Self::Forbidden,
        Self::UnknownAgent,
        Self::Contract,
        Self::Throttled,
        Self::ServerError,
        Self::Lost,
        Self::Unreachable,
        Self::Operator,
    ];

    /// The stable string.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ApiFailed => "api_failed",
            Self::ApiContradicted => "api_contradicted",
            Self::ApiSilent => "api_silent",
            Self::Garbled => "garbled",
            Self::Rejected => "rejected",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::UnknownAgent => "unknown_agent",
            Self::Contract => "contract",
            Self::Throttled => "throttled",
            Self::ServerError => "server_error",
            Self::Lost => "lost",
            Self::Unreachable => "unreachable",
            Self::Operator => "operator",
        }
    }

    /// The cause that has this string.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.as_str() == text)
    }

    /// Whether a hold for this cause waits for a person: no time alone mends a key, a permission or an address.
    #[must_use]
    pub const fn needs_a_person(self) -> bool {
        matches!(self, Self::Unauthorized | Self::Forbidden | Self::UnknownAgent | Self::Contract)
    }

    /// Whether a hold can be placed for it.
    #[must_use]
    pub const fn may_hold(self) -> bool {
        match self {
            Self::ApiFailed | Self::ApiContradicted | Self::ApiSilent | Self::Rejected => false,
            Self::Garbled
            | Self::Unauthorized
            | Self::Forbidden
            | Self::UnknownAgent
            | Self::Contract
            | Self::Throttled
            | Self::ServerError
            | Self::Lost
            | Self::Unreachable
            | Self::Operator => true,
        }
    }

    /// Whether an attempt that ended so counts: it says something about the row.
    #[must_use]
    pub const fn counts(self) -> bool {
        match self {
            Self::ApiFailed
            | Self::ApiContradicted
            | Self::ApiSilent
            | Self::Garbled
            | Self::ServerError
            | Self::Lost => true,
            Self::Rejected
            | Self::Unauthorized
            | Self::Forbidden
            | Self::UnknownAgent
            | Self::Contract
            | Self::Throttled
            | Self::Unreachable
            | Self::Operator => false,
        }
    }
}

impl Fault {
    /// The cause that this fault is recorded as.
    #[must_use]
    pub const fn cause(&self) -> Cause {
        match self {
            Self::Status { status: 400 | 413 | 422, .. } => Cause::Rejected,
            Self::Status { status: 401, .. } => Cause::Unauthorized,
            Self::Status { status: 403, .. } => Cause::Forbidden,
            Self::Status { status: 404, .. } => Cause::UnknownAgent,
            Self::Status { status: 429, .. } | Self::Status { status: 503, retry_after: Some(_) } => Cause::Throttled,
            Self::Status { status: 408 | 500 | 502 | 503 | 504, .. } => Cause::ServerError,
            Self::Status { .. } => Cause::Contract,
            Self::Garbled => Cause::Garbled,
            Self::Lost => Cause::Lost,
            Self::Unreachable => Cause::Unreachable,
        }
    }
}

/// What becomes of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The API said in a 200 that it deleted it: listed as deleted and not as failed, or asked about alone.
    Deleted,
    /// Asked about alone, the API knows no such entry.
    Absent,
    /// Comes back; the attempt is counted.
    Retry {
        /// When.
        due_at: Timestamp,
        /// Why.
        cause: Cause,
    },
    /// Comes back; the attempt is not counted, because it says nothing about the row.
    Release {
        /// When.
        due_at: Timestamp,
        /// Why.
        cause: Cause,
    },
    /// Given up; the attempt is counted.
    Dead {
        /// Why.
        cause: Cause,
    },
}

impl Verdict {
    /// The string in `outcomes.verdict`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::Absent => "absent",
            Self::Retry { .. } => "retry",
            Self::Release { .. } => "release",
            Self::Dead { .. } => "dead",
        }
    }

    /// Why, unless it is simply deleted, or absent.
    #[must_use]
    pub const fn cause(self) -> Option<Cause> {
        match self {
            Self::Deleted | Self::Absent => None,
            Self::Retry { cause, .. } | Self::Release { cause, .. } | Self::Dead { cause } => Some(cause),
        }
    }

    /// Whether the attempt counts towards the limit.
    #[must_use]
    pub const fn counted(self) -> bool {
        !matches!(self, Self::Release { .. })
    }

    /// The state in which the row ends, unless it is to come back.
    #[must_use]
    pub const fn end(self) -> Option<State> {
        match self {
            Self::Deleted => Some(State::Deleted),
            Self::Absent => Some(State::Absent),
            Self::Dead { .. } => Some(State::Dead),
            Self::Retry { .. } | Self::Release { .. } => None,
        }
    }

    /// When the row is due again, if it is to come back.
    #[must_use]
    pub const fn due_at(self) -> Option<Timestamp> {
        match self {
            Self::Retry { due_at, .. } | Self::Release { due_at, .. } => Some(due_at),
            Self::Deleted | Self::Absent | Self::Dead { .. } => None,
        }
    }
}

/// A verdict, with what else changes in its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The row.
    pub id: DeletionId,
    /// What becomes of it.
    pub verdict: Verdict,
    /// How many rows it may be sent with from now on, if that changes.
    pub batch_max: Option<u8>,
    /// How often it has been asked about alone now, and nothing was learnt.
    pub asks: u32,
    /// The attempt may have deleted it, or one before it.
    pub maybe_done: bool,
}

/// What a hold is on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Every agent.
    All,
    /// One agent.
    Agent(AgentId),
}

impl Scope {
    /// Whether `agent` is in it.
    #[must_use]
    pub fn covers(&self, agent: &AgentId) -> bool {
        match self {
            Self::All => true,
            Self::Agent(on) => on == agent,
        }
    }

    /// The string in `holds.scope`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::All => "*",
            Self::Agent(agent) => agent.as_str(),
        }
    }
}

/// A hold that an answer asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// On what.
    pub scope: Scope,
    /// Why.
    pub cause: Cause,
    /// Until when.
    pub end: HoldEnd,
}

/// How long a hold is to last. What depends on what happened before is left to the pace, which remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldEnd {
    /// At once, and longer each time in a row.
    Growing,
    /// Only after a few such faults in a row; then longer each time.
    ByStreak,
    /// Until a time.
    At(Timestamp),
}

/// Everything that follows from one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// One for each row of the batch, in the batch's order.
    pub rows: Vec<Judged>,
    /// A pause that the answer asks for.
    pub hold: Option<Hold>,
    /// How many IDs the answer lists that we did not send.
    pub strays: usize,
    /// The API did what the contract says: it told of the rows.
    pub is_answer: bool,
}

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
    pub min_retry_after: std::time::Duration,
    /// The longest.
    pub max_retry_after: std::time::Duration,
}

impl Policy {
    fn retry(&self, row: &Deletion, cause: Cause, now: Timestamp, jitter: Jitter) -> Verdict {
        let attempt = row.attempts.saturating_add(1);
        if attempt >= self.max_attempts {
            Verdict::Dead { cause }
        } else {
            Verdict::Retry { due_at: now.plus(self.retry.spread(attempt, jitter)), cause }
        }
    }

    /// What becomes of a row that a bulk delete did not settle, and how many rows it may be sent with.
    ///
    /// The bulk delete gives no reason. Where that would be the end, or the row may be gone already, one request about it
    /// alone tells, and the two of them are one attempt: it is the second that counts.
    fn unsettled(&self, row: &Deletion, cause: Cause, now: Timestamp, jitter: Jitter) -> Judged {
        let verdict = self.retry(row, cause, now, jitter);
        let is_last = matches!(verdict, Verdict::Dead { .. });
        let may_be_gone = row.maybe_done && cause == Cause::ApiFailed;
        let can_be_asked = self.ask_singly && row.asks < MAX_ASKS && row.entry.can_be_in_a_path();
        if can_be_asked && (is_last || may_be_gone) {
            let verdict = Verdict::Release { due_at: now, cause };
            return Judged { id: row.id, verdict, batch_max: Some(ALONE), asks: row.asks, maybe_done: row.maybe_done };
        }
        let batch_max = if cause == Cause::ApiSilent { None } else { Some(MAX_BATCH_SIZE) };
        Judged { id: row.id, verdict, batch_max, asks: 0, maybe_done: row.maybe_done }
    }

    /// What becomes of a row after a request about it alone to which there was no answer: the same again later, and in
    /// the end an attempt that failed.
    fn ask_again(&self, row: &Deletion, cause: Cause, maybe_done: bool, now: Timestamp, jitter: Jitter) -> Judged {
        let asks = row.asks.saturating_add(1);
        if asks >= MAX_ASKS {
            return end(row, self.retry(row, cause, now, jitter), maybe_done);
        }
        let verdict = Verdict::Release { due_at: now.plus(self.retry.jittered(asks, jitter)), cause };
        Judged { id: row.id, verdict, batch_max: None, asks, maybe_done }
    }

    fn clamp(&self, wish: RetryAfter, now: Timestamp) -> Timestamp {
        let wish = match wish {
            RetryAfter::Seconds(seconds) => now.plus(std::time::Duration::from_secs(seconds)),
            RetryAfter::At(at) => at,
        };
        wish.clamp(now.plus(self.min_retry_after), now.plus(self.max_retry_after.max(self.min_retry_after)))
    }
}

/// Decides what becomes of each row of `batch` and whether anything is to be held, from what the call returned.
///
/// Exactly one verdict for each row, whatever the answer says; [`Verdict::Deleted`] only for an ID that a 200 listed
/// as deleted and not as failed. `is_known`: in this life, the API has answered a bulk delete of this agent; without
/// that, a 404 about one entry may be a wrong region's or a gateway's. `rng` is drawn from once.
#[must_use]
pub fn judge(
    batch: &Batch,
    reply: &Result<Answer, Fault>,
    is_known: bool,
    policy: &Policy,
    now: Timestamp,
    rng: &mut fastrand::Rng,
) -> Judgement {
    let jitter = Jitter::draw(rng);
    match reply {
        Ok(answer) => judge_answer(batch, answer, policy, now, jitter),
        Err(fault) if batch.kind() == Kind::Single && is_known && fault.cause() == Cause::UnknownAgent => {
            let absent = |row: &Deletion| end(row, Verdict::Absent, row.maybe_done);
            let rows = batch.deletions().iter().map(absent).collect();
            Judgement { rows, hold: None, strays: 0, is_answer: true }
        }
        Err(fault) => judge_fault(batch, fault, policy, now, jitter),
    }
}

fn judge_answer(batch: &Batch, answer: &Answer, policy: &Policy, now: Timestamp, jitter: Jitter) -> Judgement {
    #[derive(Clone, Copy, Default)]
    struct Listed {
        deleted: bool,
        failed: bool,
    }
    let position: HashMap<&str, usize> =
        batch.deletions().iter().enumerate().map(|(at, row)| (row.entry.as_str(), at)).collect();
    let mut listed = vec![Listed::default(); batch.len()];
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
    let rows = batch
        .deletions()
        .iter()
        .zip(listed)
        .map(|(row, listed)| {
            let cause = match (listed.deleted, listed.failed) {
                (true, false) => return end(row, Verdict::Deleted, row.maybe_done),
                (false, true) => Cause::ApiFailed,
                (true, true) => Cause::ApiContradicted,
                (false, false) => Cause::ApiSilent,
            };
            if batch.kind() == Kind::Single {
                return end(row, policy.retry(row, cause, now, jitter), row.maybe_done);
            }
            policy.unsettled(row, cause, now, jitter)
        })
        .collect();
    Judgement { rows, hold: None, strays, is_answer: true }
}

/// What asking about a row alone is over with: from here on it travels with others, if at all.
fn end(row: &Deletion, verdict: Verdict, maybe_done: bool) -> Judged {
    Judged { id: row.id, verdict, batch_max: Some(MAX_BATCH_SIZE), asks: 0, maybe_done }
}

fn judge_fault(batch: &Batch, fault: &Fault, policy: &Policy, now: Timestamp, jitter: Jitter) -> Judgement {
    let cause = fault.cause();
    let agent = || Scope::Agent(batch.lane().agent.clone());
    let hold = |scope, end| Some(Hold { scope, cause, end });
    let release = Verdict::Release { due_at: now, cause };
    // What each row becomes, the batch size it may travel in, and the hold.
    let (verdict, batch_max, hold): (Option<Verdict>, Option<u8>, Option<Hold>) = match cause {
        Cause::Rejected if batch.len() == 1 => (Some(Verdict::Dead { cause }), None, None),
        Cause::Rejected => (Some(release), Some(part(batch.len())), None),
        Cause::Unauthorized | Cause::Contract => (Some(release), None, hold(Scope::All, HoldEnd::Growing)),
        Cause::Forbidden | Cause::UnknownAgent => (Some(release), None, hold(agent(), HoldEnd::Growing)),
        Cause::Throttled => {
            let end = match fault {
                Fault::Status { retry_after: Some(wish), .. } => HoldEnd::At(policy.clamp(*wish, now)),
                Fault::Status { retry_after: None, .. } | Fault::Garbled | Fault::Lost | Fault::Unreachable => {
                    HoldEnd::Growing
                }
            };
            (Some(release), None, hold(Scope::All, end))
        }
        Cause::Unreachable => (Some(release), None, hold(Scope::All, HoldEnd::ByStreak)),
        // The rest counts. No fault has the causes of an answer or of a person; if one had, its rows would come back.
        Cause::ServerError
        | Cause::Garbled
        | Cause::Lost
        | Cause::ApiFailed
        | Cause::ApiContradicted
        | Cause::ApiSilent
        | Cause::Operator => (None, None, hold(Scope::All, HoldEnd::ByStreak)),
    };
    let unseen = matches!(cause, Cause::Garbled | Cause::Lost);
    // A request about one row was refused, or such requests have a limit that lets none of them through: so everything may
    // be, or only those. The next bulk delete with the row in it tells which, and places the hold if that needs a person.
    let is_refused = batch.kind() == Kind::Single && (cause.needs_a_person() || cause == Cause::Throttled);
    let hold = hold.filter(|_| !(is_refused && cause.needs_a_person()));
    let rows = batch
        .deletions()
        .iter()
        .map(|row| {
            let maybe_done = row.maybe_done || unseen;
            // Also if a bulk delete is how it went, for want of an answered one before, or as a probe.
            let is_asked = batch.lane().batch_max == ALONE;
            match verdict {
                _ if is_refused => {
                    let asks = row.asks.saturating_add(1);
                    Judged { id: row.id, verdict: release, batch_max: Some(MAX_BATCH_SIZE), asks, maybe_done }
                }
                None if is_asked => policy.ask_again(row, cause, maybe_done, now, jitter),
                None => {
                    let verdict = policy.retry(row, cause, now, jitter);
                    Judged { id: row.id, verdict, batch_max, asks: 0, maybe_done }
                }
                Some(dead @ Verdict::Dead { .. }) if is_asked => end(row, dead, maybe_done),
                Some(verdict) => Judged { id: row.id, verdict, batch_max, asks: row.asks, maybe_done },
            }
        })
        .collect();
    Judgement { rows, hold, strays: 0, is_answer: false }
}

/// How many rows of a rejected batch may go together next: the largest power of two below its size.
///
/// Sixteen and four rather than ten and ten, because from then on halves are even and no row travels more than five
/// times: one bad ID among twenty is found in at most 11 requests and two in at most 17, in whatever order and however
/// much at the same time the parts are sent. Halves of ten, five, three and two take up to 19.
fn part(len: usize) -> u8 {
    let largest = len.next_power_of_two() / 2;
    u8::try_from(largest).unwrap_or(MAX_BATCH_SIZE).clamp(1, MAX_BATCH_SIZE)
}

#[cfg(test)]
#[path = "outcome_tests.rs"]
mod tests;
