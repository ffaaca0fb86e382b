//! Keeps the file from growing for ever: removes old rows, and gives free pages back to the file system. Each step holds the write
//! lock for some milliseconds, and takes no lock if there is nothing to do.
//!
//! Also finds out who keeps SQLite from copying the WAL into the file, so that the WAL grows.

use std::fs;

use sqlx::{AssertSqlSafe, SqliteConnection};

use super::{
    Store, StoreError, expired_acts, expired_requests, processes::having_open, rows::json, step_limit::STEP_OF_UPKEEP,
    watched_files::beside,
};
use crate::queue::{Cutoff, Upkeep, prune_walk::PruneWalk};

/// One step of pruning removes up to this number of rows. Rows of many agents lie far apart, so each is some pages to write.
pub const PRUNE_ROWS: u32 = 200;
/// One step gives back up to this number of free pages.
pub const VACUUM_PAGES: u32 = 100;
/// One tenth of the file may stay free, for the rows to come.
const SPARE: i64 = 10;
/// Fewer free pages than this are not worth a commit. A new file has some from the migrations.
const FEW_PAGES: i64 = 16;

/// A step reads this many times the rows that it may remove. Rows that stay cost little.
pub(super) const STRETCH: u32 = 10;
/// A step removes one request, and one act, for this number of rows.
const ROWS_PER_REQUEST: u32 = 10;

/// ?1 cutoff; ?2 the cutoff of rows for which there is a wish with a label. A row forgets a label that is cancelled, or that was fulfilled
/// before the row was reopened. So a row without one needs the look at the wishes, if it was settled between the two times. That look
/// reads the row again: with its agent and its entry in each stretch, pruning would take a tenth longer where nobody uses labels.
macro_rules! is_old {
    ($row:literal) => {
        concat!(
            "settled_at < ?1 AND state <> 'pending' AND (settled_at < ?2 OR (label IS NULL AND NOT EXISTS (
                SELECT 1 FROM deletions AS known
                CROSS JOIN wishes ON wishes.agent_id = known.agent_id AND wishes.entry_id = known.entry_id AND wishes.label <> ''
                WHERE known.id = ",
            $row,
            ".id)))"
        )
    };
}

/// ?3 the id after which to read; ?4 the number of rows; ?5 the most old rows. Returns the id of the last row read; the number of
/// old rows, and the id of the last of them.
pub(super) const LOOK: &str = concat!(
    "WITH stretch AS MATERIALIZED (SELECT id, state, settled_at, label FROM deletions WHERE id > ?3 ORDER BY id LIMIT ?4),
    old AS MATERIALIZED (SELECT id FROM stretch WHERE ",
    is_old!("stretch"),
    " ORDER BY id LIMIT ?5)
    SELECT (SELECT max(id) FROM stretch), (SELECT count(*) FROM old), (SELECT max(id) FROM old)"
);

/// ?3, ?4 the ids after which and up to which to remove
pub(super) const DELETE: &str = concat!("DELETE FROM deletions WHERE id > ?3 AND id <= ?4 AND ", is_old!("deletions"));

const SPACE: &str = "
SELECT (SELECT auto_vacuum FROM pragma_auto_vacuum), (SELECT freelist_count FROM pragma_freelist_count),
       (SELECT page_count FROM pragma_page_count)";

/// The normal limit of the WAL, in bytes. SQLite copies it into the file at 4 MiB; a reader may put that off for a moment.
pub(super) const MAX_WAL: u64 = 16 << 20;

/// The value of `PRAGMA auto_vacuum` for INCREMENTAL.
const INCREMENTAL: i64 = 2;

/// Lets a file give pages back. SQLite does so only with a file that has no tables yet.
pub(super) async fn enable_incremental_vacuum(conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql("PRAGMA auto_vacuum = INCREMENTAL").execute(conn).await.map(drop)
}

/// A WAL that SQLite cannot copy into the file, because a reader still needs the file's old state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WalBacklog {
    /// The bytes that are not copied.
    pub(super) bytes: u64,
    /// Processes that have the file open, as far as we may see them: number and name. One of them is the reader.
    pub(super) readers: Vec<(u32, String)>,
}

impl Store {
    /// See [`crate::queue::Queue::upkeep`].
    pub(super) async fn upkeep_step(&mut self, cutoff: Option<Cutoff>) -> Result<Upkeep, StoreError> {
        if self.is_vacuuming {
            self.is_vacuuming = self.give_back(VACUUM_PAGES).await?;
            return Ok(Upkeep { removed: 0, more: self.is_vacuuming });
        }
        let Some(cutoff) = cutoff else { return Ok(Upkeep { removed: 0, more: false }) };
        let step = if self.is_at_labels {
            let step = self.prune_labels(cutoff.evidence, PRUNE_ROWS).await?;
            self.is_at_labels = step.more;
            self.is_vacuuming = !step.more;
            step
        } else {
            let step = self.prune(cutoff, PRUNE_ROWS).await?;
            self.is_at_labels = !step.more;
            step
        };
        Ok(Upkeep { more: true, ..step })
    }

    /// Copies a long WAL into the file as far as possible. Returns what is left, if that is still above the limit.
    ///
    /// # Errors
    /// If SQLite fails.
    pub(super) async fn wal_backlog(&mut self) -> Result<Option<WalBacklog>, StoreError> {
        if fs::metadata(beside(&self.options.path, "-wal")).is_ok_and(|wal| wal.len() <= MAX_WAL) {
            return Ok(None);
        }
        // If the WAL was replaced, copying ours would overwrite commits that we have not seen.
        self.check_in_place()?;
        let doing = "checkpoint the write-ahead log";
        let copied = sqlx::query_as("PRAGMA wal_checkpoint(PASSIVE)").fetch_one(&mut *self.conn).await;
        let (_, pages, copied): (i64, i64, i64) = copied.map_err(|source| self.error(doing, source))?;
        let size = sqlx::query_scalar("PRAGMA page_size").fetch_one(&mut *self.conn).await;
        let size: i64 = size.map_err(|source| self.error(doing, source))?;
        let bytes = u64::try_from((pages - copied) * size).unwrap_or(0);
        let readers = || {
            let others = having_open(&self.options.path).unwrap_or_default();
            others.into_iter().map(|process| (process.pid, process.name.unwrap_or_default())).collect()
        };
        Ok((bytes > MAX_WAL).then(|| WalBacklog { bytes, readers: readers() }))
    }

    /// Removes up to `most` settled rows, and up to a tenth of that number each of answered requests and of acts, that are older than
    /// `cutoff`. Each call goes on where the last one ended, and costs the same however long the tables are.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn prune(&mut self, cutoff: impl Into<Cutoff>, most: u32) -> Result<Upkeep, StoreError> {
        let (cutoff, walk) = (cutoff.into(), self.pruning);
        // Look before taking the lock, so that a step that finds nothing keeps nobody from writing.
        let (rows, old) = match walk.rows {
            Some(after) => self.old_rows(after, cutoff, most).await?,
            None => (None, false),
        };
        let few = most / ROWS_PER_REQUEST;
        let (requests, old_requests) = self.old_history(expired_requests::LOOK, walk.requests, cutoff, few).await?;
        let (acts, old_acts) = self.old_history(expired_acts::LOOK, walk.acts, cutoff, few).await?;
        let mut removed = 0;
        if old || !old_requests.is_empty() || !old_acts.is_empty() {
            let mut write = self.begin_within(STEP_OF_UPKEEP).await?;
            if let (Some(after), Some(last), true) = (walk.rows, rows, old) {
                let query = sqlx::query(DELETE).bind(cutoff.settled.0).bind(cutoff.evidence.0).bind(after).bind(last);
                removed += write.execute("prune", query).await?;
            }
            if !old_requests.is_empty() {
                let ids = json(&old_requests);
                removed += write.execute("prune", sqlx::query(expired_requests::DELETE).bind(ids)).await?;
            }
            if !old_acts.is_empty() {
                let query = sqlx::query(expired_acts::DELETE).bind(json(&old_acts)).bind(cutoff.evidence.0);
                removed += write.execute("prune", query).await?;
            }
            write.finish().await?;
        }
        let walk = PruneWalk { rows, requests, acts };
        // At the end of all tables, start again.
        self.pruning = if walk.is_over() { PruneWalk::default() } else { walk };
        Ok(Upkeep { removed, more: !walk.is_over() || removed > 0 })
    }

    /// Looks for old rows. Returns the row behind which the next look goes on, `None` at the end of the table, and whether there are any.
    async fn old_rows(&mut self, after: i64, cutoff: Cutoff, most: u32) -> Result<(Option<i64>, bool), StoreError> {
        let (last, old, last_old): (Option<i64>, i64, Option<i64>) = sqlx::query_as(LOOK)
            .bind(cutoff.settled.0)
            .bind(cutoff.evidence.0)
            .bind(after)
            .bind(most.saturating_mul(STRETCH))
            .bind(most)
            .fetch_one(&mut *self.conn)
            .await
            .map_err(|source| self.error("prune", source))?;
        // If this look finds `most` old rows, the next one goes on behind the last of them.
        Ok((if old == i64::from(most) { last_old } else { last }, old > 0))
    }

    /// Looks for up to `most` requests or acts to remove. Returns the one behind which the next look goes on, `None` if there are no more
    /// old ones, and the ids.
    async fn old_history(
        &mut self,
        look: &'static str,
        after: Option<i64>,
        cutoff: Cutoff,
        most: u32,
    ) -> Result<(Option<i64>, Vec<i64>), StoreError> {
        let Some(after) = after else { return Ok((None, Vec::new())) };
        let found: Vec<(Option<i64>, i64)> = sqlx::query_as(look)
            .bind(after)
            .bind(most.saturating_mul(STRETCH))
            .bind(cutoff.settled.0)
            .bind(cutoff.evidence.0)
            .bind(most)
            .fetch_all(&mut *self.conn)
            .await
            .map_err(|source| self.error("prune", source))?;
        let ids: Vec<i64> = found.iter().filter_map(|(id, _)| *id).collect();
        // If this look finds `most`, the next one goes on behind the last of them.
        let is_full = ids.len() >= usize::try_from(most).unwrap_or(usize::MAX);
        let last = if is_full { ids.last().copied() } else { found.first().map(|(_, last)| *last) };
        Ok((last, ids))
    }

    /// Gives up to `most` free pages back to the file system, and keeps a tenth of the file free. Returns whether more are left. A
    /// file without incremental vacuum, as one that was made from a dump, has none to give.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn give_back(&mut self, most: u32) -> Result<bool, StoreError> {
        let (mode, free, pages): (i64, i64, i64) = sqlx::query_as(SPACE)
            .fetch_one(&mut *self.conn)
            .await
            .map_err(|source| self.error("look for free pages", source))?;
        // After this number of pages is gone, a tenth of the rest is free.
        let spare = (free * SPARE - pages) / (SPARE - 1);
        if mode != INCREMENTAL || spare < FEW_PAGES {
            return Ok(false);
        }
        let step = spare.min(i64::from(most));
        let mut write = self.begin_within(STEP_OF_UPKEEP).await?;
        let vacuum = format!("PRAGMA incremental_vacuum({step})");
        write.execute("give pages back", sqlx::query(AssertSqlSafe(vacuum))).await?;
        write.finish().await?;
        Ok(spare - step >= FEW_PAGES)
    }
}
