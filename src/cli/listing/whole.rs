//! Lists a cache so that an entry that is not listed was not there.
//!
//! A listing is several pages, and entries may come and go in between. A listing counts only if each of its pages names the same total,
//! if it has that number of different entries, and if each page begins with the entry that ended the one before: in an order that does
//! not change, an entry that went from an earlier page would let all that follow move up, one of them past the border.

use std::collections::HashMap;

use anyhow::anyhow;
use indicatif::ProgressBar;
use tokio::time::sleep;

use super::{Halt, Lister};
use crate::{
    api::{Order, PAGE_SIZE, Page},
    cli::{Failure, terminal::warn_person, times::show_count},
    model::{backoff::Jitter, clock::Timestamp, deletion::EntryId},
};

/// The orders to ask for, the best first.
const ORDERS: [Order; 2] = [Order::Id, Order::CachedAt];

/// Listings before giving up.
const LISTINGS: u32 = 3;

/// The whole cache of an agent, as it was at one time.
#[derive(Debug)]
pub(in crate::cli) struct Whole {
    /// All entries, each with the time at which it was cached, if the API told that.
    pub(in crate::cli) entries: HashMap<EntryId, Option<Timestamp>>,
    /// When the listing began. An entry that it does not have was not there from then on, or was cached again later.
    pub(in crate::cli) began: Timestamp,
}

/// Why each of the listings says nothing about entries that it does not have.
#[derive(Debug)]
pub(in crate::cli) struct Shifted(pub(in crate::cli) Vec<String>);

impl Lister {
    /// The same, also while a command holds the agent: such a hold pauses deletions.
    pub(in crate::cli) fn beside_holds(mut self) -> Self {
        self.lists_held = true;
        self
    }

    /// Lists the whole cache; up to three times, if it changes meanwhile.
    ///
    /// # Errors
    /// If the API does not return a page, or returns none in an order that does not change. Faults that may pass are retried first.
    pub(in crate::cli) async fn whole(&mut self, progress: &ProgressBar) -> Result<Result<Whole, Shifted>, Failure> {
        let (mut orders, mut reasons) = (ORDERS.into_iter().peekable(), Vec::new());
        while let Some(order) = orders.peek().copied() {
            match self.once(order, progress).await {
                Ok(Ok(whole)) => return Ok(Ok(whole)),
                Ok(Err(reason)) => reasons.push(reason),
                Err(Halt::Unsorted(error)) => {
                    orders.next();
                    if orders.peek().is_none() {
                        let agent = &self.agent;
                        return Err(anyhow!(
                            "{error}: without an order that stays, a listing of {agent} shows nothing"
                        )
                        .into());
                    }
                    continue;
                }
                Err(halt) => return Err(halt.failure()),
            }
            let tries = u32::try_from(reasons.len()).unwrap_or(LISTINGS);
            if tries >= LISTINGS {
                break;
            }
            let reason = reasons.last().map_or("", String::as_str);
            progress.suspend(|| warn_person(&format!("{reason}; listing again")));
            sleep(self.backoff.jittered(tries, Jitter::draw(&mut self.rng))).await;
        }
        Ok(Err(Shifted(reasons)))
    }

    /// Lists the cache once. The inner error is the reason why the listing does not count.
    async fn once(&mut self, order: Order, progress: &ProgressBar) -> Result<Result<Whole, String>, Halt> {
        let began = self.clock.now();
        let mut pages = Pages::default();
        loop {
            let page = self.page(pages.offset(), Some(order), progress).await?;
            let is_last = page.entries.len() as u64 + page.unusable < PAGE_SIZE;
            if let Err(reason) = pages.take(page) {
                return Ok(Err(reason));
            }
            let (listed, total) = (pages.entries.len() as u64, pages.total.unwrap_or_default());
            progress.set_position(listed);
            progress.set_message(format!("{} of {} entries listed", show_count(listed), show_count(total)));
            if is_last {
                return Ok(pages.end().map(|entries| Whole { entries, began }));
            }
        }
    }
}

/// What the pages of one listing have.
#[derive(Debug, Default)]
struct Pages {
    entries: HashMap<EntryId, Option<Timestamp>>,
    /// The last entry of the last page.
    last: Option<EntryId>,
    /// The number of entries that the first page named.
    total: Option<u64>,
}

impl Pages {
    /// The offset of the next page, which begins with the last entry of this one.
    fn offset(&self) -> u64 {
        (self.entries.len() as u64).saturating_sub(1)
    }

    /// Takes the next page in.
    ///
    /// # Errors
    /// The reason, if the cache has changed since the page before, or the page is none of a whole listing.
    fn take(&mut self, page: Page) -> Result<(), String> {
        let total = *self.total.get_or_insert(page.total);
        if page.total != total {
            return Err(format!("the cache had {total} entries, and {} on a later page", page.total));
        }
        if page.unusable > 0 {
            return Err(format!("{} of the listed entries have no ID that a row could have", page.unusable));
        }
        let mut entries = page.entries.into_iter();
        if let Some(last) = &self.last
            && entries.next().is_none_or(|first| first.id != *last)
        {
            let last = last.as_str();
            return Err(format!(
                "the entry {last}, with which a page ended, does not begin the next page: entries have moved"
            ));
        }
        for entry in entries {
            let id = entry.id.clone();
            if self.entries.insert(entry.id, entry.cached_at).is_some() {
                return Err(format!("the entry {} was listed twice", id.as_str()));
            }
            self.last = Some(id);
        }
        let listed = self.entries.len() as u64;
        if listed > total {
            return Err(format!("the API says that there are {total} entries, and listed {listed}"));
        }
        Ok(())
    }

    /// All entries, after the last page.
    ///
    /// # Errors
    /// The reason, if entries are missing.
    fn end(self) -> Result<HashMap<EntryId, Option<Timestamp>>, String> {
        let (listed, total) = (self.entries.len() as u64, self.total.unwrap_or_default());
        if listed == total {
            return Ok(self.entries);
        }
        Err(format!("the API says that there are {total} entries, and listed {listed}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Entry;

    fn page(total: u64, ids: &[u64]) -> Page {
        let entry = |id: &u64| Entry {
            id: EntryId::parse(&id.to_string()).unwrap(),
            transcript: None,
            cached_at: None,
            hit_count: None,
            provider: None,
            voice: None,
            language: None,
        };
        Page { entries: ids.iter().map(entry).collect(), unusable: 0, total }
    }

    fn listed(pages: &[Page]) -> Result<usize, String> {
        let mut all = Pages::default();
        for page in pages {
            all.take(page.clone())?;
        }
        all.end().map(|entries| entries.len())
    }

    #[test]
    fn a_listing_counts_only_if_nothing_has_moved() {
        assert_eq!(listed(&[page(0, &[])]), Ok(0));
        assert_eq!(listed(&[page(3, &[1, 2]), page(3, &[2, 3])]), Ok(3));
        assert_eq!(listed(&[page(2, &[1, 2]), page(2, &[2])]), Ok(2));
        let cases: [(&[Page], &str); 7] = [
            (&[page(3, &[1, 2]), page(4, &[2, 3])], "the cache had 3 entries, and 4 on a later page"),
            // 1 went, and 4 came: the total is the same, and 3 would be missing.
            (&[page(3, &[1, 2]), page(3, &[3, 4])], "does not begin the next page"),
            (&[page(3, &[1, 2]), page(3, &[])], "does not begin the next page"),
            (&[page(3, &[1, 2]), page(3, &[2, 1])], "the entry 1 was listed twice"),
            (&[page(2, &[1, 1])], "the entry 1 was listed twice"),
            (&[page(3, &[1, 2])], "there are 3 entries, and listed 2"),
            (&[page(1, &[1, 2])], "there are 1 entries, and listed 2"),
        ];
        for (pages, said) in cases {
            let reason = listed(pages).unwrap_err();
            assert!(reason.contains(said), "{pages:?}: {reason}");
        }
        let odd = Page { unusable: 1, ..page(2, &[1]) };
        assert!(listed(&[odd]).unwrap_err().contains("no ID"));
    }
}
