//! The settled rows of an agent, and which of their entries are in its cache.

use std::collections::{HashMap, HashSet};

use crate::{
    cli::{Failure, listing::Whole},
    config::Config,
    model::{
        clock::Timestamp,
        deletion::{AgentId, DeletionId, State},
        label::Label,
    },
    queue::{
        SettledRow,
        either::Reader,
        report::{Choice, INBOX, ListedRow, Listing},
        sqlite::twice_if_damaged,
    },
};

/// The states that a compared row can have.
const SETTLED: [State; 3] = [State::Deleted, State::Absent, State::Dead];
/// Requests whose correlation IDs are read at a time.
const CHUNK: usize = 2_000;

/// Which rows are compared.
#[derive(Clone, Debug)]
pub(super) struct Chosen {
    pub(super) agent: AgentId,
    /// Rows that a wish with this label is for.
    pub(super) label: Option<Label>,
    /// Rows that were settled at this time or later.
    pub(super) since: Option<Timestamp>,
}

/// What the label's wishes are for.
#[derive(Debug, Default)]
pub(super) struct OfLabel {
    /// The rows.
    ids: HashSet<i64>,
    /// Wishes that are not fulfilled yet, or whose rows were reopened since and are pending.
    pub(super) pending: u64,
    /// Wishes whose rows are gone.
    pub(super) pruned: u64,
}

/// A row whose entry is in the cache, although it is deleted or absent.
#[derive(Clone, Debug)]
pub(super) struct Still {
    pub(super) row: SettledRow,
    pub(super) entry: String,
    /// The request that settled it.
    pub(super) request: Option<i64>,
    /// That request's correlation ID, if it is kept.
    pub(super) correlation_id: Option<String>,
    /// When the listed entry was cached, if the API told that.
    pub(super) cached_at: Option<Timestamp>,
    /// An earlier listing did not have it.
    was_verified: bool,
}

impl Still {
    /// Whether the entry was cached again after it was deleted.
    pub(super) fn is_new(&self) -> bool {
        self.cached_at.is_some_and(|at| at > self.row.settled_at)
    }
}

/// The rows beside the listing.
#[derive(Debug)]
pub(super) struct Compared {
    /// When the listing began.
    pub(super) began: Timestamp,
    /// Number of entries in the cache.
    pub(super) listed: u64,
    /// Deleted and absent rows whose entries are not in the cache.
    pub(super) gone: Vec<SettledRow>,
    /// Dead rows whose entries are not in the cache either.
    pub(super) dead_gone: Vec<(SettledRow, String)>,
    /// Number of dead rows whose entries are in the cache.
    pub(super) dead_listed: u64,
    /// Deleted and absent rows whose entries are in the cache.
    pub(super) still: Vec<Still>,
    /// Number of rows that were settled after the listing began, or that have values which the schema does not allow.
    pub(super) left_out: u64,
    /// Number of rows that were reopened, removed or settled anew before they could be written.
    pub(super) changed: u64,
}

impl Compared {
    /// Whether rows were compared, each of the settled ones, and none of those that are deleted or absent is in the cache.
    pub(super) fn is_clean(&self) -> bool {
        let is_empty = self.gone.is_empty() && self.dead_gone.is_empty() && self.dead_listed == 0;
        !is_empty && self.still.is_empty() && self.left_out == 0
    }

    /// The rows that are verified.
    pub(super) fn verified(&self) -> Vec<SettledRow> {
        self.gone.iter().copied().chain(self.dead_gone.iter().map(|(row, _)| *row)).collect()
    }

    /// The rows that an earlier listing has verified, and that are in the cache now.
    pub(super) fn contradicted(&self) -> Vec<SettledRow> {
        self.still.iter().filter(|still| still.was_verified).map(|still| still.row).collect()
    }

    /// Reads the correlation IDs of the requests that are said to have deleted what is still there.
    async fn name_requests(&mut self, config: &Config) -> Result<(), Failure> {
        for chunk in self.still.chunks_mut(CHUNK) {
            let requests: Vec<i64> = chunk.iter().filter_map(|still| still.request).collect();
            let look = async || Ok::<_, Failure>(Reader::open(&config.store).await?.correlation_ids(&requests).await?);
            let known: HashMap<i64, String> = twice_if_damaged(look).await?.into_iter().collect();
            for still in chunk {
                still.correlation_id = still.request.and_then(|request| known.get(&request).cloned());
            }
        }
        Ok(())
    }

    fn take(&mut self, listed: ListedRow, whole: &Whole, before: &HashSet<SettledRow>) {
        // The hold lets nothing be settled meanwhile. Somebody may do so with SQL.
        let Some(row) = settled(&listed).filter(|row| before.contains(row)) else {
            self.left_out += 1;
            return;
        };
        match (whole.entries.get(listed.entry.as_str()), row.state) {
            (None, State::Dead) => self.dead_gone.push((row, listed.entry)),
            (None, _) => self.gone.push(row),
            (Some(_), State::Dead) => self.dead_listed += 1,
            (Some(cached_at), _) => self.still.push(Still {
                row,
                entry: listed.entry,
                request: listed.request,
                correlation_id: None,
                cached_at: *cached_at,
                was_verified: listed.verified_at.is_some(),
            }),
        }
    }
}

/// The row, if its values are those of a settled one.
fn settled(listed: &ListedRow) -> Option<SettledRow> {
    let state = SETTLED.into_iter().find(|state| state.as_str() == listed.state)?;
    Some(SettledRow { id: DeletionId(listed.id?), state, settled_at: listed.settled_at? })
}

/// A walk through rows, whose pages are read one by one.
async fn page(listing: &mut Listing, config: &Config) -> Result<Option<Vec<ListedRow>>, Failure> {
    twice_if_damaged(async || Ok::<_, Failure>(Reader::open(&config.store).await?.listed(listing).await?)).await
}

impl Chosen {
    /// What the label's wishes for the agent are for; `None` without a label.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub(super) async fn of_label(&self, config: &Config) -> Result<Option<OfLabel>, Failure> {
        let Some(label) = self.label.clone() else { return Ok(None) };
        let choice = Choice { agent: Some(self.agent.clone()), label: Some(label), ..Choice::default() };
        let (mut listing, mut found) = (Listing::new(choice), OfLabel::default());
        // Rows that were reopened since the wish ended: of them, the listing of wishes has the id and nothing else.
        let mut reopened = HashSet::new();
        while let Some(rows) = page(&mut listing, config).await? {
            for row in rows {
                match (row.state.as_str(), row.id) {
                    ("cancelled", _) => {}
                    ("pending" | INBOX, _) => found.pending += 1,
                    (_, Some(id)) => {
                        found.ids.insert(id);
                        if row.attempts.is_none() {
                            reopened.insert(id);
                        }
                    }
                    (_, None) => found.pruned += 1,
                }
            }
        }
        // Those that are at their end again are compared like others. The rest is pending, although the wish is not.
        let mut listing = self.settled();
        while !reopened.is_empty()
            && let Some(rows) = page(&mut listing, config).await?
        {
            for id in rows.iter().filter_map(|row| row.id) {
                reopened.remove(&id);
            }
        }
        found.pending += reopened.len() as u64;
        Ok(Some(found))
    }

    fn settled(&self) -> Listing {
        let states = SETTLED.into_iter().map(|state| state.as_str().to_owned()).collect();
        Listing::new(Choice { states, agent: Some(self.agent.clone()), ..Choice::default() })
    }

    fn has(&self, row: &ListedRow, of_label: Option<&OfLabel>) -> bool {
        let is_late = self.since.is_none_or(|since| row.settled_at.is_some_and(|at| at >= since));
        is_late && of_label.is_none_or(|found| row.id.is_some_and(|id| found.ids.contains(&id)))
    }

    /// Whether there is any row to compare.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub(super) async fn any(&self, of_label: Option<&OfLabel>, config: &Config) -> Result<bool, Failure> {
        let mut listing = self.settled();
        while let Some(rows) = page(&mut listing, config).await? {
            if rows.iter().any(|row| self.has(row, of_label)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The rows that are settled now. What a listing shows is about these: times do not tell, because the clock of the daemon that
    /// settled them may be another one.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub(super) async fn before(
        &self,
        of_label: Option<&OfLabel>,
        config: &Config,
    ) -> Result<HashSet<SettledRow>, Failure> {
        let (mut listing, mut before) = (self.settled(), HashSet::new());
        while let Some(rows) = page(&mut listing, config).await? {
            before.extend(rows.iter().filter(|row| self.has(row, of_label)).filter_map(settled));
        }
        Ok(before)
    }

    /// Compares the rows with the listing. `before`: the rows that were settled when the listing began.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub(super) async fn compare(
        &self,
        whole: &Whole,
        before: &HashSet<SettledRow>,
        of_label: Option<&OfLabel>,
        config: &Config,
    ) -> Result<Compared, Failure> {
        let mut compared = Compared {
            began: whole.began,
            listed: whole.entries.len() as u64,
            gone: Vec::new(),
            dead_gone: Vec::new(),
            dead_listed: 0,
            still: Vec::new(),
            left_out: 0,
            changed: 0,
        };
        let mut listing = self.settled();
        while let Some(rows) = page(&mut listing, config).await? {
            rows.into_iter().filter(|row| self.has(row, of_label)).for_each(|row| compared.take(row, whole, before));
        }
        compared.name_requests(config).await?;
        Ok(compared)
    }
}
