//! The outcome of a call, and what can follow from it: answers, faults, causes, verdicts, holds.

use crate::model::{
    clock::Timestamp,
    deletion::{AgentId, DeletionId, RequestId, State},
};

/// The two lists of a 200, unjudged. The answer to a single-entry DELETE becomes one list with its ID and an empty one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The IDs that the API says it deleted.
    pub deleted: Vec<String>,
    /// The IDs that the API says it did not delete. It gives no reasons.
    pub failed: Vec<String>,
}

/// Every outcome of a call other than an [`Answer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An HTTP status outside of 2xx.
    Status {
        /// The code.
        status: u16,
        /// The `Retry-After` header, if there was a readable one.
        retry_after: Option<RetryAfter>,
    },
    /// A 2xx whose body is not the documented JSON, or longer than any answer.
    Garbled,
    /// The request was sent, or may have been, and no complete answer came.
    Lost,
    /// There was no connection, so nothing was sent.
    Unreachable,
    /// There was no secure connection, and only a person can mend that: the server's certificate is not trusted, or the server or
    /// the proxy refuses us. Nothing was sent.
    Untrusted,
}

/// The two forms of `Retry-After` (RFC 9110, section 10.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryAfter {
    /// A number of seconds from now.
    Seconds(u64),
    /// A point in time.
    At(Timestamp),
}

/// The cause of a verdict, a fault or a hold. The strings are the same in the database and in the logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// The API listed the ID as failed.
    ApiFailed,
    /// The API listed the ID as deleted and as failed.
    ApiContradicted,
    /// The API answered 200 without the ID in either list.
    ApiSilent,
    /// A 2xx whose body is not the documented JSON.
    Garbled,
    /// 400, 413 or 422: the API rejects the request's content.
    Rejected,
    /// 401: the API does not accept the key.
    Unauthorized,
    /// 403: the key lacks a permission.
    Forbidden,
    /// 404: there is no such agent, or the region is wrong.
    UnknownAgent,
    /// A status outside of the API's contract.
    Contract,
    /// 429, or 503 with `Retry-After`.
    Throttled,
    /// 408, 500, 502, 503 or 504.
    ServerError,
    /// The request was sent, and its outcome is unknown.
    Lost,
    /// The request was never sent, because there was no connection.
    Unreachable,
    /// The request was never sent: the server's certificate is not trusted, or the server or the proxy refuses a connection.
    Untrusted,
    /// A person placed the hold. Only holds have this cause.
    Operator,
    /// `sweeper verify` lists the agent's cache, and placed the hold. Only holds have this cause.
    Verify,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 16] = [
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
        Self::Untrusted,
        Self::Operator,
        Self::Verify,
    ];

    /// The stable string in the database and in the logs.
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
            Self::Untrusted => "untrusted",
            Self::Operator => "operator",
            Self::Verify => "verify",
        }
    }

    /// The cause with this string.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.as_str() == text)
    }

    /// Whether a hold for this cause needs a person: waiting does not mend a key, a permission, an address or a certificate.
    #[must_use]
    pub const fn needs_a_person(self) -> bool {
        matches!(self, Self::Unauthorized | Self::Forbidden | Self::UnknownAgent | Self::Contract | Self::Untrusted)
    }

    /// Whether commands place holds for this cause, and not the daemon. Such a hold has no fault as its cause: at its end it is over,
    /// and no request probes it. Nothing but holds has such a cause.
    #[must_use]
    pub const fn is_of_a_command(self) -> bool {
        matches!(self, Self::Operator | Self::Verify)
    }

    /// Whether the cause comes from a 200 with the two lists.
    #[must_use]
    pub const fn is_of_an_answer(self) -> bool {
        matches!(self, Self::ApiFailed | Self::ApiContradicted | Self::ApiSilent)
    }

    /// Whether rows that come back for this cause wait for each other, to fill a request again.
    #[must_use]
    pub const fn gathers(self) -> bool {
        self.is_of_an_answer() || matches!(self, Self::Garbled | Self::ServerError | Self::Lost)
    }
}

impl Fault {
    /// Whether one ID in the request may be the reason, so that a part of the request could get through. False for a rejection,
    /// which says outright that the content is the reason and is judged by itself.
    #[must_use]
    pub const fn may_be_the_content(&self) -> bool {
        match self {
            Self::Garbled | Self::Lost => true,
            Self::Unreachable | Self::Untrusted => false,
            Self::Status { status, .. } => match self.cause() {
                Cause::ServerError => true,
                Cause::Throttled => *status == 503,
                Cause::Contract => !self.is_of_the_whole_api(),
                Cause::ApiFailed
                | Cause::ApiContradicted
                | Cause::ApiSilent
                | Cause::Garbled
                | Cause::Rejected
                | Cause::Unauthorized
                | Cause::Forbidden
                | Cause::UnknownAgent
                | Cause::Lost
                | Cause::Unreachable
                | Cause::Untrusted
                | Cause::Operator
                | Cause::Verify => false,
            },
        }
    }

    /// Whether the status is about the API as a whole: a redirect, or an unknown method.
    #[must_use]
    pub const fn is_of_the_whole_api(&self) -> bool {
        matches!(self, Self::Status { status: 300..=399 | 405 | 501, .. })
    }

    /// Whether the API says that it gets too many requests. Only this lowers the rate.
    #[must_use]
    pub const fn is_too_much(&self) -> bool {
        matches!(self, Self::Status { status: 429, .. })
    }

    /// The `Retry-After` header that came with the fault.
    #[must_use]
    pub const fn retry_after(&self) -> Option<RetryAfter> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            Self::Garbled | Self::Lost | Self::Unreachable | Self::Untrusted => None,
        }
    }

    /// The cause that the fault is recorded as.
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
            Self::Untrusted => Cause::Untrusted,
        }
    }
}

/// The verdict on one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The API deleted the entry. A 200 to our own request listed the ID as deleted and not as failed, or a single-entry DELETE
    /// was answered with `"success": true`.
    Deleted,
    /// The API itself answered a single-entry DELETE that it knows no such entry.
    Absent,
    /// The row comes back, and the attempt is counted.
    Retry {
        /// When the row is due again.
        due_at: Timestamp,
        /// The cause.
        cause: Cause,
    },
    /// The row comes back, and the attempt is not counted, because it says nothing about the row.
    Release {
        /// When the row is due again.
        due_at: Timestamp,
        /// The cause.
        cause: Cause,
    },
    /// The row is given up, and the attempt is counted.
    Dead {
        /// The cause.
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

    /// The cause; `None` for deleted and absent.
    #[must_use]
    pub const fn cause(self) -> Option<Cause> {
        match self {
            Self::Deleted | Self::Absent => None,
            Self::Retry { cause, .. } | Self::Release { cause, .. } | Self::Dead { cause } => Some(cause),
        }
    }

    /// Whether the attempt counts towards `retry.max_attempts`.
    #[must_use]
    pub const fn counted(self) -> bool {
        !matches!(self, Self::Release { .. })
    }

    /// The state in which the row ends; `None` if it comes back.
    #[must_use]
    pub const fn end(self) -> Option<State> {
        match self {
            Self::Deleted => Some(State::Deleted),
            Self::Absent => Some(State::Absent),
            Self::Dead { .. } => Some(State::Dead),
            Self::Retry { .. } | Self::Release { .. } => None,
        }
    }

    /// When the row is due again; `None` if it does not come back.
    #[must_use]
    pub const fn due_at(self) -> Option<Timestamp> {
        match self {
            Self::Retry { due_at, .. } | Self::Release { due_at, .. } => Some(due_at),
            Self::Deleted | Self::Absent | Self::Dead { .. } => None,
        }
    }
}

impl Verdict {
    /// The same, but the row is not due before `at`.
    #[must_use]
    pub fn not_before(self, at: Timestamp) -> Self {
        match self {
            Self::Retry { due_at, cause } => Self::Retry { due_at: due_at.max(at), cause },
            Self::Release { due_at, cause } => Self::Release { due_at: due_at.max(at), cause },
            Self::Deleted | Self::Absent | Self::Dead { .. } => self,
        }
    }
}

/// A verdict with the other changes of its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The row's number.
    pub id: DeletionId,
    /// The verdict.
    pub verdict: Verdict,
    /// The new [`Lane::batch_max`](crate::model::deletion::Lane::batch_max) of the row, if it changes.
    pub batch_max: Option<u8>,
    /// How many single-entry DELETEs of the row have told nothing so far.
    pub asks: u32,
    /// This attempt or an earlier one may have deleted the entry without our seeing it.
    pub maybe_done: bool,
    /// The first request with this row that failed as a whole, since the last answer about the row itself.
    pub first_fault: Option<RequestId>,
    /// The request that has shown that the row itself is the reason for its failures: others got through.
    pub evidence: Option<RequestId>,
}

impl Judged {
    /// The same, but the row is not due before `at`.
    #[must_use]
    pub fn not_before(self, at: Timestamp) -> Self {
        Self { verdict: self.verdict.not_before(at), ..self }
    }
}

/// What a hold pauses.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Every agent.
    All,
    /// One agent.
    Agent(AgentId),
}

impl Scope {
    /// Whether the scope includes `agent`.
    #[must_use]
    pub fn covers(&self, agent: &AgentId) -> bool {
        match self {
            Self::All => true,
            Self::Agent(on) => on == agent,
        }
    }

    /// The words for it in a sentence.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::All => "everything".to_owned(),
            Self::Agent(agent) => agent.as_str().to_owned(),
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

/// A hold that follows from a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// What to hold. For a streak, this is the agent; if the streak has faults of several agents, everything is held.
    pub scope: Scope,
    /// The cause.
    pub cause: Cause,
    /// How the end of the hold is found.
    pub end: HoldEnd,
    /// The earliest end: the `Retry-After` within the configured limits.
    pub not_before: Option<Timestamp>,
    /// One ID in the request may be the reason.
    pub may_be_content: bool,
}

/// How the end of a hold is found. Lengths that depend on earlier holds are left to the pace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldEnd {
    /// The hold begins at once, and each failed probe makes it longer.
    Growing,
    /// The hold begins when a streak is long enough, and each failed probe makes it longer.
    ByStreak,
    /// The hold ends at this time.
    At(Timestamp),
}

/// Everything that follows from one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// A verdict for each row, in the batch's order.
    pub rows: Vec<Judged>,
    /// The hold that follows, if there is one.
    pub hold: Option<Hold>,
    /// How many IDs in the answer were not in the request.
    pub strays: usize,
    /// The API answered as the contract says, about the rows.
    pub is_answer: bool,
    /// The answer settled something: a row was deleted, or the API itself spoke of one row. Only this ends a streak, and only
    /// this makes a probe succeed.
    pub has_settled: bool,
    /// A single-entry DELETE asks about one row before this streak places a hold. The row now is in the lane for that.
    pub asks_first: bool,
    /// A single-entry DELETE was refused. The answer says nothing about the row, and further ones may be refused as well.
    pub is_refused: bool,
}
