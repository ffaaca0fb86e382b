//! The nouns: what is queued, and what a request is made of.

use std::{collections::HashSet, fmt, sync::Arc};

/// The most IDs that one bulk-delete request may carry: the endpoint's own limit ("Maximum 20 IDs per request").
pub const MAX_BATCH_SIZE: u8 = 20;

/// The most bytes an agent ID or an entry ID may have; ours, and far above anything the API is known to use.
const MAX_ID_BYTES: usize = 255;

/// [`Lane::batch_max`] of rows that no bulk delete could settle: each is asked about alone.
pub const ALONE: u8 = 0;

/// Why a text cannot be an ID; the table refuses the same at the INSERT.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Empty, too long, or with characters that no ID has.
    #[error("{0:?} is not an ID: it must be 1 to 255 printable ASCII characters without spaces")]
    Text(String),
    /// It would not be one segment of a URL's path, or is the name of the hold on everything.
    #[error("{0:?} is not an agent ID: it must be one URL path segment (no slash, no backslash, not ., .. or *)")]
    Segment(String),
    /// What a program makes of a number that it keeps as a double.
    #[error(
        "{0:?} is a number in floating-point notation, and may have been another one: write the ID as text (in a \
         spreadsheet, format its column as text)"
    )]
    Floating(String),
}

/// Refuses what can be sent and cannot be enqueued: digits with a point and nothing but zeros behind it, and digits with an
/// exponent that has a plus sign or a point before it. Some write the point as a comma. The trigger `deletions_floating`
/// refuses the same at the INSERT.
///
/// # Errors
/// If it is such a text.
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

/// The agent whose cache an entry is in: one segment of the request's path. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentId(Arc<str>);

impl AgentId {
    /// Takes a text for an agent ID.
    ///
    /// # Errors
    /// If it is empty, longer than 255 bytes, not printable ASCII, or not a plain path segment.
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

/// A cached audio entry's ID. Opaque: the API writes numbers as strings, and we never read anything into it. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EntryId(Arc<str>);

impl EntryId {
    /// Takes a text for an entry ID.
    ///
    /// # Errors
    /// If it is empty, longer than 255 bytes, or not printable ASCII.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        printable(text)?;
        Ok(Self(text.into()))
    }

    /// The ID as it is sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it can be asked about alone, which puts it into the request's path: not if it could be taken for more
    /// than one segment of that, for a step in it, or for the name of another operation.
    #[must_use]
    pub fn can_be_in_a_path(&self) -> bool {
        !self.0.contains(['/', '\\']) && !matches!(&*self.0, "." | ".." | "bulk-delete")
    }
}

/// `deletions.id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeletionId(pub i64);

/// `requests.id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub i64);

/// Where a deletion stands; every state but `Pending` is final until somebody asks for the row again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Waiting, or in flight.
    Pending,
    /// The API said so.
    Deleted,
    /// The API knows no such entry: never there, or gone before. Not the same as deleted.
    Absent,
    /// Given up; the row's cause says why.
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
    /// Higher goes first.
    pub priority: i64,
    /// One request, one agent.
    pub agent: AgentId,
    /// The most of these rows that may go together: less than 20 once a request with them was rejected,
    /// and [`ALONE`] if each is to be asked about alone.
    pub batch_max: u8,
}

/// One claimed row: what judging its answer needs to know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// The row.
    pub id: DeletionId,
    /// What is sent.
    pub entry: EntryId,
    /// How many attempts were counted before this one.
    pub attempts: u32,
    /// How often it was asked about alone, and nothing was learnt.
    pub asks: u32,
    /// An earlier attempt may have deleted it unseen.
    pub maybe_done: bool,
    /// Its last request was rejected.
    pub was_rejected: bool,
    /// The last request that it was in, if it was in any since it was enqueued.
    pub last_request: Option<RequestId>,
    /// The first of the requests that failed as a whole with it, since it was last answered about by itself.
    pub first_fault: Option<RequestId>,
    /// The request that has shown that it fails by its own doing: others were deleted by the same answer, or after it failed
    /// before.
    pub evidence: Option<RequestId>,
}

impl Deletion {
    /// A row that was in no request yet.
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
    /// Whether its ID is a decimal number, as the API documents that all of them are.
    #[must_use]
    pub fn is_decimal(&self) -> bool {
        self.entry.as_str().bytes().all(|byte| byte.is_ascii_digit())
    }
}

/// How a request asks for what it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// With the bulk delete: 1 to 20 IDs.
    Bulk,
    /// With the deletion of one entry, which tells of an entry that is not there.
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

/// Deletions that cannot be one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// None, or more than the endpoint takes.
    #[error("a batch has 1 to {MAX_BATCH_SIZE} deletions, not {0}")]
    Size(usize),
    /// The same ID twice: one answer could not be told from the other.
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

    /// The same, to be asked about alone if that is what its lane is for and its ID allows; else as it was.
    #[must_use]
    pub fn alone(self) -> Self {
        let may = self.lane.batch_max == ALONE && self.only().is_some_and(|row| row.entry.can_be_in_a_path());
        Self { kind: if may { Kind::Single } else { self.kind }, ..self }
    }

    /// Its row, if there is just one.
    #[must_use]
    pub fn only(&self) -> Option<&Deletion> {
        match self.deletions.as_slice() {
            [row] => Some(row),
            _ => None,
        }
    }

    /// How it is sent.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The lane the rows were claimed from.
    #[must_use]
    pub fn lane(&self) -> &Lane {
        &self.lane
    }

    /// The rows, 1 to 20.
    #[must_use]
    pub fn deletions(&self) -> &[Deletion] {
        &self.deletions
    }

    /// How many rows, 1 to 20.
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
