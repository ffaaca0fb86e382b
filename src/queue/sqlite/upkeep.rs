//! What keeps the file from growing for ever: old rows are removed, and pages that became free are given back.
//!
//! Both in steps that take the write lock for some milliseconds, and not at all when there is nothing to do. And who keeps
//! the log of commits from being copied into the file, and so lets it grow, is found out.

use std::fs;

use sqlx::{AssertSqlSafe, SqliteConnection};

use super::{Store, StoreError, files::beside, processes::having_open, steps::STEP_OF_UPKEEP};
use crate::{model::clock::Timestamp, queue::Upkeep};

/// How many rows one step of pruning removes: those of many agents lie far apart, and each is some pages to write.
pub const PRUNE_ROWS: u32 = 200;
/// How many free pages one step gives back.
pub const VACUUM_PAGES: u32 = 100;
/// One part in this many of the file may stay free: what comes next goes there.
const SPARE: i64 = 10;
/// Fewer pages than this are not worth a commit: a file that has just been made has some from the migrations.
const FEW_PAGES: i64 = 16;

/// Of so many rows that may be removed at a time, so many are looked at: those that are not old cost little.
const STRETCH: u32 = 10;
/// For so many rows, one request.
const REQUESTS: u32 = 10;

/// ?1 most; ?2 cutoff. Requests are answered about in the order of their ids: looking at the first ones is enough.
macro_rules! old_requests {
    ($before:literal) => {
        concat!(
            $before,
            " (SELECT id FROM (SELECT id, answered_at FROM requests ORDER BY id LIMIT ?1) WHERE answered_at < ?2)"
        )
    };
}

/// ?3 the id after which a stretch begins; ?4 how many rows it has; ?5 most old rows in it. The id of its last row; how
/// many of the rows are old, the last of them; and whether there are old requests.
const LOOK: &str = old_requests!(
    "WITH stretch AS MATERIALIZED (SELECT id, state, settled_at FROM deletions WHERE id > ?3 ORDER BY id LIMIT ?4),
    old AS MATERIALIZED (
        SELECT id FROM stretch WHERE settled_at < ?2 AND state <> 'pending' ORDER BY id LIMIT ?5)
    SELECT (SELECT max(id) FROM stretch), (SELECT count(*) FROM old), (SELECT max(id) FROM old), EXISTS"
);
const DELETE_REQUESTS: &str = old_requests!("DELETE FROM requests WHERE id IN");

const SPACE: &str = "
SELECT (SELECT auto_vacuum FROM pragma_auto_vacuum), (SELECT freelist_count FROM pragma_freelist_count),
       (SELECT page_count FROM pragma_page_count)";

/// Bytes that the log of commits may hold beside the file: SQLite copies it at 4 MiB, and somebody who reads just then puts
/// that off for a moment.
pub(super) const MAX_LOG: u64 = 16 << 20;

/// What `PRAGMA auto_vacuum` answers for INCREMENTAL.
const INCREMENTAL: i64 = 2;

/// Makes a file that has no tables yet one that can give pages back; SQLite does nothing with any other.
pub(super) async fn allow_giving_back(conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql("PRAGMA auto_vacuum = INCREMENTAL").execute(conn).await.map(drop)
}

/// A log of commits that cannot be copied into the file, because somebody still reads what was there before them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Backlog {
    /// Bytes of it that are not copied.
    pub(super) bytes: u64,
    /// Processes that have the file open, as far as we may see them: number and name.
    pub(super) readers: Vec<(u32, String)>,
}

impl Store {
    /// See [`crate::queue::Queue::upkeep`].
    pub(super) async fn upkeep_step(&mut self, cutoff: Option<Timestamp>) -> Result<Upkeep, StoreError> {
        if self.giving_back {
            self.giving_back = self.give_back(VACUUM_PAGES).await?;
            return Ok(Upkeep { removed: 0, more: self.giving_back });
        }
        let Some(cutoff) = cutoff else { return Ok(Upkeep { removed: 0, more: false }) };
        let step = self.prune(cutoff, PRUNE_ROWS).await?;
        self.giving_back = !step.more;
        Ok(Upkeep { more: true, ..step })
    }

    /// Copies what can be copied of a long log of commits, and tells if much is left.
    ///
    /// # Errors
    /// If SQLite fails.
    pub(super) async fn backlog(&mut self) -> Result<Option<Backlog>, StoreError> {
        if fs::metadata(beside(&self.options.path, "-wal")).is_ok_and(|log| log.len() <= MAX_LOG) {
            return Ok(None);
        }
        // Without having seen what is in it, nothing of it may be copied.
        self.check_in_place()?;
        let doing = "copy the log of commits";
        let copied = sqlx::query_as("PRAGMA wal_checkpoint(PASSIVE)").fetch_one(&mut *self.conn).await;
        let (_, pages, copied): (i64, i64, i64) = copied.map_err(|source| self.error(doing, source))?;
        let size = sqlx::query_scalar("PRAGMA page_size").fetch_one(&mut *self.conn).await;
        let size: i64 = size.map_err(|source| self.error(doing, source))?;
        let bytes = u64::try_from((pages - copied) * size).unwrap_or(0);
        let readers = || {
            let others = having_open(&self.options.path).unwrap_or_default();
            others.into_iter().map(|process| (process.pid, process.name.unwrap_or_default())).collect()
        };
        Ok((bytes > MAX_LOG).then(|| Backlog { bytes, readers: readers() }))
    }

    /// Removes up to `most` settled rows, and up to a tenth as many answered requests, that are older than `cutoff`. Goes through the table a stretch at a time, so a call costs the same however long the table is.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn prune(&mut self, cutoff: Timestamp, most: u32) -> Result<Upkeep, StoreError> {
        let after = self.prune_after;
        // Looked at first: whoever takes the lock to find nothing keeps others from writing for nothing.
        let (last, old, last_old, requests): (Option<i64>, i64, Option<i64>, bool) = sqlx::query_as(LOOK)
            .bind(most / REQUESTS)
            .bind(cutoff.0)
            .bind(after)
            .bind(most.saturating_mul(STRETCH))
            .bind(most)
            .fetch_one(&mut *self.conn)
            .await
            .map_err(|source| self.error("prune", source))?;
        // Of a stretch with more of them, the rest is the next call's.
        let last = if old == i64::from(most) { last_old } else { last };
        let mut removed = 0;
        if old > 0 || requests {
            let mut write = self.begin_within(STEP_OF_UPKEEP).await?;
            if let Some(last) = last.filter(|_| old > 0) {
                let delete =
                    "DELETE FROM deletions WHERE id > ?1 AND id <= ?2 AND settled_at < ?3 AND state <> 'pending'";
                removed += write.execute("prune", sqlx::query(delete).bind(after).bind(last).bind(cutoff.0)).await?;
            }
            if requests {
                let query = sqlx::query(DELETE_REQUESTS).bind(most / REQUESTS).bind(cutoff.0);
                removed += write.execute("prune", query).await?;
            }
            write.finish().await?;
        }
        // At the end of the table: from the start again.
        self.prune_after = last.unwrap_or(0);
        Ok(Upkeep { removed, more: last.is_some() || removed > 0 })
    }

    /// Gives up to `most` free pages back to the file system, but for a tenth of the file; whether more of them are left.
    /// A file that was made before that could be done has none to give.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn give_back(&mut self, most: u32) -> Result<bool, StoreError> {
        let (mode, free, pages): (i64, i64, i64) = sqlx::query_as(SPACE)
            .fetch_one(&mut *self.conn)
            .await
            .map_err(|source| self.error("look for room", source))?;
        // So many that of what is left then, a tenth is free.
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
