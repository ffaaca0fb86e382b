//! Lists a cache so that an entry that is not listed was not there.
//!
//! A listing is several pages, and entries may come and go in between. A listing counts only if each of its pages names the same total,
//! if it has that number of different entries, and if each page begins with the entry that ended the one before. That is not enough: if
//! an entry goes, another comes, and a third one moves to an earlier page, the third one is missing. So one of these has to hold, too:
//!
//! * The listing is a single page.
//! * The entries are in the order of their IDs, which does not change: then each entry that went from an earlier page lets all that
//!   follow move up, one of them past the border.
//! * Two listings in a row have the same entries, with the same times of caching, in whatever order. If a listing leaves out an entry that
//!   was there, it has another one that went meanwhile. The next listing has that one only if it was cached again, at another time.

use std::collections::HashMap;

use anyhow::anyhow;
use indicatif::ProgressBar;
use tokio::time::sleep;

use super::{Halt, Lister};
use crate::{
    api::{Order, PAGE_SIZE, Page},
    cli::{Failure, terminal::warn_person, times::show_count},
    config::Config,
    model::{
        backoff::Jitter,
        clock::{Clock, Timestamp},
        deletion::{AgentId, EntryId},
    },
};

/// The whole cache of an agent, as it was at one time.
#[derive(Debug)]
pub(in crate::cli) struct Whole {
    /// All entries, each with the time at which it was cached, if the API told that.
    pub(in crate::cli) entries: HashMap<EntryId, Option<Timestamp>>,
    /// When the listing began. An entry that it does not have was not there from then on, or was cached again later.
    pub(in crate::cli) began: Timestamp,
}

/// Lists the whole cache of an agent.
pub(in crate::cli) struct WholeLister {
    lister: Lister,
    /// The order to ask for: the best one that the API has not been found to ignore or to reject.
    order: Option<Order>,
}

impl WholeLister {
    /// Lists also while a command holds the agent itself: such a hold pauses deletions.
    ///
    /// # Errors
    /// If there is no API key, or TLS cannot be set up.
    pub(in crate::cli) fn new(
        config: &Config,
        agent: AgentId,
        clock: Clock,
        rng: fastrand::Rng,
    ) -> Result<Self, Failure> {
        let lister = Lister { lists_held: true, ..Lister::new(config, agent, clock, rng)? };
        Ok(Self { lister, order: Some(Order::Id) })
    }

    /// Lists the whole cache. The inner error is the reason why the listing says nothing about entries that it does not have.
    ///
    /// # Errors
    /// If the API does not return a page. Faults that may pass are retried first.
    pub(in crate::cli) async fn whole(&mut self, progress: &ProgressBar) -> Result<Result<Whole, String>, Failure> {
        let mut before: Option<Whole> = None;
        loop {
            let once = match self.once(progress).await {
                Ok(Ok(once)) => once,
                Ok(Err(reason)) => return Ok(Err(reason)),
                Err(Halt::Unsorted(error)) => {
                    self.order = self.order.and_then(next_best);
                    before = None;
                    progress.suspend(|| warn_person(&format!("{error}; two listings in a row have to agree")));
                    continue;
                }
                Err(halt) => return Err(halt.failure()),
            };
            if once.is_sure {
                return Ok(Ok(once.whole));
            }
            match before.replace(once.whole) {
                None => {}
                Some(first) if before.as_ref().is_some_and(|second| second.entries == first.entries) => {
                    return Ok(Ok(first));
                }
                Some(_) => return Ok(Err("two listings in a row differ".to_owned())),
            }
        }
    }

    /// Waits before the cache is listed again. `tries`: so far.
    pub(in crate::cli) async fn pause(&mut self, tries: u32) {
        sleep(self.lister.backoff.jittered(tries, Jitter::draw(&mut self.lister.rng))).await;
    }

    /// Lists the cache once. The inner error is the reason why the listing does not count.
    async fn once(&mut self, progress: &ProgressBar) -> Result<Result<Once, String>, Halt> {
        let began = self.lister.clock.now();
        let mut pages = Pages::new(self.order);
        loop {
            let page = self.lister.page(pages.offset(), self.order, progress).await?;
            let is_last = pages.ends_with(&page);
            match pages.take(page, is_last) {
                Ok(()) => {}
                Err(Flaw::Shifted(reason)) => return Ok(Err(reason)),
                Err(Flaw::Unsorted) => {
                    let agent = &self.lister.agent;
                    return Err(Halt::Unsorted(anyhow!("the API does not list the cache of {agent} by ID, as asked")));
                }
            }
            let (listed, total) = (pages.entries.len() as u64, pages.total.unwrap_or_default());
            progress.set_position(listed);
            progress.set_message(format!("{} of {} entries listed", show_count(listed), show_count(total)));
            if is_last {
                let is_sure = pages.read == 1 || self.order == Some(Order::Id);
                return Ok(pages.end().map(|entries| Once { whole: Whole { entries, began }, is_sure }));
            }
        }
    }
}

/// The order to ask for if the API does not list in this one. No other order shows by itself that nothing has moved. In the order of
/// caching, few entries do; the order that the API chooses may be that of the hits, which change all the time.
fn next_best(order: Order) -> Option<Order> {
    match order {
        Order::Id => Some(Order::CachedAt),
        Order::CachedAt => None,
    }
}

/// One listing.
struct Once {
    whole: Whole,
    /// It needs no second one.
    is_sure: bool,
}

/// Why the pages are no listing.
#[derive(Debug, PartialEq, Eq)]
enum Flaw {
    /// Entries have come, gone or moved.
    Shifted(String),
    /// The pages are not in the order of the IDs, although that was asked for.
    Unsorted,
}

/// What the pages of one listing have.
#[derive(Debug, Default)]
struct Pages {
    entries: HashMap<EntryId, Option<Timestamp>>,
    /// The last entry of the last page.
    last: Option<EntryId>,
    /// The number of entries that the first page named.
    total: Option<u64>,
    /// The number of pages.
    read: u32,
    /// The orders of IDs that the pages may be in; empty: another order was asked for.
    orders: Vec<fn(&str, &str) -> bool>,
}

/// Whether the number `id` is behind the number `before`.
fn ascends_by_number(before: &str, id: &str) -> bool {
    let is_number = |id: &str| id.bytes().all(|byte| byte.is_ascii_digit()) && (!id.starts_with('0') || id == "0");
    is_number(before) && is_number(id) && (before.len(), before) < (id.len(), id)
}

/// Whether the text `id` is behind the text `before`, by their bytes.
fn ascends_by_bytes(before: &str, id: &str) -> bool {
    before < id
}

impl Pages {
    fn new(order: Option<Order>) -> Self {
        let orders: Vec<fn(&str, &str) -> bool> = match order {
            Some(Order::Id) => vec![ascends_by_number, ascends_by_bytes],
            Some(Order::CachedAt) | None => Vec::new(),
        };
        Self { orders, ..Self::default() }
    }

    /// The offset of the next page, which begins with the last entry of this one.
    fn offset(&self) -> u64 {
        (self.entries.len() as u64).saturating_sub(1)
    }

    /// Whether no page follows this one: it is not full, and there are no more entries, according to the API, or it has no new one.
    fn ends_with(&self, page: &Page) -> bool {
        let length = page.entries.len() as u64 + page.unusable;
        let added = length.saturating_sub(u64::from(self.last.is_some()));
        length < PAGE_SIZE && (added == 0 || self.entries.len() as u64 + added >= page.total)
    }

    /// Takes the next page in. `is_last`: no other follows.
    ///
    /// # Errors
    /// If the cache has changed since the page before, or the page is none of a whole listing.
    fn take(&mut self, page: Page, is_last: bool) -> Result<(), Flaw> {
        self.read += 1;
        // A single page is of one moment, whatever its order is.
        let is_single = is_last && self.read == 1;
        if !is_single && !self.orders.is_empty() {
            let ascends = |by: &fn(&str, &str) -> bool| {
                page.entries.windows(2).all(|pair| by(pair[0].id.as_str(), pair[1].id.as_str()))
            };
            self.orders.retain(ascends);
            if self.orders.is_empty() {
                return Err(Flaw::Unsorted);
            }
        }
        self.follow(page).map_err(Flaw::Shifted)
    }

    /// # Errors
    /// The reason, if the page does not follow the one before.
    fn follow(&mut self, page: Page) -> Result<(), String> {
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

    fn listed(order: Option<Order>, pages: &[Page]) -> Result<usize, Flaw> {
        let mut all = Pages::new(order);
        for (place, page) in pages.iter().enumerate() {
            let is_last = all.ends_with(page);
            all.take(page.clone(), is_last)?;
            assert!(!is_last || place + 1 == pages.len(), "{pages:?}");
        }
        all.end().map(|entries| entries.len()).map_err(Flaw::Shifted)
    }

    #[test]
    fn a_listing_counts_only_if_nothing_has_moved() {
        for order in [Some(Order::Id), Some(Order::CachedAt), None] {
            let listed = |pages: &[Page]| listed(order, pages);
            assert_eq!(listed(&[page(0, &[])]), Ok(0));
            assert_eq!(listed(&[page(3, &[1, 2]), page(3, &[2, 3])]), Ok(3));
            assert_eq!(listed(&[page(2, &[2, 1])]), Ok(2), "one page needs no order");
            let cases: [(&[Page], &str); 6] = [
                (&[page(3, &[1, 2]), page(4, &[2, 3])], "the cache had 3 entries, and 4 on a later page"),
                // 1 went, and 4 came: the total is the same, and 3 would be missing.
                (&[page(3, &[1, 2]), page(3, &[3, 4])], "does not begin the next page"),
                (&[page(3, &[1, 2]), page(3, &[])], "does not begin the next page"),
                (&[page(2, &[1, 1])], "the entry 1 was listed twice"),
                (&[page(3, &[1, 2]), page(3, &[2])], "there are 3 entries, and listed 2"),
                (&[page(1, &[1, 2])], "there are 1 entries, and listed 2"),
            ];
            for (pages, said) in cases {
                let Err(Flaw::Shifted(reason)) = listed(pages) else { panic!("{pages:?}") };
                assert!(reason.contains(said), "{pages:?}: {reason}");
            }
            let odd = Page { unusable: 1, ..page(2, &[1]) };
            assert!(matches!(listed(&[odd]), Err(Flaw::Shifted(reason)) if reason.contains("no ID")));
        }
    }

    #[test]
    fn several_pages_are_in_the_order_of_their_ids_or_count_alone_for_nothing() {
        let by_id = |pages: &[Page]| listed(Some(Order::Id), pages);
        assert_eq!(by_id(&[page(4, &[8, 9]), page(4, &[9, 10, 100])]), Ok(4), "by number");
        assert_eq!(by_id(&[page(4, &[10, 100]), page(4, &[100, 8, 9])]), Ok(4), "by bytes");
        for pages in [
            [page(4, &[2, 1]), page(4, &[1, 3, 4])],
            [page(4, &[1, 2]), page(4, &[2, 4, 3])],
            [page(4, &[8, 9, 10]), page(4, &[10, 9])],
            // By number, and then by bytes.
            [page(5, &[8, 9, 10]), page(5, &[10, 100, 11])],
            // Moved, too: that it is not sorted is the reason to list in another way.
            [page(4, &[1, 2]), page(4, &[4, 3])],
        ] {
            assert_eq!(by_id(&pages), Err(Flaw::Unsorted), "{pages:?}");
            assert!(!matches!(listed(None, &pages), Err(Flaw::Unsorted)), "{pages:?}");
        }
        assert!(ascends_by_number("0", "1") && !ascends_by_number("01", "2") && !ascends_by_number("1", "1"));
        assert!(!ascends_by_number("1", "a") && ascends_by_bytes("1", "a") && !ascends_by_bytes("a", "a"));
    }
}
