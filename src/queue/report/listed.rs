//! Rows one page after the other, in constant memory: each page is a short read of its own, and goes on behind the last row of the
//! page before. Each walk reads an index, or the table, in order, so that no page reads what another one has read.

use crate::model::{
    clock::Timestamp,
    deletion::{AgentId, State},
    label::Label,
    outcome::Cause,
};

/// Rows that a page reads. The choice may leave out many of them.
pub(in crate::queue) const PAGE: i64 = 2_000;

/// The state of a wish that the leader has not taken in yet.
pub const INBOX: &str = "new";

/// Which rows are listed. What is left out does not matter.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// `pending`, `deleted`, `absent` or `dead`; of a label's wishes also `cancelled`; of wishes in the inbox, [`INBOX`]. Empty: all.
    pub states: Vec<String>,
    /// The agent.
    pub agent: Option<AgentId>,
    /// The cause.
    pub cause: Option<Cause>,
    /// The label: then its wishes are listed, also those whose rows are gone.
    pub label: Option<Label>,
}

/// A row, or a label's wish for an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedRow {
    /// `deletions.id`; `None`: the wish's row is gone.
    pub id: Option<i64>,
    /// Its agent.
    pub agent: String,
    /// Its entry.
    pub entry: String,
    /// The state of the row, or of the wish.
    pub state: String,
    /// The cause of the last request that did not end it. Of a wish that ended before its row was reopened, this and what the row says
    /// besides is `None`.
    pub cause: Option<String>,
    /// The counted attempts.
    pub attempts: Option<i64>,
    /// Higher goes first.
    pub priority: Option<i64>,
    /// It must not be sent before this time.
    pub due_at: Option<Timestamp>,
    /// When it was enqueued.
    pub created_at: Option<Timestamp>,
    /// When it ended.
    pub settled_at: Option<Timestamp>,
    /// When a listing of the agent's whole cache last did not have it.
    pub verified_at: Option<Timestamp>,
    /// The last request that gave it a verdict.
    pub request: Option<i64>,
    /// The row's last label, or that of the wish.
    pub label: Option<String>,
    /// When the wish was wished.
    pub wished_at: Option<Timestamp>,
    /// Who cancelled the wish, if that is known.
    pub closed_by: Option<String>,
}

/// Where a walk goes on.
#[derive(Clone, Debug)]
pub(in crate::queue) enum Place {
    ById {
        after: i64,
    },
    OfAgent {
        after: String,
    },
    Pending {
        priority: i64,
        agent: String,
        batch_max: i64,
        due_at: i64,
        id: i64,
    },
    /// `is_only`: no other cause is asked for.
    Dead {
        cause: Option<String>,
        after: i64,
        is_only: bool,
    },
    OfLabel {
        label: String,
        agent: String,
        entry: String,
    },
    /// The wishes that the leader has not taken in yet, in the order of the table.
    Inbox {
        after: Option<String>,
    },
}

/// A walk through the rows of a choice.
#[derive(Clone, Debug)]
pub struct Listing {
    choice: Choice,
    /// The walks that are left, the next one last.
    places: Vec<Place>,
}

impl Listing {
    /// Begins a walk.
    #[must_use]
    pub fn new(choice: Choice) -> Self {
        let inbox =
            (choice.states.is_empty() || choice.states.iter().any(|state| state == INBOX)) && choice.cause.is_none();
        let of_rows: Vec<&str> = choice.states.iter().map(String::as_str).filter(|state| *state != INBOX).collect();
        let open_or_dead = [State::Pending, State::Dead].map(State::as_str);
        let is_open_or_dead = !choice.states.is_empty() && of_rows.iter().all(|state| open_or_dead.contains(state));
        let has = |state: State| of_rows.contains(&state.as_str());
        let places = if of_rows.is_empty() && !choice.states.is_empty() {
            Vec::new()
        } else if let Some(label) = &choice.label {
            vec![Place::OfLabel { label: label.as_str().to_owned(), agent: String::new(), entry: String::new() }]
        } else if choice.agent.is_some() {
            vec![Place::OfAgent { after: String::new() }]
        } else if is_open_or_dead {
            let cause = choice.cause.map(|cause| cause.as_str().to_owned());
            let dead = Place::Dead { is_only: cause.is_some(), cause, after: 0 };
            let pending = Place::Pending { priority: i64::MIN, agent: String::new(), batch_max: 0, due_at: 0, id: 0 };
            let places = [(State::Dead, dead), (State::Pending, pending)];
            places.into_iter().filter(|(state, _)| has(*state)).map(|(_, place)| place).collect()
        } else {
            vec![Place::ById { after: i64::MIN }]
        };
        // The last one comes first: the inbox is behind all rows.
        let inbox = inbox.then_some(Place::Inbox { after: None });
        Self { choice, places: inbox.into_iter().chain(places).collect() }
    }

    /// Where the walk is; `None` at its end.
    pub(in crate::queue) fn place(&self) -> Option<&Place> {
        self.places.last()
    }

    pub(in crate::queue) fn choice(&self) -> &Choice {
        &self.choice
    }

    /// Goes on behind this page, which was read at [`Listing::place`]. `next_cause`: the cause that comes after
    /// [`Place::cause_at_end`].
    pub(in crate::queue) fn go_on(&mut self, page: Page, next_cause: Option<String>) -> Vec<ListedRow> {
        let next = match (self.places.pop(), page.last.filter(|_| page.is_full)) {
            (Some(place), Some(last)) => Some(place.behind(last)),
            (_, None) | (None, _) => {
                next_cause.map(|cause| Place::Dead { cause: Some(cause), after: 0, is_only: false })
            }
        };
        self.places.extend(next);
        page.rows
    }
}

/// The rows of one read.
#[derive(Debug, Default)]
pub(in crate::queue) struct Page {
    /// Those that are chosen.
    pub(in crate::queue) rows: Vec<ListedRow>,
    /// The last one that was read, chosen or not.
    pub(in crate::queue) last: Option<Last>,
    /// There may be more.
    pub(in crate::queue) is_full: bool,
}

/// What the place of the next page is made of.
#[derive(Debug)]
pub(in crate::queue) struct Last {
    pub(in crate::queue) id: i64,
    pub(in crate::queue) agent: String,
    pub(in crate::queue) entry: String,
    pub(in crate::queue) priority: i64,
    pub(in crate::queue) batch_max: i64,
    pub(in crate::queue) due_at: i64,
    /// Its place in the inbox.
    pub(in crate::queue) place: String,
}

impl Place {
    /// After this page of dead rows, the cause behind which the walk goes on; `None` if it goes on otherwise. Dead rows come cause by
    /// cause, those without one first.
    pub(in crate::queue) fn cause_at_end(&self, page: &Page) -> Option<&str> {
        let Self::Dead { cause, is_only: false, .. } = self else { return None };
        (!page.is_full).then(|| cause.as_deref().unwrap_or_default())
    }

    /// The place behind this row.
    fn behind(self, last: Last) -> Self {
        let Last { id, agent, entry, priority, batch_max, due_at, place } = last;
        match self {
            Self::ById { .. } => Self::ById { after: id },
            Self::OfAgent { .. } => Self::OfAgent { after: entry },
            Self::Pending { .. } => Self::Pending { priority, agent, batch_max, due_at, id },
            Self::Dead { cause, is_only, .. } => Self::Dead { cause, is_only, after: id },
            Self::OfLabel { label, .. } => Self::OfLabel { label, agent, entry },
            Self::Inbox { .. } => Self::Inbox { after: Some(place) },
        }
    }
}
