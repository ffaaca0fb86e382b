//! What came of a call, and what can follow from it: answers, faults, causes, verdicts, holds.

use crate::model::{
    clock::Timestamp,
    deletion::{AgentId, DeletionId, RequestId, State},
};

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
    /// There is no secure connection, and that is not for time to mend: the server's certificate is not believed, or the server
    /// or the proxy refuses us. So nothing was sent.
    Untrusted,
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
    /// Never sent: the server's certificate is not believed, or the server or the proxy refuses a connection.
    Untrusted,
    /// A person paused it (holds only).
    Operator,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 15] = [
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
            Self::Untrusted => "untrusted",
            Self::Operator => "operator",
        }
    }

    /// The cause that has this string.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.as_str() == text)
    }

    /// Whether a hold for this cause waits for a person: no time alone mends a key, a permission, an address or a certificate.
    #[must_use]
    pub const fn needs_a_person(self) -> bool {
        matches!(self, Self::Unauthorized | Self::Forbidden | Self::UnknownAgent | Self::Contract | Self::Untrusted)
    }

    /// Whether it can only come from the two lists of a 200, or from there being none of an ID in them.
    #[must_use]
    pub const fn is_of_an_answer(self) -> bool {
        matches!(self, Self::ApiFailed | Self::ApiContradicted | Self::ApiSilent)
    }

    /// Whether a row that came back for this cause may have failed by its own doing, so that it can wait a share of its
    /// delay for others that failed with it.
    #[must_use]
    pub const fn gathers(self) -> bool {
        self.is_of_an_answer() || matches!(self, Self::Garbled | Self::ServerError | Self::Lost)
    }
}

impl Fault {
    /// Whether something in the request's content may be the reason, so that a part of it could get through. A rejection is
    /// left out: it says outright that the content is the reason.
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
                | Cause::Operator => false,
            },
        }
    }

    /// Whether the status speaks of the API as a whole: a redirect, or a method that there is none of.
    #[must_use]
    pub const fn is_of_the_whole_api(&self) -> bool {
        matches!(self, Self::Status { status: 300..=399 | 405 | 501, .. })
    }

    /// Whether the API says that it gets too much: only this lowers the rate.
    #[must_use]
    pub const fn is_too_much(&self) -> bool {
        matches!(self, Self::Status { status: 429, .. })
    }

    /// The `Retry-After` that came with it.
    #[must_use]
    pub const fn retry_after(&self) -> Option<RetryAfter> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            Self::Garbled | Self::Lost | Self::Unreachable | Self::Untrusted => None,
        }
    }

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
            Self::Untrusted => Cause::Untrusted,
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
    /// The first of the requests that failed as a whole with it, since it was last answered about by itself.
    pub first_fault: Option<RequestId>,
    /// The request that has shown that it fails by its own doing: others got through.
    pub evidence: Option<RequestId>,
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
    /// On what. By streak, it is the agent; if the faults come from several agents, everything is held.
    pub scope: Scope,
    /// Why.
    pub cause: Cause,
    /// Until when.
    pub end: HoldEnd,
    /// Not for less than until this time: a `Retry-After`, clamped.
    pub not_before: Option<Timestamp>,
    /// Something in the request's content may be the reason.
    pub may_be_content: bool,
}

/// How long a hold is to last. What depends on what happened before is left to the pace, which remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldEnd {
    /// It begins at once, and is longer each time in a row.
    Growing,
    /// It begins after a few such faults in a row; then it is longer each time.
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
    /// The answer settled something: a row was deleted, or the API itself spoke of a row alone. Only this is a success, for
    /// the streak of faults as for a probe.
    pub has_settled: bool,
    /// Before a hold is placed by this streak, one of the rows is asked about alone: it now is in the lane for that.
    pub asks_first: bool,
    /// A request about one row was refused: the answer says nothing about the row, and such requests may be in vain.
    pub is_refused: bool,
}
