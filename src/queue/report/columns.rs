//! What the readers make of the rows that an engine returns.

use super::{
    Found, FoundAct, FoundRequest, Last, LastRecord, ListedRow, NewestRequest, PAGE, Page, Record, RecordPage,
    SentRequest,
};
use crate::model::clock::Timestamp;

/// The columns of a row, by their names. A value that is NULL is `None`, and so is a value of another type, which an invalid row can have,
/// and a column that the statement does not have.
pub(in crate::queue) trait Columns {
    /// A text.
    fn text(&self, name: &str) -> Option<String>;

    /// An integer.
    fn number(&self, name: &str) -> Option<i64>;

    /// True or false.
    fn flag(&self, name: &str) -> Option<bool>;

    /// Unix milliseconds.
    fn time(&self, name: &str) -> Option<Timestamp> {
        self.number(name).map(Timestamp)
    }

    /// A text, or an empty one.
    fn text_or_empty(&self, name: &str) -> String {
        self.text(name).unwrap_or_default()
    }

    /// An integer, or zero.
    fn number_or_zero(&self, name: &str) -> i64 {
        self.number(name).unwrap_or(0)
    }

    /// A count, or zero.
    fn count(&self, name: &str) -> u64 {
        self.number(name).and_then(|count| u64::try_from(count).ok()).unwrap_or(0)
    }
}

/// Whether a read that was to have a page of rows may have left some.
fn is_full(rows: &[impl Columns]) -> bool {
    rows.first().is_some_and(|row| row.number_or_zero("numbers") >= PAGE)
}

fn chosen<R: Columns>(rows: &[R]) -> impl Iterator<Item = &R> {
    rows.iter().filter(|row| row.flag("is_chosen") == Some(true))
}

impl Page {
    /// The rows that are chosen, and the last one.
    pub(in crate::queue) fn of(rows: &[impl Columns]) -> Self {
        Self {
            rows: chosen(rows).map(ListedRow::of).collect(),
            last: rows.last().map(Last::of),
            is_full: is_full(rows),
        }
    }
}

impl Last {
    fn of(row: &impl Columns) -> Self {
        Self {
            id: row.number_or_zero("id"),
            agent: row.text_or_empty("agent_id"),
            entry: row.text_or_empty("entry_id"),
            priority: row.number_or_zero("priority"),
            batch_max: row.number_or_zero("batch_max"),
            due_at: row.number_or_zero("due_at"),
            place: row.text_or_empty("place"),
        }
    }
}

impl ListedRow {
    fn of(row: &impl Columns) -> Self {
        Self {
            id: row.number("id"),
            agent: row.text_or_empty("agent_id"),
            entry: row.text_or_empty("entry_id"),
            state: row.text_or_empty("state"),
            cause: row.text("last_cause"),
            attempts: row.number("attempts"),
            priority: row.number("priority"),
            due_at: row.time("due_at"),
            created_at: row.time("created_at"),
            settled_at: row.time("settled_at"),
            verified_at: row.time("verified_at"),
            request: row.number("request_id"),
            label: row.text("label"),
            wished_at: row.time("wished_at"),
            closed_by: row.text("closed_by"),
        }
    }
}

impl RecordPage {
    /// The records that are chosen, and the last one.
    pub(in crate::queue) fn of(rows: &[impl Columns]) -> Self {
        Self {
            found: chosen(rows).map(Found::of).collect(),
            last: rows.last().map(LastRecord::of),
            is_full: is_full(rows),
        }
    }
}

impl LastRecord {
    fn of(row: &impl Columns) -> Self {
        Self {
            row: row.number_or_zero("id"),
            label: row.text_or_empty("label"),
            agent: row.text_or_empty("agent_id"),
            entry: row.text_or_empty("entry_id"),
            place: row.text_or_empty("place"),
        }
    }
}

impl Found {
    fn of(row: &impl Columns) -> Self {
        let record = Record {
            agent: row.text_or_empty("agent_id"),
            entry: row.text_or_empty("entry_id"),
            label: row.text("label"),
            state: row.text_or_empty("state"),
            cause: row.text("last_cause"),
            asked_at: row.time("asked_at").unwrap_or_default(),
            ended_at: row.time("ended_at"),
            priority: row.number("priority"),
            attempts: row.number("attempts"),
            due_at: row.time("due_at"),
            maybe_done: row.flag("maybe_done"),
            verified_at: row.time("verified_at"),
            cancelled_by: row.text("closed_by"),
            request: None,
        };
        Self { record, row: row.number("id"), request: row.number("request_id") }
    }
}

impl FoundRequest {
    pub(in crate::queue) fn of(row: &impl Columns) -> Self {
        Self { request: SentRequest::of(row), verdicts: row.text("verdicts") }
    }
}

impl FoundAct {
    pub(in crate::queue) fn of(row: &impl Columns) -> Self {
        Self {
            operator: row.text_or_empty("operator"),
            scope: row.text("scope"),
            acted_at: row.time("acted_at").unwrap_or_default(),
            updated_at: row.time("updated_at").unwrap_or_default(),
            detail: row.text_or_empty("detail"),
        }
    }
}

impl SentRequest {
    pub(in crate::queue) fn of(row: &impl Columns) -> Self {
        Self {
            request: row.number_or_zero("id"),
            kind: row.text_or_empty("kind"),
            size: row.number_or_zero("size"),
            claimed_at: row.time("claimed_at").unwrap_or_default(),
            answered_at: row.time("answered_at"),
            status: row.number("status"),
            detail: row.text("detail"),
            correlation_id: row.text_or_empty("correlation_id"),
            remote_id: row.text("remote_id"),
            verdict: row.text("verdict"),
            cause: row.text("cause"),
        }
    }
}

impl NewestRequest {
    pub(in crate::queue) fn of(row: &impl Columns) -> Self {
        Self {
            request: row.number_or_zero("id"),
            agent: row.text_or_empty("agent_id"),
            kind: row.text_or_empty("kind"),
            size: row.number_or_zero("size"),
            claimed_at: row.time("claimed_at").unwrap_or_default(),
            answered_at: row.time("answered_at"),
            status: row.number("status"),
            detail: row.text("detail"),
            correlation_id: row.text_or_empty("correlation_id"),
            verdicts: ["deleted", "absent", "retried", "dead"].map(|name| row.count(name)),
        }
    }
}
