//! Records for those who ask what became of entries: a wish with a label, or a row that has none, each with the request that gave the
//! row its last verdict.
//!
//! Records are read a page at a time, in constant memory. Each page is a short read of one moment. Wishes that no leader has taken in
//! come first, then the rows, then the wishes with labels. A row stands for the wish that was made without a label, also while it has
//! labels besides. A row stays at its place, and a wish with a label stays when its row goes. So whatever was there before the first page
//! and is still kept at the end has a record, however it changes meanwhile. Only a wish that a leader takes in meanwhile may have two.

use std::collections::HashMap;

use serde::Deserialize;

use super::{INBOX, SentRequest};
use crate::model::{clock::Timestamp, deletion::AgentId, label::Label};

/// The state of a wish that somebody took back.
pub const CANCELLED: &str = "cancelled";

/// Which records are read. What is left out does not matter.
#[derive(Clone, Debug, Default)]
pub struct RecordChoice {
    /// `pending`, `deleted`, `absent`, `dead`, [`CANCELLED`]; of wishes in the inbox, [`INBOX`]. Empty: all.
    pub states: Vec<String>,
    /// The agent.
    pub agent: Option<AgentId>,
    /// The label.
    pub label: Option<Label>,
    /// The first time that is chosen.
    pub since: Option<Timestamp>,
    /// The first time after it that is not.
    pub until: Option<Timestamp>,
    /// Both are about [`Record::ended_at`]; else about [`Record::asked_at`].
    pub by_end: bool,
}

/// A wish with a label, or a row without one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Its agent.
    pub agent: String,
    /// Its entry.
    pub entry: String,
    /// The wish's label; `None`: the row was wished for without one.
    pub label: Option<String>,
    /// The state of the wish or of the row.
    pub state: String,
    /// When it was wished for. If the row was reopened, the last time.
    pub asked_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Higher goes first. This and what follows is `None` if the row is gone, or was reopened after the wish had ended.
    pub priority: Option<i64>,
    /// The counted attempts.
    pub attempts: Option<i64>,
    /// It must not be sent before this time.
    pub due_at: Option<Timestamp>,
    /// An attempt may have deleted the entry unseen.
    pub maybe_done: Option<bool>,
    /// Why the last request with the row failed.
    pub cause: Option<String>,
    /// When the agent's cache was last listed without the entry.
    pub verified_at: Option<Timestamp>,
    /// Who cancelled the wish, if that is known.
    pub cancelled_by: Option<String>,
    /// The request that gave the row its last verdict, if it is still kept.
    pub request: Option<SentRequest>,
}

/// Where a walk goes on.
#[derive(Clone, Debug)]
pub(in crate::queue) enum RecordPlace {
    /// The wishes that the leader has not taken in yet, in the order of the table.
    Inbox { after: Option<String> },
    /// All rows, by id.
    Rows { after: i64 },
    /// The rows of an agent, by entry.
    RowsOfAgent { after: String },
    /// All wishes with a label, by label, agent and entry.
    Wishes { label: String, agent: String, entry: String },
    /// The wishes with the chosen label, by agent and entry.
    WishesOfLabel { agent: String, entry: String },
    /// The wishes with a label for an agent's entries, by entry and label.
    WishesOfAgent { entry: String, label: String },
}

/// A walk through the records of a choice.
#[derive(Clone, Debug)]
pub struct Records {
    choice: RecordChoice,
    /// The walks that are left, the next one last.
    places: Vec<RecordPlace>,
}

impl Records {
    /// Begins a walk.
    #[must_use]
    pub fn new(choice: RecordChoice) -> Self {
        let has =
            |asked: &dyn Fn(&str) -> bool| choice.states.is_empty() || choice.states.iter().any(|state| asked(state));
        let (inbox, wishes) = (has(&|state| state == INBOX), has(&|state| state != INBOX));
        let rows = choice.label.is_none() && has(&|state| state != INBOX && state != CANCELLED);
        let (none, of_agent) = (String::new, choice.agent.is_some());
        let wishes = wishes.then(|| match (&choice.label, of_agent) {
            (Some(_), _) => RecordPlace::WishesOfLabel { agent: none(), entry: none() },
            (None, true) => RecordPlace::WishesOfAgent { entry: none(), label: none() },
            (None, false) => RecordPlace::Wishes { label: none(), agent: none(), entry: none() },
        });
        let rows = rows.then(|| match of_agent {
            true => RecordPlace::RowsOfAgent { after: none() },
            false => RecordPlace::Rows { after: i64::MIN },
        });
        let inbox = inbox.then_some(RecordPlace::Inbox { after: None });
        Self { places: wishes.into_iter().chain(rows).chain(inbox).collect(), choice }
    }

    /// Where the walk is; `None` at its end.
    pub(in crate::queue) fn place(&self) -> Option<&RecordPlace> {
        self.places.last()
    }

    pub(in crate::queue) fn choice(&self) -> &RecordChoice {
        &self.choice
    }

    /// Goes on behind this page, which was read at [`Records::place`].
    pub(in crate::queue) fn go_on(&mut self, page: RecordPage, requests: &[FoundRequest]) -> Vec<Record> {
        let place = self.places.pop();
        if let (Some(place), Some(last)) = (place, page.last.filter(|_| page.is_full)) {
            self.places.push(place.behind(last));
        }
        let requests: HashMap<i64, (&FoundRequest, Vec<Given>)> =
            requests.iter().map(|found| (found.request.request, (found, found.given()))).collect();
        let with_request = |found: Found| {
            let of_row = found.request.and_then(|id| requests.get(&id));
            let request = of_row.map(|(request, given)| {
                let given = found.row.and_then(|row| verdict_on(row, given));
                let (verdict, cause) = given.map(|given| (given.verdict.clone(), given.cause.clone())).unzip();
                SentRequest { verdict, cause: cause.flatten(), ..request.request.clone() }
            });
            Record { request, ..found.record }
        };
        page.found.into_iter().map(with_request).collect()
    }
}

impl RecordPlace {
    /// The place behind this record.
    fn behind(self, last: LastRecord) -> Self {
        let LastRecord { row, label, agent, entry, place } = last;
        match self {
            Self::Inbox { .. } => Self::Inbox { after: Some(place) },
            Self::Rows { .. } => Self::Rows { after: row },
            Self::RowsOfAgent { .. } => Self::RowsOfAgent { after: entry },
            Self::Wishes { .. } => Self::Wishes { label, agent, entry },
            Self::WishesOfLabel { .. } => Self::WishesOfLabel { agent, entry },
            Self::WishesOfAgent { .. } => Self::WishesOfAgent { entry, label },
        }
    }
}

/// The records of one read.
#[derive(Debug, Default)]
pub(in crate::queue) struct RecordPage {
    /// Those that are chosen.
    pub(in crate::queue) found: Vec<Found>,
    /// The last one that was read, chosen or not.
    pub(in crate::queue) last: Option<LastRecord>,
    /// There may be more.
    pub(in crate::queue) is_full: bool,
}

impl RecordPage {
    /// The requests that the records name, each once.
    pub(in crate::queue) fn requests(&self) -> Vec<i64> {
        let mut ids: Vec<i64> = self.found.iter().filter_map(|found| found.request).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

/// A record without its request.
#[derive(Debug)]
pub(in crate::queue) struct Found {
    pub(in crate::queue) record: Record,
    pub(in crate::queue) row: Option<i64>,
    pub(in crate::queue) request: Option<i64>,
}

/// What the place of the next page is made of.
#[derive(Debug)]
pub(in crate::queue) struct LastRecord {
    pub(in crate::queue) row: i64,
    pub(in crate::queue) label: String,
    pub(in crate::queue) agent: String,
    pub(in crate::queue) entry: String,
    /// Its place in the inbox.
    pub(in crate::queue) place: String,
}

/// A request that records name.
#[derive(Debug)]
pub(in crate::queue) struct FoundRequest {
    /// Without its verdict.
    pub(in crate::queue) request: SentRequest,
    /// `requests.verdicts`
    pub(in crate::queue) verdicts: Option<String>,
}

/// A verdict on some of a request's rows, or on all of them.
#[derive(Debug, Deserialize)]
struct Given {
    verdict: String,
    cause: Option<String>,
    deletion_ids: Option<Vec<i64>>,
}

impl FoundRequest {
    /// The verdicts; none if they are no valid JSON.
    fn given(&self) -> Vec<Given> {
        self.verdicts.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }
}

fn verdict_on(row: i64, given: &[Given]) -> Option<&Given> {
    given.iter().find(|given| given.deletion_ids.as_ref().is_none_or(|ids| ids.contains(&row)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_without_ids_is_about_every_row() {
        let request =
            |verdicts: &str| FoundRequest { request: SentRequest::default(), verdicts: Some(verdicts.to_owned()) };
        let given = request(r#"[{"verdict":"dead","cause":"lost","deletion_ids":[7]},{"verdict":"deleted"}]"#).given();
        let on = |row| verdict_on(row, &given).map(|given| (given.verdict.as_str(), given.cause.as_deref()));
        assert_eq!(on(7), Some(("dead", Some("lost"))));
        assert_eq!(on(8), Some(("deleted", None)));
        for odd in ["", "[", "{}", "[1]"] {
            assert!(verdict_on(7, &request(odd).given()).is_none(), "{odd}");
        }
    }
}
