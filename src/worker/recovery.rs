//! The start after a crash.

use tracing::warn;

use super::Totals;
use crate::{
    clock::Timestamp,
    outcome::{Fault, Policy, judge},
    store::{Settlement, Store, StoreError},
    telemetry::event,
};

/// Settles what a daemon before us left unanswered: sent, outcome unknown. And says that we are here, with our `rate`.
pub(super) async fn recover(
    store: &mut Store,
    policy: &Policy,
    rate: f64,
    now: Timestamp,
    rng: &mut fastrand::Rng,
) -> Result<Totals, StoreError> {
    let orphans = store.orphans().await?;
    let mut totals = Totals::default();
    let requests = orphans.len();
    let settlements: Vec<Settlement> = orphans
        .into_iter()
        .map(|orphan| Settlement {
            request: orphan.request,
            answered_at: now,
            status: None,
            fault: Some(Fault::Lost.cause()),
            detail: Some("the daemon ended before the answer".to_owned()),
            remote_id: None,
            // Whatever was the reason, it says nothing about the API: the hold that this might ask for is left out.
            rows: orphan
                .batch
                .map_or_else(Vec::new, |batch| judge(&batch, &Err(Fault::Lost), false, policy, now, rng).rows),
            is_whole: false,
        })
        .collect();
    let mut write = store.write().await?;
    write.settle(settlements.iter()).await?;
    write.introduce(rate, now).await?;
    write.commit().await?;
    if requests == 0 {
        return Ok(totals);
    }
    settlements.iter().for_each(|settlement| totals.add(settlement));
    let Totals { retried, dead, .. } = totals;
    warn!(event = event::RECOVERED, requests, retried, dead, "requests without an answer were settled as lost");
    Ok(totals)
}
