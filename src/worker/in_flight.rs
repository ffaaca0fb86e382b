//! What is on its way, and so must not be sent again.

use std::{collections::HashSet, time::Duration};

use uuid::Uuid;

use super::plan::Busy;
use crate::{
    model::deletion::{Batch, DeletionId, Lane, RequestId},
    queue::Claim,
};

/// A request on its way.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) request: RequestId,
    pub(super) correlation_id: Uuid,
    pub(super) batch: Batch,
    /// Elapsed time.
    pub(super) sent: Duration,
    /// How many calls were on their way when it was sent, itself included.
    pub(super) together: usize,
}

/// The IDs that are on their way, as the API sees them.
pub(super) fn busy<'c>(calls: impl Iterator<Item = &'c InFlight>) -> Busy {
    let mut busy = Busy::new();
    calls.for_each(|call| add(&mut busy, &call.batch));
    busy
}

pub(super) fn add(busy: &mut Busy, batch: &Batch) {
    let entries = batch.deletions().iter().map(|row| row.entry.clone());
    busy.entry(batch.lane().agent.clone()).or_default().extend(entries);
}

/// The rows that are on their way, or about to be with `claims`, and that a look at `lanes` could find; else they would take
/// the places of others in it. Handing them over costs as much as finding others, so those of other lanes are left out;
/// unless somebody else wrote since they were claimed, who may have moved them to another lane. `others_wrote` is the elapsed
/// time at which that was last seen.
pub(super) fn on_their_way<'c>(
    calls: impl Iterator<Item = &'c InFlight>,
    others_wrote: Option<Duration>,
    claims: &[Claim],
    lanes: &[Lane],
) -> Vec<DeletionId> {
    let lanes: HashSet<&Lane> = lanes.iter().collect();
    let moved = |call: &InFlight| others_wrote.is_some_and(|at| at >= call.sent);
    let sent = calls.filter(|call| lanes.contains(call.batch.lane()) || moved(call)).map(|call| &call.batch);
    let claimed = claims.iter().map(|claim| &claim.batch).filter(|batch| lanes.contains(batch.lane()));
    sent.chain(claimed).flat_map(Batch::deletions).map(|row| row.id).collect()
}
