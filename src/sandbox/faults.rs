//! Lasting faults: IDs that spoil their requests, outages, and answers about missing entries.

use std::str::FromStr;

use axum::response::Response;
use serde_json::json;

use super::replies::{cut, empty, error, html, json_response, throttle};
use crate::api::MAX_ANSWER_BYTES;

/// The answer to every request with a certain ID. Such a request deletes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poison {
    /// This status, in the API's envelope.
    Status(u16),
    /// This status, and `Retry-After` with this many seconds.
    RetryAfter(u16, u64),
    /// A 200 with HTML.
    Html,
    /// A 200 that is longer than any answer.
    Long,
    /// No answer, and the connection stays open.
    Hang,
    /// The connection is cut.
    Reset,
}

/// The answer to everything during an outage. Nothing is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    /// This status, in the API's envelope.
    Status(u16),
    /// This status, and `Retry-After` with this many seconds.
    RetryAfter(u16, u64),
    /// A 200 that lists every ID as failed, or says `"success": false`.
    PoliteFailed,
    /// A 200 whose two lists are empty, or that says `"success": false`.
    PoliteSilent,
    /// A 200 that lists as deleted only IDs that were not sent, or says `"success": false`.
    Strangers,
    /// A 200 with HTML.
    Html,
    /// The connection is cut.
    Reset,
}

/// The body of the 404 for a single-entry DELETE of an entry that does not exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Missing {
    /// The API's envelope, about the entry.
    #[default]
    Envelope,
    /// A gateway's message that there is no such route.
    Gateway,
    /// HTML.
    Html,
    /// No body.
    Empty,
    /// The API's envelope, about the agent.
    Agent,
}

/// What the key may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Permission {
    /// List and delete.
    #[default]
    All,
    /// List only.
    Read,
    /// Delete only.
    Write,
}

impl Permission {
    /// The permission that a request lacks, if it lacks one.
    pub(super) fn lacks(self, is_list: bool) -> Option<&'static str> {
        match (self, is_list) {
            (Self::Read, false) => Some("write"),
            (Self::Write, true) => Some("read"),
            (Self::All, _) | (Self::Read, true) | (Self::Write, false) => None,
        }
    }
}

impl Poison {
    /// The answer; `None` if there is none and the connection stays open.
    pub(super) fn answer(self, correlation_id: &str) -> Option<Response> {
        match self {
            Self::Status(status) => Some(error(status, correlation_id, "ORDERED", "as ordered")),
            Self::RetryAfter(status, seconds) => Some(throttle(status, correlation_id, seconds)),
            Self::Html => Some(html(200)),
            Self::Long => {
                let body =
                    json!({ "deleted": [], "failed": [], "success": false, "more": "x".repeat(MAX_ANSWER_BYTES) });
                Some(json_response(200, body.to_string()))
            }
            Self::Hang => None,
            Self::Reset => Some(cut()),
        }
    }
}

impl Outage {
    /// The answer to a request that deletes these IDs. `ids` is `None` for a request that deletes nothing; an outage of answers with
    /// 200 does not concern such a request, and returns `None`.
    pub(super) fn answer(self, ids: Option<&[String]>, is_single: bool, correlation_id: &str) -> Option<Response> {
        let told = |deleted: &[String], failed: &[String]| {
            let lists = json!({ "deleted": deleted, "failed": failed });
            let body = if is_single { json!({ "success": false }) } else { lists };
            json_response(200, body.to_string())
        };
        Some(match self {
            Self::Status(status) => error(status, correlation_id, "ORDERED", "as ordered"),
            Self::RetryAfter(status, seconds) => throttle(status, correlation_id, seconds),
            Self::PoliteFailed => told(&[], ids?),
            Self::PoliteSilent => {
                ids?;
                told(&[], &[])
            }
            Self::Strangers => {
                let ids = ids?;
                let strangers = (900_000_001_u32..).map(|id| id.to_string()).filter(|id| !ids.contains(id));
                told(&strangers.take(2).collect::<Vec<_>>(), &[])
            }
            Self::Html => html(200),
            Self::Reset => cut(),
        })
    }
}

impl Missing {
    pub(super) fn answer(self, correlation_id: &str) -> Response {
        match self {
            Self::Envelope => error(404, correlation_id, "ENTRY_NOT_FOUND", "no such entry"),
            Self::Gateway => json_response(404, json!({ "message": "no Route matched with those values" }).to_string()),
            Self::Html => html(404),
            Self::Empty => empty(404),
            Self::Agent => error(404, correlation_id, "AGENT_NOT_FOUND", "no such agent"),
        }
    }
}

/// Parses `500`, or `503+2` with the seconds of a `Retry-After`.
fn status(text: &str) -> Option<(u16, Option<u64>)> {
    let (status, seconds) = match text.split_once('+') {
        Some((status, seconds)) => (status, Some(seconds.parse().ok()?)),
        None => (text, None),
    };
    let status = status.parse().ok().filter(|status| (300..=599).contains(status))?;
    Some((status, seconds))
}

impl FromStr for Poison {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, status(text)) {
            (_, Some((status, None))) => Ok(Self::Status(status)),
            (_, Some((status, Some(seconds)))) => Ok(Self::RetryAfter(status, seconds)),
            ("html", None) => Ok(Self::Html),
            ("long", None) => Ok(Self::Long),
            ("hang", None) => Ok(Self::Hang),
            ("reset", None) => Ok(Self::Reset),
            (_, None) => Err("must be a status (300 to 599), STATUS+SECONDS, html, long, hang or reset"),
        }
    }
}

impl FromStr for Outage {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, status(text)) {
            (_, Some((status, None))) => Ok(Self::Status(status)),
            (_, Some((status, Some(seconds)))) => Ok(Self::RetryAfter(status, seconds)),
            ("failed", None) => Ok(Self::PoliteFailed),
            ("silent", None) => Ok(Self::PoliteSilent),
            ("strangers", None) => Ok(Self::Strangers),
            ("html", None) => Ok(Self::Html),
            ("reset", None) => Ok(Self::Reset),
            (_, None) => Err("must be a status (300 to 599), STATUS+SECONDS, failed, silent, strangers, html or reset"),
        }
    }
}

impl FromStr for Permission {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "all" => Ok(Self::All),
            "read" => Ok(Self::Read),
            "write" => Ok(Self::Write),
            _ => Err("must be all, read or write"),
        }
    }
}

impl FromStr for Missing {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "envelope" => Ok(Self::Envelope),
            "gateway" => Ok(Self::Gateway),
            "html" => Ok(Self::Html),
            "empty" => Ok(Self::Empty),
            "agent" => Ok(Self::Agent),
            _ => Err("must be envelope, gateway, html, empty or agent"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_written_as_the_help_says() {
        assert_eq!("500".parse(), Ok(Poison::Status(500)));
        assert_eq!("503+2".parse(), Ok(Poison::RetryAfter(503, 2)));
        assert_eq!("long".parse(), Ok(Poison::Long));
        assert_eq!("hang".parse(), Ok(Poison::Hang));
        assert_eq!("503+2".parse(), Ok(Outage::RetryAfter(503, 2)));
        assert_eq!("failed".parse(), Ok(Outage::PoliteFailed));
        assert_eq!("silent".parse(), Ok(Outage::PoliteSilent));
        assert_eq!("strangers".parse(), Ok(Outage::Strangers));
        assert_eq!("gateway".parse(), Ok(Missing::Gateway));
        assert_eq!("read".parse(), Ok(Permission::Read));
        assert!("none".parse::<Permission>().is_err());
        for other in ["", "200", "600", "5xx", "503+", "503+x", "+2", "HTML", "failed"] {
            assert!(other.parse::<Poison>().is_err(), "{other}");
        }
        for other in ["", "299", "hang", "long", "503+-1"] {
            assert!(other.parse::<Outage>().is_err(), "{other}");
        }
        assert!("404".parse::<Missing>().is_err());
    }
}
