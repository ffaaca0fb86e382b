//! What `sweeper verify` writes, to whichever engine keeps the queue.

use super::{Producer, StoreError};
use crate::{
    model::{clock::Timestamp, deletion::AgentId, hold::HoldRow},
    queue::SettledRow,
};

impl Producer {
    /// Holds `agent` while its cache is listed, until `hold.until_at`. If another command holds it so already, returns that hold, and
    /// changes nothing. Requests that are claimed after this keep to the hold.
    ///
    /// # Errors
    /// If the engine fails; then nothing is changed.
    pub async fn hold_to_verify(
        &mut self,
        agent: &AgentId,
        hold: &HoldRow,
        now: Timestamp,
    ) -> Result<Option<HoldRow>, StoreError> {
        with!(self, hold_to_verify(agent, hold, now))
    }

    /// Prolongs that hold until `until`. False if it is over, or somebody has lifted it.
    ///
    /// # Errors
    /// If the engine fails; then nothing is changed.
    pub async fn renew_hold(&mut self, hold: &HoldRow, until: Timestamp, now: Timestamp) -> Result<bool, StoreError> {
        with!(self, renew_hold(hold, until, now))
    }

    /// Lifts that hold, if it is still there.
    ///
    /// # Errors
    /// If the engine fails; then nothing is changed.
    pub async fn lift_hold(&mut self, hold: &HoldRow, now: Timestamp) -> Result<(), StoreError> {
        with!(self, lift_hold(hold, now))
    }

    /// Writes that a whole listing did not have these rows' entries at `verified_at`; with `None`, that they are in the cache. Leaves
    /// out rows that have changed since they were read. Returns the number of the others.
    ///
    /// # Errors
    /// If the engine fails; then no row is changed.
    pub async fn mark_verified(
        &mut self,
        rows: &[SettledRow],
        verified_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        with!(self, mark_verified(rows, verified_at, now))
    }

    /// Reopens these deleted and absent rows, due now and with all their attempts, with the wishes that ended with them. Leaves out rows
    /// that have changed since they were read. Returns the number of the others.
    ///
    /// # Errors
    /// If the engine fails; then no row is changed.
    pub async fn reopen(&mut self, rows: &[SettledRow], now: Timestamp) -> Result<u64, StoreError> {
        with!(self, reopen(rows, now))
    }
}
