//! Deletions, and the lanes and batches that they form.

use std::{borrow::Borrow, collections::HashSet, fmt, sync::Arc};

/// The most IDs in a bulk delete: the endpoint's own limit ("Maximum 20 IDs per request").
pub const MAX_BATCH_SIZE: u8 = 20;

/// The most bytes in an agent ID or an entry ID. This limit is ours, and far above any ID that the API is known to use.
const MAX_ID_BYTES: usize = 255;

/// The [`Lane::batch_max`] of rows that no bulk delete could settle: each gets a single-entry DELETE.
pub const ALONE: u8 = 0;

/// Why a text cannot be an ID. The table's CHECKs refuse the same texts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text is empty, too long, or has characters that no ID has.
    #[error("{0:?} is not an ID: it must be 1 to 255 printable ASCII characters without spaces")]
    Text(String),
    /// The text would not be one segment of a URL's path, or is `*`, the scope of a hold on everything.
    #[error("{0:?} is not an agent ID: it must be one URL path segment (no slash, no backslash, not ., .. or *)")]
    Segment(String),
    /// The text is a number as programs print it that keep it as a double.
    #[error(
        "{0:?} is a number in floating-point notation, and its last digits may be lost: write the ID as text (in a \
         spreadsheet, format its column as text)"
    )]
    Floating(String),
}

/// Refuses a number in floating-point notation: digits with a point and only zeros after it, and digits with an exponent that
/// has a plus sign, or a point before it. The point may be a comma. The trigger `deletions_floating` refuses the same texts.
///
/// # Errors
/// If `text` is such a number.
pub fn refuse_floating(text: &str) -> Result<(), IdError> {
    let number = text.trim_start_matches(['+', '-']).replace(',', ".").to_ascii_uppercase();
    let is_digits = number.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'E' | b'+'));
    let once = ['.', 'E', '+'].iter().all(|mark| number.matches(*mark).count() <= 1);
    let leads = |text: &str| text.starts_with(|first: char| first.is_ascii_digit());
    let is_whole = number.trim_end_matches('0').ends_with('.');
    let is_power = number.split_once('E').is_some_and(|(factor, power)| {
        power.strip_prefix('+').is_some_and(leads) || (factor.contains('.') && leads(power))
    });
    let is_floating = is_digits && once && leads(&number) && (is_whole || is_power);
    if is_floating { Err(IdError::Floating(text.to_owned())) } else { Ok(()) }
}

fn printable(text: &str) -> Result<(), IdError> {
    let fits = (1..=MAX_ID_BYTES).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(()) } else { Err(IdError::Text(text.to_owned())) }
}

/// The ID of the agent whose cache an entry is in. It is one segment of a request's path, and cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentId(Arc<str>);

impl AgentId {
    /// Parses an agent ID.
    ///
    /// # Errors
    /// If the text is empty, longer than 255 bytes, not printable ASCII, or not a plain path segment.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        printable(text)?;
        if text.contains(['/', '\\']) || matches!(text, "." | ".." | "*") {
            return Err(IdError::Segment(text.to_owned()));
        }
        Ok(Self(text.into()))
    }

    /// The ID as it is in the database.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The ID of a cached audio entry. The API's IDs are numbers in strings; here they are opaque text. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EntryId(Arc<str>);

/// A set of entries can be asked for a text.
impl Borrow<str> for EntryId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl EntryId {
    /// Parses an entry ID.
    ///
    /// # Errors
    /// If the text is empty, longer than 255 bytes, or not printable ASCII.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        printable(text)?;
        Ok(Self(text.into()))
    }

    /// The ID as it is in the database and in requests.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a single-entry DELETE can have this ID in its path. It cannot if the ID would be read as several segments, as
    /// a relative step, or as the name of another operation.
    #[must_use]
    pub fn can_be_in_a_path(&self) -> bool {
        !self.0.contains(['/', '\\']) && !matches!(&*self.0, "." | ".." | "bulk-delete")
    }
}

/// The number of a row: `deletions.id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeletionId(pub i64);

/// The number of a request: `requests.id`. A later request has a higher number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub i64);

/// The state of a row. Every state but `Pending` is final until somebody enqueues the row again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// The row waits, or is in flight.
    Pending,
    /// The API has deleted the entry.
    Deleted,
    /// The API knows no such entry: it was never there, or was gone before.
    Absent,
    /// The row was given up. Its cause says why.
    Dead,
}

impl State {
    /// The string in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Deleted => "deleted",
            Self::Absent => "absent",
            Self::Dead => "dead",
        }
    }
}

/// The rows that may share a request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    /// The priority; higher goes first.
    pub priority: i64,
    /// The agent. A request is about one agent.
    pub agent: AgentId,
    /// The most of these rows that a request may carry: less than 20 after a request with them was split, and [`ALONE`] if each
    /// gets a single-entry DELETE.
    pub batch_max: u8,
}

/// A claimed row, with all that judging its answer needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// The row's number.
    pub id: DeletionId,
    /// The entry to delete.
    pub entry: EntryId,
    /// How many attempts have been counted so far.
    pub attempts: u32,
    /// How many single-entry DELETEs of this row told nothing.
    pub asks: u32,
    /// An earlier attempt may have deleted the entry without our seeing it.
    pub maybe_done: bool,
    /// The row's last request was rejected.
    pub was_rejected: bool,
    /// The last request with this row, if there was one since the row was enqueued.
    pub last_request: Option<RequestId>,
    /// The first request with this row that failed as a whole, since the last answer about the row itself.
    pub first_fault: Option<RequestId>,
    /// The request that has shown that the row itself is the reason for its failures: the same answer deleted others, or others
    /// got through between its failures.
    pub evidence: Option<RequestId>,
}

impl Deletion {
    /// A row that has been in no request.
    pub fn new(id: DeletionId, entry: EntryId) -> Self {
        Self {
            id,
            entry,
            attempts: 0,
            asks: 0,
            maybe_done: false,
            was_rejected: false,
            last_request: None,
            first_fault: None,
            evidence: None,
        }
    }
}

impl Deletion {
    /// Whether the entry's ID is a decimal number, as all IDs of the API are documented to be.
    #[must_use]
    pub fn is_decimal(&self) -> bool {
        self.entry.as_str().bytes().all(|byte| byte.is_ascii_digit())
    }
}

/// The kind of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A bulk delete of 1 to 20 IDs.
    Bulk,
    /// A single-entry DELETE, which says so if there is no such entry.
    Single,
}

impl Kind {
    /// The string in the database and in the logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bulk => "bulk",
            Self::Single => "single",
        }
    }
}

/// 1 to 20 deletions of one lane, with distinct entry IDs: the content of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    lane: Lane,
    deletions: Vec<Deletion>,
    kind: Kind,
}

/// Why deletions cannot be one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// There are none, or more than the endpoint takes.
    #[error("a batch has 1 to {MAX_BATCH_SIZE} deletions, not {0}")]
    Size(usize),
    /// An ID is there twice, so its two rows would share one answer.
    #[error("a batch has distinct entry IDs")]
    Repeated,
}

impl Batch {
    /// Makes a batch of rows of one lane.
    ///
    /// # Errors
    /// If there are not 1 to 20 of them, or two have the same entry ID.
    pub fn new(lane: Lane, deletions: Vec<Deletion>) -> Result<Self, BatchError> {
        if deletions.is_empty() || deletions.len() > usize::from(MAX_BATCH_SIZE) {
            return Err(BatchError::Size(deletions.len()));
        }
        let distinct: HashSet<&str> = deletions.iter().map(|deletion| deletion.entry.as_str()).collect();
        if distinct.len() < deletions.len() {
            return Err(BatchError::Repeated);
        }
        Ok(Self { lane, deletions, kind: Kind::Bulk })
    }

    /// This batch as a single-entry DELETE, if that is the purpose of its lane and the ID allows it. Otherwise unchanged.
    #[must_use]
    pub fn alone(self) -> Self {
        let may = self.lane.batch_max == ALONE && self.only().is_some_and(|row| row.entry.can_be_in_a_path());
        Self { kind: if may { Kind::Single } else { self.kind }, ..self }
    }

    /// The row of a batch of one.
    #[must_use]
    pub fn only(&self) -> Option<&Deletion> {
        match self.deletions.as_slice() {
            [row] => Some(row),
            _ => None,
        }
    }

    /// The kind of request that the batch is sent as.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The lane that the rows were claimed from.
    #[must_use]
    pub fn lane(&self) -> &Lane {
        &self.lane
    }

    /// The rows, 1 to 20.
    #[must_use]
    pub fn deletions(&self) -> &[Deletion] {
        &self.deletions
    }

    /// The number of rows, 1 to 20.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a batch is never empty")]
    pub fn len(&self) -> usize {
        self.deletions.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_could_leave_their_path_segment_are_refused() {
        for bad in ["", ".", "..", "*", "a/b", "a\\b", "a b", "a\0", "a\n", "é", &"x".repeat(256)] {
            assert!(AgentId::parse(bad).is_err(), "{bad:?}");
        }
        for good in ["PROJECT-58RP822I", "%2e%2e", "a?b#c", "...", &"x".repeat(255)] {
            assert!(AgentId::parse(good).is_ok(), "{good:?}");
        }
        assert!(EntryId::parse("a/b").is_ok(), "an entry ID travels in the body");
        assert!(EntryId::parse("1 ").is_err());
    }

    #[test]
    fn only_one_row_of_its_lane_with_a_plain_id_is_asked_about_alone() {
        let batch = |batch_max, entries: &[&str]| {
            let lane = Lane { priority: 0, agent: AgentId::parse("a").unwrap(), batch_max };
            let rows = entries.iter().zip(1..).map(|(entry, id)| {
                let entry = EntryId::parse(entry).unwrap();
                Deletion::new(DeletionId(id), entry)
            });
            Batch::new(lane, rows.collect()).unwrap().alone().kind()
        };
        for plain in ["4711", "...", "%2e%2e", "a?b#c", "*", "bulk-delete2"] {
            assert_eq!(batch(ALONE, &[plain]), Kind::Single, "{plain}");
        }
        for other in [".", "..", "a/b", "/", "a\\b", "bulk-delete"] {
            assert_eq!(batch(ALONE, &[other]), Kind::Bulk, "{other}");
        }
        assert_eq!((batch(1, &["1"]), batch(ALONE, &["1", "2"])), (Kind::Bulk, Kind::Bulk));
    }

    #[test]
    fn a_batch_has_one_to_twenty_distinct_ids() -> Result<(), IdError> {
        let lane = Lane { priority: 0, agent: AgentId::parse("a")?, batch_max: 20 };
        let rows = |n: i64| -> Result<Vec<Deletion>, IdError> {
            (0..n)
                .map(|id| {
                    let entry = EntryId::parse(&id.to_string())?;
                    Ok(Deletion::new(DeletionId(id), entry))
                })
                .collect()
        };
        assert_eq!(Batch::new(lane.clone(), rows(0)?), Err(BatchError::Size(0)));
        assert_eq!(Batch::new(lane.clone(), rows(21)?), Err(BatchError::Size(21)));
        assert_eq!(Batch::new(lane.clone(), rows(20)?).map(|batch| batch.len()), Ok(20));
        let mut twice = rows(2)?;
        twice[1].entry = twice[0].entry.clone();
        assert_eq!(Batch::new(lane, twice), Err(BatchError::Repeated));
        Ok(())
    }
}
