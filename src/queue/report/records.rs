//! Records for those who ask what became of entries: a wish with a label, or a row that has none, each with the request that gave the
//! row its last verdict.
//!
//! Records are read a page at a time, in constant memory. Each page is a short read of one moment. Wishes that no leader has taken in
//! come first, then the rows, then the wishes with labels. In this order, a record that changes meanwhile may be there twice, as it was
//! before and after that, and is never left out.

use std::collections::HashMap;

use serde::Deserialize;

use super::{INBOX, PAGE};
use crate::model::{act::MAX_DETAIL, clock::Timestamp, deletion::AgentId, label::Label};

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
    pub request: Option<RecordedRequest>,
}

/// A request, with its verdict on one row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordedRequest {
    /// `bulk` or `single`.
    pub kind: String,
    /// When it was about to be sent.
    pub sent_at: Timestamp,
    /// When its answer was judged.
    pub answered_at: Option<Timestamp>,
    /// The HTTP status, if there was one.
    pub status: Option<i64>,
    /// The API's message or the network's error.
    pub detail: Option<String>,
    /// The correlation ID that we sent.
    pub correlation_id: String,
    /// The one that came back.
    pub remote_id: Option<String>,
    /// Its verdict on the row.
    pub verdict: Option<String>,
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
    /// All wishes, by label, agent and entry.
    Wishes { label: String, agent: String, entry: String },
    /// The wishes with the chosen label, by agent and entry.
    WishesOfLabel { agent: String, entry: String },
    /// The wishes for an agent's entries, by entry and label.
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
            requests.iter().map(|request| (request.id, (request, request.given()))).collect();
        let with_request = |found: Found| {
            let of_row = found.request.and_then(|id| requests.get(&id));
            let request = of_row.map(|(request, given)| RecordedRequest {
                verdict: found.row.and_then(|row| verdict_on(row, given)),
                ..request.request.clone()
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
    /// Whether a read of this number of rows may have left some.
    pub(in crate::queue) fn is_full(read: i64) -> bool {
        read >= PAGE
    }

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
    pub(in crate::queue) id: i64,
    /// Without its verdict.
    pub(in crate::queue) request: RecordedRequest,
    /// `requests.verdicts`
    pub(in crate::queue) verdicts: Option<String>,
}

/// A verdict on some of a request's rows, or on all of them.
#[derive(Debug, Deserialize)]
struct Given {
    verdict: String,
    deletion_ids: Option<Vec<i64>>,
}

impl FoundRequest {
    /// The verdicts; none if they are no valid JSON.
    fn given(&self) -> Vec<Given> {
        self.verdicts.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }
}

fn verdict_on(row: i64, given: &[Given]) -> Option<String> {
    let is_on = |given: &&Given| given.deletion_ids.as_ref().is_none_or(|ids| ids.contains(&row));
    given.iter().find(is_on).map(|given| given.verdict.clone())
}

/// The newest acts that are looked at.
pub(in crate::queue) const MOST_ACTS: i64 = 100_000;
/// What stands before the label in [`crate::model::act::Draft::detail`].
const BEFORE_LABEL: &str = ", label: ";
/// The clock of a command and that of a server may differ by this, in milliseconds.
const CLOCKS_DIFFER: i64 = 60_000;

/// An `enqueue` in the table of acts.
#[derive(Debug)]
pub(in crate::queue) struct FoundAct {
    pub(in crate::queue) operator: String,
    /// The agent; `None`: several.
    pub(in crate::queue) scope: Option<String>,
    pub(in crate::queue) acted_at: Timestamp,
    pub(in crate::queue) updated_at: Timestamp,
    pub(in crate::queue) detail: String,
}

/// Who enqueued wishes with labels, by commands that left an act.
#[derive(Debug, Default)]
pub struct Enqueuers(HashMap<String, Vec<FoundAct>>);

impl Enqueuers {
    pub(in crate::queue) fn new(acts: impl IntoIterator<Item = FoundAct>) -> Self {
        let mut by_label: HashMap<String, Vec<FoundAct>> = HashMap::new();
        for act in acts {
            // A detail that was cut may end inside of the label. With the words twice, nobody can tell where the label begins.
            let is_whole = act.detail.chars().count() < MAX_DETAIL && act.detail.matches(BEFORE_LABEL).count() == 1;
            if let Some((_, label)) = act.detail.split_once(BEFORE_LABEL).filter(|_| is_whole) {
                by_label.entry(label.to_owned()).or_default().push(act);
            }
        }
        Self(by_label)
    }

    /// The operator whose command enqueued this record; `None` if there is none, or if more than one may have.
    #[must_use]
    pub fn of(&self, record: &Record) -> Option<&str> {
        let acts = self.0.get(record.label.as_deref()?)?;
        let at = record.asked_at.0;
        let mut operators = acts
            .iter()
            .filter(|act| (act.acted_at.0 - CLOCKS_DIFFER..=act.updated_at.0 + CLOCKS_DIFFER).contains(&at))
            .filter(|act| act.scope.as_ref().is_none_or(|scope| *scope == record.agent))
            .map(|act| act.operator.as_str());
        let first = operators.next()?;
        operators.all(|operator| operator == first).then_some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn act(operator: &str, scope: Option<&str>, from: i64, until: i64, detail: &str) -> FoundAct {
        FoundAct {
            operator: operator.to_owned(),
            scope: scope.map(str::to_owned),
            acted_at: Timestamp(from),
            updated_at: Timestamp(until),
            detail: detail.to_owned(),
        }
    }

    #[test]
    fn who_asked_is_known_only_if_one_operator_can_have() {
        let cut = format!("from {}, label: T", "x".repeat(MAX_DETAIL - 15));
        assert_eq!(cut.chars().count(), MAX_DETAIL);
        let acts = Enqueuers::new([
            act("ann", Some("a"), 1_000_000, 1_000_000, "from arguments, label: T"),
            act("ann", None, 1_000_000, 2_000_000, "from standard input, priority 5, label: T"),
            act("bob", Some("b"), 1_500_000, 1_500_000, "from arguments, label: T"),
            act("eve", None, 9_000_000, 9_000_000, "from /tmp/, label: x, label: T"),
            act("eve", None, 9_000_000, 9_000_000, &cut),
            act("eve", None, 9_000_000, 9_000_000, "from arguments"),
        ]);
        let asked = |label: Option<&str>, agent: &str, at| {
            let label = label.map(str::to_owned);
            acts.of(&Record { label, agent: agent.to_owned(), asked_at: Timestamp(at), ..Record::default() })
        };
        assert_eq!(asked(Some("T"), "a", 1_000_005), Some("ann"), "by both of her acts");
        assert_eq!(asked(Some("T"), "c", 1_900_000), Some("ann"));
        assert_eq!(asked(Some("T"), "b", 1_500_000), None, "two can have");
        for (label, agent, at) in [(Some("U"), "a", 1_000_000), (None, "a", 1_000_000), (Some("T"), "a", 9_000_000)] {
            assert_eq!(asked(label, agent, at), None, "{label:?} {agent} {at}");
        }
    }

    #[test]
    fn a_verdict_without_ids_is_about_every_row() {
        let request = |verdicts: &str| FoundRequest {
            id: 1,
            request: RecordedRequest::default(),
            verdicts: Some(verdicts.to_owned()),
        };
        let given = request(r#"[{"verdict":"dead","cause":"lost","deletion_ids":[7]},{"verdict":"deleted"}]"#).given();
        assert_eq!(verdict_on(7, &given).as_deref(), Some("dead"));
        assert_eq!(verdict_on(8, &given).as_deref(), Some("deleted"));
        for odd in ["", "[", "{}", "[1]"] {
            assert_eq!(verdict_on(7, &request(odd).given()), None, "{odd}");
        }
    }
}
